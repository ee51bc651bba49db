package history

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/starling-sync/starling/hlc"
)

// changes is a set of changes: the deliberately dumb version of Heads. A change is named by where it is.
type changes map[Position]bool

func (c changes) within(other changes) bool {
	for p := range c {
		if !other[p] {
			return false
		}
	}
	return true
}

func (c changes) and(other changes) changes {
	out := make(changes)
	for p := range c {
		out[p] = true
	}
	for p := range other {
		out[p] = true
	}
	return out
}

func (c changes) upTo(t hlc.Stamp) changes {
	out := make(changes)
	for p := range c {
		if p.Stamp <= t {
			out[p] = true
		}
	}
	return out
}

func (c changes) equal(other changes) bool { return len(c) == len(other) && c.within(other) }

// world is the epochs of one stream, with a change at every stamp that an epoch can have.
type world struct {
	rt     *rapid.T
	graph  Graph
	epochs []Epoch // parents before children
	last   map[EpochID]hlc.Stamp
	all    map[EpochID]changes // of the epoch and what it continues
}

// newWorld draws epochs that continue one, several or no positions of those before, which may go on afterwards; some only
// after a pause.
func newWorld(rt *rapid.T) *world {
	w := &world{rt: rt, last: map[EpochID]hlc.Stamp{}, all: map[EpochID]changes{}}
	n := rapid.IntRange(1, 8).Draw(rt, "epochs")
	chain := rapid.Bool().Draw(rt, "mostly a chain")
	for i := range n {
		// The order of ids, by which heads are sorted, has nothing to do with age.
		e := Epoch{ID: EpochID{byte(i * 5 % 8), byte(i + 1)}}
		switch {
		case i == 0:
		case chain && rapid.IntRange(0, 4).Draw(rt, "chain") > 0:
			before := w.epochs[i-1].ID
			e.Parents = At(before, w.last[before])
		default:
			e.Parents = w.heads("parents", rapid.IntRange(0, 9).Draw(rt, "early parents") == 0)
		}
		start := e.Parents.Top()
		if rapid.Bool().Draw(rt, "since") { // it goes on a while after what it continues
			start += hlc.Stamp(rapid.IntRange(0, 6).Draw(rt, "pause"))
			e.Since = start
		}
		w.last[e.ID] = start + hlc.Stamp(rapid.IntRange(1, 4).Draw(rt, "changes"))
		own := w.set(e.Parents)
		for s := start + 1; s <= w.last[e.ID]; s++ {
			own[Position{e.ID, s}] = true
		}
		w.all[e.ID] = own
		w.epochs = append(w.epochs, e)
		w.graph.Add(e)
	}
	return w
}

// set returns the changes that h has.
func (w *world) set(h Heads) changes {
	out := make(changes)
	for _, p := range h {
		out = out.and(w.all[p.Epoch].upTo(p.Stamp))
	}
	return out
}

// position draws a position; if early is set, maybe one before the start of its epoch.
func (w *world) position(name string, early bool) Position {
	e := rapid.SampledFrom(w.epochs).Draw(w.rt, name)
	least := e.start() + 1
	if early {
		least = 1
	}
	return Position{e.ID, hlc.Stamp(rapid.Uint64Range(uint64(least), uint64(w.last[e.ID])).Draw(w.rt, name))}
}

// heads draws heads of which none covers another.
func (w *world) heads(name string, early bool) Heads {
	var h Heads
	for range rapid.IntRange(0, 4).Draw(w.rt, name) {
		p := w.position(name, early)
		if w.set(Heads{p}).within(w.set(h)) {
			continue
		}
		h = slices.DeleteFunc(h, func(q Position) bool { return w.set(Heads{q}).within(w.set(Heads{p})) })
		h = Normal(append(h, p))
	}
	return h
}

// forget removes some epochs, or none, from what is known.
func (w *world) forget() {
	for _, e := range w.epochs {
		if rapid.IntRange(0, 2).Draw(w.rt, "forget") == 0 {
			w.graph.Remove(e.ID)
		}
	}
}

// low is what Low promises, from the changes alone.
func (w *world) low(h, k Heads) hlc.Stamp {
	has, low := w.set(h), k.Top()
	for p := range w.set(k) {
		if !has[p] {
			low = min(low, p.Stamp-1)
		}
	}
	return low
}

// wantNormal wants heads that ascend by epoch, each once and none zero, of which none covers another.
func (w *world) wantNormal(what string, h Heads) {
	w.rt.Helper()
	for i, p := range h {
		if p.Stamp == 0 || i > 0 && byEpoch(h[i-1], p) >= 0 {
			w.rt.Errorf("%s: %v is out of order", what, h)
		}
		for j, q := range h {
			if i != j && w.graph.Covers(Heads{q}, p) {
				w.rt.Errorf("%s: of %v, %v covers %v", what, h, q, p)
			}
		}
	}
}

func (w *world) wantSet(what string, got Heads, want changes) {
	w.rt.Helper()
	if !w.set(got).equal(want) {
		w.rt.Errorf("%s: got %v, which has %v; want %v", what, got, w.set(got), want)
	}
}

// TestAlgebra_Exact has all epochs known: every answer is the one that the changes give.
func TestAlgebra_Exact(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(rt)
		early := rapid.Bool().Draw(rt, "early")
		h, k, p := w.heads("h", early), w.heads("k", early), w.position("p", early)
		if got, want := w.graph.Covers(h, p), w.set(Heads{p}).within(w.set(h)); got != want {
			rt.Errorf("Covers(%v, %v) = %t", h, p, got)
		}
		if got, want := w.graph.CoversAll(h, k), w.set(k).within(w.set(h)); got != want {
			rt.Errorf("CoversAll(%v, %v) = %t", h, k, got)
		}
		if got, want := w.graph.Low(h, k), w.low(h, k); got != want {
			rt.Errorf("Low(%v, %v) = %d; want %d", h, k, got, want)
		}
	})
}

// TestAlgebra_Join wants the union in the one form that it has.
func TestAlgebra_Join(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(rt)
		early := rapid.Bool().Draw(rt, "early")
		a, b, c := w.heads("a", early), w.heads("b", early), w.heads("c", early)
		join := w.graph.Join
		w.wantSet("Join", join(a, b), w.set(a).and(w.set(b)))
		w.wantNormal("Join", join(a, b))
		if early {
			return // there is more than one way to say the same
		}
		for _, law := range []struct {
			name      string
			got, want Heads
		}{
			{"nothing on the left", join(nil, a), a},
			{"nothing on the right", join(a, nil), a},
			{"idempotent", join(a, a), a},
			{"commutative", join(a, b), join(b, a)},
			{"associative", join(join(a, b), c), join(a, join(b, c))},
		} {
			if !law.got.Equal(law.want) {
				rt.Errorf("%s: %v and %v, of %v, %v, %v", law.name, law.got, law.want, a, b, c)
			}
		}
	})
}

// TestAlgebra_Unknown has some epochs forgotten: answers only become more careful, and paging goes on.
func TestAlgebra_Unknown(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(rt)
		w.forget()
		early := rapid.Bool().Draw(rt, "early")
		h, k, p := w.heads("h", early), w.heads("k", early), w.position("p", early)
		if w.graph.Covers(h, p) && !w.set(Heads{p}).within(w.set(h)) {
			rt.Errorf("%v covers %v only if one knows less", h, p)
		}
		if w.graph.CoversAll(h, k) && !w.set(k).within(w.set(h)) {
			rt.Errorf("%v covers %v only if one knows less", h, k)
		}
		if got, want := w.graph.Low(h, k), w.low(h, k); got > want {
			rt.Errorf("Low(%v, %v) = %d; it is %d at most", h, k, got, want)
		}
		w.wantSet("Join", w.graph.Join(h, k), w.set(h).and(w.set(k)))
		w.wantNormal("Join", w.graph.Join(h, k))
		stamp := hlc.Stamp(rapid.IntRange(0, 40).Draw(rt, "until"))
		w.wantSet("Until", w.graph.Until(k, stamp), w.set(k).upTo(stamp))
	})
}

// TestAlgebra_Until wants what there is up to a stamp, and that paging by Low and Until gets on and gets everything.
func TestAlgebra_Until(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(rt)
		if rapid.Bool().Draw(rt, "forgetful") {
			w.forget()
		}
		early := rapid.Bool().Draw(rt, "early")
		h, k := w.heads("h", early), w.heads("k", early)
		has, all := w.set(h), w.set(k)
		for !w.graph.CoversAll(h, k) {
			low := w.graph.Low(h, k)
			if low >= k.Top() {
				rt.Fatalf("Low(%v, %v) = %d leaves nothing, and they do not cover", h, k, low)
			}
			through := hlc.Stamp(rapid.Uint64Range(uint64(low)+1, uint64(k.Top())).Draw(rt, "through"))
			heads := w.graph.Until(k, through)
			w.wantSet("Until", heads, all.upTo(through))
			w.wantNormal("Until", heads)
			if heads.Top() > through {
				rt.Errorf("Until(%v, %d) = %v", k, through, heads)
			}
			if got := w.graph.Low(h, heads); got < low && !w.graph.CoversAll(h, heads) {
				rt.Errorf("who has %v is sent all of %v after %d, and misses some of %v after %d", h, k, low, heads, got)
			}
			for p := range all { // the page
				if p.Stamp > low && p.Stamp <= through {
					has[p] = true
				}
			}
			h = w.graph.Join(h, heads)
			if !w.set(h).within(has) {
				rt.Fatalf("a page of %v in (%d, %d] gives %v; it has %v", k, low, through, h, has)
			}
			if got := w.graph.Low(h, k); got < through {
				rt.Fatalf("after a page of %v up to %d, %v is at %d", k, through, h, got)
			}
		}
		if !all.within(has) {
			rt.Errorf("at the end of %v: %v", k, has)
		}
	})
}

// TestGraph_Missing wants parents first, and with them the whole history.
func TestGraph_Missing(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(rt)
		heads, want := w.heads("heads", false), w.heads("want", false)
		told := map[EpochID]bool{}
		for _, e := range w.epochs {
			told[e.ID] = rapid.IntRange(0, 3).Draw(rt, "told") == 0
		}
		theirs, needed := w.ancestry(heads), w.ancestry(want)
		knows := map[EpochID]bool{}
		for _, e := range w.graph.Missing(heads, want, func(id EpochID) bool { return told[id] }) {
			if theirs[e.ID] || told[e.ID] || knows[e.ID] || !needed[e.ID] {
				rt.Errorf("%v is not missing", e)
			}
			for _, p := range e.Parents {
				if !theirs[p.Epoch] && !told[p.Epoch] && !knows[p.Epoch] {
					rt.Errorf("%v comes before its parent %v", e, p)
				}
			}
			knows[e.ID] = true
		}
		for id := range needed {
			if !theirs[id] && !told[id] && !knows[id] {
				rt.Errorf("epoch %s is left out", id)
			}
		}
	})
}

// ancestry returns the epochs that h is in or continues.
func (w *world) ancestry(h Heads) map[EpochID]bool {
	out := map[EpochID]bool{}
	for _, p := range h {
		out[p.Epoch] = true
	}
	for _, e := range slices.Backward(w.epochs) {
		if out[e.ID] {
			for _, p := range e.Parents {
				out[p.Epoch] = true
			}
		}
	}
	return out
}
