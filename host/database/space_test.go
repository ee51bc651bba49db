package database_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/database/databasetest"
	"github.com/starling-sync/starling/sdk"
)

// TestDB_Full has SQLite run out of pages, and get some again while nobody writes.
func TestDB_Full(t *testing.T) {
	databasetest.SQLiteOnly(t, "it runs out of pages")
	db := open(t, t.TempDir())
	limit := func(pages int) {
		t.Helper()
		err := db.Write(t.Context(), func(tx *database.Tx) error { return tx.Run(fmt.Sprintf("PRAGMA max_page_count = %d", pages)) })
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Full(); err != nil {
		t.Fatalf("before: %v", err)
	}
	limit(1) // SQLite keeps at least the pages that there are
	big := func(tx *database.Tx) error {
		_, err := tx.Exec("INSERT INTO _meta (key, value) VALUES ('big', zeroblob(1000000))")
		return err
	}
	if err := db.Write(t.Context(), big); sdk.CodeOf(err) != sdk.CodeUnavailable {
		t.Fatalf("a write: %v", err)
	}
	err := db.Full()
	if err == nil || !strings.Contains(err.Error(), database.FileName) || !strings.Contains(err.Error(), "the disk is full") || strings.Count(err.Error(), "free some space") != 1 {
		t.Errorf("it says %v", err)
	}
	_ = db.Write(t.Context(), big)
	if again := db.Full(); again == nil || again.Error() != err.Error() {
		t.Errorf("after another: %v; want since the first", again)
	}
	limit(1 << 20)
	eventually(t, "it has seen that there is space", func() bool { return db.Full() == nil })
	if err := db.Write(t.Context(), big); err != nil || db.Full() != nil {
		t.Errorf("afterwards: %v, %v", err, db.Full())
	}
	err = db.Read(t.Context(), func(tx *database.Tx) error {
		var n int
		if _, err := tx.One("SELECT count(*) FROM _meta WHERE key = 'space'", nil, &n); err != nil || n != 0 {
			t.Errorf("left behind: %d, %v", n, err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// TestDB_Full_closed closes a database while it waits for space.
func TestDB_Full_closed(t *testing.T) {
	databasetest.SQLiteOnly(t, "it runs out of pages")
	db, err := database.Open(t.Context(), database.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	_ = db.Write(t.Context(), func(tx *database.Tx) error { return tx.Run("PRAGMA max_page_count = 1") })
	_ = db.Write(t.Context(), func(tx *database.Tx) error {
		_, err := tx.Exec("INSERT INTO _meta (key, value) VALUES ('big', zeroblob(1000000))")
		return err
	})
	if db.Full() == nil {
		t.Error("it does not know that it is full")
	}
	if err := db.Close(); err != nil {
		t.Error(err)
	}
}
