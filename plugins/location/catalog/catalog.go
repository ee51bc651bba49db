// Package catalog keeps the entries of this device's locations like the folders that they stand for: it reads each
// folder once, then watches it, and commits what differs from what the host has.
//
// It promises that an unchanged folder commits nothing; that parents are committed before their children and deleted
// after them; that links are never followed; that an entry keeps its id when its file is renamed or moved within a
// location; and that a folder that can not be read, or a whole location that is not there, deletes nothing.
//
// Identity. A name is first the entry that had this name and this file (inode, file system and time of creation), then
// the entry that had this file under a name where it is no more (a rename or a move), then the entry that had this name
// (an editor that writes a new file and renames it over the old one). Where the last two are different entries, a file
// was renamed over another: the older of the two entries stays and the other is deleted, so that saving through a
// temporary file, however slow, keeps what refers to the file. Two names of one file (hard links) are two entries.
// Where the system has no inodes, names alone decide.
//
// Content. Where it is wanted, what files hold is found out afterwards, file by file, and written to their entries; see
// hasher. What was found out is forgotten with the size, the time or the file that it was of.
//
// It leaves to the host what is durable, and to the entry model what a valid entry is.
package catalog

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/starling-sync/starling/plugins/location/catalog/disk"
	"github.com/starling-sync/starling/sdk"
)

// Options says how to catalogue. The zero value of each field takes its default.
type Options struct {
	Ignore   []string      // patterns as filepath.Match has them, of a name, or, with a slash, of a path below the location
	Rescan   time.Duration // how often to read again what can not be watched; 10 minutes
	Poll     time.Duration // how often to look whether a location is there and still the same; 5 seconds
	Debounce time.Duration // how long a folder is quiet before it is read; 75 milliseconds
	Batch    int           // rows a commit; 1000

	Hash      bool          // whether to find out what files hold, while nothing else is to do
	HashWhole int64         // bytes of the largest file that is read in full for that; 64 MiB
	HashRate  int64         // bytes a second that are read of a disk for that at most; 32 MiB; less than 0: without limit
	Settle    time.Duration // how long ago a file must have changed before it is read; 10 seconds

	Metrics Metrics // none

	Files disk.Files          // disk.System
	NewID func() sdk.RecordID // sdk.NewRecordID

	newWatcher func() (*fsnotify.Watcher, error) // fsnotify.NewWatcher
	now        func() time.Time                  // of what is hashed; time.Now
	hashDelay  time.Duration                     // hashDelay
}

// Check returns what is wrong with the options.
func (o Options) Check() error {
	for _, pattern := range o.Ignore {
		if _, err := filepath.Match(pattern, ""); err != nil || pattern == "" {
			return sdk.BadSetting("ignore", "%q is not a pattern; write a name such as %q, or %q", pattern, "node_modules", "*.tmp")
		}
	}
	if o.HashWhole < 0 {
		return sdk.BadSetting("hash_whole", "%d bytes is less than nothing", o.HashWhole)
	}
	if o.Rescan < 0 || (o.Rescan > 0 && o.Rescan < time.Second) {
		return sdk.BadSetting("rescan", "%s is too short; write at least %q", o.Rescan, "1s")
	}
	return nil
}

func (o Options) withDefaults() Options {
	o.Rescan = orDefault(o.Rescan, 10*time.Minute)
	o.Poll = orDefault(o.Poll, 5*time.Second)
	o.Debounce = orDefault(o.Debounce, 75*time.Millisecond)
	o.Batch = orDefault(o.Batch, 1000)
	o.HashWhole = orDefault(o.HashWhole, 64<<20)
	o.HashRate = orDefault(o.HashRate, 32<<20)
	o.Settle = orDefault(o.Settle, 10*time.Second)
	if o.Files == nil {
		o.Files = disk.System{}
	}
	if o.NewID == nil {
		o.NewID = sdk.NewRecordID
	}
	o.hashDelay = orDefault(o.hashDelay, hashDelay)
	if o.now == nil {
		o.now = time.Now
	}
	if o.newWatcher == nil {
		o.newWatcher = fsnotify.NewWatcher
	}
	return o
}

func orDefault[T comparable](value, otherwise T) T {
	var zero T
	if value == zero {
		return otherwise
	}
	return value
}

// Run catalogues every location of this device until ctx ends, and follows as locations are added, changed and removed.
// An error means that the host could not be asked or written to; a later Run goes on from what was committed.
func Run(ctx context.Context, host sdk.SourceHost, options Options) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	c := &catalog{host: host, options: options.withDefaults(), running: map[sdk.RecordID]*running{}, stop: stop}
	c.part(ctx, func(ctx context.Context) error { return followVolumes(ctx, host, c.options.Files) })
	if err := c.follow(ctx, host.Changed("location")); err != nil {
		c.fail(err)
	}
	stop()
	c.wait.Wait()
	return c.failure
}

// catalog is one Run.
type catalog struct {
	host    sdk.SourceHost
	options Options
	running map[sdk.RecordID]*running
	disks   disks
	stop    context.CancelFunc // ends the whole Run
	wait    sync.WaitGroup

	mu      sync.Mutex
	failure error // the first; read after wait
}

// part runs run beside the locations. Its error ends the whole Run.
func (c *catalog) part(ctx context.Context, run func(context.Context) error) {
	c.wait.Go(func() {
		if err := run(ctx); err != nil && ctx.Err() == nil {
			c.fail(err)
		}
	})
}

// fail ends the whole Run with err, unless something failed before.
func (c *catalog) fail(err error) {
	c.mu.Lock()
	if c.failure == nil {
		c.failure = err
	}
	c.mu.Unlock()
	c.stop()
}

// running is a location that is being catalogued.
type running struct {
	path string
	stop context.CancelFunc
	done chan struct{}
}

func (c *catalog) follow(ctx context.Context, changed <-chan struct{}) error {
	for {
		if err := c.reconcile(ctx); err != nil {
			if ctx.Err() != nil {
				return nil //nolint:nilerr // stopped, not failed
			}
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case _, open := <-changed:
			if !open {
				changed = nil // ctx is about to end
			}
		}
	}
}

// reconcile starts and stops locations until they are as the host has them, then deletes the entries of those that are
// no more.
func (c *catalog) reconcile(ctx context.Context) error {
	locations, err := findLocations(ctx, c.host)
	if err != nil {
		return fmt.Errorf("find locations: %w", err)
	}
	wanted := map[sdk.RecordID]string{}
	for _, location := range locations {
		wanted[location.ID] = filepath.Clean(location.Path)
	}
	var gone []any
	for id, r := range c.running {
		if wanted[id] != r.path {
			r.stop()
			<-r.done
			delete(c.running, id)
			gone = append(gone, RootID(id))
		}
	}
	if err := c.removeOrphans(ctx, wanted, gone); err != nil {
		return fmt.Errorf("delete the entries of removed locations: %w", err)
	}
	for id, path := range wanted {
		if c.running[id] == nil {
			c.start(ctx, id, path)
		}
	}
	return nil
}

func (c *catalog) start(ctx context.Context, id sdk.RecordID, path string) {
	ctx, stop := context.WithCancel(ctx)
	r := &running{path: path, stop: stop, done: make(chan struct{})}
	c.running[id] = r
	t := newTree(c.host, c.options, id, path)
	if c.options.Hash {
		t.content = newHasher(t, &c.disks)
		c.part(ctx, t.content.run)
	}
	c.wait.Go(func() {
		defer close(r.done)
		if err := t.run(ctx); err != nil && ctx.Err() == nil {
			c.fail(fmt.Errorf("location %s: %w", path, err))
		}
		t.end()
	})
}

// removeOrphans deletes the entries whose location is not among wanted: below the entries gone, and below every entry
// without a parent, since a location may have been removed while nobody looked.
func (c *catalog) removeOrphans(ctx context.Context, wanted map[sdk.RecordID]string, gone []any) error {
	roots, err := findEntries(ctx, c.host, "parent_id", []any{nil})
	if err != nil {
		return err
	}
	if len(gone) > 0 {
		more, err := findEntries(ctx, c.host, "id", gone)
		if err != nil {
			return err
		}
		roots = append(roots, more...)
	}
	seen := map[sdk.RecordID]struct{}{}
	for _, root := range roots {
		location := root.Location.ID()
		_, kept := wanted[location]
		_, done := seen[root.ID]
		if kept || done || root.ID != RootID(location) {
			continue
		}
		seen[root.ID] = struct{}{}
		w, err := newWriter(c.host, c.options.Batch, func(sdk.Refusal) {})
		if err != nil {
			return err
		}
		if err := removeTrees(ctx, c.host, w, []sdk.RecordID{root.ID}); err != nil {
			return err
		}
	}
	return nil
}
