package registry

import (
	"bytes"
	"database/sql"
	"fmt"
	"strconv"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/sdk"
)

// Write writes the range in tx. A CodeStale error means that records or models changed since PrepareRange: undo the
// transaction and prepare again.
func (p *PreparedRange) Write(tx *database.Tx) (RangeOutcome, error) {
	for _, one := range append([]*Prepared{p.merged}, p.origins...) {
		if err := one.checkModels(); err != nil {
			return RangeOutcome{}, err
		}
	}
	for _, read := range p.reads {
		if err := read.check(tx); err != nil {
			return RangeOutcome{}, err
		}
	}
	w := rangeWriter{PreparedRange: p, placer: newPlacer(p.r, p.merged.catalog, tx)}
	w.out.Erased, w.out.LeftOut = p.erased, p.leftOut
	if err := w.write(); err != nil {
		return RangeOutcome{}, fmt.Errorf("write range: %w", err)
	}
	w.out.Outcome = w.total()
	return w.out, nil
}

// rangeWriter writes one PreparedRange.
type rangeWriter struct {
	*PreparedRange
	*placer
	out RangeOutcome
}

func (w *rangeWriter) write() error {
	for _, read := range w.reads {
		for _, n := range read.gone {
			if _, err := w.tx.Exec("DELETE FROM _parked WHERE n = ?", n); err != nil {
				return err
			}
		}
	}
	for _, one := range w.origins {
		if err := w.writeOrigin(one); err != nil {
			return err
		}
	}
	for _, b := range w.merged.shared {
		records, err := w.guardShared(b)
		if err != nil {
			return fmt.Errorf("write %s: %w", b.name, err)
		}
		if err := w.place(records); err != nil {
			return err
		}
		w.noteShared(b)
	}
	if w.infers() && w.in.Kind == sdk.DeviceOwned {
		if err := w.eraseOwned(); err != nil {
			return err
		}
	}
	return w.finish()
}

// writeOrigin writes what came from one origin, but for shared records.
func (w *rangeWriter) writeOrigin(one *Prepared) error {
	w.placer.origin = one.origin
	owner, err := w.tx.DeviceNumber(one.origin)
	if err != nil {
		return err
	}
	for i := range one.refused {
		if err := w.refuse(&one.refused[i]); err != nil {
			return err
		}
	}
	some := *one
	if w.infers() && w.in.Kind == sdk.DeviceOwned {
		if some.parked, err = w.heldParked(one); err != nil {
			return err
		}
	}
	if err := some.park(w.placer, owner); err != nil {
		return fmt.Errorf("keep changes for absent models: %w", err)
	}
	for _, b := range one.state {
		if b, err = w.heldRows(one.origin, b); err != nil {
			return err
		}
		b, existed, err := w.news(owner, b)
		if err != nil {
			return err
		}
		before := len(w.marked[b.model])
		records, err := w.guardState(b, owner)
		if err != nil {
			return fmt.Errorf("write %s: %w", b.name, err)
		}
		if err := w.place(records); err != nil {
			return err
		}
		for _, id := range w.marked[b.model][before:] {
			w.repaired(b.desc.Model, id, existed[id], w.there[b.desc.Model][id].deleted.IsZero())
		}
	}
	return nil
}

// held tells of ids of a device-owned model which of them this device holds anything of.
func (w *rangeWriter) held(model sdk.ModelName, ids []sdk.RecordID) (map[sdk.RecordID]bool, error) {
	n, err := w.tx.NameNumber(string(model))
	if err != nil {
		return nil, err
	}
	held := make(map[sdk.RecordID]bool)
	look := func(from string, before []any) error {
		return selectIn(w.tx, "SELECT id FROM "+from+" id IN ", before, ids, func(rows *sql.Rows) error {
			id, err := scanID(rows)
			held[id] = true
			return err
		})
	}
	if s := w.placer.catalog.models[model]; s != nil {
		if err := look(s.table+" WHERE", nil); err != nil {
			return nil, err
		}
	}
	for _, table := range []string{"_shadow", "_tombstone", "_parked"} {
		if err := look(table+" WHERE model = ? AND", anys(n)); err != nil {
			return nil, err
		}
	}
	return held, nil
}

// heldRows returns b without the records that this device has deleted and forgotten.
func (w *rangeWriter) heldRows(origin sdk.DeviceID, b *stateBatch) (*stateBatch, error) {
	if !w.infers() {
		return b, nil
	}
	seen := w.in.Mine(origin)
	var ids []sdk.RecordID
	for _, rec := range b.records {
		if rec.stamp <= seen {
			ids = append(ids, rec.id)
		}
	}
	for _, t := range b.deletes {
		if t.stamp <= seen {
			ids = append(ids, t.id)
		}
	}
	if len(ids) == 0 {
		return b, nil
	}
	held, err := w.held(b.desc.Model, ids)
	if err != nil {
		return nil, err
	}
	rest := &stateBatch{served: b.served}
	for _, rec := range b.records {
		if rec.stamp > seen || held[rec.id] {
			rest.records = append(rest.records, rec)
		}
	}
	for _, t := range b.deletes {
		if t.stamp > seen || held[t.id] {
			rest.deletes = append(rest.deletes, t)
		}
	}
	w.out.LeftOut += len(b.records) - len(rest.records)
	return rest, nil
}

// heldParked is heldRows of what waits for its plugin.
func (w *rangeWriter) heldParked(one *Prepared) (rest []parked, err error) {
	seen := w.in.Mine(one.origin)
	for i := range one.parked {
		c := &one.parked[i]
		if c.stamp <= seen {
			held, err := w.held(c.set.Model, []sdk.RecordID{c.id})
			if err != nil {
				return nil, err
			}
			if !held[c.id] {
				w.out.LeftOut++
				continue
			}
		}
		rest = append(rest, *c)
	}
	return rest, nil
}

// eraseOwned takes away the device-owned records that were deleted and forgotten there.
func (w *rangeWriter) eraseOwned() error {
	models, err := rangeModels(w.tx, w.placer.catalog, sdk.DeviceOwned)
	if err != nil {
		return err
	}
	owner := int64(0)
	if !w.in.Owner.IsZero() {
		if owner, err = w.tx.DeviceNumber(w.in.Owner); err != nil {
			return err
		}
	}
	for i := range models {
		if s, ok := span(models[i].name, w.in.After, w.in.End); ok {
			if err := w.eraseModel(&models[i], s, owner); err != nil {
				return fmt.Errorf("erase %s: %w", models[i].name, err)
			}
		}
	}
	return nil
}

func (w *rangeWriter) eraseModel(m *rangeModel, s idSpan, owner int64) error {
	args := []any{s.after, s.until, owner, owner}
	if m.s != nil {
		// The unary + keeps the database from going through all records of the owner.
		ids, _, err := w.forgotten(m.name, "SELECT id, _owner, _stamp, 0 FROM "+m.s.table+" WHERE id > ? AND id <= ? AND (? = 0 OR +_owner = ?)", args...)
		if err != nil {
			return err
		}
		if err := w.erase(m.s.model, ids); err != nil {
			return err
		}
	}
	args = append([]any{m.n}, args...)
	waiting, _, err := w.forgotten(m.name, "SELECT id, owner, stamp, 0 FROM _shadow WHERE model = ? AND id > ? AND id <= ? AND owner IS NOT NULL AND (? = 0 OR +owner = ?)", args...)
	if err != nil {
		return err
	}
	if m.s != nil {
		if err := w.erase(m.s.model, waiting); err != nil {
			return err
		}
	}
	deleted, _, err := w.forgotten(m.name, "SELECT id, owner, stamp, 0 FROM _tombstone WHERE model = ? AND id > ? AND id <= ? AND (? = 0 OR +owner = ?)", args...)
	if err != nil {
		return err
	}
	if err := deleteIn(w.tx, "DELETE FROM _tombstone WHERE model = ? AND id IN ", anys(m.n), deleted, nil); err != nil {
		return err
	}
	parked, numbers, err := w.forgotten(m.name, "SELECT id, origin, stamp, n FROM _parked WHERE model = ? AND id > ? AND id <= ? AND shared = 0 AND (? = 0 OR +origin = ?)", args...)
	for _, n := range numbers {
		if err == nil {
			_, err = w.tx.Exec("DELETE FROM _parked WHERE n = ?", n)
		}
	}
	w.out.Erased += len(deleted) + len(parked)
	return err
}

// forgotten returns which of the records that a query finds, with owner, stamp and a number, the other device must have
// deleted and forgotten.
func (w *rangeWriter) forgotten(model sdk.ModelName, query string, args ...any) (ids []sdk.RecordID, numbers []int64, err error) {
	there := w.there[model]
	err = w.tx.Each(query, args, func(rows *sql.Rows) error {
		var raw []byte
		var owner, stamp, n int64
		if err := rows.Scan(&raw, &owner, &stamp, &n); err != nil {
			return err
		}
		id, err := asID(raw)
		if err != nil || there[id] != nil {
			return err
		}
		device, err := w.tx.Device(owner)
		if err == nil && hlc.Stamp(stamp) <= w.in.Theirs(device) { //nolint:gosec // not negative
			ids, numbers = append(ids, id), append(numbers, n)
		}
		return err
	})
	return ids, numbers, err
}

// erase takes device-owned records away, and leaves nothing of them.
func (w *rangeWriter) erase(m *model, ids []sdk.RecordID) error {
	for _, id := range ids {
		w.notify(Deleted, &record{m: m, id: id, origin: w.in.Owner})
	}
	w.out.Erased += len(ids)
	w.mark(m, ids...)
	if err := w.leaveShadow(m, ids); err != nil {
		return err
	}
	return deleteIn(w.tx, "DELETE FROM "+m.table+" WHERE id IN ", nil, ids, func(id sdk.RecordID) {
		w.leaves(m, id)
	})
}

// news returns b without what is here already, for an audit, and which of its records exist here.
func (w *rangeWriter) news(owner int64, b *stateBatch) (rest *stateBatch, existed map[sdk.RecordID]bool, err error) {
	if w.infers() {
		return b, nil, nil
	}
	ids := idsOf(b.records)
	for _, t := range b.deletes {
		ids = append(ids, t.id)
	}
	stored := make(map[sdk.RecordID]storedRow)
	if err := lookUpRows(w.tx, b.model, ids, stored); err != nil {
		return nil, nil, err
	}
	if err := selectIn(w.tx, "SELECT id, owner, stamp FROM _shadow WHERE model = ? AND id IN ", anys(b.n), ids, scanStored(stored)); err != nil {
		return nil, nil, err
	}
	existed = make(map[sdk.RecordID]bool, len(stored))
	for id := range stored {
		existed[id] = true
	}
	rest = &stateBatch{served: b.served, deletes: b.deletes}
	rotten, err := w.rotten(b, stored, owner)
	if err != nil {
		return nil, nil, err
	}
	for _, rec := range b.records {
		if !rotten[rec.id] && stored[rec.id] == (storedRow{owner, int64(rec.stamp)}) { //nolint:gosec // stamps fit
			w.of(b.desc.Model).Stale++
			continue
		}
		rest.records = append(rest.records, rec)
	}
	return rest, existed, nil
}

// rotten returns which rows that come from their owner are here with the same stamp and another content, or can not be read.
// It makes those here older, so that the owner's are let in, and keeps the values that go as conflicts: the owner's word
// counts, but its disk may be the damaged one.
func (w *rangeWriter) rotten(b *stateBatch, stored map[sdk.RecordID]storedRow, owner int64) (map[sdk.RecordID]bool, error) {
	if w.placer.origin != w.in.From {
		return nil, nil
	}
	theirs := make(map[sdk.RecordID]*record)
	rotten := make(map[sdk.RecordID]bool)
	var ids []sdk.RecordID
	for _, rec := range b.records {
		if stored[rec.id] == (storedRow{owner, int64(rec.stamp)}) { //nolint:gosec // stamps fit
			theirs[rec.id], rotten[rec.id], ids = rec, true, append(ids, rec.id)
		}
	}
	form := newCanonical(b.model)
	compare := func(mine *record) error {
		their := theirs[mine.id]
		if err := form.record(their); err != nil {
			return err
		}
		want := bytes.Clone(form.buf)
		if err := form.record(mine); err != nil {
			return nil //nolint:nilerr // it can not be read: it is rotten
		}
		if bytes.Equal(form.buf, want) {
			delete(rotten, mine.id)
			return nil
		}
		return w.keepRotten(b.model, mine, their)
	}
	err := selectIn(w.tx, b.sel+" WHERE id IN ", nil, ids, func(rows *sql.Rows) error {
		mine, err := b.scanRow(w.tx, rows)
		if err != nil {
			return unlessDamaged(err)
		}
		return compare(mine)
	})
	if err != nil {
		return nil, err
	}
	err = selectIn(w.tx, "SELECT id, owner, stamp, data FROM _shadow WHERE present = 1 AND model = ? AND id IN ", []any{b.n}, ids, func(rows *sql.Rows) error {
		var id, data []byte
		var owner, stamp int64
		if err := rows.Scan(&id, &owner, &stamp, &data); err != nil {
			return err
		}
		mine, err := b.readShadow(w.tx, sdk.RecordID(id), owner, stamp, data)
		if err != nil {
			return unlessDamaged(err)
		}
		return compare(mine)
	})
	if err != nil {
		return nil, err
	}
	for id := range rotten {
		for _, older := range []string{"UPDATE " + b.table + " SET _stamp = _stamp - 1 WHERE id = ?", "UPDATE _shadow SET stamp = stamp - 1 WHERE id = ? AND model = " + strconv.FormatInt(b.n, 10)} {
			if _, err := w.tx.Exec(older, id[:]); err != nil {
				return nil, err
			}
		}
	}
	return rotten, nil
}

// keepRotten keeps the values of mine that differ from those of their, which replaces it.
func (w *rangeWriter) keepRotten(m *model, mine, their *record) error {
	version := sdk.Version{Stamp: their.stamp, Device: w.placer.origin}
	for i, name := range m.names {
		was, is := appendArg(nil, m.types[i], mine.args[1+i]), appendArg(nil, m.types[i], their.args[1+i])
		if bytes.Equal(was, is) {
			continue
		}
		if err := w.keepConflict(m, &sdk.Conflict{ID: mine.id, Field: name, Value: sdk.Packed(was), Lost: version, Winner: version}); err != nil {
			return fmt.Errorf("keep what a disk has changed: %w", err)
		}
	}
	return nil
}

// unlessDamaged returns nil if err says that what is stored can not be read as a record.
func unlessDamaged(err error) error {
	if isDamage(err) {
		return nil
	}
	return err
}

// repaired notes that an audit changed a record.
func (w *rangeWriter) repaired(model sdk.ModelName, id sdk.RecordID, existed, exists bool) {
	if w.infers() || (!existed && !exists) {
		return
	}
	what := RepairChanged
	switch {
	case !existed:
		what = RepairAdded
	case !exists:
		what = RepairDeleted
	}
	w.out.Repairs++
	if len(w.out.Repaired) < keptRepairs {
		w.out.Repaired = append(w.out.Repaired, Repair{model, id, what})
	}
}

func (w *rangeWriter) noteShared(b *sharedBatch) {
	for _, id := range b.changed {
		state := b.current[id]
		w.repaired(b.desc.Model, id, w.existed[Place{b.desc.Model, id}], state != nil && state.Exists())
	}
}
