package database

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// A connection of lib/pq answers one query at a time, and reads a result to its end even where nobody wants the rest.
// What is here lets several results of one connection be open at once, as with SQLite:
//
//   - a result that is open when the connection is asked something else is read into memory first;
//   - a query that begins with cursorMark is a cursor of the server's, fetched bit by bit, and closed where its reader stops;
//   - of a connection that is gone database/sql hears only once no result is open any more.
//
// Booleans go in and come out as integers, as with SQLite.

// cursorMark begins a query that opens a cursor. It is no SQL: the driver here takes it away.
const cursorMark = "\x00cursor "

// Rows that a cursor fetches at once: a few first, more where they are small.
const (
	firstFetch = 16
	laterFetch = 256
	smallRow   = 2 << 10
)

type multiplexer struct{ driver.Connector }

// Connect implements driver.Connector.
func (m multiplexer) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := m.Connector.Connect(ctx)
	if err != nil {
		return nil, unreachable{err}
	}
	full, ok := conn.(pqConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("the driver's connection, a %T, lacks a method", conn), conn.Close())
	}
	return &multiplexed{pqConn: full}, nil
}

// pqConn is what a connection of lib/pq can do.
type pqConn interface {
	driver.Conn
	driver.ConnPrepareContext
	driver.ConnBeginTx
	driver.QueryerContext
	driver.ExecerContext
	driver.Validator
	driver.SessionResetter
	driver.Pinger
}

type pqStmt interface {
	driver.Stmt
	driver.StmtQueryContext
	driver.StmtExecContext
}

type multiplexed struct {
	pqConn
	open    *result  // the one whose rows the server is sending
	given   int      // results that database/sql has and has not closed
	cursors [64]bool // names in use
}

// HAZARD: where database/sql hears driver.ErrBadConn on a sql.Conn, it closes that, for which it waits until all results of it
// are closed. Whoever has another one open, and asks something, would wait for ever: for himself.

// told is an error as database/sql may hear it.
func (c *multiplexed) told(err error) error {
	if c.given > 0 && errors.Is(err, driver.ErrBadConn) {
		return lostWhileOpen{err}
	}
	return err
}

// lostWhileOpen is the error of a connection that is gone while results of it are open. It does not unwrap to what it hides.
type lostWhileOpen struct{ cause error }

func (l lostWhileOpen) Error() string { return l.cause.Error() }

// Close implements driver.Conn. A connection that is gone already has nothing to say.
func (c *multiplexed) Close() error {
	_ = c.pqConn.Close()
	return nil
}

// settle reads what the server is sending, so that it can be asked something else.
func (c *multiplexed) settle() {
	if c.open != nil {
		c.open.readAll()
	}
}

// PrepareContext implements driver.ConnPrepareContext.
func (c *multiplexed) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	c.settle()
	if text, ok := strings.CutPrefix(query, cursorMark); ok {
		return &cursorStmt{conn: c, query: text, inputs: -1, named: make(map[int]*namedCursor)}, nil
	}
	stmt, err := c.pqConn.PrepareContext(ctx, query)
	if err != nil {
		return nil, c.told(err)
	}
	if full, ok := stmt.(pqStmt); ok {
		return &settledStmt{pqStmt: full, conn: c}, nil
	}
	return stmt, nil // a COPY
}

// ExecContext implements driver.ExecerContext.
func (c *multiplexed) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	c.settle()
	done, err := c.pqConn.ExecContext(ctx, query, args)
	return done, c.told(err)
}

// QueryContext implements driver.QueryerContext.
func (c *multiplexed) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	c.settle()
	rows, err := c.pqConn.QueryContext(ctx, query, args)
	return c.opened(rows, err)
}

// BeginTx implements driver.ConnBeginTx.
func (c *multiplexed) BeginTx(ctx context.Context, options driver.TxOptions) (driver.Tx, error) {
	c.settle()
	tx, err := c.pqConn.BeginTx(ctx, options)
	return tx, c.told(err)
}

func (c *multiplexed) opened(rows driver.Rows, err error) (driver.Rows, error) {
	if err != nil {
		return nil, c.told(err)
	}
	c.given++
	c.open = &result{conn: c, rows: rows, width: len(rows.Columns())}
	return c.open, nil
}

// settledStmt is a prepared statement.
type settledStmt struct {
	pqStmt
	conn *multiplexed
}

// QueryContext implements driver.StmtQueryContext.
func (s *settledStmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	s.conn.settle()
	rows, err := s.pqStmt.QueryContext(ctx, asInSQLite(args))
	return s.conn.opened(rows, err)
}

// ExecContext implements driver.StmtExecContext.
func (s *settledStmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	s.conn.settle()
	done, err := s.pqStmt.ExecContext(ctx, asInSQLite(args))
	return done, s.conn.told(err)
}

// Close implements driver.Stmt.
func (s *settledStmt) Close() error {
	s.conn.settle()
	return s.conn.told(s.pqStmt.Close())
}

// result is a result that the server is sending, or the rest of one in memory.
type result struct {
	conn  *multiplexed
	rows  driver.Rows
	width int

	read [][]driver.Value // rows in memory that are not given yet
	err  error            // what follows them; nil while the server is sending
}

// Columns implements driver.Rows.
func (r *result) Columns() []string { return r.rows.Columns() }

// Next implements driver.Rows.
func (r *result) Next(dest []driver.Value) error {
	if len(r.read) > 0 {
		copy(dest, r.read[0])
		r.read[0], r.read = nil, r.read[1:]
		return nil
	}
	if r.err != nil {
		return r.conn.told(r.err)
	}
	if err := r.rows.Next(dest); err != nil {
		r.ended(err)
		return r.conn.told(err)
	}
	plain(dest)
	keep(dest) // HAZARD: who scans into sql.RawBytes may ask something else before it looks at them
	return nil
}

func (r *result) ended(err error) {
	r.err = err
	if closing := r.rows.Close(); closing != nil && !errors.Is(err, io.EOF) { // once: lib/pq panics at a second one
		r.err = errors.Join(err, closing)
	}
	r.settled()
}

func (r *result) settled() {
	if r.conn.open == r {
		r.conn.open = nil
	}
}

// readAll reads the rest into memory.
func (r *result) readAll() {
	for r.err == nil {
		row := make([]driver.Value, r.width)
		if err := r.rows.Next(row); err != nil {
			r.ended(err)
			return
		}
		plain(row)
		keep(row)
		r.read = append(r.read, row)
	}
}

// Close implements driver.Rows.
func (r *result) Close() error {
	r.conn.given--
	r.read = nil
	if r.err != nil {
		return nil //nolint:nilerr // it has been told by Next, or is the end
	}
	r.err = io.EOF
	r.settled()
	return r.conn.told(r.rows.Close())
}

// plain turns booleans into integers.
func plain(row []driver.Value) {
	for i, v := range row {
		if yes, ok := v.(bool); ok {
			row[i] = int64(0)
			if yes {
				row[i] = int64(1)
			}
		}
	}
}

// asInSQLite turns the arguments of a query into what SQLite stores of them.
func asInSQLite(args []driver.NamedValue) []driver.NamedValue {
	for i := range args {
		args[i].Value = argInSQLite(args[i].Value)
	}
	return args
}

// argInSQLite returns what SQLite stores of an argument: of booleans 1 and 0, which columns of numbers and of booleans take; of
// the zero that has a sign the other; of no bytes at all NULL. Devices whose stores differ must hold the same.
func argInSQLite(v any) any {
	switch v := v.(type) {
	case bool:
		if v {
			return int64(1)
		}
		return int64(0)
	case float64:
		if v == 0 {
			return float64(0)
		}
	case []byte:
		if v == nil {
			return nil
		}
	}
	return v
}

// keep copies the bytes of a row, which lie in the connection's buffer, and returns how many bytes the row takes.
func keep(row []driver.Value) (size int) {
	for i, v := range row {
		switch v := v.(type) {
		case []byte:
			row[i] = slices.Clone(v)
			size += len(v)
		case string:
			size += len(v)
		}
	}
	return size
}

// cursorStmt is a query whose results are cursors.
type cursorStmt struct {
	conn   *multiplexed
	query  string
	inputs int
	named  map[int]*namedCursor // by the number of the cursor's name
}

// namedCursor are the statements of one cursor. Those that fetch are made when there is one to fetch from.
type namedCursor struct {
	declare, few, many pqStmt
}

func (c *multiplexed) prepare(ctx context.Context, query string) (pqStmt, error) {
	stmt, err := c.pqConn.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	full, ok := stmt.(pqStmt)
	if !ok {
		return nil, errors.Join(fmt.Errorf("the driver's statement, a %T, lacks a method", stmt), stmt.Close())
	}
	return full, nil
}

// NumInput implements driver.Stmt.
func (s *cursorStmt) NumInput() int { return s.inputs }

// Exec implements driver.Stmt.
func (s *cursorStmt) Exec([]driver.Value) (driver.Result, error) {
	return nil, errors.New("a cursor is queried")
}

// Query implements driver.Stmt.
func (s *cursorStmt) Query([]driver.Value) (driver.Rows, error) {
	return nil, errors.New("a cursor is queried with a context")
}

// Close implements driver.Stmt.
func (s *cursorStmt) Close() error {
	s.conn.settle()
	var errs []error
	for _, named := range s.named {
		for _, stmt := range []pqStmt{named.declare, named.few, named.many} {
			if stmt != nil {
				errs = append(errs, stmt.Close())
			}
		}
	}
	return s.conn.told(errors.Join(errs...))
}

// QueryContext implements driver.StmtQueryContext.
func (s *cursorStmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	rows, err := s.openCursor(ctx, args)
	if err != nil {
		return nil, s.conn.told(err)
	}
	s.conn.given++
	return rows, nil
}

func (s *cursorStmt) openCursor(ctx context.Context, args []driver.NamedValue) (*cursorRows, error) {
	s.conn.settle()
	number := slices.Index(s.conn.cursors[:], false)
	if number < 0 {
		return nil, fmt.Errorf("%d cursors are open", len(s.conn.cursors))
	}
	name := fmt.Sprintf("_cursor_%d", number)
	of := s.named[number]
	if of == nil {
		declare, err := s.conn.prepare(ctx, "DECLARE "+name+" NO SCROLL CURSOR FOR "+s.query)
		if err != nil {
			return nil, err
		}
		of = &namedCursor{declare: declare}
		s.named[number] = of
	}
	if _, err := of.declare.ExecContext(ctx, asInSQLite(args)); err != nil {
		return nil, err
	}
	s.conn.cursors[number] = true
	open := &cursorRows{ctx: ctx, conn: s.conn, of: of, number: number, name: name}
	err := open.prepare()
	if err == nil {
		err = open.fetch(of.few, firstFetch)
	}
	if err != nil {
		return nil, errors.Join(err, open.end())
	}
	return open, nil
}

// cursorRows are the rows of a cursor.
type cursorRows struct {
	ctx     context.Context //nolint:containedctx // of the query whose rows these are
	conn    *multiplexed
	of      *namedCursor
	number  int
	name    string
	columns []string

	read  [][]driver.Value
	small bool // so that many fit into memory
	last  bool // the server has no more
}

func (r *cursorRows) prepare() (err error) {
	if r.of.few == nil {
		if r.of.few, err = r.conn.prepare(r.ctx, fmt.Sprintf("FETCH %d FROM %s", firstFetch, r.name)); err != nil {
			return err
		}
	}
	if r.of.many == nil {
		r.of.many, err = r.conn.prepare(r.ctx, fmt.Sprintf("FETCH %d FROM %s", laterFetch, r.name))
	}
	return err
}

func (r *cursorRows) fetch(stmt pqStmt, most int) error {
	r.conn.settle()
	rows, err := stmt.QueryContext(r.ctx, nil)
	if err != nil {
		return err
	}
	r.columns = rows.Columns()
	r.read = r.read[:0]
	size := 0
	for {
		row := make([]driver.Value, len(r.columns))
		err := rows.Next(row)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return errors.Join(err, rows.Close())
		}
		plain(row)
		size += keep(row)
		r.read = append(r.read, row)
	}
	r.last = len(r.read) < most
	r.small = size < smallRow*most
	return rows.Close()
}

// Columns implements driver.Rows.
func (r *cursorRows) Columns() []string { return r.columns }

// Next implements driver.Rows.
func (r *cursorRows) Next(dest []driver.Value) error {
	if len(r.read) == 0 && !r.last {
		stmt, most := r.of.few, firstFetch
		if r.small {
			stmt, most = r.of.many, laterFetch
		}
		if err := r.fetch(stmt, most); err != nil {
			return r.conn.told(err)
		}
	}
	if len(r.read) == 0 {
		return io.EOF
	}
	copy(dest, r.read[0])
	r.read = r.read[1:]
	return nil
}

// Close implements driver.Rows.
func (r *cursorRows) Close() error {
	if r.conn == nil {
		return nil
	}
	conn := r.conn
	conn.given--
	err := r.end()
	r.conn = nil
	return conn.told(err)
}

// end gives the cursor back.
func (r *cursorRows) end() error {
	r.conn.settle()
	r.conn.cursors[r.number] = false
	_, err := r.conn.pqConn.ExecContext(r.ctx, "CLOSE "+r.name, nil)
	if code := codeOf(err); code != inFailedTransaction && code != invalidCursorName { // else it went with what failed
		return err
	}
	return nil //nolint:nilerr // see above
}
