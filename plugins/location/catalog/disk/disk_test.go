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
	f, err := os.Lstat(file)
	if err != nil {
		t.Fatal(err)
	}
	info.Inode, info.Device, info.Created = 0, 0, time.Time{}
	if diff := cmp.Diff(info, portable(f)); diff != "" {
		t.Errorf("the system's own call and the portable one differ (-own +portable):\n%s", diff)
	}
}

// names lists the folder below, and checks that each name is there for Stat too.
func names(t *testing.T, root, below string) ([]string, error) {
	t.Helper()
	dir, err := System{}.Open(root, below)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	whole, err := System{}.Stat(filepath.Join(root, below))
	if err != nil {
		t.Fatal(err)
	}
	if info, err := dir.Stat("."); err != nil || (whole.Kind == Directory && info != whole) {
		t.Errorf("the folder itself: %+v, %v, want %+v", info, err, whole)
	}
	names, err := dir.Names()
	for _, name := range names {
		whole, err := System{}.Stat(filepath.Join(root, below, name))
		if err != nil {
			t.Fatal(err)
		}
		if info, err := dir.Stat(name); err != nil || info != whole {
			t.Errorf("%s: %+v, %v, want %+v", name, info, err, whole)
		}
	}
	return names, err
}

func TestSystem_Open(t *testing.T) {
	top := t.TempDir()
	root, outside := filepath.Join(top, "root"), filepath.Join(top, "outside")
	for _, path := range []string{filepath.Join(root, "a", "b"), filepath.Join(root, "a", "a"), filepath.Join(outside, "b")} {
		if err := os.MkdirAll(path, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "a", "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for below, want := range map[string][]string{".": {"a"}, "a": {"a", "b", "file"}, filepath.Join("a", "b"): nil} {
		if got, err := names(t, root, below); err != nil || !slices.Equal(got, want) {
			t.Errorf("names in %s: %q, %v, want %q", below, got, err, want)
		}
	}
	for link, target := range map[string]string{"out": outside, "up": filepath.Join("..", "outside"), "whole": "/"} {
		if err := os.Symlink(target, filepath.Join(root, link)); err != nil {
			t.Skip("no symlinks here:", err)
		}
	}
	for _, below := range []string{
		"none", "out", filepath.Join("out", "b"), "up", filepath.Join("up", "b"), "whole", filepath.Join("a", "file"), "..",
	} {
		if got, err := names(t, root, below); !Gone(err) {
			t.Errorf("names in %s: %q, %v, want an error that is Gone", below, got, err)
		}
	}
	if _, err := (System{}).Open(filepath.Join(root, "none"), "."); !Gone(err) || !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open below nothing: %v, want one that is Gone", err)
	}
}

func TestSystem_OpenIsOfOneFolder(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "a", "in"), 0o700); err != nil {
		t.Fatal(err)
	}
	dir, err := System{}.Open(root, "a")
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if err := os.Rename(filepath.Join(root, "a"), filepath.Join(root, "moved")); err != nil {
		t.Skip("an open folder can not be moved here:", err)
	}
	if names, err := dir.Names(); err != nil || !slices.Equal(names, []string{"in"}) {
		t.Errorf("Names = %q, %v", names, err)
	}
	if info, err := dir.Stat("in"); err != nil || info.Kind != Directory {
		t.Errorf("Stat = %+v, %v", info, err)
	}
}
