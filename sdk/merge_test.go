package sdk_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/sdk"
)

type note struct {
	sdk.Shared
	Title  string  `starling:"title,required"`
	Body   *string `starling:"body"`
	Parent sdk.Ref `starling:"parent_id,ref=note"`
	Visits int64   `starling:"visits,max"`
}

func notes() sdk.Model[note] { return sdk.Model[note]{Name: "note", Version: 1} }

var (
	alice = sdk.DeviceID{0xa}
	bob   = sdk.DeviceID{0xb}
	one   = sdk.RecordID{1}
)

// field is one field of an operation in these tests.
type field struct {
	name  string
	value any
	seen  hlc.Stamp
}

func batchOf(columns ...string) sdk.Batch {
	return sdk.Batch{Model: "note", Version: 1, Columns: columns}
}

func addOp(b *sdk.Batch, id sdk.RecordID, stamp hlc.Stamp, kind sdk.OpKind, fields ...field) {
	b.Count++
	b.Rows = sdk.AppendOpHeader(b.Rows, id, stamp, kind, len(fields))
	for _, f := range fields {
		for i, name := range b.Columns {
			if name == f.name {
				b.Rows = sdk.AppendOpField(b.Rows, i, f.value, f.seen)
			}
		}
	}
}

func merge(t *testing.T, m sdk.ModelServer, in sdk.SharedChanges) sdk.SharedResult {
	t.Helper()
	result, err := m.ApplySharedChange(t.Context(), in)
	if err != nil {
		t.Fatalf("apply: %v", err)
	}
	return result
}

func titled(value any, at sdk.Version, seen hlc.Stamp) sdk.Record {
	return sdk.Record{ID: one, Inserted: sdk.Version{Stamp: 1, Device: alice}, Fields: []sdk.FieldState{
		{Name: "title", Value: value, Version: at, Seen: seen},
	}}
}

// TestMergeShared_Field is the table of one write that meets one state.
func TestMergeShared_Field(t *testing.T) {
	at := func(stamp hlc.Stamp, device sdk.DeviceID) sdk.Version {
		return sdk.Version{Stamp: stamp, Device: device}
	}
	lost := func(value any, by, winner sdk.Version) []sdk.Conflict {
		return []sdk.Conflict{{ID: one, Field: "title", Value: value, Lost: by, Winner: winner}}
	}
	seen := func(stamp hlc.Stamp) []sdk.Conflict {
		return []sdk.Conflict{{ID: one, Field: "title", Lost: sdk.Version{Stamp: stamp}}}
	}
	cases := []struct {
		name     string
		current  sdk.Record
		stamp    hlc.Stamp // of bob's write of "new"
		saw      hlc.Stamp
		want     any
		conflict []sdk.Conflict
		resolved []sdk.Conflict
	}{
		{"LaterSaw", titled("old", at(5, alice), 0), 7, 5, "new", nil, nil},
		{"LaterSawNothing", titled("old", at(5, alice), 0), 7, 0, "new", lost("old", at(5, alice), at(7, bob)), nil},
		{"LaterSawAnEarlierOne", titled("old", at(5, alice), 0), 7, 3, "new", lost("old", at(5, alice), at(7, bob)), seen(3)},
		{"LaterSameValue", titled("new", at(5, alice), 0), 7, 0, "new", nil, nil},
		{"LaterOwn", titled("old", at(5, bob), 0), 7, 5, "new", nil, nil},
		{"SameWriteLesserValue", titled("old", at(7, bob), 0), 7, 0, "old", nil, nil}, // "new" is less
		{"SameWriteGreaterValue", titled("a", at(7, bob), 0), 7, 0, "new", nil, nil},
		{"LaterOwnUnseen", titled("old", at(5, bob), 0), 7, 0, "new", lost("old", at(5, bob), at(7, bob)), nil}, // a copy of the device
		{"EarlierUnseen", titled("old", at(9, alice), 0), 7, 0, "old", lost("new", at(7, bob), at(9, alice)), nil},
		{"EarlierSeen", titled("old", at(9, alice), 7), 7, 0, "old", nil, nil},
		{"EarlierThatSawALoser", titled("old", at(9, alice), 7), 7, 4, "old", nil, seen(4)},
		{"EarlierSameValue", titled("new", at(9, alice), 0), 7, 0, "new", nil, nil},
		{"TieByGreaterDevice", titled("old", at(7, alice), 0), 7, 0, "new", lost("old", at(7, alice), at(7, bob)), nil},
		{"Repetition", titled("new", at(7, bob), 2), 7, 2, "new", nil, nil},
		{"FirstWrite", sdk.Record{ID: one, Inserted: at(1, alice)}, 7, 0, "new", nil, nil},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			batch := batchOf("title")
			addOp(&batch, one, c.stamp, sdk.Update, field{"title", "new", c.saw})
			got := merge(t, notes(), sdk.SharedChanges{Batch: batch, Origin: bob, Current: []sdk.Record{c.current}})
			record := c.current
			if len(got.Records) > 0 {
				record = got.Records[0]
			}
			if value := record.Fields[0].Value; value != c.want {
				t.Errorf("want value %q, got %q", c.want, value)
			}
			if diff := cmp.Diff(c.conflict, got.Conflicts); diff != "" {
				t.Errorf("conflicts (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(c.resolved, got.Resolved); diff != "" {
				t.Errorf("resolved (-want +got):\n%s", diff)
			}
		})
	}
}

func TestMergeShared_MaxKeepsNoConflict(t *testing.T) {
	batch := batchOf("visits")
	addOp(&batch, one, 5, sdk.Update, field{"visits", int64(3), 0})
	addOp(&batch, one, 6, sdk.Update, field{"visits", int64(9), 0})
	addOp(&batch, one, 7, sdk.Update, field{"visits", int64(4), 0})
	got := merge(t, notes(), sdk.SharedChanges{Batch: batch, Origin: bob})
	want := sdk.SharedResult{Records: []sdk.Record{{ID: one, Fields: []sdk.FieldState{
		{Name: "visits", Value: int64(9), Version: sdk.Version{Stamp: 6, Device: bob}},
	}}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestMergeShared_LocalBatch applies several operations to one record, some of them refused.
func TestMergeShared_LocalBatch(t *testing.T) {
	m := notes()
	m.Validate = func(n *note) error {
		if n.Body != nil && n.Title == *n.Body {
			return errors.New("the body repeats the title")
		}
		return nil
	}
	two := sdk.RecordID{2}
	batch := batchOf("title", "body", "parent_id")
	addOp(&batch, one, 1, sdk.Insert, field{"title", "a", 0})
	addOp(&batch, one, 2, sdk.Update, field{"body", "a", 0})         // refused by Validate, on the merged record
	addOp(&batch, one, 3, sdk.Update, field{"body", "b", 0})         //
	addOp(&batch, two, 4, sdk.Insert, field{"body", "no title", 0})  // refused: required
	addOp(&batch, two, 5, sdk.Update, field{"title", "x", 0})        // refused: it was never inserted
	addOp(&batch, one, 6, sdk.Update, field{"parent_id", one, 0})    // refused: refers to itself
	addOp(&batch, one, 7, sdk.Update, field{"title", "c", 1})        //
	addOp(&batch, one, 8, sdk.Delete)                                //
	addOp(&batch, one, 9, sdk.Update, field{"title", "too late", 0}) // refused: deleted
	addOp(&batch, two, 10, sdk.Insert, field{"title", "second", 0})  //
	got := merge(t, m, sdk.SharedChanges{Batch: batch, Origin: alice, Local: true})
	var refused []string
	for _, r := range got.Refused {
		refused = append(refused, strings.Join([]string{string(rune('0' + r.Index)), string(r.Code), r.Message}, " "))
	}
	wantRefused := []string{
		"1 invalid the body repeats the title",
		`3 invalid field "title" is required`,
		"4 not_found there is no note 02000000-0000-0000-0000-000000000000",
		`5 invalid field "parent_id" refers to the record itself, which could then never be visible`,
		"8 not_found there is no note 01000000-0000-0000-0000-000000000000",
	}
	if diff := cmp.Diff(wantRefused, refused); diff != "" {
		t.Errorf("refused (-want +got):\n%s", diff)
	}
	by := func(stamp hlc.Stamp) sdk.Version { return sdk.Version{Stamp: stamp, Device: alice} }
	want := []sdk.Record{
		{ID: one, Inserted: by(1), Deleted: by(8), Fields: []sdk.FieldState{
			{Name: "body", Value: "b", Version: by(3)}, {Name: "title", Value: "c", Version: by(7), Seen: 1},
		}},
		{ID: two, Inserted: by(10), Fields: []sdk.FieldState{{Name: "title", Value: "second", Version: by(10)}}},
	}
	if diff := cmp.Diff(want, got.Records); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
}

func TestMergeShared_LocalTooLargeMerged(t *testing.T) {
	half := strings.Repeat("x", sdk.MaxRecordBytes*2/3)
	batch := batchOf("title", "body")
	addOp(&batch, one, 1, sdk.Insert, field{"title", half, 0})
	addOp(&batch, one, 2, sdk.Update, field{"body", half, 0})
	got := merge(t, notes(), sdk.SharedChanges{Batch: batch, Origin: alice, Local: true})
	if len(got.Refused) != 1 || got.Refused[0].Index != 1 || got.Refused[0].Code != sdk.CodeTooLarge {
		t.Errorf("two operations that are too large together: got %+v", got.Refused)
	}
}

// TestMergeShared_LearnsReference merges a reference that was kept as bytes, from before its field was known.
func TestMergeShared_LearnsReference(t *testing.T) {
	first := sdk.Version{Stamp: 1, Device: alice}
	current := sdk.Record{ID: one, Inserted: first, Fields: []sdk.FieldState{{Name: "parent_id", Value: make([]byte, 16), Version: first}}}
	current.Fields[0].Value.([]byte)[0] = 7
	batch := batchOf("parent_id")
	addOp(&batch, one, 2, sdk.Update, field{"parent_id", sdk.RecordID{7}, 0})
	got := merge(t, notes(), sdk.SharedChanges{Batch: batch, Origin: bob, Current: []sdk.Record{current}})
	if len(got.Conflicts) > 0 {
		t.Errorf("the same reference conflicts with itself: %+v", got.Conflicts)
	}
	if _, kept := current.Fields[0].Value.([]byte); !kept {
		t.Error("the caller's record was changed")
	}
}

// TestApply_MalformedBatch gives batches that are wrong as a whole, or broken in the middle.
func TestApply_MalformedBatch(t *testing.T) {
	good := batchOf("title")
	addOp(&good, one, 1, sdk.Insert, field{"title", "a", 0})
	cases := map[string]func(*sdk.Batch){
		"Count":         func(b *sdk.Batch) { b.Count = 1 << 40 },
		"NegativeCount": func(b *sdk.Batch) { b.Count = -1 },
		"TwoColumns":    func(b *sdk.Batch) { b.Columns = []string{"title", "title"} },
		"HostColumn":    func(b *sdk.Batch) { b.Columns = []string{"_owner"} },
		"IDColumn":      func(b *sdk.Batch) { b.Columns = []string{"id"} },
		"TrailingBytes": func(b *sdk.Batch) { b.Rows = append(slices.Clone(b.Rows), 0xc0) },
		"ManyColumns":   func(b *sdk.Batch) { b.Columns = make([]string, 1000) },
		"OtherModel":    func(b *sdk.Batch) { b.Model = "entry" },
	}
	for name, spoil := range cases {
		t.Run(name, func(t *testing.T) {
			batch := good
			spoil(&batch)
			if _, err := notes().ApplySharedChange(t.Context(), sdk.SharedChanges{Batch: batch}); err == nil {
				t.Error("no error")
			}
		})
	}
	t.Run("Truncated", func(t *testing.T) {
		batch := good
		addOp(&batch, sdk.RecordID{2}, 2, sdk.Insert, field{"title", "b", 0})
		addOp(&batch, sdk.RecordID{3}, 3, sdk.Insert, field{"title", "c", 0})
		batch.Rows = batch.Rows[:len(good.Rows)+5]
		got := merge(t, notes(), sdk.SharedChanges{Batch: batch, Origin: bob})
		if len(got.Records) != 1 || len(got.Refused) != 2 {
			t.Errorf("want the first merged and the others refused, got %+v", got)
		}
	})
}

func FuzzApply(f *testing.F) {
	batch := batchOf("title", "body", "visits")
	addOp(&batch, one, 1, sdk.Insert, field{"title", "a", 0}, field{"visits", int64(1), 0})
	addOp(&batch, one, 2, sdk.Delete)
	f.Add(batch.Rows, 2)
	f.Add([]byte{0x93, 0xc4, 0x10}, 1)
	f.Fuzz(func(t *testing.T, rows []byte, count int) {
		for _, local := range []bool{false, true} {
			b := batchOf("title", "body", "visits")
			b.Rows, b.Count = rows, count
			shared, err := notes().ApplySharedChange(t.Context(), sdk.SharedChanges{Batch: b, Origin: bob, Local: local})
			if err == nil && len(shared.Refused) > count {
				t.Errorf("%d refusals of %d operations", len(shared.Refused), count)
			}
			b.Model, b.Columns = "entry", []string{"name", "size", "hash"}
			state, err := entries().ApplyStateChange(t.Context(), sdk.StateChanges{Batch: b, Origin: bob, Local: local})
			if err == nil && len(state.Refused) > count {
				t.Errorf("%d refusals of %d rows", len(state.Refused), count)
			}
		}
	})
}
