package disk

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestSystem_Stat(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "a.txt")
	if err := os.WriteFile(file, []byte("hello"), 0o640); err != nil {
		t.Fatal(err)
	}
	modified := time.Date(2026, 3, 1, 12, 0, 0, 123456000, time.UTC)
	if err := os.Chtimes(file, modified, modified); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(dir, "nowhere"), filepath.Join(dir, "link")); err != nil {
		t.Skip("no symlinks here:", err)
	}
	info, err := System{}.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if info.Kind != File || info.Size != 5 || !info.Modified.Equal(modified) {
		t.Errorf("Stat = %+v", info)
	}
	if runtime.GOOS != "windows" && (info.Permissions != 0o640 || info.Inode == 0) {
		t.Errorf("Stat = %+v, want permissions 640 and an inode", info)
	}
	for name, want := range map[string]string{".": Directory, "link": Symlink} {
		info, err := System{}.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Kind != want {
			t.Errorf("Stat(%s).Kind = %s, want %s", name, info.Kind, want)
		}
	}
	portable, _, err := portableStat(file)
	if err != nil {
		t.Fatal(err)
	}
	info.Inode, info.Device, info.Created = 0, 0, time.Time{}
	if diff := cmp.Diff(info, portable); diff != "" {
		t.Errorf("the system's own call and the portable one differ (-own +portable):\n%s", diff)
	}
}

func TestSystem_Names(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"b", "a", "c"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	names, err := System{}.Names(dir)
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"a", "b", "c"}; !slices.Equal(names, want) {
		t.Errorf("Names = %q, want %q", names, want)
	}
	if _, err := (System{}).Names(filepath.Join(dir, "none")); !Gone(err) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Names of nothing: %v, want one that is Gone", err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(filepath.Join(dir, "a"), link); err != nil {
		t.Skip("no symlinks here:", err)
	}
	if _, err := (System{}).Names(link); runtime.GOOS != "windows" && !Gone(err) {
		t.Errorf("Names of a link: %v, want it refused", err)
	}
}
