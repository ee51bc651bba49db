package registry

import (
	"fmt"
	"strings"

	"github.com/starling-sync/starling/sdk"
)

// A model's answer is judged before it is stored: a change that is acknowledged and is in no record would be lost here and kept
// by every peer. What must hold is what sdk.MergeShared does and the laws of package sdktest demand: an operation that is not
// refused is in the record that comes of it, whether the model returned that now or the record had it before.

// checkRefused returns why refused can not be of a batch of count changes. One without a reason gets words.
func checkRefused(model sdk.ModelName, refused []sdk.Refusal, count int) error {
	last := -1
	for i := range refused {
		index := refused[i].Index
		switch {
		case index < 0 || index >= count:
			return sdk.Errorf(sdk.CodeInternal, "model %q refused change %d of %d, counted from 0", model, index, count)
		case index <= last:
			return sdk.Errorf(sdk.CodeInternal, "model %q refused change %d after change %d; refusals are ascending, one a change", model, index, last)
		}
		last = index
		if strings.TrimSpace(refused[i].Message) == "" {
			refused[i].Message = fmt.Sprintf("model %q refused this without a reason", model)
		}
	}
	return nil
}

// sharedAnswer judges what a model made of a batch of operations.
type sharedAnswer struct {
	*sharedBatch
	in      *sdk.SharedChanges
	after   map[sdk.RecordID]*sdk.Record // what each record that an operation names is after the batch; nil: not known
	columns []answerColumn
}

// answerColumn is what a write to a column must leave in the record: its own version or a later one, or where the value decides
// one that stands over it. Of a field that is not known here only that there is one is known.
type answerColumn struct {
	name  string
	field *sdk.Field // nil: not known here
}

func (a *sharedAnswer) bind() {
	a.columns = make([]answerColumn, len(a.in.Batch.Columns))
	for i, column := range a.in.Batch.Columns {
		name, _ := sdk.ParseColumn(column)
		a.columns[i].name = name
		if at, known := a.index[name]; known {
			a.columns[i].field = &a.desc.Fields[at]
		}
	}
}

// has reports whether a record with state, which may be nil, has what was written to the column at version.
func (c *answerColumn) has(state *sdk.FieldState, version sdk.Version, written *sdk.OpField) bool {
	switch {
	case state == nil:
		return false
	case c.field == nil || state.Version.Compare(version) >= 0:
		return true
	case c.field.Merge == sdk.Max || c.field.Merge == sdk.Min:
		value, _, err := sdk.DecodeValue(written.Value, c.field.Type)
		return err == nil && c.field.Merge.Compare(state.Value, value) > 0
	}
	return false
}

// take adds the records of result to a.after, or returns why they can not be stored.
func (a *sharedAnswer) take(result *sdk.SharedResult) error {
	returned := make(map[sdk.RecordID]bool, len(result.Records))
	for i := range result.Records {
		state := &result.Records[i]
		if _, named := a.after[state.ID]; !named {
			return sdk.Errorf(sdk.CodeInternal, "model %q changed %s, which no operation names", a.name, state.ID)
		}
		if returned[state.ID] {
			return sdk.Errorf(sdk.CodeInternal, "model %q returned %s twice", a.name, state.ID)
		}
		if err := a.checkFields(state); err != nil {
			return sdk.Errorf(sdk.CodeInternal, "model %q returned %s: %w", a.name, state.ID, err)
		}
		returned[state.ID] = true
		a.after[state.ID] = state
	}
	return nil
}

// complete returns an error if an operation that is not in refused has left nothing in its record.
func (a *sharedAnswer) complete(refused []sdk.Refusal) error {
	a.bind()
	no, index := refusals{refused}, -1
	for op, err := range a.in.Batch.Ops() {
		if index++; err != nil {
			return err
		}
		if _, isRefused := no.at(index); isRefused {
			continue
		}
		if lost := a.lost(&op); lost != "" {
			return sdk.Errorf(sdk.CodeInternal, "model %q accepted the %s of %s, and its answer lacks %s", a.name, op.Kind, op.ID, lost)
		}
	}
	return nil
}

// lost returns what op says and the record does not have; empty: nothing.
func (a *sharedAnswer) lost(op *sdk.Op) string {
	version, state := sdk.Version{Stamp: op.Stamp, Device: a.in.Origin}, a.after[op.ID]
	switch {
	case state == nil && (op.Kind != sdk.Update || len(op.Fields) > 0):
		return "the record"
	case op.Kind == sdk.Insert && state.Inserted.Compare(version) < 0:
		return "the insert"
	case op.Kind == sdk.Delete && state.Deleted.Compare(version) < 0:
		return "the delete"
	}
	for i := range op.Fields {
		column := &a.columns[op.Fields[i].Column]
		if !column.has(fieldOf(state, column.name), version, &op.Fields[i]) {
			return `the write to "` + column.name + `"`
		}
	}
	return ""
}
