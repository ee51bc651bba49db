package sdk_test

import (
	"fmt"
	"testing"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/sdk"
)

func packEntries(tb testing.TB, count int) sdk.Batch {
	tb.Helper()
	packer, err := entries().Packer()
	if err != nil {
		tb.Fatal(err)
	}
	for i := range count {
		e := fullEntry()
		e.Name = fmt.Sprintf("file-%06d.txt", i)
		packer.Put(&e)
	}
	return stamped(tb, packer.Batch())
}

// stamped gives the rows of a batch stamps, as the host does.
func stamped(tb testing.TB, batch sdk.Batch) sdk.Batch {
	tb.Helper()
	var rows []byte
	stamp := hlc.New(1_795_331_411_123, 0)
	for row, err := range batch.StateRows() {
		if err != nil {
			tb.Fatal(err)
		}
		stamp++
		rows = sdk.AppendStateHeader(rows, row.ID, stamp, len(batch.Columns))
		rows = append(rows, row.Values...)
	}
	batch.Rows = rows
	return batch
}

func perRow(b *testing.B, rows int) {
	b.Helper()
	b.ReportMetric(float64(rows)*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
}

// BenchmarkApplyState decides on remote rows of 17 columns.
func BenchmarkApplyState(b *testing.B) {
	batch := packEntries(b, 1000)
	b.SetBytes(int64(len(batch.Rows)))
	b.ReportAllocs()
	for b.Loop() {
		result, err := entries().ApplyStateChange(b.Context(), sdk.StateChanges{Batch: batch})
		if err != nil || len(result.Refused) > 0 {
			b.Fatal(result.Refused, err)
		}
	}
	perRow(b, 1000)
}

// BenchmarkPacker packs records of 17 columns.
func BenchmarkPacker(b *testing.B) {
	packer, err := entries().Packer()
	if err != nil {
		b.Fatal(err)
	}
	e := fullEntry()
	b.ReportAllocs()
	for b.Loop() {
		packer.Put(&e)
		if packer.Len() == 1000 {
			packer.Batch()
		}
	}
	perRow(b, 1)
}

// BenchmarkRows reads records of 17 columns.
func BenchmarkRows(b *testing.B) {
	batch := packEntries(b, 1000)
	b.ReportAllocs()
	for b.Loop() {
		for _, err := range entries().Rows(&batch) {
			if err != nil {
				b.Fatal(err)
			}
		}
	}
	perRow(b, 1000)
}

// BenchmarkApplyShared merges remote updates of two fields into records that are known.
func BenchmarkApplyShared(b *testing.B) {
	in := sdk.SharedChanges{Origin: sdk.DeviceID{2}, Batch: sdk.Batch{Model: "note", Version: 1, Columns: []string{"title", "body"}}}
	for i := range 1000 {
		id := sdk.NewRecordID()
		stamp := hlc.Stamp(1000 + i) //nolint:gosec // small
		in.Batch.Rows = sdk.AppendOpHeader(in.Batch.Rows, id, stamp, sdk.Update, 2)
		in.Batch.Rows = sdk.AppendOpField(in.Batch.Rows, 0, "a title", 1)
		in.Batch.Rows = sdk.AppendOpField(in.Batch.Rows, 1, "a body of some words", 1)
		in.Batch.Count++
		first := sdk.Version{Stamp: 1, Device: sdk.DeviceID{1}}
		in.Current = append(in.Current, sdk.Record{ID: id, Inserted: first, Fields: []sdk.FieldState{
			{Name: "body", Value: "old", Version: first}, {Name: "title", Value: "old", Version: first},
		}})
	}
	b.ReportAllocs()
	for b.Loop() {
		result, err := notes().ApplySharedChange(b.Context(), in)
		if err != nil || len(result.Records) != 1000 || len(result.Conflicts) > 0 {
			b.Fatal(len(result.Records), len(result.Conflicts), err)
		}
	}
	perRow(b, 1000)
}
