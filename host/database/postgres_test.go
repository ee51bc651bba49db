package database_test

import (
	"strings"
	"testing"

	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/database/databasetest"
	"github.com/starling-sync/starling/sdk"
)

// TestOpen_greatOID wants a schema to be locked whatever its number: of the 32 bits of an oid, an int4 takes one for the sign.
func TestOpen_greatOID(t *testing.T) {
	server := databasetest.Shared(t)
	at := server.Schema()
	for _, statement := range []string{"CREATE SCHEMA " + at.Schema, "UPDATE pg_namespace SET oid = 3000000000 WHERE nspname = '" + at.Schema + "'"} {
		if err := server.Exec(t, statement); err != nil {
			t.Fatal(err)
		}
	}
	openAt(t, at, nil)
	_, err := database.Open(t.Context(), database.Options{Dir: t.TempDir(), Postgres: at})
	if sdk.CodeOf(err) != sdk.CodeUnavailable || !strings.Contains(err.Error(), "another host (connected from") {
		t.Errorf("a second host: %v", err)
	}
}
