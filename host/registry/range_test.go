package registry_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/history"
	"github.com/starling-sync/starling/host/registry"
	"github.com/starling-sync/starling/sdk"
)

// LabelV2 is a later version of Label.
type LabelV2 struct {
	sdk.Shared
	Name   string  `starling:"name,required"`
	Color  string  `starling:"color"`
	Rank   int64   `starling:"rank,max"`
	Parent sdk.Ref `starling:"parent_id,ref=label"`
	Note   string  `starling:"note"`
	Weight float64 `starling:"weight"`
	Seal   sdk.Ref `starling:"seal,ref=label,weak"`
}

func labelsV2() sdk.Model[LabelV2] { return sdk.Model[LabelV2]{Name: "label", Version: 2} }

// ranges reads what q asks for, page by page.
func (d *device) ranges(q registry.RangeQuery) (pages []registry.Range) {
	d.tb.Helper()
	for {
		page, err := d.registry.ReadRange(context.Background(), q)
		if err != nil {
			d.tb.Fatalf("%s reads %+v: %v", d.id, q, err)
		}
		pages = append(pages, page)
		if page.Done {
			if page.End != q.Until {
				d.tb.Fatalf("the last page ends at %+v; want %+v", page.End, q.Until)
			}
			return pages
		}
		if page.End.Compare(q.After) <= 0 {
			d.tb.Fatalf("a page after %+v ends at %+v", q.After, page.End)
		}
		q.After = page.End
	}
}

// take takes in a range, as the host does.
func (d *device) take(in registry.IncomingRange) (sum registry.RangeOutcome) {
	d.tb.Helper()
	ctx := context.Background()
	for {
		prepared, rest, err := d.registry.PrepareRange(ctx, in)
		if err != nil {
			d.tb.Fatalf("%s prepares a range: %v", d.id, err)
		}
		if err := d.clock.Observe(prepared.Latest()); err != nil {
			d.tb.Fatal(err)
		}
		var out registry.RangeOutcome
		err = d.db.Write(ctx, func(tx *database.Tx) (err error) {
			out, err = prepared.Write(tx)
			return err
		})
		if err != nil {
			d.tb.Fatalf("%s writes a range: %v", d.id, err)
		}
		sum.Erased += out.Erased
		sum.LeftOut += out.LeftOut
		sum.Written += out.Written
		sum.Refused += out.Refused
		sum.Repairs += out.Repairs
		sum.Repaired = append(sum.Repaired, out.Repaired...)
		if rest == nil {
			return sum
		}
		if prepared.End() != rest.After {
			d.tb.Fatalf("the rest begins at %+v, not at %+v", rest.After, prepared.End())
		}
		in = *rest
	}
}

// incoming makes the pages of a query what another device takes in.
func incoming(q registry.RangeQuery, pages []registry.Range, theirs, mine func(sdk.DeviceID) hlc.Stamp) (list []registry.IncomingRange) {
	after := q.After
	for _, p := range pages {
		list = append(list, registry.IncomingRange{
			Kind: q.Kind, Owner: q.Owner, After: after, End: p.End, Changes: p.Changes, Unchanged: p.Unchanged, Theirs: theirs, Mine: mine,
		})
		after = p.End
	}
	return list
}

func sharedStream(d *device) history.Stream {
	return history.Stream{Origin: d.id, Kind: sdk.SharedByAll}
}

// covered returns what vector says of streams of kind.
func covered(vector map[history.Stream]hlc.Stamp, kind sdk.Ownership) func(sdk.DeviceID) hlc.Stamp {
	return func(id sdk.DeviceID) hlc.Stamp { return vector[history.Stream{Origin: id, Kind: kind}] }
}

// clocks returns all that a device knows of shared records, by model and id.
func (d *device) clocks(models []sdk.ModelName, ids []sdk.RecordID) map[string]string {
	d.tb.Helper()
	all := make(map[string]string)
	for _, model := range models {
		for _, id := range ids {
			e, err := d.registry.Explain(context.Background(), model, id)
			if code := sdk.CodeOf(err); code == sdk.CodeNotFound || code == sdk.CodeUnknownModel {
				continue
			}
			if err != nil {
				d.tb.Fatal(err)
			}
			text := fmt.Sprintf("inserted %v deleted %v", e.Inserted, e.Deleted)
			slices.SortFunc(e.Fields, func(a, b sdk.FieldState) int { return cmpText(a.Name, b.Name) })
			for _, f := range e.Fields {
				if b, isBytes := f.Value.([]byte); isBytes && len(b) == 16 { // a reference that this version does not know
					f.Value = sdk.RecordID(b)
				}
				if !f.Version.IsZero() {
					text += fmt.Sprintf("\n%s = %#v at %v seen %v", f.Name, f.Value, f.Version, f.Seen)
					if f.State != nil {
						text += fmt.Sprintf(" %x", f.State)
					}
				}
			}
			all[fmt.Sprint(model, " ", id)] = text
		}
	}
	return all
}

func cmpText(a, b string) int {
	if a < b {
		return -1
	}
	if a > b {
		return 1
	}
	return 0
}

// anyOperation draws an operation on a label, or a mark, as any device may have written it.
func anyOperation(rt *rapid.T, stamp hlc.Stamp) sdk.Batch {
	kind := rapid.SampledFrom([]sdk.OpKind{sdk.Insert, sdk.Insert, sdk.Update, sdk.Update, sdk.Update, sdk.Delete}).Draw(rt, "kind")
	seen := hlc.Stamp(rapid.IntRange(0, int(stamp)-1).Draw(rt, "seen"))
	if rapid.IntRange(0, 3).Draw(rt, "model") == 0 {
		target := rid(byte(rapid.IntRange(1, 3).Draw(rt, "target")))
		batch := sdk.Batch{Model: "mark", Version: 1, Columns: []string{"target", "label_id", "note"}, Count: 1}
		keyed := kind == sdk.Insert || (kind == sdk.Update && rapid.Bool().Draw(rt, "keyed"))
		noted := kind != sdk.Delete && (!keyed || rapid.Bool().Draw(rt, "noted"))
		fields := 0
		if keyed {
			fields += 2
		}
		if noted {
			fields++
		}
		batch.Rows = sdk.AppendOpHeader(nil, sdk.KeyID("mark", rid(101), target), stamp, kind, fields)
		if keyed {
			batch.Rows = sdk.AppendOpField(sdk.AppendOpField(batch.Rows, 0, target, seen), 1, rid(101), seen)
		}
		if noted {
			batch.Rows = sdk.AppendOpField(batch.Rows, 2, rapid.SampledFrom([]string{"x", "y"}).Draw(rt, "note"), seen)
		}
		return batch
	}
	batch := sdk.Batch{Model: "label", Version: 2, Columns: []string{"note", "name", "rank", "parent_id", "weight", "seal", "color"}, Count: 1}
	values := []any{
		rapid.SampledFrom([]any{nil, "n", "m"}).Draw(rt, "note"), rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "name"),
		rapid.SampledFrom([]any{nil, int64(1), int64(2), int64(3)}).Draw(rt, "rank"),
		rapid.SampledFrom([]any{nil, rid(101), rid(102)}).Draw(rt, "parent"), rapid.SampledFrom([]any{nil, 0.5, 2.0}).Draw(rt, "weight"),
		rapid.SampledFrom([]any{nil, rid(7)}).Draw(rt, "seal"), rapid.SampledFrom([]any{nil, "red"}).Draw(rt, "color"),
	}
	var named []int
	for i := range values {
		if kind != sdk.Delete && rapid.IntRange(0, 2).Draw(rt, "named") == 0 {
			named = append(named, i)
		}
	}
	batch.Rows = sdk.AppendOpHeader(nil, rid(byte(100+rapid.IntRange(1, 3).Draw(rt, "label"))), stamp, kind, len(named))
	for _, i := range named {
		batch.Rows = sdk.AppendOpField(batch.Rows, i, values[i], seen)
	}
	return batch
}

// universe is the ids that anyOperation draws.
func universe() []sdk.RecordID {
	ids := []sdk.RecordID{rid(101), rid(102), rid(103)}
	for n := range 3 {
		ids = append(ids, sdk.KeyID("mark", rid(101), rid(byte(n+1))))
	}
	return ids
}

// TestReadRange_makesTheSame has operations of any kind arrive in any order, and wants a range of what they made to make
// the same elsewhere: values, clocks and what was seen, also of records that do not exist, fields that are not known and
// models that no plugin serves.
func TestReadRange_makesTheSame(t *testing.T) {
	known := [][]sdk.ModelServer{{marks(), labels(), files()}, {marks(), labelsV2(), files()}, {files()}}
	rapid.Check(t, func(rt *rapid.T) {
		from, to := rapid.IntRange(0, 2).Draw(rt, "from"), rapid.IntRange(0, 2).Draw(rt, "to")
		a, b := newQuickDevice(t, 1, known[from]...), newQuickDevice(t, 2, known[to]...)
		defer a.close()
		defer b.close()
		var all []page
		for origin := range 3 { // whose stamps are the same
			for n := range rapid.IntRange(0, 12).Draw(rt, "operations") {
				stamp := hlc.Stamp(10 + n)
				all = append(all, page{stream: history.Stream{Origin: deviceID(byte(7 + origin)), Kind: sdk.SharedByAll}, through: stamp, batches: []sdk.Batch{anyOperation(rt, stamp)}})
			}
		}
		for _, p := range rapid.Permutation(all).Draw(rt, "order") {
			a.apply(p)
		}
		q := registry.RangeQuery{Kind: sdk.SharedByAll, MaxBytes: rapid.SampledFrom([]int{1, 300, 1 << 20}).Draw(rt, "bytes")}
		list := incoming(q, a.ranges(q), nil, nil)
		for _, in := range rapid.Permutation(list).Draw(rt, "pages") {
			b.take(in)
		}
		if again := b.take(list[0]); again.Repairs != 0 {
			rt.Fatalf("the same page again repaired %+v", again)
		}
		for _, d := range []*device{a, b} {
			for _, m := range []sdk.ModelServer{marks(), labelsV2()} {
				d.add(m)
			}
			d.checkInvariants()
		}
		models := []sdk.ModelName{"label", "mark"}
		want := a.clocks(models, universe())
		if diff := cmp.Diff(want, b.clocks(models, universe())); diff != "" {
			rt.Fatalf("what arrived is not what was there (-want +got):\n%s", diff)
		}
		wantEqual(t, a, b)
	})
}

// TestReadRange_pages wants every page to hold one record at least, none twice, and all of them in order.
func TestReadRange_pages(t *testing.T) {
	a := newDevice(t, 1, files(), boxes())
	var list []*File
	for n := range byte(40) {
		list = append(list, file(n+1, 0, "a name of some length"))
	}
	a.own(packed(t, files(), list...))
	a.own(packed(t, boxes(), &Box{Owned: sdk.Owned{ID: rid(9)}, Name: "box"}, &Box{Owned: sdk.Owned{ID: rid(50)}, Name: "box"}))
	a.own(deletes(t, files(), rid(7), rid(8)))
	for _, bytes := range []int{1, 500, 1 << 20} {
		q := registry.RangeQuery{Kind: sdk.DeviceOwned, Owner: a.id, MaxBytes: bytes}
		var got []registry.Place
		pages := a.ranges(q)
		for i, p := range pages {
			size := 0
			for _, c := range p.Changes {
				for _, batch := range c.Batches {
					size += len(batch.Rows)
					for row, err := range batch.StateRows() {
						if err != nil {
							t.Fatal(err)
						}
						got = append(got, registry.Place{Model: batch.Model, ID: row.ID})
					}
				}
			}
			if size > bytes && bytes > 1 || (bytes == 1 && len(p.Changes) == 0) {
				t.Errorf("page %d of %d has %d bytes; want at most %d, and one record at least", i, len(pages), size, bytes)
			}
		}
		slices.SortFunc(got, func(a, b registry.Place) int { return a.Compare(b) })
		if len(got) != 42 || len(slices.Compact(slices.Clone(got))) != 42 {
			t.Errorf("%d bytes: %d records; want 42, none twice", bytes, len(got))
		}
	}
	// Within bounds, and by id alone where nothing is new.
	q := registry.RangeQuery{Kind: sdk.DeviceOwned, Owner: a.id, After: registry.Place{Model: "box", ID: rid(9)}, Until: registry.Place{Model: "file", ID: rid(3)}, MaxBytes: 1 << 20}
	pages := a.ranges(q)
	if n := count(pages); n != 4 {
		t.Errorf("%d records between; want a box and three files", n)
	}
	q.Since = a.vector()[history.Stream{Origin: a.id, Kind: sdk.DeviceOwned}]
	pages = a.ranges(q)
	want := []registry.IDs{{Model: "box", IDs: []sdk.RecordID{rid(50)}}, {Model: "file", IDs: []sdk.RecordID{rid(1), rid(2), rid(3)}}}
	if diff := cmp.Diff(want, pages[0].Unchanged); diff != "" || count(pages) != 0 {
		t.Errorf("%d changes, unchanged (-want +got):\n%s", count(pages), diff)
	}
}

func count(pages []registry.Range) (n int) {
	for _, p := range pages {
		for _, c := range p.Changes {
			for _, batch := range c.Batches {
				n += batch.Count
			}
		}
	}
	return n
}

// sorted returns the streams of a vector in a fixed order.
func sorted(vector map[history.Stream]hlc.Stamp) []history.Stream {
	return slices.SortedFunc(maps.Keys(vector), history.Stream.Compare)
}
