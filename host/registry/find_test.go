package registry_test

import (
	"testing"

	"github.com/starling-sync/starling/sdk"
)

func TestRegistry_Find(t *testing.T) {
	d := newDevice(t, 1, allModels()...)
	top := &File{Name: "top"}
	top.ID = sdk.NewRecordID()
	child := &File{Name: "child", Parent: sdk.Ref(top.ID)}
	child.ID = sdk.NewRecordID()
	d.own(packed(t, files(), top, child))
	for _, tc := range []struct {
		name   string
		field  string
		values []any
		want   int
	}{
		{"no value", "parent_id", []any{nil}, 1},
		{"a value", "parent_id", []any{top.ID}, 1},
		{"either", "parent_id", []any{nil, top.ID}, 2},
		{"everything", "", nil, 2},
		{"nothing", "name", []any{"none"}, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			found, err := d.registry.Find(t.Context(), "file", tc.field, tc.values)
			if err != nil {
				t.Fatal(err)
			}
			if found.Count != tc.want {
				t.Errorf("found %d records; want %d", found.Count, tc.want)
			}
		})
	}
}
