package database_test

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/database/databasetest"
	"github.com/starling-sync/starling/sdk"
)

// patience is when a test gives up; it decides nothing else.
const patience = 2 * time.Minute

// eventually waits until what holds, or fails.
func eventually(tb testing.TB, what string, holds func() bool) {
	tb.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	late := time.NewTimer(patience)
	defer late.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-late.C:
			tb.Fatalf("never came about: %s", what)
		}
	}
}

func openAt(tb testing.TB, at *database.Postgres, log hclog.Logger) *database.DB {
	tb.Helper()
	db, err := database.Open(context.Background(), database.Options{Dir: tb.TempDir(), Postgres: at, Log: log})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := db.Close(); err != nil {
			tb.Errorf("close: %v", err)
		}
	})
	return db
}

// ledger is what writers were told.
type ledger struct {
	mu    sync.Mutex // guards what follows
	acked map[int]bool
	gone  map[int]bool // told that nothing was kept
	after map[int]bool // AfterCommit was called
	next  int

	unknown map[int]bool // told that nobody knows
}

func (l *ledger) write(db *database.DB) error {
	l.mu.Lock()
	l.next++
	n := l.next
	l.mu.Unlock()
	err := db.Write(context.Background(), func(tx *database.Tx) error {
		tx.AfterCommit(func() { l.mu.Lock(); l.after[n] = true; l.mu.Unlock() })
		_, err := tx.Exec("INSERT INTO t (n) VALUES (?)", n)
		return err
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err == nil:
		l.acked[n] = true
	case strings.Contains(err.Error(), "it is not known"): // the server was away for half a minute
		l.unknown[n] = true
	default:
		l.gone[n] = true
	}
	return err
}

func newLedger(tb testing.TB, db *database.DB) *ledger {
	tb.Helper()
	if err := db.Write(tb.Context(), func(tx *database.Tx) error { return tx.Run("CREATE TABLE t (n BIGINT PRIMARY KEY)") }); err != nil {
		tb.Fatal(err)
	}
	return &ledger{acked: make(map[int]bool), gone: make(map[int]bool), after: make(map[int]bool), unknown: make(map[int]bool)}
}

// check wants what the database holds to be what writers were told.
func (l *ledger) check(tb testing.TB, db *database.DB) {
	tb.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	there := make(map[int]bool)
	err := db.Read(tb.Context(), func(tx *database.Tx) error {
		rows, err := tx.Query("SELECT n FROM t")
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var n int
			if err := rows.Scan(&n); err != nil {
				return err
			}
			there[n] = true
		}
		return rows.Err()
	})
	if err != nil {
		tb.Fatal(err)
	}
	for n := 1; n <= l.next; n++ {
		if there[n] != l.after[n] || !l.unknown[n] && (there[n] != l.acked[n] || there[n] == l.gone[n]) {
			tb.Errorf("write %d: acknowledged %v, told that it was not kept %v, what follows it was done %v, and there %v", n, l.acked[n], l.gone[n], l.after[n], there[n])
		}
	}
}

// TestOutage_killedServer kills the server as a crash does, again and again, while several write.
func TestOutage_killedServer(t *testing.T) {
	rounds := 12
	if testing.Short() {
		rounds = 3
	}
	server := databasetest.Start(t)
	db := openAt(t, server.Schema(), nil)
	l := newLedger(t, db)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var acked, refused atomic.Int64
	for range 4 {
		wg.Go(func() {
			tick := time.NewTicker(time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-stop:
					return
				case <-tick.C:
				}
				switch err := l.write(db); {
				case err == nil:
					acked.Add(1)
				case sdk.CodeOf(err) != sdk.CodeUnavailable || !strings.Contains(err.Error(), "PostgreSQL at "):
					t.Errorf("a write in an outage: %v", err)
					return
				default:
					refused.Add(1)
				}
			}
		})
	}
	for range rounds {
		before := acked.Load()
		eventually(t, "writes go on", func() bool { return acked.Load() > before+20 })
		before = refused.Load()
		server.Kill(t)
		eventually(t, "writes are refused", func() bool { return refused.Load() > before })
		eventually(t, "the outage shows", func() bool { return db.Outage() != nil })
		if err := readOne(db); sdk.CodeOf(err) != sdk.CodeUnavailable || !database.Away(err) {
			t.Errorf("a read in an outage: %v", err)
		}
		server.Restart(t)
		eventually(t, "the outage ends", func() bool { return db.Outage() == nil })
		if err := readOne(db); err != nil {
			t.Errorf("a read after an outage: %v", err)
		}
	}
	close(stop)
	wg.Wait()
	l.check(t, db)
	t.Logf("%d writes were acknowledged and %d refused in %d crashes", acked.Load(), refused.Load(), rounds)
}

// TestOutage_idle has nothing but reads notice that the server was restarted.
func TestOutage_idle(t *testing.T) {
	server := databasetest.Start(t)
	db := openAt(t, server.Schema(), nil)
	server.Kill(t)
	if err := readOne(db); sdk.CodeOf(err) != sdk.CodeUnavailable {
		t.Errorf("a read in an outage: %v", err)
	}
	if db.Outage() == nil {
		t.Error("nobody noticed")
	}
	server.Restart(t)
	eventually(t, "the outage ends", func() bool { return db.Outage() == nil })
	server.Kill(t)
	server.Restart(t)
	for range 8 { // each reader's connection is gone
		if err := readOne(db); err != nil {
			t.Errorf("a read after a restart that nobody noticed: %v", err)
		}
	}
}

// TestOutage_whileReading has a read be under way when the connections break, and end while the writer's is made again. What it
// could get wrong, the race detector sees.
func TestOutage_whileReading(t *testing.T) {
	server := databasetest.Start(t)
	db := openAt(t, server.Schema(), nil)
	l := newLedger(t, db)
	reading, release, ended := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		err := db.Read(context.Background(), func(*database.Tx) error { close(reading); <-release; return nil })
		if sdk.CodeOf(err) != sdk.CodeUnavailable {
			t.Errorf("a read whose connection broke: %v", err)
		}
	}()
	<-reading
	server.Kill(t)
	_ = l.write(db)
	close(release)
	<-ended
	server.Restart(t)
	eventually(t, "the outage ends", func() bool { return db.Outage() == nil })
	if err := readOne(db); err != nil {
		t.Error(err)
	}
}

// TestOutage_closed closes the database in an outage.
func TestOutage_closed(t *testing.T) {
	server := databasetest.Start(t)
	db := openAt(t, server.Schema(), nil)
	server.Kill(t)
	nothing := func(tx *database.Tx) error { _, err := tx.Exec("DELETE FROM _meta"); return err }
	if err := db.Write(t.Context(), nothing); sdk.CodeOf(err) != sdk.CodeUnavailable {
		t.Errorf("a write in an outage: %v", err)
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
}
