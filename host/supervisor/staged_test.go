package supervisor

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestStage_again stages a binary whose copy is in the store: nothing is written, unless the copy is damaged or the binary is
// another one of the same size.
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
