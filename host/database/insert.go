package database

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"maps"
	"strings"
)

// insertRows are the numbers of rows that one statement of an Insert binds, greatest first: few texts, so that all stay
// prepared.
var insertRows = [...]int{50, 8, 1}

// Insert writes rows into a table, many at once, each guarded by the same clause. It may be used by several transactions.
type Insert struct {
	table, columns, clause string
	width                  int
	texts                  [len(insertRows)]string
}

// NewInsert returns an insert into table, whose name and columns' names are quoted where they need it. clause says what
// happens to a row that is there already; it begins with ON CONFLICT.
func NewInsert(table string, columns []string, clause string) *Insert {
	in := &Insert{table: table, columns: strings.Join(columns, ", "), clause: clause, width: len(columns)}
	row := "(?" + strings.Repeat(",?", in.width-1) + ")"
	for i, n := range insertRows {
		in.texts[i] = "INSERT INTO " + table + " (" + in.columns + ") VALUES " + row + strings.Repeat(","+row, n-1) + " " + clause
	}
	return in
}

// Insert writes n rows, the values of each of which row returns, in runs. After each run it calls done, if there is one,
// with the rows from and before to that it was of, and how many of them were written. What row returns is used until the
// next call of it.
func (tx *Tx) Insert(in *Insert, n int, row func(i int) []any, done func(from, to int, written int64) error) error {
	var args []any
	for from := 0; from < n; {
		var written int64
		var err error
		var to int
		if least := tx.conn.dialect.bulk(); least > 0 && n-from >= least {
			to = min(n, from+maxCopied)
			written, err = tx.conn.copyRows(tx.ctx, in, from, to, row)
		} else {
			at := 0
			for insertRows[at] > n-from {
				at++
			}
			to = from + insertRows[at]
			args = args[:0]
			for i := from; i < to; i++ {
				args = append(args, row(i)...)
			}
			written, err = tx.Exec(in.texts[at], args...)
		}
		if err == nil && done != nil {
			err = done(from, to, written)
		}
		if err != nil {
			return err
		}
		from = to
	}
	return nil
}

// maxCopied bounds the rows of one run that is copied.
const maxCopied = 2000

// stage is a temporary table of a connection that rows are copied into, on their way into a table that may have them.
type stage struct {
	name   string
	number int  // of those of the connection, as they were made
	used   bool // in this transaction
	fresh  bool // made in this transaction, and gone with it if it is undone
}

// settleStages says that the transaction has ended, and undoStages that what it did since so many stages had been made was
// undone.
func (c *connection) settleStages() {
	for _, at := range c.stages {
		at.used, at.fresh = false, false
	}
}

func (c *connection) undoStages(since int) {
	maps.DeleteFunc(c.stages, func(_ *Insert, at *stage) bool { return at.fresh && at.number > since })
}

// copyRows copies rows into a stage, and moves them from there by one guarded statement: COPY itself has no ON CONFLICT.
func (c *connection) copyRows(ctx context.Context, in *Insert, from, to int, row func(int) []any) (int64, error) {
	at, err := c.stageOf(ctx, in)
	if err != nil {
		return 0, fmt.Errorf("make a stage for %s: %w", in.table, err)
	}
	if at.used { // a stage is emptied by the end of the transaction only
		if err := c.run(ctx, "DELETE FROM "+at.name); err != nil {
			return 0, err
		}
	}
	at.used = true
	if err := c.copyInto(ctx, at, in, from, to, row); err != nil {
		return 0, fmt.Errorf("copy rows for %s: %w", in.table, err)
	}
	stmt, err := c.prepare(ctx, "INSERT INTO "+in.table+" ("+in.columns+") SELECT "+in.columns+" FROM "+at.name+" "+in.clause) //nolint:sqlclosecheck // kept
	if err != nil {
		return 0, err
	}
	result, err := stmt.ExecContext(ctx)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

func (c *connection) stageOf(ctx context.Context, in *Insert) (*stage, error) {
	if at := c.stages[in]; at != nil {
		return at, nil
	}
	c.staged++
	name := fmt.Sprintf("_stage_%d", c.staged)
	at := &stage{name: "pg_temp." + name, number: c.staged, fresh: true}
	text := "CREATE TEMPORARY TABLE " + name + " ON COMMIT DELETE ROWS AS SELECT " + in.columns + " FROM " + in.table + " WITH NO DATA"
	if err := c.run(ctx, text); err != nil {
		return nil, err
	}
	if c.stages == nil {
		c.stages = make(map[*Insert]*stage)
	}
	c.stages[in] = at
	return at, nil
}

// copyInto speaks to the driver itself: database/sql would lock, convert and count each row.
func (c *connection) copyInto(ctx context.Context, at *stage, in *Insert, from, to int, row func(int) []any) error {
	var panicked any
	defer func() {
		if panicked != nil {
			panic(panicked) // out here: one inside would cost the connection
		}
	}()
	return c.Conn.Conn.Raw(func(conn any) (err error) {
		m, ok := conn.(*multiplexed)
		if !ok {
			return fmt.Errorf("a %T can not copy", conn)
		}
		stmt, err := m.PrepareContext(ctx, "COPY "+at.name+" ("+in.columns+") FROM STDIN")
		if err != nil {
			return err
		}
		defer func() {
			panicked = recover()
			err = m.told(errors.Join(err, stmt.Close())) // the connection would wait for more
		}()
		values := make([]driver.Value, in.width)
		for i := from; i < to && err == nil; i++ {
			for at, v := range row(i) {
				if values[at], err = driver.DefaultParameterConverter.ConvertValue(v); err != nil {
					break
				}
				values[at] = argInSQLite(values[at])
			}
			if err == nil {
				_, err = stmt.Exec(values) //nolint:staticcheck // a COPY has no other way
			}
		}
		if err == nil {
			_, err = stmt.Exec(nil) //nolint:staticcheck // sends what is buffered, and tells of every error
		}
		return err
	})
}
