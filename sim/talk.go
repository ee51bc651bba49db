package main

import (
	"fmt"

	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/sdk"
)

// checkClaims checks what a device says that it or others have (invariant 7): nothing before it is durable.
func (w *world) checkClaims(d *device, m protocol.Message) {
	switch m := m.(type) {
	case *protocol.Hello:
		w.checkMarks(d, m.Type(), m.Vector)
	case *protocol.Heartbeat:
		w.checkMarks(d, m.Type(), m.Vector)
		for _, k := range m.Known {
			w.checkKnown(d, k)
		}
	case *protocol.AckSharedChanges:
		w.checkMarks(d, m.Type(), m.Vector)
	case *protocol.SnapshotPage:
		w.checkMarks(d, m.Type(), m.Vector)
	}
	if delivery, ok := protocol.DeliveryOf(m); ok {
		if page := &delivery.Page; !w.reaches(d.reach[page.Stream], page.Heads) {
			w.fail("acknowledgement", "%s sends a page of %s's %s stream up to %v; durable is %v", d, name(page.Origin), page.Kind, page.Heads, d.durable[page.Stream])
		}
	}
}

func (w *world) checkMarks(d *device, what protocol.Type, marks []protocol.Mark) {
	for _, mark := range marks {
		if mark.Stamp > d.reach[mark.Stream][mark.Epoch] {
			w.fail("acknowledgement", "%s says in a %s that it has %s's %s stream up to %v; durable is %v", d, what, name(mark.Origin), mark.Kind, mark.Position, d.durable[mark.Stream])
		}
	}
}

// checkKnown checks what a device says of a third one: that it has had this at some time.
func (w *world) checkKnown(d *device, k protocol.Known) {
	for _, mark := range k.Vector {
		if mark.Stamp > w.everReach[indexOf(k.Device)][mark.Stream][mark.Epoch] {
			w.fail("acknowledgement", "%s says that %s has %s's %s stream up to %v, which that never had", d, name(k.Device), name(mark.Origin), mark.Kind, mark.Position)
		}
	}
}

// named lists the epochs that a message names.
func named(m protocol.Message) (ids []protocol.EpochID) {
	heads := func(h protocol.Heads) {
		for _, p := range h {
			ids = append(ids, p.Epoch)
		}
	}
	marks := func(vector []protocol.Mark) {
		for _, mark := range vector {
			ids = append(ids, mark.Epoch)
		}
	}
	if d, ok := protocol.DeliveryOf(m); ok {
		heads(d.Page.Heads)
	}
	if r, _, ok := protocol.RequestOf(m); ok {
		for i := range r.Subscribe {
			heads(r.Subscribe[i].Since)
		}
	}
	switch m := m.(type) {
	case *protocol.Hello:
		marks(m.Vector)
	case *protocol.Heartbeat:
		marks(m.Vector) // what third devices have is looked at apart: who hears of it does not learn what an epoch continues
	case *protocol.AckSharedChanges:
		marks(m.Vector)
	case *protocol.SnapshotRequest:
		heads(m.Since)
	case *protocol.SnapshotPage:
		marks(m.Vector)
	case *protocol.Epochs:
		for i := range m.Epochs {
			heads(m.Epochs[i].Parents)
		}
	}
	return ids
}

// checkTold checks that the end from of a session names no epoch that the other end was not told of, and has not named itself.
// Only a Hello comes before both could say anything; what everybody is past is forgotten; and who has not been told what an
// epoch continues can not tell.
func (w *world) checkTold(d *device, c *conn, from int, m protocol.Message) {
	if _, hello := m.(*protocol.Hello); hello {
		return
	}
	told := c.told[from]
	if epochs, ok := m.(*protocol.Epochs); ok {
		for i := range epochs.Epochs {
			w.checkNamed(d, c, from, told, &protocol.Epochs{Epochs: epochs.Epochs[i : i+1]})
			told[epochs.Epochs[i].ID] = true
		}
		return
	}
	w.checkNamed(d, c, from, told, m)
	if beat, ok := m.(*protocol.Heartbeat); ok {
		w.checkKnownEpochs(d, c, from, beat)
	}
}

// checkKnownEpochs checks that what a device says of third ones names no epoch that its peer was not told of and has not named
// itself, whether the device knows it or not: what it heard of an epoch that it does not know, it keeps to itself.
func (w *world) checkKnownEpochs(d *device, c *conn, from int, beat *protocol.Heartbeat) {
	for _, k := range beat.Known {
		for _, mark := range k.Vector {
			if id := mark.Epoch; !c.told[from][id] && !c.known[from][id] && !w.forgotten[id] {
				w.fail("told", "%s says to %s that %s has %s of %s's %s stream, in an epoch that it has not told of (it knows it itself: %v)",
					d, c.ends[1-from], name(k.Device), describeHeads(protocol.Heads{mark.Position}), name(mark.Origin), mark.Kind, d.epochs[id])
			}
		}
	}
}

func (w *world) checkNamed(d *device, c *conn, from int, told map[protocol.EpochID]bool, m protocol.Message) {
	for _, id := range named(m) {
		if !told[id] && !c.known[from][id] && !w.forgotten[id] && d.epochs[id] {
			w.fail("told", "%s names the epoch %x in a %s to %s, which it has not told of", d, id[:], m.Type(), c.ends[1-from])
		}
	}
}

// hear notes that the end to of a session knows the epochs that the other end has named, and all that they continue.
func (w *world) hear(c *conn, to int, m protocol.Message) {
	ids := named(m)
	if epochs, ok := m.(*protocol.Epochs); ok {
		for i := range epochs.Epochs {
			ids = append(ids, epochs.Epochs[i].ID)
			c.ends[to].epochs[epochs.Epochs[i].ID] = true
		}
	}
	for len(ids) > 0 {
		id := ids[len(ids)-1]
		ids = ids[:len(ids)-1]
		if c.known[to][id] {
			continue
		}
		c.known[to][id] = true
		e, _ := w.graph.Epoch(id)
		for _, p := range e.Parents {
			ids = append(ids, p.Epoch)
		}
	}
}

// checkRetired checks that a device does not go on with one that it knows to be retired.
func (w *world) checkRetired(d, other *device, m protocol.Message) {
	if _, refusal := m.(*protocol.Error); refusal {
		return
	}
	if known, enrolled := d.knows(other.index); known && !enrolled {
		w.fail("retired", "%s sends a %s to %s, which it knows to be retired", d, m.Type(), other)
	}
}

// noteNoise notes when something was last said in the library but that devices live, and audits.
func (w *world) noteNoise(d, other *device, m protocol.Message) {
	if !d.belongs() || !other.belongs() {
		return
	}
	switch m := m.(type) {
	case *protocol.AuditRequest, *protocol.AuditResponse:
		return
	case *protocol.Heartbeat:
		if len(m.Vector)+len(m.Known) == 0 {
			return
		}
	}
	w.noisy, w.noise = w.now, m.Type()
}

// checkWindow checks that a device sends no more than the window (invariant 11).
func (w *world) checkWindow(d *device, c *conn, f *flow, m protocol.Message) {
	if refusal, ok := m.(*protocol.Error); ok && !refusal.Stream.Origin.IsZero() { // no more of it is sent
		for _, page := range f.sent[refusal.Stream] {
			f.unread[kindIndex(refusal.Stream.Kind)] -= page.bytes
		}
		delete(f.sent, refusal.Stream)
	}
	delivery, ok := protocol.DeliveryOf(m)
	if !ok {
		return
	}
	kind, size := kindIndex(delivery.Page.Kind), delivery.Page.Bytes()
	if f.sent == nil {
		f.sent = map[protocol.Stream][]sentPage{}
	}
	f.sent[delivery.Page.Stream] = append(f.sent[delivery.Page.Stream], sentPage{delivery.Page, size})
	f.unread[kind] += size
	w.stats.MostUnread = max(w.stats.MostUnread, f.unread[kind])
	reads := max(1, w.limits.WindowBytes/w.limits.PageBytes)
	if f.unread[kind] > w.limits.WindowBytes+reads*pageHeads && f.unread[kind] != size {
		text := ""
		for _, st := range sortedStreams(f.sent) {
			for _, p := range f.sent[st] {
				text += fmt.Sprintf("\n  %s/%s (%s, %s] heads %s, %d bytes", name(st.Origin), st.Kind, p.page.From, p.page.Through, describeHeads(p.page.Heads), p.bytes)
			}
		}
		w.fail("memory", "%s has sent %d bytes to %s that are not acknowledged; the window is %d:%s", d, f.unread[kind], other(c, d), w.limits.WindowBytes, text)
	}
}

// pageHeads is about what the heads of a page and its batches take, which a page that is being read may have beyond its
// share of the window.
const pageHeads = 256

func other(c *conn, d *device) *device {
	if c.ends[0] == d {
		return c.ends[1]
	}
	return c.ends[0]
}

func kindIndex(kind sdk.Ownership) int {
	if kind == sdk.DeviceOwned {
		return 1
	}
	return 0
}

// freed takes from a window what the message that arrives at end i acknowledges or calls off.
func (w *world) freed(c *conn, i int, m protocol.Message) {
	f := &c.to[1-i]
	if f.sent == nil {
		return
	}
	drop := func(st protocol.Stream, covered func(protocol.Heads) bool) {
		list := f.sent[st]
		for len(list) > 0 && covered(list[0].page.Heads) {
			f.unread[kindIndex(st.Kind)] -= list[0].bytes
			list = list[1:]
		}
		f.sent[st] = list
	}
	all := func(protocol.Heads) bool { return true }
	if r, kind, ok := protocol.RequestOf(m); ok {
		for _, s := range r.Subscribe {
			drop(protocol.Stream{Origin: s.Origin, Kind: kind}, all)
		}
		for _, origin := range r.Drop {
			drop(protocol.Stream{Origin: origin, Kind: kind}, all)
		}
	}
	var vector []protocol.Mark
	switch m := m.(type) {
	case *protocol.AckSharedChanges:
		vector = m.Vector
	case *protocol.Heartbeat:
		vector = m.Vector
	case *protocol.Error:
		if !m.Stream.Origin.IsZero() {
			drop(m.Stream, all)
		}
	}
	heads := map[protocol.Stream]protocol.Heads{}
	for _, mark := range vector {
		heads[mark.Stream] = append(heads[mark.Stream], mark.Position)
	}
	for st, h := range heads {
		reached := w.reachOf(h)
		drop(st, func(sent protocol.Heads) bool { return w.reaches(reached, sent) })
	}
}

// checkRanges checks that a peer has no more requests for records under way than it may, and that no page of them is too
// large (invariant 11).
func (w *world) checkRanges(d *device, c *conn, from int, m protocol.Message) {
	switch m := m.(type) {
	case *protocol.SnapshotRequest:
		if c.ranges[from]++; c.ranges[from] > rangesAtOnce {
			w.fail("memory", "%s has asked %s for %d pages of records at once", d, c.ends[1-from], c.ranges[from])
		}
	case *protocol.SnapshotPage:
		c.ranges[1-from]--
		if size := m.Bytes(); size > w.limits.MaxPageBytes {
			w.fail("memory", "%s sends a page of records of %d bytes to %s", d, size, c.ends[1-from])
		}
	}
}

// rangesAtOnce is how many requests for records a session may have under way: snapshots of each scope, and a repair.
const rangesAtOnce = 4
