package peerlog_test

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/database/databasetest"
	"github.com/starling-sync/starling/host/history"
	"github.com/starling-sync/starling/host/peerlog"
	"github.com/starling-sync/starling/sdk"
)

func epochID(n int) history.EpochID { return history.EpochID{0: byte(n >> 8), 15: byte(n)} }

func shared(n byte) history.Stream {
	return history.Stream{Origin: sdk.DeviceID{n}, Kind: sdk.SharedByAll}
}
func owned(n byte) history.Stream {
	return history.Stream{Origin: sdk.DeviceID{n}, Kind: sdk.DeviceOwned}
}

func TestLog_SetHeads(t *testing.T) {
	db, log := open(t)
	ctx := context.Background()
	first := history.Epoch{ID: epochID(1), Stream: shared(7)}
	second := history.Epoch{ID: epochID(2), Stream: shared(7), Parents: history.Heads{{Epoch: epochID(1), Stamp: 4}, {Epoch: epochID(9), Stamp: hlc.MaxStamp}}, Since: hlc.MaxStamp - 1}
	other := history.Epoch{ID: epochID(1).Of(sdk.DeviceOwned), Stream: owned(7)}
	other.ID[1] = 1
	branches := history.Heads{{Epoch: epochID(1), Stamp: 6}, {Epoch: epochID(2), Stamp: 12}}
	for range 2 { // the second time changes nothing
		write(t, db, func(tx *database.Tx) error {
			return log.SetHeads(tx, shared(7), branches, []history.Epoch{first, second})
		})
		write(t, db, func(tx *database.Tx) error {
			return log.SetHeads(tx, owned(7), history.At(other.ID, 3), []history.Epoch{other})
		})
		undone(t, db, func(tx *database.Tx) error { return log.SetHeads(tx, shared(7), nil, nil) })
	}
	changed := second
	changed.Parents = nil
	write(t, db, func(tx *database.Tx) error {
		return log.SetHeads(tx, shared(7), branches, []history.Epoch{changed})
	})
	vector, err := log.Watermarks(ctx)
	if diff := cmp.Diff(map[history.Stream]history.Heads{shared(7): branches, owned(7): history.At(other.ID, 3)}, vector); diff != "" || err != nil {
		t.Errorf("watermarks: %v %s", err, diff)
	}
	epochs, err := log.Epochs(ctx)
	if diff := cmp.Diff([]history.Epoch{first, second, other}, epochs); diff != "" || err != nil {
		t.Errorf("epochs: %v %s", err, diff)
	}
	read(t, db, func(tx *database.Tx) error {
		graph, err := log.Graph(tx, shared(7))
		if graph.Len() != 2 || !graph.Covers(branches, history.Position{Epoch: epochID(9), Stamp: 5}) || graph.Covers(branches[:1], branches[1]) {
			t.Errorf("a graph of %d epochs, %v", graph.Len(), err)
		}
		heads, err := log.Heads(tx, shared(8))
		if heads != nil || err != nil {
			t.Errorf("heads of an unknown stream: %v, %v", heads, err)
		}
		return nil
	})
	write(t, db, func(tx *database.Tx) error { return log.ForgetEpochs(tx, []history.EpochID{epochID(1), epochID(5)}) })
	epochs, err = log.Epochs(ctx)
	if diff := cmp.Diff([]history.Epoch{second, other}, epochs); diff != "" || err != nil {
		t.Errorf("epochs after one was forgotten: %v %s", err, diff)
	}
	write(t, db, func(tx *database.Tx) error { return log.SetHeads(tx, shared(7), nil, nil) })
	vector, err = log.Watermarks(ctx)
	if diff := cmp.Diff(map[history.Stream]history.Heads{owned(7): history.At(other.ID, 3)}, vector); diff != "" || err != nil {
		t.Errorf("watermarks after one went: %v %s", err, diff)
	}
}

func read(tb testing.TB, db *database.DB, fn func(*database.Tx) error) {
	tb.Helper()
	if err := db.Read(context.Background(), fn); err != nil {
		tb.Fatal(err)
	}
}

func drawHeads(rt *rapid.T, label string) history.Heads {
	return history.Normal(rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) history.Position {
		return history.Position{
			Epoch: epochID(rapid.IntRange(0, 600).Draw(rt, "epoch")),
			Stamp: hlc.Stamp(rapid.Uint64Range(0, uint64(hlc.MaxStamp)).Draw(rt, "stamp")),
		}
	}), 0, 4).Draw(rt, label))
}

// TestLog_headsRoundTrip sets watermarks and acknowledgements at random: what was set last is read.
func TestLog_headsRoundTrip(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		db, log := openMemory(t, nil)
		defer db.Close()
		streams := []history.Stream{shared(1), owned(1), shared(2), owned(3)}
		vector := make(map[history.Stream]history.Heads)
		acks := make(map[sdk.DeviceID]map[history.Stream]history.Heads)
		for range rapid.IntRange(1, 20).Draw(rt, "steps") {
			stream, heads := rapid.SampledFrom(streams).Draw(rt, "stream"), drawHeads(rt, "heads")
			peer := sdk.DeviceID{rapid.Byte().Draw(rt, "peer") % 3}
			switch rapid.SampledFrom([]string{"set", "ack", "forget"}).Draw(rt, "step") {
			case "set":
				write(t, db, func(tx *database.Tx) error { return log.SetHeads(tx, stream, heads, nil) })
				put(vector, stream, heads)
			case "ack":
				write(t, db, func(tx *database.Tx) error { return log.Acknowledge(tx, peer, stream, heads) })
				if acks[peer] == nil {
					acks[peer] = make(map[history.Stream]history.Heads)
				}
				if put(acks[peer], stream, heads); len(acks[peer]) == 0 {
					delete(acks, peer)
				}
			case "forget":
				write(t, db, func(tx *database.Tx) error { return log.ForgetAcknowledgements(tx, peer) })
				delete(acks, peer)
			}
		}
		got, err := log.Watermarks(t.Context())
		if diff := cmp.Diff(vector, got); diff != "" || err != nil {
			rt.Errorf("watermarks: %v %s", err, diff)
		}
		gotAcks, err := log.Acknowledgements(t.Context())
		if diff := cmp.Diff(acks, gotAcks); diff != "" || err != nil {
			rt.Errorf("acknowledgements: %v %s", err, diff)
		}
		read(t, db, func(tx *database.Tx) error {
			for _, stream := range streams {
				if heads, err := log.Heads(tx, stream); !heads.Equal(vector[stream]) || err != nil {
					rt.Errorf("heads %v, want %v, %v", heads, vector[stream], err)
				}
			}
			return nil
		})
	})
}

func put(vector map[history.Stream]history.Heads, stream history.Stream, heads history.Heads) {
	if vector[stream] = heads; len(heads) == 0 {
		delete(vector, stream)
	}
}

// extend extends the own stream as a commit does.
func extend(tb testing.TB, db *database.DB, log *peerlog.Log, stream history.Stream, epoch history.EpochID, stamp hlc.Stamp) (from hlc.Stamp, opened *history.Epoch, heads history.Heads) {
	tb.Helper()
	write(tb, db, func(tx *database.Tx) (err error) {
		from, opened, heads, err = log.Extend(tx, stream, epoch, stamp, stamp)
		return err
	})
	return from, opened, heads
}

func TestLog_Extend(t *testing.T) {
	db, log := open(t)
	own, a, b, c, foreign := owned(1), epochID(1), epochID(2), epochID(3), epochID(4)
	want := func(what string, from hlc.Stamp, opened *history.Epoch, heads history.Heads) func(hlc.Stamp, *history.Epoch, history.Heads) {
		return func(gotFrom hlc.Stamp, gotOpened *history.Epoch, gotHeads history.Heads) {
			t.Helper()
			if diff := cmp.Diff(opened, gotOpened) + cmp.Diff(heads, gotHeads); diff != "" || from != gotFrom {
				t.Errorf("%s: from %s, want %s (-want +got)\n%s", what, gotFrom, from, diff)
			}
			read(t, db, func(tx *database.Tx) error {
				if stored, err := log.Heads(tx, own); err != nil || !stored.Equal(heads) {
					t.Errorf("%s: %v are stored, want %v, %v", what, stored, heads, err)
				}
				return nil
			})
		}
	}
	want("the first change", 0, &history.Epoch{ID: a, Stream: own, Since: 4}, history.At(a, 5))(extend(t, db, log, own, a, 5))
	want("the next", 5, nil, history.At(a, 7))(extend(t, db, log, own, a, 7))
	want("the next start", 7, &history.Epoch{ID: b, Stream: own, Parents: history.At(a, 7), Since: 8}, history.At(b, 9))(extend(t, db, log, own, b, 9))

	// It was started from a copy elsewhere, whose epoch continues the first one.
	branch := history.Epoch{ID: foreign, Stream: own, Parents: history.At(a, 7)}
	both := history.Heads{{Epoch: b, Stamp: 9}, {Epoch: foreign, Stamp: 11}}
	write(t, db, func(tx *database.Tx) error { return log.SetHeads(tx, own, both, []history.Epoch{branch}) })
	for _, stamp := range []hlc.Stamp{8, 11} {
		err := db.Write(t.Context(), func(tx *database.Tx) error {
			_, _, _, err := log.Extend(tx, own, b, stamp, 30)
			return err
		})
		if sdk.CodeOf(err) != sdk.CodeInternal {
			t.Errorf("a stamp %s that is not after the other branch: %v", stamp, err)
		}
	}
	both = history.Heads{{Epoch: b, Stamp: 12}, {Epoch: foreign, Stamp: 11}}
	want("beside a branch", 9, nil, both)(extend(t, db, log, own, b, 12))
	want("the start after it", 12, &history.Epoch{ID: c, Stream: own, Parents: both, Since: 19}, history.At(c, 20))(extend(t, db, log, own, c, 20))

	// The other copy has gone on from where this one stands, and this one does not know of a new start.
	later := history.Epoch{ID: epochID(5), Stream: own, Parents: history.At(c, 20)}
	write(t, db, func(tx *database.Tx) error {
		return log.SetHeads(tx, own, history.At(later.ID, 30), []history.Epoch{later})
	})
	want("an epoch that another start continues", 20, nil, history.Heads{{Epoch: c, Stamp: 31}, {Epoch: later.ID, Stamp: 30}})(extend(t, db, log, own, c, 31))
}

// copyOfDevice is one of several hosts that run as the same device.
type copyOfDevice struct {
	db    *database.DB
	log   *peerlog.Log
	epoch history.EpochID
	clock hlc.Stamp
	has   map[history.Position]bool // every stamp of the stream that it really has
}

// TestLog_ExtendBranches runs a device several times at once, from copies of its database, and lets the copies pull
// from one another: the heads say what a copy has, no more and no less; and the next start continues all.
func TestLog_ExtendBranches(t *testing.T) {
	databasetest.SQLiteOnly(t, "it copies images of databases")
	rapid.Check(t, func(rt *rapid.T) {
		epochs := 0
		start := func(c *copyOfDevice) { epochs++; c.epoch = epochID(epochs) }
		first := &copyOfDevice{has: make(map[history.Position]bool)}
		first.db, first.log = openMemory(t, nil)
		start(first)
		copies := []*copyOfDevice{first}
		defer func() {
			for _, c := range copies {
				c.db.Close()
			}
		}()
		for range rapid.IntRange(10, 60).Draw(rt, "steps") {
			c := rapid.SampledFrom(copies).Draw(rt, "copy")
			switch step := rapid.SampledFrom([]string{"copy", "extend", "pull", "extend", "pull", "start"}).Draw(rt, "step"); {
			case step == "extend":
				c.extend(rt, t, rapid.Uint64Range(1, 3).Draw(rt, "by"))
			case step == "start":
				start(c)
			case step == "copy" && len(copies) < 3:
				copies = append(copies, c.copy(t))
				if rapid.IntRange(0, 2).Draw(rt, "started") == 2 { // or else the copy runs in the same epoch until it is
					start(copies[len(copies)-1])
				}
				start(c) // two that write in one epoch make positions that mean different things: each start has its own
			case step == "pull":
				c.pull(t, rapid.SampledFrom(copies).Draw(rt, "from"))
			}
			for _, c := range copies {
				c.check(rt, t, copies)
			}
		}
		last := copies[0]
		for _, c := range copies {
			last.pull(t, c)
		}
		start(last)
		if last.extend(rt, t, 1); len(last.heads(t)) != 1 {
			rt.Errorf("the next start has %v", last.heads(t))
		}
		last.check(rt, t, copies)
	})
}

func (c *copyOfDevice) copy(t *testing.T) *copyOfDevice {
	t.Helper()
	image, err := c.db.Image()
	if err != nil {
		t.Fatal(err)
	}
	other := &copyOfDevice{epoch: c.epoch, clock: c.clock, has: make(map[history.Position]bool)}
	for p := range c.has {
		other.has[p] = true
	}
	other.db, other.log = openMemory(t, image)
	return other
}

func (c *copyOfDevice) heads(t *testing.T) (heads history.Heads) {
	t.Helper()
	read(t, c.db, func(tx *database.Tx) (err error) {
		heads, err = c.log.Heads(tx, owned(1))
		return err
	})
	return heads
}

func (c *copyOfDevice) graph(t *testing.T) (graph *history.Graph) {
	t.Helper()
	read(t, c.db, func(tx *database.Tx) (err error) {
		graph, err = c.log.Graph(tx, owned(1))
		return err
	})
	return graph
}

func (c *copyOfDevice) extend(rt *rapid.T, t *testing.T, by uint64) {
	t.Helper()
	before := c.heads(t)
	_, known := c.graph(t).Epoch(c.epoch)
	c.clock += hlc.Stamp(by)
	undone(t, c.db, func(tx *database.Tx) error {
		_, _, _, err := c.log.Extend(tx, owned(1), c.epoch, c.clock, c.clock)
		return err
	})
	from, opened, heads := extend(t, c.db, c.log, owned(1), c.epoch, c.clock)
	c.has[history.Position{Epoch: c.epoch, Stamp: c.clock}] = true
	graph := c.graph(t)
	low := graph.Low(before, history.At(c.epoch, c.clock))
	switch {
	case known != (opened == nil):
		rt.Fatalf("opened %v an epoch that was known: %v", opened, known)
	case opened != nil && (!opened.Parents.Equal(before) || opened.ID != c.epoch || opened.Since != c.clock-1):
		rt.Fatalf("opened %v after %v", opened, before)
	case from > low || from < low && opened == nil:
		rt.Fatalf("from %s; who has %v has %v up to %s", from, before, c.clock, low)
	case !heads.Equal(c.heads(t)) || !heads.Equal(graph.Join(nil, heads)):
		rt.Fatalf("heads %v; %v are stored", heads, c.heads(t))
	}
}

// pull takes in all that other has.
func (c *copyOfDevice) pull(t *testing.T, other *copyOfDevice) {
	t.Helper()
	epochs, err := other.log.Epochs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	graph := c.graph(t)
	for i := range epochs {
		graph.Add(epochs[i])
	}
	joined := graph.Join(c.heads(t), other.heads(t))
	write(t, c.db, func(tx *database.Tx) error { return c.log.SetHeads(tx, owned(1), joined, epochs) })
	for p := range other.has {
		c.has[p] = true
	}
	c.clock = max(c.clock, other.heads(t).Top())
}

// check compares what the heads of c cover with what it has, of all that was written anywhere.
func (c *copyOfDevice) check(rt *rapid.T, t *testing.T, all []*copyOfDevice) {
	t.Helper()
	heads, graph := c.heads(t), c.graph(t)
	for _, other := range all {
		for p := range other.has {
			if graph.Covers(heads, p) != c.has[p] {
				rt.Fatalf("%v cover %v: %v; it is there: %v", heads, p, !c.has[p], c.has[p])
			}
		}
	}
	for _, p := range heads {
		if !c.has[p] {
			rt.Fatalf("%v has a position that nobody wrote: %s", heads, fmt.Sprint(p))
		}
	}
	if !slices.IsSortedFunc(heads, func(a, b history.Position) int { return slices.Compare(a.Epoch[:], b.Epoch[:]) }) {
		rt.Fatalf("%v are not in order", heads)
	}
}
