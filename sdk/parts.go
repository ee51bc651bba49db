package sdk

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"math"
	"math/big"
	"slices"
	"strings"

	"github.com/tinylib/msgp/msgp"

	"github.com/starling-sync/starling/hlc"
)

// Sets and counters merge in parts. The value of an operation and the state of a field are both sets of parts; merging is
// their union, in which of two parts for the same place one stands:
//
//	set      place: element and device that added it    stands: the greater stamp; of equal ones, removed
//	counter  place: start of the device that counts     stands: the greater version; of equal ones, the greater total
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

// PartID names one start of a device that counts: random, so that no two starts share one, also of copies of a device.
type PartID [8]byte

// FieldPart is one part of the state of a set or a counter.
type FieldPart struct {
	Version Version // of the write that added the element, or counted last

	Element any  // set: string or int64; nil for a counter
	Removed bool // set: what that write added has been removed

	Part  PartID // counter
	Total int64  // counter: what the start has added in all
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
	if order := p.Version.Compare(other.Version); order != 0 {
		return order > 0
	}
	if p.Element != nil {
		return p.Removed && !other.Removed
	}
	return p.Total > other.Total
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

func packState(merge Merge, list []FieldPart) []byte {
	var devices []DeviceID
	for i := range list {
		devices = append(devices, list[i].Version.Device)
	}
	slices.SortFunc(devices, DeviceID.Compare)
	devices = slices.Compact(devices)
	dst := make([]byte, 0, 16+19*len(devices)+24*len(list))
	dst = msgp.AppendArrayHeader(dst, 3)
	dst = msgp.AppendString(dst, string(merge))
	dst = msgp.AppendArrayHeader(dst, length(devices))
	for i := range devices {
		dst = msgp.AppendBytes(dst, devices[i][:])
	}
	index := func(p *FieldPart) int {
		at, _ := slices.BinarySearchFunc(devices, p.Version.Device, DeviceID.Compare)
		return at
	}
	if merge == Sum {
		dst = msgp.AppendArrayHeader(dst, length(list))
		for i := range list {
			p := &list[i]
			dst = msgp.AppendArrayHeader(dst, 4)
			dst = msgp.AppendBytes(dst, p.Part[:])
			dst = msgp.AppendInt(dst, index(p))
			dst = msgp.AppendUint64(dst, uint64(p.Version.Stamp))
			dst = msgp.AppendInt64(dst, p.Total)
		}
		return dst
	}
	runs := runsOf(list, func(a, b *FieldPart) bool { return a.Element == b.Element })
	dst = msgp.AppendArrayHeader(dst, length(runs))
	for _, run := range runs {
		dst = msgp.AppendArrayHeader(dst, uint32(1+2*len(run))) //nolint:gosec // a record is bounded
		dst = AppendValue(dst, run[0].Element)
		for i := range run {
			at := 2 * index(&run[i])
			if run[i].Removed {
				at++
			}
			dst = msgp.AppendInt(dst, at)
			dst = msgp.AppendUint64(dst, uint64(run[i].Version.Stamp))
		}
	}
	return dst
}

// runsOf cuts list where parts that follow each other are not alike.
func runsOf(list []FieldPart, alike func(a, b *FieldPart) bool) (runs [][]FieldPart) {
	for len(list) > 0 {
		n := 1
		for n < len(list) && alike(&list[0], &list[n]) {
			n++
		}
		runs = append(runs, list[:n])
		list = list[n:]
	}
	return runs
}

func length[E any](list []E) uint32 { return uint32(len(list)) } //nolint:gosec // a record is bounded

// partReader reads packed parts; after an error it reads zeros.
type partReader struct {
	b   []byte
	err error
}

func (r *partReader) failf(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf(format, args...)
	}
	r.b = nil
}

func readPart[T any](r *partReader, read func([]byte) (T, []byte, error)) (v T) {
	if r.err != nil {
		return v
	}
	got, rest, err := read(r.b)
	if err != nil {
		r.failf("%w", err)
		return v
	}
	r.b = rest
	return got
}

// array reads the header of an array of things that take a byte each at least.
func (r *partReader) array() int {
	n := readPart(r, msgp.ReadArrayHeaderBytes)
	if int64(n) > int64(len(r.b)) {
		r.failf("an array of %d in %d bytes", n, len(r.b))
		return 0
	}
	return int(n)
}

func (r *partReader) tuple(n int) {
	if got := r.array(); r.err == nil && got != n {
		r.failf("an array of %d; want %d", got, n)
	}
}

func (r *partReader) device() (id DeviceID) {
	raw := readPart(r, readID)
	return DeviceID(raw)
}

func (r *partReader) stamp() hlc.Stamp { return readPart(r, readStamp) }

func (r *partReader) part() (id PartID) {
	raw := readPart(r, msgp.ReadBytesZC)
	if r.err == nil && len(raw) != len(id) {
		r.failf("a part named by %d bytes; want %d", len(raw), len(id))
		return id
	}
	copy(id[:], raw)
	return id
}

// element reads an element of a set: text or a whole number.
func (r *partReader) element() any {
	if r.err != nil {
		return nil
	}
	t := Int
	if msgp.NextType(r.b) == msgp.StrType {
		t = Text
	} else if msgp.IsNil(r.b) {
		r.failf("an element is nil")
		return nil
	}
	v, rest, err := DecodeValue(r.b, t)
	if err != nil {
		r.failf("element: %w", err)
		return nil
	}
	r.b = rest
	return v
}

func (r *partReader) end() error {
	if r.err == nil && len(r.b) > 0 {
		r.failf("%d bytes too many", len(r.b))
	}
	return r.err
}

func readState(b []byte) (merge Merge, list []FieldPart, err error) {
	r := partReader{b: b}
	r.tuple(3)
	merge = Merge(readPart(&r, msgp.ReadStringBytes))
	if r.err == nil && !merge.inParts() {
		r.failf("it is of a %q", merge)
	}
	devices := make([]DeviceID, 0, min(r.array(), len(r.b)/17))
	for range cap(devices) {
		devices = append(devices, r.device())
	}
	known := func(at int) (id DeviceID) {
		if at < 0 || at >= len(devices) {
			r.failf("device %d of %d", at, len(devices))
			return id
		}
		return devices[at]
	}
	for n := r.array(); n > 0 && r.err == nil; n-- {
		if merge == Sum {
			r.tuple(4)
			p := FieldPart{Part: r.part()}
			p.Version.Device = known(readPart(&r, msgp.ReadIntBytes))
			p.Version.Stamp, p.Total = r.stamp(), readPart(&r, msgp.ReadInt64Bytes)
			list = append(list, p)
			continue
		}
		width := r.array()
		if width%2 == 0 {
			r.failf("an element with half a place")
		}
		element := r.element()
		for ; width > 1 && r.err == nil; width -= 2 {
			at := readPart(&r, msgp.ReadIntBytes)
			p := FieldPart{Element: element, Removed: at%2 == 1}
			p.Version = Version{Device: known(at / 2), Stamp: r.stamp()}
			list = append(list, p)
		}
	}
	return merge, list, r.end()
}

// MaxPartsBytes is the greatest size of the sets and counters of a record that a local write may lead to, as a snapshot has
// to carry them in one message: as the operations that make them. It leaves room for what others write at the same time.
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

// AppendOpParts appends the value of an operation of version at that merges these parts. Parts of a set that have another
// version must be removed ones; of a counter it is one part, of that version.
func AppendOpParts(dst []byte, merge Merge, at Version, list []FieldPart) []byte {
	dst = msgp.AppendArrayHeader(dst, 2)
	if merge == Sum {
		dst = msgp.AppendBytes(dst, list[0].Part[:])
		return msgp.AppendInt64(dst, list[0].Total)
	}
	var adds, removes []FieldPart
	for _, p := range list {
		if p.Removed {
			removes = append(removes, p)
		} else if p.Version == at {
			adds = append(adds, p)
		}
	}
	byElement := func(a, b FieldPart) int { return compareElements(a.Element, b.Element) }
	slices.SortFunc(adds, byElement)
	slices.SortFunc(removes, func(a, b FieldPart) int { return cmp.Or(a.Version.Compare(b.Version), byElement(a, b)) })
	dst = msgp.AppendArrayHeader(dst, length(adds))
	for i := range adds {
		dst = AppendValue(dst, adds[i].Element)
	}
	runs := runsOf(removes, func(a, b *FieldPart) bool { return a.Version == b.Version })
	dst = msgp.AppendArrayHeader(dst, length(runs))
	for _, run := range runs {
		dst = msgp.AppendArrayHeader(dst, uint32(2+len(run))) //nolint:gosec // a record is bounded
		dst = msgp.AppendBytes(dst, run[0].Version.Device[:])
		dst = msgp.AppendUint64(dst, uint64(run[0].Version.Stamp))
		for i := range run {
			dst = AppendValue(dst, run[i].Element)
		}
	}
	return dst
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
	for len(list) > 0 {
		n := 1
		for merge != Sum && n < len(list) && list[n].Version == list[0].Version {
			n++
		}
		writes = append(writes, PartWrite{list[0].Version, AppendOpParts(nil, merge, list[0].Version, list[:n])})
		list = list[n:]
	}
	last := slices.ContainsFunc(writes, func(w PartWrite) bool { return w.Version == f.Version })
	if !last && merge == AddWins { // it only removed
		writes = append(writes, PartWrite{f.Version, AppendOpParts(nil, merge, f.Version, nil)})
	}
	return writes
}

// OpParts returns the parts of the value of an operation of version at. It returns an error for a value that is not packed as
// AppendOpParts does, and for one that removes what it can not have seen: an add of another version that is not earlier.
func OpParts(merge Merge, at Version, value []byte) (list []FieldPart, err error) {
	r := partReader{b: value}
	r.tuple(2)
	if merge == Sum {
		p := FieldPart{Version: at, Part: r.part()}
		p.Total = readPart(&r, msgp.ReadInt64Bytes)
		list = append(list, p)
	} else {
		for n := r.array(); n > 0 && r.err == nil; n-- {
			list = append(list, FieldPart{Version: at, Element: r.element()})
		}
		for n := r.array(); n > 0 && r.err == nil; n-- {
			list = r.removes(at, list)
		}
	}
	if err := r.end(); err != nil {
		return nil, Errorf(CodeInvalid, "a write to a %s is malformed: %w", merge, err)
	}
	return list, nil
}

// removes reads what one add added and is removed.
func (r *partReader) removes(at Version, list []FieldPart) []FieldPart {
	n := r.array()
	if n < 3 {
		r.failf("a remove of %d parts", n)
	}
	dot := Version{Device: r.device(), Stamp: r.stamp()}
	if r.err == nil && (dot.Stamp == 0 || (dot.Stamp >= at.Stamp && dot != at)) {
		r.failf("it removes what was added at %s, and is of %s itself", dot.Stamp, at.Stamp)
	}
	for ; n > 2 && r.err == nil; n-- {
		list = append(list, FieldPart{Version: dot, Element: r.element(), Removed: true})
	}
	return list
}

// RenameOp appends the value of an operation on a field that merges by merge, with other stamps for the adds of device self
// that it removes. Values of other merge kinds name no stamps: they are appended as they are.
func RenameOp(dst []byte, merge Merge, value []byte, self DeviceID, rename func(hlc.Stamp) hlc.Stamp) ([]byte, error) {
	if merge != AddWins {
		return append(dst, value...), nil
	}
	at := Version{Stamp: hlc.MaxStamp}
	list, err := OpParts(merge, at, value)
	if err != nil {
		return dst, err
	}
	for i := range list {
		if p := &list[i]; p.Removed && p.Version.Device == self {
			p.Version.Stamp = rename(p.Version.Stamp)
		}
	}
	return AppendOpParts(dst, merge, at, list), nil
}

// NewPartID returns the id of this start of a device; random gives 8 random bytes.
func NewPartID(random uint64) (id PartID) {
	binary.BigEndian.PutUint64(id[:], random)
	return id
}
