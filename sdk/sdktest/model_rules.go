package sdktest

import (
	"fmt"
	"slices"
	"strings"

	"github.com/google/go-cmp/cmp"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/sdk"
)

// insert returns an insert of a plain record, the nth, by device at stamp.
func (s *modelSuite) insert(n, device byte, stamp hlc.Stamp) operation {
	record := s.plain()
	op := operation{id: s.id(record, n), kind: sdk.Insert, at: sdk.Version{Stamp: stamp, Device: deviceID(device)}}
	for i := range s.desc.Fields {
		op.writes = append(op.writes, write{field: s.desc.Fields[i].Name, value: record[s.desc.Fields[i].Name]})
	}
	return op
}

// update returns an update of the plain record 1.
func (s *modelSuite) update(device byte, stamp hlc.Stamp, writes ...write) operation {
	return operation{id: s.id(s.plain(), 1), kind: sdk.Update, at: sdk.Version{Stamp: stamp, Device: deviceID(device)}, writes: writes}
}

func (s *modelSuite) remove(device byte, stamp hlc.Stamp) operation {
	op := s.update(device, stamp)
	op.kind = sdk.Delete
	return op
}

// free returns an lww field outside of the key that has at least three values, and three of them.
func (s *modelSuite) free(t T) (string, []any) {
	t.Helper()
	for i := range s.desc.Fields {
		f := &s.desc.Fields[i]
		if values := s.values(f); !f.Key && (f.Merge == "" || f.Merge == sdk.LWW) && len(values) >= 3 {
			return f.Name, values[:3]
		}
	}
	t.Skip("the model has no lww field with three values outside of its natural key")
	return "", nil
}

// orders calls f with every order of ops.
func orders(ops []operation, f func([]operation)) {
	var permute func(int)
	permute = func(k int) {
		if k == len(ops) {
			f(ops)
			return
		}
		for i := k; i < len(ops); i++ {
			ops[k], ops[i] = ops[i], ops[k]
			permute(k + 1)
			ops[k], ops[i] = ops[i], ops[k]
		}
	}
	permute(0)
}

func (r *replica) field(id sdk.RecordID, name string) any {
	for _, f := range r.records[id].Fields {
		if f.Name == name {
			return f.Value
		}
	}
	return nil
}

func (s *modelSuite) sharedTie(t T) {
	field, values := s.free(t)
	ops := []operation{
		s.update(1, 5, write{field: field, value: values[0]}),
		s.update(2, 5, write{field: field, value: values[1]}),
	}
	orders(ops, func(ops []operation) {
		r := s.replica().replay(t, ops)
		if diff := cmp.Diff(values[1], r.field(ops[0].id, field)); diff != "" {
			t.Errorf("order %v: of equal stamps the greater device wins (-want +got):\n%s", ops, diff)
		}
	})
}

func (s *modelSuite) sharedExistence(t T) {
	inserted, again := s.insert(1, 1, 1), s.insert(1, 2, 7)
	again.writes = slices.DeleteFunc(again.writes, func(w write) bool { f, _ := s.desc.Field(w.field); return !f.Key })
	updated := s.update(3, 5)
	for _, w := range inserted.writes {
		if f, _ := s.desc.Field(w.field); !f.Key {
			updated.writes = append(updated.writes, w)
		}
	}
	cases := []struct {
		name   string
		ops    []operation
		exists bool
	}{
		{"Insert", []operation{inserted}, true},
		{"Update", []operation{updated}, false},
		{"InsertDelete", []operation{inserted, s.remove(2, 3)}, false},
		{"DeleteBeforeInsert", []operation{again, s.remove(1, 3)}, true},
		{"TieOfDeleteByGreaterDevice", []operation{inserted, s.remove(2, 1)}, false},
		{"TieOfInsertByGreaterDevice", []operation{again, s.remove(1, 7)}, true},
		{"UpdateDoesNotBringBack", []operation{inserted, s.remove(2, 3), updated}, false},
		{"InsertBringsBack", []operation{inserted, s.remove(2, 3), updated, again}, true},
	}
	for _, c := range cases {
		t.Run(c.name, func(t T) {
			orders(c.ops, func(ops []operation) {
				r := s.replica().replay(t, ops)
				record := r.records[ops[0].id]
				if record.Exists() != c.exists {
					t.Errorf("order %v: want exists %v, got %+v", ops, c.exists, record)
				}
			})
		})
	}
}

func (s *modelSuite) sharedConflicts(t T) {
	field, v := s.free(t)
	first := s.update(1, 2, write{field: field, value: v[0]})
	unaware := s.update(2, 4, write{field: field, value: v[1]})
	aware := s.update(2, 4, write{field: field, value: v[1], seen: 2})
	third := s.update(3, 6, write{field: field, value: v[2], seen: 4})
	same := s.update(2, 4, write{field: field, value: v[0]})
	own := s.update(1, 4, write{field: field, value: v[1], seen: 2})
	copied := s.update(1, 4, write{field: field, value: v[1]}) // by a copy of the device, or after it was restored from one
	cases := []struct {
		name string
		ops  []operation
		lost []any // what the journal keeps, once all are applied
	}{
		{"Unaware", []operation{first, unaware}, []any{v[0]}},
		{"Aware", []operation{first, aware}, nil},
		{"AwareChain", []operation{first, aware, third}, nil}, // see below
		{"SameValue", []operation{first, same}, nil},
		{"OwnEarlierWrite", []operation{first, own}, nil},
		{"OwnUnseenWrite", []operation{first, copied}, []any{v[0]}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t T) {
			orders(c.ops, func(ops []operation) {
				if len(ops) == 3 && ops[2].at == first.at {
					return // who knew of it has been superseded before it came: it may be reported
				}
				r := s.replica().replay(t, ops)
				var lost []any
				for _, value := range r.journal {
					lost = append(lost, value)
				}
				if diff := cmp.Diff(c.lost, lost); diff != "" {
					t.Errorf("order %v: what lost to a write that had not seen it (-want +got):\n%s", ops, diff)
				}
			})
		})
	}
}

func (s *modelSuite) sharedLocal(t T) {
	r := s.replica()
	expect := func(what string, code sdk.Code, op operation) {
		t.Helper()
		var got sdk.Code
		result := r.apply(t, true, op)
		if len(result.Refused) > 0 {
			got = result.Refused[0].Code
		}
		switch {
		case got != code:
			t.Errorf("%s: want code %q, got %+v", what, code, result.Refused)
		case code != "" && (len(result.Records) > 0 || len(result.Conflicts) > 0):
			t.Errorf("%s: refused, and yet it changed something: %+v", what, result)
		}
	}
	expect("an update of nothing", sdk.CodeNotFound, s.update(1, 1))
	expect("a delete of nothing", sdk.CodeNotFound, s.remove(1, 2))
	for _, f := range s.desc.Fields {
		if f.Required {
			op := s.insert(1, 1, 3)
			op.writes = slices.DeleteFunc(op.writes, func(w write) bool { return w.field == f.Name })
			expect("an insert without "+f.Name, sdk.CodeInvalid, op)
		}
	}
	expect("a plain insert ("+nameValues+")", "", s.insert(1, 1, 4))
	if _, keyed := s.keys(s.plain()); keyed {
		expect("an insert again, with a natural key", "", s.insert(1, 1, 5))
	} else {
		expect("an insert again", sdk.CodeInvalid, s.insert(1, 1, 5))
	}
	expect("an update with an unknown field", sdk.CodeUnknownField, s.update(1, 6, write{field: unknownColumn, value: "x"}))
	for _, f := range s.desc.Fields {
		if f.Required && !f.Key {
			expect("an update that empties "+f.Name, sdk.CodeInvalid, s.update(1, 7, write{field: f.Name}))
		}
	}
	expect("a delete", "", s.remove(1, 8))
	expect("an update of what was deleted", sdk.CodeNotFound, s.update(1, 9))
	expect("an insert of what was deleted", "", s.insert(1, 1, 10))
}

func (s *modelSuite) sharedUnknown(t T) {
	for _, value := range []any{nil, "text", int64(-7), 1.5, true, []byte{1, 2}} {
		t.Run(fmt.Sprintf("%T", value), func(t T) {
			ops := []operation{
				s.insert(1, 1, 1),
				s.update(2, 3, write{field: unknownColumn, value: value}),
				s.update(1, 2, write{field: unknownColumn, value: "earlier"}),
			}
			orders(ops, func(ops []operation) {
				r := s.replica().replay(t, ops)
				if diff := cmp.Diff(value, r.field(ops[0].id, unknownColumn)); diff != "" {
					t.Errorf("order %v: a field of a newer schema (-want +got):\n%s", ops, diff)
				}
			})
		})
	}
}

// wantBad applies a batch whose second operation has the packed value in field, between two plain inserts.
func (s *modelSuite) wantBad(t T, field string, packed []byte, codes ...sdk.Code) {
	t.Helper()
	one, bad, three := s.insert(1, 1, 1), s.insert(2, 1, 2), s.insert(3, 1, 3)
	if _, keyed := s.keys(s.plain()); !keyed || field == unknownColumn {
		bad.writes = slices.DeleteFunc(bad.writes, func(w write) bool { f, _ := s.desc.Field(w.field); return !f.Key })
	}
	bad.writes = slices.DeleteFunc(bad.writes, func(w write) bool { return w.field == field })
	batch, rest := s.pack(one), s.pack(three)
	batch.Rows = sdk.AppendOpHeader(batch.Rows, bad.id, 2, sdk.Insert, len(bad.writes)+1)
	for _, w := range bad.writes {
		batch.Rows = sdk.AppendOpField(batch.Rows, slices.Index(batch.Columns, w.field), w.value, 0)
	}
	// A field of an operation is three packed values: column, value, seen.
	batch.Rows = sdk.AppendValue(batch.Rows, int64(slices.Index(batch.Columns, field)))
	batch.Rows = append(batch.Rows, packed...)
	batch.Rows = sdk.AppendValue(batch.Rows, int64(0))
	batch.Rows, batch.Count = append(batch.Rows, rest.Rows...), 3
	result := s.replica().applyBatch(t, false, deviceID(1), batch)
	if err := wantRefused(result.Refused, 1, codes...); err != nil {
		t.Error(err)
	} else if codes[0] == sdk.CodeInvalid && !strings.Contains(result.Refused[0].Message, field) {
		t.Errorf("the reason does not name the field: %s", result.Refused[0].Message)
	}
	if !slices.ContainsFunc(result.Records, func(r sdk.Record) bool { return r.ID == three.id }) {
		t.Error("the operation after the refused one was not merged")
	}
}

func (s *modelSuite) sharedBad(t T) {
	for i := range s.desc.Fields {
		f := &s.desc.Fields[i]
		for _, bad := range badValues(f) {
			t.Run(f.Name+"/"+bad.name, func(t T) { s.wantBad(t, f.Name, bad.packed, sdk.CodeInvalid) })
		}
	}
}

func (s *modelSuite) sharedOversize(t T) {
	s.wantBad(t, unknownColumn, sdk.AppendValue(nil, make([]byte, sdk.MaxRecordBytes)), sdk.CodeTooLarge)
}

func (s *modelSuite) sharedOtherModel(t T) {
	batch := s.pack(s.insert(1, 1, 1))
	batch.Model = "another_model"
	if _, err := s.server.ApplySharedChange(t.Context(), sdk.SharedChanges{Batch: batch, Origin: deviceID(1)}); err == nil {
		t.Error("a batch of another model was taken")
	}
}

func (s *modelSuite) sharedKey(t T) {
	forged := s.insert(1, 1, 1)
	forged.id = recordID(99)
	headless := s.insert(1, 1, 2)
	headless.writes = slices.DeleteFunc(headless.writes, func(w write) bool { f, _ := s.desc.Field(w.field); return f.Key })
	for _, local := range []bool{false, true} {
		for what, op := range map[string]operation{"an id that is not the key's": forged, "an insert without its key": headless} {
			if err := wantRefused(s.replica().apply(t, local, op).Refused, 0, sdk.CodeInvalid); err != nil {
				t.Errorf("%s, local %v: %v", what, local, err)
			}
		}
	}
}
