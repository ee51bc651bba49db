package database_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/database/databasetest"
	"github.com/starling-sync/starling/sdk"
)

// TestOpen_anothersDatabase opens one database as several devices.
func TestOpen_anothersDatabase(t *testing.T) {
	one, other := sdk.DeviceID{1}, sdk.DeviceID{2}
	options := databasetest.Options(t, database.Options{Dir: t.TempDir()})
	tries := []struct {
		name   string
		device sdk.DeviceID
		fresh  bool
		want   string // of the error; empty: it opens
	}{
		{"before anybody says whose it is", sdk.DeviceID{}, true, ""},
		{"made by one", one, true, ""},
		{"opened again", one, false, ""},
		{"opened by another", other, false, one.String()},
		{"made by another", other, true, one.String()},
		{"made again", one, true, "there is a device in it already ("},
		{"opened by nobody in particular", sdk.DeviceID{}, false, ""},
		{"opened by its own after all", one, false, ""},
	}
	for _, tc := range tries {
		options.Device, options.New = tc.device, tc.fresh
		db, err := database.Open(t.Context(), options)
		if err == nil {
			err = db.Close()
		}
		switch {
		case tc.want == "" && err != nil:
			t.Errorf("%s: %v", tc.name, err)
		case tc.want != "" && (sdk.CodeOf(err) != sdk.CodeInvalid || !strings.Contains(err.Error(), tc.want)):
			t.Errorf("%s: got %v, want %q", tc.name, err, tc.want)
		}
	}
}

// TestOpen_refusesBeforeMigrating wants it said whose a database is before anything else of it is looked at or changed.
func TestOpen_refusesBeforeMigrating(t *testing.T) {
	options := databasetest.Options(t, database.Options{Dir: t.TempDir(), Device: sdk.DeviceID{1}})
	db, err := database.Open(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Write(t.Context(), func(tx *database.Tx) error {
		_, err := tx.Exec("UPDATE _migration SET name = '9999' WHERE name = (SELECT max(name) FROM _migration)")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	for device, want := range map[sdk.DeviceID]string{{1}: "newer version", {2}: "database of the device"} {
		options.Device = device
		if db, err := database.Open(t.Context(), options); err == nil {
			t.Errorf("%s opened it", device)
			_ = db.Close()
		} else if !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", device, err, want)
		}
	}
}

// TestOpen_stranger opens databases that know nothing of a device as one that has had another: each is refused and left as it is.
// Its own, and one of before there was a note of whose it is, open.
func TestOpen_stranger(t *testing.T) {
	missed := sdk.Errorf(sdk.CodeInvalid, "seeded: this device had another")
	open := func(options database.Options, stranger error) (*database.DB, error) {
		options.Stranger = stranger
		return database.Open(t.Context(), options)
	}
	refused := func(what string, options database.Options) {
		t.Helper()
		db, err := open(options, missed)
		if err == nil {
			_ = db.Close()
		}
		if !errors.Is(err, missed) || !strings.Contains(err.Error(), "seeded") {
			t.Errorf("%s: %v", what, err)
		}
	}
	options := databasetest.Options(t, database.Options{Dir: t.TempDir(), Device: sdk.DeviceID{1}})
	refused("nothing is there", options)
	if _, err := os.Stat(filepath.Join(options.Dir, database.FileName)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file was made: %v", err)
	}
	anybodys := options
	anybodys.Device = sdk.DeviceID{}
	db, err := open(anybodys, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	refused("an empty one", options)
	refused("an empty one again, in which it left nothing", options)
	if db, err = open(options, nil); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if db, err = open(options, missed); err != nil {
		t.Fatalf("its own: %v", err)
	}
	err = db.Write(t.Context(), func(tx *database.Tx) error {
		_, err := tx.Exec("UPDATE _meta SET key = 'of a version that did not say whose it is'")
		return err
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	if db, err = open(options, missed); err != nil {
		t.Fatalf("one of before: %v", err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}
