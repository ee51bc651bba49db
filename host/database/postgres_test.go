package database_test

import (
	"database/sql"
	"testing"

	"github.com/starling-sync/starling/host/database"
)

func TestTx_Query_severalAtOnce(t *testing.T) {
	{
		db := open(t, t.TempDir())
		err := db.Write(t.Context(), func(tx *database.Tx) error {
			if err := tx.Run("CREATE TABLE t (n " + tx.Dialect().Type("int") + ")"); err != nil {
				return err
			}
			return tx.Insert(database.NewInsert("t", []string{"n"}, "ON CONFLICT DO NOTHING"), 1000, func(i int) []any { return []any{i} }, nil)
		})
		if err != nil {
			t.Fatal(err)
		}
		err = db.Read(t.Context(), func(tx *database.Tx) error {
			a, err := tx.Query("SELECT n FROM t ORDER BY n")
			if err != nil {
				return err
			}
			defer a.Close()
			b, err := tx.Query("SELECT n FROM t WHERE n >= ? ORDER BY n", 500)
			if err != nil {
				return err
			}
			defer b.Close()
			for i := range 500 {
				var x, y, z, n int
				a.Next()
				b.Next()
				if err := a.Scan(&x); err != nil {
					return err
				}
				if err := b.Scan(&y); err != nil {
					return err
				}
				if _, err := tx.One("SELECT n FROM t WHERE n = ?", []any{x}, &z); err != nil {
					return err
				}
				if x != i || y != 500+i || z != x {
					t.Fatalf("got %d %d %d, want %d %d", x, y, z, i, 500+i)
				}
				_ = n
			}
			sum := 0
			err = tx.Each("SELECT n FROM t ORDER BY n LIMIT 100", nil, func(rows *sql.Rows) error {
				var x, y int
				if err := rows.Scan(&x); err != nil {
					return err
				}
				_, err := tx.One("SELECT n FROM t WHERE n = ?", []any{x}, &y)
				sum += y
				return err
			})
			if sum != 99*50 {
				t.Errorf("sum %d", sum)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
