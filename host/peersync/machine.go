// Package peersync keeps this device's streams in step with its peers'.
//
// Machine decides: a pure state machine of events and actions, without goroutine, clock, randomness or I/O of its
// own. The same events in the same order always give the same actions. Engine acts: it runs the connections, calls
// the Applier and the Reader, and feeds the machine.
//
// It promises that a page is applied only where it continues what was applied before (no gap), that nothing is
// acknowledged before the Applier says that it is durable, that each origin has one upstream at a time, and that a
// slow, dead or hostile peer costs bounded memory and delays nobody else. It leaves to others what the changes mean
// (Applier), where they are stored (Reader) and who is a member (membership).
//
// Where what follows stands: pull.go takes pages in, serve.go sends them, epochs.go follows histories that branch,
// acks.go knows what everybody has and what may be forgotten, snapshot.go brings who is below the floor back, audit.go
// compares what should be equal.
package peersync

import (
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/starling-sync/starling/host/history"
	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/sdk"
)

// Machine decides what to say to which peer, what to apply and what to read. It is not safe for use at once.
type Machine struct {
	self   Self
	config Config
	limits protocol.Limits
	rand   *rand.Rand
	models []protocol.ModelVersion

	peers       map[sdk.DeviceID]*peer // every member but this device
	peerOrder   []*peer                // ascending by id
	sessions    map[SessionID]*session
	sessionList []*session // ascending by id
	streams     map[protocol.Stream]*stream
	streamList  []*stream // ascending

	graph      history.Graph                   // of all streams
	known      map[protocol.EpochID]epochState // the epochs in graph
	unstored   int                             // how many of them the store does not have
	epochsKept int
	twiceAt    time.Time // another running copy of this device last showed itself; zero: never
	acks       acks
	snapshots  []*snapshot      // ascending by scope
	over       map[string]int64 // what peers sent over a limit, by the limit's setting
	repairs    int              // records that audits have repaired
	tally      tally            // for machines to watch

	now     time.Time // of the present Step
	actions []Action
}

// MachineOptions is what a Machine needs: the parts of Options that decide.
type MachineOptions struct {
	Self    Self
	Models  []protocol.ModelVersion
	Stored  Stored
	Members []Member
	Limits  protocol.Limits
	Config  Config
	Rand    *rand.Rand
}

// NewMachine returns a machine with the watermarks and members given.
func NewMachine(o MachineOptions) *Machine {
	m := &Machine{
		self: o.Self, config: o.Config, limits: o.Limits, rand: o.Rand, models: o.Models,
		peers: map[sdk.DeviceID]*peer{}, sessions: map[SessionID]*session{}, streams: map[protocol.Stream]*stream{},
		known: map[protocol.EpochID]epochState{}, epochsKept: epochsKept, acks: newAcks(), over: map[string]int64{}, tally: newTally(),
	}
	for _, kind := range kinds {
		m.ensureStream(protocol.Stream{Origin: o.Self.Device, Kind: kind})
	}
	m.markStored(o.Stored.Epochs)
	for key, heads := range o.Stored.Heads {
		st := m.ensureStream(key)
		st.applied, st.given, st.tail = heads, heads, heads
		if key.Kind == sdk.SharedByAll && key.Origin != o.Self.Device {
			m.acks.changed = max(m.acks.changed, heads.Top()) // it may have been a change
		}
	}
	for key, floor := range o.Stored.Floors {
		st := m.ensureStream(key)
		st.floor, st.kept = floor, floor
	}
	for _, st := range m.streamList {
		if st.floor == 0 && st.Kind == sdk.DeviceOwned && st.Origin != o.Self.Device {
			st.floor = st.applied.Top() // the process may have ended before the floor that came with the first page was stored
		}
	}
	for _, device := range slices.SortedFunc(maps.Keys(o.Stored.Acknowledged), sdk.DeviceID.Compare) {
		m.acks.replace(device, o.Stored.Acknowledged[device], 0)
	}
	for _, s := range o.Stored.Snapshots {
		m.ensureSnapshot(s.Scope).resume(s)
	}
	m.setMembers(o.Members)
	return m
}

// Step takes one event that happened at now (the wall clock) and returns what to do, in order. The slice is valid
// until the next Step.
func (m *Machine) Step(now time.Time, event Event) []Action {
	m.now = now
	clear(m.actions)
	m.actions = m.actions[:0]
	switch e := event.(type) {
	case PeerUp:
		m.peerUp(e)
	case PeerDown:
		m.peerDown(e)
	case Received:
		m.received(e)
	case Heard:
		if s := m.sessions[e.Session]; s != nil {
			s.heard = m.now
		}
	case Committed:
		m.markStored(e.Page.Epochs)
		m.advance(m.ensureStream(e.Page.Stream), e.Page.Heads, &e.Page)
	case Advanced:
		m.markStored(e.Opened)
		m.advance(m.ensureStream(e.Mark.Stream), history.At(e.Mark.Epoch, e.Mark.Stamp), nil)
	case RangeRead:
		m.rangeRead(e)
	case RangeTaken:
		m.rangeTaken(e)
	case Digested:
		m.digested(e)
	case Pruned:
		m.pruned(e)
	case Sealed:
		m.acks.sealing = false
		if e.Err != nil {
			m.log(hclog.Warn, "this device could not say that its stream is complete up to now; it is tried again", "error", e.Err)
		}
	case Retain:
		m.retain(e)
	case AuditNow:
		m.auditNow(e.Peer)
	case Applied:
		m.applied(e)
	case PageRead:
		m.pageRead(e)
	case MembersChanged:
		m.setMembers(e.Members)
	case ModelsChanged:
		m.models = e.Models
	case DialFailed:
		m.dialFailed(e)
	case Leave:
		for _, id := range e.Sessions {
			if s := m.sessions[id]; s != nil {
				m.leave(s)
			}
		}
	case Redial:
		for _, p := range m.peerOrder {
			p.failures, p.retryAt = 0, time.Time{}
			m.dialIfDue(p)
		}
	case Tick:
		m.tick()
	}
	m.flush()
	return m.actions
}

// Vector returns the watermarks of every stream that has one, in order.
func (m *Machine) Vector() []protocol.Mark {
	var marks []protocol.Mark
	for _, st := range m.streamList {
		marks = appendMarks(marks, st.Stream, st.applied)
	}
	return marks
}

func appendMarks(marks []protocol.Mark, key protocol.Stream, heads protocol.Heads) []protocol.Mark {
	for _, p := range heads {
		marks = append(marks, protocol.Mark{Stream: key, Position: p})
	}
	return marks
}

// streamHeads is what somebody has of one stream.
type streamHeads struct {
	protocol.Stream
	heads protocol.Heads
}

// headsOf gathers the marks of a vector by stream, in the order of streams.
func headsOf(marks []protocol.Mark) []streamHeads {
	byStream := func(a, b protocol.Mark) int { return a.Compare(b.Stream) }
	if !slices.IsSortedFunc(marks, byStream) {
		marks = slices.Clone(marks)
		slices.SortFunc(marks, byStream)
	}
	list := make([]streamHeads, 0, len(marks))
	for len(marks) > 0 {
		positions := make([]protocol.Position, 0, 1)
		n := 0
		for ; n < len(marks) && marks[n].Stream == marks[0].Stream; n++ {
			positions = append(positions, marks[n].Position)
		}
		heads := protocol.Heads(positions)
		if n > 1 || positions[0].Stamp == 0 {
			heads = history.Normal(positions)
		}
		list = append(list, streamHeads{marks[0].Stream, heads})
		marks = marks[n:]
	}
	return list
}

// kinds are a device's streams in the order in which they are asked for: shared first, since it carries the members
// and must not wait behind a million rows.
var kinds = [...]sdk.Ownership{sdk.SharedByAll, sdk.DeviceOwned}

func kindIndex(k sdk.Ownership) int {
	if k == sdk.SharedByAll {
		return 0
	}
	return 1
}

func (m *Machine) act(a Action) { m.actions = append(m.actions, a) }

func (m *Machine) send(s *session, msg protocol.Message) {
	m.act(Send{Session: s.id, Message: msg})
}

func (m *Machine) log(level hclog.Level, message string, args ...any) {
	m.act(Log{Level: level, Message: message, Args: args})
}

func (m *Machine) ensureStream(key protocol.Stream) *stream {
	st := m.streams[key]
	if st == nil {
		st = &stream{Stream: key}
		m.streams[key] = st
		at, _ := slices.BinarySearchFunc(m.streamList, key, func(a *stream, k protocol.Stream) int { return a.Compare(k) })
		m.streamList = slices.Insert(m.streamList, at, st)
	}
	return st
}

// setMembers replaces the members: sessions of who is no member any more end, streams of new ones are asked for.
func (m *Machine) setMembers(members []Member) {
	present := map[sdk.DeviceID]bool{}
	for _, member := range members {
		if member.ID == m.self.Device {
			continue
		}
		present[member.ID] = true
		p := m.peers[member.ID]
		if p == nil {
			p = &peer{id: member.ID, state: Offline, since: m.now}
			m.peers[member.ID] = p
		}
		if !slices.Equal(p.member.Addresses, member.Addresses) {
			p.failures, p.retryAt = 0, time.Time{}
		}
		p.member = member
		if member.Retired {
			delete(m.acks.early, member.ID)
			m.acks.forget(member.ID)
		} else {
			m.takeEarly(member.ID)
		}
		for _, kind := range kinds {
			m.ensureStream(protocol.Stream{Origin: member.ID, Kind: kind})
		}
	}
	for _, s := range slices.Clone(m.sessionList) {
		if !present[s.peer.id] || s.peer.member.Retired {
			m.refuse(s, sdk.CodeDenied, "this device is not a member of the library, or has been retired", false)
		}
	}
	m.acks.anew = true
	m.peerOrder = m.peerOrder[:0]
	for id, p := range m.peers {
		if !present[id] {
			delete(m.peers, id)
			m.acks.forget(id)
			m.tally.forget(id)
			continue
		}
		m.peerOrder = append(m.peerOrder, p)
	}
	slices.SortFunc(m.peerOrder, func(a, b *peer) int { return a.id.Compare(b.id) })
	m.routeAll()
}

// tick does what is due by time alone.
func (m *Machine) tick() {
	for _, s := range slices.Clone(m.sessionList) {
		m.tickSession(s)
	}
	for _, st := range m.streamList {
		m.tickStream(st)
	}
	for _, sn := range slices.Clone(m.snapshots) {
		m.tickSnapshot(sn)
	}
	m.tickAcks()
	for _, p := range m.peerOrder {
		m.dialIfDue(p)
		m.noteState(p)
	}
}

// flush sends the requests and acknowledgements that the step has gathered.
func (m *Machine) flush() {
	for _, s := range m.sessionList {
		for i, kind := range kinds {
			if r := &s.wants[i]; len(r.Subscribe)+len(r.Drop) > 0 {
				r.PageBytes, r.WindowBytes = m.limits.PageBytes, m.limits.WindowBytes
				m.send(s, protocol.RequestFor(kind, *r))
				s.wants[i] = protocol.Request{}
			}
		}
		if s.ackNow {
			s.ackNow = false
			if marks := m.takeUnsent(s, m.limits.Marks); len(marks) > 0 {
				m.send(s, &protocol.AckSharedChanges{Vector: marks})
			}
		}
	}
}

// takeUnsent returns the marks that have changed since the session was last told, about limit at most, having told the
// peer of the epochs that they name.
func (m *Machine) takeUnsent(s *session, limit int) []protocol.Mark {
	if len(s.unsent) == 0 {
		return nil
	}
	streams := slices.SortedFunc(maps.Keys(s.unsent), func(a, b *stream) int { return a.Compare(b.Stream) })
	var marks []protocol.Mark
	heads := make([]protocol.Heads, 0, len(streams))
	for _, st := range streams {
		if len(marks)+len(st.applied) > limit {
			break
		}
		marks = appendMarks(marks, st.Stream, st.applied)
		heads = append(heads, st.applied)
		delete(s.unsent, st)
	}
	m.tell(s, heads...)
	return marks
}

// backoff returns how long to wait before the attempt after so many failures: doubling, capped, with jitter so that
// devices which lost each other at once do not come back at once.
func (m *Machine) backoff(failures int, least, most time.Duration) time.Duration {
	pause := most
	if failures < 20 {
		pause = min(least<<failures, most)
	}
	return pause/2 + time.Duration(m.rand.Int64N(int64(pause/2)+1))
}
