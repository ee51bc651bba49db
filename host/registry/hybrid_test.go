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

func TestHybrid(t *testing.T) {
	a, b := newDevice(t, 1, files(), memos()), newDevice(t, 2, files(), memos())
	absent := newDevice(t, 3, files())
	a.own(packed(t, files(), file(1, 0, "one"), file(2, 0, "two")))
	b.own(packed(t, files(), file(11, 0, "eleven")))
	a.own(memoV1(t, 1, "", "on one"))
	a.share(memoV1(t, 0, "h", "on h by a"))
	b.own(memoV1(t, 11, "", "on eleven"))
	for _, d := range []*device{a, b, absent} {
		for _, from := range []*device{a, b} {
			if d != from {
				d.pull(from, 100)
			}
		}
	}
	b.share(memoV1(t, 0, "h", "on h by b"))
	a.pull(b, 100)
	absent.pull(b, 100)
	want := []string{"on eleven true", "on h by b false", "on one true"}
	a.wantView(want...)
	b.wantView(want...)
	wantEqual(t, a, b)

	t.Run("a local write elsewhere is refused", func(t *testing.T) {
		for n, code := range map[byte]sdk.Code{11: sdk.CodeNotOwner, 99: sdk.CodeNotFound} {
			result, err := a.manager.CommitDeviceOwned(t.Context(), memoV1(t, n, "", "mine"))
			if err != nil || len(result.Refused) != 1 || result.Refused[0].Code != code || !strings.Contains(result.Refused[0].Message, "memo") {
				t.Errorf("%d: %+v, %v", n, result, err)
			}
		}
		for what, batch := range map[string]sdk.Batch{"an operation on an owned one": memoV1(t, 2, "", "x"), "a row of a shared one": memoV1(t, 0, "x", "x")} {
			m := &Memo{Note: "x"}
			kind, commit := sdk.SharedByAll, a.manager.CommitShared
			if what[0] == 'a' && strings.Contains(what, "row") {
				hash := "x"
				m.Content, kind, commit = &hash, sdk.DeviceOwned, a.manager.CommitDeviceOwned
			} else {
				m.File = sdk.Ref(rid(2))
			}
			packer, err := memos().PackerOf(kind)
			if err != nil {
				t.Fatal(err)
			}
			packer.Put(m)
			_ = batch
			result, err := commit(t.Context(), packer.Batch())
			if err != nil || len(result.Refused) != 1 || result.Refused[0].Code != sdk.CodeInvalid {
				t.Errorf("%s: %+v, %v", what, result, err)
			}
		}
		result, err := a.manager.CommitShared(t.Context(), memoV1(t, 0, "", "on nothing"))
		if err != nil || len(result.Refused) != 1 || result.Refused[0].Code != sdk.CodeInvalid {
			t.Errorf("a memo on nothing: %+v, %v", result, err)
		}
	})
	t.Run("both kinds are read by the one name", func(t *testing.T) {
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
	})
	t.Run("a model without a plugin is kept, and appears with it", func(t *testing.T) {
		if c := absent.counts("memo"); c.Parked == 0 {
			t.Errorf("%+v", c)
		}
		fresh := newDevice(t, 4, files(), memos())
		fresh.snapshot(absent, 1, nil)
		absent.add(memos())
		absent.wantView(want...)
		fresh.wantView(want...)
		wantEqual(t, a, absent, fresh)
	})
	t.Run("a newer schema", func(t *testing.T) {
		old := b
		a.add(memosV2())
		a.own(memo(t, 2, "", "on two"))
		a.share(memo(t, 0, "i", "on i"))
		old.pull(a, 100)
		wantEqual(t, a, old)
		old.add(memosV2())
		wantEqual(t, a, old)
		for _, id := range []sdk.RecordID{onFile(2), onContent("i")} {
			if row, _ := old.get("memo", id); row.Value("stars") != int64(5) {
				t.Errorf("%+v", row)
			}
		}
	})
	t.Run("an owned one goes with what it is on", func(t *testing.T) {
		a.own(deletes(t, files(), rid(1)))
		b.pull(a, 100)
		b.wantView("on eleven true", "on h by b false", "on i false", "on two true")
		if ids := b.ids("memo", true); !slices.Equal(ids, []sdk.RecordID{onFile(1)}) {
			t.Errorf("hidden: %v", ids)
		}
		list, err := b.registry.Waiting(t.Context(), 10)
		if err != nil || len(list) != 1 || list[0].Model != "memo" {
			t.Errorf("%+v, %v", list, err)
		}
		wantEqual(t, a, b)
	})
	t.Run("a watcher hears of both", func(t *testing.T) {
		events, end := b.registry.Watch("memo")
		a.own(memo(t, 2, "", "on two again"))
		a.share(memo(t, 0, "i", "on i again"))
		b.pull(a, 100)
		end()
		told := map[string]bool{}
		for e := range events {
			told[fmt.Sprint(e.Model, " ", e.ID)] = true
		}
		if len(told) != 2 || !told[fmt.Sprint("memo ", onFile(2))] || !told[fmt.Sprint("memo ", onContent("i"))] {
			t.Errorf("%v", told)
		}
	})
	t.Run("deleted", func(t *testing.T) {
		packer, err := memosV2().PackerOf(sdk.DeviceOwned)
		if err != nil {
			t.Fatal(err)
		}
		packer.Delete(onFile(2))
		a.own(packer.Batch())
		if packer, err = memosV2().PackerOf(sdk.SharedByAll); err != nil {
			t.Fatal(err)
		}
		packer.Delete(onContent("h"))
		a.share(packer.Batch())
		b.pull(a, 100)
		b.wantView("on eleven true", "on i again false")
		wantEqual(t, a, b)
	})
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
