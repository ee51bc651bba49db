package main_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/starling-sync/starling/host/clustertest"
	"github.com/starling-sync/starling/host/database/databasetest"
	"github.com/starling-sync/starling/host/membership"
)

// refusedStart starts a host that is to end at once, and wants why to be said.
func refusedStart(t *testing.T, d *clustertest.Device, want ...string) {
	t.Helper()
	_, err := d.TryRun("run")
	exit, ok := errors.AsType[*clustertest.ExitError](err)
	if !ok {
		t.Fatalf("%s: run ended with %v; it was to be refused", d.Name, err)
	}
	for _, each := range want {
		if !strings.Contains(exit.Stderr, each) {
			t.Errorf("%s: %q is not in\n%s", d.Name, each, exit.Stderr)
		}
	}
	if strings.Contains(exit.Stderr, "s3cret") {
		t.Errorf("%s: the password is in\n%s", d.Name, exit.Stderr)
	}
}

// TestStranger_Postgres starts a device of a library on an empty database by mistake. It does not start there, and leaves nothing;
// with the right dsn it goes on.
func TestStranger_Postgres(t *testing.T) {
	server := databasetest.Start(t)
	alice, bob := mixed(t, server)
	bob.Run(t, "put", "tag", `{"name":"first"}`)
	clustertest.WaitEqual(t, alice, bob)
	bob.Stop(t)
	if err := server.Exec(t, "CREATE DATABASE other"); err != nil {
		t.Fatal(err)
	}
	right := os.Getenv("DATABASE_URL")
	other := strings.Replace(right, "/postgres?", "/other?", 1)
	if other == right {
		t.Fatalf("%s names no database", right)
	}
	t.Setenv("DATABASE_URL", other)
	for range 2 { // the first leaves nothing that the second takes for its own
		refusedStart(t, bob, "database other", "this device belongs to the library \"home\"", "database postgres", "orrect the dsn", membership.MarkFile)
	}
	t.Setenv("DATABASE_URL", right)
	if err := os.Remove(filepath.Join(bob.Data(), membership.MarkFile)); err != nil { // as an older version left it
		t.Fatal(err)
	}
	bob.Start(t)
	clustertest.WaitEqual(t, alice, bob)
	bob.Kill(t)
	t.Setenv("DATABASE_URL", other)
	refusedStart(t, bob, "this device belongs to the library \"home\"")
	t.Setenv("DATABASE_URL", right)
	bob.Start(t)
}

// TestStranger_SQLite takes the database of a joined device, and that of the one that founded the library, away: neither starts as a
// new one, until that is wanted; then they are members again, with all that the other has.
func TestStranger_SQLite(t *testing.T) {
	path := mustBuild(t)
	alice := clustertest.NewDevice(t, path, "alice", "--library", "home")
	bob := clustertest.NewDevice(t, path, "bob", "--join")
	before := copyOf(t, bob) // which belonged to no library
	alice.Start(t)
	bob.Start(t)
	clustertest.Pair(t, alice, bob)
	bob.Run(t, "put", "tag", `{"name":"first"}`)
	clustertest.WaitEqual(t, alice, bob)
	bob.Stop(t)
	joined := copyOf(t, bob)
	removeDatabase(t, bob)
	for range 2 {
		refusedStart(t, bob, "starling.db", "this device belongs to the library \"home\"", "ring the file back from a backup", membership.MarkFile)
	}
	if _, err := os.Stat(filepath.Join(bob.Data(), "starling.db")); err == nil {
		t.Error("a database was made")
	}
	bringBack(t, bob, joined)
	bob.Start(t)
	bob.Run(t, "put", "tag", `{"name":"second"}`)
	clustertest.WaitEqual(t, alice, bob)
	bob.Stop(t)
	bringBack(t, bob, before)
	bob.Start(t)
	clustertest.Pair(t, alice, bob)
	clustertest.WaitEqual(t, alice, bob)
	alice.Stop(t)
	removeDatabase(t, alice)
	refusedStart(t, alice, "library { join = true }")
	if err := os.Remove(filepath.Join(alice.Data(), membership.MarkFile)); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(alice.Config())
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(string(text), `library "home" {}`, "library {\n  join = true\n}", 1)
	if changed == string(text) {
		t.Fatalf("no library block in %s", text)
	}
	if err := os.WriteFile(alice.Config(), []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
	alice.Start(t)
	clustertest.Pair(t, bob, alice)
	clustertest.WaitEqual(t, alice, bob)
	if got := len(alice.List(t, "tag")); got != 2 {
		t.Errorf("alice has %d tags", got)
	}
}

// copyOf copies a device's database, with what is in its write-ahead log.
func copyOf(t *testing.T, d *clustertest.Device) (folder string) {
	t.Helper()
	folder = t.TempDir()
	for _, name := range []string{"starling.db", "starling.db-wal"} {
		content, err := os.ReadFile(filepath.Join(d.Data(), name))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(folder, name), content, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return folder
}

func removeDatabase(t *testing.T, d *clustertest.Device) {
	t.Helper()
	for _, suffix := range []string{"", "-wal", "-shm"} {
		if err := os.Remove(filepath.Join(d.Data(), "starling.db"+suffix)); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
}

func bringBack(t *testing.T, d *clustertest.Device, folder string) {
	t.Helper()
	removeDatabase(t, d)
	if err := os.CopyFS(d.Data(), os.DirFS(folder)); err != nil {
		t.Fatal(err)
	}
}
