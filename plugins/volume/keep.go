package main

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/starling-sync/starling/plugins/volume/mounts"
	"github.com/starling-sync/starling/sdk"
)

// When a new measure of free space is written: at once if it differs by more than a hundredth of the capacity, and
// otherwise no sooner than restFor after the record's last change. A record that followed each second would be a change
// each second, for every device.
const (
	freeStep = 100
	restFor  = time.Hour
)

// keeper keeps the records of this device's volumes like what is mounted.
//
// A volume is found again by the UUID of its file system or, where one of the two has none, by what is mounted: so it
// keeps its record, whatever its mount point, and what refers to it goes on doing so. A record of a volume that is not
// mounted is kept. Of two records of one volume, as after this device was restored from an older copy, the older stays.
type keeper struct {
	host sdk.SourceHost
	list func() ([]mounts.Volume, error)
	now  func() time.Time
	tick <-chan time.Time // when to look again
}

// run returns nil when ctx ends, and an error where the host can not be asked or written to.
func (k *keeper) run(ctx context.Context) error {
	changed := k.host.Changed("volume")
	for {
		if err := k.look(ctx); err != nil {
			if ctx.Err() != nil {
				return nil //nolint:nilerr // stopped, not failed
			}
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-k.tick:
		case _, open := <-changed: // somebody deleted a record, or this device got back what it had written
			if !open {
				changed = nil // ctx is about to end
			}
		}
	}
}

// look brings the records up to date once.
func (k *keeper) look(ctx context.Context) error {
	volumes, err := k.list()
	if err != nil {
		k.host.Warn("volumes", 1, fmt.Sprintf("the volumes of this device are not known: %v", err))
		return nil
	}
	k.host.Warn("volumes", 0, "")
	records, err := k.records(ctx)
	if err != nil {
		return err
	}
	packer, err := model().Packer()
	if err != nil {
		return err
	}
	found := match(records, volumes)
	for i := range volumes {
		next := Volume{}
		if found[i] != nil {
			next = *found[i]
		}
		if next.take(&volumes[i], k.now()) || found[i] == nil {
			packer.Put(&next)
		}
	}
	for _, record := range records {
		switch at := slices.Index(found, record); {
		case at >= 0:
		case slices.ContainsFunc(found, record.isAgain):
			packer.Delete(record.ID)
		case record.Mounted:
			record.Mounted = false
			packer.Put(record)
		}
	}
	if packer.Len() == 0 {
		return nil
	}
	refused, err := k.host.Commit(ctx, packer.Batch())
	if len(refused) > 0 {
		k.host.Warn("refused", len(refused), "volumes were refused, the first one because: "+refused[0].Message)
	} else if err == nil {
		k.host.Warn("refused", 0, "")
	}
	return err
}

// records returns this device's records, oldest first.
func (k *keeper) records(ctx context.Context) ([]*Volume, error) {
	batch, err := k.host.Find(ctx, "volume", "id", nil)
	if err != nil {
		return nil, err
	}
	var records []*Volume
	for record, err := range model().Rows(&batch) {
		if err != nil {
			return nil, err
		}
		records = append(records, &record)
	}
	slices.SortFunc(records, func(a, b *Volume) int { return a.ID.Compare(b.ID) })
	return records, nil
}

// match returns for each volume the record that it is, or nil. No record is two volumes.
func match(records []*Volume, volumes []mounts.Volume) []*Volume {
	found := make([]*Volume, len(volumes))
	for _, same := range []func(*Volume, *mounts.Volume) bool{
		func(r *Volume, v *mounts.Volume) bool { return r.UUID != "" && r.UUID == text(v.UUID) },
		func(r *Volume, v *mounts.Volume) bool {
			return (r.UUID == "" || v.UUID == "") && r.Source == text(v.Source) && r.FileSystem == text(v.FileSystem)
		},
	} {
		for i := range volumes {
			for _, record := range records {
				if found[i] == nil && same(record, &volumes[i]) && !slices.Contains(found, record) {
					found[i] = record
				}
			}
		}
	}
	return found
}

// isAgain reports whether r is another record of the volume that other, which may be nil, is.
func (r *Volume) isAgain(other *Volume) bool {
	return other != nil && other != r && r.UUID != "" && r.UUID == other.UUID
}

// take takes over what is mounted, and reports whether that is to be written.
func (r *Volume) take(v *mounts.Volume, now time.Time) bool {
	next := *r
	next.MountPoint, next.Mounted, next.FileSystem, next.Source = text(v.MountPoint), true, text(v.FileSystem), text(v.Source)
	next.UUID, next.Label = cmp.Or(text(v.UUID), r.UUID), text(v.Label)
	next.Name = cmp.Or(next.Label, lastPart(next.MountPoint))
	next.DeviceNumber, next.Capacity, next.Removable, next.ReadOnly = v.Number, v.Capacity, v.Removable, v.ReadOnly
	moved := max(v.Free-r.Free, r.Free-v.Free)
	switch rested := !now.Before(r.Stamp.Time().Add(restFor)); {
	case next != *r, moved > v.Capacity/freeStep, moved > 0 && rested:
		next.Free = v.Free
		*r = next
		return true
	}
	return false
}

// lastPart returns the last part of a mount point; all of it where that is a root.
func lastPart(point string) string {
	if base := filepath.Base(point); base != string(filepath.Separator) {
		return base
	}
	return point
}

// text returns s as every database takes it.
func text(s string) string {
	if utf8.ValidString(s) && !strings.Contains(s, "\x00") {
		return s
	}
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}
