package registry_test

import (
	"math/rand/v2"
	"testing"

	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/registry"
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

// TestRegistry_Find_shadow wants own records that wait to be found, by any field, and the others not even to be read.
func TestRegistry_Find_shadow(t *testing.T) {
	d, other := newDevice(t, 1, files()), newDevice(t, 2, files())
	other.own(packed(t, files(), file(5, 99, "other's"), file(6, 99, "waits")))
	d.pull(other, 1<<20)
	d.own(packed(t, files(), file(1, 99, "waits"), file(2, 99, "waits"), file(3, 0, "visible")))
	err := d.db.Write(t.Context(), func(tx *database.Tx) error {
		otherID := rid(5)
		_, err := tx.Exec("UPDATE _shadow SET data = ? WHERE id = ?", []byte("damaged"), otherID[:])
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		field  string
		values []any
		want   int
	}{
		{"name", []any{"waits"}, 2},
		{"parent_id", []any{rid(99)}, 2},
		{"id", []any{rid(1), rid(3), rid(6), rid(7)}, 2},
		{"", nil, 3},
	} {
		found, err := d.registry.Find(t.Context(), "file", tc.field, tc.values)
		if err != nil || found.Count != tc.want {
			t.Errorf("%s %v: found %d, %v; want %d", tc.field, tc.values, found.Count, err, tc.want)
		}
	}
}

// indexed has a text that its index can not hold whole in every database.
type indexed struct {
	sdk.Owned
	Text string `starling:"text,index"`
	Raw  []byte `starling:"raw,index"`
}

// TestRegistry_Find_long stores texts and bytes in indexed fields of any length, and finds each by its whole value.
func TestRegistry_Find_long(t *testing.T) {
	model := sdk.Model[indexed]{Name: "indexed", Version: 1}
	d := newDevice(t, 1, model)
	random := rand.New(rand.NewPCG(1, 2))
	long := make([]rune, 20_000) // random: nothing can be pressed into less
	for i := range long {
		long[i] = rune(0x10000 + random.IntN(0x10000)) // 4 bytes each
	}
	texts := []string{string(long[:599]), string(long[:600]), string(long[:601]), string(long[:700]) + "a", string(long[:700]) + "b", string(long), "short", ""}
	for i, text := range texts {
		r := &indexed{Text: text, Raw: []byte(text)}
		r.ID = rid(byte(i + 1))
		d.own(packed(t, model, r))
	}
	for i, text := range texts {
		for field, value := range map[string]any{"text": text, "raw": []byte(text)} {
			found, err := d.registry.Find(t.Context(), "indexed", field, []any{value, nil})
			if err != nil || found.Count != 1 {
				t.Errorf("%s %d: found %d, %v; want 1", field, i, found.Count, err)
			}
			listed := 0
			err = d.registry.List(t.Context(), "indexed", registry.Filter{Field: field, Value: value}, func(row registry.Row) error {
				listed++
				if row.ID != rid(byte(i+1)) {
					t.Errorf("%s %d: listed %s", field, i, row.ID)
				}
				return nil
			})
			if err != nil || listed != 1 {
				t.Errorf("%s %d: listed %d, %v; want 1", field, i, listed, err)
			}
		}
	}
}
