package sdktest

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/sdk"
)

// ModelOption changes what Model does.
type ModelOption func(*modelSuite)

// FieldValues names values of a field that the model accepts from a local writer. A field without any is given values
// of its type that say little, which a model that validates may well refuse.
func FieldValues(field string, values ...any) ModelOption {
	return func(s *modelSuite) { s.accepted[field] = values }
}

// Model runs the laws of models against server, one a subtest. Histories are random, made from the description.
func Model(t *testing.T, server sdk.ModelServer, options ...ModelOption) {
	t.Helper()
	checks, err := ModelChecks(t.Context(), server, options...)
	if err != nil {
		t.Fatal(err)
	}
	Test(t, checks)
}

// ModelChecks returns the checks of those laws of models that are about a model like server.
func ModelChecks(ctx context.Context, server sdk.ModelServer, options ...ModelOption) ([]Check, error) {
	s := &modelSuite{server: server, accepted: map[string][]any{}}
	for _, option := range options {
		option(s)
	}
	var err error
	if s.desc, err = server.Describe(ctx); err != nil {
		return nil, fmt.Errorf("describe: %w", err)
	}
	for field := range s.accepted {
		if _, known := s.desc.Field(field); !known {
			return nil, fmt.Errorf("values for the field %q: %s has no such field", field, s.desc.Model)
		}
	}
	var checks []Check
	for _, law := range modelLaws() {
		of := *s
		of.kind = law.kind
		if law.about(&of) {
			checks = append(checks, Check{Law: law.Law, Run: func(t T) { law.check(&of, t) }})
		}
	}
	return checks, nil
}

func (s *modelSuite) description(t T) {
	CheckDescription(t, s.desc)
	again, err := s.server.Describe(t.Context())
	if err != nil {
		t.Fatalf("describe again: %v", err)
	}
	if diff := cmp.Diff(s.desc, again); diff != "" {
		t.Errorf("two descriptions differ (-first +second):\n%s", diff)
	}
}

// CheckDescription fails the test for each mistake that a host would refuse, and for what a person would miss.
func CheckDescription(tb errorer, desc sdk.Description) {
	tb.Helper()
	if err := desc.Check(); err != nil {
		tb.Error(err)
	}
	for _, f := range desc.Fields {
		if strings.ContainsAny(f.Doc, "\n\r") {
			tb.Errorf("field %q: its doc has more than one line", f.Name)
		}
	}
}

// errorer is what every kind of test has.
type errorer interface {
	Helper()
	Error(args ...any)
	Errorf(format string, args ...any)
}

type modelSuite struct {
	server   sdk.ModelServer
	desc     sdk.Description
	kind     sdk.Ownership // of the records at hand: a hybrid model has both
	accepted map[string][]any
}

// values returns values of f to choose from: few, so that equal ones meet.
func (s *modelSuite) values(f *sdk.Field) []any {
	if inParts(f.Merge) {
		return partValues(f)
	}
	if s.desc.Ownership == sdk.HybridOwned && f.Key && !f.Required && f.Owner != (s.kind == sdk.DeviceOwned) {
		return []any{nil} // an owned record is told by its owner, a shared one by the rest of the key
	}
	if values := s.accepted[f.Name]; len(values) > 0 {
		return values
	}
	switch f.Type {
	case sdk.Text:
		return []any{"a", "b", "B", "a b", "", "\u00e9\u6f22\U0001f426", strings.Repeat("long ", 60)}
	case sdk.Int:
		return []any{int64(0), int64(1), int64(-1), int64(70_000), int64(math.MaxInt64), int64(math.MinInt64)}
	case sdk.Float:
		return []any{0.0, 1.5, -1.5, math.MaxFloat64, math.SmallestNonzeroFloat64}
	case sdk.Bool:
		return []any{false, true}
	case sdk.Bytes:
		return []any{[]byte{}, []byte{0}, []byte{0xff, 0xfe}, bytes.Repeat([]byte{7}, 300)}
	case sdk.Time:
		return []any{int64(0), int64(1_795_331_411_123_456), int64(-1)}
	case sdk.JSON:
		return []any{`1`, `{"a":[1,2]}`, `"x"`, `null`}
	case sdk.UUID:
		return []any{recordID(200), recordID(201), recordID(202)}
	}
	return []any{nil}
}

// draw returns a value of f for a write of version at, now and then nil where that is allowed.
func (s *modelSuite) draw(rt *rapid.T, f *sdk.Field, at sdk.Version) any {
	if inParts(f.Merge) {
		return drawParts(rt, f, at)
	}
	values := s.values(f)
	if !f.Required && !f.Key {
		values = append(slices.Clip(values), nil)
	}
	return rapid.SampledFrom(values).Draw(rt, f.Name)
}

// plain returns the first value of each field: a record that a local writer may write.
func (s *modelSuite) plain() map[string]any {
	record := map[string]any{}
	for i := range s.desc.Fields {
		record[s.desc.Fields[i].Name] = s.values(&s.desc.Fields[i])[0]
	}
	return record
}

// keys returns the values of record's natural key, and whether the model has one.
func (s *modelSuite) keys(record map[string]any) (values []any, keyed bool) {
	for i := range s.desc.Fields {
		if f := &s.desc.Fields[i]; f.Key {
			values = append(values, record[f.Name])
		}
	}
	return values, len(values) > 0
}

// id returns the id of record: that of its natural key, or the nth.
func (s *modelSuite) id(record map[string]any, n byte) sdk.RecordID {
	if values, keyed := s.keys(record); keyed {
		return sdk.KeyID(s.desc.Model, values...)
	}
	return recordID(n)
}

func (s *modelSuite) columns() []string {
	columns := make([]string, len(s.desc.Fields))
	for i := range s.desc.Fields {
		columns[i] = s.desc.Fields[i].Name
	}
	return columns
}

func recordID(n byte) sdk.RecordID {
	return sdk.RecordID{0x01, 0x92, 0xf3, 0xc0, 0x6f, 0x3e, 0x7c, 0xc1, 0xa3, 0x6b, 0x5d, 0x0d, 0x5b, 0x6f, 0x3a, n}
}

func deviceID(n byte) sdk.DeviceID {
	return sdk.DeviceID{0xd0, 0, 0, 0, 0, 0, 0x80, 0, 0x80, 0, 0, 0, 0, 0, 0, n}
}

// unknownColumn is a field of a newer schema. No description has it: it has the greatest length of a name.
const unknownColumn = "zz_a_field_of_a_newer_schema_that_no_model_has_x"

// badValue is a packed value that no device may store in a field.
type badValue struct {
	name   string
	packed []byte
}

// badValues returns what must be refused for f.
func badValues(f *sdk.Field) []badValue {
	if inParts(f.Merge) {
		return badParts(f)
	}
	pack := func(v any) []byte { return sdk.AppendValue(nil, v) }
	bad := []badValue{{"Map", []byte{0x81, 0xa1, 'a', 0x01}}, {"List", []byte{0x91, 0x01}}}
	if f.Type != sdk.Text && f.Type != sdk.JSON {
		bad = append(bad, badValue{"Text", pack("text")})
	} else {
		bad = append(bad, badValue{"NUL", pack("a\x00b")}, badValue{"InvalidUTF8", pack("a\xffb")}, badValue{"Int", pack(int64(3))})
	}
	switch f.Type {
	case sdk.JSON:
		bad = append(bad, badValue{"NotJSON", pack(`{"a":`)})
	case sdk.Float:
		bad = append(bad, badValue{"NaN", pack(math.NaN())}, badValue{"Inf", pack(math.Inf(1))})
	case sdk.UUID:
		bad = append(bad, badValue{"ShortID", pack([]byte{1, 2, 3})})
	case sdk.Int, sdk.Time:
		bad = append(bad, badValue{"TooGreat", []byte{0xcf, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}})
	}
	if f.Type != sdk.Bool {
		bad = append(bad, badValue{"Bool", pack(true)})
	}
	return bad
}

// wantRefused returns what is wrong with refusals of which exactly one, at index, with one of codes, is expected.
func wantRefused(got []sdk.Refusal, index int, codes ...sdk.Code) error {
	switch {
	case len(got) != 1 || got[0].Index != index:
		return fmt.Errorf("want a refusal of change %d alone, got %+v", index, got)
	case !slices.Contains(codes, got[0].Code):
		return fmt.Errorf("want code %v, got %q: %s", codes, got[0].Code, got[0].Message)
	case got[0].Message == "":
		return fmt.Errorf("change %d was refused without a reason", index)
	}
	return nil
}

// PlainBatch returns a batch of rows valid changes of the model that desc describes, each with a column of a newer schema
// that holds so many bytes: rows of a device-owned model, updates of a shared one.
func PlainBatch(desc sdk.Description, rows, bytes int) sdk.Batch {
	s := &modelSuite{desc: desc}
	filler := make([]byte, bytes)
	record := s.plain()
	if s.deviceOwned() {
		batch := s.rows(append(s.columns(), unknownColumn)...)
		for i := range rows {
			batch.add(s.id(record, byte(i)), record, map[string][]byte{unknownColumn: sdk.AppendValue(nil, filler)}) //nolint:gosec // a few
		}
		return batch.Batch
	}
	ops := make([]operation, rows)
	for i := range ops {
		ops[i] = operation{
			id: s.id(record, byte(i)), kind: sdk.Update, at: sdk.Version{Stamp: hlc.Stamp(i + 1), Device: deviceID(1)}, //nolint:gosec // a few
			writes: []write{{field: unknownColumn, value: filler}},
		}
	}
	return s.pack(ops...)
}
