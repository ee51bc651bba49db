package registry_test

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/registry"
	"github.com/starling-sync/starling/sdk"
)

// Memo is hybrid: on a file it belongs to the file's device, on content it is shared.
type Memo struct {
	sdk.Hybrid
	File    sdk.Ref `starling:"file_id,ref=file,owner,key"`
	Content *string `starling:"content,key"`
	Note    string  `starling:"note"`
}

// MemoV2 is a later version of Memo.
type MemoV2 struct {
	sdk.Hybrid
	File    sdk.Ref `starling:"file_id,ref=file,owner,key"`
	Content *string `starling:"content,key"`
	Note    string  `starling:"note"`
	Stars   int64   `starling:"stars"`
}

func memos() sdk.Model[Memo]     { return sdk.Model[Memo]{Name: "memo", Version: 1} }
func memosV2() sdk.Model[MemoV2] { return sdk.Model[MemoV2]{Name: "memo", Version: 2} }

func onFile(n byte) sdk.RecordID { return sdk.KeyID("memo", rid(n), nil) }

func onContent(hash string) sdk.RecordID { return sdk.KeyID("memo", nil, hash) }

// memo packs one memo, on a file or on content.
func memo(tb testing.TB, n byte, hash, note string) sdk.Batch {
	tb.Helper()
	m := &MemoV2{Note: note, Stars: 5}
	kind := sdk.SharedByAll
	if n != 0 {
		m.File, kind = sdk.Ref(rid(n)), sdk.DeviceOwned
	}
	if hash != "" {
		m.Content = &hash
	}
	packer, err := memosV2().PackerOf(kind)
	if err != nil {
		tb.Fatal(err)
	}
	packer.Put(m)
	b := packer.Batch()
	return b
}

// memoV1 is memo of the first version.
func memoV1(tb testing.TB, n byte, hash, note string) sdk.Batch {
	tb.Helper()
	m, kind := &Memo{Note: note}, sdk.SharedByAll
	if n != 0 {
		m.File, kind = sdk.Ref(rid(n)), sdk.DeviceOwned
	}
	if hash != "" {
		m.Content = &hash
	}
	packer, err := memos().PackerOf(kind)
	if err != nil {
		tb.Fatal(err)
	}
	packer.Put(m)
	return packer.Batch()
}

// view returns what SQL sees: the note of each memo, and whether somebody owns it.
func (d *device) view() (lines []string) {
	d.tb.Helper()
	err := d.db.Read(context.Background(), func(tx *database.Tx) error {
		return tx.Each("SELECT note, _owner IS NOT NULL FROM memo ORDER BY note", nil, func(rows *sql.Rows) error {
			var note string
			var owned bool
			err := rows.Scan(&note, &owned)
			lines = append(lines, fmt.Sprint(note, " ", owned))
			return err
		})
	})
	if err != nil {
		d.tb.Fatal(err)
	}
	return lines
}

func (d *device) wantView(want ...string) {
	d.tb.Helper()
	if diff := cmp.Diff(want, d.view()); diff != "" {
		d.tb.Errorf("the view of %s (-want +got):\n%s", d.id, diff)
	}
}

// hybrids are two devices with memos on files and on content, and one that has no plugin for memos.
type hybrids struct{ a, b, absent *device }

// hybridView is what all of them see.
var hybridView = []string{"on eleven true", "on h by b false", "on one true"} //nolint:gochecknoglobals // a table

func newHybrids(t *testing.T) hybrids {
	t.Helper()
	h := hybrids{newDevice(t, 1, files(), memos()), newDevice(t, 2, files(), memos()), newDevice(t, 3, files())}
	h.a.own(packed(t, files(), file(1, 0, "one"), file(2, 0, "two")))
	h.b.own(packed(t, files(), file(11, 0, "eleven")))
	h.a.own(memoV1(t, 1, "", "on one"))
	h.a.share(memoV1(t, 0, "h", "on h by a"))
	h.b.own(memoV1(t, 11, "", "on eleven"))
	for _, d := range []*device{h.a, h.b, h.absent} {
		for _, from := range []*device{h.a, h.b} {
			if d != from {
				d.pull(from, 100)
			}
		}
	}
	h.b.share(memoV1(t, 0, "h", "on h by b"))
	h.a.pull(h.b, 100)
	h.absent.pull(h.b, 100)
	return h
}

// newer has both devices serve the second version, and a write two memos of it.
func (h hybrids) newer(t *testing.T) {
	t.Helper()
	h.a.add(memosV2())
	h.b.add(memosV2())
	h.a.own(memo(t, 2, "", "on two"))
	h.a.share(memo(t, 0, "i", "on i"))
	h.b.pull(h.a, 100)
}

// TestHybrid_empty wants the digest of a hybrid model without records to be that of any other.
func TestHybrid_empty(t *testing.T) {
	digests, err := newDevice(t, 1, files(), memos()).registry.Digest(t.Context())
	if err != nil || len(digests) < 2 {
		t.Fatalf("%v, %v", digests, err)
	}
	for _, d := range digests {
		if d.Rows != 0 || d.Digest != digests[0].Digest {
			t.Errorf("%s: %d records, %x; want none, and %x", d.Model, d.Rows, d.Digest, digests[0].Digest)
		}
	}
}

func TestHybrid(t *testing.T) {
	h := newHybrids(t)
	h.a.wantView(hybridView...)
	h.b.wantView(hybridView...)
	wantEqual(t, h.a, h.b)
}

// TestHybrid_refused writes at a what is not its own, and what is of the other kind.
func TestHybrid_refused(t *testing.T) {
	a := newHybrids(t).a
	put := func(kind sdk.Ownership, m *Memo) sdk.Batch {
		packer, err := memos().PackerOf(kind)
		if err != nil {
			t.Fatal(err)
		}
		packer.Put(m)
		return packer.Batch()
	}
	hash := "x"
	for _, c := range []struct {
		name  string
		kind  sdk.Ownership
		batch sdk.Batch
		code  sdk.Code
	}{
		{"on another's file", sdk.DeviceOwned, memoV1(t, 11, "", "mine"), sdk.CodeNotOwner},
		{"on a file that is not there", sdk.DeviceOwned, memoV1(t, 99, "", "mine"), sdk.CodeNotFound},
		{"an operation on an owned one", sdk.SharedByAll, put(sdk.SharedByAll, &Memo{File: sdk.Ref(rid(2)), Note: "x"}), sdk.CodeInvalid},
		{"a row of a shared one", sdk.DeviceOwned, put(sdk.DeviceOwned, &Memo{Content: &hash, Note: "x"}), sdk.CodeInvalid},
		{"on nothing", sdk.SharedByAll, memoV1(t, 0, "", "on nothing"), sdk.CodeInvalid},
	} {
		commit := a.manager.CommitShared
		if c.kind == sdk.DeviceOwned {
			commit = a.manager.CommitDeviceOwned
		}
		result, err := commit(t.Context(), c.batch)
		if err != nil || len(result.Refused) != 1 || result.Refused[0].Code != c.code || !strings.Contains(result.Refused[0].Message, "memo") {
			t.Errorf("%s: %+v, %v; want it refused as %s, with word of its model", c.name, result, err, c.code)
		}
	}
}

// TestHybrid_oneName reads both kinds by the name of the model.
func TestHybrid_oneName(t *testing.T) {
	a := newHybrids(t).a
	for id, note := range map[sdk.RecordID]string{onFile(1): "on one", onContent("h"): "on h by b"} {
		row, found := a.get("memo", id)
		if !found || row.Value("note") != note || row.Model != "memo" || row.Owner.IsZero() != (id == onContent("h")) {
			t.Errorf("%+v, %v", row, found)
		}
		if e := a.explain("memo", id); e.Model != "memo" || !e.Visible {
			t.Errorf("%+v", e)
		}
	}
	if ids := a.ids("memo", false); len(ids) != 3 || !slices.IsSortedFunc(ids, sdk.RecordID.Compare) {
		t.Errorf("list: %v", ids)
	}
	if c := a.counts("memo"); c.Visible != 3 {
		t.Errorf("%+v", c)
	}
	var names []sdk.ModelName
	for _, desc := range a.registry.Descriptions() {
		names = append(names, desc.Model)
	}
	slices.Sort(names)
	if diff := cmp.Diff([]sdk.ModelName{"file", "memo"}, names); diff != "" {
		t.Error(diff)
	}
	if _, err := a.registry.Get(t.Context(), "memo__owned", onFile(1)); sdk.CodeOf(err) != sdk.CodeUnknownModel {
		t.Errorf("a part by its own name: %v", err)
	}
}

// TestHybrid_withoutPlugin keeps a model without its plugin, passes it on, and shows it once the plugin is there.
func TestHybrid_withoutPlugin(t *testing.T) {
	h := newHybrids(t)
	if c := h.absent.counts("memo"); c.Parked == 0 {
		t.Errorf("%+v", c)
	}
	fresh := newDevice(t, 4, files(), memos())
	fresh.snapshot(h.absent, 1, nil)
	h.absent.add(memos())
	h.absent.wantView(hybridView...)
	fresh.wantView(hybridView...)
	wantEqual(t, h.a, h.absent, fresh)
}

// TestHybrid_newerSchema has a device of the first version get records of the second one.
func TestHybrid_newerSchema(t *testing.T) {
	h := newHybrids(t)
	h.a.add(memosV2())
	h.a.own(memo(t, 2, "", "on two"))
	h.a.share(memo(t, 0, "i", "on i"))
	h.b.pull(h.a, 100)
	wantEqual(t, h.a, h.b)
	h.b.add(memosV2())
	wantEqual(t, h.a, h.b)
	for _, id := range []sdk.RecordID{onFile(2), onContent("i")} {
		if row, _ := h.b.get("memo", id); row.Value("stars") != int64(5) {
			t.Errorf("%+v", row)
		}
	}
}

// TestHybrid_withItsFile deletes a file: the memo on it goes with it, and waits.
func TestHybrid_withItsFile(t *testing.T) {
	h := newHybrids(t)
	h.a.own(deletes(t, files(), rid(1)))
	h.b.pull(h.a, 100)
	h.b.wantView("on eleven true", "on h by b false")
	if ids := h.b.ids("memo", true); !slices.Equal(ids, []sdk.RecordID{onFile(1)}) {
		t.Errorf("hidden: %v", ids)
	}
	list, err := h.b.registry.Waiting(t.Context(), 10)
	if err != nil || len(list) != 1 || list[0].Model != "memo" {
		t.Errorf("%+v, %v", list, err)
	}
	wantEqual(t, h.a, h.b)
}

// TestHybrid_watch tells a watcher of both kinds.
func TestHybrid_watch(t *testing.T) {
	h := newHybrids(t)
	h.newer(t)
	events, end := h.b.registry.Watch("memo")
	h.a.own(memo(t, 2, "", "on two again"))
	h.a.share(memo(t, 0, "i", "on i again"))
	h.b.pull(h.a, 100)
	end()
	told := map[string]bool{}
	for e := range events {
		told[fmt.Sprint(e.Model, " ", e.ID)] = true
	}
	if len(told) != 2 || !told[fmt.Sprint("memo ", onFile(2))] || !told[fmt.Sprint("memo ", onContent("i"))] {
		t.Errorf("%v", told)
	}
}

// TestHybrid_delete deletes one of each kind.
func TestHybrid_delete(t *testing.T) {
	h := newHybrids(t)
	h.newer(t)
	remove := func(kind sdk.Ownership, id sdk.RecordID) sdk.Batch {
		packer, err := memosV2().PackerOf(kind)
		if err != nil {
			t.Fatal(err)
		}
		packer.Delete(id)
		return packer.Batch()
	}
	h.a.own(remove(sdk.DeviceOwned, onFile(2)))
	h.a.share(remove(sdk.SharedByAll, onContent("h")))
	h.b.pull(h.a, 100)
	h.b.wantView("on eleven true", "on i false", "on one true")
	wantEqual(t, h.a, h.b)
}

// TestHybrid_audit repairs records of both kinds.
func TestHybrid_audit(t *testing.T) {
	a, b := newDevice(t, 1, files(), memos()), newDevice(t, 2, files(), memos())
	a.own(packed(t, files(), file(1, 0, "one"), file(2, 0, "two")))
	a.own(memoV1(t, 1, "", "on one"))
	a.share(memoV1(t, 0, "h", "on h"))
	b.pull(a, 1<<20)
	a.own(memoV1(t, 2, "", "on two"))
	a.share(memoV1(t, 0, "i", "on i"))
	var kinds []string
	for _, d := range a.audit() {
		kinds = append(kinds, fmt.Sprint(d.Model, " ", d.Kind))
	}
	if diff := cmp.Diff([]string{"file device", "memo shared", "memo__owned device"}, kinds); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if n := repairKinds(a, b); n != 2 {
		t.Errorf("%d records repaired", n)
	}
	wantEqual(t, a, b)
	b.wantView("on h false", "on i false", "on one true", "on two true")
}

// repairKinds is repair, as the host does it: each model with the kind that its digests have.
func repairKinds(a, b *device) (n int) {
	for _, d := range a.audit() {
		q := registry.RangeQuery{Kind: d.Kind, After: registry.Place{Model: d.Model}, Until: registry.Place{Model: d.Model, ID: sdk.RecordID(slices.Repeat([]byte{0xff}, 16))}, MaxBytes: 4000}
		for _, in := range incoming(q, a.ranges(q), nil, nil) {
			n += b.take(in).Repairs
		}
	}
	return n
}

// TestHybrid_list reads the records of both parts in pages, in one order.
func TestHybrid_list(t *testing.T) {
	a := newDevice(t, 1, files(), memos())
	var on []*File
	owned, err := memos().PackerOf(sdk.DeviceOwned)
	if err != nil {
		t.Fatal(err)
	}
	shared, err := memos().PackerOf(sdk.SharedByAll)
	if err != nil {
		t.Fatal(err)
	}
	for n := range 700 {
		on = append(on, &File{Owned: sdk.Owned{ID: spread(n)}, Name: "f"})
		owned.Put(&Memo{File: sdk.Ref(spread(n)), Note: fmt.Sprint(n % 2)})
		hash := fmt.Sprint("h", n)
		shared.Put(&Memo{Content: &hash, Note: fmt.Sprint(n % 2)})
	}
	a.own(packed(t, files(), on...))
	a.own(owned.Batch())
	a.share(shared.Batch())
	for _, limit := range []int{0, 1, 7, 900, 1350} {
		var ids []sdk.RecordID
		err := a.registry.List(t.Context(), "memo", registry.Filter{Limit: limit}, func(row registry.Row) error {
			ids = append(ids, row.ID)
			return nil
		})
		want := limit
		if limit == 0 {
			want = 1400
		}
		if err != nil || len(ids) != want || !slices.IsSortedFunc(ids, sdk.RecordID.Compare) || len(slices.Compact(ids)) != want {
			t.Errorf("limit %d: %d ids, %v", limit, len(ids), err)
		}
	}
	count := 0
	err = a.registry.List(t.Context(), "memo", registry.Filter{Field: "note", Value: "1"}, func(registry.Row) error { count++; return nil })
	if err != nil || count != 700 {
		t.Errorf("%d, %v", count, err)
	}
}
