package registry_test

import (
	"encoding/binary"
	"math"
	"testing"

	"github.com/starling-sync/starling/host/history"
	"github.com/starling-sync/starling/sdk"
)

// Box is a second device-owned model.
type Box struct {
	sdk.Owned
	Name string `starling:"name,required"`
}

func boxes() sdk.Model[Box] { return sdk.Model[Box]{Name: "box", Version: 1} }

// merged joins pages of one stream that follow each other, as the sync engine does with live ones.
func merged(list ...page) page {
	p := list[0]
	p.through = list[len(list)-1].through
	p.batches = nil
	for i := range list {
		p.batches = append(p.batches, list[i].batches...)
	}
	return p
}

// TestMergedPages applies pages in which several batches of one model stand around one of another.
func TestMergedPages(t *testing.T) {
	put := func(parent byte) sdk.Batch { return packed(t, files(), file(1, parent, "x")) }
	for name, tc := range map[string]struct {
		before, first, last sdk.Batch
	}{
		"put then delete": {first: put(0), last: deletes(t, files(), rid(1))},
		"delete then put": {before: put(0), first: deletes(t, files(), rid(1)), last: put(0)},
		"show then hide":  {first: put(0), last: put(77)},
		"hide then show":  {first: put(77), last: put(0)},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := newDevice(t, 1, files(), boxes()), newDevice(t, 2, files(), boxes())
			stream := history.Stream{Origin: a.id, Kind: sdk.DeviceOwned}
			if tc.before.Count > 0 {
				a.own(tc.before)
				b.apply(merged(a.pages(stream, 0, true)...))
				a.told = nil
			}
			a.own(tc.first)
			a.own(packed(t, boxes(), &Box{Name: "between"}))
			a.own(tc.last)
			b.apply(merged(a.pages(stream, 0, true)...))
			wantEqual(t, a, b)
		})
	}
}

// TestNegativeZero has one device hold a value in its table that the shadow of another holds.
func TestNegativeZero(t *testing.T) {
	a, b := newDevice(t, 1, files()), newDevice(t, 2, files())
	row := sdk.Batch{Model: "file", Version: 1, Columns: []string{"name", "ratio", "parent_id"}, Count: 1}
	row.Rows = sdk.AppendValue(sdk.AppendStateHeader(nil, rid(3), 50, 3), "y")
	row.Rows = binary.BigEndian.AppendUint64(append(row.Rows, 0xcb), math.Float64bits(math.Copysign(0, -1))) // as another make packs it
	row.Rows = sdk.AppendValue(row.Rows, rid(1))
	foreign := page{stream: history.Stream{Origin: deviceID(9), Kind: sdk.DeviceOwned}, through: 60, batches: []sdk.Batch{row}}
	a.own(packed(t, files(), file(1, 0, "parent")))
	a.apply(foreign)
	a.own(deletes(t, files(), rid(1)))
	b.apply(foreign)
	b.pull(a, 1<<20)
	wantEqual(t, a, b)
}
