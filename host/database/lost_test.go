package database

import (
	"context"
	"errors"
	"testing"
)

// brokenAfter is an engine whose connection is broken as soon as it has committed.
type brokenAfter struct {
	engine
	committed bool
}

func (b *brokenAfter) commit(ctx context.Context, writer *connection) error {
	b.committed = true
	return b.engine.commit(ctx, writer)
}

func (b *brokenAfter) lost(*connection, error) bool { return b.committed }

// TestDB_Write_brokenAfterCommit wants a write that was committed to be told so, whatever then became of the connection.
func TestDB_Write_brokenAfterCommit(t *testing.T) {
	db, err := OpenMemory(t.Context(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.engine = &brokenAfter{engine: db.engine}
	after := false
	err = db.Write(t.Context(), func(tx *Tx) error {
		tx.AfterCommit(func() { after = true })
		_, err := tx.Exec("INSERT INTO _meta (key, value) VALUES ('k', x'00')")
		return err
	})
	if err != nil || !after {
		t.Errorf("told %v, and what follows it was done: %v", err, after)
	}
}

// failingDisk is an engine whose disk fails when it is to make a commit durable, which it has taken.
type failingDisk struct{ engine }

var errDisk = errors.New("the disk failed")

func (f failingDisk) commit(ctx context.Context, writer *connection) error {
	return errors.Join(errDisk, f.engine.commit(ctx, writer))
}

func (f failingDisk) fatal(err error) bool { return errors.Is(err, errDisk) }

// TestDB_Write_diskFailsInCommit wants nobody told that a write was not kept which the next start may find, and no later one begun.
func TestDB_Write_diskFailsInCommit(t *testing.T) {
	db, err := OpenMemory(t.Context(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.engine = failingDisk{db.engine}
	insert := func() error {
		return db.Write(t.Context(), func(tx *Tx) error {
			_, err := tx.Exec("INSERT INTO _meta (key, value) VALUES ('k', x'00')")
			return err
		})
	}
	if err := insert(); !errors.Is(err, ErrUnknown) || !errors.Is(err, errDisk) {
		t.Errorf("told %v", err)
	}
	if err := insert(); err == nil || errors.Is(err, ErrUnknown) {
		t.Errorf("the next one was told %v", err)
	}
}
