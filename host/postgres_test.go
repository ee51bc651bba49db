package main_test

import (
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/starling-sync/starling/host/clustertest"
	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/database/databasetest"
)

// mixed are two devices that are in one library, alice's records in SQLite and bob's in PostgreSQL.
func mixed(t *testing.T, server *databasetest.Server) (alice, bob *clustertest.Device) {
	t.Helper()
	path := mustBuild(t)
	t.Setenv("DATABASE_URL", strings.Replace(server.DSN(), "starling@", "starling:s3cret@", 1))
	alice = clustertest.NewDevice(t, path, "alice", "--library", "home")
	bob = clustertest.NewDevice(t, path, "bob", "--join", "--store", "postgres")
	alice.Start(t)
	bob.Start(t)
	clustertest.Pair(t, alice, bob)
	return alice, bob
}

// TestPostgres_mixedCluster has a device on SQLite and one on PostgreSQL keep a folder, tags and what both write in step, with
// a part of it written while each is away.
func TestPostgres_mixedCluster(t *testing.T) {
	server := databasetest.Start(t)
	alice, bob := mixed(t, server)
	folders := map[*clustertest.Device]string{alice: t.TempDir(), bob: t.TempDir()}
	for d, folder := range folders {
		for i := range 60 {
			writeFiles(t, folder, fmt.Sprintf("%s/%02d/a file of %s, %d 🐦 .txt", d.Name, i%7, d.Name, i))
		}
		d.Run(t, "location", "add", folder)
	}
	const odd = `{"name":"work \"quoted\" \\ 𝄞 \u0001","color":"#00ff00"}`
	alice.Run(t, "put", "tag", odd)
	clustertest.WaitEqual(t, alice, bob)
	for _, d := range []*clustertest.Device{alice, bob} {
		if got := len(d.List(t, "entry")); got < 120 {
			t.Errorf("%s lists %d entries", d.Name, got)
		}
	}
	for away, here := range map[*clustertest.Device]*clustertest.Device{alice: bob, bob: alice} {
		away.Kill(t)
		writeFiles(t, folders[here], "while "+away.Name+" is away")
		here.Run(t, "put", "tag", fmt.Sprintf(`{"name":"by %s"}`, here.Name))
		away.Start(t)
		away.Run(t, "put", "tag", fmt.Sprintf(`{"name":"by %s again"}`, away.Name))
		if err := os.RemoveAll(filepath.Join(folders[away], away.Name, "03")); err != nil {
			t.Fatal(err)
		}
	}
	clustertest.Eventually(t, "what was removed is gone", func() error {
		for _, record := range alice.List(t, "entry") {
			if record["name"] == "03" {
				return errors.New("a removed folder is there")
			}
		}
		return nil
	})
	clustertest.WaitEqual(t, alice, bob)
	if tags := bob.List(t, "tag"); len(tags) != 5 {
		t.Errorf("bob has %d tags: %v", len(tags), tags)
	}
	if shown := bob.Run(t, "config", "show"); strings.Contains(shown, "s3cret") {
		t.Errorf("config show has the password:\n%s", shown)
	}
}

// TestPostgres_restarts kills the server under a host that is at work, again and again. Writes meanwhile say what is wrong; what
// was acknowledged is there; status says that the store is away, and the other device gets everything in the end.
func TestPostgres_restarts(t *testing.T) {
	server := databasetest.Start(t)
	alice, bob := mixed(t, server)
	t.Cleanup(func() { reportApart(t, server, alice, bob) })
	var mu sync.Mutex // guards what follows
	written := make(map[string]bool)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	end := sync.OnceFunc(func() { close(stop); wg.Wait() })
	t.Cleanup(end)
	for _, d := range []*clustertest.Device{alice, bob} {
		wg.Go(func() {
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				case <-tick.C:
				}
				name := fmt.Sprintf("%s %d", d.Name, i)
				_, err := d.TryRun("put", "tag", fmt.Sprintf(`{"name":%q}`, name))
				exit, _ := errors.AsType[*clustertest.ExitError](err)
				switch {
				case err == nil:
					mu.Lock()
					written[name] = true
					mu.Unlock()
				case d == alice || exit == nil || !strings.Contains(exit.Stderr, "PostgreSQL at ") || strings.Contains(exit.Stderr, "s3cret"):
					t.Errorf("%s: put: %v", d.Name, err)
					return
				}
			}
		})
	}
	for range 5 {
		clustertest.Eventually(t, "bob writes", func() error {
			_, err := bob.TryRun("put", "tag", `{"name":"between"}`)
			return err
		})
		server.Kill(t)
		clustertest.Eventually(t, "status says that the store is away", func() error {
			out, err := bob.TryRun("status")
			if err == nil && !strings.Contains(out, "out of reach") {
				err = errors.New(out)
			}
			return err
		})
		server.Restart(t)
	}
	end()
	clustertest.Eventually(t, "the store is back", func() error {
		out, err := bob.TryRun("status")
		if err == nil && strings.Contains(out, "out of reach") {
			err = errors.New(out)
		}
		return err
	})
	clustertest.WaitEqual(t, alice, bob)
	there := make(map[string]bool)
	for _, record := range alice.List(t, "tag") {
		there[fmt.Sprint(record["name"])] = true
	}
	mu.Lock()
	defer mu.Unlock()
	for name := range written {
		if !there[name] {
			t.Errorf("the tag %q was acknowledged, and is gone", name)
		}
	}
	log, err := os.ReadFile(filepath.Join(bob.Dir, "host.log"))
	if err != nil || strings.Contains(string(log), "s3cret") || !strings.Contains(string(log), "the database is back") {
		t.Errorf("bob's log: %v\n%s", err, log)
	}
	t.Logf("%d tags were acknowledged", len(written))
}

// reportApart says, where a test has failed, how far each of two devices is by its own account and by its tables.
func reportApart(t *testing.T, server *databasetest.Server, alice, bob *clustertest.Device) {
	t.Helper()
	if !t.Failed() {
		return
	}
	for _, d := range []*clustertest.Device{alice, bob} {
		for _, command := range [][]string{{"status", "--json"}, {"peers", "--json"}} {
			out, err := d.TryRun(command...)
			t.Logf("%s: starling %s: %v\n%s", d.Name, strings.Join(command, " "), err, out)
		}
	}
	lite, err := sql.Open("sqlite", filepath.Join(alice.Data(), database.FileName))
	if err != nil {
		t.Log(err)
		return
	}
	defer lite.Close()
	full, err := sql.Open("postgres", server.DSN()+"&search_path=starling")
	if err != nil {
		t.Log(err)
		return
	}
	defer full.Close()
	for d, pool := range map[*clustertest.Device]*sql.DB{alice: lite, bob: full} {
		for _, query := range []string{
			"SELECT n, id FROM _device", "SELECT origin, kind, epoch, stamp FROM _watermark", "SELECT id, origin, kind, parents, since FROM _epoch",
			"SELECT origin, kind, stamp FROM _floor", "SELECT peer, origin, kind, epoch, stamp FROM _ack",
			"SELECT id, _owner, _stamp FROM device", "SELECT id, _owner, _stamp FROM volume",
		} {
			t.Logf("%s: %s\n%s", d.Name, query, table(pool, query))
		}
	}
}

// table returns the rows of a query as text, bytes in hexadecimal.
func table(pool *sql.DB, query string) string {
	rows, err := pool.Query(query) //nolint:noctx // a test has failed already
	if err != nil {
		return err.Error()
	}
	defer rows.Close()
	columns, err := rows.Columns()
	var text strings.Builder
	for err == nil && rows.Next() {
		values := make([]any, len(columns))
		for i := range values {
			values[i] = new(any)
		}
		if err = rows.Scan(values...); err != nil {
			break
		}
		for _, value := range values {
			switch v := (*value.(*any)).(type) {
			case []byte:
				fmt.Fprintf(&text, "%x  ", v)
			default:
				fmt.Fprintf(&text, "%v  ", v)
			}
		}
		text.WriteString("\n")
	}
	if err = errors.Join(err, rows.Err()); err != nil {
		fmt.Fprintln(&text, err)
	}
	return text.String()
}

// TestPostgres_anotherDevice has devices be pointed at the schema of another one.
func TestPostgres_anotherDevice(t *testing.T) {
	server := databasetest.Start(t)
	path := mustBuild(t)
	t.Setenv("DATABASE_URL", server.DSN())
	alice := clustertest.NewDevice(t, path, "alice", "--library", "home", "--store", "postgres")
	folder := filepath.Join(t.TempDir(), "bob")
	out, err := exec.Command(path, "init", folder, "--name", "bob", "--library", "other", "--store", "postgres").CombinedOutput() //nolint:gosec // our own binary
	if err == nil || !strings.Contains(string(out), "there is a device in it already") {
		t.Errorf("init on the schema of another device: %v\n%s", err, out)
	}
	if left, err := os.ReadDir(filepath.Join(folder, "data")); err == nil {
		t.Errorf("it left %v", left)
	}
	bob := clustertest.NewDevice(t, path, "bob", "--library", "other")
	config, err := os.ReadFile(alice.Config())
	if err == nil {
		config = []byte(strings.ReplaceAll(string(config), strings.TrimSpace(alice.Listen), bob.Listen))
		err = os.WriteFile(bob.Config(), config, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bob.TryRun("run"); err == nil || !strings.Contains(err.Error(), "this is the database of the device") {
		t.Errorf("run on the schema of another device: %v", err)
	}
	alice.Start(t)
}

// TestPostgres_serverAfterHost starts a host before its server, as a boot may: it waits, can be stopped meanwhile, and then works.
func TestPostgres_serverAfterHost(t *testing.T) {
	server := databasetest.Start(t)
	path := mustBuild(t)
	t.Setenv("DATABASE_URL", server.DSN())
	alice := clustertest.NewDevice(t, path, "alice", "--library", "home", "--store", "postgres")
	server.Kill(t)
	waits := func() error {
		log, err := os.ReadFile(filepath.Join(alice.Dir, "host.log"))
		if err == nil && !strings.Contains(string(log), "the database does not answer yet") {
			err = fmt.Errorf("the log says %s", log)
		}
		return err
	}
	stopped := exec.Command(path, "run", "--config", alice.Config()) //nolint:gosec // our own binary
	log, err := os.Create(filepath.Join(alice.Dir, "host.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	stopped.Stdout, stopped.Stderr = log, log
	if err := stopped.Start(); err != nil {
		t.Fatal(err)
	}
	clustertest.Eventually(t, "it says what it waits for", waits)
	if err := stopped.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := stopped.Wait(); err != nil {
		t.Errorf("a host that is stopped while it waits: %v", err)
	}
	if err := log.Truncate(0); err != nil {
		t.Fatal(err)
	}
	restarted := make(chan struct{})
	go func() {
		defer close(restarted)
		clustertest.Eventually(t, "it says what it waits for", waits)
		server.Restart(t)
	}()
	alice.Start(t)
	<-restarted
	alice.Run(t, "put", "tag", `{"name":"work"}`)
}
