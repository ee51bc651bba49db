package control_test

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/control"
	"github.com/starling-sync/starling/sdk"
)

func TestPut_DeviceOwnedUpdateKeepsTheOtherFields(t *testing.T) {
	_, c := start(t)
	id := put(t, c, "entry", `{"name":"a","size":9007199254740993,"modified_at":"2026-11-22T07:10:11.123456Z","data":"AAE=","ratio":0.5,"kept":true}`)[0]
	update(t, c, "entry", id, `{"name":"b","ratio":null}`)
	want := map[string]any{
		"id": id.String(), "name": "b", "size": json.Number("9007199254740993"), "modified_at": "2026-11-22T07:10:11.123456Z",
		"data": "AAE=", "ratio": nil, "kept": true, "_owner": self.String(), "_stamp": "0000000000010002",
	}
	if diff := cmp.Diff(want, get(t, c, "entry", id)); diff != "" {
		t.Error(diff)
	}
}

func TestPut_TwoUpdatesOfOneRecordInOneCall(t *testing.T) {
	_, c := start(t)
	id := put(t, c, "entry", `{"name":"a","size":1}`)[0]
	result, err := c.Put(context.Background(), "entry", []control.Put{{ID: id, JSON: []byte(`{"name":"b"}`)}, {ID: id, JSON: []byte(`{"size":2}`)}}, false)
	if err != nil || len(result.Refused) > 0 {
		t.Fatal(err, result.Refused)
	}
	got := get(t, c, "entry", id)
	if got["name"] != "b" || got["size"] != json.Number("2") {
		t.Errorf("got %v, want both updates", got)
	}
}

func TestPut_ConcurrentUpdatesOfDifferentFields(t *testing.T) {
	_, c := start(t)
	id := put(t, c, "entry", `{"name":"a"}`)[0]
	done := make(chan struct{})
	for _, o := range []string{`{"name":"b"}`, `{"size":2}`, `{"kept":true}`, `{"ratio":1.5}`} {
		go func() { defer func() { done <- struct{}{} }(); update(t, c, "entry", id, o) }()
	}
	for range 4 {
		<-done
	}
	got := get(t, c, "entry", id)
	want := []any{"b", json.Number("2"), true, json.Number("1.5")}
	if diff := cmp.Diff(want, []any{got["name"], got["size"], got["kept"], got["ratio"]}); diff != "" {
		t.Error(diff)
	}
}

func TestPut_SharedUpdateTouchesOnlyTheNamedFields(t *testing.T) {
	_, c := start(t)
	id := put(t, c, "tag", `{"name":"work","weight":1}`)[0]
	update(t, c, "tag", id, `{"weight":2}`)
	got := get(t, c, "tag", id)
	at := func(counter uint16) string { return hlc.New(1, counter).String() + "@" + self.String() }
	want := map[string]any{"_inserted": at(1), "name": at(1), "weight": at(2)}
	if diff := cmp.Diff(want, got["_clocks"]); diff != "" {
		t.Error(diff)
	}
}

func TestPut_NaturalKeyGivesTheSameRecord(t *testing.T) {
	_, c := start(t)
	tag := put(t, c, "tag", `{"name":"work"}`)[0]
	one := put(t, c, "tagging", `{"tag_id":"`+tag.String()+`","target":"`+tag.String()+`"}`)[0]
	two := put(t, c, "tagging", `{"target":"`+tag.String()+`","tag_id":"`+tag.String()+`","note":"x"}`)[0]
	if want := sdk.KeyID("tagging", tag, tag); one != want || two != want {
		t.Errorf("ids %s and %s; want both %s", one, two, want)
	}
	if got := get(t, c, "tagging", one)["note"]; got != "x" {
		t.Errorf("note %v, want x", got)
	}
	result, err := c.Put(context.Background(), "tagging", []control.Put{{JSON: []byte(`{"tag_id":"` + tag.String() + `"}`)}}, false)
	if err != nil || len(result.Refused) != 1 || !strings.Contains(result.Refused[0].Message, "target is part of the key") {
		t.Errorf("a put without its key: %v, %v", err, result.Refused)
	}
}

func TestPut_RefusesSingleRecords(t *testing.T) {
	host, c := start(t)
	foreign := sdk.RecordID{9}
	host.PutForeign("entry", control.Record{ID: foreign, Owner: other, Stamp: 5, Values: []any{"theirs", nil, nil, nil, nil, nil}})
	puts := []control.Put{
		{JSON: []byte(`{"name":"good"}`)},
		{JSON: []byte(`{"nam":"x"}`)},
		{JSON: []byte(`{"name":1}`)},
		{JSON: []byte(`{"size":1}`)},
		{JSON: []byte(`{"name":"a\u0000b"}`)},
		{JSON: []byte("{\"name\":\"\xff\"}")},
		{JSON: []byte(`{"name":"` + strings.Repeat("x", sdk.MaxRecordBytes) + `"}`)},
		{ID: sdk.RecordID{8}, JSON: []byte(`{"name":"x"}`)},
		{ID: foreign, JSON: []byte(`{"name":"mine"}`)},
		{JSON: []byte(`{"name":`)},
		{JSON: []byte(`{"name":"also good"}`)},
	}
	result, err := c.Put(context.Background(), "entry", puts, false)
	if err != nil {
		t.Fatal(err)
	}
	got := map[int]sdk.Code{}
	for _, r := range result.Refused {
		got[r.Index] = r.Code
	}
	want := map[int]sdk.Code{
		1: sdk.CodeUnknownField, 2: sdk.CodeInvalid, 3: sdk.CodeInvalid, 4: sdk.CodeInvalid, 5: sdk.CodeInvalid,
		6: sdk.CodeTooLarge, 7: sdk.CodeNotFound, 8: sdk.CodeNotOwner, 9: sdk.CodeInvalid,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for i, id := range result.IDs {
		if _, refused := want[i]; refused != id.IsZero() {
			t.Errorf("put %d: id %s, refused %v", i, id, refused)
		}
	}
	if got := get(t, c, "entry", result.IDs[10])["name"]; got != "also good" {
		t.Errorf("the last record: %v", got)
	}
}

func TestPut_AllOrNothing(t *testing.T) {
	for _, bad := range []string{`{"nam":"x"}`, `{"size":1}`} {
		_, c := start(t)
		result, err := c.Put(context.Background(), "entry", []control.Put{{JSON: []byte(`{"name":"good"}`)}, {JSON: []byte(bad)}}, true)
		if err != nil {
			t.Fatal(err)
		}
		if len(result.Refused) != 1 || result.Refused[0].Index != 1 || !result.IDs[0].IsZero() {
			t.Errorf("%s: ids %v, refused %v; want nothing written", bad, result.IDs, result.Refused)
		}
		err = c.List(context.Background(), "entry", nil, 0, func(r json.RawMessage) error { t.Errorf("written: %s", r); return nil })
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestDelete(t *testing.T) {
	_, c := start(t)
	for _, model := range []sdk.ModelName{"entry", "tag"} {
		ids := put(t, c, model, `{"name":"a"}`, `{"name":"b"}`)
		refused, err := c.Delete(context.Background(), model, ids[0], sdk.RecordID{7}, ids[1])
		if err != nil || len(refused) != 1 || refused[0].Index != 1 || refused[0].Code != sdk.CodeNotFound {
			t.Errorf("%s: %v, refused %v", model, err, refused)
		}
		for _, id := range ids {
			if _, err := c.Get(context.Background(), model, id); sdk.CodeOf(err) != sdk.CodeNotFound {
				t.Errorf("%s %s after delete: %v", model, id, err)
			}
		}
	}
}

// TestPut_writtenBy holds that people do not write what a source alone writes, and delete it only where that is allowed.
func TestPut_writtenBy(t *testing.T) {
	host, c := start(t)
	id := put(t, c, "entry", `{"name":"a"}`)[0]
	at := slices.IndexFunc(host.Descriptions, func(d sdk.Description) bool { return d.Model == "entry" })
	host.Descriptions = slices.Clone(host.Descriptions) // all tests have one list
	for _, mayDelete := range []bool{false, true} {
		host.Descriptions[at].WrittenBy, host.Descriptions[at].MayDelete = "the location plugin", mayDelete
		for _, p := range []control.Put{{JSON: []byte(`{"name":"b"}`)}, {ID: id, JSON: []byte(`{"name":"b"}`)}} {
			if _, err := c.Put(t.Context(), "entry", []control.Put{p}, false); sdk.CodeOf(err) != sdk.CodeDenied || !strings.Contains(err.Error(), "written by the location plugin") {
				t.Errorf("put %s: %v", p.JSON, err)
			}
		}
		_, err := c.Delete(t.Context(), "entry", id)
		if denied := sdk.CodeOf(err) == sdk.CodeDenied && strings.Contains(err.Error(), "written by the location plugin"); denied == mayDelete {
			t.Errorf("delete, which is allowed: %v: %v", mayDelete, err)
		}
	}
}
