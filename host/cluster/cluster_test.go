// Package cluster_test runs five devices, each a real host with its plugins, on loopback, and lets happen to them what
// happens to people's devices. At the end of each test every device has the same digest.
//
// "task test:cluster" runs all of it. Where STARLING_CLUSTER is not set, only a short loop of kills runs. STARLING_KILLS
// is the number of kills, 1 to 200.
package cluster_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/starling-sync/starling/host/clustertest"
)

// built is starling with its plugins, made once for all tests of this package.
type built struct {
	dir    string
	binary func() (string, error)
}

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "starling-build")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		build.dir = dir
		build.binary = sync.OnceValues(func() (string, error) { return clustertest.Binaries(dir) })
		return m.Run()
	}())
}

var build built

// mustBuild returns the path of starling, or skips the test where it can not or should not run.
func mustBuild(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("builds and runs real processes: left out by -short")
	}
	if runtime.GOOS != "linux" {
		t.Skip("whose process is whose is found in /proc, which only Linux has")
	}
	path, err := build.binary()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// needsTask skips a test that would take too long among all others.
func needsTask(t *testing.T) {
	t.Helper()
	if os.Getenv("STARLING_CLUSTER") == "" {
		t.Skip("five devices take long: task test:cluster runs it (STARLING_CLUSTER is not set)")
	}
}

// five are five devices, none of them started or paired.
type five struct {
	alice, bob, carol, dave, eve *clustertest.Device
}

func (f *five) all() []*clustertest.Device {
	return []*clustertest.Device{f.alice, f.bob, f.carol, f.dave, f.eve}
}

// newFive makes the devices. With a network peers reach them through it, else directly.
func newFive(t *testing.T, path string, network *clustertest.Network) *five {
	t.Helper()
	f := &five{
		alice: clustertest.NewDevice(t, path, "alice", "--library", "home"), bob: clustertest.NewDevice(t, path, "bob", "--join"),
		carol: clustertest.NewDevice(t, path, "carol", "--join"), dave: clustertest.NewDevice(t, path, "dave", "--join"),
		eve: clustertest.NewDevice(t, path, "eve", "--join"),
	}
	if network != nil {
		for _, d := range f.all() {
			network.Add(t, d)
		}
	}
	return f
}

// startAll starts and pairs the devices, each with the one before it, so that a line suffices.
func (f *five) startAll(t *testing.T) {
	t.Helper()
	all := f.all()
	for i, d := range all {
		d.Start(t)
		if i > 0 {
			clustertest.Pair(t, all[i-1], d)
		}
	}
	clustertest.WaitEqual(t, all...)
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

// connected returns the names of the peers that d has a session with, sorted.
func connected(t *testing.T, d *clustertest.Device) []string {
	t.Helper()
	var status struct {
		Peers []struct {
			Name string `json:"name"`
			Via  string `json:"via"`
		} `json:"peers"`
	}
	if err := json.Unmarshal([]byte(d.Run(t, "status", "--json")), &status); err != nil {
		t.Fatalf("%s: status --json: %v", d.Name, err)
	}
	var names []string
	for _, p := range status.Peers {
		if p.Via != "" {
			names = append(names, p.Name)
		}
	}
	slices.Sort(names)
	return names
}

// waitConnected waits until d has sessions with exactly the peers.
func waitConnected(t *testing.T, d *clustertest.Device, peers ...*clustertest.Device) {
	t.Helper()
	var want []string
	for _, p := range peers {
		want = append(want, p.Name)
	}
	slices.Sort(want)
	clustertest.Eventually(t, d.Name+"'s sessions", func() error {
		if diff := cmp.Diff(want, connected(t, d)); diff != "" {
			return errors.New(diff)
		}
		return nil
	})
}

// putGroup writes n tags called name in one change, and returns their ids if all were acknowledged.
func putGroup(d *clustertest.Device, name string, n int) ([]string, error) {
	cmd := exec.Command(d.Binary, "--config", d.Config(), "put", "tag", "-") //nolint:gosec // our own binary
	cmd.Stdin = strings.NewReader(strings.Repeat(`{"name":"`+name+`"}`, n))
	out, err := cmd.Output()
	if ids := strings.Fields(string(out)); err == nil && len(ids) != n {
		return nil, fmt.Errorf("%d ids for %d tags", len(ids), n)
	}
	return strings.Fields(string(out)), err
}
