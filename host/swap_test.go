//go:build unix

package main_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/starling-sync/starling/host/clustertest"
	"github.com/starling-sync/starling/host/control"
	"github.com/starling-sync/starling/sdk/rpc/rpctest"
)

// built makes one build of a package and returns its path. mode is what main.mode is set to.
func built(t *testing.T, pkg, mode string) string {
	t.Helper()
	return linked(t, pkg, mode, "main.mode")
}

var linking sync.Mutex // of tests beside one another

// linked makes one build of a package, in which variable is value, and returns its path.
func linked(t *testing.T, pkg, value, variable string) string {
	t.Helper()
	mustBuild(t)
	path := filepath.Join(buildDir, "builds", filepath.Base(pkg)+"-"+value)
	linking.Lock()
	defer linking.Unlock()
	if _, err := os.Stat(path); err == nil {
		return path
	}
	if err := rpctest.BuildAt(path, "github.com/starling-sync/starling/"+pkg, "-ldflags", "-s -w -X "+variable+"="+value); err != nil {
		t.Fatal(err)
	}
	return path
}

// rounds is how often a swap is repeated: few times, or as STARLING_SWAPS says.
func rounds(few int) int {
	if n, err := strconv.Atoi(os.Getenv("STARLING_SWAPS")); err == nil {
		return n
	}
	return few
}

// thorough reports whether the whole suite is wanted, and not what takes a minute alone: task test:swaps runs it.
func thorough() bool { return os.Getenv("STARLING_SWAPS") != "" }

// TestSwap_UnderLoad swaps the tag plugin and the TCP transport while both devices write and a stranger connects.
func TestSwap_UnderLoad(t *testing.T) {
	path := mustBuild(t)
	alice := clustertest.NewDevice(t, path, "alice", "--library", "home")
	bob := clustertest.NewDevice(t, path, "bob", "--join")
	for _, d := range []*clustertest.Device{alice, bob} {
		addTally(t, d)
		d.Start(t)
	}
	clustertest.Pair(t, alice, bob)
	waitLive(t, alice, bob)
	tallies := []string{built(t, "host/testdata/tally", "2"), built(t, "host/testdata/tally", "1")}
	tags := []string{built(t, "plugins/tag", "1"), built(t, "plugins/tag", "2")}
	lans := []string{built(t, "plugins/transport-tcp", "1"), built(t, "plugins/transport-tcp", "2")}
	w, k, p := write(t, alice, bob), knock(t, alice.Listen), watchSessions(t, alice)
	w.tally(t, alice, bob)
	began, times := time.Now(), rounds(3)
	for i := range times {
		alice.Run(t, "plugin", "swap", "tally", tallies[i%2], "--soak", "0s")
		alice.Run(t, "plugin", "swap", "tag", tags[i%2], "--soak", "200ms")
		alice.Run(t, "plugin", "swap", "lan", lans[i%2], "--soak", "200ms")
	}
	took := time.Since(began)
	k.stop()
	p.stop()
	w.check(t, alice, bob)
	if k.refused.Load() > 0 {
		t.Errorf("%d of %d connections were refused", k.refused.Load(), k.tried.Load())
	}
	t.Logf("%d swaps of two models and of a transport in %s: %s; %d connections, none refused; no session for %s at most",
		times, took.Round(time.Millisecond), w, k.tried.Load(), p.longest.Round(time.Millisecond))
	if events := alice.Run(t, "events"); strings.Count(events, "swapped") != 3*times {
		t.Errorf("events:\n%s", events)
	}
}

// TestSwap_BadBuilds wants each refused or rolled back, and no write to notice.
func TestSwap_BadBuilds(t *testing.T) {
	alice, bob := pair(t)
	w := write(t, alice, bob)
	for i, each := range []struct{ mode, want string }{
		{"crash-start", "was not swapped"}, {"crash-hundredth", "rolled back"}, {"wrong-hundredth", "otherwise than the one before"},
		{"newer", `requires the field "owner", which bob can not write`}, {"next-strange", "can not be used"},
		{"crash-second", "rolled back"}, {"hang-hundredth", "rolled back"}, {"strange-hundredth", "otherwise than the one before"},
		{"slow-hundredth", "it falls behind"},
	} {
		if i > 4 && !thorough() {
			break
		}
		pids := fmt.Sprint(plugins(t, alice))
		_, err := alice.TryRun("plugin", "swap", "tag", built(t, "host/testdata/badtag", each.mode), "--soak", "50s")
		exit, ok := errors.AsType[*clustertest.ExitError](err)
		if !ok || exit.Status != 1 || !strings.Contains(exit.Stderr, each.want) {
			t.Errorf("%s: want an error with %q, got %v", each.mode, each.want, err)
		}
		if after := fmt.Sprint(plugins(t, alice)); after != pids {
			t.Errorf("%s: other processes run: %s, before %s", each.mode, after, pids)
		}
	}
	w.check(t, alice, bob)
	t.Log(w)
}

// TestSwap_RaisesVersion swaps to a build with one more field: the table has it once the swap is done, and there is no way
// back then.
func TestSwap_RaisesVersion(t *testing.T) {
	t.Parallel()
	alice, bob := pair(t)
	w := write(t, alice, bob)
	dry := alice.Run(t, "plugin", "swap", "tag", built(t, "host/testdata/badtag", "next"), "--dry-run")
	if !strings.Contains(dry, "model tag from version 1 to 2, from which there is no way back") {
		t.Errorf("dry run: %s", dry)
	}
	alice.Run(t, "plugin", "swap", "tag", built(t, "host/testdata/badtag", "next"), "--soak", "300ms")
	w.check(t, alice, bob)
	id := alice.Run(t, "put", "tag", `{"name":"with shade","shade":"dark"}`)
	clustertest.WaitEqual(t, alice, bob)
	if tag := bob.List(t, "tag")[id]; tag["name"] != "with shade" {
		t.Errorf("bob has %v", tag)
	}
	if _, err := alice.TryRun("plugin", "rollback", "tag"); err == nil || !strings.Contains(err.Error(), "version 2 served this database already") {
		t.Errorf("rollback: %v", err)
	}
	alice.Stop(t)
	alice.Start(t)
	bob.Run(t, "plugin", "swap", "tag", built(t, "host/testdata/badtag", "next"), "--soak", "300ms")
	clustertest.WaitEqual(t, alice, bob)
	if tag := bob.List(t, "tag")[id]; tag["shade"] != "dark" {
		t.Errorf("bob has %v", tag)
	}
}

// TestSwap_Versions swaps between builds in the store by their versions, and pins them with a lock file.
func TestSwap_Versions(t *testing.T) {
	t.Parallel()
	alice := clustertest.NewDevice(t, mustBuild(t), "alice", "--library", "home")
	place := filepath.Join(alice.Dir, "tag")
	put := func(path string) {
		t.Helper()
		text, err := os.ReadFile(path)
		if err == nil {
			err = errors.Join(os.Remove(place), os.WriteFile(place, text, 0o700))
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
	const version = "github.com/starling-sync/starling/sdk/rpc.version"
	old, next := linked(t, "plugins/tag", "v1.4.0", version), linked(t, "plugins/tag", "v1.5.0", version)
	if err := os.WriteFile(place, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	put(old)
	edit(t, alice, `model "tag" {}`, `model "tag" { path = "./tag" }`)
	alice.Start(t)
	runs := func(want string, staged ...string) {
		t.Helper()
		client, err := control.Dial(t.Context(), alice.Data())
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		clustertest.Eventually(t, want+" runs", func() error {
			all, err := client.Plugins(t.Context())
			if err != nil {
				return err
			}
			for _, p := range all {
				var versions []string
				for _, b := range p.Staged {
					versions = append(versions, b.Version)
				}
				if p.Name == "tag" && (p.Version != want || p.State != "running" || fmt.Sprint(versions) != fmt.Sprint(staged)) {
					return fmt.Errorf("%+v", p)
				}
			}
			return nil
		})
	}
	refused := func(want string, args ...string) {
		t.Helper()
		if _, err := alice.TryRun(args...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: want an error with %q, got %v", args, want, err)
		}
	}
	runs("v1.4.0", "v1.4.0")
	alice.Run(t, "plugin", "swap", "tag", next, "--dry-run")
	runs("v1.4.0", "v1.4.0", "v1.5.0")
	if list := alice.Run(t, "plugin", "list"); !strings.Contains(list, "v1.5.0") {
		t.Errorf("plugin list:\n%s", list)
	}
	alice.Run(t, "plugin", "swap", "tag", "--version", "1.5.0", "--soak", "0s")
	runs("v1.5.0", "v1.4.0", "v1.5.0")
	alice.Run(t, "plugin", "swap", "tag", "--version", "v1.4.0", "--soak", "0s")
	runs("v1.4.0", "v1.5.0", "v1.4.0")
	refused(next+" is not the one that is expected", "plugin", "swap", "tag", next, "--sha256", strings.Repeat("ab", 32))
	refused("there are: v1.5.0 (sha256:", "plugin", "swap", "tag", "--version", "v2.0.0")

	alice.Run(t, "plugin", "lock", "tag")
	if out := alice.Run(t, "reload", "--soak", "0s"); !strings.Contains(out, `model "tag": sha256 none -> `) {
		t.Errorf("reload: %s", out)
	}
	lock := filepath.Join(alice.Dir, "plugins.lock.hcl")
	refused(lock+":4,", "plugin", "swap", "tag", "--version", "v1.5.0")
	put(next) // behind the host's back: the lock file counts
	refused(place+" is not the one that is expected", "plugin", "swap", "tag", place)
	alice.Run(t, "config", "validate", "--plugins") // as the start judges it
	alice.Stop(t)
	alice.Run(t, "config", "validate", "--plugins")
	alice.Start(t)
	runs("v1.4.0", "v1.5.0", "v1.4.0")
	alice.Run(t, "plugin", "lock", "tag")
	alice.Run(t, "reload", "--soak", "0s")
	runs("v1.5.0", "v1.4.0", "v1.5.0")
}

func waitLive(t *testing.T, d *clustertest.Device, peers ...*clustertest.Device) {
	t.Helper()
	clustertest.Eventually(t, d.Name+" has live sessions", func() error {
		status := d.Run(t, "peers", "--json")
		if strings.Count(status, `"state":"live"`) < len(peers) {
			return errors.New(status)
		}
		return nil
	})
}

// edit changes a device's configuration file.
func edit(t *testing.T, d *clustertest.Device, pairs ...string) {
	t.Helper()
	text, err := os.ReadFile(d.Config())
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.NewReplacer(pairs...).Replace(string(text))
	if changed == string(text) {
		t.Fatalf("nothing of %q is in %s", pairs, d.Config())
	}
	if err := os.WriteFile(d.Config(), []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestReload edits the configuration of a host that runs, and has it read again, by command and by SIGHUP.
func TestReload(t *testing.T) {
	t.Parallel()
	alice, bob := pair(t)
	w := write(t, alice, bob)
	if out := alice.Run(t, "reload"); !strings.Contains(out, "says what it said before") {
		t.Errorf("unchanged: %s", out)
	}
	before := alice.Run(t, "plugin", "list")
	edit(t, alice, `model "tag" {}`, `model "tag" { pth = "x" }`)
	if _, err := alice.TryRun("reload"); err == nil || !strings.Contains(err.Error(), "nothing has changed") || !strings.Contains(err.Error(), `did you mean "path"`) {
		t.Errorf("a mistake: %v", err)
	}
	hup(t, alice)
	clustertest.Eventually(t, "the log says why SIGHUP changed nothing", func() error { return inLog(alice, "nothing has changed") })
	edit(t, alice, `model "tag" { pth = "x" }`, "model \"tag\" {}\nmodel \"ghost\" {}")
	if _, err := alice.TryRun("reload"); err == nil || !strings.Contains(err.Error(), "nothing has changed") || !strings.Contains(err.Error(), `model "ghost": there is no plugin binary at `) || !strings.Contains(err.Error(), "config.hcl:") {
		t.Errorf("a plugin that is not there: %v", err)
	}
	edit(t, alice, "model \"tag\" {}\nmodel \"ghost\" {}", `model "tag" {}`)
	if after := alice.Run(t, "plugin", "list"); pidsOf(after) != pidsOf(before) {
		t.Errorf("a file with a mistake changed something:\n%s\n%s", before, after)
	}

	tag, lan := built(t, "plugins/tag", "1"), built(t, "plugins/transport-tcp", "1")
	edit(t, alice, `model "tag" {}`, `model "tag" { path = "`+tag+`" }`, `# heartbeat       = "5s"`, `heartbeat = "4s"`, `model "entry" {}`, "")
	out := alice.Run(t, "reload", "--soak", "200ms")
	for _, want := range []string{`model "tag": path`, `model "entry": removed`, "sync: needs a restart"} {
		if !strings.Contains(out, want) {
			t.Errorf("want %q in:\n%s", want, out)
		}
	}
	if out := alice.Run(t, "plugin", "list"); !strings.Contains(out, "tag-1") || strings.Contains(out, "entry") {
		t.Errorf("after the reload:\n%s", out)
	}
	edit(t, alice, `model "location" {`, "model \"entry\" {}\nmodel \"location\" {")
	hup(t, alice)
	clustertest.Eventually(t, "SIGHUP starts what was added", func() error {
		if out := alice.Run(t, "events"); !strings.Contains(out, "by SIGHUP  model") {
			return errors.New(out)
		}
		return nil
	})
	if out := alice.Run(t, "plugin", "list"); !strings.Contains(out, "entry") {
		t.Errorf("after SIGHUP:\n%s", out)
	}
	edit(t, alice, `listen = "127`, `path = "`+lan+`"`+"\n"+`listen = "127`)
	alice.Run(t, "reload", "--soak", "200ms")
	w.check(t, alice, bob)
	alice.Stop(t)
	alice.Start(t)
	if out := alice.Run(t, "plugin", "list"); !strings.Contains(out, "tag-1") || !strings.Contains(out, "transport-tcp-1") {
		t.Errorf("after a restart:\n%s", out)
	}
}

func hup(t *testing.T, d *clustertest.Device) {
	t.Helper()
	if err := syscall.Kill(d.PID(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
}

func inLog(d *clustertest.Device, what string) error {
	text, err := os.ReadFile(filepath.Join(d.Dir, "host.log"))
	if err == nil && !strings.Contains(string(text), what) {
		err = errors.New("not there")
	}
	return err
}

// pidsOf leaves only the columns of a table that stay the same for processes that go on.
func pidsOf(table string) string {
	var pids []string
	for line := range strings.Lines(table) {
		if f := strings.Fields(line); len(f) > 3 {
			pids = append(pids, f[0]+f[3])
		}
	}
	return strings.Join(pids, " ")
}

// TestQuarantine kills a model's plugin until it is quarantined: what a peer writes of it waits, over a restart of the host
// too, everything else goes on, and it is applied once the plugin is back.
func TestQuarantine(t *testing.T) {
	t.Parallel()
	alice, bob := pair(t)
	clustertest.WaitEqual(t, alice, bob)
	quarantined := func() bool {
		return strings.Contains(bob.Run(t, "plugin", "list"), "quarantined")
	}
	clustertest.Eventually(t, "quarantine", func() error {
		if quarantined() {
			return nil
		}
		if pid := pidOf(t, bob, "tag"); pid > 0 {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		return errors.New(bob.Run(t, "plugin", "list"))
	})
	if status := bob.Run(t, "status"); !strings.Contains(status, "plugin tag is quarantined") {
		t.Errorf("status says nothing of it:\n%s", status)
	}
	id := alice.Run(t, "put", "tag", `{"name":"waits"}`)
	folder := t.TempDir()
	writeFiles(t, folder, "a.txt")
	alice.Run(t, "location", "add", folder)
	clustertest.Eventually(t, "the rest goes on", func() error {
		if len(bob.List(t, "entry")) < 2 {
			return errors.New("no entries")
		}
		return nil
	})
	clustertest.Eventually(t, "the change waits", func() error {
		if status := bob.Run(t, "status"); !strings.Contains(status, "1 change kept for its plugin") {
			return errors.New(status)
		}
		return nil
	})
	bob.Run(t, "plugin", "restart", "tag")
	clustertest.WaitEqual(t, alice, bob)
	if bob.List(t, "tag")[id]["name"] != "waits" {
		t.Error("the change was not applied")
	}
	events := bob.Run(t, "events")
	for _, want := range []string{"crashed", "quarantined", "restarted"} {
		if !strings.Contains(events, want) {
			t.Errorf("no %s in:\n%s", want, events)
		}
	}
}
