package peersync

import (
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/history"
	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/sdk"
)

// epochOf1 is an epoch of device 1's rows, by number.
func epochOf1(n byte, parents ...protocol.Position) protocol.Epoch {
	return protocol.Epoch{ID: protocol.EpochID{0x10, n}, Stream: rowsOf1, Parents: history.Normal(parents)}
}

func in(n byte, stamp hlc.Stamp) protocol.Position {
	return protocol.Position{Epoch: protocol.EpochID{0x10, n}, Stamp: stamp}
}

func marksOf(key protocol.Stream, positions ...protocol.Position) []protocol.Mark {
	return appendMarks(nil, key, positions)
}

// toldIn returns the epochs that are told of among the actions.
func toldIn(actions []Action) (ids []protocol.EpochID) {
	for _, send := range only[Send](actions) {
		if msg, ok := send.Message.(*protocol.Epochs); ok {
			for _, e := range msg.Epochs {
				ids = append(ids, e.ID)
			}
		}
	}
	return ids
}

// TestMachine_TellsEpochs tells a peer of each epoch once, and not of those that it names itself.
func TestMachine_TellsEpochs(t *testing.T) {
	s := newSolo(t)
	s.m.markStored([]protocol.Epoch{epochOf1(1), epochOf1(2, in(1, 10)), epochOf1(3, in(2, 20))})
	st := s.m.ensureStream(rowsOf1)
	st.applied, st.given, st.tail = protocol.Heads{in(3, 30)}, protocol.Heads{in(3, 30)}, protocol.Heads{in(3, 30)}
	if got := toldIn(s.connect(1, 1, marksOf(rowsOf1, in(2, 15))...)); !slices.Equal(got, []protocol.EpochID{in(3, 0).Epoch}) {
		t.Errorf("told of %v; want of the third epoch alone", got)
	}
	if got := toldIn(s.connect(2, 2)); !slices.Equal(got, []protocol.EpochID{in(1, 0).Epoch, in(2, 0).Epoch, in(3, 0).Epoch}) {
		t.Errorf("told of %v; want of all three, the first one first", got)
	}
	s.now = s.now.Add(time.Hour)
	st.applied = protocol.Heads{in(3, 31)}
	for _, session := range s.m.sessionList {
		session.unsent[st] = struct{}{}
	}
	s.step(Heard{Session: 1})
	if got := toldIn(s.step(Tick{})); len(got) > 0 {
		t.Errorf("told again of %v", got)
	}
}

// TestMachine_Explains tells a peer that names two positions, of which one covers the other, why it does.
func TestMachine_Explains(t *testing.T) {
	s := newSolo(t)
	s.m.markStored([]protocol.Epoch{epochOf1(1), epochOf1(2, in(1, 10)), epochOf1(3, in(2, 20))})
	got := toldIn(s.connect(1, 1, marksOf(rowsOf1, in(1, 5), in(3, 25))...))
	if !slices.Equal(got, []protocol.EpochID{in(1, 0).Epoch, in(2, 0).Epoch, in(3, 0).Epoch}) {
		t.Errorf("told of %v; want of the three epochs, which the peer does not remember", got)
	}
	again := s.step(Received{Session: 1, Message: &protocol.AckSharedChanges{Vector: marksOf(rowsOf1, in(1, 5), in(3, 26))}})
	if got := toldIn(again); len(got) > 0 {
		t.Errorf("told again of %v", got)
	}
}

// TestMachine_LearnsLate learns that of its two positions one covers the other: it has one then, and says so.
func TestMachine_LearnsLate(t *testing.T) {
	s := newSolo(t)
	s.connect(1, 1)
	st := s.m.ensureStream(rowsOf1)
	st.applied = history.Normal([]protocol.Position{in(1, 5), in(3, 25)})
	st.given, st.tail = st.applied, st.applied
	s.step(Received{Session: 1, Message: &protocol.Epochs{Epochs: []protocol.Epoch{epochOf1(1), epochOf1(2, in(1, 10)), epochOf1(3, in(2, 20))}}})
	if want := (protocol.Heads{in(3, 25)}); !st.applied.Equal(want) || !st.tail.Equal(want) {
		t.Errorf("applied %v, tail %v; want %v", st.applied, st.tail, want)
	}
	if got := s.m.toStore(st.applied); len(got) != 3 {
		t.Errorf("the store gets %d epochs with the next page; want the three that it lacks", len(got))
	}
}

// TestMachine_NotLost takes what a peer has of this device for something that it has lost, until it learns that it has that.
func TestMachine_NotLost(t *testing.T) {
	s := newSolo(t)
	own := protocol.Stream{Origin: deviceID(0), Kind: sdk.DeviceOwned}
	epochs := []protocol.Epoch{epochOf1(1), epochOf1(2, in(1, 10)), epochOf1(3, in(2, 20))}
	for i := range epochs {
		epochs[i].Stream = own
	}
	s.m.markStored(epochs[2:])
	st := s.m.streams[own]
	st.applied, st.given, st.tail = protocol.Heads{in(3, 30)}, protocol.Heads{in(3, 30)}, protocol.Heads{in(3, 30)}
	if _, ok := s.subscribed(s.connect(1, 1, marksOf(own, in(1, 5))...), own); !ok || !s.m.Lost() {
		t.Fatal("what it does not know to have is not asked for")
	}
	s.step(Received{Session: 1, Message: &protocol.Epochs{Epochs: epochs[:2]}})
	if st.upstream != nil || s.m.Lost() {
		t.Error("what it has is asked for")
	}
}

// lostSolo is a machine that a peer sends pages which begin where only the peer knows that this device is, until it asks from
// the beginning.
func lostSolo(t *testing.T) (s *solo, sub protocol.Subscribe) {
	s = newSolo(t)
	s.m.markStored([]protocol.Epoch{epochOf1(5, in(4, 90))}) // and nobody here knows what epoch 4 continues
	st := s.m.ensureStream(rowsOf1)
	st.applied, st.given, st.tail = protocol.Heads{in(5, 100)}, protocol.Heads{in(5, 100)}, protocol.Heads{in(5, 100)}
	sub, _ = s.subscribed(s.connect(1, 1, marksOf(rowsOf1, in(5, 100), in(9, 40))...), rowsOf1)
	s.step(Received{Session: 1, Message: &protocol.Epochs{Epochs: []protocol.Epoch{epochOf1(9, in(2, 30))}}})
	for i := range gapsAllowed {
		again, ok := s.subscribed(s.deliver(sub, 30, 40, in(9, 40)), rowsOf1)
		if !ok {
			t.Fatalf("gap %d: not asked again", i+1)
		}
		sub = again
	}
	if s.m.graph.Covers(protocol.Heads{in(5, 100), in(9, 40)}, sub.Since[0]) || len(sub.Since) != 1 {
		t.Fatalf("asked since %v; want since what nobody has", sub.Since)
	}
	return s, sub
}

func (s *solo) deliver(sub protocol.Subscribe, from, through hlc.Stamp, heads ...protocol.Position) []Action {
	page := protocol.Page{Stream: rowsOf1, Heads: history.Normal(heads), From: from, Through: through, Head: 100}
	return s.step(Received{Session: 1, Message: protocol.CatchUp(protocol.Delivery{Subscription: sub.Number, Page: page})})
}

// TestMachine_KnowsLessThanItsPeer can follow what begins at the beginning.
func TestMachine_KnowsLessThanItsPeer(t *testing.T) {
	s, sub := lostSolo(t)
	if applies := only[Apply](s.deliver(sub, 0, 30, in(2, 30))); len(applies) != 1 {
		t.Fatal("the page from the beginning is not applied")
	}
	s.step(Applied{Page: protocol.Page{Stream: rowsOf1, Heads: protocol.Heads{in(2, 30)}, Through: 30}})
	if applies := only[Apply](s.deliver(sub, 30, 40, in(9, 40))); len(applies) != 1 {
		t.Error("the page that follows is not applied")
	}
}

// TestMachine_KnowsLessAndIsBelowFloor gets a snapshot where the beginning is not kept any more, and goes on after it.
func TestMachine_KnowsLessAndIsBelowFloor(t *testing.T) {
	s, _ := lostSolo(t)
	asked := snapshotAsked(s.step(Received{Session: 1, Message: &protocol.Error{Code: sdk.CodePruned, Stream: rowsOf1}}))
	if asked == nil {
		t.Fatal("no snapshot is asked for")
	}
	both := history.Normal([]protocol.Position{in(5, 100), in(9, 40)})
	actions := s.step(Received{Session: 1, Message: &protocol.SnapshotPage{Number: asked.Number, Vector: marksOf(rowsOf1, both...), Done: true}})
	takes := only[TakeRange](actions)
	actions = s.step(RangeTaken{Take: takes[0], Taken: Taken{Heads: map[protocol.Stream]protocol.Heads{rowsOf1: both}}})
	if sub, ok := s.subscribed(actions, rowsOf1); !ok || !sub.Since.Equal(both) {
		t.Errorf("asked since %v; want since what it has now", sub.Since)
	}
}

// TestMachine_ForgetsEpochs forgets what everybody is past, but for the latest ones, and first waits for what is on its way.
func TestMachine_ForgetsEpochs(t *testing.T) {
	s := newSolo(t)
	s.m.setMembers([]Member{{ID: deviceID(1), Name: "d1"}})
	s.step(Tick{})
	var chain []protocol.Epoch
	for n := range byte(60) {
		e := epochOf1(n + 1)
		if n > 0 {
			e = epochOf1(n+1, in(n, 10*hlc.Stamp(n)))
		}
		chain = append(chain, e)
	}
	s.m.markStored(chain[:58])
	st := s.m.ensureStream(rowsOf1)
	st.applied, st.given, st.tail = protocol.Heads{in(60, 601)}, protocol.Heads{in(60, 601)}, protocol.Heads{in(60, 601)}
	s.connect(1, 1, marksOf(rowsOf1, in(20, 195))...)
	s.step(Received{Session: 1, Message: &protocol.Epochs{Epochs: chain[58:]}})
	look := func() []protocol.EpochID {
		s.now = s.now.Add(s.m.config.PruneTime)
		s.step(Heard{Session: 1})
		s.m.acks.moved = true
		prunes := only[Prune](s.step(Tick{}))
		s.step(Pruned{})
		if len(prunes) == 0 {
			return nil
		}
		return prunes[0].Epochs
	}
	if got := look(); len(got) > 0 {
		t.Errorf("forgets %d epochs while d1 is in the 20th of 60", len(got))
	}
	s.step(Received{Session: 1, Message: &protocol.AckSharedChanges{Vector: marksOf(rowsOf1, in(60, 601))}})
	got := look()
	if want := 60 - 1 - epochsKept; len(got) != want || !slices.Contains(got, in(1, 0).Epoch) || slices.Contains(got, in(28, 0).Epoch) {
		t.Errorf("forgets %d epochs; want the first %d", len(got), want)
	}
	if len(s.m.known) != 1+epochsKept || s.m.unstored != 2 || s.m.graph.Len() != len(s.m.known) {
		t.Errorf("%d epochs are known, %d of them not stored, %d in the graph; want %d, 2 not stored", len(s.m.known), s.m.unstored, s.m.graph.Len(), 1+epochsKept)
	}
	s.step(Received{Session: 1, Message: &protocol.Epochs{Epochs: chain[:3]}}) // which nobody needs
	look()
	if _, known := s.m.graph.Epoch(chain[0].ID); !known {
		t.Error("an epoch that has just been told of is forgotten before what names it can have come")
	}
	look()
	if _, known := s.m.graph.Epoch(chain[0].ID); known || s.m.unstored != 2 {
		t.Error("an epoch that nothing names is kept")
	}
}

// TestMachine_EpochFlood has a peer invent epochs without end.
func TestMachine_EpochFlood(t *testing.T) {
	s := newSolo(t)
	s.m.limits.Marks = 100
	s.connect(1, 1)
	var closed []Close
	for n := 0; len(closed) == 0 && n < 2000; n++ {
		closed = only[Close](s.step(Received{Session: 1, Message: &protocol.Epochs{Epochs: []protocol.Epoch{{
			ID: protocol.EpochID{1: byte(n), 2: byte(n >> 8), 3: 1}, Stream: rowsOf1,
		}}}}))
	}
	if len(closed) == 0 || len(s.m.known) > 800 {
		t.Errorf("%d epochs are remembered of a peer that invents them; closed: %v", len(s.m.known), closed)
	}
}

// TestMachine_SameRunTwice plays the same run twice: every action must be the same, in the same order.
func TestMachine_SameRunTwice(t *testing.T) {
	transcript := func(seed uint64) (lines []string) {
		p := newPlay(t, scene{restores: true, clones: true, ageing: true, audits: true}, "mesh", seed)
		p.onAction = func(d *worldDevice, a Action) {
			if send, ok := a.(Send); ok {
				lines = append(lines, fmt.Sprintf("d%d %d %s %+v", d.index, send.Session, send.Message.Type(), reflect.Indirect(reflect.ValueOf(send.Message))))
				return
			}
			lines = append(lines, fmt.Sprintf("d%d %T %+v", d.index, a, a))
		}
		p.run()
		return lines
	}
	for seed := range seeds(8) {
		once, again := transcript(seed), transcript(seed)
		for i := range once {
			if i >= len(again) || once[i] != again[i] {
				t.Fatalf("seed %d: action %d was\n%s\nand then\n%s", seed, i, once[i], again[min(i, len(again)-1)])
			}
		}
		if len(once) != len(again) {
			t.Fatalf("seed %d: %d actions, then %d", seed, len(once), len(again))
		}
	}
}

// TestMachine_Twins notices another copy of this device by what peers have of it, and one of a peer by its greetings.
func TestMachine_Twins(t *testing.T) {
	s := newSolo(t)
	s.m.self.Started = 100
	own := protocol.Stream{Origin: deviceID(0), Kind: sdk.SharedByAll}
	s.connect(1, 1, protocol.Mark{Stream: own, Position: protocol.Position{Epoch: protocol.EpochID{5}, Stamp: 90}})
	if s.m.RunsTwice(s.now) || !s.m.Lost() {
		t.Error("what was written before this start was lost; it shows no other copy")
	}
	s.step(Received{Session: 1, Message: &protocol.AckSharedChanges{Vector: []protocol.Mark{
		{Stream: own, Position: protocol.Position{Epoch: protocol.EpochID{5}, Stamp: 101}},
	}}})
	if !s.m.RunsTwice(s.now) || s.m.RunsTwice(s.now.Add(twiceFor)) {
		t.Error("what was written after this start, and not by it, shows another copy, for a while")
	}
	greet := func(id SessionID, start byte) bool {
		s.step(PeerUp{Session: id, Peer: deviceID(2)})
		s.step(Received{Session: id, Message: &protocol.Hello{
			MinVersion: 1, MaxVersion: 1, Library: protocol.LibraryID{1}, Device: deviceID(2), Epoch: protocol.EpochID{start}, Clock: s.now,
		}})
		return s.m.Peers(s.now)[1].RunsTwice
	}
	for i, start := range []byte{1, 1, 2, 2, 3} {
		if greet(SessionID(10+i), start) {
			t.Errorf("start %d, one after the other, shows two copies", start)
		}
	}
	if !greet(20, 2) {
		t.Error("a start that comes again after the next one shows two copies")
	}
}

// TestMachine_EpochsOfAFailedPrune knows the epochs that a store could not forget, and gives back to it those that turn out to be
// needed while it did.
func TestMachine_EpochsOfAFailedPrune(t *testing.T) {
	s := newSolo(t)
	s.m.epochsKept = 0
	s.m.setMembers([]Member{{ID: deviceID(1), Name: "d1"}})
	s.step(Tick{})
	s.m.markStored([]protocol.Epoch{epochOf1(1), epochOf1(2, in(1, 10)), epochOf1(3, in(2, 20))})
	st := s.m.ensureStream(rowsOf1)
	st.applied, st.given, st.tail = protocol.Heads{in(3, 30)}, protocol.Heads{in(3, 30)}, protocol.Heads{in(3, 30)}
	s.connect(1, 1, marksOf(rowsOf1, in(3, 30))...)
	first := []protocol.EpochID{in(1, 0).Epoch, in(2, 0).Epoch}
	if prunes := s.look(); len(prunes) != 1 || !slices.Equal(prunes[0].Epochs, first) {
		t.Fatalf("prunes %+v; want the first two epochs forgotten", prunes)
	}
	s.step(Pruned{Err: sdk.Errorf(sdk.CodeUnavailable, "the disk is full")})
	if !s.m.graph.Covers(st.applied, in(1, 5)) || s.m.unstored != 0 {
		t.Error("what the store still has is forgotten here")
	}
	if prunes := s.look(); len(prunes) != 1 || !slices.Equal(prunes[0].Epochs, first) {
		t.Fatalf("prunes %+v; want the first two epochs again", prunes)
	}
	s.m.noteAll(s.m.sessions[1], rowsOf1, protocol.Heads{in(1, 5)}) // as where the peer goes on from an old copy
	s.step(Pruned{})
	if !s.m.graph.Covers(st.applied, in(1, 5)) || s.m.unstored != 2 || len(s.m.toStore(st.applied)) != 2 {
		t.Errorf("%d epochs are to be stored; want the two that are needed after all", s.m.unstored)
	}
}

// TestMachine_ExplainsRepetition is sent what it has, by a peer that does not know so: it tells why, and that frees the window.
func TestMachine_ExplainsRepetition(t *testing.T) {
	s := newSolo(t)
	s.m.markStored([]protocol.Epoch{epochOf1(1), epochOf1(2, in(1, 10)), epochOf1(3, in(2, 20))})
	st := s.m.ensureStream(rowsOf1)
	st.applied, st.given, st.tail = protocol.Heads{in(3, 30)}, protocol.Heads{in(3, 30)}, protocol.Heads{in(3, 30)}
	sub, _ := s.subscribed(s.connect(1, 1, marksOf(rowsOf1, in(3, 25))...), rowsOf1)
	if got := toldIn(s.deliver(sub, 0, 5, in(1, 5))); len(got) != 3 {
		t.Errorf("told of %v; want of the three epochs that show why", got)
	}

	s = newSolo(t) // the peer's side
	own := protocol.Stream{Origin: deviceID(0), Kind: sdk.DeviceOwned}
	s.connect(1, 1)
	s.step(Received{Session: 1, Message: protocol.RequestFor(own.Kind, protocol.Request{Subscribe: []protocol.Subscribe{{Number: 1, Origin: own.Origin}}})})
	s.step(Committed{Page: protocol.Page{Stream: own, Heads: protocol.Heads{in(1, 5)}, Through: 5, Batches: []sdk.Batch{{Model: testModel, Count: 1, Rows: make([]byte, 50)}}}})
	s.step(Received{Session: 1, Message: &protocol.AckSharedChanges{Vector: marksOf(own, in(3, 30))}})
	if s.m.sessions[1].window(own.Kind).used == 0 {
		t.Fatal("the page counts as acknowledged before it is known why")
	}
	s.step(Received{Session: 1, Message: &protocol.Epochs{Epochs: []protocol.Epoch{epochOf1(2, in(1, 10)), epochOf1(3, in(2, 20))}}})
	if used := s.m.sessions[1].window(own.Kind).used; used != 0 {
		t.Errorf("%d bytes of the window are not given back", used)
	}
}

// TestMachine_ExplainsLater learns only after a peer has named two positions that one covers the other: it tells the peer then.
func TestMachine_ExplainsLater(t *testing.T) {
	s := newSolo(t)
	s.connect(1, 1, marksOf(rowsOf1, in(1, 5), in(3, 25))...)
	s.connect(2, 2)
	actions := s.step(Received{Session: 2, Message: &protocol.Epochs{Epochs: []protocol.Epoch{epochOf1(1), epochOf1(2, in(1, 10)), epochOf1(3, in(2, 20))}}})
	if got := toldIn(actions); len(got) != 3 {
		t.Errorf("told of %v; want of the three epochs", got)
	}
}

// TestHeadsOf gathers marks by stream whatever their order, and keeps no position twice.
func TestHeadsOf(t *testing.T) {
	shared := protocol.Stream{Origin: deviceID(1), Kind: sdk.SharedByAll}
	for _, many := range []int{0, 100} {
		var marks []protocol.Mark
		for i := range many {
			marks = append(marks, mark(protocol.Stream{Origin: sdk.DeviceID{0xff, byte(i)}, Kind: sdk.SharedByAll}, 1))
		}
		marks = append(marks,
			protocol.Mark{Stream: rowsOf1, Position: in(2, 7)}, protocol.Mark{Stream: shared, Position: in(1, 3)},
			protocol.Mark{Stream: rowsOf1, Position: in(1, 4)}, protocol.Mark{Stream: rowsOf1, Position: in(2, 6)}, protocol.Mark{Stream: shared},
		)
		got := headsOf(marks)
		if len(got) != many+2 {
			t.Fatalf("%d streams, want %d", len(got), many+2)
		}
		want := map[protocol.Stream]protocol.Heads{rowsOf1: {in(1, 4), in(2, 7)}, shared: {in(1, 3)}}
		for i, has := range got {
			if heads, ok := want[has.Stream]; ok && !has.heads.Equal(heads) {
				t.Errorf("%v: %v, want %v", has.Stream, has.heads, heads)
			}
			if i > 0 && got[i-1].Compare(has.Stream) >= 0 {
				t.Errorf("%v after %v", has.Stream, got[i-1].Stream)
			}
		}
	}
	if got := headsOf(nil); len(got) != 0 {
		t.Errorf("%v of nothing", got)
	}
}
