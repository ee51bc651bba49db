package peersync

import (
	"context"
	"maps"
	"time"

	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/sdk"
)

// Figures are what an engine has counted since it was made, and what it holds now, for machines to watch.
type Figures struct {
	Peers     map[sdk.DeviceID]PeerFigures // every member but this device
	RoundTrip map[string]Histogram         // of heartbeats, by the label of the transport

	Streams        int // that are known
	HeldStreams    int // that wait before they are tried again
	Snapshots      int // under way
	CommitsWaiting int // bytes of local commits that the loop has not taken up
	Repairs        int // records that audits have repaired
	Refusals       map[string]int64
}

// Changes counts the changes of one model that went to or came from one peer, each as often as it did. What came is
// received; of that, as far as it was made durable, applied: then stale, refused, parked and conflicts say what became of it.
type Changes struct {
	Sent, Received, Applied           int64
	Stale, Refused, Parked, Conflicts int64 // as in Account
}

// modelsCounted bounds the models that are counted apart for one peer, which may name as many as it likes.
const modelsCounted = 64

// OtherModels stands for the models of a peer beyond those that are counted apart.
const OtherModels sdk.ModelName = "(other)"

// PeerFigures are about one peer.
type PeerFigures struct {
	Changes                map[sdk.ModelName]Changes // of at most modelsCounted models, and of OtherModels
	BytesIn, BytesOut      int64                     // of all connections, as they are on the wire within TLS
	Sessions               int64                     // that were begun
	DialFailures           int64                     // attempts to reach it at all its addresses
	Holds                  map[sdk.Code]int64        // times that a stream which came from it was held, by why; at most holdsCounted
	Gaps                   int64                     // pages that did not continue what was there
	Stalls                 int64                     // times that another peer took its place as an upstream
	ReadFailures           int64                     // pages for it that could not be read here
	SnapshotRecords        int64                     // taken from it, for snapshots and audits
	UnacknowledgedBytes    int                       // sent to it and not acknowledged, or being read for it
	QueuedBytes            int                       // of pages that have come from it and wait for the Applier
	QueuedMessages         int                       // that wait to leave
	HeldStreams            int                       // that came from it
	StreamsIn, StreamsLive int                       // that it is the upstream of; of those, that are not catching up
}

// Account says what became of the changes of one model in a page.
type Account struct {
	Model     sdk.ModelName
	Stale     int // known already, or older than what is stored
	Refused   int // that can not be stored
	Parked    int // kept for a plugin that is not here, or fails on them
	Conflicts int // values that lost to a write that had not seen them
}

// Accountant may be implemented by a Prepared. Account is called after a Commit that succeeded.
type Accountant interface{ Account() []Account }

// Histogram counts durations in buckets whose bounds double.
type Histogram struct {
	Counts [histogramBuckets + 1]uint64 // the last one: above the greatest bound
	Sum    time.Duration
}

const (
	histogramBuckets = 16
	histogramLeast   = 250 * time.Microsecond // 250 us to 8.2 s
)

// Bound returns the greatest duration of bucket i.
func (Histogram) Bound(i int) time.Duration { return histogramLeast << i }

func (h *Histogram) observe(d time.Duration) {
	i := 0
	for i < histogramBuckets && d > h.Bound(i) {
		i++
	}
	h.Counts[i]++
	h.Sum += d
}

// tally is what a machine counts. It decides nothing.
type tally struct {
	peers     map[sdk.DeviceID]*counted
	roundTrip map[string]*Histogram
}

type counted struct {
	PeerFigures // but Changes
	changes     map[sdk.ModelName]*Changes
}

func newTally() tally {
	return tally{peers: map[sdk.DeviceID]*counted{}, roundTrip: map[string]*Histogram{}}
}

// holdsCounted bounds the codes that are counted apart: a plugin may answer with codes of its own.
const holdsCounted = 32

// held counts a stream that came from peer and was held; a code too many counts as CodeInternal.
func (t *tally) held(peer sdk.DeviceID, code sdk.Code) {
	holds := t.peer(peer).Holds
	if _, counted := holds[code]; !counted && len(holds) >= holdsCounted-1 {
		code = sdk.CodeInternal
	}
	holds[code]++
}

func (t *tally) of(peer sdk.DeviceID, model sdk.ModelName) *Changes {
	changes := t.peer(peer).changes
	if c := changes[model]; c != nil {
		return c
	}
	if len(changes) >= modelsCounted && model != OtherModels {
		return t.of(peer, OtherModels)
	}
	c := &Changes{}
	changes[model] = c
	return c
}

func (t *tally) peer(id sdk.DeviceID) *counted {
	p := t.peers[id]
	if p == nil {
		p = &counted{PeerFigures: PeerFigures{Holds: map[sdk.Code]int64{}}, changes: map[sdk.ModelName]*Changes{}}
		t.peers[id] = p
	}
	return p
}

func (t *tally) sent(peer sdk.DeviceID, page *protocol.Page) {
	for i := range page.Batches {
		t.of(peer, page.Batches[i].Model).Sent += int64(page.Batches[i].Count)
	}
}

func (t *tally) received(peer sdk.DeviceID, page *protocol.Page) {
	for i := range page.Batches {
		t.of(peer, page.Batches[i].Model).Received += int64(page.Batches[i].Count)
	}
}

func (t *tally) applied(e *Applied, from sdk.DeviceID) {
	if !e.From.IsZero() {
		from = e.From
	}
	for i := range e.Page.Batches {
		t.of(from, e.Page.Batches[i].Model).Applied += int64(e.Page.Batches[i].Count)
	}
	for _, a := range e.Accounts {
		c := t.of(from, a.Model)
		c.Stale += int64(a.Stale)
		c.Refused += int64(a.Refused)
		c.Parked += int64(a.Parked)
		c.Conflicts += int64(a.Conflicts)
	}
}

func (t *tally) rtt(via string, d time.Duration) {
	h := t.roundTrip[via]
	if h == nil {
		h = &Histogram{}
		t.roundTrip[via] = h
	}
	h.observe(d)
}

// forget drops what was counted of a device that is no member any more, so that what is remembered stays bounded by the
// members and their models.
func (t *tally) forget(peer sdk.DeviceID) { delete(t.peers, peer) }

// Figures returns what the machine has counted, and holds. Bytes and QueuedMessages are left to the caller who counts them.
func (m *Machine) Figures() Figures {
	f := Figures{
		Peers:     make(map[sdk.DeviceID]PeerFigures, len(m.peerOrder)),
		RoundTrip: make(map[string]Histogram, len(m.tally.roundTrip)), Streams: len(m.streamList), Snapshots: len(m.snapshots),
		Repairs: m.repairs, Refusals: maps.Clone(m.over),
	}
	for via, h := range m.tally.roundTrip {
		f.RoundTrip[via] = *h
	}
	for _, p := range m.peerOrder {
		counted := m.tally.peer(p.id)
		one := counted.PeerFigures
		one.Holds, one.Changes = maps.Clone(one.Holds), make(map[sdk.ModelName]Changes, len(counted.changes))
		for model, c := range counted.changes {
			one.Changes[model] = *c
		}
		if s := p.session; s != nil {
			one.UnacknowledgedBytes = s.windows[0].used + s.windows[1].used
		}
		f.Peers[p.id] = one
	}
	at := func(id sdk.DeviceID, change func(*PeerFigures)) {
		if one, ok := f.Peers[id]; ok {
			change(&one)
			f.Peers[id] = one
		}
	}
	for _, st := range m.streamList {
		if !st.heldUntil.IsZero() {
			f.HeldStreams++
			at(st.heldPeer, func(p *PeerFigures) { p.HeldStreams++ })
		}
		if st.upstream == nil {
			continue
		}
		at(st.upstream.peer.id, func(p *PeerFigures) {
			p.QueuedBytes += st.queueBytes
			if p.StreamsIn++; !m.catchingUp(st) {
				p.StreamsLive++
			}
		})
	}
	return f
}

// Figures returns what the engine has counted since it was made, and holds now. It waits for a step of the machine, and
// takes memory by the number of peers and models.
func (e *Engine) Figures() Figures {
	e.stepMu.Lock()
	f := e.machine.Figures()
	e.stepMu.Unlock()
	f.CommitsWaiting = e.commits.size()
	e.mu.Lock()
	defer e.mu.Unlock()
	for limit, n := range e.refusals {
		f.Refusals[limit] += n
	}
	bytes := maps.Clone(e.ended)
	for _, l := range e.links {
		b := bytes[l.peer]
		b.in += l.in.Load()
		b.out += l.out.Load()
		b.queued += l.queued()
		if bytes == nil {
			bytes = map[sdk.DeviceID]traffic{}
		}
		bytes[l.peer] = b
	}
	for id, b := range bytes {
		if p, ok := f.Peers[id]; ok {
			p.BytesIn, p.BytesOut, p.QueuedMessages = b.in, b.out, b.queued
			f.Peers[id] = p
		}
	}
	return f
}

// traffic is what the connections of a peer carried.
type traffic struct {
	in, out int64
	queued  int
}

// noteEnded keeps the bytes of a link that is over. The caller holds mu.
func (e *Engine) noteEnded(l *link) {
	if e.ended == nil {
		e.ended = map[sdk.DeviceID]traffic{}
	}
	t := e.ended[l.peer]
	t.in += l.in.Load()
	t.out += l.out.Load()
	e.ended[l.peer] = t
}

// queued returns how many messages wait to leave.
func (l *link) queued() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.urgent) + len(l.bulk)
}

func (q *commitQueue) size() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.bytes
}

// Alive returns once the loop has taken up what lay before the call; its error says that ctx, or Run, has ended before.
func (e *Engine) Alive(ctx context.Context) error {
	asked := make(chan struct{})
	select {
	case e.asks <- asked:
	case <-ctx.Done():
		return ctx.Err()
	case <-e.ctx.Done():
		return errEnded
	}
	select {
	case <-asked:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-e.ctx.Done():
		return errEnded
	}
}
