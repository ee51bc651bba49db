package database_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/database/databasetest"
	"github.com/starling-sync/starling/sdk"
)

func readOne(db *database.DB) error {
	return db.Read(context.Background(), func(tx *database.Tx) error {
		var n int
		_, err := tx.One("SELECT 1", nil, &n)
		return err
	})
}

func TestDB_Read_afterPanic(t *testing.T) {
	db := open(t, t.TempDir())
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was swallowed")
			}
		}()
		_ = db.Read(t.Context(), func(tx *database.Tx) error {
			return tx.Each("SELECT 1 UNION SELECT 2", nil, func(*sql.Rows) error { panic("a defect") })
		})
	}()
	for range 8 { // each reader
		if err := readOne(db); err != nil {
			t.Fatal(err)
		}
	}
}

// TestDB_Read_replacesBrokenReader ends readers' transactions under them, and marks those readers.
func TestDB_Read_replacesBrokenReader(t *testing.T) {
	databasetest.SQLiteOnly(t, "it marks readers with a pragma")
	db := open(t, t.TempDir())
	const mark = 77
	for range 6 {
		err := db.Read(t.Context(), func(tx *database.Tx) error {
			return errors.Join(tx.Run(fmt.Sprintf("PRAGMA cache_size = %d", mark)), tx.Run("COMMIT"))
		})
		if err == nil {
			t.Error("nobody noticed")
		}
	}
	for range 8 {
		var size int
		err := db.Read(t.Context(), func(tx *database.Tx) error {
			_, err := tx.One("PRAGMA cache_size", nil, &size)
			return err
		})
		if err != nil || size == mark {
			t.Errorf("a broken reader is in use still: %d, %v", size, err)
		}
	}
}

// TestDB_Write_afterPanic wants a panic around a commit to cost the database, and not to hang those who wait.
func TestDB_Write_afterPanic(t *testing.T) {
	nothing := func(*database.Tx) error { return nil }
	for name, tc := range map[string]struct {
		before func(*database.Tx) error
		write  func(*database.Tx) error
		kept   bool
	}{
		"before":         {before: func(*database.Tx) error { panic("a defect") }, write: nothing},
		"after":          {before: nothing, write: func(tx *database.Tx) error { tx.AfterCommit(func() { panic("a defect") }); return nil }, kept: true},
		"after the hook": {before: func(tx *database.Tx) error { tx.AfterCommit(func() { panic("a defect") }); return nil }, write: nothing, kept: true},
	} {
		t.Run(name, func(t *testing.T) {
			db := open(t, t.TempDir())
			db.BeforeCommit(tc.before)
			if err := db.Write(t.Context(), tc.write); (err == nil) != tc.kept {
				t.Errorf("the write itself: %v; want it kept: %v", err, tc.kept)
			}
			if err := db.Write(t.Context(), nothing); sdk.CodeOf(err) != sdk.CodeInternal {
				t.Errorf("the next write: %v; want it refused", err)
			}
		})
	}
}

// TestDB_Close_failsWhatWaits closes the database while a write runs and others wait for their turn.
func TestDB_Close_failsWhatWaits(t *testing.T) {
	databasetest.SQLiteOnly(t, "a socket stops the clock of a bubble")
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ctx := context.Background()
		db, err := database.Open(ctx, database.Options{Dir: dir, Readers: 1})
		if err != nil {
			t.Fatal(err)
		}
		enter, release := make(chan struct{}), make(chan struct{})
		hold := func(*database.Tx) error { <-release; return nil }
		var wg sync.WaitGroup
		results := make([]error, 4)
		wg.Go(func() { results[0] = db.Write(ctx, func(tx *database.Tx) error { close(enter); return hold(tx) }) })
		<-enter
		enter = make(chan struct{})
		wg.Go(func() { results[1] = db.Read(ctx, func(tx *database.Tx) error { close(enter); return hold(tx) }) })
		<-enter
		wg.Go(func() { results[2] = db.Write(ctx, func(*database.Tx) error { return nil }) })
		wg.Go(func() { results[3] = readOne(db) })
		synctest.Wait()
		wg.Go(func() {
			if err := db.Close(); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		close(release)
		wg.Wait()
		if results[0] != nil || results[1] != nil {
			t.Errorf("what was under way: %v", results[:2])
		}
		for _, err := range results[2:] {
			if sdk.CodeOf(err) != sdk.CodeUnavailable {
				t.Errorf("what waited: %v", err)
			}
		}
	})
}
