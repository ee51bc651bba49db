// Package database is the device's one database, SQLite or PostgreSQL: opening, migrating, one writer with group commit,
// and readers apart.
//
// It promises that a write whose call returned nil is durable, that a write that failed left nothing behind, that a
// read sees one consistent snapshot, and that no second host opens the same folder or schema. Where PostgreSQL is out of
// reach for a while, writes are refused until it is back; of one whose connection died in its commit, Write finds out then
// whether it was kept. It leaves to its callers what the tables mean. Tables whose names begin with an underscore are
// Starling's own; schema.go lists them.
//
// Stored forms: ids are 16 bytes, stamps are integers, times are integer Unix microseconds. Devices, names and column
// sets are numbered locally (numbers.go); the numbers never leave the database.
package database

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gofrs/flock"
	"github.com/hashicorp/go-hclog"
	"github.com/uptrace/bun"

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
	Durability Durability   // empty: Full, which is the only one of PostgreSQL
	Readers    int          // connections that read at once; 0: 4
	CacheKiB   int          // page cache of SQLite's writer; each reader has a quarter of it; 0: 16 MiB
	Log        hclog.Logger // nil: none
	Postgres   *Postgres    // nil: SQLite, in Dir

	Device sdk.DeviceID // whose database it is: that of another is refused. Zero: anybody's
	New    bool         // refuse a database that is some device's already

	// Stranger, where it is not nil, is the error of opening a database that knows nothing of Device, of which nothing is changed
	// then. Nil: such a one becomes Device's.
	Stranger error

	// Waiting, where it is not nil, is called by OpenPatiently after each attempt that nobody answered; since is when the
	// first was. Its error ends the waiting.
	Waiting func(since time.Time, err error) error
}

// engine is the database below a DB: what its connections are and what their errors mean.
type engine interface {
	Dialect
	// where names the database in messages. It holds no password.
	where() string
	// folder is that of the migrations.
	folder() string
	// open prepares to connect; connections is how many are kept.
	open(ctx context.Context, connections int) error
	// pool is nil before open.
	pool() *bun.DB
	// writer and reader connect. writer also makes sure that no other host writes.
	writer(ctx context.Context) (*connection, error)
	reader(ctx context.Context) (*connection, error)
	// hasTable is a query that counts the tables that are called as its parameter says.
	hasTable() string
	// begun is called once the database is migrated.
	begun(ctx context.Context, writer *connection) error
	// commit ends a transaction of the writer. An unknownOutcome is for recover to resolve.
	commit(ctx context.Context, writer *connection) error
	// size returns the bytes on disk.
	size(ctx context.Context) (int64, error)
	// explain gives an error of the database a code, and says what to do about those that people can do something about.
	// It also names a database that is on a server; reason does not.
	explain(err error) error
	reason(err error) error
	// fatal reports an error after which the content of the disk is unknown.
	fatal(err error) bool
	// full reports an error for want of space.
	full(err error) bool
	// takingLong says that what is asked from now on, until end is called, may take very long.
	takingLong() (end func())
	// doubting says that whoever asks from now on, until end is called, has reason to think that the server is gone.
	doubting() (end func())
	// hurry has whatever waits for the database end soon, as it is being closed.
	hurry()
	// lost reports that the connection is gone, of which err was one consequence.
	lost(c *connection, err error) bool
	// recover makes the writer's connection again. kept says whether the commit whose outcome was unknown was kept.
	recover(ctx context.Context) (writer *connection, kept bool, err error)
}

// DB is an open database. Its methods may be called from several goroutines.
type DB struct {
	dir    string
	log    hclog.Logger
	engine engine
	lock   *flock.Flock

	readers chan *connection // those that are idle; nil in place of one that broke
	count   int              // of readers
	writer  *connection      // used by who holds turn
	single  bool             // the writer is the reader too, as in memory
	turn    chan struct{}    // one token: its holder runs the next group
	closing chan struct{}    // closed by Close
	life    context.Context  //nolint:containedctx // ends with Close
	end     func()           // ends life

	numbers numbers

	patience time.Duration // see unknownPatience

	broken atomic.Pointer[sdk.Error] // set by an error after which the disk's content is unknown

	full    atomic.Pointer[shortage] // writes fail for want of space; nil: they do not, as far as is known
	probing sync.WaitGroup           // who tries whether there is space again

	mu      sync.Mutex // guards what follows
	waiting []*write
	before  []func(*Tx) error
	outage  *Outage   // while the database is out of reach
	begun   time.Time // of the group that runs; zero: none does
	closed  bool
}

func newDB(dir string, e engine, readers int, log hclog.Logger) *DB {
	db := &DB{dir: dir, engine: e, log: log, turn: make(chan struct{}, 1), closing: make(chan struct{}), count: readers, patience: unknownPatience}
	db.life, db.end = context.WithCancel(context.Background())
	if db.log == nil {
		db.log = hclog.NewNullLogger()
	}
	if db.count <= 0 {
		db.count = 4
	}
	return db
}

// Open opens, and where needed makes and migrates, the database in options.Dir or options.Postgres, and locks the folder,
// and the schema, against a second host until Close. It starts no goroutine of its own and blocks while it migrates.
func Open(ctx context.Context, options Options) (*DB, error) {
	lock, err := lockFolder(options.Dir)
	if err != nil {
		return nil, err
	}
	db, err := openLocked(ctx, options)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	db.lock = lock
	return db, nil
}

// openLocked is Open by who holds the lock of the folder.
func openLocked(ctx context.Context, options Options) (*DB, error) {
	if options.Log == nil {
		options.Log = hclog.NewNullLogger()
	}
	var e engine = newSQLite(options)
	if options.Postgres != nil {
		if options.Durability == Normal {
			return nil, sdk.Errorf(sdk.CodeInvalid, "a database in PostgreSQL has no durability but %q: what the server loses when it restarts, a running host would still count on", Full)
		}
		postgres, err := newPostgres(*options.Postgres, options.Log)
		if err != nil {
			return nil, err
		}
		postgres.stranger = options.Stranger
		e = postgres
	}
	db := newDB(options.Dir, e, options.Readers, options.Log)
	if options.Postgres != nil && options.Postgres.Patience > 0 {
		db.patience = min(db.patience, options.Postgres.Patience)
	}
	if err := db.open(ctx, options); err != nil {
		return nil, errors.Join(err, db.release())
	}
	return db, nil
}

func (db *DB) open(ctx context.Context, options Options) error {
	if err := db.connect(ctx); err != nil {
		return db.notOpened("open", err)
	}
	if err := db.checkOwner(ctx, options); err != nil {
		return db.notOpened("open", err)
	}
	if err := db.migrate(ctx); err != nil {
		return db.notOpened("migrate", err)
	}
	err := db.engine.begun(ctx, db.writer)
	if err == nil && options.Device != (sdk.DeviceID{}) {
		err = db.writer.run(ctx, fmt.Sprintf("INSERT INTO _meta (key, value) VALUES ('%s', %s) ON CONFLICT (key) DO NOTHING",
			ownerKey, db.engine.bind(fmt.Sprintf("x'%x'", options.Device[:]))))
	}
	if err != nil {
		return db.notOpened("open", err)
	}
	return nil
}

// notOpened says in which step of Open the database failed.
func (db *DB) notOpened(step string, err error) error {
	if !explained(err) {
		err = db.engine.reason(err)
	}
	return fmt.Errorf("%s %s: %w", step, db.engine.where(), err)
}

// ownerKey is the row of _meta that holds the device whose database this is.
const ownerKey = "device"

// checkOwner refuses the database of another device, of which nothing was changed yet: the key of a device lies in its data
// folder, so that nothing but this keeps it from a schema that is not its own.
func (db *DB) checkOwner(ctx context.Context, options Options) error {
	var there, rows int
	if err := db.writer.one(ctx, db.engine.bind(db.engine.hasTable()), []any{"_meta"}, &there); err != nil || there == 0 {
		return cmp.Or(err, options.Stranger)
	}
	if err := db.writer.one(ctx, "SELECT count(*) FROM _meta", nil, &rows); err != nil {
		return err
	}
	var id []byte
	err := db.writer.one(ctx, "SELECT value FROM _meta WHERE key = '"+ownerKey+"'", nil, &id)
	owned := err == nil
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	var owner sdk.DeviceID
	copy(owner[:], id)
	switch {
	case !owned && rows == 0 && options.Stranger != nil:
		return options.Stranger
	case options.New && owned:
		return sdk.Errorf(sdk.CodeInvalid, "there is a device in it already (%s); "+newElsewhere, owner)
	case options.New && rows > 0: // of a version that did not say whose it is
		return sdk.Errorf(sdk.CodeInvalid, "there is a device in it already; "+newElsewhere)
	case owned && options.Device != (sdk.DeviceID{}) && owner != options.Device:
		return sdk.Errorf(sdk.CodeInvalid, "this is the database of the device %s, and this device is %s; "+
			"give this one its own schema (or data_dir), or bring back the key of that one (device.key in its data_dir)", owner, options.Device)
	}
	return nil
}

// newElsewhere says what to do about a new device where one is already.
const newElsewhere = "give the new one its own: another schema of PostgreSQL (starling init --schema NAME), or another folder of SQLite; " +
	"or, if that device is gone for good, remove what it left: the schema with DROP SCHEMA ... CASCADE, or the file"

// lockFolder makes the folder private and takes its lock file, which closing it gives back.
func lockFolder(dir string) (*flock.Flock, error) {
	if dir == "" {
		return nil, sdk.Errorf(sdk.CodeInvalid, "no data folder is named; set data_dir")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, sdk.Errorf(sdk.CodeInvalid, "make data folder: %w", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil { //nolint:gosec // a folder needs its x bit
		return nil, sdk.Errorf(sdk.CodeInvalid, "make data folder private: %w", err)
	}
	path := filepath.Join(dir, lockName)
	lock := flock.New(path, flock.SetPermissions(0o600))
	locked, err := lock.TryLock()
	if err != nil {
		return nil, sdk.Errorf(sdk.CodeInvalid, "lock %s: %w", path, err)
	}
	if !locked {
		return nil, sdk.Errorf(sdk.CodeUnavailable, "another host%s uses %s; stop it, or give this one its own data_dir", holder(dir), dir)
	}
	pid := filepath.Join(dir, pidName)
	if err := os.WriteFile(pid, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o600); err != nil {
		return nil, errors.Join(sdk.Errorf(sdk.CodeInternal, "write %s: %w", pid, err), lock.Close())
	}
	return lock, nil
}

func holder(dir string) string {
	text, err := os.ReadFile(filepath.Join(dir, pidName)) //nolint:gosec // our own file
	if pid := strings.TrimSpace(string(text)); err == nil && pid != "" {
		return " (process " + pid + ")"
	}
	return ""
}

func (db *DB) connect(ctx context.Context) (err error) {
	if err := db.engine.open(ctx, db.count+2); err != nil {
		return err
	}
	if db.writer, err = db.engine.writer(ctx); err != nil {
		return err
	}
	db.readers = make(chan *connection, db.count)
	for range db.count {
		reader, err := db.engine.reader(ctx)
		if err != nil {
			return err
		}
		db.readers <- reader
	}
	return nil
}

// Close waits for the group and the reads under way, and closes the database. A PostgreSQL server that says nothing is waited
// for 5 s for each of them. Calls that wait for their turn, and later
// ones, fail. Idempotent.
func (db *DB) Close() error {
	db.mu.Lock()
	already := db.closed
	db.closed = true
	if !already {
		close(db.closing)
		db.end()
		db.engine.hurry()
	}
	db.mu.Unlock()
	if already {
		return nil
	}
	db.probing.Wait()
	db.turn <- struct{}{} // kept: no group runs any more
	return db.release()
}

func (db *DB) release() error {
	db.end()
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
	if pool := db.engine.pool(); pool != nil {
		errs = append(errs, pool.Close())
	}
	if db.lock != nil {
		errs = append(errs, db.lock.Close())
	}
	return errors.Join(errs...)
}

// closeReader closes a reader that is not the writer as well.
func (db *DB) closeReader(reader *connection) error {
	if reader == nil || db.single {
		return nil
	}
	return reader.close()
}

// Where names the database for people: its file, or its server, database and schema. It holds no password.
func (db *DB) Where() string { return db.engine.where() }

// Dialect returns how the database's SQL is spelt.
func (db *DB) Dialect() Dialect { return db.engine }

// Size returns the bytes on disk: of SQLite the database and its write-ahead log, of PostgreSQL the tables and indexes of the
// schema.
func (db *DB) Size() (int64, error) {
	if outage := db.Outage(); outage != nil {
		return 0, outage.err()
	}
	size, err := db.engine.size(context.Background())
	return size, db.explain(err)
}
