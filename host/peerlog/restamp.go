package peerlog

import (
	"database/sql"
	"fmt"

	"github.com/tinylib/msgp/msgp"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/history"
	"github.com/starling-sync/starling/sdk"
)

// Restamp gives the operations of origin after a stamp new stamps: for a device whose clock was wrong, and of which nobody
// has them yet. rename returns the new stamp of an old one, and any stamp that it does not rename as it is; it is called
// with the stamps of those operations, with those that they saw, and with those of the own adds to sets that they remove. It must give different stamps different ones. It
// runs in one transaction, however many there are: a log that is half restamped would say what never was.
func (l *Log) Restamp(tx *database.Tx, origin sdk.DeviceID, after hlc.Stamp, rename func(old hlc.Stamp) hlc.Stamp) error {
	floor := after
	device, err := tx.DeviceNumber(origin)
	if err != nil {
		return fmt.Errorf("restamp: %w", err)
	}
	if err := l.forgetCounted(tx, device); err != nil {
		return fmt.Errorf("restamp: %w", err)
	}
	// In two steps, since a new stamp may be the old one of another operation: first each becomes the negative of its new
	// stamp, which no operation has, then all change their sign.
	for {
		var ops []logged
		if ops, after, err = readLogged(tx, device, after, restampRows); err != nil {
			return fmt.Errorf("restamp: %w", err)
		}
		if len(ops) == 0 {
			break
		}
		for i := range ops {
			if err := ops[i].restamp(tx, origin, device, floor, rename); err != nil {
				return fmt.Errorf("restamp %s of %s: %w", ops[i].stamp, origin, err)
			}
		}
	}
	if _, err := tx.Exec("UPDATE _log SET stamp = -stamp WHERE origin = ? AND stamp < 0", device); err != nil {
		return fmt.Errorf("restamp operations of %s: %w", origin, err)
	}
	return nil
}

// restampRows is the number of operations that Restamp has in memory at once.
const restampRows = 256

// logged is an operation of the log.
type logged struct {
	stamp hlc.Stamp
	batch sdk.Batch // of the one operation
}

// readLogged returns the limit oldest operations of an origin after a stamp, and the stamp of the last one.
func readLogged(tx *database.Tx, device int64, after hlc.Stamp, limit int) (ops []logged, last hlc.Stamp, err error) {
	last = after
	err = tx.Each("SELECT stamp, columns, op FROM _log WHERE origin = ? AND stamp > ? ORDER BY stamp LIMIT ?",
		[]any{device, int64(after), limit}, func(rows *sql.Rows) error { //nolint:gosec // stamps fit
			var stamp, columns int64
			var op []byte
			if err := rows.Scan(&stamp, &columns, &op); err != nil {
				return err
			}
			set, err := tx.Columns(columns)
			last = hlc.Stamp(stamp) //nolint:gosec // not negative
			ops = append(ops, logged{last, sdk.Batch{Model: set.Model, Version: set.Version, Columns: set.Names(), Count: 1, Rows: op}})
			return err
		})
	return ops, last, err
}

// restamp writes the operation with its new stamp, negated. device is the number of origin.
func (o *logged) restamp(tx *database.Tx, origin sdk.DeviceID, device int64, after hlc.Stamp, rename func(hlc.Stamp) hlc.Stamp) error {
	own := func(stamp hlc.Stamp) hlc.Stamp {
		if stamp <= after {
			return stamp
		}
		return rename(stamp)
	}
	for op, err := range o.batch.Ops() {
		if err != nil {
			return err
		}
		stamp := rename(op.Stamp)
		if stamp == 0 || stamp > hlc.MaxStamp {
			return sdk.Errorf(sdk.CodeInternal, "the new stamp is %x", uint64(stamp))
		}
		packed := sdk.AppendOpHeader(nil, op.ID, stamp, op.Kind, len(op.Fields))
		for _, f := range op.Fields {
			seen := f.Seen
			if seen != 0 {
				seen = rename(seen)
			}
			packed = msgp.AppendInt(packed, f.Column)
			_, merge := sdk.ParseColumn(o.batch.Columns[f.Column])
			if packed, err = sdk.RenameOp(packed, merge, f.Value, origin, own); err != nil {
				return err
			}
			packed = msgp.AppendUint64(packed, uint64(seen))
		}
		_, err = tx.Exec("UPDATE _log SET stamp = ?, op = ? WHERE origin = ? AND stamp = ?", -int64(stamp), packed, device, int64(o.stamp)) //nolint:gosec // stamps fit
		if err != nil {
			return err
		}
	}
	return nil
}

// Stamps returns the stamps after after of the operations of origin that the log has, ascending.
func (l *Log) Stamps(tx *database.Tx, origin sdk.DeviceID, after hlc.Stamp) (stamps []hlc.Stamp, err error) {
	device, err := tx.DeviceNumber(origin)
	if err != nil {
		return nil, fmt.Errorf("read stamps: %w", err)
	}
	err = tx.Each("SELECT stamp FROM _log WHERE origin = ? AND stamp > ? ORDER BY stamp", []any{device, int64(after)}, func(rows *sql.Rows) error { //nolint:gosec // stamps fit
		var stamp int64
		err := rows.Scan(&stamp)
		stamps = append(stamps, hlc.Stamp(stamp)) //nolint:gosec // not negative
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read stamps: %w", err)
	}
	return stamps, nil
}

// LowerFloor sets the floor of a stream whose stamps were changed, whatever it was.
func (l *Log) LowerFloor(tx *database.Tx, stream history.Stream, stamp hlc.Stamp) error {
	device, err := tx.DeviceNumber(stream.Origin)
	if err == nil {
		_, err = tx.Exec("UPDATE _floor SET stamp = ? WHERE origin = ? AND kind = ?", int64(stamp), device, string(stream.Kind)) //nolint:gosec // stamps fit
	}
	if err != nil {
		return fmt.Errorf("lower floor: %w", err)
	}
	return nil
}
