package history

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/sdk"
)

// pos is a position in the epoch of that number.
func pos(epoch byte, stamp hlc.Stamp) Position { return Position{EpochID{epoch}, stamp} }

// graphOf returns a graph of epochs 1, 2, ... that continue these.
func graphOf(parents ...Heads) *Graph {
	g := new(Graph)
	for i, h := range parents {
		g.Add(Epoch{ID: EpochID{byte(i + 1)}, Parents: h})
	}
	return g
}

// TestGraph reads as examples of what the laws of the algebra say.
func TestGraph(t *testing.T) {
	//   1 ---- 10 ---- 30
	//           \
	//            2 ---- 20       restored from a copy of 10
	//                     \
	//   30, 20 ------------ 3 ---- 40
	g := graphOf(nil, Heads{pos(1, 10)}, Heads{pos(1, 30), pos(2, 20)})
	cases := []struct {
		name      string
		h, k      Heads
		covers    bool
		low       hlc.Stamp
		join      Heads
		until     hlc.Stamp
		wantUntil Heads // of k
	}{
		{"nothing and nothing", nil, nil, true, 0, nil, 5, nil},
		{"nothing of a chain", nil, Heads{pos(1, 30)}, false, 0, Heads{pos(1, 30)}, 5, Heads{pos(1, 5)}},
		{"the same epoch, behind", Heads{pos(1, 5)}, Heads{pos(1, 30)}, false, 5, Heads{pos(1, 30)}, 30, Heads{pos(1, 30)}},
		{"the same epoch, ahead", Heads{pos(1, 30)}, Heads{pos(1, 5)}, true, 5, Heads{pos(1, 30)}, 7, Heads{pos(1, 5)}},
		{"a branch, from before it", Heads{pos(1, 5)}, Heads{pos(2, 20)}, false, 5, Heads{pos(1, 5), pos(2, 20)}[1:], 10, Heads{pos(1, 10)}},
		{"a branch, from beside it", Heads{pos(1, 30)}, Heads{pos(2, 20)}, false, 10, Heads{pos(1, 30), pos(2, 20)}, 15, Heads{pos(2, 15)}},
		{"both branches, from one", Heads{pos(2, 20)}, Heads{pos(1, 30), pos(2, 20)}, false, 10, Heads{pos(1, 30), pos(2, 20)}, 25, Heads{pos(1, 25), pos(2, 20)}},
		{"what continues both, from one", Heads{pos(1, 30)}, Heads{pos(3, 40)}, false, 10, Heads{pos(3, 40)}, 30, Heads{pos(1, 30), pos(2, 20)}},
		{"what continues both, from both", Heads{pos(1, 30), pos(2, 20)}, Heads{pos(3, 40)}, false, 30, Heads{pos(3, 40)}, 15, Heads{pos(1, 15), pos(2, 15)}},
		{"both, from what continues them", Heads{pos(3, 31)}, Heads{pos(1, 30), pos(2, 20)}, true, 30, Heads{pos(3, 31)}, 10, Heads{pos(1, 10)}},
		{"beyond what was continued", Heads{pos(2, 20)}, Heads{pos(1, 11)}, false, 10, Heads{pos(1, 11), pos(2, 20)}, 10, Heads{pos(1, 10)}},
		{"an unknown epoch", Heads{pos(3, 40)}, Heads{pos(9, 35)}, false, 0, Heads{pos(3, 40), pos(9, 35)}, 12, Heads{pos(9, 12)}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if got := g.CoversAll(c.h, c.k); got != c.covers {
				t.Errorf("CoversAll: %t", got)
			}
			if got := g.Low(c.h, c.k); got != c.low {
				t.Errorf("Low: %d, want %d", got, c.low)
			}
			if diff := cmp.Diff(c.join, g.Join(c.h, c.k)); diff != "" {
				t.Errorf("Join (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(c.wantUntil, g.Until(c.k, c.until)); diff != "" {
				t.Errorf("Until %d (-want +got):\n%s", c.until, diff)
			}
		})
	}
}

// TestGraph_Since has a device that was restored from a copy of 10 when it had written up to 30, and went on at 41.
func TestGraph_Since(t *testing.T) {
	g := graphOf(nil, Heads{pos(1, 10)})
	g.Remove(EpochID{2})
	g.Add(Epoch{ID: EpochID{2}, Parents: Heads{pos(1, 10)}, Since: 40})
	for _, c := range []struct {
		h    Heads
		low  hlc.Stamp
		what string
	}{
		{Heads{pos(1, 30)}, 40, "who has what was lost is not sent it again"},
		{Heads{pos(1, 10)}, 40, "who has all before the start"},
		{Heads{pos(1, 7)}, 7, "who has less"},
		{Heads{pos(2, 35)}, 40, "who has the start, and nothing of it"},
		{Heads{pos(2, 45)}, 45, "who has some of it"},
		{nil, 0, "who has nothing"},
	} {
		if got := g.Low(c.h, Heads{pos(2, 50)}); got != c.low {
			t.Errorf("%s: from %d, want %d", c.what, got, c.low)
		}
	}
	if got := g.Until(Heads{pos(2, 50)}, 35); !got.Equal(Heads{pos(1, 10)}) {
		t.Errorf("up to 35 there is %v, want what was before the start", got)
	}
	if !g.Covers(Heads{pos(1, 10)}, pos(2, 40)) || g.Covers(Heads{pos(1, 10)}, pos(2, 41)) {
		t.Error("the start is a change")
	}
}

// TestGraph_Ring has epochs that continue each other, as only a faulty peer says: nothing hangs, is lost or made up.
func TestGraph_Ring(t *testing.T) {
	g := graphOf(Heads{pos(2, 3)}, Heads{pos(3, 5)}, Heads{pos(1, 4)}, Heads{pos(1, 9)})
	every := []Heads{{pos(1, 3)}, {pos(2, 3)}, {pos(3, 8)}, {pos(1, 3), pos(2, 3)}, {pos(1, 9), pos(2, 9), pos(3, 9)}, {pos(4, 3)}, {pos(4, 10)}, {pos(9, 2)}}
	for _, h := range every {
		for _, k := range every {
			joined := g.Join(h, k)
			if !g.CoversAll(joined, h) || !g.CoversAll(joined, k) || joined.Top() < k.Top() {
				t.Errorf("Join(%v, %v) = %v", h, k, joined)
			}
			if low := g.Low(h, k); low > k.Top() || low == k.Top() != g.CoversAll(h, k) {
				t.Errorf("Low(%v, %v) = %d", h, k, low)
			}
			if until := g.Until(k, 4); len(until) == 0 || until.Top() > 4 {
				t.Errorf("Until(%v, 4) = %v", k, until)
			}
		}
		if g.CoversAll(nil, h) || g.Low(nil, h) != 0 {
			t.Errorf("nothing covers %v", h)
		}
		if n := len(g.Missing(nil, h, func(EpochID) bool { return false })); n > g.Len() {
			t.Errorf("of %v, %d epochs are missing", h, n)
		}
	}
}

func TestGraph_Add(t *testing.T) {
	g := graphOf(nil, Heads{pos(1, 10)})
	if g.Add(Epoch{ID: EpochID{2}, Parents: Heads{pos(1, 99)}}) || !g.Covers(Heads{pos(2, 100)}, pos(1, 10)) || g.Covers(Heads{pos(2, 100)}, pos(1, 11)) {
		t.Error("what an epoch continues was changed")
	}
	if _, known := g.Epoch(EpochID{2}); !known || g.Len() != 2 {
		t.Errorf("of 2 epochs, %d are known", g.Len())
	}
	g.Remove(EpochID{1})
	if _, known := g.Epoch(EpochID{1}); known || g.Len() != 1 || !g.Covers(Heads{pos(2, 11)}, pos(1, 10)) {
		t.Error("a forgotten epoch is known, or no longer continued")
	}
}

func TestNormal(t *testing.T) {
	given := []Position{pos(3, 1), pos(1, 5), pos(2, 0), pos(1, 7), pos(1, 6)}
	if diff := cmp.Diff(Heads{pos(1, 7), pos(3, 1)}, Normal(given)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if given[0] != pos(3, 1) || len(Normal(nil)) != 0 || At(EpochID{1}, 0) != nil {
		t.Error("Normal changed what it was given, or made up something")
	}
}

func TestHeads_In(t *testing.T) {
	h := Heads{pos(1, 7), pos(3, 1)}
	if stamp, ok := h.In(EpochID{3}); !ok || stamp != 1 {
		t.Errorf("in 3: %d, %t", stamp, ok)
	}
	if stamp, ok := h.In(EpochID{2}); ok || stamp != 0 || h.Top() != 7 {
		t.Errorf("in 2: %d, %t; top %d", stamp, ok, h.Top())
	}
}

// TestEpochID_Of wants one epoch for each kind of stream, the same at every call.
func TestEpochID_Of(t *testing.T) {
	for _, id := range []EpochID{{0x10}, {0x11, 5}} {
		state, shared := id.Of(sdk.DeviceOwned), id.Of(sdk.SharedByAll)
		if state == shared || state.Of(sdk.SharedByAll) != shared || shared.Of(sdk.DeviceOwned) != state || id != state && id != shared {
			t.Errorf("%s opens %s and %s", id, state, shared)
		}
	}
}

func TestStream_Compare(t *testing.T) {
	order := []Stream{{sdk.DeviceID{1}, sdk.SharedByAll}, {sdk.DeviceID{1}, sdk.DeviceOwned}, {sdk.DeviceID{2}, sdk.SharedByAll}}
	for i := range order {
		for j := range order {
			if got := order[i].Compare(order[j]); got != min(max(i-j, -1), 1) {
				t.Errorf("%v and %v: %d", order[i], order[j], got)
			}
		}
	}
}

// chain returns a graph of n epochs that continue each other, ten stamps each, from the epoch and the stamp base on.
func chain(g *Graph, n int, kind byte, before Heads) (last Heads) {
	for i := range n {
		id := EpochID{kind, byte(i >> 8), byte(i)}
		g.Add(Epoch{ID: id, Parents: before})
		before = At(id, before.Top()+10)
	}
	return before
}

func at(kind byte, i int, stamp hlc.Stamp) Heads {
	return At(EpochID{kind, byte(i >> 8), byte(i)}, stamp)
}

// BenchmarkGraph has a device that was started 400 times, and one that ran twice for 200 starts.
func BenchmarkGraph(b *testing.B) {
	g := new(Graph)
	end := chain(g, 400, 1, nil)
	fork := at(1, 199, 2000)
	branch := chain(g, 200, 2, fork)
	pairs := []struct {
		name string
		h, k Heads
	}{
		{"the same epoch", at(1, 399, 3995), end},
		{"one epoch behind", at(1, 398, 3990), end},
		{"200 epochs behind", fork, end},
		{"400 epochs behind", at(1, 0, 5), end},
		{"from nothing", nil, end},
		{"200 epochs ahead", end, fork},
		{"beside for 200 epochs", branch, end},
	}
	for _, p := range pairs {
		b.Run(fmt.Sprintf("Low/%s", p.name), func(b *testing.B) {
			for b.Loop() {
				g.Low(p.h, p.k)
			}
		})
		b.Run(fmt.Sprintf("Covers/%s", p.name), func(b *testing.B) {
			for b.Loop() {
				g.CoversAll(p.h, p.k)
			}
		})
		b.Run(fmt.Sprintf("Join/%s", p.name), func(b *testing.B) {
			for b.Loop() {
				g.Join(p.h, p.k)
			}
		})
		b.Run(fmt.Sprintf("Until/%s", p.name), func(b *testing.B) {
			for b.Loop() {
				g.Until(p.k, max(p.h.Top(), 5))
			}
		})
	}
}
