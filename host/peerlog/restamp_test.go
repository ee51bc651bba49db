package peerlog_test

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/history"
	"github.com/starling-sync/starling/sdk"
)

// TestLog_Restamp gives operations new stamps at random, to and fro: each has its new stamp in its place, what it says is
// the same, and the stamps that it saw are the new ones.
func TestLog_Restamp(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		db, log := openMemory(t, nil)
		defer db.Close()
		self, other := logOrigins[0], drawOps(rt)
		stamps := rapid.SliceOfNDistinct(rapid.Uint64Range(1, 2000), 1, 600, rapid.ID).Draw(rt, "stamps")
		slices.Sort(stamps)
		after := hlc.Stamp(rapid.SampledFrom(append(stamps, 0)).Draw(rt, "after"))
		fresh := rapid.SliceOfNDistinct(rapid.Uint64Range(uint64(after)+1, uint64(after)+700), len(stamps), len(stamps), rapid.ID).Draw(rt, "new")
		slices.Sort(fresh)
		renamed := make(map[hlc.Stamp]hlc.Stamp)
		for _, old := range stamps {
			if hlc.Stamp(old) > after {
				renamed[hlc.Stamp(old)], fresh = hlc.Stamp(fresh[0]), fresh[1:]
			}
		}
		rename := func(old hlc.Stamp) hlc.Stamp {
			if s, ok := renamed[old]; ok {
				return s
			}
			return old
		}
		ops := sdk.Batch{Model: "tag", Version: 3, Columns: []string{"name", "size"}}
		want := ops
		for i, stamp := range stamps {
			seen := hlc.Stamp(rapid.SampledFrom(append(stamps[:i:i], 0, 5000)).Draw(rt, "seen"))
			ops.Rows = appendOp(ops.Rows, i, hlc.Stamp(stamp), seen)
			want.Rows = appendOp(want.Rows, i, rename(hlc.Stamp(stamp)), rename(seen))
		}
		ops.Count, want.Count = len(stamps), len(stamps)
		m := &modelLog{ops: make(map[place]sdk.Batch), floors: make(map[history.Stream]hlc.Stamp)}
		m.append(self, want)
		m.append(logOrigins[1], other)
		write(t, db, func(tx *database.Tx) error { return log.Append(tx, self, []sdk.Batch{ops}) })
		write(t, db, func(tx *database.Tx) error { return log.Append(tx, logOrigins[1], []sdk.Batch{other}) })
		write(t, db, func(tx *database.Tx) error { _, err := log.TrimTo(tx, 1<<40, 1); return err }) // counts them
		undone(t, db, func(tx *database.Tx) error { return log.Restamp(tx, self, after, rename) })
		write(t, db, func(tx *database.Tx) error { return log.Restamp(tx, self, after, rename) })
		m.check(rt, t, log)
		more := drawOps(rt)
		for op := range more.Ops() { // what comes later is where nothing is
			if _, taken := m.ops[place{op.Stamp, self}]; taken {
				return
			}
		}
		m.append(self, more)
		write(t, db, func(tx *database.Tx) error { return log.Append(tx, self, []sdk.Batch{more}) })
		m.check(rt, t, log)
	})
}

func appendOp(rows []byte, i int, stamp, seen hlc.Stamp) []byte {
	if i%5 == 4 {
		return sdk.AppendOpHeader(rows, sdk.RecordID{byte(i)}, stamp, sdk.Delete, 0)
	}
	rows = sdk.AppendOpHeader(rows, sdk.RecordID{byte(i)}, stamp, sdk.Update, 2)
	rows = sdk.AppendOpField(rows, 1, int64(i)*1000, seen)
	return sdk.AppendOpField(rows, 0, "one", 0)
}

// TestLog_RestampRefuses has renames that would lose an operation.
func TestLog_RestampRefuses(t *testing.T) {
	db, log := open(t)
	self, ops := sdk.DeviceID{1}, batch("tag", 10, 10)
	write(t, db, func(tx *database.Tx) error { return log.Append(tx, self, []sdk.Batch{ops}) })
	for what, rename := range map[string]func(hlc.Stamp) hlc.Stamp{
		"the same stamp twice":            func(hlc.Stamp) hlc.Stamp { return 70 },
		"the stamp of one that is not":    func(old hlc.Stamp) hlc.Stamp { return old - 5 },
		"no stamp":                        func(hlc.Stamp) hlc.Stamp { return 0 },
		"a stamp that is beyond the last": func(old hlc.Stamp) hlc.Stamp { return old | 1<<63 },
	} {
		if err := db.Write(t.Context(), func(tx *database.Tx) error { return log.Restamp(tx, self, 14, rename) }); err == nil {
			t.Errorf("%s: no error", what)
		}
		got, _, _, err := log.Read(t.Context(), self, 0, 1<<20)
		if diff := cmp.Diff([]sdk.Batch{ops}, got); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got)\n%s", what, err, diff)
		}
	}
}
