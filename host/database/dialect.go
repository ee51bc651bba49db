package database

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/starling-sync/starling/sdk"
)

// Dialect is what differs between the databases that a store can be. Statements are otherwise written in the SQL that
// SQLite and PostgreSQL share: ON CONFLICT DO UPDATE, RETURNING, no INSERT OR REPLACE. Placeholders are ? or,
// numbered, ?1, and literals of bytes x'00': a connection spells them as its database wants them.
type Dialect interface {
	// Name names the database, such as "sqlite".
	Name() string
	// Type returns the column type that stores t; "" if t is unknown. Text sorts by its bytes.
	Type(t sdk.Type) string
	// Indexed returns what of value, a column or a placeholder of type t, an index is made on. A query names it, beside the
	// whole value, for the index to be used.
	Indexed(value string, t sdk.Type) string
	// TableOptions ends a CREATE TABLE, such as " STRICT".
	TableOptions() string

	// bind returns query with its placeholders and literals as the database spells them.
	bind(query string) string
	// cursor returns the text that opens query without reading what nobody fetches.
	cursor(query string) string
	// beginRead and beginWrite begin transactions: one that sees one snapshot, and one of the only writer.
	beginRead() string
	beginWrite() string
	// bulk is the number of rows from which on an Insert is worth being copied; 0: never.
	bulk() int
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

// Indexed implements Dialect.
func (SQLite) Indexed(value string, _ sdk.Type) string { return value }

// TableOptions implements Dialect.
func (SQLite) TableOptions() string { return " STRICT" }

func (SQLite) bind(query string) string   { return query }
func (SQLite) cursor(query string) string { return query }
func (SQLite) beginRead() string          { return "BEGIN" }
func (SQLite) beginWrite() string         { return "BEGIN IMMEDIATE" }
func (SQLite) bulk() int                  { return 0 }

// PostgreSQL is the dialect of PostgreSQL.
type PostgreSQL struct{}

// Name implements Dialect.
func (PostgreSQL) Name() string { return "postgres" }

// Type implements Dialect. Times and JSON are stored as they are in SQLite, since PostgreSQL's own types would round the
// one and may rewrite the other: what a peer sent is given back byte by byte.
func (PostgreSQL) Type(t sdk.Type) string {
	switch t {
	case sdk.Text, sdk.JSON:
		return `TEXT COLLATE "C"`
	case sdk.Int, sdk.Time:
		return "BIGINT"
	case sdk.Bool:
		return "BOOLEAN"
	case sdk.Float:
		return "DOUBLE PRECISION"
	case sdk.Bytes, sdk.UUID:
		return "BYTEA"
	}
	return ""
}

// indexedLength is how many characters, of up to 4 bytes, an index of PostgreSQL has of each value: it takes 2704 bytes.
const indexedLength = 600

// Indexed implements Dialect.
func (PostgreSQL) Indexed(value string, t sdk.Type) string {
	switch t {
	case sdk.Text, sdk.JSON:
		return fmt.Sprintf("substr(%s::text, 1, %d)", value, indexedLength)
	case sdk.Bytes:
		return fmt.Sprintf("substr(%s::bytea, 1, %d)", value, indexedLength)
	}
	return value
}

// TableOptions implements Dialect.
func (PostgreSQL) TableOptions() string { return "" }

func (PostgreSQL) cursor(query string) string { return cursorMark + query }

func (PostgreSQL) beginRead() string { return "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY" }

// beginWrite needs no stricter isolation: nobody else writes.
func (PostgreSQL) beginWrite() string { return "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE" }

func (PostgreSQL) bulk() int { return 100 }

// bind numbers placeholders and spells literals of bytes. It leaves alone what stands in quotes.
func (PostgreSQL) bind(query string) string {
	var out strings.Builder
	next := 0
	for i := 0; i < len(query); {
		switch c := query[i]; {
		case c == '\'' || c == '"':
			end := quoted(query, i)
			out.WriteString(query[i:end])
			i = end
		case c == 'x' && i+1 < len(query) && query[i+1] == '\'' && (i == 0 || !isWord(query[i-1])):
			end := quoted(query, i+1)
			out.WriteString(`'\x` + query[i+2:end] + "::bytea")
			i = end
		case c == '?':
			end := i + 1
			for end < len(query) && query[end] >= '0' && query[end] <= '9' {
				end++
			}
			number := query[i+1 : end]
			if number == "" {
				next++
				number = strconv.Itoa(next)
			}
			out.WriteString("$" + number)
			i = end
		default:
			out.WriteByte(c)
			i++
		}
	}
	return out.String()
}

// quoted returns where the quotation that begins at from ends. A doubled quote begins another one.
func quoted(query string, from int) int {
	end := strings.IndexByte(query[from+1:], query[from])
	if end < 0 {
		return len(query)
	}
	return from + 1 + end + 1
}

func isWord(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}
