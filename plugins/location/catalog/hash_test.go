package catalog

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/starling-sync/starling/plugins/location/catalog/content"
	"github.com/starling-sync/starling/plugins/location/catalog/disk"
	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/sdktest"
)

// hashing turns on that what files hold is found out, at once.
func (w *world) hashing() {
	w.options.Hash, w.options.Settle, w.options.HashRate = true, time.Nanosecond, -1
}

// hashes returns the names of what files hold, by path below the location; "" where it is not known.
func (w *world) hashes() map[string]string {
	found := map[string]string{}
	for name, e := range w.entries() {
		found[name] = ""
		if e.ContentHash != nil {
			found[name] = *e.ContentHash
		}
	}
	return found
}

// nameOf returns the name of what the file holds now.
func (w *world) nameOf(path string) string {
	w.Helper()
	text, err := os.ReadFile(w.at(path))
	w.check(err)
	name, err := content.Name(strings.NewReader(string(text)), int64(len(text)), 1<<30, func(int) error { return nil })
	w.check(err)
	return name
}

// awaitHashes waits until exactly what these files hold is known.
func (w *world) awaitHashes(paths ...string) {
	w.Helper()
	want := map[string]string{}
	for _, path := range paths {
		want[path] = w.nameOf(path)
	}
	w.await("what files hold", func() bool {
		for path, name := range w.hashes() {
			if name != want[path] {
				return false
			}
		}
		return true
	})
}

func TestRun_Hash(t *testing.T) {
	w := newWorld(t, "a", "b/c", "b/d/e", "b/d/f")
	w.hashing()
	w.check(os.WriteFile(w.at("empty"), nil, 0o600))
	if os.Symlink("a", w.at("link")) != nil {
		t.Log("no symlinks here")
	}
	w.start()
	w.awaitHashes("a", "b/c", "b/d/e", "b/d/f", "empty")

	w.check(os.WriteFile(w.at("a"), []byte("something else"), 0o600))
	w.make("b/new")
	w.awaitHashes("a", "b/c", "b/d/e", "b/d/f", "empty", "b/new")

	written := w.host.Written()
	w.rename("b/c", "b/moved") // it holds the same
	w.expectWith("b/moved")
	w.awaitHashes("a", "b/moved", "b/d/e", "b/d/f", "empty", "b/new")
	w.stop()
	if more := w.host.Written() - written; more > 2 { // the entry and the time of its folder
		t.Errorf("%d rows were written for a new name, want 2", more)
	}
	commits := len(w.host.Commits())
	w.start()
	w.stop()
	if more := len(w.host.Commits()) - commits; more != 0 {
		t.Errorf("%d commits after a restart, want none", more)
	}
}

// expectWith waits until there is an entry at path.
func (w *world) expectWith(path string) {
	w.Helper()
	w.await(path, func() bool { _, ok := w.entries()[path]; return ok })
}

func TestRun_HashIsOffUnlessWanted(t *testing.T) {
	w := newWorld(t, "a", "b/c")
	w.start()
	w.stop()
	for path, name := range w.hashes() {
		if name != "" {
			t.Errorf("%s has the name %s", path, name)
		}
	}
	w.hashing() // what was catalogued before is caught up on
	w.start()
	w.awaitHashes("a", "b/c")
}

func TestRun_HashOfAtomicSave(t *testing.T) {
	w := newWorld(t, "doc")
	w.hashing()
	w.start()
	w.awaitHashes("doc")
	before := w.ids()
	w.check(os.WriteFile(w.at(".tmp"), []byte("new"), 0o600)) // as long as before, and then as old
	info, err := os.Stat(w.at("doc"))
	w.check(err)
	w.check(os.Chtimes(w.at(".tmp"), info.ModTime(), info.ModTime()))
	w.rename(".tmp", "doc")
	w.expect("doc")
	w.needsInodes()
	w.awaitHashes("doc")
	w.same(before, w.ids(), [2]string{"doc", "doc"})
}

func TestRun_HashWaitsForQuietFiles(t *testing.T) {
	w := newWorld(t, "old", "fresh", "ahead")
	w.hashing()
	w.options.Settle = time.Hour
	long, soon := time.Now().Add(-2*time.Hour), time.Now().Add(time.Minute)
	w.check(os.Chtimes(w.at("old"), long, long))
	w.check(os.Chtimes(w.at("ahead"), soon, soon))
	w.start()
	w.awaitHashes("old")
	w.awaitProgress(1, 3)
	w.check(os.Remove(w.at("fresh")))
	w.awaitProgress(1, 2)
}

// awaitProgress waits until it is shown of how many files it is known what they hold.
func (w *world) awaitProgress(done, total int64) {
	w.Helper()
	w.await(fmt.Sprintf("hashing %d of %d", done, total), func() bool {
		return w.progress(sdk.UnitFiles) == amount{done, total}
	})
}

// progress returns how far the hashing is said to be.
func (w *world) progress(unit sdk.Unit) amount {
	for _, p := range w.host.Progressed() {
		if p.Key == "hashing "+w.dir && p.Unit == unit {
			return amount{p.Done, p.Total}
		}
	}
	return amount{}
}

// TestRun_HashProgress follows how far it is as files come, move with their folder, and go.
func TestRun_HashProgress(t *testing.T) {
	w := newWorld(t, "a", "b/c", "b/d/e")
	w.hashing()
	w.start()
	w.awaitProgress(3, 3)
	w.make("b/d/f")
	w.awaitProgress(4, 4)
	w.rename("b", "moved")
	w.expectWith("moved/d/f")
	w.awaitProgress(4, 4)
	w.check(os.RemoveAll(w.at("moved")))
	w.awaitProgress(1, 1)
	w.stop()
	w.start()
	w.awaitProgress(1, 1)
	if got, size := w.progress(sdk.UnitBytes), w.entries()["a"].Size; got != (amount{size, size}) {
		t.Errorf("%d of %d bytes; want %d of as many", got.done, got.all, size)
	}
}

// TestRun_HashBesideAStuckLocation has a location on another disk never come to its end: what files of the others hold is found
// out all the same.
func TestRun_HashBesideAStuckLocation(t *testing.T) {
	w := newWorld(t, "a", "b/c")
	w.hashing()
	stuck := t.TempDir()
	w.check(os.WriteFile(filepath.Join(stuck, "file"), nil, 0o600))
	files := &stuckFiles{below: stuck, until: make(chan struct{}), at: make(chan struct{})}
	w.options.Files = files
	w.addLocation(stuck)
	defer close(files.until)
	w.run()
	<-files.at
	w.awaitHashes("a", "b/c")
}

// stuckFiles are those of another disk below a folder, and their folders can not be opened until a channel is closed.
type stuckFiles struct {
	disk.System
	below     string
	at, until chan struct{}
	once      sync.Once
}

func (s *stuckFiles) Stat(path string) (disk.Info, error) {
	info, err := s.System.Stat(path)
	if strings.HasPrefix(path, s.below) {
		info.Device++
	}
	return info, err
}

func (s *stuckFiles) Open(root, below string) (disk.Dir, error) {
	if root == s.below {
		s.once.Do(func() { close(s.at) })
		<-s.until
	}
	return s.System.Open(root, below)
}

func TestRun_HashOfUnreadable(t *testing.T) {
	w := newWorld(t, "a", "b", "c/d")
	w.hashing()
	files := &faulty{broken: map[string]error{}, reads: map[string]int{}, remote: true} // remote: read again and again
	w.options.Files, w.options.Rescan = files, 50*time.Millisecond
	files.set(w.at("b")+"!", syscall.EACCES)
	w.start()
	w.awaitHashes("a", "c/d")
	w.await("the warning", func() bool {
		warning := w.host.Warnings()["content "+w.dir]
		return warning.Count == 1 && strings.Contains(warning.Message, "b:")
	})
	w.awaitProgress(2, 2) // of those that can be read
	files.set(w.at("b")+"!", nil)
	w.awaitHashes("a", "b", "c/d")
	w.awaitProgress(3, 3)
	w.await("the warning to go", func() bool { return w.host.Warnings()["content "+w.dir].Count == 0 })
}

// TestHasher_Commit has entries change after their files were read: what was found out of these is not written.
func TestHasher_Commit(t *testing.T) {
	w := newWorld(t, "same", "changed", "gone")
	tree := w.read()
	tree.content = newHasher(tree, &disks{})
	results := map[sdk.RecordID]result{}
	for name, e := range w.entries() {
		results[e.ID] = result{e.info(), "sha256:00"}
		if name == "changed" {
			info := e.info()
			info.Modified = info.Modified.Add(-time.Second)
			results[e.ID] = result{info, "sha256:00"}
		}
	}
	w.check(os.Remove(w.at("gone")))
	w.readAgain(tree, "")
	w.check(tree.content.commit(t.Context(), results))
	for name, got := range w.hashes() {
		if want := map[string]string{"same": "sha256:00"}[name]; got != want {
			t.Errorf("%q has the name %q, want %q", name, got, want)
		}
	}
	tree.content.leave()
	commits := len(w.host.Commits())
	late := w.entries()["changed"]
	results = map[sdk.RecordID]result{late.ID: {late.info(), "sha256:00"}}
	w.check(tree.content.commit(t.Context(), results))
	if len(w.host.Commits()) != commits {
		t.Error("it wrote for a location that has ended")
	}
}

// TestPace holds that nothing is read of a disk while a location on it is read, no faster than wanted, and one file at a time.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate = 1 << 20
		var all disks
		p, other := all.of(1, ""), all.of(2, "")
		one, two := newHasher(&tree{}, &all), newHasher(&tree{}, &all)
		ends := []func(){one.reading(1, ""), two.reading(1, "")}
		rested := make(chan error, 1)
		go func() { rested <- p.rest(t.Context(), 1<<19, rate) }()
		for _, end := range ends {
			synctest.Wait()
			if err := other.rest(t.Context(), 1, rate); err != nil {
				t.Errorf("another disk: %v", err)
			}
			select {
			case err := <-rested:
				t.Fatalf("it went on while a location is read: %v", err)
			default:
			}
			end()
		}
		if err := <-rested; err != nil {
			t.Error(err)
		}
		began := time.Now()
		for range 4 {
			if err := p.rest(t.Context(), 1<<19, rate); err != nil {
				t.Error(err)
			}
		}
		if took := time.Since(began); took != 2*time.Second {
			t.Errorf("2 MiB at 1 MiB a second took %s", took)
		}
		if err := p.begin(t.Context()); err != nil {
			t.Error(err)
		}
		began2 := make(chan struct{})
		go func() {
			if err := p.begin(t.Context()); err != nil {
				t.Error(err)
			}
			close(began2)
		}()
		synctest.Wait()
		select {
		case <-began2:
			t.Error("two files of one disk are read at once")
		default:
		}
		p.end()
		<-began2
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		defer one.reading(1, "")()
		if err := p.rest(ctx, 1, rate); !errors.Is(err, context.Canceled) {
			t.Errorf("after the end: %v", err)
		}
		if err := p.begin(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("after the end: %v", err)
		}
	})
}

// TestHasher_Read gives it files that are not what their entries say.
func TestHasher_Read(t *testing.T) {
	w := newWorld(t, "file", "pipe")
	w.hashing()
	h := newHasher(w.read(), &disks{})
	h.reading(1, "")()
	dir, err := disk.System{}.Open(w.dir, ".")
	w.check(err)
	defer dir.Close()
	entries := w.entries()
	file, pipe := entries["file"], entries["pipe"]
	if name, err := h.read(t.Context(), dir, &file); err != nil || name != w.nameOf("file") {
		t.Errorf("read: %s, %v", name, err)
	}
	file.Size--
	if name, err := h.read(t.Context(), dir, &file); !errors.Is(err, content.ErrChanged) {
		t.Errorf("a file of another size: %s, %v", name, err)
	}
	w.check(os.Remove(w.at("pipe")))
	if name, err := h.read(t.Context(), dir, &pipe); !disk.Gone(err) {
		t.Errorf("a file that is gone: %s, %v", name, err)
	}
	w.pipe("pipe") // nobody will ever write to it
	if name, err := h.read(t.Context(), dir, &pipe); !errors.Is(err, content.ErrChanged) {
		t.Errorf("a pipe in its place: %s, %v", name, err)
	}
}

// TestHasher_ShowsBytes reads one file, in pieces between which a second goes by: what has been read of it shows at once, that its
// content is known when it is durable, and what was read in vain counts for nothing.
func TestHasher_ShowsBytes(t *testing.T) {
	const piece, size = 64 << 10, 3*64<<10 + 1
	w := newWorld(t, "other")
	w.check(os.WriteFile(w.at("file"), make([]byte, size), 0o600))
	w.hashing()
	now := time.Now()
	w.options.now = func() time.Time { now = now.Add(time.Second); return now }
	h := newHasher(w.read(), &disks{})
	var shown []int64
	shrinks := false // while it is read again
	h.host = following{w.host, func(p sdk.Progress) {
		switch {
		case p.Unit == sdk.UnitFiles && (p.Done != 0 || p.Total != 2):
			t.Errorf("%d of %d files; want 0 of 2", p.Done, p.Total)
		case p.Unit == sdk.UnitBytes && p.Total != size+10:
			t.Errorf("%d of %d bytes; want of %d", p.Done, p.Total, size+10)
		case p.Unit == sdk.UnitBytes:
			shown = append(shown, p.Done)
			if shrinks {
				w.check(os.Truncate(w.at("file"), piece+1))
			}
		}
	}}
	h.reading(1, "")()
	h.count(w.entries()[""].ID, counted{files: 2, unknown: 2, bytes: size + 10, unread: size + 10})
	dir, err := disk.System{}.Open(w.dir, ".")
	w.check(err)
	defer dir.Close()
	file := w.entries()["file"]
	_, err = h.read(t.Context(), dir, &file)
	w.check(err)
	h.show(true)
	shrinks = true // no more than all there is to read is shown
	if _, err := h.read(t.Context(), dir, &file); !errors.Is(err, content.ErrChanged) {
		t.Errorf("a file that changed: %v", err)
	}
	h.show(true)
	if diff := cmp.Diff([]int64{0, piece, 2 * piece, 3 * piece, size, size + 10, size}, shown); diff != "" {
		t.Errorf("bytes (-want +got):\n%s", diff)
	}
}

// TestHasher_CommitsAsItGoes hashes one folder, each of whose files takes as long as step says: what was found out is committed
// after a while, and after so many files, not only at the end of the folder. How far it is, is shown at most once a second.
func TestHasher_CommitsAsItGoes(t *testing.T) {
	for name, c := range map[string]struct {
		files   int
		step    time.Duration
		commits []int // rows of each, before the folder is over
		shown   []int64
	}{
		"slow":    {7, 1500 * time.Millisecond, []int{3, 3}, []int64{0, 3, 6}},
		"quick":   {7, 100 * time.Millisecond, nil, []int64{0}},
		"at once": {hashBatch + 5, 0, []int{hashBatch}, []int64{0}},
	} {
		t.Run(name, func(t *testing.T) {
			var files []string
			for i := range c.files {
				files = append(files, fmt.Sprintf("%03d", i))
			}
			w := newWorld(t, files...)
			w.hashing()
			now := time.Now()
			w.options.now, w.options.hashDelay = func() time.Time { return now }, 2*time.Second
			w.options.Files = &ticking{tick: func() { now = now.Add(c.step) }}
			tree := w.read()
			h := newHasher(tree, &disks{})
			var shown []int64
			h.host = following{w.host, func(p sdk.Progress) {
				if p.Unit != sdk.UnitFiles {
					return
				}
				if p.Total != int64(c.files) {
					t.Errorf("%d of %d; want of %d", p.Done, p.Total, c.files)
				}
				shown = append(shown, p.Done)
			}}
			h.reading(1, "")()
			root := w.entries()[""].ID
			h.count(root, counted{files: int64(c.files), unknown: int64(c.files)})
			before := len(w.host.Commits())
			w.check(h.look(t.Context(), &task{id: root}))
			var commits []int
			for _, batch := range w.host.Commits()[before:] {
				commits = append(commits, batch.Count)
			}
			if diff := cmp.Diff(c.commits, commits); diff != "" {
				t.Errorf("commits (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(c.shown, shown); diff != "" {
				t.Errorf("progress (-want +got):\n%s", diff)
			}
			if rest := c.files - sum(c.commits); len(h.results) != rest {
				t.Errorf("%d results are left for later; want %d", len(h.results), rest)
			}
		})
	}
}

func sum(numbers []int) (all int) {
	for _, n := range numbers {
		all += n
	}
	return all
}

// following is a host that tells what progress it is told.
type following struct {
	*sdktest.SourceHost
	told func(sdk.Progress)
}

func (f following) Progress(p sdk.Progress) { f.told(p) }

// ticking are files of which each tells when it is opened.
type ticking struct {
	disk.System
	tick func()
}

func (f *ticking) Open(root, below string) (disk.Dir, error) {
	dir, err := f.System.Open(root, below)
	return tickingDir{dir, f.tick}, err
}

type tickingDir struct {
	disk.Dir
	tick func()
}

func (d tickingDir) Open(name string) (disk.Reader, error) {
	d.tick()
	return d.Dir.Open(name)
}
