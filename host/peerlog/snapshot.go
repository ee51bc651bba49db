package peerlog

import (
	"context"
	"database/sql"
	"fmt"
	"maps"
	"slices"

	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/history"
	"github.com/starling-sync/starling/sdk"
)

// SnapshotState is where a snapshot stands that is being taken in. It is stored with each page of it.
type SnapshotState struct {
	Kind   sdk.Ownership
	Origin sdk.DeviceID                     // whose records; zero: of all devices
	Vector map[history.Stream]history.Heads // what the sender had before it read the first page
	Model  sdk.ModelName                    // with ID: the last record that was taken in; empty: none yet
	ID     sdk.RecordID
}

// Snapshots returns the snapshots that are not complete, in the order of kinds and then of devices as they became known.
func (l *Log) Snapshots(ctx context.Context) (list []SnapshotState, err error) {
	err = l.db.Read(ctx, func(tx *database.Tx) error {
		return tx.Each("SELECT kind, origin, vector, after_model, after_id FROM _snapshot ORDER BY kind, origin", nil, func(rows *sql.Rows) error {
			var origin int64
			var kind, model string
			var vector, id sql.RawBytes
			if err := rows.Scan(&kind, &origin, &vector, &model, &id); err != nil {
				return err
			}
			s := SnapshotState{Kind: sdk.Ownership(kind), Model: sdk.ModelName(model)}
			if len(id) != len(s.ID) {
				return sdk.Errorf(sdk.CodeInternal, "the database has a snapshot that stands at an id of %d bytes", len(id))
			}
			copy(s.ID[:], id)
			if s.Vector, err = readVector(vector); err != nil {
				return err
			}
			if origin != 0 {
				s.Origin, err = tx.Device(origin)
			}
			list = append(list, s)
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read snapshots: %w", err)
	}
	return list, nil
}

// KeepSnapshot stores where a snapshot stands, in place of what was stored of the same kind and origin.
func (l *Log) KeepSnapshot(tx *database.Tx, s SnapshotState) error {
	origin, err := snapshotOrigin(tx, s.Origin)
	if err != nil {
		return fmt.Errorf("keep snapshot: %w", err)
	}
	_, err = tx.Exec(`INSERT INTO _snapshot (kind, origin, vector, after_model, after_id) VALUES (?, ?, ?, ?, ?) ON CONFLICT (kind, origin) DO UPDATE
		SET vector = excluded.vector, after_model = excluded.after_model, after_id = excluded.after_id`,
		string(s.Kind), origin, appendVector([]byte{}, s.Vector), string(s.Model), s.ID[:])
	if err != nil {
		return fmt.Errorf("keep snapshot: %w", err)
	}
	return nil
}

// EndSnapshot forgets a snapshot. One that is not there is no error.
func (l *Log) EndSnapshot(tx *database.Tx, kind sdk.Ownership, origin sdk.DeviceID) error {
	n, err := snapshotOrigin(tx, origin)
	if err != nil {
		return fmt.Errorf("end snapshot: %w", err)
	}
	if _, err := tx.Exec("DELETE FROM _snapshot WHERE kind = ? AND origin = ?", string(kind), n); err != nil {
		return fmt.Errorf("end snapshot: %w", err)
	}
	return nil
}

// snapshotOrigin returns the local number of origin, and 0, which no device has, for all.
func snapshotOrigin(tx *database.Tx, origin sdk.DeviceID) (int64, error) {
	if origin.IsZero() {
		return 0, nil
	}
	return tx.DeviceNumber(origin)
}

// A packed vector is, for each stream in their order, 16 bytes origin, 1 byte kind (vectorShared, vectorOwned), 1 byte
// number of positions, and the positions.
const (
	streamBytes  = 18
	vectorShared = 0
	vectorOwned  = 1
)

func appendVector(dst []byte, vector map[history.Stream]history.Heads) []byte {
	for _, stream := range slices.SortedFunc(maps.Keys(vector), history.Stream.Compare) {
		kind := byte(vectorShared)
		if stream.Kind == sdk.DeviceOwned {
			kind = vectorOwned
		}
		for heads := range slices.Chunk(vector[stream], 255) {
			dst = append(dst, stream.Origin[:]...)
			dst = append(dst, kind, byte(len(heads))) //nolint:gosec // a chunk fits
			dst = appendHeads(dst, heads)
		}
	}
	return dst
}

// readVector reads what appendVector wrote. It keeps nothing of b.
func readVector(b []byte) (map[history.Stream]history.Heads, error) {
	vector := make(map[history.Stream]history.Heads)
	for len(b) > 0 {
		if len(b) < streamBytes || b[16] > vectorOwned || len(b) < streamBytes+positionBytes*int(b[17]) {
			return nil, sdk.Errorf(sdk.CodeInternal, "the database has a snapshot with a damaged vector")
		}
		stream := history.Stream{Origin: sdk.DeviceID(b[:16]), Kind: sdk.SharedByAll}
		if b[16] == vectorOwned {
			stream.Kind = sdk.DeviceOwned
		}
		end := streamBytes + positionBytes*int(b[17])
		heads, err := readHeads(b[streamBytes:end])
		if err != nil {
			return nil, err
		}
		vector[stream] = append(vector[stream], heads...)
		b = b[end:]
	}
	return vector, nil
}
