package peersync

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/sdk"
)

// end is where a range of the tests ends.
func end(number int) sdk.RecordID { return sdk.RecordID{byte(number)} }

func TestAppendDiffering(t *testing.T) {
	ranges := func(pairs ...int) (list []protocol.RangeDigest) {
		for i := 0; i < len(pairs); i += 2 {
			list = append(list, protocol.RangeDigest{Until: end(pairs[i]), Digest: protocol.Digest{byte(pairs[i+1])}})
		}
		return list
	}
	cases := []struct {
		mine, theirs []protocol.RangeDigest
		want         [][2]sdk.RecordID
	}{
		{nil, nil, nil},
		{ranges(1, 1, 5, 1), ranges(1, 1, 5, 1), nil},
		{ranges(1, 1, 5, 1), ranges(1, 2, 5, 1), [][2]sdk.RecordID{{end(0), end(1)}}},
		{ranges(1, 1, 5, 1, 9, 1), ranges(1, 1, 5, 2, 9, 1), [][2]sdk.RecordID{{end(1), end(5)}}},
		{ranges(1, 1, 5, 1), ranges(5, 1), [][2]sdk.RecordID{{end(0), end(5)}}},
		{ranges(1, 1, 5, 1, 9, 1), ranges(1, 2, 5, 1, 9, 2), [][2]sdk.RecordID{{end(0), end(1)}, {end(5), end(9)}}},
		{ranges(5, 1), ranges(1, 1, 5, 1, 9, 1), [][2]sdk.RecordID{{end(0), lastID}}},
		{ranges(2, 1, 4, 1), ranges(3, 1, 5, 1), [][2]sdk.RecordID{{end(0), lastID}}},
		{ranges(2, 1), ranges(2, 1, 5, 1), [][2]sdk.RecordID{{end(2), lastID}}},
		{nil, ranges(3, 1), [][2]sdk.RecordID{{end(0), lastID}}},
	}
	for i, c := range cases {
		for _, sides := range [][2][]protocol.RangeDigest{{c.mine, c.theirs}, {c.theirs, c.mine}} {
			var got [][2]sdk.RecordID
			for _, r := range appendDiffering(nil, testModel, sides[0], sides[1]) {
				got = append(got, [2]sdk.RecordID{r.After, r.Until})
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("case %d (-want +got):\n%s", i, diff)
			}
		}
	}
}

// TestMachine_AuditInterrupted ends a connection or a process after each thing that happens in an audit with a repair: the
// next one finishes it.
func TestMachine_AuditInterrupted(t *testing.T) {
	faults := map[string]func(w *world){
		"connection": func(w *world) { w.breakConn(w.conns[w.rand.IntN(len(w.conns))]) },
		"process": func(w *world) {
			d := w.devices[w.rand.IntN(len(w.devices))]
			w.stop(d)
			w.start(d)
		},
		"change": func(w *world) {
			w.write(w.devices[0], sdk.SharedByAll, 7, 1, "written meanwhile")
			w.commit(w.devices[1], sdk.SharedByAll, []write{{8, sdk.Delete, ""}})
		},
		"disk": func(w *world) {
			w.devices[1].store.failAll = func() error { return sdk.Errorf(sdk.CodeUnavailable, "the disk is full") }
		},
	}
	for name, fault := range faults {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for turns := 0; ; turns++ {
				config := patient()
				config.AuditTime = 20 * time.Second
				w := newWorldWith(t, uint64(turns), 3, config)
				for _, d := range w.devices {
					w.write(d, sdk.DeviceOwned, 0, 10, "text")
				}
				w.write(w.devices[0], sdk.SharedByAll, 0, 10, "text")
				w.pass(30 * time.Second)
				harmed := w.devices[1].store
				harmed.dropRow(harmed.rows[recordID(sdk.DeviceOwned, deviceID(0), 3)])
				delete(harmed.records, recordID(sdk.SharedByAll, deviceID(0), 4))
				for _, d := range w.devices {
					w.step(d, AuditNow{})
				}
				rest := false
				for range turns {
					if !w.turn() {
						rest = true
						break
					}
				}
				fault(w)
				w.pass(2 * time.Second)
				harmed.failAll = nil
				w.pass(3 * time.Minute)
				w.checkEqual(fmt.Sprintf("%s, after %d turns", name, turns))
				w.checkLive(name)
				w.checkRest(name)
				w.checkLedger(name, false)
				if harmed.records[recordID(sdk.SharedByAll, deviceID(0), 4)] == nil {
					t.Errorf("after %d turns: the record is not repaired", turns)
				}
				if t.Failed() || rest {
					t.Logf("%d things happen", turns)
					break
				}
			}
		})
	}
}

// auditSolo is a machine that has what its only peer, device 1, has.
func auditSolo(t *testing.T) *solo {
	s := newSolo(t)
	s.m.config.RetentionAge = 0
	st := s.m.ensureStream(rowsOf1)
	st.applied, st.given, st.tail, st.floor = at(90), at(90), at(90), 90
	s.connect(1, 1, mark(rowsOf1, 90))
	return s
}

func digestsOf(total byte, ranges ...protocol.RangeDigest) []ModelDigests {
	return []ModelDigests{{Model: testModel, Kind: sdk.DeviceOwned, Total: protocol.Digest{total}, Ranges: ranges}}
}

func messageOf[M protocol.Message](actions []Action) (msg M, ok bool) {
	for _, send := range only[Send](actions) {
		if msg, ok = send.Message.(M); ok {
			return msg, true
		}
	}
	return msg, false
}

// TestMachine_AuditNeedsRest compares nothing while something is on its way, on either side.
func TestMachine_AuditNeedsRest(t *testing.T) {
	s := auditSolo(t)
	st := s.m.streams[rowsOf1]
	digest := func() []Digest { return only[Digest](s.step(AuditNow{})) }
	st.given = at(95)
	if got := digest(); len(got) > 0 {
		t.Errorf("sums records %+v while a page is being applied", got)
	}
	moved := func() bool {
		actions := s.step(Received{Session: 1, Message: &protocol.AuditRequest{Number: 1, Vector: s.m.vectorDigest()}})
		msg, ok := messageOf[*protocol.AuditResponse](actions)
		return ok && msg.Moved
	}
	if !moved() {
		t.Error("answers an audit while a page is being applied")
	}
	st.given = at(90)
	sn := s.m.ensureSnapshot(Scope{Kind: sdk.SharedByAll})
	sn.begun = true
	if len(digest()) > 0 || !moved() {
		t.Error("compares while a part of a snapshot is here")
	}
	s.m.dropSnapshot(sn)
	asked := only[Digest](s.step(Tick{}))
	if len(asked) != 1 {
		t.Fatalf("sums records %+v once all is at rest; want once", asked)
	}
	st.applied, st.given, st.tail = at(95), at(95), at(95)
	if msg, ok := messageOf[*protocol.AuditRequest](s.step(Digested{Digest: asked[0], Models: digestsOf(1)})); ok {
		t.Errorf("asks %+v although something has come meanwhile", msg)
	}
}

// TestMachine_AuditUnasked has a peer answer what it was not asked.
func TestMachine_AuditUnasked(t *testing.T) {
	s := auditSolo(t)
	for _, msg := range []protocol.Message{
		&protocol.AuditResponse{Number: 0, Models: []protocol.RangeDigests{{Model: testModel}}},
		&protocol.AuditResponse{Number: 7},
		&protocol.AuditRepair{Number: 7, Ranges: []protocol.AuditRange{{Model: testModel, Until: end(1)}}},
		&protocol.SnapshotPage{Number: 0, Done: true},
	} {
		if actions := s.step(Received{Session: 1, Message: msg}); len(actions) > 0 {
			t.Errorf("%s that was not asked for: %+v", msg.Type(), actions)
		}
	}
	for i := range uint32(100) {
		s.step(Received{Session: 1, Message: &protocol.AuditRequest{Number: i, Vector: s.m.vectorDigest()}})
		if s.m.sessions[1] == nil {
			return
		}
		if got := len(s.m.sessions[1].audit.answers); got > rangesAtOnce {
			t.Fatalf("%d audits are being answered at once", got)
		}
	}
	t.Error("a peer may ask for any number of audits at once")
}

// TestMachine_AuditRepairs fetches the records of the ranges that differ, one after the other, and counts what was repaired.
func TestMachine_AuditRepairs(t *testing.T) {
	s := auditSolo(t)
	r := func(number int, digest byte) protocol.RangeDigest {
		return protocol.RangeDigest{Until: end(number), Digest: protocol.Digest{digest}}
	}
	asked := only[Digest](s.step(AuditNow{}))
	request, ok := messageOf[*protocol.AuditRequest](s.step(Digested{Digest: asked[0], Models: digestsOf(1, r(3, 1), r(5, 1), r(7, 1), r(9, 1), r(11, 1))}))
	if !ok || request.Models[0] != (protocol.ModelDigest{Model: testModel, Digest: protocol.Digest{1}}) {
		t.Fatalf("asks %+v", request)
	}
	actions := s.step(Received{Session: 1, Message: &protocol.AuditResponse{Number: request.Number, Models: []protocol.RangeDigests{
		{Model: testModel, Ranges: []protocol.RangeDigest{r(3, 1), r(5, 2), r(7, 1), r(9, 2), r(11, 1)}}, {Model: "unknown", Ranges: []protocol.RangeDigest{r(1, 1)}},
	}}})
	repair, _ := messageOf[*protocol.AuditRepair](actions)
	if want := []protocol.AuditRange{{Model: testModel, After: end(3), Until: end(5)}, {Model: testModel, After: end(7), Until: end(9)}}; repair == nil || !slices.Equal(repair.Ranges, want) {
		t.Fatalf("repairs %+v; want %v", repair, want)
	}
	pages := 0
	for asked := snapshotAsked(actions); asked != nil; pages++ {
		takes := only[TakeRange](s.step(Received{Session: 1, Message: &protocol.SnapshotPage{Number: asked.Number, Done: true}}))
		if len(takes) != 1 || !takes[0].Repair || takes[0].Since != asked.After {
			t.Fatalf("takes %+v; want a repair", takes)
		}
		asked = snapshotAsked(s.step(RangeTaken{Take: takes[0], Taken: Taken{Records: 5, Repaired: 2}}))
	}
	got := s.m.Peers(s.now)[0].Audit
	if want := (AuditStatus{At: s.now, Ranges: 2, Repaired: 4}); pages != 2 || got != want || s.m.Repairs() != 4 {
		t.Errorf("%d pages, %+v, %d repaired; want %+v", pages, got, s.m.Repairs(), want)
	}
}

// TestMachine_AuditOfOld leaves time between two audits with a peer, also where the connection breaks in between.
func TestMachine_AuditOfOld(t *testing.T) {
	s := auditSolo(t)
	audits := 0
	for id := SessionID(2); s.now.Before(newSolo(t).now.Add(s.m.config.AuditTime + time.Hour/2)); id++ {
		s.connect(id, 1, mark(rowsOf1, 90))
		for range 600 {
			s.now = s.now.Add(time.Second)
			s.step(Heard{Session: id})
			for _, asked := range only[Digest](s.step(Tick{})) {
				audits++
				s.step(Digested{Digest: asked, Models: digestsOf(1)})
				s.step(Received{Session: id, Message: &protocol.AuditResponse{Number: asked.Number}})
			}
		}
		s.step(PeerDown{Session: id})
	}
	if audits != 2 {
		t.Errorf("%d audits in %s; want one at first and one after %s", audits, s.m.config.AuditTime+time.Hour/2, s.m.config.AuditTime)
	}
}

// TestMachine_AuditNeverAnswered gives up an audit with a peer that lives and does not answer, and asks again later.
func TestMachine_AuditNeverAnswered(t *testing.T) {
	s := auditSolo(t)
	asked := only[Digest](s.step(AuditNow{}))
	for range 3 * int(patience*s.m.config.RequestTime/time.Second) { // summing may take as long as it likes
		s.now = s.now.Add(time.Second)
		s.step(Heard{Session: 1})
		s.step(Tick{})
	}
	if _, ok := messageOf[*protocol.AuditRequest](s.step(Digested{Digest: asked[0], Models: digestsOf(1)})); !ok {
		t.Fatal("the audit was given up while this device summed")
	}
	begun := s.now
	var again []Digest
	for len(again) == 0 && s.now.Sub(begun) < time.Hour {
		s.now = s.now.Add(time.Second)
		s.step(Heard{Session: 1})
		again = only[Digest](s.step(Tick{}))
	}
	if len(again) == 0 || s.m.sessions[1] == nil {
		t.Error("the audit that the operator asked for is not tried again, or the session has ended")
	}
	if _, ok := messageOf[*protocol.AuditRequest](s.step(Digested{Digest: again[0], Err: sdk.Errorf(sdk.CodeUnavailable, "no")})); ok {
		t.Error("asks with digests that could not be computed")
	}
}

// TestMachine_AuditWanted asks for an audit: it is done when the peer is there, again where the session ends in it, and once
// more where it is asked for while one is under way.
func TestMachine_AuditWanted(t *testing.T) {
	s := auditSolo(t)
	s.m.config.AuditTime = 0
	s.step(PeerDown{Session: 1})
	if got := only[Digest](s.step(AuditNow{Peer: deviceID(1)})); len(got) > 0 {
		t.Fatalf("sums records %+v for nobody", got)
	}
	s.connect(2, 1, mark(rowsOf1, 90))
	if got := only[Digest](s.step(Tick{})); len(got) != 1 {
		t.Fatalf("%d audits once the peer is there, want one", len(got))
	}
	s.step(PeerDown{Session: 2})
	s.connect(3, 1, mark(rowsOf1, 90))
	asked := only[Digest](s.step(Tick{}))
	if len(asked) != 1 {
		t.Fatalf("%d audits after the session ended in one, want one", len(asked))
	}
	conclude := func() []Action {
		s.step(Digested{Digest: asked[0], Models: digestsOf(1)})
		return append(s.step(Received{Session: 3, Message: &protocol.AuditResponse{Number: asked[0].Number}}), s.step(Tick{})...)
	}
	s.step(AuditNow{})
	if asked = only[Digest](conclude()); len(asked) != 1 {
		t.Fatalf("%d audits after one was asked for while another was under way, want one", len(asked))
	}
	if again := only[Digest](conclude()); len(again) > 0 {
		t.Errorf("audits %+v that nobody has asked for", again)
	}
}

// TestMachine_AuditMeanwhile begins to take records in while it sums them for a peer, or for an audit of its own: what was
// summed may hold a part of them, and is not compared.
func TestMachine_AuditMeanwhile(t *testing.T) {
	for name, meanwhile := range map[string]func(s *solo){
		"records of a snapshot": func(s *solo) {
			s.m.ensureSnapshot(Scope{Kind: sdk.SharedByAll}).begun = true
		},
		"a page": func(s *solo) { s.m.streams[rowsOf1].given = at(95) },
	} {
		t.Run(name, func(t *testing.T) {
			s := auditSolo(t)
			asked := only[Digest](s.step(Received{Session: 1, Message: &protocol.AuditRequest{Number: 7, Vector: s.m.vectorDigest()}}))
			asked = append(asked, only[Digest](s.step(AuditNow{}))...)
			if len(asked) != 2 {
				t.Fatalf("sums records %d times, want twice", len(asked))
			}
			meanwhile(s)
			actions := s.step(Digested{Digest: asked[0], Models: digestsOf(1)})
			if answer, ok := messageOf[*protocol.AuditResponse](actions); !ok || !answer.Moved || len(answer.Models) > 0 || s.m.sessions[1].audit.given != nil {
				t.Errorf("answers %+v; want that it has moved", answer)
			}
			if msg, ok := messageOf[*protocol.AuditRequest](s.step(Digested{Digest: asked[1], Models: digestsOf(1)})); ok {
				t.Errorf("asks %+v", msg)
			}
		})
	}
}

// TestMachine_NothingForgottenInARepair looks for what may be forgotten when a repair is over: records on their way could bring
// it back.
func TestMachine_NothingForgottenInARepair(t *testing.T) {
	s := auditSolo(t)
	s.m.setMembers([]Member{{ID: deviceID(1), Name: "d1"}})
	s.step(Tick{})
	asked := only[Digest](s.step(AuditNow{}))
	r := protocol.RangeDigest{Until: end(3), Digest: protocol.Digest{1}}
	s.step(Digested{Digest: asked[0], Models: digestsOf(1, r)})
	page := snapshotAsked(s.step(Received{Session: 1, Message: &protocol.AuditResponse{Number: asked[0].Number, Models: []protocol.RangeDigests{{Model: testModel}}}}))
	if page == nil {
		t.Fatal("no repair")
	}
	if got := s.look(); len(got) > 0 {
		t.Errorf("prunes %+v while records are asked for", got)
	}
	takes := only[TakeRange](s.step(Received{Session: 1, Message: &protocol.SnapshotPage{Number: page.Number, Done: true}}))
	if got := s.look(); len(got) > 0 {
		t.Errorf("prunes %+v while records are merged", got)
	}
	s.step(RangeTaken{Take: takes[0]})
	if got := s.look(); len(got) != 1 {
		t.Errorf("prunes %+v after the repair; want the floor kept that came with the rows", got)
	}
}

// TestMachine_AuditSaysWhy has an audit that the operator asks for come to no end, or not begin: it says what failed, and nothing
// where changes are on their way.
func TestMachine_AuditSaysWhy(t *testing.T) {
	failure := sdk.Errorf(sdk.CodeUnavailable, "the disk is full")
	audit := func(s *solo) AuditStatus { return s.m.Peers(s.now)[0].Audit }
	begin := func() (*solo, Digest) {
		s := auditSolo(t)
		return s, only[Digest](s.step(AuditNow{}))[0]
	}
	t.Run("sums", func(t *testing.T) {
		s, asked := begin()
		s.step(Digested{Digest: asked, Err: failure})
		if got := audit(s); !got.FailedAt.Equal(s.now) || got.Failed != "sum the records: the disk is full" || !got.At.IsZero() {
			t.Errorf("%+v", got)
		}
	})
	t.Run("merges", func(t *testing.T) {
		s, asked := begin()
		s.step(Digested{Digest: asked, Models: digestsOf(1)})
		page := snapshotAsked(s.step(Received{Session: 1, Message: &protocol.AuditResponse{Number: asked.Number, Models: []protocol.RangeDigests{{
			Model: testModel, Ranges: []protocol.RangeDigest{{Until: end(3)}},
		}}}}))
		takes := only[TakeRange](s.step(Received{Session: 1, Message: &protocol.SnapshotPage{Number: page.Number, Done: true}}))
		s.step(RangeTaken{Take: takes[0], Err: failure})
		if got := audit(s); got.Failed != "merge the records that differ: the disk is full" {
			t.Errorf("%+v", got)
		}
	})
	t.Run("moved", func(t *testing.T) {
		s, asked := begin()
		s.step(Digested{Digest: asked, Models: digestsOf(1)})
		s.step(Received{Session: 1, Message: &protocol.AuditResponse{Number: asked.Number, Moved: true}})
		if got := audit(s); got.Failed != "" || !strings.HasPrefix(got.Waits, "both have the same, and d1 has not compared it") {
			t.Errorf("%+v", got)
		}
	})
	t.Run("on their way", func(t *testing.T) {
		s := auditSolo(t)
		s.m.sessions[1].vector[rowsOf1] = at(95)
		s.step(AuditNow{})
		if got := audit(s); got != (AuditStatus{}) {
			t.Errorf("%+v; want nothing that failed", got)
		}
	})
	t.Run("held here", func(t *testing.T) {
		s := auditSolo(t)
		s.step(AuditNow{Peer: deviceID(2)}) // which is not there yet
		s.connect(2, 2, mark(rowsOf1, 95))
		sub := s.m.streams[rowsOf1].number
		applies := only[Apply](s.page(1, sub, 90, 95, 10))
		s.step(Applied{Page: applies[0].Page, Err: failure})
		if got := s.m.Peers(s.now)[1].Audit.Waits; got != "this device holds the rows of d1: the disk is full" {
			t.Errorf("%q", got)
		}
	})
	t.Run("held there", func(t *testing.T) {
		s := auditSolo(t)
		mine := protocol.Stream{Origin: deviceID(0), Kind: sdk.SharedByAll}
		s.step(Received{Session: 1, Message: protocol.RequestFor(mine.Kind, protocol.Request{Subscribe: []protocol.Subscribe{{Number: 1, Origin: mine.Origin}}})})
		s.step(Advanced{Mark: mark(mine, 5)})
		s.step(Received{Session: 1, Message: &protocol.Error{Code: sdk.CodeUnavailable, Message: "the plugin of tag has stopped", Stream: mine}})
		s.step(AuditNow{})
		if got := audit(s).Waits; got != "d1 holds the shared changes of d0: the plugin of tag has stopped" {
			t.Errorf("%q", got)
		}
	})
}
