package main

import (
	"maps"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/tinylib/msgp/msgp"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/sdk"
)

// edit is what a person says of a set or a counter.
type edit struct {
	whole       bool // it is to become these elements, or this number
	add, remove []string
	more        int64

	packed sdk.Packed
}

var elements = []string{"a", "b", "c"} //nolint:gochecknoglobals // a table

// setEdit draws what is said of a set.
func setEdit(r *rand.Rand) edit {
	var e edit
	for _, one := range elements {
		switch r.IntN(4) {
		case 0:
			e.add = append(e.add, one)
		case 1:
			e.remove = append(e.remove, one)
		}
	}
	list := func(dst []byte, elements []string) []byte {
		dst = msgp.AppendArrayHeader(dst, uint32(len(elements))) //nolint:gosec // a few
		for _, one := range elements {
			dst = msgp.AppendString(dst, one)
		}
		return dst
	}
	switch r.IntN(10) {
	case 0:
		e = edit{whole: true, packed: msgp.AppendNil(nil)}
	case 1, 2:
		e.whole, e.remove = true, nil
		e.packed = list(nil, e.add)
	default:
		e.packed = list(msgp.AppendString(msgp.AppendMapHeader(nil, 2), "add"), e.add)
		e.packed = list(msgp.AppendString(e.packed, "remove"), e.remove)
	}
	return e
}

// counterEdit draws what is said of a counter.
func counterEdit(r *rand.Rand) edit {
	switch n := r.Int64N(20) - 8; r.IntN(10) {
	case 0:
		return edit{whole: true, packed: msgp.AppendNil(nil)}
	case 1, 2:
		return edit{whole: true, more: n, packed: msgp.AppendInt64(nil, n)}
	default:
		return edit{more: n, packed: msgp.AppendInt64(msgp.AppendString(msgp.AppendMapHeader(nil, 1), "add"), n)}
	}
}

// effect is what a write does to a set or a counter. It follows from what its writer had seen.
type effect struct {
	adds    map[string]bool
	removes map[adder]hlc.Stamp // adds that it undoes: those of an element by a device up to a stamp

	part  sdk.PartID // under which it counts
	more  int64      // that it adds to the counter
	total int64      // that the part has then, as the operation says
}

// adder is a device that adds an element.
type adder struct {
	element string
	device  sdk.DeviceID
}

func (a *effect) equal(b *effect) bool {
	return maps.Equal(a.adds, b.adds) && maps.Equal(a.removes, b.removes) && a.more == b.more
}

// inParts reports whether a column is a set or a counter.
func inParts(model sdk.ModelName, column string) bool {
	merge := mergeOf(model, column)
	return merge == sdk.AddWins || merge == sdk.Sum
}

// origin returns the change that c was before it was given other stamps: of both together nothing more is counted.
func (c *change) origin() *change {
	if c.first != nil {
		return c.first
	}
	return c
}

// inParts returns what a set or a counter is after the changes that covers has; false: nobody has written it. An element is
// there iff somebody added it and nobody undid that very add. A counter is the sum of all that was added to it.
func (l *ledger) inParts(k key, column string, covers func(*change) bool) (value field, written bool) {
	if !inParts(k.model, column) {
		return value, false
	}
	undone, counted, sum := map[adder]hlc.Stamp{}, map[*change]bool{}, int64(0)
	var writes []*change
	for _, c := range l.records[k] {
		does, ok := c.does[column]
		if !ok || !covers(c) {
			continue
		}
		writes = append(writes, c)
		if !counted[c.origin()] {
			sum += does.more
		}
		counted[c.origin()] = true
		for by, stamp := range does.removes {
			undone[by] = max(undone[by], stamp)
		}
		value.version = c.version() // they ascend
	}
	if mergeOf(k.model, column) == sdk.Sum {
		value.value = string(sdk.AppendValue(nil, sum))
		return value, len(writes) > 0
	}
	var list []string
	for _, e := range elements {
		if slices.ContainsFunc(writes, func(c *change) bool {
			return c.does[column].adds[e] && c.stamp > undone[adder{e, c.stream.Origin}]
		}) {
			list = append(list, `"`+e+`"`)
		}
	}
	value.value = string(sdk.AppendValue(nil, "["+strings.Join(list, ",")+"]"))
	return value, len(writes) > 0
}

// standing returns the latest add of each device that nothing undid of those that has has.
func (l *ledger) standing(k key, column string, has func(*change) bool) map[adder]hlc.Stamp {
	adds, undone := map[adder]hlc.Stamp{}, map[adder]hlc.Stamp{}
	for _, c := range l.records[k] {
		if !has(c) {
			continue
		}
		does := c.does[column]
		for e := range does.adds {
			by := adder{e, c.stream.Origin}
			adds[by] = max(adds[by], c.stamp)
		}
		for by, stamp := range does.removes {
			undone[by] = max(undone[by], stamp)
		}
	}
	maps.DeleteFunc(adds, func(by adder, stamp hlc.Stamp) bool { return stamp <= undone[by] })
	return adds
}

// effectOf says what an edit does where what has has been seen.
func (l *ledger) effectOf(k key, column string, said *edit, has func(*change) bool) effect {
	does := effect{adds: map[string]bool{}, removes: map[adder]hlc.Stamp{}}
	if mergeOf(k.model, column) == sdk.Sum {
		if does.more = said.more; said.whole {
			value, _ := l.inParts(k, column, has)
			if before := intOf(value.value); before != nil {
				does.more -= *before
			}
		}
		return does
	}
	standing := l.standing(k, column, has)
	present := map[string]bool{}
	for by := range standing {
		present[by.element] = true
	}
	for _, e := range said.add {
		if !said.whole || !present[e] {
			does.adds[e] = true
		}
	}
	for by, stamp := range standing {
		if slices.Contains(said.remove, by.element) || said.whole && !slices.Contains(said.add, by.element) {
			does.removes[by] = stamp
		}
	}
	return does
}

// readEffect reads what an operation says that it does.
func (w *world) readEffect(c *change, column string) effect {
	does := effect{adds: map[string]bool{}, removes: map[adder]hlc.Stamp{}}
	list, err := sdk.OpParts(mergeOf(c.model, column), c.version(), []byte(c.fields[column]))
	w.check(err, "read %s of %s at %s", column, c.key, c.version())
	for i := range list {
		p := &list[i]
		element, isText := p.Element.(string)
		switch {
		case !isText:
			does.part, does.total = p.Part, p.Total
			does.more = p.Total - w.ledger.totalOf(c, column, p.Part)
		case p.Removed:
			does.removes[adder{element, p.Version.Device}] = p.Version.Stamp
		default:
			does.adds[element] = true
		}
	}
	return does
}

// totalOf returns what a part of a counter had before c.
func (l *ledger) totalOf(c *change, column string, part sdk.PartID) (total int64) {
	for _, other := range l.records[c.key] { // they ascend
		if does, ok := other.does[column]; ok && does.part == part && other != c {
			total = does.total
		}
	}
	return total
}

// means says what a change does to sets and counters by what was asked and what its writer had seen, before it being what
// it wrote in the same commit, and checks that its operation says the same. It returns what was asked after it.
func (w *world) means(d *device, asked []intent, before []*change, c *change) []intent {
	for len(asked) > 0 && (asked[0].key != c.key || asked[0].kind != c.kind) {
		asked = asked[1:] // it was refused
	}
	for _, column := range columnsOf(c.model) {
		if _, ok := c.fields[column]; !ok || !inParts(c.model, column) {
			continue
		}
		if len(asked) == 0 {
			w.fail("write", "%s wrote %s of %s at %s, which nobody asked for", d, column, c.key, c.version())
		}
		said, isEdit := asked[0].fields[column].(edit)
		does := w.readEffect(c, column)
		want := w.ledger.effectOf(c.key, column, &said, func(other *change) bool { return d.covers(other) || slices.Contains(before, other) })
		if !isEdit || !want.equal(&does) {
			if !isEdit || !w.doubts(d, c.key) {
				w.fail("write", "%s: its %s of %s at %s says that it does %v, and by what was asked (%+v) and seen it does %v\n%s", d, column, c.key, c.version(), does, said, want, w.history(c.key, d))
			}
			w.stats.Doubtful++ // it has seen what it says
		}
		w.stats.Removed += len(does.removes)
		if c.does == nil {
			c.does = map[string]effect{}
		}
		c.does[column] = does
	}
	return asked[min(1, len(asked)):]
}

// doubts reports whether a device may hold other changes of a record than the account says.
func (w *world) doubts(d *device, k key) bool {
	return d.vague[k] || w.rotten[k] || w.branched && slices.ContainsFunc(w.ledger.records[k], func(c *change) bool { return c.forgiven && !d.covers(c) })
}

// countKept counts the elements of sets that somebody removed and that are there, since an add stands which he had not seen.
func (w *world) countKept(d *device) {
	for _, k := range w.ledger.keys {
		if k.model != meterModel {
			continue
		}
		standing := w.ledger.standing(k, "words", d.covers)
		removed := map[string]bool{}
		for _, c := range w.ledger.records[k] {
			for by, stamp := range c.does["words"].removes {
				for other, later := range standing {
					// A later add of the same device may be one that was made after the remove was seen.
					if other.element == by.element && later < c.stamp && (other.device != by.device || later > stamp) {
						removed[by.element] = true
					}
				}
			}
		}
		w.stats.Kept += len(removed)
	}
}

// restampedEffects returns what a change does once stamps of its device have been replaced: it undoes the adds that it undid.
func (c *change) restampedEffects(renamed map[hlc.Stamp]hlc.Stamp) map[string]effect {
	does := maps.Clone(c.does)
	for column, e := range does {
		e.removes = maps.Clone(e.removes)
		for by, stamp := range e.removes {
			if next, ok := renamed[stamp]; ok && by.device == c.stream.Origin {
				e.removes[by] = next
			}
		}
		does[column] = e
	}
	return does
}

// sameAfter reports whether an operation is another one after stamps of its device have been replaced.
func (w *world) sameAfter(old, c *change, renamed map[hlc.Stamp]hlc.Stamp) bool {
	if old.key != c.key || old.kind != c.kind || len(old.fields) != len(c.fields) {
		return false
	}
	does := old.restampedEffects(renamed)
	for column, value := range old.fields {
		want, isEffect := does[column]
		if !isEffect {
			if c.fields[column] != value {
				return false
			}
			continue
		}
		if _, ok := c.fields[column]; !ok {
			return false
		}
		got := w.readEffect(c, column)
		if !maps.Equal(got.adds, want.adds) || !maps.Equal(got.removes, want.removes) || got.part != want.part || got.total != want.total {
			return false
		}
	}
	return true
}
