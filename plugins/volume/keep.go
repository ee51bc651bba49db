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

// When a new measure of the space, free or in all (which moves too, where file systems share a pool), is written by itself: if
// it differs by more than a hundredth of the capacity a minute after the record's last change, and otherwise an hour after it. A
// record that followed each look would be a change each few seconds, for every device.
const (
	freeStep  = 100
	restShort = time.Minute
	restLong  = time.Hour
)

// uuidWait is how long a volume without a UUID may be one whose UUID the system does not tell yet.
const uuidWait = 30 * time.Second

// keeper keeps the records of this device's volumes like what is mounted.
//
// A volume is found again by the UUID of its file system or, where neither has one, by what is mounted: so it
// keeps its record, whatever its mount point, and what refers to it goes on doing so. A record of a volume that is not
// mounted is kept. Of two records of one volume, as after this device was restored from an older copy, the older stays.
//
// The system may tell a UUID some seconds after the volume is mounted. Where only one of a record and a volume has one, they
// are the same if it has stayed mounted; else what is mounted so may be another stick. Then it is left alone until its
// UUID is told, or uuidWait is over.
type keeper struct {
	unsure map[string]time.Time // by source: since when a volume is left alone

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
	found, unsure := match(records, volumes)
	unsure = k.leaveAlone(volumes, unsure)
	for i := range volumes {
		if unsure[i] != nil {
			continue
		}
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
		case at >= 0, slices.Contains(unsure, record):
		case record.isAgain(found, volumes):
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

// leaveAlone notes since when volumes are unsure, and returns those that still are: nil for the others.
func (k *keeper) leaveAlone(volumes []mounts.Volume, unsure []*Volume) []*Volume {
	since := map[string]time.Time{}
	for i, record := range unsure {
		if record == nil {
			continue
		}
		source := volumes[i].Source
		began, before := k.unsure[source]
		if !before {
			began = k.now()
		}
		if since[source] = began; k.now().Sub(began) >= uuidWait {
			unsure[i] = nil // it has none
		}
	}
	k.unsure = since
	return unsure
}

// match returns for each volume the record that it is, or nil. No record is two volumes. Of a volume that has none it
// also returns the one that it may turn out to be.
func match(records []*Volume, volumes []mounts.Volume) (found, unsure []*Volume) {
	found, unsure = make([]*Volume, len(volumes)), make([]*Volume, len(volumes))
	pick := func(to []*Volume, same func(*Volume, *mounts.Volume) bool) {
		for i := range volumes {
			for _, record := range records {
				if found[i] == nil && to[i] == nil && same(record, &volumes[i]) && !slices.Contains(found, record) && !slices.Contains(to, record) {
					to[i] = record
				}
			}
		}
	}
	pick(found, func(r *Volume, v *mounts.Volume) bool { return r.UUID != "" && r.UUID == text(v.UUID) })
	pick(found, func(r *Volume, v *mounts.Volume) bool { return (r.UUID == "" || v.UUID == "") && r.hasStayed(v) })
	pick(found, func(r *Volume, v *mounts.Volume) bool { return r.UUID == "" && v.UUID == "" && r.mountedFrom(v) })
	pick(unsure, func(r *Volume, v *mounts.Volume) bool { return r.UUID != "" && v.UUID == "" && r.mountedFrom(v) })
	return found, unsure
}

func (r *Volume) mountedFrom(v *mounts.Volume) bool {
	return r.Source == text(v.Source) && r.FileSystem == text(v.FileSystem)
}

// hasStayed reports whether v is mounted as r was when somebody looked last.
func (r *Volume) hasStayed(v *mounts.Volume) bool {
	return r.Mounted && r.mountedFrom(v) && r.MountPoint == text(v.MountPoint) && r.DeviceNumber == v.Number && r.Capacity == v.Capacity
}

// isAgain reports whether r is another record of a volume that was found: of one UUID, or made while that was not told yet.
func (r *Volume) isAgain(found []*Volume, volumes []mounts.Volume) bool {
	for i, other := range found {
		if other == nil {
			continue
		}
		if r.UUID != "" && r.UUID == other.UUID || r.UUID == "" && volumes[i].UUID != "" && r.hasStayed(&volumes[i]) {
			return true
		}
	}
	return false
}

// take takes over what is mounted, and reports whether that is to be written.
func (r *Volume) take(v *mounts.Volume, now time.Time) bool {
	next := *r
	next.MountPoint, next.Mounted, next.FileSystem, next.Source = text(v.MountPoint), true, text(v.FileSystem), text(v.Source)
	next.UUID, next.Label = cmp.Or(text(v.UUID), r.UUID), text(v.Label)
	next.Name = cmp.Or(next.Label, lastPart(next.MountPoint))
	next.DeviceNumber, next.Removable, next.ReadOnly = v.Number, v.Removable, v.ReadOnly
	moved := max(v.Free-r.Free, r.Free-v.Free, v.Capacity-r.Capacity, r.Capacity-v.Capacity)
	rested := now.Sub(r.Stamp.Time())
	if next == *r && (moved == 0 || rested < restShort || moved <= v.Capacity/freeStep && rested < restLong) {
		return false
	}
	next.Free, next.Capacity = v.Free, v.Capacity
	*r = next
	return true
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
