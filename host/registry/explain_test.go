package registry_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/starling-sync/starling/host/history"
	"github.com/starling-sync/starling/host/registry"
	"github.com/starling-sync/starling/sdk"
)

func (d *device) explain(model sdk.ModelName, id sdk.RecordID) registry.Explanation {
	d.tb.Helper()
	e, err := d.registry.Explain(d.tb.Context(), model, id)
	if err != nil {
		d.tb.Fatal(err)
	}
	return e
}

func TestExplain_shared(t *testing.T) {
	a, b := newDevice(t, 1, labels()), newDevice(t, 2, labels())
	a.share(packed(t, labels(), label(1, 0, "top")))
	a.share(packed(t, labels(), label(2, 1, "under")))
	b.pull(a, 1<<20)
	b.wall = a.wall.Add(1_000_000_000)
	b.share(updates(t, labels(), label(2, 1, "renamed"), "name"))
	e := b.explain("label", rid(2))
	if !e.Visible || !e.Exists || e.Inserted.Device != a.id || len(e.Missing) != 0 {
		t.Errorf("%+v; want it visible and inserted by the first device", e)
	}
	by := map[string]sdk.DeviceID{}
	for _, f := range e.Fields {
		if !f.Version.IsZero() {
			by[f.Name] = f.Version.Device
		}
	}
	if by["name"] != b.id || by["parent_id"] != a.id {
		t.Errorf("written by %v; want the name by the second device, the parent by the first", by)
	}
	result := b.share(deletes(t, labels(), rid(1)))
	want := []registry.Missing{{Field: "parent_id", Model: "label", ID: rid(1), State: registry.MissingDeleted}}
	if e = b.explain("label", rid(2)); e.Visible || !e.Exists || cmp.Diff(want, e.Missing) != "" {
		t.Errorf("visible %v, exists %v, missing (-want +got):\n%s", e.Visible, e.Exists, cmp.Diff(want, e.Missing))
	}
	if e = b.explain("label", rid(1)); e.Exists || e.Deleted != (sdk.Version{Stamp: result.Last, Device: b.id}) || len(e.Fields) == 0 {
		t.Errorf("%+v; want it deleted by the second device at %s", e, result.Last)
	}
}

func TestExplain_deviceOwned(t *testing.T) {
	a, b := newDevice(t, 1, files()), newDevice(t, 2, files())
	a.own(packed(t, files(), file(3, 2, "c"), file(2, 1, "b")))
	b.pull(a, 1<<20)
	for n, want := range map[byte]registry.Missing{
		3: {Field: "parent_id", Model: "file", ID: rid(2), State: registry.MissingHidden},
		2: {Field: "parent_id", Model: "file", ID: rid(1), State: registry.MissingUnknown},
	} {
		if e := b.explain("file", rid(n)); e.Visible || e.Owner != a.id || cmp.Diff([]registry.Missing{want}, e.Missing) != "" {
			t.Errorf("%+v; want it to wait for %+v", e, want)
		}
	}
	a.own(packed(t, files(), file(1, 0, "a")))
	b.pull(a, 1<<20)
	if e := b.explain("file", rid(3)); !e.Visible || len(e.Missing) != 0 {
		t.Errorf("%+v; want it visible", e)
	}
	result := a.own(deletes(t, files(), rid(1)))
	b.pull(a, 1<<20)
	if e := b.explain("file", rid(1)); e.Exists || e.Deleted != (sdk.Version{Stamp: result.Last, Device: a.id}) {
		t.Errorf("%+v; want it deleted by its owner at %s", e, result.Last)
	}
	if e := b.explain("file", rid(2)); len(e.Missing) != 1 || e.Missing[0].State != registry.MissingDeleted {
		t.Errorf("%+v; want it to wait for a deleted record", e.Missing)
	}
}

// TestExplain_sameID has two references of a record name one id: of a file that is here, and of a label that is not.
func TestExplain_sameID(t *testing.T) {
	a := newDevice(t, 1, pairs(), files(), labels())
	a.own(packed(t, files(), file(1, 0, "a")))
	pair := Pair{File: sdk.Ref(rid(1)), Label: sdk.Ref(rid(1))}
	a.share(packed(t, pairs(), &pair))
	want := []registry.Missing{{Field: "label_id", Model: "label", ID: rid(1), State: registry.MissingUnknown}}
	id := sdk.KeyID("pair", rid(1), rid(1))
	if e := a.explain("pair", id); e.Visible || cmp.Diff(want, e.Missing) != "" {
		t.Errorf("visible %v, missing (-want +got):\n%s", e.Visible, cmp.Diff(want, e.Missing))
	}
}

// TestExplain_updateFirst has an update arrive, through a third device, before the insert.
func TestExplain_updateFirst(t *testing.T) {
	a, b, c := newDevice(t, 1, labels()), newDevice(t, 2, labels()), newDevice(t, 3, labels())
	a.share(packed(t, labels(), label(1, 0, "top")))
	b.pull(a, 1<<20)
	b.share(updates(t, labels(), label(1, 0, "renamed"), "name"))
	p, _ := b.read(history.Stream{Origin: b.id, Kind: sdk.SharedByAll}, 0, 1<<20)
	c.apply(p)
	c.share(packed(t, labels(), label(2, 1, "under")))
	e := c.explain("label", rid(1))
	if e.Exists || !e.Inserted.IsZero() || !e.Deleted.IsZero() || len(e.Fields) != 1 || e.Fields[0].Version.Device != b.id {
		t.Errorf("%+v; want one field by the second device, neither inserted nor deleted", e)
	}
	if e = c.explain("label", rid(2)); len(e.Missing) != 1 || e.Missing[0].State != registry.MissingUnknown {
		t.Errorf("missing %+v; want one that has not arrived", e.Missing)
	}
}

func TestExplain_nothing(t *testing.T) {
	a, b := newDevice(t, 1, labels()), newDevice(t, 2, files())
	if _, err := b.registry.Explain(t.Context(), "file", rid(1)); sdk.CodeOf(err) != sdk.CodeNotFound {
		t.Errorf("an unknown record: %v", err)
	}
	if _, err := b.registry.Explain(t.Context(), "label", rid(1)); sdk.CodeOf(err) != sdk.CodeUnknownModel {
		t.Errorf("an unknown model: %v", err)
	}
	a.share(packed(t, labels(), label(1, 0, "kept")))
	b.pull(a, 1<<20)
	if e := b.explain("label", rid(1)); e.Parked != 1 || e.Exists {
		t.Errorf("%+v; want one change that waits for its plugin", e)
	}
}

func TestConflict_forget(t *testing.T) {
	a, b := newDevice(t, 1, labels()), newDevice(t, 2, labels())
	a.share(packed(t, labels(), label(1, 0, "first")))
	b.pull(a, 1<<20)
	a.share(updates(t, labels(), label(1, 0, "lost"), "name"))
	b.wall = a.wall.Add(1_000_000_000)
	b.share(updates(t, labels(), label(1, 0, "stands"), "name"))
	b.pull(a, 1<<20)
	list, err := b.registry.Conflicts(t.Context(), "label", rid(1))
	if err != nil || len(list) != 1 {
		t.Fatalf("%v, %+v; want one conflict", err, list)
	}
	one, err := b.registry.Conflict(t.Context(), list[0].Number)
	if diff := cmp.Diff(list[0], one); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	for range 2 {
		if err := b.registry.ForgetConflict(t.Context(), one.Number); err != nil {
			t.Error(err)
		}
	}
	if _, err := b.registry.Conflict(t.Context(), one.Number); sdk.CodeOf(err) != sdk.CodeNotFound {
		t.Errorf("a forgotten conflict: %v", err)
	}
}
