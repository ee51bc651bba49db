package peersync

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/sdktest"
)

// TestMachine_Leave ends a session by agreement, from either side: the peer is dialled at once, unless the session was
// so short that this may go on for ever.
func TestMachine_Leave(t *testing.T) {
	goodbye := &protocol.Error{Code: sdk.CodeUnavailable, Message: "moving", Retryable: true}
	for name, each := range map[string]struct {
		event  Event
		says   bool
		lasted time.Duration
		atOnce bool
	}{
		"by this device":            {event: Leave{Sessions: []SessionID{1, 99}}, says: true, lasted: time.Minute, atOnce: true},
		"by the peer":               {event: Received{Session: 1, Message: goodbye}, lasted: time.Minute, atOnce: true},
		"by the peer, very soon":    {event: Received{Session: 1, Message: goodbye}, lasted: time.Millisecond},
		"a refusal of another kind": {event: Received{Session: 1, Message: &protocol.Error{Code: sdk.CodeDenied, Retryable: true}}, lasted: time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSolo(t)
			members := []Member{{ID: deviceID(1), Name: "d1", Addresses: []protocol.Address{{Transport: "tcp", Address: "d1:1"}}}}
			s.step(MembersChanged{Members: members})
			s.connect(1, 1)
			s.now = s.now.Add(each.lasted)
			actions := s.step(each.event)
			if closes := only[Close](actions); len(closes) != 1 || closes[0].Session != 1 {
				t.Errorf("closes %+v, want session 1", closes)
			}
			said := false
			for _, send := range only[Send](actions) {
				e, ok := send.Message.(*protocol.Error)
				said = said || ok && e.Code == sdk.CodeUnavailable && e.Retryable && e.Stream.Origin.IsZero()
			}
			if said != each.says {
				t.Errorf("the peer is told: %t, want %t", said, each.says)
			}
			if dials := only[Dial](actions); (len(dials) > 0) != each.atOnce {
				t.Errorf("dials %+v, want some: %t", dials, each.atOnce)
			}
			s.now = s.now.Add(s.m.config.RetryMin)
			if dials := only[Dial](s.step(Tick{})); (len(dials) > 0) != !each.atOnce {
				t.Errorf("later: dials %+v, want some: %t", dials, !each.atOnce)
			}
		})
	}
}

// labelled is a transport that is told apart from another over the same network.
type labelled struct{ sdk.Transport }

// TestEngine_LeavesTransport has another transport take the place of the one that carries a session. The peer, which alone
// can dial, comes back by the new one.
func TestEngine_LeavesTransport(t *testing.T) {
	network := sdktest.NewMemoryTransport()
	a, b := newHost(t, network, 1, nil), newHost(t, network, 2, nil)
	undiallable := b.member()
	undiallable.Addresses = nil
	moved := a.member()
	moved.Addresses = []protocol.Address{{Transport: "memory", Address: "a-lan"}}
	a.start(a.member(), undiallable)
	var serving sync.WaitGroup
	serve := func(tr sdk.Transport) (stop func()) {
		t.Helper()
		listener, err := tr.Listen(t.Context(), "a-lan", nil)
		if err != nil {
			t.Fatal(err)
		}
		a.engine.AddTransport("lan", tr)
		ctx, cancel := context.WithCancel(context.Background())
		serving.Go(func() { _ = a.engine.Serve(ctx, listener, "lan") })
		return func() { cancel(); _ = listener.Close() }
	}
	old, next := &labelled{network}, &labelled{network}
	carries := func(tr sdk.Transport) int {
		a.engine.mu.Lock()
		defer a.engine.mu.Unlock()
		return a.engine.carried[tr]
	}
	stopOld := serve(old)
	b.start(moved, b.member())
	eventually(t, "connected by the old one", func() bool { return a.stateOf(b).State == Live && carries(old) == 1 })
	stopOld()
	eventually(t, "the address is free", func() bool {
		l, err := network.Listen(t.Context(), "a-lan", nil)
		if err == nil {
			_ = l.Close()
		}
		return err == nil
	})
	stopNext := serve(next)
	a.engine.Leave(t.Context(), old)
	if n := carries(old); n != 0 {
		t.Errorf("the old one still carries %d connections", n)
	}
	eventually(t, "connected by the new one", func() bool { return a.stateOf(b).State == Live && carries(next) == 1 })
	stopNext()
	serving.Wait()
}
