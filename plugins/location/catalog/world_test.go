package catalog

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/starling-sync/starling/plugins/location/catalog/disk"
	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/sdktest"
)

// deadline is how long a test waits for what must come; nothing waits that long when all is well.
const deadline = 2 * time.Minute

// world is a folder, a host, and the catalogue between the two.
type world struct {
	*testing.T
	host     *sdktest.SourceHost
	dir      string
	location sdk.RecordID
	options  Options
	stop     func() // ends the catalogue and waits
}

// newWorld returns a world whose folder holds files; a name that ends in a slash is a folder. Nothing runs yet.
func newWorld(t *testing.T, files ...string) *world {
	t.Helper()
	t.Cleanup(func() { goleak.VerifyNone(t) })
	w := &world{
		T:       t,
		host:    sdktest.NewSourceHost(t, locationModel(), entryModel()),
		dir:     filepath.Join(t.TempDir(), "top"),
		options: Options{Debounce: 20 * time.Millisecond, Poll: 20 * time.Millisecond, Batch: 100},
		stop:    func() {},
	}
	t.Cleanup(func() { w.stop() })
	w.make("")
	for _, name := range files {
		w.make(name)
	}
	w.location = w.addLocation(w.dir)
	return w
}

func (w *world) addLocation(path string) sdk.RecordID {
	w.Helper()
	location := Location{Path: path}
	packer, err := locationModel().Packer()
	w.check(err)
	packer.Put(&location)
	_, err = w.host.Commit(context.Background(), packer.Batch())
	w.check(err)
	return location.ID
}

func (w *world) removeLocation(id sdk.RecordID) {
	w.Helper()
	packer, err := locationModel().Packer()
	w.check(err)
	packer.Delete(id)
	_, err = w.host.Commit(context.Background(), packer.Batch())
	w.check(err)
}

func (w *world) check(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) at(name string) string { return filepath.Join(w.dir, filepath.FromSlash(name)) }

// make makes a folder, if name is empty or ends in a slash, or a file that holds its own name.
func (w *world) make(name string) {
	w.Helper()
	if name == "" || strings.HasSuffix(name, "/") {
		w.check(os.MkdirAll(w.at(name), 0o700))
		return
	}
	w.check(os.MkdirAll(filepath.Dir(w.at(name)), 0o700))
	w.check(os.WriteFile(w.at(name), []byte(name), 0o600))
}

func (w *world) rename(from, to string) {
	w.Helper()
	w.check(os.Rename(w.at(from), w.at(to)))
}

// start runs the catalogue and returns when it has read everything once.
func (w *world) start() {
	w.Helper()
	w.run()
	w.await("the first reading", func() bool { return w.settled() })
}

func (w *world) run() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, w.host, w.options) }()
	var once sync.Once
	w.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				w.Errorf("Run: %v", err)
			}
			w.host.Progress(sdk.Progress{Key: w.dir})
		})
	}
}

// settled reports whether every location has been read in full: done is total then.
func (w *world) settled() bool {
	read := 0
	for _, p := range w.host.Progressed() {
		if strings.HasPrefix(p.Key, "hashing ") {
			continue
		}
		if p.Total == 0 || p.Done != p.Total {
			return false
		}
		read++
	}
	return read > 0
}

func (w *world) await(what string, condition func() bool) {
	w.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	if err := w.host.Await(ctx, condition); err != nil {
		w.Fatalf("waited in vain for %s; entries: %q; warnings: %v", what, w.names(), w.host.Warnings())
	}
}

// ids returns the ids of all entries by their path below the locations' folders, which are "".
func (w *world) ids() map[string]sdk.RecordID {
	ids := map[string]sdk.RecordID{}
	for name, entry := range w.entries() {
		ids[name] = entry.ID
	}
	return ids
}

func (w *world) entries() map[string]Entry {
	w.Helper()
	byID := map[sdk.RecordID]Entry{}
	for _, entry := range sdktest.Records(w.T, w.host, entryModel()) {
		byID[entry.ID] = entry
	}
	named := map[string]Entry{}
	for _, entry := range byID {
		name := ""
		for e := entry; !e.Parent.IsZero(); {
			name = path.Join(e.Name, name)
			parent, ok := byID[e.Parent.ID()]
			if !ok {
				name = "(nowhere)/" + name
				break
			}
			e = parent
		}
		if entry.Location.ID() != w.location {
			name = path.Join("other", name)
		}
		if _, twin := named[name]; twin { // while one thing takes the place of another
			name += " (twice)"
		}
		named[name] = entry
	}
	return named
}

func (w *world) names() []string {
	var names []string
	for name := range w.entries() {
		if name != "" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// expect waits until the entries are exactly names, and checks that parents came first.
func (w *world) expect(names ...string) {
	w.Helper()
	names = slices.Sorted(slices.Values(names))
	w.await(fmt.Sprintf("entries %q", names), func() bool { return slices.Equal(w.names(), names) })
	w.checkOrder()
}

// checkOrder replays the commits: no entry may come before its parent, nor go after it.
func (w *world) checkOrder() {
	w.Helper()
	parents := map[sdk.RecordID]sdk.RecordID{}
	for _, batch := range w.host.Commits() {
		if batch.Model != "entry" {
			continue
		}
		for row, err := range batch.StateRows() {
			w.check(err)
			if row.Deleted {
				delete(parents, row.ID)
				for id, parent := range parents {
					if parent == row.ID {
						w.Errorf("%s was deleted before %s in it", row.ID, id)
					}
				}
				continue
			}
			one := sdk.Batch{Model: batch.Model, Columns: batch.Columns, Count: 1, Rows: row.Raw}
			for entry, err := range entryModel().Rows(&one) {
				w.check(err)
				if _, ok := parents[entry.Parent.ID()]; !ok && !entry.Parent.IsZero() {
					w.Errorf("%s %q came before its parent", entry.ID, entry.Name)
				}
				parents[entry.ID] = entry.Parent.ID()
			}
		}
	}
}

// same checks that each pair of paths, before and after, has one id.
func (w *world) same(before, after map[string]sdk.RecordID, pairs ...[2]string) {
	w.Helper()
	for _, pair := range pairs {
		if before[pair[0]] != after[pair[1]] || after[pair[1]].IsZero() {
			w.Errorf("%q was %s and is %q with %s; want one id", pair[0], before[pair[0]], pair[1], after[pair[1]])
		}
	}
}

func (w *world) needsInodes() {
	if runtime.GOOS == "windows" {
		w.Skip("this system has no inodes: names are the identity")
	}
}

// faulty is a file system in which some paths fail, and which may be watched by nobody.
type faulty struct {
	disk.System
	mu     sync.Mutex
	broken map[string]error
	reads  map[string]int
	remote bool
}

func (f *faulty) count(path string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.reads[path]
}

func (f *faulty) set(path string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.broken[path] = err
}

func (f *faulty) err(path string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.broken[path]; err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return nil
}

func (f *faulty) Open(root, below string) (disk.Dir, error) {
	path := filepath.Join(root, below)
	if err := f.err(path); err != nil {
		return nil, err
	}
	dir, err := f.System.Open(root, below)
	if err != nil {
		return nil, err
	}
	return &faultyDir{Dir: dir, path: path, files: f}, nil
}

// faultyDir is a folder in which faulty's paths with a question mark can not be looked at.
type faultyDir struct {
	disk.Dir
	path  string
	files *faulty
}

func (d *faultyDir) Names() ([]string, error) {
	d.files.mu.Lock()
	d.files.reads[d.path]++
	d.files.mu.Unlock()
	return d.Dir.Names()
}

func (d *faultyDir) Stat(name string) (disk.Info, error) {
	if err := d.files.err(filepath.Join(d.path, name) + "?"); err != nil {
		return disk.Info{}, err
	}
	return d.Dir.Stat(name)
}

// Open fails for faulty's paths with an exclamation mark.
func (d *faultyDir) Open(name string) (disk.Reader, error) {
	if err := d.files.err(filepath.Join(d.path, name) + "!"); err != nil {
		return nil, err
	}
	return d.Dir.Open(name)
}

func (f *faulty) Remote(string) bool { return f.remote }

// failing is a host that takes some batches, then none.
type failing struct {
	*sdktest.SourceHost
	err  error
	left int
}

func (f *failing) Commit(ctx context.Context, batch sdk.Batch) ([]sdk.Refusal, error) {
	if f.left == 0 {
		return nil, f.err
	}
	f.left--
	return f.SourceHost.Commit(ctx, batch)
}

// discard is a host that keeps nothing.
type discard struct{}

func (discard) Commit(context.Context, sdk.Batch) ([]sdk.Refusal, error) { return nil, nil }
func (discard) Find(context.Context, sdk.ModelName, string, []any) (sdk.Batch, error) {
	return sdk.Batch{}, nil
}
func (discard) Changed(sdk.ModelName) <-chan struct{} { return nil }
func (discard) Warn(string, int, string)              {}
func (discard) Progress(sdk.Progress)                 {}
