package database

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"io/fs"
	"net"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/starling-sync/starling/sdk"
)

// Outage is a time in which the database is out of reach.
type Outage struct {
	Where string    // names the database, without its password
	Since time.Time // it was noticed
	Cause error     // of the end, or of the latest attempt to connect again; says what to do where that is known
}

func (o *Outage) err() error {
	return sdk.Errorf(sdk.CodeUnavailable, "%s has been out of reach since %s; nothing is read or written meanwhile, and this host connects again by itself: %w",
		o.Where, o.Since.Format(time.DateTime), unreachable{o.Cause})
}

// ErrUnknown is in the chain of Write's error where the disk failed in the commit, or the connection ended in it and the server
// has not said since whether it was kept.
var ErrUnknown = errors.New("it is not known whether this write was kept")

// ErrNotKept is in the chain of Write's error where the connection ended, or there was none: nothing was written.
var ErrNotKept = errors.New("nothing of this write was kept")

// refuse is the error of a write that was not begun.
func (o *Outage) refuse() error {
	return sdk.Errorf(sdk.CodeUnavailable, "%w; try again when the store is back: %w", ErrNotKept, o.err())
}

// OpenPatiently is Open that tries again while nothing answers at the address of a PostgreSQL server, or that says it is starting,
// as after a boot. Every other error is returned at once; where ctx ends meanwhile, its error. The folder is locked all the while.
func OpenPatiently(ctx context.Context, options Options) (*DB, error) {
	lock, err := lockFolder(options.Dir)
	if err != nil {
		return nil, err
	}
	db, err := awaitServer(ctx, options)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	db.lock = lock
	return db, nil
}

// awaitServer is OpenPatiently by who holds the lock of the folder.
func awaitServer(ctx context.Context, options Options) (*DB, error) {
	pauses := newPauses()
	var since time.Time // the first attempt that nobody answered ended
	var again reminder
	for {
		db, err := openLocked(context.WithoutCancel(ctx), options)
		if err == nil || !absent(err) {
			return db, err
		}
		if since.IsZero() {
			since = time.Now()
		}
		if again.due(err) && options.Log != nil {
			options.Log.Warn("the database does not answer yet; this host waits for it, and does nothing else meanwhile",
				"error", err, "since", since.Format(time.DateTime))
		}
		if options.Waiting != nil {
			if err := options.Waiting(since, err); err != nil {
				return nil, err
			}
		}
		pause := time.NewTimer(pauses.NextBackOff())
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return nil, ctx.Err()
		}
	}
}

func newPauses() *backoff.ExponentialBackOff {
	pauses := backoff.NewExponentialBackOff()
	pauses.InitialInterval, pauses.MaxInterval = firstPause, mostPause
	return pauses
}

// remindTime is how often the log says again that the database is still out of reach.
const remindTime = time.Minute

// reminder keeps a log from saying the same of an outage at each attempt to end it.
type reminder struct {
	said string
	at   time.Time
}

// due reports whether err is to be said: it is another one than the last time, or that was long ago.
func (r *reminder) due(err error) bool {
	text := err.Error()
	if text == r.said && time.Since(r.at) < remindTime {
		return false
	}
	r.said, r.at = text, time.Now()
	return true
}

// absent reports an error of an attempt to connect to which nobody answered, so that a later one may succeed. A name that is not
// known is one too: at a boot the network may come late. What a server says of the role, the database or TLS is no such error.
func absent(err error) bool {
	if code := codeOf(err); code != "" {
		return code == cannotConnectNow
	}
	if _, ok := errors.AsType[unreachable](err); !ok || errors.Is(err, fs.ErrPermission) {
		return false
	}
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		return true
	}
	failure, ok := errors.AsType[*net.OpError](err)
	return ok && (failure.Op == "dial" || failure.Timeout()) || errors.Is(err, io.EOF) || errors.Is(err, errnoReset)
}

// Away reports an error of which the cause is that the database is out of reach. The log of a DB says when that begins, each minute
// while it lasts, and when it ends.
func Away(err error) bool {
	if errors.Is(err, ErrUnknown) || errors.Is(err, driver.ErrBadConn) || errors.Is(err, sql.ErrConnDone) {
		return true
	}
	if _, ok := errors.AsType[unreachable](err); ok {
		return true
	}
	if _, ok := errors.AsType[lostWhileOpen](err); ok {
		return true
	}
	cause, ok := errors.AsType[known](err)
	return ok && gone(cause.error)
}

// Patiently calls fn, which reads or writes, again while the database is out of reach. It returns fn's first other error, or,
// where ctx ends meanwhile, the latest.
func (db *DB) Patiently(ctx context.Context, fn func() error) error {
	pauses := newPauses()
	for {
		err := fn()
		if !gone(err) || db.isClosed() {
			return err
		}
		pause := time.NewTimer(pauses.NextBackOff())
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return err
		}
	}
}

// Outage returns the outage that goes on now; nil if the database is within reach, as far as is known.
func (db *DB) Outage() *Outage {
	db.mu.Lock()
	defer db.mu.Unlock()
	return db.outage
}

// unknownPatience is how long a write waits for the database to come back and say whether it was kept. With answerPatience it is
// the minute that the documentation states.
const unknownPatience = 15 * time.Second

// Pauses between attempts to connect again, each of which is up to a half shorter or longer.
const (
	firstPause = 100 * time.Millisecond
	mostPause  = 5 * time.Second
)

// recoverTime bounds an attempt to connect again.
const recoverTime = 15 * time.Second

// suspect looks whether the writer's connection is gone too, after a reader's was. It does nothing while the writer is in use,
// which then notices by itself.
func (db *DB) suspect(ctx context.Context) {
	select {
	case db.turn <- struct{}{}:
	default:
		return
	}
	var one int
	if db.broken.Load() == nil {
		defer db.engine.doubting()()
		if err := db.writer.one(ctx, "SELECT 1", nil, &one); err != nil && db.engine.lost(db.writer, err) {
			db.beginOutage(nil, nil, err)
			return
		}
	}
	<-db.turn
}

// beginOutage fails what waits, and has the connection made again by a goroutine, which has the turn until then. group is
// what ran when the connection was lost, with err; after what its hooks want to be called if it was kept after all.
func (db *DB) beginOutage(group []*write, after []func(), err error) {
	_, unknown := errors.AsType[unknownOutcome](err)
	outage := &Outage{Where: db.engine.where(), Since: time.Now(), Cause: db.engine.reason(err)}
	db.mu.Lock()
	db.outage = outage
	refused := db.waiting
	db.waiting = nil
	db.mu.Unlock()
	db.log.Error("the database is out of reach; writes are refused until it is back", "database", outage.Where, "error", outage.Cause)
	for _, w := range refused {
		w.err = outage.refuse()
		close(w.done)
	}
	doubtful := &doubt{}
	if unknown {
		doubtful.group, doubtful.after = group, after
	} else {
		lost := sdk.Errorf(sdk.CodeUnavailable, "the connection to %s ended; %w; see that the server runs, and try again: %w", outage.Where, ErrNotKept, unreachable{outage.Cause})
		for _, w := range group {
			if w.err == nil || gone(w.err) {
				w.err = lost
			}
			close(w.done)
		}
	}
	go db.reconnect(doubtful) // ends with the outage, or with Close, which waits for the turn
}

// reconnect makes the writer's connection again, says what became of what was in doubt, and gives the turn back.
func (db *DB) reconnect(d *doubt) {
	_ = db.writer.close() // it is gone
	db.writer = nil
	kept, err := db.tryAgain(d)
	_, changed := errors.AsType[changedError](err)
	where := db.engine.where()
	switch {
	case changed:
		db.breakDown(err)
		d.end(db, false, sdk.Errorf(sdk.CodeUnavailable, "%w: %w", ErrUnknown, err))
	case err != nil:
		d.end(db, false, sdk.Errorf(sdk.CodeUnavailable, "%w: the connection to %s ended in its commit, and then the host stopped; look when it runs again: %w", ErrUnknown, where, err))
	default:
		if len(d.group) > 0 {
			db.log.Info("it is known now what became of the commit in which the connection ended", "kept", kept)
		}
		d.end(db, kept, sdk.Errorf(sdk.CodeUnavailable, "the connection to %s ended in the commit; %w; try again", where, ErrNotKept))
	}
	db.mu.Lock()
	outage := db.outage
	db.outage = nil
	db.mu.Unlock()
	if err == nil {
		db.log.Info("the database is back", "database", where, "after", time.Since(outage.Since).Round(time.Millisecond))
	}
	<-db.turn
}

// tryAgain connects until it succeeds, there is no use in it, or the database is closed.
func (db *DB) tryAgain(d *doubt) (kept bool, err error) {
	pauses := newPauses()
	said := time.Now()
	patience := time.AfterFunc(db.patience, func() {
		if outage := db.Outage(); outage != nil {
			d.tell(sdk.Errorf(sdk.CodeUnavailable, "%w: the connection to %s ended in its commit; look when the server is back: %w", ErrUnknown, outage.Where, outage.Cause))
		}
	})
	defer patience.Stop()
	for {
		trying, cancel := context.WithTimeout(db.life, recoverTime)
		c, kept, err := db.engine.recover(trying)
		cancel()
		if err == nil {
			db.writer = c
			return kept, nil
		}
		if _, changed := errors.AsType[changedError](err); changed {
			return false, err
		}
		db.mu.Lock()
		outage := *db.outage
		outage.Cause = db.engine.reason(err)
		db.outage = &outage
		db.mu.Unlock()
		if time.Since(said) >= remindTime {
			said = time.Now()
			db.log.Warn("the database is still out of reach", "database", outage.Where, "since", outage.Since.Format(time.DateTime), "error", err)
		}
		pause := time.NewTimer(pauses.NextBackOff())
		select {
		case <-pause.C:
		case <-db.life.Done():
			pause.Stop()
			return false, err
		}
	}
}

// doubt is a group of writes whose commit may have been kept.
type doubt struct {
	group []*write
	after []func()

	mu   sync.Mutex // guards what follows, and the errors of group
	told bool       // those who wait were told
}

// tell ends the waiting of those whose writes these are, with err, which says that nobody knows, for those that had no error of
// their own. It does nothing after end.
func (d *doubt) tell(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.told {
		return
	}
	for _, w := range d.group {
		w.doubtful = w.err == nil
	}
	d.finish(err)
}

// finish tells those who wait, once. The caller holds mu.
func (d *doubt) finish(err error) {
	if d.told {
		return
	}
	d.told = true
	for _, w := range d.group {
		if w.err == nil {
			w.err = err
		}
		close(w.done)
	}
}

// end runs what follows a commit if it was kept, and tells those who wait; err is for what was not kept.
func (d *doubt) end(db *DB, kept bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if kept {
		for _, fn := range d.after {
			db.runAfter(fn)
		}
		for _, w := range d.group {
			if w.err == nil || w.doubtful {
				for _, fn := range w.tx.after {
					db.runAfter(fn)
				}
			}
		}
		err = nil
	}
	d.finish(err)
}
