package registry_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
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

func (d *device) audit() []registry.ModelDigests {
	d.tb.Helper()
	list, err := d.registry.AuditDigests(context.Background())
	if err != nil {
		d.tb.Fatal(err)
	}
	return list
}

// auditAnew computes all digests without what was kept of them.
func (d *device) auditAnew() []registry.ModelDigests {
	d.tb.Helper()
	again, err := registry.New(context.Background(), registry.Options{DB: d.db, Self: d.id})
	if err != nil {
		d.tb.Fatal(err)
	}
	again.AuditAnew()
	list, err := again.AuditDigests(context.Background())
	if err != nil {
		d.tb.Fatal(err)
	}
	return list
}

// restart has d's registry be made again, as at a start of its host.
func (d *device) restart(models ...sdk.ModelServer) {
	d.tb.Helper()
	var err error
	if d.registry, err = registry.New(context.Background(), registry.Options{DB: d.db, Self: d.id}); err != nil {
		d.tb.Fatal(err)
	}
	for _, model := range models {
		d.add(model)
	}
}

// spread returns an id that lies anywhere; many numbers make many ranges.
func spread(n int) (id sdk.RecordID) {
	mixed := uint64(n+1) * 0x9e3779b97f4a7c15 //nolint:gosec // a small number
	binary.BigEndian.PutUint64(id[:], mixed)
	binary.BigEndian.PutUint64(id[8:], mixed*0xbf58476d1ce4e5b9)
	return id
}

// TestAuditDigests_keptOrNew has records of all kinds come, go, wait and appear, in ranges of all sizes, and wants the
// digests that were kept to be those of a registry that keeps none.
func TestAuditDigests_keptOrNew(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		a := newQuickDevice(t, 1, files(), labels())
		defer a.close()
		number := rapid.IntRange(0, 1200)
		for range rapid.IntRange(1, 12).Draw(rt, "steps") {
			from := number.Draw(rt, "from")
			to := from + rapid.SampledFrom([]int{1, 3, 300}).Draw(rt, "number")
			name := rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "name")
			var ids []sdk.RecordID
			var rows []*File
			var ops []*Label
			for n := from; n < to; n++ {
				ids = append(ids, spread(n))
				rows = append(rows, &File{Owned: sdk.Owned{ID: spread(n)}, Name: name, Parent: sdk.Ref(spread(from))})
				ops = append(ops, &Label{Shared: sdk.Shared{ID: spread(n)}, Name: name})
			}
			ctx := context.Background()
			var err error
			switch rapid.IntRange(0, 4).Draw(rt, "act") {
			case 0:
				_, err = a.manager.CommitDeviceOwned(ctx, packed(t, files(), rows...))
			case 1:
				_, err = a.manager.CommitDeviceOwned(ctx, deletes(t, files(), ids...))
			case 2:
				_, err = a.manager.CommitShared(ctx, packed(t, labels(), ops...))
			case 3:
				_, err = a.manager.CommitShared(ctx, deletes(t, labels(), ids...))
			case 4:
				_, err = a.manager.CommitShared(ctx, updates(t, labels(), ops[0], "name"))
			}
			if err != nil {
				t.Fatal(err)
			}
			switch rapid.IntRange(0, 5).Draw(rt, "then") {
			case 0:
				if err := a.registry.KeepAudit(ctx); err != nil {
					t.Fatal(err)
				}
			case 1:
				a.restart(files(), labels())
			case 2:
				a.audit()
			case 3:
				if diff := cmp.Diff(a.auditAnew(), a.audit()); diff != "" {
					rt.Fatalf("digests that were kept (-want +got):\n%s", diff)
				}
			}
		}
		if diff := cmp.Diff(a.auditAnew(), a.audit()); diff != "" {
			rt.Fatalf("digests that were kept (-want +got):\n%s", diff)
		}
	})
}

// TestKeepAudit has a row change behind the registry's back, to see from where digests come after a restart.
func TestKeepAudit(t *testing.T) {
	a := newDevice(t, 1, files(), labels())
	for n := range 600 {
		a.share(packed(t, labels(), &Label{Shared: sdk.Shared{ID: spread(n)}, Name: "x"}))
	}
	restarted := func(keep bool) (before, after []registry.ModelDigests) {
		before = a.audit()
		if keep {
			if err := a.registry.KeepAudit(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		a.tx(func(tx *database.Tx) error { _, err := tx.Exec("UPDATE label SET name = name || 'y'"); return err })
		a.restart(files(), labels())
		return before, a.audit()
	}
	before, after := restarted(true)
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("they were computed again (-kept +got):\n%s", diff)
	}
	if before, after = restarted(false); cmp.Equal(before, after) || !cmp.Equal(after, a.auditAnew()) {
		t.Error("after a crash, digests are those that were kept at a stop before it")
	}
}

// TestAuditDigests_anew has damage be found after so many audits, also where the device stops after each.
func TestAuditDigests_anew(t *testing.T) {
	a := newDevice(t, 1, files(), labels())
	a.own(packed(t, files(), file(1, 0, "x")))
	before := a.audit()
	a.tx(func(tx *database.Tx) error { _, err := tx.Exec("UPDATE file SET name = 'y'"); return err })
	for n := 1; ; n++ {
		if err := a.registry.KeepAudit(t.Context()); err != nil {
			t.Fatal(err)
		}
		a.restart(files(), labels())
		if !cmp.Equal(before, a.audit()) {
			if n != 23 {
				t.Errorf("it was found by audit %d", n+1)
			}
			return
		}
		if n == 100 {
			t.Fatal("never found")
		}
	}
}

// TestAuditDigests_moved wants digests not to tell what is visible from what waits, nor one order of arrival from another.
func TestAuditDigests_moved(t *testing.T) {
	a, b := newDevice(t, 1, allModels()...), newDevice(t, 2, allModels()...)
	var list []*File
	for n := range 900 {
		list = append(list, &File{Owned: sdk.Owned{ID: spread(n)}, Name: "x", Parent: sdk.Ref(rid(1))})
	}
	a.own(packed(t, files(), list...))
	a.own(packed(t, files(), file(1, 0, "root")))
	a.share(packed(t, labels(), label(101, 0, "l")))
	b.pull(a, 500)
	before := a.audit()
	if len(before[0].Ranges) < 2 || before[1].Total == (registry.AuditDigest{}) {
		t.Fatalf("%d ranges of 900 files, labels %+v", len(before[0].Ranges), before[1])
	}
	if diff := cmp.Diff(before, b.audit()); diff != "" {
		t.Errorf("they hold the same (-a +b):\n%s", diff)
	}
	a.own(deletes(t, files(), rid(1)))
	after := a.audit()
	if len(a.ids("file", true)) != 900 {
		t.Fatal("the files are still visible")
	}
	changed := 0
	for i := range after[0].Ranges {
		if after[0].Ranges[i] != before[0].Ranges[i] {
			changed++
		}
	}
	if changed != 1 || len(before[0].Ranges) != len(after[0].Ranges) {
		t.Errorf("%d ranges changed; want that of the folder that was deleted", changed)
	}
}

// TestAuditDigests_lastOfRange deletes the records that end ranges, and makes them again.
func TestAuditDigests_lastOfRange(t *testing.T) {
	a := newDevice(t, 1, files())
	var list []*File
	for n := range 2000 {
		list = append(list, &File{Owned: sdk.Owned{ID: spread(n)}, Name: "x"})
	}
	a.own(packed(t, files(), list...))
	for _, r := range a.audit()[0].Ranges {
		if _, there := a.get("file", r.Until); !there {
			continue // the last
		}
		a.own(deletes(t, files(), r.Until))
		if diff := cmp.Diff(a.auditAnew(), a.audit()); diff != "" {
			t.Errorf("without %s (-want +got):\n%s", r.Until, diff)
		}
	}
	a.own(packed(t, files(), list...))
	if diff := cmp.Diff(a.auditAnew(), a.audit()); diff != "" {
		t.Errorf("with all (-want +got):\n%s", diff)
	}
}

// TestAuditDigests_pending wants what is being written to be read again however the reads fall: before the commit, and after.
func TestAuditDigests_pending(t *testing.T) {
	a := newDevice(t, 1, files())
	a.own(packed(t, files(), file(1, 0, "one")))
	a.audit()
	ctx := context.Background()
	prepared, err := a.registry.PrepareLocal(ctx, sdk.DeviceOwned, []sdk.Batch{packed(t, files(), file(1, 0, "two"))})
	if err != nil {
		t.Fatal(err)
	}
	failed := sdk.Errorf(sdk.CodeInternal, "no")
	for _, undo := range []error{failed, nil} {
		var during, committed []registry.ModelDigests
		err := a.db.Write(ctx, func(tx *database.Tx) error {
			tx.AfterCommit(func() { committed = a.audit() }) // before the registry is told
			if _, _, err := prepared.Write(tx, a.clock.Now); err != nil {
				return err
			}
			during = a.audit() // by another reader, which sees nothing of it yet
			return undo
		})
		if sdk.CodeOf(err) != sdk.CodeOf(undo) {
			t.Fatal(err)
		}
		want := a.auditAnew()
		if diff := cmp.Diff(want, a.audit()); diff != "" {
			t.Errorf("undone by %v (-want +got):\n%s", undo, diff)
		}
		if diff := cmp.Diff(want, committed); undo == nil && diff != "" {
			t.Errorf("as soon as it was committed (-want +got):\n%s", diff)
		}
		if same := cmp.Equal(during, a.audit()); same != (undo != nil) {
			t.Errorf("undone by %v: the digests are those from before: %v", undo, same)
		}
	}
}

// rows returns all visible records of a model.
func (d *device) rows(model sdk.ModelName) map[sdk.RecordID]registry.Row {
	d.tb.Helper()
	all := make(map[sdk.RecordID]registry.Row)
	err := d.registry.List(context.Background(), model, registry.Filter{}, func(row registry.Row) error {
		all[row.ID] = row
		return nil
	})
	if err != nil {
		d.tb.Fatal(err)
	}
	return all
}

// TestAuditAnew has a row change behind the registry's back.
func TestAuditAnew(t *testing.T) {
	a := newDevice(t, 1, files())
	a.own(packed(t, files(), file(1, 0, "x")))
	before := a.audit()
	a.tx(func(tx *database.Tx) error { _, err := tx.Exec("UPDATE file SET name = 'y'"); return err })
	if diff := cmp.Diff(before, a.audit()); diff != "" {
		t.Errorf("it was read though the registry has not written (-want +got):\n%s", diff)
	}
	a.registry.AuditAnew()
	if got := a.audit(); cmp.Equal(before, got) || !cmp.Equal(a.auditAnew(), got) {
		t.Errorf("%+v are the digests from before", got)
	}
}

// TestAuditDigests_differences wants spans to hold all records that differ, and few others.
func TestAuditDigests_differences(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		a, b := newQuickDevice(t, 1, labels()), newQuickDevice(t, 2, labels())
		defer a.close()
		defer b.close()
		total := rapid.SampledFrom([]int{0, 1, 300, 800}).Draw(rt, "total")
		var ops []*Label
		for n := range total {
			ops = append(ops, &Label{Shared: sdk.Shared{ID: spread(n)}, Name: "x"})
		}
		if total > 0 {
			a.share(packed(t, labels(), ops...))
		}
		b.pull(a, 1<<20)
		differ := make(map[sdk.RecordID]bool)
		for range rapid.IntRange(0, 4).Draw(rt, "changes") {
			d := rapid.SampledFrom([]*device{a, b}).Draw(rt, "device")
			n := rapid.IntRange(0, 850).Draw(rt, "which")
			if _, there := d.get("label", spread(n)); there && rapid.Bool().Draw(rt, "delete") {
				d.share(deletes(t, labels(), spread(n)))
			} else if there {
				d.share(updates(t, labels(), &Label{Shared: sdk.Shared{ID: spread(n)}, Name: fmt.Sprint(n, d.id)}, "name"))
			} else {
				d.share(packed(t, labels(), &Label{Shared: sdk.Shared{ID: spread(n)}, Name: "y"}))
			}
			differ[spread(n)] = true
		}
		spans := auditDifferences(a.audit(), b.audit())
		if diff := cmp.Diff(spans, auditDifferences(b.audit(), a.audit())); diff != "" {
			rt.Fatalf("seen from the other side (-a +b):\n%s", diff)
		}
		inA, inB := a.rows("label"), b.rows("label")
		for n := range 851 {
			at := registry.Place{Model: "label", ID: spread(n)}
			in := slices.ContainsFunc(spans, func(s auditSpan) bool { return at.Compare(s.After) > 0 && at.Compare(s.Until) <= 0 })
			if !in && !cmp.Equal(inA[at.ID], inB[at.ID]) {
				rt.Fatalf("record %d differs, and lies in none of %v", n, spans)
			}
		}
		ranges := 0
		for _, span := range spans {
			for _, r := range a.audit()[0].Ranges {
				if r.Until.Compare(span.After.ID) > 0 && r.Until.Compare(span.Until.ID) <= 0 {
					ranges++
				}
			}
		}
		if len(spans) > len(differ) || ranges > 2*len(differ) {
			rt.Fatalf("%d records differ, in %d ranges of %v", len(differ), ranges, spans)
		}
		// Then those are exchanged, and merged.
		repair(a, b, spans)
		if diff := cmp.Diff(a.audit(), b.audit()); diff != "" {
			rt.Fatalf("after the repair (-a +b):\n%s", diff)
		}
	})
}

// TestAuditDigests_differences_notComparable wants models left out for which changes wait, or that one side does not have.
func TestAuditDigests_differences_notComparable(t *testing.T) {
	a, b := newDevice(t, 1, labels(), files()), newDevice(t, 2, labels())
	a.own(packed(t, files(), file(1, 0, "x")))
	a.share(packed(t, labels(), label(1, 0, "x")))
	b.registry.Remove("label")
	b.pull(a, 1<<20)
	if digests := b.audit(); len(digests) != 1 || !digests[0].Parked {
		t.Errorf("%+v; want one model, for which a change waits", digests)
	}
	if spans := auditDifferences(a.audit(), b.audit()); len(spans) != 0 {
		t.Errorf("%+v", spans)
	}
	b.add(labels())
	if diff := cmp.Diff(a.audit()[1], b.audit()[0]); diff != "" {
		t.Errorf("(-a +b):\n%s", diff)
	}
}

// anyRow draws a row or a delete of a file.
func anyRow(t *testing.T, rt *rapid.T, origin byte, stamp hlc.Stamp) sdk.Batch {
	n := origin*10 + byte(rapid.IntRange(1, 3).Draw(rt, "file"))
	batch := packed(t, files(), file(n, byte(rapid.SampledFrom([]int{0, 71, 81}).Draw(rt, "parent")), rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "name")))
	if rapid.IntRange(0, 3).Draw(rt, "delete") == 0 {
		batch.Rows = sdk.AppendStateHeader(nil, rid(n), stamp, -1)
		return batch
	}
	for row, err := range batch.StateRows() {
		if err != nil {
			rt.Fatal(err)
		}
		batch.Rows = append(sdk.AppendStateHeader(nil, row.ID, stamp, len(batch.Columns)), row.Values...)
	}
	return batch
}

// TestAudit_union has two devices miss different changes, and wants an exchange of what they hold to make them equal, in
// whatever order it happens, and to change nothing the second time.
func TestAudit_union(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var devices []*device
		for n := range 4 {
			d := newQuickDevice(t, byte(n+1), allModels()...)
			defer d.close()
			devices = append(devices, d)
		}
		a, b := devices[0], devices[1]
		for origin := range byte(2) {
			for n := range rapid.IntRange(0, 12).Draw(rt, "changes") {
				stamp := hlc.Stamp(10 + n)
				p := page{stream: history.Stream{Origin: deviceID(7 + origin), Kind: sdk.SharedByAll}, through: stamp}
				if rapid.Bool().Draw(rt, "owned") {
					p.stream.Kind = sdk.DeviceOwned
					p.batches = []sdk.Batch{anyRow(t, rt, 7+origin, stamp)}
				} else {
					p.batches = []sdk.Batch{anyOperation(rt, stamp)}
				}
				who := rapid.IntRange(0, 2).Draw(rt, "who")
				for i, d := range []*device{a, b} {
					if who != i {
						d.apply(p)
					}
				}
			}
		}
		bytes := rapid.SampledFrom([]int{1, 200, 1 << 20}).Draw(rt, "bytes")
		var fromA, fromB []registry.IncomingRange
		for _, kind := range []sdk.Ownership{sdk.DeviceOwned, sdk.SharedByAll} {
			q := registry.RangeQuery{Kind: kind, MaxBytes: bytes}
			fromA = append(fromA, incoming(q, a.ranges(q), nil, nil)...)
			fromB = append(fromB, incoming(q, b.ranges(q), nil, nil)...)
		}
		differ := !cmp.Equal(a.digests(), b.digests())
		repairs := 0
		for d, lists := range map[*device][][]registry.IncomingRange{a: {fromB}, b: {fromA}, devices[2]: {fromA, fromB}, devices[3]: {fromB, fromA}} {
			for _, list := range lists {
				for _, in := range list {
					out := d.take(in)
					if d == a || d == b {
						repairs += out.Repairs
					}
				}
			}
			for _, list := range lists {
				for _, in := range list {
					if again := d.take(in); again.Repairs != 0 || again.Written != 0 {
						rt.Fatalf("%s: taken in again, a range changed %+v", d.id, again)
					}
				}
			}
			d.checkInvariants()
		}
		if differ && repairs == 0 { // without a difference, what does not exist may have had other clocks
			rt.Fatal("they differed, and nothing was repaired")
		}
		for _, d := range devices[1:] {
			if diff := cmp.Diff(a.clocks(sharedModels, universe()), d.clocks(sharedModels, universe())); diff != "" {
				rt.Fatalf("%s and %s (-want +got):\n%s", a.id, d.id, diff)
			}
			if diff := cmp.Diff(a.audit(), d.audit()); diff != "" {
				rt.Fatalf("%s and %s (-want +got):\n%s", a.id, d.id, diff)
			}
		}
		wantEqual(t, devices...)
	})
}

// TestAudit_repaired wants to be told what a repair did.
func TestAudit_repaired(t *testing.T) {
	a, b := newDevice(t, 1, labels(), files()), newDevice(t, 2, labels(), files())
	a.share(packed(t, labels(), label(1, 0, "x"), label(2, 0, "x"), label(3, 0, "x")))
	a.own(packed(t, files(), file(11, 0, "x"), file(12, 0, "x"), file(13, 0, "x")))
	b.pull(a, 1<<20)
	a.share(packed(t, labels(), label(4, 0, "new")), updates(t, labels(), label(2, 0, "y"), "name"), deletes(t, labels(), rid(3)))
	a.own(packed(t, files(), file(12, 0, "y"), file(14, 0, "new")))
	a.own(deletes(t, files(), rid(13)))
	var got []registry.Repair
	for _, kind := range []sdk.Ownership{sdk.SharedByAll, sdk.DeviceOwned} {
		q := registry.RangeQuery{Kind: kind, MaxBytes: 1 << 20}
		for _, in := range incoming(q, a.ranges(q), nil, nil) {
			out := b.take(in)
			if got = append(got, out.Repaired...); out.Repairs != 3 {
				t.Errorf("%s: %d repairs; want 3", kind, out.Repairs)
			}
		}
	}
	slices.SortFunc(got, func(a, b registry.Repair) int { return a.ID.Compare(b.ID) })
	want := []registry.Repair{
		{Model: "label", ID: rid(2), What: registry.RepairChanged}, {Model: "label", ID: rid(3), What: registry.RepairDeleted},
		{Model: "label", ID: rid(4), What: registry.RepairAdded}, {Model: "file", ID: rid(12), What: registry.RepairChanged},
		{Model: "file", ID: rid(13), What: registry.RepairDeleted}, {Model: "file", ID: rid(14), What: registry.RepairAdded},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	wantEqual(t, a, b)
}

// TestAudit_rottenValue has a value change on one disk without a trace: the clocks are equal, and an exchange makes the values
// so again, whichever side has the greater one.
func TestAudit_rottenValue(t *testing.T) {
	for _, rotten := range []string{"a", "z"} {
		a, b := newDevice(t, 1, labels()), newDevice(t, 2, labels())
		a.share(packed(t, labels(), label(1, 0, "m")))
		b.pull(a, 1<<20)
		b.tx(func(tx *database.Tx) error { _, err := tx.Exec("UPDATE label SET name = ?", rotten); return err })
		q := registry.RangeQuery{Kind: sdk.SharedByAll, MaxBytes: 1 << 20}
		fromA, fromB := incoming(q, a.ranges(q), nil, nil), incoming(q, b.ranges(q), nil, nil)
		repairs := 0
		for _, in := range fromA {
			repairs += b.take(in).Repairs
		}
		for _, in := range fromB {
			repairs += a.take(in).Repairs
		}
		if repairs != 1 {
			t.Errorf("%q: %d repairs; want one, on the side with the lesser value", rotten, repairs)
		}
		wantEqual(t, a, b)
	}
}

// repair exchanges what lies in spans, and returns how many records that changed.
func repair(a, b *device, spans []auditSpan) (n int) {
	for _, span := range spans {
		q := registry.RangeQuery{Kind: sdk.SharedByAll, After: span.After, Until: span.Until, MaxBytes: 4000}
		desc, _ := a.registry.Description(span.After.Model)
		q.Kind = desc.Ownership
		fromA, fromB := incoming(q, a.ranges(q), nil, nil), incoming(q, b.ranges(q), nil, nil)
		for _, in := range fromA {
			n += b.take(in).Repairs
		}
		for _, in := range fromB {
			n += a.take(in).Repairs
		}
	}
	return n
}

// TestAudit_rottenRow has values of rows change on one disk without a trace. What a third device says does not count; what
// their owner says does, and the owner believes nobody.
func TestAudit_rottenRow(t *testing.T) {
	a, b, c := newDevice(t, 1, files()), newDevice(t, 2, files()), newDevice(t, 3, files())
	a.own(packed(t, files(), file(1, 0, "one"), file(2, 0, "two"), file(3, 9, "waits")))
	b.pull(a, 1<<20)
	c.pull(a, 1<<20)
	b.tx(func(tx *database.Tx) error {
		if _, err := tx.Exec("UPDATE file SET name = 'rotten' WHERE name = 'two'"); err != nil {
			return err
		}
		var data []byte
		if _, err := tx.One("SELECT data FROM _shadow", nil, &data); err != nil {
			return err
		}
		_, err := tx.Exec("UPDATE _shadow SET data = ?", bytes.ReplaceAll(data, []byte("waits"), []byte("rotsw")))
		return err
	})
	q := registry.RangeQuery{Kind: sdk.DeviceOwned, MaxBytes: 1 << 20}
	take := func(to, from *device, want ...registry.Repair) {
		t.Helper()
		var got []registry.Repair
		for _, in := range incoming(q, from.ranges(q), nil, nil) {
			in.From = from.id
			got = append(got, to.take(in).Repaired...)
		}
		slices.SortFunc(got, func(a, b registry.Repair) int { return a.ID.Compare(b.ID) })
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s, told by %s, repairs (-want +got):\n%s", to.id, from.id, diff)
		}
		to.checkInvariants()
	}
	take(b, c)
	take(a, b)
	take(c, a)
	take(b, a, registry.Repair{Model: "file", ID: rid(2), What: registry.RepairChanged}, registry.Repair{Model: "file", ID: rid(3), What: registry.RepairChanged})
	wantEqual(t, a, b, c)
	if diff := cmp.Diff(a.auditAnew(), b.auditAnew()); diff != "" {
		t.Errorf("%s and %s differ (-want +got):\n%s", a.id, b.id, diff)
	}
	if diff := cmp.Diff(b.auditAnew(), b.audit()); diff != "" {
		t.Errorf("the kept digests are others (-want +got):\n%s", diff)
	}
	// What went is in the journal: the owner's disk may be the damaged one.
	var lost []any
	list, err := b.registry.Conflicts(t.Context(), "file", sdk.RecordID{})
	for _, c := range list {
		lost = append(lost, c.Field, c.Value)
	}
	if diff := cmp.Diff([]any{"name", "rotten", "name", "rotsw"}, lost); err != nil || diff != "" {
		t.Errorf("%v; the journal (-want +got):\n%s", err, diff)
	}
}

// TestAudit_unreadable has what waits become no record at all: audits go on, and it comes back.
func TestAudit_unreadable(t *testing.T) {
	a, b := newDevice(t, 1, files(), labels()), newDevice(t, 2, files(), labels())
	a.own(packed(t, files(), file(1, 0, "one"), file(3, 9, "waits")))
	a.share(packed(t, labels(), label(5, 0, "label")))
	b.pull(a, 1<<20)
	b.tx(func(tx *database.Tx) error {
		damage := []byte{0xc1}
		if _, err := tx.Exec("UPDATE _shadow SET data = ?", damage); err != nil {
			return err
		}
		_, err := tx.Exec("UPDATE label SET _clock = ?", damage)
		return err
	})
	for _, kind := range []sdk.Ownership{sdk.DeviceOwned} {
		q := registry.RangeQuery{Kind: kind, MaxBytes: 1 << 20}
		if cmp.Equal(a.auditAnew(), b.auditAnew()) {
			t.Error("nothing differs")
		}
		for _, in := range incoming(q, a.ranges(q), nil, nil) {
			in.From = a.id
			b.take(in)
		}
	}
	for _, model := range b.auditAnew() {
		for _, want := range a.auditAnew() {
			if model.Model == "file" && want.Model == "file" {
				if diff := cmp.Diff(want, model); diff != "" {
					t.Errorf("after the repair (-want +got):\n%s", diff)
				}
			}
		}
	}
}
