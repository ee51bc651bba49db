package peerlog

import (
	"context"
	"database/sql"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/sdk"
)

// Watermarks returns up to where every stream is applied here.
func (l *Log) Watermarks(ctx context.Context) (vector map[Stream]Position, err error) {
	err = l.db.Read(ctx, func(tx *database.Tx) error {
		vector, err = l.WatermarksIn(tx)
		return err
	})
	return vector, err
}

// WatermarksIn is Watermarks in the snapshot of tx.
func (l *Log) WatermarksIn(tx *database.Tx) (map[Stream]Position, error) {
	vector := make(map[Stream]Position)
	err := tx.Each("SELECT d.id, w.kind, w.epoch, w.stamp FROM _watermark w JOIN _device d ON d.n = w.origin", nil, func(rows *sql.Rows) error {
		var id, epoch []byte
		var kind string
		var stamp int64
		if err := rows.Scan(&id, &kind, &epoch, &stamp); err != nil {
			return err
		}
		if len(id) != 16 || len(epoch) != 16 {
			return sdk.Errorf(sdk.CodeInternal, "a watermark with an id of %d and an epoch of %d bytes", len(id), len(epoch))
		}
		vector[Stream{sdk.DeviceID(id), sdk.Ownership(kind)}] = Position{EpochID(epoch), hlc.Stamp(stamp)} //nolint:gosec // not negative
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read watermarks: %w", err)
	}
	return vector, nil
}

// Watermark returns up to where one stream is applied, as the transaction sees it; zeros at its beginning.
func (l *Log) Watermark(tx *database.Tx, origin sdk.DeviceID, kind sdk.Ownership) (epoch [16]byte, stamp hlc.Stamp, err error) {
	device, err := tx.DeviceNumber(origin)
	if err != nil {
		return epoch, 0, fmt.Errorf("read watermark: %w", err)
	}
	var raw []byte
	var n int64
	found, err := tx.One("SELECT epoch, stamp FROM _watermark WHERE origin = ? AND kind = ?", []any{device, string(kind)}, &raw, &n)
	if err != nil || !found {
		return epoch, 0, err
	}
	copy(epoch[:], raw)
	return epoch, hlc.Stamp(n), nil //nolint:gosec // not negative
}

// SetWatermark moves the watermark of a stream to stamp in epoch. It leaves one that is as far or further alone.
func (l *Log) SetWatermark(tx *database.Tx, origin sdk.DeviceID, kind sdk.Ownership, epoch [16]byte, stamp hlc.Stamp) error {
	device, err := tx.DeviceNumber(origin)
	if err != nil {
		return fmt.Errorf("move watermark: %w", err)
	}
	_, err = tx.Exec(`INSERT INTO _watermark (origin, kind, epoch, stamp) VALUES (?, ?, ?, ?)
		ON CONFLICT (origin, kind) DO UPDATE SET epoch = excluded.epoch, stamp = excluded.stamp WHERE excluded.stamp > _watermark.stamp`,
		device, string(kind), epoch[:], int64(stamp)) //nolint:gosec // stamps fit
	if err != nil {
		return fmt.Errorf("move watermark: %w", err)
	}
	return nil
}

// Acknowledge keeps that peer has durably applied a stream up to stamp. It leaves one that is as far or further alone.
func (l *Log) Acknowledge(tx *database.Tx, peer, origin sdk.DeviceID, kind sdk.Ownership, stamp hlc.Stamp) error {
	p, err := tx.DeviceNumber(peer)
	if err != nil {
		return fmt.Errorf("keep acknowledgement: %w", err)
	}
	o, err := tx.DeviceNumber(origin)
	if err != nil {
		return fmt.Errorf("keep acknowledgement: %w", err)
	}
	_, err = tx.Exec(`INSERT INTO _ack (peer, origin, kind, stamp) VALUES (?, ?, ?, ?)
		ON CONFLICT (peer, origin, kind) DO UPDATE SET stamp = excluded.stamp WHERE excluded.stamp > _ack.stamp`,
		p, o, string(kind), int64(stamp)) //nolint:gosec // stamps fit
	if err != nil {
		return fmt.Errorf("keep acknowledgement: %w", err)
	}
	return nil
}

// Acknowledgements returns up to where each peer has applied each stream.
func (l *Log) Acknowledgements(ctx context.Context) (map[sdk.DeviceID]map[Stream]hlc.Stamp, error) {
	all := make(map[sdk.DeviceID]map[Stream]hlc.Stamp)
	err := l.db.Read(ctx, func(tx *database.Tx) error {
		return tx.Each("SELECT peer, origin, kind, stamp FROM _ack", nil, func(rows *sql.Rows) error {
			var p, o, stamp int64
			var kind string
			if err := rows.Scan(&p, &o, &kind, &stamp); err != nil {
				return err
			}
			peer, err := tx.Device(p)
			if err != nil {
				return err
			}
			origin, err := tx.Device(o)
			if err != nil {
				return err
			}
			if all[peer] == nil {
				all[peer] = make(map[Stream]hlc.Stamp)
			}
			all[peer][Stream{origin, sdk.Ownership(kind)}] = hlc.Stamp(stamp) //nolint:gosec // not negative
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read acknowledgements: %w", err)
	}
	return all, nil
}

// OpenEpoch keeps one start of a device, this one or another. Repeating it changes nothing.
func (l *Log) OpenEpoch(tx *database.Tx, epoch Epoch) error {
	device, err := tx.DeviceNumber(epoch.Device)
	if err != nil {
		return fmt.Errorf("keep epoch: %w", err)
	}
	parents := make([]string, len(epoch.Parents))
	for i, parent := range epoch.Parents {
		parents[i] = hex.EncodeToString(parent[:])
	}
	_, err = tx.Exec("INSERT INTO _epoch (id, device, parents, opened) VALUES (?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
		epoch.ID[:], device, strings.Join(parents, ","), int64(epoch.Opened)) //nolint:gosec // stamps fit
	if err != nil {
		return fmt.Errorf("keep epoch: %w", err)
	}
	return nil
}

// Epochs returns the starts that are known, oldest first.
func (l *Log) Epochs(ctx context.Context) (epochs []Epoch, err error) {
	err = l.db.Read(ctx, func(tx *database.Tx) error {
		return tx.Each("SELECT id, device, parents, opened FROM _epoch ORDER BY opened, id", nil, func(rows *sql.Rows) error {
			epoch, err := scanEpoch(tx, rows)
			epochs = append(epochs, epoch)
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read epochs: %w", err)
	}
	return epochs, nil
}

func scanEpoch(tx *database.Tx, rows *sql.Rows) (epoch Epoch, err error) {
	var id []byte
	var device, opened int64
	var parents string
	if err := rows.Scan(&id, &device, &parents, &opened); err != nil {
		return epoch, err
	}
	copy(epoch.ID[:], id)
	epoch.Opened = hlc.Stamp(opened) //nolint:gosec // not negative
	for parent := range strings.SplitSeq(parents, ",") {
		if parent == "" {
			continue
		}
		raw, err := hex.DecodeString(parent)
		if err != nil || len(raw) != len(EpochID{}) {
			return epoch, sdk.Errorf(sdk.CodeInternal, "epoch %x has a parent %q", id, parent)
		}
		epoch.Parents = append(epoch.Parents, EpochID(raw))
	}
	epoch.Device, err = tx.Device(device)
	return epoch, err
}
