package database

import (
	"context"
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
