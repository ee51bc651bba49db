package peerlog_test

import (
	"cmp"
	"maps"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/database/databasetest"
	"github.com/starling-sync/starling/host/history"
	"github.com/starling-sync/starling/host/peerlog"
	"github.com/starling-sync/starling/sdk"
)

func TestLog_Floors(t *testing.T) {
	db, log := open(t)
	for _, stamp := range []hlc.Stamp{0, 5, 9, 7} {
		write(t, db, func(tx *database.Tx) error { return log.RaiseFloor(tx, owned(1), stamp) })
		undone(t, db, func(tx *database.Tx) error { return log.RaiseFloor(tx, owned(1), stamp+100) })
	}
	write(t, db, func(tx *database.Tx) error { return log.RaiseFloor(tx, shared(1), 3) })
	write(t, db, func(tx *database.Tx) error { return log.RaiseFloor(tx, shared(2), 0) })
	floors, err := log.Floors(t.Context())
	want := map[history.Stream]hlc.Stamp{owned(1): 9, shared(1): 3}
	if diff := gocmp.Diff(want, floors); diff != "" || err != nil {
		t.Errorf("floors: %v %s", err, diff)
	}
	read(t, db, func(tx *database.Tx) error {
		for _, stream := range []history.Stream{owned(1), shared(1), shared(2), owned(9)} {
			if floor, err := log.FloorIn(tx, stream); floor != want[stream] || err != nil {
				t.Errorf("floor of %v: %s, %v", stream, floor, err)
			}
		}
		return nil
	})
}

func TestLog_Prune(t *testing.T) {
	db, log := open(t)
	write(t, db, func(tx *database.Tx) error {
		return cmp.Or(log.Append(tx, sdk.DeviceID{1}, []sdk.Batch{batch("tag", 10, 10)}), log.Append(tx, sdk.DeviceID{2}, []sdk.Batch{batch("tag", 10, 10)}))
	})
	prune := func(through hlc.Stamp, limit int) (out peerlog.Pruned) {
		write(t, db, func(tx *database.Tx) (err error) {
			out, err = log.Prune(tx, sdk.DeviceID{1}, through, limit)
			return err
		})
		return out
	}
	one := int64(len(batch("tag", 10, 1).Rows))
	floor := func(stamp hlc.Stamp) map[history.Stream]hlc.Stamp {
		return map[history.Stream]hlc.Stamp{shared(1): stamp}
	}
	for i, step := range []struct {
		through hlc.Stamp
		limit   int
		want    peerlog.Pruned
	}{
		{9, 5, peerlog.Pruned{}}, // nothing is so old, and nobody needs a snapshot
		{12, 5, peerlog.Pruned{Ops: 3, Bytes: 3 * one, Floors: floor(12)}},
		{12, 5, peerlog.Pruned{}},
		{18, 4, peerlog.Pruned{Ops: 4, Bytes: 4 * one, Floors: floor(16), More: true}},
		{18, 4, peerlog.Pruned{Ops: 2, Bytes: 2 * one, Floors: floor(18)}},
		{90, 1, peerlog.Pruned{Ops: 1, Bytes: one, Floors: floor(19)}}, // not to 90: who has 19 has all
	} {
		if diff := gocmp.Diff(step.want, prune(step.through, step.limit)); diff != "" {
			t.Errorf("step %d (-want +got)\n%s", i, diff)
		}
	}
	if ops, bytes, err := log.Size(t.Context()); ops != 10 || bytes != 10*one || err != nil {
		t.Errorf("%d operations of %d bytes are left, %v", ops, bytes, err)
	}
	// A branch that is sent again comes in below the floor, which stays.
	write(t, db, func(tx *database.Tx) error { return log.Append(tx, sdk.DeviceID{1}, []sdk.Batch{batch("tag", 14, 2)}) })
	if diff := gocmp.Diff(peerlog.Pruned{Ops: 2, Bytes: 2 * one}, prune(90, 9)); diff != "" {
		t.Errorf("below the floor (-want +got)\n%s", diff)
	}
}

// TestLog_TrimToCountsInSteps trims a log that nobody has counted, and that is too long to be counted at once.
func TestLog_TrimToCountsInSteps(t *testing.T) {
	const each, limit = 15_000, 4000
	one := int64(len(batch("tag", 1000, 1).Rows))
	for _, keep := range []int64{3 * each, 20_000 - 2*limit/3, each, 1, 0} { // 20,000 are counted at once
		db, log := openMemory(t, nil)
		for n := range byte(3) {
			ops := batch("tag", 1000*hlc.Stamp(n)+1, each)
			write(t, db, func(tx *database.Tx) error { return log.Append(tx, sdk.DeviceID{n}, []sdk.Batch{ops}) })
		}
		_, bytes, err := log.Size(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		most := min(bytes, keep*one)
		for steps, more := 1, true; more; steps++ {
			var out peerlog.Pruned
			write(t, db, func(tx *database.Tx) (err error) {
				out, err = log.TrimTo(tx, most, limit)
				return err
			})
			if more = out.More; out.Ops > limit || steps > 4+3*each/limit {
				t.Fatalf("to %d: step %d removed %d operations; more: %v", most, steps, out.Ops, more)
			}
		}
		ops, left, err := log.Size(t.Context())
		if err != nil || left > most || left < most-one {
			t.Errorf("%d operations of %d bytes are left of %d, want %d; %v", ops, left, bytes, most, err)
		}
		if keep == 0 {
			floors, err := log.Floors(t.Context())
			want := map[history.Stream]hlc.Stamp{shared(0): each, shared(1): 1000 + each, shared(2): 2000 + each}
			if diff := gocmp.Diff(want, floors); diff != "" || err != nil {
				t.Errorf("floors: %v %s", err, diff)
			}
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}
}

// modelLog is the dumb version of a log: every operation, by its place.
type modelLog struct {
	ops    map[place]sdk.Batch // of one operation each
	floors map[history.Stream]hlc.Stamp
}

type place struct {
	stamp  hlc.Stamp
	origin sdk.DeviceID
}

// order is from the oldest to the newest.
func (p place) order(other place) int {
	return cmp.Or(cmp.Compare(p.stamp, other.stamp), p.origin.Compare(other.origin))
}

func (m *modelLog) places() []place { return slices.SortedFunc(maps.Keys(m.ops), place.order) }

func (m *modelLog) bytes() (n int64) {
	for _, b := range m.ops {
		n += int64(len(b.Rows))
	}
	return n
}

// remove removes the operations at places, and says what Pruned says of it.
func (m *modelLog) remove(places []place) (out peerlog.Pruned) {
	for _, p := range places {
		out.Ops++
		out.Bytes += int64(len(m.ops[p].Rows))
		delete(m.ops, p)
		if stream := (history.Stream{Origin: p.origin, Kind: sdk.SharedByAll}); p.stamp > m.floors[stream] {
			m.floors[stream] = p.stamp
			if out.Floors == nil {
				out.Floors = make(map[history.Stream]hlc.Stamp)
			}
			out.Floors[stream] = p.stamp
		}
	}
	return out
}

func (m *modelLog) prune(origin sdk.DeviceID, through hlc.Stamp, limit int) peerlog.Pruned {
	old := slices.DeleteFunc(m.places(), func(p place) bool { return p.origin != origin || p.stamp > through })
	out := m.remove(old[:min(limit, len(old))])
	out.More = len(old) > limit
	return out
}

func (m *modelLog) trimTo(most int64, limit int) (out peerlog.Pruned) {
	all, left, n := m.places(), m.bytes(), 0
	for n < min(limit, len(all)) && left > most {
		left -= int64(len(m.ops[all[n]].Rows))
		n++
	}
	out = m.remove(all[:n])
	out.More = left > most
	return out
}

// drawMost returns how many bytes to trim to: anything, or what some of the newest operations take.
func (m *modelLog) drawMost(rt *rapid.T) (most int64) {
	if rapid.Bool().Draw(rt, "any") {
		return rapid.Int64Range(-1, m.bytes()+10).Draw(rt, "most")
	}
	all := m.places()
	for _, p := range all[rapid.IntRange(0, len(all)).Draw(rt, "trimmed"):] {
		most += int64(len(m.ops[p].Rows))
	}
	return most
}

// drawOps returns operations with random stamps, ascending, of random sizes.
func drawOps(rt *rapid.T) sdk.Batch {
	b := sdk.Batch{Model: "tag", Version: 3, Columns: []string{"name", "size"}}
	stamp := rapid.SampledFrom([]uint64{0, 20, 50, 51, 200}).Draw(rt, "after")
	for range rapid.IntRange(1, 70).Draw(rt, "count") {
		stamp += rapid.Uint64Range(1, 3).Draw(rt, "by")
		b.Rows = sdk.AppendOpHeader(b.Rows, sdk.RecordID{15: byte(stamp)}, hlc.Stamp(stamp), sdk.Update, 1)
		// The size depends on the stamp: what is sent again is the same.
		b.Rows = sdk.AppendOpField(b.Rows, 0, string(make([]byte, stamp%7*stamp%50)), 0)
		b.Count++
	}
	return b
}

func (m *modelLog) append(origin sdk.DeviceID, b sdk.Batch) {
	for op := range b.Ops() {
		one := b
		one.Count, one.Rows = 1, slices.Clone(op.Raw)
		m.ops[place{op.Stamp, origin}] = one
	}
}

// check compares all that can be read of a log.
func (m *modelLog) check(rt *rapid.T, t *testing.T, log *peerlog.Log) {
	t.Helper()
	for _, origin := range logOrigins {
		var want []byte
		for _, p := range m.places() {
			if p.origin == origin {
				want = append(want, m.ops[p].Rows...)
			}
		}
		batches, _, more, err := log.Read(t.Context(), origin, 0, 1<<30)
		var got []byte
		for i := range batches {
			got = append(got, batches[i].Rows...)
		}
		if diff := gocmp.Diff(want, got); diff != "" || more || err != nil {
			rt.Fatalf("operations of %s: %v (-want +got)\n%s", origin, err, diff)
		}
	}
	ops, bytes, err := log.Size(t.Context())
	if ops != int64(len(m.ops)) || bytes != m.bytes() || err != nil {
		rt.Fatalf("%d operations of %d bytes, want %d of %d; %v", ops, bytes, len(m.ops), m.bytes(), err)
	}
	floors, err := log.Floors(t.Context())
	if diff := gocmp.Diff(m.floors, floors); diff != "" || err != nil {
		rt.Fatalf("floors: %v (-want +got)\n%s", err, diff)
	}
}

var logOrigins = []sdk.DeviceID{{1}, {2}, {3}}

// TestLog_pruneRandom appends, again and late too, prunes and trims at random, starts again, and has writes that fail: the
// log is what the dumb version is. So Prune keeps what is above, TrimTo keeps the newest and no less than it may,
// floors never go back, and the size is right.
func TestLog_pruneRandom(t *testing.T) {
	databasetest.SQLiteOnly(t, "it copies images of databases")
	rapid.Check(t, func(rt *rapid.T) {
		db, log := openMemory(t, nil)
		defer func() { db.Close() }()
		m := &modelLog{ops: make(map[place]sdk.Batch), floors: make(map[history.Stream]hlc.Stamp)}
		perform := func(fn func(*database.Tx) error) {
			if rapid.Bool().Draw(rt, "fails first") {
				undone(t, db, fn)
			}
			write(t, db, fn)
		}
		pruned := func(want peerlog.Pruned, fn func(*database.Tx) (peerlog.Pruned, error)) {
			var got peerlog.Pruned
			perform(func(tx *database.Tx) (err error) {
				got, err = fn(tx)
				return err
			})
			if diff := gocmp.Diff(want, got); diff != "" {
				rt.Fatalf("pruned (-want +got)\n%s", diff)
			}
		}
		for range rapid.IntRange(1, 16).Draw(rt, "steps") {
			origin, limit := rapid.SampledFrom(logOrigins).Draw(rt, "origin"), rapid.SampledFrom([]int{1, 5, 70, 1000}).Draw(rt, "limit")
			switch rapid.SampledFrom([]string{"append", "append", "append", "prune", "trim", "trim", "failed trim", "start"}).Draw(rt, "step") {
			case "append":
				ops := drawOps(rt)
				perform(func(tx *database.Tx) error { return log.Append(tx, origin, []sdk.Batch{ops}) })
				m.append(origin, ops)
			case "prune":
				through := hlc.Stamp(rapid.Uint64Range(0, 300).Draw(rt, "through"))
				pruned(m.prune(origin, through, limit), func(tx *database.Tx) (peerlog.Pruned, error) { return log.Prune(tx, origin, through, limit) })
			case "trim":
				most := m.drawMost(rt)
				pruned(m.trimTo(max(0, most), limit), func(tx *database.Tx) (peerlog.Pruned, error) { return log.TrimTo(tx, most, limit) })
			case "failed trim": // what it counted is not counted
				undone(t, db, func(tx *database.Tx) error { _, err := log.TrimTo(tx, 0, limit); return err })
			case "start":
				image, err := db.Image()
				if err != nil {
					rt.Fatal(err)
				}
				db.Close()
				db, log = openMemory(t, image)
			}
			m.check(rt, t, log)
		}
	})
}
