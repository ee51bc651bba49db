package catalog

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/starling-sync/starling/plugins/location/catalog/content"
	"github.com/starling-sync/starling/plugins/location/catalog/disk"
	"github.com/starling-sync/starling/sdk"
)

// settleRounds bounds how often a reading looks for more changes before it deletes.
const settleRounds = 5

// scan is one reading of some folders, or of all.
type scan struct {
	*tree
	writer  *writer
	all     bool // every folder below those in queue is read, not only new and moved ones
	fresh   bool // the host had nothing of this location when the scan began
	queue   []*folder
	queued  map[*folder]struct{}
	moved   map[sdk.RecordID]struct{} // entries that were found under a name they did not have
	missing map[sdk.RecordID]string   // kind of the entries whose name is gone, and that were not found under another
	done    int64                     // names seen
	total   atomic.Int64              // names that there are; 0 until counted
}

// listing is what a folder holds.
type listing struct {
	*folder
	sightings []*sighting
	unsure    []string // escaped names that are there, of which nothing more could be said
}

// sighting is one name in a folder.
type sighting struct {
	place
	info disk.Info
	was  *Entry // the entry that it is; nil for a new one
}

// place is where an entry is.
type place struct {
	parent sdk.RecordID
	name   string // escaped
}

func (t *tree) newScan(all bool) (*scan, error) {
	w, err := newWriter(t.host, t.options.Batch, t.refuse)
	return &scan{
		tree: t, writer: w, all: all,
		queued: map[*folder]struct{}{}, moved: map[sdk.RecordID]struct{}{}, missing: map[sdk.RecordID]string{},
	}, err
}

// readAll reads the whole location.
func (t *tree) readAll(ctx context.Context) error {
	began := time.Now()
	s, err := t.newScan(true)
	if err != nil {
		return err
	}
	defer s.writer.wait() //nolint:errcheck // where it was not waited for, there is an earlier error
	id := RootID(t.location)
	roots, err := findEntries(ctx, t.host, "id", []any{id})
	if err != nil {
		return fmt.Errorf("find the location's own entry: %w", err)
	}
	s.fresh = len(roots) == 0
	if s.fresh {
		counting, stop := context.WithCancel(ctx)
		counted := make(chan struct{})
		go func() {
			defer close(counted)
			s.count(counting)
		}()
		defer func() { stop(); <-counted }()
	}
	if err := s.refreshRoot(ctx, roots); err != nil {
		return err
	}
	root, _ := t.enter(id, t.real, s.fresh)
	root.fresh, root.file = s.fresh, keyOf(t.root)
	s.add(root)
	if err := s.run(ctx); err != nil {
		return err
	}
	if ctx.Err() == nil {
		t.host.Progress(sdk.Progress{Key: t.path, Done: s.done, Total: s.done})
		t.options.Metrics.Scans.Inc()
		t.options.Metrics.ScanSeconds.Add(time.Since(began).Seconds())
	}
	return nil
}

// readChanged reads the folders among paths again, and their own entries.
func (t *tree) readChanged(ctx context.Context, paths map[string]struct{}) error {
	s, err := t.newScan(false)
	if err != nil {
		return err
	}
	defer s.writer.wait() //nolint:errcheck // as above
	if err := s.addChanged(ctx, paths); err != nil {
		return err
	}
	return s.run(ctx)
}

// addChanged queues the folders among paths, parents first, and brings their own entries up to date: a change in a
// folder changes its time, of which the folder above is not told.
func (s *scan) addChanged(ctx context.Context, paths map[string]struct{}) error {
	var ids []sdk.RecordID
	for _, path := range slices.Sorted(maps.Keys(paths)) {
		if f := s.folders[path]; f != nil {
			s.add(f)
			ids = append(ids, f.id)
		}
	}
	for group := range slices.Chunk(ids, findGroup) {
		entries, err := findEntries(ctx, s.host, "id", idValues(group))
		if err != nil {
			return fmt.Errorf("find changed folders: %w", err)
		}
		for i := range entries {
			if err := s.refresh(ctx, &entries[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// refresh commits what the folder of entry itself is now, if it is where it was.
func (s *scan) refresh(ctx context.Context, entry *Entry) error {
	f := s.byID[entry.ID]
	if f == nil {
		return nil
	}
	dir, info, err := s.open(f)
	if err != nil {
		return nil //nolint:nilerr // the folder above tells what became of it
	}
	dir.Close()
	if info.Inode != entry.Inode || info.Device != entry.Device {
		return nil // as above
	}
	now := *entry
	now.set(entry.Name, info)
	if now.sameAs(entry) {
		return nil
	}
	return s.writer.put(ctx, &now)
}

// refreshRoot commits the entry of the location's folder itself, if it differs from the one in roots.
func (s *scan) refreshRoot(ctx context.Context, roots []Entry) error {
	entry := Entry{Location: sdk.Ref(s.location)}
	entry.ID = RootID(s.location)
	name := filepath.Base(s.path)
	if name == string(filepath.Separator) || name == "." {
		name = "root"
		if volume := filepath.VolumeName(s.path); volume != "" {
			name = volume
		}
	}
	entry.set(disk.Escape(name), s.root)
	if len(roots) > 0 && entry.sameAs(&roots[0]) {
		return nil
	}
	return s.writer.put(ctx, &entry)
}

func (s *scan) add(f *folder) {
	if _, ok := s.queued[f]; ok {
		return
	}
	s.queued[f] = struct{}{}
	s.queue = append(s.queue, f)
}

// run reads what is queued and what that leads to, then deletes what is missing.
func (s *scan) run(ctx context.Context) error {
	err := s.drain(ctx)
	for round := 0; err == nil && len(s.missing) > 0 && s.watch != nil && round < settleRounds; round++ {
		// A name that is missing here may be about to be found elsewhere: its event may still be on the way.
		s.watch.settle(ctx, s.options.Debounce)
		dirty, lost := s.watch.take()
		if lost {
			s.watch.noteLost()
		}
		if len(dirty) == 0 {
			break
		}
		if err = s.addChanged(ctx, dirty); err == nil {
			err = s.drain(ctx)
		}
	}
	if flushed := s.writer.flush(ctx); err == nil {
		err = flushed
	}
	if err == nil && ctx.Err() == nil {
		err = s.removeMissing(ctx)
	}
	s.warnReading()
	if ctx.Err() != nil {
		return nil //nolint:nilerr // stopped, not failed
	}
	return err
}

// drain reads folders until none is queued.
func (s *scan) drain(ctx context.Context) error {
	for len(s.queue) > 0 && ctx.Err() == nil {
		listings := s.readGroup()
		if err := s.match(ctx, listings); err != nil {
			return fmt.Errorf("compare with the entries: %w", err)
		}
		for _, l := range listings {
			if err := s.write(ctx, l); err != nil {
				return fmt.Errorf("commit entries: %w", err)
			}
			l.fresh = false
			s.done += int64(len(l.sightings))
			s.options.Metrics.Names.Add(float64(len(l.sightings)))
		}
		if s.all {
			s.progress()
		}
	}
	return nil
}

// readGroup reads folders from the queue until they fill a batch.
func (s *scan) readGroup() []*listing {
	var listings []*listing
	for names := 0; len(s.queue) > 0 && names < s.options.Batch && len(listings) < findGroup; {
		f := s.queue[0]
		s.queue = s.queue[1:]
		delete(s.queued, f)
		if s.byID[f.id] != f { // moved or gone since it was queued
			continue
		}
		if l := s.read(f); l != nil {
			listings = append(listings, l)
			names += len(l.sightings)
		}
	}
	return listings
}

// read lists f. It returns nil where nothing can be said, so that nothing is taken as deleted.
func (s *scan) read(f *folder) *listing {
	dir, _, err := s.open(f)
	var names []string
	if err == nil {
		defer dir.Close()
		s.observe(f) // before its names are read, so that no change falls between the two
		names, err = dir.Names()
	}
	switch {
	case disk.Gone(err):
		return nil
	case err != nil:
		s.unreadable[f.path] = reason(err)
		return nil
	}
	delete(s.unreadable, f.path)
	l := &listing{folder: f, sightings: make([]*sighting, 0, len(names))}
	delete(s.data, f.path)
	if slices.Contains(names, dataFile) && slices.Contains(names, lockFile) {
		s.data[f.path] = struct{}{}
		if s.watch != nil {
			s.watch.remove(f.path)
		}
		return l
	}
	sightings := make([]sighting, 0, len(names))
	for _, name := range names {
		if len(s.options.Ignore) > 0 && s.options.ignores(s.real, join(f.path, name)) {
			continue
		}
		info, err := dir.Stat(name)
		switch {
		case disk.Gone(err):
		case err != nil:
			l.unsure = append(l.unsure, disk.Escape(name))
			s.unreadable[f.path] = reason(err)
		default:
			sightings = append(sightings, sighting{place: place{f.id, disk.Escape(name)}, info: s.translate(info)})
			l.sightings = append(l.sightings, &sightings[len(sightings)-1])
		}
	}
	return l
}

// reason returns err without the path that it names.
func reason(err error) error {
	if e, ok := err.(*fs.PathError); ok { //nolint:errorlint // only the outermost names this path
		return e.Err
	}
	return err
}

// write commits what l holds and differs, and queues the folders in it that are to be read.
func (s *scan) write(ctx context.Context, l *listing) error {
	var files counted
	for _, sight := range l.sightings {
		var entry Entry
		if sight.was != nil {
			entry = *sight.was
		} else {
			entry.ID = s.options.NewID()
		}
		entry.set(sight.name, sight.info)
		entry.Parent, entry.Location = sdk.Ref(l.id), sdk.Ref(s.location)
		if sight.was == nil || !entry.sameAs(sight.was) {
			if err := s.writer.put(ctx, &entry); err != nil {
				return err
			}
		}
		if sight.info.Kind != disk.Directory {
			if sight.info.Kind == disk.File {
				files.add(content.Bytes(entry.Size, s.options.HashWhole), entry.ContentHash != nil)
			}
			continue
		}
		path := join(l.path, disk.Unescape(sight.name))
		f, added := s.enter(entry.ID, path, sight.was == nil)
		f.file = keyOf(sight.info)
		replaced := sight.was != nil && !sight.was.info().SameFile(sight.info)
		_, unread := s.unreadable[path]
		if s.all || added || replaced || unread {
			s.add(f)
		}
	}
	s.content.note(l.id, files)
	return nil
}

// removeMissing deletes what was not found anywhere, unless the location itself went away meanwhile.
func (s *scan) removeMissing(ctx context.Context) error {
	if len(s.missing) == 0 || !s.present() {
		return nil
	}
	var trees []sdk.RecordID
	for id, kind := range s.missing {
		if kind == disk.Directory {
			trees = append(trees, id)
			if f := s.byID[id]; f != nil {
				s.forget(f.path)
			}
		} else if err := s.writer.remove(ctx, id); err != nil {
			return fmt.Errorf("delete entries: %w", err)
		}
	}
	if err := s.writer.flush(ctx); err != nil {
		return fmt.Errorf("delete entries: %w", err)
	}
	if err := removeTrees(ctx, s.host, s.writer, trees); err != nil {
		return fmt.Errorf("delete entries: %w", err)
	}
	return nil
}

// progress shows how far a reading of the whole location is. That all is done is said when it is durable.
func (s *scan) progress() {
	total := s.total.Load()
	if total > 0 {
		total = max(total, s.done+1)
	}
	s.host.Progress(sdk.Progress{Key: s.path, Done: s.done, Total: total})
}

// count finds out how many names there are, for people who wait.
func (s *scan) count(ctx context.Context) {
	var n int64 = -1 // the location's folder itself
	err := filepath.WalkDir(s.real, func(path string, d fs.DirEntry, err error) error {
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			return nil //nolint:nilerr // an estimate goes on without it
		case path != s.real && s.options.ignores(s.real, path):
			if d.IsDir() {
				return filepath.SkipDir
			}
			return nil
		}
		n++
		return nil
	})
	if err == nil {
		s.total.Store(n)
	}
}

// join is filepath.Join for a clean folder and a single name.
func join(folder, name string) string {
	if folder[len(folder)-1] == filepath.Separator {
		return folder + name
	}
	return folder + string(filepath.Separator) + name
}
