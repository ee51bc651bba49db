package database_test

import (
	"database/sql"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/database/databasetest"
)

// TestMigrations_sameTables wants each migration of SQLite to have its like for PostgreSQL: the same tables, columns and
// indexes come of both.
func TestMigrations_sameTables(t *testing.T) {
	if databasetest.OnPostgres() {
		t.Skip("it has both databases in the other run")
	}
	names := func(db *database.DB, query string) (all []string) {
		t.Helper()
		err := db.Read(t.Context(), func(tx *database.Tx) error {
			return tx.Each(query, nil, func(rows *sql.Rows) error {
				var name string
				err := rows.Scan(&name)
				all = append(all, name)
				return err
			})
		})
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(all)
		return all
	}
	lite := open(t, t.TempDir())
	post := openAt(t, databasetest.Shared(t).Schema(), nil)
	for what, query := range map[string][2]string{
		"migrations": {"SELECT name FROM _migration", "SELECT name FROM _migration"},
		"columns": {
			"SELECT m.name || '.' || c.name FROM sqlite_schema m, pragma_table_info(m.name) c WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite%' AND m.name NOT LIKE '_migration%'",
			"SELECT table_name || '.' || column_name FROM information_schema.columns WHERE table_schema = current_schema() AND table_name NOT LIKE '_migration%'",
		},
		"indexes": {
			"SELECT name FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL AND name NOT LIKE '_migration%'",
			"SELECT indexname FROM pg_indexes WHERE schemaname = current_schema() AND indexname NOT LIKE '%_key' AND indexname NOT LIKE '%_pkey'",
		},
	} {
		here, there := names(lite, query[0]), names(post, query[1])
		there = slices.DeleteFunc(there, func(name string) bool { return strings.HasPrefix(name, "_opening.") || name == "_refused.rowid" })
		if diff := cmp.Diff(here, there); diff != "" || len(here) == 0 {
			t.Errorf("%s (-SQLite +PostgreSQL):\n%s", what, diff)
		}
	}
}
