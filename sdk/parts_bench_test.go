package sdk_test

import (
	"fmt"
	"testing"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/sdk"
)

// BenchmarkMergeShared_set merges a batch of 1,000 adds by 10 devices, one after another, into a set of 10,000 elements.
func BenchmarkMergeShared_set(b *testing.B) {
	current := sdk.FieldState{Name: "words", Version: sdk.Version{Stamp: 1, Device: alice}}
	var parts []sdk.FieldPart
	for i := range 10_000 {
		v := sdk.Version{Stamp: hlc.Stamp(i/10 + 1), Device: sdk.DeviceID{byte(i % 10)}} //nolint:gosec // small
		parts = append(parts, sdk.FieldPart{Version: v, Element: fmt.Sprint("word", i)})
	}
	current.SetParts(sdk.AddWins, parts)
	record := sdk.Record{ID: one, Inserted: sdk.Version{Stamp: 1, Device: alice}, Fields: []sdk.FieldState{current}}
	batch := sdk.Batch{Model: "song", Version: 1, Columns: []string{"words:set"}, Count: 1000}
	for i := range batch.Count {
		at := sdk.Version{Stamp: hlc.Stamp(2000 + i), Device: bob} //nolint:gosec // small
		batch.Rows = sdk.AppendOpHeader(batch.Rows, one, at.Stamp, sdk.Update, 1)
		value := sdk.AppendOpParts(nil, sdk.AddWins, at, []sdk.FieldPart{{Version: at, Element: fmt.Sprint("new", i)}})
		batch.Rows = sdk.AppendOpField(batch.Rows, 0, sdk.Packed(value), 0)
	}
	for b.Loop() {
		result, err := songs().ApplySharedChange(b.Context(), sdk.SharedChanges{Batch: batch, Origin: bob, Current: []sdk.Record{record}})
		if err != nil || len(result.Refused) > 0 {
			b.Fatal(err, result.Refused)
		}
	}
	b.ReportMetric(float64(b.N)*1000/b.Elapsed().Seconds(), "ops/s")
	b.ReportMetric(float64(len(current.State)), "state-bytes")
}

// BenchmarkMergeShared_localSet decides on one local add to a set of 5,000 elements that were added together.
func BenchmarkMergeShared_localSet(b *testing.B) {
	at := sdk.Version{Stamp: 1, Device: alice}
	current := sdk.FieldState{Name: "words", Version: at}
	var parts []sdk.FieldPart
	for i := range 5_000 {
		parts = append(parts, sdk.FieldPart{Version: at, Element: fmt.Sprint("word", i)})
	}
	current.SetParts(sdk.AddWins, parts)
	record := sdk.Record{ID: one, Inserted: at, Fields: []sdk.FieldState{current}}
	field := sdk.Field{Name: "words", Type: sdk.Text, Merge: sdk.AddWins}
	for b.Loop() {
		v := sdk.Version{Stamp: 9, Device: bob}
		value, err := field.Edit(&current, []byte{0x81, 0xa3, 'a', 'd', 'd', 0x91, 0xa1, 'x'}, v, sdk.PartID{1})
		if err != nil {
			b.Fatal(err)
		}
		batch := sdk.Batch{Model: "song", Version: 1, Columns: []string{"words:set"}, Count: 1}
		batch.Rows = sdk.AppendOpField(sdk.AppendOpHeader(nil, one, v.Stamp, sdk.Update, 1), 0, sdk.Packed(value), 0)
		result, err := songs().ApplySharedChange(b.Context(), sdk.SharedChanges{Batch: batch, Origin: bob, Local: true, Current: []sdk.Record{record}})
		if err != nil || len(result.Refused) > 0 {
			b.Fatal(err, result.Refused)
		}
	}
}
