package registry_test

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/database/databasetest"
	"github.com/starling-sync/starling/host/history"
	"github.com/starling-sync/starling/host/registry"
	"github.com/starling-sync/starling/sdk"
)

// three returns devices that hold the same, and can each forget all that was so far.
func three(t *testing.T, first func(a *device), models ...sdk.ModelServer) (a, b, c *device) {
	t.Helper()
	a, b, c = newDevice(t, 1, models...), newDevice(t, 2, models...), newDevice(t, 3, models...)
	first(a)
	meet(a, b, c)
	return a, b, c
}

// meet brings all that any of these devices has to all of them, an hour later.
func meet(devices ...*device) {
	for _, d := range devices {
		d.seal()
	}
	for range 2 {
		for _, d := range devices {
			for _, other := range devices {
				d.pull(other, 1<<20)
			}
		}
	}
}

var sharedModels = []sdk.ModelName{"label", "mark"}

// wantClocks fails the test where devices know different things of shared records.
func wantClocks(t *testing.T, want, got *device) {
	t.Helper()
	if diff := cmp.Diff(want.clocks(sharedModels, everything()), got.clocks(sharedModels, everything())); diff != "" {
		t.Errorf("%s and %s differ (-want +got):\n%s", want.id, got.id, diff)
	}
}

// TestSnapshot_laterUpdate has a record deleted and forgotten, while another device, which had not seen the delete, wrote
// one of its fields: of that alone something remains, wherever the record still was.
func TestSnapshot_laterUpdate(t *testing.T) {
	a, b, c := three(t, func(a *device) { a.share(packed(t, labels(), label(101, 0, "first"), label(102, 101, "under"))) }, labels())
	b.seal()
	a.pull(b, 1<<20)
	a.share(deletes(t, labels(), rid(101)))
	c.seal()
	a.pull(c, 1<<20)
	b.seal()
	a.pull(b, 1<<20)
	b.wall = b.wall.Add(1)
	b.share(updates(t, labels(), label(101, 0, "late"), "name"))
	a.forget(a, b, c)
	if e, err := a.registry.Explain(t.Context(), "label", rid(101)); sdk.CodeOf(err) != sdk.CodeNotFound {
		t.Fatalf("%+v is not forgotten", e)
	}
	events, end := b.registry.Watch("label")
	out := b.snapshot(a, 1, nil)
	end()
	if out.Erased != 1 {
		t.Errorf("%+v; want one record erased", out)
	}
	var told []string
	for e := range events {
		told = append(told, string(e.Kind)+" "+e.ID.String()[34:])
	}
	if diff := cmp.Diff([]string{"deleted 65", "hidden 66"}, told); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	e := b.explain("label", rid(101))
	if e.Exists || !e.Inserted.IsZero() || !e.Deleted.IsZero() || len(e.Fields) != 1 || e.Fields[0].Value != "late" {
		t.Errorf("%+v; want the late name, and nothing else", e)
	}
	b.checkInvariants()
	a.pull(b, 1<<20)
	wantClocks(t, a, b)
	// The range now has that field, and still c is to lose the record.
	if out := c.snapshot(a, 1<<20, nil); out.Erased != 1 {
		t.Errorf("%+v; want one record erased", out)
	}
	wantClocks(t, a, c)
	wantEqual(t, a, b, c)
	if got := c.ids("label", true); len(got) != 1 {
		t.Errorf("%v wait; want the one that was under it", got)
	}
}

// TestSnapshot_insertedAnew has a record deleted and forgotten there, and made again here: it stays whole.
func TestSnapshot_insertedAnew(t *testing.T) {
	a, b, c := three(t, func(a *device) {
		a.share(packed(t, labels(), &Label{Shared: sdk.Shared{ID: rid(101)}, Name: "first", Rank: 9}))
	}, labels())
	b.share(deletes(t, labels(), rid(101)))
	meet(a, b, c)
	b.share(packed(t, labels(), label(101, 0, "anew")))
	before := b.clocks(sharedModels, everything())
	a.forget(a, b, c)
	if out := b.snapshot(a, 1<<20, nil); out.Erased != 0 {
		t.Errorf("%+v; want nothing erased", out)
	}
	if diff := cmp.Diff(before, b.clocks(sharedModels, everything())); diff != "" {
		t.Errorf("it changed (-before +after):\n%s", diff)
	}
	if row, _ := b.get("label", rid(101)); row.Value("rank") != int64(9) || row.Value("name") != "anew" {
		t.Errorf("got %v", row.Fields)
	}
	// The rank, which merges by value, is gone elsewhere: that is for an audit.
	a.pull(b, 1<<20)
	if spans := auditDifferences(a.audit(), b.audit()); repair(a, b, spans) != 1 {
		t.Errorf("an audit of %v repaired something else than one record", spans)
	}
	wantEqual(t, a, b)
}

// TestSnapshot_forgottenHere has records that this device deleted and forgot come from one that knows nothing of it, one
// of them with a field that was written since.
func TestSnapshot_forgottenHere(t *testing.T) {
	a, b, c := three(t, func(a *device) {
		a.share(packed(t, labels(), label(101, 0, "one"), label(102, 0, "two"), label(103, 0, "three")))
	}, labels(), files())
	c.own(packed(t, files(), file(31, 0, "c's"), file(32, 0, "c's too")))
	meet(a, b, c)
	c.own(deletes(t, files(), rid(31)))
	b.pull(c, 1<<20)
	b.share(deletes(t, labels(), rid(101), rid(102)))
	b.seal()
	c.seal()
	b.pull(c, 1<<20)
	a.seal()
	b.pull(a, 1<<20)
	b.forget(a, b, c)
	a.wall = a.wall.Add(1)
	a.share(updates(t, labels(), label(102, 0, "late"), "name"))

	theirs := a.vector()
	for _, q := range []registry.RangeQuery{{Kind: sdk.SharedByAll}, {Kind: sdk.DeviceOwned, Owner: c.id}} {
		q.MaxBytes = 1 << 20
		for _, in := range incoming(q, a.ranges(q), covered(theirs, q.Kind), covered(b.vector(), q.Kind)) {
			for range 2 {
				want := map[sdk.Ownership]int{sdk.SharedByAll: 2, sdk.DeviceOwned: 1}[q.Kind]
				if out := b.take(in); out.LeftOut != want || out.Erased != 0 {
					t.Errorf("%s: %+v; want %d left out", q.Kind, out, want)
				}
			}
		}
	}
	if _, there := b.get("file", rid(31)); there {
		t.Error("the file is back")
	}
	if _, there := b.get("label", rid(103)); !there {
		t.Error("a record that nobody deleted is gone")
	}
	if _, err := b.registry.Explain(t.Context(), "label", rid(101)); sdk.CodeOf(err) != sdk.CodeNotFound {
		t.Errorf("something of the first is back: %v", err)
	}
	if e := b.explain("label", rid(102)); e.Exists || !e.Inserted.IsZero() || len(e.Fields) != 1 || e.Fields[0].Value != "late" {
		t.Errorf("%+v; want the late name, and nothing else", e)
	}
	// It holds that field alone now, and must leave out the rest again.
	q := registry.RangeQuery{Kind: sdk.SharedByAll, MaxBytes: 1 << 20}
	for _, in := range incoming(q, a.ranges(q), covered(theirs, q.Kind), covered(b.vector(), q.Kind)) {
		b.take(in)
	}
	if e := b.explain("label", rid(102)); e.Exists {
		t.Errorf("%+v is back", e)
	}
	b.reach(theirs)
	a.snapshot(b, 1<<20, nil)
	wantClocks(t, b, a)
	wantEqual(t, a, b)
}

// TestSnapshot_parked has devices that no plugin serves the models of pass on, take in, forget and leave out.
func TestSnapshot_parked(t *testing.T) {
	ctx := context.Background()
	a, b, c := three(t, func(a *device) {
		a.share(packed(t, labels(), label(101, 0, "stays"), label(102, 0, "goes")))
		a.own(packed(t, files(), file(11, 0, "stays"), file(12, 0, "goes")))
	}, labels(), files())
	plain := newDevice(t, 4) // serves nothing
	plain.pull(a, 1<<20)
	a.share(deletes(t, labels(), rid(102)))
	a.own(deletes(t, files(), rid(12)))
	meet(a, b, c)
	a.forget(a, b, c)
	plain.snapshot(a, 1<<20, nil)
	for model, id := range map[sdk.ModelName]sdk.RecordID{"label": rid(102), "file": rid(12)} {
		if _, err := plain.registry.Explain(ctx, model, id); sdk.CodeOf(err) != sdk.CodeUnknownModel {
			t.Errorf("something of %s %s still waits: %v", model, id, err)
		}
	}
	// On from there, to one that serves them, and one that does not.
	d, other := newDevice(t, 5, labels(), files()), newDevice(t, 6)
	d.snapshot(plain, 100, nil)
	other.snapshot(plain, 100, nil)
	for _, m := range []sdk.ModelServer{labels(), files()} {
		plain.add(m)
		other.add(m)
	}
	wantEqual(t, a, plain, d, other)
	wantClocks(t, a, other)
	// What was deleted and forgotten here is left out where no plugin is too.
	last := newDevice(t, 7)
	last.pull(b, 1<<20)
	all := func(sdk.DeviceID) hlc.Stamp { return hlc.MaxStamp }
	empty := newDevice(t, 8)
	for _, q := range []registry.RangeQuery{{Kind: sdk.SharedByAll}, {Kind: sdk.DeviceOwned, Owner: a.id}} {
		q.MaxBytes = 1 << 20
		for _, in := range incoming(q, last.ranges(q), all, all) {
			if out := empty.take(in); out.LeftOut != 2 {
				t.Errorf("%s: %+v; want both records left out", q.Kind, out)
			}
		}
	}
	if counts, err := empty.registry.Counts(ctx); err != nil || len(counts) != 0 {
		t.Errorf("%+v, %v", counts, err)
	}
}

// TestSnapshot_refused has a relay that refused changes, and wants them not to be taken for deleted elsewhere.
func TestSnapshot_refused(t *testing.T) {
	a, b := newDevice(t, 1, labels(), files()), newDevice(t, 2, labels(), files())
	bad := packed(t, files(), file(11, 0, "x"))
	bad.Rows, _ = stamped(&bad, 19)
	owned := history.Stream{Origin: deviceID(9), Kind: sdk.DeviceOwned}
	b.apply(page{stream: owned, through: 20, batches: []sdk.Batch{bad}})
	a.own(packed(t, files(), file(11, 0, "mine"))) // so that a refuses the other's
	a.apply(page{stream: owned, through: 20, batches: []sdk.Batch{bad}})
	op := sdk.Batch{Model: "label", Version: 1, Columns: []string{"name"}, Count: 1}
	op.Rows = sdk.AppendOpField(sdk.AppendOpHeader(nil, rid(101), 30, sdk.Insert, 1), 0, "x", 0)
	shared := history.Stream{Origin: deviceID(9), Kind: sdk.SharedByAll}
	b.apply(page{stream: shared, through: 30, batches: []sdk.Batch{op}})
	op.Rows = sdk.AppendOpField(sdk.AppendOpHeader(nil, rid(101), 30, sdk.Insert, 1), 0, int64(7), 0)
	a.apply(page{stream: shared, through: 30, batches: []sdk.Batch{op}})
	if list, err := a.registry.Refused(t.Context(), 10); err != nil || len(list) != 2 {
		t.Fatalf("refused %v, %v", list, err)
	}
	if out := b.snapshot(a, 1<<20, nil); out.Erased != 0 {
		t.Errorf("%+v; want nothing erased", out)
	}
	if _, there := b.get("file", rid(11)); !there {
		t.Error("the file is gone")
	}
	if _, there := b.get("label", rid(101)); !there {
		t.Error("the label is gone")
	}
}

// TestPrepareRange_rest has a range without a record span more than one transaction should delete.
func TestPrepareRange_rest(t *testing.T) {
	databasetest.SQLiteOnly(t, "it is about how many records one step takes, and 40,000 deletes in one transaction take minutes elsewhere")
	const many = 40_000
	a, b := newQuickDevice(t, 1, files(), boxes()), newQuickDevice(t, 2, files(), boxes())
	var list []*File
	for n := range many {
		list = append(list, &File{Owned: sdk.Owned{ID: spread(n)}, Name: "x"})
	}
	a.own(packed(t, files(), list...))
	b.pull(a, 1<<20)
	var gone []sdk.RecordID
	for n := range many - 1 {
		gone = append(gone, spread(n))
	}
	a.own(deletes(t, files(), gone...))
	a.own(packed(t, boxes(), &Box{Name: "new"}))
	a.forget(a)
	steps := 0
	q := registry.RangeQuery{Kind: sdk.DeviceOwned, Owner: a.id, MaxBytes: 1 << 20}
	for _, in := range incoming(q, a.ranges(q), covered(a.vector(), q.Kind), covered(b.vector(), q.Kind)) {
		for rest := &in; rest != nil; steps++ {
			p, next, err := b.registry.PrepareRange(t.Context(), *rest)
			if err != nil {
				t.Fatal(err)
			}
			var out registry.RangeOutcome
			if err := b.db.Write(t.Context(), func(tx *database.Tx) (err error) { out, err = p.Write(tx); return err }); err != nil {
				t.Fatal(err)
			}
			if out.Erased > 1<<14 {
				t.Errorf("%d records erased in one transaction", out.Erased)
			}
			rest = next
		}
	}
	if steps < 3 {
		t.Errorf("%d steps", steps)
	}
	wantEqual(t, a, b)
	if n := len(b.ids("file", false)); n != 1 {
		t.Errorf("%d files; want the one that was not deleted", n)
	}
}

// TestPrepareRange_stale has records of a range change between decision and write.
func TestPrepareRange_stale(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(b *device)
		stale  bool
	}{
		"one that is merged with":  {func(b *device) { b.share(updates(t, labels(), label(101, 0, "z"), "name")) }, true},
		"one that is erased":       {func(b *device) { b.share(updates(t, labels(), label(102, 0, "z"), "name")) }, true},
		"another":                  {func(b *device) { b.share(packed(t, labels(), label(103, 0, "z"))) }, false},
		"another that is old":      {func(b *device) { insertOld(b, 104) }, true},
		"changes that wait for it": {func(b *device) { b.registry.Remove("label"); insertOld(b, 104) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := newDevice(t, 1, labels()), newDevice(t, 2, labels())
			a.share(packed(t, labels(), label(101, 0, "one"), label(102, 0, "two")))
			meet(a, b)
			a.share(deletes(t, labels(), rid(102)), updates(t, labels(), label(101, 0, "x"), "name"))
			meet(a)
			b.seal()
			a.pull(b, 1<<20)
			a.forget(a, b)
			q := registry.RangeQuery{Kind: sdk.SharedByAll, MaxBytes: 1 << 20}
			theirs := a.vector()
			theirs[history.Stream{Origin: deviceID(9), Kind: sdk.SharedByAll}] = 100
			in := incoming(q, a.ranges(q), covered(theirs, q.Kind), covered(b.vector(), q.Kind))[0]
			prepared, _, err := b.registry.PrepareRange(t.Context(), in)
			if err != nil {
				t.Fatal(err)
			}
			tc.change(b)
			err = b.db.Write(t.Context(), func(tx *database.Tx) error { _, err := prepared.Write(tx); return err })
			if got := sdk.CodeOf(err) == sdk.CodeStale; got != tc.stale || (!got && err != nil) {
				t.Errorf("got %v; want stale: %v", err, tc.stale)
			}
		})
	}
}

// insertOld applies an insert that another device wrote long ago.
func insertOld(d *device, n byte) {
	op := sdk.Batch{Model: "label", Version: 1, Columns: []string{"name"}, Count: 1}
	op.Rows = sdk.AppendOpField(sdk.AppendOpHeader(nil, rid(n), 50, sdk.Insert, 1), 0, "old", 0)
	d.apply(page{stream: history.Stream{Origin: deviceID(9), Kind: sdk.SharedByAll}, through: 60, batches: []sdk.Batch{op}})
}

func TestPrepareRange_malformed(t *testing.T) {
	d := newDevice(t, 1, labels(), files())
	row := packed(t, files(), file(5, 0, "x"))
	row.Rows, _ = stamped(&row, 10)
	good := registry.IncomingRange{Kind: sdk.DeviceOwned, Owner: deviceID(2), Changes: []registry.Changes{{Origin: deviceID(2), Batches: []sdk.Batch{row}}}}
	if _, _, err := d.registry.PrepareRange(t.Context(), good); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(in *registry.IncomingRange){
		"another's":        func(in *registry.IncomingRange) { in.Owner = deviceID(3) },
		"before the range": func(in *registry.IncomingRange) { in.After = registry.Place{Model: "file", ID: rid(5)} },
		"after the range":  func(in *registry.IncomingRange) { in.End = registry.Place{Model: "file", ID: rid(4)} },
		"ids after the range": func(in *registry.IncomingRange) {
			in.Changes, in.End, in.Unchanged = nil, registry.Place{Model: "a"}, []registry.IDs{{Model: "b", IDs: []sdk.RecordID{rid(1)}}}
		},
		"one vector": func(in *registry.IncomingRange) { in.Theirs = covered(nil, in.Kind) },
		"no kind":    func(in *registry.IncomingRange) { in.Kind = "hybrid" },
		"ends first": func(in *registry.IncomingRange) {
			in.Changes, in.After, in.End = nil, registry.Place{Model: "z"}, registry.Place{Model: "a"}
		},
		"garbage": func(in *registry.IncomingRange) {
			row.Rows = []byte("garbage")
			in.Changes = []registry.Changes{{Origin: deviceID(2), Batches: []sdk.Batch{row}}}
		},
		"a column with a comma": func(in *registry.IncomingRange) {
			in.Changes = []registry.Changes{{Origin: deviceID(2), Batches: []sdk.Batch{{Model: "other", Columns: []string{"a,b"}}}}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			in := good
			change(&in)
			if _, _, err := d.registry.PrepareRange(t.Context(), in); sdk.CodeOf(err) != sdk.CodeInvalid {
				t.Errorf("got %v", err)
			}
		})
	}
}
