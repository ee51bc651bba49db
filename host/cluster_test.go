package main_test

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/starling-sync/starling/host/clustertest"
)

// binary builds once for all tests of this package.
var binary = sync.OnceValues(func() (string, error) {
	return clustertest.Binaries(filepath.Join(buildDir, "bin"))
})

var buildDir string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "starling-build")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		buildDir = dir
		flag.Parse()
		given := false
		flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
		if !given { // these tests wait for processes more than they compute
			err = flag.Set("test.parallel", strconv.Itoa(max(4, runtime.GOMAXPROCS(0))))
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}())
}

func pair(t *testing.T) (alice, bob *clustertest.Device) {
	t.Helper()
	path := mustBuild(t)
	alice = clustertest.NewDevice(t, path, "alice", "--library", "home")
	bob = clustertest.NewDevice(t, path, "bob", "--join")
	alice.Start(t)
	bob.Start(t)
	clustertest.Pair(t, alice, bob)
	return alice, bob
}

// fails runs a command that must fail, and returns what it printed.
func fails(t *testing.T, d *clustertest.Device, args ...string) string {
	t.Helper()
	out, err := d.TryRun(args...)
	if err == nil {
		t.Fatalf("%v did not fail: %s", args, out)
	}
	return out + err.Error()
}

func mustBuild(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("builds and runs real processes: left out by -short")
	}
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func writeFiles(t *testing.T, root string, names ...string) {
	t.Helper()
	for _, name := range names {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestCluster_CatalogueAndTags(t *testing.T) {
	t.Parallel()
	alice, bob := pair(t)
	folder := t.TempDir()
	writeFiles(t, folder, "a.txt", "b/c.txt", "b/d/e.txt")
	alice.Run(t, "location", "add", folder, "--name", "papers")
	clustertest.Eventually(t, "entries at bob", func() error {
		if n := len(bob.List(t, "entry")); n < 5 {
			return fmt.Errorf("%d entries", n)
		}
		return nil
	})
	tag := bob.Run(t, "put", "tag", `{"name":"work","color":"red"}`)
	clustertest.WaitEqual(t, alice, bob)
	var entry string
	for id, e := range alice.List(t, "entry") {
		if e["name"] == "c.txt" || e["name"] == "c" {
			entry = id
		}
	}
	tie := `{"tag_id":"` + tag + `","target":"` + entry + `"}`
	first, second := alice.Run(t, "put", "tagging", tie), bob.Run(t, "put", "tagging", tie)
	if first != second {
		t.Errorf("the same tie made twice has two ids: %s and %s", first, second)
	}
	clustertest.WaitEqual(t, alice, bob)

	if err := os.RemoveAll(filepath.Join(folder, "b")); err != nil {
		t.Fatal(err)
	}
	writeFiles(t, folder, "new.txt")
	clustertest.Eventually(t, "the deletes and the new file at bob", func() error {
		names := map[string]bool{}
		for _, e := range bob.List(t, "entry") {
			names[fmt.Sprint(e["name"])] = true
		}
		if names["b"] || names["e.txt"] || names["e"] || (!names["new.txt"] && !names["new"]) {
			return fmt.Errorf("entries %v", names)
		}
		return nil
	})
	if n := len(bob.List(t, "tagging")); n != 0 {
		t.Errorf("%d taggings are visible though their target is gone", n)
	}
	alice.Run(t, "delete", "tag", tag)
	clustertest.WaitEqual(t, alice, bob)
	if n := len(bob.List(t, "tag")); n != 0 {
		t.Errorf("%d tags at bob after the delete at alice", n)
	}
}

func TestCluster_AwayDeviceCatchesUp(t *testing.T) {
	t.Parallel()
	alice, bob := pair(t)
	gone := alice.Run(t, "put", "tag", `{"name":"gone"}`)
	clustertest.WaitEqual(t, alice, bob)
	bob.Stop(t)
	for i := range 50 {
		alice.Run(t, "put", "tag", fmt.Sprintf(`{"name":"tag %d"}`, i))
	}
	alice.Run(t, "delete", "tag", gone)
	bob.Start(t)
	clustertest.WaitEqual(t, alice, bob)
	if tags := bob.List(t, "tag"); len(tags) != 50 {
		t.Errorf("bob has %d tags; want 50", len(tags))
	}
}

func TestCluster_ConcurrentEdits(t *testing.T) {
	t.Parallel()
	alice, bob := pair(t)
	id := alice.Run(t, "put", "tag", `{"name":"work","color":"red"}`)
	clustertest.WaitEqual(t, alice, bob)

	bob.Stop(t)
	alice.Run(t, "put", "tag", `{"name":"job"}`, "--id", id)
	alice.Stop(t)
	bob.Start(t)
	bob.Run(t, "put", "tag", `{"color":"blue"}`, "--id", id)
	bob.Run(t, "put", "tag", `{"name":"labour"}`, "--id", id)
	alice.Start(t)
	clustertest.WaitEqual(t, alice, bob)
	for _, d := range []*clustertest.Device{alice, bob} {
		tag := d.List(t, "tag")[id]
		if tag["name"] != "labour" || tag["color"] != "blue" {
			t.Errorf("%s has %v; want labour (the later), blue", d.Name, tag)
		}
		if conflicts := d.Run(t, "conflicts", "tag", id, "--json"); !strings.Contains(conflicts, `"job"`) {
			t.Errorf("%s does not keep the value that lost: %s", d.Name, conflicts)
		}
	}
}

// TestCluster_KillNine kills either host again and again while both write. What a put acknowledged must be on both
// devices at the end, and no plugin may outlive its host.
func TestCluster_KillNine(t *testing.T) {
	t.Parallel()
	alice, bob := pair(t)
	folder := t.TempDir()
	alice.Run(t, "location", "add", folder)
	const seed = 1
	random := rand.New(rand.NewPCG(seed, seed)) //nolint:gosec // a replayable schedule
	var mu sync.Mutex
	acknowledged := map[string]string{} // id -> name
	stop := make(chan struct{})
	var writers sync.WaitGroup
	for _, d := range []*clustertest.Device{alice, bob} {
		writers.Go(func() {
			next := time.NewTicker(50 * time.Millisecond)
			defer next.Stop()
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				case <-next.C:
				}
				name := fmt.Sprintf("%s-%d", d.Name, i)
				if id, err := d.TryRun("put", "tag", `{"name":"`+name+`"}`); err == nil {
					mu.Lock()
					acknowledged[id] = name
					mu.Unlock()
				}
			}
		})
	}
	for i := range 12 {
		writeFiles(t, folder, fmt.Sprintf("dir%d/file.txt", i))
		victim := []*clustertest.Device{alice, bob}[random.IntN(2)]
		<-time.After(time.Duration(random.IntN(400)) * time.Millisecond) // a random moment, not a wait for something
		children := plugins(t, victim)
		victim.Kill(t)
		noneLeft(t, children)
		victim.Start(t)
	}
	close(stop)
	writers.Wait()
	clustertest.WaitEqual(t, alice, bob)
	t.Logf("seed %d: 12 kills, %d acknowledged writes", seed, len(acknowledged))
	for _, d := range []*clustertest.Device{alice, bob} {
		tags := d.List(t, "tag")
		for id, name := range acknowledged {
			if tags[id]["name"] != name {
				t.Errorf("%s lost acknowledged tag %s %q", d.Name, id, name)
			}
		}
		if n := len(d.List(t, "entry")); n < 24 {
			t.Errorf("%s has %d entries; want 24 or more", d.Name, n)
		}
	}
	if len(acknowledged) < 20 {
		t.Errorf("only %d writes were acknowledged: this run showed too little", len(acknowledged))
	}
}

// plugins returns the process ids of d's plugins.
func plugins(t *testing.T, d *clustertest.Device) []int {
	t.Helper()
	var pids []int
	for line := range strings.Lines(d.Run(t, "plugin", "list", "--json")) {
		var p struct {
			PID int `json:"pid"`
		}
		if err := json.Unmarshal([]byte(line), &p); err != nil {
			t.Fatalf("plugin list --json: %v in %q", err, line)
		}
		if p.PID > 0 {
			pids = append(pids, p.PID)
		}
	}
	if len(pids) < 4 {
		t.Fatalf("%s runs %d plugins; want 4", d.Name, len(pids))
	}
	return pids
}

func noneLeft(t *testing.T, pids []int) {
	t.Helper()
	if runtime.GOOS == "windows" {
		return
	}
	clustertest.Eventually(t, "plugins end with their host", func() error {
		for _, pid := range pids {
			if state, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil && !strings.Contains(string(state), ") Z ") {
				return fmt.Errorf("process %d still runs", pid)
			}
		}
		return nil
	})
}

// TestCluster_BadInput gives each wrong input and looks for a clear answer; afterwards nothing has changed.
func TestCluster_BadInput(t *testing.T) {
	t.Parallel()
	alice, bob := pair(t)
	folder := t.TempDir()
	writeFiles(t, folder, "a.txt")
	location := alice.Run(t, "location", "add", folder)
	id := alice.Run(t, "put", "tag", `{"name":"work"}`)
	clustertest.Eventually(t, "an entry at bob", func() error {
		if len(bob.List(t, "entry")) < 2 {
			return errors.New("none yet")
		}
		return nil
	})
	before := clustertest.WaitEqual(t, alice, bob)
	var entry string
	for id := range bob.List(t, "entry") {
		entry = id
	}
	for _, tc := range []struct {
		name   string
		args   []string
		status int
		want   string
	}{
		{"unknown model", []string{"put", "tga", `{"name":"x"}`}, 1, "tga"},
		{"unknown field", []string{"put", "tag", `{"nam":"x"}`}, 1, "name"},
		{"wrong type", []string{"put", "tag", `{"name":7}`}, 1, "name"},
		{"not JSON", []string{"put", "tag", `{name}`}, 1, "JSON"},
		{"NUL", []string{"put", "tag", `{"name":"a\u0000b"}`}, 1, "NUL"},
		{"blank name", []string{"put", "tag", `{"name":" "}`}, 1, "name"},
		{"id that is no UUID", []string{"get", "tag", "17"}, 1, "UUID"},
		{"no such record", []string{"get", "tag", "0192f3c0-6f3e-7cc1-a36b-5d0d5b6f3a01"}, 1, "0192f3c0-6f3e-7cc1-a36b-5d0d5b6f3a01"},
		{"another device's record", []string{"put", "location", `{"name":"x"}`, "--id", location}, 1, "alice"},
		{"another device's entry", []string{"put", "entry", `{"name":"x"}`, "--id", entry}, 1, "alice"},
		{"what only a source writes", []string{"put", "volume", `{"mount_point":"/x"}`}, 1, "volume plugin"},
		{"delete what only a source writes", []string{"delete", "device", entry}, 1, "they can not be deleted"},
		{"path that is not there", []string{"location", "add", filepath.Join(folder, "none")}, 1, "none"},
		{"unknown command", []string{"puut"}, 2, "puut"},
		{"missing argument", []string{"put", "tag"}, 2, ""},
		{"wrong invitation", []string{"join", "starling1-AAAA"}, 1, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := bob.TryRun(tc.args...)
			exit, ok := errors.AsType[*clustertest.ExitError](err)
			if !ok {
				t.Fatalf("it did not fail: %v", err)
			}
			if exit.Status != tc.status || !strings.Contains(exit.Stderr, tc.want) || exit.Stderr == "" {
				t.Errorf("status %d, %q; want status %d and a message with %q", exit.Status, exit.Stderr, tc.status, tc.want)
			}
		})
	}
	t.Run("a record over 1 MiB", func(t *testing.T) {
		cmd := exec.Command(bob.Binary, "--config", bob.Config(), "put", "tag", "-")
		cmd.Stdin = strings.NewReader(`{"name":"big","description":"` + strings.Repeat("x", 1<<20) + `"}`)
		if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "1048576") {
			t.Errorf("%v: %s", err, out)
		}
	})
	if after := clustertest.WaitEqual(t, alice, bob); clustertest.Written(after) != clustertest.Written(before) {
		t.Errorf("refused input changed something:\n%s\n%s", before, after)
	}
	_ = id
}

func TestCluster_InvitationIsUsedOnce(t *testing.T) {
	t.Parallel()
	alice, bob := pair(t)
	code := alice.Run(t, "invite")
	carol := clustertest.NewDevice(t, bob.Binary, "carol", "--join")
	dave := clustertest.NewDevice(t, bob.Binary, "dave", "--join")
	carol.Start(t)
	dave.Start(t)
	carol.Run(t, "join", code)
	if _, err := dave.TryRun("join", code); err == nil {
		t.Error("an invitation was redeemed twice")
	}
	if _, err := bob.TryRun("join", alice.Run(t, "invite")); err == nil {
		t.Error("a member joined again")
	}
	carol.Run(t, "put", "tag", `{"name":"from carol"}`)
	clustertest.WaitEqual(t, alice, bob, carol)
}

func TestCluster_WrongStarts(t *testing.T) {
	alice := clustertest.NewDevice(t, mustBuild(t), "alice", "--library", "home")
	alice.Start(t)
	start := func(d *clustertest.Device) string {
		out, err := exec.Command(d.Binary, "run", "--config", d.Config()).CombinedOutput() //nolint:gosec // our own binary
		if err == nil {
			t.Fatal("the host ended without an error")
		}
		return string(out)
	}
	if out := start(alice); !strings.Contains(out, "data") || !strings.Contains(out, "another") {
		t.Errorf("a second host on one data directory: %s", out)
	}
	bob := clustertest.NewDevice(t, alice.Binary, "bob", "--join")
	config, err := os.ReadFile(bob.Config())
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.ReplaceAll(string(config), bob.Listen, alice.Listen)
	if err := os.WriteFile(bob.Config(), []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
	if out := start(bob); !strings.Contains(out, alice.Listen) {
		t.Errorf("a port in use: %s", out)
	}
}

// TestCluster_Garbage sends what no device sends; the host must go on.
func TestCluster_Garbage(t *testing.T) {
	t.Parallel()
	alice, bob := pair(t)
	for _, garbage := range [][]byte{
		[]byte("GET / HTTP/1.1\r\n\r\n"), make([]byte, 1<<20), {0x16, 0x03, 0x01, 0xff, 0xff}, {},
	} {
		conn, err := net.Dial("tcp", alice.Listen)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Write(garbage)
		_ = conn.(*net.TCPConn).CloseWrite()
		_ = conn.SetReadDeadline(time.Now().Add(clustertest.Patience))
		_, _ = io.Copy(io.Discard, conn)
		conn.Close()
	}
	alice.Run(t, "put", "tag", `{"name":"still here"}`)
	clustertest.WaitEqual(t, alice, bob)
}

// TestDemo_Once runs the README's main job on a small folder and on an empty one.
func TestDemo_Once(t *testing.T) {
	t.Parallel()
	path := mustBuild(t)
	folder := t.TempDir()
	writeFiles(t, folder, "a.txt", "b/c.txt")
	for name, root := range map[string]string{"a few files": folder, "no files": t.TempDir()} {
		t.Run(name, func(t *testing.T) {
			out, err := exec.Command(path, "demo", root, "--once").CombinedOutput() //nolint:gosec // our own binary
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if !strings.Contains(string(out), "equal digests") || !strings.Contains(string(out), `kept in the journal: "job"`) {
				t.Errorf("it does not show what it should:\n%s", out)
			}
		})
	}
}
