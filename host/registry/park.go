package registry

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/starling-sync/starling/hlc"
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

// parkFailed returns what keeps a change that the plugin of s fails on, unread, until the plugin is added again.
func (p *Prepared) parkFailed(s *served, batch *sdk.Batch) func(*change, []byte, error) {
	set := database.ColumnsOf(batch)
	return func(c *change, raw []byte, err error) {
		p.parked = append(p.parked, parked{set: set, by: s, err: err, shared: s.shared, id: c.id, stamp: c.stamp, raw: raw})
	}
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
				pl.of(c.set.Model).Stale++
				continue
			}
		}
		added, err := pl.tx.Exec("INSERT INTO _parked (origin, stamp, model, shared, id, columns, data) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (origin, stamp) DO NOTHING",
			origin, int64(c.stamp), model, c.shared, c.id[:], columns, c.raw) //nolint:gosec // stamps fit
		if err == nil && added == 0 && c.shared {
			err = parkAgain(pl.tx, origin, c)
		}
		if err != nil {
			return err
		}
		pl.of(c.set.Model).Parked++
	}
	p.logFailed(pl)
	return nil
}

// logFailed says once, when the page is durable, which changes wait because their plugin fails on them.
func (p *Prepared) logFailed(pl *placer) {
	var first *parked
	count := 0
	for i := range p.parked {
		if p.parked[i].by == nil {
			continue
		}
		if count++; first == nil {
			first = &p.parked[i]
		}
	}
	if count > 0 {
		pl.tx.AfterCommit(func() {
			p.r.log.Error("a plugin fails on changes, which are kept until it starts again", "model", first.set.Model, "changes", count,
				"first", first.id, "origin", p.origin, "stamp", first.stamp, "error", first.err)
		})
	}
}

// replayRows bounds the changes of one step of replay, and callBytes their size.
const replayRows = 1000

// replayer goes once through what is parked for one model: origin by origin, kind by kind, in the order of stamps.
type replayer struct {
	model   sdk.ModelName
	origin  int64 // the stream at hand; 0 before the first
	shared  bool
	after   hlc.Stamp // what was gone through of it
	in      Incoming
	numbers []int64 // of what is in it
	stamps  []hlc.Stamp
}

// replay applies what was parked for model. What its plugin fails on stays parked.
func (r *Registry) replay(ctx context.Context, model sdk.ModelName) error {
	next := replayer{model: model}
	for {
		step := next
		if err := r.db.Read(ctx, step.read); err != nil {
			return fmt.Errorf("read parked changes: %w", err)
		}
		if len(step.numbers) == 0 {
			return nil
		}
		prepared, err := r.Prepare(ctx, step.in)
		if err != nil {
			return err
		}
		failed := make(map[hlc.Stamp]bool)
		for i := range prepared.parked {
			if prepared.parked[i].by == nil {
				return sdk.Errorf(sdk.CodeUnavailable, "the plugin of model %q is gone again; its changes go on waiting", model)
			}
			failed[prepared.parked[i].stamp] = true
		}
		err = r.db.Write(ctx, func(tx *database.Tx) error {
			if err := step.check(tx); err != nil {
				return err
			}
			if _, err := prepared.Write(tx); err != nil {
				return err
			}
			for i, n := range step.numbers {
				if failed[step.stamps[i]] {
					continue
				}
				if _, err := tx.Exec("DELETE FROM _parked WHERE n = ?", n); err != nil {
					return err
				}
			}
			return nil
		})
		switch {
		case err == nil:
			next = step
		case sdk.CodeOf(err) != sdk.CodeStale:
			return err
		}
	}
}

// check returns a CodeStale error if a change does not wait any more: it was forgotten, and must not come back.
func (p *replayer) check(tx *database.Tx) error {
	for i, n := range p.numbers {
		var one int
		found, err := tx.One("SELECT 1 FROM _parked WHERE n = ?", []any{n}, &one)
		if err != nil {
			return err
		}
		if !found {
			return sdk.Errorf(sdk.CodeStale, "a change of %s at %s does not wait any more; read again", p.model, p.stamps[i])
		}
	}
	return nil
}

// read moves to the next changes, of one stream; at the end there are none.
func (p *replayer) read(tx *database.Tx) error {
	p.numbers, p.stamps = nil, nil
	number, err := tx.NameNumber(string(p.model))
	if err != nil || number == 0 {
		return err
	}
	for {
		if p.origin != 0 {
			if err := p.readStream(tx, number); err != nil || len(p.numbers) > 0 {
				return err
			}
		}
		found, err := tx.One("SELECT origin, shared FROM _parked WHERE model = ? AND (origin, shared) > (?, ?) ORDER BY origin, shared LIMIT 1",
			[]any{number, p.origin, p.shared}, &p.origin, &p.shared)
		if err != nil || !found {
			return err
		}
		p.after = 0
	}
}

func (p *replayer) readStream(tx *database.Tx, number int64) (err error) {
	p.in = Incoming{Kind: sdk.DeviceOwned}
	if p.in.Origin, err = tx.Device(p.origin); err != nil {
		return err
	}
	if p.shared {
		p.in.Kind = sdk.SharedByAll
	}
	rows, err := tx.Query("SELECT n, stamp, columns, data FROM _parked WHERE model = ? AND origin = ? AND shared = ? AND stamp > ? ORDER BY stamp LIMIT ?",
		number, p.origin, p.shared, int64(p.after), replayRows) //nolint:gosec // stamps fit
	if err != nil {
		return err
	}
	defer rows.Close() //nolint:errcheck // Err is checked
	current, size := int64(0), 0
	for size < callBytes && rows.Next() {
		var n, stamp, columns int64
		var data sql.RawBytes
		if err := rows.Scan(&n, &stamp, &columns, &data); err != nil {
			return err
		}
		p.after = hlc.Stamp(stamp) //nolint:gosec // not negative
		p.numbers, p.stamps = append(p.numbers, n), append(p.stamps, p.after)
		if err := appendPacked(tx, &p.in.Batches, &current, columns, data); err != nil {
			return err
		}
		size += len(data)
	}
	return rows.Err()
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
