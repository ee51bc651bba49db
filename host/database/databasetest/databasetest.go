// Package databasetest gives tests the databases that a device's store can be: SQLite in a folder of its own, and a schema
// of its own on one throw-away PostgreSQL server that the test binary starts.
//
// The server is made of the first binaries that are found, by PATH, pg_config and where Debian's package puts them: to test with
// another version, put its folder in front of PATH. It listens on a private Unix socket only, runs as an unprivileged user, and ends
// with the test binary, however that ends. Where there are no binaries, a test is skipped and says why; with
// STARLING_REQUIRE_POSTGRES=1, it fails.
package databasetest

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/starling-sync/starling/host/database"
)

// RequireVariable names the variable of the environment that has a test fail, rather than be skipped, without a server.
const RequireVariable = "STARLING_REQUIRE_POSTGRES"

// StoreVariable names the variable of the environment that says which database tests run on: "sqlite", which is what they run
// on without it, or "postgres".
const StoreVariable = "STARLING_TEST_STORE"

// ServerVariable and SchemaVariable name, for a process that a test starts, the server that runs already and the schema to use
// on it. Environment sets them.
const (
	ServerVariable = "STARLING_TEST_POSTGRES"
	SchemaVariable = "STARLING_TEST_SCHEMA"
)

// Environment returns what a process that a test starts must find in its environment to open the database of dir.
func Environment(tb testing.TB, dir string) []string {
	tb.Helper()
	if !OnPostgres() {
		return nil
	}
	at := Shared(tb).schemaOf(dir)
	return []string{ServerVariable + "=" + at.DSN, SchemaVariable + "=" + at.Schema}
}

// OnPostgres reports whether the tests of this process run on PostgreSQL.
func OnPostgres() bool { return os.Getenv(StoreVariable) == "postgres" }

// Options returns options as this process's tests run: on PostgreSQL, each Dir has a schema of its own.
func Options(tb testing.TB, options database.Options) database.Options {
	tb.Helper()
	if !OnPostgres() {
		return options
	}
	options.Durability = database.Full
	if dsn := os.Getenv(ServerVariable); dsn != "" {
		options.Postgres = &database.Postgres{DSN: dsn, Schema: os.Getenv(SchemaVariable)}
		return options
	}
	options.Postgres = Shared(tb).schemaOf(options.Dir)
	return options
}

// Open opens a database as Options says, new if options.Dir is, and closes it when tb ends.
func Open(tb testing.TB, options database.Options) *database.DB {
	tb.Helper()
	db, err := database.Open(context.Background(), Options(tb, options))
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

// SQLiteOnly skips a test of what only SQLite does.
func SQLiteOnly(tb testing.TB, why string) {
	tb.Helper()
	if OnPostgres() {
		tb.Skip("of SQLite alone: " + why)
	}
}

// Again runs the tests of this test binary once more, on PostgreSQL, with arguments such as -rapid.checks=10. A test of each
// package with a database calls it, so that one suite holds for both. It takes minutes in all, and so is for where
// PostgreSQL is required.
func Again(t *testing.T, arguments ...string) {
	t.Helper()
	if OnPostgres() {
		t.Skip("this is that run")
	}
	if os.Getenv(RequireVariable) != "1" {
		t.Skip("the whole suite again takes long: set " + RequireVariable + "=1, or run task test:postgres")
	}
	server, err := found()
	if err != nil {
		refuse(t, err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if testing.Short() {
		arguments = append(arguments, "-test.short")
	}
	cmd := exec.Command(self, append([]string{"-test.timeout=8m", "-test.v"}, arguments...)...) //nolint:gosec // this binary
	cmd.Env = append(os.Environ(), StoreVariable+"=postgres", RequireVariable+"=1")
	output, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("the same tests on PostgreSQL: %v\n%s", err, output)
	}
	passed := bytes.Count(output, []byte("\n--- PASS: "))
	if passed == 0 {
		t.Fatalf("no test ran on PostgreSQL:\n%s", output)
	}
	t.Logf("%d tests passed on %s", passed, server)
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
		shared.server, shared.err = start(0, nil, "-c", "fsync=off", "-c", "full_page_writes=off")
	}
	if shared.err != nil {
		refuse(tb, shared.err)
	}
	return shared.server
}

// Start starts a server of tb's own, which it may kill, with settings such as fsync=on. Without that one, what it committed
// survives being killed, and no loss of power.
func Start(tb testing.TB, settings ...string) *Server {
	tb.Helper()
	server, err := start(0, nil, argumentsOf(settings)...)
	return kept(tb, server, err)
}

// StartTCP is Start of a server that also listens on a port of 127.0.0.1, with files such as pg_hba.conf and server.key in its
// data folder.
func StartTCP(tb testing.TB, files map[string][]byte, settings ...string) *Server {
	tb.Helper()
	const most = 5
	for tried := 1; ; tried++ {
		server, err := start(freePort(tb), files, argumentsOf(settings)...)
		if errors.Is(err, errPortTaken) && tried < most { // by somebody else, between that it was found free and now
			tb.Logf("another port is tried: %v", err)
			continue
		}
		return kept(tb, server, err)
	}
}

// freePort returns a port of 127.0.0.1 that nobody listens at now: a server does not tell which one it has got. It is below those
// that systems give to who dials, so that none of these takes it while the server is killed and started again.
func freePort(tb testing.TB) int {
	tb.Helper()
	const first, ports, tries = 15000, 15000, 1000
	var err error
	for range tries {
		port := first + rand.IntN(ports) //nolint:gosec // anything will do
		var free net.Listener
		if free, err = net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port))); err == nil {
			_ = free.Close()
			return port
		}
	}
	tb.Fatalf("no free port in %d tries: %v", tries, err)
	return 0
}

// errPortTaken says that a server has ended since another process listens at its port.
var errPortTaken = errors.New("its port is taken")

func argumentsOf(settings []string) []string {
	arguments := []string{"-c", "fsync=off"}
	for _, setting := range settings {
		arguments = append(arguments, "-c", setting)
	}
	return arguments
}

// kept returns a server that was started, until tb ends.
func kept(tb testing.TB, server *Server, err error) *Server {
	tb.Helper()
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

// schemas are those that this process has named.
var schemas struct {
	sync.Mutex // guards what follows
	count      int
	of         map[string]string // by folder
}

// DSN returns the connection string of the server's database.
func (s *Server) DSN() string {
	port := ""
	if s.port != defaultPort {
		port = fmt.Sprintf("&port=%d", s.port)
	}
	return fmt.Sprintf("postgres://starling@/postgres?host=%s%s&sslmode=disable", strings.ReplaceAll(s.socket, "/", "%2F"), port)
}

// defaultPort is in the name of a server's socket where no other port is asked for.
const defaultPort = 5432

// Port returns the port of 127.0.0.1 at which a server listens that StartTCP has started.
func (s *Server) Port() int { return s.port }

// Schema returns the place of a database that nothing has used before.
func (s *Server) Schema() *database.Postgres { return s.schemaOf("") }

// schemaOf returns the place of the database of a device whose data folder is dir, the same each time; with "", a new one.
func (s *Server) schemaOf(dir string) *database.Postgres {
	schemas.Lock()
	defer schemas.Unlock()
	name := schemas.of[dir]
	if name == "" || dir == "" {
		schemas.count++
		name = fmt.Sprintf("test_%d", schemas.count)
		if schemas.of == nil {
			schemas.of = make(map[string]string)
		}
		schemas.of[dir] = name
	}
	return &database.Postgres{DSN: s.DSN(), Schema: name}
}

// Socket returns the folder of the server's socket.
func (s *Server) Socket() string { return s.socket }

// Exec executes a statement outside of any schema, as an administrator.
func (s *Server) Exec(tb testing.TB, statement string) error {
	tb.Helper()
	pool, err := sql.Open("postgres", s.DSN())
	if err != nil {
		return err
	}
	defer pool.Close() //nolint:errcheck // the statement's error counts
	_, err = pool.ExecContext(tb.Context(), statement)
	return err
}

// ShortFolder makes a folder for a socket, whose path may have few characters, and removes it when tb ends.
func ShortFolder(tb testing.TB) string {
	tb.Helper()
	folder, err := os.MkdirTemp("/tmp", "starling")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(folder) })
	return folder
}
