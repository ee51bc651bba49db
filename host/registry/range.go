package registry

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/sdk"
)

// Place is a point in the order of all records of one kind: by the name of the model, then by id. The zero Place lies
// before all of them; where a Place is an end, zero is the end of all.
type Place struct {
	Model sdk.ModelName
	ID    sdk.RecordID
}

// IsZero reports whether p is no record's place.
func (p Place) IsZero() bool { return p == Place{} }

// Compare orders places.
func (p Place) Compare(other Place) int {
	return cmp.Or(compareNames(p.Model, other.Model), p.ID.Compare(other.ID))
}

// within reports whether p lies after after, and not after until.
func (p Place) within(after, until Place) bool {
	return p.Compare(after) > 0 && (until.IsZero() || p.Compare(until) <= 0)
}

// RangeQuery says which records ReadRange reads, and how.
type RangeQuery struct {
	Kind         sdk.Ownership
	Owner        sdk.DeviceID // device-owned: whose records; zero: everybody's
	Since        hlc.Stamp    // device-owned, with an Owner: rows up to it are named by id only, and deletes up to it not at all
	After, Until Place        // records after After, through Until
	MaxBytes     int          // about how much; one record at least
}

// Range is a run of records as a device holds them, in no stream's order.
type Range struct {
	Changes   []Changes // what makes the records, by origin
	Unchanged []IDs     // records of which nothing is to be inferred: rows not after RangeQuery.Since, and where a change was refused
	End       Place     // through which record the range goes; RangeQuery.Until where Done
	Done      bool      // that is all
}

// Changes are changes of one origin: rows and deletes of its own, or operations.
type Changes struct {
	Origin  sdk.DeviceID
	Batches []sdk.Batch
}

// IDs are records of one model.
type IDs struct {
	Model sdk.ModelName
	IDs   []sdk.RecordID
}

const (
	rangeRecords = 1 << 14 // bounds the records and ids of one Range
	rangeBatches = 1 << 12 // bounds its batches
	rangeScan    = 1 << 14 // bounds the records of each table that are looked at for it
)

// ReadRange returns records as this device holds them: visible or not, and of shared models deleted or not yet inserted
// ones too. Each shared record comes as the operations that make it, with their origins' stamps, so that merging them
// elsewhere gives the same values and clocks; operations that were overwritten since are not among them. Changes that
// wait here for their plugin are passed on as they came. It reads one snapshot; the next call goes on After End.
//
// A range may be empty and not Done: the number of records that it looks at is bounded too. The caller owns the batches;
// their column names are not to be changed.
func (r *Registry) ReadRange(ctx context.Context, q RangeQuery) (out Range, err error) {
	if q.Kind != sdk.SharedByAll && q.Kind != sdk.DeviceOwned {
		return out, sdk.Errorf(sdk.CodeInvalid, "a range of records that are %q", q.Kind)
	}
	catalog := r.catalog.Load()
	err = r.db.Read(ctx, func(tx *database.Tx) error {
		reader := rangeReader{tx: tx, q: q}
		reader.out.bytes = q.MaxBytes
		out, err = reader.read(ctx, catalog)
		return err
	})
	if err != nil {
		return Range{}, fmt.Errorf("read range: %w", err)
	}
	return out, nil
}

// rangeModel is a model that has records of one kind here.
type rangeModel struct {
	name sdk.ModelName
	n    int64
	s    *served // nil: no table of this kind, and only changes that wait
}

// rangeModels returns the models that may have records of a kind here, by name.
func rangeModels(tx *database.Tx, catalog *catalog, kind sdk.Ownership) (list []rangeModel, err error) {
	known := make(map[int64]bool)
	for _, s := range catalog.order {
		if s.desc.Ownership == kind {
			known[s.n] = true
			list = append(list, rangeModel{s.desc.Model, s.n, s})
		}
	}
	for n := int64(0); ; {
		found, err := tx.One("SELECT model FROM _parked WHERE model > ? ORDER BY model LIMIT 1", []any{n}, &n)
		if err != nil {
			return nil, err
		}
		if !found {
			break
		}
		if known[n] {
			continue
		}
		name, err := tx.Name(n)
		if err != nil {
			return nil, err
		}
		list = append(list, rangeModel{name: sdk.ModelName(name), n: n})
	}
	slices.SortFunc(list, func(a, b rangeModel) int { return compareNames(a.name, b.name) })
	return list, nil
}

// idSpan is what a range is of one model: ids greater than after, and not greater than until, which are bytes that need
// not be an id.
type idSpan struct{ after, until []byte }

// span returns what (after, until] is of a model; ok is false where that is nothing.
func span(model sdk.ModelName, after, until Place) (s idSpan, ok bool) {
	s = idSpan{after: []byte{0}, until: []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}}
	switch order := compareNames(model, after.Model); {
	case order < 0:
		return s, false
	case order == 0:
		s.after = after.ID[:]
	}
	if until.IsZero() {
		return s, true
	}
	switch order := compareNames(model, until.Model); {
	case order > 0:
		return s, false
	case order == 0:
		s.until = until.ID[:]
	}
	return s, true
}

// bound returns the end of the part of s in which no table holds more than most records of the model, whoever's they are;
// cut says that it is not the end of s.
func (m *rangeModel) bound(tx *database.Tx, s idSpan, most int) (end sdk.RecordID, cut bool, err error) {
	look := func(from string, args ...any) error {
		var raw []byte
		found, err := tx.One("SELECT id FROM "+from+" id > ? AND id <= ? ORDER BY id LIMIT 1 OFFSET ?", append(args, s.after, s.until, most-1), &raw)
		if err != nil || !found {
			return err
		}
		if len(raw) != len(end) {
			return sdk.Errorf(sdk.CodeInternal, "a stored id of %d bytes", len(raw))
		}
		if id := sdk.RecordID(raw); !cut || id.Compare(end) < 0 {
			end, cut = id, true
		}
		return nil
	}
	if m.s != nil {
		if err := look(m.s.table + " WHERE"); err != nil {
			return end, false, err
		}
	}
	for _, table := range []string{"_shadow", "_tombstone", "_parked"} {
		if err := look(table+" WHERE model = ? AND", m.n); err != nil {
			return end, false, err
		}
	}
	return end, cut, nil
}

// rangeReader reads one Range.
type rangeReader struct {
	tx    *database.Tx
	q     RangeQuery
	owner int64 // number of q.Owner; 0: everybody's
	last  Place // of the last record in out
	out   rangePacker
}

func (r *rangeReader) read(ctx context.Context, catalog *catalog) (out Range, err error) {
	whole := Range{End: r.q.Until, Done: true}
	if r.q.Owner.IsZero() || r.q.Kind == sdk.SharedByAll {
		r.q.Since = 0
	} else if r.owner, err = r.tx.DeviceNumber(r.q.Owner); err != nil || r.owner == 0 {
		return whole, err // nothing of it has arrived
	}
	models, err := rangeModels(r.tx, catalog, r.q.Kind)
	if err != nil {
		return out, err
	}
	for i := range models {
		s, ok := span(models[i].name, r.q.After, r.q.Until)
		if !ok {
			continue
		}
		if err := ctx.Err(); err != nil {
			return out, err
		}
		full, err := r.readModel(&models[i], s)
		if err != nil {
			return out, fmt.Errorf("%s: %w", models[i].name, err)
		}
		if full {
			whole = Range{End: r.last}
			break
		}
	}
	whole.Changes, whole.Unchanged = r.out.finish()
	return whole, nil
}

// readModel adds the records of m in s, and reports whether the range is full before all of them are in it.
func (r *rangeReader) readModel(m *rangeModel, s idSpan) (full bool, err error) {
	var end sdk.RecordID
	if r.owner != 0 { // then others' records are passed over
		if end, full, err = m.bound(r.tx, s, rangeScan); err != nil {
			return false, err
		}
		if full {
			s.until = end[:]
		}
	}
	live, err := r.open(m, s)
	all := slices.Clone(live)
	defer func() {
		for _, c := range all {
			err = errors.Join(err, c.rows.Close())
		}
	}()
	if err != nil {
		return false, err
	}
	if live, err = advance(live, live...); err != nil {
		return false, err
	}
	for len(live) > 0 {
		id := live[0].id
		for _, c := range live[1:] {
			if c.id.Compare(id) < 0 {
				id = c.id
			}
		}
		if live, err = r.readRecord(live, id); err != nil {
			return false, err
		}
		if !r.out.keep(m.name, id) {
			return true, nil
		}
		r.last = Place{m.name, id}
	}
	if full {
		r.last = Place{m.name, end}
	}
	return full, nil
}

// readRecord adds all that the cursors have of one record, and returns those that go on.
func (r *rangeReader) readRecord(live []*idCursor, id sdk.RecordID) (rest []*idCursor, err error) {
	for {
		var at []*idCursor
		for _, c := range live {
			if c.id == id {
				if err := c.emit(); err != nil {
					return nil, err
				}
				at = append(at, c)
			}
		}
		if len(at) == 0 {
			return live, nil
		}
		if live, err = advance(live, at...); err != nil {
			return nil, err
		}
	}
}

// idCursor is a run of what one table holds of a model, in the order of ids.
type idCursor struct {
	rows *sql.Rows
	scan func(*sql.Rows) (sdk.RecordID, error) // keeps what emit needs
	emit func() error
	id   sdk.RecordID // of what is at hand
}

// advance moves some cursors of live, and returns those of live that have something at hand.
func advance(live []*idCursor, some ...*idCursor) (rest []*idCursor, err error) {
	for _, c := range live {
		if slices.Contains(some, c) {
			if !c.rows.Next() {
				if err := c.rows.Err(); err != nil {
					return nil, err
				}
				continue
			}
			if c.id, err = c.scan(c.rows); err != nil {
				return nil, err
			}
		}
		rest = append(rest, c)
	}
	return rest, nil
}

// open returns a cursor for each table that may hold records of m.
func (r *rangeReader) open(m *rangeModel, s idSpan) (cursors []*idCursor, err error) {
	add := func(c *idCursor, query string, args ...any) {
		if err == nil {
			if c.rows, err = r.tx.Query(query, args...); err == nil { //nolint:rowserrcheck // advance checks it
				cursors = append(cursors, c)
			}
		}
	}
	// The unary + keeps the database from sorting all records of an owner, which their index finds, for every page.
	where, args := " id > ? AND id <= ?", []any{s.after, s.until}
	since := int64(r.q.Since) //nolint:gosec // stamps fit
	switch {
	case m.s == nil:
	case m.s.shared:
		add(r.sharedRow(m.s.model), m.s.sel+" WHERE"+where+" ORDER BY id", args...)
		add(r.sharedShadow(m.s.model), "SELECT id, data FROM _shadow WHERE model = ? AND"+where+" ORDER BY id", append([]any{m.n}, args...)...)
	case r.owner == 0:
		add(r.ownedRow(m.s.model), m.s.sel+" WHERE"+where+" ORDER BY id", args...)
		add(r.ownedShadow(m.s.model), "SELECT id, owner, stamp, data FROM _shadow WHERE model = ? AND"+where+" ORDER BY id", append([]any{m.n}, args...)...)
		add(r.ownedDelete(m.s.model), "SELECT id, owner, stamp FROM _tombstone WHERE model = ? AND"+where+" ORDER BY id", append([]any{m.n}, args...)...)
	default:
		add(r.ownedRow(m.s.model), m.s.sel+" WHERE"+where+" AND +_owner = ? AND +_stamp > ? ORDER BY id", append(args, r.owner, since)...)
		if since > 0 {
			add(r.unchanged(), "SELECT id FROM "+m.s.table+" WHERE"+where+" AND +_owner = ? AND +_stamp <= ? ORDER BY id", append(args, r.owner, since)...)
		}
		args = append([]any{m.n}, args...)
		add(r.ownedShadow(m.s.model), "SELECT id, owner, stamp, data FROM _shadow WHERE model = ? AND"+where+" AND +owner = ? ORDER BY id", append(args, r.owner)...)
		add(r.ownedDelete(m.s.model), "SELECT id, owner, stamp FROM _tombstone WHERE model = ? AND"+where+" AND +owner = ? AND +stamp > ? ORDER BY id", append(args, r.owner, since)...)
	}
	add(r.unchanged(), "SELECT DISTINCT id FROM _refused WHERE model = ? AND"+where+" AND (? = 0 OR origin = ?) ORDER BY id", string(m.name), s.after, s.until, r.owner, r.owner)
	add(r.parked(), "SELECT id, origin, stamp, columns, data FROM _parked WHERE model = ? AND"+where+" AND shared = ? AND (? = 0 OR origin = ?) ORDER BY id, origin, stamp",
		m.n, s.after, s.until, r.q.Kind == sdk.SharedByAll, r.owner, r.owner)
	return cursors, err
}

func (r *rangeReader) sharedRow(m *model) *idCursor {
	var rec *record
	return &idCursor{
		scan: func(rows *sql.Rows) (id sdk.RecordID, err error) {
			if rec, err = m.scanRow(r.tx, rows); err != nil {
				return id, err
			}
			return rec.id, nil
		},
		emit: func() error { r.out.operations(m, rec.state); return nil },
	}
}

func (r *rangeReader) sharedShadow(m *model) *idCursor {
	var state *sdk.Record
	return &idCursor{
		scan: func(rows *sql.Rows) (id sdk.RecordID, err error) {
			var raw, data []byte
			if err := rows.Scan(&raw, &data); err != nil {
				return id, err
			}
			if id, err = asID(raw); err != nil {
				return id, err
			}
			if state, err = unpackRecord(r.tx, m, id, data, nil); err != nil {
				err = damaged(m, id, err)
			}
			return id, err
		},
		emit: func() error { r.out.operations(m, state); return nil },
	}
}

func (r *rangeReader) ownedRow(m *model) *idCursor {
	args, dest := make([]any, m.width), make([]any, m.width)
	for i := range args {
		dest[i] = &args[i]
	}
	c := new(idCursor)
	c.scan = func(rows *sql.Rows) (id sdk.RecordID, err error) {
		if err := rows.Scan(dest...); err != nil {
			return id, err
		}
		raw, _ := args[0].([]byte)
		return asID(raw)
	}
	c.emit = func() error {
		owner, _ := args[m.width-3].(int64)
		stamp, _ := args[m.width-2].(int64)
		extras, _ := args[m.width-1].([]byte)
		return r.row(m, c.id, owner, stamp, args[1:1+len(m.names)], extras)
	}
	return c
}

// row adds a device-owned row, or its id where it is no news.
func (r *rangeReader) row(m *model, id sdk.RecordID, owner, stamp int64, values []any, extras []byte) error {
	if hlc.Stamp(stamp) <= r.q.Since { //nolint:gosec // not negative
		r.out.unchanged()
		return nil
	}
	origin, err := r.tx.Device(owner)
	if err != nil {
		return err
	}
	key, raw, err := packRow(nil, m, id, hlc.Stamp(stamp), values, extras) //nolint:gosec // not negative
	r.out.add(origin, key, hlc.Stamp(stamp), raw)                          //nolint:gosec // not negative
	return err
}

func (r *rangeReader) unchanged() *idCursor {
	return &idCursor{scan: scanID, emit: func() error { r.out.unchanged(); return nil }}
}

func (r *rangeReader) ownedShadow(m *model) *idCursor {
	var owner, stamp int64
	var data []byte
	c := new(idCursor)
	c.scan = func(rows *sql.Rows) (id sdk.RecordID, err error) {
		var raw []byte
		if err := rows.Scan(&raw, &owner, &stamp, &data); err != nil {
			return id, err
		}
		return asID(raw)
	}
	c.emit = func() error {
		rec, err := m.readShadow(r.tx, c.id, owner, stamp, data)
		if err != nil {
			return err
		}
		extras, _ := rec.args[m.width-1].([]byte)
		return r.row(m, c.id, owner, stamp, rec.values(), extras)
	}
	return c
}

func (r *rangeReader) ownedDelete(m *model) *idCursor {
	var owner, stamp int64
	c := new(idCursor)
	c.scan = func(rows *sql.Rows) (id sdk.RecordID, err error) {
		var raw []byte
		if err := rows.Scan(&raw, &owner, &stamp); err != nil {
			return id, err
		}
		return asID(raw)
	}
	c.emit = func() error {
		origin, err := r.tx.Device(owner)
		r.out.add(origin, packKey{m: m}, hlc.Stamp(stamp), sdk.AppendStateHeader(nil, c.id, hlc.Stamp(stamp), -1)) //nolint:gosec // not negative
		return err
	}
	return c
}

// parked adds changes that wait for their plugin as they came.
func (r *rangeReader) parked() *idCursor {
	var origin, stamp, columns int64
	var data []byte
	c := new(idCursor)
	c.scan = func(rows *sql.Rows) (id sdk.RecordID, err error) {
		var raw []byte
		if err := rows.Scan(&raw, &origin, &stamp, &columns, &data); err != nil {
			return id, err
		}
		return asID(raw)
	}
	c.emit = func() error {
		set, err := r.tx.Columns(columns)
		if err != nil {
			return err
		}
		device, err := r.tx.Device(origin)
		if err != nil {
			return err
		}
		at := hlc.Stamp(stamp) //nolint:gosec // not negative
		if at <= r.q.Since {
			if !isDelete(data) {
				r.out.unchanged()
			}
			return nil
		}
		r.out.add(device, packKey{set: set}, at, data)
		return nil
	}
	return c
}
