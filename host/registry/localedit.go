package registry

import (
	"cmp"
	"context"
	"slices"

	"github.com/starling-sync/starling/sdk"
)

// bind says which fields the columns of a batch are.
func (b *localOps) bind(columns []string) {
	for _, column := range columns {
		name, _ := sdk.ParseColumn(column)
		var edit *sdk.Field
		if at, known := b.index[name]; known {
			column = b.wire[at]
			if f := &b.desc.Fields[at]; f.Merge == sdk.AddWins || f.Merge == sdk.Sum {
				edit = f
			}
		}
		b.columns, b.names, b.edits = append(b.columns, column), append(b.names, name), append(b.edits, edit)
	}
}

// independent returns the end of the operations from from on that can be decided together: what one says of a set or counter
// is not known before it is known whether an earlier one that writes the same was refused.
func (b *localOps) independent(from int) int {
	type place struct {
		id     sdk.RecordID
		column int
	}
	written := make(map[place]bool)
	for i := from; i < len(b.ops); i++ {
		for k := range b.ops[i].fields {
			at := place{b.ops[i].id, b.ops[i].fields[k].Column}
			if b.edits[at.column] == nil {
				continue
			}
			if written[at] {
				return i
			}
			written[at] = true
		}
	}
	return len(b.ops)
}

// decide has the model decide on some of the operations, and returns which of them are refused, ascending.
func (b *localOps) decide(ctx context.Context, from, to int) (refused []sdk.Refusal, err error) {
	decided := sdk.Batch{Model: b.desc.Model, Version: b.desc.Version, Columns: b.columns}
	var asked []int
	for i := from; i < to; i++ {
		op := &b.ops[i]
		before := len(decided.Rows)
		if err = b.edit(op); err == nil {
			if decided.Rows, err = op.append(decided.Rows, b.by, nil); err != nil {
				return nil, err
			}
			if size := len(decided.Rows) - before; b.hasEdits() && size > sdk.MaxRecordBytes-partRoom {
				decided.Rows = decided.Rows[:before]
				err = sdk.Errorf(sdk.CodeTooLarge, "an operation of %d bytes on a record with sets or counters; at most %d are allowed", size, sdk.MaxRecordBytes-partRoom)
			}
		}
		if err != nil {
			op.no = true
			refused = append(refused, sdk.Refusal{Index: i, Code: sdk.CodeOf(err), Message: err.Error()})
			continue
		}
		asked = append(asked, i)
		decided.Count++
	}
	if len(asked) == 0 {
		return refused, nil
	}
	a := b.asker(ctx, sdk.SharedChanges{Batch: decided, Origin: b.by, Local: true})
	if err := a.ask(); err != nil {
		return nil, err
	}
	for _, no := range a.refused {
		if no.Index >= 0 && no.Index < len(asked) {
			no.Index = asked[no.Index]
			b.ops[no.Index].no = true
			refused = append(refused, no)
		}
	}
	slices.SortFunc(refused, func(x, y sdk.Refusal) int { return cmp.Compare(x.Index, y.Index) })
	return refused, nil
}

// partRoom is what an operation that gives back a part of a set may take more than the one that wrote it.
const partRoom = 4 << 10

func (b *localOps) hasEdits() bool {
	return slices.ContainsFunc(b.edits, func(f *sdk.Field) bool { return f != nil })
}

// edit makes what op says of sets and counters the values of an operation.
func (b *localOps) edit(op *localOp) error {
	for k := range op.fields {
		f := &op.fields[k]
		field := b.edits[f.Column]
		if field == nil {
			continue
		}
		value, err := field.Edit(fieldOf(b.current[op.id], field.Name), f.Value, sdk.Version{Stamp: op.stamp, Device: b.by}, b.start)
		if err != nil {
			return err
		}
		f.Value = value
	}
	return nil
}

// fieldOf returns a field of state, or nil.
func fieldOf(state *sdk.Record, name string) *sdk.FieldState {
	if state == nil {
		return nil
	}
	for i := range state.Fields {
		if state.Fields[i].Name == name {
			return &state.Fields[i]
		}
	}
	return nil
}

// settleParts puts real stamps in place of provisional ones in the parts of a set or counter.
func (m *model) settleParts(f *sdk.FieldState, actual settler) {
	merge := m.inParts(f)
	if merge == "" {
		return
	}
	list, err := f.Parts()
	if err != nil {
		return // it was checked when the model returned it
	}
	for k := range list {
		list[k].Version.Stamp = actual("", list[k].Version.Stamp)
	}
	f.SetParts(merge, list)
}
