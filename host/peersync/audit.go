package peersync

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/sdk"
)

// AuditStatus is the last audit with a peer that came to an end.
type AuditStatus struct {
	At       time.Time     // zero: there was none
	Took     time.Duration // from the question to the end
	Ranges   int           // that differed
	Repaired int           // records that were not alike here and have been merged

	FailedAt time.Time // the last time since the start that one came to no end; zero: never
	Failed   string    // why
	Waits    string    // why one that the operator asks for can not begin, where something has failed; empty: changes are on their way
}

// errMoved ends an audit that compares nothing, since one of the two has got or lost something meanwhile.
var errMoved = errors.New("something has moved meanwhile")

// audit compares with one peer what should be equal, since both have the same. Of a pair the smaller device asks, or the one
// whose operator does.
//
//	asker      Digest, AuditRequest --->                     (both have the same vector)
//	answerer                              Digest, AuditResponse
//	asker      equal: done. Else AuditRepair ---> and both fetch the records of the ranges that differ, and merge.
type audit struct {
	due     time.Time // zero: not decided yet
	wanted  bool      // the one under way is what the operator asked for
	number  uint32    // of the one that this device asks for; zero: none is under way
	began   time.Time
	askedAt time.Time // the peer was last asked for something; zero: it need not answer anything
	mine    []ModelDigests
	answers map[uint32]*protocol.AuditRequest // that the peer asked for and that are being computed
	given   []ModelDigests                    // of the last answer, should a repair follow

	repairs  []auditRange // to fetch
	asked    uint32       // number of the SnapshotRequest under way; zero: none
	taking   bool
	ranges   int
	repaired int
}

type auditRange struct {
	kind         sdk.Ownership
	after, until protocol.Place
}

// auditWaits says why an audit can not begin, where something has failed: a stream is held on one of the two sides, or waits for
// a plugin, a snapshot is held, or the peer says that it has something else, as it does where it can not sum its records.
func (m *Machine) auditWaits(s *session) string {
	if key, held := m.firstHold(s); held {
		return fmt.Sprintf("%s holds %s of %s: %s", s.peer, streamWord(key.Kind), m.nameOf(key.Origin), s.holds[key])
	}
	for _, st := range m.streamList {
		if _, reason := m.stuck(st); reason != "" {
			return "this device holds " + reason
		}
	}
	if m.alike(s) && m.whole() {
		return fmt.Sprintf("both have the same, and %s has not compared it; its log may say why", s.peer)
	}
	return ""
}

// vectorDigest sums this device's watermarks.
func (m *Machine) vectorDigest() (d protocol.Digest) {
	sum := sha256.New()
	var buf []byte
	for _, mark := range m.Vector() {
		buf = append(buf[:0], mark.Origin[:]...)
		buf = append(buf, byte(kindIndex(mark.Kind)))
		buf = append(buf, mark.Epoch[:]...)
		sum.Write(binary.BigEndian.AppendUint64(buf, uint64(mark.Stamp)))
	}
	copy(d[:], sum.Sum(nil))
	return d
}

// alike reports whether a peer has what this device has.
func (m *Machine) alike(s *session) bool {
	for _, st := range m.streamList {
		if !s.vector[st.Stream].Equal(st.applied) {
			return false
		}
	}
	return true
}

// whole reports whether the store has what the watermarks say, and nothing else: a page that is with the Applier may be
// there already, and so may a part of a snapshot.
func (m *Machine) whole() bool {
	return !slices.ContainsFunc(m.snapshots, func(sn *snapshot) bool { return sn.begun }) &&
		!slices.ContainsFunc(m.streamList, func(st *stream) bool { return st.applying > 0 || !st.given.Equal(st.applied) })
}

// auditNow makes an audit due, with one peer or all that are connected: where the two do not have the same, or that one is not
// connected, once that is so.
func (m *Machine) auditNow(with sdk.DeviceID) {
	for _, p := range m.peerOrder {
		if p.member.Retired || p.session == nil && with.IsZero() || !with.IsZero() && with != p.id {
			continue
		}
		p.auditWanted = true
		if s := p.session; s != nil {
			s.audit.due = m.now
			m.tickAudit(s)
		}
	}
}

// leaveAudit lets what the operator asked for be done in another session.
func (m *Machine) leaveAudit(s *session) {
	s.peer.auditWanted = s.peer.auditWanted || s.audit.wanted
}

// tickAudit begins an audit that is due, and gives up one whose peer does not answer in time.
func (m *Machine) tickAudit(s *session) {
	a := &s.audit
	if a.number != 0 || a.asked != 0 {
		if !a.askedAt.IsZero() && m.overdue(s, a.askedAt) {
			m.log(hclog.Warn, "a peer does not answer in an audit", "peer", s.peer.String(), "waited", m.now.Sub(a.askedAt).String())
			m.endAudit(s, errors.New("the peer does not answer"))
		}
		return
	}
	if len(a.repairs) > 0 || a.taking || !s.peer.auditWanted && (m.config.AuditTime <= 0 || m.self.Device.Compare(s.peer.id) > 0) {
		return
	}
	switch {
	case !a.due.IsZero():
	case s.peer.auditWanted:
		a.due = m.now
	default:
		a.due = m.now.Add(max(m.config.Heartbeat, m.config.AuditTime/12)) // the first one reads all records: not at once
		if last := s.peer.audit.At; !last.IsZero() {                      // a connection that breaks often must not cost as many audits
			a.due = latest(a.due, last.Add(m.config.AuditTime))
		}
	}
	if m.now.Before(a.due) || !m.alike(s) || !m.whole() {
		return
	}
	s.numbers++
	a.number, a.began = s.numbers, m.now
	a.wanted, s.peer.auditWanted = s.peer.auditWanted, false // asked for from now on is another one
	m.act(Digest{Session: s.id, Number: a.number, Vector: m.vectorDigest()})
}

// endAudit ends an audit; with a nil err it has compared and, where need was, repaired.
func (m *Machine) endAudit(s *session, err error) {
	a, last := &s.audit, &s.peer.audit
	concluded := err == nil
	if !concluded && !errors.Is(err, errMoved) {
		last.FailedAt, last.Failed = m.now, err.Error()
	}
	if concluded {
		last.At, last.Took, last.Ranges, last.Repaired = m.now, m.now.Sub(a.began), a.ranges, a.repaired
		level := hclog.Debug
		if a.ranges > 0 {
			level = hclog.Warn
		}
		m.log(level, "audit ended", "peer", s.peer.String(), "ranges_that_differed", a.ranges, "records_repaired", a.repaired)
	}
	pause := m.config.AuditTime
	if !concluded {
		m.leaveAudit(s)
		pause = min(6*m.config.Heartbeat, max(m.config.AuditTime, m.config.Heartbeat))
	}
	if concluded && s.peer.auditWanted {
		pause = 0
	}
	*a = audit{due: m.now.Add(pause), answers: a.answers, given: a.given}
}

// digested takes in the sum of all records.
func (m *Machine) digested(e Digested) {
	s := m.sessions[e.Digest.Session]
	if s == nil {
		return
	}
	a := &s.audit
	still := e.Err == nil && m.whole() && m.vectorDigest() == e.Digest.Vector
	if e.Err != nil {
		m.log(hclog.Error, "sum the records for an audit", "error", e.Err)
	}
	if e.Digest.Answer {
		if request := a.answers[e.Digest.Number]; request != nil {
			delete(a.answers, e.Digest.Number)
			m.answer(s, request, e.Models, still)
		}
		return
	}
	if e.Digest.Number != a.number {
		return
	}
	if e.Err != nil {
		m.endAudit(s, fmt.Errorf("sum the records: %w", e.Err))
		return
	}
	if !still {
		m.endAudit(s, errMoved)
		return
	}
	a.mine, a.askedAt = e.Models, m.now
	request := &protocol.AuditRequest{Number: a.number, Vector: e.Digest.Vector}
	for i := range e.Models {
		request.Models = append(request.Models, protocol.ModelDigest{Model: e.Models[i].Model, Digest: e.Models[i].Total})
	}
	m.send(s, request)
}

// auditRequest has the answer to an audit computed, if both have the same.
func (m *Machine) auditRequest(s *session, r *protocol.AuditRequest) {
	mine := m.vectorDigest()
	if mine != r.Vector || !m.whole() {
		m.send(s, &protocol.AuditResponse{Number: r.Number, Moved: true})
		return
	}
	a := &s.audit
	if len(a.answers) >= rangesAtOnce {
		m.refuse(s, sdk.CodeTooLarge, fmt.Sprintf("more than %d audits at once", rangesAtOnce), true)
		return
	}
	if a.answers == nil {
		a.answers = map[uint32]*protocol.AuditRequest{}
	}
	a.answers[r.Number] = r
	m.act(Digest{Session: s.id, Number: r.Number, Answer: true, Vector: mine})
}

// answer says in which models this device holds something else. A model that one of the two does not have is not compared.
func (m *Machine) answer(s *session, r *protocol.AuditRequest, mine []ModelDigests, still bool) {
	response := &protocol.AuditResponse{Number: r.Number, Moved: !still}
	s.audit.given = nil
	for i, room := 0, m.limits.MaxPageBytes; still && i < len(mine); i++ {
		at := slices.IndexFunc(r.Models, func(d protocol.ModelDigest) bool { return d.Model == mine[i].Model })
		if at < 0 || r.Models[at].Digest == mine[i].Total {
			continue
		}
		ranges := mine[i].Ranges
		if len(ranges) > m.limits.Ranges {
			ranges = nil // all of the model is one
		}
		if room -= 64 + 32*len(ranges); room < 0 {
			break // the next audit goes on
		}
		response.Models = append(response.Models, protocol.RangeDigests{Model: mine[i].Model, Ranges: ranges})
		s.audit.given = mine
	}
	m.send(s, response)
}

// auditResponse ends an audit where all is equal, and else begins the repair on both sides.
func (m *Machine) auditResponse(s *session, r *protocol.AuditResponse) {
	a := &s.audit
	if r.Number != a.number || a.mine == nil {
		return
	}
	if r.Moved {
		m.endAudit(s, errMoved)
		return
	}
	var differ []protocol.AuditRange
	for i := range r.Models {
		if at := slices.IndexFunc(a.mine, func(d ModelDigests) bool { return d.Model == r.Models[i].Model }); at >= 0 {
			differ = appendDiffering(differ, r.Models[i].Model, a.mine[at].Ranges, r.Models[i].Ranges)
		}
	}
	differ = differ[:min(len(differ), m.limits.Ranges)] // the next audit finds the others
	if len(differ) == 0 {
		m.endAudit(s, nil)
		return
	}
	m.log(hclog.Warn, "an audit found records that are not alike although both devices have the same; they are merged", "peer", s.peer.String(), "ranges", len(differ))
	m.send(s, &protocol.AuditRepair{Number: a.number, Ranges: differ})
	m.repair(s, differ, a.mine)
}

// lastID ends the last range of every model.
var lastID = sdk.RecordID(bytes.Repeat([]byte{0xff}, len(sdk.RecordID{})))

// appendDiffering adds the runs of a model's ids that two devices do not hold alike. It compares between the ends that both
// have: a range is the same only where the one before it ends alike.
func appendDiffering(list []protocol.AuditRange, model sdk.ModelName, mine, theirs []protocol.RangeDigest) []protocol.AuditRange {
	first := len(list)
	differ, after := false, sdk.RecordID{}
	for len(mine) > 0 || len(theirs) > 0 {
		until := lastID
		for _, ranges := range [][]protocol.RangeDigest{mine, theirs} {
			if len(ranges) > 0 && ranges[0].Until.Compare(until) < 0 {
				until = ranges[0].Until
			}
		}
		here, there := pop(&mine, until), pop(&theirs, until)
		differ = differ || here == nil || there == nil || here.Digest != there.Digest
		if here == nil || there == nil {
			if len(mine) > 0 || len(theirs) > 0 {
				continue // the next end is that of both, or of the model
			}
			until = lastID
		}
		switch last := len(list) - 1; {
		case differ && last >= first && list[last].Until == after:
			list[last].Until = until
		case differ:
			list = append(list, protocol.AuditRange{Model: model, After: after, Until: until})
		}
		after, differ = until, false
	}
	return list
}

// pop takes the first range from list if it ends at until.
func pop(list *[]protocol.RangeDigest, until sdk.RecordID) *protocol.RangeDigest {
	if len(*list) == 0 || (*list)[0].Until != until {
		return nil
	}
	first := &(*list)[0]
	*list = (*list)[1:]
	return first
}

// auditRepair begins the repair that the peer has found to be due.
func (m *Machine) auditRepair(s *session, r *protocol.AuditRepair) {
	a := &s.audit
	if a.given == nil || a.number != 0 || len(a.repairs) > 0 {
		return // not asked for, or one is under way: the next audit finds what is left
	}
	a.began = m.now
	m.repair(s, r.Ranges, a.given)
}

// repair fetches the records of ranges from a peer, one range after the other.
func (m *Machine) repair(s *session, ranges []protocol.AuditRange, mine []ModelDigests) {
	a := &s.audit
	a.mine, a.given, a.number = nil, nil, 0
	for _, r := range ranges {
		at := slices.IndexFunc(mine, func(d ModelDigests) bool { return d.Model == r.Model })
		if at < 0 {
			continue
		}
		a.repairs = append(a.repairs, auditRange{
			kind: mine[at].Kind, after: protocol.Place{Model: r.Model, ID: r.After}, until: protocol.Place{Model: r.Model, ID: r.Until},
		})
	}
	a.ranges = len(a.repairs)
	m.askRepair(s)
}

func (m *Machine) askRepair(s *session) {
	a := &s.audit
	if len(a.repairs) == 0 {
		m.endAudit(s, nil)
		return
	}
	r := &a.repairs[0]
	s.numbers++
	a.asked, a.askedAt = s.numbers, m.now
	m.send(s, &protocol.SnapshotRequest{Number: a.asked, Kind: r.kind, After: r.after, Until: r.until, PageBytes: m.limits.PageBytes})
}

// repairPage takes in a page of a repair, and reports whether it is one.
func (m *Machine) repairPage(s *session, page *protocol.SnapshotPage) bool {
	a := &s.audit
	if a.asked == 0 || a.asked != page.Number {
		return false
	}
	r := a.repairs[0]
	if !page.Done && page.End.Compare(r.after) <= 0 {
		m.refuse(s, sdk.CodeInvalid, "a page of records that ends where it begins", false)
		return true
	}
	a.asked, a.askedAt, a.taking = 0, time.Time{}, true
	m.act(TakeRange{Session: s.id, From: s.peer.id, Scope: Scope{Kind: r.kind}, Repair: true, Since: r.after, Page: *page})
	return true
}

// repairTaken goes on with a repair.
func (m *Machine) repairTaken(e RangeTaken) {
	m.repairs += e.Taken.Repaired
	s := m.sessions[e.Take.Session]
	if s == nil || !s.audit.taking {
		return
	}
	a := &s.audit
	a.taking = false
	if e.Err != nil {
		m.log(hclog.Error, "merge the records of an audit", "peer", s.peer.String(), "error", e.Err)
		m.endAudit(s, fmt.Errorf("merge the records that differ: %w", e.Err))
		return
	}
	a.repaired += e.Taken.Repaired
	if e.Take.Page.Done {
		a.repairs = slices.Delete(a.repairs, 0, 1)
	} else {
		a.repairs[0].after = e.Take.Page.End
	}
	m.askRepair(s)
}

// Repairs returns how many records audits have repaired since the start.
func (m *Machine) Repairs() int { return m.repairs }
