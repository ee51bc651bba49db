//go:build unix

package supervisor

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestSupervisor_SweepsStore starts a host on the store of one that ran other builds, and was killed.
func TestSupervisor_SweepsStore(t *testing.T) {
	dir := t.TempDir()
	write := func(content string, elements ...string) string {
		t.Helper()
		path := filepath.Join(append([]string{dir}, elements...)...)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o500); err != nil { //nolint:gosec // as in the store
			t.Fatal(err)
		}
		return path
	}
	w := newWatcher()
	o := options(t, dir, w)
	old, err := stage(o.StoreDir, write("an old build", "note"))
	if err != nil {
		t.Fatal(err)
	}
	spec := selfSpec(t, "")
	present, err := stage(o.StoreDir, spec.Path)
	if err != nil {
		t.Fatal(err)
	}
	write("half a bui", "plugins", "sha256", "incoming-123")
	foreign := write("not ours", "plugins", "sha256", "README")
	before, err := os.Stat(present.path)
	if err != nil {
		t.Fatal(err)
	}
	s, _ := run(t, o, spec)
	receive(t, w.up, "up")
	if err := s.Settled(t.Context()); err != nil {
		t.Fatal(err)
	}
	var left []string
	err = filepath.WalkDir(o.StoreDir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && d.Name() != "choices.json" {
			left = append(left, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{foreign, present.path}
	slices.Sort(want)
	slices.Sort(left)
	if diff := cmp.Diff(want, left); diff != "" {
		t.Errorf("the old build was %s\n%s", old.path, diff)
	}
	after, err := os.Stat(present.path)
	if err != nil || !os.SameFile(before, after) {
		t.Errorf("what is in use was replaced: %v", err)
	}
}
