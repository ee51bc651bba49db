package database

import (
	"strings"

	"github.com/starling-sync/starling/sdk"
)

// Dialect is what differs between the databases that a store can be. Statements are otherwise written in the SQL that
// SQLite and PostgreSQL share: ON CONFLICT DO UPDATE, RETURNING, no INSERT OR REPLACE.
type Dialect interface {
	// Name names the database, such as "sqlite".
	Name() string
	// Type returns the column type that stores t; "" if t is unknown.
	Type(t sdk.Type) string
	// TableOptions ends a CREATE TABLE, such as " STRICT".
	TableOptions() string
	// Placeholders appends n placeholders, separated by commas, the first of them being the one numbered first (from 1).
	Placeholders(sql *strings.Builder, first, n int)
}

// SQLite is the dialect of SQLite.
type SQLite struct{}

// Name implements Dialect.
func (SQLite) Name() string { return "sqlite" }

// Type implements Dialect.
func (SQLite) Type(t sdk.Type) string {
	switch t {
	case sdk.Text, sdk.JSON:
		return "TEXT"
	case sdk.Int, sdk.Time, sdk.Bool:
		return "INTEGER"
	case sdk.Float:
		return "REAL"
	case sdk.Bytes, sdk.UUID:
		return "BLOB"
	}
	return ""
}

// TableOptions implements Dialect.
func (SQLite) TableOptions() string { return " STRICT" }

// Placeholders implements Dialect.
func (SQLite) Placeholders(sql *strings.Builder, _, n int) {
	for i := range n {
		if i > 0 {
			sql.WriteByte(',')
		}
		sql.WriteByte('?')
	}
}
