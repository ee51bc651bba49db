package peersync

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/sdk"
)

// What is true of every run. Each check is called where it can fail the test; describe says how all stands.

// note takes in what end i learns of epochs from a message.
func (c *worldConn) note(i int, msg protocol.Message) {
	switch msg := msg.(type) {
	case *protocol.Epochs:
		for _, e := range msg.Epochs {
			c.told[i][e.ID] = true
		}
	case *protocol.Hello:
		for _, mark := range msg.Vector {
			c.told[i][mark.Epoch] = true
		}
	}
}

// checkTold fails if a message names an epoch that the peer was not told of in this session: by its sender before, or
// because the peer has named it, or one that continues it. One that the sender does not know either can not be told.
func (w *world) checkTold(c *worldConn, from int, msg protocol.Message) {
	if e, ok := msg.(*protocol.Epochs); ok {
		for _, epoch := range e.Epochs {
			c.told[from][epoch.ID] = true
		}
	}
	sender := c.ends[from].machine
	if beat, ok := msg.(*protocol.Heartbeat); ok {
		for _, k := range beat.Known {
			for _, m := range k.Vector {
				if _, known := sender.graph.Epoch(m.Epoch); !known {
					w.tb.Fatalf("seed %d: d%d passes on that %s has %v, of an epoch that it does not know", w.seed, c.ends[from].index, k.Device, m)
				}
			}
		}
	}
	for _, p := range namedBy(msg) {
		if c.told[from][p.Epoch] {
			continue
		}
		if _, known := sender.graph.Epoch(p.Epoch); !known {
			continue
		}
		follows := false
		for id := range c.told[from] {
			heads := protocol.Heads{{Epoch: id, Stamp: hlc.MaxStamp}}
			follows = follows || w.truth.Covers(heads, protocol.Position{Epoch: p.Epoch, Stamp: 1})
		}
		if !follows {
			w.tb.Fatalf("seed %d: d%d names epoch %s in %s, of which d%d was not told", w.seed, c.ends[from].index, p.Epoch, msg.Type(), c.ends[1-from].index)
		}
	}
}

// checkLook fails if a look at what may be forgotten, which leaves out the streams of which nothing has changed, has not come to
// what one at all of them comes to.
func (w *world) checkLook(d *worldDevice) {
	m := d.machine
	enrolled := m.enrolled()
	for _, st := range m.streamList {
		if _, touched := m.acks.touched[st.Stream]; touched || m.acks.anew {
			continue // since
		}
		low, all := m.stable(st, enrolled)
		needs, want := slices.Clone(st.needs), m.neededOf(st, enrolled)
		for _, ids := range [][]protocol.EpochID{needs, want} {
			slices.SortFunc(ids, func(a, b protocol.EpochID) int { return bytes.Compare(a[:], b[:]) })
		}
		if st.stable != low || st.latest != all.Top() || !slices.Equal(needs, want) {
			w.tb.Fatalf("seed %d: d%d looks at %v and finds it stable up to %s of %s, %d epochs needed; it is %s of %s, and %d",
				w.seed, d.index, st.Stream, st.stable, st.latest, len(needs), low, all.Top(), len(want))
		}
	}
}

// namedBy returns the positions that a message names and that must have been told of.
func namedBy(msg protocol.Message) (list []protocol.Position) {
	marks := func(marks []protocol.Mark) {
		for _, m := range marks {
			list = append(list, m.Position)
		}
	}
	if d, ok := protocol.DeliveryOf(msg); ok {
		return d.Page.Heads
	}
	if r, _, ok := protocol.RequestOf(msg); ok {
		for _, s := range r.Subscribe {
			list = append(list, s.Since...)
		}
		return list
	}
	switch msg := msg.(type) {
	case *protocol.AckSharedChanges:
		marks(msg.Vector)
	case *protocol.Heartbeat:
		marks(msg.Vector)
		for _, k := range msg.Known {
			marks(k.Vector)
		}
	case *protocol.SnapshotRequest:
		return msg.Since
	case *protocol.SnapshotPage:
		marks(msg.Vector)
	}
	return list
}

// checkEqual fails unless all devices have the same data and the same watermarks.
func (w *world) checkEqual(name string) {
	w.tb.Helper()
	defer func() {
		if w.tb.Failed() {
			w.describe()
		}
	}()
	want, marks := w.devices[0].store.dump(), w.devices[0].machine.Vector()
	for _, d := range w.devices[1:] {
		if diff := cmp.Diff(want, d.store.dump()); diff != "" {
			w.tb.Errorf("%s: device %d differs from device 0 (-0 +%d):\n%s", name, d.index, d.index, truncate(diff, 2000))
		}
		if diff := cmp.Diff(marks, d.machine.Vector()); diff != "" {
			w.tb.Errorf("%s: vector of device %d differs (-0 +%d):\n%s", name, d.index, d.index, diff)
		}
		for _, st := range d.machine.streamList {
			stored := d.store.heads[st.Stream]
			if !w.truth.CoversAll(stored, st.applied) || !w.truth.CoversAll(st.applied, stored) {
				w.tb.Errorf("%s: device %d has %v up to %v, its store up to %v", name, d.index, st.Stream, st.applied, stored)
			}
		}
	}
}

// equal reports whether all devices have the same records.
func (w *world) equal() bool {
	want := w.devices[0].store.dump()
	return !slices.ContainsFunc(w.devices, func(d *worldDevice) bool { return !slices.Equal(want, d.store.dump()) })
}

// checkLive fails unless every device sees every peer that it can reach as live.
func (w *world) checkLive(name string) {
	w.tb.Helper()
	for _, d := range w.devices {
		for _, p := range d.machine.Peers(w.now) {
			if other := int(p.ID[15]) - 1; p.State != Live && !w.members[other].Retired && !w.cut[[2]int{min(d.index, other), max(d.index, other)}] {
				w.describe()
				w.tb.Fatalf("%s: d%d sees %s as %s (%s) after faults stopped", name, d.index, p.Name, p.State, p.Reason)
			}
		}
		if d.machine.Lost() || len(d.machine.snapshots) > 0 {
			w.describe()
			w.tb.Fatalf("%s: d%d lost: %t, snapshots: %d after faults stopped", name, d.index, d.machine.Lost(), len(d.machine.snapshots))
		}
	}
}

// checkRest fails if something is kept of exchanges that are over.
func (w *world) checkRest(name string) {
	w.tb.Helper()
	for _, d := range w.devices {
		for _, s := range d.machine.sessionList {
			for i := range s.windows {
				if win := &s.windows[i]; win.used != 0 || len(win.lagging) > 0 {
					w.describe()
					w.tb.Errorf("%s: d%d to %s: %d bytes of the window are not given back, %d lag", name, d.index, s.peer, win.used, len(win.lagging))
				}
			}
			if a := &s.audit; s.ranges > 0 || a.number != 0 || a.asked != 0 || a.taking || len(a.answers) > 0 || len(a.repairs) > 0 {
				w.tb.Errorf("%s: d%d to %s: something of a snapshot or an audit is left: ranges %d, %+v", name, d.index, s.peer, s.ranges, a)
			}
		}
		for _, st := range d.machine.streamList {
			if len(st.queue) > 0 || st.queueBytes != 0 || len(st.handed) > 0 || !st.tail.Equal(st.applied) || !st.given.Equal(st.applied) {
				w.tb.Errorf("%s: d%d: %v is not at rest: %d queued, %d handed", name, d.index, st.Stream, len(st.queue), len(st.handed))
			}
		}
	}
}

// checkSilence fails if devices that have the same go on saying something but that they live.
func (w *world) checkSilence(name string, d time.Duration) {
	w.tb.Helper()
	before := w.onFrame
	w.onFrame = func(from, to *worldDevice, msg protocol.Message) {
		if beat, ok := msg.(*protocol.Heartbeat); !ok || len(beat.Vector)+len(beat.Known) > 0 {
			w.tb.Errorf("%s: d%d tells d%d %s %+v although nothing has happened", name, from.index, to.index, msg.Type(), msg)
		}
	}
	w.pass(d)
	w.onFrame = before
}

// describe logs how every device stands.
func (w *world) describe() {
	for _, d := range w.devices {
		if !d.up {
			w.tb.Logf("d%d is down", d.index)
			continue
		}
		for _, p := range d.machine.Peers(w.now) {
			w.tb.Logf("d%d sees %s as %s (%s)", d.index, p.Name, p.State, p.Reason)
		}
		for _, st := range d.machine.streamList {
			up := "-"
			if st.applied.Equal(w.devices[0].machineHeads(st.Stream)) && st.tail.Equal(st.applied) && st.snapshot == nil && st.heldReason == "" {
				continue
			}
			if st.upstream != nil {
				up = fmt.Sprintf("%s at %s", st.upstream.peer, headsText(st.upstream.vector[st.Stream]))
			}
			w.tb.Logf("  d%d %s of d%d: applied %s given %s tail %s floor %s handed %d queue %d upstream %s waits %t held %q", d.index, st.Kind, st.Origin[15]-1,
				headsText(st.applied), headsText(st.given), headsText(st.tail), st.floor, len(st.handed), len(st.queue), up, st.snapshot != nil, st.heldReason)
		}
		for _, sn := range d.machine.snapshots {
			w.tb.Logf("  d%d snapshot %v from %v after %v taking %t done %t number %d queue %d", d.index, sn.Scope, sn.from != nil, sn.after, sn.taking, sn.done, sn.number, len(sn.queue))
		}
		for _, s := range d.machine.sessionList {
			for i := range s.windows {
				if s.windows[i].used == 0 && len(s.windows[i].lagging) == 0 {
					continue
				}
				w.tb.Logf("  d%d to %s: window %d used %d lagging %d", d.index, s.peer, s.windows[i].size, s.windows[i].used, len(s.windows[i].lagging))
			}
		}
	}
}

func (d *worldDevice) machineHeads(key protocol.Stream) protocol.Heads {
	if !d.up || d.machine.streams[key] == nil {
		return nil
	}
	return d.machine.streams[key].applied
}

func headsText(heads protocol.Heads) string {
	text := "["
	for _, p := range heads {
		text += fmt.Sprintf(" %x@%s", p.Epoch[:4], p.Stamp)
	}
	return text + " ]"
}

// ledger is every write that was acknowledged to who made it, as long as some device has it: one that only a lost copy
// of a store had is lost.
type ledger struct {
	writes []ledgerWrite
	lost   []ledgerWrite
}

type ledgerWrite struct {
	write
	stream   protocol.Stream
	id       sdk.RecordID
	at       clock
	epoch    protocol.EpochID
	inserted clock // of the record that an update, or a delete, changed
}

func newLedger() *ledger { return &ledger{} }

// note takes in a commit.
func (l *ledger) note(d *worldDevice, page *protocol.Page, writes []write) {
	i := 0
	add := func(id sdk.RecordID, stamp hlc.Stamp, inserted clock) {
		l.writes = append(l.writes, ledgerWrite{
			write: writes[i], stream: page.Stream, id: id, at: clock{stamp, d.id}, epoch: page.Heads[0].Epoch, inserted: inserted,
		})
		i++
	}
	for k := range page.Batches {
		if page.Kind == sdk.DeviceOwned {
			for r := range page.Batches[k].StateRows() {
				add(r.ID, r.Stamp, clock{})
			}
			continue
		}
		for op := range page.Batches[k].Ops() {
			var inserted clock
			if r := d.store.records[op.ID]; r != nil {
				inserted = r.inserted
			}
			add(op.ID, op.Stamp, inserted)
		}
	}
}

// forget takes out what no device has any more, since a copy of a store has been lost.
func (l *ledger) forget(w *world) {
	l.writes = slices.DeleteFunc(l.writes, func(e ledgerWrite) bool {
		at := protocol.Position{Epoch: e.epoch, Stamp: e.at.stamp}
		held := slices.ContainsFunc(w.devices, func(d *worldDevice) bool { return w.truth.Covers(d.store.heads[e.stream], at) })
		if !held {
			l.lost = append(l.lost, e)
		}
		return !held
	})
}

// deletedAfter reports whether a record was deleted after at, by anybody.
func (l *ledger) deletedAfter(id sdk.RecordID, at clock) bool {
	deletes := func(e ledgerWrite) bool { return e.id == id && e.op == sdk.Delete && e.at.compare(at) > 0 }
	return slices.ContainsFunc(l.writes, deletes) || slices.ContainsFunc(l.lost, deletes)
}

// check returns the writes that a store neither has nor has something newer of. With restored, deletes are left out: a copy
// from before what has been pruned brings records back.
func (l *ledger) check(s *memoryStore, restored bool) (missing []string) {
	for _, e := range l.writes {
		if e.op == sdk.Delete && restored {
			continue
		}
		var fine bool
		if e.stream.Kind == sdk.DeviceOwned {
			r := s.rows[e.id]
			if fine = r != nil && r.stamp >= e.at.stamp; !fine && (r == nil || r.deleted || restored) {
				fine = e.op == sdk.Delete || l.deletedAfter(e.id, e.at)
			}
		} else {
			r := s.records[e.id]
			if r == nil {
				r = &record{}
			}
			switch e.op {
			case sdk.Delete:
				fine = !r.exists() || r.inserted.compare(e.at) > 0
			case sdk.Insert:
				fine = r.inserted.compare(e.at) >= 0 && r.written.compare(e.at) >= 0 || l.deletedAfter(e.id, e.at)
			default:
				fine = r.written.compare(e.at) >= 0 || l.deletedAfter(e.id, e.inserted)
			}
		}
		if !fine {
			missing = append(missing, fmt.Sprintf("%s of record %d (%s) by d%d at %s", e.op, e.record, e.stream.Kind, e.at.device[15]-1, e.at.stamp))
		}
	}
	return missing
}

// checkLedger fails if a device lacks something that was acknowledged.
func (w *world) checkLedger(name string, restored bool) {
	w.tb.Helper()
	for _, d := range w.devices {
		for _, text := range w.ledger.check(d.store, restored) {
			w.tb.Errorf("%s: d%d has lost the %s", name, d.index, text)
		}
	}
}
