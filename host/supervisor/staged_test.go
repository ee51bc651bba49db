package supervisor

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestStage_again stages a binary whose copy is in the store: nothing is written, unless the copy is damaged, has another mode or
// is a link, or the binary is another one of the same size.
func TestStage_again(t *testing.T) {
	store, source := t.TempDir(), filepath.Join(t.TempDir(), "tag")
	write := func(path, content string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(content), 0o700); err != nil { //nolint:gosec // a program
			t.Fatal(err)
		}
	}
	staged := func(want string) binary {
		t.Helper()
		b, err := stage(store, source)
		if err != nil {
			t.Fatal(err)
		}
		if text, err := os.ReadFile(b.path); err != nil || string(text) != want || b.origin != source || !b.intact() {
			t.Errorf("%+v holds %q, %v; want %q", b, text, err, want)
		}
		return b
	}
	write(source, "a build")
	first := staged("a build")
	root := filepath.Join(store, "sha256")
	long := time.Now().Add(-time.Hour).Truncate(time.Second)
	if err := os.Chtimes(root, long, long); err != nil {
		t.Fatal(err)
	}
	if again := staged("a build"); again != first {
		t.Errorf("staged again it is %+v, before %+v", again, first)
	}
	if info, err := os.Stat(root); err != nil || !info.ModTime().Equal(long) {
		t.Errorf("what was there already was written again: %v", err)
	}

	if runtime.GOOS != "windows" {
		for _, mode := range []os.FileMode{0o444, 0o777} {
			if err := os.Chmod(first.path, mode); err != nil {
				t.Fatal(err)
			}
			staged("a build")
		}
		if err := errors.Join(os.Remove(first.path), os.Symlink(source, first.path)); err != nil {
			t.Fatal(err)
		}
		staged("a build")
		if info, err := os.Lstat(first.path); err != nil || info.Mode() != 0o555 {
			t.Errorf("the copy is %v, %v", info.Mode(), err)
		}
	}

	if err := os.Chmod(first.path, 0o700); err != nil { //nolint:gosec // to damage it
		t.Fatal(err)
	}
	write(first.path, "damaged")
	staged("a build")
	write(source, "another")
	if other := staged("another"); other.path == first.path {
		t.Errorf("another build took the place of the first: %+v", other)
	}
}

// TestChosen asks a store what is in use that remembers nothing, and one of which that can not be read.
func TestChosen(t *testing.T) {
	store := t.TempDir()
	if b, known, err := Chosen(store, "tag", "/plugins/tag"); known || err != nil {
		t.Errorf("of an empty store: %+v, %v, %v", b, known, err)
	}
	path := filepath.Join(store, "choices.json")
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if b, known, err := Chosen(store, "tag", "/plugins/tag"); known || err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("of a damaged store: %+v, %v, %v", b, known, err)
	}
}
