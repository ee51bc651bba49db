package database

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"github.com/starling-sync/starling/sdk"
)

// maxGroup bounds the writes that share one transaction.
const maxGroup = 64

// write is one call of Write.
type write struct {
	ctx  context.Context //nolint:containedctx // the call's own, on its way to the writer
	fn   func(*Tx) error
	tx   *Tx
	err  error
	done chan struct{} // closed when err is final

	doubtful bool // err says that nobody knows yet
}

// Write calls fn in a transaction of the one writer, and returns once it is durable. Calls that wait at the same time
// share one transaction (group commit), each in its own savepoint and in the order of their arrival: an error of fn
// undoes only what fn did and is returned as it is; a commit that fails undoes, and is returned to, all of the group.
//
// fn runs on the goroutine of any waiting caller. It must not call Write or Read, and should not wait for anything:
// every writer waits for it. If ctx ends before fn has begun, Write returns its error and fn is not called.
func (db *DB) Write(ctx context.Context, fn func(*Tx) error) error {
	w := &write{ctx: ctx, fn: fn, done: make(chan struct{})}
	if err := db.enqueue(w); err != nil {
		return err
	}
	for {
		select {
		case <-w.done:
			return w.err
		case db.turn <- struct{}{}:
			db.runTurn()
		case <-db.closing:
			if db.withdraw(w) {
				return errClosed()
			}
			<-w.done
			return w.err
		case <-ctx.Done():
			if db.withdraw(w) {
				return ctx.Err()
			}
			<-w.done
			return w.err
		}
	}
}

// BeforeCommit has hook called in every transaction of the writer in which something was written, last before its
// commit. Its error fails the group. Call it before the first Write.
func (db *DB) BeforeCommit(hook func(*Tx) error) {
	db.mu.Lock()
	defer db.mu.Unlock()
	db.before = append(db.before, hook)
}

func (db *DB) enqueue(w *write) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.closed {
		return errClosed()
	}
	if db.outage != nil {
		return db.outage.refuse()
	}
	db.waiting = append(db.waiting, w)
	return nil
}

// withdraw takes w from the queue; false if a group has it already.
func (db *DB) withdraw(w *write) bool {
	db.mu.Lock()
	defer db.mu.Unlock()
	i := slices.Index(db.waiting, w)
	if i < 0 {
		return false
	}
	db.waiting = slices.Delete(db.waiting, i, i+1)
	return true
}

// runTurn runs the writes that wait now, and gives the turn back. Its caller holds it.
func (db *DB) runTurn() {
	db.mu.Lock()
	n := min(len(db.waiting), maxGroup)
	group := slices.Clone(db.waiting[:n])
	db.waiting = slices.Delete(db.waiting, 0, n)
	before := db.before
	if len(group) > 0 {
		db.begun = time.Now()
	}
	db.mu.Unlock()
	if len(group) == 0 {
		<-db.turn
		return
	}
	var after []func()
	err := guard("a commit", func() (err error) {
		after, err = db.commit(group, before)
		return err
	})
	if isPanic(err) {
		db.breakDown(err) // in the midst of a transaction
	}
	// Of a connection that broke once all was committed the next group hears.
	if err != nil && db.broken.Load() == nil && db.engine.lost(db.writer, err) {
		db.ended()
		db.beginOutage(group, after, err) // which keeps the turn until the connection is back
		return
	}
	db.finish(group, after, err)
	db.ended()
	<-db.turn
}

// ended notes that no writes are under way. Its caller holds the turn: who has it next notes its own.
func (db *DB) ended() {
	db.mu.Lock()
	defer db.mu.Unlock()
	db.begun = time.Time{}
}

// WritingSince returns since when the writes that are under way are; zero if there are none. Every other write waits for them.
func (db *DB) WritingSince() time.Time {
	db.mu.Lock()
	defer db.mu.Unlock()
	return db.begun
}

// finish ends the writes of a group whose outcome is known: err is that of the commit.
func (db *DB) finish(group []*write, after []func(), err error) {
	if err == nil {
		for _, fn := range after {
			db.runAfter(fn)
		}
	}
	for _, w := range group {
		if err != nil && w.err == nil {
			w.err = err
		}
		if w.err == nil {
			for _, fn := range w.tx.after {
				db.runAfter(fn)
			}
		}
		close(w.done)
	}
}

// runAfter runs one function of AfterCommit. What it is for is durable, so that a panic in it can not fail the write. But
// what was not told of it is out of step with the database from now on, so that no more writes are taken.
func (db *DB) runAfter(fn func()) {
	if err := guard("what follows a commit", func() error { fn(); return nil }); err != nil {
		db.breakDown(err)
	}
}

// panicked is a panic that became an error: it may be on another caller's goroutine, and the writer's turn must go on.
type panicked struct{ cause error }

func (p panicked) Error() string { return p.cause.Error() }

func isPanic(err error) bool {
	_, ok := errors.AsType[panicked](err)
	return ok
}

// guard calls fn and turns a panic into an error.
func guard(what string, fn func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = sdk.Errorf(sdk.CodeInternal, "%w", panicked{fmt.Errorf("panic in %s: %v\n%s", what, r, debug.Stack())})
		}
	}()
	return fn()
}

// breakDown has every later write refused until the host is started again.
func (db *DB) breakDown(err error) {
	broken := sdk.Errorf(sdk.CodeInternal, "the database takes no more writes until the host is started again: %w", err)
	if db.broken.CompareAndSwap(nil, broken) {
		db.log.Error("the database takes no more writes; start the host again", "error", err)
	}
}

// Broken returns why no more writes are taken until the host is started again; nil if they are.
func (db *DB) Broken() error {
	if broken := db.broken.Load(); broken != nil {
		return broken
	}
	return nil
}

// commit runs group in one transaction. An error is of all of them; the error of one stands in its err. after is what the
// hooks of BeforeCommit want to be called.
func (db *DB) commit(group []*write, before []func(*Tx) error) (after []func(), err error) {
	if broken := db.broken.Load(); broken != nil {
		return nil, broken
	}
	ctx := context.WithoutCancel(group[0].ctx)
	if err := db.writer.trim(); err != nil {
		return nil, db.explain(err)
	}
	defer db.writer.settleStages()
	if err := db.writer.step(ctx, db.engine.beginWrite()); err != nil {
		return nil, db.failed(err)
	}
	written := 0
	for _, w := range group {
		w.tx = &Tx{db: db, conn: db.writer, ctx: context.WithoutCancel(w.ctx), writable: true}
		if err := db.inSavepoint(w, len(group) > 1); err != nil {
			return nil, db.rollback(ctx, err)
		}
		if w.err == nil {
			written++
		}
	}
	if written == 0 && len(group) == 1 && gone(group[0].err) {
		return nil, db.rollback(ctx, group[0].err) // which says more than what comes of the rollback
	}
	if written == 0 {
		return nil, db.rollback(ctx, nil)
	}
	tx := &Tx{db: db, conn: db.writer, ctx: ctx, writable: true}
	for _, hook := range before {
		if err := guard("what precedes a commit", func() error { return hook(tx) }); err != nil {
			return nil, db.rollback(ctx, fmt.Errorf("before commit: %w", err))
		}
	}
	if err := db.engine.commit(ctx, db.writer); err != nil {
		if _, unknown := errors.AsType[unknownOutcome](err); unknown {
			return tx.after, err
		}
		failed := db.rollback(ctx, err)
		if db.engine.fatal(err) { // the log may hold it already, and is replayed at the next start
			return nil, sdk.Errorf(sdk.CodeOf(failed), "%w; start the host again, and look: %w", ErrUnknown, failed)
		}
		return nil, failed
	}
	return tx.after, nil
}

// inSavepoint runs one write, whose own error goes into w.err. Where it is one of several (nested), an error undoes what
// it did; else the caller rolls back. The error returned means that the transaction is gone, with all of the group.
func (db *DB) inSavepoint(w *write, nested bool) error {
	if !nested {
		w.err = db.failed(w.call())
		return nil
	}
	if err := db.writer.step(w.tx.ctx, "SAVEPOINT w"); err != nil {
		return err
	}
	staged := db.writer.staged
	w.err = db.failed(w.call())
	if w.err != nil {
		// HAZARD: a full disk may end the whole transaction by itself. Then there is no savepoint to go back to, and
		// what came after would be committed statement by statement.
		db.writer.undoStages(staged)
		if err := db.writer.step(w.tx.ctx, "ROLLBACK TO w"); err != nil {
			return fmt.Errorf("another write of the group ended it: %w", w.err)
		}
	}
	return db.writer.step(w.tx.ctx, "RELEASE w")
}

func (w *write) call() error { return guard("a database write", func() error { return w.fn(w.tx) }) }

func (db *DB) rollback(ctx context.Context, err error) error {
	db.writer.undoStages(0)
	undo := db.writer.step(ctx, "ROLLBACK")
	if err == nil {
		return db.failed(undo)
	}
	return db.failed(err) // where SQLite has rolled back by itself, undo only says that there is nothing to undo
}

// failed explains err. After an error that leaves the disk's content unknown (a failed fsync is not repeated), every
// later write is refused until the host is started again, which replays the log.
func (db *DB) failed(err error) error {
	explained := db.explain(err)
	if err != nil && db.engine.fatal(err) {
		db.breakDown(explained)
	}
	if err != nil && db.engine.full(err) {
		db.noteFull(err)
	}
	return explained
}
