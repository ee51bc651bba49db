package peerlog_test

import (
	"context"
	"errors"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/database/databasetest"
	"github.com/starling-sync/starling/host/peerlog"
	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/sdk"
)

func open(tb testing.TB) (*database.DB, *peerlog.Log) {
	tb.Helper()
	db := databasetest.Open(tb, database.Options{Dir: tb.TempDir(), Durability: database.Normal})
	return db, peerlog.New(db)
}

func write(tb testing.TB, db *database.DB, fn func(*database.Tx) error) {
	tb.Helper()
	if err := db.Write(context.Background(), fn); err != nil {
		tb.Fatal(err)
	}
}

// batch returns operations with stamps from first on.
func batch(model sdk.ModelName, first hlc.Stamp, count int) sdk.Batch {
	b := sdk.Batch{Model: model, Version: 3, Columns: []string{"name", "size"}, Count: count}
	for i := range count {
		b.Rows = sdk.AppendOpHeader(b.Rows, sdk.RecordID{15: byte(i)}, first+hlc.Stamp(i), sdk.Insert, 1)
		b.Rows = sdk.AppendOpField(b.Rows, 1, int64(i), 0)
	}
	return b
}

func TestLog_Read(t *testing.T) {
	db, log := open(t)
	ctx := context.Background()
	origin := sdk.DeviceID{1}
	a, b, c := batch("tag", 10, 70), batch("other", 80, 2), batch("tag", 90, 1)
	for range 2 { // the second time changes nothing
		write(t, db, func(tx *database.Tx) error { return log.Append(tx, origin, []sdk.Batch{a, b}) })
		write(t, db, func(tx *database.Tx) error { return log.Append(tx, origin, []sdk.Batch{c}) })
	}
	write(t, db, func(tx *database.Tx) error { return log.Append(tx, sdk.DeviceID{2}, []sdk.Batch{batch("tag", 10, 5)}) })
	got, through, more, err := log.Read(ctx, origin, 0, 1<<20)
	if err != nil || through != 90 || more {
		t.Fatalf("through %d, more %v, %v", through, more, err)
	}
	if diff := cmp.Diff([]sdk.Batch{a, b, c}, got); diff != "" {
		t.Errorf("read (-want +got):\n%s", diff)
	}
	for after, want := range map[hlc.Stamp]int{0: len0(a, b, c), 80: b.Count + c.Count - 1, 90: 0} {
		if n, err := log.CountAfter(ctx, origin, after, 1000); n != want || err != nil {
			t.Errorf("%d operations after %d, %v; want %d", n, after, err, want)
		}
	}
	if n, err := log.CountAfter(ctx, origin, 0, 3); n != 3 || err != nil {
		t.Errorf("%d operations, 3 at most, %v", n, err)
	}
	// In pages, each a byte budget or one operation.
	for _, budget := range []int{1, 100, 1000} {
		var rows []byte
		for since, more := hlc.Stamp(0), true; more; {
			var page []sdk.Batch
			if page, since, more, err = log.Read(ctx, origin, since, budget); err != nil {
				t.Fatal(err)
			}
			size, count := 0, 0
			for _, b := range page {
				rows, size, count = append(rows, b.Rows...), size+len(b.Rows), count+b.Count
			}
			if size > budget && count > 1 {
				t.Errorf("a page of %d bytes for %d", size, budget)
			}
		}
		if diff := cmp.Diff(append(append(append([]byte{}, a.Rows...), b.Rows...), c.Rows...), rows); diff != "" {
			t.Errorf("pages of %d: %s", budget, diff)
		}
	}
	if got, through, more, err := log.Read(ctx, sdk.DeviceID{9}, 5, 100); len(got) != 0 || through != 5 || more || err != nil {
		t.Errorf("an unknown origin: %v %v %v %v", got, through, more, err)
	}
}

// TestLog_ReadAlternating reads operations of two models in turn, each of which begins a batch: the pages keep their
// size and can be sent.
func TestLog_ReadAlternating(t *testing.T) {
	db, log := open(t)
	origin := sdk.DeviceID{1}
	const count = 20000
	models := [2]sdk.Batch{{Model: "tag", Version: 1, Columns: []string{"name", "color"}}, {Model: "tagging", Version: 1}}
	batches := make([]sdk.Batch, count)
	for i := range batches {
		batches[i] = models[i%2]
		batches[i].Rows = sdk.AppendOpHeader(nil, sdk.RecordID{byte(i), byte(i >> 8)}, hlc.Stamp(i+1), sdk.Delete, 0)
		batches[i].Count = 1
	}
	write(t, db, func(tx *database.Tx) error { return log.Append(tx, origin, batches) })
	limits := protocol.DefaultLimits()
	for _, budget := range []int{4 << 10, limits.PageBytes, 1 << 20} {
		read := 0
		for since, more := hlc.Stamp(0), true; more; {
			page := protocol.Page{}
			var err error
			if page.Batches, since, more, err = log.Read(t.Context(), origin, since, budget); err != nil {
				t.Fatal(err)
			}
			if got := page.Bytes(); got > budget+200 || len(page.Batches) > limits.Batches/2 {
				t.Fatalf("pages of %d: got one of %d bytes in %d batches", budget, got, len(page.Batches))
			}
			read += page.Rows()
		}
		if read != count {
			t.Errorf("pages of %d: %d operations, want %d", budget, read, count)
		}
	}
}

func TestLog_clockAndMeta(t *testing.T) {
	db, log := open(t)
	ctx := context.Background()
	for _, stamp := range []hlc.Stamp{5, 9, 7} {
		write(t, db, func(tx *database.Tx) error { return log.StoreClock(tx, stamp) })
	}
	if mark, err := log.LoadClock(ctx); mark != 9 || err != nil {
		t.Errorf("clock %v, %v", mark, err)
	}
	write(t, db, func(tx *database.Tx) error { return log.ResetClock(tx, 3) })
	if mark, err := log.LoadClock(ctx); mark != 3 || err != nil {
		t.Errorf("after its reset: clock %v, %v", mark, err)
	}
	write(t, db, func(tx *database.Tx) error { return log.SetMeta(tx, "clock", []byte("seven b")) })
	if _, err := log.LoadClock(ctx); sdk.CodeOf(err) != sdk.CodeInternal {
		t.Errorf("a damaged clock: %v", err)
	}
	write(t, db, func(tx *database.Tx) error { return log.SetMeta(tx, "library", []byte("home")) })
	if value, err := log.Meta(ctx, "library"); string(value) != "home" || err != nil {
		t.Errorf("library %q, %v", value, err)
	}
	if value, err := log.Meta(ctx, "none"); value != nil || err != nil {
		t.Errorf("none %q, %v", value, err)
	}
}

// errUndo is returned by a write that is to leave nothing behind.
var errUndo = errors.New("undo this")

// undone does what fn does and undoes it.
func undone(tb testing.TB, db *database.DB, fn func(*database.Tx) error) {
	tb.Helper()
	err := db.Write(context.Background(), func(tx *database.Tx) error {
		if err := fn(tx); err != nil {
			return err
		}
		return errUndo
	})
	if !errors.Is(err, errUndo) {
		tb.Fatal(err)
	}
}

// openMemory is open without a disk, for random histories. It is real SQLite too.
func openMemory(tb testing.TB, image []byte) (*database.DB, *peerlog.Log) {
	tb.Helper()
	if databasetest.OnPostgres() && image == nil {
		db := databasetest.Open(tb, database.Options{Dir: tb.TempDir(), Readers: 1})
		return db, peerlog.New(db)
	}
	db, err := database.OpenMemory(context.Background(), image, nil)
	if err != nil {
		tb.Fatal(err)
	}
	return db, peerlog.New(db)
}

func BenchmarkLog_Append(b *testing.B) {
	for _, n := range []int{1, 1000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			db, log := open(b)
			at := hlc.Stamp(1 << 50)
			for b.Loop() {
				ops := batch("tag", at, n)
				at += hlc.Stamp(n)
				write(b, db, func(tx *database.Tx) error { return log.Append(tx, sdk.DeviceID{1}, []sdk.Batch{ops}) })
			}
		})
	}
}

func len0(batches ...sdk.Batch) (n int) {
	for i := range batches {
		n += batches[i].Count
	}
	return n
}
