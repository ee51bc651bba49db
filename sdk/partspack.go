package sdk

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/tinylib/msgp/msgp"

	"github.com/starling-sync/starling/hlc"
)

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
