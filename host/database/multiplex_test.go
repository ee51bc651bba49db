package database_test

import (
	"database/sql"
	"testing"

	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/sdk"
)

// TestTx_Query_severalAtOnce reads two results in turn, asks something else between any two rows, and keeps a row's raw bytes
// meanwhile.
func TestTx_Query_severalAtOnce(t *testing.T) {
	const many = 1000
	db := open(t, t.TempDir())
	err := db.Write(t.Context(), func(tx *database.Tx) error {
		create := "CREATE TABLE t (n " + tx.Dialect().Type(sdk.Int) + ", b " + tx.Dialect().Type(sdk.Bytes) + ")"
		if err := tx.Run(create + tx.Dialect().TableOptions()); err != nil {
			return err
		}
		row := func(i int) []any { return []any{i, []byte{byte(i), byte(i >> 8)}} }
		return tx.Insert(database.NewInsert("t", []string{"n", "b"}, "ON CONFLICT DO NOTHING"), many, row, nil)
	})
	if err != nil {
		t.Fatal(err)
	}
	same := func(tx *database.Tx, n int, raw []byte) error {
		var again []byte
		if _, err := tx.One("SELECT b FROM t WHERE n = ?", []any{n}, &again); err != nil {
			return err
		}
		if string(raw) != string(again) || len(raw) != 2 || int(raw[0])+int(raw[1])<<8 != n {
			t.Fatalf("row %d: %x, and alone %x", n, raw, again)
		}
		return nil
	}
	err = db.Read(t.Context(), func(tx *database.Tx) error {
		var open [2]*sql.Rows
		for i, query := range []string{"SELECT n, b FROM t ORDER BY n", "SELECT n, b FROM t ORDER BY n DESC"} {
			rows, err := tx.Query(query) //nolint:rowserrcheck // a row that is missing shows
			if err != nil {
				return err
			}
			defer rows.Close()
			open[i] = rows
		}
		for i := range many / 2 { // and stops halfway
			for at, want := range []int{i, many - 1 - i} {
				var n int
				var raw sql.RawBytes
				if !open[at].Next() {
					t.Fatalf("no row %d: %v", i, open[at].Err())
				}
				if err := open[at].Scan(&n, &raw); err != nil {
					return err
				}
				if n != want {
					t.Fatalf("result %d: row %d is %d, want %d", at, i, n, want)
				}
				if err := same(tx, n, raw); err != nil {
					return err
				}
			}
		}
		seen := 0
		err := tx.Each("SELECT n, b FROM t WHERE n >= 0 ORDER BY n", nil, func(rows *sql.Rows) error {
			var n int
			var raw sql.RawBytes
			if err := rows.Scan(&n, &raw); err != nil {
				return err
			}
			seen++
			return same(tx, n, raw)
		})
		if seen != many {
			t.Errorf("%d rows", seen)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
