package main

import (
	"maps"
	"slices"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/history"
	"github.com/starling-sync/starling/host/peersync"
	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/sdk"
)

// acknowledged checks and notes a local commit, which is durable (invariants 2, 3 and 5).
func (w *world) acknowledged(d *device, page *protocol.Page) {
	w.written = page
	w.traceStamp(d, "commit", page.Stream, page.From, page.Through)
	w.opened(d, page)
	if at := w.graph.Low(d.durable[page.Stream], page.Heads); page.From > at {
		w.fail("watermark", "%s announces a commit after %s, and its stream stood at %s", d, page.From, at)
	}
	changes := w.changes(page)
	asked := w.asked
	for i, c := range changes {
		asked = w.means(d, asked, changes[:i], c)
		switch {
		case c.stamp <= d.last, w.ledger.drawn[c.version()]:
			w.fail("stamps", "%s gave the stamp %s after %s", d, c.stamp, d.last)
		case c.stamp <= d.seen:
			w.fail("causality", "%s gave the stamp %s having applied %s", d, c.stamp, d.seen)
		case c.stamp <= page.From || c.stamp > page.Through:
			w.fail("watermark", "%s announces %s outside of its page (%s, %s]", d, c.stamp, page.From, page.Through)
		case c.stream.Kind == sdk.DeviceOwned && int(c.id[14]) != d.index:
			w.fail("ownership", "%s writes %s", d, c.key)
		}
		w.checkNotForgotten(d, c)
		c.epoch = page.Heads[0].Epoch
		d.last = c.stamp
		w.ledger.add(c)
		if d.retired {
			w.forgive(c)
		}
	}
	w.setDurable(d, page.Stream, page.Heads)
	d.last = max(d.last, page.Through)
	d.shared.committed++
}

// opened checks that what a device commits lies in the epoch of its start, which continues all that it had.
func (w *world) opened(d *device, page *protocol.Page) {
	want := history.At(d.epoch.Of(page.Kind), page.Through)
	if !page.Heads.Equal(want) {
		w.fail("epochs", "%s commits %v, and its start writes the epoch %v", d, page.Heads, want)
	}
	before := d.durable[page.Stream]
	for _, e := range page.Epochs {
		if !e.Parents.Equal(before) && (!w.reaches(w.reachOf(e.Parents), before) || !w.reaches(w.reachOf(before), e.Parents)) {
			w.fail("epochs", "%s opens an epoch after %v, having %v", d, e.Parents, before)
		}
		d.epochs[e.ID] = true
		if !w.graph.Add(e) {
			w.fail("epochs", "%s opens an epoch twice", d)
		}
	}
	if _, known := w.graph.Epoch(want[0].Epoch); !known {
		w.fail("epochs", "%s commits to an epoch that it has not opened", d)
	}
}

// applied checks and notes a page that has become durable (invariants 3 and 7): it must continue what was there, and hold
// every change of its history up to its end that has not been overwritten since.
func (w *world) applied(d *device, page *protocol.Page) {
	w.traceStamp(d, "apply", page.Stream, page.From, page.Through)
	w.stats.Pages++
	if at, under := d.snapshots[scopeOf(page.Stream)]; under {
		w.fail("snapshot", "%s applied a page of %s's %s stream within a snapshot of it, which is at %v", d, name(page.Origin), page.Kind, at.after)
	}
	reached := w.reachOf(page.Heads)
	if w.reaches(d.reach[page.Stream], page.Heads) {
		return
	}
	at := w.graph.Low(d.durable[page.Stream], page.Heads)
	if page.From > at {
		w.fail("watermark", "%s applied a page of %s after %s at watermark %s", d, name(page.Origin), page.From, at)
	}
	inside := map[hlc.Stamp]*change{}
	for _, c := range w.changes(page) {
		inside[c.stamp] = c
	}
	var more []*change // that the history of the heads does not have
	for _, c := range w.ledger.between(page.Stream, page.From, page.Through) {
		got := inside[c.stamp]
		delete(inside, c.stamp)
		switch {
		case got != nil && (got.key != c.key || got.kind != c.kind || !maps.Equal(got.fields, c.fields)) && !w.rotten[c.key]:
			w.fail("ownership", "%s applied another %s than %s wrote at %s: %s %q, and not %s %q", d, c.key, name(c.stream.Origin), c.stamp, got.kind, got.fields, c.kind, c.fields)
		case got != nil:
			d.seen = max(d.seen, c.stamp)
			if !reached.covers(c) && c.stamp > at {
				more = append(more, c)
			}
		case page.Kind == sdk.DeviceOwned && c.kind == sdk.Delete && c.stamp <= d.spared[page.Stream]:
			d.missing[c] = true
		case reached.covers(c) && !d.reach[page.Stream].covers(c) && (page.Kind == sdk.SharedByAll || w.ledger.latest(c)) && !w.rotten[c.key]:
			w.fail("watermark", "%s moved its watermark of %s's %s stream to %s past %s of %s, which the page lacks", d, name(page.Origin), page.Kind, page.Through, c.stamp, c.key)
		}
	}
	for stamp, c := range inside {
		if !w.rotten[c.key] {
			w.fail("ownership", "%s applied %s at %s, which %s never wrote", d, c.key, stamp, name(page.Origin))
		}
	}
	w.setDurable(d, page.Stream, page.Heads)
	for _, c := range more {
		d.addExtra(c)
	}
	d.seen = max(d.seen, page.Through)
}

// took checks and notes a page of records that has become durable: of a snapshot, it goes on where the one before it ended,
// and the watermarks move with the last one.
func (w *world) took(d *device, a *peersync.TakeRange, taken *peersync.Taken, before held) {
	id := carriedID{d, d.starts, a.Session, a.Page.Number}
	held, ok := w.carried[id]
	if !ok {
		w.fail("snapshot", "%s takes in a page of records that nobody sent", d)
	}
	delete(w.carried, id)
	w.note(d.index, "take", uint64(taken.Records), uint64(taken.Repaired), uint64(a.Page.Bytes())) //nolint:gosec // not negative
	if w.verbose() {
		w.trace(d, "take", "%s of %s, repair %v, after %s %x, done %v: %d records, %d repaired", a.Scope.Kind, a.Scope.Origin, a.Repair, a.Since.Model, a.Since.ID[14:], a.Page.Done, taken.Records, taken.Repaired)
	}
	inside := w.recordsIn(a)
	explained := w.mayDiffer(d, held.changes)
	for k, list := range held.changes {
		stamp, named := inside[k]
		if a.Repair && !named {
			continue // nothing is inferred from what the page lacks
		}
		d.asRecords[k] = true
		d.seen = max(d.seen, stamp)
		if held.vague[k] {
			d.vague[k] = true
		}
		if !a.Repair && w.branched {
			w.doubtExtra(d, k, list)
		}
		for _, c := range list {
			if named && c.stream.Kind == sdk.SharedByAll && c.stamp > stamp {
				continue // nothing of it stands, as of a lesser value of a max field
			}
			if w.branched && !a.Repair && !w.reachOf(a.Vector[c.stream]).covers(c) && !d.covers(c) {
				// Of a branch that neither side's heads have it may be taken for what was forgotten here, and comes again with that.
				d.vague[k] = true
				continue
			}
			d.addExtra(c)
		}
	}
	if a.Repair {
		d.repaired = true
		w.checkRepair(d, a, before, explained)
		return
	}
	w.stats.SnapshotPages++
	at, under := d.snapshots[a.Scope]
	sameVector := maps.EqualFunc(at.vector, a.Vector, protocol.Heads.Equal)
	if fresh := a.Since == (protocol.Place{}); !fresh && (!under || at.after != a.Since || !sameVector) {
		w.fail("snapshot", "%s goes on with a snapshot at %v, and was at %v; of the same heads: %v", d, a.Since, at.after, sameVector)
	}
	if !a.Page.Done {
		if len(taken.Heads) > 0 {
			w.fail("snapshot", "%s moves watermarks before the end of a snapshot", d)
		}
		d.snapshots[a.Scope] = progress{a.Vector, a.Page.End}
		return
	}
	delete(d.snapshots, a.Scope)
	w.stats.Snapshots++
	for _, st := range sortedStreams(a.Vector) {
		d.spared[st] = max(d.spared[st], a.Vector[st].Top()) // it has no log of what came, and may have its deletes
		w.setDurable(d, st, a.Vector[st])
		if moved, ok := taken.Heads[st]; ok && !w.reaches(d.reach[st], moved) {
			w.fail("snapshot", "%s has %v after a snapshot of %v", d, moved, d.durable[st])
		}
	}
	for st, floor := range taken.Floors {
		d.floors[st] = max(d.floors[st], floor)
		if st.Kind == sdk.DeviceOwned {
			w.forgottenTo[a.Scope] = max(w.forgottenTo[a.Scope], floor)
		}
	}
	w.checkDevice(d)
}

// doubtExtra lets go of what a device holds of a record beyond its watermarks, and who sends it a snapshot does not. It came
// with an earlier snapshot that was not completed. Where it is of a branch that neither side's watermarks have, it may be taken
// for what was deleted and forgotten; then it comes again with that branch.
func (w *world) doubtExtra(d *device, k key, list []*change) {
	for c := range d.extra[k] {
		if !slices.Contains(list, c) && !d.reach[c.stream].covers(c) {
			delete(d.extra[k], c)
			d.vague[k] = true
			w.reckon() // it may have been the last who had it by the account
		}
	}
}

// recordsIn returns the records that a page holds, with the latest stamp of each.
func (w *world) recordsIn(a *peersync.TakeRange) map[key]hlc.Stamp {
	inside := map[key]hlc.Stamp{}
	for i := range a.Page.Changes {
		list, err := changesOf(protocol.Stream{Origin: a.Page.Changes[i].Origin, Kind: a.Scope.Kind}, a.Page.Changes[i].Batches)
		w.check(err, "read a page of records")
		for _, c := range list {
			inside[c.key] = max(inside[c.key], c.stamp)
		}
	}
	return inside
}

// latestOf returns the latest stamp of a page of records, and with the last page that of the watermarks that move with it.
func (w *world) latestOf(a *peersync.TakeRange) (latest hlc.Stamp) {
	for i := range a.Page.Changes {
		list, err := changesOf(protocol.Stream{Origin: a.Page.Changes[i].Origin, Kind: a.Scope.Kind}, a.Page.Changes[i].Batches)
		w.check(err, "read a page of records")
		for _, c := range list {
			latest = max(latest, c.stamp)
		}
	}
	if a.Page.Done {
		for _, heads := range a.Vector {
			latest = max(latest, heads.Top())
		}
	}
	return latest
}

// mayDiffer reports whether a device that has the same watermarks may hold other records than held says of another one: one
// of them has got something beyond its watermarks, or a row has been overwritten since by one that is still to come, and
// so came to one of them only.
func (w *world) mayDiffer(d *device, held map[key][]*change) bool {
	for k, list := range held {
		all := w.ledger.records[k]
		mine := d.holding(all)
		if !slices.Equal(mine, list) || kindOf(k.model) == sdk.DeviceOwned && !d.covers(all[len(all)-1]) {
			return true
		}
	}
	return false
}

// checkRepair checks that an audit repairs only where something has happened to a store.
func (w *world) checkRepair(d *device, a *peersync.TakeRange, before held, explained bool) {
	repaired := 0
	for k, row := range w.read(d) {
		if old, ok := before[k]; !ok || !sameHeld(old, row) {
			repaired++
		}
	}
	w.stats.Repaired += repaired
	if repaired > 0 && !explained && !w.unsound() {
		w.fail("audit", "%s merged %d records of an audit with %s, and both are sound", d, repaired, name(a.From))
	}
}

// unsound reports whether something has happened in this run after which devices that have the same may hold different
// records: a store was put back, or damaged, or a device with rows of its own belongs to the library no more.
func (w *world) unsound() bool {
	return w.branched || len(w.rotten) > 0 || slices.ContainsFunc(w.devices, func(d *device) bool { return d.retired })
}

// checkStored checks what a device remembers when it comes back (invariants 2, 7 and 9).
func (w *world) checkStored(d *device, stored *peersync.Stored) {
	for _, st := range w.streamsOf(d) {
		have, want := stored.Heads[st], d.durable[st]
		if !have.Equal(want) && (!w.branched || !w.reaches(w.reachOf(have), want) || !w.reaches(d.reach[st], have)) {
			w.fail("durable", "%s comes back with %s's %s stream at %v; it was durable up to %v", d, name(st.Origin), st.Kind, have, want)
		}
	}
	for _, st := range sortedStreams(stored.Heads) {
		if len(d.durable[st]) == 0 && len(stored.Heads[st]) > 0 {
			w.fail("durable", "%s comes back with a watermark that it never had: %s's %s stream at %v", d, name(st.Origin), st.Kind, stored.Heads[st])
		}
	}
	for _, st := range w.streamsOf(d) {
		if st.Kind == sdk.DeviceOwned && st.Origin != d.id && stored.Floors[st] == 0 {
			d.spared[st] = max(d.spared[st], d.durable[st].Top()) // it can not know
		}
	}
	for st, floor := range stored.Floors {
		if floor > d.floors[st] {
			w.fail("durable", "%s comes back with the floor of %s's %s stream at %s, and raised it to %s", d, name(st.Origin), st.Kind, floor, d.floors[st])
		}
	}
	if len(stored.Snapshots) != len(d.snapshots) {
		w.fail("durable", "%s comes back with %d snapshots under way, and had %d", d, len(stored.Snapshots), len(d.snapshots))
	}
	for _, s := range stored.Snapshots {
		if at, ok := d.snapshots[s.Scope]; !ok || at.after != s.After {
			w.fail("durable", "%s comes back with a snapshot at %v; it was at %v", d, s.After, at.after)
		}
	}
}

// checkHold checks why a page was not applied (invariant 12): only for a reason that passes.
func (w *world) checkHold(d *device, t *task) {
	w.stats.Holds++
	switch code := sdk.CodeOf(t.err); {
	case code == sdk.CodeClockSkew && t.Page.Through.Time().Sub(d.wall()) > maxDrift || t.Page.Through.Time().Sub(t.wall) > maxDrift:
	case t.behind:
	default:
		w.fail("apply", "%s can not apply a page of %s (%s, %s]: %v", d, name(t.Page.Origin), t.Page.From, t.Page.Through, t.err)
	}
}
