package peersync

import (
	"testing"
	"time"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/sdk"
)

// lags are what the device and its peer 1 lack of one another, as of now.
func (s *solo) lags() (lag, ofPeer time.Duration) {
	p := s.m.Peers(s.now)[0]
	return p.Lag, p.LagOfPeer
}

func (s *solo) stamp() hlc.Stamp { return hlc.New(s.now.UnixMilli(), 0) }

func (s *solo) pass(d time.Duration) { s.now = s.now.Add(d) }

func (s *solo) commit(key protocol.Stream, since hlc.Stamp) (through hlc.Stamp) {
	through = s.stamp()
	s.step(Committed{Page: protocol.Page{Stream: key, Heads: at(through), From: since, Through: through}})
	return through
}

// wantLag compares to the millisecond.
func wantLag(t *testing.T, what string, got, want time.Duration) {
	t.Helper()
	if got.Round(time.Millisecond) != want {
		t.Errorf("%s: %s; want %s", what, got, want)
	}
}

// TestMachine_LagOfPeerAfterRest has this device write after a rest to a peer that says nothing: the peer lacks that write for as
// long as it is there, not for as long as nothing was written. With and without a session.
func TestMachine_LagOfPeerAfterRest(t *testing.T) {
	mine := protocol.Stream{Origin: deviceID(0), Kind: sdk.SharedByAll}
	for _, connected := range []bool{true, false} {
		s := newSolo(t)
		first := s.stamp()
		s.commit(mine, 0)
		s.connect(1, 1, mark(mine, first))
		if !connected {
			s.step(PeerDown{Session: 1})
		}
		s.pass(45 * time.Second)
		_, got := s.lags()
		wantLag(t, "in step", got, 0)
		second := s.commit(mine, first)
		s.pass(time.Second)
		_, got = s.lags()
		wantLag(t, "a second after", got, time.Second)
		s.pass(time.Minute)
		third := s.commit(mine, second)
		s.pass(time.Second)
		_, got = s.lags()
		wantLag(t, "a minute later, and after a second write", got, 62*time.Second)
		if connected {
			s.step(Received{Session: 1, Message: &protocol.AckSharedChanges{Vector: []protocol.Mark{mark(mine, second)}}})
			_, got = s.lags()
			wantLag(t, "after it has got the first of both", got, time.Second)
			s.step(Received{Session: 1, Message: &protocol.AckSharedChanges{Vector: []protocol.Mark{mark(mine, third)}}})
			_, got = s.lags()
			wantLag(t, "after both", got, 0)
		}
	}
}

// TestMachine_LagAfterRest has a peer write after a rest, and tell of it: this device lacks it since then. What a Hello tells has
// been lacking since the session before, at most.
func TestMachine_LagAfterRest(t *testing.T) {
	s := newSolo(t)
	theirs := protocol.Stream{Origin: deviceID(1), Kind: sdk.SharedByAll}
	first := s.stamp()
	s.step(Committed{Page: protocol.Page{Stream: theirs, Heads: at(first), Through: first}})
	s.connect(1, 1, mark(theirs, first))
	s.pass(45 * time.Second)
	got, _ := s.lags()
	wantLag(t, "in step", got, 0)
	s.step(Received{Session: 1, Message: &protocol.AckSharedChanges{Vector: []protocol.Mark{mark(theirs, s.stamp())}}})
	s.pass(time.Second)
	got, _ = s.lags()
	wantLag(t, "a second after", got, time.Second)
	s.pass(time.Minute)
	got, _ = s.lags()
	wantLag(t, "a minute later", got, 61*time.Second)

	s = newSolo(t)
	first = s.stamp()
	s.step(Committed{Page: protocol.Page{Stream: theirs, Heads: at(first), Through: first}})
	s.connect(1, 1, mark(theirs, first))
	s.pass(time.Hour)
	s.step(PeerDown{Session: 1})
	s.pass(10 * time.Second)
	s.connect(2, 1, mark(theirs, s.stamp()))
	got, _ = s.lags()
	wantLag(t, "written while apart", got, 10*time.Second)
}

// TestRises_bound notes more rises than are kept: of the oldest no more is known than by stamps.
func TestRises_bound(t *testing.T) {
	var r rises
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	stamp := func(n int) hlc.Stamp { return hlc.New(now.Add(time.Duration(n)*time.Minute).UnixMilli(), 0) }
	for n := range 3 * mostRises {
		r.note(stamp(n), stamp(n+1), stamp(n+1).Time())
	}
	if len(r) != mostRises {
		t.Fatalf("%d are kept", len(r))
	}
	for n, want := range map[int]hlc.Stamp{0: stamp(0), 2*mostRises - 1: stamp(2*mostRises - 1), 2 * mostRises: stamp(2*mostRises + 1), 3*mostRises - 1: stamp(3 * mostRises), 3 * mostRises: stamp(3 * mostRises)} {
		if got := r.after(stamp(n)); !got.Equal(want.Time()) {
			t.Errorf("after %d: %s; want %s", n, got, want.Time())
		}
	}
	r = nil
	r.note(stamp(0), stamp(0)+1, stamp(0).Time().Add(restTime/2)) // no rest
	r.note(0, stamp(1), stamp(1).Time())                          // the beginning
	r.note(stamp(1), stamp(2), time.Time{})                       // nobody knows
	if len(r) > 0 {
		t.Errorf("noted: %v", r)
	}
}
