package registry

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/sdk"
)

// parkState keeps the rows of a model that no plugin serves here, unread.
func (p *Prepared) parkState(in *Incoming, batch *sdk.Batch) error {
	set := database.ColumnsOf(batch)
	for row, err := range batch.StateRows() {
		if err == nil {
			err = in.check(row.Stamp)
		}
		if err != nil {
			return err
		}
		p.parked = append(p.parked, parked{set: set, id: row.ID, stamp: row.Stamp, raw: row.Raw})
	}
	return nil
}

// parkShared keeps the operations of a model that no plugin serves here, unread.
func (p *Prepared) parkShared(in *Incoming, batch *sdk.Batch) error {
	set := database.ColumnsOf(batch)
	for op, err := range batch.Ops() {
		if err == nil {
			err = in.check(op.Stamp)
		}
		if err != nil {
			return err
		}
		p.parked = append(p.parked, parked{set: set, shared: true, id: op.ID, stamp: op.Stamp, raw: op.Raw})
	}
	return nil
}

// park writes what was kept. Of a device-owned record only the latest row stays.
func (p *Prepared) park(pl *placer, origin int64) error {
	for i := range p.parked {
		c := &p.parked[i]
		columns, err := pl.tx.ColumnsNumber(c.set)
		if err != nil {
			return err
		}
		model, err := pl.tx.NameNumber(string(c.set.Model))
		if err != nil {
			return err
		}
		if !c.shared {
			_, err := pl.tx.Exec("DELETE FROM _parked WHERE model = ? AND id = ? AND origin = ? AND shared = 0 AND stamp < ?", model, c.id[:], origin, int64(c.stamp)) //nolint:gosec // stamps fit
			if err != nil {
				return err
			}
			var one int
			later, err := pl.tx.One("SELECT 1 FROM _parked WHERE model = ? AND id = ? AND origin = ? AND shared = 0", []any{model, c.id[:], origin}, &one)
			if err != nil {
				return err
			}
			if later {
				pl.outcome.Stale++
				continue
			}
		}
		_, err = pl.tx.Exec("INSERT INTO _parked (origin, stamp, model, shared, id, columns, data) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (origin, stamp) DO NOTHING",
			origin, int64(c.stamp), model, c.shared, c.id[:], columns, c.raw) //nolint:gosec // stamps fit
		if err != nil {
			return err
		}
		pl.outcome.Parked++
	}
	return nil
}

// replayRows bounds the changes of one step of replay.
const replayRows = 1000

// replay applies what was parked for model.
func (r *Registry) replay(ctx context.Context, model sdk.ModelName) error {
	for {
		in, numbers, err := r.readParked(ctx, model)
		if err != nil || len(numbers) == 0 {
			return err
		}
		prepared, err := r.Prepare(ctx, in)
		if err != nil {
			return err
		}
		err = r.db.Write(ctx, func(tx *database.Tx) error {
			if _, err := prepared.Write(tx); err != nil {
				return err
			}
			for _, n := range numbers {
				if _, err := tx.Exec("DELETE FROM _parked WHERE n = ?", n); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil && sdk.CodeOf(err) != sdk.CodeStale {
			return err
		}
	}
}

// readParked returns some of the changes parked for model, of one origin and kind, and their numbers.
func (r *Registry) readParked(ctx context.Context, model sdk.ModelName) (in Incoming, numbers []int64, err error) {
	err = r.db.Read(ctx, func(tx *database.Tx) error {
		number, err := tx.NameNumber(string(model))
		if err != nil || number == 0 {
			return err
		}
		var origin int64
		var shared bool
		found, err := tx.One("SELECT origin, shared FROM _parked WHERE model = ? LIMIT 1", []any{number}, &origin, &shared)
		if err != nil || !found {
			return err
		}
		if in.Origin, err = tx.Device(origin); err != nil {
			return err
		}
		in.Kind = sdk.DeviceOwned
		if shared {
			in.Kind = sdk.SharedByAll
		}
		current := int64(0)
		return tx.Each("SELECT n, columns, data FROM _parked WHERE model = ? AND origin = ? AND shared = ? ORDER BY stamp LIMIT ?",
			[]any{number, origin, shared, replayRows}, func(rows *sql.Rows) error {
				var n, columns int64
				var data sql.RawBytes
				if err := rows.Scan(&n, &columns, &data); err != nil {
					return err
				}
				numbers = append(numbers, n)
				return appendPacked(tx, &in.Batches, &current, columns, data)
			})
	})
	if err != nil {
		return in, nil, fmt.Errorf("read parked changes: %w", err)
	}
	return in, numbers, nil
}

// appendPacked adds a packed change to the last batch, or to a new one if that has other columns.
func appendPacked(tx *database.Tx, batches *[]sdk.Batch, current *int64, columns int64, data []byte) error {
	if columns != *current {
		set, err := tx.Columns(columns)
		if err != nil {
			return err
		}
		*batches = append(*batches, sdk.Batch{Model: set.Model, Version: set.Version, Columns: set.Names()})
		*current = columns
	}
	batch := &(*batches)[len(*batches)-1]
	batch.Rows = append(batch.Rows, data...)
	batch.Count++
	return nil
}
