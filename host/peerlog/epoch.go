package peerlog

import (
	"context"
	"database/sql"
	"encoding/binary"
	"fmt"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/history"
	"github.com/starling-sync/starling/sdk"
)

// storeEpoch stores an epoch that is not stored yet: what an epoch continues never changes.
func (l *Log) storeEpoch(tx *database.Tx, e *history.Epoch) error {
	device, err := tx.DeviceNumber(e.Stream.Origin)
	if err != nil {
		return fmt.Errorf("store epoch: %w", err)
	}
	_, err = tx.Exec("INSERT INTO _epoch (id, origin, kind, parents, since) VALUES (?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
		e.ID[:], device, string(e.Stream.Kind), appendHeads(make([]byte, 0, len(e.Parents)*positionBytes), e.Parents), int64(e.Since)) //nolint:gosec // stamps fit
	if err != nil {
		return fmt.Errorf("store epoch: %w", err)
	}
	return nil
}

// Graph returns the epochs of one stream that are known. The caller owns it.
func (l *Log) Graph(tx *database.Tx, stream history.Stream) (*history.Graph, error) {
	graph := new(history.Graph)
	device, err := tx.DeviceNumber(stream.Origin)
	if err != nil {
		return nil, fmt.Errorf("read epochs: %w", err)
	}
	err = tx.Each("SELECT id, parents, since FROM _epoch WHERE origin = ? AND kind = ?", []any{device, string(stream.Kind)}, func(rows *sql.Rows) error {
		var id, parents sql.RawBytes
		var since int64
		if err := rows.Scan(&id, &parents, &since); err != nil {
			return err
		}
		e, err := epoch(id, parents, since)
		e.Stream = stream
		graph.Add(e)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read epochs: %w", err)
	}
	return graph, nil
}

// Epochs returns the epochs of all streams that are known, by id.
func (l *Log) Epochs(ctx context.Context) (epochs []history.Epoch, err error) {
	err = l.db.Read(ctx, func(tx *database.Tx) error {
		return tx.Each("SELECT id, origin, kind, parents, since FROM _epoch ORDER BY id", nil, func(rows *sql.Rows) error {
			var id, parents sql.RawBytes
			var origin, since int64
			var kind string
			if err := rows.Scan(&id, &origin, &kind, &parents, &since); err != nil {
				return err
			}
			e, err := epoch(id, parents, since)
			if err != nil {
				return err
			}
			e.Stream.Kind = sdk.Ownership(kind)
			e.Stream.Origin, err = tx.Device(origin)
			epochs = append(epochs, e)
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read epochs: %w", err)
	}
	return epochs, nil
}

// ForgetEpochs removes epochs. Those that are not there are no error.
func (l *Log) ForgetEpochs(tx *database.Tx, ids []history.EpochID) error {
	for i := range ids {
		if _, err := tx.Exec("DELETE FROM _epoch WHERE id = ?", ids[i][:]); err != nil {
			return fmt.Errorf("forget epoch: %w", err)
		}
	}
	return nil
}

func epoch(id, parents []byte, since int64) (e history.Epoch, err error) {
	if len(id) != len(e.ID) {
		return e, sdk.Errorf(sdk.CodeInternal, "the database has an epoch with an id of %d bytes", len(id))
	}
	copy(e.ID[:], id)
	e.Since = hlc.Stamp(since) //nolint:gosec // stamps fit
	e.Parents, err = readHeads(parents)
	if err != nil {
		return e, fmt.Errorf("epoch %s: %w", e.ID, err)
	}
	return e, nil
}

// positionBytes is the size of a packed position: 16 bytes epoch and 8 bytes stamp, big-endian.
const positionBytes = 24

func appendHeads(dst []byte, heads history.Heads) []byte {
	for i := range heads {
		dst = append(dst, heads[i].Epoch[:]...)
		dst = binary.BigEndian.AppendUint64(dst, uint64(heads[i].Stamp))
	}
	return dst
}

// readHeads reads what appendHeads wrote. It keeps nothing of b.
func readHeads(b []byte) (heads history.Heads, err error) {
	if len(b)%positionBytes != 0 {
		return nil, sdk.Errorf(sdk.CodeInternal, "the database has positions of %d bytes", len(b))
	}
	for ; len(b) > 0; b = b[positionBytes:] {
		p := history.Position{Epoch: history.EpochID(b[:16]), Stamp: hlc.Stamp(binary.BigEndian.Uint64(b[16:positionBytes]))}
		if p.Stamp > hlc.MaxStamp {
			return nil, sdk.Errorf(sdk.CodeInternal, "the database has a position at %x, beyond the greatest stamp", uint64(p.Stamp))
		}
		heads = append(heads, p)
	}
	return heads, nil
}
