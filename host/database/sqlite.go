package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/sqlitedialect"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/starling-sync/starling/sdk"
)

// sqliteFile is a database in a file of the data folder.
type sqliteFile struct {
	SQLite
	path       string
	durability Durability
	cache      int   // KiB, of the writer
	stranger   error // of a file that is not there; nil: it is made
	bun        *bun.DB
}

func newSQLite(options Options) *sqliteFile {
	cache := options.CacheKiB
	if cache <= 0 {
		cache = 16 << 10
	}
	return &sqliteFile{path: filepath.Join(options.Dir, FileName), durability: options.Durability, cache: cache, stranger: options.Stranger}
}

func (s *sqliteFile) where() string  { return s.path }
func (s *sqliteFile) pool() *bun.DB  { return s.bun }
func (s *sqliteFile) folder() string { return "migrations" }

func (s *sqliteFile) open(_ context.Context, connections int) error {
	path, err := filepath.Abs(s.path)
	if err != nil {
		return err
	}
	if _, absent := os.Stat(path); s.stranger != nil && errors.Is(absent, os.ErrNotExist) {
		return s.stranger
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600) //nolint:gosec // under the data folder
	if err != nil {
		return err
	}
	if err := errors.Join(file.Chmod(0o600), file.Close()); err != nil {
		return err
	}
	pool, err := sql.Open("sqlite", uriOf(path))
	if err != nil {
		return err
	}
	pool.SetMaxIdleConns(connections)
	s.bun = bun.NewDB(pool, sqlitedialect.New())
	return nil
}

func (s *sqliteFile) writer(ctx context.Context) (*connection, error) {
	if err := checkVersion(ctx, s.bun.DB); err != nil {
		return nil, err
	}
	return newConnection(ctx, s.bun, s, writerPragmas(s.durability, s.cache))
}

func (s *sqliteFile) hasTable() string {
	return "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = ?"
}

func (s *sqliteFile) begun(context.Context, *connection) error { return nil }

func (s *sqliteFile) reader(ctx context.Context) (*connection, error) {
	return newConnection(ctx, s.bun, s, readerPragmas(s.cache/4))
}

func (s *sqliteFile) commit(ctx context.Context, writer *connection) error {
	return writer.step(ctx, "COMMIT")
}

func (s *sqliteFile) size(context.Context) (total int64, err error) {
	for _, suffix := range []string{"", "-wal"} {
		info, err := os.Stat(s.path + suffix)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return 0, err
		}
		total += info.Size()
	}
	return total, nil
}

func uriOf(path string) string {
	slashed := filepath.ToSlash(path)
	if !strings.HasPrefix(slashed, "/") {
		slashed = "/" + slashed
	}
	uri := url.URL{Scheme: "file", Path: slashed}
	return uri.String() + "?_pragma=busy_timeout(10000)&_pragma=foreign_keys(1)"
}

func writerPragmas(durability Durability, cacheKiB int) []string {
	level := "FULL"
	if durability == Normal {
		level = "NORMAL"
	}
	return []string{
		"PRAGMA journal_mode = WAL",
		"PRAGMA synchronous = " + level,
		fmt.Sprintf("PRAGMA cache_size = -%d", cacheKiB),
		"PRAGMA temp_store = MEMORY",
		"PRAGMA wal_autocheckpoint = 2000",
		"PRAGMA journal_size_limit = 67108864",
	}
}

func readerPragmas(cacheKiB int) []string {
	return []string{"PRAGMA query_only = 1", fmt.Sprintf("PRAGMA cache_size = -%d", cacheKiB), "PRAGMA temp_store = MEMORY"}
}

// leastVersion is the first SQLite whose WAL code is known not to lose commits.
const leastVersion = "3.51.3"

func checkVersion(ctx context.Context, pool *sql.DB) error {
	var version string
	if err := pool.QueryRowContext(ctx, "SELECT sqlite_version()").Scan(&version); err != nil {
		return err
	}
	if versionNumber(version) < versionNumber(leastVersion) {
		return sdk.Errorf(sdk.CodeUnsupported, "SQLite %s can lose commits; this host needs at least %s", version, leastVersion)
	}
	return nil
}

func versionNumber(version string) int {
	number := 0
	for _, part := range append(strings.Split(version, "."), "0", "0")[:3] {
		n, _ := strconv.Atoi(part)
		number = number*1000 + n
	}
	return number
}

func (s *sqliteFile) explain(err error) error { return explainSQLite(err) }
func (s *sqliteFile) reason(err error) error  { return explainSQLite(err) }

func explainSQLite(err error) error {
	failure, ok := errors.AsType[*sqlite.Error](err)
	if !ok {
		return err
	}
	switch failure.Code() & 0xff {
	case sqlite3.SQLITE_FULL:
		return sdk.Errorf(sdk.CodeUnavailable, "the disk is full; free some space and try again: %w", err)
	case sqlite3.SQLITE_IOERR:
		return sdk.Errorf(sdk.CodeInternal, "the disk reports an error; look at the system's log: %w", err)
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return sdk.Errorf(sdk.CodeInternal, "the database file is damaged; bring it back from a backup, or keep a copy of it, remove it and library.json beside it, and join the library again: %w", err)
	case sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM:
		return sdk.Errorf(sdk.CodeInvalid, "the database file can not be written; see its permissions: %w", err)
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		return sdk.Errorf(sdk.CodeUnavailable, "another program holds a lock on the database; close it: %w", err)
	}
	return sdk.Errorf(sdk.CodeInternal, "%w", err)
}

// fatal reports an error that leaves the disk's content unknown: a failed fsync is not repeated.
func (s *sqliteFile) fatal(err error) bool {
	failure, ok := errors.AsType[*sqlite.Error](err)
	if !ok {
		return false
	}
	switch failure.Code() & 0xff {
	case sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return true
	}
	return false
}

func (s *sqliteFile) full(err error) bool {
	failure, ok := errors.AsType[*sqlite.Error](err)
	return ok && failure.Code()&0xff == sqlite3.SQLITE_FULL
}

// takingLong, doubting and hurry implement engine: a file needs no patience.
func (s *sqliteFile) takingLong() func() { return func() {} }
func (s *sqliteFile) doubting() func()   { return func() {} }
func (s *sqliteFile) hurry()             {}

// lost implements engine: a file is never out of reach for a while.
func (s *sqliteFile) lost(*connection, error) bool { return false }

func (s *sqliteFile) recover(context.Context) (*connection, bool, error) {
	return nil, false, sdk.Errorf(sdk.CodeInternal, "a file has no connection to make again")
}
