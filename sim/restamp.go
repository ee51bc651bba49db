package main

import (
	"context"
	"maps"
	"slices"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/host/replica"
	"github.com/starling-sync/starling/sdk"
)

// restamp gives what a device wrote while its clock was ahead new stamps, as the host does before it starts the clock.
func (d *device) restamp(ctx context.Context) {
	w := d.w
	_, back, err := replica.Restamp(ctx, d.db, d.journal, d.registry, d.id, w.newEpoch(d), d.wall, maxDrift)
	w.check(err, "start %s: restamp", d)
	if back > 0 {
		w.trace(d, "restamp", "%s back", back)
		w.stats.Restamps++
		w.restamped(d)
	}
}

// restamped takes in that changes of a device have new stamps: they are as many, in the same order, and say the same.
func (w *world) restamped(d *device) {
	ctx := context.Background()
	epochs, err := d.journal.Epochs(ctx)
	w.check(err, "%s: read epochs", d)
	for _, e := range epochs {
		w.graph.Add(e)
	}
	vector, err := d.journal.Watermarks(ctx)
	w.check(err, "%s: read watermarks", d)
	floors, err := d.journal.Floors(ctx)
	w.check(err, "%s: read floors", d)
	d.last, d.seen = 0, 0
	for _, st := range w.streamsOf(d) {
		if st.Origin != d.id {
			d.seen = max(d.seen, d.durable[st].Top())
		}
	}
	for _, kind := range []sdk.Ownership{sdk.SharedByAll, sdk.DeviceOwned} {
		st := protocol.Stream{Origin: d.id, Kind: kind}
		var before []*change // that have no place in the stream any more
		old, floor := d.reach[st], d.floors[st]
		delete(d.durable, st)
		d.reach[st] = nil
		w.setDurable(d, st, vector[st])
		d.floors[st] = floors[st] // it goes with what was forgotten below it
		d.last = max(d.last, d.durable[st].Top())
		for _, c := range w.ledger.streams[st] {
			forgotten := c.stamp <= floor && (kind == sdk.SharedByAll || c.kind == sdk.Delete) // others have it
			if old.covers(c) && !d.covers(c) && !forgotten {
				before = append(before, c)
			}
		}
		w.branched = w.branched || slices.ContainsFunc(before, w.held) // a peer had some, and could not say so
		w.restampedStream(d, st, before)
	}
	w.reckon()
}

// restampedStream adds the changes with new stamps to the ledger.
func (w *world) restampedStream(d *device, st protocol.Stream, before []*change) {
	ctx := context.Background()
	read := d.journal.Read
	if st.Kind == sdk.DeviceOwned {
		read = d.registry.ReadState
		before = slices.DeleteFunc(before, func(c *change) bool { // what was overwritten is not there
			return slices.ContainsFunc(before, func(other *change) bool { return other.key == c.key && other.stamp > c.stamp })
		})
	}
	batches, _, more, err := read(ctx, d.id, 0, 1<<30)
	w.check(err, "%s: read its own stream", d)
	list, err := changesOf(st, batches)
	w.check(err, "%s: read its own stream", d)
	epochOf := func(stamp hlc.Stamp) protocol.EpochID {
		at := slices.IndexFunc(d.durable[st], func(p protocol.Position) bool { return p.Stamp >= stamp })
		if at < 0 {
			w.fail("restamp", "%s: the new stamp %s is beyond %s", d, stamp, describeHeads(d.durable[st]))
		}
		return d.durable[st][at].Epoch
	}
	before = slices.DeleteFunc(before, func(b *change) bool { // the new stamp may be the old one
		same := slices.ContainsFunc(list, func(c *change) bool { return c.stamp == b.stamp })
		if same {
			b.epoch = epochOf(b.stamp)
		}
		return same
	})
	list = slices.DeleteFunc(list, func(c *change) bool { return w.ledger.drawn[c.version()] })
	for _, c := range list {
		at := slices.IndexFunc(before, func(b *change) bool { return b.key == c.key && b.kind == c.kind && maps.Equal(b.fields, c.fields) })
		if at < 0 || at > 0 && !w.branched {
			w.fail("restamp", "%s: its %s of %s at %s is what it had at another place, or not at all", d, c.kind, c.key, c.stamp)
		}
		before = slices.Delete(before, at, at+1)
		c.epoch = epochOf(c.stamp)
		d.asRecords[c.key] = true // what loses to it now did not meet it
		w.ledger.add(c)
		if d.retired {
			w.forgive(c)
		}
	}
	if more || len(before) > 0 && !w.branched { // else what a watermark covers need not be here
		w.fail("restamp", "%s: %d changes of its %s stream have no new stamp", d, len(before), st.Kind)
	}
}
