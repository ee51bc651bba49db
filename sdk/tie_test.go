package sdk_test

import (
	"testing"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/sdk"
)

// TestMergeShared_TwoValuesOfOneWrite has one write come with two values, as from two copies of a device, beside another
// write: whatever the order, one value stands.
func TestMergeShared_TwoValuesOfOneWrite(t *testing.T) {
	type op struct {
		stamp  hlc.Stamp
		device byte
		value  int64
	}
	ops := []op{{5, 1, 5}, {5, 1, 7}, {6, 2, 6}}
	for merge, want := range map[sdk.Merge]int64{sdk.Min: 5, sdk.Max: 7, sdk.LWW: 6} {
		desc := sdk.Description{Model: "m", Version: 1, Ownership: sdk.SharedByAll, Fields: []sdk.Field{{Name: "n", Type: sdk.Int, Merge: merge}}}
		for _, order := range [][]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}} {
			var current []sdk.Record
			for _, i := range order {
				o := ops[i]
				b := sdk.Batch{Model: "m", Version: 1, Columns: []string{desc.Fields[0].Column()}, Count: 1}
				b.Rows = sdk.AppendOpField(sdk.AppendOpHeader(nil, sdk.RecordID{1}, o.stamp, sdk.Update, 1), 0, o.value, 0)
				result, err := sdk.MergeShared(&desc, sdk.SharedChanges{Batch: b, Origin: sdk.DeviceID{o.device}, Current: current}, nil)
				if err != nil || len(result.Refused) > 0 {
					t.Fatal(err, result.Refused)
				}
				if len(result.Records) > 0 {
					current = result.Records
				}
			}
			if got := current[0].Fields[0].Value; got != want {
				t.Errorf("%s, order %v: %v, want %d", merge, order, got, want)
			}
		}
	}
}
