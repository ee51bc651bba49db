package registry_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/history"
	"github.com/starling-sync/starling/host/registry"
	"github.com/starling-sync/starling/sdk"
)

// write has d write something; records of all kinds are deleted and made again. Fields that merge by value are left alone:
// what one device has forgotten of them, another may keep until an audit.
func write(rt *rapid.T, t *testing.T, d *device) {
	ctx := context.Background()
	n := byte(rapid.IntRange(1, 3).Draw(rt, "n"))
	parent := byte(rapid.IntRange(0, 3).Draw(rt, "parent"))
	name := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "name")
	mine := n + 10*d.id[15]
	l := label(100+n, 0, name)
	if parent != 0 {
		l.Parent = sdk.Ref(rid(100 + parent))
	}
	m := mark(100+n, parent)
	m.ID = sdk.KeyID("mark", rid(100+n), rid(parent))
	var err error
	switch rapid.IntRange(0, 8).Draw(rt, "write") {
	case 0, 1:
		if parent != 0 {
			parent += 10 * byte(rapid.IntRange(1, 3).Draw(rt, "whose"))
		}
		_, err = d.manager.CommitDeviceOwned(ctx, packed(t, files(), file(mine, parent, name)))
	case 2:
		_, err = d.manager.CommitDeviceOwned(ctx, deletes(t, files(), rid(mine)))
	case 3, 4:
		_, err = d.manager.CommitShared(ctx, packed(t, labels(), l))
	case 5:
		_, err = d.manager.CommitShared(ctx, updates(t, labels(), l, rapid.SampledFrom([]string{"name", "parent_id", "color"}).Draw(rt, "field")))
	case 6:
		_, err = d.manager.CommitShared(ctx, deletes(t, labels(), rid(100+n)))
	case 7:
		_, err = d.manager.CommitShared(ctx, packed(t, marks(), m))
	case 8:
		_, err = d.manager.CommitShared(ctx, deletes(t, marks(), m.ID))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// forget has d forget all deletes that nothing older can follow any more: d has each stream up to the least of them.
func (d *device) forget(among ...*device) {
	d.tb.Helper()
	vector, through := d.vector(), hlc.MaxStamp
	for _, other := range among {
		through = min(through, vector[history.Stream{Origin: other.id, Kind: sdk.SharedByAll}])
	}
	err := d.db.Write(context.Background(), func(tx *database.Tx) error {
		for _, other := range among {
			for n := 2; n == 2; {
				var err error
				if n, err = d.registry.PruneTombstones(tx, other.id, vector[history.Stream{Origin: other.id, Kind: sdk.DeviceOwned}], 2); err != nil {
					return err
				}
			}
		}
		for after := (registry.ShadowCursor{}); ; {
			_, next, err := d.registry.PruneShadow(tx, through, after, 2)
			if after = next; err != nil || after == (registry.ShadowCursor{}) {
				return err
			}
		}
	})
	if err != nil {
		d.tb.Fatal(err)
	}
}

// seal closes the streams of d, an hour later.
func (d *device) seal() {
	d.tb.Helper()
	d.wall = d.wall.Add(time.Hour)
	for _, kind := range []sdk.Ownership{sdk.DeviceOwned, sdk.SharedByAll} {
		if err := d.manager.Seal(context.Background(), kind); err != nil {
			d.tb.Fatal(err)
		}
	}
}

// snapshot brings all that from holds, page by page, and moves the watermarks at the end; between runs before each page.
func (d *device) snapshot(from *device, maxBytes int, between func(registry.IncomingRange)) (sum registry.RangeOutcome) {
	d.tb.Helper()
	theirs := from.vector()
	queries := []registry.RangeQuery{{Kind: sdk.SharedByAll, MaxBytes: maxBytes}}
	for _, stream := range sorted(theirs) {
		if stream.Kind == sdk.DeviceOwned && stream.Origin != d.id {
			queries = append(queries, registry.RangeQuery{Kind: sdk.DeviceOwned, Owner: stream.Origin, Since: d.vector()[stream], MaxBytes: maxBytes})
		}
	}
	for _, q := range queries {
		for done := false; !done; {
			page, err := from.registry.ReadRange(context.Background(), q)
			if err != nil {
				d.tb.Fatal(err)
			}
			in := incoming(q, []registry.Range{page}, covered(theirs, q.Kind), covered(d.vector(), q.Kind))[0]
			out := d.take(in)
			sum.Erased += out.Erased
			sum.LeftOut += out.LeftOut
			if between != nil {
				between(in)
			}
			q.After, done = page.End, page.Done
		}
	}
	d.reach(theirs)
	return sum
}

// reach moves watermarks to theirs.
func (d *device) reach(theirs map[history.Stream]hlc.Stamp) {
	d.tb.Helper()
	mine := d.vector()
	err := d.db.Write(context.Background(), func(tx *database.Tx) error {
		for stream, stamp := range theirs {
			if stamp <= mine[stream] {
				continue
			}
			if err := d.log.SetHeads(tx, stream, history.At(history.EpochID{1}, stamp), nil); err != nil {
				return err
			}
			if err := d.clock.Observe(stamp); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		d.tb.Fatal(err)
	}
}

// TestSnapshot has devices write, meet and forget, and wants one that takes a snapshot of another, and gives it what it
// wrote itself, to hold the same: where it lagged, where records were deleted and forgotten there, here, or on both sides.
func TestSnapshot(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var devices []*device
		for n := range 3 {
			d := newQuickDevice(t, byte(n+1), allModels()...)
			defer d.close()
			devices = append(devices, d)
		}
		a, b := devices[0], devices[1]
		meet := func() {
			for range rapid.IntRange(1, 15).Draw(rt, "steps") {
				d := devices[rapid.IntRange(0, 2).Draw(rt, "device")]
				write(rt, t, d)
				if other := devices[rapid.IntRange(0, 2).Draw(rt, "other")]; other != d && rapid.IntRange(0, 3).Draw(rt, "meet") == 0 {
					other.pull(d, 1<<20)
				}
			}
		}
		meet()
		for _, d := range devices {
			for _, other := range devices {
				d.pull(other, 1<<20)
			}
		}
		meet()
		forget := func(d *device) {
			if rapid.IntRange(0, 3).Draw(rt, "later") > 0 { // then all is old
				for _, other := range devices {
					other.seal()
					if other != d {
						d.pull(other, 1<<20)
					}
				}
			}
			d.forget(devices...)
		}
		who := rapid.SampledFrom([]string{"a", "b", "ab", "ba"}).Draw(rt, "who") // in which order
		for _, name := range who {
			forget(map[rune]*device{'a': a, 'b': b}[name])
			for range rapid.IntRange(0, 4).Draw(rt, "more") {
				write(rt, t, devices[rapid.IntRange(0, 1).Draw(rt, "device")])
			}
		}
		bytes := rapid.SampledFrom([]int{1, 200, 1 << 20}).Draw(rt, "bytes")
		between := func(in registry.IncomingRange) {
			b.checkInvariants()
			switch rapid.IntRange(0, 5).Draw(rt, "between") {
			case 0:
				b.take(in)
				b.checkInvariants()
			case 1:
				write(rt, t, a)
			case 2:
				write(rt, t, b)
			}
		}
		b.snapshot(a, bytes, between)
		if who != "a" {
			a.snapshot(b, bytes, nil)
		}
		b.pull(a, 1<<20)
		a.pull(b, 1<<20)
		a.checkInvariants()
		b.checkInvariants()
		all := newQuickDevice(t, 9, allModels()...)
		defer all.close()
		for _, d := range devices {
			all.replay(d, b.vector())
		}
		for _, d := range []*device{a, b} {
			if diff := cmp.Diff(all.digests(), d.digests()); diff != "" {
				rt.Fatalf("%s: digests differ from those of a device that forgot nothing (-want +got):\n%s\n%v", d.id, diff,
					cmp.Diff(all.clocks([]sdk.ModelName{"label", "mark"}, everything()), d.clocks([]sdk.ModelName{"label", "mark"}, everything())))
			}
		}
	})
}

// replay applies all that other ever committed, up to vector.
func (d *device) replay(other *device, vector map[history.Stream]hlc.Stamp) {
	d.tb.Helper()
	for _, kind := range []sdk.Ownership{sdk.DeviceOwned, sdk.SharedByAll} {
		stream := history.Stream{Origin: other.id, Kind: kind}
		for _, p := range other.pages(stream, 0, true) {
			if p.through <= vector[stream] {
				d.apply(p)
			}
		}
	}
}

func everything() []sdk.RecordID {
	var ids []sdk.RecordID
	for n := range byte(4) {
		ids = append(ids, rid(101+n))
		for target := range byte(4) {
			ids = append(ids, sdk.KeyID("mark", rid(101+n), rid(target)))
		}
	}
	return ids
}
