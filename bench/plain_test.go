package bench

import (
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	_ "modernc.org/sqlite" // the driver that the host uses
)

// plainInsert writes the first n rows of a device's table into a database of their own as fast as plain SQL can, in
// transactions of 1,000, and returns rows/s and the size of the file in bytes. The table has the same columns and
// indexes, less those that sync needs.
func plainInsert(b *testing.B, from, table string, n int) (rate, size float64) {
	b.Helper()
	return plainInsertBy(b, from, table, n, 1000)
}

func plainInsertBy(b *testing.B, from, table string, n, perTransaction int) (rate, size float64) {
	b.Helper()
	source, err := sql.Open("sqlite", "file:"+from+"?mode=ro")
	if err != nil {
		b.Fatal(err)
	}
	defer source.Close()
	columns, values := readPlain(b, source, table, n)
	path := filepath.Join(b.TempDir(), "plain.db")
	db, err := sql.Open("sqlite", "file:"+path)
	if err != nil {
		b.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	for _, statement := range append([]string{"PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL", "PRAGMA cache_size=-16384"}, plainSchema(b, source, table, columns)...) {
		if _, err := db.Exec(statement); err != nil {
			b.Fatal(statement, err)
		}
	}
	began := time.Now()
	insertPlain(b, db, table, columns, values, perTransaction)
	rate = float64(len(values)) / time.Since(began).Seconds()
	if err := db.Close(); err != nil {
		b.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		b.Fatal(err)
	}
	return rate, float64(info.Size())
}

func readPlain(b *testing.B, source *sql.DB, table string, n int) (columns []string, values [][]any) {
	b.Helper()
	rows, err := source.Query(fmt.Sprintf("SELECT * FROM %s LIMIT %d", table, n))
	if err != nil {
		b.Fatal(err)
	}
	defer rows.Close()
	all, err := rows.Columns()
	if err != nil {
		b.Fatal(err)
	}
	var keep []int
	for i, c := range all {
		if !strings.HasPrefix(c, "_") {
			columns, keep = append(columns, c), append(keep, i)
		}
	}
	for rows.Next() {
		whole, pointers := make([]any, len(all)), make([]any, len(all))
		for i := range whole {
			pointers[i] = &whole[i]
		}
		if err := rows.Scan(pointers...); err != nil {
			b.Fatal(err)
		}
		row := make([]any, len(keep))
		for i, at := range keep {
			row[i] = whole[at]
		}
		values = append(values, row)
	}
	if err := rows.Err(); err != nil {
		b.Fatal(err)
	}
	return columns, values
}

// plainSchema is the device's table without the columns and indexes of sync.
func plainSchema(b *testing.B, source *sql.DB, table string, columns []string) []string {
	b.Helper()
	statements := []string{fmt.Sprintf("CREATE TABLE %s (%s, PRIMARY KEY (id))", table, strings.Join(columns, ", "))}
	rows, err := source.Query("SELECT sql FROM sqlite_schema WHERE type = 'index' AND tbl_name = ? AND sql IS NOT NULL", table)
	if err != nil {
		b.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var statement string
		if err := rows.Scan(&statement); err != nil {
			b.Fatal(err)
		}
		if _, on, _ := strings.Cut(statement, "("); !strings.Contains(on, "_owner") && !strings.Contains(on, "_stamp") {
			statements = append(statements, statement)
		}
	}
	if err := rows.Err(); err != nil {
		b.Fatal(err)
	}
	return statements
}

func insertPlain(b *testing.B, db *sql.DB, table string, columns []string, values [][]any, perTransaction int) {
	b.Helper()
	one := "(" + strings.TrimSuffix(strings.Repeat("?,", len(columns)), ",") + ")"
	query := func(n int) string {
		return "INSERT INTO " + table + " VALUES " + strings.TrimSuffix(strings.Repeat(one+",", n), ",")
	}
	statement, err := db.Prepare(query(plainRows))
	if err != nil {
		b.Fatal(err)
	}
	defer statement.Close()
	for from := 0; from < len(values); from += perTransaction {
		part := values[from:min(len(values), from+perTransaction)]
		if err := insertPart(db, statement, query, part); err != nil {
			b.Fatal(err)
		}
	}
}

// plainRows is how many rows a statement inserts.
const plainRows = 50

// insertPart inserts rows in one transaction.
func insertPart(db *sql.DB, statement *sql.Stmt, query func(n int) string, rows [][]any) error {
	tx, err := db.Begin()
	if err != nil {
		return err
	}
	defer tx.Rollback() //nolint:errcheck // nothing to undo after a commit
	prepared := tx.Stmt(statement)
	defer prepared.Close()
	var args []any
	for len(rows) > 0 {
		n := min(plainRows, len(rows))
		args = args[:0]
		for _, row := range rows[:n] {
			args = append(args, row...)
		}
		if n == plainRows {
			_, err = prepared.Exec(args...)
		} else {
			_, err = tx.Exec(query(n), args...)
		}
		if err != nil {
			return err
		}
		rows = rows[n:]
	}
	return tx.Commit()
}
