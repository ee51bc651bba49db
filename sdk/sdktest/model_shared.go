package sdktest

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/sdk"
)

// fataler is what T and *rapid.T have in common.
type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
	Context() context.Context
}

// operation is one shared operation, unpacked.
type operation struct {
	id     sdk.RecordID
	kind   sdk.OpKind
	at     sdk.Version
	writes []write
}

type write struct {
	field string
	value any
	seen  hlc.Stamp
}

func (o operation) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s by %x at %d", o.kind, o.id.String()[34:], o.at.Device[15], o.at.Stamp)
	for _, w := range o.writes {
		fmt.Fprintf(&b, " %s=%.20q(saw %d)", w.field, describeParts(w.value), w.seen)
	}
	return b.String()
}

// pack returns the operations, all of one origin, as a batch.
func (s *modelSuite) pack(ops ...operation) sdk.Batch {
	b := sdk.Batch{Model: s.desc.Model, Version: s.desc.Version, Columns: append(s.columns(), unknownColumn), Count: len(ops)}
	for _, op := range ops {
		b.Rows = sdk.AppendOpHeader(b.Rows, op.id, op.at.Stamp, op.kind, len(op.writes))
		for _, w := range op.writes {
			b.Rows = sdk.AppendOpField(b.Rows, slices.Index(b.Columns, w.field), w.value, w.seen)
		}
	}
	return b
}

// replica is a device's store of one shared model.
type replica struct {
	suite   *modelSuite
	records map[sdk.RecordID]sdk.Record
	journal map[string]any // conflicts that stand: what lost
}

func (s *modelSuite) replica() *replica {
	return &replica{suite: s, records: map[sdk.RecordID]sdk.Record{}, journal: map[string]any{}}
}

func journalKey(c *sdk.Conflict) string { return fmt.Sprintf("%s %s %d", c.ID, c.Field, c.Lost.Stamp) }

// apply applies the operations, all of one origin, in one call, and stores what it returns.
func (r *replica) apply(t fataler, local bool, ops ...operation) sdk.SharedResult {
	t.Helper()
	return r.applyBatch(t, local, ops[0].at.Device, r.suite.pack(ops...))
}

func (r *replica) applyBatch(t fataler, local bool, origin sdk.DeviceID, batch sdk.Batch) sdk.SharedResult {
	t.Helper()
	in := sdk.SharedChanges{Batch: batch, Origin: origin, Local: local}
	for op, err := range batch.Ops() {
		if record, known := r.records[op.ID]; err == nil && known &&
			!slices.ContainsFunc(in.Current, func(c sdk.Record) bool { return c.ID == op.ID }) {
			in.Current = append(in.Current, record)
		}
	}
	result, err := r.suite.server.ApplySharedChange(t.Context(), in)
	if err != nil {
		t.Fatalf("apply: %v", err)
	}
	for i, record := range result.Records {
		if !slices.IsSortedFunc(record.Fields, func(a, b sdk.FieldState) int { return strings.Compare(a.Name, b.Name) }) {
			t.Fatalf("the fields of a merged record are not sorted by name: %+v", record)
		}
		if slices.ContainsFunc(result.Records[:i], func(e sdk.Record) bool { return e.ID == record.ID }) {
			t.Fatalf("record %s was returned twice", record.ID)
		}
		r.records[record.ID] = record
	}
	for i := range result.Conflicts {
		r.journal[journalKey(&result.Conflicts[i])] = result.Conflicts[i].Value
	}
	for i := range result.Resolved {
		delete(r.journal, journalKey(&result.Resolved[i]))
	}
	return result
}

// replay applies each operation in a call of its own.
func (r *replica) replay(t fataler, ops []operation) *replica {
	t.Helper()
	for _, op := range ops {
		if result := r.apply(t, false, op); len(result.Refused) > 0 {
			t.Fatalf("%s: a valid remote operation was refused: %+v", op, result.Refused)
		}
	}
	return r
}

// history draws operations of three devices on three records: stamps that tie between devices, deletes, inserts of
// what was deleted, updates of what was never inserted.
func (s *modelSuite) history(rt *rapid.T) []operation {
	bases := make([]map[string]any, 3)
	for i := range bases {
		bases[i] = map[string]any{}
		for f := range s.desc.Fields {
			if field := &s.desc.Fields[f]; field.Key {
				bases[i][field.Name] = s.draw(rt, field, sdk.Version{})
			}
		}
	}
	var ops []operation
	stamps := map[byte]hlc.Stamp{}
	for range rapid.IntRange(1, 14).Draw(rt, "operations") {
		device := rapid.ByteRange(1, 3).Draw(rt, "device")
		stamps[device] += hlc.Stamp(rapid.Uint64Range(1, 2).Draw(rt, "step"))
		which := rapid.IntRange(0, 2).Draw(rt, "record")
		op := operation{
			id:   s.id(bases[which], byte(which)), //nolint:gosec // small
			kind: rapid.SampledFrom([]sdk.OpKind{sdk.Insert, sdk.Update, sdk.Update, sdk.Delete}).Draw(rt, "kind"),
			at:   sdk.Version{Stamp: stamps[device], Device: deviceID(device)},
		}
		for f := range s.desc.Fields {
			field := &s.desc.Fields[f]
			switch {
			case op.kind == sdk.Insert && field.Key:
				op.writes = append(op.writes, write{field: field.Name, value: bases[which][field.Name]})
			case op.kind != sdk.Delete && !field.Key && rapid.Bool().Draw(rt, "write"):
				seen := hlc.Stamp(rapid.Uint64Range(0, uint64(op.at.Stamp-1)).Draw(rt, "seen"))
				op.writes = append(op.writes, write{field: field.Name, value: s.draw(rt, field, op.at), seen: seen})
			}
		}
		ops = append(ops, op)
	}
	return ops
}

// interleave returns ops in another order: shuffled, or only between origins.
func interleave(rt *rapid.T, ops []operation) []operation {
	shuffled := rapid.Permutation(ops).Draw(rt, "order")
	if !rapid.Bool().Draw(rt, "origins in order") {
		return shuffled
	}
	queues := map[sdk.DeviceID][]operation{}
	for _, op := range ops {
		queues[op.at.Device] = append(queues[op.at.Device], op)
	}
	ordered := make([]operation, len(ops))
	for i, op := range shuffled {
		queue := queues[op.at.Device]
		ordered[i], queues[op.at.Device] = queue[0], queue[1:]
	}
	return ordered
}

// mustEqual fails unless r, to which ops were applied in their order, holds what is wanted.
func (r *replica) mustEqual(rt *rapid.T, what string, ops []operation, want map[sdk.RecordID]sdk.Record) {
	rt.Helper()
	if diff := cmp.Diff(want, r.records); diff != "" {
		rt.Fatalf("%s:\n%s%s", what, lines(ops), differences(want, r.records, diff))
	}
}

// differences returns the records that differ to read, one a line; diff if they read alike.
func differences(want, got map[sdk.RecordID]sdk.Record, diff string) string {
	all := maps.Clone(want)
	maps.Copy(all, got)
	var b strings.Builder
	for _, id := range sortedIDs(all) {
		wanted, isWanted := want[id]
		found, isFound := got[id]
		if one, other := readable(&wanted, isWanted), readable(&found, isFound); one != other {
			fmt.Fprintf(&b, "want  %s  %s\ngot   %s  %s\n", id.String()[34:], one, id.String()[34:], other)
		}
	}
	if b.Len() == 0 {
		return "(-want +got):\n" + diff
	}
	return b.String()
}

func readable(r *sdk.Record, known bool) string {
	if !known {
		return "no record"
	}
	at := func(v sdk.Version) string {
		if v.IsZero() {
			return "never"
		}
		return fmt.Sprintf("by %x at %d", v.Device[15], v.Stamp)
	}
	text := "inserted " + at(r.Inserted) + ", deleted " + at(r.Deleted)
	for _, f := range r.Fields {
		text += fmt.Sprintf(", %s=%.40q %T %s (saw %d)", f.Name, fmt.Sprint(f.Value), f.Value, at(f.Version), f.Seen)
	}
	return text
}

// lines returns a history to read: one operation a line.
func lines(ops []operation) string {
	var b strings.Builder
	for _, op := range ops {
		fmt.Fprintf(&b, "  %s\n", op)
	}
	return b.String()
}

func (s *modelSuite) sharedReference(t T) {
	random(t, func(rt *rapid.T) {
		ops := s.history(rt)
		arrived := interleave(rt, ops)
		got := s.replica().replay(rt, arrived)
		got.mustEqual(rt, "these operations, in this order, merge to something else than in the order of their versions", arrived, s.reference(rt, ops))
	})
}

func (s *modelSuite) sharedIdempotent(t T) {
	random(t, func(rt *rapid.T) {
		ops := s.history(rt)
		r := s.replica().replay(rt, ops)
		for _, op := range interleave(rt, ops) {
			if result := r.apply(rt, false, op); len(result.Records) > 0 {
				rt.Fatalf("%s: applied again, after all of\n%sit changed the record to %s", op, lines(ops), readable(&result.Records[0], true))
			}
		}
	})
}

func (s *modelSuite) sharedCommutative(t T) {
	random(t, func(rt *rapid.T) {
		ops := s.history(rt)
		one := s.replica().replay(rt, interleave(rt, ops))
		again := interleave(rt, slices.Concat(ops, ops)) // repetitions among them
		other := s.replica().replay(rt, again)
		other.mustEqual(rt, "these operations, in this order, merge to something else than in another", again, one.records)
	})
}

func (s *modelSuite) sharedAssociative(t T) {
	random(t, func(rt *rapid.T) {
		ops := s.history(rt)
		slices.SortStableFunc(ops, func(a, b operation) int { return a.at.Device.Compare(b.at.Device) })
		one, all := s.replica().replay(rt, ops), ops
		grouped := s.replica()
		for len(ops) > 0 {
			origin := slices.IndexFunc(ops, func(o operation) bool { return o.at.Device != ops[0].at.Device })
			if origin < 0 {
				origin = len(ops)
			}
			n := rapid.IntRange(1, origin).Draw(rt, "batch")
			if result := grouped.apply(rt, false, ops[:n]...); len(result.Refused) > 0 {
				rt.Fatalf("a batch of valid operations: refused %+v", result.Refused)
			}
			ops = ops[n:]
		}
		grouped.mustEqual(rt, "these operations, in batches, merge to something else than one by one", all, one.records)
	})
}

func (s *modelSuite) sharedInput(t T) {
	random(t, func(rt *rapid.T) {
		ops := s.history(rt)
		r := s.replica().replay(rt, ops[:len(ops)-1])
		batch := s.pack(ops[len(ops)-1])
		in := sdk.SharedChanges{Batch: batch, Origin: ops[len(ops)-1].at.Device}
		var before []sdk.Record
		for _, id := range sortedIDs(r.records) {
			in.Current = append(in.Current, r.records[id])
			before = append(before, copyRecord(r.records[id]))
		}
		rowsBefore := bytes.Clone(batch.Rows)
		first, err := s.server.ApplySharedChange(rt.Context(), in)
		if err != nil {
			rt.Fatalf("apply: %v", err)
		}
		second, err := s.server.ApplySharedChange(rt.Context(), in)
		if err != nil {
			rt.Fatalf("apply: %v", err)
		}
		if diff := cmp.Diff(first, second); diff != "" {
			rt.Fatalf("the same call was answered in two ways (-first +second):\n%s", diff)
		}
		if diff := cmp.Diff(before, in.Current); diff != "" || !bytes.Equal(rowsBefore, batch.Rows) {
			rt.Fatalf("the call changed what belongs to its caller (-before +after):\n%s", diff)
		}
	})
}

func copyRecord(r sdk.Record) sdk.Record {
	r.Fields = slices.Clone(r.Fields)
	for i, f := range r.Fields {
		if b, isBytes := f.Value.([]byte); isBytes {
			r.Fields[i].Value = append([]byte{}, b...)
		}
		r.Fields[i].State = bytes.Clone(f.State)
	}
	return r
}

func sortedIDs(records map[sdk.RecordID]sdk.Record) []sdk.RecordID {
	ids := make([]sdk.RecordID, 0, len(records))
	for id := range records {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, sdk.RecordID.Compare)
	return ids
}

// reference merges in the dumbest way: it keeps all operations, sorts them, and replays.
func (s *modelSuite) reference(t fataler, ops []operation) map[sdk.RecordID]sdk.Record {
	ops = slices.Clone(ops)
	slices.SortFunc(ops, func(a, b operation) int { return a.at.Compare(b.at) })
	records := map[sdk.RecordID]sdk.Record{}
	fields := map[sdk.RecordID]map[string]sdk.FieldState{}
	for _, op := range ops {
		if len(op.writes) == 0 && op.kind == sdk.Update {
			continue // says nothing
		}
		record := records[op.id]
		record.ID = op.id
		switch op.kind {
		case sdk.Insert:
			record.Inserted = op.at
		case sdk.Delete:
			record.Deleted = op.at
		}
		records[op.id] = record
		if fields[op.id] == nil {
			fields[op.id] = map[string]sdk.FieldState{}
		}
		for _, w := range op.writes {
			old, written := fields[op.id][w.field]
			if field, _ := s.desc.Field(w.field); inParts(field.Merge) {
				fields[op.id][w.field] = mergeParts(t, field.Merge, old, w, op.at)
				continue
			}
			if field, _ := s.desc.Field(w.field); !written || replaces(field.Merge, old.Value, w.value) {
				fields[op.id][w.field] = sdk.FieldState{Name: w.field, Value: w.value, Version: op.at, Seen: w.seen}
			}
		}
	}
	for id, states := range fields {
		record := records[id]
		for _, f := range states {
			record.Fields = append(record.Fields, f)
		}
		slices.SortFunc(record.Fields, func(a, b sdk.FieldState) int { return strings.Compare(a.Name, b.Name) })
		records[id] = record
	}
	return records
}

// replaces reports whether a later write of a value takes the place of old. Packed integers do not sort as numbers do,
// so each type is compared by itself.
func replaces(merge sdk.Merge, old, value any) bool {
	if merge != sdk.Max && merge != sdk.Min {
		return true
	}
	if old == nil || value == nil {
		return old == nil
	}
	var less, greater bool
	switch value := value.(type) {
	case int64:
		less, greater = value < old.(int64), value > old.(int64)
	case float64:
		less, greater = value < old.(float64), value > old.(float64)
	case string:
		less, greater = value < old.(string), value > old.(string)
	case []byte:
		order := bytes.Compare(value, old.([]byte))
		less, greater = order < 0, order > 0
	default: // false sorts before true, packed too
		order := bytes.Compare(sdk.AppendValue(nil, value), sdk.AppendValue(nil, old))
		less, greater = order < 0, order > 0
	}
	if merge == sdk.Max {
		return !less
	}
	return !greater
}
