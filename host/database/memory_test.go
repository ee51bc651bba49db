package database_test

import (
	"context"
	"errors"
	"testing"

	"github.com/starling-sync/starling/host/database"
)

func TestOpenMemory(t *testing.T) {
	ctx := context.Background()
	db, err := database.OpenMemory(ctx, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	insert := func(db *database.DB, n int, after error) error {
		return db.Write(ctx, func(tx *database.Tx) error {
			if _, err := tx.Exec("INSERT INTO _device (id) VALUES (?)", []byte{byte(n)}); err != nil {
				return err
			}
			return after
		})
	}
	refused := errors.New("refused")
	if err := errors.Join(insert(db, 1, nil), insert(db, 2, nil)); err != nil {
		t.Fatal(err)
	}
	if err := insert(db, 3, refused); !errors.Is(err, refused) {
		t.Fatal(err)
	}
	image, err := db.Image()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(insert(db, 4, nil), db.Close()); err != nil {
		t.Fatal(err)
	}
	again, err := database.OpenMemory(ctx, image, nil)
	if err != nil {
		t.Fatal(err)
	}
	var n int
	err = again.Read(ctx, func(tx *database.Tx) error {
		_, err := tx.One("SELECT count(*) FROM _device", nil, &n)
		return err
	})
	if err := errors.Join(err, insert(again, 5, nil), again.Close()); err != nil || n != 2 {
		t.Errorf("%d rows in the copy, %v; want 2", n, err)
	}
}

func BenchmarkOpenMemory(b *testing.B) {
	ctx := context.Background()
	db, err := database.OpenMemory(ctx, nil, nil)
	if err != nil {
		b.Fatal(err)
	}
	image, err := db.Image()
	if err := errors.Join(err, db.Close()); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(image)))
	for b.Loop() {
		db, err := database.OpenMemory(ctx, image, nil)
		if err != nil {
			b.Fatal(err)
		}
		if err := db.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
