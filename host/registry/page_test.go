package registry_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/tinylib/msgp/msgp"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/registry"
	"github.com/starling-sync/starling/sdk"
)

// The digests of audits, made by what PROTOCOL.md says of them under "Audit", and of nothing else.

func pagePacked(tb testing.TB, values ...any) (b []byte) {
	tb.Helper()
	for _, v := range values {
		var err error
		if b, err = msgp.AppendIntf(b, v); err != nil {
			tb.Fatal(err)
		}
	}
	return b
}

func pageVersion(stamp hlc.Stamp, by sdk.DeviceID) []byte {
	return append(binary.BigEndian.AppendUint64(nil, uint64(stamp)), by[:]...)
}

// pageRecord is a record in the form in which it is summed.
type pageRecord struct {
	id   sdk.RecordID
	rest []byte // after the packed id
}

// pageRanges sums records, in any order, range by range, and all of them.
func pageRanges(tb testing.TB, records []pageRecord) (ranges []registry.RangeDigest, total registry.AuditDigest) {
	tb.Helper()
	slices.SortFunc(records, func(a, b pageRecord) int { return a.id.Compare(b.id) })
	var last sdk.RecordID
	for i := range last {
		last[i] = 0xff
	}
	var summed, all []byte
	end := func(until sdk.RecordID) {
		r := registry.RangeDigest{Until: until}
		sum := sha256.Sum256(summed)
		copy(r.Digest[:], sum[:])
		ranges, summed = append(ranges, r), nil
		all = slices.Concat(all, until[:], r.Digest[:])
	}
	for _, r := range records {
		b := append(pagePacked(tb, r.id[:]), r.rest...)
		summed = slices.Concat(summed, binary.BigEndian.AppendUint32(nil, uint32(len(b))), b) //nolint:gosec // small
		h, l := binary.BigEndian.Uint64(r.id[:8]), binary.BigEndian.Uint64(r.id[8:])
		if ((h*0x9e3779b97f4a7c15)^l)*0xbf58476d1ce4e5b9 < 1<<56 {
			end(r.id)
		}
	}
	if len(summed) > 0 {
		end(last)
	}
	sum := sha256.Sum256(all)
	copy(total[:], sum[:])
	return ranges, total
}

func TestAuditDigests_page(t *testing.T) {
	a, b := newDevice(t, 1, files(), tunesV2()), newDevice(t, 2, tunesV2())
	// One of the parts that count is of each device; which of the two has the lesser id is drawn.
	a.share(said(t, 1, sdk.Insert, `{"name":"n","words":["b","a"],"years":[1999,70000],"plays":2,"high":3}`))
	first := a.clock.Last()
	b.pull(a, 1<<20)
	b.wall = b.wall.Add(1e9)
	b.share(said(t, 1, sdk.Update, `{"words":{"remove":["a"],"add":["c"]},"plays":{"add":-40},"high":2,"low":null}`))
	second := b.clock.Last()
	a.pull(b, 1<<20)

	taking := b.part
	taking[7] ^= 1
	parts := []any{[]any{a.part[:], 0, uint64(first), int64(2)}, []any{taking[:], 1, uint64(second), int64(-40)}}
	if bytes.Compare(a.part[:], taking[:]) > 0 {
		slices.Reverse(parts)
	}
	devices := []any{a.id[:], b.id[:]}
	tune := pageRecord{id: rid(1), rest: slices.Concat(
		pageVersion(first, a.id),
		pagePacked(t, "high"), pageVersion(first, a.id), pagePacked(t, int64(3)),
		pagePacked(t, "low"), pageVersion(second, b.id), pagePacked(t, nil),
		pagePacked(t, "name"), pageVersion(first, a.id), pagePacked(t, "n"),
		pagePacked(t, "plays"), pageVersion(second, b.id), pagePacked(t, int64(-38)), pagePacked(t, pagePacked(t, []any{"counter", devices, parts})),
		pagePacked(t, "words"), pageVersion(second, b.id), pagePacked(t, `["b","c"]`), pagePacked(t, pagePacked(t, []any{"set", devices,
			[]any{[]any{"a", 1, uint64(first)}, []any{"b", 0, uint64(first)}, []any{"c", 2, uint64(second)}}})),
		pagePacked(t, "years"), pageVersion(first, a.id), pagePacked(t, `[1999,70000]`), pagePacked(t, pagePacked(t, []any{"set", []any{a.id[:]},
			[]any{[]any{int64(1999), 0, uint64(first)}, []any{int64(70000), 0, uint64(first)}}})),
	)}
	a.share(said(t, 2, sdk.Insert, `{"name":"gone"}`))
	a.share(deletes(t, tunesV2(), rid(2)))

	var all []pageRecord
	for n := range 2000 {
		f := file(0, 0, "x")
		f.ID, f.Size = spread(n), int64(n)-700
		a.own(packed(t, files(), f))
		all = append(all, pageRecord{id: f.ID, rest: slices.Concat(pageVersion(a.clock.Last(), a.id),
			pagePacked(t, "name", "x", "ratio", float64(0), "size", f.Size))})
	}
	waits := file(9, 8, "waits")
	a.own(packed(t, files(), waits))
	all = append(all, pageRecord{id: waits.ID, rest: slices.Concat(pageVersion(a.clock.Last(), a.id),
		pagePacked(t, "name", "waits", "parent_id"), pagePacked(t, waits.Parent[:], "ratio", float64(0), "size", int64(0)))})

	for _, want := range []struct {
		model   sdk.ModelName
		records []pageRecord
	}{{"file", all}, {"tune", []pageRecord{tune}}} {
		ranges, total := pageRanges(t, want.records)
		for _, got := range a.audit() {
			if got.Model != want.model {
				continue
			}
			if diff := cmp.Diff(ranges, got.Ranges); diff != "" || got.Total != total {
				t.Errorf("%s (-page +code):\n%s", want.model, diff)
			}
		}
		if want.model == "file" && len(ranges) < 3 {
			t.Errorf("%d ranges show nothing of where they end", len(ranges))
		}
	}
}
