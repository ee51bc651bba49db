package peersync

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/sdk"
)

// startsKept is how many starts of a peer are remembered: one that comes again after another shows that two copies run.
const startsKept = 8

// twiceFor is how long after a sign of it a device counts as running twice.
const twiceFor = 10 * time.Minute

// epochsKept is how many epochs of a stream are remembered although everybody is past them: a copy of a device from so many
// starts ago can still be placed. One from before them is a branch of which nobody knows where it began.
const epochsKept = 32

// epochState is how an epoch is remembered.
type epochState struct {
	stored bool
	idle   bool // nothing has named it at the last look at what may be forgotten
}

// remember takes in an epoch, and reports whether it was not known.
func (m *Machine) remember(epoch protocol.Epoch) bool {
	if !m.graph.Add(epoch) {
		return false
	}
	m.known[epoch.ID] = epochState{}
	m.unstored++
	m.acks.touch(epoch.Stream)
	return true
}

// markStored takes in epochs that the store has.
func (m *Machine) markStored(epochs []protocol.Epoch) {
	for _, epoch := range epochs {
		m.remember(epoch)
		if !m.known[epoch.ID].stored {
			m.known[epoch.ID] = epochState{stored: true}
			m.unstored--
		}
	}
}

// toStore returns the epochs of the history of heads that the store does not have: with them it places heads as this
// machine does.
func (m *Machine) toStore(heads protocol.Heads) []protocol.Epoch {
	if m.unstored == 0 {
		return nil
	}
	return m.graph.Missing(nil, heads, func(id protocol.EpochID) bool { return m.known[id].stored })
}

// oldEpochs returns the epochs that the store is to forget since everybody is past them, but for the latest of each stream. It
// forgets those that the store never had.
func (m *Machine) oldEpochs() (ids []protocol.EpochID) {
	needed := m.neededEpochs()
	spare := make(map[protocol.Stream][]protocol.Epoch)
	for id, state := range m.known {
		if needed[id] {
			m.known[id] = epochState{stored: state.stored}
			continue
		}
		epoch, _ := m.graph.Epoch(id)
		spare[epoch.Stream] = append(spare[epoch.Stream], epoch)
	}
	for _, epochs := range spare {
		slices.SortFunc(epochs, func(a, b protocol.Epoch) int { // the latest first
			return cmp.Or(cmp.Compare(b.Parents.Top(), a.Parents.Top()), bytes.Compare(a.ID[:], b.ID[:]))
		})
		for _, epoch := range epochs[min(len(epochs), m.epochsKept):] {
			switch state := m.known[epoch.ID]; {
			case state.stored:
				ids = append(ids, epoch.ID)
			case !state.idle: // what names it may be on its way
				m.known[epoch.ID] = epochState{idle: true}
			default:
				m.forgetEpoch(epoch)
			}
		}
	}
	slices.SortFunc(ids, func(a, b protocol.EpochID) int { return bytes.Compare(a[:], b[:]) })
	return ids
}

// epochsForgotten takes in that the store has forgotten epochs. One that is needed after all comes to it again.
func (m *Machine) epochsForgotten(ids []protocol.EpochID) {
	if len(ids) == 0 {
		return
	}
	m.look()
	needed := m.neededEpochs()
	for _, id := range ids {
		m.known[id] = epochState{}
		if m.unstored++; !needed[id] {
			epoch, _ := m.graph.Epoch(id)
			m.forgetEpoch(epoch)
		}
	}
}

// forgetEpoch forgets an epoch that the store does not have.
func (m *Machine) forgetEpoch(epoch protocol.Epoch) {
	m.unstored--
	delete(m.known, epoch.ID)
	m.graph.Remove(epoch.ID)
	m.acks.touch(epoch.Stream)
}

// neededEpochs returns the epochs without which some position that somebody has could not be placed, as of the last look.
func (m *Machine) neededEpochs() map[protocol.EpochID]bool {
	needed := make(map[protocol.EpochID]bool)
	for _, kind := range kinds {
		needed[m.self.Epoch.Of(kind)] = true // it goes on being written in, also where another copy has continued it
	}
	for _, st := range m.streamList {
		for _, id := range st.needs {
			needed[id] = true
		}
	}
	return needed
}

// neededOf returns the epochs in which somebody is with a stream and, where not all are at the same place, those between.
func (m *Machine) neededOf(st *stream, enrolled []*peer) (ids []protocol.EpochID) {
	places := []protocol.Heads{st.applied, st.tail}
	for _, p := range enrolled {
		places = append(places, m.acks.get(p.id, st.Stream))
	}
	for _, s := range m.sessionList {
		if heads, known := s.vector[st.Stream]; known {
			places = append(places, heads)
		}
	}
	for _, sn := range m.snapshots {
		if heads, known := sn.vector[st.Stream]; known {
			places = append(places, heads)
		}
	}
	apart := slices.ContainsFunc(places, func(heads protocol.Heads) bool {
		return !m.graph.CoversAll(heads, st.applied) || !m.graph.CoversAll(st.applied, heads)
	})
	needs := func(id protocol.EpochID) bool { return slices.Contains(ids, id) }
	for _, heads := range places {
		for _, p := range heads {
			if !needs(p.Epoch) {
				ids = append(ids, p.Epoch)
			}
		}
		if apart {
			for _, epoch := range m.graph.Missing(nil, heads, needs) {
				ids = append(ids, epoch.ID)
			}
		}
	}
	return ids
}

// tell tells a peer of the epochs of heads that it has not been told of. What names heads to a peer follows it.
func (m *Machine) tell(s *session, heads ...protocol.Heads) {
	var epochs []protocol.Epoch
	for _, h := range heads {
		if slices.ContainsFunc(h, func(p protocol.Position) bool { return m.canTell(s, p.Epoch) }) {
			untold := m.graph.Missing(nil, h, func(id protocol.EpochID) bool { return s.told[id] })
			s.noteTold(untold)
			epochs = append(epochs, untold...)
		}
	}
	m.sendEpochs(s, epochs)
}

// canTell reports whether a peer was not told of an epoch and this device knows it.
func (m *Machine) canTell(s *session, id protocol.EpochID) bool {
	if s.told[id] {
		return false
	}
	_, known := m.known[id]
	return known
}

// knowsAll reports whether the epochs of heads are known here.
func (m *Machine) knowsAll(heads protocol.Heads) bool {
	return !slices.ContainsFunc(heads, func(p protocol.Position) bool { _, known := m.known[p.Epoch]; return !known })
}

func (s *session) noteTold(epochs []protocol.Epoch) {
	for i := range epochs {
		s.told[epochs[i].ID] = true
	}
}

func (m *Machine) sendEpochs(s *session, epochs []protocol.Epoch) {
	for part := range slices.Chunk(epochs, m.limits.Epochs) {
		m.send(s, &protocol.Epochs{Epochs: part})
	}
}

// tellAll tells a peer of the epochs of everything that this device has.
func (m *Machine) tellAll(s *session) {
	heads := make([]protocol.Heads, len(m.streamList))
	for i, st := range m.streamList {
		heads[i] = st.applied
	}
	m.tell(s, heads...)
}

// tellKnown takes it that a peer knows the epochs of heads, which it has named, and those that they continue.
func (m *Machine) tellKnown(s *session, heads protocol.Heads) {
	s.noteTold(m.graph.Missing(nil, heads, func(id protocol.EpochID) bool { return s.told[id] }))
	for _, p := range heads {
		s.told[p.Epoch] = true
	}
}

// explain tells a peer of the epochs that it seems to have forgotten, each once a heartbeat: of the positions that it names
// some cover others.
func (m *Machine) explain(s *session, heads protocol.Heads) {
	if len(heads) < 2 || len(m.graph.Join(nil, heads)) == len(heads) {
		return
	}
	epochs := m.graph.Missing(nil, heads, func(id protocol.EpochID) bool { return s.explained[id] })
	for i := range epochs {
		s.explained[epochs[i].ID] = true
	}
	s.noteTold(epochs)
	m.sendEpochs(s, epochs)
}

// learnEpochs takes in what epochs continue, and looks again at what was careful while they were not known. What a peer can
// make this device remember is limited.
func (m *Machine) learnEpochs(s *session, epochs []protocol.Epoch) {
	if s.epochs += len(epochs); s.epochs > 8*m.limits.Marks {
		m.refuseOver(s, "marks", fmt.Sprintf("more than %d epochs, eight for each mark", 8*m.limits.Marks), true)
		return
	}
	news := false
	s.noteTold(epochs)
	for _, epoch := range epochs {
		if len(m.known) < 8*m.limits.Marks {
			news = m.remember(epoch) || news
		}
	}
	if !news {
		return
	}
	for _, other := range m.sessionList {
		m.rejoinVector(other)
	}
	for _, st := range m.streamList {
		m.rejoin(st)
	}
	m.acks.moved = true
	m.tellSecrets(epochs)
	m.routeAll()
}

// rejoinVector looks again at what a peer has said to have: it may turn out to have got pages, and to have named positions of
// which one covers another.
func (m *Machine) rejoinVector(s *session) {
	for _, st := range m.streamList {
		heads := s.vector[st.Stream]
		if sub := s.subs[st.Stream]; sub != nil {
			m.freeWindow(sub, s.window(st.Kind), heads)
		}
		if len(heads) > 1 {
			m.explain(s, heads)
			s.vector[st.Stream] = m.graph.Join(nil, heads)
		}
	}
	m.serveLagging(s)
}

// rejoin leaves out of a stream's positions those that turn out to be covered by others. The store does so with its next
// page.
func (m *Machine) rejoin(st *stream) {
	st.unsure = true
	if len(st.tail) < 2 && len(st.applied) < 2 {
		return
	}
	applied := m.graph.Join(nil, st.applied)
	if !applied.Equal(st.applied) {
		for _, s := range m.sessionList {
			s.unsent[st] = struct{}{}
		}
	}
	st.applied, st.given, st.tail = applied, m.graph.Join(nil, st.given), m.graph.Join(nil, st.tail)
}

// noteStart takes in with which start of it a peer greets. One that comes again after another has come is alive beside it.
func (m *Machine) noteStart(p *peer, start protocol.EpochID) {
	at := slices.Index(p.starts, start)
	if at >= 0 && at == len(p.starts)-1 {
		return
	}
	if at >= 0 {
		if !m.runsTwice(p) {
			m.log(hclog.Warn, "two copies of a device run; stop one of them (nothing is lost)", "peer", p.String(), "epochs", []string{start.String(), p.starts[len(p.starts)-1].String()})
		}
		p.twice = m.now
		p.starts = slices.Delete(p.starts, at, at+1)
	}
	p.starts = append(p.starts, start)
	p.starts = p.starts[max(0, len(p.starts)-startsKept):]
}

func (m *Machine) runsTwice(p *peer) bool {
	return !p.twice.IsZero() && m.now.Sub(p.twice) < twiceFor
}

// lookForTwin looks whether a peer has changes of this device that were made after it has started, and not by it.
func (m *Machine) lookForTwin(p *peer, kind sdk.Ownership, heads protocol.Heads) {
	for _, at := range heads {
		if at.Epoch == m.self.Epoch.Of(kind) || at.Stamp <= m.self.Started {
			continue
		}
		if m.twiceAt.IsZero() || m.now.Sub(m.twiceAt) > twiceFor {
			m.log(hclog.Warn, "another copy of this device has written after this one started; stop one of them (nothing is lost)", "peer", p.String(), "at", at.Stamp.String())
		}
		m.twiceAt = m.now
	}
}

// RunsTwice reports whether another running copy of this device has shown itself lately.
func (m *Machine) RunsTwice(now time.Time) bool {
	return !m.twiceAt.IsZero() && now.Sub(m.twiceAt) < twiceFor
}

// Lost reports whether a connected peer has changes of this device that this device lacks.
func (m *Machine) Lost() bool {
	for _, kind := range kinds {
		st := m.streams[protocol.Stream{Origin: m.self.Device, Kind: kind}]
		for _, s := range m.sessionList {
			if s.ready() && !m.graph.CoversAll(st.applied, s.vector[st.Stream]) {
				return true
			}
		}
	}
	return false
}
