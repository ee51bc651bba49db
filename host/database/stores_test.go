package database_test

import (
	"bytes"
	"database/sql"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/database/databasetest"
	"github.com/starling-sync/starling/sdk"
)

// TestStores_sameBytes stores random rows in SQLite and in PostgreSQL, one by one and many at once, and reads the same from both.
func TestStores_sameBytes(t *testing.T) {
	lite, err := database.OpenMemory(t.Context(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer lite.Close()
	if databasetest.OnPostgres() {
		t.Skip("it has both databases in the other run")
	}
	server := databasetest.Shared(t)
	post, err := database.Open(t.Context(), database.Options{Dir: t.TempDir(), Postgres: server.Schema()})
	if err != nil {
		t.Fatal(err)
	}
	defer post.Close()
	types := []sdk.Type{sdk.Int, sdk.Text, sdk.Int, sdk.Float, sdk.Bool, sdk.Time, sdk.Bytes, sdk.UUID, sdk.JSON}
	names := []string{"n", "t", "i", "f", "b", "at", "raw", "id", "j"}
	insert := database.NewInsert("anything", names, "ON CONFLICT (n) DO NOTHING")
	both := []*database.DB{lite, post}
	for _, db := range both {
		err := db.Write(t.Context(), func(tx *database.Tx) error {
			create := "CREATE TABLE anything (n " + tx.Dialect().Type(sdk.Int) + " PRIMARY KEY"
			for i := 1; i < len(names); i++ {
				create += ", " + names[i] + " " + tx.Dialect().Type(types[i])
			}
			return tx.Run(create + ")" + tx.Dialect().TableOptions())
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	next := int64(0)
	rapid.Check(t, func(rt *rapid.T) {
		rows := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) []any { return anyRow(rt) }), 1, 100).Draw(rt, "rows")
		for i := range rows {
			next++
			rows[i][0] = next
		}
		var read [2][][]any
		var order [2][]int64
		for at, db := range both {
			err := db.Write(t.Context(), func(tx *database.Tx) error {
				if _, err := tx.Exec("DELETE FROM anything"); err != nil {
					return err
				}
				return tx.Insert(insert, len(rows), func(i int) []any { return rows[i] }, nil)
			})
			if err != nil {
				rt.Fatal(err)
			}
			err = db.Read(t.Context(), func(tx *database.Tx) error {
				err := tx.Each("SELECT n, t, i, f, b, at, raw, id, j FROM anything ORDER BY n", nil, func(found *sql.Rows) error {
					row, dest := make([]any, len(names)), make([]any, len(names))
					for i := range dest {
						dest[i] = &row[i]
					}
					err := found.Scan(dest...)
					read[at] = append(read[at], row)
					return err
				})
				if err != nil {
					return err
				}
				return tx.Each("SELECT n FROM anything WHERE t IS NOT NULL AND raw IS NOT NULL ORDER BY t, raw, n", nil, func(found *sql.Rows) error {
					var n int64
					err := found.Scan(&n)
					order[at] = append(order[at], n)
					return err
				})
			})
			if err != nil {
				rt.Fatal(err)
			}
		}
		bits := cmp.Comparer(func(a, b float64) bool { return math.Float64bits(a) == math.Float64bits(b) })
		same := cmp.Comparer(bytes.Equal) // NULL is no []byte at all
		if diff := cmp.Diff(read[0], read[1], bits, same); diff != "" {
			rt.Fatalf("they differ (-SQLite +PostgreSQL):\n%s", diff)
		}
		if diff := cmp.Diff(rows, read[1], same); diff != "" { // but for the sign of zero, which SQLite does not keep
			rt.Fatalf("(-written +read):\n%s", diff)
		}
		if diff := cmp.Diff(order[0], order[1]); diff != "" {
			rt.Fatalf("texts and bytes sort otherwise (-SQLite +PostgreSQL):\n%s", diff)
		}
	})
}

// anyRow draws a row: n is left to the caller.
func anyRow(rt *rapid.T) []any {
	null := func(v any) any {
		if rapid.IntRange(0, 4).Draw(rt, "null") == 0 {
			return nil
		}
		return v
	}
	r := rapid.OneOf(rapid.Rune(), rapid.SampledFrom([]rune("\x01\\\n\r\t'\"Ab_ß漢🐦𝄞\U0010ffff\ufeff\u200b")))
	text := rapid.Custom(func(rt *rapid.T) string {
		out := []rune{}
		for _, c := range rapid.SliceOfN(r, 0, 12).Draw(rt, "runes") {
			if c != 0 { // refused before it comes here
				out = append(out, c)
			}
		}
		return string(out)
	})
	float := rapid.OneOf(rapid.Float64(), rapid.SampledFrom([]float64{0, math.Copysign(0, -1), math.SmallestNonzeroFloat64, math.MaxFloat64, -math.MaxFloat64, 0.1, 1e23, 5e-324}))
	integer := rapid.OneOf(rapid.Int64(), rapid.SampledFrom([]int64{0, math.MinInt64, math.MaxInt64, 1 << 53, 1<<53 + 1}))
	id := rapid.SliceOfN(rapid.Byte(), 16, 16)
	return []any{
		int64(0), null(text.Draw(rt, "text")), null(integer.Draw(rt, "int")), null(float.Draw(rt, "float")), null(rapid.Int64Range(0, 1).Draw(rt, "bool")),
		null(integer.Draw(rt, "time")), null(rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(rt, "bytes")), null(id.Draw(rt, "uuid")), null(`{"a":[1.0,"` + "é" + `"],  "b":1e2}`),
	}
}
