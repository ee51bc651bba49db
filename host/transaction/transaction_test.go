package transaction_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/database/databasetest"
	"github.com/starling-sync/starling/host/history"
	"github.com/starling-sync/starling/host/transaction"
	"github.com/starling-sync/starling/sdk"
)

// prepared writes as many changes as its batches count, and refuses what it is told to.
type prepared struct {
	batches []sdk.Batch
	refuse  []sdk.Refusal
	err     error
}

func (p *prepared) Write(tx *database.Tx, next func() hlc.Stamp) (stored []sdk.Batch, refused [][]sdk.Refusal, err error) {
	if p.err != nil {
		return nil, nil, p.err
	}
	for _, b := range p.batches {
		out := sdk.Batch{Model: b.Model}
		for range b.Count - len(p.refuse) {
			stamp := next()
			if _, err := tx.Exec("INSERT INTO written (stamp) VALUES (?)", int64(stamp)); err != nil {
				return nil, nil, err
			}
			out.Rows = sdk.AppendStateHeader(out.Rows, sdk.RecordID{1}, stamp, -1)
			out.Count++
		}
		stored, refused = append(stored, out), append(refused, p.refuse)
	}
	return stored, refused, nil
}

// journal keeps positions in a table, as the peer log does.
type journal struct{ appended int }

func (j *journal) Append(*database.Tx, sdk.DeviceID, []sdk.Batch) error { j.appended++; return nil }

func (j *journal) Extend(tx *database.Tx, stream history.Stream, epoch history.EpochID, first, last hlc.Stamp) (from hlc.Stamp, opened *history.Epoch, heads history.Heads, err error) {
	var raw []byte
	found, err := tx.One("SELECT epoch, stamp FROM mark WHERE kind = ?", []any{string(stream.Kind)}, &raw, &from)
	if err != nil {
		return 0, nil, nil, err
	}
	if first <= from {
		return 0, nil, nil, sdk.Errorf(sdk.CodeInternal, "%s is not after %s", first, from)
	}
	if !found || history.EpochID(raw) != epoch {
		opened = &history.Epoch{ID: epoch, Stream: stream, Since: first - 1}
		if found {
			opened.Parents = history.At(history.EpochID(raw), from)
		}
	}
	_, err = tx.Exec("INSERT INTO mark (kind, epoch, stamp) VALUES (?, ?, ?) ON CONFLICT (kind) DO UPDATE SET epoch = excluded.epoch, stamp = excluded.stamp",
		string(stream.Kind), epoch[:], int64(last))
	return from, opened, history.At(epoch, last), err
}

type fixture struct {
	db      *database.DB
	manager *transaction.Manager
	journal journal
	last    hlc.Stamp // that was drawn
	prepare func(kind sdk.Ownership, batches []sdk.Batch) (transaction.Prepared, error)

	mu   sync.Mutex
	told []transaction.Committed
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	db := databasetest.Open(t, database.Options{Dir: t.TempDir(), Durability: database.Normal})
	f := &fixture{db: db}
	err := db.Write(context.Background(), func(tx *database.Tx) error {
		number, bytes, options := tx.Dialect().Type(sdk.Int), tx.Dialect().Type(sdk.Bytes), tx.Dialect().TableOptions()
		return errors.Join(tx.Run("CREATE TABLE written (stamp "+number+")"+options),
			tx.Run("CREATE TABLE mark (kind TEXT PRIMARY KEY, epoch "+bytes+", stamp "+number+")"+options))
	})
	if err != nil {
		t.Fatal(err)
	}
	f.prepare = func(_ sdk.Ownership, batches []sdk.Batch) (transaction.Prepared, error) {
		return &prepared{batches: batches}, nil
	}
	f.last = 100
	f.start(history.EpochID{9})
	return f
}

// start makes the manager of a start of the device.
func (f *fixture) start(epoch history.EpochID) {
	f.manager = transaction.New(transaction.Options{
		DB: f.db, Self: sdk.DeviceID{1}, Epoch: epoch, Journal: &f.journal, Next: func() hlc.Stamp { f.last++; return f.last },
		Prepare: func(_ context.Context, kind sdk.Ownership, batches []sdk.Batch) (transaction.Prepared, error) {
			return f.prepare(kind, batches)
		},
		Announce: func(c transaction.Committed) { f.mu.Lock(); f.told = append(f.told, c); f.mu.Unlock() },
	})
}

func (f *fixture) rows(t *testing.T) (n int) {
	t.Helper()
	err := f.db.Read(context.Background(), func(tx *database.Tx) error {
		_, err := tx.One("SELECT count(*) FROM written", nil, &n)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestManager_announcesInOrderWithoutGap(t *testing.T) {
	f := newFixture(t)
	kinds := []sdk.Ownership{sdk.DeviceOwned, sdk.SharedByAll}
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			result, err := f.manager.Commit(context.Background(), transaction.Request{Kind: kinds[i%2], Batches: []sdk.Batch{{Model: "m", Count: 3}}})
			if err != nil || result.Written != 3 || result.Last != result.First+2 {
				t.Errorf("got %+v, %v", result, err)
			}
		})
		if i%4 < 2 {
			wg.Go(func() {
				if err := f.manager.Seal(context.Background(), kinds[i%2]); err != nil {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	position, sealed := map[sdk.Ownership]hlc.Stamp{}, 0
	for _, c := range f.told {
		if len(c.Batches) == 0 {
			sealed++
		} else if c.Batches[0].Count != 3 {
			t.Errorf("announced %+v", c)
		}
		if c.From != position[c.Kind] || c.Through <= c.From || !c.Heads.Equal(history.At(history.EpochID{9}.Of(c.Kind), c.Through)) {
			t.Fatalf("announced %+v after %s", c, position[c.Kind])
		}
		if (c.Opened != nil) != (position[c.Kind] == 0) {
			t.Errorf("after %s: opened %v", position[c.Kind], c.Opened)
		}
		position[c.Kind] = c.Through
	}
	if n := f.rows(t); n != 600 || len(f.told) != 300 || sealed != 100 || f.journal.appended != 100 {
		t.Errorf("%d rows, %d announced, %d of them sealed, %d logged", n, len(f.told), sealed, f.journal.appended)
	}
}

// TestManager_epochs starts a device twice: each start opens an epoch of a stream with its first change or seal, which
// continues the one before. What fails opens none.
func TestManager_epochs(t *testing.T) {
	f := newFixture(t)
	stream := history.Stream{Origin: sdk.DeviceID{1}, Kind: sdk.SharedByAll}
	commit := func() {
		t.Helper()
		if _, err := f.manager.CommitShared(t.Context(), sdk.Batch{Model: "m", Count: 1}); err != nil {
			t.Fatal(err)
		}
	}
	seal := func() {
		t.Helper()
		if err := f.manager.Seal(t.Context(), sdk.SharedByAll); err != nil {
			t.Fatal(err)
		}
	}
	row := func(stamp hlc.Stamp) []sdk.Batch {
		return []sdk.Batch{{Model: "m", Count: 1, Rows: sdk.AppendStateHeader(nil, sdk.RecordID{1}, stamp, -1)}}
	}
	first, second := history.EpochID{9}.Of(sdk.SharedByAll), history.EpochID{20}.Of(sdk.SharedByAll)
	commit()
	seal()
	f.start(history.EpochID{20})
	f.prepare = func(sdk.Ownership, []sdk.Batch) (transaction.Prepared, error) {
		return &prepared{err: sdk.Errorf(sdk.CodeInvalid, "no")}, nil
	}
	if _, err := f.manager.CommitShared(t.Context(), sdk.Batch{Model: "m", Count: 1}); sdk.CodeOf(err) != sdk.CodeInvalid {
		t.Errorf("got %v, want it refused", err)
	}
	f.prepare = func(_ sdk.Ownership, batches []sdk.Batch) (transaction.Prepared, error) {
		return &prepared{batches: batches}, nil
	}
	seal()
	commit()
	want := []transaction.Committed{
		{Kind: sdk.SharedByAll, Heads: history.At(first, 101), Opened: &history.Epoch{ID: first, Stream: stream, Since: 100}, Through: 101, Batches: row(101)},
		{Kind: sdk.SharedByAll, Heads: history.At(first, 102), From: 101, Through: 102},
		{Kind: sdk.SharedByAll, Heads: history.At(second, 103), Opened: &history.Epoch{ID: second, Stream: stream, Parents: history.At(first, 102), Since: 102}, From: 102, Through: 103},
		{Kind: sdk.SharedByAll, Heads: history.At(second, 104), From: 103, Through: 104, Batches: row(104)},
	}
	if diff := cmp.Diff(want, f.told); diff != "" {
		t.Errorf("announced (-want +got)\n%s", diff)
	}
}

// TestManager_clockWentBack has a clock that draws what it drew before: nothing is written and nothing announced.
func TestManager_clockWentBack(t *testing.T) {
	f := newFixture(t)
	if err := f.manager.Seal(t.Context(), sdk.SharedByAll); err != nil {
		t.Fatal(err)
	}
	f.last = 99 // the next is 100, and 101 is used
	if err := f.manager.Seal(t.Context(), sdk.SharedByAll); sdk.CodeOf(err) != sdk.CodeInternal {
		t.Errorf("a seal: %v", err)
	}
	f.last = 99
	if _, err := f.manager.CommitShared(t.Context(), sdk.Batch{Model: "m", Count: 5}); sdk.CodeOf(err) != sdk.CodeInternal {
		t.Errorf("a commit whose last stamp is new, and whose first is not: %v", err)
	}
	if f.last = 101; len(f.told) != 1 || f.rows(t) != 0 {
		t.Errorf("%d announced, %d rows", len(f.told), f.rows(t))
	}
	if err := f.manager.Seal(t.Context(), sdk.SharedByAll); err != nil || f.told[1].From != 101 {
		t.Errorf("the next: %+v, %v", f.told, err)
	}
}

func TestManager_refusals(t *testing.T) {
	f := newFixture(t)
	no := sdk.Refusal{Index: 1, Code: sdk.CodeInvalid, Message: "no"}
	f.prepare = func(_ sdk.Ownership, batches []sdk.Batch) (transaction.Prepared, error) {
		return &prepared{batches: batches, refuse: []sdk.Refusal{no}}, nil
	}
	batches := []sdk.Batch{{Model: "m", Count: 2}, {Model: "m", Count: 2}}
	want := []transaction.Refusal{{Batch: 0, Refusal: no}, {Batch: 1, Refusal: no}}
	result, err := f.manager.Commit(context.Background(), transaction.Request{Kind: sdk.DeviceOwned, Batches: batches, AllOrNothing: true})
	if diff := cmp.Diff(transaction.Result{Refused: want}, result); diff != "" || err != nil || f.rows(t) != 0 || len(f.told) != 0 {
		t.Errorf("all or nothing: %v, %d rows, %d announced, %s", err, f.rows(t), len(f.told), diff)
	}
	result, err = f.manager.CommitDeviceOwned(context.Background(), batches...)
	if diff := cmp.Diff(want, result.Refused); diff != "" || err != nil || result.Written != 2 || f.rows(t) != 2 {
		t.Errorf("the others: %v, %+v, %s", err, result, diff)
	}
}

func TestManager_decidesAgain(t *testing.T) {
	f := newFixture(t)
	decided := 0
	f.prepare = func(_ sdk.Ownership, batches []sdk.Batch) (transaction.Prepared, error) {
		if decided++; decided < 3 {
			return &prepared{err: sdk.Errorf(sdk.CodeStale, "changed")}, nil
		}
		return &prepared{batches: batches}, nil
	}
	if result, err := f.manager.CommitShared(context.Background(), sdk.Batch{Model: "m", Count: 1}); err != nil || result.Written != 1 || decided != 3 {
		t.Errorf("got %+v, %v after %d decisions", result, err, decided)
	}
	f.prepare = func(sdk.Ownership, []sdk.Batch) (transaction.Prepared, error) {
		return &prepared{err: sdk.Errorf(sdk.CodeStale, "changed")}, nil
	}
	if _, err := f.manager.CommitShared(context.Background(), sdk.Batch{Model: "m", Count: 1}); sdk.CodeOf(err) != sdk.CodeStale {
		t.Errorf("got %v, want stale", err)
	}
	if result, err := f.manager.CommitShared(context.Background()); sdk.CodeOf(err) != sdk.CodeStale {
		t.Errorf("got %+v, %v", result, err)
	}
}

// contended writes once nothing was written since it was decided.
type contended struct {
	prepared
	version *int64 // of the one writer
	durable *atomic.Int64
	seen    int64
}

func (p *contended) Write(tx *database.Tx, next func() hlc.Stamp) (stored []sdk.Batch, refused [][]sdk.Refusal, err error) {
	if *p.version != p.seen {
		return nil, nil, sdk.Errorf(sdk.CodeStale, "changed")
	}
	*p.version++
	tx.AfterCommit(func() { p.durable.Add(1) })
	return p.prepared.Write(tx, next)
}

// TestManager_contention has many writers of one record, of whom each round has one winner.
func TestManager_contention(t *testing.T) {
	f := newFixture(t)
	const writers, each = 150, 2
	var version int64
	var durable, decided atomic.Int64
	f.prepare = func(_ sdk.Ownership, batches []sdk.Batch) (transaction.Prepared, error) {
		decided.Add(1)
		return &contended{prepared: prepared{batches: batches}, version: &version, durable: &durable, seen: durable.Load()}, nil
	}
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for range each {
				if _, err := f.manager.CommitShared(t.Context(), sdk.Batch{Model: "m", Count: 1}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := decided.Load(); version != writers*each || n > 10*writers*each {
		t.Errorf("%d commits took %d decisions", version, n)
	}
}

func TestManager_Turn(t *testing.T) {
	f := newFixture(t)
	f.prepare = func(_ sdk.Ownership, batches []sdk.Batch) (transaction.Prepared, error) {
		return &prepared{batches: batches}, nil
	}
	end, err := f.manager.Turn(t.Context(), "b", "a", "b")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, model := range []sdk.ModelName{"a", "b"} {
		if _, err := f.manager.Turn(ctx, "0", model); !errors.Is(err, context.Canceled) {
			t.Errorf("a second turn of %s at once: %v", model, err)
		}
		if _, err := f.manager.CommitShared(ctx, sdk.Batch{Model: "0"}, sdk.Batch{Model: model, Count: 1}); !errors.Is(err, context.Canceled) {
			t.Errorf("a commit of %s in the turn of another: %v", model, err)
		}
	}
	if _, err := f.manager.CommitShared(t.Context(), sdk.Batch{Model: "0", Count: 1}, sdk.Batch{Model: "c", Count: 1}); err != nil {
		t.Error(err)
	}
	end()
	if end, err = f.manager.Turn(t.Context(), "0", "a", "b"); err != nil {
		t.Fatal(err)
	}
	end()
}
