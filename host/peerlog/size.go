package peerlog

import (
	"context"
	"fmt"
	"math"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/sdk"
)

// The size of the log is kept in _log_size up to a stamp of each origin, and counted beyond it, where it is asked for.
// So an operation that is appended at the end, as nearly all are, costs nothing more. Only one that comes late, at or
// before that stamp, has to be added there: where a branch is sent again from the last position that both sides share.

// sum is a number of operations and the bytes that they take, packed.
type sum struct{ ops, bytes int64 }

// Size returns how many operations of all origins the log holds, and the bytes that they take, packed.
func (l *Log) Size(ctx context.Context) (ops, bytes int64, err error) {
	err = l.db.Read(ctx, func(tx *database.Tx) error {
		size, err := countedSize(tx)
		if err != nil {
			return err
		}
		devices, err := l.origins(tx)
		if err != nil {
			return err
		}
		for _, device := range devices {
			through, err := countedThrough(tx, device)
			if err != nil {
				return err
			}
			tail, _, err := tailOf(tx, device, through, math.MaxInt64)
			if err != nil {
				return err
			}
			size.ops += tail.ops
			size.bytes += tail.bytes
		}
		ops, bytes = size.ops, size.bytes
		return nil
	})
	return ops, bytes, err
}

// count counts what was not counted yet, rows operations at most, and returns the size of what is counted, and whether
// that is all.
func (l *Log) count(tx *database.Tx, rows int64) (size sum, all bool, err error) {
	devices, err := l.origins(tx)
	if err != nil {
		return size, false, err
	}
	for _, device := range devices {
		through, err := countedThrough(tx, device)
		if err != nil {
			return size, false, err
		}
		tail, last, err := tailOf(tx, device, through, rows)
		if err != nil {
			return size, false, err
		}
		if tail.ops == 0 {
			continue
		}
		l.raiseBound(device, last)
		_, err = tx.Exec(`INSERT INTO _log_size (origin, through, ops, bytes) VALUES (?, ?, ?, ?) ON CONFLICT (origin) DO UPDATE
			SET through = excluded.through, ops = _log_size.ops + excluded.ops, bytes = _log_size.bytes + excluded.bytes`,
			device, int64(last), tail.ops, tail.bytes) //nolint:gosec // stamps fit
		if err != nil {
			return size, false, fmt.Errorf("count peer log: %w", err)
		}
		if rows -= tail.ops; rows <= 0 {
			size, err = countedSize(tx)
			return size, false, err
		}
	}
	size, err = countedSize(tx)
	return size, true, err
}

// origins returns the local numbers of the devices whose operations the log holds, ascending: a seek for each.
func (l *Log) origins(tx *database.Tx) (devices []int64, err error) {
	for device := int64(0); ; {
		found, err := tx.One("SELECT origin FROM _log WHERE origin > ? ORDER BY origin LIMIT 1", []any{device}, &device)
		if err != nil {
			return nil, fmt.Errorf("read peer log: %w", err)
		}
		if !found {
			return devices, nil
		}
		devices = append(devices, device)
	}
}

// tailOf counts the rows oldest operations of an origin after a stamp, and returns the stamp of the last one.
func tailOf(tx *database.Tx, device int64, after hlc.Stamp, rows int64) (tail sum, last hlc.Stamp, err error) {
	var stamp int64
	_, err = tx.One(`SELECT count(*), coalesce(sum(bytes), 0), coalesce(max(stamp), 0) FROM
		(SELECT stamp, length(op) AS bytes FROM _log WHERE origin = ? AND stamp > ? ORDER BY stamp LIMIT ?) AS tail`,
		[]any{device, int64(after), rows}, &tail.ops, &tail.bytes, &stamp) //nolint:gosec // stamps fit
	if err != nil {
		return tail, 0, fmt.Errorf("count peer log: %w", err)
	}
	return tail, hlc.Stamp(stamp), nil //nolint:gosec // not negative
}

func countedSize(tx *database.Tx) (size sum, err error) {
	_, err = tx.One("SELECT coalesce(sum(ops), 0), coalesce(sum(bytes), 0) FROM _log_size", nil, &size.ops, &size.bytes)
	if err != nil {
		return size, fmt.Errorf("count peer log: %w", err)
	}
	return size, nil
}

// countedThrough returns up to where the operations of an origin are counted.
func countedThrough(tx *database.Tx, device int64) (hlc.Stamp, error) {
	var through int64
	if _, err := tx.One("SELECT through FROM _log_size WHERE origin = ?", []any{device}, &through); err != nil {
		return 0, fmt.Errorf("count peer log: %w", err)
	}
	return hlc.Stamp(through), nil //nolint:gosec // not negative
}

func addCounted(tx *database.Tx, device int64, s sum) error {
	if s.ops == 0 {
		return nil
	}
	if _, err := tx.Exec("UPDATE _log_size SET ops = ops + ?, bytes = bytes + ? WHERE origin = ?", s.ops, s.bytes, device); err != nil {
		return fmt.Errorf("count peer log: %w", err)
	}
	return nil
}

// forgetCounted has the operations of an origin counted anew.
func (l *Log) forgetCounted(tx *database.Tx, device int64) error {
	if _, err := tx.Exec("DELETE FROM _log_size WHERE origin = ?", device); err != nil {
		return fmt.Errorf("count peer log: %w", err)
	}
	tx.AfterCommit(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.counted, device)
	})
	return nil
}

// raiseBound notes that operations of an origin may be counted up to stamp. It is noted before the commit: a bound that is
// too high costs a look into the table, one that is too low a wrong size.
func (l *Log) raiseBound(device int64, stamp hlc.Stamp) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counted[device] = max(l.counted[device], stamp)
}

// late appends the operations that may be counted already, and counts them.
type late struct {
	device  int64
	bound   hlc.Stamp // no operation after it is counted
	looked  bool
	through hlc.Stamp // if looked: up to where they are
	added   sum
}

func (l *Log) beginLate(tx *database.Tx, device int64) (*late, error) {
	l.mu.Lock()
	bound, known := l.counted[device]
	l.mu.Unlock()
	if known {
		return &late{device: device, bound: bound}, nil
	}
	through, err := countedThrough(tx, device)
	if err != nil {
		return nil, err
	}
	l.raiseBound(device, through)
	return &late{device: device, bound: through, looked: true, through: through}, nil
}

func (a *late) append(tx *database.Tx, columns int64, op sdk.Op) (err error) {
	if !a.looked {
		if a.through, err = countedThrough(tx, a.device); err != nil {
			return err
		}
		a.looked = true
	}
	n, err := tx.Exec(appendOne, a.device, int64(op.Stamp), columns, op.Raw) //nolint:gosec // stamps fit
	if op.Stamp <= a.through {
		a.added.ops += n
		a.added.bytes += n * int64(len(op.Raw))
	}
	return err
}

func (a *late) end(tx *database.Tx) error { return addCounted(tx, a.device, a.added) }

// CountAfter counts the operations of origin after a stamp, up to most. It reads an index only.
func (l *Log) CountAfter(ctx context.Context, origin sdk.DeviceID, after hlc.Stamp, most int) (n int, err error) {
	err = l.db.Read(ctx, func(tx *database.Tx) error {
		device, err := tx.DeviceNumber(origin)
		if err != nil {
			return err
		}
		_, err = tx.One("SELECT count(*) FROM (SELECT 1 FROM _log WHERE origin = ? AND stamp > ? LIMIT ?) AS x", []any{device, int64(after), most}, &n) //nolint:gosec // stamps fit
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("count the log: %w", err)
	}
	return n, nil
}

// Oldest returns the stamp of the oldest operation that the log has; zero if it has none.
func (l *Log) Oldest(ctx context.Context) (oldest hlc.Stamp, err error) {
	err = l.db.Read(ctx, func(tx *database.Tx) error {
		devices, err := l.origins(tx)
		if err != nil {
			return err
		}
		for _, device := range devices {
			first, err := oldestOf(tx, device, 0, hlc.MaxStamp, 1)
			if err != nil {
				return err
			}
			if len(first) > 0 && (oldest == 0 || first[0].stamp < oldest) {
				oldest = first[0].stamp
			}
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("look at the log: %w", err)
	}
	return oldest, nil
}
