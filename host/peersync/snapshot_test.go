package peersync

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/sdk"
)

// awayWorld has three devices, of which the last one was away for longer than the others keep what it needs.
func awayWorld(t *testing.T, seed uint64) *world {
	config := DefaultConfig()
	config.RetentionAge, config.PruneTime, config.AuditTime, config.RequestTime = 20*time.Second, 5*time.Second, 0, 10*time.Second
	w := newWorldWith(t, seed, 3, config)
	a, b, away := w.devices[0], w.devices[1], w.devices[2]
	for _, kind := range kinds {
		w.write(a, kind, 0, 30, "before")
		w.write(b, kind, 100, 10, "before")
		w.write(away, kind, 200, 5, "before")
	}
	w.pass(5 * time.Second)
	w.stop(away)
	for _, kind := range kinds {
		writes := make([]write, 20)
		for i := range writes {
			writes[i] = write{10 + i, sdk.Delete, ""}
		}
		w.commit(a, kind, writes)
		w.write(a, kind, 40, 30, "after")
	}
	w.pass(time.Minute)
	w.write(b, sdk.SharedByAll, 110, 1, "later")
	w.write(b, sdk.DeviceOwned, 110, 1, "later")
	w.pass(time.Minute)
	return w
}

// TestMachine_SnapshotInterrupted ends a connection, or a process, after each thing that happens while a device that was
// away comes back.
func TestMachine_SnapshotInterrupted(t *testing.T) {
	faults := map[string]func(w *world, away *worldDevice){
		"connection": func(w *world, _ *worldDevice) { w.breakConn(w.conns[w.rand.IntN(len(w.conns))]) },
		"receiver":   func(w *world, away *worldDevice) { w.stop(away); w.start(away) },
		"sender": func(w *world, _ *worldDevice) {
			d := w.devices[w.rand.IntN(2)]
			w.stop(d)
			w.start(d)
		},
		"disk": func(_ *world, away *worldDevice) {
			away.store.failAll = func() error { return sdk.Errorf(sdk.CodeUnavailable, "the disk is full") }
		},
		"live": func(w *world, away *worldDevice) {
			w.write(away, sdk.SharedByAll, 12, 1, "written meanwhile")
			w.write(w.devices[0], sdk.DeviceOwned, 3, 1, "written meanwhile")
			w.commit(w.devices[1], sdk.SharedByAll, []write{{45, sdk.Delete, ""}, {46, sdk.Update, "changed meanwhile"}})
		},
	}
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			step := 1
			if testing.Short() {
				step = 9
			}
			snapshots := 0
			for turns := 0; ; turns += step {
				w := awayWorld(t, uint64(turns))
				away := w.devices[2]
				w.onAction = func(_ *worldDevice, a Action) {
					if take, ok := a.(TakeRange); ok && take.Page.Done {
						snapshots++
					}
				}
				w.start(away)
				w.now = w.now.Add(250 * time.Millisecond)
				w.step(away, Tick{})
				rest := false
				for range turns {
					if !w.turn() {
						rest = true
						break
					}
				}
				if len(w.conns) > 0 && !rest {
					fault(w, away)
				}
				w.pass(time.Second)
				away.store.failAll = nil
				w.pass(90 * time.Second)
				w.checkEqual(fmt.Sprintf("%s, after %d turns", name, turns))
				w.checkLive(name)
				w.checkRest(name)
				w.checkLedger(name, false)
				if t.Failed() || rest {
					t.Logf("%d things happen", turns)
					break
				}
			}
			if snapshots == 0 {
				t.Error("no snapshot was taken in: the test shows nothing")
			}
		})
	}
}

// TestMachine_ManySnapshots has a device come back to one peer with more kinds of records to fetch than it may ask for at once.
func TestMachine_ManySnapshots(t *testing.T) {
	config := DefaultConfig()
	config.RetentionAge, config.PruneTime, config.AuditTime = 20*time.Second, 5*time.Second, 0
	const n = 9
	w := newWorldWith(t, 1, n, config)
	w.cutAll(topologies["star"])
	all := func(text string) {
		for _, d := range w.devices[:n-1] {
			w.write(d, sdk.DeviceOwned, 0, 5, text)
			w.write(d, sdk.SharedByAll, 10*d.index, 2, text)
		}
	}
	all("before")
	w.pass(5 * time.Second)
	away := w.devices[n-1]
	w.stop(away)
	all("after")
	for _, d := range w.devices[:n-1] {
		w.commit(d, sdk.DeviceOwned, []write{{4, sdk.Delete, ""}})
	}
	w.pass(time.Minute)
	all("later")
	w.pass(time.Minute)
	refused, most := 0, 0
	w.onLog = func(_ *worldDevice, l Log) {
		if l.Message == "session refused" {
			refused++
		}
	}
	w.onAction = func(d *worldDevice, a Action) {
		if d == away {
			for _, s := range d.machine.sessionList {
				most = max(most, d.machine.snapshotsFrom(s))
			}
		}
	}
	w.start(away)
	w.pass(20 * time.Second)
	w.checkEqual("after many snapshots")
	w.checkLive("after many snapshots")
	if refused > 0 || most != snapshotsAtOnce {
		t.Errorf("%d sessions refused; %d snapshots at once, want %d", refused, most, snapshotsAtOnce)
	}
}

// TestMachine_NewDevice has a device join when tombstones have been pruned: it gets the rows as a stream, and who gets them
// from it must not believe that it has tombstones.
func TestMachine_NewDevice(t *testing.T) {
	config := DefaultConfig()
	config.PruneTime, config.AuditTime, config.RetentionAge = 5*time.Second, 0, 0
	w := newWorldWith(t, 1, 4, config)
	w.cutAll(topologies["line"])
	owner, relay, fresh, last := w.devices[0], w.devices[1], w.devices[2], w.devices[3]
	w.write(owner, sdk.DeviceOwned, 0, 20, "text")
	w.pass(30 * time.Second)
	w.checkEqual("before the last device is away")
	w.stop(last)
	w.stop(fresh)
	fresh.store = newMemoryStore(fresh.id) // and this one begins anew
	fresh.store.onGap = last.store.onGap
	w.commit(owner, sdk.DeviceOwned, []write{{3, sdk.Delete, ""}, {4, sdk.Delete, ""}})
	w.write(owner, sdk.DeviceOwned, 30, 1, "text")
	w.pass(30 * time.Second)
	for _, d := range []*worldDevice{owner, relay} { // as when retention says so
		w.step(d, Retain{Floors: map[protocol.Stream]hlc.Stamp{{Origin: owner.id, Kind: sdk.DeviceOwned}: hlc.MaxStamp}})
	}
	w.pass(30 * time.Second)
	snapshots := 0
	w.onAction = func(d *worldDevice, a Action) {
		if take, ok := a.(TakeRange); ok && take.Scope.Kind == sdk.DeviceOwned && d == fresh {
			snapshots++
		}
	}
	w.start(fresh)
	w.pass(30 * time.Second)
	if snapshots > 0 {
		t.Errorf("who has nothing fetched %d pages of a snapshot of rows", snapshots)
	}
	w.start(last)
	w.pass(30 * time.Second)
	w.checkEqual("a new device in between")
	w.checkLedger("a new device in between", false)
}

// snapshotSolo is a machine that waits for the first page of a snapshot of device 1's rows from device 1.
func snapshotSolo(t *testing.T) (s *solo, asked *protocol.SnapshotRequest) {
	s = newSolo(t)
	st := s.m.ensureStream(rowsOf1)
	st.applied, st.given, st.tail = at(5), at(5), at(5)
	s.connect(1, 1, mark(rowsOf1, 90))
	return s, snapshotAsked(s.step(Received{Session: 1, Message: &protocol.Error{Code: sdk.CodePruned, Stream: rowsOf1}}))
}

func snapshotAsked(actions []Action) *protocol.SnapshotRequest {
	for _, send := range only[Send](actions) {
		if r, ok := send.Message.(*protocol.SnapshotRequest); ok {
			return r
		}
	}
	return nil
}

func idPlace(n byte) protocol.Place { return protocol.Place{Model: testModel, ID: sdk.RecordID{n}} }

func (s *solo) snapshotPage(number uint32, end protocol.Place) []Action {
	return s.step(Received{Session: 1, Message: &protocol.SnapshotPage{
		Number: number, Vector: []protocol.Mark{mark(rowsOf1, 90)}, End: end, Done: end == protocol.Place{},
	}})
}

// TestMachine_SnapshotPages takes in pages one at a time, one page ahead, and none that was not asked for.
func TestMachine_SnapshotPages(t *testing.T) {
	s, asked := snapshotSolo(t)
	if asked == nil || asked.Origin != deviceID(1) || !asked.Since.Equal(at(5)) {
		t.Fatalf("asked for %+v; want d1's rows since what is here", asked)
	}
	for range 1000 {
		if actions := s.snapshotPage(0, idPlace(1)); len(actions) > 0 {
			t.Fatalf("a page that nobody asked for: %+v", actions)
		}
	}
	actions := s.snapshotPage(asked.Number, idPlace(1))
	takes := only[TakeRange](actions)
	next := snapshotAsked(actions)
	if len(takes) != 1 || next == nil || next.After != idPlace(1) {
		t.Fatalf("got %+v; want the page taken in and the next one asked for", actions)
	}
	actions = s.snapshotPage(next.Number, idPlace(2))
	if len(only[TakeRange](actions)) > 0 || snapshotAsked(actions) != nil {
		t.Fatalf("got %+v; want nothing while the first page is taken in", actions)
	}
	if got := s.snapshotPage(next.Number, idPlace(3)); len(got) > 0 {
		t.Fatalf("a page comes twice: %+v", got)
	}
	actions = s.step(RangeTaken{Take: takes[0]})
	takes, next = only[TakeRange](actions), snapshotAsked(actions)
	if len(takes) != 1 || takes[0].Since != idPlace(1) || next == nil || next.After != idPlace(2) {
		t.Fatalf("got %+v; want the second page taken in and the third asked for", actions)
	}
	if closed := only[Close](s.snapshotPage(next.Number, idPlace(2))); len(closed) != 1 {
		t.Error("a page that ends where it begins is taken in")
	}
}

// TestMachine_SnapshotHeld says why a snapshot waits, and tries again.
func TestMachine_SnapshotHeld(t *testing.T) {
	s, asked := snapshotSolo(t)
	takes := only[TakeRange](s.snapshotPage(asked.Number, protocol.Place{}))
	s.step(RangeTaken{Take: takes[0], Err: sdk.Errorf(sdk.CodeUnavailable, "the disk is full")})
	if p := s.m.Peers(s.now)[0]; p.State != Held || p.Reason != "a snapshot of the records of d1: the disk is full" {
		t.Errorf("%s (%s); want it held, with the reason", p.State, p.Reason)
	}
	if again := snapshotAsked(s.step(Tick{})); again != nil {
		t.Error("asked again at once")
	}
	s.now = s.now.Add(time.Second)
	again := snapshotAsked(s.step(Tick{}))
	if again == nil {
		t.Fatal("not asked again")
	}
	takes = only[TakeRange](s.snapshotPage(again.Number, protocol.Place{}))
	heads := map[protocol.Stream]protocol.Heads{rowsOf1: at(90)}
	actions := s.step(RangeTaken{Take: takes[0], Taken: Taken{Heads: heads, Floors: map[protocol.Stream]hlc.Stamp{rowsOf1: 90}}})
	if sub, ok := s.subscribed(actions, rowsOf1); !ok || !sub.Since.Equal(at(90)) {
		t.Errorf("asked since %v; want since the end of the snapshot", sub.Since)
	}
	if p := s.m.Peers(s.now)[0]; p.State != Live || len(s.m.snapshots) > 0 {
		t.Errorf("%s (%s), %d snapshots; want it live", p.State, p.Reason, len(s.m.snapshots))
	}
}

// TestMachine_SnapshotOfNothing has a sender whose snapshots bring nothing of what it says it has.
func TestMachine_SnapshotOfNothing(t *testing.T) {
	s, asked := snapshotSolo(t)
	for try := range 3 {
		takes := only[TakeRange](s.snapshotPage(asked.Number, protocol.Place{}))
		s.step(RangeTaken{Take: takes[0]})
		if p := s.m.Peers(s.now)[0]; p.State != Held {
			t.Fatalf("try %d: %s; want it held, not asked at once for ever", try, p.State)
		}
		s.now = s.now.Add(s.m.config.RetryMax)
		s.step(Heard{Session: 1})
		sub, ok := s.subscribed(s.step(Tick{}), rowsOf1)
		if !ok {
			t.Fatalf("try %d: not tried again", try)
		}
		_ = sub
		if asked = snapshotAsked(s.step(Received{Session: 1, Message: &protocol.Error{Code: sdk.CodePruned, Stream: rowsOf1}})); asked == nil {
			t.Fatalf("try %d: no snapshot asked for", try)
		}
	}
}

// TestMachine_SnapshotNeverComes gives up a peer that lives and does not send what it was asked for.
func TestMachine_SnapshotNeverComes(t *testing.T) {
	s, _ := snapshotSolo(t)
	begun := s.now
	for s.m.sessions[1] != nil && s.now.Sub(begun) < time.Hour {
		s.now = s.now.Add(time.Second)
		s.step(Heard{Session: 1})
		s.step(Tick{})
	}
	if waited := s.now.Sub(begun); waited < s.m.config.RequestTime || waited > time.Minute+patience*s.m.config.RequestTime {
		t.Errorf("the peer was given up after %s", waited)
	}
}

// TestMachine_RefusedMeanwhile is told that it is below the floor when that is not true any more: it asks again.
func TestMachine_RefusedMeanwhile(t *testing.T) {
	s := newSolo(t)
	st := s.m.ensureStream(rowsOf1)
	st.applied, st.given, st.tail = at(5), at(5), at(5)
	sub, _ := s.subscribed(s.connect(1, 1, mark(rowsOf1, 90)), rowsOf1)
	s.page(1, sub.Number, 5, 60, 100)
	refusal := Received{Session: 1, Message: &protocol.Error{Code: sdk.CodePruned, Stream: rowsOf1}}
	again, ok := s.subscribed(s.step(refusal), rowsOf1)
	if !ok || again.Number == sub.Number {
		t.Fatal("not asked again")
	}
	if actions := s.step(refusal); snapshotAsked(actions) == nil {
		t.Errorf("refused since where it asked: %+v; want a snapshot", actions)
	}
	if actions := s.step(refusal); len(actions) > 0 {
		t.Errorf("refused once more, of a subscription given up: %+v", actions)
	}
}

// TestMachine_RefusedByAll is below the floor of one peer, and goes on at the other as long as that keeps what it needs.
func TestMachine_RefusedByAll(t *testing.T) {
	s := newSolo(t)
	key := protocol.Stream{Origin: deviceID(9), Kind: sdk.SharedByAll}
	st := s.m.ensureStream(key)
	st.applied, st.given, st.tail = at(5), at(5), at(5)
	refused := func(id SessionID) []Action {
		return s.step(Received{Session: id, Message: &protocol.Error{Code: sdk.CodePruned, Stream: key}})
	}
	s.connect(1, 1, mark(key, 90))
	s.connect(2, 2, mark(key, 80))
	actions := refused(1)
	if _, ok := s.subscribed(actions, key); !ok || snapshotAsked(actions) != nil || st.upstream.peer.id != deviceID(2) {
		t.Fatalf("got %+v; want the other peer asked", actions)
	}
	if actions = refused(2); snapshotAsked(actions) == nil {
		t.Fatalf("got %+v; want a snapshot", actions)
	}
	s.step(PeerDown{Session: 1})
	s.step(PeerDown{Session: 2})
	if s.step(Tick{}); st.snapshot != nil || len(s.m.snapshots) > 0 {
		t.Error("waits for a snapshot that nobody can send")
	}
	if _, ok := s.subscribed(s.connect(3, 1, mark(key, 90)), key); !ok {
		t.Error("a peer that comes back is not asked")
	}
}

// TestMachine_ServesRanges reads records for a peer: again where that fails or comes out too large, and no more at once than
// it may ask for.
func TestMachine_ServesRanges(t *testing.T) {
	s := newSolo(t)
	s.m.limits = protocol.DefaultLimits()
	s.connect(1, 1)
	request := func(number uint32) []Action {
		return s.step(Received{Session: 1, Message: &protocol.SnapshotRequest{Number: number, Kind: sdk.SharedByAll, PageBytes: 64 << 10}})
	}
	reads := only[ReadRange](request(1))
	if len(reads) != 1 || reads[0].Bytes != 64<<10 {
		t.Fatalf("reads %+v; want one of 64 KiB", reads)
	}
	huge := protocol.SnapshotPage{Done: true, Changes: []protocol.Changes{{Origin: deviceID(1), Batches: []sdk.Batch{{Model: sharedModel, Rows: make([]byte, 2<<20)}}}}}
	actions := s.step(RangeRead{Read: reads[0], Page: huge})
	if reads = only[ReadRange](actions); len(reads) != 1 || reads[0].Bytes != minPageBytes || len(only[Send](actions)) > 0 {
		t.Fatalf("got %+v; want the page read again, as small as can be", actions)
	}
	actions = s.step(RangeRead{Read: reads[0], Err: sdk.Errorf(sdk.CodeInternal, "no")})
	if len(only[Send](actions))+len(only[Close](actions)) > 0 {
		t.Fatalf("a read fails: %+v; want a line in the log", actions)
	}
	s.now = s.now.Add(s.m.config.RetryMax)
	s.step(Heard{Session: 1})
	if reads = only[ReadRange](s.step(Tick{})); len(reads) != 1 {
		t.Fatal("the read is not tried again")
	}
	page := protocol.SnapshotPage{Done: true}
	for _, send := range only[Send](s.step(RangeRead{Read: reads[0], Page: page})) {
		if sent, ok := send.Message.(*protocol.SnapshotPage); !ok || sent.Number != 1 {
			t.Errorf("sent %+v; want the page", send.Message)
		}
	}
	for i := range uint32(rangesAtOnce) {
		if closed := only[Close](request(2 + i)); len(closed) > 0 {
			t.Fatalf("refused after %d requests at once", i)
		}
	}
	if closed := only[Close](request(99)); len(closed) != 1 {
		t.Error("a peer may ask for any number of pages at once")
	}
}

// TestMachine_StoredSnapshot goes on with a snapshot after a restart, at a peer that has all that it is to bring.
func TestMachine_StoredSnapshot(t *testing.T) {
	vector := map[protocol.Stream]protocol.Heads{rowsOf1: at(90)}
	scope := Scope{Kind: sdk.DeviceOwned, Origin: deviceID(1)}
	for name, has := range map[string]hlc.Stamp{"resumed": 95, "begun anew": 80} {
		t.Run(name, func(t *testing.T) {
			s := newSolo(t)
			o := MachineOptions{Self: s.m.self, Limits: s.m.limits, Config: s.m.config, Rand: s.m.rand, Members: []Member{{ID: deviceID(1)}, {ID: deviceID(2)}}}
			o.Stored = Stored{
				Heads:     map[protocol.Stream]protocol.Heads{rowsOf1: at(5)},
				Snapshots: []StoredSnapshot{{Scope: scope, Vector: vector, After: idPlace(7)}},
			}
			s.m = NewMachine(o)
			s.step(Tick{})
			actions := s.connect(1, 2, mark(rowsOf1, has))
			if _, ok := s.subscribed(actions, rowsOf1); ok {
				t.Error("the stream goes on before the snapshot is complete")
			}
			asked := snapshotAsked(append(actions, s.step(Tick{})...))
			if asked == nil || (asked.After == idPlace(7)) != (has >= 90) {
				t.Fatalf("asked for %+v of who has %d of 90", asked, has)
			}
			takes := only[TakeRange](s.snapshotPage(asked.Number, protocol.Place{}))
			if len(takes) != 1 || !slices.Equal(takes[0].Vector[rowsOf1], at(90)) {
				t.Errorf("takes %+v; want it to end where it began", takes)
			}
		})
	}
}

// TestMachine_SnapshotGivenUp has nobody who could go on with a snapshot that has begun: the store forgets it before its stream goes on.
func TestMachine_SnapshotGivenUp(t *testing.T) {
	s := newSolo(t)
	scope := scopeOf(rowsOf1)
	s.m.ensureSnapshot(scope).resume(StoredSnapshot{Scope: scope, Vector: map[protocol.Stream]protocol.Heads{rowsOf1: at(90)}, After: idPlace(7)})
	long := 2*time.Minute + patience*s.m.config.RequestTime
	wait := func() (actions []Action) {
		for end := s.now.Add(long); s.now.Before(end); {
			s.now = s.now.Add(time.Second)
			s.step(Heard{Session: 1})
			actions = append(actions, s.step(Tick{})...)
		}
		return actions
	}
	if wait(); s.m.begunOf(s.m.streams[rowsOf1]) == nil {
		t.Fatal("a snapshot is given up while nobody is connected")
	}
	s.connect(1, 2)
	for _, err := range []error{sdk.Errorf(sdk.CodeUnavailable, "the disk is full"), nil} {
		actions := wait()
		if prunes := only[Prune](actions); len(prunes) != 1 || !slices.Equal(prunes[0].Snapshots, []Scope{scope}) {
			t.Fatalf("prunes %+v; want the snapshot forgotten", prunes)
		}
		if _, ok := s.subscribed(actions, rowsOf1); ok {
			t.Fatal("the stream goes on before the store has forgotten how far the snapshot was")
		}
		if asked := snapshotAsked(append(s.connect(2, 1, mark(rowsOf1, 95)), s.step(Tick{})...)); asked != nil {
			t.Errorf("goes on with a snapshot that the store is forgetting: %+v", asked)
		}
		s.step(PeerDown{Session: 2})
		_, ok := s.subscribed(s.step(Pruned{Err: err}), rowsOf1)
		if ok != (err == nil) || len(s.m.snapshots) > 0 == ok {
			t.Errorf("%v: the stream goes on: %t, %d snapshots", err, ok, len(s.m.snapshots))
		}
	}
}

// TestMachine_RefusedBefore was below the floor of a peer, and has since got from another what it lacked: the peer is asked
// again for what comes next.
func TestMachine_RefusedBefore(t *testing.T) {
	s := newSolo(t)
	key := protocol.Stream{Origin: deviceID(9), Kind: sdk.SharedByAll}
	st := s.m.ensureStream(key)
	st.applied, st.given, st.tail = at(5), at(5), at(5)
	s.connect(1, 1, mark(key, 90))
	s.connect(2, 2, mark(key, 80))
	s.step(Received{Session: 1, Message: &protocol.Error{Code: sdk.CodePruned, Stream: key}})
	page := protocol.Page{Stream: key, Heads: at(80), From: 5, Through: 80, Head: 80}
	applies := only[Apply](s.step(Received{Session: 2, Message: protocol.CatchUp(protocol.Delivery{Subscription: st.number, Page: page})}))
	s.step(Applied{Generation: applies[0].Generation, Page: applies[0].Page})
	actions := s.step(PeerDown{Session: 2})
	if sub, ok := s.subscribed(actions, key); !ok || !sub.Since.Equal(at(80)) || snapshotAsked(actions) != nil {
		t.Errorf("got %+v; want the first peer asked since 80", actions)
	}
}

// TestMachine_SnapshotElsewhere loses the sender while a page is taken in: another goes on as soon as that is done, and the
// store is given the epochs until the last page.
func TestMachine_SnapshotElsewhere(t *testing.T) {
	s, asked := snapshotSolo(t)
	s.connect(2, 2, mark(rowsOf1, 90))
	s.step(Received{Session: 1, Message: &protocol.Epochs{Epochs: []protocol.Epoch{{ID: at(1)[0].Epoch, Stream: rowsOf1}}}})
	takes := only[TakeRange](s.snapshotPage(asked.Number, idPlace(1)))
	s.step(PeerDown{Session: 1})
	if snapshotAsked(s.step(Tick{})) != nil {
		t.Error("asks elsewhere before it is known how far this device is")
	}
	if asked = snapshotAsked(s.step(RangeTaken{Take: takes[0]})); asked == nil || asked.After != idPlace(1) {
		t.Fatalf("asked for %+v; want what comes after the page", asked)
	}
	takes = append(takes, only[TakeRange](s.step(Received{Session: 2, Message: &protocol.SnapshotPage{Number: asked.Number, Done: true}}))...)
	for i, take := range takes {
		if len(take.Epochs) != 1 || !take.Vector[rowsOf1].Equal(at(90)) {
			t.Errorf("page %d comes with epochs %v and vector %v", i, take.Epochs, take.Vector)
		}
	}
	s.step(RangeTaken{Take: takes[1], Taken: Taken{Heads: takes[1].Vector}})
	if s.m.unstored != 0 {
		t.Error("the epochs that came with the last page do not count as stored")
	}
}

// TestMachine_StartsWithoutFloor starts on rows of which no floor was stored: the process may have ended before it was.
func TestMachine_StartsWithoutFloor(t *testing.T) {
	s := newSolo(t)
	mine := protocol.Stream{Origin: deviceID(0), Kind: sdk.DeviceOwned}
	shared := protocol.Stream{Origin: deviceID(1), Kind: sdk.SharedByAll}
	s.m = NewMachine(MachineOptions{
		Self: s.m.self, Limits: s.m.limits, Config: s.m.config, Rand: s.m.rand, Members: []Member{{ID: deviceID(1)}, {ID: deviceID(2)}},
		Stored: Stored{Heads: map[protocol.Stream]protocol.Heads{rowsOf1: at(90), mine: at(90), shared: at(90)}},
	})
	s.connect(1, 2)
	for key, sent := range map[protocol.Stream]bool{rowsOf1: false, mine: true, shared: true} {
		request := protocol.RequestFor(key.Kind, protocol.Request{Subscribe: []protocol.Subscribe{{Number: 1, Origin: key.Origin, Since: at(5)}}})
		if reads := only[ReadPage](s.step(Received{Session: 1, Message: request})); (len(reads) > 0) != sent {
			t.Errorf("%v since 5: read %t, want %t", key, len(reads) > 0, sent)
		}
	}
}

// TestMachine_SnapshotNeedsAll goes on with a snapshot at a peer that has all of the first one's vector, and begins it anew
// where the only one that is left lacks something of one stream.
func TestMachine_SnapshotNeedsAll(t *testing.T) {
	shared := func(n int) protocol.Stream { return protocol.Stream{Origin: deviceID(n), Kind: sdk.SharedByAll} }
	for _, lacks := range []bool{false, true} {
		s := newSolo(t)
		s.connect(1, 1, mark(shared(8), 90), mark(shared(9), 50))
		for _, key := range []protocol.Stream{shared(8), shared(9)} {
			s.step(Received{Session: 1, Message: &protocol.Error{Code: sdk.CodePruned, Stream: key}})
		}
		second := []protocol.Mark{mark(shared(8), 95), mark(shared(9), 50)}
		if lacks {
			second[1].Stamp--
		}
		s.connect(2, 2, second...)
		asked := uint32(1)
		takes := only[TakeRange](s.step(Received{Session: 1, Message: &protocol.SnapshotPage{
			Number: asked, Vector: []protocol.Mark{mark(shared(8), 90), mark(shared(9), 50)}, End: idPlace(1),
		}}))
		s.step(RangeTaken{Take: takes[0]})
		actions := s.step(PeerDown{Session: 1})
		for _, key := range []protocol.Stream{shared(8), shared(9)} { // the second peer is below its floor too
			actions = append(actions, s.step(Received{Session: 2, Message: &protocol.Error{Code: sdk.CodePruned, Stream: key}})...)
		}
		actions = append(actions, s.step(Tick{})...)
		next := snapshotAsked(actions)
		if next == nil || (next.After == idPlace(1)) == lacks {
			t.Errorf("lacks something: %t: asked for %+v", lacks, next)
		}
	}
}

// TestMachine_SnapshotEndsWhereItIsDone has a last page name an end, which it has not.
func TestMachine_SnapshotEndsWhereItIsDone(t *testing.T) {
	s, asked := snapshotSolo(t)
	closed := only[Close](s.step(Received{Session: 1, Message: &protocol.SnapshotPage{Number: asked.Number, Vector: []protocol.Mark{mark(rowsOf1, 90)}, End: idPlace(1), Done: true}}))
	if len(closed) != 1 {
		t.Error("a last page that ends before the end is taken in")
	}
}

// TestMachine_SnapshotStopsStreams has the first page of a snapshot of shared records come while pages of another shared stream
// are received, and applied: that stream stops, the records are taken in once the Applier is done, and in the end the stream
// is asked for from where it was.
func TestMachine_SnapshotStopsStreams(t *testing.T) {
	s := newSolo(t)
	below, live := protocol.Stream{Origin: deviceID(8), Kind: sdk.SharedByAll}, protocol.Stream{Origin: deviceID(9), Kind: sdk.SharedByAll}
	st := s.m.ensureStream(below)
	st.applied, st.given, st.tail = at(5), at(5), at(5)
	actions := s.connect(1, 1, mark(below, 90), mark(live, 90), mark(rowsOf1, 90))
	sub, _ := s.subscribed(actions, live)
	page := func(from, through hlc.Stamp) []Action {
		p := protocol.Page{Stream: live, Heads: at(through), From: from, Through: through, Head: 90}
		return s.step(Received{Session: 1, Message: protocol.CatchUp(protocol.Delivery{Subscription: sub.Number, Page: p})})
	}
	applies := only[Apply](page(0, 10))
	page(10, 20)
	asked := snapshotAsked(s.step(Received{Session: 1, Message: &protocol.Error{Code: sdk.CodePruned, Stream: below}}))
	if len(applies) != 1 || asked == nil || s.m.streams[live].upstream == nil {
		t.Fatalf("applies %+v, asks %+v; want the stream to go on until a page has come", applies, asked)
	}
	actions = s.step(Received{Session: 1, Message: &protocol.SnapshotPage{Number: asked.Number, Vector: []protocol.Mark{mark(below, 90), mark(live, 50)}, End: idPlace(1)}})
	dropped := slices.ContainsFunc(only[Send](actions), func(send Send) bool {
		r, kind, ok := protocol.RequestOf(send.Message)
		return ok && kind == live.Kind && slices.Contains(r.Drop, live.Origin)
	})
	if !dropped {
		t.Errorf("got %+v; want the other stream dropped", actions)
	}
	if len(only[TakeRange](actions)) > 0 {
		t.Error("records are taken in while a page is being applied, which may come after them")
	}
	if s.m.streams[rowsOf1].upstream == nil {
		t.Error("rows, which the snapshot is not of, stop")
	}
	actions = s.step(Applied{Page: applies[0].Page})
	takes := only[TakeRange](actions)
	if len(takes) != 1 || len(only[Apply](actions)) > 0 {
		t.Fatalf("got %+v; want the records taken in, and no other page applied", actions)
	}
	next, _ := s.m.snapshots[0], page(20, 30)
	if actions = page(20, 30); len(actions) > 0 {
		t.Errorf("a page that is still under way: %+v", actions)
	}
	for _, id := range []SessionID{2, 3} { // whoever comes is not asked for it either
		if _, ok := s.subscribed(s.connect(id, int(id), mark(live, 95)), live); ok {
			t.Error("the stream goes on within the snapshot")
		}
	}
	s.step(RangeTaken{Take: takes[0]})
	takes = only[TakeRange](s.step(Received{Session: 1, Message: &protocol.SnapshotPage{Number: next.number, Done: true}}))
	heads := map[protocol.Stream]protocol.Heads{below: at(90), live: at(50)}
	actions = s.step(RangeTaken{Take: takes[0], Taken: Taken{Heads: heads}})
	if sub, ok := s.subscribed(actions, live); !ok || !sub.Since.Equal(at(50)) {
		t.Errorf("asked since %v; want since where the snapshot has brought it", sub.Since)
	}
}

// TestMachine_SnapshotAlone has a new device fetch a snapshot from a peer that keeps nothing of what was deleted, while another
// one still has all the inserts in its log: what comes of them must not outlive the snapshot.
func TestMachine_SnapshotAlone(t *testing.T) {
	snapshots := 0
	for seed := range seeds(60) {
		config := patient()
		config.PruneTime = 5 * time.Second
		w := newWorldWith(t, seed, 3, config)
		deletes, inserts, fresh := w.devices[0], w.devices[1], w.devices[2]
		inserts.machine.config.PruneTime = 24 * time.Hour
		w.write(inserts, sdk.SharedByAll, 0, 40, "text")
		w.pass(5 * time.Second)
		w.commit(deletes, sdk.SharedByAll, []write{{3, sdk.Delete, ""}, {14, sdk.Delete, ""}, {25, sdk.Delete, ""}, {36, sdk.Delete, ""}})
		w.pass(10 * time.Minute)
		if _, shadows, entries := deletes.store.remembered(); shadows+entries > 0 {
			t.Fatalf("%d clocks and %d operations are kept of what was deleted", shadows, entries)
		}
		floors := map[protocol.Stream]hlc.Stamp{{Origin: deletes.id, Kind: sdk.SharedByAll}: hlc.MaxStamp}
		if err := inserts.store.Prune(t.Context(), Prune{Floors: floors}); err != nil { // and the power went before it was done with the rest
			t.Fatal(err)
		}
		w.stop(inserts)
		w.start(inserts)
		inserts.machine.config.PruneTime = 24 * time.Hour
		w.pass(5 * time.Second)
		w.stop(fresh)
		onGap := fresh.store.onGap
		fresh.store = newMemoryStore(fresh.id)
		fresh.store.onGap = onGap
		w.onAction = func(d *worldDevice, a Action) {
			if take, ok := a.(TakeRange); ok && take.Page.Done && d == fresh {
				snapshots++
			}
		}
		w.start(fresh)
		w.pass(time.Minute)
		w.checkEqual("a new device")
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	if snapshots == 0 {
		t.Error("no snapshot was taken in: the test shows nothing")
	}
}
