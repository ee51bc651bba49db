package registry_test

import (
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/history"
	"github.com/starling-sync/starling/host/registry"
	"github.com/starling-sync/starling/sdk"
)

// TestCountState holds the count to what the stream is: rows in tables, in the shadow, and deleted ones, each once, and parked ones.
func TestCountState(t *testing.T) {
	a, b := newDevice(t, 1, files()), newDevice(t, 2, files())
	first := a.own(packed(t, files(), file(1, 0, "1"), file(2, 0, "2"), file(3, 7, "waits"), file(4, 0, "4")))
	a.own(deletes(t, files(), rid(2)))
	b.registry.Remove("file")
	b.pull(a, 1<<20)
	for name, d := range map[string]*device{"its own": a, "parked": b} {
		for _, since := range []hlc.Stamp{0, first.First, first.Last, hlc.MaxStamp} {
			batches, _, _, err := d.registry.ReadState(t.Context(), a.id, since, 1<<20)
			want := 0
			for i := range batches {
				want += batches[i].Count
			}
			got, countErr := d.registry.CountState(t.Context(), a.id, since, math.MaxInt32)
			if err != nil || countErr != nil || got != want {
				t.Errorf("%s after %s: %d, want %d (%v, %v)", name, since, got, want, err, countErr)
			}
		}
		if n, err := d.registry.CountState(t.Context(), a.id, 0, 2); n != 2 || err != nil {
			t.Errorf("%s, 2 at most: %d, %v", name, n, err)
		}
	}
	if n, err := a.registry.CountState(t.Context(), deviceID(77), 0, 9); n != 0 || err != nil {
		t.Errorf("of one that is not known: %d, %v", n, err)
	}
}

// TestByModel wants what became of a page told for each of its models.
func TestByModel(t *testing.T) {
	a, b := newDevice(t, 1, files(), labels()), newDevice(t, 2, files())
	a.own(packed(t, files(), file(1, 0, "1"), file(2, 0, "2"), file(3, 0, "3")))
	old, _ := a.read(history.Stream{Origin: a.id, Kind: sdk.DeviceOwned}, 0, 1<<20)
	a.own(packed(t, files(), file(1, 0, "one"), file(2, 0, "two")))
	b.pull(a, 1<<20)
	apply := func(p page) map[sdk.ModelName]registry.Outcome {
		prepared, err := b.prepare(p)
		if err != nil {
			t.Fatal(err)
		}
		b.tx(func(tx *database.Tx) error { _, err := prepared.Write(tx); return err })
		all := map[sdk.ModelName]registry.Outcome{}
		for model, o := range prepared.ByModel() {
			all[model] = *o
		}
		return all
	}
	if diff := cmp.Diff(map[sdk.ModelName]registry.Outcome{"file": {Stale: 2}}, apply(old)); diff != "" {
		t.Errorf("rows of which two are older (-want +got):\n%s", diff)
	}
	a.share(packed(t, labels(), label(5, 0, "5")))
	p, _ := a.read(history.Stream{Origin: a.id, Kind: sdk.SharedByAll}, 0, 1<<20)
	if diff := cmp.Diff(map[sdk.ModelName]registry.Outcome{"label": {Parked: 1}}, apply(p)); diff != "" {
		t.Errorf("a model that is not served (-want +got):\n%s", diff)
	}
}
