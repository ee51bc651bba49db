// Package databasetest gives tests the databases that a device's store can be: SQLite in a folder of its own, and a schema
// of its own on one throw-away PostgreSQL server that the test binary starts.
//
// The server is made of the binaries that the system's package installs, found by PATH, pg_config and where Debian puts
// them. It listens on a private Unix socket only, runs as an unprivileged user, and ends with the test binary, however
// that ends. Where there are no binaries, a test is skipped and says why; with STARLING_REQUIRE_POSTGRES=1, it fails.
package databasetest

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/starling-sync/starling/host/database"
)

// RequireVariable names the variable of the environment that has a test fail, rather than be skipped, without a server.
const RequireVariable = "STARLING_REQUIRE_POSTGRES"

// Store is a kind of database.
type Store string

// The stores.
const (
	SQLite   Store = "sqlite"
	Postgres Store = "postgres"
)

// Each runs fn once for each store, as a subtest with its name.
func Each(t *testing.T, fn func(t *testing.T, store Store)) {
	t.Helper()
	for _, store := range []Store{SQLite, Postgres} {
		t.Run(string(store), func(t *testing.T) { fn(t, store) })
	}
}

// Options returns how to open a new, empty database of this kind, with tb's own folder.
func (s Store) Options(tb testing.TB) database.Options {
	tb.Helper()
	options := database.Options{Dir: tb.TempDir(), Durability: database.Normal}
	if s == Postgres {
		options.Durability = database.Full
		options.Postgres = Shared(tb).Schema()
	}
	return options
}

// Open opens a new, empty database of this kind and closes it when tb ends.
func (s Store) Open(tb testing.TB) *database.DB {
	tb.Helper()
	db, err := database.Open(context.Background(), s.Options(tb))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := db.Close(); err != nil {
			tb.Errorf("close: %v", err)
		}
	})
	return db
}

var shared struct {
	sync.Mutex // guards what follows
	server     *Server
	err        error
}

// Shared returns the server of this test binary, which it starts at its first call. No test may stop it.
func Shared(tb testing.TB) *Server {
	tb.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.server == nil && shared.err == nil {
		shared.server, shared.err = start("-c", "fsync=off", "-c", "full_page_writes=off")
	}
	if shared.err != nil {
		refuse(tb, shared.err)
	}
	return shared.server
}

// Start starts a server of tb's own, which it may stop, and which flushes what it commits.
func Start(tb testing.TB) *Server {
	tb.Helper()
	server, err := start()
	if err != nil {
		refuse(tb, err)
	}
	tb.Cleanup(server.end)
	return server
}

func refuse(tb testing.TB, err error) {
	tb.Helper()
	if os.Getenv(RequireVariable) == "1" {
		tb.Fatalf("no PostgreSQL server for this test, which %s=1 requires: %v", RequireVariable, err)
	}
	tb.Skipf("no PostgreSQL server for this test: %v", err)
}

// schemas counts those that this process has named.
var schemas atomic.Int64

// DSN returns the connection string of the server's database.
func (s *Server) DSN() string {
	return fmt.Sprintf("postgres://starling@/postgres?host=%s&sslmode=disable", strings.ReplaceAll(s.socket, "/", "%2F"))
}

// Schema returns the place of a database that nothing has used before.
func (s *Server) Schema() *database.Postgres {
	return &database.Postgres{DSN: s.DSN(), Schema: fmt.Sprintf("test_%d", schemas.Add(1))}
}
