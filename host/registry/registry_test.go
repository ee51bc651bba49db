package registry_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/history"
	"github.com/starling-sync/starling/sdk"
)

func rid(n byte) sdk.RecordID { return sdk.RecordID{0: 1, 15: n} }

func file(n, parent byte, name string) *File {
	f := &File{Owned: sdk.Owned{ID: rid(n)}, Name: name}
	if parent != 0 {
		f.Parent = sdk.Ref(rid(parent))
	}
	return f
}

func label(n, parent byte, name string) *Label {
	l := &Label{Shared: sdk.Shared{ID: rid(n)}, Name: name}
	if parent != 0 {
		l.Parent = sdk.Ref(rid(parent))
	}
	return l
}

func mark(label, target byte) *Mark {
	return &Mark{Label: sdk.Ref(rid(label)), Target: sdk.AnyRef(rid(target))}
}

// wantEqual fails the test where devices hold different records, or show what they should not.
func wantEqual(t testing.TB, devices ...*device) {
	t.Helper()
	want := devices[0].digests()
	for _, d := range devices {
		if diff := cmp.Diff(want, d.digests()); diff != "" {
			t.Errorf("digests of %s and %s differ (-want +got):\n%s", devices[0].id, d.id, diff)
		}
		d.checkInvariants()
	}
}

func TestTwoDevices(t *testing.T) {
	a, b := newDevice(t, 1, allModels()...), newDevice(t, 2, allModels()...)
	a.own(packed(t, files(), file(1, 0, "root"), file(2, 1, "child"), file(3, 2, "grandchild")))
	b.own(packed(t, files(), file(11, 0, "other")))
	a.share(packed(t, labels(), label(101, 0, "work"), label(102, 101, "home")), packed(t, marks(), mark(101, 3), mark(102, 11)))
	b.pull(a, 1<<20)
	a.pull(b, 1<<20)
	wantEqual(t, a, b)
	if got := len(a.ids("mark", false)); got != 2 {
		t.Errorf("%d marks are visible; want 2", got)
	}

	t.Run("concurrent edits of different fields both survive", func(t *testing.T) {
		a.share(updates(t, labels(), label(101, 0, "job"), "name"))
		b.share(updates(t, labels(), &Label{Shared: sdk.Shared{ID: rid(101)}, Color: "blue"}, "color"))
		a.pull(b, 1<<20)
		b.pull(a, 1<<20)
		wantEqual(t, a, b)
		row, _ := b.get("label", rid(101))
		if row.Value("name") != "job" || row.Value("color") != "blue" {
			t.Errorf("got %v", row.Fields)
		}
	})
	t.Run("of the same field the later wins and the other is kept", func(t *testing.T) {
		a.share(updates(t, labels(), label(101, 0, "first"), "name"))
		b.wall = b.wall.Add(1000_000_000)
		b.share(updates(t, labels(), label(101, 0, "second"), "name"))
		a.pull(b, 1<<20)
		b.pull(a, 1<<20)
		wantEqual(t, a, b)
		for _, d := range []*device{a, b} {
			row, _ := d.get("label", rid(101))
			list, err := d.registry.Conflicts(context.Background(), "label", rid(101))
			if err != nil || row.Value("name") != "second" || len(list) != 1 || list[0].Value != "first" {
				t.Errorf("%s: name %v, conflicts %v, %v", d.id, row.Value("name"), list, err)
			}
		}
	})
	t.Run("deletes of both kinds arrive", func(t *testing.T) {
		a.own(deletes(t, files(), rid(3), rid(2)))
		b.share(deletes(t, labels(), rid(102)))
		a.pull(b, 1<<20)
		b.pull(a, 1<<20)
		wantEqual(t, a, b)
		if _, ok := b.get("file", rid(3)); ok {
			t.Error("file 3 is still there")
		}
		if got := b.ids("mark", true); len(got) != 2 { // one for each target that is gone
			t.Errorf("marks %v wait; want two", got)
		}
	})
	t.Run("nothing is left to send", func(t *testing.T) {
		if diff := cmp.Diff(a.vector(), b.vector()); diff != "" {
			t.Error(diff)
		}
	})
}

func TestOwnership(t *testing.T) {
	ctx := context.Background()
	a, b, c := newDevice(t, 1, allModels()...), newDevice(t, 2, allModels()...), newDevice(t, 3, allModels()...)
	a.own(packed(t, files(), file(1, 0, "a's")))
	b.pull(a, 1<<20)
	result, err := b.manager.CommitDeviceOwned(ctx, packed(t, files(), file(2, 0, "b's"), file(1, 0, "stolen")), deletes(t, files(), rid(1)))
	if err != nil || result.Written != 1 || len(result.Refused) != 2 {
		t.Fatalf("got %+v, %v; want one written, two refused", result, err)
	}
	if r := result.Refused[0]; r.Batch != 0 || r.Index != 1 || r.Code != sdk.CodeNotOwner {
		t.Errorf("refused %+v", r)
	}
	if r := result.Refused[1]; r.Batch != 1 || r.Index != 0 || r.Code != sdk.CodeNotOwner {
		t.Errorf("refused %+v", r)
	}
	t.Log(result.Refused[0].Message)

	// c hears of the record from its owner, then from one that claims it.
	c.pull(a, 1<<20)
	forged := packed(t, files(), file(1, 0, "forged"))
	forged.Rows = sdk.AppendStateHeader(nil, rid(1), c.clock.Last()+5, 5)
	for _, v := range []any{"forged", int64(1), nil, 0.0, nil} {
		forged.Rows = sdk.AppendValue(forged.Rows, v)
	}
	dead := sdk.Batch{Model: "file", Version: 1, Columns: forged.Columns, Count: 1, Rows: sdk.AppendStateHeader(nil, rid(1), c.clock.Last()+6, -1)}
	for _, batch := range []sdk.Batch{forged, dead} {
		outcome := c.apply(page{stream: history.Stream{Origin: b.id, Kind: sdk.DeviceOwned}, through: c.clock.Last() + 9, batches: []sdk.Batch{batch}})
		if outcome.Refused != 1 || outcome.Written != 0 {
			t.Errorf("outcome %+v; want it refused", outcome)
		}
	}
	if row, _ := c.get("file", rid(1)); row.Value("name") != "a's" || row.Owner != a.id {
		t.Errorf("got %+v", row)
	}
	if list, err := c.registry.Refused(ctx, 10); err != nil || len(list) != 2 || list[0].Code != sdk.CodeNotOwner {
		t.Errorf("refused %v, %v", list, err)
	}
}

func TestCommitDeviceOwned_leavesEqualRowsAlone(t *testing.T) {
	a := newDevice(t, 1, allModels()...)
	first := a.own(packed(t, files(), file(1, 0, "one"), file(2, 0, "two")))
	second := a.own(packed(t, files(), file(1, 0, "one"), file(2, 0, "zwei")))
	if first.Written != 2 || second.Written != 1 || second.First != second.Last || second.First <= first.Last {
		t.Errorf("wrote %+v, then %+v", first, second)
	}
	if n := len(a.told); n != 2 || a.told[1].From != first.Last || a.told[1].Through != second.Last || a.told[1].Batches[0].Count != 1 {
		t.Errorf("told %+v", a.told)
	}
	if again := a.own(deletes(t, files(), rid(9))); again.Written != 0 {
		t.Errorf("deleting what is not there wrote %+v", again)
	}
	// A batch that names some columns keeps the others.
	part := sdk.Batch{Model: "file", Version: 1, Columns: []string{"size"}, Count: 1}
	part.Rows = sdk.AppendValue(sdk.AppendStateHeader(nil, rid(2), 0, 1), int64(7))
	a.own(part)
	if row, _ := a.get("file", rid(2)); row.Value("name") != "zwei" || row.Value("size") != int64(7) {
		t.Errorf("got %v", row.Fields)
	}
}

func TestCommit_refusesBadText(t *testing.T) {
	a := newDevice(t, 1, allModels()...)
	bad := packed(t, files(), file(1, 0, "fine"), file(2, 0, "nul \x00"), file(3, 0, "bad \xff"), file(4, 0, ""))
	result, err := a.manager.CommitDeviceOwned(context.Background(), bad)
	if err != nil || result.Written != 2 || len(result.Refused) != 2 {
		t.Fatalf("got %+v, %v", result, err)
	}
	for _, no := range result.Refused {
		if no.Code != sdk.CodeInvalid || no.Message == "" {
			t.Errorf("refused %+v", no)
		}
	}
}

func TestVisibility(t *testing.T) {
	src := newDevice(t, 1, allModels()...)
	dst := newDevice(t, 2, allModels()...)
	own := history.Stream{Origin: src.id, Kind: sdk.DeviceOwned}
	send := func() { dst.pull(src, 1<<20) }
	visible := func(want ...byte) {
		t.Helper()
		ids := []sdk.RecordID{}
		for _, n := range want {
			ids = append(ids, rid(n))
		}
		if diff := cmp.Diff(ids, dst.ids("file", false)); diff != "" {
			t.Errorf("visible (-want +got):\n%s", diff)
		}
		dst.checkInvariants()
	}
	src.own(packed(t, files(), file(3, 2, "c"), file(2, 1, "b")))
	send()
	visible()
	src.own(packed(t, files(), file(1, 0, "a")))
	send()
	visible(1, 2, 3)
	src.own(deletes(t, files(), rid(1)))
	send()
	visible()
	src.own(packed(t, files(), file(1, 0, "a again")))
	send()
	visible(1, 2, 3)
	src.own(packed(t, files(), file(2, 9, "b moved away")))
	send()
	visible(1)
	src.own(packed(t, files(), file(2, 1, "b moved back")))
	send()
	visible(1, 2, 3)
	// A ring is visible, whichever part comes first.
	src.own(packed(t, files(), file(20, 21, "x")))
	send()
	visible(1, 2, 3)
	src.own(packed(t, files(), file(21, 20, "y")))
	send()
	visible(1, 2, 3, 20, 21)
	// What waits travels on.
	third := newDevice(t, 3, allModels()...)
	src.own(packed(t, files(), file(30, 31, "waits")))
	send()
	third.pull(dst, 64)
	wantEqual(t, src, dst, third)
	if p, _ := third.read(own, 0, 1<<20); p.through != third.vector()[own] {
		t.Errorf("the stream ends at %s; want %s", p.through, third.vector()[own])
	}
}

func TestUnknownModel(t *testing.T) {
	src, relay, dst := newDevice(t, 1, allModels()...), newDevice(t, 2), newDevice(t, 3, files())
	src.own(packed(t, files(), file(1, 0, "a"), file(2, 1, "b")))
	src.own(packed(t, files(), file(1, 0, "a2")), deletes(t, files(), rid(2)))
	src.share(packed(t, labels(), label(101, 0, "x")), packed(t, marks(), mark(101, 1)))
	relay.pull(src, 100)
	dst.pull(relay, 100)
	wantEqual(t, src, src)
	if counts, err := relay.registry.Counts(context.Background()); err != nil || counts["file"].Parked != 2 || counts["label"].Parked != 1 {
		t.Errorf("counts %+v, %v", counts, err)
	}
	for _, d := range []*device{relay, dst} {
		for _, model := range allModels() {
			d.add(model)
		}
	}
	wantEqual(t, src, relay, dst)
	if counts, err := relay.registry.Counts(context.Background()); err != nil || counts["file"].Parked != 0 || counts["mark"].Visible != 1 {
		t.Errorf("counts %+v, %v", counts, err)
	}
	// Taken away and back again.
	relay.registry.Remove("file")
	src.own(packed(t, files(), file(5, 0, "later")))
	relay.pull(src, 100)
	relay.add(files())
	wantEqual(t, src, relay)
}

func TestNewerSchema(t *testing.T) {
	src, old := newDevice(t, 1, filesV2(), labels()), newDevice(t, 2, files(), labels())
	third := newDevice(t, 3, filesV2(), labels())
	src.own(packed(t, filesV2(), &FileV2{Owned: sdk.Owned{ID: rid(1)}, Name: "n", Color: "red", Label: sdk.Ref(rid(101))},
		&FileV2{Owned: sdk.Owned{ID: rid(2)}, Name: "plain"}))
	old.pull(src, 1<<20)
	if got := old.ids("file", false); len(got) != 2 {
		t.Errorf("version 1 shows %v; it knows nothing of the label", got)
	}
	third.pull(old, 1<<20)
	wantEqual(t, src, third)
	if diff := cmp.Diff(src.digests(), old.digests()); diff != "" {
		t.Errorf("digests differ between versions:\n%s", diff)
	}
	old.add(filesV2())
	wantEqual(t, src, old, third)
	if got := old.ids("file", false); len(got) != 1 {
		t.Errorf("version 2 shows %v; the label is missing", got)
	}
	src.share(packed(t, labels(), label(101, 0, "l")))
	old.pull(src, 1<<20)
	third.pull(old, 1<<20)
	wantEqual(t, src, old, third)
	if row, _ := old.get("file", rid(1)); row.Value("color") != "red" || !row.Visible {
		t.Errorf("got %+v", row)
	}
	if _, err := old.registry.Add(context.Background(), files()); sdk.CodeOf(err) != sdk.CodeUnsupported {
		t.Errorf("a downgrade: %v", err)
	}
}

func TestPrepare_stale(t *testing.T) {
	ctx := context.Background()
	a := newDevice(t, 1, allModels()...)
	a.share(packed(t, labels(), label(101, 0, "x")))
	batch := updates(t, labels(), label(101, 0, "y"), "name")
	first, err := a.registry.PrepareLocal(ctx, sdk.SharedByAll, []sdk.Batch{batch})
	if err != nil {
		t.Fatal(err)
	}
	a.share(updates(t, labels(), label(101, 0, "z"), "name"))
	err = a.db.Write(ctx, func(tx *database.Tx) error { _, _, err := first.Write(tx, a.clock.Now); return err })
	if sdk.CodeOf(err) != sdk.CodeStale {
		t.Fatalf("got %v, want stale", err)
	}
	// A write of another record does not disturb.
	second, err := a.registry.PrepareLocal(ctx, sdk.SharedByAll, []sdk.Batch{batch})
	if err != nil {
		t.Fatal(err)
	}
	a.share(packed(t, labels(), label(102, 0, "other")))
	if err := a.db.Write(ctx, func(tx *database.Tx) error { _, _, err := second.Write(tx, a.clock.Now); return err }); err != nil {
		t.Fatal(err)
	}
}

// TestConcurrentWriters has local writers and pages of a peer meet on the same records.
func TestConcurrentWriters(t *testing.T) {
	ctx := context.Background()
	a, b := newDevice(t, 1, allModels()...), newDevice(t, 2, allModels()...)
	a.share(packed(t, labels(), label(101, 0, "first")))
	b.pull(a, 1<<20)
	for i := range 20 {
		b.share(updates(t, labels(), label(101, 0, fmt.Sprint("b ", i)), "name"))
		b.own(packed(t, files(), file(byte(i), 0, "b's")))
	}
	const writers, each = 4, 15
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				result, err := a.manager.CommitShared(ctx, updates(t, labels(), label(101, 0, fmt.Sprint(w, " ", i)), "name"))
				if err != nil || result.Written != 1 {
					t.Errorf("got %+v, %v", result, err)
				}
				if _, err := a.manager.CommitDeviceOwned(ctx, packed(t, files(), file(byte(200+w), 0, fmt.Sprint(i)))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Go(func() { a.pull(b, 100) })
	wg.Wait()
	b.pull(a, 1<<20)
	a.pull(b, 1<<20)
	wantEqual(t, a, b)
	if n, _, err := b.log.Size(ctx); err != nil || n != 1+20+writers*each {
		t.Errorf("%d operations in the log, %v; want %d", n, err, 1+20+writers*each)
	}
}

// TestConvergence has random devices write, then applies their streams elsewhere in random order, cut, repeated and
// relayed, and wants equal digests and the visibility that the definition says.
func TestConvergence(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		const writers = 2
		var devices []*device
		for n := range writers + 2 {
			d := newDevice(t, byte(n+1), append(allModels(), boxes(), pairs())...)
			defer d.close()
			devices = append(devices, d)
		}
		steps := rapid.IntRange(1, 40).Draw(rt, "steps")
		for range steps {
			d := devices[rapid.IntRange(0, writers-1).Draw(rt, "device")]
			act(rt, t, d)
			if rapid.IntRange(0, 4).Draw(rt, "meet") == 0 {
				other := devices[rapid.IntRange(0, len(devices)-1).Draw(rt, "other")]
				if other != d {
					other.pull(d, rapid.SampledFrom([]int{1, 60, 300, 1 << 20}).Draw(rt, "bytes"))
					other.checkInvariants()
				}
			}
		}
		// The last device gets every stream from its origin, shuffled between streams, what came before now and then again:
		// in small pages of what is left, or live, also what was overwritten later, and some of those merged.
		last := devices[len(devices)-1]
		queues := make(map[history.Stream][]page)
		live := rapid.Bool().Draw(rt, "live")
		var streams []history.Stream
		for _, d := range devices[:writers] {
			for stream, position := range d.vector() {
				if stream.Origin != d.id {
					continue
				}
				queues[stream] = d.pages(stream, position, live)
				streams = append(streams, stream)
			}
		}
		slices.SortFunc(streams, func(a, b history.Stream) int { return 2*a.Origin.Compare(b.Origin) + len(a.Kind) - len(b.Kind) })
		at := make(map[history.Stream]int)
		for len(streams) > 0 {
			i := rapid.IntRange(0, len(streams)-1).Draw(rt, "stream")
			queue := queues[streams[i]]
			several := min(rapid.SampledFrom([]int{1, 1, 2, 5}).Draw(rt, "merged"), len(queue)-at[streams[i]])
			last.apply(merged(queue[at[streams[i]] : at[streams[i]]+several]...))
			last.checkInvariants()
			at[streams[i]] += several
			if rapid.Bool().Draw(rt, "again") {
				last.apply(queue[rapid.IntRange(0, at[streams[i]]-1).Draw(rt, "earlier")])
				last.checkInvariants()
			}
			if at[streams[i]] == len(queue) {
				streams = slices.Delete(streams, i, i+1)
			}
		}
		for range 2 {
			for _, d := range devices {
				for _, other := range devices {
					if other != d {
						d.pull(other, 200)
					}
				}
			}
		}
		wantEqual(t, devices...)
		if t.Failed() {
			rt.Fatal("not converged")
		}
	})
}

// act has d write something. Refused changes are as good as none.
func act(rt *rapid.T, t *testing.T, d *device) {
	ctx := context.Background()
	n := byte(rapid.IntRange(1, 4).Draw(rt, "n"))
	parent := byte(rapid.IntRange(0, 5).Draw(rt, "parent"))
	mine := n + 10*d.id[15]
	if parent != 0 {
		parent += 10 * byte(rapid.IntRange(1, 2).Draw(rt, "whose"))
	}
	name := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "name")
	var err error
	shared := 100 + n
	if rapid.IntRange(0, 2).Draw(rt, "one id, two models") == 0 {
		shared = n + 10*byte(rapid.IntRange(1, 2).Draw(rt, "as of whose file"))
	}
	switch rapid.IntRange(0, 8).Draw(rt, "act") {
	case 0, 1:
		_, err = d.manager.CommitDeviceOwned(ctx, packed(t, files(), file(mine, parent, name)))
	case 2:
		_, err = d.manager.CommitDeviceOwned(ctx, deletes(t, files(), rid(mine)))
	case 3:
		l := label(shared, 0, name)
		if parent%10 != 0 {
			l.Parent = sdk.Ref(rid(100 + parent%10))
		}
		_, err = d.manager.CommitShared(ctx, packed(t, labels(), l))
	case 4:
		l := label(shared, 0, name)
		l.Rank = int64(parent)
		if parent%10 != 0 {
			l.Parent = sdk.Ref(rid(100 + parent%10))
		}
		names := rapid.SampledFrom([][]string{{"name"}, {"parent_id"}, {"rank", "name"}}).Draw(rt, "names")
		_, err = d.manager.CommitShared(ctx, updates(t, labels(), l, names...))
	case 5:
		_, err = d.manager.CommitShared(ctx, deletes(t, labels(), rid(shared)))
	case 6:
		_, err = d.manager.CommitShared(ctx, packed(t, marks(), mark(shared, parent)))
	case 7:
		pair := &Pair{File: sdk.Ref(rid(n + 10*byte(rapid.IntRange(1, 2).Draw(rt, "file of")))), Label: sdk.Ref(rid(shared))}
		_, err = d.manager.CommitShared(ctx, packed(t, pairs(), pair))
	case 8:
		_, err = d.manager.CommitDeviceOwned(ctx, packed(t, boxes(), &Box{Owned: sdk.Owned{ID: rid(50 + mine)}, Name: name}))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestVisibility_oneIDTwoModels has a label and a file of one id, and wants each reference to mean one of them.
func TestVisibility_oneIDTwoModels(t *testing.T) {
	d := newDevice(t, 1, append(allModels(), pairs())...)
	pair := &Pair{File: sdk.Ref(rid(5)), Label: sdk.Ref(rid(5))}
	visible := func(want int) {
		t.Helper()
		if got := len(d.ids("pair", false)); got != want {
			t.Errorf("%d pairs are visible, want %d", got, want)
		}
		d.checkInvariants()
	}
	d.own(packed(t, files(), file(5, 0, "file")))
	d.share(packed(t, pairs(), pair))
	visible(0)
	d.share(packed(t, labels(), label(5, 0, "label")))
	visible(1)
	d.share(packed(t, marks(), mark(5, 5)))
	d.own(deletes(t, files(), rid(5)))
	visible(0)
	if got := len(d.ids("mark", false)); got != 1 {
		t.Errorf("%d marks are visible, want the one whose target is a label too", got)
	}
	d.own(packed(t, files(), file(5, 0, "file")))
	visible(1)
}

// TestVisibility_oneIDStays has a file and a reference to any record of its id wait for one id: the label that comes under it
// shows the reference, since there is a label of the file's id too, and leaves the file waiting.
func TestVisibility_oneIDStays(t *testing.T) {
	d := newDevice(t, 1, allModels()...)
	d.share(packed(t, labels(), label(5, 0, "label")))
	d.own(packed(t, files(), file(5, 6, "waits")))
	d.share(packed(t, marks(), mark(6, 5)))
	d.checkInvariants()
	d.share(packed(t, labels(), label(6, 0, "comes")))
	d.checkInvariants()
	if got := len(d.ids("mark", false)); got != 1 {
		t.Errorf("%d marks are visible, want the one whose target is a label", got)
	}
}

// TestVisibility_oneIDTwoOwners has two device-owned models with records of one id, which two devices own.
func TestVisibility_oneIDTwoOwners(t *testing.T) {
	a, b := newDevice(t, 1, files(), boxes()), newDevice(t, 2, files(), boxes())
	b.own(packed(t, boxes(), &Box{Owned: sdk.Owned{ID: rid(1)}, Name: "b's"}))
	a.own(packed(t, files(), file(1, 9, "waits")), packed(t, boxes(), &Box{Owned: sdk.Owned{ID: rid(1)}, Name: "a's"}))
	b.pull(a, 1<<20)
	if hidden := b.ids("file", true); len(hidden) != 1 {
		t.Errorf("of a's files wait at b: %v", hidden)
	}
}

// TestWatch_schema has a model get a field, of which a value has come for one record: of the others nobody is told anything.
func TestWatch_schema(t *testing.T) {
	a, b := newDevice(t, 1, labels(), filesV2()), newDevice(t, 2, labels(), files())
	a.own(packed(t, filesV2(), &FileV2{Owned: sdk.Owned{ID: rid(1)}, Name: "n", Color: "red"}))
	b.own(packed(t, files(), file(2, 0, "plain")))
	b.share(packed(t, labels(), label(3, 0, "l")))
	b.pull(a, 1<<20)
	events, cancel := b.registry.Watch()
	b.add(filesV2())
	b.add(labelsV2())
	cancel()
	var got []string
	for e := range events {
		got = append(got, string(e.Kind)+" "+string(e.Model)+" "+e.ID.String()[34:])
	}
	if diff := cmp.Diff([]string{"changed file 01"}, got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

func TestWatch(t *testing.T) {
	a, b := newDevice(t, 1, allModels()...), newDevice(t, 2, allModels()...)
	events, cancel := b.registry.Watch("file")
	a.own(packed(t, files(), file(2, 1, "waits")))
	b.pull(a, 1<<20)
	a.own(packed(t, files(), file(1, 0, "comes")))
	b.pull(a, 1<<20)
	a.own(deletes(t, files(), rid(2)))
	b.pull(a, 1<<20)
	b.own(packed(t, files(), file(9, 0, "own")))
	cancel()
	cancel()
	var got []string
	for e := range events {
		got = append(got, string(e.Kind)+" "+e.ID.String()[34:])
		if e.Local != (e.Origin == b.id) {
			t.Errorf("event %+v", e)
		}
	}
	want := []string{"hidden 02", "changed 01", "changed 02", "deleted 02", "changed 09"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

func TestAdd_refusesOtherSchemaChanges(t *testing.T) {
	field := func(name string, typ sdk.Type) sdk.Field { return sdk.Field{Name: name, Type: typ} }
	base := sdk.Description{Model: "thing", Version: 2, Ownership: sdk.SharedByAll, Fields: []sdk.Field{field("a", sdk.Text), {Name: "r", Type: sdk.UUID, Ref: "thing"}}}
	d := newDevice(t, 1)
	d.add(described{desc: base})
	for name, change := range map[string]func(*sdk.Description){
		"ownership":   func(d *sdk.Description) { d.Ownership = sdk.DeviceOwned },
		"downgrade":   func(d *sdk.Description) { d.Version = 1 },
		"gone":        func(d *sdk.Description) { d.Fields = d.Fields[:1] },
		"type":        func(d *sdk.Description) { d.Fields[0].Type = sdk.Int },
		"weak":        func(d *sdk.Description) { d.Fields[1].Weak = true },
		"reference":   func(d *sdk.Description) { d.Fields[1].Ref = "" },
		"merge":       func(d *sdk.Description) { d.Fields[0].Merge = sdk.Max },
		"key":         func(d *sdk.Description) { d.Fields[0].Key, d.Fields[0].Required = true, true },
		"same number": func(d *sdk.Description) { d.Fields = append(d.Fields, field("b", sdk.Text)) },
	} {
		t.Run(name, func(t *testing.T) {
			next := base
			next.Fields = slices.Clone(base.Fields)
			change(&next)
			_, err := d.registry.Add(context.Background(), described{desc: next})
			if sdk.CodeOf(err) != sdk.CodeUnsupported {
				t.Errorf("got %v", err)
			}
			t.Log(err)
		})
	}
	if got, ok := d.registry.Description("thing"); !ok || len(got.Fields) != 2 {
		t.Errorf("got %+v, %v", got, ok)
	}
}

// described is a model that has a description and decides nothing.
type described struct {
	sdk.Model[Label]
	desc sdk.Description
}

func (d described) Describe(context.Context) (sdk.Description, error) { return d.desc, nil }

func TestPrepare_malformedPages(t *testing.T) {
	d := newDevice(t, 1, allModels()...)
	good := packed(t, files(), file(1, 0, "x"))
	good.Rows, _ = stamped(&good, 10)
	own := history.Stream{Origin: deviceID(2), Kind: sdk.DeviceOwned}
	for name, p := range map[string]page{
		"a stamp before the page": {stream: own, from: 11, through: 20, batches: []sdk.Batch{good}},
		"a stamp after the page":  {stream: own, from: 1, through: 10, batches: []sdk.Batch{good}},
		"a count of what is not":  {stream: own, through: 20, batches: []sdk.Batch{{Model: "file", Columns: good.Columns, Count: 1 << 40, Rows: good.Rows}}},
		"a negative count":        {stream: own, through: 20, batches: []sdk.Batch{{Model: "file", Count: -1}}},
		"a column with a comma":   {stream: own, through: 20, batches: []sdk.Batch{{Model: "other", Columns: []string{"a,b"}}}},
		"garbage":                 {stream: own, through: 20, batches: []sdk.Batch{{Model: "other", Columns: good.Columns, Count: 1, Rows: []byte("garbage")}}},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := d.prepare(p); sdk.CodeOf(err) != sdk.CodeInvalid {
				t.Errorf("got %v", err)
			}
		})
	}
	// A wrong value or kind refuses the change, not the page.
	wrong := good
	wrong.Columns = []string{"size"}
	wrong.Rows = sdk.AppendValue(sdk.AppendStateHeader(nil, rid(7), 15, 1), "not a number")
	kind := sdk.Batch{Model: "label", Version: 1, Columns: []string{"name"}, Count: 1, Rows: sdk.AppendValue(sdk.AppendStateHeader(nil, rid(8), 16, 1), "row")}
	outcome := d.apply(page{stream: own, from: 1, through: 20, batches: []sdk.Batch{wrong, good, kind}})
	if outcome.Refused != 2 || outcome.Written != 1 {
		t.Errorf("outcome %+v", outcome)
	}
}
