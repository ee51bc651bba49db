package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"

	"github.com/uptrace/bun"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/starling-sync/starling/sdk"
)

// maxStatements bounds the prepared statements of a connection: models times the few statements of each.
const maxStatements = 512

// connection is one database connection with its prepared statements. One goroutine uses it at a time.
type connection struct {
	bun.Conn
	statements map[string]*sql.Stmt
}

func newConnection(ctx context.Context, pool *bun.DB, pragmas []string) (*connection, error) {
	conn, err := pool.Conn(ctx)
	if err != nil {
		return nil, err
	}
	c := &connection{Conn: conn, statements: make(map[string]*sql.Stmt)}
	for _, pragma := range pragmas {
		if err := c.run(ctx, pragma); err != nil {
			return nil, errors.Join(fmt.Errorf("%s: %w", pragma, err), c.close())
		}
	}
	return c, nil
}

// run executes a statement that is not worth keeping.
func (c *connection) run(ctx context.Context, query string) error {
	_, err := c.Conn.Conn.ExecContext(ctx, query)
	return err
}

func (c *connection) prepare(ctx context.Context, query string) (*sql.Stmt, error) {
	if stmt, ok := c.statements[query]; ok {
		return stmt, nil
	}
	stmt, err := c.Conn.Conn.PrepareContext(ctx, query)
	if err != nil {
		return nil, fmt.Errorf("prepare %s: %w", query, err)
	}
	c.statements[query] = stmt
	return stmt, nil
}

// step executes a statement without parameters that comes again and again, such as BEGIN.
func (c *connection) step(ctx context.Context, query string) error {
	stmt, err := c.prepare(ctx, query) //nolint:sqlclosecheck // kept
	if err != nil {
		return err
	}
	_, err = stmt.ExecContext(ctx)
	return err
}

// trim forgets the statements when they are too many. No rows may be open.
func (c *connection) trim() error {
	if len(c.statements) <= maxStatements {
		return nil
	}
	var errs []error
	for _, stmt := range c.statements {
		errs = append(errs, stmt.Close())
	}
	clear(c.statements)
	return errors.Join(errs...)
}

func (c *connection) close() error {
	var errs []error
	for _, stmt := range c.statements {
		errs = append(errs, stmt.Close())
	}
	return errors.Join(append(errs, c.Conn.Close())...)
}

// Tx is a transaction: of the writer inside Write, a snapshot inside Read. It is used by one goroutine and ends with
// the function that it was given to. Queries are prepared once a connection and kept: build few distinct texts.
type Tx struct {
	db       *DB
	conn     *connection
	ctx      context.Context //nolint:containedctx // the transaction lives as long as the call that it is passed to
	writable bool
	after    []func()
	numbered map[any]int64 // numbers given in this transaction, not committed yet
}

// Context returns the context of the transaction.
func (tx *Tx) Context() context.Context { return tx.ctx }

// Dialect returns how the database's SQL is spelt.
func (tx *Tx) Dialect() Dialect { return tx.db.dialect }

// Exec executes a prepared statement and returns the number of rows it changed.
func (tx *Tx) Exec(query string, args ...any) (int64, error) {
	stmt, err := tx.conn.prepare(tx.ctx, query) //nolint:sqlclosecheck // kept
	if err != nil {
		return 0, err
	}
	result, err := stmt.ExecContext(tx.ctx, args...)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

// Run executes a statement that is not kept, such as DDL.
func (tx *Tx) Run(query string) error { return tx.conn.run(tx.ctx, query) }

// Query executes a prepared query. The caller closes the rows before the transaction ends. The rows of one text
// must be closed before the same text is queried again.
func (tx *Tx) Query(query string, args ...any) (*sql.Rows, error) {
	stmt, err := tx.conn.prepare(tx.ctx, query) //nolint:sqlclosecheck // kept
	if err != nil {
		return nil, err
	}
	return stmt.QueryContext(tx.ctx, args...)
}

// Each executes a prepared query and calls fn for each row; fn scans it.
func (tx *Tx) Each(query string, args []any, fn func(*sql.Rows) error) error {
	rows, err := tx.Query(query, args...)
	if err != nil {
		return err
	}
	defer rows.Close() //nolint:errcheck // Err is checked; here for a panic of fn
	for rows.Next() {
		if err := fn(rows); err != nil {
			return errors.Join(err, rows.Close()) //nolint:sqlclosecheck // its error is wanted
		}
	}
	return errors.Join(rows.Err(), rows.Close())
}

// One executes a prepared query and scans its first row into dest. It returns false if there is none.
func (tx *Tx) One(query string, args []any, dest ...any) (bool, error) {
	stmt, err := tx.conn.prepare(tx.ctx, query) //nolint:sqlclosecheck // kept
	if err != nil {
		return false, err
	}
	err = stmt.QueryRowContext(tx.ctx, args...).Scan(dest...)
	if errors.Is(err, sql.ErrNoRows) {
		return false, nil
	}
	return err == nil, err
}

// AfterCommit has fn called once the transaction is durable, in the order of the calls and of the commits, and not at
// all if it is not. fn must be quick and must not write: the next group waits for it.
func (tx *Tx) AfterCommit(fn func()) { tx.after = append(tx.after, fn) }

// Read calls fn with a consistent snapshot, which begins with its first query. It blocks until a reader is idle, and
// does not block writes.
func (db *DB) Read(ctx context.Context, fn func(*Tx) error) (err error) {
	if db.isClosed() {
		return errClosed()
	}
	var reader *connection
	select {
	case reader = <-db.readers:
	case <-db.closing:
		return errClosed()
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { db.readers <- reader }()
	background := context.WithoutCancel(ctx)
	if reader == nil { // the one before broke
		if reader, err = newConnection(background, db.pool, db.readerPragmas); err != nil {
			reader = nil
			return explain(err)
		}
	}
	if err := reader.trim(); err != nil {
		return err
	}
	if err := reader.step(background, "BEGIN"); err != nil {
		return explain(errors.Join(err, db.replace(&reader)))
	}
	defer func() { // also where fn panics
		if undo := reader.step(background, "ROLLBACK"); undo != nil {
			err = errors.Join(err, undo, db.replace(&reader))
		}
	}()
	return explain(fn(&Tx{db: db, conn: reader, ctx: background}))
}

// replace closes a reader whose state is not known, so that the next read makes another.
func (db *DB) replace(reader **connection) error {
	if *reader == db.writer { // in memory, where there is no other
		return nil
	}
	err := (*reader).close()
	*reader = nil
	return err
}

func (db *DB) isClosed() bool {
	db.mu.Lock()
	defer db.mu.Unlock()
	return db.closed
}

func errClosed() error { return sdk.Errorf(sdk.CodeUnavailable, "the database is closed") }

// explain gives an error of the database a code and says what to do about those that people can do something about.
// Errors that have a code stay as they are.
func explain(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*sdk.Error](err); ok {
		return err
	}
	failure, ok := errors.AsType[*sqlite.Error](err)
	if !ok {
		return err
	}
	switch failure.Code() & 0xff {
	case sqlite3.SQLITE_FULL:
		return sdk.Errorf(sdk.CodeUnavailable, "the disk is full; nothing of this write was kept; free some space and try again: %w", err)
	case sqlite3.SQLITE_IOERR:
		return sdk.Errorf(sdk.CodeInternal, "the disk reports an error; look at the system's log: %w", err)
	case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
		return sdk.Errorf(sdk.CodeInternal, "the database file is damaged; keep a copy of it, remove it, and join the library again: %w", err)
	case sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM:
		return sdk.Errorf(sdk.CodeInvalid, "the database file can not be written; see its permissions: %w", err)
	case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
		return sdk.Errorf(sdk.CodeUnavailable, "another program holds a lock on the database; close it: %w", err)
	}
	return sdk.Errorf(sdk.CodeInternal, "%w", err)
}

// numbers are the committed local numbers, both ways.
type numbers struct {
	mu     sync.RWMutex // guards what follows
	number map[any]int64
	device map[int64]sdk.DeviceID
	name   map[int64]string
	column map[int64]ColumnSet
}
