package database

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/hashicorp/go-hclog"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/sqlitedialect"

	"github.com/starling-sync/starling/sdk"
)

// OpenMemory opens a database in memory with the content of image, which Image returned; with a nil image, a new one.
// It is for simulations and tests: nothing is durable, and one connection reads and writes, so that its methods must not
// be called at once. log may be nil.
func OpenMemory(ctx context.Context, image []byte, log hclog.Logger) (*DB, error) {
	memory := &sqliteFile{}
	db := newDB("", memory, 1, log)
	db.single = true
	if err := db.openMemory(ctx, memory, image); err != nil {
		return nil, errors.Join(fmt.Errorf("open in memory: %w", err), db.release())
	}
	return db, nil
}

func (db *DB) openMemory(ctx context.Context, memory *sqliteFile, image []byte) error {
	pool, err := sql.Open("sqlite", ":memory:")
	if err != nil {
		return err
	}
	pool.SetMaxOpenConns(1) // a second one would be another, empty database
	memory.bun = bun.NewDB(pool, sqlitedialect.New())
	if image == nil {
		if err := db.migrate(ctx); err != nil {
			return err
		}
	}
	if db.writer, err = newConnection(ctx, memory.bun, memory, []string{"PRAGMA foreign_keys = 1", "PRAGMA temp_store = MEMORY"}); err != nil {
		return err
	}
	db.readers = make(chan *connection, 1)
	db.readers <- db.writer
	if image == nil {
		return nil
	}
	return db.writer.raw(func(c serializer) error { return c.Deserialize(image) })
}

// Image returns the bytes of a database in memory as of its last commit.
func (db *DB) Image() (image []byte, err error) {
	if db.dir != "" {
		return nil, sdk.Errorf(sdk.CodeUnsupported, "the database %s is not in memory; copy it with its own tools", db.engine.where())
	}
	err = db.writer.raw(func(c serializer) error {
		image, err = c.Serialize()
		return err
	})
	return image, err
}

// serializer is what the driver's connections do beyond database/sql.
type serializer interface {
	Serialize() ([]byte, error)
	Deserialize([]byte) error
}

func (c *connection) raw(fn func(serializer) error) error {
	return c.Conn.Conn.Raw(func(driver any) error {
		s, ok := driver.(serializer)
		if !ok {
			return sdk.Errorf(sdk.CodeUnsupported, "the driver's connection, a %T, can not be copied", driver)
		}
		return fn(s)
	})
}
