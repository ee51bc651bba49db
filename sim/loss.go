package main

import (
	"context"
	"encoding/hex"
	"slices"
	"time"

	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/transaction"
	"github.com/starling-sync/starling/sdk"
)

// copiesKept is how many copies of its store a device can be put back to.
const copiesKept = 3

// scheduleLosses plans what is not only late but lost: stores put back to copies, a device that runs twice, one that is
// retired, one that is away for long, records that rot.
func (w *world) scheduleLosses() {
	p := &w.setup
	r := w.faultRand
	at := func(from, until float64) time.Duration {
		return time.Duration((from + (until-from)*r.Float64()) * float64(p.active))
	}
	for range p.restores {
		d := w.devices[r.IntN(len(w.devices))]
		taken := at(0.05, 0.8)
		w.after(taken, func() { w.takeCopy(d) })
		for range 1 + r.IntN(2) {
			w.after(taken+time.Duration(r.Float64()*float64(p.active-taken)), func() { w.restore(d) })
		}
	}
	for range p.clones {
		d := w.devices[r.IntN(len(w.devices))]
		begins, runs := at(0.1, 0.8), time.Minute+w.jitter(r, 4*time.Minute)
		w.after(begins, func() { w.clone(d, runs) })
	}
	for range p.rots {
		w.after(at(0.2, 0.98), w.rot)
	}
	if p.retire {
		w.after(at(0.2, 0.95), w.retire)
	}
	if p.away {
		d := w.devices[r.IntN(len(w.devices))]
		begins, away := at(0.05, 0.3), at(0.4, 0.7)
		w.after(begins, func() { w.leave(d, away) })
	}
	if p.retention > 0 {
		w.after(at(0.3, 0.95), func() {
			if d := w.pick(); d != nil && !d.stopped {
				w.retain(d)
			}
		})
	}
}

// takeCopy keeps a copy of a store, as a crash now would leave it.
func (w *world) takeCopy(d *device) {
	if !d.joined || d.retired || d.crashing != noCrash {
		return
	}
	w.trace(d, "copy", "")
	s, err := d.copyStore()
	w.check(err, "copy the store of %s", d)
	d.shared.copies = append(d.shared.copies, stored{s, d.account.clone(), w.now, w.astray == d})
	if n := len(d.shared.copies); n > copiesKept {
		d.shared.copies = d.shared.copies[n-copiesKept:]
	}
}

// restore puts a device back to a copy of its store. The copy can be used again.
func (w *world) restore(d *device) {
	if len(d.shared.copies) == 0 || d.retired || d.stopped || d.crashing != noCrash || w.without("restore") || w.healed {
		return
	}
	c := &d.shared.copies[w.faultRand.IntN(len(d.shared.copies))]
	if w.aloneKnowsMember(d, &c.account) || c.ahead && w.astray != nil && w.astray != d {
		return
	}
	if d.up {
		d.crash()
		w.gone(d, w.faultRand.IntN(2) == 0)
	}
	w.trace(d, "restore", "to the copy of %s", c.taken)
	w.check(d.useCopy(c.store), "restore %s", d)
	d.account, d.shared.restored, w.branched = c.account.clone(), true, true
	w.stats.Restores++
	w.ledger.find(&d.account)
	w.reckon()
	w.lose(d, nil)
	if c.ahead {
		w.astray = d
		w.comeBack(d)
	}
	starts := d.starts
	w.after(time.Second+w.jitter(w.faultRand, 60*time.Second), func() {
		if !d.up && d.starts == starts {
			d.start()
			w.wakeAll()
		}
	})
}

// aloneKnowsMember reports whether a device would be shut out if all were lost of d that is not in left: nobody else, but it
// itself, knows yet that it has joined.
func (w *world) aloneKnowsMember(d *device, left *account) bool {
	for _, k := range w.ledger.keys {
		for _, c := range w.ledger.records[k] {
			known := func(other *device) bool {
				return other != d && other.belongs() && other.covers(c) && k.id != sdk.KeyID(memberModel, int64(other.index))
			}
			if k.model == memberModel && d.covers(c) && (left == nil || !left.covers(c)) && !slices.ContainsFunc(w.devices, known) {
				return true
			}
		}
	}
	return false
}

// clone starts a second running copy of a device, which only dials out, and stops it for good after a while.
func (w *world) clone(d *device, runs time.Duration) {
	if !d.joined || d.retired || d.twin != nil || d.crashing != noCrash || d == w.astray {
		return
	}
	if len(d.shared.copies) == 0 || w.faultRand.IntN(2) == 0 {
		w.takeCopy(d)
	}
	if len(d.shared.copies) == 0 {
		return
	}
	c := &d.shared.copies[w.faultRand.IntN(len(d.shared.copies))]
	if c.ahead {
		return // it would take its stamps back beside the device itself
	}
	twin := &device{w: w, index: d.index, id: d.id, isTwin: true, joined: true, bootstrap: d.bootstrap, account: c.account.clone()}
	w.trace(d, "clone", "of the copy of %s, for %s", c.taken, runs)
	w.setClock(twin)
	w.check(twin.useCopy(c.store), "clone %s", d)
	d.twin, d.shared.restored, w.branched = twin, true, true
	twin.shared.restored = true
	w.twins = append(w.twins, twin)
	w.stats.Clones++
	twin.start()
	w.wakeAll()
	w.after(runs, func() { w.stopTwin(d) })
}

// stopTwin ends the second copy of a device that runs.
func (w *world) stopTwin(d *device) {
	twin := d.twin
	if twin == nil {
		return
	}
	twin.crash()
	w.gone(twin, w.faultRand.IntN(2) == 0)
	d.twin = nil
	w.twins = slices.DeleteFunc(w.twins, func(other *device) bool { return other == twin })
	w.reckon()
}

// leave turns a device off for long.
func (w *world) leave(d *device, away time.Duration) {
	if !d.up || d.stopped || d.crashing != noCrash {
		return
	}
	w.trace(d, "away", "for %s", away)
	w.stats.Aways++
	w.kill(d, w.faultRand.IntN(2) == 0, away)
}

// retire has a device retired by another one. It may go on for a while: what it writes then is its own loss.
func (w *world) retire() {
	p := &w.setup
	d := w.pick()
	if d == nil || d.retired || d.twin != nil || w.trusted[d.id] || p.devices < 3 || !connected(p.edges, p.devices, d.index) || w.aloneKnowsMember(d, nil) {
		return
	}
	if late := p.devices - 1; p.joins > 0 && late != d.index && !connected(p.edges, p.devices, d.index, late) {
		return // the others must not have to learn through the new one that it belongs to them
	}
	at := slices.IndexFunc(w.devices, func(by *device) bool { return by.up && !by.stopped && by.belongs() && by != d })
	if at < 0 {
		return
	}
	by := w.devices[at]
	k := key{memberModel, sdk.KeyID(memberModel, int64(d.index))}
	in := intent{key: k, kind: sdk.Update, fields: map[string]any{"retired": int64(w.now)}}
	if !w.ledger.shared(k, by.covers).exists {
		in.kind, in.fields["device"] = sdk.Insert, int64(d.index)
	}
	w.trace(d, "retire", "by %s", by)
	w.commit(by, transaction.Request{Kind: sdk.SharedByAll, Batches: []sdk.Batch{sharedBatch([]intent{in})}})
	if w.written == nil {
		return // the power went before it was durable
	}
	d.retired = true
	p.diameter = diameter(p.edges, p.devices, d.index)
	w.stats.Retires++
	w.reckon()
}

// askOwner reports whether all who may get a row that was damaged at d can ask its owner, whose word alone tells which of two
// rows of one stamp is right. It is not to be retired then.
func (w *world) askOwner(d *device, owner sdk.DeviceID) bool {
	from := w.devices[indexOf(owner)]
	return from != d && !from.retired && from.belongs() && !slices.ContainsFunc(w.devices, func(other *device) bool {
		return other != from && w.links[from.index][other.index] == nil
	})
}

// rot damages a record in one device's store, and nothing there notes it: it is gone, or older than it was, or a row that is
// as old as it was says something else.
func (w *world) rot() {
	d, roll := w.pick(), w.faultRand.IntN(1<<20)
	if d == nil || d.retired || d.stopped || d.crashing != noCrash {
		return
	}
	rows := w.read(d)
	needed := map[sdk.RecordID]bool{} // what shows because it is there
	for k, row := range rows {
		for _, f := range row.Fields {
			if _, strong := required(k.model)[f.Name]; strong {
				id, _ := f.Value.(sdk.RecordID)
				needed[id] = true
			}
		}
	}
	var visible []key
	for k, row := range rows {
		due := row.Owner == d.id && row.Stamp.Time().After(d.monotonic()) // to get a new stamp, which a damaged row would not
		if row.Visible && k.model != memberModel && !w.rotten[k] && !needed[k.id] && !due {
			visible = append(visible, k)
		}
	}
	if len(visible) == 0 {
		return
	}
	slices.SortFunc(visible, func(a, b key) int { return a.place().Compare(b.place()) })
	inPlace := slices.DeleteFunc(slices.Clone(visible), func(k key) bool { return k.model != folderModel || !w.askOwner(d, rows[k].Owner) })
	if roll&1 == 0 && len(inPlace) > 0 {
		visible = inPlace
	}
	k := visible[roll%len(visible)]
	statement := "DELETE FROM " + string(k.model)
	older := sdk.Version{Stamp: rows[k].Stamp - 1, Device: rows[k].Owner}
	switch {
	case roll&1 == 0 && len(inPlace) > 0:
		statement = "UPDATE folder SET name = 'rotten'"
		w.trusted[rows[k].Owner] = true
		w.stats.SameStamp++
	case k.model == folderModel && roll&2 == 0 && !w.ledger.drawn[older]:
		statement = "UPDATE folder SET name = 'rotten', _stamp = _stamp - 1"
	}
	w.trace(d, "rot", "%s: %s", k, statement)
	err := d.db.Write(context.Background(), func(tx *database.Tx) error {
		return tx.Run(statement + " WHERE id = x'" + hex.EncodeToString(k.id[:]) + "'")
	})
	w.check(err, "damage a record of %s", d)
	w.stats.Rots++
	w.rotten[k] = true
	w.forgiveRotten(k, d)
}

// forgiveRotten forgives the changes of a damaged record of which nobody else has a copy.
func (w *world) forgiveRotten(k key, at *device) {
	for _, c := range w.ledger.records[k] {
		if !c.forgiven && !slices.ContainsFunc(w.devices, func(d *device) bool { return d != at && d.belongs() && d.covers(c) }) {
			w.forgive(c)
		}
	}
}
