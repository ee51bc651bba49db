package registry

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/sdk"
)

// PruneTombstones forgets deletes of owner's records up to through, at most limit of them, the oldest first, and returns
// how many. Fewer than limit says that those were all.
func (r *Registry) PruneTombstones(tx *database.Tx, owner sdk.DeviceID, through hlc.Stamp, limit int) (n int, err error) {
	number, err := tx.DeviceNumber(owner)
	if err != nil || number == 0 {
		return 0, err
	}
	type place struct {
		model, stamp int64
		id           []byte
	}
	var old []place
	err = tx.Each("SELECT model, stamp, id FROM _tombstone WHERE owner = ? AND stamp <= ? ORDER BY stamp LIMIT ?",
		[]any{number, int64(through), limit}, func(rows *sql.Rows) error { //nolint:gosec // stamps fit
			var p place
			err := rows.Scan(&p.model, &p.stamp, &p.id)
			old = append(old, p)
			return err
		})
	if err != nil {
		return 0, fmt.Errorf("forget deletes of %s: %w", owner, err)
	}
	for _, p := range old {
		// An older row that its plugin failed on must not bring the record back when it is tried again.
		if _, err := tx.Exec("DELETE FROM _parked WHERE model = ? AND id = ? AND origin = ? AND shared = 0 AND stamp <= ?", p.model, p.id, number, p.stamp); err != nil {
			return 0, err
		}
		if _, err := tx.Exec("DELETE FROM _tombstone WHERE model = ? AND id = ?", p.model, p.id); err != nil {
			return 0, err
		}
	}
	return len(old), nil
}

// ShadowCursor is where PruneShadow stopped. The zero ShadowCursor is the beginning.
type ShadowCursor struct{ stamp, model, row int64 }

// PruneShadow forgets shared records that do not exist and whose greatest stamp is not after through. It looks at limit of
// them at most, the oldest after after first, and returns how many it forgot and where to go on; the zero cursor says that
// those were all. A record for which changes wait stays until its plugin has taken them.
func (r *Registry) PruneShadow(tx *database.Tx, through hlc.Stamp, after ShadowCursor, limit int) (n int, next ShadowCursor, err error) {
	var old []int64
	models := make(map[int64]bool)
	looked := 0
	err = tx.Each(`SELECT stamp, model, n, EXISTS (SELECT 1 FROM _parked w WHERE w.model = s.model AND w.id = s.id) FROM _shadow s
		WHERE present = 0 AND (stamp, model, n) > (?, ?, ?) AND stamp <= ? ORDER BY stamp, model, n LIMIT ?`,
		[]any{after.stamp, after.model, after.row, int64(through), limit}, func(rows *sql.Rows) error { //nolint:gosec // stamps fit
			var awaited bool
			if err := rows.Scan(&next.stamp, &next.model, &next.row, &awaited); err != nil {
				return err
			}
			looked++
			if !awaited {
				models[next.model] = true
				old = append(old, next.row)
			}
			return nil
		})
	if err != nil {
		return 0, after, fmt.Errorf("forget deleted records: %w", err)
	}
	p := newPlacer(r, r.catalog.Load(), tx)
	for _, s := range p.catalog.order {
		if models[s.n] {
			p.touch(s.model)
		}
	}
	for _, row := range old {
		if _, err := tx.Exec("DELETE FROM _shadow WHERE n = ?", row); err != nil {
			return 0, after, fmt.Errorf("forget deleted records: %w", err)
		}
	}
	if looked < limit {
		next = ShadowCursor{}
	}
	return len(old), next, nil
}

// PruneConflicts forgets entries of the conflict journal whose winner was written before before, and what it notes of as
// old values, at most limit of both, and returns how many. Fewer than limit says that those were all.
func (r *Registry) PruneConflicts(tx *database.Tx, before hlc.Stamp, limit int) (n int, err error) {
	entries, err := tx.Exec("DELETE FROM _conflict WHERE n IN (SELECT n FROM _conflict WHERE winner_stamp < ? ORDER BY winner_stamp LIMIT ?)",
		int64(before), limit) //nolint:gosec // stamps fit
	if err != nil {
		return 0, fmt.Errorf("forget old conflicts: %w", err)
	}
	n = int(entries)
	if n >= limit {
		return n, nil
	}
	seen, err := tx.Exec(`DELETE FROM _seen WHERE (model, id, field, stamp) IN (SELECT model, id, field, stamp FROM _seen WHERE stamp < ? ORDER BY stamp LIMIT ?)`,
		int64(before), limit-n) //nolint:gosec // stamps fit
	if err != nil {
		return n, fmt.Errorf("forget old values: %w", err)
	}
	return n + int(seen), nil
}

// WaitingRecord is a record that exists and is not visible, and what it needs that is missing.
type WaitingRecord struct {
	Model   sdk.ModelName
	ID      sdk.RecordID
	Missing []sdk.RecordID
}

// Waiting returns records that wait for others, at most limit. Explain says more of each.
func (r *Registry) Waiting(ctx context.Context, limit int) (list []WaitingRecord, err error) {
	err = r.db.Read(ctx, func(tx *database.Tx) error {
		var models []int64
		err := tx.Each("SELECT DISTINCT model, id FROM _waiting ORDER BY model, id LIMIT ?", []any{limit}, func(rows *sql.Rows) error {
			var model int64
			var raw []byte
			if err := rows.Scan(&model, &raw); err != nil {
				return err
			}
			id, err := asID(raw)
			models, list = append(models, model), append(list, WaitingRecord{ID: id})
			return err
		})
		for i := 0; i < len(list) && err == nil; i++ {
			err = list[i].read(tx, r.catalog.Load(), models[i])
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list what waits: %w", err)
	}
	return list, nil
}

func (w *WaitingRecord) read(tx *database.Tx, c *catalog, model int64) error {
	name, err := tx.Name(model)
	if err != nil {
		return err
	}
	w.Model = c.called(sdk.ModelName(name))
	return tx.Each("SELECT missing FROM _waiting WHERE model = ? AND id = ? ORDER BY missing", []any{model, w.ID[:]}, func(rows *sql.Rows) error {
		id, err := scanID(rows)
		w.Missing = append(w.Missing, id)
		return err
	})
}
