package sdk_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/big"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/sdk"
)

// song has a field of each kind that merges in parts.
type song struct {
	sdk.Shared
	Title string          `starling:"title"`
	Words sdk.Set[string] `starling:"words"`
	Years sdk.Set[int64]  `starling:"years"`
	Plays sdk.Counter     `starling:"plays"`
	High  int64           `starling:"high,max"`
}

func songs() sdk.Model[song] { return sdk.Model[song]{Name: "song", Version: 1} }

// oldSongs lacks the fields that songs has.
func oldSongs() sdk.Model[struct {
	sdk.Shared
	Title string `starling:"title"`
}] {
	return sdk.Model[struct {
		sdk.Shared
		Title string `starling:"title"`
	}]{Name: "song", Version: 1}
}

// written is one operation on the record one.
type written struct {
	at     sdk.Version
	fields map[string][]byte
}

var songColumns = []string{"title", "words:set", "years:set", "plays:counter", "high:max"}

// peer is a device that writes to the record one, and merges what others write.
type peer struct {
	t      testing.TB
	id     sdk.DeviceID
	server sdk.ModelServer
	desc   sdk.Description
	record sdk.Record
	stamp  hlc.Stamp
	starts byte
	ops    []written
}

func newPeer(t testing.TB, n byte, server sdk.ModelServer) *peer {
	desc, err := server.Describe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return &peer{t: t, id: sdk.DeviceID{n}, server: server, desc: desc, record: sdk.Record{ID: one}}
}

func (p *peer) field(name string) *sdk.FieldState {
	for i := range p.record.Fields {
		if p.record.Fields[i].Name == name {
			return &p.record.Fields[i]
		}
	}
	return nil
}

// write decides on a local write of one field, as a host does, and merges it.
func (p *peer) write(name, said string) error {
	p.stamp++
	at := sdk.Version{Stamp: p.stamp, Device: p.id}
	_, values, err := sdk.DecodeJSON(p.desc, []byte(fmt.Sprintf(`{%q: %s}`, name, said)))
	if err != nil {
		return err
	}
	f, _ := p.desc.Field(name)
	packed := sdk.AppendValue(nil, values[0])
	if f.Merge == sdk.AddWins || f.Merge == sdk.Sum {
		if packed, err = f.Edit(p.field(name), packed, at, sdk.PartID{p.id[0], p.starts}); err != nil {
			return err
		}
	}
	op := written{at, map[string][]byte{f.Column(): packed}}
	p.ops = append(p.ops, op)
	p.merge(op)
	return nil
}

func (p *peer) batch(ops ...written) sdk.Batch {
	b := sdk.Batch{Model: "song", Version: 1, Columns: songColumns, Count: len(ops)}
	for _, op := range ops {
		b.Rows = sdk.AppendOpHeader(b.Rows, one, op.at.Stamp, sdk.Update, len(op.fields))
		for _, column := range slices.Sorted(maps.Keys(op.fields)) {
			b.Rows = sdk.AppendOpField(b.Rows, slices.Index(songColumns, column), sdk.Packed(op.fields[column]), 0)
		}
	}
	return b
}

// merge merges operations of one device, and reports whether that changed the record.
func (p *peer) merge(ops ...written) bool {
	p.t.Helper()
	for _, op := range ops {
		p.stamp = max(p.stamp, op.at.Stamp)
	}
	result, err := p.server.ApplySharedChange(p.t.Context(), sdk.SharedChanges{
		Batch: p.batch(ops...), Origin: ops[0].at.Device, Current: []sdk.Record{p.record},
	})
	if err != nil || len(result.Refused) > 0 || len(result.Conflicts) > 0 {
		p.t.Fatalf("merge %v: %v, %+v", ops, err, result)
	}
	if len(result.Records) > 0 {
		p.record = result.Records[0]
		for i := range p.record.Fields {
			if f := &p.record.Fields[i]; f.State != nil {
				merge := f.Merge
				if known, ok := p.desc.Field(f.Name); ok {
					merge = known.Merge
				}
				if err := f.CheckParts(merge); err != nil {
					p.t.Fatal(err)
				}
			}
		}
	}
	return len(result.Records) > 0
}

// operations returns the operations that make the record, as a snapshot has them.
func (p *peer) operations() (ops []written) {
	for i := range p.record.Fields {
		f := &p.record.Fields[i]
		known, _ := p.desc.Field(f.Name)
		if known.Merge != sdk.AddWins && known.Merge != sdk.Sum {
			ops = append(ops, written{f.Version, map[string][]byte{known.Column(): sdk.AppendValue(nil, f.Value)}})
			continue
		}
		writes, err := f.Writes(known.Merge)
		if err != nil {
			p.t.Fatal(err)
		}
		for _, w := range writes {
			ops = append(ops, written{w.Version, map[string][]byte{known.Column(): w.Value}})
		}
	}
	return ops
}

// edits are what is drawn of local writes.
var edits = []struct{ field, said string }{
	{"words", `["a"]`}, {"words", `["a","b","c"]`}, {"words", `[]`}, {"words", `null`},
	{"words", `{"add":["a"]}`}, {"words", `{"add":["b"],"remove":["a"]}`}, {"words", `{"remove":["a","b"]}`},
	{"years", `[1999,-1]`}, {"years", `{"add":[1999]}`}, {"years", `{"remove":[1999]}`},
	{"plays", `{"add":1}`}, {"plays", `{"add":-3}`}, {"plays", `5`}, {"plays", `0`},
	{"high", `3`}, {"high", `7`},
}

// play draws a history of three devices that write and now and then merge what another has written.
func play(rt *rapid.T, t testing.TB) []*peer {
	peers := []*peer{newPeer(t, 1, songs()), newPeer(t, 2, songs()), newPeer(t, 3, songs())}
	for range rapid.IntRange(1, 25).Draw(rt, "steps") {
		p := rapid.SampledFrom(peers).Draw(rt, "device")
		switch rapid.IntRange(0, 5).Draw(rt, "step") {
		case 0:
			p.starts++
		case 1, 2:
			other := rapid.SampledFrom(peers).Draw(rt, "from")
			if n := len(other.ops); n > 0 { // its stream, without a gap
				p.merge(other.ops[:rapid.IntRange(1, n).Draw(rt, "many")]...)
			}
		default:
			e := rapid.SampledFrom(edits).Draw(rt, "edit")
			if err := p.write(e.field, e.said); err != nil {
				t.Fatal(err)
			}
		}
	}
	return peers
}

// TestParts_AnyOrder merges the same operations in any order, repeated, in batches and from a snapshot, and wants one state:
// that which a dumb reference has.
func TestParts_AnyOrder(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		peers := play(rt, t)
		var all []written
		for _, p := range peers {
			all = append(all, p.ops...)
		}
		if len(all) == 0 {
			return
		}
		merged := newPeer(t, 9, songs())
		for _, op := range rapid.Permutation(slices.Concat(all, all[:rapid.IntRange(0, len(all)).Draw(rt, "again")])).Draw(rt, "order") {
			merged.merge(op)
		}
		for _, op := range all {
			if merged.merge(op) {
				rt.Fatalf("applied again, %v changed the record", op)
			}
		}
		wantReference(rt, merged, all)
		for _, p := range peers {
			for _, other := range peers {
				if len(other.ops) > 0 {
					p.merge(other.ops...)
				}
			}
			wantSame(rt, "in batches", merged.record, p.record)
		}
		// A snapshot, to one that has nothing and to one that has some.
		snapshot := newPeer(t, 8, songs())
		some := rapid.Permutation(all).Draw(rt, "others")
		for _, op := range some[:rapid.IntRange(0, len(some)).Draw(rt, "had")] {
			snapshot.merge(op)
		}
		for _, op := range rapid.Permutation(merged.operations()).Draw(rt, "snapshot") {
			snapshot.merge(op)
		}
		wantSame(rt, "from a snapshot", merged.record, snapshot.record)
	})
}

func wantSame(rt *rapid.T, what string, want, got sdk.Record) {
	rt.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		rt.Fatalf("%s the record differs (-want +got):\n%s", what, diff)
	}
}

// wantReference compares values with those of a merge that keeps everything.
func wantReference(rt *rapid.T, p *peer, all []written) {
	rt.Helper()
	type dot struct {
		element any
		add     sdk.Version
	}
	for _, field := range []string{"words", "years"} {
		added, removed := map[dot]bool{}, map[dot]bool{}
		for _, op := range all {
			packed, ok := op.fields[field+":set"]
			if !ok {
				continue
			}
			parts, err := sdk.OpParts(sdk.AddWins, op.at, packed)
			if err != nil {
				rt.Fatal(err)
			}
			for _, part := range parts {
				if part.Removed {
					removed[dot{part.Element, part.Version}] = true
				} else {
					added[dot{part.Element, part.Version}] = true
				}
			}
		}
		var want []string
		for d := range added {
			gone := false // with an add goes every earlier one of the same device, which its device had seen
			for r := range removed {
				gone = gone || r.element == d.element && r.add.Device == d.add.Device && r.add.Stamp >= d.add.Stamp
			}
			if !gone {
				want = append(want, fmt.Sprintf("%#v", d.element))
			}
		}
		slices.Sort(want)
		want = slices.Compact(want)
		var got []string
		var listed []any
		if f := p.field(field); f != nil {
			decoder := json.NewDecoder(strings.NewReader(f.Value.(string)))
			decoder.UseNumber()
			if err := decoder.Decode(&listed); err != nil {
				rt.Fatal(err)
			}
		}
		for _, e := range listed {
			if n, isNumber := e.(json.Number); isNumber {
				e, _ = n.Int64()
			}
			got = append(got, fmt.Sprintf("%#v", e))
		}
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			rt.Fatalf("%s (-want +got):\n%s", field, diff)
		}
	}
	farthest, sum := map[sdk.PartID]int64{}, new(big.Int)
	for _, op := range all {
		if packed, ok := op.fields["plays:counter"]; ok {
			parts, err := sdk.OpParts(sdk.Sum, op.at, packed)
			if err != nil {
				rt.Fatal(err)
			}
			if part := parts[0]; max(part.Total, -part.Total) >= max(farthest[part.Part], -farthest[part.Part]) {
				farthest[part.Part] = part.Total
			}
		}
	}
	for _, total := range farthest {
		sum.Add(sum, big.NewInt(total))
	}
	if f := p.field("plays"); f != nil && f.Value != sum.Int64() {
		rt.Fatalf("plays: want %s, got %v", sum, f.Value)
	}
}

// TestParts_UnknownHere gives the same operations to a device whose description lacks the fields.
func TestParts_UnknownHere(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		known, unknown := newPeer(t, 8, songs()), newPeer(t, 9, oldSongs())
		for _, p := range play(rt, t) {
			for _, op := range p.ops {
				known.merge(op)
			}
			for _, op := range rapid.Permutation(p.ops).Draw(rt, "order") {
				unknown.merge(op)
			}
		}
		got := unknown.record
		got.Fields = slices.Clone(got.Fields)
		for i := range got.Fields {
			f := &got.Fields[i]
			if f.Name != "title" && f.Merge == "" {
				rt.Fatalf("%s lost how it merges", f.Name)
			}
			f.Merge = ""
		}
		wantSame(rt, "where the fields are unknown", known.record, got)
	})
}

func TestParts_AddWins(t *testing.T) {
	a, b := newPeer(t, 1, songs()), newPeer(t, 2, songs())
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	value := func(p *peer, field string) any { return p.field(field).Value }
	must(a.write("words", `["x","y"]`))
	b.merge(a.ops...)
	must(b.write("words", `{"remove":["x"]}`))
	must(a.write("words", `{"add":["x"]}`)) // it has not seen the remove
	a.merge(b.ops...)
	b.merge(a.ops...)
	if value(a, "words") != `["x","y"]` || value(b, "words") != `["x","y"]` {
		t.Errorf("of an add and a concurrent remove the add wins: got %v and %v", value(a, "words"), value(b, "words"))
	}
	must(b.write("words", `{"remove":["x"]}`)) // it has seen both adds
	a.merge(b.ops...)
	if value(a, "words") != `["y"]` {
		t.Errorf("a remove that has seen every add: got %v", value(a, "words"))
	}
	must(a.write("plays", `{"add":3}`))
	must(b.write("plays", `{"add":4}`))
	b.starts++ // restored from a copy, it counts by itself
	must(b.write("plays", `{"add":10}`))
	a.merge(b.ops...)
	if value(a, "plays") != int64(17) {
		t.Errorf("want 17 plays, got %v", value(a, "plays"))
	}
	must(a.write("plays", `5`))
	if value(a, "plays") != int64(5) {
		t.Errorf("want 5 plays, got %v", value(a, "plays"))
	}
}

func TestParts_CounterRange(t *testing.T) {
	a, b := newPeer(t, 1, songs()), newPeer(t, 2, songs())
	for _, p := range []*peer{a, b} {
		if err := p.write("plays", fmt.Sprint(int64(math.MaxInt64))); err != nil {
			t.Fatal(err)
		}
	}
	a.merge(b.ops...)
	if got := a.field("plays").Value; got != int64(math.MaxInt64) {
		t.Errorf("a sum beyond 64 bits shows the greatest number; got %v", got)
	}
	if err := a.write("plays", `{"add":1}`); sdk.CodeOf(err) != sdk.CodeInvalid {
		t.Errorf("what one device adds has to fit 64 bits; got %v", err)
	}
	if err := a.write("plays", `{"add":-5}`); err != nil {
		t.Fatal(err)
	}
	if err := a.write("plays", `7`); sdk.CodeOf(err) != sdk.CodeInvalid {
		t.Errorf("what one device takes away has to fit 64 bits; got %v", err)
	}
	b.merge(a.ops...)
	if err := b.write("plays", fmt.Sprintf(`{"add":%d}`, -math.MaxInt64)); err != nil || b.field("plays").Value != int64(math.MaxInt64-5) {
		t.Errorf("got %v, %v", b.field("plays").Value, err)
	}
}

// TestParts_CounterOldTotalAgain has a copy of a device, taken in between, give an early write to a counter a later stamp: what the
// same start counted after it still counts.
func TestParts_CounterOldTotalAgain(t *testing.T) {
	a, b := newPeer(t, 1, songs()), newPeer(t, 2, songs())
	for _, said := range []string{`{"add":7}`, `{"add":-13}`, `{"add":2}`} {
		if err := a.write("plays", said); err != nil {
			t.Fatal(err)
		}
	}
	for i := range a.ops {
		again := a.ops[i]
		again.at.Stamp += 100
		b.merge(append(a.ops[:len(a.ops):len(a.ops)], again)...)
		if got := b.field("plays"); got.Value != int64(-4) || got.Version != again.at {
			t.Errorf("write %d again: got %v of %s", i, got.Value, got.Version.Stamp)
		}
	}
	f := b.field("plays")
	writes, err := f.Writes(sdk.Sum)
	if err != nil {
		t.Fatal(err)
	}
	c := newPeer(t, 3, songs())
	for _, w := range writes {
		c.merge(written{w.Version, map[string][]byte{"plays:counter": w.Value}})
	}
	if got := c.field("plays"); got.Value != f.Value || got.Version != f.Version || !bytes.Equal(got.State, f.State) {
		t.Errorf("what stands, merged elsewhere: %v of %s", got.Value, got.Version.Stamp)
	}
}

func TestDecodeJSON_Edits(t *testing.T) {
	desc, _ := songs().Describe(t.Context())
	for said, want := range map[string]string{
		`{"words": 3}`:                   `want a list of elements, or {"add": [...], "remove": [...]}, got the number 3`,
		`{"words": {"and": ["a"]}}`:      `a set knows "add" and "remove", not "and"`,
		`{"words": {"add": "a"}}`:        `want a list of elements in "add", got the text "a"`,
		`{"words": [1]}`:                 `an element: want text, such as "work", got the number 1`,
		`{"words": [null]}`:              `an element: it is null`,
		`{"years": ["x"]}`:               `an element: want a whole number, such as 42, got the text "x"`,
		`{"words": ["a\u0000"]}`:         `an element: text holds a NUL at byte 1`,
		`{"plays": "x"}`:                 `want a whole number, such as 42, or {"add": 3}, got the text "x"`,
		`{"plays": {"add": "x"}}`:        `want a whole number, such as 42, got the text "x"`,
		`{"plays": {"sub": 3}}`:          `want a whole number, such as 42, or {"add": 3}, got an object with other members`,
		`{"plays": 9223372036854775808}`: `does not fit 64 bits`,
	} {
		_, _, err := sdk.DecodeJSON(desc, []byte(said))
		if sdk.CodeOf(err) != sdk.CodeInvalid || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: want %q, got %v", said, want, err)
		}
	}
	p := newPeer(t, 1, songs())
	if err := p.write("words", `{"add":["a"],"remove":["a"]}`); sdk.CodeOf(err) != sdk.CodeInvalid {
		t.Errorf("to add and to remove the same: got %v", err)
	}
}

// TestModel_Parts wants an author to see sets and counters as plain values.
func TestModel_Parts(t *testing.T) {
	seen := song{}
	m := songs()
	m.Validate = func(s *song) error { seen = *s; return nil }
	p := newPeer(t, 1, m)
	for _, e := range edits {
		if err := p.write(e.field, e.said); err != nil {
			t.Fatal(err)
		}
	}
	desc, f := p.desc, p.field("words")
	said := sdk.AppendValue(nil, sdk.Packed([]byte{0x92, 0xa1, 'z', 0xa1, 'a'}))
	field, _ := desc.Field("words")
	value, err := field.Edit(f, said, sdk.Version{Stamp: 1000, Device: p.id}, sdk.PartID{})
	if err != nil {
		t.Fatal(err)
	}
	batch := p.batch(written{sdk.Version{Stamp: 1000, Device: p.id}, map[string][]byte{"words:set": value}})
	current := p.record
	current.Inserted = sdk.Version{Stamp: 1, Device: p.id}
	result, err := m.ApplySharedChange(t.Context(), sdk.SharedChanges{Batch: batch, Origin: p.id, Local: true, Current: []sdk.Record{current}})
	if err != nil || len(result.Refused) > 0 {
		t.Fatal(err, result.Refused)
	}
	want := song{Shared: sdk.Shared{ID: one, Stamp: 1000}, Words: sdk.Set[string]{"a", "z"}, Years: sdk.Set[int64]{-1}, Plays: 0, High: 7}
	if diff := cmp.Diff(want, seen); diff != "" {
		t.Errorf("what Validate sees (-want +got):\n%s", diff)
	}
	if !seen.Words.Has("z") || seen.Words.Has("b") {
		t.Error("Has")
	}
}

func TestModel_PartsRefused(t *testing.T) {
	for name, check := range map[string]func() error{
		"owned": sdk.Model[struct {
			sdk.Owned
			Words sdk.Set[string] `starling:"words"`
		}]{Name: "m", Version: 1}.Check,
		"required": sdk.Model[struct {
			sdk.Shared
			Words sdk.Set[string] `starling:"words,required"`
		}]{Name: "m", Version: 1}.Check,
		"max": sdk.Model[struct {
			sdk.Shared
			Plays sdk.Counter `starling:"plays,max"`
		}]{Name: "m", Version: 1}.Check,
		"pointer": sdk.Model[struct {
			sdk.Shared
			Plays *sdk.Counter `starling:"plays"`
		}]{Name: "m", Version: 1}.Check,
		"key": sdk.Model[struct {
			sdk.Shared
			Words sdk.Set[string] `starling:"words,key"`
		}]{Name: "m", Version: 1}.Check,
	} {
		if err := check(); sdk.CodeOf(err) != sdk.CodeInvalid {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// TestMergeShared_MalformedParts refuses what no device may take, and alike on every device.
func TestMergeShared_MalformedParts(t *testing.T) {
	at := sdk.Version{Stamp: 5, Device: alice}
	later := sdk.AppendOpParts(nil, sdk.AddWins, at, []sdk.FieldPart{{Version: sdk.Version{Stamp: 6, Device: bob}, Element: "x", Removed: true}})
	number := sdk.AppendOpParts(nil, sdk.AddWins, at, []sdk.FieldPart{{Version: at, Element: int64(4)}})
	for name, op := range map[string]written{
		"plain list":          {at, map[string][]byte{"words:set": {0x91, 0xa1, 'a'}}},
		"nil":                 {at, map[string][]byte{"words:set": {0xc0}}},
		"nil counter":         {at, map[string][]byte{"plays:counter": {0xc0}}},
		"plain number":        {at, map[string][]byte{"plays:counter": {0x05}}},
		"short part":          {at, map[string][]byte{"plays:counter": {0x92, 0xc4, 0x01, 0x01, 0x05}}},
		"remove of the later": {at, map[string][]byte{"words:set": later}},
		"number among texts":  {at, map[string][]byte{"words:set": number}},
		"huge array":          {at, map[string][]byte{"words:set": {0x92, 0xdd, 0xff, 0xff, 0xff, 0xff}}},
	} {
		p := newPeer(t, 1, songs())
		batch := p.batch(op)
		result, err := p.server.ApplySharedChange(t.Context(), sdk.SharedChanges{Batch: batch, Origin: alice})
		if name == "huge array" { // it ends before it says
			if err == nil && len(result.Refused) != 1 {
				t.Errorf("%s: got %+v", name, result)
			}
			continue
		}
		if err != nil || len(result.Refused) != 1 || result.Refused[0].Code != sdk.CodeInvalid || len(result.Records) > 0 {
			t.Errorf("%s: got %v, %+v", name, err, result)
		}
	}
}

func FuzzParts(f *testing.F) {
	at := sdk.Version{Stamp: 5, Device: sdk.DeviceID{1}}
	set := sdk.FieldState{Version: at}
	set.SetParts(sdk.AddWins, []sdk.FieldPart{{Version: at, Element: "a"}, {Version: at, Element: "b", Removed: true}})
	count := sdk.FieldState{Version: at}
	count.SetParts(sdk.Sum, []sdk.FieldPart{{Version: at, Part: sdk.PartID{1}, Total: 5}})
	f.Add(set.State)
	f.Add(count.State)
	f.Add(sdk.AppendOpParts(nil, sdk.AddWins, at, []sdk.FieldPart{{Version: at, Element: "a"}, {Version: at, Element: "b", Removed: true}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, merge := range []sdk.Merge{sdk.AddWins, sdk.Sum} {
			state := sdk.FieldState{State: b, Version: at}
			if list, err := state.Parts(); err == nil && len(list) > 0 && (list[0].Element == nil) == (merge == sdk.Sum) {
				again := sdk.FieldState{Version: at}
				again.SetParts(merge, list)
				more, err := again.Parts()
				if err != nil {
					t.Fatal(err)
				}
				twice := sdk.FieldState{Version: at}
				twice.SetParts(merge, more)
				if !bytes.Equal(again.State, twice.State) {
					t.Errorf("packed twice, %x becomes %x", again.State, twice.State)
				}
			}
			if list, err := sdk.OpParts(merge, at, b); err == nil {
				packed := sdk.AppendOpParts(nil, merge, at, list)
				if again, err := sdk.OpParts(merge, at, packed); err != nil || len(again) != len(list) {
					t.Errorf("%x becomes %x: %v", b, packed, err)
				}
			}
		}
	})
}
