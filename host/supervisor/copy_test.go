//go:build unix

package supervisor

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// harms are what can become of a copy in the store, and whether it can be used all the same.
var harms = map[string]struct {
	harm func(copied, source string) error
	mend bool
}{
	"not executable": {func(copied, _ string) error { return os.Chmod(copied, 0o444) }, true},
	"writable":       {func(copied, _ string) error { return os.Chmod(copied, 0o777) }, true}, //nolint:gosec // that is the harm
	"a link":         {func(copied, source string) error { return errors.Join(os.Remove(copied), os.Symlink(source, copied)) }, false},
	"a folder":       {func(copied, _ string) error { return errors.Join(os.Remove(copied), os.Mkdir(copied, 0o700)) }, false},
	"gone":           {func(copied, _ string) error { return os.Remove(copied) }, false},
	"other bytes": {func(copied, _ string) error {
		return errors.Join(os.Chmod(copied, 0o700), os.WriteFile(copied, []byte("#!/bin/sh"), 0o700)) //nolint:gosec // it must not be run
	}, false},
}

// TestSupervisor_HarmedCopy starts the host when the copy of the build in use has been harmed, which a swap took from elsewhere:
// it is run where it can be mended, or made anew from there, and else the configured build is.
func TestSupervisor_HarmedCopy(t *testing.T) {
	first, second := build(t, "note.1"), build(t, "note.2")
	sum, err := hashOf(second)
	if err != nil {
		t.Fatal(err)
	}
	for name, each := range harms {
		for _, left := range []bool{true, false} {
			t.Run(name+map[bool]string{true: ", source left", false: ", source gone"}[left], func(t *testing.T) {
				t.Parallel()
				dir, w := t.TempDir(), newWatcher()
				o := options(t, dir, w)
				spec, elsewhere := Spec{Name: "note", Path: first}, filepath.Join(dir, "note.2")
				copyFile(t, elsewhere, second)
				s, stop := run(t, o, spec)
				receive(t, w.up, "up")
				if err := s.Swap(t.Context(), Swap{Name: "note", Path: elsewhere}, nothing); err != nil {
					t.Fatal(err)
				}
				stop()
				copied := filepath.Join(o.StoreDir, "sha256", sum, "note.2")
				if err := each.harm(copied, elsewhere); err != nil {
					t.Fatal(err)
				}
				if !left {
					if err := os.Remove(elsewhere); err != nil {
						t.Fatal(err)
					}
				}
				b, known, err := Chosen(o.StoreDir, "note", first)
				if err != nil || known != (each.mend || left) || b.SHA256 != sum {
					t.Errorf("chosen %+v, %v, %v", b, known, err)
				}
				o.Observer = newWatcher()
				s, _ = run(t, o, spec)
				if err := s.Settled(t.Context()); err != nil {
					t.Fatal(err)
				}
				if st := s.Status()[0]; st.State != Running || (st.SHA256 == sum) != (each.mend || left) {
					t.Errorf("status %+v", st)
				}
				if info, err := os.Lstat(copied); known && (err != nil || info.Mode() != stagedMode) {
					t.Errorf("the copy is %v, %v", info, err)
				}
			})
		}
	}
}

// TestSupervisor_SwapToHarmedCopy swaps to a build in the store whose copy has been harmed: it is mended or made anew, and else the
// swap is refused with the reason, and the build remembered.
func TestSupervisor_SwapToHarmedCopy(t *testing.T) {
	for name, each := range harms {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			w := newWatcher()
			o := options(t, dir, w)
			second := build(t, "note.2")
			sum, err := hashOf(second)
			if err != nil {
				t.Fatal(err)
			}
			s, _ := run(t, o, selfSpec(t, ""))
			receive(t, w.up, "up")
			if err := s.Swap(t.Context(), Swap{Name: "note", Path: second, DryRun: true}, nothing); err != nil {
				t.Fatal(err)
			}
			copied := filepath.Join(o.StoreDir, "sha256", sum, "note.2")
			away := second + ".away"
			if err := errors.Join(each.harm(copied, away), os.Rename(second, away)); err != nil {
				t.Fatal(err)
			}
			swap := Swap{Name: "note", Version: "sha256:" + sum}
			if !each.mend {
				if err := s.Swap(t.Context(), swap, nothing); err == nil || !strings.Contains(err.Error(), "gone or damaged: "+copied) {
					t.Errorf("nothing to make it of: %v", err)
				}
				if err := os.Rename(away, second); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.Swap(t.Context(), swap, nothing); err != nil || s.Status()[0].SHA256 != sum {
				t.Errorf("%v, status %+v", err, s.Status()[0])
			}
		})
	}
}

// TestSupervisor_SwapToItselfElsewhere asks for the build in use at another path: nothing is swapped, and a restart takes what lies
// there, also one of the host, until the configured path is asked for again.
func TestSupervisor_SwapToItselfElsewhere(t *testing.T) {
	dir, w, j := t.TempDir(), newWatcher(), &journal{}
	o := options(t, dir, w)
	o.Record = j.record
	spec := Spec{Name: "note", Path: filepath.Join(dir, "note")}
	first, elsewhere := build(t, "note.1"), filepath.Join(dir, "elsewhere", "note.other")
	if err := os.Mkdir(filepath.Dir(elsewhere), 0o700); err != nil {
		t.Fatal(err)
	}
	copyFile(t, spec.Path, first)
	copyFile(t, elsewhere, first)
	s, stop := run(t, o, spec)
	p := receive(t, w.up, "up")
	ask := func(swap Swap, path string, want ...string) {
		t.Helper()
		var steps []Step
		swap.Name = "note"
		err := s.Swap(t.Context(), swap, func(step Step) { steps = append(steps, step) })
		if err != nil || len(steps) != 1 {
			t.Fatalf("%v, %v", err, steps)
		}
		for _, want := range want {
			if !strings.Contains(steps[0].Text, want) {
				t.Errorf("it says %q, want %q", steps[0].Text, want)
			}
		}
		if st := s.Status()[0]; st.PID != p.PID || st.Path != path || len(w.switches) != 0 || j.kinds() != "" {
			t.Errorf("status %+v, events %s; want path %s", st, j.kinds(), path)
		}
	}
	ask(Swap{Path: elsewhere, DryRun: true}, spec.Path, "nothing would be swapped")
	ask(Swap{Path: elsewhere}, elsewhere, "nothing is swapped", elsewhere)
	ask(Swap{Path: elsewhere}, elsewhere, "nothing is swapped", "starling plugin restart note")
	ask(Swap{Path: spec.Path}, spec.Path, "nothing is swapped", spec.Path)
	ask(Swap{Path: elsewhere}, elsewhere, "nothing is swapped", elsewhere)
	if err := s.Swap(t.Context(), Swap{Name: "note", Path: spec.Path, SHA256: strings.Repeat("ab", 32)}, nothing); err == nil || s.Status()[0].Path != elsewhere {
		t.Errorf("with another checksum: %v, %+v", err, s.Status()[0])
	}
	stop()
	if b, known, err := Chosen(o.StoreDir, "note", spec.Path); err != nil || !known || b.Path != elsewhere {
		t.Errorf("remembered %+v, %v, %v", b, known, err)
	}
	second := build(t, "note.2")
	sum, err := hashOf(second)
	if err != nil {
		t.Fatal(err)
	}
	w = newWatcher()
	o.Observer = w
	s, _ = run(t, o, spec)
	receive(t, w.up, "up after a restart of the host")
	copyFile(t, elsewhere, second)
	if err := s.Restart("note", "test"); err != nil {
		t.Fatal(err)
	}
	receive(t, w.up, "up after its restart")
	until(t, "running", func() bool { return s.Status()[0].State == Running })
	if st := s.Status()[0]; st.SHA256 != sum || st.Path != elsewhere {
		t.Errorf("status %+v, want the build %s", st, sum)
	}
}

// TestSupervisor_UnprovedStays stops the host while a build is watched that lies where it is configured: no later start takes it by
// itself, but for a restart of the plugin that somebody asks for.
func TestSupervisor_UnprovedStays(t *testing.T) {
	dir := t.TempDir()
	spec := Spec{Name: "note", Path: filepath.Join(dir, "note")}
	first, second := build(t, "note.1"), build(t, "note.2")
	copyFile(t, spec.Path, first)
	w := newWatcher()
	s, stop := run(t, options(t, dir, w), spec)
	receive(t, w.up, "up")
	copyFile(t, spec.Path, second)
	watching, over := make(chan struct{}), make(chan error, 1)
	go func() {
		over <- s.Swap(t.Context(), Swap{Name: "note", Soak: time.Hour}, func(step Step) {
			if step.Stage == Draining {
				close(watching)
			}
		})
	}()
	receive(t, watching, "watching")
	stop()
	if err := receive(t, over, "the swap"); err == nil {
		t.Error("it was done")
	}
	for life := range 3 {
		w := newWatcher()
		s, stop = run(t, options(t, dir, w), spec)
		receive(t, w.up, "up")
		if err := s.Settled(t.Context()); err != nil {
			t.Fatal(err)
		}
		if st := s.Status()[0]; st.Passed.Why != "it was not proved when the host ended" {
			t.Errorf("start %d: %+v", life+1, st)
		}
		if life < 2 {
			stop()
			continue
		}
		if err := s.Restart("note", "test"); err != nil {
			t.Fatal(err)
		}
		receive(t, w.up, "up again")
		until(t, "running", func() bool { return s.Status()[0].State == Running })
		if st := s.Status()[0]; st.Passed.Why != "" {
			t.Errorf("after a restart that was asked for: %+v", st)
		}
	}
}

// TestSupervisor_DamagedChoices starts a host that can not read which builds are wanted, and once more: none goes, as long as the
// file is there that could not be read.
func TestSupervisor_DamagedChoices(t *testing.T) {
	dir, w := t.TempDir(), newWatcher()
	o := options(t, dir, w)
	staged, err := stage(o.StoreDir, build(t, "note.1"))
	if err != nil {
		t.Fatal(err)
	}
	choices := filepath.Join(o.StoreDir, "choices.json")
	if err := os.WriteFile(choices, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	life := func() {
		_, stop := run(t, o, selfSpec(t, ""))
		receive(t, w.up, "up")
		stop()
	}
	for range 3 {
		life()
		if _, err := os.Stat(choices + ".damaged"); err != nil || !staged.intact() {
			t.Errorf("%v; the build is there: %t", err, staged.intact())
		}
	}
	if err := os.Remove(choices + ".damaged"); err != nil {
		t.Fatal(err)
	}
	life()
	if staged.intact() {
		t.Error("the build is there still")
	}
}

// TestSupervisor_SharedBuild has a build refused for one plugin while another one starts from the same copy: it stays.
func TestSupervisor_SharedBuild(t *testing.T) {
	dir := t.TempDir()
	w := newWatcher()
	o := options(t, dir, w)
	o.StartTimeout = time.Hour
	note, other := selfSpec(t, ""), selfSpec(t, "")
	bad := build(t, "hangs")
	other.Name, other.Path = "other", bad
	s, _ := run(t, o, note)
	receive(t, w.up, "up")
	trying, cancel := context.WithCancel(t.Context())
	added := make(chan error, 1)
	go func() { added <- s.Add(trying, other, "test") }() // which hangs at its start
	sum, err := hashOf(bad)
	if err != nil {
		t.Fatal(err)
	}
	copied := binary{sum: sum, path: filepath.Join(o.StoreDir, "sha256", sum, "hangs")}
	until(t, "it is staged", copied.intact)
	over := make(chan error, 1)
	staged := make(chan struct{})
	go func() {
		over <- s.Swap(t.Context(), Swap{Name: "note", Path: bad}, func(step Step) {
			if step.Stage == Staging {
				close(staged)
			}
		})
	}()
	receive(t, staged, "staged")
	if err := s.Rollback(t.Context(), Swap{Name: "note"}, nothing); err != nil {
		t.Error(err)
	}
	if err := receive(t, over, "the swap"); err == nil {
		t.Error("it was let in")
	}
	if !copied.intact() {
		t.Error("the copy that the other plugin starts from is gone")
	}
	cancel()
	receive(t, added, "who added it goes")
}

// TestSupervisor_StartsPinned pins the checksum of a build that only the store has any more while the host does not run.
func TestSupervisor_StartsPinned(t *testing.T) {
	dir, w := t.TempDir(), newWatcher()
	second := build(t, "note.2")
	sum, err := hashOf(second)
	if err != nil {
		t.Fatal(err)
	}
	spec := selfSpec(t, "")
	s, stop := run(t, options(t, dir, w), spec)
	receive(t, w.up, "up")
	if err := errors.Join(s.Swap(t.Context(), Swap{Name: "note", Path: second, DryRun: true}, nothing), os.Remove(second)); err != nil {
		t.Fatal(err)
	}
	stop()
	spec.SHA256 = sum
	w = newWatcher()
	s, _ = run(t, options(t, dir, w), spec)
	if err := s.Settled(t.Context()); err != nil {
		t.Fatal(err)
	}
	if st := s.Status()[0]; st.State != Running || st.SHA256 != sum {
		t.Errorf("status %+v, want the build %s", st, sum)
	}
}
