package peersync

import (
	"context"
	"maps"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/sdktest"
)

// smallPages makes snapshots of many pages.
func smallPages(o *Options) {
	o.Limits = protocol.DefaultLimits()
	o.Limits.PageBytes = 4 << 10
	o.Config.PruneTime, o.Config.SealTime, o.Config.AuditTime, o.Config.RetentionAge = 20*time.Millisecond, 20*time.Millisecond, 0, 0
}

func (h *host) commit(kind sdk.Ownership, writes ...write) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.engine.Committed(h.store.commitAll(kind, h.engine.options.Self.Epoch, h.clock.Now, writes))
}

func (h *host) floorOf(key protocol.Stream) hlc.Stamp {
	h.store.mu.Lock()
	defer h.store.mu.Unlock()
	return h.store.floors[key]
}

// TestEngine_Snapshot has a device come back when the other one, whose log has grown too large, keeps nothing of what it
// missed.
func TestEngine_Snapshot(t *testing.T) {
	network := sdktest.NewMemoryTransport()
	a, b := newHost(t, network, 1, smallPages), newHost(t, network, 2, smallPages)
	members := []Member{a.member(), b.member()}
	a.start(members...)
	b.start(members...)
	for _, kind := range kinds {
		a.write(kind, 0, 500, "before")
		b.write(kind, 600, 50, "before")
	}
	eventually(t, "both have everything", sameData(a, b))
	b.end()
	for _, kind := range kinds {
		for n := range 100 {
			a.commit(kind, write{n, sdk.Delete, ""})
		}
		a.write(kind, 300, 400, "after")
	}
	floors := map[protocol.Stream]hlc.Stamp{}
	for _, mark := range a.store.vector() {
		if mark.Origin == a.key.id() {
			floors[mark.Stream] = mark.Stamp
		}
	}
	for key, floor := range floors {
		eventually(t, "a has forgotten", func() bool {
			a.engine.Retain(floors) // until it is not busy with another look
			return a.floorOf(key) >= floor
		})
	}
	again := newHostOn(t, network, 2, 2, b.store, smallPages)
	again.start(members...)
	eventually(t, "both have the same records", func() bool { return equalDumps(a, again) })
	eventually(t, "both are live", func() bool {
		return a.stateOf(again).State == Live && again.stateOf(a).State == Live && again.engine.Status().Snapshots == 0
	})
	for key, floor := range floors {
		if got := again.floorOf(key); got < floor {
			t.Errorf("b keeps that it has nothing of %v up to %s; want %s", key, got, floor)
		}
	}
	a.write(sdk.SharedByAll, 10, 1, "live")
	again.write(sdk.DeviceOwned, 10, 1, "live")
	eventually(t, "they go on", sameData(a, again))
}

func equalDumps(hosts ...*host) bool {
	for _, h := range hosts[1:] {
		if len(h.store.dump()) == 0 || !equalLines(hosts[0].store.dump(), h.store.dump()) {
			return false
		}
	}
	return true
}

func equalLines(a, b []string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// TestEngine_Audit has a disk lose records without a trace: an audit finds it, repairs it, and says so.
func TestEngine_Audit(t *testing.T) {
	network := sdktest.NewMemoryTransport()
	a, b := newHost(t, network, 1, smallPages), newHost(t, network, 2, smallPages)
	members := []Member{a.member(), b.member()}
	a.start(members...)
	b.start(members...)
	for _, kind := range kinds {
		a.write(kind, 0, 300, "text")
		b.write(kind, 400, 30, "text")
	}
	eventually(t, "both have everything", sameData(a, b))
	want := a.store.dump()
	b.store.mu.Lock()
	for n := range 7 {
		b.store.dropRow(b.store.rows[recordID(sdk.DeviceOwned, a.key.id(), 10*n)])
		delete(b.store.records, recordID(sdk.SharedByAll, a.key.id(), 20*n))
	}
	b.store.mu.Unlock()
	a.engine.Audit(b.key.id())
	eventually(t, "b has everything again", func() bool { return equalLines(want, b.store.dump()) })
	eventually(t, "both know", func() bool {
		return b.engine.Status().Repairs == 14 && a.stateOf(b).Audit.Ranges > 0 && b.stateOf(a).Audit.Repaired == 14
	})
	if got := a.engine.Status(); got.Repairs != 0 || got.Lost || got.RunsTwice {
		t.Errorf("a: %+v; want nothing repaired there", got)
	}
	b.engine.Audit(sdk.DeviceID{})
	eventually(t, "nothing differs", func() bool { return b.stateOf(a).Audit.Ranges == 0 && !b.stateOf(a).Audit.At.IsZero() })
}

// TestEngine_KeepsAcknowledgements keeps what peers have, so that a restart does not hold back what may be forgotten.
func TestEngine_KeepsAcknowledgements(t *testing.T) {
	network := sdktest.NewMemoryTransport()
	a, b := newHost(t, network, 1, smallPages), newHost(t, network, 2, smallPages)
	members := []Member{a.member(), b.member()}
	a.start(members...)
	b.start(members...)
	a.write(sdk.SharedByAll, 0, 30, "text")
	a.commit(sdk.SharedByAll, write{3, sdk.Delete, ""})
	key := protocol.Stream{Origin: a.key.id(), Kind: sdk.SharedByAll}
	kept := func() bool {
		a.store.mu.Lock()
		defer a.store.mu.Unlock()
		return len(a.store.heads[key]) > 0 && a.store.acks[b.key.id()][key].Equal(a.store.heads[key])
	}
	eventually(t, "a keeps what b has", kept)
	eventually(t, "a forgets the deleted record", func() bool {
		_, shadows, entries := a.store.remembered()
		return shadows == 0 && entries == 0
	})
	a.end()
	b.end()
	again := newHostOn(t, network, 1, 2, a.store, smallPages)
	again.start(members...)
	if got := again.engine.AcknowledgedBy(b.key.id()); !got[key].Equal(a.store.heads[key]) {
		t.Errorf("after a restart b is known to have %v; want %v", got[key], a.store.heads[key])
	}
}

// forgetfulKeeper fails to keep acknowledgements a few times.
type forgetfulKeeper struct {
	*memoryStore
	fails     atomic.Int32
	meanwhile func() // before it fails
}

func (k *forgetfulKeeper) Acknowledge(ctx context.Context, acks []Acknowledged) error {
	if k.fails.Add(-1) >= 0 {
		k.meanwhile()
		return sdk.Errorf(sdk.CodeUnavailable, "the disk is full")
	}
	return k.memoryStore.Acknowledge(ctx, acks)
}

// TestEngine_KeepsAcknowledgementsLater could not keep what a peer has, which says it once: it is kept as soon as that is possible,
// and so is what has come meanwhile.
func TestEngine_KeepsAcknowledgementsLater(t *testing.T) {
	network := sdktest.NewMemoryTransport()
	a, b := newHost(t, network, 1, smallPages), newHost(t, network, 2, smallPages)
	keeper := &forgetfulKeeper{memoryStore: a.store}
	keeper.fails.Store(1 << 30)
	third := protocol.Stream{Origin: deviceID(9), Kind: sdk.SharedByAll}
	keeper.meanwhile = sync.OnceFunc(func() {
		a.engine.learn(Acknowledged{Peer: third.Origin, Heads: map[protocol.Stream]protocol.Heads{third: at(5)}})
	})
	a.engine.options.Keeper = keeper
	members := []Member{a.member(), b.member()}
	a.start(members...)
	b.start(members...)
	a.write(sdk.SharedByAll, 0, 3, "text")
	eventually(t, "b has it", sameData(a, b))
	tries := func() int32 { return 1<<30 - keeper.fails.Load() }
	once := tries()
	eventually(t, "it is tried again", func() bool { return tries() > once+2 })
	a.write(sdk.DeviceOwned, 0, 3, "text")
	eventually(t, "b has it", sameData(a, b))
	keeper.fails.Store(0)
	eventually(t, "a keeps what b has", func() bool {
		a.store.mu.Lock()
		defer a.store.mu.Unlock()
		for _, kind := range kinds {
			key := protocol.Stream{Origin: a.key.id(), Kind: kind}
			if len(a.store.heads[key]) == 0 || !a.store.acks[b.key.id()][key].Equal(a.store.heads[key]) {
				return false
			}
		}
		return a.store.acks[third.Origin][third].Equal(at(5))
	})
}

// slowStore does nothing until it is told to stop.
type slowStore struct{ *memoryStore }

func (s slowStore) wait(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

func (s slowStore) ReadRange(ctx context.Context, _ ReadRange) (protocol.SnapshotPage, error) {
	return protocol.SnapshotPage{}, s.wait(ctx)
}
func (s slowStore) TakeRange(ctx context.Context, _ TakeRange) (Taken, error) {
	return Taken{}, s.wait(ctx)
}
func (s slowStore) Digests(ctx context.Context) ([]ModelDigests, error)     { return nil, s.wait(ctx) }
func (s slowStore) Acknowledge(ctx context.Context, _ []Acknowledged) error { return s.wait(ctx) }
func (s slowStore) Prune(ctx context.Context, _ Prune) error                { return s.wait(ctx) }
func (s slowStore) Seal(ctx context.Context) error                          { return s.wait(ctx) }

// TestEngine_StopsAtOnce stops while everything that a store is asked for is under way: Run ends it all (and goleak looks).
func TestEngine_StopsAtOnce(t *testing.T) {
	network := sdktest.NewMemoryTransport()
	a, b := newHost(t, network, 1, smallPages), newHost(t, network, 2, smallPages)
	for _, h := range []*host{a, b} {
		slow := slowStore{h.store}
		h.engine.options.Ranges, h.engine.options.Keeper = slow, slow
	}
	members := []Member{a.member(), b.member()}
	a.start(members...)
	b.start(members...)
	a.write(sdk.SharedByAll, 0, 10, "text")
	eventually(t, "b has it", func() bool { return len(b.store.dump()) == 10 })
	a.engine.Audit(sdk.DeviceID{})
	a.engine.stepMu.Lock()
	for _, s := range a.engine.machine.sessionList {
		for i := range uint32(rangesAtOnce) {
			for _, action := range a.engine.machine.Step(time.Now(), Received{Session: s.id, Message: &protocol.SnapshotRequest{Number: i, Kind: sdk.SharedByAll}}) {
				a.engine.act(action)
			}
		}
	}
	a.engine.stepMu.Unlock()
	a.engine.act(TakeRange{})
	a.end()
	b.end()
}

// TestCommitQueue holds what fits, and then only how far each stream is and which epochs were opened.
func TestCommitQueue(t *testing.T) {
	q := commitQueue{limit: 1000, wake: make(chan struct{}, 1)}
	key := protocol.Stream{Origin: deviceID(0), Kind: sdk.SharedByAll}
	for i := range 10 {
		page := protocol.Page{Stream: key, Heads: at(hlc.Stamp(i + 1)), Through: hlc.Stamp(i + 1), Batches: []sdk.Batch{{Rows: make([]byte, 150)}}}
		if i%4 == 3 {
			page.Epochs = []protocol.Epoch{{ID: protocol.EpochID{byte(i)}, Stream: key}}
		}
		q.add(page)
	}
	q.add(protocol.Page{Stream: key, Heads: at(11), Through: 11}) // would fit, and comes after what does not
	pages, advanced := q.take()
	if len(pages) == 0 || len(pages) > 5 || len(advanced) != 1 || !at(11).Equal(protocol.Heads{advanced[0].Mark.Position}) || len(advanced[0].Opened) != 2 {
		t.Errorf("%d pages, then %+v; want what fits, then how far it is and the two epochs of the rest", len(pages), advanced)
	}
	if pages, advanced = q.take(); len(pages)+len(advanced) > 0 {
		t.Errorf("taken twice: %d pages, %+v", len(pages), advanced)
	}
	if maps.Clone(q.marks) != nil {
		t.Error("marks are kept")
	}
}

// TestMemoryStore_Floors has the store of the tests refuse to read operations from below a floor, as the real one does.
func TestMemoryStore_Floors(t *testing.T) {
	store := newMemoryStore(deviceID(0))
	clock := hlc.NewClock(time.Now, 0, 0)
	page := store.commit(sdk.SharedByAll, protocol.EpochID{1}, clock.Now, 0, 5, "text")
	floor := page.Through - 1
	if err := store.Prune(t.Context(), Prune{Floors: map[protocol.Stream]hlc.Stamp{page.Stream: floor}}); err != nil {
		t.Fatal(err)
	}
	floor = store.floors[page.Stream]
	if _, _, err := store.ReadPage(t.Context(), page.Stream, floor-1, 1000); sdk.CodeOf(err) != sdk.CodePruned {
		t.Errorf("below the floor: %v; want code %s", err, sdk.CodePruned)
	}
	if got, _, err := store.ReadPage(t.Context(), page.Stream, floor, 1000); err != nil || got.Rows() != 1 {
		t.Errorf("at the floor: %d operations, %v; want one", got.Rows(), err)
	}
}
