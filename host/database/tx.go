package database

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/uptrace/bun"

	"github.com/starling-sync/starling/sdk"
)

// maxStatements bounds the prepared statements of a connection: models times the few statements of each.
const maxStatements = 512

// connection is one database connection with its prepared statements. One goroutine uses it at a time.
type connection struct {
	bun.Conn
	dialect    Dialect
	statements map[string]*sql.Stmt
	stages     map[*Insert]*stage
	staged     int // stages ever made
}

func newConnection(ctx context.Context, pool *bun.DB, dialect Dialect, settings []string) (*connection, error) {
	conn, err := pool.Conn(ctx)
	if err != nil {
		return nil, err
	}
	c := &connection{Conn: conn, dialect: dialect, statements: make(map[string]*sql.Stmt)}
	for _, setting := range settings {
		if err := c.run(ctx, setting); err != nil {
			return nil, errors.Join(fmt.Errorf("%s: %w", setting, err), c.close())
		}
	}
	return c, nil
}

// one scans the first row of a query that is not worth keeping, as the database spells it.
func (c *connection) one(ctx context.Context, query string, args []any, dest ...any) error {
	return c.Conn.Conn.QueryRowContext(ctx, query, args...).Scan(dest...)
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
	stmt, err := c.Conn.Conn.PrepareContext(ctx, c.dialect.bind(query))
	if err != nil {
		return nil, fmt.Errorf("prepare %s: %w", strings.TrimPrefix(query, cursorMark), err)
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
	if _, server := c.dialect.(*postgresSchema); server {
		// What the session has, such as an unfinished transaction, goes with it. Nothing is left to fail: it may be gone.
		_ = c.Conn.Conn.Raw(func(any) error { return driver.ErrBadConn })
		return nil
	}
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
func (tx *Tx) Dialect() Dialect { return tx.db.engine }

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

// Run executes a statement that is not kept, such as DDL. It may take very long.
func (tx *Tx) Run(query string) error {
	defer tx.db.engine.takingLong()()
	return tx.conn.run(tx.ctx, query)
}

// Query executes a prepared query, of whose rows few are read ahead of the caller, who closes them before the transaction
// ends. The rows of one text must be closed before the same text is queried again; those of others may be open meanwhile.
func (tx *Tx) Query(query string, args ...any) (*sql.Rows, error) {
	return tx.query(tx.conn.dialect.cursor(query), args)
}

func (tx *Tx) query(query string, args []any) (*sql.Rows, error) {
	stmt, err := tx.conn.prepare(tx.ctx, query) //nolint:sqlclosecheck // kept
	if err != nil {
		return nil, err
	}
	return stmt.QueryContext(tx.ctx, args...)
}

// Each executes a prepared query and calls fn for each row; fn scans it. Where fn asks the database something, all rows that
// follow may be read into memory: bound the query then, or use Query.
func (tx *Tx) Each(query string, args []any, fn func(*sql.Rows) error) error {
	rows, err := tx.query(query, args)
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
	if outage := db.Outage(); outage != nil {
		return outage.err()
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
	if err := db.beginRead(background, &reader); err != nil {
		if db.engine.lost(reader, err) {
			db.suspect(background)
		}
		return db.explain(err)
	}
	defer func() { // also where fn panics
		if undo := reader.step(background, "ROLLBACK"); undo != nil {
			err = errors.Join(err, db.explain(undo), db.replace(&reader))
		}
	}()
	return db.explain(fn(&Tx{db: db, conn: reader, ctx: background}))
}

// beginRead begins a transaction of a reader, which it connects where the one before broke, or breaks now: a server that was
// restarted is noticed here first.
func (db *DB) beginRead(ctx context.Context, reader **connection) (err error) {
	for again := true; ; again = false {
		if *reader == nil {
			if *reader, err = db.engine.reader(ctx); err != nil {
				*reader = nil
				return err
			}
			again = false
		}
		if err = (*reader).trim(); err == nil {
			err = (*reader).step(ctx, db.engine.beginRead())
		}
		if err == nil {
			return nil
		}
		lost := db.engine.lost(*reader, err)
		err = errors.Join(err, db.replace(reader))
		if !lost || !again || db.isClosed() {
			return err
		}
		// Where the server has fallen silent, another connection, of which the pool may have an idle one, has no answer either.
		defer db.engine.doubting()()
	}
}

// replace closes a reader whose state is not known, so that the next read makes another.
func (db *DB) replace(reader **connection) error {
	if db.single {
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
// Errors that have a code stay as they are, unless a connection that ended is below them.
func (db *DB) explain(err error) error {
	if err == nil || explained(err) {
		return err
	}
	return db.engine.explain(err)
}

func explained(err error) bool {
	if _, done := errors.AsType[known](err); done {
		return true
	}
	_, coded := errors.AsType[*sdk.Error](err)
	return coded && (!gone(err) || sdk.CodeOf(err) == sdk.CodeUnavailable)
}

// numbers are the committed local numbers, both ways.
type numbers struct {
	mu     sync.RWMutex // guards what follows
	number map[any]int64
	device map[int64]sdk.DeviceID
	name   map[int64]string
	column map[int64]ColumnSet
}
