//go:build unix

package supervisor

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/starling-sync/starling/sdk"
)

// TestSupervisor_HostKilledInSwap kills the host at the end of each stage of a swap: to a build that dies a second after its
// start, and to one that is kept. The host that follows runs the old build until the choice of the new one is durable, and
// the new one from then on, which is before the host of the first was told that it may make its tables fit it.
func TestSupervisor_HostKilledInSwap(t *testing.T) {
	for _, each := range []struct {
		at   Stage
		to   string
		kept bool
	}{
		{Staging, "crash-later", false}, {Probing, "crash-later", false}, {Switching, "crash-later", false}, {Draining, "crash-later", false},
		{Undone, "crash-later", false}, {Watching, "note.2", false}, {chosen, "note.2", true}, {Settling, "note.2", true}, {Done, "note.2", true},
	} {
		for _, inPlace := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s in place %t", each.at, inPlace), func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				first, second := build(t, "note"), build(t, each.to)
				configured := filepath.Join(dir, "note")
				copyFile(t, configured, first)
				host := exec.CommandContext(t.Context(), os.Args[0]) //nolint:gosec // this binary
				host.Env = append(os.Environ(), envHost+"="+dir, envSwap+"="+second, envStop+"="+string(each.at))
				out, err := host.StdoutPipe()
				if err != nil {
					t.Fatal(err)
				}
				if inPlace { // the build lies where it is configured by the time of the swap
					host.Env = append(host.Env, envSwap+"="+configured, envReplace+"="+second)
				}
				if err := host.Start(); err != nil {
					t.Fatal(err)
				}
				lines := bufio.NewScanner(out)
				for lines.Scan() && lines.Text() != stopsHere {
				}
				_ = host.Process.Kill()
				_, _ = io.Copy(io.Discard, out)
				_ = host.Wait()
				want, err := hashOf(first)
				if each.kept {
					want, err = hashOf(second)
				}
				if err != nil {
					t.Fatal(err)
				}
				w := newWatcher()
				o := options(t, dir, w)
				o.Budget = 100 // which build is started is asked here, not how often a busy machine lets it start
				s, _ := run(t, o, Spec{Name: "note", Path: configured})
				p := receive(t, w.up, "up")
				if err := s.Settled(t.Context()); err != nil {
					t.Fatal(err)
				}
				if st := s.Status()[0]; lines.Text() != stopsHere || st.SHA256 != want || st.PID != p.PID {
					t.Errorf("status %+v, want the build %s", st, want)
				}
			})
		}
	}
}

// TestSupervisor_RemembersBuild restarts the host after a swap to another path, and after one that failed.
func TestSupervisor_RemembersBuild(t *testing.T) {
	dir := t.TempDir()
	configured := filepath.Join(dir, "note")
	first, second := build(t, "note.1"), build(t, "note.2")
	copyFile(t, configured, first)
	spec := Spec{Name: "note", Path: configured}
	sums := map[string]string{}
	for _, path := range []string{first, second} {
		sum, err := hashOf(path)
		if err != nil {
			t.Fatal(err)
		}
		sums[path] = sum
	}
	life := func(spec Spec, want string, do func(s *Supervisor)) {
		t.Helper()
		w := newWatcher()
		s, stop := run(t, options(t, dir, w), spec)
		receive(t, w.up, "up")
		if err := s.Settled(t.Context()); err != nil {
			t.Fatal(err)
		}
		if st := s.Status()[0]; st.SHA256 != sums[want] {
			t.Errorf("it runs %s from %s, want %s", st.SHA256, st.Path, sums[want])
		}
		if do != nil {
			do(s)
		}
		stop()
	}
	life(spec, first, func(s *Supervisor) {
		if err := s.Swap(t.Context(), Swap{Name: "note", Path: second}, nothing); err != nil {
			t.Fatal(err)
		}
	})
	life(spec, second, func(s *Supervisor) {
		if err := s.Swap(t.Context(), Swap{Name: "note", Path: build(t, "crash-later"), Soak: patience}, nothing); err == nil {
			t.Error("the bad build was kept")
		}
	})
	life(spec, second, nil)
	moved := spec
	moved.Path = filepath.Join(dir, "moved") // the operator's word counts more
	copyFile(t, moved.Path, first)
	life(moved, first, nil)
	moved.SHA256 = sums[first]
	life(moved, first, func(s *Supervisor) {
		if err := s.Swap(t.Context(), Swap{Name: "note", Path: second}, nothing); err == nil {
			t.Error("a build was let in whose checksum is not the one that is configured")
		}
	})
}

// TestSupervisor_SwapToVersion goes to and fro between builds in the store by their versions, also where the files that they
// were taken from are gone, and over a restart of the host.
func TestSupervisor_SwapToVersion(t *testing.T) {
	dir, w := t.TempDir(), newWatcher()
	o := options(t, dir, w)
	configured := filepath.Join(dir, "note")
	copyFile(t, configured, build(t, "note"))
	spec := Spec{Name: "note", Path: configured}
	s, stop := run(t, o, spec)
	receive(t, w.up, "up")
	if err := s.Settled(t.Context()); err != nil {
		t.Fatal(err)
	}
	sums := map[string]string{"first": s.Status()[0].SHA256}
	for name, swap := range map[string]Swap{"second": {DryRun: true}, "third": {}} {
		swap.Name, swap.Path = "note", build(t, "note."+name)
		if err := s.Swap(t.Context(), swap, nothing); err != nil {
			t.Fatal(err)
		}
		sum, err := hashOf(swap.Path)
		if err != nil {
			t.Fatal(err)
		}
		sums[name] = sum
		if err := os.Remove(swap.Path); err != nil {
			t.Fatal(err)
		}
	}
	to := func(version string) error {
		return s.Swap(t.Context(), Swap{Name: "note", Version: version}, nothing)
	}
	k, err := s.keeperOf("note")
	if err != nil {
		t.Fatal(err)
	}
	err = k.choices.change("note", configured, func(c *choice) { // this binary has no versions of its own
		for i := range c.Staged {
			switch c.Staged[i].SHA256 {
			case sums["first"], sums["second"]:
				c.Staged[i].Version = "v1.2.0"
			default:
				c.Staged[i].Version = "v1.3.0"
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	for version, want := range map[string]string{"1.4.0": "there are: v1.", "v1.2.0": "is that of 2 builds", "sha256:00000000": "there are: v1."} {
		if err := to(version); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: want %q, got %v", version, want, err)
		}
	}
	for _, name := range []string{"second", "first", "second"} {
		if err := to("sha256:" + sums[name][:8]); err != nil || s.Status()[0].SHA256 != sums[name] {
			t.Errorf("to the %s: %v, %+v", name, err, s.Status()[0])
		}
	}
	stop()
	o.Observer = newWatcher()
	s, _ = run(t, o, spec)
	if err := s.Settled(t.Context()); err != nil || s.Status()[0].SHA256 != sums["second"] || len(s.Status()[0].Staged) != 3 {
		t.Errorf("after a restart: %v, %+v", err, s.Status()[0])
	}
	if err := to("1.3.0"); err != nil || s.Status()[0].SHA256 != sums["third"] {
		t.Errorf("by the version that it says: %v, %+v", err, s.Status()[0])
	}
	damaged := filepath.Join(o.StoreDir, "sha256", sums["second"], "note.second")
	if err := os.Chmod(damaged, 0o700); err != nil { //nolint:gosec // it is a program
		t.Fatal(err)
	}
	if err := os.WriteFile(damaged, []byte("#!/bin/sh"), 0o700); err != nil { //nolint:gosec // it must not be run
		t.Fatal(err)
	}
	if err := to("sha256:" + sums["second"][:8]); err == nil || !strings.Contains(err.Error(), "gone or damaged: "+damaged) {
		t.Errorf("a damaged copy: %v", err)
	}
}

// TestSupervisor_PassedOver configures a build that was refused, and starts the host with it, twice: why the last one that
// works runs in its place is remembered, until there is another build at that path.
func TestSupervisor_PassedOver(t *testing.T) {
	dir := t.TempDir()
	spec := Spec{Name: "note", Path: build(t, "note.1")}
	configured := spec
	configured.Path = filepath.Join(dir, "note.2")
	copyFile(t, configured.Path, build(t, "note.2"))
	life := func(spec Spec, do func(s *Supervisor, w *watcher)) {
		t.Helper()
		w := newWatcher()
		s, stop := run(t, options(t, dir, w), spec)
		receive(t, w.up, "up")
		if err := s.Settled(t.Context()); err != nil {
			t.Fatal(err)
		}
		do(s, w)
		stop()
	}
	life(spec, func(s *Supervisor, w *watcher) {
		w.mu.Lock()
		w.check = sdk.Errorf(sdk.CodeUnsupported, "its schema is older")
		w.mu.Unlock()
		if err := s.Swap(t.Context(), Swap{Name: "note", Spec: &configured}, nothing); sdk.CodeOf(err) != sdk.CodeUnsupported {
			t.Fatalf("a build that can not serve the tables: %v", err)
		}
	})
	for range 2 {
		life(configured, func(s *Supervisor, w *watcher) {
			if st := s.Status()[0]; st.Path != spec.Path || st.Passed != (Passed{configured.Path, "its schema is older"}) {
				t.Errorf("status %+v", st)
			}
			if err := s.Restart("note", "test"); err != nil {
				t.Fatal(err)
			}
			receive(t, w.down, "down")
			receive(t, w.up, "up again")
			if st := s.Status()[0]; st.Path != spec.Path || st.Passed.Why != "its schema is older" {
				t.Errorf("after a restart: %+v", st)
			}
		})
	}
	copyFile(t, configured.Path, build(t, "note.3"))
	life(configured, func(s *Supervisor, _ *watcher) {
		if st := s.Status()[0]; st.Path != configured.Path || st.Passed != (Passed{}) {
			t.Errorf("with another build: %+v", st)
		}
	})
}

// TestSupervisor_PassedOverInTrial ends a host in the trial of a build while the configured one is passed over: that one is refused for
// what was wrong with it, and the other one is not.
func TestSupervisor_PassedOverInTrial(t *testing.T) {
	dir := t.TempDir()
	spec := Spec{Name: "note", Path: build(t, "note.1")}
	life := func(configured Spec) {
		t.Helper()
		w := newWatcher()
		_, stop := run(t, options(t, dir, w), configured)
		receive(t, w.up, "up")
		stop()
	}
	life(spec)
	store := options(t, dir, nil).StoreDir
	configured, tried := spec, build(t, "note.3")
	configured.Path = build(t, "note.2")
	var sums []string
	for _, path := range []string{configured.Path, tried} {
		sum, err := hashOf(path)
		if err != nil {
			t.Fatal(err)
		}
		sums = append(sums, sum)
	}
	remembered, err := openChoices(store)
	if err != nil {
		t.Fatal(err)
	}
	running := remembered.of("note").Running
	err = remembered.change("note", configured.Path, func(c *choice) {
		c.Running, c.Trying, c.Passed = running, sums[1], "it has crashed"
		c.refuse(sums[0], "it has crashed")
	})
	if err != nil {
		t.Fatal(err)
	}
	life(configured)
	if remembered, err = openChoices(store); err != nil {
		t.Fatal(err)
	}
	now := remembered.of("note")
	if now.Running != running || now.Passed != "it has crashed" || now.Trying != "" || !slices.Equal(now.Refused, sums[:1]) || len(now.Why) != 1 {
		t.Errorf("remembered %+v; want %s refused alone", now, sums[0])
	}
}

// TestSupervisor_Moves configures another path of the build in use: its process goes on, unwatched, and the way back stays.
func TestSupervisor_Moves(t *testing.T) {
	dir := t.TempDir()
	w := newWatcher()
	spec := Spec{Name: "note", Path: filepath.Join(dir, "note")}
	first, second := build(t, "note.1"), build(t, "note.2")
	copyFile(t, spec.Path, first)
	o := options(t, dir, w)
	s, stop := run(t, o, spec)
	receive(t, w.up, "up")
	if err := s.Settled(t.Context()); err != nil {
		t.Fatal(err)
	}
	next := spec
	next.Path = second
	if err := s.Swap(t.Context(), Swap{Name: "note", Spec: &next}, nothing); err != nil {
		t.Fatal(err)
	}
	before := s.Status()[0]
	moved := next
	moved.Path = filepath.Join(dir, "moved")
	copyFile(t, moved.Path, second)
	var steps []Step
	if err := s.Swap(t.Context(), Swap{Name: "note", Spec: &moved, Soak: patience}, func(step Step) { steps = append(steps, step) }); err != nil {
		t.Fatal(err)
	}
	if st := s.Status()[0]; st.PID != before.PID || st.SHA256 != before.SHA256 || st.Path != moved.Path || len(steps) != 1 {
		t.Errorf("status %+v, steps %v; before %+v", st, steps, before)
	}
	sum, err := hashOf(first)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Rollback(t.Context(), Swap{Name: "note"}, nothing); err != nil || s.Status()[0].SHA256 != sum {
		t.Errorf("rollback: %v, status %+v", err, s.Status()[0])
	}
	stop()
	if b, known, err := Chosen(o.StoreDir, "note", moved.Path); err != nil || !known || b.SHA256 != sum {
		t.Errorf("remembered %+v, %v", b, known)
	}
}
