package peersync

import (
	"context"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/sdktest"
)

// TestEngine_SlowFrame has a peer take many heartbeats to send one frame: as long as bytes arrive, it lives.
func TestEngine_SlowFrame(t *testing.T) {
	network := sdktest.NewMemoryTransport()
	member := newTestKey(t, 7)
	var mu sync.Mutex
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	clock := func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		return now
	}
	a := newHost(t, network, 1, func(o *Options) { o.Now = clock })
	a.start(a.member(), Member{ID: member.id(), Name: "raw"})
	p := dialRaw(t, a, member)
	p.hello(member, 1)
	state := func() (heard time.Time, up bool) {
		a.engine.stepMu.Lock()
		defer a.engine.stepMu.Unlock()
		if s := a.engine.machine.peers[member.id()].session; s != nil {
			return s.heard, true
		}
		return time.Time{}, false
	}
	eventually(t, "the member is connected", func() bool { _, up := state(); return up })
	for _, b := range []byte{0, 0, 1, 0, byte(protocol.TypeHeartbeat), 0, 1, 2, 3, 4} {
		mu.Lock()
		now = now.Add(2 * a.engine.options.Config.Heartbeat)
		mu.Unlock()
		if _, err := p.conn.Write([]byte{b}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "a byte is a sign of life", func() bool { heard, up := state(); return !up || heard.Equal(clock()) })
	}
	if _, up := state(); !up {
		t.Error("a peer whose bytes arrive was taken for dead")
	}
}

// silentConn never answers.
type silentConn struct {
	fakeConn
	gone chan struct{}
	once sync.Once
}

func (c *silentConn) Write(b []byte) (int, error) { return len(b), nil }

func (c *silentConn) Read([]byte) (int, error) {
	<-c.gone
	return 0, net.ErrClosed
}

func (c *silentConn) Close() error {
	c.once.Do(func() { close(c.gone) })
	return nil
}

// TestPair_Silent pairs with a listener that says nothing, under a context without an end.
func TestPair_Silent(t *testing.T) {
	limits := protocol.DefaultLimits()
	limits.HandshakeTime = time.Millisecond
	key := newTestKey(t, 9)
	conn := &silentConn{gone: make(chan struct{})}
	done := make(chan error, 1)
	go func() {
		_, err := pair(context.Background(), conn, key.ClientTLS(deviceID(1)), protocol.Join{}, limits)
		done <- err
	}()
	giveUp := time.NewTimer(givesUp)
	defer giveUp.Stop()
	select {
	case err := <-done:
		if sdk.CodeOf(err) != sdk.CodeUnavailable {
			t.Errorf("got %v; want code %s", err, sdk.CodeUnavailable)
		}
	case <-giveUp.C:
		_ = conn.Close()
		t.Error("still waiting for a listener that says nothing")
	}
}

type countingConn struct {
	fakeConn
	written []int
}

func (c *countingConn) Write(b []byte) (int, error) {
	c.written = append(c.written, len(b))
	return len(b), nil
}

// TestNetConn_Pieces has a flush leave in pieces, each of which is progress.
func TestNetConn_Pieces(t *testing.T) {
	conn := new(countingConn)
	wire := newNetConn(conn)
	left := 0
	wire.cork(func() { left++ })
	for range 2*pieceBytes/1024 + 1 {
		if _, err := wire.Write(make([]byte, 1024)); err != nil {
			t.Fatal(err)
		}
	}
	if err := wire.uncork(); err != nil {
		t.Fatal(err)
	}
	if want := []int{pieceBytes, pieceBytes, 1024}; !slices.Equal(conn.written, want) || left != len(want) {
		t.Errorf("written %v with %d signs of progress; want %v", conn.written, left, want)
	}
}

// TestMachine_DialsAfterRetirement has a member retired while it is being dialled, and taken back.
func TestMachine_DialsAfterRetirement(t *testing.T) {
	s := newSolo(t)
	member := Member{ID: deviceID(1), Addresses: []protocol.Address{{Transport: "x", Address: "y"}}}
	if dials := only[Dial](append(s.step(MembersChanged{Members: []Member{member}}), s.step(Tick{})...)); len(dials) != 1 {
		t.Fatalf("dials %+v; want one", dials)
	}
	member.Retired = true
	s.step(MembersChanged{Members: []Member{member}})
	s.step(PeerUp{Session: 1, Peer: deviceID(1), Dialed: true})
	member.Retired = false
	s.step(MembersChanged{Members: []Member{member}})
	s.now = s.now.Add(DefaultConfig().RetryMax)
	if dials := only[Dial](s.step(Tick{})); len(dials) != 1 {
		t.Errorf("dials %+v after the member was taken back; want one", dials)
	}
}

// TestMachine_RetiredMidSession retires a peer from which streams come and which is served: it is told why, and nothing that it
// sends counts any more.
func TestMachine_RetiredMidSession(t *testing.T) {
	s, key := pruneSolo(t)
	members := []Member{{ID: deviceID(1), Name: "d1"}, {ID: deviceID(2), Name: "d2"}}
	s.step(MembersChanged{Members: members})
	s.connect(2, 2, mark(rowsOf1, 90))
	s.step(Received{Session: 1, Message: protocol.RequestFor(key.Kind, protocol.Request{Subscribe: []protocol.Subscribe{{Number: 1, Origin: key.Origin, Since: at(100)}}})})
	members[0].Retired = true
	actions := s.step(MembersChanged{Members: members})
	refusal, ok := messageOf[*protocol.Error](actions)
	if closed := only[Close](actions); !ok || refusal.Code != sdk.CodeDenied || len(closed) != 1 || closed[0].Session != 1 {
		t.Fatalf("got %+v; want the session refused", actions)
	}
	if sub, ok := s.subscribed(actions, rowsOf1); !ok || len(sub.Since) > 0 || s.m.streams[rowsOf1].upstream.peer.id != deviceID(2) {
		t.Error("what it wrote is not asked for at the other peer")
	}
	for _, e := range []Event{
		Received{Session: 1, Message: &protocol.AckSharedChanges{Vector: []protocol.Mark{mark(key, 100)}}},
		Received{Session: 1, Message: protocol.RequestFor(key.Kind, protocol.Request{Subscribe: []protocol.Subscribe{{Number: 2, Origin: key.Origin}}})},
		PeerDown{Session: 1},
	} {
		if actions := s.step(e); len(actions) > 0 {
			t.Errorf("%+v: %+v", e, actions)
		}
	}
	if len(s.m.acks.of[deviceID(1)]) > 0 {
		t.Error("what it had is remembered")
	}
	refusal, ok = messageOf[*protocol.Error](s.step(PeerUp{Session: 3, Peer: deviceID(1)}))
	if !ok || refusal.Code != sdk.CodeDenied || s.m.sessions[3] != nil {
		t.Error("a retired device is greeted")
	}
}

// TestMachine_CopiesTakeTurns lets a restarted peer take the place of its lost session at once, and two copies that run in turns:
// also once the sign of them is old.
func TestMachine_CopiesTakeTurns(t *testing.T) {
	s := newSolo(t)
	greet := func(id SessionID, start byte) (taken bool) {
		s.step(PeerUp{Session: id, Peer: deviceID(2)})
		s.step(Received{Session: id, Message: &protocol.Hello{
			MinVersion: 1, MaxVersion: 1, Library: protocol.LibraryID{1}, Device: deviceID(2), Epoch: protocol.EpochID{start}, Clock: s.now,
		}})
		return s.m.peers[deviceID(2)].session.id == id
	}
	if !greet(1, 1) || !greet(2, 2) {
		t.Fatal("a restarted peer waits for its lost session")
	}
	if greet(3, 1); !s.m.Peers(s.now)[1].RunsTwice {
		t.Fatal("two copies are not noticed")
	}
	if greet(4, 2) {
		t.Error("two copies throw each other out")
	}
	s.now = s.now.Add(s.m.config.StallTime + time.Second)
	if !greet(5, 2) {
		t.Error("the other copy does not get its turn")
	}
	s.now = s.now.Add(twiceFor)
	s.step(PeerDown{Session: 5})
	if !greet(6, 7) || !greet(7, 8) {
		t.Error("a restarted peer waits for its lost session although nothing has shown two copies for long")
	}
}

// TestMachine_NamesLimits goes over every limit that the machine keeps: the refusal names the setting, and it is counted.
func TestMachine_NamesLimits(t *testing.T) {
	for setting, exceed := range map[string]func(s *solo) []Action{
		"marks of subscriptions": func(s *solo) (all []Action) {
			s.m.limits.Marks = 4
			for i := range 5 {
				request := protocol.Request{Subscribe: []protocol.Subscribe{{Number: uint32(i + 1), Origin: sdk.DeviceID{0x11, byte(i)}}}}
				all = append(all, s.step(Received{Session: 1, Message: protocol.RequestFor(sdk.SharedByAll, request)})...)
			}
			return all
		},
		"marks of epochs": func(s *solo) (all []Action) {
			s.m.limits.Marks = 4
			for i := range 33 {
				epoch := protocol.Epoch{ID: protocol.EpochID{0x11, byte(i)}, Stream: rowsOf1}
				all = append(all, s.step(Received{Session: 1, Message: &protocol.Epochs{Epochs: []protocol.Epoch{epoch}}})...)
			}
			return all
		},
		"window_bytes": func(s *solo) (all []Action) {
			number := s.m.streams[rowsOf1].number
			for i := range hlc.Stamp(8) {
				all = append(all, s.page(1, number, 10*i, 10*i+10, 1<<20)...)
			}
			return all
		},
	} {
		t.Run(setting, func(t *testing.T) {
			setting, _, _ := strings.Cut(setting, " ")
			s := newSolo(t)
			s.connect(1, 1)
			refusal, ok := messageOf[*protocol.Error](exceed(s))
			if !ok || refusal.Code != sdk.CodeTooLarge || !strings.HasSuffix(refusal.Message, "over the limit "+setting) {
				t.Errorf("refused with %+v; want the limit %s named", refusal, setting)
			}
			if got := s.m.over; len(got) != 1 || got[setting] != 1 {
				t.Errorf("counted %v", got)
			}
		})
	}
}

// TestMachine_TooManyMembers knows of more streams than a session carries: it says so, and which setting that is, instead of a
// session that can not work.
func TestMachine_TooManyMembers(t *testing.T) {
	s := newSolo(t)
	s.m.limits.Marks = 20
	members := make([]Member, 10)
	for i := range members {
		members[i] = Member{ID: deviceID(i + 1)}
	}
	s.step(MembersChanged{Members: members[:9]})
	if _, ok := messageOf[*protocol.Hello](s.step(PeerUp{Session: 1, Peer: deviceID(1)})); !ok {
		t.Error("no Hello to one of nine, with 20 streams")
	}
	s.step(MembersChanged{Members: members})
	actions := s.step(PeerUp{Session: 2, Peer: deviceID(2)})
	refusal, ok := messageOf[*protocol.Error](actions)
	if !ok || refusal.Code != sdk.CodeTooLarge || !strings.HasSuffix(refusal.Message, "raise limits.marks on all devices: over the limit marks") || len(only[Close](actions)) != 1 {
		t.Fatalf("got %+v; want the session refused", actions)
	}
	if p := s.m.Peers(s.now)[1]; p.State != Offline || p.Reason != refusal.Message || s.m.over["marks"] != 1 || len(s.m.sessions) != 1 {
		t.Errorf("%s (%s), counted %v", p.State, p.Reason, s.m.over)
	}
}
