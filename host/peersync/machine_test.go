package peersync

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/history"
	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/sdk"
)

// solo is one machine whose peer, device 1, is played by the test.
type solo struct {
	t   *testing.T
	m   *Machine
	now time.Time
}

func newSolo(t *testing.T) *solo {
	limits := protocol.DefaultLimits()
	limits.PageBytes, limits.WindowBytes = 4<<10, 64<<10
	s := &solo{t: t, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	s.m = NewMachine(MachineOptions{
		Self: Self{Device: deviceID(0), Name: "d0", Library: protocol.LibraryID{1}, Epoch: protocol.EpochID{1}}, Limits: limits, Config: DefaultConfig(),
		Members: []Member{{ID: deviceID(1), Name: "d1"}, {ID: deviceID(2), Name: "d2"}}, Rand: rand.New(rand.NewPCG(1, 1)),
	})
	return s
}

func (s *solo) step(e Event) []Action {
	s.t.Helper()
	return append([]Action(nil), s.m.Step(s.now, e)...)
}

// connect brings up session id with device n, whose Hello names what it has.
func (s *solo) connect(id SessionID, n int, vector ...protocol.Mark) []Action {
	s.step(PeerUp{Session: id, Peer: deviceID(n)})
	return s.step(Received{Session: id, Message: &protocol.Hello{
		MinVersion: 1, MaxVersion: 1, Library: protocol.LibraryID{1}, Device: deviceID(n), Epoch: protocol.EpochID{byte(n)}, Clock: s.now, Vector: vector,
	}})
}

// only returns the actions of one type.
func only[A Action](actions []Action) []A {
	var out []A
	for _, a := range actions {
		if a, ok := a.(A); ok {
			out = append(out, a)
		}
	}
	return out
}

// subscribed returns the number and position at which the machine asked for a stream, among the actions.
func (s *solo) subscribed(actions []Action, key protocol.Stream) (protocol.Subscribe, bool) {
	for _, send := range only[Send](actions) {
		if r, kind, ok := protocol.RequestOf(send.Message); ok && kind == key.Kind {
			for _, sub := range r.Subscribe {
				if sub.Origin == key.Origin {
					return sub, true
				}
			}
		}
	}
	return protocol.Subscribe{}, false
}

var rowsOf1 = protocol.Stream{Origin: deviceID(1), Kind: sdk.DeviceOwned}

// at is a position in the only epoch of a stream.
func at(stamp hlc.Stamp) protocol.Heads { return history.At(protocol.EpochID{7}, stamp) }

func mark(key protocol.Stream, stamp hlc.Stamp) protocol.Mark {
	return protocol.Mark{Stream: key, Position: at(stamp)[0]}
}

func (s *solo) page(id SessionID, number uint32, from, through hlc.Stamp, size int) []Action {
	page := protocol.Page{Stream: rowsOf1, Heads: at(through), From: from, Through: through, Head: through}
	page.Batches = []sdk.Batch{{Model: testModel, Count: 1, Rows: make([]byte, size)}}
	return s.step(Received{Session: id, Message: protocol.CatchUp(protocol.Delivery{Subscription: number, Page: page})})
}

func TestMachine_Gap(t *testing.T) {
	s := newSolo(t)
	sub, ok := s.subscribed(s.connect(1, 1), rowsOf1)
	if !ok {
		t.Fatal("d1's rows are not asked for")
	}
	for try := range gapsAllowed {
		actions := s.page(1, sub.Number, 50, 60, 100)
		if applies := only[Apply](actions); len(applies) > 0 {
			t.Fatalf("a page beyond the watermark is applied: %+v", applies)
		}
		again, ok := s.subscribed(actions, rowsOf1)
		if last := try == gapsAllowed-1; !ok || again.Since.Top() > 1 || (len(again.Since) > 0) != last || again.Number == sub.Number {
			t.Fatalf("gap %d: asked for %+v; want a new subscription since 0, and in the end since what nobody knows", try, again)
		}
		if actions := s.page(1, sub.Number, 0, 40, 100); len(only[Apply](actions)) > 0 {
			t.Fatal("a page of the subscription given up is applied")
		}
		sub = again
	}
	if _, ok := s.subscribed(s.page(1, sub.Number, 50, 60, 100), rowsOf1); ok {
		t.Error("a sender that leaves gaps for ever is asked for ever")
	}
	if got := s.m.Peers(s.now)[0]; got.State != Held {
		t.Errorf("the stream is not held: %+v", got)
	}
}

// TestMachine_LostQueue loses the connection while pages wait behind others that are being applied.
func TestMachine_LostQueue(t *testing.T) {
	s := newSolo(t)
	sub, _ := s.subscribed(s.connect(1, 1), rowsOf1)
	var applies []Apply
	for i := range hlc.Stamp(8) {
		applies = append(applies, only[Apply](s.page(1, sub.Number, 10*i, 10*i+10, 3000))...)
	}
	if len(applies) != appliesAhead(sdk.DeviceOwned) {
		t.Fatalf("%d pages are with the applier at once", len(applies))
	}
	s.step(PeerDown{Session: 1})
	s.now = s.now.Add(time.Second)
	sub, ok := s.subscribed(s.connect(2, 1), rowsOf1)
	if !ok || sub.Since.Top() != 30 {
		t.Fatalf("asked again since %s; want from after the pages that are with the applier", sub.Since.Top())
	}
	for _, a := range applies {
		for _, more := range only[Apply](s.step(Applied{Generation: a.Generation, Page: a.Page})) {
			t.Errorf("a page that was let go of is applied: from %s", more.Page.From)
		}
	}
	if got := s.m.streams[rowsOf1].applied.Top(); got != 30 {
		t.Errorf("watermark %s, want 30", got)
	}
}

// TestMachine_FailedPage fails the first of three pages under way: the later ones count for nothing.
func TestMachine_FailedPage(t *testing.T) {
	s := newSolo(t)
	sub, _ := s.subscribed(s.connect(1, 1), rowsOf1)
	var applies []Apply
	for i := range hlc.Stamp(5) {
		applies = append(applies, only[Apply](s.page(1, sub.Number, 10*i, 10*i+10, 3000))...)
	}
	for _, a := range applies {
		actions := s.step(Applied{Generation: a.Generation, Page: a.Page, Err: sdk.Errorf(sdk.CodeUnavailable, "no")})
		if len(only[Apply](actions)) > 0 {
			t.Fatal("pages after a failed one are applied")
		}
	}
	s.now = s.now.Add(DefaultConfig().RetryMax)
	sub, ok := s.subscribed(s.step(Tick{}), rowsOf1)
	if ok && len(sub.Since) != 0 {
		t.Errorf("asked again since %s, want 0", sub.Since.Top())
	}
	if got := s.m.Vector(); len(got) != 0 {
		t.Errorf("the watermark has moved: %v", got)
	}
}

// TestMachine_NothingAcknowledgedEarly has pages received and not applied: no acknowledgement may name them.
func TestMachine_NothingAcknowledgedEarly(t *testing.T) {
	s := newSolo(t)
	sub, _ := s.subscribed(s.connect(1, 1), rowsOf1)
	actions := s.page(1, sub.Number, 0, 10, 100)
	apply := only[Apply](actions)[0]
	s.now = s.now.Add(DefaultConfig().Heartbeat)
	actions = append(actions, s.step(Tick{})...)
	for _, send := range only[Send](actions) {
		switch m := send.Message.(type) {
		case *protocol.AckSharedChanges:
			t.Errorf("acknowledged before it was durable: %v", m.Vector)
		case *protocol.Heartbeat:
			if len(m.Vector) > 0 {
				t.Errorf("announced before it was durable: %v", m.Vector)
			}
		}
	}
	want := []protocol.Mark{mark(rowsOf1, 10)}
	for _, send := range only[Send](s.step(Applied{Generation: apply.Generation, Page: apply.Page})) {
		if ack, ok := send.Message.(*protocol.AckSharedChanges); ok {
			if diff := cmp.Diff(want, ack.Vector); diff != "" {
				t.Error(diff)
			}
			want = nil
		}
	}
	if want != nil {
		t.Error("not acknowledged once durable")
	}
}

// TestMachine_LivePage sends from memory only where it continues what the peer has.
func TestMachine_LivePage(t *testing.T) {
	s := newSolo(t)
	s.connect(1, 1)
	mine := protocol.Stream{Origin: deviceID(0), Kind: sdk.DeviceOwned}
	commit := func(from, through hlc.Stamp) []Action {
		page := protocol.Page{Stream: mine, Heads: at(through), From: from, Through: through, Batches: []sdk.Batch{{Model: testModel, Count: 1, Rows: make([]byte, 50)}}}
		return s.step(Committed{Page: page})
	}
	commit(0, 10)
	request := protocol.RequestFor(sdk.DeviceOwned, protocol.Request{Subscribe: []protocol.Subscribe{{Number: 1, Origin: deviceID(0)}}})
	reads := only[ReadPage](s.step(Received{Session: 1, Message: request}))
	if len(reads) != 1 || reads[0].Since != 0 || reads[0].Heads.Top() != 10 {
		t.Fatalf("reads %+v; want one since 0", reads)
	}
	if actions := commit(10, 20); len(actions) != 0 {
		t.Fatalf("while a read is under way: %+v; want nothing", actions)
	}
	actions := s.step(PageRead{Read: reads[0], Page: protocol.Page{Stream: mine, Through: 7}})
	sent := only[Send](actions)
	if d, _ := protocol.DeliveryOf(sent[0].Message); d.Page.From != 0 || d.Page.Through != 10 || d.Page.Head != 20 {
		t.Errorf("sent (%s, %s] of %s; want (0, 10] of 20: there was no more when the read began", d.Page.From, d.Page.Through, d.Page.Head)
	}
	reads = only[ReadPage](actions)
	if len(reads) != 1 || reads[0].Since != 10 {
		t.Fatalf("reads %+v; want the rest since 10", reads)
	}
	s.step(PageRead{Read: reads[0], Page: protocol.Page{Stream: mine, Through: 20}})
	sent = only[Send](commit(20, 30))
	if len(sent) != 1 || sent[0].Message.Type() != protocol.TypeStateChange {
		t.Errorf("sent %+v; want the live change", sent)
	}
	if reads := only[ReadPage](commit(35, 40)); len(reads) != 1 || reads[0].Since != 30 {
		t.Errorf("reads %+v; want one since 30, because a commit was not announced", reads)
	}
}

// TestMachine_Window serves a peer that acknowledges nothing, then everything.
func TestMachine_Window(t *testing.T) {
	s := newSolo(t)
	s.connect(1, 1)
	mine := protocol.Stream{Origin: deviceID(0), Kind: sdk.DeviceOwned}
	s.step(Advanced{Mark: mark(mine, 1_000_000)})
	request := protocol.RequestFor(sdk.DeviceOwned, protocol.Request{Subscribe: []protocol.Subscribe{{Number: 1, Origin: deviceID(0)}}})
	reads := only[ReadPage](s.step(Received{Session: 1, Message: request}))
	sent, last := 0, hlc.Stamp(0)
	serve := func() {
		for len(reads) > 0 {
			page := protocol.Page{Stream: mine, Through: reads[0].Since + 10, Batches: []sdk.Batch{{Model: testModel, Count: 1, Rows: make([]byte, 4000)}}}
			sent, last = sent+page.Bytes(), page.Through
			reads = only[ReadPage](s.step(PageRead{Read: reads[0], Page: page, More: true}))
		}
	}
	serve()
	if sent == 0 || sent > 64<<10 {
		t.Errorf("%d bytes under way; the window is 64 KiB", sent)
	}
	before := sent
	reads = only[ReadPage](s.step(Received{Session: 1, Message: &protocol.AckSharedChanges{Vector: []protocol.Mark{mark(mine, last)}}}))
	serve()
	if sent != 2*before {
		t.Errorf("after the acknowledgement %d bytes more; want %d", sent-before, before)
	}
}

// TestMachine_OversizedPage reads again, smaller, when a page comes out too large to send.
func TestMachine_OversizedPage(t *testing.T) {
	s := newSolo(t)
	s.connect(1, 1)
	mine := protocol.Stream{Origin: deviceID(0), Kind: sdk.DeviceOwned}
	s.step(Advanced{Mark: mark(mine, 100)})
	request := protocol.RequestFor(sdk.DeviceOwned, protocol.Request{Subscribe: []protocol.Subscribe{{Number: 1, Origin: deviceID(0)}}, PageBytes: 8 << 10})
	reads := only[ReadPage](s.step(Received{Session: 1, Message: request}))
	huge := protocol.Page{Stream: mine, Through: 50, Batches: []sdk.Batch{{Model: testModel, Count: 1, Rows: make([]byte, 2<<20)}}}
	actions := s.step(PageRead{Read: reads[0], Page: huge, More: true})
	reads = only[ReadPage](actions)
	if len(only[Send](actions)) != 0 || len(reads) != 1 || reads[0].MaxBytes != minPageBytes || reads[0].Since != 0 {
		t.Fatalf("got %+v; want the same page read again, as small as can be", actions)
	}
	if actions := s.step(PageRead{Read: reads[0], Page: huge, More: true}); len(only[ReadPage](actions)) != 0 || len(only[Log](actions)) != 1 {
		t.Errorf("got %+v; want a pause and a line in the log", actions)
	}
	if f := s.m.Figures(); f.Refusals["max_page_bytes"] != 1 || f.Peers[deviceID(1)].ReadFailures != 1 {
		t.Errorf("counted: %+v", f)
	}
}

// TestMachine_TwoSessions has both sides dial at once: both keep the one that the smaller device dialled.
func TestMachine_TwoSessions(t *testing.T) {
	for _, first := range []bool{true, false} {
		s := newSolo(t)
		s.step(PeerUp{Session: 1, Peer: deviceID(1), Dialed: first})
		s.step(PeerUp{Session: 2, Peer: deviceID(1), Dialed: !first})
		var closed []Close
		for id := SessionID(1); id <= 2; id++ {
			closed = append(closed, only[Close](s.step(Received{Session: id, Message: &protocol.Hello{
				MinVersion: 1, MaxVersion: 1, Library: protocol.LibraryID{1}, Device: deviceID(1), Clock: s.now,
			}}))...)
		}
		want := SessionID(1)
		if first { // this device is the smaller, and dialled session 1
			want = 2
		}
		if len(closed) != 1 || closed[0].Session != want {
			t.Errorf("dialled first: %v: closed %+v, want session %d", first, closed, want)
		}
	}
}

// TestMachine_Flood has a peer send more than the window allows.
func TestMachine_Flood(t *testing.T) {
	s := newSolo(t)
	sub, _ := s.subscribed(s.connect(1, 1), rowsOf1)
	for i := range hlc.Stamp(4) {
		if closed := only[Close](s.page(1, sub.Number, 10*i, 10*i+10, 1<<20)); i < 3 && len(closed) > 0 {
			t.Fatalf("closed after %d pages: %+v", i+1, closed)
		}
	}
	var closed []Close
	for i := hlc.Stamp(4); i < 8 && len(closed) == 0; i++ {
		closed = only[Close](s.page(1, sub.Number, 10*i, 10*i+10, 1<<20))
	}
	if len(closed) == 0 {
		t.Error("8 MiB beyond a window of 64 KiB are taken in")
	}
}

// TestMachine_LagOfAnAbsentPeer writes while the peer is away: what is known of it must not read as "in step".
func TestMachine_LagOfAnAbsentPeer(t *testing.T) {
	s := newSolo(t)
	mine := protocol.Stream{Origin: deviceID(0), Kind: sdk.SharedByAll}
	s.connect(1, 1, mark(mine, hlc.New(1000, 0)))
	s.step(PeerDown{Session: 1})
	s.step(Committed{Page: protocol.Page{Stream: mine, Heads: at(hlc.New(4000, 0)), From: hlc.New(1000, 0), Through: hlc.New(4000, 0)}})
	if p := s.m.Peers(s.now)[0]; p.State == Live || p.BehindMe != 3*time.Second {
		t.Errorf("%s, %s behind; want it away and 3 s behind", p.State, p.BehindMe)
	}

	// After a start, what it had acknowledged before says so.
	s = newSolo(t)
	s.m.acks.replace(deviceID(1), map[protocol.Stream]protocol.Heads{mine: at(hlc.New(1000, 0))}, 0)
	s.step(Committed{Page: protocol.Page{Stream: mine, Heads: at(hlc.New(4000, 0)), Through: hlc.New(4000, 0)}})
	if p := s.m.Peers(s.now)[0]; p.BehindMe != 3*time.Second {
		t.Errorf("%s behind after a start; want 3 s", p.BehindMe)
	}
}
