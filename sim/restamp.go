package main

import (
	"cmp"
	"context"
	"slices"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/history"
	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/sdk"
)

var ownKinds = [...]sdk.Ownership{sdk.SharedByAll, sdk.DeviceOwned}

// restamping is what must become of a device's own changes when it gives new stamps, by the world's account and the rules alone.
type restamping struct {
	due    bool                             // it must, and else must not
	base   hlc.Stamp                        // up to here is now, what others have written, and what a peer has said that it has: that stays
	kept   map[sdk.Ownership]protocol.Heads // of the own streams, up to base
	before []*change                        // what gets a new stamp, one after the other from base on, in the order of the old ones
	gone   []*change                        // what gets none, and has no place any more: rows that were overwritten, and what was forgotten
	exact  bool                             // nothing else can have a stamp
}

// restamp gives what a device wrote while its clock was ahead new stamps, as the host does before it starts the clock.
func (d *device) restamp(ctx context.Context) {
	w := d.w
	mark, err := d.journal.LoadClock(ctx)
	w.check(err, "start %s: the clock's mark", d)
	r := w.expectRestamp(d, mark)
	back := w.bug.restamp(d)
	if (back > 0) != r.due && !w.branched {
		w.fail("restamp", "%s has gone back by %s: its mark is %s, its clock at %s, and what others have at %s", d, back, mark, d.wall(), r.base)
	}
	if back == 0 {
		return
	}
	w.trace(d, "restamp", "%s back", back)
	w.stats.Restamps++
	w.restamped(d, &r)
}

// expectRestamp says by rule what a device must do that starts with a mark: if that is further ahead than others accept, and
// nobody else is as far, what is ahead and no peer has accepted gets stamps after all that it has seen.
func (w *world) expectRestamp(d *device, mark hlc.Stamp) restamping {
	wall := hlc.New(max(0, d.wall().UnixMilli()), 0)
	r := restamping{kept: map[sdk.Ownership]protocol.Heads{}, base: wall, exact: !w.branched}
	for st, heads := range d.durable {
		if st.Origin != d.id {
			r.base = max(r.base, heads.Top())
		}
	}
	for _, kind := range ownKinds {
		st := protocol.Stream{Origin: d.id, Kind: kind}
		for _, vector := range d.acked {
			r.base = max(r.base, w.graph.Until(d.durable[st], w.graph.Low(vector[st], d.durable[st])).Top())
		}
	}
	for _, kind := range ownKinds {
		st := protocol.Stream{Origin: d.id, Kind: kind}
		r.kept[kind] = w.graph.Until(d.durable[st], r.base)
		w.sortOut(d, st, &r)
	}
	slices.SortFunc(r.before, func(a, b *change) int { return cmp.Compare(a.stamp, b.stamp) })
	r.due = mark.Time().Sub(d.wall()) > maxDrift && d.wall().Year() >= 2025 && r.base < mark && r.base.Time().Sub(d.wall()) <= maxDrift
	return r
}

// sortOut says which changes of an own stream get new stamps.
func (w *world) sortOut(d *device, st protocol.Stream, r *restamping) {
	overwritten := map[key]bool{}
	for _, c := range slices.Backward(w.ledger.streams[st]) {
		if c.stamp <= r.base || !d.covers(c) {
			continue
		}
		forgotten := c.stamp <= d.floors[st] && (st.Kind == sdk.SharedByAll || c.kind == sdk.Delete)
		if forgotten {
			r.exact = false // what is left of it in records has a stamp
		}
		if forgotten || overwritten[c.key] {
			r.gone = append(r.gone, c)
			continue
		}
		r.before = append(r.before, c)
		overwritten[c.key] = st.Kind == sdk.DeviceOwned
	}
}

// restamped takes in that changes of a device have new stamps. The ledger says what has one and in which order, the store only
// which, and that must be the next ones after what the device has seen.
func (w *world) restamped(d *device, r *restamping) {
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
	for st, heads := range d.durable {
		if st.Origin != d.id {
			d.seen = max(d.seen, heads.Top())
		}
	}
	for _, c := range slices.Concat(r.before, r.gone) {
		delete(d.extra[c.key], c)
	}
	for _, kind := range ownKinds {
		st := protocol.Stream{Origin: d.id, Kind: kind}
		old := d.reach[st]
		delete(d.durable, st)
		d.reach[st] = nil
		w.setDurable(d, st, vector[st])
		d.floors[st] = floors[st] // it goes with what was forgotten below it
		d.last = max(d.last, vector[st].Top())
		for _, c := range w.ledger.streams[st] {
			if old.covers(c) && c.stamp <= r.base && !d.covers(c) {
				w.fail("restamp", "%s has given %s of %s another stamp: it was not ahead of %s, up to where peers have accepted its changes", d, c.stamp, c.key, r.base)
			}
		}
	}
	if slices.ContainsFunc(r.before, w.held) { // a peer had some, and could not say so: that is a branch
		w.branched, d.shared.restored = true, true
	}
	w.takeStamps(d, r)
	w.checkTraces(d, r)
	w.reckon()
	replaced := map[*change]bool{}
	for _, c := range slices.Concat(r.before, r.gone) {
		replaced[c] = true
	}
	w.lose(d, replaced)
}

// takeStamps adds the changes with new stamps to the ledger.
func (w *world) takeStamps(d *device, r *restamping) {
	list := slices.Concat(w.ownSince(d, sdk.SharedByAll, r), w.ownSince(d, sdk.DeviceOwned, r))
	slices.SortFunc(list, func(a, b *change) int { return cmp.Compare(a.stamp, b.stamp) })
	before, renamed := slices.Clone(r.before), map[hlc.Stamp]hlc.Stamp{}
	most := len(r.before) + len(r.gone)
	for i, c := range list {
		at := slices.IndexFunc(before, func(b *change) bool { return w.sameAfter(b, c, renamed) })
		switch want := r.base + 1 + hlc.Stamp(i); { //nolint:gosec // an index
		case at < 0 || at > 0 && !w.branched:
			w.fail("restamp", "%s: its %s of %s at %s is what it had at another place, or not at all", d, c.kind, c.key, c.stamp)
		case r.exact && c.stamp != want, c.stamp < want, !w.branched && c.stamp > r.base+hlc.Stamp(most): //nolint:gosec // a length
			w.fail("restamp", "%s: its %s of %s has the new stamp %s, and should have %s", d, c.kind, c.key, c.stamp, want)
		}
		old := before[at]
		before = slices.Delete(before, at, at+1)
		c.does, c.first = old.restampedEffects(renamed), old.origin()
		renamed[old.stamp] = c.stamp
		w.checkSeen(d, r, old, c, renamed)
		c.epoch = d.epoch.Of(c.stream.Kind)
		d.asRecords[c.key] = true // what loses to it now did not meet it
		w.checkNotForgotten(d, c)
		w.ledger.add(c)
		w.stats.Restamped++
		if d.retired {
			w.forgive(c)
		}
	}
	if len(before) > 0 && !w.branched { // else what a watermark covers need not be here
		w.fail("restamp", "%s: %d changes have no new stamp, the first the %s of %s at %s", d, len(before), before[0].kind, before[0].key, before[0].stamp)
	}
	w.checkRestamped(d, r, len(list))
}

// ownSince reads what a device has in an own stream that is not as it was.
func (w *world) ownSince(d *device, kind sdk.Ownership, r *restamping) []*change {
	read := d.journal.Read
	if kind == sdk.DeviceOwned {
		read = d.registry.ReadState
	}
	batches, _, more, err := read(context.Background(), d.id, r.base, 1<<30)
	w.check(err, "%s: read its own stream", d)
	list, err := changesOf(protocol.Stream{Origin: d.id, Kind: kind}, batches)
	w.check(err, "%s: read its own stream", d)
	if more {
		w.fail("restamp", "%s has more of its own stream than can be", d)
	}
	return list
}

// checkSeen checks that an operation with a new stamp names what it saw by its new stamp too.
func (w *world) checkSeen(d *device, r *restamping, old, c *change, renamed map[hlc.Stamp]hlc.Stamp) {
	for column, seen := range old.seen {
		want, own := renamed[seen]
		if !own {
			want = seen
		}
		if r.exact && c.seen[column] != want {
			w.fail("restamp", "%s: %s of %s saw %s of %s, and says now that it saw %s instead of %s", d, c.stamp, c.key, seen, column, c.seen[column], want)
		}
	}
}

// checkTraces checks that records and the conflict journal tell of what has a new stamp by that alone.
func (w *world) checkTraces(d *device, r *restamping) {
	if !r.exact {
		return
	}
	conflicts, err := d.registry.Conflicts(context.Background(), "", sdk.RecordID{})
	w.check(err, "%s: read the journal", d)
	for i := range conflicts {
		for _, v := range []sdk.Version{conflicts[i].Lost, conflicts[i].Winner} {
			if v.Device == d.id && v.Stamp > d.last {
				w.fail("restamp", "%s: the conflict journal tells of a change of %s, and it was given another stamp", d, v)
			}
		}
	}
	for k, row := range w.read(d) {
		for i := range row.Fields {
			f := &row.Fields[i]
			if f.Version.Device != d.id || f.Version.Stamp <= r.base {
				continue
			}
			wrote := func(c *change) bool { return c.version() == f.Version }
			at := slices.IndexFunc(w.ledger.records[k], wrote)
			if at < 0 || w.ledger.records[k][at].seen[f.Name] != f.Seen {
				w.fail("restamp", "%s: %s of %s says that at %s it saw %s, and its operation does not", d, f.Name, k, f.Version, f.Seen)
			}
		}
	}
}

// checkRestamped checks where the own streams stand then: in the epoch of this start, which continues what stays.
func (w *world) checkRestamped(d *device, r *restamping, changes int) {
	for _, kind := range ownKinds {
		have := d.durable[protocol.Stream{Origin: d.id, Kind: kind}]
		if changes == 0 {
			if r.exact && !have.Equal(r.kept[kind]) {
				w.fail("restamp", "%s: its %s stream is at %s, and should be at %s", d, kind, describeHeads(have), describeHeads(r.kept[kind]))
			}
			continue
		}
		e, _ := w.graph.Epoch(d.epoch.Of(kind))
		last := r.base + hlc.Stamp(changes) //nolint:gosec // a length
		if !have.Equal(history.At(e.ID, have.Top())) || have.Top() < last || r.exact && have.Top() != last {
			w.fail("restamp", "%s: its %s stream is at %s, and should be at %s in %x", d, kind, describeHeads(have), last, e.ID[1:3])
		}
		if !e.Parents.Equal(r.kept[kind]) && (!w.branched || !w.reaches(w.reachOf(r.kept[kind]), e.Parents)) {
			w.fail("restamp", "%s: its %s stream continues %s, and what stays is %s", d, kind, describeHeads(e.Parents), describeHeads(r.kept[kind]))
		}
	}
}
