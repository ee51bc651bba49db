package command

import (
	"encoding/json"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/starling-sync/starling/sdk"
)

// TestArrange puts and moves at random, and looks whether the album's order is that of a plain list treated alike.
func TestArrange(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		album := sdk.RecordID{1}
		var list []sdk.RecordID
		positions := map[sdk.RecordID]*string{} // by entry; an item's id is its entry's
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			if rapid.IntRange(0, 5).Draw(t, "how") == 0 { // put without a position: last, by its id
				fresh := sdk.RecordID{byte(100 + len(list)), 1}
				positions[fresh] = nil
				list = append(list, fresh)
				continue
			}
			var entries []sdk.RecordID
			for range rapid.IntRange(1, 4).Draw(t, "entries") {
				entry := sdk.RecordID{byte(rapid.IntRange(1, 9).Draw(t, "entry"))}
				if !slices.Contains(entries, entry) {
					entries = append(entries, entry)
				}
			}
			others := slices.DeleteFunc(slices.Clone(list), func(id sdk.RecordID) bool { return slices.Contains(entries, id) })
			at, want := place{}, len(others)
			if len(others) > 0 && rapid.Bool().Draw(t, "beside another") {
				i := rapid.IntRange(0, len(others)-1).Draw(t, "which")
				at = place{beside: others[i], before: rapid.Bool().Draw(t, "before")}
				want = i + 1
				if at.before {
					want = i
				}
			}
			apply(t, positions, album, inOrder(positions), entries, at)
			list = slices.Insert(others, want, entries...)
		}
		var got []sdk.RecordID
		for _, item := range inOrder(positions) {
			got = append(got, item.Entry)
		}
		if !slices.Equal(got, list) {
			t.Fatalf("the album has %v, want %v", got, list)
		}
	})
}

func inOrder(positions map[sdk.RecordID]*string) []albumItem {
	var items []albumItem
	for entry, position := range positions {
		items = append(items, albumItem{ID: entry, Entry: entry, Position: position})
	}
	sortItems(items)
	return items
}

func apply(t *rapid.T, positions map[sdk.RecordID]*string, album sdk.RecordID, items []albumItem, entries []sdk.RecordID, at place) {
	puts, err := arrange(album, items, entries, at)
	if err != nil {
		t.Fatal(err)
	}
	for _, put := range puts {
		var item albumItem
		if err := json.Unmarshal(put.JSON, &item); err != nil {
			t.Fatal(err)
		}
		if !put.ID.IsZero() {
			item.Entry = put.ID
		}
		positions[item.Entry] = item.Position
	}
}
