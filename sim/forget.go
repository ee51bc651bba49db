package main

import (
	"context"
	stdsql "database/sql"
	"fmt"
	"time"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/peersync"
	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/sdk"
)

// checkPrune checks that nothing is forgotten that a device may need which the pruning one knows as enrolled (invariant 8),
// but for what is older than the retention time.
func (w *world) checkPrune(d *device, a *peersync.Prune) {
	aged := false
	for _, st := range sortedStreams(a.Floors) {
		floor := a.Floors[st]
		for _, c := range w.ledger.between(st, 0, floor) {
			if !d.covers(c) {
				if !w.branched && !c.forgiven && c.stamp > d.spared[st] {
					w.fail("pruning", "%s raises the floor of %s's %s stream to %s, and lacks %s of %s", d, name(st.Origin), st.Kind, floor, c.stamp, c.key)
				}
				continue // of another branch, which is still to come
			}
			if who := w.needs(d, c); who != nil {
				aged = true
				if floor > max(w.tooOld(d), d.retained[st], d.spared[st]) {
					w.fail("pruning", "%s raises the floor of %s's %s stream to %s; %s never had %s of %s", d, name(st.Origin), st.Kind, floor, who, c.stamp, c.key)
				}
			}
		}
	}
	if aged {
		w.stats.PrunesByAge++
	} else if len(a.Floors) > 0 {
		w.stats.PrunesByAck++
	}
	if a.Shadow > d.closed {
		w.checkShadow(d, a.Shadow)
		d.closed = a.Shadow
	}
	for _, id := range a.Epochs {
		w.checkEpoch(d, id)
	}
}

// tooOld returns up to where changes are older than the retention time allows.
func (w *world) tooOld(d *device) hlc.Stamp {
	if w.config.RetentionAge <= 0 {
		return 0
	}
	newest := hlc.Stamp(0)
	for _, heads := range d.durable {
		newest = max(newest, heads.Top())
	}
	newest = min(newest, hlc.New(d.monotonic().UnixMilli(), 0)) // what is ahead of time ages nothing
	return hlc.New(max(0, newest.Millis()-w.config.RetentionAge.Milliseconds()), 0)
}

// needs returns a device that d knows as enrolled and that still needs c to be kept; nil if there is none. A device that is
// connected speaks for itself: what it had before it was put back to a copy does not count.
func (w *world) needs(d *device, c *change) *device {
	for _, m := range d.known {
		other := w.devices[m.index]
		if m.retired || other.id == d.id {
			continue
		}
		if !w.everCovers(m.index, c) || w.speaksFor(d, other) && !other.covers(c) {
			return other
		}
	}
	return nil
}

// speaksFor reports whether d is told by the present start of other itself, and no twin of it, what that has.
func (w *world) speaksFor(d, other *device) bool {
	if other.twin != nil || other.isTwin || d.isTwin || d.twin != nil || !d.up || !other.up {
		return false
	}
	session, ok := d.machine.SessionOf(other.id)
	if !ok {
		return false
	}
	c, i := w.find(d, session)
	return c != nil && !c.dead[i] && c.ends[1-i] == other && c.gens[1-i] == other.starts
}

// checkShadow checks that clocks of shared records that do not exist are forgotten up to a stamp only where no earlier
// change can come to anybody any more: every device that is known as enrolled is past it in every stream.
func (w *world) checkShadow(d *device, shadow hlc.Stamp) {
	for _, st := range sortedStreams(w.ledger.streams) {
		if st.Kind != sdk.SharedByAll {
			continue
		}
		for _, c := range w.ledger.between(st, 0, shadow) {
			if !d.reach[st].covers(c) {
				_, enrolled := d.knows(indexOf(st.Origin))
				if !w.branched && !c.forgiven && enrolled { // else who has heard it from a retired device passes it on later
					w.fail("pruning", "%s forgets clocks up to %s, and lacks %s of %s", d, shadow, c.version(), c.key)
				}
				continue
			}
			if who := w.needs(d, c); who != nil {
				w.fail("pruning", "%s forgets clocks up to %s; %s never had %s of %s", d, shadow, who, c.version(), c.key)
			}
		}
	}
	for _, origin := range d.known {
		for _, m := range d.known {
			st := protocol.Stream{Origin: deviceID(origin.index), Kind: sdk.SharedByAll}
			heard := w.graph.Until(w.ever[m.index][st], w.horizon())
			top := heard.Top()
			for _, p := range w.ever[origin.index][st] { // all before an epoch begins is all up to there; d may know one branch only
				top = max(top, min(w.horizon(), w.graph.Low(heard, protocol.Heads{p})))
			}
			if !origin.retired && !m.retired && top < shadow {
				w.fail("pruning", "%s forgets clocks up to %s; %s has heard from %s up to %s only", d, shadow, w.devices[m.index], w.devices[origin.index], top)
			}
		}
	}
}

// checkNotForgotten checks that a shared change does not come before what another device, which knows of its writer, has
// forgotten the clocks of.
func (w *world) checkNotForgotten(d *device, c *change) {
	if c.stream.Kind != sdk.SharedByAll || d.shared.restored || d.isTwin || d.retired {
		return
	}
	for _, other := range w.devices {
		if !other.up {
			continue
		}
		heard := len(d.durable[protocol.Stream{Origin: other.id, Kind: sdk.SharedByAll}]) > 0 // else it is new: nothing has moved its clock on
		if _, enrolled := other.knows(d.index); enrolled && heard && c.stamp <= other.closed && !other.shared.restored {
			w.fail("pruning", "%s writes at %s, and %s has forgotten clocks up to %s", d, c.stamp, other, other.closed)
		}
	}
}

// checkEpoch checks that an epoch is forgotten only once everybody is past it who is known as enrolled.
func (w *world) checkEpoch(d *device, id protocol.EpochID) {
	e, _ := w.graph.Epoch(id)
	for _, m := range d.known {
		other := w.devices[m.index]
		if m.retired || other.shared.restored {
			continue
		}
		if stamp, at := other.durable[e.Stream].In(id); at {
			w.fail("pruning", "%s forgets the epoch %x, in which %s is, at %s", d, id[:], other, stamp)
		}
		for _, c := range w.ledger.streams[e.Stream] {
			if c.epoch == id && !c.forgiven && !w.everCovers(m.index, c) {
				w.fail("pruning", "%s forgets the epoch %x, and %s never had %s of it", d, id[:], other, c.stamp)
			}
		}
	}
}

// checkLog checks that a device keeps what it may have to pass on: every operation that it has and every delete of a
// device-owned record, above the floors that it has stored.
func (w *world) checkLog(d *device) {
	type entry struct {
		origin sdk.DeviceID
		stamp  hlc.Stamp
	}
	kept := map[entry]bool{}
	err := d.db.Read(context.Background(), func(tx *database.Tx) error {
		add := func(rows *stdsql.Rows) error {
			var origin []byte
			var stamp int64
			err := rows.Scan(&origin, &stamp)
			kept[entry{sdk.DeviceID(origin), hlc.Stamp(stamp)}] = true //nolint:gosec // not negative
			return err
		}
		if err := tx.Each("SELECT d.id, l.stamp FROM _log l JOIN _device d ON d.n = l.origin", nil, add); err != nil {
			return err
		}
		return tx.Each("SELECT d.id, t.stamp FROM _tombstone t JOIN _device d ON d.n = t.owner", nil, add)
	})
	w.check(err, "%s: read the log", d)
	floors, err := d.journal.Floors(context.Background())
	w.check(err, "%s: read the floors", d)
	for _, st := range w.streamsOf(d) {
		reached := d.reach[st]
		if _, under := d.snapshots[scopeOf(st)]; under && st.Kind == sdk.DeviceOwned {
			continue // deletes that the sender has forgotten go page by page, and the floor rises with the last one
		}
		for _, c := range w.ledger.between(st, floors[st], d.durable[st].Top()) {
			wanted := st.Kind == sdk.SharedByAll || c.kind == sdk.Delete && w.ledger.latest(c)
			if wanted && reached.covers(c) && !d.missing[c] && !kept[entry{st.Origin, c.stamp}] && !w.rotten[c.key] {
				w.fail("log", "%s has not kept %s of %s, and its floor is %s", d, c.version(), c.key, floors[st])
			}
		}
	}
}

// checkForgotten checks that who has nothing to do for anybody keeps nothing for anybody: it has forgotten the log, the
// deletes and the clocks of what does not exist. What lies below a floor that came with a snapshot, or with a first
// backfill, may stay until that floor rises again; and an audit may bring back what others have not forgotten yet.
func (w *world) checkForgotten(d *device) {
	var ops, deletes, clocks int
	count := func(n *int, kind sdk.Ownership) func(*stdsql.Rows) error {
		return func(rows *stdsql.Rows) error {
			var origin []byte
			var stamp int64
			err := rows.Scan(&origin, &stamp)
			if hlc.Stamp(stamp) > d.spared[protocol.Stream{Origin: sdk.DeviceID(origin), Kind: kind}] { //nolint:gosec // not negative
				*n++
			}
			return err
		}
	}
	err := d.db.Read(context.Background(), func(tx *database.Tx) error {
		if err := tx.Each("SELECT d.id, l.stamp FROM _log l JOIN _device d ON d.n = l.origin", nil, count(&ops, sdk.SharedByAll)); err != nil {
			return err
		}
		if err := tx.Each("SELECT d.id, t.stamp FROM _tombstone t JOIN _device d ON d.n = t.owner", nil, count(&deletes, sdk.DeviceOwned)); err != nil {
			return err
		}
		_, err := tx.One("SELECT count(*) FROM _shadow WHERE present = 0", nil, &clocks)
		return err
	})
	w.check(err, "%s: read what it keeps", d)
	if ops+deletes+clocks > 0 && !w.believesLost(d) && !d.repaired {
		w.fail("kept", "%s still keeps %d operations, %d deletes and the clocks of %d records that do not exist, which everybody is past:\n%s", d, ops, deletes, clocks, w.describeAcks(d))
	}
}

// believesLost reports whether a device takes another one to have what that has lost since: it was told by a third one, before
// the other was put back to a copy.
func (w *world) believesLost(d *device) bool {
	for _, m := range d.known {
		other := w.devices[m.index]
		for st, heads := range d.machine.AcknowledgedBy(other.id) {
			if other != d && other.belongs() && !w.reaches(other.reach[st], heads) {
				return true
			}
		}
	}
	return false
}

// describeAcks writes what a device knows of what others have.
func (w *world) describeAcks(d *device) (text string) {
	for _, st := range w.streamsOf(d) {
		text += fmt.Sprintf("  %s/%s: floor %s; here %s", name(st.Origin), st.Kind, d.floors[st], describeHeads(d.durable[st]))
		for _, m := range d.known {
			if m.index != d.index && !m.retired {
				text += fmt.Sprintf("; d%d %s", m.index, describeHeads(d.machine.AcknowledgedBy(deviceID(m.index))[st]))
			}
		}
		text += "\n"
	}
	return text
}

// quietFor is how long nothing may be said for a library to count as quiet.
const quietFor = 45 * time.Second
