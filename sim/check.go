package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/host/registry"
	"github.com/starling-sync/starling/sdk"
)

// covers reports whether a device should have a change, by the watermarks that it has made durable.
func (d *device) covers(c *change) bool { return c.stamp <= d.durable[c.stream] }

// streamsOf lists the streams that a device has something of, in order.
func (w *world) streamsOf(d *device) []protocol.Stream {
	return slices.SortedFunc(maps.Keys(d.durable), protocol.Stream.Compare)
}

// acknowledged checks and notes a local commit, which is durable (invariants 2, 3 and 5).
func (w *world) acknowledged(d *device, page *protocol.Page) {
	w.written = page
	w.traceStamp(d, "commit", page.Stream, page.From, page.Through)
	if at := d.durable[page.Stream]; page.From != at {
		w.fail("watermark", "%s announces a commit after %s, and its stream stood at %s", d, page.From, at)
	}
	for _, c := range w.changes(page) {
		switch {
		case c.stamp <= d.last:
			w.fail("stamps", "%s gave the stamp %s after %s", d, c.stamp, d.last)
		case c.stamp <= d.seen:
			w.fail("causality", "%s gave the stamp %s having applied %s", d, c.stamp, d.seen)
		case c.stamp <= page.From || c.stamp > page.Through:
			w.fail("watermark", "%s announces %s outside of its page (%s, %s]", d, c.stamp, page.From, page.Through)
		case c.stream.Kind == sdk.DeviceOwned && int(c.id[14]) != d.index:
			w.fail("ownership", "%s writes %s", d, c.key)
		}
		d.last = c.stamp
		w.ledger.add(c)
	}
	d.durable[page.Stream], d.seen = page.Through, max(d.seen, page.Through)
	d.committed++
}

// applied checks and notes a page that has become durable (invariants 3 and 7): it must continue what was there, and hold
// every change up to its end that has not been overwritten since.
func (w *world) applied(d *device, page *protocol.Page) {
	w.traceStamp(d, "apply", page.Stream, page.From, page.Through)
	w.stats.Pages++
	at := d.durable[page.Stream]
	if page.From > at {
		w.fail("watermark", "%s applied a page of %s after %s at watermark %s", d, name(page.Origin), page.From, at)
	}
	if page.Through <= at {
		return
	}
	inside := map[hlc.Stamp]*change{}
	for _, c := range w.changes(page) {
		inside[c.stamp] = c
	}
	for _, c := range w.between(page.Stream, page.From, page.Through) {
		got := inside[c.stamp]
		delete(inside, c.stamp)
		switch {
		case got != nil && (got.key != c.key || got.kind != c.kind || !maps.Equal(got.fields, c.fields)):
			w.fail("ownership", "%s applied another %s than %s wrote at %s", d, c.key, name(c.stream.Origin), c.stamp)
		case got == nil && c.stamp > at && (page.Kind == sdk.SharedByAll || w.latest(c)):
			w.fail("watermark", "%s moved its watermark of %s's %s stream to %s past %s of %s, which the page lacks", d, name(page.Origin), page.Kind, page.Through, c.stamp, c.key)
		}
	}
	for stamp, c := range inside {
		w.fail("ownership", "%s applied %s at %s, which %s never wrote", d, c.key, stamp, name(page.Origin))
	}
	d.durable[page.Stream], d.seen = page.Through, max(d.seen, page.Through)
}

func (w *world) between(st protocol.Stream, from, through hlc.Stamp) []*change {
	list := w.ledger.streams[st]
	byStamp := func(c *change, stamp hlc.Stamp) int { return cmp.Compare(c.stamp, stamp) }
	a, _ := slices.BinarySearchFunc(list, from+1, byStamp)
	b, _ := slices.BinarySearchFunc(list, through+1, byStamp)
	return list[a:b]
}

func (w *world) latest(c *change) bool {
	list := w.ledger.records[c.key]
	return list[len(list)-1] == c
}

// checkMarks checks the watermarks with which a device comes back (invariants 2, 7 and 9).
func (w *world) checkMarks(d *device, marks []protocol.Mark) {
	stored := map[protocol.Stream]hlc.Stamp{}
	for _, m := range marks {
		stored[m.Stream] = m.Stamp
	}
	for _, st := range w.streamsOf(d) {
		if stored[st] != d.durable[st] {
			w.fail("durable", "%s comes back with %s's %s stream at %s; it was durable up to %s", d, name(st.Origin), st.Kind, stored[st], d.durable[st])
		}
		delete(stored, st)
	}
	if len(stored) > 0 {
		w.fail("durable", "%s comes back with watermarks that it never had: %v", d, stored)
	}
}

// checkVector checks what a device says that it has (invariant 7): nothing before it is durable.
func (w *world) checkVector(d *device, m protocol.Message) {
	var marks []protocol.Mark
	switch m := m.(type) {
	case *protocol.Hello:
		marks = m.Vector
	case *protocol.Heartbeat:
		marks = m.Vector
	case *protocol.AckSharedChanges:
		marks = m.Vector
	}
	for _, mark := range marks {
		if mark.Stamp > d.durable[mark.Stream] {
			w.fail("acknowledgement", "%s says in a %s that it has %s's %s stream up to %s; durable is %s", d, m.Type(), name(mark.Origin), mark.Kind, mark.Stamp, d.durable[mark.Stream])
		}
	}
}

// checkWindow checks that a device sends no more than the window (invariant 11).
func (w *world) checkWindow(d *device, c *conn, f *flow, m protocol.Message) {
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
		w.fail("memory", "%s has sent %d bytes to %s that are not acknowledged; the window is %d", d, f.unread[kind], other(c, d), w.limits.WindowBytes)
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
	free := func(st protocol.Stream, through hlc.Stamp) {
		list := f.sent[st]
		for len(list) > 0 && list[0].page.Through <= through {
			f.unread[kindIndex(st.Kind)] -= list[0].bytes
			list = list[1:]
		}
		f.sent[st] = list
	}
	if f.sent == nil {
		return
	}
	if r, kind, ok := protocol.RequestOf(m); ok {
		for _, s := range r.Subscribe {
			free(protocol.Stream{Origin: s.Origin, Kind: kind}, hlc.MaxStamp)
		}
		for _, origin := range r.Drop {
			free(protocol.Stream{Origin: origin, Kind: kind}, hlc.MaxStamp)
		}
	}
	switch m := m.(type) {
	case *protocol.AckSharedChanges:
		for _, mark := range m.Vector {
			free(mark.Stream, mark.Stamp)
		}
	case *protocol.Heartbeat:
		for _, mark := range m.Vector {
			free(mark.Stream, mark.Stamp)
		}
	case *protocol.Error:
		if !m.Stream.Origin.IsZero() {
			free(m.Stream, hlc.MaxStamp)
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

// held is what a device holds, by key.
type held map[key]registry.Row

// checkDevice compares all that a device holds with what it should hold, having what its watermarks say: no more and no
// less, with the clocks (invariants 1, 2, 3, 4, 6 and 9), and shows what is complete, and nothing else (10 and 14).
func (w *world) checkDevice(d *device) {
	rows := w.read(d)
	for _, k := range w.ledger.keys {
		row, here := rows[k]
		if k.model == folderModel {
			w.checkOwned(d, k, row, here)
		} else {
			w.checkShared(d, k, row, here)
		}
	}
	for k := range rows {
		if w.ledger.records[k] == nil {
			w.fail("ledger", "%s holds %s, which nobody wrote", d, k)
		}
	}
	for _, st := range w.streamsOf(d) {
		w.stats.Checked += len(w.between(st, 0, d.durable[st]))
	}
	w.checkVisible(d, rows)
	w.checkWaiting(d)
}

func (w *world) read(d *device) held {
	rows := held{}
	for _, model := range modelNames {
		for _, hidden := range []bool{false, true} {
			err := d.registry.List(context.Background(), model, registry.Filter{Hidden: hidden}, func(row registry.Row) error {
				k := key{model, row.ID}
				if _, twice := rows[k]; twice {
					w.fail("references", "%s holds %s both in its table and in the shadow", d, k)
				}
				rows[k] = row
				return nil
			})
			w.check(err, "%s: list %s", d, model)
		}
	}
	return rows
}

func (w *world) checkShared(d *device, k key, row registry.Row, here bool) {
	e := w.ledger.shared(k, d.covers)
	if here != e.exists {
		w.fail("existence", "%s: %s exists: %v; by the writes that it has: %v\n%s", d, k, here, e.exists, w.history(k, d))
	}
	if !here {
		return
	}
	if row.Inserted != e.inserted {
		w.fail("merge", "%s: %s was inserted at %s; by the writes that it has at %s\n%s", d, k, row.Inserted, e.inserted, w.history(k, d))
	}
	for i := range row.Fields {
		f := &row.Fields[i]
		want, ok := e.fields[f.Name]
		if !ok {
			want.value = string(sdk.AppendValue(nil, nil))
		}
		if got := string(sdk.AppendValue(nil, f.Value)); got != want.value || f.Version != want.version {
			w.fail("merge", "%s: %s of %s is %v of %s; by the writes that it has %q of %s\n%s", d, f.Name, k, f.Value, f.Version, want.value, want.version, w.history(k, d))
		}
	}
}

func (w *world) checkOwned(d *device, k key, row registry.Row, here bool) {
	e := w.ledger.owned(k, d.covers)
	owner := deviceID(int(k.id[14]))
	if here && row.Owner != owner {
		w.fail("ownership", "%s: %s belongs to %s, and should to %s", d, k, name(row.Owner), name(owner))
	}
	if e.loose != nil { // the latest is still to come
		if here && !slices.ContainsFunc(e.loose, func(c *change) bool { return c.stamp == row.Stamp && sameRow(row, c) }) {
			w.fail("merge", "%s: %s of %s is none of those that its owner wrote\n%s", d, k, row.Stamp, w.history(k, d))
		}
		return
	}
	if here != e.exists {
		w.fail("existence", "%s: %s exists: %v; by the writes that it has: %v\n%s", d, k, here, e.exists, w.history(k, d))
	}
	list := w.ledger.records[k]
	if here && (row.Stamp != e.inserted.Stamp || !sameRow(row, list[len(list)-1])) {
		w.fail("merge", "%s: %s of %s is not what its owner wrote at %s\n%s", d, k, row.Stamp, e.inserted.Stamp, w.history(k, d))
	}
}

func sameRow(row registry.Row, c *change) bool {
	if c.kind == sdk.Delete {
		return false
	}
	for i := range row.Fields {
		if c.fields[row.Fields[i].Name] != string(sdk.AppendValue(nil, row.Fields[i].Value)) {
			return false
		}
	}
	return true
}

// history lists the writes of a record, and whether a device has them.
func (w *world) history(k key, d *device) (text string) {
	for _, c := range w.ledger.records[k] {
		text += fmt.Sprintf("  %s %s of %s %q, here %v\n", c.stamp, c.kind, name(c.stream.Origin), c.fields, d.covers(c))
	}
	return text
}

// checkVisible compares what is visible with what the records that exist make visible: all but those that need, directly
// or through others, one that is not there.
func (w *world) checkVisible(d *device, rows held) {
	visible := make(map[sdk.RecordID]sdk.ModelName, len(rows))
	for k := range rows {
		visible[k.id] = k.model
	}
	missing := func(k key, row *registry.Row) bool {
		need := required(k.model)
		for i := range row.Fields {
			model, strong := need[row.Fields[i].Name]
			target, isRef := row.Fields[i].Value.(sdk.RecordID)
			if at, ok := visible[target]; strong && isRef && (!ok || model != "" && at != model) {
				return true
			}
		}
		return false
	}
	for again := true; again; {
		again = false
		for k, row := range rows {
			if _, ok := visible[k.id]; ok && missing(k, &row) {
				delete(visible, k.id)
				again = true
			}
		}
	}
	for k, row := range rows {
		if _, should := visible[k.id]; row.Visible != should {
			w.fail("references", "%s: %s is visible: %v; by what it refers to: %v", d, k, row.Visible, should)
		}
		if !row.Visible {
			w.stats.Hidden++
		}
	}
}

// checkWaiting checks that everything that waits has a reason, and every reason something that waits (invariant 14).
func (w *world) checkWaiting(d *device) {
	var without, stray int
	err := d.db.Read(context.Background(), func(tx *database.Tx) error {
		_, err := tx.One(`SELECT
			(SELECT count(*) FROM _shadow s WHERE present = 1 AND NOT EXISTS (SELECT 1 FROM _waiting w WHERE w.model = s.model AND w.id = s.id)),
			(SELECT count(*) FROM _waiting w WHERE NOT EXISTS (SELECT 1 FROM _shadow s WHERE s.model = w.model AND s.id = w.id AND s.present = 1))`, nil, &without, &stray)
		return err
	})
	w.check(err, "%s: look into the shadow", d)
	if without+stray > 0 {
		w.fail("references", "%s: %d records wait for nothing, and %d reasons have no record", d, without, stray)
	}
}

// checkJournal checks that a title that lost to a write which had not seen it is in the conflict journal of every device
// (invariant 2). Titles are all different. A device has seen its own earlier writes, and what somebody has seen is no
// conflict.
func (w *world) checkJournal(d *device) {
	for _, k := range w.ledger.keys {
		if k.model != topicModel {
			continue
		}
		var writes []*change
		seen, last := map[hlc.Stamp]bool{}, map[sdk.DeviceID]hlc.Stamp{}
		var winner sdk.Version
		for _, c := range w.ledger.records[k] {
			if _, ok := c.fields["title"]; !ok {
				continue
			}
			writes = append(writes, c)
			seen[c.seen["title"]] = true
			last[c.stream.Origin] = max(last[c.stream.Origin], c.stamp)
			if c.version().Compare(winner) > 0 {
				winner = c.version()
			}
		}
		list, err := d.registry.Conflicts(context.Background(), topicModel, k.id)
		w.check(err, "%s: read the journal", d)
		kept := map[sdk.Version]bool{}
		for _, c := range list {
			if c.Field == "title" {
				kept[c.Lost] = true
			}
		}
		ties := map[hlc.Stamp]int{} // a write says what it saw by the stamp alone
		for _, c := range writes {
			ties[c.stamp]++
		}
		for _, c := range writes {
			if seen[c.stamp] && ties[c.stamp] == 1 && kept[c.version()] {
				w.fail("journal", "%s keeps the title of %s at %s, which was seen\n%s", d, k, c.version(), w.history(k, d))
			}
			if v := c.version(); v != winner && !seen[c.stamp] && last[v.Device] == v.Stamp {
				w.stats.Journalled++
				if !kept[v] {
					w.fail("journal", "%s has no record of the title of %s at %s, which lost unseen to %s\n%s", d, k, v, winner, w.history(k, d))
				}
			}
		}
	}
}

// finish checks the end of a run, when everybody has come to rest.
func (w *world) finish() {
	ctx := context.Background()
	first, err := w.devices[0].registry.Digest(ctx)
	w.check(err, "digest")
	for _, d := range w.devices {
		w.checkDevice(d)
		w.checkJournal(d)
		digest, err := d.registry.Digest(ctx)
		w.check(err, "digest")
		if !slices.Equal(first, digest) {
			w.fail("convergence", "the digests of d0 and %s differ:\n  %v\n  %v", d, first, digest)
		}
		for _, st := range w.streamsOf(d) {
			if list := w.ledger.streams[st]; len(list) > 0 && d.durable[st] < list[len(list)-1].stamp {
				w.fail("convergence", "%s lacks the end of %s's %s stream", d, name(st.Origin), st.Kind)
			}
		}
	}
	for _, m := range first {
		for _, b := range m.Digest[:8] {
			w.note(-1, string(m.Model), uint64(b))
		}
	}
	if w.stats.Changes < w.setup.writes/4 || w.stats.Pages < 10 || w.stats.Checked < w.ledger.count {
		w.fail("too little", "%d changes in %d commits, %d pages, %d checked", w.stats.Changes, w.stats.Writes, w.stats.Pages, w.stats.Checked)
	}
}
