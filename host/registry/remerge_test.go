package registry_test

import (
	"testing"

	"github.com/starling-sync/starling/sdk"
)

// Score has fields that merge by value from its second version on.
type Score struct {
	sdk.Shared
	Name string `starling:"name,required"`
}

// ScoreV2 is a later version of Score.
type ScoreV2 struct {
	sdk.Shared
	Name string `starling:"name,required"`
	Peak int64  `starling:"peak,max"`
	Low  int64  `starling:"low,min"`
}

// TestAdd_newFieldsThatMergeByValue wants a device that learns of such a field late to hold what the others do.
func TestAdd_newFieldsThatMergeByValue(t *testing.T) {
	v1, v2 := sdk.Model[Score]{Name: "score", Version: 1}, sdk.Model[ScoreV2]{Name: "score", Version: 2}
	a, b := newDevice(t, 1, v2), newDevice(t, 2, v2)
	old, absent := newDevice(t, 3, v1), newDevice(t, 4)
	score := func(n byte, peak, low int64) *ScoreV2 {
		return &ScoreV2{Shared: sdk.Shared{ID: rid(n)}, Name: "n", Peak: peak, Low: low}
	}
	meet := func() {
		for _, d := range []*device{a, b, old, absent} {
			for _, from := range []*device{a, b} {
				if d != from {
					d.pull(from, 1<<20)
				}
			}
		}
	}
	a.share(packed(t, v2, score(1, 10, 1), score(2, 1, 1), score(3, 10, 1)))
	meet()
	b.share(updates(t, v2, score(1, 5, 5), "peak", "low"), updates(t, v2, score(2, 7, 0), "peak", "low"), deletes(t, v2, rid(3)))
	meet()
	old.add(v2)
	absent.add(v2)
	wantEqual(t, a, b, old, absent)
	if row, _ := old.get("score", rid(1)); row.Value("peak") != int64(10) || row.Value("low") != int64(1) {
		t.Errorf("got %v", row.Fields)
	}
	// The deleted one too.
	a.share(packed(t, v2, &ScoreV2{Shared: sdk.Shared{ID: rid(3)}, Name: "again"}))
	meet()
	wantEqual(t, a, b, old, absent)
	counts, err := old.registry.Counts(t.Context())
	if c := counts["score"]; err != nil || c.Parked != 0 || c.Conflicts != 0 {
		t.Errorf("%+v, %v", c, err)
	}
}
