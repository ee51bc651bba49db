package catalog

import (
	"context"
	"errors"
	"slices"

	"github.com/starling-sync/starling/plugins/location/catalog/disk"
	"github.com/starling-sync/starling/sdk"
)

// fileKey names a file, for as long as it exists.
type fileKey struct{ inode, device int64 }

func keyOf(info disk.Info) fileKey { return fileKey{info.Inode, info.Device} }

// match finds out which entry each sighting is, and which entries are missing.
func (s *scan) match(ctx context.Context, listings []*listing) error {
	known, err := s.children(ctx, listings)
	if err != nil {
		return err
	}
	var left []*sighting
	for _, l := range listings {
		for _, sight := range l.sightings {
			if e := known[sight.place]; e != nil && exact(e, sight.info) {
				sight.was = e
				delete(known, sight.place)
				delete(s.missing, e.ID)
				continue
			}
			left = append(left, sight)
		}
		for _, name := range l.unsure {
			delete(known, place{l.id, name})
		}
	}
	if err := s.identify(ctx, left, known, listings); err != nil {
		return err
	}
	for _, e := range known {
		if _, moved := s.moved[e.ID]; !moved {
			s.missing[e.ID] = e.Kind
		}
	}
	return nil
}

// exact reports whether the entry of a name is the file that has this name now.
func exact(e *Entry, info disk.Info) bool {
	if e.Kind != info.Kind {
		return false
	}
	return e.Inode == 0 || info.Inode == 0 || keyOf(e.info()) == keyOf(info)
}

// children returns the entries that the host has in the folders of listings.
func (s *scan) children(ctx context.Context, listings []*listing) (map[place]*Entry, error) {
	known := map[place]*Entry{}
	var parents []sdk.RecordID
	for _, l := range listings {
		if !l.fresh {
			parents = append(parents, l.id)
		}
	}
	if len(parents) == 0 {
		return known, nil
	}
	if err := s.writer.flush(ctx); err != nil { // a parent may be about to change
		return nil, err
	}
	err := eachChild(ctx, s.host, parents, func(e *Entry) error {
		at := place{e.Parent.ID(), e.Name}
		if twin := known[at]; twin != nil { // two entries of one name: the older one stays
			if twin.ID.Compare(e.ID) > 0 {
				twin, e = e, twin
				known[at] = twin
			}
			s.missing[e.ID] = e.Kind
			return nil
		}
		known[at] = e
		return nil
	})
	return known, err
}

// identify decides on the sightings that are not the file that had their name, and takes the entries that it gives
// them out of known.
func (s *scan) identify(ctx context.Context, left []*sighting, known map[place]*Entry, listings []*listing) error {
	if len(left) == 0 {
		return nil
	}
	files, err := s.vanished(ctx, left, known, listings)
	if err != nil {
		return err
	}
	here := map[fileKey]struct{}{}
	for _, sight := range left {
		here[keyOf(sight.info)] = struct{}{}
	}
	taken := map[sdk.RecordID]struct{}{}
	give := func(sight *sighting, e *Entry) {
		sight.was = e
		taken[e.ID] = struct{}{}
		delete(s.missing, e.ID)
		delete(known, place{e.Parent.ID(), e.Name})
		if e.Parent.ID() != sight.parent {
			s.moved[e.ID] = struct{}{}
		}
	}
	named := func(sight *sighting) *Entry {
		if e := known[sight.place]; e != nil && e.Kind == sight.info.Kind {
			return e
		}
		return nil
	}
	for _, sight := range left { // files first: a name may have been given to another file
		key := keyOf(sight.info)
		at := slices.IndexFunc(files[key], func(e *Entry) bool {
			_, gone := taken[e.ID]
			return !gone && e.info().SameFile(sight.info)
		})
		if at < 0 {
			continue
		}
		e := named(sight)
		if prefer(files[key][at], e, here) {
			e = files[key][at]
		}
		give(sight, e)
	}
	for _, sight := range left {
		if e := named(sight); sight.was == nil && e != nil {
			give(sight, e)
		}
	}
	return nil
}

// prefer reports whether a name is the entry moved, which had its file, rather than named, which had the name.
// here holds the files that are being decided on.
func prefer(moved, named *Entry, here map[fileKey]struct{}) bool {
	if named == nil {
		return true
	}
	if _, elsewhere := here[keyOf(named.info())]; elsewhere && named.Inode != 0 {
		return true // both were renamed
	}
	return moved.ID.Compare(named.ID) < 0 // ids sort by age
}

// vanished returns the entries, by their file, that had the file of a sighting under a name where it is no more.
func (s *scan) vanished(ctx context.Context, left []*sighting, known map[place]*Entry, listings []*listing) (map[fileKey][]*Entry, error) {
	files := map[fileKey][]*Entry{}
	for _, e := range known {
		if e.Inode != 0 {
			key := keyOf(e.info())
			files[key] = append(files[key], e)
		}
	}
	for _, entries := range files { // the same choice each time
		slices.SortFunc(entries, func(a, b *Entry) int { return a.ID.Compare(b.ID) })
	}
	if s.fresh {
		return files, nil
	}
	inodes := map[int64]struct{}{}
	var values []any
	for _, sight := range left {
		if _, asked := inodes[sight.info.Inode]; !asked && sight.info.Inode != 0 {
			inodes[sight.info.Inode] = struct{}{}
			values = append(values, sight.info.Inode)
		}
	}
	if len(values) == 0 {
		return files, nil
	}
	if err := s.writer.flush(ctx); err != nil {
		return nil, err
	}
	listed := map[sdk.RecordID]struct{}{}
	for _, l := range listings {
		listed[l.id] = struct{}{}
	}
	folders := map[sdk.RecordID]*folder{}
	for group := range slices.Chunk(values, 1000) {
		entries, err := findEntries(ctx, s.host, "inode", group)
		if err != nil {
			return nil, err
		}
		for i := range entries {
			e := &entries[i]
			if _, read := listed[e.Parent.ID()]; read || e.Location.ID() != s.location || e.Parent.IsZero() {
				continue
			}
			still, err := s.stillThere(ctx, e, folders)
			if err != nil {
				return nil, err
			}
			if !still {
				key := keyOf(e.info())
				files[key] = append(files[key], e)
			}
		}
	}
	return files, nil
}

// stillThere reports whether the name of e is still its file: then another name of that file is another entry.
func (s *scan) stillThere(ctx context.Context, e *Entry, folders map[sdk.RecordID]*folder) (bool, error) {
	f, err := s.folderOf(ctx, e.Parent.ID(), folders)
	if err != nil || f == nil {
		return false, err
	}
	dir, _, err := s.open(f)
	if err != nil {
		return !disk.Gone(err) && !errors.Is(err, errReplaced), nil // what can not be seen counts as there
	}
	defer dir.Close()
	info, err := dir.Stat(disk.Unescape(e.Name))
	if err != nil {
		return !disk.Gone(err), nil //nolint:nilerr // as above
	}
	return e.info().SameFile(s.translate(info)), nil
}

// folderOf returns the directory entry id where it was last; nil if that is unknown. folders keeps what it found.
func (s *scan) folderOf(ctx context.Context, id sdk.RecordID, folders map[sdk.RecordID]*folder) (*folder, error) {
	if f := s.byID[id]; f != nil {
		return f, nil
	}
	if f, ok := folders[id]; ok {
		return f, nil
	}
	folders[id] = nil // ends a circle
	entries, err := findEntries(ctx, s.host, "id", []any{id})
	if err != nil || len(entries) == 0 {
		return nil, err
	}
	above, err := s.folderOf(ctx, entries[0].Parent.ID(), folders)
	if err != nil || above == nil {
		return nil, err
	}
	folders[id] = &folder{id: id, path: join(above.path, disk.Unescape(entries[0].Name)), file: keyOf(entries[0].info())}
	return folders[id], nil
}
