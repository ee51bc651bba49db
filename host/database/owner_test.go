package database_test

import (
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
