package replica_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/database/databasetest"
	"github.com/starling-sync/starling/host/history"
	"github.com/starling-sync/starling/host/peerlog"
	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/host/registry"
	"github.com/starling-sync/starling/host/replica"
	"github.com/starling-sync/starling/host/transaction"
	"github.com/starling-sync/starling/sdk"
)

// Tag is a shared model.
type Tag struct {
	sdk.Shared
	Name string `starling:"name"`
}

// busy writes a record locally, each time that a page with it is being decided.
type busy struct {
	sdk.Model[Tag]
	times int
	write func() error
}

func (b *busy) ApplySharedChange(ctx context.Context, in sdk.SharedChanges) (sdk.SharedResult, error) {
	if !in.Local && b.times > 0 {
		b.times--
		if err := b.write(); err != nil {
			return sdk.SharedResult{}, err
		}
	}
	return b.Model.ApplySharedChange(ctx, in)
}

// TestPages_busyRecord wants a page to be applied although local writers are ahead of it again and again.
func TestPages_busyRecord(t *testing.T) {
	ctx := t.Context()
	db := open(t)
	journal := peerlog.New(db)
	clock, err := replica.Clock(ctx, db, journal, time.Now, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	r, err := registry.New(ctx, registry.Options{DB: db, Self: sdk.DeviceID{1}})
	if err != nil {
		t.Fatal(err)
	}
	manager := transaction.New(transaction.Options{DB: db, Self: sdk.DeviceID{1}, Next: clock.Now, Journal: journal, Prepare: replica.PrepareLocal(r)})
	model := sdk.Model[Tag]{Name: "tag", Version: 1}
	change := func(kind sdk.OpKind, stamp hlc.Stamp) sdk.Batch {
		b := sdk.Batch{Model: "tag", Version: 1, Columns: []string{"name"}, Count: 1}
		b.Rows = sdk.AppendOpField(sdk.AppendOpHeader(nil, sdk.RecordID{7}, stamp, kind, 1), 0, stamp.String(), 0)
		return b
	}
	turns := 0
	var late sync.WaitGroup
	var inTurn, done atomic.Int32
	server := &busy{Model: model, times: 10, write: func() error {
		if turns == 0 {
			_, err := manager.CommitShared(ctx, change(sdk.Update, 0))
			return err
		}
		inTurn.Add(1)
		late.Go(func() {
			if _, err := manager.CommitShared(ctx, change(sdk.Update, 0)); err != nil {
				t.Error(err)
			}
			done.Add(1)
		})
		return nil
	}}
	if _, err := r.Add(ctx, server); err != nil {
		t.Fatal(err)
	}
	if _, err := manager.CommitShared(ctx, change(sdk.Insert, 0)); err != nil {
		t.Fatal(err)
	}
	pages := &replica.Pages{DB: db, Registry: r, Journal: journal, Clock: clock, Turn: func(ctx context.Context, models ...sdk.ModelName) (func(), error) {
		end, err := manager.Turn(ctx, models...)
		turns++
		return func() {
			if done.Load() > 0 {
				t.Error("a local writer got ahead of a page in its turn")
			}
			end()
		}, err
	}}
	stamp := clock.Now()
	page := protocol.Page{
		Stream: protocol.Stream{Origin: sdk.DeviceID{2}, Kind: sdk.SharedByAll}, Heads: history.At(history.EpochID{2}, stamp), Through: stamp, Head: stamp, Batches: []sdk.Batch{change(sdk.Update, stamp)},
	}
	prepared, err := pages.Prepare(ctx, page)
	if err != nil {
		t.Fatal(err)
	}
	if err := prepared.Commit(ctx); err != nil || turns != 1 || inTurn.Load() == 0 {
		t.Errorf("%v after %d turns, in which %d wanted to write", err, turns, inTurn.Load())
	}
	late.Wait()
	if end, err := manager.Turn(ctx, "tag"); err != nil { // it has been given back
		t.Error(err)
	} else {
		end()
	}
}

func open(t *testing.T) *database.DB {
	t.Helper()
	return databasetest.Open(t, database.Options{Dir: t.TempDir(), Durability: database.Normal})
}

// TestClock_continuesAfterWatermarks has a database whose mark is behind what was used.
func TestClock_continuesAfterWatermarks(t *testing.T) {
	db := open(t)
	journal := peerlog.New(db)
	used := hlc.New(60_000, 3)
	err := db.Write(t.Context(), func(tx *database.Tx) error {
		if err := journal.StoreClock(tx, 5); err != nil {
			return err
		}
		return journal.SetHeads(tx, history.Stream{Origin: sdk.DeviceID{1}, Kind: sdk.SharedByAll}, history.At(history.EpochID{1}, used), nil)
	})
	if err != nil {
		t.Fatal(err)
	}
	clock, err := replica.Clock(t.Context(), db, journal, func() time.Time { return time.UnixMilli(10_000) }, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if clock.Ahead() != 50*time.Second || clock.Now() <= used {
		t.Errorf("ahead by %s, draws %s", clock.Ahead(), clock.Now())
	}
}
