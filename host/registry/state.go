package registry

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/sdk"
)

// Incoming is a page of another device's stream.
type Incoming struct {
	Origin        sdk.DeviceID
	Kind          sdk.Ownership
	From, Through hlc.Stamp // From < every stamp <= Through, else the page is an error; not checked where Through is zero
	Applied       hlc.Stamp // shared: operations up to it were applied here before, and are skipped
	Batches       []sdk.Batch

	local bool // written here: stamps are ignored, the order of the changes stands for them
}

// Outcome counts what became of changes.
type Outcome struct {
	Written   int // rows put into tables, also those that had waited
	Stale     int // changes that were known already, or older than what is stored
	Waiting   int // records put into the shadow
	Deleted   int // records deleted
	Refused   int // changes refused, and kept with their reason
	Parked    int // changes kept for a plugin that is not here
	Conflicts int // values that went into the conflict journal
}

// Prepared is a page that the models have decided on. It is written once, or as often as Write fails.
type Prepared struct {
	r       *Registry
	catalog *catalog
	origin  sdk.DeviceID
	local   bool
	state   []*stateBatch
	shared  []*sharedBatch
	parked  []parked
	refused []refusal
	outcome map[sdk.ModelName]*Outcome // of the last Write
}

// refusal is a change that is not stored, and why.
type refusal struct {
	model sdk.ModelName
	id    sdk.RecordID
	stamp hlc.Stamp
	sdk.Refusal
}

// parked is a change to a model that no plugin serves here, or whose plugin fails on it.
type parked struct {
	set    database.ColumnSet
	by     *served // whose plugin failed with err; nil: none serves the model
	err    error
	shared bool
	id     sdk.RecordID
	stamp  hlc.Stamp
	raw    []byte
}

// stateBatch is what a page, or a local batch, holds of one device-owned model; after keepLast at most one change an id.
type stateBatch struct {
	*served
	records []*record
	deletes []tombstone
}

type tombstone struct {
	id    sdk.RecordID
	stamp hlc.Stamp
}

// Prepare has the models decide on a page. It calls plugins, and holds no transaction while it does. A page that is
// malformed is an error with CodeInvalid; one whose plugin can not answer now is an error that is worth a retry. The
// result refers to the batches, which must not change until it is written.
func (r *Registry) Prepare(ctx context.Context, in Incoming) (*Prepared, error) {
	p := &Prepared{r: r, catalog: r.catalog.Load(), origin: in.Origin}
	for i := range in.Batches {
		if err := checkColumns(&in.Batches[i]); err != nil {
			return nil, err
		}
	}
	return p, p.prepare(ctx, &in)
}

// prepare asks about a page whose columns were checked.
func (p *Prepared) prepare(ctx context.Context, in *Incoming) error {
	if in.Kind == sdk.SharedByAll {
		return p.prepareShared(ctx, in)
	}
	for i := range in.Batches {
		if err := p.prepareState(ctx, in, &in.Batches[i]); err != nil {
			return err
		}
	}
	for _, b := range p.state {
		b.keepLast()
	}
	return nil
}

func (p *Prepared) prepareState(ctx context.Context, in *Incoming, batch *sdk.Batch) error {
	s := p.catalog.models[batch.Model]
	if s == nil || s.server == nil {
		return p.parkState(in, batch)
	}
	if s.shared {
		return p.refuseRows(in, batch, sdk.Errorf(sdk.CodeInvalid, "model %q is shared by all devices here, and this is a device-owned row", batch.Model))
	}
	a := stateAsker(ctx, s, in, p.stateBatch(s), batch, &p.refused)
	a.park = p.parkFailed(s, batch)
	return a.ask()
}

// stateAsker asks about rows, which it adds to b and to refused.
func stateAsker(ctx context.Context, s *served, in *Incoming, b *stateBatch, batch *sdk.Batch, refused *[]refusal) *asker {
	var answer sdk.StateResult
	return &asker{
		served: s, batch: batch,
		call: func(part *sdk.Batch) (err error) {
			answer, err = s.server.ApplyStateChange(ctx, sdk.StateChanges{Batch: *part, Origin: in.Origin, Local: in.local})
			return cmp.Or(err, checkRefused(s.name, answer.Refused, part.Count))
		},
		take: func(first int, part *sdk.Batch) error { return b.decode(in, first, part, answer, refused) },
		refuse: func(first int, part *sdk.Batch, err error) error {
			return b.decode(in, first, part, sdk.StateResult{Refused: refuseAll(part, err)}, refused)
		},
	}
}

// stateBatch returns the one batch of p for s.
func (p *Prepared) stateBatch(s *served) *stateBatch {
	for _, b := range p.state {
		if b.model == s.model {
			return b
		}
	}
	b := &stateBatch{served: s}
	p.state = append(p.state, b)
	return b
}

// checkColumns returns an error for a batch whose names can not be kept.
func checkColumns(batch *sdk.Batch) error {
	if batch.Count < 0 || batch.Count > len(batch.Rows) {
		return sdk.Errorf(sdk.CodeInvalid, "a batch of %d changes in %d bytes", batch.Count, len(batch.Rows))
	}
	if batch.Model == "" || len(batch.Model) > 48 {
		return sdk.Errorf(sdk.CodeInvalid, "a batch of a model named %.60q", batch.Model)
	}
	for _, name := range batch.Columns {
		if name == "" || strings.ContainsAny(name, ",\x00") || !utf8.ValidString(name) {
			return sdk.Errorf(sdk.CodeInvalid, "%s: a column named %.60q", batch.Model, name)
		}
	}
	return nil
}

// refuseRows refuses every row of a device-owned batch.
func (p *Prepared) refuseRows(in *Incoming, batch *sdk.Batch, no *sdk.Error) error {
	for row, err := range batch.StateRows() {
		if err == nil {
			err = in.check(row.Stamp)
		}
		if err != nil {
			return err
		}
		p.refused = append(p.refused, refusal{batch.Model, row.ID, row.Stamp, sdk.Refusal{Code: no.Code, Message: no.Message}})
	}
	return nil
}

// refusals tells which changes of a batch are refused, asked in order.
type refusals struct {
	list []sdk.Refusal
}

func (r *refusals) at(index int) (sdk.Refusal, bool) {
	for len(r.list) > 0 && r.list[0].Index < index {
		r.list = r.list[1:]
	}
	if len(r.list) > 0 && r.list[0].Index == index {
		return r.list[0], true
	}
	return sdk.Refusal{}, false
}

// leastRow is the least packed size of a row: its header, id and stamp.
const leastRow = 20

// decode adds the rows of part, which begins with the change first of its batch, as far as they are not refused; keepLast
// completes it. Refused ones go into log.
func (b *stateBatch) decode(in *Incoming, first int, part *sdk.Batch, result sdk.StateResult, log *[]refusal) error {
	batch := *part
	if result.Rows != nil {
		batch.Rows = result.Rows
	}
	s := b.served
	most := min(batch.Count, len(batch.Rows)/leastRow+1) // Count is what a peer says
	b.records = slices.Grow(b.records, most)
	plan := s.plan(batch.Columns)
	cells := make([]any, most*s.width)
	records := make([]record, most)
	asked := refusals{result.Refused}
	index := -1
	for row, err := range batch.StateRows() {
		if err != nil {
			return err
		}
		index++
		if in.local {
			row.Stamp = hlc.Stamp(first + index + 1) //nolint:gosec // a count
		}
		if err := in.check(row.Stamp); err != nil {
			return sdk.Errorf(sdk.CodeInvalid, "%s: row %d: %w", batch.Model, index, err)
		}
		no, isRefused := asked.at(index)
		if !isRefused && !row.Deleted {
			rec := &records[index]
			*rec = record{m: s.model, id: row.ID, origin: in.Origin, stamp: row.Stamp, args: cells[index*s.width : (index+1)*s.width : (index+1)*s.width]}
			rec.args[0], rec.args[s.width-2] = rec.id[:], int64(row.Stamp) //nolint:gosec // stamps fit
			err := s.readRow(&plan, row.Values, rec.args)
			if err == nil {
				b.records = append(b.records, rec)
				continue
			}
			no, isRefused = sdk.Refusal{Code: sdk.CodeOf(err), Message: err.Error()}, true
		}
		if isRefused {
			no.Index = first + index
			*log = append(*log, refusal{batch.Model, row.ID, row.Stamp, no})
			continue
		}
		b.deletes = append(b.deletes, tombstone{row.ID, row.Stamp})
	}
	return nil
}

// check returns an error for a stamp outside the page.
func (in *Incoming) check(stamp hlc.Stamp) error {
	if in.Through != 0 && (stamp <= in.From || stamp > in.Through) {
		return sdk.Errorf(sdk.CodeInvalid, "stamp %s lies outside the page, which is after %s and through %s", stamp, in.From, in.Through)
	}
	return nil
}

// keepLast leaves only the change with the greatest stamp of each record: deletes are written before all rows, so that
// their order among one another must not matter.
func (b *stateBatch) keepLast() {
	latest := make(map[sdk.RecordID]hlc.Stamp, len(b.records)+len(b.deletes))
	for _, rec := range b.records {
		latest[rec.id] = max(latest[rec.id], rec.stamp)
	}
	for _, t := range b.deletes {
		latest[t.id] = max(latest[t.id], t.stamp)
	}
	if len(latest) == len(b.records)+len(b.deletes) {
		return
	}
	seen := make(map[sdk.RecordID]bool, len(latest))
	superseded := func(id sdk.RecordID, stamp hlc.Stamp) bool {
		if stamp != latest[id] || seen[id] {
			return true
		}
		seen[id] = true
		return false
	}
	b.deletes = slices.DeleteFunc(b.deletes, func(t tombstone) bool { return superseded(t.id, t.stamp) })
	b.records = slices.DeleteFunc(b.records, func(rec *record) bool { return superseded(rec.id, rec.stamp) })
}

// Write writes the page in tx, whose caller moves the watermark in the same transaction. A CodeStale error means that
// records or models changed since Prepare: undo the transaction and prepare again.
func (p *Prepared) Write(tx *database.Tx) (Outcome, error) {
	if err := p.checkModels(); err != nil {
		return Outcome{}, err
	}
	owner, err := tx.DeviceNumber(p.origin)
	if err != nil {
		return Outcome{}, err
	}
	pl := newPlacer(p.r, p.catalog, tx)
	pl.origin, pl.local = p.origin, p.local
	if err := p.write(pl, owner); err != nil {
		return Outcome{}, err
	}
	p.outcome = pl.outcome
	return pl.total(), nil
}

// ByModel returns the outcome of the last Write that succeeded, by model. It belongs to the caller once the transaction of
// that Write is durable.
func (p *Prepared) ByModel() map[sdk.ModelName]*Outcome { return p.outcome }

// checkModels returns a CodeStale error if a model that decided has another table by now, or one that was not here is.
func (p *Prepared) checkModels() error {
	now := p.r.catalog.Load()
	for _, b := range p.state {
		if now.models[b.desc.Model].model != b.model {
			return errModelChanged(b.desc.Model)
		}
	}
	for _, b := range p.shared {
		if now.models[b.desc.Model].model != b.model {
			return errModelChanged(b.desc.Model)
		}
	}
	for i := range p.parked {
		model, by := p.parked[i].set.Model, p.parked[i].by
		s := now.models[model]
		if by == nil && s != nil && s.server != nil || by != nil && s != by {
			return errModelChanged(model)
		}
	}
	p.catalog = now
	return nil
}

func errModelChanged(model sdk.ModelName) error {
	return sdk.Errorf(sdk.CodeStale, "the plugin of model %q changed meanwhile; decide again", model)
}

func (p *Prepared) write(pl *placer, owner int64) error {
	for i := range p.refused {
		if err := pl.refuse(&p.refused[i]); err != nil {
			return err
		}
	}
	if err := p.park(pl, owner); err != nil {
		return fmt.Errorf("keep changes for absent models: %w", err)
	}
	var records []*record
	for _, b := range p.state {
		kept, err := pl.guardState(b, owner)
		if err != nil {
			return fmt.Errorf("write %s: %w", b.name, err)
		}
		if records == nil {
			records = kept
		} else {
			records = append(records, kept...)
		}
	}
	for _, b := range p.shared {
		kept, err := pl.guardShared(b)
		if err != nil {
			return fmt.Errorf("write %s: %w", b.name, err)
		}
		records = append(records, kept...)
	}
	if err := pl.place(records); err != nil {
		return err
	}
	return pl.finish()
}

// guardState writes the deletes of b and returns the rows that may be written, as far as tombstones and shadow tell.
func (p *placer) guardState(b *stateBatch, owner int64) ([]*record, error) {
	for _, rec := range b.records {
		rec.args[b.width-3] = owner
	}
	records, err := p.passTombstones(b, owner)
	if err != nil {
		return nil, err
	}
	if records, err = p.passShadow(b, records, owner); err != nil {
		return nil, err
	}
	return records, p.delete(b, owner)
}

// passTombstones drops rows that were deleted later, and forgets the tombstones of those that were deleted earlier.
func (p *placer) passTombstones(b *stateBatch, owner int64) ([]*record, error) {
	var one int
	some, err := p.tx.One("SELECT 1 FROM _tombstone WHERE model = ? LIMIT 1", []any{b.n}, &one)
	if err != nil || !some || len(b.records) == 0 {
		return b.records, err
	}
	stored := make(map[sdk.RecordID]storedRow)
	ids := idsOf(b.records)
	if err := selectIn(p.tx, "SELECT id, owner, stamp FROM _tombstone WHERE model = ? AND id IN ", anys(b.n), ids, scanStored(stored)); err != nil {
		return nil, err
	}
	if len(stored) == 0 {
		return b.records, nil
	}
	kept, passed, err := p.newer(b, b.records, stored, owner)
	if err != nil {
		return nil, err
	}
	return kept, deleteIn(p.tx, "DELETE FROM _tombstone WHERE model = ? AND id IN ", anys(b.n), passed, nil)
}

func anys(n int64) []any { return []any{n} }

// passShadow drops rows of which the shadow has a later one, and marks those of which it has an earlier one.
func (p *placer) passShadow(b *stateBatch, records []*record, owner int64) ([]*record, error) {
	if empty, err := p.isShadowEmpty(); empty || err != nil || len(records) == 0 {
		return records, err
	}
	stored := make(map[sdk.RecordID]storedRow)
	err := selectIn(p.tx, "SELECT id, owner, stamp FROM _shadow WHERE model = ? AND id IN ", anys(b.n), idsOf(records), scanStored(stored))
	if err != nil || len(stored) == 0 {
		return records, err
	}
	kept, _, err := p.newer(b, records, stored, owner)
	for _, rec := range kept {
		_, rec.shadowed = stored[rec.id]
	}
	return kept, err
}

// newer returns the rows that are newer than what is stored and have the same owner, and the ids of those of them that
// something is stored of.
func (p *placer) newer(b *stateBatch, records []*record, stored map[sdk.RecordID]storedRow, owner int64) (kept []*record, passed []sdk.RecordID, err error) {
	kept = make([]*record, 0, len(records))
	for _, rec := range records {
		row, ok := stored[rec.id]
		switch {
		case !ok:
			kept = append(kept, rec)
		case row.owner != owner:
			err = errors.Join(err, p.refuseOwner(b.model, rec.id, rec.stamp, row.owner))
		case row.stamp >= int64(rec.stamp): //nolint:gosec // stamps fit
			p.of(b.desc.Model).Stale++
		default:
			kept = append(kept, rec)
			passed = append(passed, rec.id)
		}
	}
	return kept, passed, err
}

func idsOf(records []*record) []sdk.RecordID {
	ids := make([]sdk.RecordID, len(records))
	for i, rec := range records {
		ids[i] = rec.id
	}
	return ids
}

// delete writes the tombstones of b and takes the records away.
func (p *placer) delete(b *stateBatch, owner int64) error {
	if len(b.deletes) == 0 {
		return nil
	}
	ids := make([]sdk.RecordID, len(b.deletes))
	for i, t := range b.deletes {
		ids[i] = t.id
	}
	stored := make(map[sdk.RecordID]storedRow)
	for _, query := range []string{"SELECT id, owner, stamp FROM _shadow WHERE model = ? AND id IN ", "SELECT id, owner, stamp FROM _tombstone WHERE model = ? AND id IN "} {
		if err := selectIn(p.tx, query, anys(b.n), ids, scanStored(stored)); err != nil {
			return err
		}
	}
	if err := lookUpRows(p.tx, b.model, ids, stored); err != nil {
		return err
	}
	var gone []sdk.RecordID
	for _, t := range b.deletes {
		row, ok := stored[t.id]
		switch {
		case ok && row.owner != owner:
			if err := p.refuseOwner(b.model, t.id, t.stamp, row.owner); err != nil {
				return err
			}
			continue
		case ok && row.stamp >= int64(t.stamp): //nolint:gosec // stamps fit
			p.of(b.desc.Model).Stale++
			continue
		}
		if err := storeTombstone(p.tx, b.model, t, owner); err != nil {
			return err
		}
		gone = append(gone, t.id)
		p.of(b.desc.Model).Deleted++
		p.notify(Deleted, &record{m: b.model, id: t.id, origin: p.origin, stamp: t.stamp})
	}
	p.mark(b.model, gone...)
	if err := p.leaveShadow(b.model, gone); err != nil {
		return err
	}
	return deleteIn(p.tx, "DELETE FROM "+b.table+" WHERE id IN ", nil, gone, func(id sdk.RecordID) {
		p.leaves(b.model, id)
	})
}

func storeTombstone(tx *database.Tx, m *model, t tombstone, owner int64) error {
	_, err := tx.Exec(`INSERT INTO _tombstone (model, id, owner, stamp) VALUES (?, ?, ?, ?)
		ON CONFLICT (model, id) DO UPDATE SET stamp = excluded.stamp WHERE excluded.stamp > _tombstone.stamp AND excluded.owner = _tombstone.owner`,
		m.n, t.id[:], owner, int64(t.stamp)) //nolint:gosec // stamps fit
	return err
}

// refuseOwner refuses a change to a record of another device.
func (p *placer) refuseOwner(m *model, id sdk.RecordID, stamp hlc.Stamp, owner int64) error {
	device, err := p.tx.Device(owner)
	if err != nil {
		return err
	}
	no := errNotOwner(m, id, device)
	return p.refuse(&refusal{m.desc.Model, id, stamp, sdk.Refusal{Code: no.Code, Message: no.Message}})
}

func errNotOwner(m *model, id sdk.RecordID, owner sdk.DeviceID) *sdk.Error {
	return sdk.Errorf(sdk.CodeNotOwner, "%s %s belongs to device %s, which alone can change it", m.name, id, owner)
}

// maxRefused bounds the list of refused changes; the oldest go first.
const maxRefused = 10_000

// refuse keeps a refused change with its reason, once, and says so in the log.
func (p *placer) refuse(no *refusal) error {
	p.of(no.model).Refused++
	origin, err := p.tx.DeviceNumber(p.origin)
	if err != nil {
		return err
	}
	var one int
	if known, err := p.tx.One("SELECT 1 FROM _refused WHERE origin = ? AND stamp = ?", []any{origin, int64(no.stamp)}, &one); known || err != nil { //nolint:gosec // stamps fit
		return err
	}
	n, err := p.tx.Exec(`INSERT INTO _refused (origin, stamp, model, id, code, message) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (origin, stamp) DO NOTHING`,
		origin, int64(no.stamp), string(no.model), no.id[:], string(no.Code), no.Message) //nolint:gosec // stamps fit
	if err != nil {
		return fmt.Errorf("keep a refused change: %w", err)
	}
	if n > 0 {
		from := p.origin
		p.tx.AfterCommit(func() {
			p.r.log.Warn("refused a remote change", "model", no.model, "id", no.id, "origin", from, "stamp", no.stamp, "code", no.Code, "reason", no.Message)
		})
	}
	_, err = p.tx.Exec("DELETE FROM _refused WHERE rowid <= (SELECT max(rowid) FROM _refused) - ?", maxRefused)
	return err
}

// Refused is a remote change that was not stored.
type Refused struct {
	Model   sdk.ModelName
	ID      sdk.RecordID
	Origin  sdk.DeviceID
	Stamp   hlc.Stamp
	Code    sdk.Code
	Message string
}

// Refused returns the latest remote changes that were not stored, newest first, at most limit.
func (r *Registry) Refused(ctx context.Context, limit int) (list []Refused, err error) {
	err = r.db.Read(ctx, func(tx *database.Tx) error {
		return tx.Each("SELECT origin, stamp, model, id, code, message FROM _refused ORDER BY rowid DESC LIMIT ?", []any{limit}, func(rows *sql.Rows) error {
			var no Refused
			var origin, stamp int64
			var id []byte
			if err := rows.Scan(&origin, &stamp, &no.Model, &id, &no.Code, &no.Message); err != nil {
				return err
			}
			copy(no.ID[:], id)
			no.Model = r.catalog.Load().called(no.Model)
			no.Stamp = hlc.Stamp(stamp) //nolint:gosec // not negative
			no.Origin, err = tx.Device(origin)
			list = append(list, no)
			return err
		})
	})
	return list, err
}
