package database_test

import (
	"context"
	"database/sql"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	_ "github.com/lib/pq" // plain COPY

	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/database/databasetest"
	"github.com/starling-sync/starling/sdk"
)

// wide is a table like that of entries: 17 columns and two indexes, about 250 bytes a row.
var wide = func() (columns []string, types []sdk.Type) {
	columns, types = []string{"id"}, []sdk.Type{sdk.UUID}
	for i, t := range []sdk.Type{sdk.UUID, sdk.Text, sdk.Text, sdk.Int, sdk.Time, sdk.Time, sdk.Text, sdk.Bytes, sdk.Int, sdk.Bool, sdk.Text, sdk.Float, sdk.Text} {
		columns, types = append(columns, fmt.Sprintf("c%d", i)), append(types, t)
	}
	return append(columns, "_owner", "_stamp", "_extra"), append(types, sdk.Int, sdk.Int, sdk.Bytes)
}

func wideRow(n int) []any {
	id := make([]byte, 16)
	binary.BigEndian.PutUint64(id, uint64(n)*0x9e3779b97f4a7c15)
	binary.BigEndian.PutUint64(id[8:], uint64(n))
	text := fmt.Sprintf("a file of some length %08d.jpeg", n)
	return []any{
		id, id, text, "image/jpeg", int64(n) * 977, int64(1_700_000_000_000_000 + n), int64(1_700_000_000_000_000 - n), text[:20], id, int64(n), int64(n % 2), "file", float64(n) / 3, "",
		int64(1), int64(n), nil,
	}
}

func makeWide(tb testing.TB, db *database.DB) *database.Insert {
	tb.Helper()
	columns, types := wide()
	err := db.Write(tb.Context(), func(tx *database.Tx) error {
		var list []string
		for i, c := range columns {
			list = append(list, c+" "+tx.Dialect().Type(types[i]))
		}
		if err := tx.Run("CREATE TABLE wide (" + strings.Join(list, ", ") + ", PRIMARY KEY (id))" + tx.Dialect().TableOptions()); err != nil {
			return err
		}
		if err := tx.Run("CREATE INDEX wide_parent ON wide (c0)"); err != nil {
			return err
		}
		return tx.Run("CREATE INDEX wide_stream ON wide (_owner, _stamp)")
	})
	if err != nil {
		tb.Fatal(err)
	}
	var set []string
	for _, c := range columns[1:] {
		set = append(set, c+" = excluded."+c)
	}
	return database.NewInsert("wide", columns, "ON CONFLICT (id) DO UPDATE SET "+strings.Join(set, ", ")+" WHERE excluded._stamp > wide._stamp AND excluded._owner = wide._owner")
}

// BenchmarkInsert writes rows in transactions of 1,000: many at once (copied, to PostgreSQL), in runs too short for that, and
// with a plain COPY of the same rows into the same kind of table, which guards nothing.
func BenchmarkInsert(b *testing.B) {
	const most = 1000
	report := func(b *testing.B) { b.ReportMetric(float64(b.N*most)/b.Elapsed().Seconds(), "rows/s") }
	for _, run := range []int{most, 50} {
		b.Run(fmt.Sprintf("runs of %d", run), func(b *testing.B) {
			db := databasetest.Open(b, database.Options{Dir: b.TempDir()})
			in := makeWide(b, db)
			n := 0
			for b.Loop() {
				err := db.Write(context.Background(), func(tx *database.Tx) error {
					for left := most; left > 0; left -= min(run, left) {
						from := n
						n += min(run, left)
						if err := tx.Insert(in, n-from, func(i int) []any { return wideRow(from + i) }, nil); err != nil {
							return err
						}
					}
					return nil
				})
				if err != nil {
					b.Fatal(err)
				}
			}
			report(b)
		})
	}
	b.Run("plain copy", func(b *testing.B) {
		if !databasetest.OnPostgres() {
			b.Skip("of PostgreSQL")
		}
		options := databasetest.Options(b, database.Options{Dir: b.TempDir()})
		db, err := database.Open(b.Context(), options)
		if err != nil {
			b.Fatal(err)
		}
		makeWide(b, db)
		if err := db.Close(); err != nil {
			b.Fatal(err)
		}
		pool, err := sql.Open("postgres", options.Postgres.DSN)
		if err != nil {
			b.Fatal(err)
		}
		defer pool.Close()
		columns, _ := wide()
		n := 0
		for b.Loop() {
			tx, err := pool.Begin()
			if err != nil {
				b.Fatal(err)
			}
			stmt, err := tx.Prepare("COPY " + options.Postgres.Schema + ".wide (" + strings.Join(columns, ", ") + ") FROM STDIN")
			if err != nil {
				b.Fatal(err)
			}
			for range most {
				if _, err := stmt.Exec(wideRow(n)...); err != nil {
					b.Fatal(err)
				}
				n++
			}
			if _, err := stmt.Exec(); err != nil {
				b.Fatal(err)
			}
			if err := tx.Commit(); err != nil {
				b.Fatal(err)
			}
			if err := stmt.Close(); err != nil { //nolint:sqlclosecheck // one a round
				b.Fatal(err)
			}
		}
		report(b)
	})
}
