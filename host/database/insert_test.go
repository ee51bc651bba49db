package database_test

import (
	"errors"
	"testing"

	"github.com/starling-sync/starling/host/database"
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
