package peersync

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/sdk"
)

// patience is how many times RequestTime a peer is given from which bytes arrive.
const patience = 10

// rangesAtOnce is how many requests for records a peer may have under way: snapshotsAtOnce, and those of an audit.
const (
	rangesAtOnce    = 6
	snapshotsAtOnce = 3
)

// snapshot brings records where the changes that made them are not kept any more. It goes on where it stopped, after a
// restart and with another peer, as long as that one has all that vector says.
//
// HAZARD: a change that is applied after the range of its record was taken in would bring back what its sender knows to be
// deleted and keeps no trace of, since in the end the watermarks pass that delete. So from the first page on to the end, also
// over restarts and from one sender to the next, no page of a stream of the scope is applied.
type snapshot struct {
	Scope
	vector map[protocol.Stream]protocol.Heads // of who sent the first page, before it read it: what this device has in the end; nil: no page has come
	after  protocol.Place                     // records up to here are durable
	begun  bool                               // the store may have a part of it: all streams of the scope wait

	from    *session // nil: nobody can be asked now
	number  uint32   // of the request at from
	asked   protocol.Place
	queue   []protocol.SnapshotPage // received; the first one is being taken in if taking
	taking  bool
	done    bool      // the last page has been received
	movedAt time.Time // a page has come, or was asked for
	idleAt  time.Time // since when no connected peer has more of its streams; zero: one has, or nobody is connected
	gone    bool      // nobody goes on with it: the store is to forget it
	records int

	heldUntil  time.Time // a page could not be taken in: nothing is asked for until then
	heldReason string
	heldPeer   sdk.DeviceID // whose page it was; zero: it is not held
	failures   int
}

func (s Scope) compare(other Scope) int {
	return cmp.Or(cmp.Compare(s.Kind, other.Kind), s.Origin.Compare(other.Origin))
}

// ensureSnapshot returns the snapshot of a scope, a new one if there is none.
func (m *Machine) ensureSnapshot(scope Scope) *snapshot {
	at, found := slices.BinarySearchFunc(m.snapshots, scope, func(sn *snapshot, s Scope) int { return sn.compare(s) })
	if !found {
		m.snapshots = slices.Insert(m.snapshots, at, &snapshot{Scope: scope})
	}
	return m.snapshots[at]
}

func (sn *snapshot) resume(s StoredSnapshot) { sn.vector, sn.after, sn.begun = s.Vector, s.After, true }

// begunOf returns the snapshot for which a stream must wait since it has begun; nil if there is none.
func (m *Machine) begunOf(st *stream) *snapshot {
	scope := scopeOf(st.Stream)
	at := slices.IndexFunc(m.snapshots, func(sn *snapshot) bool { return sn.begun && sn.Scope == scope })
	if at < 0 {
		return nil
	}
	return m.snapshots[at]
}

// begin has all streams of a snapshot wait until it is complete. What was received of them and is not with the Applier is
// dropped, and asked for again afterwards.
func (m *Machine) begin(sn *snapshot) {
	sn.begun = true
	for _, st := range m.streamList {
		if scopeOf(st.Stream) == sn.Scope {
			m.route(st)
		}
	}
}

// applying reports whether a page of a stream of the scope is with the Applier.
func (m *Machine) applying(scope Scope) bool {
	return slices.ContainsFunc(m.streamList, func(st *stream) bool { return st.applying > 0 && scopeOf(st.Stream) == scope })
}

// belowFloor takes in that a peer does not keep any more what this device needs next of a stream. If no other peer does,
// a snapshot takes its place. What has come since the peer was asked may be enough, so that it is asked again.
func (m *Machine) belowFloor(s *session, key protocol.Stream) {
	st := m.streams[key]
	if st == nil || st.upstream != s {
		return
	}
	m.unsubscribe(st)
	if !st.tail.Equal(st.asked) && st.gaps < gapsAllowed {
		m.route(st)
		return
	}
	s.pruned[key] = true
	m.route(st)
}

// needsSnapshot reports whether a peer has more of a stream and does not keep what this device needs of it, and upstream, the
// best of the others, has no more either.
func (m *Machine) needsSnapshot(st *stream, upstream *session) bool {
	return (upstream == nil || !m.isAhead(upstream, st)) && slices.ContainsFunc(m.sessionList, func(s *session) bool {
		return len(s.pruned) > 0 && s.ready() && s.pruned[st.Stream] && m.isAhead(s, st)
	})
}

// needSnapshot has a stream wait for the snapshot of its scope.
func (m *Machine) needSnapshot(st *stream) {
	sn := m.ensureSnapshot(scopeOf(st.Stream))
	st.snapshot = sn
	if sn.from == nil {
		m.askSomebody(sn)
	}
}

// waiting returns the streams that wait for a snapshot.
func (m *Machine) waiting(sn *snapshot) (list []*stream) {
	for _, st := range m.streamList {
		if st.snapshot == sn {
			list = append(list, st)
		}
	}
	return list
}

// askSomebody goes on with a snapshot at a peer that can, or begins it anew at one that is ahead. Where all that could
// are busy with others it waits for its turn.
func (m *Machine) askSomebody(sn *snapshot) {
	sn.from, sn.number, sn.queue, sn.done = nil, 0, nil, false
	waiting := m.waiting(sn)
	if sn.taking || sn.gone || len(waiting) == 0 || m.now.Before(sn.heldUntil) {
		return
	}
	sn.heldReason, sn.heldPeer = "", sdk.DeviceID{}
	var ahead *session
	resumes := false
	for _, p := range m.peerOrder {
		s := p.session
		if s == nil || !slices.ContainsFunc(waiting, func(st *stream) bool { return m.isAhead(s, st) }) {
			continue
		}
		free := m.snapshotsFrom(s) < snapshotsAtOnce
		if sn.vector != nil && m.hasAll(s, sn.vector) {
			if resumes = true; free {
				m.ask(sn, s)
				return
			}
		}
		if ahead == nil && free {
			ahead = s
		}
	}
	if ahead == nil || resumes {
		return
	}
	if sn.vector != nil {
		m.log(hclog.Info, "no connected peer can go on with a snapshot; it begins anew", "peer", ahead.peer.String())
	}
	sn.vector, sn.after, sn.records = nil, protocol.Place{}, 0
	m.acks.anew = true
	m.ask(sn, ahead)
}

func (m *Machine) snapshotsFrom(s *session) (n int) {
	for _, sn := range m.snapshots {
		if sn.from == s {
			n++
		}
	}
	return n
}

func (m *Machine) hasAll(s *session, vector map[protocol.Stream]protocol.Heads) bool {
	for key, heads := range vector {
		if !m.graph.CoversAll(s.vector[key], heads) {
			return false
		}
	}
	return true
}

// ask begins, or goes on with, a snapshot at a peer.
func (m *Machine) ask(sn *snapshot, s *session) {
	m.log(hclog.Info, "fetching a snapshot", "peer", s.peer.String(), "of", m.scopeName(sn.Scope), "after", sn.after.Model)
	sn.from, sn.asked = s, sn.after
	m.askNext(sn)
	m.noteState(s.peer)
}

func (m *Machine) scopeName(scope Scope) string {
	if scope.Kind == sdk.SharedByAll {
		return "the shared records"
	}
	return "the records of " + m.nameOf(scope.Origin)
}

func (m *Machine) askNext(sn *snapshot) {
	s := sn.from
	s.numbers++
	sn.number, sn.movedAt = s.numbers, m.now
	request := &protocol.SnapshotRequest{Number: sn.number, Kind: sn.Kind, Origin: sn.Origin, After: sn.asked, PageBytes: m.limits.PageBytes}
	if sn.Kind == sdk.DeviceOwned {
		request.Since = m.streams[protocol.Stream{Origin: sn.Origin, Kind: sn.Kind}].applied
		m.tell(s, request.Since)
	}
	m.send(s, request)
}

// snapshotPage takes in a page of records: of a snapshot, or of a repair.
func (m *Machine) snapshotPage(s *session, page *protocol.SnapshotPage) {
	if m.repairPage(s, page) {
		return
	}
	at := slices.IndexFunc(m.snapshots, func(sn *snapshot) bool { return sn.from == s && sn.number == page.Number && page.Number != 0 })
	if at < 0 {
		return // it has been given up
	}
	sn := m.snapshots[at]
	if !page.Done && page.End.Compare(sn.asked) <= 0 || page.Done && page.End != (protocol.Place{}) {
		m.refuse(s, sdk.CodeInvalid, "a page of records that does not end where it should", false)
		return
	}
	if sn.vector == nil {
		sn.vector = map[protocol.Stream]protocol.Heads{}
		for _, has := range headsOf(page.Vector) {
			if scopeOf(has.Stream) == sn.Scope {
				sn.vector[has.Stream] = has.heads
			}
		}
		m.acks.anew = true
		m.begin(sn)
	}
	sn.queue = append(sn.queue, *page)
	sn.asked, sn.movedAt, sn.done = page.End, m.now, page.Done
	if !sn.done && len(sn.queue) == 1 { // one comes while one is taken in
		m.askNext(sn)
	} else {
		sn.number = 0
	}
	m.takeNext(sn)
}

// takeNext has the store take in the next page, once no change is being applied.
func (m *Machine) takeNext(sn *snapshot) {
	if sn.taking || len(sn.queue) == 0 || m.applying(sn.Scope) {
		return
	}
	sn.taking = true
	take := TakeRange{Session: sn.from.id, From: sn.from.peer.id, Scope: sn.Scope, Since: sn.after, Vector: sn.vector, Page: sn.queue[0]}
	for _, st := range m.streamList {
		if scopeOf(st.Stream) == sn.Scope {
			take.Epochs = append(take.Epochs, m.toStore(slices.Concat(sn.vector[st.Stream], st.applied))...)
		}
	}
	m.act(take)
}

// rangeTaken takes in what became of a page of records.
func (m *Machine) rangeTaken(e RangeTaken) {
	if e.Err == nil {
		m.tally.peer(e.Take.From).SnapshotRecords += int64(e.Taken.Records)
	}
	if e.Take.Repair {
		m.repairTaken(e)
		return
	}
	sn := m.ensureSnapshot(e.Take.Scope)
	sn.taking = false
	if e.Err != nil {
		m.holdSnapshot(sn, e.Take.From, e.Err)
		return
	}
	sn.failures, sn.after = 0, e.Take.Page.End
	sn.records += e.Taken.Records
	if e.Take.Page.Done {
		m.finishSnapshot(sn, &e)
		return
	}
	if sn.from == nil || sn.from.id != e.Take.Session {
		m.askSomebody(sn)
		return
	}
	sn.queue = slices.Delete(sn.queue, 0, 1)
	if sn.number == 0 && !sn.done {
		m.askNext(sn)
	}
	m.takeNext(sn)
}

// finishSnapshot moves the watermarks to where the snapshot has brought them.
func (m *Machine) finishSnapshot(sn *snapshot, e *RangeTaken) {
	m.log(hclog.Info, "snapshot complete", "of", m.scopeName(sn.Scope), "records", sn.records)
	starved := slices.DeleteFunc(m.waiting(sn), func(st *stream) bool { return len(e.Taken.Heads) > 0 || !m.needsSnapshot(st, nil) })
	m.dropSnapshot(sn)
	for _, s := range m.sessionList {
		clear(s.pruned)
	}
	for key, floor := range e.Taken.Floors {
		st := m.ensureStream(key)
		st.floor, st.kept = max(st.floor, floor), max(st.kept, floor)
	}
	m.markStored(e.Take.Epochs)
	for _, key := range slices.SortedFunc(maps.Keys(e.Taken.Heads), protocol.Stream.Compare) {
		m.acks.noteChange(key, e.Taken.Heads[key].Top())
		m.advance(m.ensureStream(key), e.Taken.Heads[key], nil)
	}
	for _, st := range starved {
		m.hold(st, e.Take.From, sdk.Errorf(sdk.CodeUnavailable, "a snapshot has brought nothing of it"))
	}
	m.routeAll()
	for _, other := range slices.Clone(m.snapshots) {
		if other.from == nil {
			m.askSomebody(other)
		}
	}
	for _, p := range m.peerOrder {
		m.noteState(p)
	}
}

// dropSnapshot forgets a snapshot. What it has brought stays: it is merged, and what is missing of it comes in another way.
func (m *Machine) dropSnapshot(sn *snapshot) {
	for _, st := range m.waiting(sn) {
		st.snapshot, st.gaps = nil, 0
	}
	m.acks.anew = true
	m.snapshots = slices.DeleteFunc(m.snapshots, func(other *snapshot) bool { return other == sn })
}

// holdSnapshot lets a snapshot wait for a while: a page could not be taken in.
func (m *Machine) holdSnapshot(sn *snapshot, from sdk.DeviceID, err error) {
	pause := m.backoff(sn.failures, m.config.RetryMin, m.config.RetryMax)
	sn.failures++
	sn.heldUntil, sn.heldReason, sn.heldPeer = m.now.Add(pause), err.Error(), from
	m.log(hclog.Warn, "snapshot held", "of", m.scopeName(sn.Scope), "reason", err, "retry_in", pause.String())
	sn.from, sn.number, sn.queue, sn.done = nil, 0, nil, false
	m.noteStateOf(from)
}

// leaveSnapshots goes on with the snapshots of a session that ended elsewhere.
func (m *Machine) leaveSnapshots(s *session) {
	for _, sn := range m.snapshots {
		if sn.from == s {
			m.askSomebody(sn)
		}
	}
}

// tickSnapshot asks somebody where nobody could be asked before, and gives up a peer that does not answer in time.
func (m *Machine) tickSnapshot(sn *snapshot) {
	switch s := sn.from; {
	case sn.taking:
	case s == nil:
		m.releaseStreams(sn)
		m.askSomebody(sn)
		m.dropIdle(sn)
	case sn.number != 0 && m.overdue(s, sn.movedAt):
		m.log(hclog.Warn, "a peer does not send the snapshot that was asked for", "peer", s.peer.String(), "waited", m.now.Sub(sn.movedAt).String())
		m.end(s, fmt.Sprintf("no page of a snapshot within %s", m.now.Sub(sn.movedAt)))
	}
}

// dropIdle drops a snapshot that nobody waits for. One that has begun is given up where for long no connected peer has had more
// of its streams, and who could go on with it has not come: its streams go on once the store has forgotten how far it was.
func (m *Machine) dropIdle(sn *snapshot) {
	if !sn.begun && len(m.waiting(sn)) == 0 {
		m.dropSnapshot(sn)
		return
	}
	connected := false
	for _, s := range m.sessionList {
		if s.ready() && slices.ContainsFunc(m.waiting(sn), func(st *stream) bool { return m.isAhead(s, st) }) {
			sn.idleAt = time.Time{}
			return
		}
		connected = connected || s.ready()
	}
	switch {
	case !connected || sn.gone:
		sn.idleAt = time.Time{}
	case sn.idleAt.IsZero():
		sn.idleAt = m.now
	case m.now.Sub(sn.idleAt) > patience*m.config.RequestTime:
		m.log(hclog.Info, "nobody goes on with a snapshot; it is given up", "of", m.scopeName(sn.Scope))
		sn.gone, m.acks.moved = true, true
	}
}

// snapshotsGone returns the snapshots that the store is to forget.
func (m *Machine) snapshotsGone() (scopes []Scope) {
	for _, sn := range m.snapshots {
		if sn.gone {
			scopes = append(scopes, sn.Scope)
		}
	}
	return scopes
}

// snapshotsForgotten lets the streams of snapshots go on that the store has forgotten.
func (m *Machine) snapshotsForgotten(scopes []Scope) {
	for _, scope := range scopes {
		m.dropSnapshot(m.ensureSnapshot(scope))
	}
	if len(scopes) > 0 {
		m.routeAll()
	}
}

// overdue reports whether a peer that was asked for something, and then sent the last page or message of it at since, is not
// going to. One from which bytes arrive may be sending it, slowly.
func (m *Machine) overdue(s *session, since time.Time) bool {
	return m.now.Sub(latest(since, s.heard)) > m.config.RequestTime || m.now.Sub(since) > patience*m.config.RequestTime
}

// releaseStreams lets streams that wait for a snapshot go: where no connected peer has more of them, and where one has that
// may still keep what they need. Those of one that has begun wait for its end.
func (m *Machine) releaseStreams(sn *snapshot) {
	if sn.begun {
		return
	}
	for _, st := range m.waiting(sn) {
		ahead, keeps := false, false
		for _, s := range m.sessionList {
			if s.ready() && m.isAhead(s, st) {
				ahead, keeps = true, keeps || !s.pruned[st.Stream]
			}
		}
		if keeps || !ahead {
			st.snapshot = nil
			m.route(st)
		}
	}
}

// snapshotRequest has a page of records read for a peer.
func (m *Machine) snapshotRequest(s *session, r *protocol.SnapshotRequest) {
	if s.ranges >= rangesAtOnce {
		m.refuse(s, sdk.CodeTooLarge, fmt.Sprintf("more than %d requests for records at once", rangesAtOnce), true)
		return
	}
	s.ranges++
	read := ReadRange{Session: s.id, Request: *r, Bytes: m.limits.PageBytes}
	if r.PageBytes > 0 {
		read.Bytes = min(max(r.PageBytes, minPageBytes), m.limits.PageBytes)
	}
	if r.Kind == sdk.DeviceOwned && !r.Origin.IsZero() && len(r.Since) > 0 {
		if st := m.streams[protocol.Stream{Origin: r.Origin, Kind: r.Kind}]; st != nil {
			read.Since = m.graph.Low(r.Since, st.applied)
		}
	}
	if r.After == (protocol.Place{}) {
		for _, st := range m.streamList {
			if st.Kind == r.Kind && (r.Origin.IsZero() || r.Origin == st.Origin) {
				read.Vector = appendMarks(read.Vector, st.Stream, st.applied)
			}
		}
	}
	m.act(read)
}

// rangeRead sends a page of records. One that comes out too large is read again, as small as can be; what can not be read is
// tried again after a pause, since the peer waits for it.
func (m *Machine) rangeRead(e RangeRead) {
	s := m.sessions[e.Read.Session]
	if s == nil {
		return
	}
	page := e.Page
	page.Number, page.Vector = e.Read.Request.Number, e.Read.Vector
	fits := m.fits(&page)
	switch {
	case e.Err == nil && !fits && e.Read.Bytes > minPageBytes:
		e.Read.Bytes = minPageBytes
		m.act(e.Read)
		return
	case e.Err == nil && !fits:
		e.Err = sdk.Errorf(sdk.CodeTooLarge, "a page of records of %d bytes; at most %d can be sent: over the limits max_page_bytes, batches, origins or models",
			page.Bytes(), m.limits.MaxPageBytes)
	}
	if e.Err != nil {
		m.log(hclog.Error, "read records for a peer", "peer", s.peer.String(), "error", e.Err)
		if len(s.again) == 0 {
			s.againAt = m.now.Add(m.backoff(2, m.config.RetryMin, m.config.RetryMax))
		}
		s.again = append(s.again, e.Read)
		return
	}
	s.ranges--
	heads := make([]protocol.Heads, len(page.Vector))
	for i := range page.Vector {
		heads[i] = protocol.Heads{page.Vector[i].Position}
	}
	m.tell(s, heads...)
	s.rowsOut += int64(rowsOf(&page))
	m.send(s, &page)
}

// fits reports whether a peer takes such a page of records.
func (m *Machine) fits(page *protocol.SnapshotPage) bool {
	batches := 0
	for i := range page.Changes {
		batches += len(page.Changes[i].Batches)
	}
	return page.Bytes() <= m.limits.MaxPageBytes && batches <= m.limits.Batches && len(page.Changes) <= m.limits.Origins && len(page.Unchanged) <= m.limits.Models
}

// retryRanges reads again what could not be read.
func (m *Machine) retryRanges(s *session) {
	if len(s.again) == 0 || m.now.Before(s.againAt) {
		return
	}
	for _, read := range s.again {
		m.act(read)
	}
	s.again = nil
}

func rowsOf(page *protocol.SnapshotPage) (n int) {
	for i := range page.Changes {
		for k := range page.Changes[i].Batches {
			n += page.Changes[i].Batches[k].Count
		}
	}
	return n
}
