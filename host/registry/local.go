package registry

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"slices"

	"github.com/tinylib/msgp/msgp"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/sdk"
)

// provisional is the first of the stamps that local operations are decided with: after every real one. The writer's
// transaction puts the real ones in their place.
const provisional = hlc.MaxStamp - 1<<32

// Local is a set of changes made here, which the models have decided on. It is written once.
type Local struct {
	p       *Prepared
	kind    sdk.Ownership
	refused [][]sdk.Refusal
	state   []*localState
	shared  []*localOps
}

// localState is a batch of rows of this device's own records.
type localState struct {
	*stateBatch
	position int // of its batch
	rowIndex map[sdk.RecordID]int
	given    columnPlan
	expected map[sdk.RecordID]hlc.Stamp // the stamps of the rows that completed this batch's; nil if it was complete
}

// localOps is a batch of operations on shared records.
type localOps struct {
	*sharedBatch
	by      sdk.DeviceID // this device
	start   sdk.PartID   // of it
	columns []string     // of the operations that are stored
	names   []string     // of their fields
	edits   []*sdk.Field // by column: the sets and counters, whose values follow from what they hold; nil: others
	ops     []localOp
}

type localOp struct {
	id     sdk.RecordID
	kind   sdk.OpKind
	stamp  hlc.Stamp // provisional
	names  []string  // of the columns
	fields []sdk.OpField
	edits  []*sdk.Field // of the columns
	no     bool         // refused
}

// settler returns the real stamp in place of a provisional one: of an operation's field, or with "" of itself.
type settler func(field string, stamp hlc.Stamp) hlc.Stamp

// PrepareLocal has the models decide on changes of one kind that are made here. It calls plugins, and holds no
// transaction while it does. Its error means that none of the changes can be decided on; refused ones come back from
// Write. Stamps in the batches are ignored. Columns that a device-owned batch does not name keep what is stored.
func (r *Registry) PrepareLocal(ctx context.Context, kind sdk.Ownership, batches []sdk.Batch) (*Local, error) {
	l := &Local{p: &Prepared{r: r, catalog: r.catalog.Load(), origin: r.self, local: true}, kind: kind, refused: make([][]sdk.Refusal, len(batches))}
	stamp := provisional
	for i, batch := range batches {
		s, err := r.partOf(batch.Model, kind)
		if err != nil {
			return nil, err
		}
		if s.server == nil {
			return nil, sdk.Errorf(sdk.CodeUnavailable, "the plugin of model %q is not running now; see: starling plugin list", batch.Model)
		}
		if err := checkColumns(&batch); err != nil {
			return nil, err
		}
		if kind == sdk.SharedByAll {
			err = l.prepareOps(ctx, s, i, &batch, &stamp)
		} else {
			batch.Model = s.desc.Model
			err = l.prepareRows(ctx, s, i, batch)
		}
		if err != nil {
			return nil, err
		}
	}
	return l, nil
}

// partOf returns what keeps the records of one kind of a model.
func (r *Registry) partOf(name sdk.ModelName, kind sdk.Ownership) (*served, error) {
	parts, err := r.known(name)
	if err != nil {
		return nil, err
	}
	for _, s := range parts {
		if s.desc.Ownership == kind {
			return s, nil
		}
	}
	return nil, sdk.Errorf(sdk.CodeInvalid, "records of model %q are %q, and these changes are %q", name, parts[0].desc.Ownership, kind)
}

// Write writes the changes with stamps drawn from next, in the order of the batches. It returns what it stored, with those
// stamps, and for each batch what was refused, ascending. A CodeStale error says that records changed since
// PrepareLocal: undo the transaction and prepare again.
func (l *Local) Write(tx *database.Tx, next func() hlc.Stamp) (stored []sdk.Batch, refused [][]sdk.Refusal, err error) {
	if err := l.p.checkModels(); err != nil {
		return nil, nil, err
	}
	pl := newPlacer(l.p.r, l.p.catalog, tx)
	pl.origin, pl.local = l.p.origin, true
	if l.kind == sdk.SharedByAll {
		stored, err = l.writeOps(pl, next)
	} else {
		stored, err = l.writeRows(pl, next)
	}
	return stored, l.refused, err
}

func (l *Local) prepareOps(ctx context.Context, s *served, position int, batch *sdk.Batch, stamp *hlc.Stamp) error {
	b := &localOps{sharedBatch: l.p.sharedBatch(s), by: l.p.origin, start: l.p.r.part}
	b.bind(batch.Columns)
	changes, err := changesOf(batch, true)
	if err != nil {
		return err
	}
	for op, err := range batch.Ops() {
		if err != nil {
			return err
		}
		b.ops = append(b.ops, localOp{id: op.ID, kind: op.Kind, stamp: *stamp, names: b.names, edits: b.edits, fields: slices.Clone(op.Fields)})
		*stamp++
	}
	if err := l.p.r.load(ctx, b.sharedBatch, changes); err != nil {
		return err
	}
	b.see()
	for from := 0; from < len(b.ops); {
		to := b.independent(from)
		refused, err := b.decide(ctx, from, to)
		if err != nil {
			return err
		}
		l.refused[position] = append(l.refused[position], refused...)
		from = to
	}
	l.shared = append(l.shared, b)
	return nil
}

// see notes for each field of each operation the stamp of the value that it replaces.
func (b *localOps) see() {
	type place struct {
		id     sdk.RecordID
		column int
	}
	written := make(map[place]hlc.Stamp)
	for i := range b.ops {
		op := &b.ops[i]
		for k := range op.fields {
			f := &op.fields[k]
			if b.edits[f.Column] != nil {
				continue
			}
			at := place{op.id, f.Column}
			seen, ok := written[at]
			if !ok {
				seen = fieldStamp(b.current[op.id], b.names[f.Column])
			}
			f.Seen = seen
			written[at] = op.stamp
		}
	}
}

func fieldStamp(state *sdk.Record, name string) hlc.Stamp {
	if f := fieldOf(state, name); f != nil {
		return f.Version.Stamp
	}
	return 0
}

// append packs the operation of device self, with the stamps that actual returns if it is not nil.
func (op *localOp) append(dst []byte, self sdk.DeviceID, actual settler) (_ []byte, err error) {
	stamp := op.stamp
	if actual != nil {
		stamp = actual("", stamp)
	}
	dst = sdk.AppendOpHeader(dst, op.id, stamp, op.kind, len(op.fields))
	for i := range op.fields {
		f := &op.fields[i]
		seen := f.Seen
		if actual != nil {
			seen = actual(op.names[f.Column], seen)
		}
		dst = msgp.AppendInt(dst, f.Column)
		if edit := op.edits[f.Column]; edit != nil && actual != nil {
			dst, err = sdk.RenameOp(dst, edit.Merge, f.Value, self, func(stamp hlc.Stamp) hlc.Stamp { return actual("", stamp) })
			if err != nil {
				return dst, err
			}
		} else {
			dst = append(dst, f.Value...)
		}
		dst = msgp.AppendUint64(dst, uint64(seen))
	}
	return dst, nil
}

func (l *Local) writeOps(pl *placer, next func() hlc.Stamp) (stored []sdk.Batch, err error) {
	drawn := make(map[hlc.Stamp]hlc.Stamp)
	all := make(map[hlc.Stamp]*localOp)
	for _, b := range l.shared {
		for i := range b.ops {
			op := &b.ops[i]
			all[op.stamp] = op
			if !op.no {
				drawn[op.stamp] = next()
			}
		}
	}
	if err := l.checkClock(drawn); err != nil {
		return nil, err
	}
	var actual settler
	actual = func(field string, stamp hlc.Stamp) hlc.Stamp {
		if stamp < provisional {
			return stamp
		}
		if s, ok := drawn[stamp]; ok {
			return s
		}
		op := all[stamp]
		for _, f := range op.fields { // it was refused: what it saw stands
			if op.names[f.Column] == field {
				return actual(field, f.Seen)
			}
		}
		return 0
	}
	var records []*record
	for _, b := range l.p.shared {
		b.settle(actual)
		kept, err := pl.guardShared(b)
		if err != nil {
			return nil, err
		}
		records = append(records, kept...)
	}
	if err := pl.place(records); err != nil {
		return nil, err
	}
	for _, b := range l.shared {
		batch := sdk.Batch{Model: b.desc.Model, Version: b.desc.Version, Columns: b.columns}
		for i := range b.ops {
			if !b.ops[i].no {
				if batch.Rows, err = b.ops[i].append(batch.Rows, l.p.origin, actual); err != nil {
					return nil, err
				}
				batch.Count++
			}
		}
		if batch.Count > 0 {
			stored = append(stored, batch)
		}
	}
	return stored, pl.finish()
}

// checkClock returns an error if a drawn stamp is not after every stamp that the changes were decided on: then this
// device's clock has not been told of changes that it holds.
func (l *Local) checkClock(drawn map[hlc.Stamp]hlc.Stamp) error {
	least := hlc.MaxStamp
	for _, stamp := range drawn {
		least = min(least, stamp)
	}
	for _, b := range l.p.shared {
		for id, before := range b.before {
			state := b.current[id]
			if before.clock == nil || state == nil {
				continue
			}
			for _, v := range versions(state) {
				if v.Stamp < provisional && v.Stamp >= least {
					return sdk.Errorf(sdk.CodeClockSkew, "%s %s was changed at %s, which is ahead of this device's clock; set the clock", b.name, id, v.Stamp)
				}
			}
		}
	}
	return nil
}

// versions returns all versions that state has, those of the parts of sets and counters included.
func versions(state *sdk.Record) []sdk.Version {
	all := []sdk.Version{state.Inserted, state.Deleted}
	for i := range state.Fields {
		f := &state.Fields[i]
		all = append(all, f.Version)
		list, err := f.Parts()
		for k := range list {
			if err == nil {
				all = append(all, list[k].Version)
			}
		}
	}
	return all
}

// settle puts real stamps in place of provisional ones.
func (b *sharedBatch) settle(actual settler) {
	for _, id := range b.changed {
		state := b.current[id]
		state.Inserted.Stamp = actual("", state.Inserted.Stamp)
		state.Deleted.Stamp = actual("", state.Deleted.Stamp)
		for i := range state.Fields {
			f := &state.Fields[i]
			f.Version.Stamp, f.Seen = actual("", f.Version.Stamp), actual(f.Name, f.Seen)
			b.settleParts(f, actual)
		}
	}
	for _, list := range [][]sdk.Conflict{b.conflicts, b.resolved} {
		for i := range list {
			c := &list[i]
			c.Lost.Stamp, c.Winner.Stamp = actual(c.Field, c.Lost.Stamp), actual("", c.Winner.Stamp)
		}
	}
}

func (l *Local) prepareRows(ctx context.Context, s *served, position int, batch sdk.Batch) error {
	b := &localState{stateBatch: &stateBatch{served: s}, position: position, given: s.plan(batch.Columns)}
	missing := slices.DeleteFunc(slices.Clone(s.names), func(name string) bool { return slices.Contains(batch.Columns, name) })
	if len(missing) > 0 {
		b.expected = make(map[sdk.RecordID]hlc.Stamp)
		var err error
		if batch, err = l.complete(ctx, s, batch, missing, b.expected); err != nil {
			return err
		}
	}
	var refused []refusal
	in := &Incoming{Origin: l.p.origin, local: true}
	if err := stateAsker(ctx, s, in, b.stateBatch, &batch, &refused).ask(); err != nil {
		return err
	}
	b.keepLast()
	b.rowIndex = make(map[sdk.RecordID]int, batch.Count)
	for _, rec := range b.records {
		b.rowIndex[rec.id] = int(rec.stamp) - 1 //nolint:gosec // a count
	}
	for _, t := range b.deletes {
		b.rowIndex[t.id] = int(t.stamp) - 1 //nolint:gosec // a count
	}
	for _, no := range refused {
		l.refused[position] = append(l.refused[position], no.Refusal)
	}
	l.p.state = append(l.p.state, b.stateBatch)
	l.state = append(l.state, b)
	return nil
}

// complete returns batch with the columns that it lacks, filled from what is stored.
func (l *Local) complete(ctx context.Context, s *served, batch sdk.Batch, missing []string, expected map[sdk.RecordID]hlc.Stamp) (sdk.Batch, error) {
	var ids []sdk.RecordID
	for row, err := range batch.StateRows() {
		if err != nil {
			return batch, err
		}
		ids = append(ids, row.ID)
	}
	var stored map[sdk.RecordID]*record
	err := l.p.r.db.Read(ctx, func(tx *database.Tx) (err error) {
		stored, err = s.readStored(tx, ids)
		return err
	})
	if err != nil {
		return batch, err
	}
	whole := sdk.Batch{Model: batch.Model, Version: s.desc.Version, Columns: append(slices.Clone(batch.Columns), missing...), Count: batch.Count}
	for row, err := range batch.StateRows() {
		if err != nil {
			return batch, err
		}
		if row.Deleted {
			whole.Rows = sdk.AppendStateHeader(whole.Rows, row.ID, 0, -1)
			continue
		}
		whole.Rows = sdk.AppendStateHeader(whole.Rows, row.ID, 0, len(whole.Columns))
		whole.Rows = append(whole.Rows, row.Values...)
		rec := stored[row.ID]
		expected[row.ID] = 0
		if rec != nil {
			expected[row.ID] = rec.stamp
		}
		for _, name := range missing {
			var arg any
			at := s.index[name]
			if rec != nil {
				arg = rec.values()[at]
			}
			whole.Rows = appendArg(whole.Rows, s.types[at], arg)
		}
	}
	return whole, nil
}

// readStored returns the device-owned records with these ids that exist, visible or not.
func (m *model) readStored(tx *database.Tx, ids []sdk.RecordID) (map[sdk.RecordID]*record, error) {
	stored := make(map[sdk.RecordID]*record)
	err := selectIn(tx, m.sel+" WHERE id IN ", nil, ids, func(rows *sql.Rows) error {
		rec, err := m.scanRow(tx, rows)
		if err == nil {
			stored[rec.id] = rec
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	waiting, err := readShadowed(tx, m, ids)
	for _, rec := range waiting {
		stored[rec.id] = rec
	}
	return stored, err
}

func (l *Local) writeRows(pl *placer, next func() hlc.Stamp) ([]sdk.Batch, error) {
	self, err := pl.tx.DeviceNumber(l.p.origin)
	if err != nil {
		return nil, err
	}
	var out packer
	for _, b := range l.state {
		w := rowWriter{Local: l, pl: pl, b: b, self: self, next: next, out: &out}
		if err := w.write(); err != nil {
			return nil, err
		}
		if err := pl.place(w.records); err != nil {
			return nil, err
		}
	}
	for i := range l.refused {
		slices.SortStableFunc(l.refused[i], func(a, b sdk.Refusal) int { return cmp.Compare(a.Index, b.Index) })
	}
	return out.batches, pl.finish()
}

// rowWriter writes one batch of own rows.
type rowWriter struct {
	*Local
	pl      *placer
	b       *localState
	self    int64
	next    func() hlc.Stamp
	out     *packer
	stored  map[sdk.RecordID]*record
	tombs   map[sdk.RecordID]storedRow
	records []*record
}

func (w *rowWriter) write() error {
	ids := idsOf(w.b.records)
	for _, t := range w.b.deletes {
		ids = append(ids, t.id)
	}
	var err error
	if w.stored, err = w.b.readStored(w.pl.tx, ids); err != nil {
		return err
	}
	w.tombs = make(map[sdk.RecordID]storedRow)
	if err := selectIn(w.pl.tx, "SELECT id, owner, stamp FROM _tombstone WHERE model = ? AND id IN ", anys(w.b.n), ids, scanStored(w.tombs)); err != nil {
		return err
	}
	rows, deletes := w.b.records, w.b.deletes
	for len(rows)+len(deletes) > 0 { // in the order of the batch
		if len(deletes) == 0 || (len(rows) > 0 && rows[0].stamp < deletes[0].stamp) {
			err, rows = w.row(rows[0]), rows[1:]
		} else {
			err, deletes = w.remove(deletes[0].id), deletes[1:]
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// owned refuses a change to another device's record.
func (w *rowWriter) owned(id sdk.RecordID) (bool, error) {
	owner := w.self
	if rec := w.stored[id]; rec != nil {
		owner, _ = rec.args[w.b.width-3].(int64)
	} else if row, ok := w.tombs[id]; ok {
		owner = row.owner
	}
	if owner == w.self {
		return true, nil
	}
	device, err := w.pl.tx.Device(owner)
	no := errNotOwner(w.b.model, id, device)
	w.refused[w.b.position] = append(w.refused[w.b.position], sdk.Refusal{Index: w.b.rowIndex[id], Code: no.Code, Message: no.Message})
	return false, err
}

func (w *rowWriter) draw(after hlc.Stamp, id sdk.RecordID) (hlc.Stamp, error) {
	stamp := w.next()
	if stamp <= after {
		return 0, sdk.Errorf(sdk.CodeClockSkew, "%s %s was changed at %s, which is ahead of this device's clock; set the clock", w.b.name, id, after)
	}
	return stamp, nil
}

func (w *rowWriter) row(rec *record) error {
	if ok, err := w.owned(rec.id); !ok || err != nil {
		return err
	}
	if ok, err := w.mayOwn(rec); !ok || err != nil {
		return err
	}
	m, before := w.b.model, w.stored[rec.id]
	after := hlc.Stamp(w.tombs[rec.id].stamp) //nolint:gosec // not negative
	if before != nil {
		after = before.stamp
	}
	if expected, partial := w.b.expected[rec.id]; partial && (before != nil || expected != 0) && expected != after {
		return sdk.Errorf(sdk.CodeStale, "%s %s changed meanwhile; decide again", m.name, rec.id)
	}
	if before != nil {
		rec.args[m.width-1] = before.args[m.width-1]
		if sameArgs(rec.values(), before.values()) {
			return nil
		}
		rec.shadowed = before.shadowed
	}
	var err error
	if rec.stamp, err = w.draw(after, rec.id); err != nil {
		return err
	}
	rec.trusted = true
	rec.args[m.width-3], rec.args[m.width-2] = w.self, int64(rec.stamp) //nolint:gosec // stamps fit
	if _, deleted := w.tombs[rec.id]; deleted {
		if _, err := w.pl.tx.Exec("DELETE FROM _tombstone WHERE model = ? AND id = ?", m.n, rec.id[:]); err != nil {
			return err
		}
	}
	w.records = append(w.records, rec)
	raw, _ := rec.args[m.width-1].([]byte)
	return w.out.row(m, rec.id, rec.stamp, rec.values(), raw)
}

func sameArgs(a, b []any) bool {
	return slices.EqualFunc(a, b, func(x, y any) bool {
		if x, isBytes := x.([]byte); isBytes {
			y, ok := y.([]byte)
			return ok && bytes.Equal(x, y)
		}
		if _, isBytes := y.([]byte); isBytes {
			return false
		}
		return x == y
	})
}

func (w *rowWriter) remove(id sdk.RecordID) error {
	if ok, err := w.owned(id); !ok || err != nil {
		return err
	}
	before := w.stored[id]
	if before == nil {
		return nil // it is not there: nothing to say
	}
	stamp, err := w.draw(before.stamp, id)
	if err != nil {
		return err
	}
	if err := w.pl.delete(&stateBatch{served: w.b.served, deletes: []tombstone{{id, stamp}}}, w.self); err != nil {
		return err
	}
	w.out.remove(w.b.model, id, stamp)
	return nil
}
