package peersync

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/sdk"
)

// patient is a configuration in which nothing is forgotten but what everybody has, and nobody audits.
func patient() Config {
	config := DefaultConfig()
	config.RetentionAge, config.AuditTime = 0, 0
	return config
}

// remembered counts tombstones, shadows and log entries.
func (s *memoryStore) remembered() (tombstones, shadows, entries int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.rows {
		if r.deleted {
			tombstones++
		}
	}
	for _, r := range s.records {
		if !r.exists() {
			shadows++
		}
	}
	for _, list := range s.log {
		entries += len(list)
	}
	return tombstones, shadows, entries
}

// TestMachine_ForgetsWhatAllHave has devices that never meet learn from those between them what each has: all forget.
func TestMachine_ForgetsWhatAllHave(t *testing.T) {
	w := newWorldWith(t, 1, 5, patient())
	w.cutAll(topologies["line"])
	for _, d := range w.devices[:2] {
		for _, kind := range kinds {
			w.write(d, kind, 10*d.index, 6, "text")
		}
	}
	w.pass(time.Minute)
	for _, kind := range kinds {
		w.commit(w.devices[0], kind, []write{{1, sdk.Delete, ""}, {2, sdk.Delete, ""}})
	}
	away := w.devices[4]
	w.stop(away)
	w.pass(time.Hour)
	for _, d := range w.devices[:4] {
		if tombstones, shadows, entries := d.store.remembered(); tombstones != 2 || shadows != 2 || entries < 2 {
			t.Errorf("d%d remembers %d tombstones, %d shadows and %d entries while d4 may need them", d.index, tombstones, shadows, entries)
		}
	}
	w.start(away)
	w.pass(20 * time.Minute)
	for _, d := range w.devices {
		if tombstones, shadows, entries := d.store.remembered(); tombstones+shadows+entries > 0 {
			t.Errorf("d%d remembers %d tombstones, %d shadows and %d entries that everybody is past", d.index, tombstones, shadows, entries)
		}
		if got := len(d.store.epochs); got > 2*len(w.devices)*(epochsKept+1) {
			t.Errorf("d%d remembers %d epochs", d.index, got)
		}
	}
	w.checkEqual("all forgotten")
}

// TestMachine_Idle leaves devices alone after a change, and after each of them has started anew: soon they say nothing but
// that they live, and close as few stamps as need be.
func TestMachine_Idle(t *testing.T) {
	for topology := range topologies {
		t.Run(topology, func(t *testing.T) {
			w := newWorldWith(t, 3, 5, patient())
			w.cutAll(topologies[topology])
			w.write(w.devices[1], sdk.SharedByAll, 0, 3, "text")
			w.write(w.devices[2], sdk.DeviceOwned, 0, 3, "text")
			w.pass(30 * time.Minute)
			w.checkSilence("after a change", 2*time.Hour)
			for _, d := range w.devices {
				if want := 1; d.index != 1 && d.seals != want || d.seals > want {
					t.Errorf("d%d has closed %d stamps; want %d, none where the change was made", d.index, d.seals, want)
				}
				d.seals = 0
			}
			for round := range 3 {
				for _, d := range w.devices {
					w.stop(d)
					w.start(d)
					w.pass(30 * time.Second)
				}
				w.pass(30 * time.Minute)
				w.checkSilence(fmt.Sprintf("after start %d", round+2), 2*time.Hour)
			}
			for _, d := range w.devices {
				if d.seals > 3 {
					t.Errorf("d%d has closed %d stamps in three starts", d.index, d.seals)
				}
			}
			w.checkEqual("idle")
		})
	}
}

// pruneSolo is a machine with one peer, which has all that it has of a stream.
func pruneSolo(t *testing.T) (s *solo, key protocol.Stream) {
	s = newSolo(t)
	s.m.config.RetentionAge = 0
	s.step(MembersChanged{Members: []Member{{ID: deviceID(1), Name: "d1"}}})
	key = protocol.Stream{Origin: deviceID(0), Kind: sdk.SharedByAll}
	s.step(Advanced{Mark: mark(key, 100), Opened: []protocol.Epoch{{ID: at(1)[0].Epoch, Stream: key}}})
	s.step(Tick{})
	s.connect(1, 1, mark(key, 60))
	return s, key
}

func (s *solo) look() []Prune {
	s.now = s.now.Add(s.m.config.PruneTime)
	s.step(Heard{Session: 1})
	return only[Prune](s.step(Tick{}))
}

// TestMachine_PruneFails tries again what a store could not forget, and meanwhile sends nobody what may be half gone.
func TestMachine_PruneFails(t *testing.T) {
	s, key := pruneSolo(t)
	prunes := s.look()
	if len(prunes) != 1 || prunes[0].Floors[key] != 60 {
		t.Fatalf("prunes %+v; want up to 60", prunes)
	}
	if got := s.look(); len(got) > 0 {
		t.Fatalf("prunes %+v while a prune is under way", got)
	}
	s.step(Pruned{Err: sdk.Errorf(sdk.CodeUnavailable, "the disk is full")})
	if prunes = s.look(); len(prunes) != 1 || prunes[0].Floors[key] != 60 {
		t.Fatalf("prunes %+v; want up to 60 again", prunes)
	}
	request := protocol.RequestFor(key.Kind, protocol.Request{Subscribe: []protocol.Subscribe{{Number: 1, Origin: key.Origin, Since: at(50)}}})
	actions := s.step(Received{Session: 1, Message: request})
	if sends := only[Send](actions); len(sends) != 1 || len(only[ReadPage](actions)) > 0 || sends[0].Message.(*protocol.Error).Code != sdk.CodePruned {
		t.Errorf("got %+v; want it refused below the floor", actions)
	}
	s.step(Pruned{})
	if got := s.look(); len(got) > 0 {
		t.Errorf("prunes %+v although nothing is left to forget", got)
	}
	s.step(Retain{Floors: map[protocol.Stream]hlc.Stamp{key: 80, {Origin: deviceID(1), Kind: sdk.SharedByAll}: 80}})
	if got := s.m.streams[key].below(); got != 80 {
		t.Errorf("floor %d after Retain of 80", got)
	}
}

// TestMachine_PagesInFlight reads a page while the floor rises above its beginning: it may lack something and is not sent.
func TestMachine_PagesInFlight(t *testing.T) {
	s, key := pruneSolo(t)
	request := protocol.RequestFor(key.Kind, protocol.Request{Subscribe: []protocol.Subscribe{{Number: 1, Origin: key.Origin, Since: at(50)}}})
	reads := only[ReadPage](s.step(Received{Session: 1, Message: request}))
	if len(reads) != 1 || reads[0].Since != 50 {
		t.Fatalf("reads %+v; want one since 50", reads)
	}
	s.look()
	actions := s.step(PageRead{Read: reads[0], Page: protocol.Page{Stream: key, Through: 70}})
	if sends := only[Send](actions); len(sends) != 1 || sends[0].Message.Type() != protocol.TypeError {
		t.Errorf("sent %+v; want a refusal", sends)
	}
	if used := s.m.sessions[1].window(key.Kind).used; used != 0 {
		t.Errorf("%d bytes of the window are not given back", used)
	}
}

// TestMachine_Acknowledgements are replaced by a greeting and moved by what follows; a third device speaks for itself where
// it is connected.
func TestMachine_Acknowledgements(t *testing.T) {
	s, key := pruneSolo(t)
	s.step(MembersChanged{Members: []Member{{ID: deviceID(1), Name: "d1"}, {ID: deviceID(2), Name: "d2"}, {ID: deviceID(3), Name: "d3", Retired: true}}})
	acks := only[Acknowledged](s.step(Received{Session: 1, Message: &protocol.AckSharedChanges{Vector: []protocol.Mark{mark(key, 70), mark(rowsOf1, 5)}}}))
	if len(acks) != 1 || acks[0].All || acks[0].Peer != deviceID(1) || !acks[0].Heads[key].Equal(at(70)) || len(acks[0].Heads) != 2 {
		t.Errorf("acknowledged %+v; want two streams of d1", acks)
	}
	beat := &protocol.Heartbeat{Clock: s.now, Known: []protocol.Known{
		{Device: deviceID(1), Vector: []protocol.Mark{mark(key, 99)}}, {Device: deviceID(2), Vector: []protocol.Mark{mark(key, 40)}},
		{Device: deviceID(3), Vector: []protocol.Mark{mark(key, 40)}}, {Device: deviceID(8), Vector: []protocol.Mark{mark(key, 40)}},
	}}
	acks = only[Acknowledged](s.step(Received{Session: 1, Message: beat}))
	if len(acks) != 1 || acks[0].Peer != deviceID(2) || !acks[0].Heads[key].Equal(at(40)) {
		t.Errorf("acknowledged %+v; want only what d2 has, who is a member and not here", acks)
	}
	if acks = only[Acknowledged](s.step(Received{Session: 1, Message: beat})); len(acks) > 0 {
		t.Errorf("acknowledged again: %+v", acks)
	}
	s.step(PeerDown{Session: 1})
	acks = only[Acknowledged](s.connect(2, 1, mark(key, 50)))
	if len(acks) != 1 || !acks[0].All || !acks[0].Heads[key].Equal(at(50)) || len(acks[0].Heads) != 1 {
		t.Errorf("acknowledged %+v; want what d1 has now, and nothing else: it was restored", acks)
	}
	if has, known := s.m.HasThrough(deviceID(1), key, 60); has || !known {
		t.Errorf("d1 has it up to 60: %t, known %t", has, known)
	}
	s.step(MembersChanged{Members: []Member{{ID: deviceID(1), Name: "d1", Retired: true}}})
	if len(s.m.acks.of) > 0 {
		t.Errorf("what retired devices have is remembered: %v", s.m.acks.of)
	}
}

// TestMachine_AskedAgainAndAgain has a peer ask for a stream again and again while its window is full: nothing piles up.
func TestMachine_AskedAgainAndAgain(t *testing.T) {
	s := newSolo(t)
	s.connect(1, 1)
	mine := protocol.Stream{Origin: deviceID(0), Kind: sdk.DeviceOwned}
	other := protocol.Stream{Origin: deviceID(2), Kind: sdk.DeviceOwned}
	for _, key := range []protocol.Stream{mine, other} {
		st := s.m.ensureStream(key)
		st.applied, st.given, st.tail = at(1_000_000), at(1_000_000), at(1_000_000)
	}
	ask := func(key protocol.Stream, number uint32) []ReadPage {
		request := protocol.RequestFor(key.Kind, protocol.Request{Subscribe: []protocol.Subscribe{{Number: number, Origin: key.Origin}}})
		return only[ReadPage](s.step(Received{Session: 1, Message: request}))
	}
	for reads := ask(mine, 1); len(reads) > 0; {
		page := protocol.Page{Stream: mine, Through: reads[0].Since + 10, Batches: []sdk.Batch{{Model: testModel, Count: 1, Rows: make([]byte, 4000)}}}
		reads = only[ReadPage](s.step(PageRead{Read: reads[0], Page: page, More: true}))
	}
	for number := range uint32(1000) {
		ask(other, 2+number)
	}
	if got := len(s.m.sessions[1].window(sdk.DeviceOwned).lagging); got > 2 {
		t.Errorf("%d subscriptions wait for room, of two", got)
	}
}

// TestMachine_Gossip passes on what third devices have to those who do not know, and not to who told it.
func TestMachine_Gossip(t *testing.T) {
	s, key := pruneSolo(t)
	s.step(MembersChanged{Members: []Member{{ID: deviceID(1), Name: "d1"}, {ID: deviceID(2), Name: "d2"}, {ID: deviceID(3), Name: "d3"}}})
	s.connect(2, 2)
	s.step(Received{Session: 1, Message: &protocol.Heartbeat{Clock: s.now, Known: []protocol.Known{{Device: deviceID(3), Vector: []protocol.Mark{mark(key, 40)}}}}})
	s.now = s.now.Add(s.m.config.GossipTime)
	s.step(Heard{Session: 1})
	s.step(Heard{Session: 2})
	of := map[SessionID][]sdk.DeviceID{}
	for _, send := range only[Send](s.step(Tick{})) {
		if beat, ok := send.Message.(*protocol.Heartbeat); ok {
			for _, k := range beat.Known {
				of[send.Session] = append(of[send.Session], k.Device)
			}
		}
	}
	if len(of[1]) != 0 || !slices.Equal(of[2], []sdk.DeviceID{deviceID(1), deviceID(3)}) {
		t.Errorf("d1 is told of %v, d2 of %v; want d1 of nobody, d2 of d1 and d3", of[1], of[2])
	}
}

// TestMachine_HasMeanwhile has a peer get from others what is being read for it: that is not sent.
func TestMachine_HasMeanwhile(t *testing.T) {
	s, key := pruneSolo(t)
	request := protocol.RequestFor(key.Kind, protocol.Request{Subscribe: []protocol.Subscribe{{Number: 1, Origin: key.Origin, Since: at(50)}}})
	reads := only[ReadPage](s.step(Received{Session: 1, Message: request}))
	s.step(Received{Session: 1, Message: &protocol.AckSharedChanges{Vector: []protocol.Mark{mark(key, 100)}}})
	if actions := s.step(PageRead{Read: reads[0], Page: protocol.Page{Stream: key, Through: 90}}); len(actions) > 0 {
		t.Errorf("got %+v; want nothing, since the peer has it all", actions)
	}
}

// TestMachine_BackfillOfABackfill passes rows on while it is itself being spared the tombstones of what was deleted before: who
// has nothing gets them too, and is told up to where it lacks tombstones.
func TestMachine_BackfillOfABackfill(t *testing.T) {
	s := newSolo(t)
	s.m.config.RetentionAge = 0
	s.step(Tick{})
	s.connect(2, 2)
	sub, _ := s.subscribed(s.connect(1, 1, mark(rowsOf1, 90)), rowsOf1)
	page := protocol.Page{Stream: rowsOf1, Heads: at(40), Through: 40, Head: 90}
	applies := only[Apply](s.step(Received{Session: 1, Message: protocol.CatchUp(protocol.Delivery{Subscription: sub.Number, Page: page})}))
	s.step(Applied{Page: applies[0].Page})
	ask := func(since protocol.Heads) []Action {
		return s.step(Received{Session: 2, Message: protocol.RequestFor(rowsOf1.Kind, protocol.Request{Subscribe: []protocol.Subscribe{{
			Number: 1, Origin: rowsOf1.Origin, Since: since,
		}}})})
	}
	if actions := ask(at(5)); len(only[ReadPage](actions)) > 0 {
		t.Error("who has something is sent pages that may lack tombstones")
	}
	reads := only[ReadPage](ask(nil))
	if len(reads) != 1 {
		t.Fatal("who has nothing is not sent the rows")
	}
	for _, send := range only[Send](s.step(PageRead{Read: reads[0], Page: protocol.Page{Stream: rowsOf1, Through: 40}})) {
		if d, ok := protocol.DeliveryOf(send.Message); ok && d.Page.Head != 90 {
			t.Errorf("the page says that there are tombstones after %d; want 90", d.Page.Head)
		}
	}
	if prunes := s.look(); len(prunes) != 1 || prunes[0].Floors[rowsOf1] != 90 {
		t.Errorf("prunes %+v; want it kept that tombstones up to 90 are lacking", prunes)
	}
}

// TestMachine_OldHold learns that a peer holds a stream of which it lacks nothing: that shows nowhere.
func TestMachine_OldHold(t *testing.T) {
	s, key := pruneSolo(t)
	s.step(Received{Session: 1, Message: protocol.RequestFor(key.Kind, protocol.Request{Subscribe: []protocol.Subscribe{{Number: 1, Origin: key.Origin}}})})
	hold := Received{Session: 1, Message: &protocol.Error{Code: sdk.CodeUnavailable, Message: "the disk is full", Stream: key}}
	warned := func(actions []Action) bool {
		return slices.ContainsFunc(only[Log](actions), func(l Log) bool { return l.Level == hclog.Warn && l.Message == "peer holds a stream" })
	}
	if !warned(s.step(hold)) {
		t.Error("nobody is told that a peer holds a stream")
	}
	s.step(Received{Session: 1, Message: protocol.RequestFor(key.Kind, protocol.Request{Subscribe: []protocol.Subscribe{{Number: 3, Origin: key.Origin}}})})
	if warned(s.step(hold)) {
		t.Error("the same is told again, though nothing has changed")
	}
	if p := s.m.Peers(s.now)[0]; p.State != Held {
		t.Errorf("%s; want it held, since it lacks something", p.State)
	}
	s.step(Received{Session: 1, Message: &protocol.AckSharedChanges{Vector: []protocol.Mark{mark(key, 100)}}})
	if s.step(Advanced{Mark: mark(key, 110)}); s.m.Peers(s.now)[0].State != Live {
		t.Error("held for what it got meanwhile")
	}
	s.step(Received{Session: 1, Message: &protocol.AckSharedChanges{Vector: []protocol.Mark{mark(key, 110)}}})
	s.step(Received{Session: 1, Message: protocol.RequestFor(key.Kind, protocol.Request{Subscribe: []protocol.Subscribe{{Number: 2, Origin: key.Origin, Since: at(110)}}})})
	s.step(hold)
	if p := s.m.Peers(s.now)[0]; p.State != Live {
		t.Errorf("%s (%s); want it live, since it lacks nothing", p.State, p.Reason)
	}
}

// TestMachine_RetainDuringPrune is told of floors that rose while a prune is under way: they are in the next one.
func TestMachine_RetainDuringPrune(t *testing.T) {
	s, key := pruneSolo(t)
	other := protocol.Stream{Origin: deviceID(2), Kind: sdk.SharedByAll}
	s.step(Advanced{Mark: mark(other, 100)})
	s.look()
	for _, floors := range []map[protocol.Stream]hlc.Stamp{{key: 70}, {key: 80, other: 30}} {
		if got := only[Prune](s.step(Retain{Floors: floors})); len(got) > 0 {
			t.Fatalf("prunes %+v while a prune is under way", got)
		}
	}
	prunes := only[Prune](s.step(Pruned{}))
	if len(prunes) != 1 || prunes[0].Floors[key] != 80 || prunes[0].Floors[other] != 30 {
		t.Errorf("prunes %+v; want up to 80 and 30, as was asked meanwhile", prunes)
	}
}

// TestMachine_NothingToForget asks a store to forget what it never had: no floor rises, and it is not asked again.
func TestMachine_NothingToForget(t *testing.T) {
	s, key := pruneSolo(t)
	if prunes := s.look(); len(prunes) != 1 || prunes[0].Floors[key] != 60 {
		t.Fatalf("prunes %+v; want up to 60", prunes)
	}
	s.step(Pruned{Floors: map[protocol.Stream]hlc.Stamp{}})
	if got := s.m.streams[key].below(); got != 0 {
		t.Errorf("floor %d of a stream of which nothing was forgotten", got)
	}
	s.m.acks.moved = true
	if got := s.look(); len(got) > 0 {
		t.Errorf("prunes %+v again", got)
	}
}

// TestMachine_StoreKnowsOfFloor reads a page from below a floor that only the store knows of: the peer is told at once.
func TestMachine_StoreKnowsOfFloor(t *testing.T) {
	s, key := pruneSolo(t)
	request := protocol.RequestFor(key.Kind, protocol.Request{Subscribe: []protocol.Subscribe{{Number: 1, Origin: key.Origin, Since: at(50)}}})
	reads := only[ReadPage](s.step(Received{Session: 1, Message: request}))
	actions := s.step(PageRead{Read: reads[0], Err: sdk.Errorf(sdk.CodePruned, "pruned up to 55")})
	refusal, ok := messageOf[*protocol.Error](actions)
	if !ok || refusal.Code != sdk.CodePruned || refusal.Stream != key || s.m.sessions[1].subs[key] != nil {
		t.Errorf("got %+v; want the peer told that it is below the floor", actions)
	}
}

// TestMachine_ClocksOfRetired keeps the clocks of what does not exist while a retired device has written what somebody has and
// somebody else has not: who has it passes it on.
func TestMachine_ClocksOfRetired(t *testing.T) {
	s, key := pruneSolo(t)
	s.step(MembersChanged{Members: []Member{{ID: deviceID(1), Name: "d1"}, {ID: deviceID(2), Name: "d2"}, {ID: deviceID(3), Name: "d3", Retired: true}}})
	retired := protocol.Stream{Origin: deviceID(3), Kind: sdk.SharedByAll}
	all := []protocol.Mark{mark(key, 100)}
	for _, n := range []int{1, 2} {
		all = append(all, mark(protocol.Stream{Origin: deviceID(n), Kind: sdk.SharedByAll}, 100))
	}
	for _, m := range all {
		s.step(Advanced{Mark: m})
	}
	s.step(PeerDown{Session: 1})
	s.connect(1, 1, append(all, mark(retired, 40))...)
	s.connect(2, 2, append(all, mark(retired, 30))...)
	shadow := func() hlc.Stamp {
		s.step(Heard{Session: 2})
		s.m.acks.moved = true
		s.now = s.now.Add(s.m.config.PruneTime)
		s.step(Heard{Session: 2})
		s.step(Heard{Session: 1})
		prunes := only[Prune](s.step(Tick{}))
		s.step(Pruned{})
		if len(prunes) == 0 {
			return s.m.acks.shadow
		}
		return prunes[0].Shadow
	}
	if got := shadow(); got != 0 {
		t.Errorf("forgets clocks up to %d; this device has nothing of the retired one, of which d1 has 40", got)
	}
	s.step(Advanced{Mark: mark(retired, 40)})
	if got := shadow(); got != 30 {
		t.Errorf("forgets clocks up to %d; want 30, as d2 has of the retired one", got)
	}
	s.step(Received{Session: 2, Message: &protocol.AckSharedChanges{Vector: []protocol.Mark{mark(retired, 40)}}})
	if got := shadow(); got != 100 {
		t.Errorf("forgets clocks up to %d; want 100, once everybody has what the retired one wrote", got)
	}
}

// TestMachine_FutureAgesNothing has a stamp from the future: what is old is reckoned from now.
func TestMachine_FutureAgesNothing(t *testing.T) {
	s, key := pruneSolo(t)
	s.m.config.RetentionAge = time.Hour
	at := func(d time.Duration) hlc.Stamp { return hlc.New(s.now.Add(d).UnixMilli(), 0) }
	s.step(Advanced{Mark: mark(key, at(100*time.Hour))})
	now := s.now.Add(s.m.config.PruneTime)
	if prunes := s.look(); len(prunes) != 1 || prunes[0].Floors[key] != hlc.New(now.Add(-time.Hour).UnixMilli(), 0) {
		t.Errorf("prunes %+v; want what is older than an hour before now", prunes)
	}
}

// TestMachine_SealFails tries again, after a pause, to close a stamp.
func TestMachine_SealFails(t *testing.T) {
	s, _ := pruneSolo(t)
	s.m.acks.noteChange(protocol.Stream{Origin: deviceID(1), Kind: sdk.SharedByAll}, 200)
	sealed := func(d time.Duration) bool {
		for end := s.now.Add(d); s.now.Before(end); {
			s.now = s.now.Add(time.Second)
			s.step(Heard{Session: 1})
			if len(only[Seal](s.step(Tick{}))) > 0 {
				return true
			}
		}
		return false
	}
	if !sealed(s.m.config.SealTime) {
		t.Fatal("an idle device does not close a stamp")
	}
	if sealed(2 * s.m.config.SealTime) {
		t.Error("closes a stamp while it is closing one")
	}
	if logs := only[Log](s.step(Sealed{Err: sdk.Errorf(sdk.CodeUnavailable, "the disk is full")})); len(logs) != 1 {
		t.Errorf("%d lines for the operator, want one", len(logs))
	}
	if !sealed(s.m.config.SealTime + time.Second) {
		t.Error("does not try again")
	}
}

// TestMachine_SpeaksForItself has a peer learn that of two positions which it has named one covers the other: then it has one.
func TestMachine_SpeaksForItself(t *testing.T) {
	s := newSolo(t)
	s.connect(1, 1, marksOf(rowsOf1, in(1, 5), in(3, 25))...)
	acks := only[Acknowledged](s.step(Received{Session: 1, Message: &protocol.AckSharedChanges{Vector: marksOf(rowsOf1, in(3, 25))}}))
	if want := (protocol.Heads{in(3, 25)}); len(acks) != 1 || !acks[0].Heads[rowsOf1].Equal(want) || !s.m.sessions[1].vector[rowsOf1].Equal(want) {
		t.Errorf("acknowledged %+v; want one position", acks)
	}
}

// TestMachine_GossipOfUnknownEpochs passes on what a third device has once this device knows the epochs that it names.
func TestMachine_GossipOfUnknownEpochs(t *testing.T) {
	s, _ := pruneSolo(t)
	s.step(MembersChanged{Members: []Member{{ID: deviceID(1), Name: "d1"}, {ID: deviceID(2), Name: "d2"}}})
	s.connect(2, 2)
	s.step(Received{Session: 1, Message: &protocol.AckSharedChanges{Vector: marksOf(rowsOf1, in(3, 25))}})
	passedOn := func() (marks []protocol.Mark) {
		s.now = s.now.Add(s.m.config.GossipTime)
		s.step(Heard{Session: 1})
		s.step(Heard{Session: 2})
		for _, send := range only[Send](s.step(Tick{})) {
			if beat, ok := send.Message.(*protocol.Heartbeat); ok && send.Session == 2 {
				for _, k := range beat.Known {
					marks = append(marks, k.Vector...)
				}
			}
		}
		return slices.DeleteFunc(marks, func(m protocol.Mark) bool { return m.Stream != rowsOf1 })
	}
	if got := passedOn(); len(got) > 0 {
		t.Errorf("passed on %v, of an epoch that is not known here", got)
	}
	s.step(Received{Session: 1, Message: &protocol.Epochs{Epochs: []protocol.Epoch{epochOf1(3, in(2, 20))}}})
	if got := passedOn(); !slices.Equal(got, marksOf(rowsOf1, in(3, 25))) {
		t.Errorf("passed on %v once the epoch is known", got)
	}
	if got := passedOn(); len(got) > 0 {
		t.Errorf("passed on again: %v", got)
	}
}

// TestMachine_GossipOfNewMember is told what a device has before it hears that it is a member. Who told it does not say it again.
func TestMachine_GossipOfNewMember(t *testing.T) {
	s, _ := pruneSolo(t)
	told := func(device int, marks ...protocol.Mark) []Acknowledged {
		return only[Acknowledged](s.step(Received{Session: 1, Message: &protocol.Heartbeat{
			Clock: s.now, Known: []protocol.Known{{Device: deviceID(device), Vector: marks}},
		}}))
	}
	if acks := told(9, marksOf(rowsOf1, in(1, 5))...); len(acks) > 0 {
		t.Errorf("keeps %+v of a stranger", acks)
	}
	told(9, marksOf(rowsOf1, in(1, 7))...)
	told(0, marksOf(rowsOf1, in(1, 7))...) // itself
	join := []Member{{ID: deviceID(1), Name: "d1"}, {ID: deviceID(9), Name: "d9"}}
	acks := only[Acknowledged](s.step(MembersChanged{Members: join}))
	if want := (protocol.Heads{in(1, 7)}); len(acks) != 1 || acks[0].Peer != deviceID(9) || !acks[0].Heads[rowsOf1].Equal(want) || !s.m.AcknowledgedBy(deviceID(9))[rowsOf1].Equal(want) {
		t.Errorf("once it is a member: %+v, want what was told of it", acks)
	}
	if acks := only[Acknowledged](s.step(MembersChanged{Members: join})); len(acks) > 0 || len(s.m.acks.early) > 0 {
		t.Errorf("again: %+v, %v", acks, s.m.acks.early)
	}
	s.m.limits.Marks = 1
	told(8, append(marksOf(rowsOf1, in(1, 5)), marksOf(protocol.Stream{Origin: deviceID(1), Kind: sdk.SharedByAll}, in(1, 5))...)...)
	told(7, marksOf(rowsOf1, in(1, 5))...)
	if n := len(s.m.acks.early); n != 1 || len(s.m.acks.early[deviceID(8)]) != 1 {
		t.Errorf("keeps %v, over its limit", s.m.acks.early)
	}
}

// TestMachine_SealsApart has many devices hear of a change at the same moment after a start: each closes a stamp once, at a time of
// its own, and again no sooner than SealTime after that.
func TestMachine_SealsApart(t *testing.T) {
	const devices, parts = 200, 10
	var counts [parts]int
	for n := range devices {
		s, _ := pruneSolo(t)
		s.m.self.Device[7] = byte(n)
		for _, kind := range kinds {
			s.m.ensureStream(protocol.Stream{Origin: s.m.self.Device, Kind: kind})
		}
		s.m.acks.sealAt = time.Time{}
		every := s.m.config.SealTime
		begun := s.now
		var sealed []time.Duration
		for s.now.Sub(begun) < 2*every+every/100 {
			s.m.acks.noteChange(protocol.Stream{Origin: deviceID(1), Kind: sdk.SharedByAll}, hlc.New(s.now.UnixMilli(), 0))
			s.now = s.now.Add(every / 100)
			s.step(Heard{Session: 1})
			if len(only[Seal](s.step(Tick{}))) > 0 {
				sealed = append(sealed, s.now.Sub(begun))
				s.step(Sealed{})
			}
		}
		if len(sealed) != 2 || sealed[1]-sealed[0] != every {
			t.Fatalf("device %d closes stamps after %v; want two, %s apart", n, sealed, every)
		}
		counts[min(int(parts*sealed[0]/every), parts-1)]++
	}
	for i, n := range counts {
		if n < devices/parts/3 || n > devices/parts*2 {
			t.Errorf("of %d devices %d close a stamp in part %d of %d: %v", devices, n, i+1, parts, counts)
		}
	}
}

// TestMachine_LooksAgain looks at streams of which nothing was acknowledged since the last look, where that follows from
// something else: a new member holds everything back, and an epoch that becomes known shows what covers what.
func TestMachine_LooksAgain(t *testing.T) {
	s, key := pruneSolo(t)
	if prunes := s.look(); len(prunes) != 1 || prunes[0].Floors[key] != 60 {
		t.Fatalf("prunes %+v; want up to 60", prunes)
	}
	s.step(Pruned{Err: sdk.Errorf(sdk.CodeUnavailable, "the disk is full")})
	s.step(MembersChanged{Members: []Member{{ID: deviceID(1), Name: "d1"}, {ID: deviceID(2), Name: "d2"}}})
	if prunes := s.look(); len(prunes) > 0 {
		t.Errorf("prunes %+v, of which nobody knows whether d2 has it", prunes)
	}

	s, _ = pruneSolo(t)
	s.m.markStored([]protocol.Epoch{epochOf1(3, in(2, 20))})
	st := s.m.streams[rowsOf1]
	st.applied, st.given, st.tail = protocol.Heads{in(3, 30)}, protocol.Heads{in(3, 30)}, protocol.Heads{in(3, 30)}
	s.step(Received{Session: 1, Message: &protocol.AckSharedChanges{Vector: marksOf(rowsOf1, in(1, 5))}})
	if prunes := s.look(); len(prunes) != 1 || prunes[0].Floors[rowsOf1] != 0 {
		t.Fatalf("prunes %+v; want nothing of d1's rows", prunes)
	}
	s.step(Pruned{})
	s.step(Received{Session: 1, Message: &protocol.Epochs{Epochs: []protocol.Epoch{epochOf1(2, in(1, 10))}}})
	if prunes := s.look(); len(prunes) != 1 || prunes[0].Floors[rowsOf1] != 5 {
		t.Errorf("prunes %+v; want d1's rows up to 5", prunes)
	}
}
