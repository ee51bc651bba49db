package catalog

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/google/go-cmp/cmp"

	"github.com/starling-sync/starling/plugins/location/catalog/disk"
	"github.com/starling-sync/starling/sdk"
)

func TestRun_FirstReading(t *testing.T) {
	w := newWorld(t, "a.TXT", "b/", "b/c/d.tar.gz", "b/.profile")
	w.start()
	w.expect("a.TXT", "b", "b/c", "b/c/d.tar.gz", "b/.profile")
	entries := w.entries()
	for name, want := range map[string][2]string{
		"": {disk.Directory, ""}, "a.TXT": {disk.File, "txt"}, "b/c": {disk.Directory, ""},
		"b/c/d.tar.gz": {disk.File, "gz"}, "b/.profile": {disk.File, ""},
	} {
		if got := [2]string{entries[name].Kind, entries[name].Extension}; got != want {
			t.Errorf("%q: kind and extension %q, want %q", name, got, want)
		}
	}
	a := entries["a.TXT"]
	info, err := os.Stat(w.at("a.TXT"))
	w.check(err)
	if a.Size != 5 || !a.ModifiedAt.Equal(info.ModTime().Truncate(time.Microsecond)) || a.Location.ID() != w.location {
		t.Errorf("entry a.TXT = %+v", a)
	}
	if top := entries[""]; top.ID != RootID(w.location) || top.Name != "top" {
		t.Errorf("the location's own entry = %+v", top)
	}
}

func TestRun_RestartCommitsNothing(t *testing.T) {
	w := newWorld(t, "a", "b/c/d", "b/e")
	w.start()
	w.stop()
	commits := len(w.host.Commits())
	w.start()
	w.stop()
	if more := len(w.host.Commits()) - commits; more != 0 {
		t.Errorf("%d commits after a restart on an unchanged folder, want none", more)
	}
}

func TestRun_RestartSeesWhatChanged(t *testing.T) {
	w := newWorld(t, "a", "b/c/d", "b/e", "z/y/x")
	w.start()
	before := w.ids()
	w.stop()
	w.rename("b/c", "c2")
	w.rename("z/y/x", "b/x2")
	w.check(os.RemoveAll(w.at("z")))
	w.check(os.Remove(w.at("a")))
	w.make("b/new")
	w.start()
	w.expect("b", "b/e", "b/new", "b/x2", "c2", "c2/d")
	w.needsInodes()
	w.same(before, w.ids(), [2]string{"b/c", "c2"}, [2]string{"b/c/d", "c2/d"}, [2]string{"z/y/x", "b/x2"}, [2]string{"b/e", "b/e"})
}

func TestRun_Follow(t *testing.T) {
	w := newWorld(t, "a", "b/c")
	w.start()
	before := w.ids()

	w.make("b/new/deep/er/file")
	w.expect("a", "b", "b/c", "b/new", "b/new/deep", "b/new/deep/er", "b/new/deep/er/file")
	w.make("b/new/deep/er/second")
	w.expect("a", "b", "b/c", "b/new", "b/new/deep", "b/new/deep/er", "b/new/deep/er/file", "b/new/deep/er/second")

	w.check(os.WriteFile(w.at("a"), []byte("longer than before"), 0o600))
	w.await("the new size", func() bool { return w.entries()["a"].Size == 18 })

	w.check(os.Chmod(w.at("a"), 0o400))
	if runtime.GOOS != "windows" {
		w.await("the new permissions", func() bool { return w.entries()["a"].Permissions == 0o400 })
	}
	w.check(os.Chmod(w.at("a"), 0o600))
	w.check(os.Remove(w.at("a")))
	w.check(os.RemoveAll(w.at("b/new")))
	w.expect("b", "b/c")
	w.same(before, w.ids(), [2]string{"b/c", "b/c"})
	w.await("the folder's own time", func() bool {
		info, err := os.Stat(w.at("b"))
		w.check(err)
		return w.entries()["b"].ModifiedAt.Equal(info.ModTime().Truncate(time.Microsecond))
	})
}

func TestRun_RenameAndMove(t *testing.T) {
	w := newWorld(t, "a", "b/c/d/e", "b/c/f", "g/")
	w.needsInodes()
	w.start()
	before := w.ids()

	w.rename("a", "a2")
	w.expect("a2", "b", "b/c", "b/c/d", "b/c/d/e", "b/c/f", "g")
	w.same(before, w.ids(), [2]string{"a", "a2"})

	w.rename("a2", "g/a3")
	w.expect("g/a3", "b", "b/c", "b/c/d", "b/c/d/e", "b/c/f", "g")
	w.same(before, w.ids(), [2]string{"a", "g/a3"})

	w.rename("b/c", "g/c2")
	w.expect("g/a3", "b", "g", "g/c2", "g/c2/d", "g/c2/d/e", "g/c2/f")
	w.same(before, w.ids(), [2]string{"b/c", "g/c2"}, [2]string{"b/c/d/e", "g/c2/d/e"}, [2]string{"b/c/f", "g/c2/f"})

	w.make("g/c2/d/later") // the moved folder is still followed
	w.expect("g/a3", "b", "g", "g/c2", "g/c2/d", "g/c2/d/e", "g/c2/d/later", "g/c2/f")

	w.rename("g/c2", "g/c3") // a folder may change its name and its content at once
	w.rename("g/c3/d/e", "e")
	w.expect("g/a3", "b", "g", "g/c3", "g/c3/d", "g/c3/d/later", "g/c3/f", "e")
	w.same(before, w.ids(), [2]string{"b/c", "g/c3"}, [2]string{"b/c/d/e", "e"})

	w.rename("g", "b/g")
	w.rename("b", "h")
	w.expect("h", "h/g", "h/g/a3", "h/g/c3", "h/g/c3/d", "h/g/c3/d/later", "h/g/c3/f", "e")
	w.same(before, w.ids(), [2]string{"b", "h"}, [2]string{"g", "h/g"}, [2]string{"b/c", "h/g/c3"})
}

func TestRun_NameGivenToAnotherFile(t *testing.T) {
	w := newWorld(t, "a", "swap1", "swap2")
	w.needsInodes()
	w.start()
	before := w.ids()
	w.stop()
	w.rename("a", "b")
	w.make("a")
	w.rename("swap1", "tmp")
	w.rename("swap2", "swap1")
	w.rename("tmp", "swap2")
	w.start()
	w.expect("a", "b", "swap1", "swap2")
	after := w.ids()
	w.same(before, after, [2]string{"a", "b"}, [2]string{"swap1", "swap2"}, [2]string{"swap2", "swap1"})
	if after["a"] == before["a"] {
		t.Error("the new a has the id of the old one, which is b now")
	}
}

func TestRun_AtomicSave(t *testing.T) {
	w := newWorld(t, "doc")
	w.start()
	before := w.ids()

	w.stop() // the temporary file is never seen
	w.check(os.WriteFile(w.at("doc.tmp"), []byte("second version"), 0o600))
	w.rename("doc.tmp", "doc")
	w.start()
	w.await("the second version", func() bool { return w.entries()["doc"].Size == 14 })
	w.same(before, w.ids(), [2]string{"doc", "doc"})

	w.check(os.WriteFile(w.at("doc.tmp"), []byte("the third version"), 0o600)) // a slow save: it is seen
	w.expect("doc", "doc.tmp")
	w.rename("doc.tmp", "doc")
	w.expect("doc")
	w.await("the third version", func() bool { return w.entries()["doc"].Size == 17 })
	w.same(before, w.ids(), [2]string{"doc", "doc"})
}

func TestRun_HardLinks(t *testing.T) {
	w := newWorld(t, "a", "b/")
	w.check(os.Link(w.at("a"), w.at("twin")))
	w.start()
	w.expect("a", "b", "twin")
	before := w.ids()
	w.check(os.Link(w.at("a"), w.at("b/third")))
	w.expect("a", "b", "b/third", "twin")
	w.same(before, w.ids(), [2]string{"a", "a"}, [2]string{"twin", "twin"})
	w.stop()
	commits := len(w.host.Commits())
	w.start()
	w.stop()
	if more := len(w.host.Commits()) - commits; more != 0 {
		t.Errorf("%d commits after a restart, want none: the names fight over one identity", more)
	}
	w.needsInodes()
	before = w.ids()
	w.rename("twin", "b/moved")
	w.start()
	w.expect("a", "b", "b/moved", "b/third")
	w.same(before, w.ids(), [2]string{"a", "a"}, [2]string{"b/third", "b/third"}, [2]string{"twin", "b/moved"})
}

func TestRun_SymlinksAreNotFollowed(t *testing.T) {
	w := newWorld(t, "in/file")
	outside := t.TempDir()
	w.check(os.WriteFile(filepath.Join(outside, "secret"), nil, 0o600))
	for name, target := range map[string]string{"out": outside, "loop": w.dir, "dangling": "nowhere", "in/up": ".."} {
		if err := os.Symlink(target, w.at(name)); err != nil {
			t.Skip("no symlinks here:", err)
		}
	}
	w.start()
	w.expect("dangling", "in", "in/file", "in/up", "loop", "out")
	for _, name := range []string{"dangling", "in/up", "loop", "out"} {
		if kind := w.entries()[name].Kind; kind != disk.Symlink {
			t.Errorf("%s is a %s, want a symlink", name, kind)
		}
	}
	w.check(os.RemoveAll(w.at("in"))) // a folder becomes a link
	w.check(os.Symlink(outside, w.at("in")))
	w.expect("dangling", "in", "loop", "out")
}

func TestRun_Ignore(t *testing.T) {
	w := newWorld(t, "src/main.go", "src/main.tmp", "node_modules/x/y", "src/node_modules/z", "build/out", "src/build/kept")
	w.options.Ignore = []string{"node_modules", "*.tmp", "build/*"}
	w.start()
	w.expect("build", "src", "src/build", "src/build/kept", "src/main.go")
	w.make("node_modules/x/more")
	w.make("src/other.tmp")
	w.make("src/seen")
	w.expect("build", "src", "src/build", "src/build/kept", "src/main.go", "src/seen")
	w.stop()
	w.options.Ignore = []string{"src"} // what is ignored later is deleted
	w.start()
	w.expect("build", "build/out", "node_modules", "node_modules/x", "node_modules/x/more", "node_modules/x/y")
}

func TestRun_OwnDataIsLeftAlone(t *testing.T) {
	w := newWorld(t, "device/starling.db", "device/starling.lock", "device/plugins/tag", "file")
	w.start()
	w.expect("device", "file")
	warned := func(n int) func() bool {
		return func() bool { return w.host.Warnings()["data "+w.dir].Count == n }
	}
	w.await("the warning", warned(1))
	if message := w.host.Warnings()["data "+w.dir].Message; strings.Contains(message, "more") {
		t.Errorf("it is the only one, and the warning is of others too: %s", message)
	}
	w.rename("device", "moved")
	w.expect("file", "moved")
	w.await("the warning of one folder", warned(1))
	w.check(os.RemoveAll(w.at("moved")))
	w.expect("file")
	w.await("the warning to go", warned(0))
}

func TestRun_FileNamedAsOwnData(t *testing.T) {
	w := newWorld(t, "a/one", "a/two/three")
	w.start()
	w.make("a/starling.db")
	w.expect("a", "a/one", "a/starling.db", "a/two", "a/two/three")
	if warnings := w.host.Warnings(); len(warnings) > 0 {
		t.Errorf("warnings: %v", warnings)
	}
	w.make("a/starling.lock") // a data folder that was put here
	w.expect("a")
	w.await("the warning", func() bool { return w.host.Warnings()["data "+w.dir].Count == 1 })
}

func TestRun_OddNames(t *testing.T) {
	w := newWorld(t, "new\nline", "gr\u00fc\u00dfe", "space ", `back\slash`, `like\xffescape`)
	names := []string{"new\nline", "gr\u00fc\u00dfe", "space ", `back\slash`, `like\x5cxffescape`}
	if err := os.Mkdir(w.at("d\xe9j\xe0"), 0o700); err == nil {
		w.check(os.WriteFile(w.at("d\xe9j\xe0/\xff\xfe"), nil, 0o600))
		names = append(names, `d\xe9j\xe0`, `d\xe9j\xe0/\xff\xfe`)
	}
	w.start()
	w.expect(names...)
	w.stop()
	commits := len(w.host.Commits())
	w.start()
	if more := len(w.host.Commits()) - commits; more != 0 {
		t.Errorf("%d commits after a restart, want none", more)
	}
	before := w.ids()
	if _, ok := before[`d\xe9j\xe0`]; ok {
		w.rename("d\xe9j\xe0/\xff\xfe", "plain")
		names[len(names)-1] = "plain"
		w.expect(names...)
		w.same(before, w.ids(), [2]string{`d\xe9j\xe0/\xff\xfe`, "plain"})
	}
}

func TestRun_VanishedFolderDeletesNothing(t *testing.T) {
	w := newWorld(t, "a", "b/c")
	w.start()
	before := w.ids()
	away := w.dir + ".away"
	absent := func() bool { _, ok := w.host.Warnings()["absent "+w.dir]; return ok }

	w.check(os.Rename(w.dir, away))
	w.await("the warning", absent)
	w.check(os.Mkdir(w.dir, 0o700)) // what is left where a disk was unmounted
	w.stop()
	w.run()
	w.await("the warning after a restart", absent)
	w.expect("a", "b", "b/c")

	w.check(os.Remove(w.dir))
	w.check(os.Rename(away, w.dir))
	w.make("b/d")
	w.expect("a", "b", "b/c", "b/d")
	w.same(before, w.ids(), [2]string{"a", "a"}, [2]string{"b", "b"}, [2]string{"b/c", "b/c"})
	w.await("the warning to go", func() bool { return !absent() })
}

func TestRun_EmptiedFolderIsEmpty(t *testing.T) {
	w := newWorld(t, "a", "b/c")
	w.start()
	w.check(os.Remove(w.at("a")))
	w.check(os.RemoveAll(w.at("b")))
	w.expect()
	if warnings := w.host.Warnings(); len(warnings) > 0 {
		t.Errorf("warnings: %v", warnings)
	}
}

func TestRun_RestoredFolderKeepsIDs(t *testing.T) {
	w := newWorld(t, "a", "b/c")
	w.start()
	before := w.ids()
	w.stop()
	w.check(os.Rename(w.dir, w.dir+".old")) // the same names on another disk
	for _, name := range []string{"", "a", "b/c"} {
		w.make(name)
	}
	w.start()
	w.expect("a", "b", "b/c")
	if diff := cmp.Diff(before, w.ids()); diff != "" {
		t.Errorf("ids changed (-before +after):\n%s", diff)
	}
}

func TestRun_Locations(t *testing.T) {
	w := newWorld(t, "a/b", "c")
	other := filepath.Join(t.TempDir(), "other")
	w.check(os.MkdirAll(filepath.Join(other, "x", "y"), 0o700))
	w.start()
	w.expect("a", "a/b", "c")
	w.addLocation(other)
	w.expect("a", "a/b", "c", "other", "other/x", "other/x/y")
}

func TestRun_RemovedLocation(t *testing.T) {
	for _, running := range []bool{true, false} {
		t.Run(fmt.Sprintf("running=%v", running), func(t *testing.T) {
			w := newWorld(t, "a/b/c/d", "a/e", "f")
			w.start()
			if !running {
				w.stop()
			}
			w.removeLocation(w.location)
			if !running {
				w.run()
			}
			w.await("no entries", func() bool { return w.host.Count("entry") == 0 })
			w.checkOrder()
		})
	}
}

func TestRun_ManyFiles(t *testing.T) {
	w := newWorld(t)
	n := 20_000
	if testing.Short() {
		n = 2_000
	}
	for i := range n / 100 {
		folder := w.at(fmt.Sprintf("%d/%d", i%10, i))
		w.check(os.MkdirAll(folder, 0o700))
		for j := range 100 {
			w.check(os.WriteFile(filepath.Join(folder, fmt.Sprint(j)), nil, 0o600))
		}
	}
	w.options.Batch = 0
	w.start()
	want := 1 + 10 + n/100 + n
	if got := w.host.Count("entry"); got != want {
		t.Errorf("%d entries, want %d", got, want)
	}
	for _, batch := range w.host.Commits() {
		if batch.Count > 1000 {
			t.Errorf("a batch of %d rows, want at most 1000", batch.Count)
		}
	}
}

func TestRun_UnreadableFolder(t *testing.T) {
	w := newWorld(t, "a/b/c", "d/e", "f/g")
	files := &faulty{broken: map[string]error{}, reads: map[string]int{}}
	w.options.Files, w.options.Rescan = files, 50*time.Millisecond
	w.start()
	w.expect("a", "a/b", "a/b/c", "d", "d/e", "f", "f/g")
	w.stop()
	files.set(w.at("a"), fs.ErrPermission)
	files.set(w.at("d"), errors.New("input/output error"))
	files.set(w.at("f/g?"), fs.ErrPermission)
	w.run()
	unreadable := func(count int) func() bool {
		return func() bool { return w.host.Warnings()["unreadable "+w.dir].Count == count }
	}
	w.await("the warning", unreadable(3))
	w.make("h") // the rest goes on
	w.expect("a", "a/b", "a/b/c", "d", "d/e", "f", "f/g", "h")
	files.set(w.at("a"), nil)
	files.set(w.at("d"), nil)
	files.set(w.at("f/g?"), nil)
	w.await("the warning to go", unreadable(0))
}

func TestRun_UnwatchedFolderIsReadAgain(t *testing.T) {
	w := newWorld(t, "a")
	w.options.Files, w.options.Rescan = &faulty{broken: map[string]error{}, reads: map[string]int{}, remote: true}, 50*time.Millisecond
	w.options.newWatcher = func() (*fsnotify.Watcher, error) { return nil, errors.New("too many open files") }
	w.start()
	w.await("the warnings", func() bool {
		warnings := w.host.Warnings()
		return warnings["remote "+w.dir].Count == 1 && warnings["unwatched "+w.dir].Count == 1
	})
	w.make("b/c")
	w.expect("a", "b", "b/c")
}

func TestRun_WatchLimit(t *testing.T) {
	w := newWorld(t, "a/b")
	w.options.Rescan = 50 * time.Millisecond
	w.options.newWatcher = func() (*fsnotify.Watcher, error) { // one that takes no folder
		watcher, err := fsnotify.NewWatcher()
		if err == nil {
			err = watcher.Close()
		}
		return watcher, err
	}
	w.start()
	w.await("the warning", func() bool { return w.host.Warnings()["unwatched "+w.dir].Count == 2 })
	w.make("a/c")
	w.expect("a", "a/b", "a/c")
}

func TestRun_OverflowReadsAllAgain(t *testing.T) {
	w := newWorld(t, "a/b/c")
	files := &faulty{broken: map[string]error{}, reads: map[string]int{}}
	w.options.Files = files
	var watcher *fsnotify.Watcher
	w.options.newWatcher = func() (_ *fsnotify.Watcher, err error) {
		watcher, err = fsnotify.NewWatcher()
		return watcher, err
	}
	w.start()
	reads := files.count(w.at("a/b"))
	watcher.Errors <- fsnotify.ErrEventOverflow
	w.await("another reading of all", func() bool { return files.count(w.at("a/b")) > reads })
	w.make("a/d") // and it follows on
	w.expect("a", "a/b", "a/b/c", "a/d")
}

func TestRun_InterruptedReadingGoesOn(t *testing.T) {
	w := newWorld(t)
	var names []string
	for i := range 30 {
		folder := fmt.Sprintf("%02d", i)
		names = append(names, folder)
		for j := range 20 {
			name := fmt.Sprintf("%s/%d", folder, j)
			w.make(name)
			names = append(names, name)
		}
	}
	for batches := range 4 {
		broken := errors.New("disk full")
		err := Run(t.Context(), &failing{SourceHost: w.host, err: broken, left: batches}, w.options)
		if !errors.Is(err, broken) {
			t.Fatalf("Run: %v, want %v", err, broken)
		}
	}
	w.start()
	w.expect(names...)
}

func TestRun_FailedCommitIsAnError(t *testing.T) {
	w := newWorld(t, "a")
	broken := errors.New("disk full")
	err := Run(t.Context(), &failing{SourceHost: w.host, err: broken}, w.options)
	if !errors.Is(err, broken) {
		t.Errorf("Run: %v, want %v", err, broken)
	}
}

func BenchmarkRun(b *testing.B) {
	dir := b.TempDir()
	const n = 20_000
	for i := range n / 100 {
		folder := filepath.Join(dir, fmt.Sprint(i))
		if err := os.MkdirAll(folder, 0o700); err != nil {
			b.Fatal(err)
		}
		for j := range 100 {
			if err := os.WriteFile(filepath.Join(folder, fmt.Sprint(j)), nil, 0o600); err != nil {
				b.Fatal(err)
			}
		}
	}
	for b.Loop() {
		t := newTree(discard{}, Options{}.withDefaults(), sdk.NewRecordID(), dir)
		if absent, err := t.look(b.Context()); absent != nil || err != nil {
			b.Fatal(absent, err)
		}
		if err := t.readAll(b.Context()); err != nil {
			b.Fatal(err)
		}
		t.end()
	}
	b.ReportMetric(float64(n*b.N)/b.Elapsed().Seconds(), "entries/s")
}
