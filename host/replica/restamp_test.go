package replica_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/database/databasetest"
	"github.com/starling-sync/starling/host/history"
	"github.com/starling-sync/starling/host/peerlog"
	"github.com/starling-sync/starling/host/peersync"
	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/host/registry"
	"github.com/starling-sync/starling/host/replica"
	"github.com/starling-sync/starling/host/transaction"
	"github.com/starling-sync/starling/sdk"
)

// File is a device-owned model.
type File struct {
	sdk.Owned
	Name string `starling:"name"`
}

// Song is shared, with a set and a counter.
type Song struct {
	sdk.Shared
	Words sdk.Set[string] `starling:"words"`
	Plays sdk.Counter     `starling:"plays"`
}

// world is a device on a database of its own, whose wall clock a test sets.
type world struct {
	t        *testing.T
	self     sdk.DeviceID
	dir      string
	db       *database.DB
	now      time.Time
	journal  *peerlog.Log
	registry *registry.Registry
	clock    *hlc.Clock
	manager  *transaction.Manager
	pages    *replica.Pages
	starts   byte
}

func newWorld(t *testing.T, self byte) *world {
	w := &world{t: t, self: sdk.DeviceID{self}, dir: t.TempDir(), now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	t.Cleanup(func() {
		if err := w.db.Close(); err != nil {
			t.Error(err)
		}
	})
	w.start()
	return w
}

// start is a start of the device. It returns how many stamps were changed.
func (w *world) start() (restamped int, back time.Duration) {
	w.t.Helper()
	ctx, wall := w.t.Context(), func() time.Time { return w.now }
	var err error
	check := func() {
		w.t.Helper()
		if err != nil {
			w.t.Fatal(err)
		}
	}
	if w.db != nil {
		err = w.db.Close()
		check()
	}
	w.db, err = database.Open(ctx, databasetest.Options(w.t, database.Options{Dir: w.dir, Durability: database.Normal}))
	check()
	w.starts++
	w.journal = peerlog.New(w.db)
	w.registry, err = registry.New(ctx, registry.Options{DB: w.db, Self: w.self})
	check()
	_, err = w.registry.Add(ctx, sdk.Model[Tag]{Name: "tag", Version: 1})
	check()
	_, err = w.registry.Add(ctx, sdk.Model[File]{Name: "file", Version: 1})
	check()
	_, err = w.registry.Add(ctx, sdk.Model[Song]{Name: "song", Version: 1})
	check()
	restamped, back, err = replica.Restamp(ctx, w.db, w.journal, w.registry, w.self, history.EpochID{w.self[0], w.starts, 1}, wall, time.Minute)
	check()
	w.clock, err = replica.Clock(ctx, w.db, w.journal, wall, time.Minute)
	check()
	w.manager = transaction.New(transaction.Options{
		DB: w.db, Self: w.self, Epoch: history.EpochID{w.self[0], w.starts}, Next: w.clock.Now, Journal: w.journal, Prepare: replica.PrepareLocal(w.registry),
	})
	w.pages = &replica.Pages{DB: w.db, Registry: w.registry, Journal: w.journal, Clock: w.clock}
	return restamped, back
}

func (w *world) tag(id byte, kind sdk.OpKind, name string) {
	w.t.Helper()
	b := sdk.Batch{Model: "tag", Version: 1, Columns: []string{"name"}, Count: 1}
	if kind == sdk.Delete {
		b.Rows = sdk.AppendOpHeader(nil, sdk.RecordID{id}, 0, kind, 0)
	} else {
		b.Rows = sdk.AppendOpField(sdk.AppendOpHeader(nil, sdk.RecordID{id}, 0, kind, 1), 0, name, 0)
	}
	w.commit(w.manager.CommitShared(w.t.Context(), b))
}

// song writes what a person says of a song.
func (w *world) song(kind sdk.OpKind, object string) {
	w.t.Helper()
	desc, _ := w.registry.Description("song")
	names, values, err := sdk.DecodeJSON(desc, []byte(object))
	if err != nil {
		w.t.Fatal(err)
	}
	b := sdk.Batch{Model: "song", Version: 1, Columns: names, Count: 1, Rows: sdk.AppendOpHeader(nil, sdk.RecordID{7}, 0, kind, len(names))}
	for i := range names {
		b.Rows = sdk.AppendOpField(b.Rows, i, values[i], 0)
	}
	w.commit(w.manager.CommitShared(w.t.Context(), b))
}

func (w *world) file(id byte, name string) {
	w.t.Helper()
	b := sdk.Batch{Model: "file", Version: 1, Columns: []string{"name"}, Count: 1}
	if name == "" {
		b.Rows = sdk.AppendStateHeader(nil, sdk.RecordID{id}, 0, -1)
	} else {
		b.Rows = sdk.AppendValue(sdk.AppendStateHeader(nil, sdk.RecordID{id}, 0, 1), name)
	}
	w.commit(w.manager.CommitDeviceOwned(w.t.Context(), b))
}

func (w *world) commit(result transaction.Result, err error) {
	w.t.Helper()
	if err != nil || result.Written != 1 {
		w.t.Fatalf("%+v, %v", result, err)
	}
}

// pull brings w what other has of its own streams.
func (w *world) pull(other *world) error {
	w.t.Helper()
	ctx := w.t.Context()
	stored, err := replica.Stored(ctx, other.journal)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, kind := range []sdk.Ownership{sdk.SharedByAll, sdk.DeviceOwned} {
		stream := history.Stream{Origin: other.self, Kind: kind}
		heads, graph := stored.Heads[stream], history.Graph{}
		for _, e := range stored.Epochs {
			graph.Add(e)
		}
		vector, err := w.journal.Watermarks(ctx)
		if err != nil {
			w.t.Fatal(err)
		}
		since := graph.Low(vector[stream], heads)
		page, more, err := other.pages.ReadPage(ctx, stream, since, 1<<20)
		if err != nil || more {
			w.t.Fatal(more, err)
		}
		page.Heads, page.Through, page.Epochs = heads, max(page.Through, heads.Top()), nil
		page.Epochs = slices.DeleteFunc(slices.Clone(stored.Epochs), func(e history.Epoch) bool { return e.Stream != stream })
		if err := w.take(page); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) take(page protocol.Page) error {
	prepared, err := w.pages.Prepare(w.t.Context(), page)
	if err != nil {
		return err
	}
	return prepared.Commit(w.t.Context())
}

// dump lists the records with their clocks, as one that is told of them sees them.
func (w *world) dump() (lines []string) {
	w.t.Helper()
	for _, model := range []sdk.ModelName{"tag", "file", "song"} {
		err := w.registry.List(w.t.Context(), model, registry.Filter{}, func(row registry.Row) error {
			line := fmt.Sprint(model, " ", row.ID, " ", row.Owner, " ", row.Stamp, " ", row.Inserted)
			for _, f := range row.Fields {
				line += fmt.Sprint(" ", f.Name, "=", f.Value, " ", f.Version)
				if parts, err := f.Parts(); err != nil || len(parts) > 0 {
					line += fmt.Sprint(" ", parts, err)
				}
			}
			lines = append(lines, line)
			return nil
		})
		if err != nil {
			w.t.Fatal(err)
		}
	}
	return lines
}

// TestRestamp has a device write with a clock ten years ahead, find its clock set right at the next start, and bring what it
// wrote to a peer that would have held it.
func TestRestamp(t *testing.T) {
	w, peer := newWorld(t, 1), newWorld(t, 2)
	w.tag(1, sdk.Insert, "before")
	w.file(1, "before")
	w.file(2, "to be deleted")
	if err := peer.pull(w); err != nil {
		t.Fatal(err)
	}
	acknowledge(t, w, peer)
	peer.tag(9, sdk.Insert, "the peer's own")
	if err := w.pull(peer); err != nil {
		t.Fatal(err)
	}

	w.now = w.now.AddDate(10, 0, 0)
	w.tag(1, sdk.Update, "once")
	w.tag(1, sdk.Update, "twice")
	w.tag(9, sdk.Update, "taken over")
	w.tag(2, sdk.Insert, "deleted again")
	w.tag(2, sdk.Delete, "")
	w.file(1, "after")
	w.file(2, "")
	w.file(3, "new")
	if err := peer.pull(w); sdk.CodeOf(err) != sdk.CodeClockSkew {
		t.Fatalf("a peer takes what is ten years ahead: %v", err)
	}

	w.now = w.now.AddDate(-10, 0, 0).Add(time.Hour)
	peer.now = w.now
	n, back := w.start()
	if n != 8 || back < 9*365*24*time.Hour {
		t.Errorf("%d stamps were changed, the clock went back %s", n, back)
	}
	if ahead := w.clock.Ahead(); ahead > time.Second {
		t.Errorf("the clock is still ahead by %s", ahead)
	}
	if again, _ := w.start(); again != 0 {
		t.Errorf("the next start changes %d stamps", again)
	}
	w.tag(3, sdk.Insert, "at last")
	if err := peer.pull(w); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(w.dump(), peer.dump()); diff != "" || len(w.dump()) != 5 {
		t.Errorf("the two differ (-device +peer):\n%s\n%v", diff, w.dump())
	}
	for _, line := range w.dump() {
		t.Log(line)
	}
	digests := func(w *world) []registry.ModelDigest {
		list, err := w.registry.Digest(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	if diff := cmp.Diff(digests(w), digests(peer)); diff != "" {
		t.Error(diff)
	}
	stored, err := replica.Stored(t.Context(), peer.journal)
	if err != nil {
		t.Fatal(err)
	}
	for key, heads := range stored.Heads {
		if len(heads) != 1 {
			t.Errorf("the peer has %v of %v: a restamped device has made a branch that nobody needs", heads, key)
		}
	}
}

// TestRestamp_parts has a device write a set and a counter with a clock ten years ahead, and remove what it added then.
func TestRestamp_parts(t *testing.T) {
	w, peer := newWorld(t, 1), newWorld(t, 2)
	w.song(sdk.Insert, `{"words": ["kept", "taken"], "plays": 1}`)
	if err := peer.pull(w); err != nil {
		t.Fatal(err)
	}
	acknowledge(t, w, peer)
	peer.song(sdk.Update, `{"words": {"add": ["theirs"]}, "plays": {"add": 10}}`)
	if err := w.pull(peer); err != nil {
		t.Fatal(err)
	}
	w.now = w.now.AddDate(10, 0, 0)
	w.song(sdk.Update, `{"words": {"add": ["new", "short"]}, "plays": {"add": 100}}`)
	w.song(sdk.Update, `{"words": {"remove": ["taken", "theirs", "short"]}}`)
	w.song(sdk.Update, `{"words": {"add": ["last"]}, "plays": {"add": 1000}}`)
	w.now = w.now.AddDate(-10, 0, 0).Add(time.Hour)
	peer.now = w.now
	if n, _ := w.start(); n != 3 {
		t.Errorf("%d stamps were changed; want those of three operations", n)
	}
	if err := peer.pull(w); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(w.dump(), peer.dump()); diff != "" {
		t.Errorf("the two differ (-device +peer):\n%s", diff)
	}
	row, err := peer.registry.Get(t.Context(), "song", sdk.RecordID{7})
	if err != nil {
		t.Fatal(err)
	}
	if row.Value("words") != `["kept","last","new"]` || row.Value("plays") != int64(1111) {
		t.Errorf("got %v, %v", row.Value("words"), row.Value("plays"))
	}
	for _, line := range w.dump() {
		if strings.Contains(line, hlc.New(w.now.AddDate(9, 0, 0).UnixMilli(), 0).String()[:3]) {
			t.Errorf("%s is still of the future", line)
		}
	}
	// A remove by one that knows the new stamps only.
	peer.song(sdk.Update, `{"words": {"remove": ["new"]}}`)
	if err := w.pull(peer); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(w.dump(), peer.dump()); diff != "" {
		t.Errorf("the two differ (-device +peer):\n%s", diff)
	}
}

// acknowledge tells w what peer has of its streams.
func acknowledge(t *testing.T, w, peer *world) {
	t.Helper()
	vector, err := peer.journal.Watermarks(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	err = w.db.Write(context.Background(), func(tx *database.Tx) error {
		for key, heads := range vector {
			if err := w.journal.Acknowledge(tx, peer.self, key, heads); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestRestamp_accepted leaves stamps alone that a peer, whose clock is as wrong, has accepted.
func TestRestamp_accepted(t *testing.T) {
	w, peer := newWorld(t, 1), newWorld(t, 2)
	w.now = w.now.AddDate(1, 0, 0)
	peer.now = w.now
	w.tag(1, sdk.Insert, "both are wrong")
	if err := peer.pull(w); err != nil {
		t.Fatal(err)
	}
	acknowledge(t, w, peer)
	before := w.dump()
	w.now = w.now.AddDate(-1, 0, 0)
	if n, back := w.start(); n != 0 || back != 0 {
		t.Errorf("%d stamps were changed, the clock went back %s", n, back)
	}
	if diff := cmp.Diff(before, w.dump()); diff != "" {
		t.Error(diff)
	}
}

// TestRestamp_past leaves alone what was written before the clock was ahead, although no peer has accepted it: a peer's later
// change won over it, and must go on to.
func TestRestamp_past(t *testing.T) {
	w, peer := newWorld(t, 1), newWorld(t, 2)
	w.tag(1, sdk.Insert, "for both")
	w.file(1, "past")
	if err := peer.pull(w); err != nil {
		t.Fatal(err)
	}
	acknowledge(t, w, peer)
	w.now, peer.now = w.now.Add(time.Minute), w.now.Add(2*time.Minute)
	w.tag(1, sdk.Update, "earlier")
	w.file(2, "past too")
	peer.tag(1, sdk.Update, "later")
	w.now = w.now.AddDate(10, 0, 0)
	if err := w.pull(peer); err != nil {
		t.Fatal(err)
	}
	w.tag(2, sdk.Insert, "in ten years")
	w.file(1, "in ten years")
	w.now = w.now.AddDate(-10, 0, 0).Add(time.Hour)
	peer.now = w.now
	if n, _ := w.start(); n != 2 {
		t.Errorf("%d stamps were changed; want those of what is ahead", n)
	}
	if err := peer.pull(w); err != nil {
		t.Fatal(err)
	}
	dump := strings.Join(w.dump(), "\n")
	if diff := cmp.Diff(dump, strings.Join(peer.dump(), "\n")); diff != "" || !strings.Contains(dump, "name=later") {
		t.Errorf("the two differ, or the later change does not stand (-device +peer):\n%s\n%s", diff, dump)
	}
}

// TestRestamp_pruned has a lone device forget its log, with stamps of the future in it, before its clock is set right: its records
// get stamps of now all the same, and a new device gets them.
func TestRestamp_pruned(t *testing.T) {
	ctx := t.Context()
	w := newWorld(t, 1)
	w.tag(1, sdk.Insert, "before")
	w.now = w.now.AddDate(1, 0, 0)
	w.tag(2, sdk.Insert, "in a year")
	w.tag(3, sdk.Insert, "deleted in a year")
	w.tag(3, sdk.Delete, "")
	w.file(1, "in a year")
	keeper := &replica.Keeper{DB: w.db, Registry: w.registry, Journal: w.journal, Sealer: w.manager.Seal}
	shared := history.Stream{Origin: w.self, Kind: sdk.SharedByAll}
	if err := keeper.Prune(ctx, peersync.Prune{Floors: map[history.Stream]hlc.Stamp{shared: w.clock.Last()}}); err != nil {
		t.Fatal(err)
	}
	w.now = w.now.AddDate(-1, 0, 0).Add(time.Hour)
	if n, _ := w.start(); n != 4 {
		t.Errorf("%d stamps were changed; want those of three operations and a row", n)
	}
	floors, err := w.journal.Floors(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if floor := floors[shared]; floor == 0 || floor.Time().After(w.now.Add(time.Second)) {
		t.Errorf("the floor is at %s, and it is %s", floor.Time(), w.now)
	}
	for _, line := range w.dump() {
		if strings.Contains(line, hlc.New(w.now.AddDate(1, 0, 0).UnixMilli(), 0).String()[:5]) {
			t.Errorf("%s is still of the future", line)
		}
	}
	w.tag(2, sdk.Update, "now")

	fresh := newWorld(t, 2)
	fresh.now = w.now
	stored, err := replica.Stored(ctx, w.journal)
	if err != nil {
		t.Fatal(err)
	}
	page, err := w.pages.ReadRange(ctx, peersync.ReadRange{Request: protocol.SnapshotRequest{Kind: sdk.SharedByAll}, Bytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	_, err = fresh.pages.TakeRange(ctx, peersync.TakeRange{Scope: peersync.Scope{Kind: sdk.SharedByAll}, Vector: map[protocol.Stream]protocol.Heads{shared: stored.Heads[shared]}, Epochs: stored.Epochs, Page: page})
	if err != nil {
		t.Errorf("a new device can not take the records: %v", err)
	}
}
