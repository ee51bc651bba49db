//go:build unix

package supervisor

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
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
