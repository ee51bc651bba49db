package peerlog

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/history"
	"github.com/starling-sync/starling/sdk"
)

// Watermarks returns up to where every stream is applied here.
func (l *Log) Watermarks(ctx context.Context) (vector map[history.Stream]history.Heads, err error) {
	err = l.db.Read(ctx, func(tx *database.Tx) error {
		vector, err = l.WatermarksIn(tx)
		return err
	})
	return vector, err
}

// WatermarksIn is Watermarks in the snapshot of tx.
func (l *Log) WatermarksIn(tx *database.Tx) (map[history.Stream]history.Heads, error) {
	vector := make(map[history.Stream]history.Heads)
	err := tx.Each("SELECT origin, kind, epoch, stamp FROM _watermark ORDER BY origin, kind, epoch", nil, func(rows *sql.Rows) error {
		var origin, stamp int64
		var kind string
		var epoch sql.RawBytes
		if err := rows.Scan(&origin, &kind, &epoch, &stamp); err != nil {
			return err
		}
		return addPosition(tx, vector, origin, kind, epoch, stamp)
	})
	if err != nil {
		return nil, fmt.Errorf("read watermarks: %w", err)
	}
	return vector, nil
}

// addPosition adds a stored position to vector. Those of a stream come in the order of their epochs.
func addPosition(tx *database.Tx, vector map[history.Stream]history.Heads, origin int64, kind string, epoch []byte, stamp int64) error {
	device, err := tx.Device(origin)
	if err != nil {
		return err
	}
	p, err := position(epoch, stamp)
	if err != nil {
		return err
	}
	stream := history.Stream{Origin: device, Kind: sdk.Ownership(kind)}
	vector[stream] = append(vector[stream], p)
	return nil
}

func position(epoch []byte, stamp int64) (p history.Position, err error) {
	if len(epoch) != len(p.Epoch) || stamp < 0 {
		return p, sdk.Errorf(sdk.CodeInternal, "the database has a position at %d in an epoch of %d bytes", stamp, len(epoch))
	}
	copy(p.Epoch[:], epoch)
	p.Stamp = hlc.Stamp(stamp)
	return p, nil
}

// Heads returns up to where one stream is applied, as the transaction sees it; nil at its beginning.
func (l *Log) Heads(tx *database.Tx, stream history.Stream) (heads history.Heads, err error) {
	device, err := tx.DeviceNumber(stream.Origin)
	if err != nil {
		return nil, fmt.Errorf("read watermark: %w", err)
	}
	return headsOf(tx, device, stream.Kind)
}

func headsOf(tx *database.Tx, device int64, kind sdk.Ownership) (heads history.Heads, err error) {
	err = tx.Each("SELECT epoch, stamp FROM _watermark WHERE origin = ? AND kind = ? ORDER BY epoch", []any{device, string(kind)}, func(rows *sql.Rows) error {
		var epoch sql.RawBytes
		var stamp int64
		if err := rows.Scan(&epoch, &stamp); err != nil {
			return err
		}
		p, err := position(epoch, stamp)
		heads = append(heads, p)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read watermark: %w", err)
	}
	return heads, nil
}

// SetHeads stores epochs, and sets the watermark of a stream to heads: the caller has joined them with what it was. An
// epoch that is stored already stays as it is.
func (l *Log) SetHeads(tx *database.Tx, stream history.Stream, heads history.Heads, epochs []history.Epoch) error {
	for i := range epochs {
		if err := l.storeEpoch(tx, &epochs[i]); err != nil {
			return err
		}
	}
	device, err := tx.DeviceNumber(stream.Origin)
	if err != nil {
		return fmt.Errorf("move watermark: %w", err)
	}
	return setHeads(tx, device, stream.Kind, heads)
}

func setHeads(tx *database.Tx, device int64, kind sdk.Ownership, heads history.Heads) error {
	if _, err := tx.Exec("DELETE FROM _watermark WHERE origin = ? AND kind = ?", device, string(kind)); err != nil {
		return fmt.Errorf("move watermark: %w", err)
	}
	for i := range heads {
		_, err := tx.Exec("INSERT INTO _watermark (origin, kind, epoch, stamp) VALUES (?, ?, ?, ?)",
			device, string(kind), heads[i].Epoch[:], int64(heads[i].Stamp)) //nolint:gosec // stamps fit
		if err != nil {
			return fmt.Errorf("move watermark: %w", err)
		}
	}
	return nil
}

// Extend moves a stream of this device's own over changes from first to last, all in epoch, the one of this start of the
// device. from is the place before: the device has written nothing to the stream between from and first. Where epoch is not
// among the positions of the stream it is opened, and continues them all; opened then says so. heads is the watermark that
// results. A first that is not after all of them is a CodeInternal error: the clock went wrong.
func (l *Log) Extend(tx *database.Tx, stream history.Stream, epoch history.EpochID, first, last hlc.Stamp) (from hlc.Stamp, opened *history.Epoch, heads history.Heads, err error) {
	device, err := tx.DeviceNumber(stream.Origin)
	if err != nil {
		return 0, nil, nil, fmt.Errorf("extend own stream: %w", err)
	}
	before, err := headsOf(tx, device, stream.Kind)
	if err != nil {
		return 0, nil, nil, err
	}
	if top := before.Top(); first <= top {
		return 0, nil, nil, sdk.Errorf(sdk.CodeInternal, "the clock drew %s, which is not after the last own change %s", first, top)
	}
	if from, ok := before.In(epoch); ok {
		_, err := tx.Exec("UPDATE _watermark SET stamp = ? WHERE origin = ? AND kind = ? AND epoch = ?", int64(last), device, string(stream.Kind), epoch[:]) //nolint:gosec // stamps fit
		if err != nil {
			return 0, nil, nil, fmt.Errorf("extend own stream: %w", err)
		}
		for i := range before { // read above, so nobody else has it
			if before[i].Epoch == epoch {
				before[i].Stamp = last
			}
		}
		return from, nil, before, nil
	}
	from, opened, heads, err = l.open(tx, history.Epoch{ID: epoch, Stream: stream, Parents: before, Since: first - 1}, last)
	if err != nil {
		return 0, nil, nil, err
	}
	return from, opened, heads, setHeads(tx, device, stream.Kind, heads)
}

// open opens epoch with a position at last, after its parents. One that was opened before, and is not among them since
// another start of the device has continued it meanwhile, can not continue what continues it: its position is one more
// branch, until the next start continues both.
func (l *Log) open(tx *database.Tx, epoch history.Epoch, last hlc.Stamp) (from hlc.Stamp, opened *history.Epoch, heads history.Heads, err error) {
	graph, err := l.Graph(tx, epoch.Stream)
	if err != nil {
		return 0, nil, nil, err
	}
	before, at := epoch.Parents, history.At(epoch.ID, last)
	if _, known := graph.Epoch(epoch.ID); known {
		return graph.Low(before, at), nil, graph.Join(before, at), nil
	}
	return before.Top(), &epoch, at, l.storeEpoch(tx, &epoch)
}

// Acknowledge keeps that peer has durably applied what heads have of a stream, in place of what was kept before.
func (l *Log) Acknowledge(tx *database.Tx, peer sdk.DeviceID, stream history.Stream, heads history.Heads) error {
	p, err := tx.DeviceNumber(peer)
	if err != nil {
		return fmt.Errorf("keep acknowledgement: %w", err)
	}
	o, err := tx.DeviceNumber(stream.Origin)
	if err != nil {
		return fmt.Errorf("keep acknowledgement: %w", err)
	}
	if _, err := tx.Exec("DELETE FROM _ack WHERE peer = ? AND origin = ? AND kind = ?", p, o, string(stream.Kind)); err != nil {
		return fmt.Errorf("keep acknowledgement: %w", err)
	}
	for i := range heads {
		_, err = tx.Exec("INSERT INTO _ack (peer, origin, kind, epoch, stamp) VALUES (?, ?, ?, ?, ?)",
			p, o, string(stream.Kind), heads[i].Epoch[:], int64(heads[i].Stamp)) //nolint:gosec // stamps fit
		if err != nil {
			return fmt.Errorf("keep acknowledgement: %w", err)
		}
	}
	return nil
}

// Acknowledgements returns up to where each peer has applied each stream.
func (l *Log) Acknowledgements(ctx context.Context) (map[sdk.DeviceID]map[history.Stream]history.Heads, error) {
	all := make(map[sdk.DeviceID]map[history.Stream]history.Heads)
	err := l.db.Read(ctx, func(tx *database.Tx) error {
		return tx.Each("SELECT peer, origin, kind, epoch, stamp FROM _ack ORDER BY peer, origin, kind, epoch", nil, func(rows *sql.Rows) error {
			var p, origin, stamp int64
			var kind string
			var epoch sql.RawBytes
			if err := rows.Scan(&p, &origin, &kind, &epoch, &stamp); err != nil {
				return err
			}
			peer, err := tx.Device(p)
			if err != nil {
				return err
			}
			if all[peer] == nil {
				all[peer] = make(map[history.Stream]history.Heads)
			}
			return addPosition(tx, all[peer], origin, kind, epoch, stamp)
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read acknowledgements: %w", err)
	}
	return all, nil
}

// ForgetAcknowledgements forgets what peer has acknowledged.
func (l *Log) ForgetAcknowledgements(tx *database.Tx, peer sdk.DeviceID) error {
	p, err := tx.DeviceNumber(peer)
	if err != nil {
		return fmt.Errorf("forget acknowledgements: %w", err)
	}
	if _, err := tx.Exec("DELETE FROM _ack WHERE peer = ?", p); err != nil {
		return fmt.Errorf("forget acknowledgements: %w", err)
	}
	return nil
}
