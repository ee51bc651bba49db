package sdktest_test

import (
	"context"
	"slices"
	"testing"

	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/sdktest"
)

// faultyHost is a host for sources with one seeded bug.
type faultyHost struct {
	*sdktest.SourceHost
	commit func(h *sdktest.SourceHost, batch sdk.Batch) ([]sdk.Refusal, error)
	find   func(h *sdktest.SourceHost, field string, values []any) (sdk.Batch, error)
}

func (f *faultyHost) Commit(ctx context.Context, batch sdk.Batch) ([]sdk.Refusal, error) {
	if f.commit != nil {
		return f.commit(f.SourceHost, batch)
	}
	return f.SourceHost.Commit(ctx, batch)
}

func (f *faultyHost) Find(ctx context.Context, model sdk.ModelName, field string, values []any) (sdk.Batch, error) {
	if f.find != nil && model == "note" {
		return f.find(f.SourceHost, field, values)
	}
	return f.SourceHost.Find(ctx, model, field, values)
}

// each commits the rows of batch one by one, changed by f, and returns what was refused.
func each(h *sdktest.SourceHost, batch sdk.Batch, f func(row sdk.StateRow, one *sdk.Batch) (commit bool)) ([]sdk.Refusal, error) {
	var refused []sdk.Refusal
	index := 0
	for row, err := range batch.StateRows() {
		if err != nil {
			return nil, err
		}
		one := sdk.Batch{Model: batch.Model, Version: batch.Version, Columns: batch.Columns, Count: 1, Rows: row.Raw}
		if f(row, &one) {
			no, err := h.Commit(context.Background(), one)
			if err != nil {
				return nil, err
			}
			for i := range no {
				no[i].Index = index
			}
			refused = append(refused, no...)
		}
		index++
	}
	return refused, nil
}

// hostBugs are what the laws of hosts must catch, each with the law that must.
var hostBugs = map[string]struct {
	law  string
	host faultyHost
}{
	"nil finds nothing": {"FindByNil", faultyHost{find: func(h *sdktest.SourceHost, field string, values []any) (sdk.Batch, error) {
		kept := slices.DeleteFunc(slices.Clone(values), func(v any) bool { return v == nil })
		if len(kept) == 0 && len(values) > 0 {
			kept = []any{sdk.NewRecordID()}
		}
		return h.Find(context.Background(), "note", field, kept)
	}}},
	"a value given twice finds twice": {"FindByID", faultyHost{find: func(h *sdktest.SourceHost, field string, values []any) (sdk.Batch, error) {
		all, err := h.Find(context.Background(), "note", field, values)
		if len(values) > 1 && values[0] == values[len(values)-1] {
			all.Count, all.Rows = 2*all.Count, slices.Concat(all.Rows, all.Rows)
		}
		return all, err
	}}},
	"only so many values": {"FindOfManyValues", faultyHost{find: func(h *sdktest.SourceHost, field string, values []any) (sdk.Batch, error) {
		return h.Find(context.Background(), "note", field, values[:min(len(values), 1000)])
	}}},
	"columns left out are nil": {"ColumnsThatAreLeftOutKeepTheirValues", faultyHost{commit: func(h *sdktest.SourceHost, batch sdk.Batch) ([]sdk.Refusal, error) {
		if slices.Contains(batch.Columns, "parent_id") {
			return h.Commit(context.Background(), batch)
		}
		return each(h, batch, func(row sdk.StateRow, one *sdk.Batch) bool {
			one.Columns = append(slices.Clone(batch.Columns), "parent_id")
			one.Rows = append(sdk.AppendStateHeader(nil, row.ID, 0, len(one.Columns)), row.Values...)
			one.Rows = sdk.AppendValue(one.Rows, nil)
			return true
		})
	}}},
	"one refusal is for all": {"RefusedRowsAreReported", faultyHost{commit: func(h *sdktest.SourceHost, batch sdk.Batch) ([]sdk.Refusal, error) {
		stop := false
		return each(h, batch, func(sdk.StateRow, *sdk.Batch) bool {
			commit := !stop
			stop = true
			return commit
		})
	}}},
	"refusals are not told": {"RefusedRowsAreReported", faultyHost{commit: func(h *sdktest.SourceHost, batch sdk.Batch) ([]sdk.Refusal, error) {
		_, err := h.Commit(context.Background(), batch)
		return nil, err
	}}},
	"equal rows are written": {"EqualRowsAreLeftAlone", faultyHost{commit: func(h *sdktest.SourceHost, batch sdk.Batch) ([]sdk.Refusal, error) {
		return each(h, batch, func(row sdk.StateRow, _ *sdk.Batch) bool {
			gone := sdk.Batch{Model: "note", Columns: batch.Columns, Count: 1, Rows: sdk.AppendStateHeader(nil, row.ID, 0, -1)}
			_, err := h.Commit(context.Background(), gone)
			return err == nil
		})
	}}},
	"deletes come last": {"TheLastChangeOfARecordWins", faultyHost{commit: func(h *sdktest.SourceHost, batch sdk.Batch) ([]sdk.Refusal, error) {
		for _, deletes := range []bool{false, true} {
			if no, err := each(h, batch, func(row sdk.StateRow, _ *sdk.Batch) bool { return row.Deleted == deletes }); err != nil {
				return no, err
			}
		}
		return nil, nil
	}}},
	"deletes are lost": {"Deleted", faultyHost{commit: func(h *sdktest.SourceHost, batch sdk.Batch) ([]sdk.Refusal, error) {
		return each(h, batch, func(row sdk.StateRow, _ *sdk.Batch) bool { return !row.Deleted })
	}}},
}

func TestSourceHost_CatchesSeededBugs(t *testing.T) {
	for name, bug := range hostBugs {
		t.Run(name, func(t *testing.T) { wantCaught(t, name, bug.law) })
	}
}
