package registry

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/sdk"
)

// Row is a record for people.
type Row struct {
	Model    sdk.ModelName
	ID       sdk.RecordID
	Visible  bool
	Owner    sdk.DeviceID     // device-owned
	Stamp    hlc.Stamp        // device-owned
	Inserted sdk.Version      // shared
	Fields   []sdk.FieldState // as described, then those from newer versions by name; Version and Seen: shared
}

// Value returns the value of the field named name; nil if there is none.
func (r *Row) Value(name string) any {
	for i := range r.Fields {
		if r.Fields[i].Name == name {
			return r.Fields[i].Value
		}
	}
	return nil
}

// row returns r for people.
func (r *record) row(visible bool) (Row, error) {
	m := r.m
	row := Row{Model: m.name, ID: r.id, Visible: visible, Fields: make([]sdk.FieldState, len(m.names))}
	for i, arg := range r.values() {
		row.Fields[i] = sdk.FieldState{Name: m.names[i], Value: valueOf(m.types[i], arg)}
	}
	if m.shared {
		row.Inserted = r.state.Inserted
		for _, f := range r.state.Fields {
			if at, known := m.index[f.Name]; known {
				row.Fields[at].Version, row.Fields[at].Seen, row.Fields[at].State = f.Version, f.Seen, f.State
			} else {
				row.Fields = append(row.Fields, f)
			}
		}
		return row, nil
	}
	row.Owner, row.Stamp = r.origin, r.stamp
	raw, _ := r.args[m.width-1].([]byte)
	extras, err := unpackExtras(raw)
	if err != nil {
		return row, damaged(m, r.id, err)
	}
	for _, x := range extras {
		value, _, err := readUntyped(x.value)
		if err != nil {
			return row, damaged(m, r.id, err)
		}
		row.Fields = append(row.Fields, sdk.FieldState{Name: x.name, Value: value})
	}
	return row, nil
}

// Get returns a record that exists, visible or not, or a CodeNotFound error.
func (r *Registry) Get(ctx context.Context, model sdk.ModelName, id sdk.RecordID) (row Row, err error) {
	parts, err := r.known(model)
	if err != nil {
		return row, err
	}
	err = r.db.Read(ctx, func(tx *database.Tx) (err error) {
		for _, s := range parts {
			var found *record
			if found, err = s.find(tx, id); sdk.CodeOf(err) == sdk.CodeNotFound {
				continue
			}
			if err == nil {
				row, err = found.row(!found.shadowed)
			}
			return err
		}
		return err
	})
	return row, err
}

func (s *served) find(tx *database.Tx, id sdk.RecordID) (found *record, err error) {
	err = tx.Each(s.sel+" WHERE id = ?", []any{id[:]}, func(rows *sql.Rows) (err error) {
		found, err = s.scanRow(tx, rows)
		return err
	})
	if err != nil || found != nil {
		return found, err
	}
	waiting, err := readShadowed(tx, s.model, []sdk.RecordID{id})
	if err == nil && len(waiting) == 0 {
		return nil, sdk.Errorf(sdk.CodeNotFound, "there is no %s %s", s.name, id)
	}
	if err != nil {
		return nil, err
	}
	return waiting[0], nil
}

// Filter says which records List reads.
type Filter struct {
	Field  string       // whose value is Value; empty: every record
	Value  any          // of the field's type; nil finds those without a value
	After  sdk.RecordID // only records with a greater id
	Limit  int          // at most; 0: all
	Hidden bool         // those that exist and are not visible, in place of the visible ones
}

// listRows bounds the records that List holds in memory.
const listRows = 500

// List calls fn for each record that filter selects, in the order of their ids, until it returns an error. No
// transaction is open while fn runs, so that what is written meanwhile may be seen or not.
func (r *Registry) List(ctx context.Context, model sdk.ModelName, filter Filter, fn func(Row) error) error {
	parts, err := r.known(model)
	if err != nil {
		return err
	}
	if filter.Field != "" {
		if err := parts[0].checkFilter(filter.Field, filter.Value); err != nil {
			return err
		}
	}
	for left := filter.Limit; ; {
		page := listRows
		if filter.Limit > 0 {
			page = min(page, left)
		}
		var rows []Row
		more := false
		err := r.db.Read(ctx, func(tx *database.Tx) error {
			var err error
			rows, more, err = listParts(tx, parts, &filter, page)
			return err
		})
		if err != nil {
			return fmt.Errorf("list %s: %w", model, err)
		}
		for i := range rows {
			if err := fn(rows[i]); err != nil {
				return err
			}
		}
		left -= len(rows)
		if !more || (filter.Limit > 0 && left <= 0) {
			return nil
		}
	}
}

// listParts reads one page of a model's parts, by id, and moves filter.After past it. more says that others may follow.
func listParts(tx *database.Tx, parts []*served, filter *Filter, page int) (rows []Row, more bool, err error) {
	last := lastID
	for _, s := range parts {
		one := *filter
		found, read, err := s.list(tx, &one, page)
		if err != nil {
			return nil, false, err
		}
		if read == page {
			more = true
			if one.After.Compare(last) < 0 {
				last = one.After
			}
		}
		rows = append(rows, found...)
	}
	if len(parts) > 1 { // what lies beyond the end of a part that goes on comes with the next page
		rows = slices.DeleteFunc(rows, func(row Row) bool { return row.ID.Compare(last) > 0 })
		slices.SortFunc(rows, func(a, b Row) int { return a.ID.Compare(b.ID) })
		if len(rows) > page {
			rows, more = rows[:page], true
			last = rows[page-1].ID
		}
	}
	filter.After = last
	return rows, more, nil
}

// checkFilter returns why the field can not be compared with value.
func (m *model) checkFilter(field string, value any) error {
	if field == "id" {
		if _, ok := value.(sdk.RecordID); !ok {
			return sdk.Errorf(sdk.CodeInvalid, "an id is compared with a %T", value)
		}
		return nil
	}
	at, known := m.index[field]
	if !known {
		return sdk.Errorf(sdk.CodeUnknownField, "model %q has no field %q; it has %v", m.name, field, m.names)
	}
	if err := sdk.CheckValue(m.types[at], value); err != nil {
		return sdk.Errorf(sdk.CodeInvalid, "field %q: %w", field, err)
	}
	return nil
}

// list reads one page and moves filter.After past it. read counts what was looked at.
func (s *served) list(tx *database.Tx, filter *Filter, page int) (rows []Row, read int, err error) {
	add := func(rec *record, visible bool) error {
		read++
		filter.After = rec.id
		if filter.Hidden && filter.Field != "" && !rec.matches(filter.Field, filter.Value) {
			return nil
		}
		row, err := rec.row(visible)
		rows = append(rows, row)
		return err
	}
	after := filter.After
	if filter.Hidden {
		err = s.eachShadowed(tx, after, page, func(rec *record) error { return add(rec, false) })
		return rows, read, err
	}
	query, args := s.sel+" WHERE id > ?", []any{after[:]}
	switch {
	case filter.Field != "" && filter.Value == nil:
		query += " AND " + s.isNull(tx.Dialect(), filter.Field)
	case filter.Field != "":
		where, values := s.isOneOf(tx.Dialect(), filter.Field, []any{filter.Value})
		query += " AND " + where
		args = append(args, values...)
	}
	err = tx.Each(query+" ORDER BY id LIMIT ?", append(args, page), func(found *sql.Rows) error {
		rec, err := s.scanRow(tx, found)
		if err != nil {
			return err
		}
		return add(rec, true)
	})
	return rows, read, err
}

// isNull returns the condition that a field has no value.
func (m *model) isNull(dialect database.Dialect, field string) string {
	if at, known := m.index[field]; known {
		return dialect.Indexed(quote(field), m.types[at]) + " IS NULL"
	}
	return quote(field) + " IS NULL"
}

// isOneOf returns the condition that a field is one of values, and its arguments.
func (m *model) isOneOf(dialect database.Dialect, field string, values []any) (where string, args []any) {
	args = make([]any, len(values), 2*len(values)+1)
	for i, value := range values {
		args[i] = argOf(value)
	}
	where = quote(field) + " IN " + placeholders(len(values))
	at, known := m.index[field]
	if !known { // id
		return where, args
	}
	if indexed := dialect.Indexed(quote(field), m.types[at]); indexed != quote(field) {
		one := dialect.Indexed("?", m.types[at])
		where += " AND " + indexed + " IN (" + one + strings.Repeat(", "+one, len(values)-1) + ")"
		args = append(args, args...)
	}
	return where, args
}

func (r *record) matches(field string, value any) bool {
	if field == "id" {
		return r.id == value
	}
	return sameArgs([]any{r.values()[r.m.index[field]]}, []any{argOf(value)})
}

// eachShadowed calls fn for records of s that exist and wait in the shadow, in the order of their ids.
func (s *served) eachShadowed(tx *database.Tx, after sdk.RecordID, limit int, fn func(*record) error) error {
	return s.selectShadowed(tx, false, "id > ? ORDER BY id LIMIT ?", []any{after[:], limit}, fn)
}

// eachShadowedIn is eachShadowed between two ids. Those that can not be read are among them, and broken.
func (s *served) eachShadowedIn(tx *database.Tx, after, until []byte, limit int, fn func(*record) error) error {
	return s.selectShadowed(tx, true, "id > ? AND id <= ? ORDER BY id LIMIT ?", []any{after, until, limit}, fn)
}

// selectShadowed calls fn for records of s that exist and wait in the shadow, and for which where holds; also, if
// that is wanted, for broken ones.
func (s *served) selectShadowed(tx *database.Tx, broken bool, where string, args []any, fn func(*record) error) error {
	return tx.Each("SELECT id, coalesce(owner, 0), coalesce(stamp, 0), data FROM _shadow WHERE model = ? AND present = 1 AND "+where,
		append([]any{s.n}, args...), func(rows *sql.Rows) error {
			var id, data []byte
			var owner, stamp int64
			if err := rows.Scan(&id, &owner, &stamp, &data); err != nil {
				return err
			}
			rec, err := s.readShadow(tx, sdk.RecordID(id), owner, stamp, data)
			if broken && isDamage(err) {
				rec, err = &record{m: s.model, id: sdk.RecordID(id), broken: true}, nil
			}
			if err != nil {
				return err
			}
			return fn(rec)
		})
}

// Find returns this device's own records of model, visible or not, in which field is one of values, as a source asks for
// them; with no values, every one. The field "id" is allowed.
func (r *Registry) Find(ctx context.Context, model sdk.ModelName, field string, values []any) (sdk.Batch, error) {
	s, err := r.partOf(model, sdk.DeviceOwned)
	if err != nil {
		return sdk.Batch{}, err
	}
	for _, value := range values {
		if err := s.checkFilter(field, value); err != nil {
			return sdk.Batch{}, err
		}
	}
	out := sdk.Batch{Model: model, Version: s.desc.Version, Columns: s.names}
	add := func(rec *record) {
		out.Rows = sdk.AppendStateHeader(out.Rows, rec.id, rec.stamp, len(s.names))
		for i, arg := range rec.values() {
			out.Rows = appendArg(out.Rows, s.types[i], arg)
		}
		out.Count++
	}
	err = r.db.Read(ctx, func(tx *database.Tx) error {
		self, err := tx.DeviceNumber(r.self)
		if err != nil || self == 0 {
			return err
		}
		if err := s.findOwn(tx, self, field, values, add); err != nil {
			return err
		}
		return s.findOwnShadowed(tx, self, field, values, add)
	})
	if err != nil {
		return sdk.Batch{}, fmt.Errorf("find %s: %w", model, err)
	}
	return out, nil
}

func (s *served) findOwn(tx *database.Tx, self int64, field string, values []any, add func(*record)) error {
	each := func(rows *sql.Rows) error {
		rec, err := s.scanRow(tx, rows)
		if err == nil {
			add(rec)
		}
		return err
	}
	if len(values) == 0 {
		return tx.Each(s.sel+" WHERE _owner = ?", []any{self}, each)
	}
	if slices.Contains(values, nil) { // IN does not find NULL
		if err := tx.Each(s.sel+" WHERE "+s.isNull(tx.Dialect(), field)+" AND +_owner = ?", []any{self}, each); err != nil {
			return err
		}
	}
	return inChunks(len(values), lookupChunks[:], func(statement, from, to int) error {
		where, args := s.isOneOf(tx.Dialect(), field, values[from:to])
		return tx.Each(s.sel+" WHERE "+where+" AND +_owner = ?", append(args, self), each)
	})
}

// findOwnShadowed looks into the shadow, where values are packed: only those of this device's rows, and of an id that row.
func (s *served) findOwnShadowed(tx *database.Tx, self int64, field string, values []any, add func(*record)) error {
	if field == "id" && len(values) > 0 {
		ids := make([]sdk.RecordID, 0, len(values))
		for _, value := range values {
			if id, ok := value.(sdk.RecordID); ok {
				ids = append(ids, id)
			}
		}
		found, err := readShadowed(tx, s.model, ids)
		for _, rec := range found {
			if rec.args[s.width-3] == self {
				add(rec)
			}
		}
		return err
	}
	return s.selectShadowed(tx, false, "owner = ? ORDER BY id", []any{self}, func(rec *record) error {
		if len(values) == 0 || slices.ContainsFunc(values, func(v any) bool { return rec.matches(field, v) }) {
			add(rec)
		}
		return nil
	})
}

// Conflict is an entry of the conflict journal.
type Conflict struct {
	Number int64 // names it here
	Model  sdk.ModelName
	sdk.Conflict
}

// Conflicts returns the conflict journal, oldest first: of one record, with a zero id of a model, with no model of all.
func (r *Registry) Conflicts(ctx context.Context, model sdk.ModelName, id sdk.RecordID) (list []Conflict, err error) {
	if model != "" {
		if _, err := r.known(model); err != nil {
			return nil, err
		}
	}
	catalog := r.catalog.Load()
	err = r.db.Read(ctx, func(tx *database.Tx) error {
		return tx.Each(`SELECT c.n, m.name, c.id, f.name, c.value, c.lost_stamp, c.lost_device, c.winner_stamp, c.winner_device
			FROM _conflict c JOIN _name m ON m.n = c.model JOIN _name f ON f.n = c.field
			WHERE (?1 = '' OR m.name = ?1) AND (?2 OR c.id = ?3) ORDER BY c.n`, []any{string(model), id.IsZero(), id[:]}, func(rows *sql.Rows) error {
			c, err := scanConflict(tx, catalog, rows)
			list = append(list, c)
			return err
		})
	})
	return list, err
}

func scanConflict(tx *database.Tx, catalog *catalog, rows *sql.Rows) (c Conflict, err error) {
	var id, value []byte
	var lost, winner, lostBy, winnerBy int64
	if err := rows.Scan(&c.Number, &c.Model, &id, &c.Field, &value, &lost, &lostBy, &winner, &winnerBy); err != nil {
		return c, err
	}
	copy(c.ID[:], id)
	c.Lost.Stamp, c.Winner.Stamp = hlc.Stamp(lost), hlc.Stamp(winner) //nolint:gosec // not negative
	if c.Lost.Device, err = tx.Device(lostBy); err != nil {
		return c, err
	}
	if c.Winner.Device, err = tx.Device(winnerBy); err != nil {
		return c, err
	}
	if s := catalog.models[c.Model]; s != nil {
		if at, known := s.index[c.Field]; known {
			if c.Value, _, err = sdk.DecodeValue(value, s.types[at]); err == nil {
				return c, nil
			}
		}
	}
	c.Value, _, err = readUntyped(value)
	return c, err
}

// Counts are numbers of records and changes of one model.
type Counts struct {
	Visible, Waiting, Deleted, Parked, Conflicts, Refused int64

	NotInserted int64 // shared records of which some change has arrived, and no insert or delete
}

// Counts returns the numbers of every model that the database knows of.
func (r *Registry) Counts(ctx context.Context) (map[sdk.ModelName]Counts, error) {
	all := make(map[sdk.ModelName]Counts)
	err := r.db.Read(ctx, func(tx *database.Tx) error {
		for _, s := range r.catalog.Load().order {
			var visible int64
			if _, err := tx.One("SELECT count(*) FROM "+s.table, nil, &visible); err != nil {
				return err
			}
			c := all[s.name]
			c.Visible += visible
			all[s.name] = c
		}
		for _, part := range []struct {
			query string
			add   func(c *Counts, n int64)
		}{
			// Each of these is read from an index, and never from the records: the shadow may hold many.
			{"SELECT n.name, count(*) FROM (SELECT DISTINCT model, id FROM _waiting) x JOIN _name n ON n.n = x.model GROUP BY n.name", func(c *Counts, n int64) { c.Waiting += n }},
			{"SELECT n.name, count(*) FROM _shadow x JOIN _name n ON n.n = x.model WHERE present = 0 AND stamp > 0 GROUP BY n.name", func(c *Counts, n int64) { c.Deleted += n }},
			{"SELECT n.name, count(*) FROM _shadow x JOIN _name n ON n.n = x.model WHERE present = 0 AND substr(data, 1, 5) = x'0100000000' GROUP BY n.name",
				func(c *Counts, n int64) { c.NotInserted, c.Deleted = c.NotInserted+n, c.Deleted-n }},
			{"SELECT n.name, count(*) FROM _tombstone x JOIN _name n ON n.n = x.model GROUP BY n.name", func(c *Counts, n int64) { c.Deleted += n }},
			{"SELECT n.name, count(*) FROM _parked x JOIN _name n ON n.n = x.model GROUP BY n.name", func(c *Counts, n int64) { c.Parked += n }},
			{"SELECT n.name, count(*) FROM _conflict x JOIN _name n ON n.n = x.model GROUP BY n.name", func(c *Counts, n int64) { c.Conflicts += n }},
			{"SELECT model, count(*) FROM _refused GROUP BY model", func(c *Counts, n int64) { c.Refused += n }},
		} {
			err := tx.Each(part.query, nil, func(rows *sql.Rows) error {
				var name sdk.ModelName
				var n int64
				err := rows.Scan(&name, &n)
				name = r.catalog.Load().called(name)
				c := all[name]
				part.add(&c, n)
				all[name] = c
				return err
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	return all, err
}
