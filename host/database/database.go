// Package database is the device's one database: opening, migrating, one writer with group commit, and readers apart.
//
// It promises that a write whose call returned nil is durable, that a write that failed left nothing behind, that a
// read sees one consistent snapshot, and that no second host opens the same folder. It leaves to its callers what the
// tables mean. Tables whose names begin with an underscore are Starling's own; schema.go lists them.
//
// Stored forms: ids are 16 bytes, stamps are integers, times are integer Unix microseconds. Devices, names and column
// sets are numbered locally (numbers.go); the numbers never leave the database.
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
	"sync"
	"sync/atomic"

	"github.com/gofrs/flock"
	"github.com/hashicorp/go-hclog"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/sqlitedialect"
	_ "modernc.org/sqlite" // the driver

	"github.com/starling-sync/starling/sdk"
)

// FileName is the name of the database in its folder.
const FileName = "starling.db"

const (
	lockName = "starling.lock"
	pidName  = "starling.pid" // apart from the lock, which some systems let nobody read
)

// Durability says what a commit waits for.
type Durability string

// The durabilities.
const (
	Full   Durability = "full"   // the disk has it: survives power loss. The default
	Normal Durability = "normal" // the system has it: survives the end of the process, but power loss may take the latest commits
)

// Options say how to open a database.
type Options struct {
	Dir        string       // made with mode 0700 where it is missing
	Durability Durability   // empty: Full
	Readers    int          // connections that read at once; 0: 4
	CacheKiB   int          // page cache of the writer; each reader has a quarter of it; 0: 16 MiB
	Log        hclog.Logger // nil: none
}

// DB is an open database. Its methods may be called from several goroutines.
type DB struct {
	dir     string
	log     hclog.Logger
	dialect Dialect
	lock    *flock.Flock
	pool    *bun.DB

	readers chan *connection // those that are idle; nil in place of one that broke
	count   int              // of readers
	writer  *connection      // used by who holds turn
	turn    chan struct{}    // one token: its holder runs the next group
	closing chan struct{}    // closed by Close

	readerPragmas []string

	numbers numbers

	broken atomic.Pointer[sdk.Error] // set by an error after which the disk's content is unknown

	mu      sync.Mutex // guards what follows
	waiting []*write
	before  []func(*Tx) error
	closed  bool
}

// Open opens, and where needed makes and migrates, the database in options.Dir, and locks the folder against a second
// host until Close. It starts no goroutine of its own and blocks while it migrates.
func Open(ctx context.Context, options Options) (*DB, error) {
	db := &DB{dir: options.Dir, log: options.Log, dialect: SQLite{}, turn: make(chan struct{}, 1), closing: make(chan struct{}), count: options.Readers}
	if db.log == nil {
		db.log = hclog.NewNullLogger()
	}
	if db.count <= 0 {
		db.count = 4
	}
	if err := db.open(ctx, options); err != nil {
		return nil, errors.Join(err, db.release())
	}
	return db, nil
}

func (db *DB) open(ctx context.Context, options Options) error {
	if err := db.lockFolder(); err != nil {
		return err
	}
	if err := db.connect(ctx, options); err != nil {
		return fmt.Errorf("open %s: %w", filepath.Join(db.dir, FileName), explain(err))
	}
	if err := db.migrate(ctx); err != nil {
		return fmt.Errorf("migrate %s: %w", filepath.Join(db.dir, FileName), explain(err))
	}
	return nil
}

// lockFolder makes the folder private and takes its lock file.
func (db *DB) lockFolder() error {
	if db.dir == "" {
		return sdk.Errorf(sdk.CodeInvalid, "no data folder is named; set data_dir")
	}
	if err := os.MkdirAll(db.dir, 0o700); err != nil {
		return sdk.Errorf(sdk.CodeInvalid, "make data folder: %w", err)
	}
	if err := os.Chmod(db.dir, 0o700); err != nil { //nolint:gosec // a folder needs its x bit
		return sdk.Errorf(sdk.CodeInvalid, "make data folder private: %w", err)
	}
	path := filepath.Join(db.dir, lockName)
	lock := flock.New(path, flock.SetPermissions(0o600))
	locked, err := lock.TryLock()
	if err != nil {
		return sdk.Errorf(sdk.CodeInvalid, "lock %s: %w", path, err)
	}
	if !locked {
		return sdk.Errorf(sdk.CodeUnavailable, "another host%s uses %s; stop it, or give this one its own data_dir", holder(db.dir), db.dir)
	}
	db.lock = lock
	pid := filepath.Join(db.dir, pidName)
	if err := os.WriteFile(pid, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o600); err != nil {
		return sdk.Errorf(sdk.CodeInternal, "write %s: %w", pid, err)
	}
	return nil
}

func holder(dir string) string {
	text, err := os.ReadFile(filepath.Join(dir, pidName)) //nolint:gosec // our own file
	if pid := strings.TrimSpace(string(text)); err == nil && pid != "" {
		return " (process " + pid + ")"
	}
	return ""
}

func (db *DB) connect(ctx context.Context, options Options) error {
	path, err := filepath.Abs(filepath.Join(db.dir, FileName))
	if err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600) //nolint:gosec // under the data folder
	if err != nil {
		return err
	}
	if err := errors.Join(file.Chmod(0o600), file.Close()); err != nil {
		return err
	}
	pool, err := sql.Open("sqlite", dsn(path))
	if err != nil {
		return err
	}
	pool.SetMaxIdleConns(db.count + 2)
	db.pool = bun.NewDB(pool, sqlitedialect.New())
	if err := checkVersion(ctx, pool); err != nil {
		return err
	}
	cache := options.CacheKiB
	if cache <= 0 {
		cache = 16 << 10
	}
	if db.writer, err = newConnection(ctx, db.pool, writerPragmas(options.Durability, cache)); err != nil {
		return err
	}
	db.readers = make(chan *connection, db.count)
	db.readerPragmas = readerPragmas(cache / 4)
	for range db.count {
		reader, err := newConnection(ctx, db.pool, db.readerPragmas)
		if err != nil {
			return err
		}
		db.readers <- reader
	}
	return nil
}

func dsn(path string) string {
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

// Close waits for the group and the reads under way, and closes the database. Calls that wait for their turn, and later
// ones, fail. Idempotent.
func (db *DB) Close() error {
	db.mu.Lock()
	already := db.closed
	db.closed = true
	if !already {
		close(db.closing)
	}
	db.mu.Unlock()
	if already {
		return nil
	}
	db.turn <- struct{}{} // kept: no group runs any more
	return db.release()
}

func (db *DB) release() error {
	var errs []error
	if db.writer != nil {
		errs = append(errs, db.writer.close())
	}
	for range cap(db.readers) {
		select {
		case reader := <-db.readers:
			errs = append(errs, db.closeReader(reader))
		default:
			if db.closed {
				errs = append(errs, db.closeReader(<-db.readers))
			}
		}
	}
	if db.pool != nil {
		errs = append(errs, db.pool.Close())
	}
	if db.lock != nil {
		errs = append(errs, db.lock.Close())
	}
	return errors.Join(errs...)
}

// closeReader closes a reader that is not the writer as well, as in a database in memory.
func (db *DB) closeReader(reader *connection) error {
	if reader == nil || reader == db.writer {
		return nil
	}
	return reader.close()
}

// Dialect returns how the database's SQL is spelt.
func (db *DB) Dialect() Dialect { return db.dialect }

// Size returns the bytes on disk: the database and its write-ahead log.
func (db *DB) Size() (int64, error) {
	var total int64
	for _, suffix := range []string{"", "-wal"} {
		info, err := os.Stat(filepath.Join(db.dir, FileName+suffix))
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
