package database

import (
	"context"
	"crypto/rand"
	"time"

	"github.com/starling-sync/starling/sdk"
)

// spaceTime is how often it is tried whether there is space again, and spaceBytes what is written for that: more than a small write
// takes, so that those do not go on by turns with others that fail.
const (
	spaceTime  = 2 * time.Second
	spaceBytes = 64 << 10
)

// shortage is a time in which writes fail for want of space.
type shortage struct {
	since time.Time
	err   error
}

// Full returns why writes fail for want of space, which is tried again every other second; nil where none has failed for that since
// there was some.
func (db *DB) Full() error {
	if s := db.full.Load(); s != nil {
		return s.err
	}
	return nil
}

// noteFull takes in that a write failed for want of space, and has it tried until there is some, by a goroutine that ends then, or
// with Close.
func (db *DB) noteFull(err error) {
	now := time.Now()
	cause := err
	if !explained(cause) {
		cause = db.engine.reason(cause)
	}
	s := &shortage{since: now, err: sdk.Errorf(sdk.CodeUnavailable, "writes to %s have failed for want of space since %s: %w", db.engine.where(), now.Format(time.DateTime), cause)}
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.closed || !db.full.CompareAndSwap(nil, s) {
		return
	}
	db.log.Error("writes fail for want of space, until there is some", "database", db.engine.where(), "error", cause)
	db.probing.Go(func() { db.awaitSpace(s) })
}

func (db *DB) awaitSpace(s *shortage) {
	tick := time.NewTicker(spaceTime)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-db.life.Done():
			return
		}
		if db.Broken() != nil {
			return // which says more
		}
		if db.tryRoom(db.life) == nil {
			break
		}
	}
	db.full.Store(nil)
	db.log.Info("there is space for writes again", "database", db.engine.where(), "after", time.Since(s.since).Round(time.Second))
}

// spaceKey is the row of _meta that is written to see whether there is space, and removed again.
const spaceKey = "space"

// tryRoom writes something and removes it. Where the host is killed in between, the next time removes it.
func (db *DB) tryRoom(ctx context.Context) error {
	filler := make([]byte, spaceBytes)
	_, _ = rand.Read(filler) // never fails; zeros would be stored as next to nothing
	err := db.Write(ctx, func(tx *Tx) error {
		_, err := tx.Exec("INSERT INTO _meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value", spaceKey, filler)
		return err
	})
	if err != nil {
		return err
	}
	return db.Write(ctx, func(tx *Tx) error {
		_, err := tx.Exec("DELETE FROM _meta WHERE key = ?", spaceKey)
		return err
	})
}
