package registry

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"slices"

	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/sdk"
)

// sharedBatch is what operations make of the records of one shared model.
type sharedBatch struct {
	*served
	since     uint64                       // served.changes before the first read
	before    map[sdk.RecordID]storedClock // what was read, also of records that there are none of
	current   map[sdk.RecordID]*sdk.Record // as read, then as merged
	changed   []sdk.RecordID               // in the order of their first change
	isChanged map[sdk.RecordID]bool
	conflicts []sdk.Conflict
	resolved  []sdk.Conflict
}

// storedClock is what the database holds of a shared record; the zero value is nothing.
type storedClock struct {
	clock    []byte // of the table, or the data of the shadow
	shadowed bool
}

func (b storedClock) equal(other storedClock) bool {
	return b.shadowed == other.shadowed && bytes.Equal(b.clock, other.clock)
}

func (p *Prepared) prepareShared(ctx context.Context, in *Incoming) error {
	for i := range in.Batches {
		batch := &in.Batches[i]
		s := p.catalog.models[batch.Model]
		if s == nil || s.server == nil {
			if err := p.parkShared(in, batch); err != nil {
				return err
			}
			continue
		}
		fresh, changes, err := in.freshOps(batch)
		if err != nil {
			return err
		}
		if !s.shared {
			no := sdk.Errorf(sdk.CodeInvalid, "records of model %q belong to one device here, and this is a shared operation", batch.Model)
			if err := p.refuseOps(&fresh, refuseAll(&fresh, no)); err != nil {
				return err
			}
			continue
		}
		if fresh.Count == 0 {
			continue
		}
		b := p.sharedBatch(s)
		if err := p.r.load(ctx, b, changes); err != nil {
			return err
		}
		a := b.asker(ctx, sdk.SharedChanges{Batch: fresh, Origin: in.Origin})
		a.changes, a.park = changes, p.parkFailed(s, &fresh)
		if err := a.ask(); err != nil {
			return err
		}
		if err := p.refuseOps(&fresh, a.refused); err != nil {
			return err
		}
	}
	return nil
}

// freshOps returns the operations of batch that were not applied before.
func (in *Incoming) freshOps(batch *sdk.Batch) (fresh sdk.Batch, changes []change, err error) {
	if changes, err = changesOf(batch, true); err != nil {
		return fresh, nil, err
	}
	fresh = *batch
	known := func(c change) bool { return c.stamp != 0 && c.stamp <= in.Applied }
	for i := range changes {
		if err := in.check(changes[i].stamp); err != nil {
			return fresh, nil, err
		}
	}
	if !slices.ContainsFunc(changes, known) {
		return fresh, changes, nil
	}
	fresh.Rows = nil
	changes = slices.DeleteFunc(changes, known)
	for i := range changes {
		c := &changes[i]
		raw := batch.Rows[c.from:c.to]
		c.from = len(fresh.Rows)
		fresh.Rows = append(fresh.Rows, raw...)
		c.to = len(fresh.Rows)
	}
	fresh.Count = len(changes)
	return fresh, changes, nil
}

// refuseOps keeps refused operations of batch with their reasons.
func (p *Prepared) refuseOps(batch *sdk.Batch, refused []sdk.Refusal) error {
	if len(refused) == 0 {
		return nil
	}
	asked, index := refusals{refused}, 0
	for op, err := range batch.Ops() {
		if err != nil {
			return err
		}
		if no, ok := asked.at(index); ok {
			p.refused = append(p.refused, refusal{batch.Model, op.ID, op.Stamp, no})
		}
		index++
	}
	return nil
}

// sharedBatch returns the one batch of p for s.
func (p *Prepared) sharedBatch(s *served) *sharedBatch {
	for _, b := range p.shared {
		if b.model == s.model {
			return b
		}
	}
	b := &sharedBatch{
		served: s, since: s.changes.Load(), before: make(map[sdk.RecordID]storedClock),
		current: make(map[sdk.RecordID]*sdk.Record), isChanged: make(map[sdk.RecordID]bool),
	}
	p.shared = append(p.shared, b)
	return b
}

// load reads the records of changes that b has not read yet.
func (r *Registry) load(ctx context.Context, b *sharedBatch, changes []change) error {
	var unread []sdk.RecordID
	asked := make(map[sdk.RecordID]bool, len(changes))
	for i := range changes {
		id := changes[i].id
		if _, ok := b.before[id]; !ok && !asked[id] {
			asked[id] = true
			unread = append(unread, id)
		}
	}
	if len(unread) == 0 {
		return nil
	}
	if err := r.db.Read(ctx, func(tx *database.Tx) error { return b.read(tx, unread) }); err != nil {
		if database.Away(err) {
			return err // it says all, and is of no model
		}
		return fmt.Errorf("read the records of model %s: %w", b.name, err)
	}
	return nil
}

// read notes what is stored of ids.
func (b *sharedBatch) read(tx *database.Tx, ids []sdk.RecordID) error {
	err := b.model.readShared(tx, ids, func(id sdk.RecordID, stored storedClock, state *sdk.Record) {
		b.before[id] = stored
		b.current[id] = state
	})
	if err != nil {
		return err
	}
	for _, id := range ids {
		if _, ok := b.before[id]; !ok {
			b.before[id] = storedClock{}
		}
	}
	return nil
}

// readShared calls fn for each record with one of ids that the table or the shadow holds.
func (m *model) readShared(tx *database.Tx, ids []sdk.RecordID, fn func(sdk.RecordID, storedClock, *sdk.Record)) error {
	found := 0
	err := selectIn(tx, m.sel+" WHERE id IN ", nil, ids, func(rows *sql.Rows) error {
		rec, err := m.scanRow(tx, rows)
		if err != nil {
			return err
		}
		clock, _ := rec.args[m.width-1].([]byte)
		fn(rec.id, storedClock{clock: clock}, rec.state)
		found++
		return nil
	})
	if err != nil || found == len(ids) {
		return err
	}
	return selectIn(tx, "SELECT id, data FROM _shadow WHERE model = ? AND id IN ", anys(m.n), ids, func(rows *sql.Rows) error {
		var id, data []byte
		if err := rows.Scan(&id, &data); err != nil {
			return err
		}
		state, err := unpackRecord(tx, m, sdk.RecordID(id), data, nil)
		if err != nil {
			return damaged(m, sdk.RecordID(id), err)
		}
		fn(sdk.RecordID(id), storedClock{clock: data, shadowed: true}, state)
		return nil
	})
}

// sharedAsker asks about operations on records that its batch has read.
type sharedAsker struct {
	asker
	refused []sdk.Refusal // ascending by index
}

// asker returns what merges the operations of in into the records that b has read.
func (b *sharedBatch) asker(ctx context.Context, in sdk.SharedChanges) *sharedAsker {
	var answer sdk.SharedResult
	a := &sharedAsker{asker: asker{served: b.served, batch: &in.Batch}}
	a.current = func(id sdk.RecordID) *sdk.Record { return b.current[id] }
	a.call = func(part *sdk.Batch) (err error) {
		answer, err = b.merge(ctx, sdk.SharedChanges{Batch: *part, Origin: in.Origin, Local: in.Local})
		return err
	}
	a.take = func(first int, _ *sdk.Batch) error {
		b.take(&answer)
		a.refuseOps(first, answer.Refused)
		return nil
	}
	a.refuse = func(first int, part *sdk.Batch, err error) error {
		a.refuseOps(first, refuseAll(part, err))
		return nil
	}
	return a
}

func (a *sharedAsker) refuseOps(first int, refused []sdk.Refusal) {
	for _, no := range refused {
		no.Index += first
		a.refused = append(a.refused, no)
	}
}

// merge has the model merge operations, and returns an error for an answer that can not be stored.
func (b *sharedBatch) merge(ctx context.Context, in sdk.SharedChanges) (result sdk.SharedResult, err error) {
	after := make(map[sdk.RecordID]*sdk.Record, in.Batch.Count)
	for op, err := range in.Batch.Ops() {
		if err != nil {
			return result, err
		}
		if _, given := after[op.ID]; given {
			continue
		}
		state := b.current[op.ID]
		if after[op.ID] = state; state != nil {
			in.Current = append(in.Current, *state)
		}
	}
	if result, err = b.server.ApplySharedChange(ctx, in); err != nil {
		return result, err
	}
	if err := checkRefused(b.name, result.Refused, in.Batch.Count); err != nil {
		return result, err
	}
	answer := sharedAnswer{sharedBatch: b, in: &in, after: after}
	if err := answer.take(&result); err != nil {
		return result, err
	}
	return result, answer.complete(result.Refused)
}

// take makes what the model answered the content of b.
func (b *sharedBatch) take(result *sdk.SharedResult) {
	for i := range result.Records {
		state := &result.Records[i]
		if !b.isChanged[state.ID] {
			b.isChanged[state.ID] = true
			b.changed = append(b.changed, state.ID)
		}
		b.current[state.ID] = state
	}
	b.conflicts = append(b.conflicts, result.Conflicts...)
	b.resolved = append(b.resolved, result.Resolved...)
}

// checkFields returns why a record that a model returned can not be stored.
func (m *model) checkFields(state *sdk.Record) error {
	for i := range state.Fields {
		f := &state.Fields[i]
		switch f.Value.(type) {
		case nil, string, int64, float64, bool, []byte, sdk.RecordID:
		default:
			return sdk.Errorf(sdk.CodeInvalid, "field %q holds a %T", f.Name, f.Value)
		}
		if merge := m.inParts(f); merge != "" {
			if err := f.CheckParts(merge); err != nil {
				return err
			}
		}
		if i > 0 && state.Fields[i-1].Name >= f.Name {
			return sdk.Errorf(sdk.CodeInvalid, "fields %q and %q are out of order", state.Fields[i-1].Name, f.Name)
		}
	}
	return nil
}

// guardShared makes sure that what b was decided on still stands, writes what does not exist, and the conflict journal,
// and returns the records that exist.
func (p *placer) guardShared(b *sharedBatch) ([]*record, error) {
	if b.changes.Load() != b.since {
		if err := p.compare(b); err != nil {
			return nil, err
		}
	}
	if len(b.changed)+len(b.conflicts)+len(b.resolved) == 0 {
		return nil, nil
	}
	p.touch(b.model)
	var records []*record
	for _, id := range b.changed {
		state, before := b.current[id], b.before[id]
		if state == nil || !state.Exists() {
			p.mark(b.model, id)
		}
		if state == nil {
			if err := p.eraseShared(b.model, id, before); err != nil {
				return nil, err
			}
			continue
		}
		version := latest(state)
		rec := &record{m: b.model, id: id, state: state, origin: version.Device, stamp: version.Stamp, shadowed: before.shadowed, trusted: true}
		if !state.Exists() {
			if err := p.vanish(rec, before); err != nil {
				return nil, err
			}
			continue
		}
		if err := rec.setState(p.tx, state); err != nil {
			return nil, err
		}
		records = append(records, rec)
	}
	return records, p.journal(b)
}

// compare returns a CodeStale error unless the database still holds what b read.
func (p *placer) compare(b *sharedBatch) error {
	ids := make([]sdk.RecordID, 0, len(b.before))
	for id := range b.before {
		ids = append(ids, id)
	}
	held := make(map[sdk.RecordID]storedClock, len(ids))
	err := b.model.readShared(p.tx, ids, func(id sdk.RecordID, stored storedClock, _ *sdk.Record) { held[id] = stored })
	if err != nil {
		return err
	}
	for id, before := range b.before {
		if !before.equal(held[id]) {
			return sdk.Errorf(sdk.CodeStale, "%s %s changed meanwhile; decide again", b.name, id)
		}
	}
	return nil
}

// vanish keeps the clocks of a record that does not exist, and takes the record away.
func (p *placer) vanish(rec *record, before storedClock) error {
	data, err := packRecord(p.tx, rec.state, nil)
	if err != nil {
		return err
	}
	if err := storeShadow(p.tx, rec.m, rec.id, 0, nil, int64(latest(rec.state).Stamp), data); err != nil { //nolint:gosec // stamps fit
		return err
	}
	p.shadowEmpty = false
	if before.shadowed {
		_, err := p.tx.Exec("DELETE FROM _waiting WHERE model = ? AND id = ?", rec.m.n, rec.id[:])
		return err
	}
	return p.takeAway(rec, before)
}

// takeAway takes a shared record out of its table, if it is there.
func (p *placer) takeAway(rec *record, before storedClock) error {
	if before.clock == nil {
		return nil
	}
	p.of(rec.m.desc.Model).Deleted++
	p.notify(Deleted, rec)
	return deleteIn(p.tx, "DELETE FROM "+rec.m.table+" WHERE id IN ", nil, []sdk.RecordID{rec.id}, func(id sdk.RecordID) {
		p.leaves(rec.m, id)
	})
}

// eraseShared takes a shared record away, and leaves nothing of it.
func (p *placer) eraseShared(m *model, id sdk.RecordID, before storedClock) error {
	if before.shadowed {
		return p.leaveShadow(m, []sdk.RecordID{id})
	}
	return p.takeAway(&record{m: m, id: id}, before)
}

// latest returns the greatest version in state.
func latest(state *sdk.Record) sdk.Version {
	version := state.Inserted
	if state.Deleted.Compare(version) > 0 {
		version = state.Deleted
	}
	for i := range state.Fields {
		if state.Fields[i].Version.Compare(version) > 0 {
			version = state.Fields[i].Version
		}
	}
	return version
}

// journal keeps the values that lost, and forgets those that were seen after all. A value that was seen before it arrived
// is noted, so that it is not taken for a conflict then: the journal must not depend on the order of arrival either.
func (p *placer) journal(b *sharedBatch) error {
	for i := range b.conflicts {
		if err := p.keepConflict(b.model, &b.conflicts[i]); err != nil {
			return fmt.Errorf("keep a conflict: %w", err)
		}
	}
	for i := range b.resolved {
		if err := p.resolve(b.model, &b.resolved[i]); err != nil {
			return fmt.Errorf("resolve a conflict: %w", err)
		}
	}
	return nil
}

func (p *placer) resolve(m *model, c *sdk.Conflict) error {
	field, err := p.tx.NameNumber(c.Field)
	if err != nil {
		return err
	}
	place := []any{m.n, c.ID[:], field, int64(c.Lost.Stamp)} //nolint:gosec // stamps fit
	n, err := p.tx.Exec("DELETE FROM _conflict WHERE model = ? AND id = ? AND field = ? AND lost_stamp = ?", place...)
	if err != nil || n > 0 {
		return err
	}
	_, err = p.tx.Exec("INSERT INTO _seen (model, id, field, stamp) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING", place...)
	return err
}

func (p *placer) keepConflict(m *model, c *sdk.Conflict) error {
	field, err := p.tx.NameNumber(c.Field)
	if err != nil {
		return err
	}
	seen, err := p.tx.Exec("DELETE FROM _seen WHERE model = ? AND id = ? AND field = ? AND stamp = ?", m.n, c.ID[:], field, int64(c.Lost.Stamp)) //nolint:gosec // stamps fit
	if err != nil || seen > 0 {
		return err
	}
	lost, err := p.tx.DeviceNumber(c.Lost.Device)
	if err != nil {
		return err
	}
	winner, err := p.tx.DeviceNumber(c.Winner.Device)
	if err != nil {
		return err
	}
	n, err := p.tx.Exec(`INSERT INTO _conflict (model, id, field, value, lost_stamp, lost_device, winner_stamp, winner_device)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
		m.n, c.ID[:], field, sdk.AppendValue(nil, c.Value), int64(c.Lost.Stamp), lost, int64(c.Winner.Stamp), winner) //nolint:gosec // stamps fit
	if n > 0 {
		p.of(m.desc.Model).Conflicts += int(n)
	}
	return err
}
