package control_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/starling-sync/starling/host/control"
	"github.com/starling-sync/starling/sdk"
)

func TestList_Where(t *testing.T) {
	_, c := start(t)
	ids := put(t, c, "entry",
		`{"name":"a","size":1,"modified_at":"2026-11-22T07:10:11Z","kept":true}`,
		`{"name":"b","size":1,"ratio":2.5,"data":"AAE="}`,
		`{"name":"","size":9007199254740993}`)
	type where = []control.Where
	tests := []struct {
		name  string
		where where
		limit int
		want  []int
	}{
		{"all", nil, 0, []int{0, 1, 2}},
		{"limit", nil, 2, []int{0, 1}},
		{"text", where{{"name", "a"}}, 0, []int{0}},
		{"empty text", where{{"name", ""}}, 0, []int{2}},
		{"and", where{{"size", "1"}, {"name", "b"}}, 0, []int{1}},
		{"and, limited", where{{"size", "1"}, {"kept", ""}}, 1, []int{1}},
		{"beyond 2^53", where{{"size", "9007199254740993"}}, 0, []int{2}},
		{"time", where{{"modified_at", "2026-11-22T08:10:11+01:00"}}, 0, []int{0}},
		{"bool", where{{"kept", "true"}}, 0, []int{0}},
		{"float", where{{"ratio", "2.5"}}, 0, []int{1}},
		{"bytes", where{{"data", "AAE="}}, 0, []int{1}},
		{"null", where{{"ratio", ""}}, 0, []int{0, 2}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got, want []string
			err := c.List(context.Background(), "entry", tt.where, tt.limit, func(r json.RawMessage) error {
				got = append(got, object(t, r)["id"].(string))
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			for _, i := range tt.want {
				want = append(want, ids[i].String())
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	for _, w := range []control.Where{{"nam", "x"}, {"size", "x"}, {"modified_at", "noon"}, {"kept", "yes"}, {"ratio", "NaN"}, {"data", "?"}} {
		err := c.List(context.Background(), "entry", []control.Where{w}, 0, func(json.RawMessage) error { return nil })
		if code := sdk.CodeOf(err); code != sdk.CodeInvalid && code != sdk.CodeUnknownField {
			t.Errorf("where %v: %v", w, err)
		}
	}
}

func TestList_StopsAtTheCallersError(t *testing.T) {
	_, c := start(t)
	put(t, c, "tag", `{"name":"a"}`, `{"name":"b"}`)
	want := errors.New("enough")
	if err := c.List(context.Background(), "tag", nil, 0, func(json.RawMessage) error { return want }); !errors.Is(err, want) {
		t.Errorf("got %v", err)
	}
}

func TestList_ManyChunks(t *testing.T) {
	_, c := start(t)
	for range 10 {
		put(t, c, "entry", `{"name":"`+strings.Repeat("x", 30_000)+`"}`)
	}
	count := 0
	if err := c.List(context.Background(), "entry", nil, 0, func(json.RawMessage) error { count++; return nil }); err != nil || count != 10 {
		t.Errorf("%d records, %v; want 10", count, err)
	}
}
