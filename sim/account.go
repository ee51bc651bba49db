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

// account is the world's own word of what one store holds. It goes with the store: who is put back to a copy of the store is
// put back to a copy of the account.
type account struct {
	durable map[protocol.Stream]protocol.Heads // watermarks of commits that have returned
	reach   map[protocol.Stream]reach          // of durable
	// extra is what the store holds beyond durable. It came with records as they are, or with a page that held more than the
	// history of its heads.
	extra     map[key]map[*change]bool
	snapshots map[peersync.Scope]progress // that are being taken in
	floors    map[protocol.Stream]hlc.Stamp
	acked     map[sdk.DeviceID]map[protocol.Stream]protocol.Heads // what it was told that others have, and has kept
	// spared is up to where a device-owned stream may lack deletes that came before the first page here: who had nothing of
	// it is spared them, and so can not pass them on.
	spared    map[protocol.Stream]hlc.Stamp
	vague     map[key]bool     // of which the account does not know what is held until all is at rest
	asRecords map[key]bool     // came, at some time, as they were
	repaired  bool             // an audit has brought records
	missing   map[*change]bool // deletes of rows that it never had
	closed    hlc.Stamp        // up to where the clocks of what does not exist are forgotten
	last      hlc.Stamp        // of the latest acknowledged own write
	seen      hlc.Stamp        // the greatest stamp that it has durably applied
}

// progress is how far a snapshot is.
type progress struct {
	vector map[protocol.Stream]protocol.Heads
	after  protocol.Place
}

func newAccount() account {
	return account{
		durable: map[protocol.Stream]protocol.Heads{}, reach: map[protocol.Stream]reach{}, extra: map[key]map[*change]bool{},
		snapshots: map[peersync.Scope]progress{}, floors: map[protocol.Stream]hlc.Stamp{},
		acked:  map[sdk.DeviceID]map[protocol.Stream]protocol.Heads{},
		spared: map[protocol.Stream]hlc.Stamp{}, missing: map[*change]bool{}, asRecords: map[key]bool{}, vague: map[key]bool{},
	}
}

func (a *account) clone() account {
	b := *a
	b.vague = maps.Clone(a.vague)
	b.spared, b.missing, b.asRecords = maps.Clone(a.spared), maps.Clone(a.missing), maps.Clone(a.asRecords)
	b.durable, b.reach, b.snapshots, b.floors = maps.Clone(a.durable), maps.Clone(a.reach), maps.Clone(a.snapshots), maps.Clone(a.floors)
	b.acked = make(map[sdk.DeviceID]map[protocol.Stream]protocol.Heads, len(a.acked))
	for id, vector := range a.acked {
		b.acked[id] = maps.Clone(vector)
	}
	b.extra = make(map[key]map[*change]bool, len(a.extra))
	for k, set := range a.extra {
		b.extra[k] = maps.Clone(set)
	}
	return b
}

// covers reports whether a device should have a change: by the watermarks that it has made durable, or since it came with
// records.
func (a *account) covers(c *change) bool {
	return a.reach[c.stream].covers(c) || len(a.extra) > 0 && a.extra[c.key][c]
}

func (a *account) addExtra(c *change) {
	if a.reach[c.stream].covers(c) {
		return
	}
	if a.extra[c.key] == nil {
		a.extra[c.key] = map[*change]bool{}
	}
	a.extra[c.key][c] = true
}

// holding returns the changes of a record that the device should have.
func (a *account) holding(list []*change) (have []*change) {
	for _, c := range list {
		if a.covers(c) {
			have = append(have, c)
		}
	}
	return have
}

// reach is how far heads go in each epoch.
type reach map[protocol.EpochID]hlc.Stamp

func (r reach) covers(c *change) bool { return c.stamp <= r[c.epoch] }

// reachOf returns how far heads go, by the epochs of the whole world.
func (w *world) reachOf(heads protocol.Heads) reach {
	r := make(reach, len(heads)+4)
	todo := slices.Clone(heads)
	for len(todo) > 0 {
		p := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if at, ok := r[p.Epoch]; ok {
			r[p.Epoch] = max(at, p.Stamp)
			continue // what it continues has been seen
		}
		r[p.Epoch] = p.Stamp
		e, ok := w.graph.Epoch(p.Epoch)
		if !ok {
			w.fail("epochs", "a position names the epoch %x, which nobody has opened", p.Epoch[:])
		}
		todo = append(todo, e.Parents...)
	}
	return r
}

// reaches reports whether a stream up to heads is durable.
func (w *world) reaches(r reach, heads protocol.Heads) bool {
	for _, p := range heads {
		if p.Stamp > r[p.Epoch] {
			return false
		}
	}
	return true
}

// setDurable moves a watermark of a device's account, and of what its identity has ever had.
func (w *world) setDurable(d *device, st protocol.Stream, heads protocol.Heads) {
	joined := w.graph.Join(d.durable[st], heads)
	d.durable[st] = joined
	d.reach[st] = w.reachOf(joined)
	w.stats.MostHeads = max(w.stats.MostHeads, len(joined))
	ever := w.ever[d.index]
	if ever == nil {
		ever = map[protocol.Stream]protocol.Heads{}
		w.ever[d.index], w.everReach[d.index] = ever, map[protocol.Stream]reach{}
	}
	ever[st] = w.graph.Join(ever[st], joined)
	w.everReach[d.index][st] = w.reachOf(ever[st])
}

// everCovers reports whether a device had a change at some time, whatever copies it was put back to since.
func (w *world) everCovers(index int, c *change) bool { return w.everReach[index][c.stream].covers(c) }

// streamsOf lists the streams that a device has something of, in order.
func (w *world) streamsOf(d *device) []protocol.Stream { return sortedStreams(d.durable) }

func sortedStreams[V any](m map[protocol.Stream]V) []protocol.Stream {
	return slices.SortedFunc(maps.Keys(m), protocol.Stream.Compare)
}

// epochsOf returns the epochs that heads need, as the machine gives them with a page.
func (w *world) epochsOf(heads protocol.Heads) []history.Epoch {
	return w.graph.Missing(nil, heads, func(protocol.EpochID) bool { return false })
}

// reckon forgives the changes that nobody has any more who belongs to the library. With a lost row the rows may be lost that
// it had overwritten: they need not have travelled.
func (w *world) reckon() {
	lost := map[key]hlc.Stamp{}
	for _, st := range sortedStreams(w.ledger.streams) {
		for _, c := range w.ledger.streams[st] {
			if c.forgiven || w.held(c) {
				continue
			}
			w.forgive(c)
			lost[c.key] = max(lost[c.key], c.stamp)
		}
	}
	for _, k := range w.ledger.keys {
		if kindOf(k.model) == sdk.DeviceOwned && lost[k] > 0 {
			w.forgiveOlder(k, lost[k])
		}
	}
}

func (w *world) forgive(c *change) {
	c.forgiven = true
	w.stats.Forgiven++
}

// forgiveOlder forgives the rows of a record that a lost one has overwritten, but what its owner still has.
func (w *world) forgiveOlder(k key, lost hlc.Stamp) {
	kept := hlc.Stamp(0)
	if owner := w.devices[int(k.id[14])]; owner.belongs() {
		for _, c := range owner.holding(w.ledger.records[k]) {
			kept = max(kept, c.stamp)
		}
	}
	for _, c := range w.ledger.records[k] {
		if c.stamp < lost && c.stamp > kept && !c.forgiven {
			w.forgive(c)
		}
	}
}

// held reports whether anybody who belongs to the library has a change.
func (w *world) held(c *change) bool {
	has := func(d *device) bool { return d.belongs() && d.covers(c) }
	return slices.ContainsFunc(w.devices, has) || slices.ContainsFunc(w.twins, has)
}

// enrolled returns the devices that must be alike in the end.
func (w *world) enrolled() []*device {
	return slices.DeleteFunc(slices.Clone(w.devices), func(d *device) bool { return !d.belongs() })
}

// belongs reports whether a device has joined and was not retired.
func (d *device) belongs() bool { return d.joined && !d.retired }
