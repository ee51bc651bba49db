package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/host/replica"
	"github.com/starling-sync/starling/host/transaction"
	"github.com/starling-sync/starling/sdk"
)

const (
	foldersEach = 10 // of each device
	topicsInAll = 12
	metersInAll = 2
)

func (w *world) scheduleWrites() {
	p := &w.setup
	for range p.writes {
		at := time.Duration(w.workRand.Int64N(int64(p.active)))
		if !p.aligned {
			w.after(at, func() { w.writeSomewhere() })
			continue
		}
		at = at.Round(100 * time.Millisecond)
		if w.workRand.IntN(4) > 0 {
			w.after(at, func() { w.writeSomewhere() })
			continue
		}
		k := w.workRand.IntN(topicsInAll + metersInAll)
		w.after(at, func() { // several devices write one record at one moment
			for _, d := range w.devices {
				if !d.up || d.stopped || !d.joined || w.workRand.IntN(3) == 0 {
					continue
				}
				if k < topicsInAll {
					w.share(d, []intent{w.topicIntent(d, topicID(k))})
				} else {
					w.share(d, []intent{w.meterIntent(d, meterID(k-topicsInAll))})
				}
			}
		})
	}
}

// intent is one change that a person wants.
type intent struct {
	key
	kind   sdk.OpKind
	fields map[string]any
}

func (w *world) writeSomewhere() {
	d := w.devices[w.workRand.IntN(len(w.devices))]
	if d.twin != nil && w.workRand.IntN(2) == 0 {
		d = d.twin
	}
	if d.up && !d.stopped && d.joined {
		w.writeAt(d)
	}
}

// writeAt makes some write at a device.
func (w *world) writeAt(d *device) {
	n := 1 + w.workRand.IntN(4)
	switch w.workRand.IntN(18) {
	case 0, 1, 2, 3, 4, 5:
		w.own(d, n)
	case 6:
		w.stealFrom(d)
	case 7, 8, 9:
		w.share(d, w.meterIntents(d, n))
	case 10, 11, 12, 13, 14, 15:
		var list []intent
		for range n {
			in := w.topicIntent(d, topicID(w.workRand.IntN(topicsInAll)))
			if !slices.ContainsFunc(list, func(other intent) bool { return other.key == in.key }) {
				list = append(list, in)
			}
		}
		w.share(d, list)
	default:
		w.share(d, []intent{w.tieIntent(d)})
	}
}

// ref draws a reference: nil, or a record that may be here, elsewhere, or nowhere.
func (w *world) ref(model sdk.ModelName, not sdk.RecordID) any {
	r := w.workRand
	if r.IntN(5) < 2 {
		return nil
	}
	if model == "" {
		model = []sdk.ModelName{folderModel, topicModel}[r.IntN(2)]
	}
	id := topicID(r.IntN(topicsInAll))
	if model == folderModel {
		id = folderID(r.IntN(len(w.devices)), r.IntN(foldersEach))
	}
	if id == not {
		return nil
	}
	return id
}

func text(r *rand.Rand) string { return fmt.Sprintf("%08x", r.Uint32()) }

// topicIntent draws a change of a topic that mostly makes sense where it is made.
func (w *world) topicIntent(d *device, id sdk.RecordID) intent {
	r, k := w.workRand, key{topicModel, id}
	in := intent{key: k, kind: sdk.Update, fields: map[string]any{}}
	exists := w.ledger.shared(k, d.covers).exists
	if roll := r.IntN(12); roll == 0 || exists && roll < 3 {
		in.kind = sdk.Delete
		return in
	} else if roll == 3 || !exists && roll > 4 {
		in.kind = sdk.Insert
	}
	all := map[string]any{
		"title": text(r), "color": []string{"red", "green", "blue"}[r.IntN(3)], "size": r.Int64N(100),
		"parent": w.ref(topicModel, id), "folder": w.ref(folderModel, id),
	}
	for _, column := range columnsOf(topicModel) {
		if in.kind == sdk.Insert || r.IntN(2) == 0 {
			in.fields[column] = all[column]
		}
	}
	if len(in.fields) == 0 {
		in.fields["title"] = all["title"]
	}
	return in
}

// meterIntents draws changes of meters, also several of one.
func (w *world) meterIntents(d *device, n int) (list []intent) {
	for range n {
		in := w.meterIntent(d, meterID(w.workRand.IntN(metersInAll)))
		if in.kind != sdk.Insert || !slices.ContainsFunc(list, func(other intent) bool { return other.key == in.key }) {
			list = append(list, in)
		}
	}
	return list
}

// meterIntent draws a change of a meter. Values are few, so that writes of one value meet, too.
func (w *world) meterIntent(d *device, id sdk.RecordID) intent {
	r, k := w.workRand, key{meterModel, id}
	in := intent{key: k, kind: sdk.Update, fields: map[string]any{
		"high": r.Int64N(12), "low": r.Int64N(12), "title": text(r), "words": setEdit(r), "count": counterEdit(r),
	}}
	for _, column := range []string{"high", "low"} {
		if r.IntN(10) == 0 {
			in.fields[column] = nil
		}
	}
	exists := w.ledger.shared(k, d.covers).exists
	switch {
	case !exists:
		in.kind = sdk.Insert
	case mayDelete(meterModel) && r.IntN(6) == 0:
		in.kind, in.fields = sdk.Delete, nil
	default:
		kept := columnsOf(meterModel)[r.IntN(5)]
		for _, column := range columnsOf(meterModel) {
			if column != kept && r.IntN(2) == 0 {
				delete(in.fields, column)
			}
		}
	}
	return in
}

func (w *world) tieIntent(d *device) intent {
	r := w.workRand
	topic, target := topicID(r.IntN(topicsInAll)), w.ref("", sdk.RecordID{})
	if target == nil {
		target = topicID(0)
	}
	in := intent{key: key{tieModel, sdk.KeyID(tieModel, topic, target)}, kind: sdk.Insert, fields: map[string]any{"topic": topic, "target": target}}
	if in.fields["note"] = nil; r.IntN(2) == 0 {
		in.fields["note"] = text(r)
	}
	if w.ledger.shared(in.key, d.covers).exists && r.IntN(2) == 0 {
		in.kind, in.fields = sdk.Delete, nil
	}
	return in
}

func sharedBatch(list []intent) sdk.Batch {
	b := sdk.Batch{Model: list[0].model, Version: 1, Columns: columnsOf(list[0].model), Count: len(list)}
	for _, in := range list {
		b.Rows = sdk.AppendOpHeader(b.Rows, in.id, 0, in.kind, len(in.fields))
		for i, column := range b.Columns {
			value, ok := in.fields[column]
			if said, isEdit := value.(edit); isEdit {
				value = said.packed
			}
			if ok {
				b.Rows = sdk.AppendOpField(b.Rows, i, value, 0)
			}
		}
	}
	return b
}

// share writes shared operations at a device and checks the answer.
func (w *world) share(d *device, list []intent) {
	var should []bool
	for _, in := range list {
		exists := w.ledger.shared(in.key, d.covers).exists
		should = append(should, in.kind == sdk.Insert && (!exists || in.model == tieModel) || in.kind != sdk.Insert && exists)
	}
	w.asked = list
	result, ok := w.commit(d, transaction.Request{Kind: sdk.SharedByAll, Batches: []sdk.Batch{sharedBatch(list)}})
	if w.asked = nil; !ok {
		return
	}
	refused := map[int]sdk.Refusal{}
	for _, no := range result.Refused {
		refused[no.Index] = no.Refusal
	}
	var stored []*change
	if w.written != nil {
		stored = w.changes(w.written)
	}
	for i, in := range list {
		no, isRefused := refused[i]
		if isRefused == should[i] && !w.shaken && !w.rotten[in.key] && !d.vague[in.key] && !w.mayReturn(in.key) {
			w.fail("write", "%s: %s of %s: refused %v (%s), and should be %v", d, in.kind, in.key, isRefused, no.Message, !should[i])
		}
		if isRefused {
			w.stats.Refused++
			continue
		}
		if len(stored) == 0 || stored[0].key != in.key || stored[0].kind != in.kind || !sameFields(stored[0].fields, in.fields) {
			w.fail("write", "%s: what was stored and told of %s of %s is not what was asked", d, in.kind, in.key)
		}
		stored = stored[1:]
	}
	if len(stored) > 0 || result.Written != len(list)-len(refused) {
		w.fail("write", "%s: %d changes stored, %d of %d refused", d, result.Written, len(refused), len(list))
	}
}

func sameFields(packed map[string]string, fields map[string]any) bool {
	if len(packed) != len(fields) {
		return false
	}
	for column, value := range fields {
		if _, isEdit := value.(edit); isEdit {
			if _, written := packed[column]; !written {
				return false
			}
			continue // see means
		}
		if packed[column] != string(sdk.AppendValue(nil, value)) {
			return false
		}
	}
	return true
}

// own writes some of a device's own folders.
func (w *world) own(d *device, n int) {
	r := w.workRand
	b := sdk.Batch{Model: folderModel, Version: 1, Columns: columnsOf(folderModel)}
	if r.IntN(4) == 0 {
		b.Columns = []string{"size", "name"} // the others keep what they have
	}
	var asked []sdk.RecordID
	for range n {
		id := folderID(d.index, r.IntN(foldersEach))
		if slices.Contains(asked, id) {
			continue
		}
		asked = append(asked, id)
		b.Count++
		if r.IntN(4) == 0 {
			b.Rows = sdk.AppendStateHeader(b.Rows, id, 0, -1)
			continue
		}
		values := map[string]any{"name": text(r), "size": r.Int64N(4), "parent": w.ref(folderModel, id), "topic": w.ref(topicModel, id), "cover": w.ref("", id)}
		b.Rows = sdk.AppendStateHeader(b.Rows, id, 0, len(b.Columns))
		for _, column := range b.Columns {
			b.Rows = sdk.AppendValue(b.Rows, values[column])
		}
	}
	result, ok := w.commit(d, transaction.Request{Kind: sdk.DeviceOwned, Batches: []sdk.Batch{b}})
	if ok && len(result.Refused) > 0 {
		w.fail("write", "%s may not write its own rows: %v", d, result.Refused)
	}
}

// stealFrom tries to change or delete another device's record, which must be refused.
func (w *world) stealFrom(d *device) {
	r := w.workRand
	owner := w.devices[r.IntN(len(w.devices))]
	id := folderID(owner.index, r.IntN(foldersEach))
	if owner.id == d.id {
		return
	}
	row, err := d.registry.Get(context.Background(), folderModel, id)
	if sdk.CodeOf(err) == sdk.CodeNotFound || err == nil && row.Owner == (sdk.DeviceID{}) {
		return // an id of one's own choice would not be unique
	}
	w.check(err, "%s: get a folder", d)
	b := sdk.Batch{Model: folderModel, Version: 1, Columns: []string{"name"}, Count: 1}
	if r.IntN(2) == 0 {
		b.Rows = sdk.AppendStateHeader(b.Rows, id, 0, -1)
	} else {
		b.Rows = sdk.AppendValue(sdk.AppendStateHeader(b.Rows, id, 0, 1), text(r))
	}
	w.bug.beforeTheft(d, id)
	result, ok := w.commit(d, transaction.Request{Kind: sdk.DeviceOwned, Batches: []sdk.Batch{b}})
	if !ok {
		return
	}
	if !w.shaken && (result.Written > 0 || len(result.Refused) != 1 || result.Refused[0].Code != sdk.CodeNotOwner) {
		w.fail("ownership", "%s wrote %s's folder %x: written %d, refused %v", d, owner, id[:], result.Written, result.Refused)
	}
	w.stats.Refused += len(result.Refused)
}

// writeBoth writes to both of a device's streams, so that this start of it opens an epoch of each.
func (w *world) writeBoth(d *device) {
	wrote := func(kind sdk.Ownership) bool {
		_, at := d.durable[protocol.Stream{Origin: d.id, Kind: kind}].In(d.epoch.Of(kind))
		return at
	}
	for !wrote(sdk.DeviceOwned) {
		w.own(d, 3)
	}
	for !wrote(sdk.SharedByAll) {
		w.share(d, []intent{w.topicIntent(d, topicID(w.workRand.IntN(topicsInAll)))})
	}
}

func (w *world) writeMember(sponsor, d *device) bool {
	n := int64(d.index)
	_, ok := w.commit(sponsor, transaction.Request{Kind: sdk.SharedByAll, Batches: []sdk.Batch{sharedBatch([]intent{{
		key: key{memberModel, sdk.KeyID(memberModel, n)}, kind: sdk.Insert, fields: map[string]any{"device": n},
	}})}})
	return ok
}

// commit writes locally; false: the device crashed before it could say that it has.
func (w *world) commit(d *device, request transaction.Request) (transaction.Result, bool) {
	w.written, w.shaken, w.decisions = nil, false, 0
	w.trace(d, "write", "%s %s", request.Batches[0].Model, request.Kind)
	result, err := d.manager.Commit(context.Background(), request)
	if w.raised != nil {
		panic(w.raised)
	}
	if errors.Is(err, errPower) || d.crashing == afterCommit && result.Written > 0 {
		w.crashed(d)
		return result, false
	}
	if err != nil {
		w.fail("write", "%s can not write: %v", d, err)
	}
	w.stats.Writes++
	w.stats.Changes += result.Written
	w.bug.committed(d)
	return result, true
}

// prepareLocal has the models decide, and lets pages arrive between the decision and the commit now and then.
func (w *world) prepareLocal(d *device) transaction.PrepareFunc {
	real := replica.PrepareLocal(d.registry)
	return func(ctx context.Context, kind sdk.Ownership, batches []sdk.Batch) (transaction.Prepared, error) {
		prepared, err := real(ctx, kind, batches)
		if w.decisions++; w.decisions > 1 {
			w.stats.Stale++
		}
		if other := w.devices[w.workRand.IntN(len(w.devices))]; w.workRand.IntN(4) == 0 && other.up && other.id != d.id && d.machine != nil && !other.retired && !d.retired && !w.without("overlap") {
			before := w.stats.Overlaps
			w.overlap(d, other)
			w.shaken = w.shaken || w.stats.Overlaps > before
		}
		return prepared, err
	}
}

func (w *world) changes(page *protocol.Page) []*change {
	list, err := changesOf(page.Stream, page.Batches)
	w.check(err, "read a page")
	return list
}
