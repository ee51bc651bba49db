package sdk

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"math"
	"math/big"
	"slices"
	"strings"
)

// Sets and counters merge in parts. The value of an operation and the state of a field are both sets of parts; merging is
// their union, in which of two parts for the same place one stands:
//
//	set      place: element and device that added it    stands: the greater stamp; of equal ones, removed
//	counter  place: start of the device that counts     stands: the total farther from 0; of equally far ones, the greater version
//
// A start counts what it adds in one part, and what it takes away in another: so a part only moves away from 0, and of two of
// its totals the later one is known without looking at their versions. These do not tell it, since a copy of a device may
// give an early total a late stamp again (see the host's restamping).
//
// Both rules take a maximum in a total order, so that the result depends only on the set of parts that arrived. An element is
// in the set iff one of its parts is not removed; a counter is the sum of its totals.
//
// A remove takes every add of the device that it names up to the one that it names: a device has seen its own earlier adds,
// and so has who saw the last of them. HAZARD: of two running copies of one device neither has seen what the other adds, so
// that a remove of one's add may take an earlier one of the other.
//
// They are packed as MessagePack:
//
//	operation, set      [[element ...], [[device, stamp, element ...] ...]]    adds; removes by the add that they undo
//	operation, counter  [part, total]                                          part is 8 bytes (bin)
//	state, set          ["set", [device ...], [[element, place, stamp ...] ...]]   place is 2 x the device's index, plus 1 if removed
//	state, counter      ["counter", [device ...], [[part, index of the device, stamp, total] ...]]
//
// What an operation adds or counts has the operation's own version. A state is packed in one way only: devices, elements,
// places and parts ascend, and no device is there that none needs.

// PartID names one start of a device that counts, and one direction: random, so that no two starts share one, also of copies of
// a device.
//
// HAZARD: two processes that go on from one image of a running one (a virtual machine resumed twice) are one start by all that
// either can know: they share their parts, as they share the epoch of their streams. Of what both add to one counter only the
// larger sum counts. A device has to be started anew from such an image, not resumed.
type PartID [8]byte

// taking returns the part in which the start counts what it takes away.
func (p PartID) taking() PartID {
	p[len(p)-1] ^= 1
	return p
}

// FieldPart is one part of the state of a set or a counter.
type FieldPart struct {
	Version Version // of the write that added the element, or counted last

	Element any  // set: string or int64; nil for a counter
	Removed bool // set: what that write added has been removed

	Part  PartID // counter
	Total int64  // counter: what the start has added in all, or taken away (less than 0)
}

// place is what a part is the state of.
type place struct {
	element any
	device  DeviceID
	part    PartID
}

func (p *FieldPart) place() place {
	if p.Element != nil {
		return place{element: p.Element, device: p.Version.Device}
	}
	return place{part: p.Part}
}

// beats reports whether p stands against other, of the same place.
func (p *FieldPart) beats(other *FieldPart) bool {
	if p.Element == nil {
		return cmp.Or(cmp.Compare(magnitude(p.Total), magnitude(other.Total)), p.Version.Compare(other.Version), cmp.Compare(p.Total, other.Total)) > 0
	}
	if order := p.Version.Compare(other.Version); order != 0 {
		return order > 0
	}
	return p.Removed && !other.Removed
}

// magnitude returns how far n is from 0.
func magnitude(n int64) uint64 {
	if n < 0 {
		return -uint64(n)
	}
	return uint64(n)
}

// compare puts parts into the order in which they are packed.
func (p *FieldPart) compare(other *FieldPart) int {
	return cmp.Or(compareElements(p.Element, other.Element), bytes.Compare(p.Part[:], other.Part[:]),
		p.Version.Device.Compare(other.Version.Device))
}

// compareElements orders elements of sets: whole numbers first.
func compareElements(a, b any) int {
	switch a := a.(type) {
	case int64:
		if b, ok := b.(int64); ok {
			return cmp.Compare(a, b)
		}
		return -1
	case string:
		if b, ok := b.(string); ok {
			return strings.Compare(a, b)
		}
		return 1
	}
	return 0
}

// parts is the state of a set or a counter, under way.
type parts map[place]FieldPart

// add merges one part, and reports whether it stands and did not before.
func (all parts) add(p *FieldPart) bool {
	at := p.place()
	if old, held := all[at]; held && !p.beats(&old) {
		return false
	}
	all[at] = *p
	return true
}

func (all parts) sorted() []FieldPart {
	list := make([]FieldPart, 0, len(all))
	for _, p := range all {
		list = append(list, p)
	}
	slices.SortFunc(list, func(a, b FieldPart) int { return a.compare(&b) })
	return list
}

func partsOf(list []FieldPart) parts {
	all := make(parts, len(list))
	for i := range list {
		all.add(&list[i])
	}
	return all
}

// Parts returns the parts of the state of a set or counter, in the order in which they are packed; none for other fields.
func (f *FieldState) Parts() ([]FieldPart, error) {
	if len(f.State) == 0 {
		return nil, nil
	}
	_, list, err := readState(f.State)
	if err != nil {
		return nil, Errorf(CodeInvalid, "the state of field %q: %w", f.Name, err)
	}
	return list, nil
}

// SetParts makes parts the state of a field that merges by merge, AddWins or Sum, and sets its value. Of parts for one place
// that one stays which stands.
func (f *FieldState) SetParts(merge Merge, list []FieldPart) {
	for i := 1; i < len(list); i++ {
		if list[i-1].compare(&list[i]) >= 0 || list[i-1].place() == list[i].place() {
			list = partsOf(list).sorted()
			break
		}
	}
	f.pack(merge, list)
}

// pack is SetParts of a list that is sorted and has one part for each place.
func (f *FieldState) pack(merge Merge, list []FieldPart) {
	f.State = packState(merge, list)
	if merge == Sum {
		f.Value = clamp(total(list))
	} else {
		f.Value = elementsJSON(list)
	}
}

// CheckParts returns why the state of a field that merges by merge is not what SetParts makes.
func (f *FieldState) CheckParts(merge Merge) error {
	list, err := f.Parts()
	if err != nil {
		return err
	}
	var want FieldState
	want.SetParts(merge, list)
	if !bytes.Equal(want.State, f.State) || !equalValues(want.Value, f.Value) {
		return Errorf(CodeInvalid, "field %q: its state or its value is not packed as a %s is", f.Name, merge)
	}
	return nil
}

// live returns the elements of a set, ascending.
func live(list []FieldPart) (elements []any) {
	for i := range list {
		if p := &list[i]; !p.Removed && p.Element != nil && (len(elements) == 0 || elements[len(elements)-1] != p.Element) {
			elements = append(elements, p.Element)
		}
	}
	return elements
}

func elementsJSON(list []FieldPart) string {
	dst := []byte{'['}
	for i, e := range live(list) {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendElementJSON(dst, e)
	}
	return string(append(dst, ']'))
}

func appendElementJSON(dst []byte, e any) []byte {
	if text, isText := e.(string); isText {
		return AppendJSONValue(dst, Text, text)
	}
	return AppendJSONValue(dst, Int, e)
}

// total returns the exact sum of a counter.
func total(list []FieldPart) *big.Int {
	sum := new(big.Int)
	for i := range list {
		sum.Add(sum, big.NewInt(list[i].Total))
	}
	return sum
}

// clamp returns the number nearest to sum that a counter can show.
func clamp(sum *big.Int) int64 {
	switch {
	case sum.IsInt64():
		return sum.Int64()
	case sum.Sign() < 0:
		return math.MinInt64
	}
	return math.MaxInt64
}

// MaxPartsBytes is the greatest size of the sets and counters of a record that a local write may lead to, as a snapshot has
// to carry them in one message: as the operations that make them. It leaves room for what others write at the same time.
// HAZARD: what many devices write to one record at the same time, each up to here, may come to more than a message takes, and
// then no snapshot passes that record.
const MaxPartsBytes = MaxRecordBytes / 2

// partsBytes returns how much of that a field takes.
func (f *FieldState) partsBytes() int {
	const operation = 48 // what an operation takes beside its value
	if len(f.State) == 0 {
		return 0
	}
	merge, list, err := readState(f.State)
	if err != nil {
		return len(f.State)
	}
	writes := f.writes(merge, list)
	size := 0
	for i := range writes {
		size += operation + len(writes[i].Value)
	}
	return size
}

// PartWrite is a write to a set or counter: its version, and the value that an operation of that version has.
type PartWrite struct {
	Version Version
	Value   Packed
}

// Writes returns writes that make the state of a field that merges by merge, AddWins or Sum, ascending: merged in any order,
// into nothing or into what knows some of them, they give its parts and its version. Each has the version of the parts that it
// makes; what is removed is removed by the version that added it, so that no write is more than a few bytes longer than the
// one that added what it names.
func (f *FieldState) Writes(merge Merge) (writes []PartWrite, err error) {
	list, err := f.Parts()
	if err != nil {
		return nil, err
	}
	return f.writes(merge, list), nil
}

func (f *FieldState) writes(merge Merge, list []FieldPart) (writes []PartWrite) {
	slices.SortStableFunc(list, func(a, b FieldPart) int { return a.Version.Compare(b.Version) })
	all := list
	for len(list) > 0 {
		n := 1
		for merge != Sum && n < len(list) && list[n].Version == list[0].Version {
			n++
		}
		writes = append(writes, PartWrite{list[0].Version, AppendOpParts(nil, merge, list[0].Version, list[:n])})
		list = list[n:]
	}
	if slices.ContainsFunc(writes, func(w PartWrite) bool { return w.Version == f.Version }) {
		return writes
	}
	var nothing []FieldPart // what a write says that only removed
	if merge == Sum {       // or a total that stood no more
		at := slices.IndexFunc(all, func(p FieldPart) bool { return p.Total != 0 })
		if at < 0 {
			return writes
		}
		nothing = []FieldPart{{Part: all[at].Part}}
	}
	return append(writes, PartWrite{f.Version, AppendOpParts(nil, merge, f.Version, nothing)})
}

// NewPartID returns the id of this start of a device; random gives 8 random bytes, of which the last bit says nothing.
func NewPartID(random uint64) (id PartID) {
	binary.BigEndian.PutUint64(id[:], random)
	return id
}
