package sdk_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/sdk"
)

type link struct {
	sdk.Shared
	From sdk.Ref `starling:"from_id,ref=note,key"`
	Name string  `starling:"name,key"`
	Note string  `starling:"note"`
}

func links() sdk.Model[link] { return sdk.Model[link]{Name: "link", Version: 1} }

func TestPacker_Shared(t *testing.T) {
	packer, err := links().Packer()
	if err != nil {
		t.Fatal(err)
	}
	l := link{From: sdk.Ref(one), Name: "a", Note: "b"}
	packer.Put(&l)
	if want := sdk.KeyID("link", one, "a"); l.ID != want {
		t.Errorf("the id of the natural key: want %s, got %s", want, l.ID)
	}
	if err := packer.Update(&l, "note"); err != nil {
		t.Error(err)
	}
	if err := packer.Update(&l, "nte"); sdk.CodeOf(err) != sdk.CodeUnknownField || !strings.Contains(err.Error(), `did you mean "note"?`) {
		t.Errorf("an update of an unknown field: got %v", err)
	}
	packer.Delete(l.ID)
	batch := packer.Batch()
	var got []string
	for op, err := range batch.Ops() {
		if err != nil {
			t.Fatal(err)
		}
		text := op.Kind.String()
		for _, f := range op.Fields {
			text += " " + batch.Columns[f.Column]
		}
		got = append(got, text)
	}
	if diff := cmp.Diff([]string{"insert from_id name note", "update note", "delete"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	result := merge(t, links(), sdk.SharedChanges{Batch: batch, Origin: alice, Local: true})
	if len(result.Refused) > 0 || len(result.Records) != 1 || result.Records[0].Exists() {
		t.Errorf("what was packed: got %+v", result)
	}
	owned, err := entries().Packer()
	if err != nil {
		t.Fatal(err)
	}
	if err := owned.Update(&entry{}, "name"); sdk.CodeOf(err) != sdk.CodeUnsupported {
		t.Errorf("an update of a device-owned record: got %v", err)
	}
}

func TestBatch_StateRows(t *testing.T) {
	batch := sdk.Batch{Model: "m", Columns: []string{"a", "b"}, Count: 4}
	row := func(id byte, values ...any) {
		batch.Rows = sdk.AppendStateHeader(batch.Rows, sdk.RecordID{id}, hlc.Stamp(id), len(values))
		for _, v := range values {
			batch.Rows = sdk.AppendValue(batch.Rows, v)
		}
	}
	row(1, "x", int64(1))
	row(2, "one value for two columns")
	batch.Rows = sdk.AppendStateHeader(batch.Rows, sdk.RecordID{3}, 3, -1)
	row(4, strings.Repeat("x", sdk.MaxRecordBytes), nil)
	var got []string
	for row, err := range batch.StateRows() {
		got = append(got, fmt.Sprintf("%d %v %s", row.ID[0], row.Deleted, sdk.CodeOf(err)))
	}
	if diff := cmp.Diff([]string{"1 false ", "0 false invalid", "3 true ", "4 false too_large"}, stripMalformed(got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// stripMalformed leaves out what a malformed row's other fields hold, which is not promised.
func stripMalformed(rows []string) []string {
	for i, row := range rows {
		if strings.HasSuffix(row, " invalid") {
			rows[i] = "0 false invalid"
		}
	}
	return rows
}

// TestValue_RoundTrip packs and reads random values of each type.
func TestValue_RoundTrip(t *testing.T) {
	ids := rapid.Custom(func(rt *rapid.T) sdk.RecordID {
		return sdk.RecordID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(rt, "id"))
	})
	generators := map[sdk.Type]*rapid.Generator[any]{
		sdk.Text:  rapid.StringN(0, 50, 200).Filter(func(s string) bool { return !strings.ContainsRune(s, 0) }).AsAny(),
		sdk.Int:   rapid.Int64().AsAny(),
		sdk.Float: rapid.Float64().Filter(func(f float64) bool { return !math.IsInf(f, 0) && !math.IsNaN(f) }).AsAny(),
		sdk.Bool:  rapid.Bool().AsAny(),
		sdk.Bytes: rapid.SliceOfN(rapid.Byte(), 0, 50).AsAny(),
		sdk.Time:  rapid.Int64().AsAny(),
		sdk.UUID:  ids.AsAny(),
	}
	for typ, generator := range generators {
		t.Run(string(typ), func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) {
				want := generator.Draw(rt, "value")
				if err := sdk.CheckValue(typ, want); err != nil {
					rt.Skip(err.Error()) // invalid UTF-8
				}
				packed := sdk.AppendValue([]byte{}, want)
				got, rest, err := sdk.DecodeValue(append(slices.Clip(packed), 0xc0), typ)
				if err != nil || len(rest) != 1 {
					rt.Fatalf("%v: %d bytes left, %v", want, len(rest), err)
				}
				if diff := cmp.Diff(want, got); diff != "" {
					rt.Fatalf("(-packed +read):\n%s", diff)
				}
			})
		})
	}
}

func TestCheckValue_WrongType(t *testing.T) {
	values := map[sdk.Type]any{
		sdk.Text: "a", sdk.Int: int64(1), sdk.Float: 1.5, sdk.Bool: true, sdk.Bytes: []byte{1}, sdk.UUID: sdk.RecordID{1},
	}
	for typ := range values {
		for of, v := range values {
			if err := sdk.CheckValue(typ, v); (err == nil) != (typ == of) {
				t.Errorf("a %s as a %s: got %v", of, typ, err)
			}
		}
		if err := sdk.CheckValue(typ, nil); err != nil {
			t.Errorf("nil as a %s: got %v", typ, err)
		}
		if err := sdk.CheckValue(typ, struct{}{}); err == nil {
			t.Errorf("a struct passed as a %s", typ)
		}
	}
}

func TestError(t *testing.T) {
	err := fmt.Errorf("read page: %w", sdk.Errorf(sdk.CodeStale, "row 3: %w", io.ErrUnexpectedEOF))
	if sdk.CodeOf(err) != sdk.CodeStale || !errors.Is(err, io.ErrUnexpectedEOF) || err.Error() != "read page: row 3: unexpected EOF" {
		t.Errorf("got code %q, %v", sdk.CodeOf(err), err)
	}
	if sdk.CodeOf(nil) != "" || sdk.CodeOf(io.EOF) != sdk.CodeInternal {
		t.Error("nil has no code, and an error without one is internal")
	}
	if !sdk.CodeStale.Retryable() || sdk.CodeInvalid.Retryable() {
		t.Error("stale can be retried, invalid can not")
	}
}

func TestIDs(t *testing.T) {
	const text = "0192f3c0-6f3e-7cc1-a36b-5d0d5b6f3a01"
	record, err := sdk.ParseRecordID(text)
	if err != nil || record.String() != text || record.IsZero() {
		t.Errorf("got %s, %v", record, err)
	}
	device, err := sdk.ParseDeviceID(text)
	if err != nil || device.String() != text || device.IsZero() {
		t.Errorf("got %s, %v", device, err)
	}
	for _, wrong := range []string{"", "x", text[:35], text + "0", "{" + text + "}", "urn:uuid:" + text, strings.ReplaceAll(text, "-", "")} {
		if _, err := sdk.ParseRecordID(wrong); sdk.CodeOf(err) != sdk.CodeInvalid {
			t.Errorf("%q: got %v", wrong, err)
		}
	}
	type ids struct {
		Record sdk.RecordID
		Device sdk.DeviceID
	}
	written, err := json.Marshal(ids{record, device})
	if err != nil {
		t.Fatal(err)
	}
	var read ids
	if err := json.Unmarshal(written, &read); err != nil || read != (ids{record, device}) {
		t.Errorf("%s was read as %v, %v", written, read, err)
	}
	if a, b := sdk.NewRecordID(), sdk.NewRecordID(); a.Compare(b) >= 0 || a.String() >= b.String() {
		t.Errorf("%s, made before %s, sorts after it", a, b)
	}
}

func TestVersion_Compare(t *testing.T) {
	ordered := []sdk.Version{{}, {Device: bob}, {Stamp: 1}, {Stamp: 1, Device: alice}, {Stamp: 1, Device: bob}, {Stamp: 2}, {Stamp: hlc.MaxStamp}}
	for i, a := range ordered {
		for j, b := range ordered {
			if got, want := a.Compare(b), (i-j)/max(1, max(i-j, j-i)); got != want {
				t.Errorf("%s and %s: want %d, got %d", a, b, want, got)
			}
		}
	}
}

func TestDescription_References(t *testing.T) {
	desc, err := entries().Describe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range desc.References() {
		names = append(names, f.Name)
	}
	if diff := cmp.Diff([]string{"parent_id", "maybe_ref"}, names); diff != "" {
		t.Errorf("what hides a record (-want +got):\n%s", diff)
	}
}

// TestNegativeZero wants zero to be one value: packed, read and as a key.
func TestNegativeZero(t *testing.T) {
	negative := math.Copysign(0, -1)
	zero := sdk.AppendValue(nil, 0.0)
	if packed := sdk.AppendValue(nil, negative); !bytes.Equal(packed, zero) {
		t.Errorf("packed % x; want % x", packed, zero)
	}
	if sdk.KeyID("m", negative) != sdk.KeyID("m", 0.0) {
		t.Error("the keys differ")
	}
	foreign := binary.BigEndian.AppendUint64([]byte{0xcb}, math.Float64bits(negative))
	value, _, err := sdk.DecodeValue(foreign, sdk.Float)
	if f, ok := value.(float64); !ok || err != nil || math.Signbit(f) {
		t.Errorf("read %v, %v", value, err)
	}
	type reading struct {
		sdk.Owned
		Value float64 `starling:"value"`
	}
	p, err := sdk.Model[reading]{Name: "reading", Version: 1}.Packer()
	if err != nil {
		t.Fatal(err)
	}
	p.Put(&reading{Value: negative})
	if b := p.Batch(); !bytes.HasSuffix(b.Rows, zero) {
		t.Errorf("a row of % x", b.Rows)
	}
}

// TestAppendStateHeader_noValues wants a row that would read as a delete to be impossible.
func TestAppendStateHeader_noValues(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("a row without values was packed")
		}
	}()
	sdk.AppendStateHeader(nil, sdk.RecordID{1}, 1, 0)
}
