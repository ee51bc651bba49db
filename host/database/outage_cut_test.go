package database_test

import (
	"context"
	"database/sql"
	"testing"
	"time"

	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/database/databasetest"
	"github.com/starling-sync/starling/sdk"
)

// TestOutage_inCommit ends the connection in commits, before the server has them and after, and wants each write to be told
// what became of it.
func TestOutage_inCommit(t *testing.T) {
	server := databasetest.Shared(t)
	r, at := newRelay(t, server)
	db := openAt(t, at, nil)
	l := newLedger(t, db)
	for i := range 30 {
		cut := []string{"", "before", "after", "held"}[i%4]
		r.set(cut)
		err := l.write(db)
		if kept := cut == "" || cut == "after"; (err == nil) != kept {
			t.Errorf("cut %q: %v", cut, err)
		}
		eventually(t, "the outage ends", func() bool { return db.Outage() == nil })
		r.mu.Lock()
		if r.held != nil {
			r.held() // the server hears of the old commit only now
			r.held = nil
		}
		r.mu.Unlock()
		if i%5 == 0 { // a write of its own between
			if err := l.write(db); err != nil {
				t.Error(err)
			}
		}
	}
	l.check(t, db)
}

// TestOutage_openRows ends the connection while results are open, and wants whatever is asked next to say so at once, in a read
// and in a write. database/sql closes a connection of which it hears driver.ErrBadConn as soon as no result of it is open, and
// would wait for these for ever.
func TestOutage_openRows(t *testing.T) {
	r, at := newRelay(t, databasetest.Shared(t))
	db := openAt(t, at, nil)
	in := database.NewInsert("t", []string{"n"}, "ON CONFLICT DO NOTHING")
	many := func(tx *database.Tx) error {
		return tx.Insert(in, 400, func(i int) []any { return []any{i} }, nil)
	}
	newLedger(t, db)
	both, writing := map[string]func(*database.Tx) error{"Read": nil, "Write": nil}, map[string]func(*database.Tx) error{"Write": nil}
	for _, test := range []struct {
		name string
		in   map[string]func(*database.Tx) error // and what comes first there
		ask  func(tx *database.Tx, first *sql.Rows) error
	}{
		{"Query", both, func(tx *database.Tx, _ *sql.Rows) error {
			rows, err := tx.Query("SELECT n FROM t ORDER BY n DESC")
			if err != nil {
				return err
			}
			defer rows.Close()
			return rows.Err()
		}},
		{"One", both, func(tx *database.Tx, _ *sql.Rows) error {
			var n int
			_, err := tx.One("SELECT n FROM t WHERE n = 7", nil, &n)
			return err
		}},
		{"prepared", both, func(tx *database.Tx, _ *sql.Rows) error { // before the connection broke
			var n int
			_, err := tx.One("SELECT max(n) FROM t", nil, &n)
			return err
		}},
		{"Run", both, func(tx *database.Tx, _ *sql.Rows) error { return tx.Run("SELECT 1") }},
		{"Next", both, func(_ *database.Tx, first *sql.Rows) error {
			for first.Next() {
				continue
			}
			return first.Err()
		}},
		{"Close", both, func(_ *database.Tx, first *sql.Rows) error { return first.Close() }},
		{"Exec", writing, func(tx *database.Tx, _ *sql.Rows) error {
			_, err := tx.Exec("DELETE FROM t WHERE n < 0")
			return err
		}},
		{"Insert", writing, func(tx *database.Tx, _ *sql.Rows) error { return many(tx) }},
		{"midst of Insert", writing, func(tx *database.Tx, _ *sql.Rows) error {
			return tx.Insert(in, 400, func(i int) []any {
				if i == 200 {
					r.cutOff(databasetest.Shared(t))
				}
				return []any{i}
			}, nil)
		}},
		{"Insert into a stage in use", map[string]func(*database.Tx) error{"Write": many}, func(tx *database.Tx, _ *sql.Rows) error { return many(tx) }},
	} {
		for how, before := range test.in {
			t.Run(test.name+" in "+how, func(t *testing.T) {
				eventually(t, "it writes, which leaves a stage", func() bool { return db.Write(t.Context(), many) == nil })
				// Of a goroutine of its own: a test that fails would close the database, which waits for the connection for ever.
				watch := time.AfterFunc(patience, func() { panic("what was asked with results open is never answered") })
				defer watch.Stop()
				if err := askWithOpenRows(r, db, how, before, test.ask, test.name != "midst of Insert"); sdk.CodeOf(err) != sdk.CodeUnavailable {
					t.Errorf("after the connection ended: %v", err)
				}
				eventually(t, "the outage ends", func() bool { return db.Outage() == nil && readOne(db) == nil })
			})
		}
	}
}

// askWithOpenRows has ask ask something with two results open. before comes first; where cut says so, the connection ends then.
func askWithOpenRows(r *relay, db *database.DB, how string, before func(*database.Tx) error, ask func(*database.Tx, *sql.Rows) error, cut bool) error {
	do := db.Read
	if how == "Write" {
		do = db.Write
	}
	return do(context.Background(), func(tx *database.Tx) error {
		if before != nil {
			if err := before(tx); err != nil {
				return err
			}
		}
		var n int
		if _, err := tx.One("SELECT max(n) FROM t", nil, &n); err != nil {
			return err
		}
		var open []*sql.Rows
		for _, query := range []string{"SELECT n FROM t ORDER BY n", "SELECT n FROM t WHERE n > 1 ORDER BY n"} {
			rows, err := tx.Query(query) //nolint:rowserrcheck // the connection ends
			if err != nil {
				return err
			}
			defer rows.Close()
			open = append(open, rows)
		}
		if cut {
			r.cutOff(databasetest.Shared(r.tb))
		}
		return ask(tx, open[0])
	})
}
