package rpc

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/sdk"
)

func drawID(t *rapid.T) (id [16]byte) {
	copy(id[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id"))
	return id
}

func drawVersion(t *rapid.T) sdk.Version {
	if rapid.Bool().Draw(t, "zero version") {
		return sdk.Version{}
	}
	return sdk.Version{Stamp: hlc.Stamp(rapid.Uint64Range(0, uint64(hlc.MaxStamp)).Draw(t, "stamp")), Device: drawID(t)}
}

func drawValue(t *rapid.T) any {
	switch rapid.IntRange(0, 6).Draw(t, "type") {
	case 0:
		return rapid.String().Draw(t, "text")
	case 1:
		return rapid.Int64().Draw(t, "int")
	case 2:
		return rapid.Float64().Draw(t, "float")
	case 3:
		return rapid.Bool().Draw(t, "bool")
	case 4:
		return rapid.SliceOfN(rapid.Byte(), 1, 40).Draw(t, "bytes")
	case 5:
		return sdk.RecordID(drawID(t))
	}
	return nil
}

func TestRecords_RoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var want []sdk.Record
		for range rapid.IntRange(0, 5).Draw(t, "records") {
			r := sdk.Record{ID: drawID(t), Inserted: drawVersion(t), Deleted: drawVersion(t)}
			for range rapid.IntRange(0, 4).Draw(t, "fields") {
				f := sdk.FieldState{
					Name: rapid.StringMatching(`[a-z]{1,8}`).Draw(t, "name"), Value: drawValue(t), Version: drawVersion(t),
					Seen: hlc.Stamp(rapid.Uint64Range(0, uint64(hlc.MaxStamp)).Draw(t, "seen")),
				}
				if rapid.Bool().Draw(t, "merged") {
					f.Merge = rapid.SampledFrom([]sdk.Merge{"", sdk.Max, sdk.AddWins}).Draw(t, "merge")
					f.State = rapid.SliceOfN(rapid.Byte(), 1, 40).Draw(t, "state")
				}
				r.Fields = append(r.Fields, f)
			}
			want = append(want, r)
		}
		packed, err := appendRecords(nil, want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := readRecords(packed)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
		if len(packed) > 0 {
			cut := rapid.IntRange(1, len(packed)).Draw(t, "cut")
			if part, err := readRecords(packed[:len(packed)-cut]); err == nil && len(part) >= len(want) {
				t.Fatal("a cut list was read in full")
			}
		}
	})
}

func TestConflicts_RoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var want []sdk.Conflict
		for range rapid.IntRange(0, 5).Draw(t, "conflicts") {
			want = append(want, sdk.Conflict{
				ID: drawID(t), Field: rapid.StringMatching(`[a-z]{1,8}`).Draw(t, "field"), Value: drawValue(t),
				Lost: drawVersion(t), Winner: drawVersion(t),
			})
		}
		packed, err := appendConflicts(nil, want)
		if err != nil {
			t.Fatal(err)
		}
		got, err := readConflicts(packed)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestAppendValue_UnknownType(t *testing.T) {
	if _, err := appendValues(nil, []any{int32(1)}); sdk.CodeOf(err) != sdk.CodeInvalid {
		t.Errorf("want %s, got %v", sdk.CodeInvalid, err)
	}
}

func FuzzReadRecords(f *testing.F) {
	packed, err := appendRecords(nil, []sdk.Record{{Fields: []sdk.FieldState{{Name: "name", Value: "x"}}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(packed)
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = readRecords(b) // garbage is an error, never a panic
		_, _ = readConflicts(b)
		_, _ = readValues(b)
	})
}
