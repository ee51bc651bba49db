//go:build unix

package supervisor

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"
)

// TestDescribeNext asks the build that a host would start next, and has one start: it is the same, and asking has changed nothing.
func TestDescribeNext(t *testing.T) {
	dir := t.TempDir()
	configured, second := filepath.Join(dir, "note"), build(t, "note.2")
	copyFile(t, configured, build(t, "note.1"))
	sum := func(path string) string {
		t.Helper()
		s, err := hashOf(path)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	first, swapped := sum(configured), sum(second)
	files := func(store string) (all []string) {
		t.Helper()
		err := filepath.WalkDir(store, func(path string, _ os.DirEntry, err error) error {
			all = append(all, path)
			return err
		})
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		return all
	}
	o := options(t, dir, newWatcher())
	// same asks, and has a host start if there is a build.
	same := func(what string, spec Spec, want string) {
		t.Helper()
		before := files(o.StoreDir)
		info, b, unsure, err := DescribeNext(t.Context(), spec, o.StoreDir, "", hclog.NewNullLogger())
		if diff := cmp.Diff(before, files(o.StoreDir)); diff != "" {
			t.Errorf("%s: the store has changed: %s", what, diff)
		}
		if b.SHA256 != want || unsure != nil || (want != "") != (err == nil) {
			t.Errorf("%s: %+v, %v, %v; want %q", what, b, unsure, err, want)
		}
		if want == "" {
			return
		}
		if len(info.Models) != 1 {
			t.Errorf("%s: it says %+v", what, info)
		}
		w := newWatcher()
		s, stop := run(t, options(t, dir, w), spec)
		receive(t, w.up, "up")
		if err := s.Settled(t.Context()); err != nil {
			t.Fatal(err)
		}
		if st := s.Status()[0]; st.SHA256 != b.SHA256 || st.Path != b.Path {
			t.Errorf("%s: the host started %s of %s, asked was %+v", what, st.SHA256, st.Path, b)
		}
		stop()
	}
	spec := Spec{Name: "note", Path: configured}
	same("nothing is known", spec, first)
	s, stop := run(t, o, spec)
	if err := s.Settled(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Swap(t.Context(), Swap{Name: "note", Path: second}, nothing); err != nil {
		t.Fatal(err)
	}
	stop()
	same("swapped to another path", spec, swapped)
	locked := spec
	locked.SHA256 = swapped
	same("and locked", locked, swapped)
	if err := os.Remove(second); err != nil {
		t.Fatal(err)
	}
	same("the copy alone is left", locked, swapped)
	if err := os.Remove(configured); err != nil {
		t.Fatal(err)
	}
	same("and there is nothing at the path", locked, swapped)
	locked.SHA256 = strings.Repeat("ab", 32)
	copyFile(t, configured, build(t, "note.1"))
	same("another one is locked", locked, "")
}
