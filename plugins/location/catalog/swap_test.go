package catalog

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/fsnotify/fsnotify"

	"github.com/starling-sync/starling/plugins/location/catalog/disk"
)

// read reads the location once, and returns the tree for more, with nobody watching.
func (w *world) read() *tree {
	w.Helper()
	t := newTree(w.host, w.options.withDefaults(), w.location, w.dir)
	w.Cleanup(t.end)
	absent, err := t.look(w.Context())
	w.check(err)
	w.check(absent)
	w.check(t.readAll(w.Context()))
	return t
}

// readAgain reads the folders names again, as their events do.
func (w *world) readAgain(t *tree, names ...string) {
	w.Helper()
	paths := map[string]struct{}{}
	for _, name := range names {
		paths[w.at(name)] = struct{}{}
	}
	w.check(t.readChanged(w.Context(), paths))
}

// neverSaid checks that name is in nothing that was committed.
func (w *world) neverSaid(name string) {
	w.Helper()
	for _, batch := range w.host.Commits() {
		if strings.Contains(string(batch.Rows), name) {
			w.Fatalf("%q was committed", name)
		}
	}
}

// An event carries the path that its folder had: a part of it may be a link by now, and then the folder is another one.
func TestTree_PathThatIsAnotherFolderByNow(t *testing.T) {
	for _, test := range []struct {
		name string
		swap func(w *world)
		want []string
	}{
		{"a link out of the location", func(w *world) {
			w.rename("a", "x")
			w.check(os.Symlink(filepath.Join(filepath.Dir(w.dir), "outside"), w.at("a")))
		}, []string{"a", "x", "x/b", "x/b/new", "x/b/old"}},
		{"a link upwards", func(w *world) {
			w.rename("a", "x")
			w.check(os.Symlink(filepath.Join("..", "outside"), w.at("a")))
		}, []string{"a", "x", "x/b", "x/b/new", "x/b/old"}},
		{"a link in place of the folder itself", func(w *world) {
			w.check(os.Mkdir(w.at("x"), 0o700))
			w.rename("a/b", "x/b")
			w.check(os.Symlink(filepath.Join(filepath.Dir(w.dir), "outside", "b"), w.at("a/b")))
		}, []string{"a", "a/b", "x", "x/b", "x/b/new", "x/b/old"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, "a/b/old")
			outside := filepath.Join(filepath.Dir(w.dir), "outside", "b")
			w.check(os.MkdirAll(outside, 0o700))
			w.check(os.WriteFile(filepath.Join(outside, "secret"), nil, 0o600))
			if err := os.Symlink(outside, w.at("try")); err != nil {
				t.Skip("no symlinks here:", err)
			}
			w.check(os.Remove(w.at("try")))
			tree := w.read()
			before := w.ids()
			test.swap(w)
			w.make("x/b/new")
			w.readAgain(tree, "a/b")
			w.neverSaid("secret")
			w.expect("a", "a/b", "a/b/old") // the folder above is not read yet
			w.readAgain(tree, "", "a", "a/b")
			w.expect(test.want...)
			w.neverSaid("secret")
			w.needsInodes()
			w.same(before, w.ids(), [2]string{"a/b", "x/b"}, [2]string{"a/b/old", "x/b/old"})
			if warnings := w.host.Warnings(); len(warnings) > 0 {
				t.Errorf("warnings: %v", warnings)
			}
		})
	}
}

// A link that stays within the location is refused by what the folder is, not by where it is.
func TestTree_PathThatLeadsToAnotherFolderOfTheLocation(t *testing.T) {
	w := newWorld(t, "a/b/old", "other/b/elsewhere")
	w.needsInodes()
	tree := w.read()
	before := w.ids()
	w.rename("a", "x")
	w.check(os.Symlink("other", w.at("a")))
	written := w.host.Written()
	w.readAgain(tree, "a/b")
	if more := w.host.Written() - written; more != 0 {
		t.Errorf("%d rows written for a folder that is another one", more)
	}
	if n := w.host.Warnings()["unreadable "+w.dir].Count; n != 1 {
		t.Errorf("%d unreadable folders, want 1 until the folder above is read", n)
	}
	w.readAgain(tree, "")
	w.expect("a", "other", "other/b", "other/b/elsewhere", "x", "x/b", "x/b/old")
	w.same(before, w.ids(), [2]string{"a", "x"}, [2]string{"a/b/old", "x/b/old"}, [2]string{"other/b/elsewhere", "other/b/elsewhere"})
	if warnings := w.host.Warnings(); len(warnings) > 0 {
		t.Errorf("warnings: %v", warnings)
	}
}

// The folder may be swapped even between the reading of its folder and its own.
func TestTree_FolderSwappedDuringTheReading(t *testing.T) {
	w := newWorld(t, "a/b/old")
	outside := filepath.Join(filepath.Dir(w.dir), "outside", "b")
	w.check(os.MkdirAll(outside, 0o700))
	w.check(os.WriteFile(filepath.Join(outside, "secret"), nil, 0o600))
	w.options.Batch = 1
	w.options.Files = &swapping{at: "b", swap: func() {
		w.rename("a", "x")
		w.check(os.Symlink(filepath.Dir(outside), w.at("a")))
	}}
	w.start()
	w.expect("a", "x", "x/b", "x/b/old")
	w.neverSaid("secret")
}

// swapping is a file system in which something happens once, after at was looked at.
type swapping struct {
	disk.System
	at   string
	swap func()
}

func (s *swapping) Open(root, below string) (disk.Dir, error) {
	dir, err := s.System.Open(root, below)
	return &swappingDir{dir, s}, err
}

type swappingDir struct {
	disk.Dir
	files *swapping
}

func (d *swappingDir) Stat(name string) (disk.Info, error) {
	info, err := d.Dir.Stat(name)
	if name == d.files.at && d.files.swap != nil {
		d.files.swap()
		d.files.swap = nil
	}
	return info, err
}

func TestRun_FoldersSwapNames(t *testing.T) {
	w := newWorld(t, "a/one", "b/two")
	w.needsInodes()
	w.start()
	before := w.ids()
	w.rename("a", "c")
	w.rename("b", "a")
	w.rename("c", "b")
	w.make("a/three") // and both are still followed
	w.expect("a", "a/three", "a/two", "b", "b/one")
	w.make("b/four")
	w.expect("a", "a/three", "a/two", "b", "b/four", "b/one")
	w.same(before, w.ids(), [2]string{"a", "b"}, [2]string{"b", "a"}, [2]string{"a/one", "b/one"}, [2]string{"b/two", "a/two"})
}

// One folder may be watched under two paths for a moment: a path may be swapped right after it was opened.
func TestWatch_OneFolderUnderTwoPaths(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a", "in"), filepath.Join(dir, "b", "in")
	for _, path := range []string{a, b} {
		if err := os.MkdirAll(path, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	w, err := newWatch(fsnotify.NewWatcher, func(string) bool { return false })
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	add := func(path string) {
		t.Helper()
		if err := w.add(path); err != nil {
			t.Fatal(err)
		}
	}
	add(a)
	add(b)
	if err := os.Rename(filepath.Dir(a), filepath.Join(dir, "away")); err != nil { // it is not told of in a
		t.Fatal(err)
	}
	if err := os.Symlink("b", filepath.Dir(a)); err != nil {
		t.Skip("no symlinks here:", err)
	}
	add(a)
	w.remove(a)
	w.remove(b)
	add(b)
	if err := os.WriteFile(filepath.Join(b, "new"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for {
		<-w.signal
		if dirty, _ := w.take(); len(dirty) > 0 {
			break
		}
	}
}
