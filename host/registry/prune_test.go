package registry_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/registry"
	"github.com/starling-sync/starling/sdk"
)

// tx runs fn in a transaction.
func (d *device) tx(fn func(tx *database.Tx) error) {
	d.tb.Helper()
	if err := d.db.Write(context.Background(), fn); err != nil {
		d.tb.Fatal(err)
	}
}

func (d *device) counts(model sdk.ModelName) registry.Counts {
	d.tb.Helper()
	all, err := d.registry.Counts(context.Background())
	if err != nil {
		d.tb.Fatal(err)
	}
	return all[model]
}

func TestPruneTombstones(t *testing.T) {
	a, b := newDevice(t, 1, files()), newDevice(t, 2, files())
	a.own(packed(t, files(), file(1, 0, "1"), file(2, 0, "2"), file(3, 0, "3"), file(4, 0, "4")))
	b.own(packed(t, files(), file(9, 0, "b's")))
	b.own(deletes(t, files(), rid(9)))
	a.pull(b, 1<<20)
	first := a.own(deletes(t, files(), rid(3), rid(1)))
	a.own(deletes(t, files(), rid(2)))
	a.tx(func(tx *database.Tx) error {
		for _, want := range []int{1, 1, 0} {
			if n, err := a.registry.PruneTombstones(tx, a.id, first.Last, 1); n != want || err != nil {
				t.Errorf("%d forgotten, %v; want %d", n, err, want)
			}
		}
		if n, err := a.registry.PruneTombstones(tx, deviceID(77), hlc.MaxStamp, 9); n != 0 || err != nil {
			t.Errorf("%d forgotten of one that is not known, %v", n, err)
		}
		return nil
	})
	if n := a.counts("file").Deleted; n != 2 {
		t.Errorf("%d deletes remain; want the later one, and the other device's", n)
	}
}

// TestPruneTombstones_parked has an older row of a deleted record wait, since its plugin failed on it: it goes with the delete.
func TestPruneTombstones_parked(t *testing.T) {
	a, b := newDevice(t, 1, files()), newDevice(t, 2, files())
	a.own(packed(t, files(), file(1, 0, "waits")))
	b.registry.Remove("file")
	b.pull(a, 1<<20)
	a.own(deletes(t, files(), rid(1)))
	b.tx(func(tx *database.Tx) error { // as if its plugin were back, and had failed on the row alone
		device, err := tx.DeviceNumber(a.id)
		if err != nil {
			return err
		}
		model, err := tx.NameNumber("file")
		if err != nil {
			return err
		}
		id := rid(1)
		_, err = tx.Exec("INSERT INTO _tombstone (model, id, owner, stamp) VALUES (?, ?, ?, ?)", model, id[:], device, int64(a.clock.Last())) //nolint:gosec // stamps fit
		return err
	})
	b.tx(func(tx *database.Tx) error {
		_, err := b.registry.PruneTombstones(tx, a.id, hlc.MaxStamp, 9)
		return err
	})
	b.add(files())
	if _, there := b.get("file", rid(1)); there {
		t.Error("the record is back")
	}
}

func TestPruneShadow(t *testing.T) {
	a, b := newDevice(t, 1, labels(), marks()), newDevice(t, 2, labels())
	a.share(packed(t, marks(), mark(91, 92))) // waits for two
	if c := a.counts("mark"); c.Waiting != 1 {
		t.Errorf("%+v; want one that waits", c)
	}
	a.share(packed(t, labels(), label(1, 0, "1"), label(2, 1, "2"), label(3, 0, "3"), label(4, 0, "4"), label(5, 4, "5")))
	first := a.share(deletes(t, labels(), rid(1), rid(3)))
	a.share(deletes(t, labels(), rid(4)))
	b.insertLate(t, a)
	if c := a.counts("label"); c.Deleted != 3 || c.Waiting != 2 || c.NotInserted != 1 {
		t.Errorf("%+v; want 3 deleted, 2 that wait, and one not inserted", c)
	}
	waiting, err := a.registry.Waiting(t.Context(), 2)
	if diff := cmp.Diff([]registry.WaitingRecord{
		{Model: "label", ID: rid(2), Missing: []sdk.RecordID{rid(1)}}, {Model: "label", ID: rid(5), Missing: []sdk.RecordID{rid(4)}},
	}, waiting); err != nil || diff != "" {
		t.Errorf("%v, waiting (-want +got):\n%s", err, diff)
	}
	if all, err := a.registry.Waiting(t.Context(), 9); err != nil || len(all) != 3 {
		t.Errorf("%+v, %v", all, err)
	}
	local, err := a.registry.PrepareLocal(t.Context(), sdk.SharedByAll, []sdk.Batch{packed(t, labels(), label(3, 0, "again"))})
	if err != nil {
		t.Fatal(err)
	}
	total := 0
	for after, steps := (registry.ShadowCursor{}), 0; ; steps++ {
		a.tx(func(tx *database.Tx) error {
			n, next, err := a.registry.PruneShadow(tx, first.Last, after, 1)
			total, after = total+n, next
			return err
		})
		if after == (registry.ShadowCursor{}) {
			break
		}
		if steps > 9 {
			t.Fatal("it goes on for ever")
		}
	}
	if c := a.counts("label"); total != 3 || c.Deleted != 1 || c.Waiting != 2 || c.NotInserted != 0 {
		t.Errorf("%d forgotten, and then %+v; want 3, and one deleted", total, c)
	}
	err = a.db.Write(t.Context(), func(tx *database.Tx) error { _, _, err := local.Write(tx, a.clock.Now); return err })
	if sdk.CodeOf(err) != sdk.CodeStale {
		t.Errorf("a write that was decided on what was forgotten: %v; want it stale", err)
	}
}

// insertLate has a know of an update of which the insert has not arrived.
func (d *device) insertLate(t *testing.T, a *device) {
	t.Helper()
	op := sdk.Batch{Model: "label", Version: 1, Columns: []string{"name"}, Count: 1}
	op.Rows = sdk.AppendOpField(sdk.AppendOpHeader(nil, rid(7), 5, sdk.Update, 1), 0, "early", 0)
	a.apply(page{stream: sharedStream(d), through: 5, batches: []sdk.Batch{op}})
}

// TestPruneShadow_parked has a change wait for its plugin, and wants the delete that it came before to be remembered.
func TestPruneShadow_parked(t *testing.T) {
	a := newDevice(t, 1, labels())
	a.share(packed(t, labels(), label(104, 0, "x"), label(103, 0, "x")))
	a.share(deletes(t, labels(), rid(104), rid(103)))
	a.registry.Remove("label")
	insertOld(a, 104)
	a.tx(func(tx *database.Tx) error {
		n, next, err := a.registry.PruneShadow(tx, hlc.MaxStamp, registry.ShadowCursor{}, 9)
		if n != 1 || next != (registry.ShadowCursor{}) {
			t.Errorf("%d forgotten, next %+v; want one", n, next)
		}
		return err
	})
	a.add(labels())
	if _, there := a.get("label", rid(104)); there {
		t.Error("the deleted record is back")
	}
}

// meddler is a model that does something else before it decides.
type meddler struct {
	sdk.Model[Label]
	before func()
}

func (m meddler) ApplySharedChange(ctx context.Context, in sdk.SharedChanges) (sdk.SharedResult, error) {
	m.before()
	return m.Model.ApplySharedChange(ctx, in)
}

// TestAdd_forgottenMeanwhile has a change that waits be forgotten while its plugin decides on it: it must not come back.
func TestAdd_forgottenMeanwhile(t *testing.T) {
	a := newDevice(t, 1, labels())
	a.registry.Remove("label")
	insertOld(a, 104)
	a.add(meddler{labels(), func() {
		a.tx(func(tx *database.Tx) error { _, err := tx.Exec("DELETE FROM _parked"); return err })
	}})
	if _, there := a.get("label", rid(104)); there {
		t.Error("the forgotten record is there")
	}
}

func TestPruneConflicts(t *testing.T) {
	a, b, c := newDevice(t, 1, labels()), newDevice(t, 2, labels()), newDevice(t, 3, labels())
	a.share(packed(t, labels(), label(1, 0, "first"), label(2, 0, "first")))
	b.pull(a, 1<<20)
	a.share(updates(t, labels(), label(1, 0, "lost"), "name"))
	b.wall = a.wall.Add(time.Minute)
	b.share(updates(t, labels(), label(1, 0, "stands"), "name"))
	between := b.clock.Last()
	b.wall = b.wall.Add(time.Minute)
	b.share(updates(t, labels(), label(2, 0, "later"), "name"))
	a.wall = b.wall
	a.share(updates(t, labels(), label(2, 0, "later too"), "name"))
	a.pull(b, 1<<20)
	p, _ := b.read(sharedStream(b), 0, 1<<20)
	c.apply(p) // updates before the insert that they saw: noted
	a.tx(func(tx *database.Tx) error {
		for n := 1; n == 1; {
			var err error
			if n, err = a.registry.PruneConflicts(tx, between+1, 1); err != nil || n > 1 {
				t.Errorf("%d forgotten, %v; want one at a time", n, err)
			}
		}
		return nil
	})
	if list, err := a.registry.Conflicts(t.Context(), "", sdk.RecordID{}); err != nil || len(list) != 1 || list[0].ID != rid(2) {
		t.Errorf("%+v, %v; want the later conflict alone", list, err)
	}
	var left int
	c.tx(func(tx *database.Tx) error {
		if _, err := c.registry.PruneConflicts(tx, hlc.MaxStamp, 9); err != nil {
			return err
		}
		_, err := tx.One("SELECT count(*) FROM _seen", nil, &left)
		return err
	})
	if left != 0 {
		t.Errorf("%d old values are still noted", left)
	}
}

// TestRange_conflicts has values lose to what a range brings, and wants those in the journal that lost to a write that had
// not seen them, and no others.
func TestRange_conflicts(t *testing.T) {
	a, b, c := newDevice(t, 1, labels()), newDevice(t, 2, labels()), newDevice(t, 3, labels())
	names := func(d *device, n byte, name string) { d.share(updates(t, labels(), label(n, 0, name), "name")) }
	a.share(packed(t, labels(), label(1, 0, "a"), label(2, 0, "a"), label(3, 0, "a")))
	meet(a, b, c)
	// 1: what b holds was seen, by one that was seen. 2: b wrote something that nobody saw. 3: what b wrote stands.
	names(b, 2, "b")
	for i, d := range []*device{a, c, a, c} {
		d.wall = a.wall.Add(time.Duration(i) * time.Minute)
		names(d, 1, "more")
		names(d, 2, "more")
		if i == 0 {
			names(d, 3, "more")
		}
		c.pull(a, 1<<20)
		a.pull(c, 1<<20)
	}
	b.wall = a.wall.Add(time.Hour)
	names(b, 3, "b")
	for _, want := range [][]string{{"02 b", "03 more"}, nil} { // the second time it is all known
		q := registry.RangeQuery{Kind: sdk.SharedByAll, MaxBytes: 1 << 20}
		theirs := a.vector()
		for _, in := range incoming(q, a.ranges(q), covered(theirs, q.Kind), covered(b.vector(), q.Kind)) {
			b.take(in)
		}
		b.reach(theirs)
		list, err := b.registry.Conflicts(t.Context(), "", sdk.RecordID{})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, one := range list {
			got = append(got, one.ID.String()[34:]+" "+one.Value.(string)) //nolint:forcetypeassert // names are text
			if err := b.registry.ForgetConflict(t.Context(), one.Number); err != nil {
				t.Fatal(err)
			}
		}
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("the journal (-want +got):\n%s", diff)
		}
	}
}
