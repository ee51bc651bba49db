package peersync

import (
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/sdk"
)

// gossipMembers is how many members a library may have for what each acknowledged to be passed on: it grows with the
// square of them. In a larger one a device learns of acknowledgements from those it meets, and retention bounds the rest.
const gossipMembers = 128

// acks is what other devices have durably applied, as far as this device knows, and what follows from it.
//
// HAZARD: what is forgotten because of a false acknowledgement is not lost: who still needs it gets a snapshot.
type acks struct {
	of      map[sdk.DeviceID]acknowledged
	secret  bool                         // some were not passed on, since they name an epoch that this device does not know
	version uint64                       // counts changes
	moved   bool                         // something has, so that more may be forgotten than at the last look
	touched map[protocol.Stream]struct{} // streams of which something has changed that a look depends on
	anew    bool                         // likewise, of all streams
	lookAt  time.Time                    // next look at what may be forgotten
	pruning *Prune                       // under way; nil: none
	shadow  hlc.Stamp                    // up to where shadows were last forgotten

	retained map[protocol.Stream]hlc.Stamp // floors that rose while a Prune was under way

	// early is what was told of devices that are not members here yet, as where their record is still to come. Who told it does
	// not say it again.
	early map[sdk.DeviceID]map[protocol.Stream]protocol.Heads

	changed hlc.Stamp // the latest shared change of another device that was applied here
	sealing bool      // a Seal is under way
	sealAt  time.Time // not before; zero: not decided yet
}

// acknowledged is what one device has.
type acknowledged map[protocol.Stream]acknowledgement

type acknowledgement struct {
	heads   protocol.Heads
	version uint64    // of acks when it last changed
	from    SessionID // which told of it
}

func newAcks() acks {
	return acks{of: map[sdk.DeviceID]acknowledged{}, early: map[sdk.DeviceID]map[protocol.Stream]protocol.Heads{}, touched: map[protocol.Stream]struct{}{}, moved: true, anew: true}
}

// touch has a stream looked at again: who has it up to where, or what is known of its epochs, has changed.
func (a *acks) touch(key protocol.Stream) {
	if !a.anew {
		a.touched[key] = struct{}{}
	}
}

func (a acknowledged) heads() map[protocol.Stream]protocol.Heads {
	all := make(map[protocol.Stream]protocol.Heads, len(a))
	for key, ack := range a {
		all[key] = ack.heads
	}
	return all
}

func (a *acks) get(device sdk.DeviceID, key protocol.Stream) protocol.Heads {
	return a.of[device][key].heads
}

func (a *acks) put(device sdk.DeviceID, key protocol.Stream, heads protocol.Heads, from SessionID) {
	if a.of[device] == nil {
		a.of[device] = acknowledged{}
	}
	a.version++
	a.of[device][key] = acknowledgement{heads: heads, version: a.version, from: from}
	a.moved = true
	a.touch(key)
}

// replace makes vector all that a device has. What stands already is no news.
func (a *acks) replace(device sdk.DeviceID, vector map[protocol.Stream]protocol.Heads, from SessionID) {
	old := a.of[device]
	a.of[device] = make(acknowledged, len(vector))
	for _, key := range slices.SortedFunc(maps.Keys(vector), protocol.Stream.Compare) {
		heads := vector[key]
		if ack, known := old[key]; known && ack.heads.Equal(heads) {
			a.of[device][key] = ack
		} else {
			a.put(device, key, heads, from)
		}
	}
	for key := range old {
		if _, has := vector[key]; !has {
			a.touch(key)
		}
	}
	a.moved = true
}

func (a *acks) forget(device sdk.DeviceID) {
	delete(a.of, device)
	a.moved, a.anew = true, true
}

// noteChange takes in that a page of another device has brought changes.
func (a *acks) noteChange(key protocol.Stream, through hlc.Stamp) {
	if key.Kind == sdk.SharedByAll {
		a.changed = max(a.changed, through)
	}
}

// acknowledged takes in that a device has a stream up to heads, and reports whether that is news.
func (m *Machine) acknowledged(device sdk.DeviceID, key protocol.Stream, heads protocol.Heads, from *session) bool {
	old, known := m.acks.of[device][key]
	if !known && len(m.acks.of[device]) >= m.limits.Marks {
		return false
	}
	if device != from.peer.id { // who is asked itself says all that it has
		heads = m.graph.Join(old.heads, heads)
	}
	if heads.Equal(old.heads) || len(heads) > m.limits.Heads {
		return false
	}
	m.acks.put(device, key, heads, from.id)
	return true
}

// learnKnown takes in what a peer says of third devices. Who is connected speaks for itself.
func (m *Machine) learnKnown(s *session, known []protocol.Known) {
	for _, k := range known {
		p := m.peers[k.Device]
		if p == nil && k.Device != m.self.Device {
			m.learnEarly(k)
		}
		if p == nil || p.member.Retired || p.session != nil {
			continue
		}
		moved := make(map[protocol.Stream]protocol.Heads)
		for _, has := range headsOf(k.Vector) {
			if m.acknowledged(k.Device, has.Stream, has.heads, s) {
				moved[has.Stream] = m.acks.get(k.Device, has.Stream)
			}
		}
		if len(moved) > 0 {
			m.act(Acknowledged{Peer: k.Device, Heads: moved})
		}
	}
}

// learnEarly keeps what is told of a device that is not a member here yet: as many marks in all as one device may have.
func (m *Machine) learnEarly(k protocol.Known) {
	marks := 0
	for _, of := range m.acks.early {
		marks += len(of)
	}
	of := m.acks.early[k.Device]
	for _, has := range headsOf(k.Vector) {
		old, known := of[has.Stream]
		if heads := m.graph.Join(old, has.heads); len(heads) <= m.limits.Heads && (known || marks < m.limits.Marks) {
			if of == nil {
				of = map[protocol.Stream]protocol.Heads{}
				m.acks.early[k.Device] = of
			}
			of[has.Stream] = heads
			marks++
		}
	}
}

// takeEarly takes in what was told of a device before it was a member here.
func (m *Machine) takeEarly(device sdk.DeviceID) {
	of := m.acks.early[device]
	delete(m.acks.early, device)
	for _, key := range slices.SortedFunc(maps.Keys(of), protocol.Stream.Compare) {
		of[key] = m.graph.Join(m.acks.get(device, key), of[key])
		m.acks.put(device, key, of[key], SessionID(0))
	}
	if len(of) > 0 {
		m.act(Acknowledged{Peer: device, Heads: of})
	}
}

// takeKnown returns what third devices have acknowledged since the peer was last told, oldest news first, about limit marks
// at most; nothing until the next turn of gossip.
func (m *Machine) takeKnown(s *session, limit int) []protocol.Known {
	if m.now.Before(s.gossipAt) || s.gossip == m.acks.version || len(m.peers) > gossipMembers {
		return nil
	}
	s.gossipAt = m.now.Add(m.config.GossipTime)
	type news struct {
		device sdk.DeviceID
		key    protocol.Stream
		acknowledgement
	}
	var list []news
	for device, of := range m.acks.of {
		if p := m.peers[device]; p == nil || p == s.peer || p.member.Retired {
			continue
		}
		for key, ack := range of {
			if ack.version <= s.gossip || ack.from == s.id {
				continue
			}
			if !m.knowsAll(ack.heads) { // the receiver could not place it either: it says nothing
				m.acks.secret = true
				continue
			}
			list = append(list, news{device, key, ack})
		}
	}
	slices.SortFunc(list, func(a, b news) int { return int(a.version) - int(b.version) }) //nolint:gosec // counted up from one
	var known []protocol.Known
	var heads []protocol.Heads
	at := make(map[sdk.DeviceID]int)
	s.gossip = m.acks.version
	for i := range list {
		n := &list[i]
		if limit -= len(n.heads); limit < 0 || len(known) == m.limits.Origins {
			s.gossip = n.version - 1
			break
		}
		if _, ok := at[n.device]; !ok {
			at[n.device] = len(known)
			known = append(known, protocol.Known{Device: n.device})
		}
		heads = append(heads, n.heads)
		k := &known[at[n.device]]
		k.Vector = appendMarks(k.Vector, n.key, n.heads)
	}
	m.tell(s, heads...)
	return known
}

// tellSecrets has acknowledgements passed on that name an epoch of these, which this device has learned of since.
func (m *Machine) tellSecrets(learned []protocol.Epoch) {
	if !m.acks.secret {
		return
	}
	for _, device := range slices.SortedFunc(maps.Keys(m.acks.of), sdk.DeviceID.Compare) {
		of := m.acks.of[device]
		var named []protocol.Stream
		for key, ack := range of {
			if slices.ContainsFunc(learned, func(e protocol.Epoch) bool { _, in := ack.heads.In(e.ID); return in }) {
				named = append(named, key)
			}
		}
		slices.SortFunc(named, protocol.Stream.Compare)
		for _, key := range named {
			m.acks.put(device, key, of[key].heads, of[key].from)
		}
	}
}

// tickAcks does what follows from acknowledgements, in its time: forgets what nobody needs, and closes a stamp.
func (m *Machine) tickAcks() {
	if m.acks.lookAt.IsZero() {
		m.acks.lookAt = m.now.Add(m.config.PruneTime) // peers come first
	}
	if m.acks.pruning == nil && m.acks.moved && !m.now.Before(m.acks.lookAt) && !m.repairing() {
		m.acks.lookAt, m.acks.moved = m.now.Add(m.config.PruneTime), false
		m.prune(nil)
	}
	m.sealIfDue()
}

// sealIfDue closes a stamp where this device is idle and others have written since it last gave one.
func (m *Machine) sealIfDue() {
	if m.acks.sealAt.IsZero() || m.acks.sealAt.Sub(m.now) > m.config.SealTime { // or the wall clock was put back
		m.acks.sealAt = m.nextSeal()
	}
	if m.acks.sealing || m.now.Before(m.acks.sealAt) {
		return
	}
	own := m.streams[protocol.Stream{Origin: m.self.Device, Kind: sdk.SharedByAll}]
	switch {
	case m.acks.changed <= own.applied.Top():
		m.acks.sealAt = m.nextSeal()
	case m.isWhole():
		m.acks.sealing, m.acks.sealAt = true, m.nextSeal()
		m.act(Seal{})
	}
}

// nextSeal returns when a stamp is to be closed next. Each device has its own time within SealTime, so that those which hear of
// a change do not all close one at once.
func (m *Machine) nextSeal() time.Time {
	every := max(m.config.SealTime, 1)
	sum := sha256.Sum256(m.self.Device[:])
	phase := time.Duration(binary.BigEndian.Uint64(sum[:]) % uint64(every)) //nolint:gosec // both are positive
	passed := (time.Duration(m.now.UnixNano())%every - phase + every) % every
	return m.now.Add(every - passed)
}

// repairing reports whether records are on their way to repair what an audit found. What is forgotten meanwhile could come
// back with them.
func (m *Machine) repairing() bool {
	return slices.ContainsFunc(m.sessionList, func(s *session) bool { return s.audit.asked != 0 || s.audit.taking || len(s.audit.repairs) > 0 })
}

// isWhole reports whether this device is connected, and lacks nothing that it has written: what a restored device closes
// before that is a branch.
func (m *Machine) isWhole() bool {
	return slices.ContainsFunc(m.sessionList, (*session).ready) && !m.Lost()
}

// enrolled returns the members that are not retired, this device left out.
func (m *Machine) enrolled() []*peer {
	return slices.DeleteFunc(slices.Clone(m.peerOrder), func(p *peer) bool { return p.member.Retired })
}

// prune decides what may be forgotten: up to where every enrolled device has acknowledged a stream, or what is older than
// the retention time or below the floors asked for. From now on the floors hold: who asks for less gets a snapshot.
func (m *Machine) prune(asked map[protocol.Stream]hlc.Stamp) {
	m.look()
	floors := make(map[protocol.Stream]hlc.Stamp)
	shadow, newest := hlc.MaxStamp, hlc.Stamp(0)
	for _, st := range m.streamList {
		newest = max(newest, st.applied.Top())
	}
	now := hlc.New(max(0, m.now.UnixMilli()), 0)
	newest = min(newest, now) // a stamp of the future, be it an own one, ages nothing
	for _, st := range m.streamList {
		low := st.stable
		if low > now { // an epoch that begins in the future was opened with a wrong clock, and its stamps will be taken back
			low, m.acks.moved = now, true // the next look finds the rest
		}
		if st.Kind == sdk.SharedByAll && (m.writes(st.Origin) || low < st.latest) {
			shadow = min(shadow, low)
		}
		if m.config.RetentionAge > 0 { // counted back from the latest change, so that where nothing changes nothing is forgotten
			low = max(low, hlc.New(max(0, newest.Millis()-m.config.RetentionAge.Milliseconds()), 0))
		}
		switch low = min(max(low, asked[st.Stream]), st.applied.Top()); {
		case low > max(st.floor, st.forgot):
			floors[st.Stream] = low
		case st.floor > st.kept:
			floors[st.Stream] = st.floor
		}
		st.pending = max(st.pending, floors[st.Stream])
	}
	epochs, snapshots := m.oldEpochs(), m.snapshotsGone()
	if len(floors)+len(epochs)+len(snapshots) > 0 || shadow > m.acks.shadow {
		m.acks.pruning = &Prune{Floors: floors, Shadow: shadow, Epochs: epochs, Snapshots: snapshots}
		m.act(*m.acks.pruning)
	}
}

// look brings up to date what follows for each stream from what everybody has. That costs something for each member and for each
// stream of which something has changed, and next to nothing for the others.
func (m *Machine) look() {
	enrolled := m.enrolled()
	for _, st := range m.streamList {
		if _, touched := m.acks.touched[st.Stream]; !touched && !m.acks.anew && st.looked {
			continue
		}
		low, all := m.stable(st, enrolled)
		st.looked, st.stable, st.latest, st.needs = true, low, all.Top(), m.neededOf(st, enrolled)
	}
	clear(m.acks.touched)
	m.acks.anew = false
}

// writes reports whether a device may still give stamps: it is this one, or an enrolled one.
func (m *Machine) writes(id sdk.DeviceID) bool {
	p := m.peers[id]
	return id == m.self.Device || p != nil && !p.member.Retired
}

// stable returns up to where all enrolled devices have a stream, and what any of them has. What a device that has never been met has is
// not known.
func (m *Machine) stable(st *stream, enrolled []*peer) (low hlc.Stamp, all protocol.Heads) {
	all = st.applied
	for _, p := range enrolled {
		all = m.graph.Join(all, m.acks.get(p.id, st.Stream))
	}
	low = m.graph.Low(st.applied, all)
	for _, p := range enrolled {
		low = min(low, m.graph.Low(m.acks.get(p.id, st.Stream), all))
	}
	return low, all
}

func (m *Machine) pruned(e Pruned) {
	done := m.acks.pruning
	m.acks.pruning = nil
	if done == nil {
		return
	}
	if asked := m.acks.retained; asked != nil {
		m.acks.retained = nil
		defer func() { m.prune(asked) }()
	}
	if e.Err != nil {
		m.acks.moved = true // forget it at the next look
		m.log(hclog.Warn, "what nobody needs any more could not be forgotten; it is tried again", "error", e.Err)
		return
	}
	m.acks.shadow = done.Shadow
	m.epochsForgotten(done.Epochs)
	for key, asked := range done.Floors {
		st, floor := m.streams[key], asked
		if e.Floors != nil {
			floor = e.Floors[key]
		}
		st.floor, st.kept, st.forgot, st.pending = max(st.floor, floor), max(st.kept, floor), max(st.forgot, asked), 0
	}
	m.snapshotsForgotten(done.Snapshots)
}

// retain raises floors although somebody may still need what lies below, since the log has reached its limit.
func (m *Machine) retain(e Retain) {
	if m.acks.pruning != nil {
		if m.acks.retained == nil {
			m.acks.retained = map[protocol.Stream]hlc.Stamp{}
		}
		maps.Copy(m.acks.retained, e.Floors) // those that come later are greater
		return
	}
	m.prune(e.Floors)
}

// AcknowledgedBy returns what a device is known to have.
func (m *Machine) AcknowledgedBy(device sdk.DeviceID) map[protocol.Stream]protocol.Heads {
	return m.acks.of[device].heads()
}
