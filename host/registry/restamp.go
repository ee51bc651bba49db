package registry

import (
	"database/sql"
	"fmt"
	"slices"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/sdk"
)

// OwnStamps returns the stamps that this device gave, ascending: those after owned of rows and deletes of its records, and
// those after shared that records of all devices have from it.
func (r *Registry) OwnStamps(tx *database.Tx, owned, shared hlc.Stamp) (stamps []hlc.Stamp, err error) {
	owner, err := tx.DeviceNumber(r.self)
	if err != nil {
		return nil, err
	}
	for _, table := range r.stampedTables() {
		err := tx.Each("SELECT _stamp FROM "+table.name+" WHERE "+table.owner+" = ? AND _stamp > ?", []any{owner, int64(owned)}, func(rows *sql.Rows) error { //nolint:gosec // stamps fit
			var stamp int64
			err := rows.Scan(&stamp)
			stamps = append(stamps, hlc.Stamp(stamp)) //nolint:gosec // not negative
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("read own stamps: %w", err)
		}
	}
	for _, s := range r.catalog.Load().order {
		if !s.shared {
			continue
		}
		err := eachShared(tx, s.model, func(state *sdk.Record) bool {
			r.eachOwnVersion(s.model, state, shared, func(v *sdk.Version) { stamps = append(stamps, v.Stamp) })
			return false
		})
		if err != nil {
			return nil, fmt.Errorf("read own stamps of %s: %w", s.name, err)
		}
	}
	slices.Sort(stamps)
	return slices.Compact(stamps), nil
}

// stampedTable is a table of device-owned rows or deletes. Its name may be a query in parentheses for reading.
type stampedTable struct{ name, owner, table, stamp string }

func (r *Registry) stampedTables() []stampedTable {
	tables := []stampedTable{
		{"(SELECT owner, stamp AS _stamp FROM _shadow) AS own", "owner", "_shadow", "stamp"},
		{"(SELECT owner, stamp AS _stamp FROM _tombstone) AS own", "owner", "_tombstone", "stamp"},
	}
	for _, s := range r.catalog.Load().order {
		if !s.shared {
			tables = append(tables, stampedTable{s.table, "_owner", s.table, "_stamp"})
		}
	}
	return tables
}

// Restamp gives what this device wrote new stamps, as a whole: its rows and deletes after owned, and its part in shared
// records after shared. rename returns the new stamp of an old one, which ascend alike, and any other stamp as it is. It is
// for a start of the device: what is cached of records does not follow.
func (r *Registry) Restamp(tx *database.Tx, owned, shared hlc.Stamp, rename func(hlc.Stamp) hlc.Stamp) error {
	owner, err := tx.DeviceNumber(r.self)
	if err != nil {
		return err
	}
	for _, table := range r.stampedTables() {
		if err := restampTable(tx, table, owner, owned, rename); err != nil {
			return fmt.Errorf("restamp %s: %w", table.table, err)
		}
	}
	for _, s := range r.catalog.Load().order {
		if !s.shared {
			continue
		}
		if err := eachShared(tx, s.model, func(state *sdk.Record) bool { return r.renamed(s.model, state, shared, rename) }); err != nil {
			return fmt.Errorf("restamp %s: %w", s.name, err)
		}
	}
	tx.AfterCommit(r.AuditAnew)
	return restampConflicts(tx, owner, shared, rename)
}

// restampTable changes the stamps of a table of device-owned records: first each becomes the negative of its new stamp,
// since a new stamp may be the old one of another row.
func restampTable(tx *database.Tx, t stampedTable, owner int64, after hlc.Stamp, rename func(hlc.Stamp) hlc.Stamp) error {
	var old []int64
	err := tx.Each("SELECT DISTINCT "+t.stamp+" FROM "+t.table+" WHERE "+t.owner+" = ? AND "+t.stamp+" > ?", []any{owner, int64(after)}, func(rows *sql.Rows) error { //nolint:gosec // stamps fit
		var stamp int64
		err := rows.Scan(&stamp)
		old = append(old, stamp)
		return err
	})
	if err != nil {
		return err
	}
	for _, stamp := range old {
		_, err := tx.Exec("UPDATE "+t.table+" SET "+t.stamp+" = ? WHERE "+t.owner+" = ? AND "+t.stamp+" = ?", -int64(rename(hlc.Stamp(stamp))), owner, stamp) //nolint:gosec // stamps fit
		if err != nil {
			return err
		}
	}
	_, err = tx.Exec("UPDATE "+t.table+" SET "+t.stamp+" = -"+t.stamp+" WHERE "+t.owner+" = ? AND "+t.stamp+" < 0", owner)
	return err
}

// eachOwnVersion calls fn, which may change them, for the versions after a stamp that this device gave a record of m, those of
// the parts of sets and counters included.
func (r *Registry) eachOwnVersion(m *model, state *sdk.Record, after hlc.Stamp, fn func(*sdk.Version)) {
	own := func(v *sdk.Version) {
		if v.Device == r.self && v.Stamp > after {
			fn(v)
		}
	}
	own(&state.Inserted)
	own(&state.Deleted)
	for i := range state.Fields {
		f := &state.Fields[i]
		own(&f.Version)
		merge := m.inParts(f)
		if merge == "" {
			continue
		}
		list, err := f.Parts()
		if err != nil {
			continue // it was checked when it was stored
		}
		before := slices.Clone(list)
		for k := range list {
			own(&list[k].Version)
		}
		if !slices.Equal(before, list) {
			f.SetParts(merge, list)
		}
	}
}

// renamed renames the versions after a stamp that this device gave a record, and what they saw; false if there are none.
func (r *Registry) renamed(m *model, state *sdk.Record, after hlc.Stamp, rename func(hlc.Stamp) hlc.Stamp) (changed bool) {
	for i := range state.Fields {
		if f := &state.Fields[i]; f.Version.Device == r.self && f.Seen > after {
			f.Seen, changed = rename(f.Seen), true
		}
	}
	r.eachOwnVersion(m, state, after, func(v *sdk.Version) { v.Stamp, changed = rename(v.Stamp), true })
	return changed
}

// eachShared calls change for every record of a shared model, wherever it is kept, and stores those that it has changed. It
// reads a page at a time.
func eachShared(tx *database.Tx, m *model, change func(*sdk.Record) bool) error {
	for last := (sdk.RecordID{}); ; {
		var page []*record
		err := tx.Each(m.sel+" WHERE id > ? ORDER BY id LIMIT ?", []any{last[:], listRows}, func(rows *sql.Rows) error {
			rec, err := m.scanRow(tx, rows)
			page = append(page, rec)
			return err
		})
		if err != nil {
			return err
		}
		if len(page) == 0 {
			break
		}
		last = page[len(page)-1].id
		for _, rec := range page {
			if !change(rec.state) {
				continue
			}
			clock, err := packRecord(tx, rec.state, m)
			if err != nil {
				return err
			}
			if _, err := tx.Exec("UPDATE "+m.table+" SET _clock = ? WHERE id = ?", clock, rec.id[:]); err != nil {
				return err
			}
		}
	}
	type shadowed struct {
		n, present int64
		state      *sdk.Record
	}
	for last := int64(0); ; {
		var page []shadowed
		err := tx.Each("SELECT n, present, id, data FROM _shadow WHERE model = ? AND n > ? ORDER BY n LIMIT ?", []any{m.n, last, listRows}, func(rows *sql.Rows) error {
			var s shadowed
			var id, data []byte
			if err := rows.Scan(&s.n, &s.present, &id, &data); err != nil {
				return err
			}
			var err error
			s.state, err = unpackRecord(tx, m, sdk.RecordID(id), data, nil)
			page = append(page, s)
			return err
		})
		if err != nil || len(page) == 0 {
			return err
		}
		last = page[len(page)-1].n
		for _, s := range page {
			if !change(s.state) {
				continue
			}
			data, err := packRecord(tx, s.state, nil)
			if err != nil {
				return err
			}
			var stamp any // of what does not exist, to be found when it may be forgotten
			if s.present == 0 {
				stamp = int64(latest(s.state).Stamp) //nolint:gosec // stamps fit
			}
			if _, err := tx.Exec("UPDATE _shadow SET data = ?, stamp = ? WHERE n = ?", data, stamp, s.n); err != nil {
				return err
			}
		}
	}
}

// restampConflicts changes this device's part in the conflict journal.
func restampConflicts(tx *database.Tx, self int64, after hlc.Stamp, rename func(hlc.Stamp) hlc.Stamp) error {
	type entry struct{ n, lost, lostBy, winner, winnerBy int64 }
	var entries []entry
	err := tx.Each("SELECT n, lost_stamp, lost_device, winner_stamp, winner_device FROM _conflict WHERE lost_stamp > ? OR winner_stamp > ?",
		[]any{int64(after), int64(after)}, func(rows *sql.Rows) error { //nolint:gosec // stamps fit
			var e entry
			err := rows.Scan(&e.n, &e.lost, &e.lostBy, &e.winner, &e.winnerBy)
			entries = append(entries, e)
			return err
		})
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.lostBy == self {
			e.lost = int64(rename(hlc.Stamp(e.lost))) //nolint:gosec // stamps fit
		}
		if e.winnerBy == self {
			e.winner = int64(rename(hlc.Stamp(e.winner))) //nolint:gosec // stamps fit
		}
		if _, err := tx.Exec("UPDATE _conflict SET lost_stamp = ?, winner_stamp = ? WHERE n = ?", e.lost, e.winner, e.n); err != nil {
			return err
		}
	}
	return nil
}
