package sdk_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/starling-sync/starling/sdk"
)

// entry has a field of every Go type that a device-owned model may have.
type entry struct {
	sdk.Owned
	Name      string          `starling:"name,required" doc:"without its folder"`
	Size      int64           `starling:"size"`
	Count     int             `starling:"count"`
	Ratio     float64         `starling:"ratio"`
	Hidden    bool            `starling:"hidden"`
	Hash      []byte          `starling:"hash"`
	Modified  time.Time       `starling:"modified_at,index"`
	Extra     json.RawMessage `starling:"extra"`
	Parent    sdk.Ref         `starling:"parent_id,ref=entry"`
	About     sdk.AnyRef      `starling:"about,weak"`
	Micros    int64           `starling:"micros,type=time"`
	Text      string          `starling:"text,type=json"`
	MaybeName *string         `starling:"maybe_name"`
	MaybeSize *int64          `starling:"maybe_size"`
	MaybeBool *bool           `starling:"maybe_bool"`
	MaybeTime *time.Time      `starling:"maybe_time"`
	MaybeRef  *sdk.Ref        `starling:"maybe_ref,ref=entry"`
	Skipped   map[string]int  `starling:"-"`
	private   int             //nolint:unused // what is not exported is left alone
}

func entries() sdk.Model[entry] { return sdk.Model[entry]{Name: "entry", Version: 2, Doc: "files"} }

func TestModel_Describe(t *testing.T) {
	got, err := entries().Describe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := sdk.Description{Model: "entry", Version: 2, Ownership: sdk.DeviceOwned, Doc: "files", Fields: []sdk.Field{
		{Name: "name", Type: sdk.Text, Required: true, Doc: "without its folder"},
		{Name: "size", Type: sdk.Int},
		{Name: "count", Type: sdk.Int},
		{Name: "ratio", Type: sdk.Float},
		{Name: "hidden", Type: sdk.Bool},
		{Name: "hash", Type: sdk.Bytes},
		{Name: "modified_at", Type: sdk.Time, Index: true},
		{Name: "extra", Type: sdk.JSON},
		{Name: "parent_id", Type: sdk.UUID, Ref: "entry"},
		{Name: "about", Type: sdk.UUID, Weak: true},
		{Name: "micros", Type: sdk.Time},
		{Name: "text", Type: sdk.JSON},
		{Name: "maybe_name", Type: sdk.Text},
		{Name: "maybe_size", Type: sdk.Int},
		{Name: "maybe_bool", Type: sdk.Bool},
		{Name: "maybe_time", Type: sdk.Time},
		{Name: "maybe_ref", Type: sdk.UUID, Ref: "entry"},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// check returns the mistake in T's tags.
func check[T any]() error { return sdk.Model[T]{Name: "m", Version: 1}.Check() }

// Structs with one mistake each.
type (
	noBase struct {
		Name string `starling:"name"`
	}
	twoBases struct {
		sdk.Shared
		sdk.Owned
		Name string `starling:"name"`
	}
	untagged struct {
		sdk.Shared
		Name string
	}
	unexported struct {
		sdk.Shared
		name string `starling:"name"`
	}
	badType struct {
		sdk.Shared
		Name []string `starling:"name"`
	}
	badOption struct {
		sdk.Shared
		Name string `starling:"name,requird"`
	}
	badName struct {
		sdk.Shared
		Name string `starling:"Name"`
	}
	reservedName struct {
		sdk.Shared
		Name string `starling:"id"`
	}
	twice struct {
		sdk.Shared
		A string `starling:"a"`
		B string `starling:"a"`
	}
	refWithoutModel struct {
		sdk.Shared
		A sdk.Ref `starling:"a"`
	}
	anyRefWithModel struct {
		sdk.Shared
		A sdk.AnyRef `starling:"a,ref=tag"`
	}
	weakText struct {
		sdk.Shared
		A string `starling:"a,weak"`
	}
	timeText struct {
		sdk.Shared
		A string `starling:"a,type=time"`
	}
	floatKey struct {
		sdk.Shared
		A float64 `starling:"a,key"`
	}
	maxKey struct {
		sdk.Shared
		A int64 `starling:"a,key,max"`
	}
	ownedMax struct {
		sdk.Owned
		A int64 `starling:"a,max"`
	}
	empty struct{ sdk.Shared }
)

func TestModel_Check(t *testing.T) {
	_ = unexported{name: ""}.name
	cases := map[string]struct {
		err  error
		want []string
	}{
		"NotAStruct":      {check[int](), []string{"int is not a struct"}},
		"NoBase":          {check[noBase](), []string{"noBase embeds none of sdk.Shared, sdk.Owned and sdk.Hybrid"}},
		"TwoBases":        {check[twoBases](), []string{"twoBases.Owned", "only one"}},
		"Untagged":        {check[untagged](), []string{"untagged.Name", "no tag"}},
		"Unexported":      {check[unexported](), []string{"unexported.name", "not exported"}},
		"BadType":         {check[badType](), []string{"badType.Name", "can not be a []string"}},
		"BadOption":       {check[badOption](), []string{"badOption.Name", `"requird" is unknown; did you mean "required"?`}},
		"BadName":         {check[badName](), []string{`field "Name"`, "lower-case"}},
		"ReservedName":    {check[reservedName](), []string{`field "id"`, "choose another"}},
		"Twice":           {check[twice](), []string{`two fields are named "a"`}},
		"RefWithoutModel": {check[refWithoutModel](), []string{"refWithoutModel.A", "ref=MODEL"}},
		"AnyRefWithModel": {check[anyRefWithModel](), []string{"anyRefWithModel.A", "ref=tag is for an sdk.Ref"}},
		"WeakText":        {check[weakText](), []string{`field "a"`, "only a reference"}},
		"TimeText":        {check[timeText](), []string{"timeText.A", "type=time does not fit"}},
		"FloatKey":        {check[floatKey](), []string{`field "a"`, "natural key"}},
		"MaxKey":          {check[maxKey](), []string{`field "a"`, "natural key never changes"}},
		"OwnedMax":        {check[ownedMax](), []string{`field "a"`, "for shared models"}},
		"Empty":           {check[empty](), []string{"0 fields"}},
		"ModelName":       {sdk.Model[entry]{Name: "Entry", Version: 1}.Check(), []string{`model "Entry"`, "lower-case"}},
		"SQLiteName":      {sdk.Model[entry]{Name: "sqlite_x", Version: 1}.Check(), []string{"SQLite keeps"}},
		"NoVersion":       {sdk.Model[entry]{Name: "entry"}.Check(), []string{"versions count from 1"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if sdk.CodeOf(c.err) != sdk.CodeInvalid {
				t.Fatalf("want code %q, got %v", sdk.CodeInvalid, c.err)
			}
			for _, part := range c.want {
				if !strings.Contains(c.err.Error(), part) {
					t.Errorf("want %q in the message, got: %s", part, c.err)
				}
			}
		})
	}
}

func TestModel_Configure(t *testing.T) {
	if err := entries().Configure(t.Context(), json.RawMessage(`{}`)); err != nil {
		t.Errorf("no settings: %v", err)
	}
	if err := entries().Configure(t.Context(), json.RawMessage(`{"ignore":[]}`)); sdk.CodeOf(err) != sdk.CodeInvalid || !strings.Contains(err.Error(), "ignore") {
		t.Errorf("a setting of a model that takes none: got %v", err)
	}
	if err := entries().Run(t.Context(), nil); sdk.CodeOf(err) != sdk.CodeUnsupported {
		t.Errorf("run of a model that is no source: got %v", err)
	}
}

func ptr[V any](v V) *V { return &v }

func fullEntry() entry {
	return entry{
		Owned: sdk.Owned{ID: sdk.NewRecordID()}, Name: "a.txt", Size: 1 << 40, Count: -3, Ratio: 0.25, Hidden: true,
		Hash: []byte{0, 1}, Modified: time.UnixMicro(1_795_331_411_123_456).UTC(), Extra: json.RawMessage(`{"a":1}`),
		Parent: sdk.Ref(sdk.NewRecordID()), About: sdk.AnyRef(sdk.NewRecordID()), Micros: 7, Text: `[]`,
		MaybeName: ptr(""), MaybeSize: ptr(int64(0)), MaybeBool: ptr(false), MaybeTime: ptr(time.UnixMicro(5).UTC()),
		MaybeRef: ptr(sdk.Ref(sdk.NewRecordID())),
	}
}

func TestPacker_RoundTrip(t *testing.T) {
	packer, err := entries().Packer()
	if err != nil {
		t.Fatal(err)
	}
	full, bare := fullEntry(), entry{Name: "b", Text: "1"}
	packer.Put(&full)
	packer.Put(&bare)
	packer.Delete(sdk.NewRecordID())
	if bare.ID.IsZero() {
		t.Error("a record without an id was not given one")
	}
	if packer.Len() != 3 || packer.Size() == 0 {
		t.Errorf("want 3 changes and some bytes, got %d and %d", packer.Len(), packer.Size())
	}
	batch := packer.Batch()
	var got []entry
	for record, err := range entries().Rows(&batch) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, record)
	}
	if diff := cmp.Diff([]entry{full, bare}, got, cmp.AllowUnexported(entry{})); diff != "" {
		t.Errorf("(-packed +read):\n%s", diff)
	}
	result, err := entries().ApplyStateChange(t.Context(), sdk.StateChanges{Batch: batch, Local: true})
	if err != nil || len(result.Refused) > 0 {
		t.Errorf("what was packed is refused: %+v, %v", result.Refused, err)
	}
	if again := packer.Batch(); again.Count != 0 || len(again.Rows) != 0 {
		t.Errorf("the packer did not begin anew: %+v", again)
	}
}

func TestModel_RowsOfOtherVersions(t *testing.T) {
	id := sdk.NewRecordID()
	batch := sdk.Batch{Model: "entry", Columns: []string{"a_newer_field", "name"}, Count: 1}
	batch.Rows = sdk.AppendStateHeader(nil, id, 9, 2)
	batch.Rows = sdk.AppendValue(batch.Rows, "?")
	batch.Rows = sdk.AppendValue(batch.Rows, "a")
	for got, err := range entries().Rows(&batch) {
		if err != nil {
			t.Fatal(err)
		}
		want := entry{Owned: sdk.Owned{ID: id, Stamp: 9}, Name: "a"}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(entry{})); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	batch.Rows = batch.Rows[:len(batch.Rows)-1]
	for _, err := range entries().Rows(&batch) {
		if sdk.CodeOf(err) != sdk.CodeInvalid {
			t.Errorf("a row that is cut short: got %v", err)
		}
	}
}

func TestModel_Decode(t *testing.T) {
	id, parent := sdk.NewRecordID(), sdk.NewRecordID()
	got, err := entries().Decode(id, []string{"name", "size", "parent_id", "unknown"}, []any{"a", int64(3), parent, 1.5})
	if err != nil {
		t.Fatal(err)
	}
	want := entry{Owned: sdk.Owned{ID: id}, Name: "a", Size: 3, Parent: sdk.Ref(parent)}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(entry{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, err := entries().Decode(id, []string{"size"}, []any{"three"}); sdk.CodeOf(err) != sdk.CodeInvalid || !strings.Contains(err.Error(), `"size"`) {
		t.Errorf("text as an int: got %v", err)
	}
}

func TestKeyID(t *testing.T) {
	to := sdk.RecordID{1, 2, 3}
	// These are part of the format: a change of one gives every keyed record another id.
	for want, got := range map[string]sdk.RecordID{
		"836ffeea-21a9-5a4a-8931-c4a9feb83483": sdk.KeyID("tagging", "a", "b"),
		"6b03e89e-406a-576c-8f73-ab77e0d93bde": sdk.KeyID("tagging", to),
		"16222af7-41d8-595a-a1b0-8079ced85564": sdk.KeyID("place", int64(-1), true, nil, []byte{9}),
	} {
		if got.String() != want {
			t.Errorf("want %s, got %s", want, got)
		}
	}
	ids := map[sdk.RecordID]string{}
	for name, id := range map[string]sdk.RecordID{
		"a,b": sdk.KeyID("m", "a", "b"), "ab,": sdk.KeyID("m", "ab", ""), ",ab": sdk.KeyID("m", "", "ab"), "ab": sdk.KeyID("m", "ab"),
		"model": sdk.KeyID("ma", "b"), "int": sdk.KeyID("m", int64(1)), "text": sdk.KeyID("m", "1"), "nil": sdk.KeyID("m", nil),
		"none": sdk.KeyID("m"), "bool": sdk.KeyID("m", true),
	} {
		if other, taken := ids[id]; taken {
			t.Errorf("the keys %s and %s have one id", name, other)
		}
		ids[id] = name
	}
	if sdk.KeyID("m", sdk.Ref(to), 3, time.UnixMicro(5)) != sdk.KeyID("m", to, int64(3), int64(5)) {
		t.Error("typed values have other ids than what they stand for")
	}
}
