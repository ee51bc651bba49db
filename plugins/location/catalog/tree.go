package catalog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/starling-sync/starling/plugins/location/catalog/disk"
	"github.com/starling-sync/starling/sdk"
)

// dataFile and lockFile side by side mark a device's own data folder. What is in it is not catalogued: each commit would
// change it, and each change would be a commit. One of the two names alone is a file like any other.
const (
	dataFile = "starling.db"
	lockFile = "starling.lock"
)

// maxPause bounds how long a location whose readings take long rests between them.
const maxPause = 10 * time.Second

// tree catalogues one location. It serves one goroutine, save for refuse, and the hasher in its turn.
type tree struct {
	host     sdk.SourceHost
	options  Options
	location sdk.RecordID
	path     string // as the location has it
	refusals atomic.Int64
	content  *hasher

	turn  sync.Mutex // held while entries of the location change, and while the hasher looks at what stands below
	ended bool       // the hasher is done with it

	real       string             // path with its links resolved
	root       disk.Info          // of resolved, when it was last read in full
	aliasFrom  int64              // the number that root's file system has now, where that differs from ...
	aliasTo    int64              // ... the number that it had when the entries were written
	folders    map[string]*folder // by path: every directory that was seen, and is not ignored
	byID       map[sdk.RecordID]*folder
	watch      *watch              // nil where the system gives none
	watchError error               // why there is none, or not for all folders
	unwatched  map[string]struct{} // paths of folders without a watch
	unreadable map[string]error    // by path
	data       map[string]struct{} // paths of devices' own data folders
}

// folder is a directory below the location, or the location's folder itself.
type folder struct {
	id    sdk.RecordID
	path  string
	file  fileKey // what path was when it was seen, by its folder's listing or as the location's own
	fresh bool    // the host has nothing below it yet
}

// errReplaced says that a path is not the folder that was seen there.
var errReplaced = errors.New("another folder is there than the one that was seen")

func newTree(host sdk.SourceHost, options Options, location sdk.RecordID, path string) *tree {
	return &tree{host: host, options: options, location: location, path: path}
}

// run reads the location, then follows its changes, until ctx ends.
func (t *tree) run(ctx context.Context) error {
	for ctx.Err() == nil {
		absent, err := t.lookAndRead(ctx)
		if err != nil {
			return err
		}
		if absent != nil {
			wait(ctx, t.options.Poll)
			continue
		}
		if err := t.follow(ctx); err != nil {
			return err
		}
	}
	return nil
}

// lookAndRead reads the location if it is there, and otherwise returns why it counts as absent.
func (t *tree) lookAndRead(ctx context.Context) (absent, err error) {
	t.content.begin()
	defer t.content.end()
	if absent, err = t.look(ctx); err != nil {
		return nil, err
	}
	t.warnAbsent(absent)
	if absent != nil {
		return absent, nil
	}
	defer t.content.reading(t.root.Device, filepath.VolumeName(t.real))()
	return nil, t.readAll(ctx)
}

// end releases the watch and takes the warnings back.
func (t *tree) end() {
	t.content.leave()
	if t.watch != nil {
		t.watch.close()
	}
	for _, kind := range []string{"absent", "unreadable", "unwatched", "remote", "data", "refused", "content"} {
		t.warn(kind, 0, "")
	}
}

// look finds out whether the location's folder is there, and is the one that was catalogued.
func (t *tree) look(ctx context.Context) (absent, err error) {
	found, absent, err := visit(ctx, t.host, t.options.Files, t.location, t.path)
	if absent != nil || err != nil {
		return absent, err
	}
	t.aliasFrom, t.aliasTo = 0, 0
	if found.same {
		t.aliasFrom, t.aliasTo = found.info.Device, found.known.Device
	}
	t.reset(found.real, t.translate(found.info))
	return nil, nil
}

// found is the folder that is at a location's path.
type found struct {
	real  string // the path with its links resolved
	info  disk.Info
	known disk.Info // what was catalogued; the zero Info if nothing was
	same  bool      // it is the folder that was catalogued, maybe under another number of its file system
}

// visit returns what is at a location's path, or why that counts as absent. An empty folder where another one was is
// what an unmounted disk leaves: it counts as absent. The error is the host's.
func visit(ctx context.Context, host sdk.SourceHost, files disk.Files, location sdk.RecordID, path string) (f found, absent, err error) {
	var e error
	if f.real, e = filepath.EvalSymlinks(path); e != nil {
		return f, e, nil
	}
	if f.info, e = files.Stat(f.real); e != nil {
		return f, e, nil
	}
	if f.info.Kind != disk.Directory {
		return f, fmt.Errorf("it is a %s, not a directory", f.info.Kind), nil
	}
	roots, err := findEntries(ctx, host, "id", []any{RootID(location)})
	if err != nil {
		return f, nil, fmt.Errorf("find the location's own entry: %w", err)
	}
	if len(roots) == 0 {
		return f, nil, nil
	}
	f.known = roots[0].info()
	here := f.info
	here.Device = f.known.Device
	if f.same = f.known.SameFile(here); !f.same && f.known.Inode != 0 {
		absent, err = emptied(ctx, host, files, location, f.real)
	}
	return f, absent, err
}

// emptied returns why the folder at resolved counts as absent, if it is empty while the host has entries below it.
func emptied(ctx context.Context, host sdk.SourceHost, files disk.Files, location sdk.RecordID, resolved string) (absent, err error) {
	dir, e := files.Open(resolved, ".")
	if e != nil {
		return e, nil
	}
	defer dir.Close()
	names, e := dir.Names()
	if e != nil {
		return e, nil
	}
	if len(names) > 0 {
		return nil, nil
	}
	children, err := findEntries(ctx, host, "parent_id", []any{RootID(location)})
	if err != nil || len(children) == 0 {
		return nil, err
	}
	return errors.New("it is empty and not the folder that was catalogued, as where a disk is not mounted"), nil
}

// reset forgets the folders and renews the watch, if the location's folder is not the one that was followed.
func (t *tree) reset(resolved string, root disk.Info) {
	if t.watch != nil && t.real == resolved && t.same(root) {
		t.root = root
		return
	}
	if t.watch != nil {
		t.watch.close()
	}
	t.real, t.root = resolved, root
	for id := range t.byID {
		t.content.forget(id)
	}
	t.folders, t.byID = map[string]*folder{}, map[sdk.RecordID]*folder{}
	t.unwatched, t.unreadable = map[string]struct{}{}, map[string]error{}
	t.data = map[string]struct{}{}
	t.watch, t.watchError = newWatch(t.options.newWatcher, func(path string) bool { return t.options.ignores(resolved, path) })
	if t.watchError != nil {
		t.watch = nil
	}
}

// same reports whether root is the folder that is being followed.
func (t *tree) same(root disk.Info) bool {
	return root.Kind == disk.Directory && root.Inode == t.root.Inode && root.Device == t.root.Device
}

// present reports whether the location's folder is still the one that is being followed.
func (t *tree) present() bool {
	info, err := t.stat(t.real)
	return err == nil && t.same(info)
}

// stat says what path is, with file systems under the numbers that the host has of them.
func (t *tree) stat(path string) (disk.Info, error) {
	info, err := t.options.Files.Stat(path)
	return t.translate(info), err
}

// open opens f and says what it is now. Whatever takes its path, or a part of it, meanwhile, what is opened is the folder
// that was seen (where the system has inodes), or else one within the location.
func (t *tree) open(f *folder) (disk.Dir, disk.Info, error) {
	below, err := filepath.Rel(t.real, f.path)
	if err != nil {
		return nil, disk.Info{}, err
	}
	dir, err := t.options.Files.Open(t.real, below)
	if err != nil {
		return nil, disk.Info{}, err
	}
	info, err := dir.Stat(".")
	info = t.translate(info)
	if err == nil && f.file.inode != 0 && f.file != keyOf(info) {
		err = errReplaced
	}
	if err != nil {
		dir.Close()
		return nil, disk.Info{}, err
	}
	return dir, info, nil
}

func (t *tree) translate(info disk.Info) disk.Info {
	if t.aliasFrom != t.aliasTo && info.Device == t.aliasFrom {
		info.Device = t.aliasTo
	}
	return info
}

// follow reads folders as they change. It returns nil when the whole location is to be read again, or ctx ends.
func (t *tree) follow(ctx context.Context) error {
	poll := time.NewTicker(t.options.Poll)
	defer poll.Stop()
	var rescan <-chan time.Time
	var signal <-chan struct{}
	if t.watch != nil {
		signal = t.watch.signal
	}
	var rested time.Time // not to read before
	for {
		if rescan == nil && t.blind() {
			timer := time.NewTimer(t.options.Rescan)
			defer timer.Stop()
			rescan = timer.C
		}
		select {
		case <-ctx.Done():
			return nil
		case <-rescan:
			return nil
		case <-poll.C:
			if !t.present() {
				return nil
			}
		case <-signal:
			wait(ctx, time.Until(rested))
			t.watch.settle(ctx, t.options.Debounce)
			dirty, lost := t.watch.take()
			if lost || !t.present() {
				return nil
			}
			began := time.Now()
			err := t.lookAtChanged(ctx, dirty)
			if err != nil {
				return err
			}
			// Readings take at most a quarter of the time, however often a large folder changes.
			rested = time.Now().Add(min(3*time.Since(began), maxPause))
		}
	}
}

func (t *tree) lookAtChanged(ctx context.Context, paths map[string]struct{}) error {
	t.content.begin()
	defer t.content.end()
	defer t.content.reading(t.root.Device, filepath.VolumeName(t.real))()
	return t.readChanged(ctx, paths)
}

// blind reports whether something can change here without an event.
func (t *tree) blind() bool {
	return t.watch == nil || len(t.unwatched) > 0 || len(t.unreadable) > 0 || t.options.Files.Remote(t.real)
}

// enter returns the folder at path for the directory entry id, and whether it was not known there.
func (t *tree) enter(id sdk.RecordID, path string, fresh bool) (f *folder, added bool) {
	f = t.byID[id]
	if f != nil && f.path == path {
		return f, false
	}
	if f != nil {
		t.forget(f.path)
	}
	t.forget(path)
	f = &folder{id: id, path: path, fresh: fresh}
	t.folders[path], t.byID[id] = f, f
	return f, true
}

// forget drops the folder at path and all below it.
func (t *tree) forget(path string) {
	if t.folders[path] == nil {
		return
	}
	below := path + string(filepath.Separator)
	for p, f := range t.folders {
		if p != path && !strings.HasPrefix(p, below) {
			continue
		}
		delete(t.folders, p)
		if t.byID[f.id] == f {
			delete(t.byID, f.id)
			t.content.forget(f.id)
		}
		delete(t.unwatched, p)
		delete(t.unreadable, p)
		delete(t.data, p)
		if t.watch != nil {
			t.watch.remove(p)
		}
	}
}

// observe watches f, which was just opened: watching what is another folder by now would watch something else.
func (t *tree) observe(f *folder) {
	if t.watch == nil {
		return
	}
	if err := t.watch.add(f.path); err != nil {
		if !disk.Gone(err) && !errors.Is(err, fs.ErrPermission) {
			t.unwatched[f.path], t.watchError = struct{}{}, err
		}
		return
	}
	delete(t.unwatched, f.path)
}

func (t *tree) warn(kind string, count int, message string) {
	t.host.Warn(kind+" "+t.path, count, message)
}

func (t *tree) warnAbsent(reason error) {
	if reason == nil {
		t.warn("absent", 0, "")
		return
	}
	t.warn("absent", 1, fmt.Sprintf("%s: %v; its entries are kept until it is back, or the location is removed", t.path, reason))
}

// warnReading says what the last reading could not see.
func (t *tree) warnReading() {
	n := len(t.unreadable)
	message := ""
	if n > 0 {
		path := slices.Min(slices.Collect(maps.Keys(t.unreadable)))
		more := ""
		if n > 1 {
			more = fmt.Sprintf(", nor can %d more", n-1)
		}
		message = fmt.Sprintf("%s: can not be read%s: %v; its entries are kept as they are; let this user read it, or ignore it",
			disk.Escape(path), more, t.unreadable[path])
	}
	t.warn("unreadable", n, message)

	n, message = len(t.unwatched), ""
	switch {
	case t.watch == nil:
		n, message = 1, fmt.Sprintf("%s: can not be watched: %v; it is read again every %s", t.path, t.watchError, t.options.Rescan)
	case n > 0:
		message = fmt.Sprintf("%s: %d of %d folders can not be watched: %v; all is read again every %s; raise the system's limit on watches",
			t.path, n, len(t.folders), t.watchError, t.options.Rescan)
	}
	t.warn("unwatched", n, message)

	n, message = 0, ""
	if t.options.Files.Remote(t.real) {
		n, message = 1, fmt.Sprintf("%s: is on a network file system; what others change in it is seen every %s", t.path, t.options.Rescan)
	}
	t.warn("remote", n, message)

	n, message = len(t.data), ""
	if n > 0 {
		path := slices.Min(slices.Collect(maps.Keys(t.data)))
		more := ""
		if n > 1 {
			more = fmt.Sprintf(", as in %d more", n-1)
		}
		message = fmt.Sprintf("%s: holds %s and %s, so it is a device's own data folder, and what is in it is left out%s",
			disk.Escape(path), dataFile, lockFile, more)
	}
	t.warn("data", n, message)
}

// refuse counts an entry that the host did not take.
func (t *tree) refuse(refusal sdk.Refusal) {
	n := t.refusals.Add(1)
	t.warn("refused", int(n), fmt.Sprintf("%s: entries were refused, the last one because: %s", t.path, refusal.Message))
}

// ignores reports whether path, below root, is left out.
func (o Options) ignores(root, path string) bool {
	name := filepath.Base(path)
	for _, pattern := range o.Ignore {
		subject := name
		if strings.ContainsRune(pattern, '/') {
			below, err := filepath.Rel(root, path)
			if err != nil {
				continue
			}
			subject = filepath.ToSlash(below)
		}
		if matched, err := filepath.Match(pattern, subject); err == nil && matched {
			return true
		}
	}
	return false
}

// wait blocks for d or until ctx ends.
func wait(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
