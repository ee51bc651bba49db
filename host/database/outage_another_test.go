package database_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/database/databasetest"
	"github.com/starling-sync/starling/sdk"
)

// TestOutage_otherServer has a server without this device's data answer for a while: nothing may be written there.
func TestOutage_otherServer(t *testing.T) {
	server, empty := databasetest.Shared(t), databasetest.Start(t)
	r, at := newRelay(t, server)
	db := openAt(t, at, nil)
	l := newLedger(t, db)
	r.cutOff(empty)
	if err := l.write(db); sdk.CodeOf(err) != sdk.CodeUnavailable {
		t.Errorf("a write in an outage: %v", err)
	}
	eventually(t, "it is said what is wrong", func() bool {
		outage := db.Outage()
		return outage != nil && strings.Contains(outage.Cause.Error(), "does not have this device's data")
	})
	if err := empty.Exec(t, "CREATE SCHEMA "+at.Schema); err != nil {
		t.Errorf("it was written to the other server: %v", err)
	}
	r.cutOff(server)
	eventually(t, "the outage ends", func() bool { return db.Outage() == nil })
	if err := l.write(db); err != nil {
		t.Error(err)
	}
	l.check(t, db)
}

// TestOutage_another has another host use the database while this one is cut off from it.
func TestOutage_another(t *testing.T) {
	server := databasetest.Shared(t)
	r, at := newRelay(t, server)
	db := openAt(t, at, nil)
	l := newLedger(t, db)
	other := *at
	other.DSN = server.DSN()
	_, err := database.Open(t.Context(), database.Options{Dir: t.TempDir(), Postgres: &other})
	if sdk.CodeOf(err) != sdk.CodeUnavailable || !strings.Contains(err.Error(), "another host") {
		t.Fatalf("a second host: %v", err)
	}
	t.Log(err)
	_ = r.listener.Close() // nobody gets through
	r.mu.Lock()
	for _, c := range r.ending {
		_ = c.Close()
	}
	r.mu.Unlock()
	if err := l.write(db); sdk.CodeOf(err) != sdk.CodeUnavailable {
		t.Fatalf("a write in an outage: %v", err)
	}
	second, err := database.Open(t.Context(), database.Options{Dir: t.TempDir(), Postgres: &other})
	if err != nil {
		t.Fatal(err)
	}
	r.serveAt(filepath.Join(r.folder, ".s.PGSQL.5432"))
	eventually(t, "it is said who has the database", func() bool {
		outage := db.Outage()
		return outage != nil && strings.Contains(outage.Cause.Error(), "another host")
	})
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the outage ends", func() bool { return db.Outage() == nil })
	err = l.write(db)
	if err == nil || !strings.Contains(err.Error(), "another host has used this database meanwhile") {
		t.Errorf("a write after another host: %v", err)
	}
	l.check(t, db)
}
