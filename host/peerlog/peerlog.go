// Package peerlog keeps what a device must remember of streams: the shared operations of every origin, up to where
// each stream is applied and has been pruned, what peers have acknowledged, the epochs of streams, where snapshots
// stand, the clock's mark, and a few single values.
//
// Each device originates two streams, one of the records it owns and one of shared operations, which draw their stamps
// from one clock; each has its own watermark, which is several positions while its history has branches. The package
// promises that a floor never goes back, that appending an operation twice keeps one, and that what it removes from the
// log is at or below the floor in the same transaction. It leaves to its callers that data and watermark move in one
// transaction, that a page begins at or before the watermark, that the heads it is given were joined with those it has,
// and what may be pruned. HAZARD: package registry reads the operations of the log again where a model learns of a field
// that merges by value; it can not where they have been pruned.
package peerlog

import (
	"context"
	"database/sql"
	"encoding/binary"
	"fmt"
	"sync"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/sdk"
)

// Log is the peer log of one database. Its methods may be called at once.
//
// HAZARD: use one Log a database. With two that write, Size can be wrong.
type Log struct {
	db     *database.DB
	insert *database.Insert // appends operations

	mu sync.Mutex // guards what follows
	// counted has, by the local number of an origin, a stamp: _log_size.through <= counted[origin]
	counted map[int64]hlc.Stamp
}

// New returns the peer log of db.
func New(db *database.DB) *Log {
	return &Log{
		db: db, counted: make(map[int64]hlc.Stamp),
		insert: database.NewInsert("_log", []string{"origin", "stamp", "columns", "op"}, "ON CONFLICT DO NOTHING"),
	}
}

// Append adds shared operations of origin. Those that are there already are left alone. It reads the batches and
// keeps nothing of them.
func (l *Log) Append(tx *database.Tx, origin sdk.DeviceID, batches []sdk.Batch) error {
	device, err := tx.DeviceNumber(origin)
	if err != nil {
		return fmt.Errorf("append to peer log: %w", err)
	}
	late, err := l.beginLate(tx, device)
	if err != nil {
		return fmt.Errorf("append to peer log: %w", err)
	}
	var rows [][4]any
	for i := range batches {
		columns, err := tx.ColumnsNumber(database.ColumnsOf(&batches[i]))
		if err != nil {
			return fmt.Errorf("append to peer log: %w", err)
		}
		for op, err := range batches[i].Ops() {
			if err != nil {
				return fmt.Errorf("append to peer log: %w", err)
			}
			if op.Stamp <= late.bound {
				if err := late.append(tx, columns, op); err != nil {
					return fmt.Errorf("append to peer log: %w", err)
				}
				continue
			}
			rows = append(rows, [4]any{device, int64(op.Stamp), columns, op.Raw}) //nolint:gosec // stamps fit
		}
	}
	if err := tx.Insert(l.insert, len(rows), func(i int) []any { return rows[i][:] }, nil); err != nil {
		return fmt.Errorf("append to peer log: %w", err)
	}
	return late.end(tx)
}

const appendOne = "INSERT INTO _log (origin, stamp, columns, op) VALUES (?,?,?,?) ON CONFLICT DO NOTHING"

// Read returns operations of origin after since, in stamp order, in batches of one model and column set each, until
// they hold maxBytes, headers counted, or mostBatches batches (one operation at least). through is the stamp of the last one, since if there is none; more says
// that others follow. The caller owns the batches.
//
// HAZARD: what was pruned is not there, and nothing says so. Who needs all that came after since reads in one snapshot with
// FloorIn, which must not be after since.
func (l *Log) Read(ctx context.Context, origin sdk.DeviceID, since hlc.Stamp, maxBytes int) (batches []sdk.Batch, through hlc.Stamp, more bool, err error) {
	err = l.db.Read(ctx, func(tx *database.Tx) error {
		batches, through, more, err = l.ReadIn(tx, origin, since, maxBytes)
		return err
	})
	return batches, through, more, err
}

// ReadIn is Read in the snapshot of tx.
func (l *Log) ReadIn(tx *database.Tx, origin sdk.DeviceID, since hlc.Stamp, maxBytes int) (batches []sdk.Batch, through hlc.Stamp, more bool, err error) {
	through = since
	device, err := tx.DeviceNumber(origin)
	if err != nil || device == 0 {
		return nil, through, false, err
	}
	rows, err := tx.Query("SELECT stamp, columns, op FROM _log WHERE origin = ? AND stamp > ? ORDER BY stamp", device, int64(since)) //nolint:gosec // stamps fit
	if err != nil {
		return nil, through, false, fmt.Errorf("read peer log: %w", err)
	}
	defer rows.Close() //nolint:errcheck // Err is checked
	current, size := int64(0), 0
	for rows.Next() {
		var stamp, columns int64
		var op sql.RawBytes
		if err := rows.Scan(&stamp, &columns, &op); err != nil {
			return nil, through, false, fmt.Errorf("read peer log: %w", err)
		}
		need := len(op)
		var header sdk.Batch
		if columns != current {
			set, err := tx.Columns(columns)
			if err != nil {
				return nil, through, false, fmt.Errorf("read peer log: %w", err)
			}
			header = sdk.Batch{Model: set.Model, Version: set.Version, Columns: set.Names()}
			need += headerBytes(&header)
		}
		if size > 0 && (size+need > maxBytes || columns != current && len(batches) == mostBatches) {
			return batches, through, true, nil
		}
		if columns != current {
			batches, current = append(batches, header), columns
		}
		batch := &batches[len(batches)-1]
		batch.Rows = append(batch.Rows, op...)
		batch.Count++
		size += need
		through = hlc.Stamp(stamp) //nolint:gosec // stored stamps are not negative
	}
	return batches, through, false, rows.Err()
}

// mostBatches bounds the batches of one Read, below what a page between two devices may hold: operations of two models
// in turn are a batch each.
const mostBatches = 4096

// headerBytes is about what a batch takes on its way beside its rows.
func headerBytes(b *sdk.Batch) int {
	n := 16 + len(b.Model)
	for _, c := range b.Columns {
		n += len(c) + 2
	}
	return n
}

const metaClock = "clock"

// StoreClock keeps the clock's high-water mark. It never goes back.
func (l *Log) StoreClock(tx *database.Tx, mark hlc.Stamp) error {
	value := binary.BigEndian.AppendUint64(nil, uint64(mark))
	_, err := tx.Exec("INSERT INTO _meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value WHERE excluded.value > _meta.value",
		metaClock, value)
	if err != nil {
		return fmt.Errorf("store the clock's mark: %w", err)
	}
	return nil
}

// ResetClock sets the clock's high-water mark, whatever it was: for a device whose clock was wrong, in the transaction that
// gives what it stamped new stamps.
//
// HAZARD: a hook that stores the mark of a running clock (database.DB.BeforeCommit) runs after this and undoes it in the same
// commit, unless that clock was set back first.
func (l *Log) ResetClock(tx *database.Tx, mark hlc.Stamp) error {
	return l.SetMeta(tx, metaClock, binary.BigEndian.AppendUint64(nil, uint64(mark)))
}

// LoadClock returns the clock's high-water mark; zero in a new database.
func (l *Log) LoadClock(ctx context.Context) (hlc.Stamp, error) {
	value, err := l.Meta(ctx, metaClock)
	if err != nil || value == nil {
		return 0, err
	}
	if len(value) != 8 || value[0] > 0x7f {
		return 0, sdk.Errorf(sdk.CodeInternal, "the stored mark of the clock, %x, is damaged; restore the database from a copy, or remove it and join the library again", value)
	}
	return hlc.Stamp(binary.BigEndian.Uint64(value)), nil
}

// Meta returns the single value of key; nil if there is none.
func (l *Log) Meta(ctx context.Context, key string) (value []byte, err error) {
	err = l.db.Read(ctx, func(tx *database.Tx) error {
		_, err := tx.One("SELECT value FROM _meta WHERE key = ?", []any{key}, &value)
		return err
	})
	return value, err
}

// SetMeta stores the single value of key.
func (l *Log) SetMeta(tx *database.Tx, key string, value []byte) error {
	if value == nil {
		value = []byte{}
	}
	_, err := tx.Exec("INSERT INTO _meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value", key, value)
	if err != nil {
		return fmt.Errorf("store %s: %w", key, err)
	}
	return nil
}
