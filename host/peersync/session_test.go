package peersync

import (
	"context"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

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
	giveUp := time.NewTimer(30 * time.Second)
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
