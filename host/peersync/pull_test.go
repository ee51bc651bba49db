package peersync

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/sdk"
)

// smallBatches is a page of n batches, as operations of two models in turn make it.
func smallBatches(key protocol.Stream, from, through hlc.Stamp, n int) protocol.Page {
	page := protocol.Page{Stream: key, Heads: at(through), From: from, Through: through, Head: through, Batches: make([]sdk.Batch, n)}
	for i := range page.Batches {
		page.Batches[i] = sdk.Batch{Model: testModel, Version: uint32(i % 2), Count: 1, Rows: make([]byte, 25)}
	}
	return page
}

func TestMerge(t *testing.T) {
	m := newSolo(t).m
	m.limits = protocol.DefaultLimits()
	limits := &m.limits
	limits.PageBytes = 1 << 20
	page, n, size := m.merge([]protocol.Page{
		{Heads: at(15), From: 12, Through: 15}, {Heads: at(20), From: 10, Through: 20}, {Heads: at(30), From: 20, Through: 30},
	})
	if page.From != 10 || page.Through != 30 || !page.Heads.Equal(at(30)) || n != 3 || size != 3*page.Bytes() {
		t.Errorf("merged (%d, %d] to %v of %d pages with %d bytes; want (10, 30] of 3", page.From, page.Through, page.Heads, n, size)
	}
	half := limits.Batches/2 + 1
	queue := []protocol.Page{smallBatches(rowsOf1, 0, 10, half), smallBatches(rowsOf1, 10, 20, half)}
	if page, n, _ := m.merge(queue); n != 1 || page.Through != 10 {
		t.Errorf("merged %d pages with %d batches; a frame takes %d", n, len(page.Batches), limits.Batches)
	}
}

// TestMachine_ManyBatches has a commit of more batches than a frame may hold: it is read in pages that fit.
func TestMachine_ManyBatches(t *testing.T) {
	s := newSolo(t)
	s.m.limits = protocol.DefaultLimits()
	s.connect(1, 1)
	mine := protocol.Stream{Origin: deviceID(0), Kind: sdk.SharedByAll}
	request := protocol.RequestFor(sdk.SharedByAll, protocol.Request{Subscribe: []protocol.Subscribe{{Number: 1, Origin: deviceID(0)}}})
	s.step(Received{Session: 1, Message: request})
	page := smallBatches(mine, 0, 10, s.m.limits.Batches+1)
	actions := s.step(Committed{Page: page})
	reads := only[ReadPage](actions)
	if len(only[Send](actions)) != 0 || len(reads) != 1 {
		t.Fatalf("%d sends, %d reads; want one read", len(only[Send](actions)), len(reads))
	}
	actions = s.step(PageRead{Read: reads[0], Page: page, More: true})
	if reads = only[ReadPage](actions); len(only[Send](actions)) != 0 || len(reads) != 1 || reads[0].MaxBytes != minPageBytes {
		t.Fatalf("%d sends, reads %+v; want the page read again, smaller", len(only[Send](actions)), reads)
	}
}

// TestMachine_FormerMember has the last words of a device, whose membership record is gone, reach who did not hear them.
func TestMachine_FormerMember(t *testing.T) {
	for name, forgets := range map[string]bool{"known": false, "never known": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 3, 3)
			w.cutAll(topologies["line"])
			if !forgets {
				w.pass(30 * time.Second)
			}
			w.cut[[2]int{0, 1}] = true
			for _, c := range slices.Clone(w.conns) {
				if c.ends[0].index+c.ends[1].index == 1 {
					w.breakConn(c)
				}
			}
			w.write(w.devices[2], sdk.SharedByAll, 0, 5, "last words")
			w.write(w.devices[2], sdk.DeviceOwned, 0, 5, "last rows")
			w.pass(30 * time.Second)
			w.stop(w.devices[2])
			remaining := w.members[:2]
			if forgets {
				m := w.devices[0].machine
				w.devices[0].machine = NewMachine(MachineOptions{Self: m.self, Members: remaining, Limits: m.limits, Config: m.config, Rand: m.rand})
			}
			for _, d := range w.devices[:2] {
				w.step(d, MembersChanged{Members: remaining})
			}
			delete(w.cut, [2]int{0, 1})
			w.pass(2 * time.Minute)
			w.devices = w.devices[:2]
			w.checkEqual(name)
		})
	}
}

// TestMachine_InventedStreams has a member name more streams than can be real.
func TestMachine_InventedStreams(t *testing.T) {
	s := newSolo(t)
	s.m.limits.Marks = 100
	var vector []protocol.Mark
	for i := range 200 {
		key := protocol.Stream{Origin: sdk.DeviceID{1, byte(i)}, Kind: sdk.SharedByAll}
		vector = append(vector, protocol.Mark{Stream: key, Position: protocol.Position{Epoch: protocol.EpochID{1}, Stamp: 1}})
	}
	s.connect(1, 1, vector...)
	if got := len(s.m.streams); got > 50 {
		t.Errorf("%d streams are remembered; want 50 at most", got)
	}
}

// TestMachine_StuckPage has a plugin take a page and not return: that shows, until it does.
func TestMachine_StuckPage(t *testing.T) {
	s := newSolo(t)
	sub, _ := s.subscribed(s.connect(1, 1), rowsOf1)
	var applies []Apply
	for i := range hlc.Stamp(2) {
		applies = append(applies, only[Apply](s.page(1, sub.Number, 10*i, 10*i+10, 3000))...)
	}
	wait := func() {
		for range 5 {
			s.now = s.now.Add(DefaultConfig().StallTime / 4)
			s.step(Heard{Session: 1})
			s.step(Tick{})
		}
	}
	check := func(when string, state State, reason string) {
		t.Helper()
		if got := s.m.Peers(s.now)[0]; got.State != state || got.Reason != reason {
			t.Errorf("%s: %s (%s), want %s (%s)", when, got.State, got.Reason, state, reason)
		}
	}
	check("at first", Live, "")
	wait()
	check("stuck", Held, "the rows of d1: waits for the plugin of note")
	s.step(Applied{Generation: applies[0].Generation, Page: applies[0].Page})
	check("one of two is done", Live, "")
	wait()
	check("stuck in the second", Held, "the rows of d1: waits for the plugin of note")
	s.step(Applied{Generation: applies[1].Generation, Page: applies[1].Page})
	check("both are done", Live, "")
}

// TestMachine_SaysItHasMore leaves a peer that has more of a stream, lives, and sends nothing of it for long.
func TestMachine_SaysItHasMore(t *testing.T) {
	s := newSolo(t)
	s.connect(1, 1, mark(rowsOf1, 90))
	begun := s.now
	for s.m.sessions[1] != nil && s.now.Sub(begun) < time.Hour {
		s.now = s.now.Add(time.Second)
		s.step(Heard{Session: 1})
		s.step(Tick{})
	}
	if waited, least := s.now.Sub(begun), patience*s.m.config.RequestTime; waited < least || waited > least+time.Minute {
		t.Errorf("the peer was left after %s, want %s", waited, least)
	}
}

// TestMachine_UpstreamHasLess has an upstream turn out to have less than it said: nothing is waited for that it does not have.
func TestMachine_UpstreamHasLess(t *testing.T) {
	s := newSolo(t)
	s.connect(1, 1, marksOf(rowsOf1, in(1, 50), in(3, 90))...)
	st := s.m.streams[rowsOf1]
	st.applied, st.given, st.tail = protocol.Heads{in(1, 50)}, protocol.Heads{in(1, 50)}, protocol.Heads{in(1, 50)}
	s.step(Tick{})
	if got := s.m.Peers(s.now)[0].State; got != CatchingUp && got != Backfilling {
		t.Fatalf("%s; want it catching up", got)
	}
	s.step(Received{Session: 1, Message: &protocol.AckSharedChanges{Vector: marksOf(rowsOf1, in(1, 50))}})
	if got := s.m.Peers(s.now)[0].State; got != Live {
		t.Errorf("%s; want it live", got)
	}
}

// TestMachine_FloorOfTheFuture gets the first rows from a device whose clock is years ahead: what that deleted until then is not
// what this device lacks once the clock is right.
func TestMachine_FloorOfTheFuture(t *testing.T) {
	s := newSolo(t)
	now, ahead := hlc.New(s.now.UnixMilli(), 0), hlc.New(s.now.AddDate(9, 0, 0).UnixMilli(), 0)
	sub, _ := s.subscribed(s.connect(1, 1), rowsOf1)
	page := protocol.Page{Stream: rowsOf1, Heads: at(ahead), Through: ahead, Head: ahead}
	a := only[Apply](s.step(Received{Session: 1, Message: protocol.CatchUp(protocol.Delivery{Subscription: sub.Number, Page: page})}))
	s.step(Applied{Generation: a[0].Generation, Page: a[0].Page, Err: sdk.Errorf(sdk.CodeClockSkew, "ahead")})
	for range 2 {
		for _, p := range s.look() {
			if p.Floors[rowsOf1] > now {
				t.Errorf("the store is told to forget up to %s", p.Floors[rowsOf1])
			}
			s.step(Pruned{})
		}
	}
	if got := s.m.streams[rowsOf1].below(); got > now {
		t.Errorf("the floor is %s, and it is %s", got, now)
	}
}

// TestMachine_FirstChange hears of a new stream: it tells those who wait for it elsewhere at once, and once; and who waits for it
// at a peer that has nothing of it asks the first that has.
func TestMachine_FirstChange(t *testing.T) {
	s := newSolo(t)
	s.m.setMembers([]Member{{ID: deviceID(1), Name: "d1"}, {ID: deviceID(2), Name: "d2"}, {ID: deviceID(3), Name: "d3"}})
	key := protocol.Stream{Origin: deviceID(9), Kind: sdk.SharedByAll}
	s.m.ensureStream(key)
	for n := range 3 {
		s.connect(SessionID(n+1), n+1)
	}
	st := s.m.streams[key]
	if st.upstream == nil || st.upstream.id != 1 {
		t.Fatalf("asked at %v; want at the first peer", st.upstream)
	}
	s.step(Received{Session: 3, Message: protocol.RequestFor(key.Kind, protocol.Request{Subscribe: []protocol.Subscribe{{Number: 1, Origin: key.Origin}}})})
	sub, ok := s.subscribed(s.step(Received{Session: 2, Message: &protocol.AckSharedChanges{Vector: []protocol.Mark{mark(key, 10)}}}), key)
	if !ok || st.upstream.id != 2 {
		t.Fatal("the peer that has something of the new stream is not asked at once")
	}
	if s.step(Received{Session: 1, Message: &protocol.AckSharedChanges{Vector: []protocol.Mark{mark(key, 20)}}}); st.upstream.id != 2 {
		t.Error("a peer that delivers is left")
	}
	s.step(PeerDown{Session: 1})
	s.connect(4, 1)
	apply := func(from, through hlc.Stamp) map[SessionID]int {
		page := protocol.Page{Stream: key, Heads: at(through), From: from, Through: through, Head: through}
		applies := only[Apply](s.step(Received{Session: 2, Message: protocol.Live(protocol.Delivery{Subscription: sub.Number, Page: page})}))
		acks := map[SessionID]int{}
		for _, send := range only[Send](s.step(Applied{Page: applies[0].Page})) {
			if ack, ok := send.Message.(*protocol.AckSharedChanges); ok {
				acks[send.Session] += len(ack.Vector)
			}
		}
		return acks
	}
	if got, want := apply(0, 10), map[SessionID]int{2: 1, 4: 1}; !maps.Equal(got, want) {
		t.Errorf("told %v; want the upstream, and who does not know of it: %v", got, want)
	}
	if got, want := apply(10, 20), map[SessionID]int{2: 1}; !maps.Equal(got, want) {
		t.Errorf("then told %v; want the upstream alone", got)
	}

	s = newSolo(t)
	s.m.ensureStream(key)
	s.connect(1, 2)
	if s.connect(2, 1); s.m.streams[key].upstream.id != 1 {
		t.Error("a new stream changes between peers that have nothing of it")
	}
}
