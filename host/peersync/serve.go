package peersync

import (
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/sdk"
)

// minPageBytes and minWindowBytes bound what a peer may ask for from below.
const (
	minPageBytes   = 4 << 10
	minWindowBytes = 64 << 10
)

// window bounds what a session has under way, all streams of one kind together.
type window struct {
	size    int
	page    int             // pages are cut at about this
	used    int             // sent and not acknowledged, and being read
	lagging []*subscription // that wait for room, first come first served
}

func (w *window) room(bytes int) bool { return w.used == 0 || w.used+bytes <= w.size }

func (s *session) window(kind sdk.Ownership) *window { return &s.windows[kindIndex(kind)] }

// subscription is a stream that a peer has asked for.
type subscription struct {
	stream   protocol.Stream
	number   uint32
	has      protocol.Heads // what the peer had, and what was sent to it
	exempt   hlc.Stamp      // the peer had nothing of the rows when this was the latest: it needs no memory of what was deleted before
	sent     []sentPage     // in the order of sending
	reading  bool           // a ReadPage is under way
	small    bool           // the last page came out too large to send: read the least
	lagging  bool           // stands in window.lagging
	retryAt  time.Time      // after a failed read
	failures int
}

type sentPage struct {
	heads protocol.Heads
	bytes int
}

// acknowledge frees the window of the pages that who has heads has.
func (m *Machine) acknowledge(sub *subscription, w *window, heads protocol.Heads) {
	m.freeWindow(sub, w, heads)
	sub.has = m.graph.Join(sub.has, heads) // it may have more, from others
}

func (m *Machine) freeWindow(sub *subscription, w *window, heads protocol.Heads) {
	for len(sub.sent) > 0 && m.graph.CoversAll(heads, sub.sent[0].heads) {
		sub.free(w, 1)
	}
}

// free gives back the room of the first n pages.
func (sub *subscription) free(w *window, n int) {
	for _, page := range sub.sent[:n] {
		w.used -= page.bytes
	}
	if sub.sent = sub.sent[n:]; len(sub.sent) == 0 {
		sub.sent = nil
	}
}

// request takes in what a peer wants sent, or no longer sent.
func (m *Machine) request(s *session, r *protocol.Request, kind sdk.Ownership) {
	w := s.window(kind)
	if r.PageBytes > 0 {
		w.page = min(max(r.PageBytes, minPageBytes), m.limits.PageBytes)
	}
	if r.WindowBytes > 0 {
		w.size = min(max(r.WindowBytes, minWindowBytes), m.limits.WindowBytes)
	}
	for _, origin := range r.Drop {
		m.cancel(s, protocol.Stream{Origin: origin, Kind: kind})
	}
	for _, want := range r.Subscribe {
		key := protocol.Stream{Origin: want.Origin, Kind: kind}
		m.cancel(s, key)
		if len(s.subs) >= m.limits.Marks {
			m.refuseOver(s, "marks", fmt.Sprintf("more than %d subscriptions", m.limits.Marks), false)
			return
		}
		sub := &subscription{stream: key, number: want.Number, has: want.Since}
		if st := m.streams[key]; st != nil && kind == sdk.DeviceOwned && len(want.Since) == 0 {
			sub.exempt = max(st.applied.Top(), st.below())
		}
		s.subs[key] = sub
		delete(s.holds, key)
		m.fill(s, sub)
	}
	m.serveLagging(s)
	m.noteState(s.peer)
}

// cancel ends a subscription. The room of a read under way is given back when it returns, so that asking again and
// again does not multiply reads.
func (m *Machine) cancel(s *session, key protocol.Stream) {
	sub := s.subs[key]
	if sub == nil {
		return
	}
	w := s.window(key.Kind)
	sub.free(w, len(sub.sent))
	if sub.lagging {
		w.lagging = slices.DeleteFunc(w.lagging, func(other *subscription) bool { return other == sub })
	}
	delete(s.subs, key)
}

// serve sends what has just become durable: from memory where the peer is up to date and has room, else the
// subscription goes on from the database.
func (m *Machine) serve(s *session, st *stream, page *protocol.Page) {
	sub := s.subs[st.Stream]
	if sub == nil || m.graph.CoversAll(sub.has, st.applied) {
		return
	}
	if page != nil && !sub.reading && !sub.lagging && page.From <= m.graph.Low(sub.has, page.Heads) && !m.graph.CoversAll(sub.has, page.Heads) {
		if size := page.Bytes(); m.fitsFrame(page, size) && s.window(st.Kind).room(size) {
			m.sendPage(s, sub, *page, size, true)
		}
	}
	m.fill(s, sub)
}

// fill reads the next page of a subscription that is behind, once there is room for it.
func (m *Machine) fill(s *session, sub *subscription) {
	st := m.streams[sub.stream]
	if st == nil || sub.reading || sub.lagging || m.now.Before(sub.retryAt) || m.graph.CoversAll(sub.has, st.applied) {
		return
	}
	since := m.graph.Low(sub.has, st.applied)
	if m.isBelowFloor(st, sub, since) {
		m.refuseBelowFloor(s, sub)
		return
	}
	w := s.window(sub.stream.Kind)
	bytes := w.page
	if sub.small {
		bytes = minPageBytes
	}
	if !w.room(bytes) {
		sub.lagging = true
		w.lagging = append(w.lagging, sub)
		return
	}
	sub.reading = true
	w.used += bytes
	m.act(ReadPage{
		Session: s.id, Subscription: sub.number, Stream: sub.stream, Since: since, Heads: st.applied, MaxBytes: bytes,
	})
}

// isBelowFloor reports whether what comes after since is not all here any more.
func (m *Machine) isBelowFloor(st *stream, sub *subscription, since hlc.Stamp) bool {
	return since < st.below() && sub.exempt < st.below()
}

// below is the floor in force.
func (st *stream) below() hlc.Stamp { return max(st.floor, st.pending) }

// refuseBelowFloor tells a peer that it needs a snapshot, and ends the subscription.
func (m *Machine) refuseBelowFloor(s *session, sub *subscription) {
	m.send(s, &protocol.Error{
		Code: sdk.CodePruned, Message: "what comes next has been pruned here; a snapshot has it", Retryable: true, Stream: sub.stream,
	})
	m.cancel(s, sub.stream)
}

func (m *Machine) serveLagging(s *session) {
	for i := range s.windows {
		w := &s.windows[i]
		for len(w.lagging) > 0 && w.room(w.page) {
			sub := w.lagging[0]
			w.lagging = slices.Delete(w.lagging, 0, 1)
			sub.lagging = false
			m.fill(s, sub)
		}
	}
}

// pageRead takes in a page from the database. What was read while the floor rose above its beginning may lack something.
func (m *Machine) pageRead(e PageRead) {
	s := m.sessions[e.Read.Session]
	if s == nil {
		return
	}
	s.window(e.Read.Stream.Kind).used -= e.Read.MaxBytes
	sub := s.subs[e.Read.Stream]
	if sub != nil && sub.number == e.Read.Subscription && sub.reading {
		sub.reading = false
		switch {
		case sdk.CodeOf(e.Err) == sdk.CodePruned: // the store knows of a floor of which this machine has not been told yet
			m.refuseBelowFloor(s, sub)
		case m.isBelowFloor(m.streams[sub.stream], sub, e.Read.Since):
			m.fill(s, sub)
		default:
			m.sendRead(s, sub, &e)
			m.fill(s, sub)
		}
	}
	m.serveLagging(s)
}

func (m *Machine) sendRead(s *session, sub *subscription, e *PageRead) {
	page, err := e.Page, e.Err
	page.Stream, page.From, page.Heads = sub.stream, e.Read.Since, e.Read.Heads
	if e.More {
		page.Heads = m.graph.Until(e.Read.Heads, page.Through)
	} else {
		page.Through = max(page.Through, e.Read.Heads.Top())
	}
	size := page.Bytes()
	switch {
	case err != nil:
	case m.graph.CoversAll(sub.has, page.Heads):
		return // the peer has got it meanwhile, from others
	case page.Through <= page.From:
		err = sdk.Errorf(sdk.CodeInternal, "a page that ends where it begins, at %s", page.From)
	case !m.fitsFrame(&page, size) && !sub.small:
		sub.small = true // a large record after many small ones: alone it fits
		return
	case !m.fitsFrame(&page, size):
		m.over["max_page_bytes"]++
		err = sdk.Errorf(sdk.CodeTooLarge, "a page of %d bytes in %d batches; at most %d in %d can be sent: over the limits max_page_bytes or batches",
			size, len(page.Batches), m.limits.MaxPageBytes, m.limits.Batches)
	}
	if err != nil {
		sub.retryAt = m.now.Add(m.backoff(sub.failures, m.config.RetryMin, m.config.RetryMax))
		sub.failures++
		m.tally.peer(s.peer.id).ReadFailures++
		m.log(hclog.Error, "read a page for a peer", "peer", s.peer.String(), "origin", m.nameOf(sub.stream.Origin), "kind", sub.stream.Kind,
			"since", e.Read.Since.String(), "error", err)
		return
	}
	sub.failures, sub.small = 0, false
	m.sendPage(s, sub, page, size, false)
}

// fitsFrame reports whether a peer takes such a page.
func (m *Machine) fitsFrame(page *protocol.Page, size int) bool {
	return size <= m.limits.MaxPageBytes && len(page.Batches) <= m.limits.Batches
}

func (m *Machine) sendPage(s *session, sub *subscription, page protocol.Page, size int, live bool) {
	st := m.streams[sub.stream]
	page.Head, page.Epochs = max(page.Through, st.applied.Top(), st.below()), nil // never below what the peer lacks tombstones of
	m.tell(s, page.Heads)
	s.window(sub.stream.Kind).used += size
	sub.sent = append(sub.sent, sentPage{heads: page.Heads, bytes: size})
	sub.has = m.graph.Join(sub.has, page.Heads)
	s.rowsOut += int64(page.Rows())
	m.tally.sent(s.peer.id, &page)
	d := protocol.Delivery{Subscription: sub.number, Page: page}
	if live {
		m.send(s, protocol.Live(d))
	} else {
		m.send(s, protocol.CatchUp(d))
	}
}

// retryReads goes on with subscriptions whose read failed and whose pause is over.
func (m *Machine) retryReads(s *session) {
	var due []*subscription
	for _, sub := range s.subs {
		if !sub.retryAt.IsZero() && !m.now.Before(sub.retryAt) {
			due = append(due, sub)
		}
	}
	slices.SortFunc(due, func(a, b *subscription) int { return a.stream.Compare(b.stream) })
	for _, sub := range due {
		sub.retryAt = time.Time{}
		m.fill(s, sub)
	}
}
