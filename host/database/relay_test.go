package database_test

import (
	"bytes"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/database/databasetest"
)

// relay stands between a host and the server, and can end a connection in the midst of a commit.
type relay struct {
	tb       testing.TB
	listener net.Listener
	folder   string
	frozen   atomic.Bool // nothing passes, and nothing is closed
	by       string      // network of both ends

	mu     sync.Mutex // guards what follows
	server string     // address
	cut    string     // what becomes of the next commit: "", "before", "after" or "held"
	held   func()     // passes on what was held
	ending []io.Closer
	wg     sync.WaitGroup
}

func newRelay(tb testing.TB, server *databasetest.Server) (*relay, *database.Postgres) {
	tb.Helper()
	at := server.Schema()
	r := &relay{tb: tb, folder: databasetest.ShortFolder(tb), server: filepath.Join(server.Socket(), ".s.PGSQL.5432"), by: "unix"}
	r.serveAt(filepath.Join(r.folder, ".s.PGSQL.5432"))
	at.DSN = strings.ReplaceAll(at.DSN, strings.ReplaceAll(server.Socket(), "/", "%2F"), strings.ReplaceAll(r.folder, "/", "%2F"))
	return r, at
}

// newTCPRelay stands before a server at an address. The relay's own is port, on 127.0.0.1.
func newTCPRelay(tb testing.TB, address string) (r *relay, port int) {
	tb.Helper()
	r = &relay{tb: tb, server: address, by: "tcp"}
	r.serveAt("127.0.0.1:0")
	return r, r.listener.Addr().(*net.TCPAddr).Port //nolint:forcetypeassert // it listens on TCP
}

// serveAt relays who connects to an address, until the test ends.
func (r *relay) serveAt(address string) {
	tb := r.tb
	tb.Helper()
	listener, err := net.Listen(r.by, address)
	if err != nil {
		tb.Fatal(err)
	}
	r.listener = listener
	r.wg.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			r.wg.Go(func() { r.serve(conn) })
		}
	})
	tb.Cleanup(func() {
		_ = r.listener.Close()
		r.mu.Lock()
		for _, c := range r.ending {
			_ = c.Close()
		}
		r.mu.Unlock()
		r.wg.Wait()
	})
}

func (r *relay) set(cut string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cut = cut
}

// cutOff ends every connection; those that follow go to another server.
func (r *relay) cutOff(server *databasetest.Server) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.server = filepath.Join(server.Socket(), ".s.PGSQL.5432")
	for _, c := range r.ending {
		_ = c.Close()
	}
}

func (r *relay) serve(client net.Conn) {
	r.mu.Lock()
	at := r.server
	r.mu.Unlock()
	server, err := net.Dial(r.by, at)
	if err != nil {
		_ = client.Close()
		return
	}
	r.mu.Lock()
	r.ending = append(r.ending, client, server)
	r.mu.Unlock()
	var dropping atomic.Bool
	r.wg.Go(func() {
		buffer := make([]byte, 64<<10)
		for {
			n, err := server.Read(buffer)
			if err != nil {
				_ = client.Close()
				return
			}
			if r.frozen.Load() {
				continue
			}
			if dropping.Load() { // the server has committed: its answer is lost
				_ = client.Close()
				_ = server.Close()
				return
			}
			_, _ = client.Write(buffer[:n])
		}
	})
	buffer := make([]byte, 64<<10)
	for {
		n, err := client.Read(buffer)
		if err != nil {
			_ = server.Close()
			return
		}
		if r.frozen.Load() {
			continue
		}
		if bytes.Contains(buffer[:n], []byte("COMMIT\x00")) {
			r.mu.Lock()
			cut := r.cut
			r.cut = ""
			commit := bytes.Clone(buffer[:n])
			if cut == "held" {
				r.held = func() { _, _ = server.Write(commit) }
			}
			r.mu.Unlock()
			switch cut {
			case "before":
				_ = client.Close()
				_ = server.Close()
				return
			case "after":
				dropping.Store(true)
				_, _ = server.Write(commit)
				return
			case "held":
				_ = client.Close()
				return
			}
		}
		if _, err := server.Write(buffer[:n]); err != nil {
			return
		}
	}
}
