// Package history is the algebra of positions in a stream whose history may branch.
//
// Each start of a device that writes to a stream opens an epoch of it, which continues the position(s) that the device had.
// Normally epochs are a chain. A device restored from an older copy, or started twice, makes a branch: two epochs
// that continue the same one. What somebody has of a stream is then a set of positions, its Heads: everything up to
// each of them, along the epochs that it continues.
//
// It promises that all is computed from the epochs alone, that an epoch which is not known makes answers careful (less
// is covered, never more), that on a chain every answer is the comparison of two stamps, and that it takes about as long as
// there are known epochs between what is compared. It stores and sends nothing.
//
// HAZARD: stamps of one epoch are greater than every stamp that it continues. The clock of the device sees to that; where
// it did not, Low could be too great.
package history

import (
	"bytes"
	"cmp"
	"container/heap"
	"slices"

	"github.com/google/uuid"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/sdk"
)

// Stream names all changes of one kind that one device originated, in stamp order.
type Stream struct {
	Origin sdk.DeviceID
	Kind   sdk.Ownership
}

// Compare orders streams by origin, the shared stream of a device before its state stream.
func (s Stream) Compare(other Stream) int {
	if c := s.Origin.Compare(other.Origin); c != 0 || s.Kind == other.Kind {
		return c
	}
	if s.Kind == sdk.SharedByAll {
		return -1
	}
	return 1
}

// EpochID names one start of a device, or the epoch of one of its streams that it opened. The zero EpochID is none.
type EpochID uuid.UUID

func (id EpochID) String() string { return uuid.UUID(id).String() }

// Of returns the epoch of a stream of kind that the start id of a device opens with its first write to it.
func (id EpochID) Of(kind sdk.Ownership) EpochID {
	id[0] &^= 1
	if kind == sdk.SharedByAll {
		id[0] |= 1
	}
	return id
}

// Position is a place in a stream: everything up to and with Stamp, of Epoch and of all that it continues. Stamp is greater
// than those that the epoch continues, unless whoever gave it (Until) did not know the epoch.
type Position struct {
	Epoch EpochID
	Stamp hlc.Stamp
}

// Heads is what somebody has of a stream: the union of its positions. They ascend by epoch, at most one of each, and
// none covers another. Nil is the beginning of the stream. Heads are shared freely and never changed.
type Heads []Position

// At returns the heads of one position; none for the zero stamp.
func At(epoch EpochID, stamp hlc.Stamp) Heads {
	if stamp == 0 {
		return nil
	}
	return Heads{{epoch, stamp}}
}

// Top returns the greatest stamp of h; zero if h is empty.
func (h Heads) Top() (top hlc.Stamp) {
	for i := range h {
		top = max(top, h[i].Stamp)
	}
	return top
}

// In returns the stamp of h in epoch, and whether it has one.
func (h Heads) In(epoch EpochID) (hlc.Stamp, bool) {
	for i := range h {
		if h[i].Epoch == epoch {
			return h[i].Stamp, true
		}
	}
	return 0, false
}

// Equal reports whether h and other are the same positions.
func (h Heads) Equal(other Heads) bool { return slices.Equal(h, other) }

func byEpoch(a, b Position) int { return bytes.Compare(a.Epoch[:], b.Epoch[:]) }

// Normal returns positions, in any order and with repetition, as Heads of at most one position an epoch. It does not
// know which of them cover others: Graph.Join does.
func Normal(positions []Position) Heads {
	h := slices.Clone(positions)
	slices.SortFunc(h, func(a, b Position) int { return cmp.Or(byEpoch(a, b), -cmp.Compare(a.Stamp, b.Stamp)) })
	h = slices.CompactFunc(h, func(a, b Position) bool { return a.Epoch == b.Epoch })
	return slices.DeleteFunc(h, func(p Position) bool { return p.Stamp == 0 })
}

// Epoch is one epoch of a stream and the positions that it continues.
type Epoch struct {
	ID      EpochID
	Stream  Stream
	Parents Heads // every stamp of the epoch is greater than theirs

	// Since is a stamp after which all changes of the epoch are, at least that of Parents; zero says no more than Parents do.
	// A device that was restored from an old copy goes on long after it: what it had lost in between is not read again by
	// those who have it.
	Since hlc.Stamp
}

// start is the stamp after which all changes of the epoch are, as far as is known.
func (e *Epoch) start() hlc.Stamp { return max(e.Since, e.Parents.Top()) }

// Graph is the epochs that are known. Its zero value knows none. It is not safe for use at once with Add or Remove.
type Graph struct {
	epochs map[EpochID]Epoch
}

// Add takes in an epoch, and reports whether it was not known before. What an epoch continues never changes.
func (g *Graph) Add(e Epoch) bool {
	if _, known := g.epochs[e.ID]; known {
		return false
	}
	if g.epochs == nil {
		g.epochs = make(map[EpochID]Epoch)
	}
	g.epochs[e.ID] = e
	return true
}

// Remove forgets an epoch. Positions in the epochs that continue it go on covering those of it that they name.
func (g *Graph) Remove(id EpochID) { delete(g.epochs, id) }

// Epoch returns the epoch id, and whether it is known.
func (g *Graph) Epoch(id EpochID) (Epoch, bool) {
	e, ok := g.epochs[id]
	return e, ok
}

// Len returns how many epochs are known.
func (g *Graph) Len() int { return len(g.epochs) }

func (g *Graph) start(id EpochID) hlc.Stamp {
	e := g.epochs[id]
	return e.start()
}

// plain returns the same as h without positions that lie before the start of their epoch, as far as epochs are known.
func (g *Graph) plain(h Heads) Heads {
	if !slices.ContainsFunc(h, func(p Position) bool { return p.Stamp <= g.start(p.Epoch) }) {
		return h
	}
	return g.until(h, hlc.MaxStamp)
}

// Covers reports whether h has everything up to p.
func (g *Graph) Covers(h Heads, p Position) bool { return g.CoversAll(h, Heads{p}) }

// CoversAll reports whether h has everything that k has.
func (g *Graph) CoversAll(h, k Heads) bool {
	if h.holds(k) {
		return true
	}
	k = g.plain(k)
	if k.Top() > h.Top() {
		return false // what an epoch continues is before it
	}
	known := g.reach(h)
	for _, p := range k {
		if p.Stamp > 0 && known.in(p.Epoch, p.Stamp-1) < p.Stamp {
			return false
		}
	}
	return true
}

// holds reports whether k's positions are in h, as far as that needs no knowledge of epochs.
func (h Heads) holds(k Heads) bool {
	for i := range k {
		if stamp, _ := h.In(k[i].Epoch); stamp < k[i].Stamp {
			return false
		}
	}
	return true
}

// Low returns the greatest stamp S such that h has all of k's history up to S, whatever the stamps at which changes are: what
// is left of k for who has h is what lies after S. It is k.Top() if h has all of k, and only then. Sending again what lies
// after S is harmless where h has some of it, on a branch.
func (g *Graph) Low(h, k Heads) hlc.Stamp {
	switch {
	case h.holds(k):
		return k.Top()
	case len(h) == 1 && len(k) == 1 && h[0].Epoch == k[0].Epoch && h[0].Stamp >= g.start(h[0].Epoch):
		return h[0].Stamp
	}
	b := behind{reach: g.reach(h), of: make(map[EpochID]hlc.Stamp)}
	if low, all := b.least(k); !all {
		return low
	}
	return k.Top()
}

// Join returns the heads of who has both a and b.
func (g *Graph) Join(a, b Heads) Heads {
	switch {
	case len(b) == 0:
		return a
	case len(a) == 0 && len(b) == 1:
		return b
	case len(a) == 1 && len(b) == 1 && a[0].Epoch == b[0].Epoch:
		if b[0].Stamp > a[0].Stamp {
			return b
		}
		return a
	}
	all := slices.Concat(g.plain(a), g.plain(b))
	slices.SortFunc(all, func(p, q Position) int { return cmp.Or(-cmp.Compare(p.Stamp, q.Stamp), byEpoch(p, q)) })
	kept, known := all[:0], g.reach(nil)
	for _, p := range all { // what covers p has a greater stamp, and has been met
		if known.in(p.Epoch, max(p.Stamp, 1)-1) < p.Stamp {
			known.add(p)
			kept = append(kept, p)
		}
	}
	slices.SortFunc(kept, byEpoch)
	if kept.Equal(a) {
		return a
	}
	return kept
}

// Until returns the heads of who has all of k's history up to the stamp t and nothing after it.
func (g *Graph) Until(k Heads, t hlc.Stamp) Heads {
	if len(k) == 1 && k[0].Stamp <= t {
		return k
	}
	return g.Join(nil, g.until(k, t))
}

// until returns positions for Until, of which some may cover others.
func (g *Graph) until(k Heads, t hlc.Stamp) Heads {
	var out []Position
	within := make(map[Position]bool) // true while it is looked at
	var visit func(k Heads, t hlc.Stamp)
	visit = func(k Heads, t hlc.Stamp) {
		for _, p := range k {
			p.Stamp = min(p.Stamp, t)
			epoch := g.epochs[p.Epoch]
			ring, seen := within[p]
			switch {
			case p.Stamp > epoch.start(), ring: // so also of an epoch that is not known
				out = append(out, p)
			case !seen:
				within[p] = true
				visit(epoch.Parents, p.Stamp)
				within[p] = false
			}
		}
	}
	visit(k, t)
	return Normal(out)
}

// reach is the history of some heads, found as far back as it has been asked for.
type reach struct {
	graph   *Graph
	has     map[EpochID]hlc.Stamp // how far the history has each epoch
	waiting newest                // positions of which the parents have not been looked at
}

func (g *Graph) reach(h Heads) *reach {
	r := &reach{graph: g, has: make(map[EpochID]hlc.Stamp)}
	for _, p := range h {
		r.add(p)
	}
	return r
}

func (r *reach) add(p Position) {
	if r.has[p.Epoch] < p.Stamp {
		r.has[p.Epoch] = p.Stamp
		heap.Push(&r.waiting, p)
	}
}

// in returns how far the history has epoch; maybe less than that if it is not beyond the stamp above.
func (r *reach) in(epoch EpochID, above hlc.Stamp) hlc.Stamp {
	for len(r.waiting) > 0 && r.waiting[0].Stamp > above {
		p := heap.Pop(&r.waiting).(Position)
		for _, parent := range r.graph.epochs[p.Epoch].Parents {
			parent.Stamp = min(parent.Stamp, p.Stamp)
			r.add(parent)
		}
	}
	return r.has[epoch]
}

// newest is a heap of positions, the one with the greatest stamp on top.
type newest []Position

func (n newest) Len() int           { return len(n) }
func (n newest) Less(i, j int) bool { return n[i].Stamp > n[j].Stamp }
func (n newest) Swap(i, j int)      { n[i], n[j] = n[j], n[i] }
func (n *newest) Push(p any)        { *n = append(*n, p.(Position)) }
func (n *newest) Pop() any {
	last := len(*n) - 1
	p := (*n)[last]
	*n = (*n)[:last]
	return p
}

// behind finds how far a history has what other epochs continue.
type behind struct {
	*reach
	of map[EpochID]hlc.Stamp // the history has all up to here of what the epoch continues
}

// least returns up to where the history has all of k's, and whether it has all of k.
func (b *behind) least(k Heads) (low hlc.Stamp, all bool) {
	low, all = hlc.MaxStamp, true
	for _, p := range k {
		if base := b.base(p); base < p.Stamp {
			low, all = min(low, base), false
		}
	}
	return low, all
}

// base returns up to where the history has all up to p: at least p.Stamp if it has p.
func (b *behind) base(p Position) hlc.Stamp {
	epoch := b.graph.epochs[p.Epoch]
	start := epoch.start()
	has := b.in(p.Epoch, min(start, p.Stamp-1))
	if has > start || has >= p.Stamp {
		return has // and so all that the epoch continues
	}
	before, done := b.of[p.Epoch]
	if !done {
		b.of[p.Epoch] = 0 // a ring, which only a faulty peer makes, covers nothing
		low, all := b.least(epoch.Parents)
		if before = low; all {
			before = start // all before this epoch, and nothing of it
		}
		b.of[p.Epoch] = before
	}
	return before
}

// Missing returns the known epochs that who has heads and knows what they continue needs for want: those of want's history
// that are not of heads' history, parents before those that continue them. An epoch in known is left out.
func (g *Graph) Missing(heads, want Heads, known func(EpochID) bool) []Epoch {
	theirs := g.reach(heads)
	theirs.in(EpochID{}, 0) // to the beginning
	has := make(map[EpochID]bool)
	for id := range theirs.has {
		has[id] = true
	}
	var list []Epoch
	var visit func(id EpochID)
	visit = func(id EpochID) {
		e, ok := g.epochs[id]
		if !ok || has[id] {
			return
		}
		has[id] = true
		for _, parent := range e.Parents {
			visit(parent.Epoch)
		}
		if !known(id) {
			list = append(list, e)
		}
	}
	for _, p := range want {
		visit(p.Epoch)
	}
	return list
}
