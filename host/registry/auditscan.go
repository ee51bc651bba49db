package registry

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"hash"
	"slices"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/sdk"
)

// auditRows bounds the records that are read in one snapshot.
const auditRows = 4096

// auditScan sums the records of one model, range by range.
type auditScan struct {
	r     *Registry
	s     *served
	sum   hash.Hash // of the range at hand
	form  canonical
	rows  int           // in the range at hand
	found []RangeDigest // the ranges before it
}

// again makes found of ranges, of which those are summed again that hold one of ids.
func (a *auditScan) again(ctx context.Context, ranges []RangeDigest, ids []sdk.RecordID) error {
	slices.SortFunc(ids, sdk.RecordID.Compare)
	for at := 0; at < len(ranges); {
		var after []byte
		if at > 0 {
			after = ranges[at-1].Until[:]
		}
		end := at
		for end < len(ranges) && holds(ranges[end].Until, &ids) {
			end++
		}
		if end == at {
			a.found = append(a.found, ranges[at])
			at++
			continue
		}
		// Where the record that ended the last of them is gone, what is left of it belongs to the next one.
		for from := after; ; end++ {
			until := ranges[end-1].Until
			if err := a.ranges(ctx, from, until); err != nil {
				return err
			}
			if a.rows == 0 || end == len(ranges) {
				break
			}
			holds(ranges[end].Until, &ids)
			from = until[:]
		}
		if end == len(ranges) {
			a.end()
		}
		at = end
	}
	return nil
}

// holds takes the ids up to until from ids, and reports whether there are any.
func holds(until sdk.RecordID, ids *[]sdk.RecordID) bool {
	n := 0
	for n < len(*ids) && (*ids)[n].Compare(until) <= 0 {
		n++
	}
	*ids = (*ids)[n:]
	return n > 0
}

// end ends the last range.
func (a *auditScan) end() { a.close(lastID) }

func (a *auditScan) close(until sdk.RecordID) {
	one := RangeDigest{Until: until}
	if a.rows > 0 {
		copy(one.Digest[:], a.sum.Sum(nil))
	}
	a.found = append(a.found, one)
	a.sum.Reset()
	a.rows = 0
}

// ranges sums the records after after, nil for the beginning, through until, and ends each range that ends there.
func (a *auditScan) ranges(ctx context.Context, after []byte, until sdk.RecordID) error {
	if after == nil {
		after = []byte{0}
	}
	for after != nil {
		err := a.r.db.Read(ctx, func(tx *database.Tx) (err error) {
			after, err = a.page(tx, after, until)
			return err
		})
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

// page is one snapshot of ranges; it returns where to go on, nil at the end.
func (a *auditScan) page(tx *database.Tx, after []byte, until sdk.RecordID) (next []byte, err error) {
	rows, err := tx.Query(a.s.sel+" WHERE id > ? AND id <= ? ORDER BY id LIMIT ?", after, until[:], auditRows)
	if err != nil {
		return nil, err
	}
	table := newTableScan(tx, a.s.model, rows)
	defer func() { err = errors.Join(err, rows.Close()) }()
	// What waits is rare: as much of it as is visible here.
	var waiting []*record
	err = a.s.eachShadowedIn(tx, after, until[:], auditRows, func(rec *record) error {
		waiting = append(waiting, rec)
		return nil
	})
	if err != nil {
		return nil, err
	}
	full := len(waiting) == auditRows
	count := 0
	for {
		ok, err := table.next()
		if err != nil {
			return nil, err
		}
		for len(waiting) > 0 && (!ok || bytes.Compare(waiting[0].id[:], table.id()) < 0) {
			if waiting[0].broken {
				a.form.unreadable(waiting[0].id)
			} else if err := a.form.record(waiting[0]); err != nil {
				return nil, err
			}
			next = bytes.Clone(waiting[0].id[:])
			a.add(waiting[0].id)
			waiting = waiting[1:]
			if full && len(waiting) == 0 {
				return next, nil
			}
		}
		if !ok {
			break
		}
		id := sdk.RecordID(table.id())
		if err := table.write(&a.form); isDamage(err) {
			a.form.unreadable(id)
		} else if err != nil {
			return nil, err
		}
		a.add(id)
		next = id[:]
		if count++; count == auditRows {
			return next, nil
		}
	}
	return nil, nil
}

// add adds the record at hand.
func (a *auditScan) add(id sdk.RecordID) {
	a.form.writeTo(a.sum)
	a.rows++
	if endsRange(id) {
		a.close(id)
	}
}

// tableScan reads visible records without making records of them.
type tableScan struct {
	tx    *database.Tx
	m     *model
	rows  *sql.Rows
	cells []cell
	dest  []any
	args  []any
	owner int64 // the last one
	by    sdk.DeviceID
}

// cell is a column of a row at hand: what the driver has, good until the next row.
type cell struct{ value any }

// Scan implements sql.Scanner.
func (c *cell) Scan(value any) error {
	c.value = value
	return nil
}

func newTableScan(tx *database.Tx, m *model, rows *sql.Rows) *tableScan {
	t := &tableScan{tx: tx, m: m, rows: rows, cells: make([]cell, m.width), dest: make([]any, m.width), args: make([]any, m.width)}
	for i := range t.cells {
		t.dest[i] = &t.cells[i]
	}
	return t
}

// next moves to the next row; false at the end.
func (t *tableScan) next() (bool, error) {
	if !t.rows.Next() {
		return false, t.rows.Err()
	}
	if err := t.rows.Scan(t.dest...); err != nil {
		return false, err
	}
	for i := range t.cells {
		t.args[i] = t.cells[i].value
	}
	_, err := asID(t.id())
	return true, err
}

// id returns the id at hand.
func (t *tableScan) id() []byte {
	raw, _ := t.args[0].([]byte)
	return raw
}

// write makes the row the record at hand of form.
func (t *tableScan) write(form *canonical) error {
	m, id := t.m, sdk.RecordID(t.id())
	kept, _ := t.args[m.width-1].([]byte)
	values := t.args[1 : 1+len(m.names)]
	if m.shared {
		state, err := unpackRecord(t.tx, m, id, kept, values)
		if err != nil {
			return damaged(m, id, err)
		}
		form.shared(state)
		return nil
	}
	owner, _ := t.args[m.width-3].(int64)
	stamp, _ := t.args[m.width-2].(int64)
	if owner != t.owner {
		by, err := t.tx.Device(owner)
		if err != nil {
			return err
		}
		t.owner, t.by = owner, by
	}
	if err := form.owned(t.id(), sdk.Version{Stamp: hlc.Stamp(stamp), Device: t.by}, values, kept); err != nil { //nolint:gosec // not negative
		return damaged(m, id, err)
	}
	return nil
}
