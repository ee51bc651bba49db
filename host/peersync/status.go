package peersync

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/sdk"
)

// Peers returns every member but this device, as of now, ascending by id. Bytes are left to the caller who counts them.
func (m *Machine) Peers(now time.Time) []PeerStatus {
	m.now = now
	out := make([]PeerStatus, 0, len(m.peerOrder))
	for _, p := range m.peerOrder {
		m.noteState(p)
		out = append(out, m.statusOf(p))
	}
	return out
}

// Peer returns one of them; false: it is no member, or not any more.
func (m *Machine) Peer(now time.Time, id sdk.DeviceID) (PeerStatus, bool) {
	p := m.peers[id]
	if p == nil {
		return PeerStatus{}, false
	}
	m.now = now
	m.noteState(p)
	return m.statusOf(p), true
}

// SessionOf returns the session in use with a peer, and whether there is one.
func (m *Machine) SessionOf(id sdk.DeviceID) (SessionID, bool) {
	if p := m.peers[id]; p != nil && p.session != nil {
		return p.session.id, true
	}
	return 0, false
}

func (m *Machine) statusOf(p *peer) PeerStatus {
	status := PeerStatus{ID: p.id, Name: p.member.Name, State: p.state, Since: p.since, Progress: 1, RunsTwice: m.runsTwice(p), Refuses: p.refuses, Audit: p.audit}
	_, status.Reason = m.stateOf(p)
	s := p.session
	if s == nil {
		status.Progress = 0
		for _, st := range m.streamList {
			if !p.member.Retired { // nobody waits for one that is
				theirs := m.acks.get(p.id, st.Stream)
				status.BehindMe = max(status.BehindMe, m.distance(theirs, st.applied))
				status.LagOfPeer = max(status.LagOfPeer, m.lag(theirs, st.applied, st.rises))
			}
		}
		return status
	}
	if p.auditWanted {
		status.Audit.Waits = m.auditWaits(s)
	}
	status.Via, status.Address, status.RTT, status.Skew, status.Models = s.via, s.address, s.rtt, s.skew, s.hello.Models
	status.RowsIn, status.RowsOut = s.rowsIn, s.rowsOut
	var done, total float64
	var begun time.Time
	for _, st := range m.streamList {
		theirs, mine := s.vector[st.Stream], st.applied
		if !slices.Equal(mine, theirs) { // as few streams are
			status.Behind = max(status.Behind, m.distance(mine, theirs))
			status.BehindMe = max(status.BehindMe, m.distance(theirs, mine))
			status.Lag = max(status.Lag, m.lag(mine, theirs, st.heard))
			status.LagOfPeer = max(status.LagOfPeer, m.lag(theirs, mine, st.rises))
			if !m.graph.CoversAll(mine, theirs) {
				status.StreamsBehind++
			}
			if !m.graph.CoversAll(theirs, mine) {
				status.StreamsBehindMe++
			}
		}
		if st.upstream != s {
			continue
		}
		status.Streams++
		if m.catchingUp(st) {
			total += float64(max(0, st.goal.Millis()-st.start.Millis()))
			done += float64(max(0, st.applied.Top().Millis()-st.start.Millis()))
			if begun.IsZero() || st.startedAt.Before(begun) {
				begun = st.startedAt
			}
		}
	}
	if p.state == Backfilling || p.state == CatchingUp {
		status.Progress = 0
		if total > 0 {
			status.Progress = min(1, done/total)
		}
		if status.Progress > 0 {
			status.Left = time.Duration(float64(m.now.Sub(begun)) * (1 - status.Progress) / status.Progress)
		}
	}
	return status
}

// distance returns how far b is after a; zero where a has not begun, since there the distance says nothing.
func (m *Machine) distance(a, b protocol.Heads) time.Duration {
	if len(a) == 0 || m.graph.CoversAll(a, b) {
		return 0
	}
	return max(b.Top().Time().Sub(m.graph.Low(a, b).Time()), time.Millisecond)
}

// noteState notes when the state of a peer changes.
func (m *Machine) noteState(p *peer) {
	if state, _ := m.stateOf(p); state != p.state {
		p.state, p.since = state, m.now
	}
}

func (m *Machine) noteStateOf(id sdk.DeviceID) {
	if p := m.peers[id]; p != nil {
		m.noteState(p)
	}
}

// stateOf says how a peer is and, where that needs one, the reason.
func (m *Machine) stateOf(p *peer) (State, string) {
	state, reason := m.connectionOf(p)
	if reason == "" && m.runsTwice(p) {
		reason = "two copies of this device run; stop one of them, nothing is lost"
	}
	return state, reason
}

func (m *Machine) connectionOf(p *peer) (State, string) {
	s := p.session
	if s == nil {
		switch {
		case p.member.Retired:
			return Offline, "retired"
		case m.handshaking(p), p.dialing && p.lastErr == "":
			return Connecting, p.lastErr
		}
		return Offline, p.lastErr
	}
	catching, backfill := false, false
	for _, st := range m.streamList {
		if from, reason := m.stuck(st); from == p.id {
			return Held, reason
		}
		if sn := st.snapshot; sn != nil && sn.from == s {
			return Backfilling, ""
		}
		if st.upstream == s && m.catchingUp(st) {
			catching = true
			backfill = backfill || st.backfill
		}
	}
	if key, ok := m.firstHold(s); ok {
		return Held, fmt.Sprintf("%s holds %s of %s: %s", p, streamWord(key.Kind), m.nameOf(key.Origin), s.holds[key])
	}
	switch {
	case backfill:
		return Backfilling, ""
	case catching:
		return CatchingUp, ""
	}
	return Live, ""
}

// stuck says why a stream does not go on here, and whose page or records it was that could not be taken in; nothing if it does.
func (m *Machine) stuck(st *stream) (from sdk.DeviceID, reason string) {
	if !st.heldUntil.IsZero() {
		return st.heldPeer, fmt.Sprintf("%s of %s: %s", streamWord(st.Kind), m.nameOf(st.Origin), st.heldReason)
	}
	if h := st.handed; len(h) > 0 && m.now.Sub(h[0].since) > m.config.StallTime {
		return h[0].from, fmt.Sprintf("%s of %s: waits for the plugin of %s", streamWord(st.Kind), m.nameOf(st.Origin), modelNames(h[0].models))
	}
	if sn := st.snapshot; sn != nil && sn.from == nil && !sn.heldPeer.IsZero() {
		return sn.heldPeer, fmt.Sprintf("a snapshot of %s: %s", m.scopeName(sn.Scope), sn.heldReason)
	}
	return sdk.DeviceID{}, ""
}

// modelNames names a few models for people.
func modelNames(models []sdk.ModelName) string {
	const most = 3
	words := make([]string, 0, most+1)
	for i, name := range models {
		if i == most {
			words = append(words, fmt.Sprintf("%d more", len(models)-most))
			break
		}
		words = append(words, string(name))
	}
	return strings.Join(words, ", ")
}

// firstHold returns the first stream that a peer holds and still lacks something of.
func (m *Machine) firstHold(s *session) (first protocol.Stream, found bool) {
	for key := range s.holds {
		if st := m.streams[key]; st == nil || m.graph.CoversAll(s.vector[key], st.applied) {
			continue
		}
		if !found || key.Compare(first) < 0 {
			first, found = key, true
		}
	}
	return first, found
}

func streamWord(kind sdk.Ownership) string {
	if kind == sdk.DeviceOwned {
		return "the rows"
	}
	return "the shared changes"
}
