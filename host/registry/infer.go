package registry

import (
	"database/sql"
	"maps"
	"slices"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/sdk"
)

// parts are the versions that make what one side holds of a record; the zero value is nothing.
type parts struct {
	inserted, deleted sdk.Version
	fields            map[string]sdk.Version

	// Of a range: compared with what is here; deleted and forgotten here; nothing is to be inferred, since some of it was refused.
	judged, leave, unknown bool
}

func (p *parts) field(name string, v sdk.Version) {
	if p.fields == nil {
		p.fields = make(map[string]sdk.Version)
	}
	p.fields[name] = later(p.fields[name], v)
}

func later(a, b sdk.Version) sdk.Version {
	if a.Compare(b) > 0 {
		return a
	}
	return b
}

// operation adds op.
func (p *parts) operation(columns []string, op *sdk.Op, origin sdk.DeviceID) {
	version := sdk.Version{Stamp: op.Stamp, Device: origin}
	switch op.Kind {
	case sdk.Insert:
		p.inserted = later(p.inserted, version)
	case sdk.Delete:
		p.deleted = later(p.deleted, version)
	}
	for i := range op.Fields {
		name, _ := sdk.ParseColumn(columns[op.Fields[i].Column])
		p.field(name, version)
	}
}

// add adds others.
func (p *parts) add(other *parts) {
	p.inserted, p.deleted = later(p.inserted, other.inserted), later(p.deleted, other.deleted)
	for name, v := range other.fields {
		p.field(name, v)
	}
}

// record adds state, which may be nil.
func (p *parts) record(state *sdk.Record) {
	if state == nil {
		return
	}
	p.inserted, p.deleted = later(p.inserted, state.Inserted), later(p.deleted, state.Deleted)
	for i := range state.Fields {
		p.field(state.Fields[i].Name, state.Fields[i].Version)
	}
}

// has reports whether p is, of a field, what was written at v.
func (p *parts) has(field string, v sdk.Version) bool { return p != nil && p.fields[field] == v }

// forgottenBy reports whether a device that has other, and has seen what covers says, has deleted and forgotten the record:
// it lacks a part that it has seen. Merging alone never makes an insert or a delete earlier, nor takes away a field. A
// record whose insert was not seen there exists, whatever became of it before.
func (p *parts) forgottenBy(other *parts, covers func(sdk.Version) bool) bool {
	if other == nil {
		other = new(parts)
	}
	if !p.inserted.IsZero() && !covers(p.inserted) {
		return false
	}
	if p.inserted.Compare(other.inserted) > 0 || (p.deleted.Compare(other.deleted) > 0 && covers(p.deleted)) {
		return true
	}
	for name, v := range p.fields {
		if _, has := other.fields[name]; !has && covers(v) {
			return true
		}
	}
	return false
}

// without returns what remains of a record of m without what covers says; nil if that is nothing. Of a set or counter those
// parts remain that are not covered.
func (m *model) without(state *sdk.Record, covers func(sdk.Version) bool) *sdk.Record {
	rest := &sdk.Record{ID: state.ID}
	if !covers(state.Inserted) {
		rest.Inserted = state.Inserted
	}
	if !covers(state.Deleted) {
		rest.Deleted = state.Deleted
	}
	for i := range state.Fields {
		if f := state.Fields[i]; m.withoutParts(&f, covers) {
			rest.Fields = append(rest.Fields, f)
		}
	}
	if rest.Inserted.IsZero() && rest.Deleted.IsZero() && len(rest.Fields) == 0 {
		return nil
	}
	return rest
}

// withoutParts takes from f what covers says, and reports whether anything remains.
func (m *model) withoutParts(f *sdk.FieldState, covers func(sdk.Version) bool) bool {
	merge := m.inParts(f)
	list, err := f.Parts()
	if merge == "" || err != nil {
		return !covers(f.Version)
	}
	list = slices.DeleteFunc(list, func(p sdk.FieldPart) bool { return covers(p.Version) })
	if covers(f.Version) {
		f.Version = sdk.Version{}
		for i := range list {
			f.Version = later(f.Version, list[i].Version)
		}
	}
	f.SetParts(merge, list)
	return !f.Version.IsZero()
}

// spanRead is what a range is of one shared model, and what this device holds in it.
type spanRead struct {
	p      *PreparedRange
	m      rangeModel
	s      idSpan
	b      *sharedBatch // nil: the model has no table
	there  map[sdk.RecordID]*parts
	parked map[sdk.RecordID][]parkedOp
	gone   []int64 // of parked: deleted and forgotten there
}

// parkedOp is an operation that waits for its plugin.
type parkedOp struct {
	n       int64
	version sdk.Version
	parts   parts // of it alone
}

// decide reads what this device holds, and notes in the parts of the range and in the batch of the model what was
// forgotten.
func (r *spanRead) decide(tx *database.Tx) (err error) {
	if r.m.s != nil {
		r.b = r.p.merged.sharedBatch(r.m.s)
	}
	if !r.p.infers() {
		return r.load(tx, nil)
	}
	if r.parked, err = r.readParked(tx); err != nil {
		return err
	}
	judged := make(map[sdk.RecordID]bool)
	var partly []sdk.RecordID
	err = r.scan(tx, func(id sdk.RecordID, stored storedClock, state *sdk.Record) error {
		judged[id] = true
		if !r.judge(id, state) {
			return nil
		}
		if r.m.s.without(state, r.p.theirs) != nil {
			partly = append(partly, id)
			return nil
		}
		r.b.before[id] = stored
		r.b.replace(id, nil)
		return nil
	})
	if err != nil {
		return err
	}
	for id := range r.parked {
		if !judged[id] {
			r.judge(id, nil)
		}
	}
	return r.load(tx, partly)
}

// judge decides on a record that this device holds, and reports whether it was forgotten there.
func (r *spanRead) judge(id sdk.RecordID, state *sdk.Record) bool {
	here, there := r.here(id, state), r.there[id]
	if there != nil {
		there.judged = true
		there.leave = there.forgottenBy(here, r.p.mine)
	}
	if !r.forgotten(here, there) {
		return false
	}
	r.p.erased++
	for _, op := range r.parked[id] {
		if r.p.theirs(op.version) {
			r.gone = append(r.gone, op.n)
		}
	}
	return true
}

// forgotten reports whether a record was deleted and forgotten there.
func (r *spanRead) forgotten(here, there *parts) bool {
	return (there == nil || !there.unknown) && here.forgottenBy(there, r.p.theirs)
}

// here returns what this device holds of a record, in its tables and for its plugin.
func (r *spanRead) here(id sdk.RecordID, state *sdk.Record) *parts {
	here := new(parts)
	here.record(state)
	for i := range r.parked[id] {
		here.add(&r.parked[id][i].parts)
	}
	return here
}

// scan calls fn for each record that the table or the shadow holds, with its clocks; values may be missing.
func (r *spanRead) scan(tx *database.Tx, fn func(sdk.RecordID, storedClock, *sdk.Record) error) error {
	if r.m.s == nil {
		return nil
	}
	each := func(shadowed bool) func(*sql.Rows) error {
		return func(rows *sql.Rows) error {
			var raw, clock []byte
			if err := rows.Scan(&raw, &clock); err != nil {
				return err
			}
			id, err := asID(raw)
			if err != nil {
				return err
			}
			state, err := unpackRecord(tx, r.m.s.model, id, clock, nil)
			if err != nil {
				return damaged(r.m.s.model, id, err)
			}
			return fn(id, storedClock{clock, shadowed}, state)
		}
	}
	if err := tx.Each("SELECT id, _clock FROM "+r.m.s.table+" WHERE id > ? AND id <= ?", []any{r.s.after, r.s.until}, each(false)); err != nil {
		return err
	}
	return tx.Each("SELECT id, data FROM _shadow WHERE model = ? AND id > ? AND id <= ?", []any{r.m.n, r.s.after, r.s.until}, each(true))
}

// load reads the records that are merged with, and takes from some of them what was forgotten.
func (r *spanRead) load(tx *database.Tx, partly []sdk.RecordID) error {
	if r.b == nil {
		return nil
	}
	if err := r.b.read(tx, partly); err != nil {
		return err
	}
	var ids []sdk.RecordID
	for id := range r.there {
		if _, known := r.b.before[id]; !known {
			ids = append(ids, id)
		}
	}
	if err := r.b.read(tx, ids); err != nil {
		return err
	}
	for _, id := range partly {
		r.b.replace(id, r.m.s.without(r.b.current[id], r.p.theirs))
	}
	if !r.p.infers() {
		for id := range r.there {
			state := r.b.current[id]
			r.p.existed[Place{r.m.name, id}] = state != nil && state.Exists()
		}
	}
	return nil
}

// replace makes state, nil for nothing, what becomes of a record that was read.
func (b *sharedBatch) replace(id sdk.RecordID, state *sdk.Record) {
	b.current[id] = state
	if !b.isChanged[id] {
		b.isChanged[id] = true
		b.changed = append(b.changed, id)
	}
}

// readParked returns the operations that wait for the model's plugin.
func (r *spanRead) readParked(tx *database.Tx) (map[sdk.RecordID][]parkedOp, error) {
	all := make(map[sdk.RecordID][]parkedOp)
	err := tx.Each("SELECT n, origin, stamp, columns, data FROM _parked WHERE model = ? AND id > ? AND id <= ? AND shared = 1 ORDER BY n",
		[]any{r.m.n, r.s.after, r.s.until}, func(rows *sql.Rows) error {
			var one parkedOp
			var origin, stamp, columns int64
			var data []byte
			if err := rows.Scan(&one.n, &origin, &stamp, &columns, &data); err != nil {
				return err
			}
			device, err := tx.Device(origin)
			if err != nil {
				return err
			}
			set, err := tx.Columns(columns)
			if err != nil {
				return err
			}
			one.version = sdk.Version{Stamp: hlc.Stamp(stamp), Device: device} //nolint:gosec // not negative
			batch := sdk.Batch{Model: set.Model, Columns: set.Names(), Count: 1, Rows: data}
			for op, err := range batch.Ops() {
				if err != nil {
					return err
				}
				one.parts.operation(batch.Columns, &op, device)
				all[op.ID] = append(all[op.ID], one)
			}
			return nil
		})
	return all, err
}

// check returns a CodeStale error unless what was decided still holds. Records that the batch has read are compared when
// it is written; those that it left alone must not have become such that it should have read them.
func (r *spanRead) check(tx *database.Tx) error {
	if !r.p.infers() {
		return nil
	}
	parked, err := r.readParked(tx)
	if err != nil {
		return err
	}
	same := func(a, b []parkedOp) bool {
		return slices.EqualFunc(a, b, func(x, y parkedOp) bool { return x.n == y.n })
	}
	stale := sdk.Errorf(sdk.CodeStale, "records of %s changed meanwhile; decide again", r.m.name)
	if !maps.EqualFunc(parked, r.parked, same) {
		return stale
	}
	if r.b == nil || r.b.changes.Load() == r.b.since {
		return nil
	}
	return r.scan(tx, func(id sdk.RecordID, _ storedClock, state *sdk.Record) error {
		if _, compared := r.b.before[id]; !compared && r.forgotten(r.here(id, state), r.there[id]) {
			return stale
		}
		return nil
	})
}
