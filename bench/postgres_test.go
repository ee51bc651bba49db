package bench

import (
	"database/sql"
	"fmt"
	"strings"
	"testing"
	"time"

	_ "github.com/lib/pq" // the driver that the host uses

	"github.com/starling-sync/starling/host/clustertest"
	"github.com/starling-sync/starling/host/control"
	"github.com/starling-sync/starling/host/database/databasetest"
)

// onPostgres makes a device whose records are on a server of its own, which flushes what it commits.
func onPostgres(b *testing.B, name string, extra ...string) (*clustertest.Device, *sql.DB) {
	b.Helper()
	server := databasetest.Start(b, "fsync=on", "shared_buffers=256MB", "max_wal_size=4GB")
	b.Setenv("DATABASE_URL", server.DSN())
	pool, err := sql.Open("postgres", server.DSN())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = pool.Close() })
	return newDevice(b, mustBuild(b), name, append(extra, "--store", "postgres")...), pool
}

// BenchmarkPostgresBackfill gives a new device with PostgreSQL everything that one with SQLite has.
func BenchmarkPostgresBackfill(b *testing.B) {
	const n = 100_000
	for b.Loop() {
		alice := newDevice(b, mustBuild(b), "alice", "--library", "bench")
		alice.Start(b)
		a := dial(b, alice)
		location := makeLocation(b, a)
		putAll(b, a, "entry", n, func(i int) string { return entry(i, location) })
		bob, pool := onPostgres(b, "bob", "--join")
		bob.Start(b)
		report(b, n, joined(b, a, dial(b, bob)), copyPlain(b, pool, "entry", 1000))
	}
}

// BenchmarkPostgresShared is the same with shared operations.
func BenchmarkPostgresShared(b *testing.B) {
	const n = 100_000
	for b.Loop() {
		alice := newDevice(b, mustBuild(b), "alice", "--library", "bench")
		alice.Start(b)
		a := dial(b, alice)
		putAll(b, a, "tag", n, func(i int) string { return fmt.Sprintf(`{"name":"tag number %d","color":"red"}`, i) })
		bob, pool := onPostgres(b, "bob", "--join")
		bob.Start(b)
		report(b, n, joined(b, a, dial(b, bob)), copyPlain(b, pool, "tag", 1000))
	}
}

// BenchmarkPostgresLocalCommits measures local commits through the control API, 100 records each, one after another.
func BenchmarkPostgresLocalCommits(b *testing.B) {
	const n, batch = 50_000, 100
	for b.Loop() {
		alice, pool := onPostgres(b, "alice", "--library", "bench")
		alice.Start(b)
		a := dial(b, alice)
		report(b, n, commitLocally(b, a, n, batch), copyPlain(b, pool, "entry", batch))
	}
}

// joined has the device of c join that of a, and returns how long it took to hold the same.
func joined(b *testing.B, a, c *control.Client) time.Duration {
	b.Helper()
	invitation, err := a.Invite(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	began := time.Now()
	if _, err := c.Join(b.Context(), invitation.Code); err != nil {
		b.Fatal(err)
	}
	untilLive(b, c)
	took := time.Since(began)
	sameDigests(b, a, c)
	return took
}

func report(b *testing.B, n int, took time.Duration, plain float64) {
	b.Helper()
	rate := float64(n) / took.Seconds()
	b.ReportMetric(rate, "rows/s")
	b.ReportMetric(plain, "copy-rows/s")
	b.ReportMetric(rate/plain, "ratio")
}

// copyPlain copies the rows of a device's table into one of their own, as fast as plain COPY in transactions of so many rows
// can, and returns rows/s. The table has the same columns and indexes, less those that sync needs.
func copyPlain(b *testing.B, pool *sql.DB, table string, perTransaction int) float64 {
	b.Helper()
	columns, values := readPlain(b, pool, "starling."+table, 1<<30)
	list := strings.Join(columns, ", ")
	statements := []string{
		"CREATE SCHEMA plain", "CREATE TABLE plain." + table + " (LIKE starling." + table + " INCLUDING ALL)",
	}
	rows, err := pool.Query("SELECT column_name FROM information_schema.columns WHERE table_schema = 'starling' AND table_name = $1 AND column_name LIKE '\\_%'", table)
	if err != nil {
		b.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var column string
		if err := rows.Scan(&column); err != nil {
			b.Fatal(err)
		}
		statements = append(statements, "ALTER TABLE plain."+table+" DROP COLUMN "+column)
	}
	if err := rows.Err(); err != nil {
		b.Fatal(err)
	}
	for _, statement := range statements {
		if _, err := pool.Exec(statement); err != nil {
			b.Fatal(statement, err)
		}
	}
	began := time.Now()
	for from := 0; from < len(values); from += perTransaction {
		tx, err := pool.Begin()
		if err != nil {
			b.Fatal(err)
		}
		copying, err := tx.Prepare("COPY plain." + table + " (" + list + ") FROM STDIN")
		if err != nil {
			b.Fatal(err)
		}
		for _, row := range values[from:min(len(values), from+perTransaction)] {
			if _, err := copying.Exec(row...); err != nil {
				b.Fatal(err)
			}
		}
		if _, err := copying.Exec(); err != nil {
			b.Fatal(err)
		}
		if err := tx.Commit(); err != nil {
			b.Fatal(err)
		}
		if err := copying.Close(); err != nil { //nolint:sqlclosecheck // one a round
			b.Fatal(err)
		}
	}
	return float64(len(values)) / time.Since(began).Seconds()
}
