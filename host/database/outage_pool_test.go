package database_test

import (
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/database/databasetest"
)

// wires stand between a host and the server; each can be swallowed or cut by itself.
type wires struct {
	mu  sync.Mutex
	all []*wire // in the order in which they were made
}

// wire is one connection.
type wire struct {
	host, server net.Conn

	mu        sync.Mutex
	swallowed bool // nothing passes, nor that the other end has closed
}

// newWires returns how the server is reached through wires.
func newWires(tb testing.TB, server *databasetest.Server) (*wires, *database.Postgres) {
	tb.Helper()
	folder, at := databasetest.ShortFolder(tb), server.Schema()
	listener, err := net.Listen("unix", filepath.Join(folder, ".s.PGSQL.5432"))
	if err != nil {
		tb.Fatal(err)
	}
	w := &wires{}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			host, err := listener.Accept()
			if err != nil {
				return
			}
			to, err := net.Dial("unix", filepath.Join(server.Socket(), ".s.PGSQL.5432"))
			if err != nil {
				_ = host.Close()
				continue
			}
			one := &wire{host: host, server: to}
			w.mu.Lock()
			w.all = append(w.all, one)
			w.mu.Unlock()
			running.Go(func() { one.carry(to, host) })
			running.Go(func() { one.carry(host, to) })
		}
	})
	tb.Cleanup(func() {
		_ = listener.Close()
		w.mu.Lock()
		for _, one := range w.all {
			one.cut()
		}
		w.mu.Unlock()
		running.Wait()
	})
	at.DSN = strings.ReplaceAll(at.DSN, strings.ReplaceAll(server.Socket(), "/", "%2F"), strings.ReplaceAll(folder, "/", "%2F"))
	return w, at
}

func (w *wire) carry(to, from net.Conn) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		w.mu.Lock()
		swallowed := w.swallowed
		w.mu.Unlock()
		switch {
		case err != nil && swallowed:
			return
		case err != nil:
			w.cut()
			return
		case !swallowed:
			_, _ = to.Write(buffer[:n])
		}
	}
}

func (w *wire) swallow() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.swallowed = true
}

func (w *wire) cut() {
	_ = w.host.Close()
	_ = w.server.Close()
}

func (w *wires) made() []*wire {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]*wire(nil), w.all...)
}

// TestOutage_idleInPool has the network swallow what is sent on every connection but the writer's, which ends: the host is connected
// again without waiting for an answer on one that the pool keeps.
func TestOutage_idleInPool(t *testing.T) {
	w, at := newWires(t, databasetest.Shared(t))
	at.Patience = time.Hour // as good as for ever
	db := openAt(t, at, nil)
	l := newLedger(t, db)
	if _, err := db.Size(); err != nil { // on a connection of the pool's own
		t.Fatal(err)
	}
	before := w.made()
	for _, one := range before[1:] {
		one.swallow()
	}
	before[0].cut()
	if err := l.write(db); err == nil {
		t.Error("the writer's connection is not the first that was made")
	}
	eventually(t, "the outage ends", func() bool { return db.Outage() == nil })
	if err := l.write(db); err != nil {
		t.Error(err)
	}
	for _, one := range before[1:] { // of the readers, which are noticed by themselves
		one.cut()
	}
	l.check(t, db)
}
