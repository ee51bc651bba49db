package sdktest

import (
	"fmt"
	"slices"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/sdk"
)

// inParts reports whether a field merges in parts: a set or a counter.
func inParts(merge sdk.Merge) bool { return merge == sdk.AddWins || merge == sdk.Sum }

// elements returns elements of a set f: few, so that equal ones meet.
func elements(f *sdk.Field) []any {
	if f.Type == sdk.Int {
		return []any{int64(-1), int64(0), int64(70_000)}
	}
	return []any{"", "a", "b c", "\u00e9\u6f22"}
}

// partValue packs what an operation of version at does to a field: the elements that it adds, or what a start of its device
// has counted in all.
func partValue(merge sdk.Merge, at sdk.Version, parts ...sdk.FieldPart) sdk.Packed {
	return sdk.AppendOpParts(nil, merge, at, parts)
}

func counted(at sdk.Version, start byte, total int64) sdk.FieldPart {
	return sdk.FieldPart{Version: at, Part: sdk.PartID{at.Device[15], start}, Total: total}
}

// partValues returns writes to a set or counter that depend on nothing that was written before.
func partValues(f *sdk.Field) []any {
	at := sdk.Version{Stamp: 1, Device: deviceID(1)}
	if f.Merge == sdk.Sum {
		return []any{partValue(sdk.Sum, at, counted(at, 1, 3)), partValue(sdk.Sum, at, counted(at, 2, -1)), partValue(sdk.Sum, at, counted(at, 1, 0))}
	}
	all := elements(f)
	return []any{
		partValue(sdk.AddWins, at, sdk.FieldPart{Version: at, Element: all[1]}), partValue(sdk.AddWins, at),
		partValue(sdk.AddWins, at, sdk.FieldPart{Version: at, Element: all[0]}, sdk.FieldPart{Version: at, Element: all[2]}),
	}
}

// drawParts draws a write to a set or counter, of a version: it removes earlier adds of any device, whether they
// were ever made or not.
func drawParts(rt *rapid.T, f *sdk.Field, at sdk.Version) sdk.Packed {
	if f.Merge == sdk.Sum {
		start := rapid.ByteRange(1, 2).Draw(rt, "start")
		return partValue(sdk.Sum, at, counted(at, start, rapid.Int64Range(-3, 3).Draw(rt, "total")))
	}
	var parts []sdk.FieldPart
	for _, e := range elements(f) {
		switch rapid.IntRange(0, 3).Draw(rt, "element") {
		case 0:
			parts = append(parts, sdk.FieldPart{Version: at, Element: e})
		case 1:
			if at.Stamp == 1 {
				break // nothing is earlier
			}
			dot := sdk.Version{Stamp: hlc.Stamp(rapid.Uint64Range(1, uint64(at.Stamp)-1).Draw(rt, "add")), Device: deviceID(rapid.ByteRange(1, 3).Draw(rt, "by"))}
			parts = append(parts, sdk.FieldPart{Version: dot, Element: e, Removed: true})
		}
	}
	return partValue(sdk.AddWins, at, parts...)
}

// mergeParts adds a write to the state of a set or counter in the dumbest way: it keeps what every write says, and picks.
func mergeParts(t fataler, merge sdk.Merge, state sdk.FieldState, w write, at sdk.Version) sdk.FieldState {
	t.Helper()
	packed, _ := w.value.(sdk.Packed)
	said, err := sdk.OpParts(merge, at, packed)
	if err != nil {
		t.Fatalf("%s at %v: %v", w.field, at, err)
	}
	held, err := state.Parts()
	if err != nil {
		t.Fatalf("%s: %v", w.field, err)
	}
	for _, p := range said {
		same := func(old sdk.FieldPart) bool {
			if merge == sdk.Sum {
				return old.Part == p.Part
			}
			return old.Element == p.Element && old.Version.Device == p.Version.Device
		}
		stands := true
		for _, old := range held {
			if !same(old) {
				continue
			}
			if merge == sdk.Sum {
				stands = stands && (farther(p.Total, old.Total) || !farther(old.Total, p.Total) && p.Version.Compare(old.Version) > 0)
			} else {
				stands = stands && (p.Version.Stamp > old.Version.Stamp || p.Version.Stamp == old.Version.Stamp && p.Removed)
			}
		}
		if stands {
			held = append(slices.DeleteFunc(held, same), p)
		}
	}
	next := sdk.FieldState{Name: w.field, Version: at}
	next.SetParts(merge, held)
	return next
}

// farther reports whether a is farther from 0 than b.
func farther(a, b int64) bool { return max(a, -a) > max(b, -b) }

// partsField returns a field that merges so.
func (s *modelSuite) partsField(t T, merge sdk.Merge) sdk.Field {
	t.Helper()
	for _, f := range s.desc.Fields {
		if f.Merge == merge {
			return f
		}
	}
	t.Skipf("the model has no %s", merge)
	return sdk.Field{}
}

// sharedAddWins is the table of what two devices do to a set and a third that has it.
func (s *modelSuite) sharedAddWins(t T) {
	f := s.partsField(t, sdk.AddWins)
	a, b := elements(&f)[0], elements(&f)[1]
	at := func(device byte, stamp hlc.Stamp) sdk.Version {
		return sdk.Version{Stamp: stamp, Device: deviceID(device)}
	}
	op := func(v sdk.Version, parts ...sdk.FieldPart) operation {
		return s.update(v.Device[15], v.Stamp, write{field: f.Name, value: partValue(sdk.AddWins, v, parts...)})
	}
	add := func(v sdk.Version, e any) sdk.FieldPart { return sdk.FieldPart{Version: v, Element: e} }
	remove := func(v sdk.Version, e any) sdk.FieldPart { return sdk.FieldPart{Version: v, Element: e, Removed: true} }
	first := op(at(1, 1), add(at(1, 1), a))
	cases := []struct {
		name string
		ops  []operation
		want []any
	}{
		{"Add", []operation{first}, []any{a}},
		{"RemoveSeen", []operation{first, op(at(2, 2), remove(at(1, 1), a))}, nil},
		{"RemoveOther", []operation{first, op(at(2, 2), remove(at(1, 1), b))}, []any{a}},
		{"ConcurrentAddWins", []operation{first, op(at(2, 4), remove(at(1, 1), a)), op(at(1, 3), add(at(1, 3), a))}, []any{a}},
		{"AddElsewhereWins", []operation{first, op(at(2, 4), remove(at(1, 1), a)), op(at(3, 2), add(at(3, 2), a))}, []any{a}},
		{"AddAgain", []operation{first, op(at(2, 2), remove(at(1, 1), a)), op(at(2, 3), add(at(2, 3), a))}, []any{a}},
		{"TwoElements", []operation{first, op(at(2, 1), add(at(2, 1), b)), op(at(3, 2), remove(at(1, 1), a))}, []any{b}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t T) {
			want := sdk.FieldState{}
			for i := range c.want {
				c.want[i] = add(at(1, 1), c.want[i])
			}
			var parts []sdk.FieldPart
			for _, p := range c.want {
				part, _ := p.(sdk.FieldPart)
				parts = append(parts, part)
			}
			want.SetParts(sdk.AddWins, parts)
			orders(c.ops, func(ops []operation) {
				r := s.replica().replay(t, ops)
				if diff := cmp.Diff(want.Value, r.field(ops[0].id, f.Name)); diff != "" {
					t.Errorf("order %v (-want +got):\n%s", ops, diff)
				}
			})
		})
	}
}

func (s *modelSuite) sharedCounter(t T) {
	f := s.partsField(t, sdk.Sum)
	op := func(device, start byte, stamp hlc.Stamp, total int64) operation {
		v := sdk.Version{Stamp: stamp, Device: deviceID(device)}
		return s.update(device, stamp, write{field: f.Name, value: partValue(sdk.Sum, v, counted(v, start, total))})
	}
	cases := []struct {
		name string
		ops  []operation
		want int64
	}{
		{"TwoDevices", []operation{op(1, 1, 1, 3), op(2, 1, 1, 4)}, 7},
		{"FarthestTotalOfAStart", []operation{op(1, 1, 1, 3), op(1, 1, 2, 5), op(1, 1, 3, 4)}, 5},
		{"FarthestBelowZero", []operation{op(1, 1, 1, -3), op(1, 1, 2, -5), op(1, 1, 3, -4), op(2, 1, 1, 1)}, -4},
		{"TwoStarts", []operation{op(1, 1, 1, 3), op(1, 2, 2, 5), op(2, 1, 2, -1)}, 7},
	}
	for _, c := range cases {
		t.Run(c.name, func(t T) {
			orders(c.ops, func(ops []operation) {
				r := s.replica().replay(t, slices.Concat(ops, ops[:1])) // one of them twice
				if diff := cmp.Diff(any(c.want), r.field(ops[0].id, f.Name)); diff != "" {
					t.Errorf("order %v (-want +got):\n%s", ops, diff)
				}
			})
		})
	}
}

// sharedSnapshot takes records apart into the writes that stand, as a snapshot does, and wants these to make the same.
func (s *modelSuite) sharedSnapshot(t T) {
	random(t, func(rt *rapid.T) {
		ops := s.history(rt)
		whole, taken := s.replica().replay(rt, ops), s.replica()
		for _, op := range ops[:rapid.IntRange(0, len(ops)).Draw(rt, "known")] {
			taken.apply(rt, false, op)
		}
		var writes []operation
		for _, id := range sortedIDs(whole.records) {
			record := whole.records[id]
			for _, f := range record.Fields {
				field, _ := s.desc.Field(f.Name)
				if !inParts(field.Merge) {
					continue
				}
				made, err := f.Writes(field.Merge)
				if err != nil {
					rt.Fatalf("%s: %v", f.Name, err)
				}
				for _, w := range made {
					writes = append(writes, operation{id: id, kind: sdk.Update, at: w.Version, writes: []write{{field: f.Name, value: w.Value}}})
				}
			}
		}
		for _, op := range interleave(rt, writes) {
			taken.apply(rt, false, op)
		}
		for id, record := range whole.records {
			got := map[string]sdk.FieldState{}
			for _, f := range taken.records[id].Fields {
				got[f.Name] = f
			}
			for _, f := range record.Fields {
				if field, _ := s.desc.Field(f.Name); !inParts(field.Merge) {
					continue
				}
				if diff := cmp.Diff(f, got[f.Name]); diff != "" {
					rt.Fatalf("what stands of %s, merged elsewhere (-want +got):\n%s", f.Name, diff)
				}
			}
		}
	})
}

// sharedUnknownMerges writes fields of a newer schema whose columns say how they merge.
func (s *modelSuite) sharedUnknownMerges(t T) {
	v := func(device byte, stamp hlc.Stamp) sdk.Version {
		return sdk.Version{Stamp: stamp, Device: deviceID(device)}
	}
	set := func(at sdk.Version, parts ...sdk.FieldPart) any { return partValue(sdk.AddWins, at, parts...) }
	cases := []struct {
		merge sdk.Merge
		at    []sdk.Version
		said  []any
		want  any
	}{
		{sdk.Max, []sdk.Version{v(1, 1), v(2, 2), v(1, 3)}, []any{int64(3), int64(9), int64(4)}, int64(9)},
		{sdk.Min, []sdk.Version{v(1, 1), v(2, 2), v(1, 3)}, []any{"b", "a", "c"}, "a"},
		{sdk.AddWins, []sdk.Version{v(1, 1), v(2, 2), v(1, 3)}, []any{
			set(v(1, 1), sdk.FieldPart{Version: v(1, 1), Element: "x"}), set(v(2, 2), sdk.FieldPart{Version: v(2, 2), Element: "y"}),
			set(v(1, 3), sdk.FieldPart{Version: v(1, 1), Element: "x", Removed: true}),
		}, `["y"]`},
		{sdk.Sum, []sdk.Version{v(1, 1), v(2, 2), v(1, 3)}, []any{
			partValue(sdk.Sum, v(1, 1), counted(v(1, 1), 1, 5)), partValue(sdk.Sum, v(2, 2), counted(v(2, 2), 1, 7)), partValue(sdk.Sum, v(1, 3), counted(v(1, 3), 1, 6)),
		}, int64(13)},
	}
	for _, c := range cases {
		t.Run(string(c.merge), func(t T) {
			column := sdk.Field{Name: unknownColumn, Merge: c.merge}
			index := []int{0, 1, 2}
			var permuted [][]int
			for _, a := range index {
				for _, b := range index {
					if a != b {
						permuted = append(permuted, []int{a, b, 3 - a - b, a})
					}
				}
			}
			for _, order := range permuted {
				r := s.replica()
				id := s.id(s.plain(), 1)
				for _, i := range order {
					b := sdk.Batch{Model: s.desc.Model, Version: s.desc.Version + 1, Columns: []string{column.Column()}, Count: 1}
					b.Rows = sdk.AppendOpField(sdk.AppendOpHeader(nil, id, c.at[i].Stamp, sdk.Update, 1), 0, c.said[i], 0)
					if result := r.applyBatch(t, false, c.at[i].Device, b); len(result.Refused) > 0 {
						t.Fatalf("refused: %+v", result.Refused)
					}
				}
				if diff := cmp.Diff(c.want, r.field(id, unknownColumn)); diff != "" {
					t.Errorf("order %v: a field of a newer schema (-want +got):\n%s", order, diff)
				}
			}
		})
	}
}

// badParts returns what must be refused for a set or a counter.
func badParts(f *sdk.Field) []badValue {
	at := sdk.Version{Stamp: 1, Device: deviceID(1)}
	bad := []badValue{{"Nil", []byte{0xc0}}, {"Map", []byte{0x81, 0xa1, 'a', 0x01}}, {"Number", []byte{0x05}}, {"Text", []byte{0xa1, 'a'}}}
	if f.Merge == sdk.Sum {
		return append(bad, badValue{"ShortPart", []byte{0x92, 0xc4, 0x01, 0x01, 0x05}}, badValue{"TextTotal", append(partValue(sdk.Sum, at, counted(at, 1, 3))[:11:11], 0xa1, 'a')})
	}
	other := any("text")
	if f.Type == sdk.Text {
		other = int64(3)
	}
	return append(bad, badValue{"List", []byte{0x91, 0xa1, 'a'}},
		badValue{"ElementOfAnotherType", partValue(sdk.AddWins, at, sdk.FieldPart{Version: at, Element: other})},
		badValue{"RemoveOfWhatIsLater", partValue(sdk.AddWins, at, sdk.FieldPart{Version: sdk.Version{Stamp: 1000, Device: deviceID(2)}, Element: elements(f)[0], Removed: true})})
}

func describeParts(v any) string {
	if packed, isPacked := v.(sdk.Packed); isPacked {
		return fmt.Sprintf("%x", []byte(packed))
	}
	return fmt.Sprint(v)
}
