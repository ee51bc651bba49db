package peersync

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/history"
	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/sdk"
)

// appliesAhead is how many pages of a stream may be with the Applier: one commits while the next is prepared and one
// waits. A merge of shared operations reads what the page before it wrote, so there one at a time.
func appliesAhead(kind sdk.Ownership) int {
	if kind == sdk.DeviceOwned {
		return 3
	}
	return 1
}

// gapsAllowed is how many gaps in a row a sender may cause before the stream is held.
const gapsAllowed = 3

// stream is one origin's changes of one kind as this device has them.
type stream struct {
	protocol.Stream
	applied protocol.Heads // durable; what is acknowledged
	given   protocol.Heads // covers applied; also counts pages that the Applier has
	tail    protocol.Heads // covers given; also counts pages received; what is asked for next
	floor   hlc.Stamp      // log entries, or tombstones, up to it have been forgotten here, or never came
	pending hlc.Stamp      // likewise, while the store forgets them; zero: it does not
	forgot  hlc.Stamp      // up to where the store was last asked to forget: it may have had nothing there
	kept    hlc.Stamp      // of floor: the store knows it

	looked bool               // what follows is as of the last look at what may be forgotten
	stable hlc.Stamp          // up to where all enrolled devices have it
	latest hlc.Stamp          // that any of them has
	needs  []protocol.EpochID // without which what somebody has could not be placed

	queue      []protocol.Page // received, not yet handed to the Applier; each continues what is before it; ends at tail
	queueBytes int
	handed     []handed // pages of this generation with the Applier, oldest first
	generation uint64   // of handed pages: a failure begins a new one
	applying   int      // pages with the Applier, of any generation
	upstream   *session
	snapshot   *snapshot      // the stream waits for it; nil: it does not
	number     uint32         // of the subscription at upstream
	asked      protocol.Heads // since where
	gaps       int            // since a page last applied
	movedAt    time.Time      // tail last moved or the upstream changed
	unsure     bool           // something has changed: see at the next tick whether another peer is ahead of tail
	aheadAt    time.Time      // since when one is; zero: none
	avoid      SessionID      // upstream that stalled, until avoidUntil
	avoidUntil time.Time
	backfill   bool           // this catch-up is the first of the stream
	start      hlc.Stamp      // where this catch-up began, and how far it goes, for people
	goal       hlc.Stamp      //
	target     protocol.Heads // where it ends: while applied does not cover it, the stream catches up
	startedAt  time.Time
	heldUntil  time.Time // zero: not held
	heldReason string
	heldPeer   sdk.DeviceID // whose page it was
	heldCount  int

	rises rises     // of applied
	known hlc.Stamp // the latest that a peer has been known to have, since the start
	heard rises     // of known
}

// handed is a page that the Applier has.
type handed struct {
	since  time.Time // that it works on this page and no earlier one of the stream
	from   sdk.DeviceID
	models []sdk.ModelName // in the page
}

func (m *Machine) routeAll() {
	for _, st := range m.streamList {
		m.route(st)
	}
}

// route gives a stream its upstream: the origin itself where it is connected, else the peer that is furthest ahead. The
// origin need not be a member any more: what it wrote still travels between those who have it. A present relay stays as
// long as it delivers. Also a relay that is not ahead yet is asked, so that what it hears later comes at once. This device's
// own streams are asked for only while a peer has of them what this device has lost.
func (m *Machine) route(st *stream) {
	if sn := m.begunOf(st); sn != nil {
		st.snapshot = sn
	}
	if !st.heldUntil.IsZero() || st.snapshot != nil {
		m.unsubscribe(st)
		return
	}
	best := m.bestUpstream(st)
	snapshot := m.needsSnapshot(st, best)
	if best == st.upstream && !snapshot {
		return
	}
	m.unsubscribe(st)
	switch {
	case snapshot:
		m.needSnapshot(st)
	case best != nil:
		m.subscribe(st, best)
	}
}

func (m *Machine) bestUpstream(st *stream) *session {
	var direct *session
	if origin := m.peers[st.Origin]; origin != nil {
		direct = origin.session
	}
	unfit := func(s *session) bool {
		return s.id == st.avoid && m.now.Before(st.avoidUntil) || s.pruned[st.Stream]
	}
	if direct != nil && !unfit(direct) {
		return direct
	}
	own := st.Origin == m.self.Device
	var best *session
	if s := st.upstream; s != nil && s != direct && !unfit(s) && (!own || m.isAhead(s, st)) {
		if len(st.tail) > 0 || m.isAhead(s, st) {
			return s
		}
		best = s // which has nothing of a new stream either: whoever has takes its place at once
	}
	for _, p := range m.peerOrder {
		s := p.session
		if s == nil || unfit(s) {
			continue
		}
		ahead := m.isAhead(s, st)
		if !ahead && (own || !m.graph.CoversAll(s.vector[st.Stream], st.tail)) {
			continue
		}
		if best == nil || ahead && (!m.isAhead(best, st) || s.vector[st.Stream].Top() > best.vector[st.Stream].Top()) {
			best = s
		}
	}
	if best == nil && direct != nil && !direct.pruned[st.Stream] {
		return direct // better one that stalls than none
	}
	return best
}

// isAhead reports whether a peer has something of a stream that has not been received here.
func (m *Machine) isAhead(s *session, st *stream) bool {
	return !m.graph.CoversAll(st.tail, s.vector[st.Stream])
}

// meet takes in streams that a member has and this device does not know of. A member can make this device remember no
// more of them than leaves room for those of the members themselves.
func (m *Machine) meet(vector []streamHeads) {
	for _, has := range vector {
		if len(m.streams) < m.limits.Marks/2 {
			m.ensureStream(has.Stream)
		}
	}
}

func (m *Machine) subscribe(st *stream, s *session) {
	s.number++
	st.upstream, st.number, st.movedAt, st.aheadAt, st.unsure = s, s.number, m.now, time.Time{}, true
	st.start, st.startedAt, st.backfill = st.applied.Top(), m.now, len(st.applied) == 0
	st.target = s.vector[st.Stream] // and nothing that an earlier upstream had, which may be lost
	st.goal = st.target.Top()
	st.asked = st.tail
	if st.gaps == gapsAllowed {
		// The peer may know more epochs than this device, so that it begins further on than this device can follow. A
		// position that nobody knows makes it begin at the beginning, or say that a snapshot is needed.
		st.asked = history.At(m.self.Epoch, 1)
	}
	m.tell(s, st.asked)
	w := &s.wants[kindIndex(st.Kind)]
	w.Subscribe = append(w.Subscribe, protocol.Subscribe{Number: st.number, Origin: st.Origin, Since: st.asked})
}

// catchingUp reports whether a stream is not yet where its upstream was when it was asked. The upstream may have learned since
// that it was not so far.
func (m *Machine) catchingUp(st *stream) bool {
	return st.upstream != nil && !m.graph.CoversAll(st.applied, st.target) && !m.graph.CoversAll(st.applied, st.upstream.vector[st.Stream])
}

// unsubscribe ends the subscription and lets go of what was received and not handed to the Applier.
func (m *Machine) unsubscribe(st *stream) {
	s := st.upstream
	if s == nil {
		return
	}
	m.detach(st)
	if _, up := m.sessions[s.id]; up {
		w := &s.wants[kindIndex(st.Kind)]
		for i := range w.Subscribe {
			if w.Subscribe[i].Origin == st.Origin {
				w.Subscribe = append(w.Subscribe[:i], w.Subscribe[i+1:]...)
				break
			}
		}
		w.Drop = append(w.Drop, st.Origin)
	}
}

func (m *Machine) detach(st *stream) {
	st.upstream, st.aheadAt = nil, time.Time{}
	st.tail, st.queue, st.queueBytes = st.given, nil, 0
	m.acks.touch(st.Stream)
}

// delivery takes in a page.
func (m *Machine) delivery(s *session, d *protocol.Delivery) {
	page := &d.Page
	st := m.streams[page.Stream]
	if st == nil {
		m.log(hclog.Warn, "page refused: its stream is not known here", "peer", s.peer.String(), "origin", page.Origin.String())
		return
	}
	m.tally.received(s.peer.id, page)
	m.note(s, page.Stream, page.Heads)
	if st.upstream != s || st.number != d.Subscription {
		return // of a subscription that has been given up
	}
	switch {
	case m.graph.CoversAll(st.tail, page.Heads):
		s.unsent[st], s.ackNow = struct{}{}, true // a repetition: it still frees the sender's window
		if slices.ContainsFunc(page.Heads, func(p protocol.Position) bool { _, ok := st.tail.In(p.Epoch); return !ok }) {
			m.explain(s, slices.Concat(st.tail, page.Heads)) // the sender does not know that it is one
		}
		return
	case page.From > m.graph.Low(st.tail, page.Heads):
		m.gap(st, page)
		return
	}
	st.queue = append(st.queue, *page)
	st.queueBytes += page.Bytes()
	if st.queueBytes > 2*m.limits.WindowBytes+m.limits.MaxPageBytes {
		m.refuseOver(s, "window_bytes", "more pages than the window allows", true)
		return
	}
	st.tail, st.movedAt, st.unsure = m.graph.Join(st.tail, page.Heads), m.now, true
	st.goal = max(st.goal, page.Head)
	m.acks.touch(st.Stream)
	m.pump(st)
}

// gap asks again from where this device is, and holds the stream of a sender that keeps leaving gaps.
func (m *Machine) gap(st *stream, page *protocol.Page) {
	s := st.upstream
	st.gaps++
	m.tally.peer(s.peer.id).Gaps++
	m.log(hclog.Debug, "gap in a stream", "peer", s.peer.String(), "origin", st.Origin.String(), "kind", st.Kind,
		"have", st.tail.Top().String(), "from", page.From.String())
	if st.gaps > gapsAllowed {
		m.hold(st, s.peer.id, sdk.Errorf(sdk.CodeUnavailable, "%s leaves gaps in the stream of %s", s.peer, m.nameOf(st.Origin)))
		return
	}
	m.subscribe(st, s)
}

// pump hands queued pages to the Applier, small ones that follow each other as one.
func (m *Machine) pump(st *stream) {
	for len(st.handed) < appliesAhead(st.Kind) && len(st.queue) > 0 {
		page, n, size := m.merge(st.queue)
		rest := copy(st.queue, st.queue[n:])
		clear(st.queue[rest:])
		st.queue = st.queue[:rest]
		st.queueBytes -= size
		if len(st.given) == 0 && st.Kind == sdk.DeviceOwned {
			// Who has nothing is spared what was deleted, also on the pages that follow. A sender that is ahead of time is not
			// believed: it will take its stamps back, and a floor does not go down.
			st.floor = max(st.floor, min(page.Head, hlc.New(max(0, m.now.UnixMilli()), 0)))
		}
		st.given = m.graph.Join(st.given, page.Heads)
		page.Epochs = m.toStore(slices.Concat(page.Heads, st.applied))
		from := st.Origin
		if st.upstream != nil {
			from = st.upstream.peer.id
		}
		st.handed = append(st.handed, handed{since: m.now, from: from, models: modelsOf(&page)})
		st.applying++
		m.act(Apply{Generation: st.generation, Page: page, From: from})
	}
}

func modelsOf(page *protocol.Page) []sdk.ModelName {
	var models []sdk.ModelName
	for i := range page.Batches {
		if name := page.Batches[i].Model; !slices.Contains(models, name) {
			models = append(models, name)
		}
	}
	return models
}

// merge returns the first pages of a queue as one page that a frame can carry on, of about PageBytes at most unless the
// first is larger; how many they are; and their size together. Batches are referred to, not copied.
func (m *Machine) merge(queue []protocol.Page) (page protocol.Page, n, size int) {
	limits := &m.limits
	page, n, size = queue[0], 1, queue[0].Bytes()
	for ; n < len(queue); n++ {
		next := &queue[n]
		more := next.Bytes()
		if size+more > limits.PageBytes || len(page.Batches)+len(next.Batches) > limits.Batches {
			break
		}
		if n == 1 {
			page.Batches = append(make([]sdk.Batch, 0, 2*len(page.Batches)+len(next.Batches)), page.Batches...)
		}
		page.Batches = append(page.Batches, next.Batches...)
		page.From = min(page.From, next.From) // a page may begin within what came before it
		page.Through, page.Head = max(page.Through, next.Through), next.Head
		page.Heads = m.graph.Join(page.Heads, next.Heads)
		size += more
	}
	return page, n, size
}

// applied takes in the Applier's answer.
func (m *Machine) applied(e Applied) {
	st := m.streams[e.Page.Stream]
	if st == nil {
		return
	}
	st.applying = max(0, st.applying-1)
	m.pageApplied(st, &e)
	if st.snapshot != nil {
		m.takeNext(st.snapshot)
	}
}

func (m *Machine) pageApplied(st *stream, e *Applied) {
	current := e.Generation == st.generation
	if current && len(st.handed) > 0 {
		st.handed = slices.Delete(st.handed, 0, 1)
		if len(st.handed) > 0 {
			st.handed[0].since = m.now
		}
	}
	if e.Err != nil {
		if current {
			from := st.Origin
			if st.upstream != nil {
				from = st.upstream.peer.id
			}
			m.hold(st, from, e.Err)
		}
		return
	}
	st.gaps, st.heldCount = 0, 0
	m.tally.applied(e, st.Origin)
	if s := st.upstream; s != nil {
		s.rowsIn += int64(e.Page.Rows())
		s.ackNow = true
	}
	m.markStored(e.Page.Epochs)
	if len(e.Page.Batches) > 0 {
		m.acks.noteChange(e.Page.Stream, e.Page.Through)
	}
	m.advance(st, e.Page.Heads, &e.Page)
	m.pump(st)
	if st.Origin == m.self.Device && len(st.queue) == 0 {
		m.route(st) // once what was lost is back, nobody need send what is written here
	}
}

// advance moves a stream's watermark, tells the peers and serves them. page is what moved it, or nil.
func (m *Machine) advance(st *stream, to protocol.Heads, page *protocol.Page) {
	if m.graph.CoversAll(st.applied, to) {
		return
	}
	if st.start == 0 {
		st.start = to.Top()
	}
	fresh := len(st.applied) == 0
	st.rises.note(st.applied.Top(), to.Top(), m.now)
	st.applied = m.graph.Join(st.applied, to)
	st.given = m.graph.Join(st.given, to)
	st.tail = m.graph.Join(st.tail, to)
	if m.graph.CoversAll(st.applied, st.target) {
		st.target, st.goal = nil, 0
	}
	m.acks.moved = true
	m.acks.touch(st.Stream)
	for _, s := range m.sessionList {
		delete(s.pruned, st.Stream) // it may keep what comes next
		s.unsent[st] = struct{}{}   // also where the Hello of this device, which says less, is under way
		if s.ready() {
			m.serve(s, st, page)
			// Who waits for a new stream elsewhere, or has not heard of it, is told now and not by the next heartbeat.
			s.ackNow = s.ackNow || fresh && s.subs[st.Stream] == nil && len(s.vector[st.Stream]) == 0
		}
	}
}

// hold stops a stream for a while: what was received is dropped, the upstream is told why and sends no more until the
// stream is asked for again.
func (m *Machine) hold(st *stream, from sdk.DeviceID, err error) {
	code := sdk.CodeOf(err)
	least, most := m.config.RetryMin, m.config.RetryMax
	if !code.Retryable() {
		least, most = 10*least, 10*most
	}
	pause := m.backoff(st.heldCount, least, most)
	st.heldCount++
	m.tally.held(from, code)
	st.heldUntil, st.heldReason, st.heldPeer = m.now.Add(pause), err.Error(), from
	st.generation++
	st.handed = nil
	m.log(hclog.Warn, "stream held", "origin", m.nameOf(st.Origin), "kind", st.Kind, "code", code, "reason", err, "retry_in", pause.String())
	if s := st.upstream; s != nil {
		m.send(s, &protocol.Error{Code: code, Message: truncate(err.Error(), m.limits.TextBytes), Retryable: true, Stream: st.Stream})
	}
	m.unsubscribe(st)
	st.given, st.tail = st.applied, st.applied
	m.acks.touch(st.Stream)
	m.noteStateOf(from)
}

// noticeAhead takes in that a peer may be ahead of what has been received.
func (m *Machine) noticeAhead(st *stream, s *session) {
	if st.Origin == m.self.Device && !m.isAhead(s, st) {
		return // as nearly always: what is written here is acknowledged
	}
	st.unsure = true
	fresh := st.upstream != nil && len(st.tail) == 0 && !m.isAhead(st.upstream, st) && m.isAhead(s, st)
	if st.upstream == nil && st.snapshot == nil || fresh || m.needsSnapshot(st, st.upstream) {
		m.route(st)
	}
}

func (m *Machine) aheadElsewhere(st *stream) bool {
	for _, p := range m.peerOrder {
		if s := p.session; s != nil && s != st.upstream && !s.pruned[st.Stream] && m.isAhead(s, st) {
			return true
		}
	}
	return false
}

// tickStream retries what was held and replaces an upstream that has stalled while another peer is ahead. One that has
// nothing more to give is replaced soon, one that has but does not send is given longer.
func (m *Machine) tickStream(st *stream) {
	if !st.heldUntil.IsZero() {
		if !m.now.Before(st.heldUntil) {
			st.heldUntil, st.heldReason = time.Time{}, ""
			m.route(st)
		}
		return
	}
	if !st.avoidUntil.IsZero() && !m.now.Before(st.avoidUntil) {
		st.avoid, st.avoidUntil = 0, time.Time{}
		m.route(st)
	}
	if st.upstream == nil || len(st.handed) > 0 {
		return
	}
	if s := st.upstream; m.isAhead(s, st) && m.now.Sub(st.movedAt) > patience*m.config.RequestTime {
		m.end(s, fmt.Sprintf("no page of %s of %s within %s, although there are some", streamWord(st.Kind), m.nameOf(st.Origin), m.now.Sub(st.movedAt).Round(time.Second)))
		return
	}
	if !st.unsure {
		return
	}
	if st.unsure = m.aheadElsewhere(st); !st.unsure {
		st.aheadAt = time.Time{}
		return
	}
	if st.aheadAt.IsZero() {
		st.aheadAt = m.now
	}
	stall := m.config.StallTime
	if !m.isAhead(st.upstream, st) {
		stall /= 10
	}
	if m.now.Sub(latest(st.aheadAt, st.movedAt)) < stall {
		return
	}
	m.log(hclog.Info, "upstream stalled; asking another peer", "origin", m.nameOf(st.Origin), "kind", st.Kind, "upstream", st.upstream.peer.String())
	m.tally.peer(st.upstream.peer.id).Stalls++
	st.avoid, st.avoidUntil = st.upstream.id, m.now.Add(4*m.config.StallTime)
	m.route(st)
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func (m *Machine) nameOf(id sdk.DeviceID) string {
	if p := m.peers[id]; p != nil {
		return p.String()
	}
	if id == m.self.Device && m.self.Name != "" {
		return m.self.Name
	}
	return id.String()
}

func truncate(text string, limit int) string {
	if len(text) > limit {
		text = text[:max(0, limit-3)] + "..."
	}
	return strings.ToValidUTF8(text, "?")
}
