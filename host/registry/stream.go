package registry

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/sdk"
)

// cursor is a run of one origin's device-owned changes in stamp order.
type cursor struct {
	rows  *sql.Rows
	scan  func(*sql.Rows) (hlc.Stamp, error) // keeps what emit needs
	emit  func(*packer) error
	stamp hlc.Stamp // of the change at hand
}

// next moves to the next change; false at the end.
func (c *cursor) next() (bool, error) {
	if !c.rows.Next() {
		return false, c.rows.Err()
	}
	var err error
	c.stamp, err = c.scan(c.rows)
	return true, err
}

// ReadState returns the device-owned changes of origin after since: the rows and deletes that have not been overwritten
// by later ones, in stamp order over all models, until they hold maxBytes (one change at least). Within the page they
// are grouped by model. through is the greatest stamp of the page, since if it is empty; more says that others follow.
// The caller owns the batches; their column names are not to be changed.
func (r *Registry) ReadState(ctx context.Context, origin sdk.DeviceID, since hlc.Stamp, maxBytes int) (batches []sdk.Batch, through hlc.Stamp, more bool, err error) {
	err = r.db.Read(ctx, func(tx *database.Tx) error {
		batches, through, more, err = r.ReadStateIn(tx, origin, since, maxBytes)
		return err
	})
	return batches, through, more, err
}

// ReadStateIn is ReadState in the snapshot of tx.
func (r *Registry) ReadStateIn(tx *database.Tx, origin sdk.DeviceID, since hlc.Stamp, maxBytes int) (batches []sdk.Batch, through hlc.Stamp, more bool, err error) {
	owner, err := tx.DeviceNumber(origin)
	if err != nil || owner == 0 {
		return nil, since, false, err
	}
	cursors, err := r.openCursors(tx, owner, since)
	defer func() {
		for _, c := range cursors {
			err = errors.Join(err, c.rows.Close())
		}
	}()
	if err != nil {
		return nil, since, false, fmt.Errorf("read stream of %s: %w", origin, err)
	}
	var out packer
	through = since
	live := make([]*cursor, 0, len(cursors))
	for _, c := range cursors {
		ok, err := c.next()
		if err != nil {
			return nil, since, false, fmt.Errorf("read stream of %s: %w", origin, err)
		}
		if ok {
			live = append(live, c)
		}
	}
	for len(live) > 0 {
		at := 0
		for i, c := range live {
			if c.stamp < live[at].stamp {
				at = i
			}
		}
		c := live[at]
		if err := c.emit(&out); err != nil {
			return nil, since, false, fmt.Errorf("read stream of %s: %w", origin, err)
		}
		if out.size > maxBytes && out.count > 1 {
			out.undo()
			return out.batches, through, true, nil
		}
		through = c.stamp
		ok, err := c.next()
		if err != nil {
			return nil, since, false, fmt.Errorf("read stream of %s: %w", origin, err)
		}
		if !ok {
			live = append(live[:at], live[at+1:]...)
		}
	}
	return out.batches, through, false, nil
}

func (r *Registry) openCursors(tx *database.Tx, owner int64, since hlc.Stamp) (cursors []*cursor, err error) {
	catalog := r.catalog.Load()
	numbered := make(map[int64]*model)
	args := []any{owner, int64(since)} //nolint:gosec // stamps fit
	add := func(c *cursor, query string) {
		if err == nil {
			if c.rows, err = tx.Query(query, args...); err == nil { //nolint:rowserrcheck // next checks it
				cursors = append(cursors, c)
			}
		}
	}
	for _, s := range catalog.order {
		numbered[s.n] = s.model
		if !s.shared {
			add(tableCursor(s.model), s.sel+" WHERE _owner = ? AND _stamp > ? ORDER BY _stamp")
		}
	}
	add(shadowCursor(tx, numbered, owner), "SELECT model, id, stamp, data FROM _shadow WHERE owner = ? AND stamp > ? ORDER BY stamp")
	add(tombstoneCursor(numbered), "SELECT model, id, stamp FROM _tombstone WHERE owner = ? AND stamp > ? ORDER BY stamp")
	add(parkedCursor(tx), "SELECT columns, stamp, data FROM _parked WHERE origin = ? AND stamp > ? AND shared = 0 ORDER BY stamp")
	return cursors, err
}

func tableCursor(m *model) *cursor {
	args, dest := make([]any, m.width), make([]any, m.width)
	for i := range args {
		dest[i] = &args[i]
	}
	c := new(cursor)
	c.scan = func(rows *sql.Rows) (hlc.Stamp, error) {
		err := rows.Scan(dest...)
		stamp, _ := args[m.width-2].(int64)
		return hlc.Stamp(stamp), err //nolint:gosec // not negative
	}
	c.emit = func(out *packer) error {
		raw, _ := args[0].([]byte)
		if len(raw) != len(sdk.RecordID{}) {
			return sdk.Errorf(sdk.CodeInternal, "the table of %s holds the id %x", m.name, raw)
		}
		extras, _ := args[m.width-1].([]byte)
		return out.row(m, sdk.RecordID(raw), c.stamp, args[1:1+len(m.names)], extras)
	}
	return c
}

func shadowCursor(tx *database.Tx, models map[int64]*model, owner int64) *cursor {
	var model, stamp int64
	var raw, data []byte
	c := new(cursor)
	c.scan = func(rows *sql.Rows) (hlc.Stamp, error) {
		err := rows.Scan(&model, &raw, &stamp, &data)
		return hlc.Stamp(stamp), err //nolint:gosec // not negative
	}
	c.emit = func(out *packer) error {
		m, id, err := modelAndID(models, model, raw)
		if err != nil {
			return err
		}
		rec, err := m.readShadow(tx, id, owner, stamp, data)
		if err != nil {
			return err
		}
		extras, _ := rec.args[m.width-1].([]byte)
		return out.row(m, id, c.stamp, rec.values(), extras)
	}
	return c
}

func tombstoneCursor(models map[int64]*model) *cursor {
	var model, stamp int64
	var raw []byte
	c := new(cursor)
	c.scan = func(rows *sql.Rows) (hlc.Stamp, error) {
		err := rows.Scan(&model, &raw, &stamp)
		return hlc.Stamp(stamp), err //nolint:gosec // not negative
	}
	c.emit = func(out *packer) error {
		m, id, err := modelAndID(models, model, raw)
		if err == nil {
			out.remove(m, id, c.stamp)
		}
		return err
	}
	return c
}

func parkedCursor(tx *database.Tx) *cursor {
	var columns, stamp int64
	var data []byte
	c := new(cursor)
	c.scan = func(rows *sql.Rows) (hlc.Stamp, error) {
		err := rows.Scan(&columns, &stamp, &data)
		return hlc.Stamp(stamp), err //nolint:gosec // not negative
	}
	c.emit = func(out *packer) error {
		set, err := tx.Columns(columns)
		if err == nil {
			out.packed(set, data)
		}
		return err
	}
	return c
}

func modelAndID(models map[int64]*model, number int64, raw []byte) (*model, sdk.RecordID, error) {
	m := models[number]
	if m == nil || len(raw) != len(sdk.RecordID{}) {
		return nil, sdk.RecordID{}, sdk.Errorf(sdk.CodeInternal, "the database holds the id %x of model number %d, which has no table", raw, number)
	}
	return m, sdk.RecordID(raw), nil
}
