package database_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/database/databasetest"
	"github.com/starling-sync/starling/sdk"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(tb testing.TB, dir string) *database.DB {
	tb.Helper()
	return databasetest.Open(tb, database.Options{Dir: dir})
}

func TestDB_Write_groupIsolation(t *testing.T) {
	db := open(t, t.TempDir())
	ctx := context.Background()
	if err := db.Write(ctx, func(tx *database.Tx) error {
		return tx.Run("CREATE TABLE t (n INTEGER PRIMARY KEY)" + tx.Dialect().TableOptions())
	}); err != nil {
		t.Fatal(err)
	}
	// A first write holds the writer until all others wait, so that they share groups.
	const n = 100
	entered, release := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := db.Write(ctx, func(*database.Tx) error { close(entered); <-release; return nil }); err != nil {
			t.Error(err)
		}
	})
	<-entered
	refused := errors.New("refused")
	var mu sync.Mutex
	var order []int
	for i := range n {
		wg.Go(func() {
			err := db.Write(ctx, func(tx *database.Tx) error {
				if _, err := tx.Exec("INSERT INTO t (n) VALUES (?)", i); err != nil {
					return err
				}
				tx.AfterCommit(func() { mu.Lock(); order = append(order, i); mu.Unlock() })
				switch i % 10 {
				case 3:
					return refused
				case 4:
					panic("a defect")
				}
				return nil
			})
			switch i % 10 {
			case 3:
				if !errors.Is(err, refused) {
					t.Errorf("write %d: got %v, want %v", i, err, refused)
				}
			case 4:
				if sdk.CodeOf(err) != sdk.CodeInternal {
					t.Errorf("write %d: got %v, want a panic as an error", i, err)
				}
			default:
				if err != nil {
					t.Errorf("write %d: %v", i, err)
				}
			}
		})
	}
	close(release)
	wg.Wait()
	var kept, bad int
	err := db.Read(ctx, func(tx *database.Tx) error {
		_, err := tx.One("SELECT count(*), count(*) FILTER (WHERE n % 10 IN (3, 4)) FROM t", nil, &kept, &bad)
		return err
	})
	if err != nil || kept != n*8/10 || bad != 0 || len(order) != kept {
		t.Errorf("kept %d rows, %d of refused writes, %d announced, %v; want %d, 0, %d", kept, bad, len(order), err, n*8/10, n*8/10)
	}
}

// TestDB_WritingSince tells of a write that is under way, and of none before and after.
func TestDB_WritingSince(t *testing.T) {
	db := databasetest.Open(t, database.Options{Dir: t.TempDir()})
	before := time.Now()
	err := db.Write(t.Context(), func(*database.Tx) error {
		if since := db.WritingSince(); since.Before(before) || since.After(time.Now()) {
			t.Errorf("a write that began after %s has been under way since %s", before, since)
		}
		return nil
	})
	if since := db.WritingSince(); err != nil || !since.IsZero() {
		t.Errorf("%v; afterwards a write has been under way since %s", err, since)
	}
}

func TestOpen_refusesSecondHost(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	_, err := database.Open(context.Background(), databasetest.Options(t, database.Options{Dir: dir}))
	if sdk.CodeOf(err) != sdk.CodeUnavailable {
		t.Fatalf("a second open: %v", err)
	}
	t.Log(err)
}

// TestDB_Write_diskFull lets SQLite itself run out of pages, in a group of writes.
func TestDB_Write_diskFull(t *testing.T) {
	databasetest.SQLiteOnly(t, "it runs out of pages")
	db := open(t, t.TempDir())
	ctx := context.Background()
	limit := func(pages int) {
		t.Helper()
		err := db.Write(ctx, func(tx *database.Tx) error { return tx.Run(fmt.Sprintf("PRAGMA max_page_count = %d", pages)) })
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Write(ctx, func(tx *database.Tx) error { return tx.Run("CREATE TABLE t (n INTEGER, b BLOB) STRICT") }); err != nil {
		t.Fatal(err)
	}
	limit(1) // SQLite keeps at least the pages that there are
	entered, release := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := db.Write(ctx, func(*database.Tx) error { close(entered); <-release; return nil }); err != nil {
			t.Error(err)
		}
	})
	<-entered
	errs := make([]error, 20)
	for i := range errs {
		wg.Go(func() {
			errs[i] = db.Write(ctx, func(tx *database.Tx) error {
				if _, err := tx.Exec("INSERT INTO t (n, b) VALUES (?, zeroblob(?))", i, 10+(i%2)*100_000); err != nil {
					return err
				}
				_, err := tx.Exec("INSERT INTO t (n, b) VALUES (?, NULL)", i)
				return err
			})
		})
	}
	close(release)
	wg.Wait()
	counts := make(map[int]int)
	err := db.Read(ctx, func(tx *database.Tx) error {
		return tx.Each("SELECT n FROM t", nil, func(rows *sql.Rows) error {
			var n int
			err := rows.Scan(&n)
			counts[n]++
			return err
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, err := range errs {
		if want := map[bool]int{true: 2, false: 0}[err == nil]; counts[i] != want {
			t.Errorf("write %d: %v, and %d rows", i, err, counts[i])
		}
		if i%2 == 1 && sdk.CodeOf(err) != sdk.CodeUnavailable {
			t.Errorf("write %d: got %v, want the disk to be full", i, err)
		}
	}
	t.Log(errs[1])
	limit(1 << 20)
	if err := db.Write(ctx, func(tx *database.Tx) error {
		_, err := tx.Exec("INSERT INTO t (n, b) VALUES (1, zeroblob(100000))")
		return err
	}); err != nil {
		t.Errorf("with room again: %v", err)
	}
}
