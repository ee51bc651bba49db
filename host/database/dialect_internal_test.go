package database

import "testing"

func TestPostgreSQL_bind(t *testing.T) {
	for query, want := range map[string]string{
		"SELECT 1": "SELECT 1",
		"SELECT a FROM t WHERE b = ? AND (c, d) > (?, ?)": "SELECT a FROM t WHERE b = $1 AND (c, d) > ($2, $3)",
		"SELECT ?2, ?1, ?2": "SELECT $2, $1, $2",
		`SELECT "a?b", '?', 'it''s ?', "say ""?""" WHERE x = ?`: `SELECT "a?b", '?', 'it''s ?', "say ""?""" WHERE x = $1`,
		"WHERE substr(data, 1, 5) = x'0100000000' AND n = ?":    `WHERE substr(data, 1, 5) = '\x0100000000'::bytea AND n = $1`,
		"SELECT max'' FROM x": "SELECT max'' FROM x",
		"INSERT INTO t (id) VALUES (?) ON CONFLICT DO NOTHING": "INSERT INTO t (id) VALUES ($1) ON CONFLICT DO NOTHING",
		"SELECT 'open":       "SELECT 'open",
		"VALUES (?,?),(?,?)": "VALUES ($1,$2),($3,$4)",
	} {
		if got := (PostgreSQL{}).bind(query); got != want {
			t.Errorf("%s:\ngot  %s\nwant %s", query, got, want)
		}
	}
}
