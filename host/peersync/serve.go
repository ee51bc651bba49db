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

// subscription is a stream that a peer has asked for. Everything up to cursor has been sent.
type subscription struct {
	stream   protocol.Stream
	number   uint32
	cursor   hlc.Stamp
	sent     []sentPage // ascending by through
	reading  bool       // a ReadPage is under way
	small    bool       // the last page came out too large to send: read the least
	lagging  bool       // stands in window.lagging
	retryAt  time.Time  // after a failed read
	failures int
}

type sentPage struct {
	through hlc.Stamp
	bytes   int
}

// acknowledge frees the window of pages up to stamp.
func (sub *subscription) acknowledge(w *window, stamp hlc.Stamp) {
	n := 0
	for n < len(sub.sent) && sub.sent[n].through <= stamp {
		w.used -= sub.sent[n].bytes
		n++
	}
	sub.sent = sub.sent[n:]
	if len(sub.sent) == 0 {
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
			m.refuse(s, sdk.CodeTooLarge, fmt.Sprintf("more than %d subscriptions", m.limits.Marks), false)
			return
		}
		sub := &subscription{stream: key, number: want.Number, cursor: want.Since.Stamp}
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
	sub.acknowledge(s.window(key.Kind), hlc.MaxStamp)
	delete(s.subs, key)
}

// serve sends what has just become durable: from memory where the peer is up to date and has room, else the
// subscription goes on from the database.
func (m *Machine) serve(s *session, st *stream, page *protocol.Page) {
	sub := s.subs[st.Stream]
	if sub == nil || sub.cursor >= st.applied.Stamp {
		return
	}
	if page != nil && !sub.reading && !sub.lagging && page.From <= sub.cursor && sub.cursor < page.Through {
		if size := page.Bytes(); m.fitsFrame(page, size) && s.window(st.Kind).room(size) {
			m.sendPage(s, sub, *page, size, true)
		}
	}
	m.fill(s, sub)
}

// fill reads the next page of a subscription that is behind, once there is room for it.
func (m *Machine) fill(s *session, sub *subscription) {
	st := m.streams[sub.stream]
	if st == nil || sub.reading || sub.lagging || sub.cursor >= st.applied.Stamp || m.now.Before(sub.retryAt) {
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
		Session: s.id, Subscription: sub.number, Stream: sub.stream, Since: sub.cursor, Head: st.applied.Stamp, MaxBytes: bytes,
	})
}

func (m *Machine) serveLagging(s *session) {
	for i := range s.windows {
		w := &s.windows[i]
		for len(w.lagging) > 0 && w.room(w.page) {
			sub := w.lagging[0]
			w.lagging = slices.Delete(w.lagging, 0, 1)
			sub.lagging = false
			if s.subs[sub.stream] == sub {
				m.fill(s, sub)
			}
		}
	}
}

// pageRead takes in a page from the database. Where a peer asks from below the floor, a snapshot takes its place.
func (m *Machine) pageRead(e PageRead) {
	s := m.sessions[e.Read.Session]
	if s == nil {
		return
	}
	s.window(e.Read.Stream.Kind).used -= e.Read.MaxBytes
	sub := s.subs[e.Read.Stream]
	if sub != nil && sub.number == e.Read.Subscription && sub.reading {
		sub.reading = false
		m.sendRead(s, sub, &e)
		m.fill(s, sub)
	}
	m.serveLagging(s)
}

func (m *Machine) sendRead(s *session, sub *subscription, e *PageRead) {
	page, err := e.Page, e.Err
	page.Stream, page.From = sub.stream, sub.cursor
	if !e.More {
		page.Through = max(page.Through, e.Read.Head)
	}
	size := page.Bytes()
	switch {
	case err != nil:
	case page.Through <= sub.cursor:
		err = sdk.Errorf(sdk.CodeInternal, "a page that ends where it begins, at %s", sub.cursor)
	case !m.fitsFrame(&page, size) && !sub.small:
		sub.small = true // a large record after many small ones: alone it fits
		return
	case !m.fitsFrame(&page, size):
		err = sdk.Errorf(sdk.CodeTooLarge, "a page of %d bytes in %d batches; at most %d in %d can be sent",
			size, len(page.Batches), m.limits.MaxPageBytes, m.limits.Batches)
	}
	if err != nil {
		sub.retryAt = m.now.Add(m.backoff(sub.failures, m.config.RetryMin, m.config.RetryMax))
		sub.failures++
		m.log(hclog.Error, "read a page for a peer", "peer", s.peer.String(), "origin", m.nameOf(sub.stream.Origin), "kind", sub.stream.Kind,
			"since", e.Read.Since.String(), "error", err.Error())
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
	page.Head = st.applied.Stamp
	if page.Epoch == (protocol.EpochID{}) {
		page.Epoch = st.applied.Epoch
	}
	s.window(sub.stream.Kind).used += size
	sub.sent = append(sub.sent, sentPage{through: page.Through, bytes: size})
	sub.cursor = page.Through
	s.rowsOut += int64(page.Rows())
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
