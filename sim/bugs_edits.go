package main

import (
	"context"
	"slices"

	"github.com/starling-sync/starling/host/peersync"
	"github.com/starling-sync/starling/sdk"
)

// editBugs are about fields that do not merge by the last write.
func editBugs() []*bug {
	parts := func(merge sdk.Merge, change func(*sdk.SharedChanges, *sdk.Record, []sdk.FieldPart) []sdk.FieldPart) func(sdk.ModelServer) sdk.ModelServer {
		return func(s sdk.ModelServer) sdk.ModelServer { return partsServer{s, merge, change} }
	}
	return []*bug{
		{name: "remove-wins", does: "an element that somebody removed stays away", server: parts(sdk.AddWins, func(_ *sdk.SharedChanges, _ *sdk.Record, list []sdk.FieldPart) []sdk.FieldPart {
			for _, p := range slices.Clone(list) {
				for i := range list {
					list[i].Removed = list[i].Removed || p.Removed && p.Element == list[i].Element && list[i].Version.Stamp < p.Version.Stamp
				}
			}
			return list
		})},
		{name: "remove-takes-unseen", does: "a remove takes every earlier add, seen or not", server: parts(sdk.AddWins, removeUnseen)},
		{name: "removes-leave-no-trace", does: "an element that was removed is forgotten, and comes back with an add that comes again", server: parts(sdk.AddWins, func(_ *sdk.SharedChanges, _ *sdk.Record, list []sdk.FieldPart) []sdk.FieldPart {
			return slices.DeleteFunc(list, func(p sdk.FieldPart) bool { return p.Removed })
		})},
		{name: "counter-part-reused", does: "every start of a device counts under one name", partID: func(d *device) sdk.PartID {
			return sdk.NewPartID(uint64(d.index) + 1) //nolint:gosec // not negative
		}},
		{name: "counter-adds-again", does: "what was added to a counter is added once more when it comes again", server: parts(sdk.Sum, addAgain)},
		{name: "counter-of-latest", does: "a counter is what its latest writer has added", server: parts(sdk.Sum, func(_ *sdk.SharedChanges, _ *sdk.Record, list []sdk.FieldPart) []sdk.FieldPart {
			return []sdk.FieldPart{slices.MaxFunc(list, func(a, b sdk.FieldPart) int { return a.Version.Compare(b.Version) })}
		})},
		{name: "value-tie-to-first", does: "of two equal values of a min or max field the first to come stands", server: func(s sdk.ModelServer) sdk.ModelServer { return firstOfEqual{s} }},
		{name: "snapshot-loses-elements", does: "a snapshot has of a set what its first writer added", onTake: func(d *device, a peersync.TakeRange) (peersync.Taken, error) {
			for i := range a.Page.Changes {
				for k := range a.Page.Changes[i].Batches {
					if b := &a.Page.Changes[i].Batches[k]; b.Model == meterModel && !a.Repair {
						*b = withoutUpdates(d.w, b, "words")
					}
				}
			}
			return d.pages.TakeRange(context.Background(), a)
		}},
	}
}

// partsServer is a model that keeps other parts of its sets or counters than it should.
type partsServer struct {
	sdk.ModelServer
	merge  sdk.Merge
	change func(*sdk.SharedChanges, *sdk.Record, []sdk.FieldPart) []sdk.FieldPart
}

func (s partsServer) ApplySharedChange(ctx context.Context, in sdk.SharedChanges) (sdk.SharedResult, error) {
	result, err := s.ModelServer.ApplySharedChange(ctx, in)
	for i := range result.Records {
		r := &result.Records[i]
		for k := range r.Fields {
			if f := &r.Fields[k]; mergeOf(in.Batch.Model, f.Name) == s.merge {
				list, err := f.Parts()
				if err != nil {
					return result, err
				}
				if len(list) > 0 {
					f.SetParts(s.merge, s.change(&in, r, list))
				}
			}
		}
	}
	return result, err
}

// eachWrite calls fn with the parts of every write to a column of a record.
func eachWrite(in *sdk.SharedChanges, id sdk.RecordID, column string, fn func(sdk.Version, []sdk.FieldPart)) {
	for op := range in.Batch.Ops() { //nolint:errcheck // the real code looks at it
		for _, f := range op.Fields {
			at := sdk.Version{Stamp: op.Stamp, Device: in.Origin}
			if name, merge := sdk.ParseColumn(in.Batch.Columns[f.Column]); op.ID == id && name == column {
				if list, err := sdk.OpParts(merge, at, f.Value); err == nil {
					fn(at, list)
				}
			}
		}
	}
}

func removeUnseen(in *sdk.SharedChanges, r *sdk.Record, list []sdk.FieldPart) []sdk.FieldPart {
	eachWrite(in, r.ID, "words", func(at sdk.Version, write []sdk.FieldPart) {
		for _, p := range write {
			for i := range list {
				list[i].Removed = list[i].Removed || p.Removed && p.Element == list[i].Element && list[i].Version.Stamp < at.Stamp
			}
		}
	})
	return list
}

func addAgain(in *sdk.SharedChanges, r *sdk.Record, list []sdk.FieldPart) []sdk.FieldPart {
	at := slices.IndexFunc(in.Current, func(current sdk.Record) bool { return current.ID == r.ID })
	if in.Local || at < 0 {
		return list
	}
	var before []sdk.FieldPart
	for i := range in.Current[at].Fields {
		if f := &in.Current[at].Fields[i]; f.Name == "count" {
			before, _ = f.Parts()
		}
	}
	eachWrite(in, r.ID, "count", func(_ sdk.Version, write []sdk.FieldPart) {
		for i := range list {
			if slices.Contains(before, write[0]) && list[i].Part == write[0].Part {
				list[i].Total += write[0].Total
			}
		}
	})
	return list
}

// firstOfEqual keeps the version of a value that comes again from somebody else.
type firstOfEqual struct{ sdk.ModelServer }

func (s firstOfEqual) ApplySharedChange(ctx context.Context, in sdk.SharedChanges) (sdk.SharedResult, error) {
	result, err := s.ModelServer.ApplySharedChange(ctx, in)
	for i := range result.Records {
		r := &result.Records[i]
		at := slices.IndexFunc(in.Current, func(current sdk.Record) bool { return current.ID == r.ID })
		for k := range r.Fields {
			f := &r.Fields[k]
			if merge := mergeOf(in.Batch.Model, f.Name); at < 0 || merge != sdk.Max && merge != sdk.Min {
				continue
			}
			for _, before := range in.Current[at].Fields {
				if before.Name == f.Name && before.Value == f.Value {
					*f = before
				}
			}
		}
	}
	return result, err
}

// withoutUpdates returns a batch in which no update has a column.
func withoutUpdates(w *world, b *sdk.Batch, column string) sdk.Batch {
	out := *b
	out.Rows = nil
	for op, err := range b.Ops() {
		w.check(err, "a seeded bug")
		fields := slices.DeleteFunc(slices.Clone(op.Fields), func(f sdk.OpField) bool {
			name, _ := sdk.ParseColumn(b.Columns[f.Column])
			return op.Kind == sdk.Update && name == column
		})
		out.Rows = sdk.AppendOpHeader(out.Rows, op.ID, op.Stamp, op.Kind, len(fields))
		for _, f := range fields {
			out.Rows = sdk.AppendOpField(out.Rows, f.Column, sdk.Packed(f.Value), f.Seen)
		}
	}
	return out
}
