package sdktest

import (
	"bytes"
	"slices"
	"strings"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/sdk"
)

// rows is a batch under way.
type rows struct{ sdk.Batch }

func (s *modelSuite) rows(columns ...string) *rows {
	return &rows{sdk.Batch{Model: s.desc.Model, Version: s.desc.Version, Columns: columns}}
}

// add appends a row; packed values take the place of those in record.
func (r *rows) add(id sdk.RecordID, record map[string]any, packed map[string][]byte) {
	r.Count++
	r.Rows = sdk.AppendStateHeader(r.Rows, id, hlc.Stamp(r.Count), len(r.Columns)) //nolint:gosec // small
	for _, name := range r.Columns {
		if p, given := packed[name]; given {
			r.Rows = append(r.Rows, p...)
		} else {
			r.Rows = sdk.AppendValue(r.Rows, record[name])
		}
	}
}

func (r *rows) delete(id sdk.RecordID) {
	r.Count++
	r.Rows = sdk.AppendStateHeader(r.Rows, id, hlc.Stamp(r.Count), -1) //nolint:gosec // small
}

func (s *modelSuite) applyState(t fataler, batch sdk.Batch, local bool) sdk.StateResult {
	t.Helper()
	result, err := s.server.ApplyStateChange(t.Context(), sdk.StateChanges{Batch: batch, Origin: deviceID(1), Local: local})
	if err != nil {
		t.Fatalf("apply: %v", err)
	}
	return result
}

func (s *modelSuite) stateTwice(t T) {
	random(t, func(rt *rapid.T) {
		batch := s.rows(s.columns()...)
		for i := range rapid.IntRange(1, 20).Draw(rt, "rows") {
			record := map[string]any{}
			for f := range s.desc.Fields {
				record[s.desc.Fields[f].Name] = s.draw(rt, &s.desc.Fields[f], sdk.Version{})
			}
			id := s.id(record, byte(i)) //nolint:gosec // small
			if rapid.IntRange(0, 4).Draw(rt, "delete") == 0 {
				batch.delete(id)
			} else {
				batch.add(id, record, nil)
			}
		}
		given := bytes.Clone(batch.Rows)
		first := s.applyState(rt, batch.Batch, false)
		if len(first.Refused) > 0 {
			rt.Fatalf("a remote batch of valid rows: refused %+v", first.Refused)
		}
		if !bytes.Equal(batch.Rows, given) {
			rt.Fatal("the batch, which belongs to the caller, was changed")
		}
		if diff := cmp.Diff(first, s.applyState(rt, batch.Batch, false)); diff != "" {
			rt.Fatalf("the same batch was decided in two ways (-first +second):\n%s", diff)
		}
		if first.Rows == nil {
			return
		}
		stored := batch.Batch
		stored.Rows = first.Rows
		if again := s.applyState(rt, stored, false); again.Rows != nil && !bytes.Equal(again.Rows, first.Rows) {
			rt.Fatal("rows as decided are changed when decided again")
		}
	})
}

// three returns a batch whose middle row has the packed values, between two plain ones.
func (s *modelSuite) three(columns []string, packed map[string][]byte) sdk.Batch {
	batch, record := s.rows(columns...), s.plain()
	batch.add(s.id(record, 1), record, nil)
	batch.add(s.id(record, 2), record, packed)
	batch.add(s.id(record, 3), record, nil)
	return batch.Batch
}

func (s *modelSuite) stateLocal(t T) {
	if result := s.applyState(t, s.three(s.columns(), nil), true); len(result.Refused) > 0 {
		t.Errorf("a plain local record was refused (%s: %s); %s", result.Refused[0].Code, result.Refused[0].Message, nameValues)
	}
}

// nameValues says what to do about a model that validates.
const nameValues = "name values that the model accepts: with sdktest.FieldValues in a test, with --record on the command line"

// writable reports whether a plain record can be written here: MODEL-011. Without one, nothing can be said of local rows.
func (s *modelSuite) writable(t T) bool {
	return len(s.applyState(t, s.three(s.columns(), nil), true).Refused) == 0
}

func (s *modelSuite) stateRequired(t T) {
	if !s.writable(t) {
		t.Skip("a plain record can not be written: see MODEL-011")
	}
	for _, f := range s.desc.Fields {
		if !f.Required {
			continue
		}
		t.Run(f.Name, func(t T) {
			batch := s.three(s.columns(), map[string][]byte{f.Name: sdk.AppendValue(nil, nil)})
			if err := wantRefused(s.applyState(t, batch, true).Refused, 1, sdk.CodeInvalid); err != nil {
				t.Error(err)
			}
		})
	}
}

func (s *modelSuite) stateUnknown(t T) {
	columns := append(s.columns(), unknownColumn)
	kept := sdk.AppendValue(nil, "kept")
	batch := s.three(columns, map[string][]byte{unknownColumn: kept})
	result := s.applyState(t, batch, false)
	if len(result.Refused) > 0 {
		t.Fatalf("rows of a newer schema were refused: %+v", result.Refused)
	}
	if result.Rows != nil && !bytes.Contains(result.Rows, kept) {
		t.Error("a value of a newer schema was dropped")
	}
	local := s.applyState(t, batch, true)
	if len(local.Refused) != 3 || local.Refused[0].Code != sdk.CodeUnknownField {
		t.Errorf("local rows with an unknown field: want three refusals with code %q, got %+v", sdk.CodeUnknownField, local.Refused)
	}
}

func (s *modelSuite) stateOlder(t T) {
	var columns []string
	for _, f := range s.desc.Fields {
		if f.Key || len(columns) == 0 {
			columns = append(columns, f.Name)
		}
	}
	if result := s.applyState(t, s.three(columns, nil), false); len(result.Refused) > 0 {
		t.Errorf("rows of an older schema, with columns %v, were refused: %+v", columns, result.Refused)
	}
}

func (s *modelSuite) stateBad(t T) {
	localities := []bool{false}
	if s.writable(t) {
		localities = append(localities, true)
	}
	for i := range s.desc.Fields {
		f := &s.desc.Fields[i]
		for _, bad := range badValues(f) {
			t.Run(f.Name+"/"+bad.name, func(t T) {
				for _, local := range localities {
					got := s.applyState(t, s.three(s.columns(), map[string][]byte{f.Name: bad.packed}), local).Refused
					if err := wantRefused(got, 1, sdk.CodeInvalid); err != nil {
						t.Errorf("local %v: %v", local, err)
					} else if !strings.Contains(got[0].Message, f.Name) {
						t.Errorf("local %v: the reason does not name the field: %s", local, got[0].Message)
					}
				}
			})
		}
	}
}

func (s *modelSuite) stateOversize(t T) {
	columns := append(s.columns(), unknownColumn)
	batch := s.three(columns, map[string][]byte{unknownColumn: sdk.AppendValue(nil, make([]byte, sdk.MaxRecordBytes))})
	if err := wantRefused(s.applyState(t, batch, false).Refused, 1, sdk.CodeTooLarge); err != nil {
		t.Error(err)
	}
}

func (s *modelSuite) stateOtherModel(t T) {
	batch := s.three(s.columns(), nil)
	batch.Model = "another_model"
	if _, err := s.server.ApplyStateChange(t.Context(), sdk.StateChanges{Batch: batch}); err == nil {
		t.Error("a batch of another model was taken")
	}
}

func (s *modelSuite) stateKey(t T) {
	batch, record := s.rows(s.columns()...), s.plain()
	batch.add(s.id(record, 0), record, nil)
	batch.add(recordID(99), record, nil)
	for _, local := range []bool{false, true} {
		if err := wantRefused(s.applyState(t, batch.Batch, local).Refused, 1, sdk.CodeInvalid); err != nil {
			t.Errorf("local %v: %v", local, err)
		}
	}
	var columns []string
	for _, f := range s.desc.Fields {
		if !f.Key {
			columns = append(columns, f.Name)
		}
	}
	if len(columns) == 0 {
		return
	}
	headless := s.rows(columns...)
	headless.add(s.id(record, 0), record, nil)
	got := s.applyState(t, headless.Batch, false).Refused
	if !slices.ContainsFunc(got, func(r sdk.Refusal) bool { return r.Code == sdk.CodeInvalid }) {
		t.Errorf("a row without its natural key: want a refusal, got %+v", got)
	}
}
