package main

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/tinylib/msgp/msgp"
	"pgregory.net/rapid"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/fractional"
	"github.com/starling-sync/starling/sdk/rpc/rpctest"
	"github.com/starling-sync/starling/sdk/sdktest"
)

// accepted are values that validItem takes.
func accepted(model sdk.ModelName) []sdktest.ModelOption {
	if model == "album" {
		return nil
	}
	return []sdktest.ModelOption{sdktest.FieldValues("position", "V000aB3x", "V001aB3x", "0001", "z")}
}

func TestAlbum(t *testing.T) { sdktest.Model(t, albums(), accepted("album")...) }
func TestItem(t *testing.T)  { sdktest.Model(t, items(), accepted("album_item")...) }

// TestBinary runs the laws against the plugin as a process of its own.
func TestBinary(t *testing.T) {
	for _, server := range rpctest.Models(t, rpctest.Build(t, ".")) {
		desc, err := server.Describe(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		t.Run(string(desc.Model), func(t *testing.T) { sdktest.Model(t, server, accepted(desc.Model)...) })
	}
}

func TestValidAlbum(t *testing.T) {
	for _, c := range []struct {
		name string
		want sdk.Code
	}{{"holiday", ""}, {"", sdk.CodeInvalid}, {" \n", sdk.CodeInvalid}, {strings.Repeat("n", 257), sdk.CodeTooLarge}} {
		if got := sdk.CodeOf(validAlbum(&Album{Name: c.name})); got != c.want {
			t.Errorf("name %.10q: code %q, want %q", c.name, got, c.want)
		}
	}
}

func TestValidItem(t *testing.T) {
	if err := validItem(&Item{}); err != nil {
		t.Errorf("an item without a position: %v", err)
	}
	for position, want := range map[string]sdk.Code{"V000abcd": "", "": sdk.CodeInvalid, "V0": sdk.CodeInvalid, "1.5": sdk.CodeInvalid} {
		if got := sdk.CodeOf(validItem(&Item{Position: &position})); got != want {
			t.Errorf("position %q: code %q, want %q", position, got, want)
		}
	}
}

// device holds the items of one album, by the model's own merging.
type device struct {
	id      sdk.DeviceID
	clock   hlc.Stamp
	records map[sdk.RecordID]*sdk.Record
	done    []sdk.SharedChanges // what it wrote itself
}

func newDevice(number byte) *device {
	return &device{id: sdk.DeviceID{number}, clock: hlc.Stamp(1000 * int(number)), records: map[sdk.RecordID]*sdk.Record{}}
}

// write has d put or change an item, and returns its id.
func (d *device) write(t *rapid.T, item *Item, names ...string) sdk.RecordID {
	packer, err := items().Packer()
	if err != nil {
		t.Fatal(err)
	}
	if len(names) == 0 {
		packer.Put(item)
	} else if err := packer.Update(item, names...); err != nil {
		t.Fatal(err)
	}
	d.clock++
	batch := packer.Batch()
	for op, err := range batch.Ops() {
		if err != nil {
			t.Fatal(err)
		}
		batch.Rows = sdk.AppendOpHeader(nil, op.ID, d.clock, op.Kind, len(op.Fields))
		for _, f := range op.Fields {
			batch.Rows = msgp.AppendInt(batch.Rows, f.Column)
			batch.Rows = append(batch.Rows, f.Value...)
			batch.Rows = msgp.AppendUint64(batch.Rows, uint64(f.Seen))
		}
	}
	change := sdk.SharedChanges{Batch: batch, Origin: d.id, Local: true}
	d.apply(t, change)
	d.done = append(d.done, change)
	return item.ID
}

func (d *device) apply(t *rapid.T, change sdk.SharedChanges) {
	for op, err := range change.Batch.Ops() {
		if err != nil {
			t.Fatal(err)
		}
		if record := d.records[op.ID]; record != nil {
			change.Current = append(change.Current, *record)
		}
	}
	result, err := items().ApplySharedChange(t.Context(), change)
	if err != nil || len(result.Refused) > 0 {
		t.Fatalf("apply: %v, %v", err, result.Refused)
	}
	for _, record := range result.Records {
		d.records[record.ID] = &record
	}
}

// order returns the album's entries as the page on albums says to order them.
func (d *device) order() []sdk.RecordID {
	type row struct {
		id, entry sdk.RecordID
		position  *string
	}
	var rows []row
	for id, record := range d.records {
		r := row{id: id}
		for _, f := range record.Fields {
			switch value := f.Value.(type) {
			case string:
				r.position = &value
			case sdk.RecordID:
				if f.Name == "entry_id" {
					r.entry = value
				}
			}
		}
		rows = append(rows, r)
	}
	slices.SortFunc(rows, func(a, b row) int {
		switch {
		case a.position == nil && b.position == nil:
			return a.id.Compare(b.id)
		case a.position == nil:
			return 1
		case b.position == nil:
			return -1
		}
		return cmp.Or(cmp.Compare(*a.position, *b.position), a.id.Compare(b.id))
	})
	entries := make([]sdk.RecordID, len(rows))
	for i := range rows {
		entries[i] = rows[i].entry
	}
	return entries
}

// item returns the item of an entry in the one album.
func item(entry byte, position *string) *Item {
	return &Item{Album: sdk.Ref{1}, Entry: sdk.Ref{entry + 1}, Position: position}
}

// between returns a position after the i-th and before the next item of d.
func (d *device) between(t *rapid.T, i int) *string {
	var positions []string
	for _, record := range d.records {
		for _, f := range record.Fields {
			if value, ok := f.Value.(string); ok {
				positions = append(positions, value)
			}
		}
	}
	slices.Sort(positions)
	a, b := "", ""
	if i = min(i, len(positions)); i > 0 {
		a = positions[i-1]
	}
	if i < len(positions) {
		b = positions[i]
	}
	if a == b && a != "" { // never by chance
		t.Fatalf("two items have the position %q", a)
	}
	made, err := fractional.Between(a, b)
	if err != nil {
		t.Fatal(err)
	}
	return &made
}

// TestItem_Concurrent has two devices add to and move in one album without hearing of one another, then hear of everything
// in any order: both have every entry that either added, once, in the same order, and what only one of them moved is where
// that one put it.
func TestItem_Concurrent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := newDevice(1), newDevice(2)
		common := rapid.IntRange(0, 6).Draw(t, "common")
		for i := range common {
			a.write(t, item(byte(i), a.between(t, i)))
		}
		for _, change := range a.done {
			b.apply(t, change)
		}
		if !slices.Equal(a.order(), b.order()) {
			t.Fatal("they differ from the beginning")
		}
		a.done = nil
		added := map[byte]bool{}
		for i := range common {
			added[byte(i)] = true
		}
		for _, d := range []*device{a, b} {
			for range rapid.IntRange(0, 8).Draw(t, "writes") {
				entry := byte(rapid.IntRange(0, 12).Draw(t, "entry"))
				position := d.between(t, rapid.IntRange(0, 12).Draw(t, "place"))
				if rapid.Bool().Draw(t, "at the end") {
					position = nil
				}
				added[entry] = true
				d.write(t, item(entry, position))
			}
		}
		exchange(t, a, b)
		if !slices.Equal(a.order(), b.order()) {
			t.Fatalf("orders differ:\n%v\n%v", a.order(), b.order())
		}
		if len(a.order()) != len(added) {
			t.Fatalf("%d items of %d entries that were added", len(a.order()), len(added))
		}
	})
}

func exchange(t *rapid.T, a, b *device) {
	for _, way := range [][2]*device{{a, b}, {b, a}} {
		from := slices.Clone(way[0].done)
		seed := rapid.Uint64().Draw(t, "order")
		rand.New(rand.NewPCG(seed, 0)).Shuffle(len(from), func(i, j int) { from[i], from[j] = from[j], from[i] }) //nolint:gosec // replayable
		for _, change := range from {
			change.Local, change.Current = false, nil
			way[1].apply(t, change)
		}
	}
}

// TestItem_LaterMoveWins moves one item on two devices; where the later one put it, it is.
func TestItem_LaterMoveWins(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := newDevice(1), newDevice(2)
		var moved *Item
		for i := range 3 {
			moved = item(byte(i), a.between(t, i))
			a.write(t, moved)
		}
		for _, change := range a.done {
			b.apply(t, change)
		}
		a.done = nil
		front, back := *moved, *moved
		front.Position = a.between(t, 0)
		a.write(t, &front, "position")
		back.Position = b.between(t, 1)
		b.write(t, &back, "position") // b's clock is ahead of a's
		exchange(t, a, b)
		want := []sdk.RecordID{{1}, {3}, {2}}
		if !slices.Equal(a.order(), want) || !slices.Equal(b.order(), want) {
			t.Fatalf("orders %v and %v, want %v", a.order(), b.order(), want)
		}
	})
}
