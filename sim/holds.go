package main

import (
	"context"
	"fmt"
	"slices"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/registry"
	"github.com/starling-sync/starling/sdk"
)

// held is what a device holds, by key.
type held map[key]registry.Row

// checkDevice compares all that a device holds with what it should hold, having what its watermarks say: no more and no
// less, with the clocks (invariants 1, 2, 3, 4, 6 and 9), and shows what is complete, and nothing else (10 and 14).
func (w *world) checkDevice(d *device) {
	rows := w.read(d)
	for _, k := range w.ledger.keys {
		row, here := rows[k]
		if (w.rotten[k] || d.vague[k]) && !w.sound || w.rotten[k] && w.onlyCopy(k) {
			continue
		}
		w.checkRecord(d, k, row, here)
	}
	for k := range rows {
		if w.ledger.records[k] == nil {
			w.fail("ledger", "%s holds %s, which nobody wrote", d, k)
		}
	}
	for _, st := range w.streamsOf(d) {
		w.stats.Checked += len(w.ledger.between(st, 0, d.durable[st].Top()))
	}
	if len(w.rotten) == 0 || w.sound {
		w.checkVisible(d, rows)
	}
	w.checkWaiting(d)
	w.checkLog(d)
}

// onlyCopy reports whether what was damaged of a record may have been all that there was. A snapshot from a store that has
// lost a record takes it away elsewhere, since it looks as if it had been deleted and forgotten.
func (w *world) onlyCopy(k key) bool {
	return w.stats.Snapshots > 0 || slices.ContainsFunc(w.ledger.records[k], func(c *change) bool { return c.forgiven })
}

// sameHeld reports whether a record is as it was, with its clocks.
func sameHeld(a, b registry.Row) bool {
	return a.Stamp == b.Stamp && a.Inserted == b.Inserted && slices.EqualFunc(a.Fields, b.Fields, func(x, y sdk.FieldState) bool {
		return x.Version == y.Version && slices.Equal(x.State, y.State) && slices.Equal(sdk.AppendValue(nil, x.Value), sdk.AppendValue(nil, y.Value))
	})
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

// fault is what is wrong with a record: the check that failed, and what was seen.
type fault struct{ check, text string }

// checkRecord compares a record with what the writes make of it that the device has. What was forgiven may be there all the
// same, as a part of the record that came with others.
func (w *world) checkRecord(d *device, k key, row registry.Row, here bool) {
	look := w.sharedFault
	if kindOf(k.model) == sdk.DeviceOwned {
		look = w.ownedFault
	}
	found := look(k, row, here, d.covers)
	if found == nil {
		return
	}
	var forgiven []*change
	for _, c := range w.ledger.records[k] {
		if c.forgiven && !d.covers(c) {
			forgiven = append(forgiven, c)
		}
	}
	if len(forgiven) > 8 && kindOf(k.model) == sdk.SharedByAll && w.within(d, k, row, here) == nil {
		return
	}
	forgiven = forgiven[max(0, len(forgiven)-8):]
	for some := 1; some < 1<<len(forgiven); some++ {
		with := func(c *change) bool {
			at := slices.Index(forgiven, c)
			return d.covers(c) || at >= 0 && some>>at&1 == 1
		}
		if look(k, row, here, with) == nil {
			return
		}
	}
	if w.mayReturn(k) {
		if found = w.legible(k, row, here); found == nil {
			return
		}
	}
	w.fail(found.check, "%s: %s: %s\n%s", d, k, found.text, w.history(k, d))
}

// mayReturn reports whether a record may come back after its delete, and with what was left of it: in a run with branches,
// where the delete has been forgotten somewhere (invariant 4).
func (w *world) mayReturn(k key) bool {
	return w.branched && slices.ContainsFunc(w.ledger.records[k], func(c *change) bool {
		return c.kind == sdk.Delete && c.stamp <= w.forgottenTo[scopeOf(c.stream)]
	})
}

// legible checks that a record consists of what was written.
func (w *world) legible(k key, row registry.Row, here bool) *fault {
	list := w.ledger.records[k]
	wrote := func(v sdk.Version, what func(*change) bool) bool {
		return slices.ContainsFunc(list, func(c *change) bool { return c.version() == v && what(c) })
	}
	if !here {
		return nil
	}
	if kindOf(k.model) == sdk.DeviceOwned {
		if !wrote(sdk.Version{Stamp: row.Stamp, Device: row.Owner}, func(c *change) bool { return sameRow(row, c) }) {
			return &fault{"merge", fmt.Sprintf("the row of %s is none of those that its owner wrote", row.Stamp)}
		}
		return nil
	}
	if !wrote(row.Inserted, func(c *change) bool { return c.kind == sdk.Insert }) {
		return &fault{"merge", fmt.Sprintf("nobody inserted it at %s", row.Inserted)}
	}
	for i := range row.Fields {
		f := &row.Fields[i]
		packed := string(sdk.AppendValue(nil, f.Value))
		if !f.Version.IsZero() && !wrote(f.Version, func(c *change) bool { return c.fields[f.Name] == packed }) {
			return &fault{"merge", fmt.Sprintf("nobody wrote %s of %s at %s", f.Name, packed, f.Version)}
		}
	}
	return nil
}

func (w *world) sharedFault(k key, row registry.Row, here bool, covers func(*change) bool) *fault {
	e := w.ledger.shared(k, covers)
	if here != e.exists {
		return &fault{"existence", fmt.Sprintf("exists: %v; by the writes that it has: %v", here, e.exists)}
	}
	if !here {
		return nil
	}
	if row.Inserted != e.inserted {
		return &fault{"merge", fmt.Sprintf("was inserted at %s; by the writes that it has at %s", row.Inserted, e.inserted)}
	}
	for i := range row.Fields {
		f := &row.Fields[i]
		want, ok := e.fields[f.Name]
		if !ok {
			want.value = string(sdk.AppendValue(nil, nil))
		}
		if got := string(sdk.AppendValue(nil, f.Value)); got != want.value || f.Version != want.version {
			return &fault{"merge", fmt.Sprintf("%s is %v of %s; by the writes that it has %q of %s", f.Name, f.Value, f.Version, want.value, want.version)}
		}
	}
	return nil
}

func (w *world) ownedFault(k key, row registry.Row, here bool, covers func(*change) bool) *fault {
	e := w.ledger.owned(k, covers)
	owner := deviceID(int(k.id[14]))
	if here && row.Owner != owner {
		return &fault{"ownership", fmt.Sprintf("belongs to %s, and should to %s", name(row.Owner), name(owner))}
	}
	if e.loose != nil { // the latest is still to come
		if here && !slices.ContainsFunc(e.loose, func(c *change) bool { return c.stamp == row.Stamp && sameRow(row, c) }) {
			return &fault{"merge", fmt.Sprintf("the row of %s is none of those that its owner wrote", row.Stamp)}
		}
		return nil
	}
	if here != e.exists {
		return &fault{"existence", fmt.Sprintf("exists: %v; by the writes that it has: %v", here, e.exists)}
	}
	list := w.ledger.records[k]
	if here && (row.Stamp != e.inserted.Stamp || !sameRow(row, list[len(list)-1])) {
		return &fault{"merge", fmt.Sprintf("the row of %s is not what its owner wrote at %s", row.Stamp, e.inserted.Stamp)}
	}
	return nil
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
// conflict. Who got a record as it is was not told what had
// lost, nor who had seen what; and what comes again with a branch is judged again, by what stands then.
func (w *world) checkJournal(d *device) {
	for _, k := range w.ledger.keys {
		if k.model != topicModel || w.rotten[k] {
			continue
		}
		var writes []*change
		seen, last := map[hlc.Stamp]bool{}, map[sdk.DeviceID]hlc.Stamp{}
		var winner sdk.Version
		for _, c := range w.ledger.records[k] {
			if _, ok := c.fields["title"]; !ok || !d.covers(c) {
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
			if seen[c.stamp] && ties[c.stamp] == 1 && kept[c.version()] && !d.asRecords[k] && !w.branched {
				w.fail("journal", "%s keeps the title of %s at %s, which was seen\n%s", d, k, c.version(), w.history(k, d))
			}
			if v := c.version(); v != winner && !seen[c.stamp] && last[v.Device] == v.Stamp && !d.asRecords[k] && !w.forgotDelete(d, c, winner) {
				w.stats.Journalled++
				if !kept[v] {
					w.fail("journal", "%s has no record of the title of %s at %s, which lost unseen to %s\n%s", d, k, v, winner, w.history(k, d))
				}
			}
		}
	}
}

// forgotDelete reports whether a device may have forgotten that a record was deleted, with all that it had been and c among
// it, before the winner came: then nothing was left that could lose. With branches an older one may have come later.
func (w *world) forgotDelete(d *device, c *change, winner sdk.Version) bool {
	list := w.ledger.records[c.key]
	return c.stamp <= d.closed && slices.ContainsFunc(list, func(del *change) bool {
		return del.kind == sdk.Delete && (del.version().Compare(winner) < 0 || w.branched) && del.stamp <= d.closed && !slices.ContainsFunc(list, func(in *change) bool {
			return in.kind == sdk.Insert && in.version().Compare(del.version()) > 0 && in.version().Compare(c.version()) <= 0
		})
	})
}
