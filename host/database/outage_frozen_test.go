package database_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/database/databasetest"
	"github.com/starling-sync/starling/sdk"
)

// TestOutage_frozen has the server, or the network, say nothing any more without closing a connection.
func TestOutage_frozen(t *testing.T) {
	r, at := newRelay(t, databasetest.Shared(t))
	at.Patience = time.Second
	db := openAt(t, at, nil)
	l := newLedger(t, db)
	within := func(what string, fn func()) {
		t.Helper()
		done := make(chan struct{})
		go func() { defer close(done); fn() }()
		select {
		case <-done:
		case <-time.After(patience):
			t.Fatalf("%s: hangs", what)
		}
	}
	ask := func() {
		t.Helper()
		var wg sync.WaitGroup
		for what, fn := range map[string]func() error{
			"a read": func() error { return readOne(db) }, "a write": func() error { return l.write(db) }, "the size": func() error { _, err := db.Size(); return err },
		} {
			wg.Go(func() {
				if err := fn(); sdk.CodeOf(err) != sdk.CodeUnavailable || !database.Away(err) {
					t.Errorf("%s of a server that says nothing: %v", what, err)
				}
			})
		}
		within("what is asked of a server that says nothing", wg.Wait)
	}
	r.frozen.Store(true)
	ask()
	if db.Outage() == nil {
		t.Error("nobody noticed")
	}
	r.frozen.Store(false)
	eventually(t, "the outage ends", func() bool { return db.Outage() == nil })
	if err := l.write(db); err != nil {
		t.Error(err)
	}
	l.check(t, db)
	r.frozen.Store(true)
	within("closing", func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestOutage_frozenInCommit has the server freeze in a commit: who waits is told that nobody knows, and where to look, and what the
// write wants to be called is not, as it was not kept after all.
func TestOutage_frozenInCommit(t *testing.T) {
	r, at := newRelay(t, databasetest.Shared(t))
	at.Patience = time.Second
	db := openAt(t, at, nil)
	l := newLedger(t, db)
	var freeze atomic.Bool
	db.BeforeCommit(func(*database.Tx) error { r.frozen.Store(freeze.Load()); return nil })
	freeze.Store(true)
	if err := l.write(db); !errors.Is(err, database.ErrUnknown) || sdk.CodeOf(err) != sdk.CodeUnavailable || !strings.Contains(err.Error(), "look when the server is back") {
		t.Errorf("a commit without an answer: %v", err)
	}
	if err := l.write(db); err == nil || errors.Is(err, database.ErrUnknown) || !strings.Contains(err.Error(), "nothing of this write was kept") {
		t.Errorf("a write that comes while the server is away: %v", err)
	}
	freeze.Store(false)
	r.frozen.Store(false)
	eventually(t, "the outage ends", func() bool { return db.Outage() == nil })
	if err := l.write(db); err != nil {
		t.Error(err)
	}
	l.check(t, db)
}

// TestOutage_doubt has a reader's connection end while the server says nothing: the writer's is looked after for a short time, however
// long the server may say nothing at other times.
func TestOutage_doubt(t *testing.T) {
	r, at := newRelay(t, databasetest.Shared(t))
	at.Patience = time.Hour
	at.DSN += "&connect_timeout=1"
	db := openAt(t, at, nil)
	if _, err := db.Size(); err != nil { // leaves an idle connection, which a reader may be given
		t.Fatal(err)
	}
	r.mu.Lock()
	idle := len(r.ending) - 2 // of its first end
	r.mu.Unlock()
	r.frozen.Store(true)
	r.mu.Lock()
	for _, c := range r.ending[2:idle] { // both ends of each; the writer's are first
		_ = c.Close()
	}
	r.mu.Unlock()
	failed := make(chan error, 1)
	go func() { failed <- readOne(db) }()
	select {
	case err := <-failed:
		if sdk.CodeOf(err) != sdk.CodeUnavailable || db.Outage() == nil {
			t.Errorf("a read: %v; outage %v", err, db.Outage())
		}
	case <-time.After(patience):
		t.Fatal("it waits as long as for an answer at other times")
	}
	r.frozen.Store(false)
	eventually(t, "the outage ends", func() bool { return db.Outage() == nil })
}

// TestOutage_frozenLong has a server freeze amid what may take an hour, and another only take longer than a server may say nothing.
func TestOutage_frozenLong(t *testing.T) {
	r, at := newRelay(t, databasetest.Shared(t))
	at.Patience = time.Second
	at.DSN += "&connect_timeout=1"
	db := openAt(t, at, nil)
	l := newLedger(t, db)
	if err := db.Write(t.Context(), func(tx *database.Tx) error { return tx.Run("SELECT pg_sleep(3.5)") }); err != nil {
		t.Errorf("what takes long: %v", err)
	}
	done := make(chan error, 1)
	go func() {
		done <- db.Write(context.Background(), func(tx *database.Tx) error {
			r.frozen.Store(true)
			return tx.Run("CREATE INDEX i ON t (n)")
		})
	}()
	select {
	case err := <-done:
		if sdk.CodeOf(err) != sdk.CodeUnavailable {
			t.Errorf("what takes long, of a server that froze: %v", err)
		}
	case <-time.After(patience):
		t.Fatal("it hangs")
	}
	r.frozen.Store(false)
	eventually(t, "the outage ends", func() bool { return db.Outage() == nil })
	if err := l.write(db); err != nil {
		t.Error(err)
	}
	l.check(t, db)
}

// TestOutage_closedFrozen closes the database while the server, of which much patience is had, says nothing.
func TestOutage_closedFrozen(t *testing.T) {
	r, at := newRelay(t, databasetest.Shared(t))
	at.Patience = time.Hour
	db := openAt(t, at, nil)
	newLedger(t, db)
	begun := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		err := db.Write(context.Background(), func(tx *database.Tx) error {
			r.frozen.Store(true)
			close(begun)
			_, err := tx.Exec("INSERT INTO t (n) VALUES (1)")
			return err
		})
		if sdk.CodeOf(err) != sdk.CodeUnavailable {
			t.Errorf("a write: %v", err)
		}
	})
	<-begun
	wg.Go(func() {
		if err := readOne(db); sdk.CodeOf(err) != sdk.CodeUnavailable {
			t.Errorf("a read: %v", err)
		}
	})
	if err := db.Close(); err != nil {
		t.Error(err)
	}
	wg.Wait()
}
