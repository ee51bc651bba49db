package main

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"github.com/starling-sync/starling/host/peersync"
	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/sdk"
)

// link joins two devices. Sessions run over it as over TCP: in order, or not at all.
type link struct {
	ends    [2]*device
	down    bool    // neither way
	cut     [2]bool // messages to ends[i]: they wait until the session ends or the cut does
	latency time.Duration
}

func (l *link) passes(i int) bool { return !l.down && !l.cut[i] }

// conn is one session.
type conn struct {
	link *link
	ends [2]*device
	gens [2]int // the starts of the ends that the session belongs to
	ids  [2]peersync.SessionID
	to   [2]flow
	dead [2]bool // the end i has gone or has been told

	told   [2]map[protocol.EpochID]bool // epochs that the end i has told of
	known  [2]map[protocol.EpochID]bool // epochs that the other end has named to the end i
	ranges [2]int                       // requests for records of the end i that are not answered
}

// flow is one direction of a session.
type flow struct {
	queue  []parcel
	due    time.Duration // when the latest message arrives
	ended  bool          // nothing more is sent
	waking bool
	unread [2]int // bytes of pages that the receiver has not acknowledged, by kind
	sent   map[protocol.Stream][]sentPage
}

type parcel struct {
	at      time.Duration
	message protocol.Message
	frame   []byte // instead, where the world encodes
}

type sentPage struct {
	page  protocol.Page
	bytes int
}

func (w *world) jitter(r *rand.Rand, most time.Duration) time.Duration {
	return time.Duration(r.Int64N(int64(most) + 1))
}

// dial connects, or fails as a network does: at once where nobody listens, late where nothing answers.
func (w *world) dial(d *device, a peersync.Dial) {
	n, _ := strconv.Atoi(a.Addresses[0].Address)
	peer, l := w.devices[n], w.links[d.index][n]
	w.plan(2*l.latency+w.jitter(w.netRand, l.latency), d, func() {
		if peer.up && !peer.stopped && l.passes(0) && l.passes(1) {
			w.connect(d, peer, l)
			return
		}
		pause := time.Duration(0)
		if peer.stopped || !l.passes(0) || !l.passes(1) {
			pause = w.config.DialTime
		}
		w.plan(pause, d, func() {
			w.bug.dialFailed(d, peersync.DialFailed{Peer: peer.id, Err: sdk.Errorf(sdk.CodeUnavailable, "no answer")})
		})
	})
}

func (w *world) connect(d, peer *device, l *link) {
	w.sessions += 2
	c := &conn{link: l, ends: [2]*device{d, peer}, gens: [2]int{d.starts, peer.starts}, ids: [2]peersync.SessionID{w.sessions - 1, w.sessions}}
	for i := range c.ends {
		c.told[i], c.known[i] = map[protocol.EpochID]bool{}, map[protocol.EpochID]bool{}
	}
	w.conns = append(w.conns, c)
	w.stats.Sessions++
	w.trace(d, "connect", "%s", peer)
	d.step(peersync.PeerUp{Session: c.ids[0], Peer: peer.id, Dialed: true, Via: "sim"})
	w.plan(l.latency, peer, func() {
		if !c.dead[1] {
			peer.step(peersync.PeerUp{Session: c.ids[1], Peer: d.id, Via: "sim"})
		}
	})
}

func (w *world) find(d *device, id peersync.SessionID) (*conn, int) {
	for _, c := range w.conns {
		for i := range c.ends {
			if c.ids[i] == id && c.ends[i] == d && c.gens[i] == d.starts {
				return c, i
			}
		}
	}
	return nil, 0
}

func (w *world) send(d *device, id peersync.SessionID, m protocol.Message) {
	c, i := w.find(d, id)
	if c == nil || c.dead[i] || c.to[1-i].ended {
		return
	}
	w.stats.Messages++
	f := &c.to[1-i]
	w.checkWindow(d, c, f, m)
	w.checkRanges(d, c, i, m)
	w.checkTold(d, c, i, m)
	w.checkRetired(d, c.ends[1-i], m)
	w.noteNoise(d, c.ends[1-i], m)
	switch m := m.(type) {
	case *protocol.SnapshotRequest:
		w.noteAsked(d, c.ends[1-i], m)
	case *protocol.SnapshotPage:
		w.carry(d, c, 1-i, m)
	case *protocol.AuditResponse:
		if !m.Moved && len(m.Models) == 0 {
			w.stats.AuditsEqual++
		}
	}
	p := parcel{message: m}
	if w.encode {
		frame, err := w.options.codec.AppendFrame(nil, m)
		w.check(err, "encode %s", m.Type())
		p = parcel{frame: frame}
	}
	f.due = max(f.due, w.now+c.link.latency+w.jitter(w.netRand, c.link.latency))
	p.at = f.due
	f.queue = append(f.queue, p)
	w.wake(c, 1-i)
}

// wake plans the arrival of what flows to end i.
func (w *world) wake(c *conn, i int) {
	f := &c.to[i]
	if f.waking || (len(f.queue) == 0 && !f.ended) {
		return
	}
	f.waking = true
	at := w.now + c.link.latency
	if len(f.queue) > 0 {
		at = max(w.now, f.queue[0].at)
	}
	w.after(at-w.now, func() {
		f.waking = false
		w.arrive(c, i)
	})
}

// arrive lets the first message to end i arrive, or its end.
func (w *world) arrive(c *conn, i int) {
	f, d := &c.to[i], c.ends[i]
	if c.dead[i] || !c.link.passes(i) || d.starts != c.gens[i] || !d.up || d.stopped {
		return // wake is called again when that is over
	}
	if len(f.queue) == 0 {
		if f.ended {
			w.tell(c, i)
		}
		return
	}
	p := f.queue[0]
	f.queue = f.queue[1:]
	if p.frame != nil {
		var err error
		p.message, err = protocol.NewReader(bytes.NewReader(p.frame), w.options.codec).Read()
		w.check(err, "decode a frame")
	}
	w.traceMessage(d, c.ends[1-i], p.message)
	w.freed(c, i, p.message)
	w.hear(c, i, p.message)
	if m := w.bug.message(d, p.message); m != nil {
		d.step(peersync.Received{Session: c.ids[i], Message: m})
	}
	w.wake(c, i)
}

// tell tells end i that the session is over.
func (w *world) tell(c *conn, i int) {
	if c.dead[i] {
		return
	}
	c.dead[i] = true
	if d := c.ends[i]; d.up && d.starts == c.gens[i] {
		d.step(peersync.PeerDown{Session: c.ids[i], Err: sdk.Errorf(sdk.CodeUnavailable, "the connection ended")})
	}
	c.to[1-i].ended = true
	w.wake(c, 1-i)
	w.forget(c)
}

// closeEnd is a device's own end of a session, after what it has sent.
func (w *world) closeEnd(d *device, id peersync.SessionID) {
	c, i := w.find(d, id)
	if c == nil || c.dead[i] {
		return
	}
	c.dead[i] = true
	c.to[1-i].ended = true
	w.wake(c, 1-i)
	w.forget(c)
}

func (w *world) forget(c *conn) {
	if c.dead[0] && c.dead[1] {
		w.conns = slices.DeleteFunc(w.conns, func(other *conn) bool { return other == c })
	}
}

// reset breaks a session: what is under way is lost, and both ends are told, as far as the network passes it on.
func (w *world) reset(c *conn) {
	w.trace(c.ends[0], "reset", "%s", c.ends[1])
	for i := range c.ends {
		c.to[i].queue = nil
		c.to[i].ended = true
	}
	for i := range c.ends {
		w.wake(c, i)
	}
}

// gone is what happens to the sessions of a device that has crashed: with a power cut nobody is told.
func (w *world) gone(d *device, silent bool) {
	for _, c := range slices.Clone(w.conns) {
		for i := range c.ends {
			if c.ends[i] != d || c.dead[i] {
				continue
			}
			c.dead[i] = true
			c.to[1-i].queue = nil
			if !silent {
				c.to[1-i].ended = true
				w.wake(c, 1-i)
			}
			w.forget(c)
		}
	}
}

// wakeAll goes on with everything that has waited for a cut or a stop to end.
func (w *world) wakeAll() {
	for _, c := range slices.Clone(w.conns) {
		w.wake(c, 0)
		w.wake(c, 1)
	}
}
