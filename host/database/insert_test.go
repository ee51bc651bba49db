package database_test

import (
	"errors"
	"sync"
	"testing"

	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/database/databasetest"
)

// TestTx_Insert_undone has inserts of many rows undone in all ways, and others after them on the same connection.
func TestTx_Insert_undone(t *testing.T) {
	db := open(t, t.TempDir())
	in := makeWide(t, db)
	refused := errors.New("refused")
	const many = 150
	insert := func(tx *database.Tx, from int) error {
		return tx.Insert(in, many, func(i int) []any { return wideRow(from + i) }, nil)
	}
	for round, want := range []func(tx *database.Tx, from int) error{
		func(tx *database.Tx, from int) error { return errors.Join(insert(tx, from), refused) },
		insert,
		func(tx *database.Tx, from int) error { // twice, the second time over the first
			return errors.Join(insert(tx, from), insert(tx, from+many/2))
		},
		func(tx *database.Tx, from int) error {
			return tx.Insert(in, many, func(i int) []any {
				if i == many-1 {
					panic("a defect")
				}
				return wideRow(from + i)
			}, nil)
		},
		func(tx *database.Tx, from int) error {
			return tx.Insert(in, many, func(i int) []any {
				row := wideRow(from + i)
				if i == many/2 {
					row[0] = nil // which a primary key is not
				}
				return row
			}, nil)
		},
		insert,
	} {
		from := round * 1000
		err := db.Write(t.Context(), func(tx *database.Tx) error { return want(tx, from) })
		rows := 0
		if readErr := db.Read(t.Context(), func(tx *database.Tx) error {
			_, err := tx.One("SELECT count(*) FROM wide WHERE _stamp >= ? AND _stamp < ?", []any{from, from + 1000}, &rows)
			return err
		}); readErr != nil {
			t.Fatal(readErr)
		}
		kept := map[int]int{1: many, 2: many + many/2, 5: many}[round]
		if rows != kept || (err == nil) != (kept > 0) {
			t.Errorf("round %d: %v, and %d rows, want %d", round, err, rows, kept)
		}
	}
}

// TestTx_Insert_guarded counts what an insert of many wrote, some of it over what is newer.
func TestTx_Insert_guarded(t *testing.T) {
	db := open(t, t.TempDir())
	in := makeWide(t, db)
	write := func(bump func(i int) int64, want int64) {
		t.Helper()
		var total int64
		err := db.Write(t.Context(), func(tx *database.Tx) error {
			row := func(i int) []any { r := wideRow(i); r[15] = bump(i); return r }
			return tx.Insert(in, 300, row, func(from, to int, written int64) error { total += written; return nil })
		})
		if err != nil || total != want {
			t.Errorf("%d rows were written, want %d; %v", total, want, err)
		}
	}
	write(func(i int) int64 { return int64(1000 + i) }, 300)
	write(func(i int) int64 { return int64(1000 + i) }, 0)
	write(func(i int) int64 { return int64(1000 + i + i%3) }, 200)
}

// TestTx_Insert_besideFailure has an insert of many rows share its group with one that fails, before it or after. A stage that was
// made stays known: one that is forgotten would stay on the server as long as the connection.
func TestTx_Insert_besideFailure(t *testing.T) {
	for failing := range 2 {
		db := openAt(t, databasetest.Shared(t).Schema(), nil)
		in := makeWide(t, db)
		refused := errors.New("refused")
		const many, rounds = 150, 3
		for round := range rounds {
			entered, release := make(chan struct{}), make(chan struct{})
			var wg sync.WaitGroup
			wg.Go(func() {
				if err := db.Write(t.Context(), func(*database.Tx) error { close(entered); <-release; return nil }); err != nil {
					t.Error(err)
				}
			})
			<-entered
			var errs [2]error
			for at := range errs {
				wg.Go(func() {
					errs[at] = db.Write(t.Context(), func(tx *database.Tx) error {
						err := tx.Insert(in, many, func(i int) []any { return wideRow(round*1000 + i) }, nil)
						if at == failing {
							err = errors.Join(err, refused)
						}
						return err
					})
				})
				eventually(t, "it waits", func() bool { return db.Waiting() == at+1 })
			}
			close(release)
			wg.Wait()
			if !errors.Is(errs[failing], refused) || errs[1-failing] != nil {
				t.Errorf("%v", errs)
			}
		}
		var rows, stages int
		err := db.Write(t.Context(), func(tx *database.Tx) error {
			if _, err := tx.One("SELECT count(*) FROM wide", nil, &rows); err != nil {
				return err
			}
			_, err := tx.One(`SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema() AND relname LIKE '\_stage%'`, nil, &stages)
			return err
		})
		if err != nil || rows != rounds*many || stages != 1 {
			t.Errorf("%d rows, want %d; %d stages, want 1; %v", rows, rounds*many, stages, err)
		}
	}
}
