package peerlog

import (
	"context"
	"database/sql"
	"fmt"
	"slices"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/history"
	"github.com/starling-sync/starling/sdk"
)

// Floors returns the floors of all streams that have one: who needs changes at or below it gets a snapshot.
func (l *Log) Floors(ctx context.Context) (floors map[history.Stream]hlc.Stamp, err error) {
	err = l.db.Read(ctx, func(tx *database.Tx) error {
		floors, err = l.FloorsIn(tx)
		return err
	})
	return floors, err
}

// FloorsIn is Floors in the snapshot of tx.
func (l *Log) FloorsIn(tx *database.Tx) (map[history.Stream]hlc.Stamp, error) {
	floors := make(map[history.Stream]hlc.Stamp)
	err := tx.Each("SELECT origin, kind, stamp FROM _floor", nil, func(rows *sql.Rows) error {
		var origin, stamp int64
		var kind string
		if err := rows.Scan(&origin, &kind, &stamp); err != nil {
			return err
		}
		device, err := tx.Device(origin)
		floors[history.Stream{Origin: device, Kind: sdk.Ownership(kind)}] = hlc.Stamp(stamp) //nolint:gosec // not negative
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read floors: %w", err)
	}
	return floors, nil
}

// FloorIn returns the floor of one stream in the snapshot of tx; zero if it has none. Who reads a stream from a position asks
// in the same snapshot: pruning may go on meanwhile.
func (l *Log) FloorIn(tx *database.Tx, stream history.Stream) (hlc.Stamp, error) {
	device, err := tx.DeviceNumber(stream.Origin)
	if err != nil {
		return 0, fmt.Errorf("read floor: %w", err)
	}
	var stamp int64
	if _, err := tx.One("SELECT stamp FROM _floor WHERE origin = ? AND kind = ?", []any{device, string(stream.Kind)}, &stamp); err != nil {
		return 0, fmt.Errorf("read floor: %w", err)
	}
	return hlc.Stamp(stamp), nil //nolint:gosec // not negative
}

// RaiseFloor raises the floor of a stream to stamp. It leaves one that is as high or higher alone.
func (l *Log) RaiseFloor(tx *database.Tx, stream history.Stream, stamp hlc.Stamp) error {
	device, err := tx.DeviceNumber(stream.Origin)
	if err != nil {
		return fmt.Errorf("raise floor: %w", err)
	}
	_, err = raiseFloor(tx, device, stream.Kind, stamp)
	return err
}

func raiseFloor(tx *database.Tx, device int64, kind sdk.Ownership, stamp hlc.Stamp) (raised bool, err error) {
	if stamp == 0 {
		return false, nil
	}
	n, err := tx.Exec(`INSERT INTO _floor (origin, kind, stamp) VALUES (?, ?, ?)
		ON CONFLICT (origin, kind) DO UPDATE SET stamp = excluded.stamp WHERE excluded.stamp > _floor.stamp`, device, string(kind), int64(stamp)) //nolint:gosec // stamps fit
	if err != nil {
		return false, fmt.Errorf("raise floor: %w", err)
	}
	return n > 0, nil
}

// Pruned says what one step of pruning removed.
type Pruned struct {
	Ops    int
	Bytes  int64
	Floors map[history.Stream]hlc.Stamp // those that the step raised
	More   bool                         // there is more to do: call again, in another transaction
}

// Prune removes the operations of origin up to through, and raises the floor of its shared stream to the last that it
// removed: where nothing was, nobody needs a snapshot. It removes the limit oldest ones at most, so that a transaction
// does not keep writers waiting; whatever number of steps are made, floor and log agree after each.
func (l *Log) Prune(tx *database.Tx, origin sdk.DeviceID, through hlc.Stamp, limit int) (out Pruned, err error) {
	device, err := tx.DeviceNumber(origin)
	if err != nil {
		return out, fmt.Errorf("prune peer log: %w", err)
	}
	limit = max(1, limit)
	oldest, err := oldestOf(tx, device, 0, through, limit+1)
	if err != nil {
		return out, err
	}
	out.More = len(oldest) > limit
	err = l.remove(tx, device, oldest[:min(len(oldest), limit)], &out)
	return out, err
}

// entry is an operation of the log: its stamp and size.
type entry struct {
	stamp hlc.Stamp
	bytes int64
}

// oldestOf returns the limit oldest operations of an origin with after < stamp <= through, in the order of their stamps.
func oldestOf(tx *database.Tx, device int64, after, through hlc.Stamp, limit int) (list []entry, err error) {
	err = tx.Each("SELECT stamp, length(op) FROM _log WHERE origin = ? AND stamp > ? AND stamp <= ? ORDER BY stamp LIMIT ?",
		[]any{device, int64(after), int64(through), limit}, func(rows *sql.Rows) error { //nolint:gosec // stamps fit
			var stamp, bytes int64
			err := rows.Scan(&stamp, &bytes)
			list = append(list, entry{hlc.Stamp(stamp), bytes}) //nolint:gosec // not negative
			return err
		})
	if err != nil {
		return nil, fmt.Errorf("read peer log: %w", err)
	}
	return list, nil
}

// remove removes the oldest operations of an origin, raises the floor, and adds to out what it did.
func (l *Log) remove(tx *database.Tx, device int64, oldest []entry, out *Pruned) error {
	if len(oldest) == 0 {
		return nil
	}
	through, err := countedThrough(tx, device)
	if err != nil {
		return err
	}
	var counted sum
	for _, e := range oldest {
		out.Ops++
		out.Bytes += e.bytes
		if e.stamp <= through {
			counted.ops++
			counted.bytes += e.bytes
		}
	}
	if err := addCounted(tx, device, sum{-counted.ops, -counted.bytes}); err != nil {
		return err
	}
	last := oldest[len(oldest)-1].stamp
	if _, err := tx.Exec("DELETE FROM _log WHERE origin = ? AND stamp <= ?", device, int64(last)); err != nil { //nolint:gosec // stamps fit
		return fmt.Errorf("prune peer log: %w", err)
	}
	raised, err := raiseFloor(tx, device, sdk.SharedByAll, last)
	if err != nil || !raised {
		return err
	}
	origin, err := tx.Device(device)
	if err != nil {
		return err
	}
	if out.Floors == nil {
		out.Floors = make(map[history.Stream]hlc.Stamp)
	}
	out.Floors[history.Stream{Origin: origin, Kind: sdk.SharedByAll}] = last
	return nil
}

// TrimTo removes operations, the oldest of all origins first (by stamp, then device), until the log holds mostBytes at most, and raises the floors
// of the shared streams that they were of. It removes limit at most, and looks at a bounded number: while More, call it
// again, in another transaction.
func (l *Log) TrimTo(tx *database.Tx, mostBytes int64, limit int) (out Pruned, err error) {
	limit = max(1, limit)
	size, all, err := l.count(tx, countRows)
	if err != nil {
		return out, err
	}
	excess := size.bytes - max(0, mostBytes)
	if excess <= 0 {
		out.More = !all
		return out, nil
	}
	queues, err := l.queues(tx, min(limit, trimChunk))
	if err != nil {
		return out, err
	}
	taken := 0
	for ; excess > 0 && taken < limit; taken++ {
		next, err := oldestQueue(tx, queues)
		if err != nil {
			return out, err
		}
		if next == nil {
			break
		}
		e := next.entries[next.taken]
		next.taken++
		excess -= e.bytes
	}
	out.More = !all || excess > 0 && taken == limit
	for i := range queues {
		if err := l.remove(tx, queues[i].device, queues[i].entries[:queues[i].taken], &out); err != nil {
			return out, err
		}
	}
	return out, nil
}

const (
	// countRows bounds the operations that one step of TrimTo counts: those that came since the last one.
	countRows = 20_000
	// trimChunk is how many operations of one origin are read at once to find the oldest of all.
	trimChunk = 64
)

// queue is the oldest operations of one origin, read in chunks.
type queue struct {
	origin  sdk.DeviceID
	device  int64
	entries []entry
	taken   int // entries[:taken] go
	chunk   int
	ended   bool // the origin has no more than entries
}

// queues returns a queue for each origin in the log, in the order of devices.
func (l *Log) queues(tx *database.Tx, chunk int) ([]queue, error) {
	devices, err := l.origins(tx)
	if err != nil {
		return nil, err
	}
	list := make([]queue, len(devices))
	for i, device := range devices {
		origin, err := tx.Device(device)
		if err != nil {
			return nil, err
		}
		list[i] = queue{origin: origin, device: device, chunk: chunk}
	}
	slices.SortFunc(list, func(a, b queue) int { return a.origin.Compare(b.origin) })
	return list, nil
}

// head returns the oldest operation that is not taken, and whether there is one.
func (q *queue) head(tx *database.Tx) (e entry, ok bool, err error) {
	if q.taken == len(q.entries) && !q.ended {
		after := hlc.Stamp(0)
		if q.taken > 0 {
			after = q.entries[q.taken-1].stamp
		}
		chunk, err := oldestOf(tx, q.device, after, hlc.MaxStamp, q.chunk)
		if err != nil {
			return e, false, err
		}
		q.entries, q.ended = append(q.entries, chunk...), len(chunk) < q.chunk
	}
	if q.taken == len(q.entries) {
		return e, false, nil
	}
	return q.entries[q.taken], true, nil
}

// oldestQueue returns the queue whose head is the oldest; nil if all are empty.
func oldestQueue(tx *database.Tx, queues []queue) (oldest *queue, err error) {
	var least hlc.Stamp
	for i := range queues {
		e, ok, err := queues[i].head(tx)
		if err != nil {
			return nil, err
		}
		if ok && (oldest == nil || e.stamp < least) {
			oldest, least = &queues[i], e.stamp
		}
	}
	return oldest, nil
}
