package peersync

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/sdk"
)

// missedBeats is how many heartbeats may be missing before a peer counts as gone.
const missedBeats = 3

// settledAfter is how many heartbeats a session must live so that its end does not count as a failure to connect.
const settledAfter = 2

// peer is what the machine knows of one member.
type peer struct {
	id       sdk.DeviceID
	member   Member
	session  *session // the one in use: both Hellos are exchanged; nil if there is none
	dialing  bool
	failures int       // attempts since the last settled session
	retryAt  time.Time // not dialled before
	lastErr  string
	refuses  bool // its last answer to a session was that this device may have none

	state State // as last noted; since when
	since time.Time
	left  time.Time // its last session ended; zero: there was none since the start

	starts      []protocol.EpochID // of its latest sessions, the last one at the end: see twice
	twice       time.Time          // it last showed that it runs twice; zero: never
	audit       AuditStatus        // of the last one that ended
	auditWanted bool               // the operator has asked for one, which is not under way
}

func (p *peer) String() string {
	if p.member.Name != "" {
		return p.member.Name
	}
	return p.id.String()
}

// session is one connection.
type session struct {
	id           SessionID
	peer         *peer
	dialed       bool
	via, address string
	up           time.Time
	greeted      bool // all that its Hello said has been taken in

	hello  *protocol.Hello // the peer's; nil until it has come
	heard  time.Time       // last sign of life
	beatAt time.Time       // next heartbeat of ours

	peerClock   time.Time // of the peer's last Hello or Heartbeat, and when it came
	peerClockAt time.Time
	rtt, skew   time.Duration

	vector    map[protocol.Stream]protocol.Heads // how far the peer is
	unsent    map[*stream]struct{}               // streams whose watermark has moved since the peer was told
	told      map[protocol.EpochID]bool          // epochs that the peer knows, and all that they continue
	explained map[protocol.EpochID]bool          // epochs that it was told of since the last heartbeat, although it should know them
	epochs    int                                // that the peer has told of
	gossip    uint64                             // acknowledgements of third devices up to this version were passed on ...
	gossipAt  time.Time                          // ... and the next ones not before
	pruned    map[protocol.Stream]bool           // streams that the peer can not send from where this device is
	ranges    int                                // that are being read for the peer, or are to be read again
	again     []ReadRange                        // that could not be read; at againAt they are tried again
	againAt   time.Time
	numbers   uint32 // of requests for snapshots and audits
	audit     audit

	// Receiving.
	number uint32              // of the last subscription of ours
	wants  [2]protocol.Request // to be sent at the end of the step, by kind
	ackNow bool                // tell the peer the unsent marks at the end of the step
	rowsIn int64

	// Serving.
	subs    map[protocol.Stream]*subscription
	windows [2]window
	rowsOut int64
	holds   map[protocol.Stream]string   // streams that the peer holds, and why
	heldFor map[protocol.Stream]sdk.Code // of which holds the log has warned; the peer took nothing of the stream since
}

// note takes in that the peer has a stream up to there, and maybe more. What a peer can make this device remember is limited.
func (m *Machine) note(s *session, key protocol.Stream, heads protocol.Heads) {
	m.noteAll(s, key, m.graph.Join(s.vector[key], heads))
}

// noteAll takes in all that the peer has of a stream. It may have fewer positions than before, where it has learned that some
// cover others.
func (m *Machine) noteAll(s *session, key protocol.Stream, heads protocol.Heads) {
	if _, known := s.vector[key]; !known && len(s.vector) >= m.limits.Marks {
		return
	}
	if heads = m.graph.Join(nil, heads); len(heads) <= m.limits.Heads {
		s.vector[key] = heads
		m.acks.touch(key)
		m.hear(s, key, heads.Top())
	}
	if key.Origin == m.self.Device {
		m.lookForTwin(s.peer, key.Kind, heads)
	}
}

// hear takes in how far a stream is known to go. What the Hello of a peer says has been there since any time after its last session.
func (m *Machine) hear(s *session, key protocol.Stream, top hlc.Stamp) {
	st := m.streams[key]
	if st == nil {
		return
	}
	at := m.now
	if !s.greeted {
		at = s.peer.left
	}
	st.heard.note(max(st.known, st.applied.Top()), top, at)
	st.known = max(st.known, top)
}

func (s *session) ready() bool { return s.hello != nil && s.peer.session == s }

func (m *Machine) peerUp(e PeerUp) {
	p := m.peers[e.Peer]
	if p != nil && e.Dialed {
		p.dialing = false
	}
	if p == nil || p.member.Retired {
		m.act(Send{Session: e.Session, Message: &protocol.Error{
			Code: sdk.CodeDenied, Message: "this device is not a member of the library, or has been retired", Retryable: true,
		}})
		m.act(Close{Session: e.Session, Reason: "not a member"})
		return
	}
	s := &session{
		id: e.Session, peer: p, dialed: e.Dialed, via: e.Via, address: e.Address, up: m.now, heard: m.now, beatAt: m.now.Add(m.config.Heartbeat),
		vector: map[protocol.Stream]protocol.Heads{}, unsent: map[*stream]struct{}{}, told: map[protocol.EpochID]bool{}, explained: map[protocol.EpochID]bool{},
		pruned: map[protocol.Stream]bool{}, gossipAt: m.now.Add(m.config.GossipTime),
		subs: map[protocol.Stream]*subscription{}, holds: map[protocol.Stream]string{}, heldFor: map[protocol.Stream]sdk.Code{},
	}
	if n := len(m.streamList); n > m.limits.Marks {
		m.refuseOver(s, "marks", fmt.Sprintf("this device knows of %d streams, two for each member, and a session carries %d at most; raise limits.marks on all devices", n, m.limits.Marks), true)
		return
	}
	for i := range s.windows {
		s.windows[i] = window{size: m.limits.WindowBytes, page: m.limits.PageBytes}
	}
	m.sessions[s.id] = s
	m.sessionList = append(m.sessionList, s)
	slices.SortFunc(m.sessionList, func(a, b *session) int { return cmp.Compare(a.id, b.id) })
	m.send(s, &protocol.Hello{
		MinVersion: protocol.MinVersion, MaxVersion: protocol.MaxVersion, Library: m.self.Library, Device: m.self.Device,
		Name: m.self.Name, Epoch: m.self.Epoch, Clock: m.now, Models: m.models, Vector: m.Vector(),
	})
	m.noteState(p)
}

func (m *Machine) peerDown(e PeerDown) {
	s := m.sessions[e.Session]
	if s == nil {
		return
	}
	reason := "the connection ended"
	if e.Err != nil {
		reason = e.Err.Error()
	}
	m.forget(s, reason)
}

// end closes a session for a reason of ours.
func (m *Machine) end(s *session, reason string) {
	m.act(Close{Session: s.id, Reason: reason})
	m.forget(s, reason)
}

// refuse tells the peer why and ends the session.
func (m *Machine) refuse(s *session, code sdk.Code, message string, retryable bool) {
	m.send(s, &protocol.Error{Code: code, Message: message, Retryable: retryable})
	m.log(hclog.Warn, "session refused", "peer", s.peer.String(), "reason", message)
	m.end(s, message)
}

// refuseOver refuses a session whose peer sends what is over a limit, and counts that by the limit's setting.
func (m *Machine) refuseOver(s *session, limit protocol.Over, message string, retryable bool) {
	m.over[string(limit)]++
	m.refuse(s, sdk.CodeTooLarge, fmt.Sprintf("%s: %s", message, limit), retryable)
}

// leave ends a session whose transport goes, and has the peer connect again at once; so does this device.
func (m *Machine) leave(s *session) {
	const reason = "the transport of this session is being replaced; connect again"
	if s.hello != nil {
		m.send(s, &protocol.Error{Code: sdk.CodeUnavailable, Message: reason, Retryable: true})
	}
	m.end(s, reason)
	m.returnSoon(s)
}

// returnSoon dials the peer of a session that has ended by agreement: at once, unless it was so short that this may go on
// for ever.
func (m *Machine) returnSoon(s *session) {
	p := s.peer
	if p.session != nil {
		return
	}
	p.failures = 0
	p.retryAt = m.now
	if m.now.Sub(s.up) < m.config.RetryMin {
		p.retryAt = m.now.Add(m.backoff(0, m.config.RetryMin, m.config.RetryMax))
	}
	m.dialIfDue(p)
}

// forget drops all that depends on a session.
func (m *Machine) forget(s *session, reason string) {
	delete(m.sessions, s.id)
	m.sessionList = slices.DeleteFunc(m.sessionList, func(other *session) bool { return other == s })
	p := s.peer
	used := p.session == s
	if used {
		p.session, p.left = nil, m.now
	}
	if p.session == nil {
		p.lastErr = reason
		if m.now.Sub(s.up) >= settledAfter*m.config.Heartbeat && used {
			p.failures = 0
		}
		p.retryAt = m.now.Add(m.backoff(p.failures, m.config.RetryMin, m.config.RetryMax))
		p.failures++
	}
	if used {
		m.log(hclog.Info, "peer disconnected", "peer", p.String(), "reason", reason)
		for _, st := range m.streamList {
			if st.upstream == s {
				m.detach(st)
			}
		}
		for key := range s.vector {
			m.acks.touch(key)
		}
		m.leaveAudit(s)
		m.leaveSnapshots(s)
		m.routeAll()
	}
	m.noteState(p)
}

func (m *Machine) dialFailed(e DialFailed) {
	p := m.peers[e.Peer]
	if p == nil || !p.dialing {
		return
	}
	p.dialing = false
	m.tally.peer(p.id).DialFailures++
	if e.Err != nil {
		p.lastErr = e.Err.Error()
	}
	p.retryAt = m.now.Add(m.backoff(p.failures, m.config.RetryMin, m.config.RetryMax))
	p.failures++
	m.noteState(p)
}

func (m *Machine) dialIfDue(p *peer) {
	if p.session != nil || p.dialing || p.member.Retired || len(p.member.Addresses) == 0 || m.now.Before(p.retryAt) || m.handshaking(p) {
		return
	}
	p.dialing = true
	m.act(Dial{Peer: p.id, Addresses: p.member.Addresses})
}

func (m *Machine) handshaking(p *peer) bool {
	return slices.ContainsFunc(m.sessionList, func(s *session) bool { return s.peer == p })
}

func (m *Machine) received(e Received) {
	s := m.sessions[e.Session]
	if s == nil {
		return
	}
	s.heard = m.now
	if hello, ok := e.Message.(*protocol.Hello); ok {
		m.hello(s, hello)
		return
	}
	if refusal, ok := e.Message.(*protocol.Error); ok {
		m.refused(s, refusal)
		return
	}
	if !s.ready() {
		m.refuse(s, sdk.CodeInvalid, fmt.Sprintf("%s before Hello", e.Message.Type()), false)
		return
	}
	if d, ok := protocol.DeliveryOf(e.Message); ok {
		m.delivery(s, d)
		return
	}
	if r, kind, ok := protocol.RequestOf(e.Message); ok {
		m.request(s, r, kind)
		return
	}
	switch msg := e.Message.(type) {
	case *protocol.AckSharedChanges:
		m.learn(s, msg.Vector)
	case *protocol.Heartbeat:
		m.heartbeat(s, msg)
	case *protocol.Epochs:
		m.learnEpochs(s, msg.Epochs)
	case *protocol.SnapshotRequest:
		m.snapshotRequest(s, msg)
	case *protocol.SnapshotPage:
		m.snapshotPage(s, msg)
	case *protocol.AuditRequest:
		m.auditRequest(s, msg)
	case *protocol.AuditResponse:
		m.auditResponse(s, msg)
	case *protocol.AuditRepair:
		m.auditRepair(s, msg)
	default:
		m.refuse(s, sdk.CodeInvalid, fmt.Sprintf("%s has no place in a session", e.Message.Type()), false)
	}
}

func (m *Machine) hello(s *session, h *protocol.Hello) {
	switch {
	case s.hello != nil:
		m.refuse(s, sdk.CodeInvalid, "a second Hello", false)
		return
	case h.Library != m.self.Library:
		m.refuse(s, sdk.CodeDenied, fmt.Sprintf("this device belongs to library %s (%q), the peer to library %s",
			m.self.Library, m.self.LibraryName, h.Library), false)
		return
	case h.Device != s.peer.id:
		m.refuse(s, sdk.CodeDenied, fmt.Sprintf("the connection's key is that of device %s, its Hello names %s", s.peer.id, h.Device), false)
		return
	case h.MaxVersion < protocol.MinVersion || h.MinVersion > protocol.MaxVersion:
		m.refuse(s, sdk.CodeUnsupported, fmt.Sprintf("this device speaks protocol %d to %d, the peer %d to %d; upgrade the older one",
			protocol.MinVersion, protocol.MaxVersion, h.MinVersion, h.MaxVersion), false)
		return
	}
	if !m.prefer(s, h) {
		m.end(s, "another session with this peer is in use")
		return
	}
	s.hello = h
	m.noteStart(s.peer, h.Epoch)
	if old := s.peer.session; old != nil {
		s.peer.session = s
		m.replace(old, s)
	}
	p := s.peer
	p.session, p.lastErr, p.refuses = s, "", false
	m.tally.peer(p.id).Sessions++
	if h.Name != "" && p.member.Name == "" {
		p.member.Name = h.Name
	}
	vector := headsOf(h.Vector)
	for _, has := range vector {
		m.noteAll(s, has.Stream, has.heads)
		m.tellKnown(s, has.heads)
		m.explain(s, has.heads)
	}
	s.greeted = true
	m.acks.replace(p.id, s.vector, s.id) // what it has now counts: it may have been restored from an older copy
	m.act(Acknowledged{Peer: p.id, Heads: m.acks.of[p.id].heads(), All: true})
	m.meet(vector)
	s.peerClock, s.peerClockAt = h.Clock, m.now
	s.skew = h.Clock.Sub(m.now)
	m.log(hclog.Info, "peer connected", "peer", p.String(), "via", s.via, "address", s.address, "dialed", s.dialed)
	m.warnIfAhead(s)
	m.tellAll(s)
	m.sendHeartbeat(s)
	m.routeAll()
	for _, st := range m.streamList {
		st.unsure = true
	}
	m.noteState(p)
}

// prefer decides between the session in use and one whose Hello has just come. Both sides decide alike: of two that
// were dialled at about the same time from both sides, the one of the smaller device stays; else the newer one, since
// a peer dials only when it has lost the older.
func (m *Machine) prefer(s *session, h *protocol.Hello) bool {
	old := s.peer.session
	if old == nil {
		return true
	}
	if old.hello.Epoch != h.Epoch {
		// A restarted device must not wait until its lost session is noticed. Two copies that run take turns.
		return !m.runsTwice(s.peer) || m.now.Sub(old.up) > m.config.StallTime
	}
	if old.dialed == s.dialed || m.now.Sub(old.up) > m.limits.HandshakeTime {
		return true
	}
	smallerDialed := s.dialed == (m.self.Device.Compare(s.peer.id) < 0)
	return smallerDialed
}

// replace ends a session whose place another of the same peer has taken.
func (m *Machine) replace(old, s *session) {
	for _, st := range m.streamList {
		if st.upstream == old {
			m.detach(st)
		}
	}
	for key := range old.vector {
		m.acks.touch(key)
	}
	m.leaveAudit(old)
	m.leaveSnapshots(old)
	delete(m.sessions, old.id)
	m.sessionList = slices.DeleteFunc(m.sessionList, func(other *session) bool { return other == old })
	m.act(Close{Session: old.id, Reason: "another session with this peer is in use"})
	s.rowsIn, s.rowsOut = s.rowsIn+old.rowsIn, s.rowsOut+old.rowsOut
}

// warnIfAhead tells the operator that a peer has more of this device's own history than this device.
func (m *Machine) warnIfAhead(s *session) {
	for _, kind := range kinds {
		key := protocol.Stream{Origin: m.self.Device, Kind: kind}
		if theirs, mine := s.vector[key], m.streams[key].applied; !m.graph.CoversAll(mine, theirs) {
			m.log(hclog.Warn, "a peer has changes of this device that this device lacks, as after its data was restored from an older copy; they are fetched",
				"peer", s.peer.String(), "kind", kind, "peer_has", fmt.Sprint(theirs), "here", fmt.Sprint(mine))
		}
	}
}

func (m *Machine) refused(s *session, e *protocol.Error) {
	if !e.Stream.Origin.IsZero() {
		if e.Code == sdk.CodePruned {
			m.belowFloor(s, e.Stream)
			return
		}
		if s.subs[e.Stream] == nil || len(s.holds) >= m.limits.Marks {
			return // nothing of that stream was being sent
		}
		s.holds[e.Stream] = e.Message
		level := hclog.Warn
		if s.heldFor[e.Stream] == e.Code {
			level = hclog.Debug // it tried again, in vain
		} else if len(s.heldFor) < m.limits.Marks {
			s.heldFor[e.Stream] = e.Code
		}
		m.log(level, "peer holds a stream", "peer", s.peer.String(), "origin", e.Stream.Origin.String(), "kind", e.Stream.Kind,
			"code", e.Code, "reason", e.Message)
		m.cancel(s, e.Stream)
		m.noteState(s.peer)
		return
	}
	if e.Code == sdk.CodeUnavailable && e.Retryable {
		m.log(hclog.Info, "peer ends the session to begin another", "peer", s.peer.String(), "reason", e.Message)
		m.end(s, fmt.Sprintf("%s: %s", s.peer, e.Message))
		m.returnSoon(s)
		return
	}
	s.peer.refuses = e.Code == sdk.CodeDenied
	m.log(hclog.Warn, "peer refused the session", "peer", s.peer.String(), "code", e.Code, "reason", e.Message)
	m.end(s, fmt.Sprintf("%s refuses: %s", s.peer, e.Message))
}

func (m *Machine) heartbeat(s *session, h *protocol.Heartbeat) {
	s.peerClock, s.peerClockAt = h.Clock, m.now
	if !h.Echo.IsZero() {
		if rtt := m.now.Sub(h.Echo) - h.EchoDelay; rtt >= 0 && rtt < time.Hour {
			s.rtt = max(rtt, time.Microsecond)
			m.tally.rtt(s.via, s.rtt)
		}
	}
	s.skew = h.Clock.Add(s.rtt / 2).Sub(m.now)
	m.learn(s, h.Vector)
	m.learnKnown(s, h.Known)
}

func (m *Machine) sendHeartbeat(s *session) {
	beat := &protocol.Heartbeat{Clock: m.now, Vector: m.takeUnsent(s, m.limits.Marks)}
	beat.Known = m.takeKnown(s, m.limits.Marks-len(beat.Vector))
	if !s.peerClock.IsZero() {
		beat.Echo, beat.EchoDelay = s.peerClock, max(0, m.now.Sub(s.peerClockAt))
	}
	s.beatAt = m.now.Add(m.config.Heartbeat)
	m.send(s, beat)
}

func (m *Machine) tickSession(s *session) {
	switch {
	case s.hello == nil && m.now.Sub(s.up) > m.limits.HandshakeTime:
		m.over["handshake_time"]++
		m.end(s, "no Hello in time")
	case m.now.Sub(s.heard) > missedBeats*m.config.Heartbeat:
		m.end(s, fmt.Sprintf("silent for %s", m.now.Sub(s.heard).Round(time.Second)))
	case s.ready():
		if !m.now.Before(s.beatAt) {
			clear(s.explained)
			m.sendHeartbeat(s)
		}
		m.retryReads(s)
		m.retryRanges(s)
		m.tickAudit(s)
	}
}

// learn takes in how far a peer is: that frees the window, and may show that it is ahead.
func (m *Machine) learn(s *session, marks []protocol.Mark) {
	if len(marks) == 0 {
		return
	}
	vector := headsOf(marks)
	m.meet(vector)
	moved := make(map[protocol.Stream]protocol.Heads, len(vector))
	for _, has := range vector {
		if len(s.holds)+len(s.heldFor) > 0 && !m.graph.CoversAll(s.vector[has.Stream], has.heads) {
			delete(s.holds, has.Stream)
			delete(s.heldFor, has.Stream)
		}
		m.noteAll(s, has.Stream, has.heads)
		m.explain(s, has.heads)
		if m.acknowledged(s.peer.id, has.Stream, s.vector[has.Stream], s) {
			moved[has.Stream] = s.vector[has.Stream]
		}
		if sub := s.subs[has.Stream]; sub != nil {
			m.acknowledge(sub, s.window(has.Kind), has.heads)
		}
		if st := m.streams[has.Stream]; st != nil {
			m.noticeAhead(st, s)
		}
	}
	if len(moved) > 0 {
		m.act(Acknowledged{Peer: s.peer.id, Heads: moved})
	}
	m.serveLagging(s)
}
