package peersync

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/sdk"
)

// ticksPerBeat is how often the machine is told the time in each heartbeat.
const ticksPerBeat = 8

// Engine runs the connections and acts for the machine. Its methods may be called at once.
type Engine struct {
	options   Options
	codec     *protocol.Codec
	events    chan Event
	commits   commitQueue
	asks      chan chan struct{} // of Alive: closed by the loop
	reads     chan struct{}      // a token for each page that is being read
	digests   chan struct{}      // a token for the one Digests call under way
	greetings greetings
	ctx       context.Context // ends when Run does; everything started for the engine hangs on it
	cancel    context.CancelFunc

	stepMu  sync.Mutex
	machine *Machine

	mu         sync.Mutex
	closed     bool // nothing is started any more
	running    sync.WaitGroup
	links      map[SessionID]*link
	lastID     SessionID
	transports []transport // by label
	pipes      map[protocol.Stream]*pipe
	learned    []Acknowledged // to be kept at the next beat
	keeping    bool           // that is under way
	refusals   map[string]int64
	ended      map[sdk.DeviceID]traffic // of links that are over
	carried    map[sdk.Transport]int    // connections of each transport, from the time that they are dialled or accepted
}

type transport struct {
	label string
	sdk.Transport
}

// New returns an engine. It starts nothing.
func New(o Options) (*Engine, error) {
	if o.Applier == nil || o.Reader == nil || o.Ranges == nil || o.Keeper == nil || o.Security == nil || o.Self.Device.IsZero() {
		return nil, sdk.Errorf(sdk.CodeInternal, "make the sync engine: Self, Applier, Reader, Ranges, Keeper and Security are required")
	}
	o = withDefaults(o)
	codec, err := protocol.NewCodec(o.Limits)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	return &Engine{
		options: o, codec: codec, events: make(chan Event, 256), asks: make(chan chan struct{}), ctx: ctx, cancel: cancel,
		commits: commitQueue{limit: o.Config.CommitsQueue, wake: make(chan struct{}, 1)},
		reads:   make(chan struct{}, o.Config.ReadsAtOnce), digests: make(chan struct{}, 1),
		links: map[SessionID]*link{}, carried: map[sdk.Transport]int{}, pipes: map[protocol.Stream]*pipe{},
		machine: NewMachine(MachineOptions{
			Self: o.Self, Models: o.Models, Stored: o.Stored, Members: o.Members, Limits: o.Limits, Config: o.Config, Rand: o.Rand,
		}),
	}, nil
}

func withDefaults(o Options) Options {
	if o.Limits == (protocol.Limits{}) {
		o.Limits = protocol.DefaultLimits()
	}
	if o.Config == (Config{}) {
		o.Config = DefaultConfig()
	}
	if o.Log == nil {
		o.Log = hclog.NewNullLogger()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Rand == nil {
		o.Rand = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())) //nolint:gosec // jitter
	}
	return o
}

// Run syncs until ctx ends, then ends every connection and everything it has started, and returns nil. It runs once.
func (e *Engine) Run(ctx context.Context) error {
	defer e.stop()
	ticker := time.NewTicker(max(e.options.Config.Heartbeat/ticksPerBeat, time.Millisecond))
	defer ticker.Stop()
	e.step(Tick{})
	ticks := 0
	for {
		select {
		case <-ctx.Done():
			return nil
		case event := <-e.events:
			if _, ok := event.(Digested); ok {
				e.stepCommits() // what was summed may have them
			}
			e.step(event)
		case asked := <-e.asks:
			close(asked)
		case <-e.commits.wake:
			e.stepCommits()
		case <-ticker.C:
			e.noteArrivals()
			e.step(Tick{})
			if ticks++; ticks%ticksPerBeat == 0 {
				e.keepLearned()
			}
		}
	}
}

// stepCommits tells the machine of what was committed here.
func (e *Engine) stepCommits() {
	pages, advanced := e.commits.take()
	for i := range pages {
		e.step(Committed{Page: pages[i]})
	}
	for _, a := range advanced {
		e.step(a)
	}
}

// noteArrivals tells the machine of connections on which bytes have arrived, be it less than a message.
func (e *Engine) noteArrivals() {
	var heard []SessionID
	e.mu.Lock()
	for id, l := range e.links {
		if arrived := l.wire.arrived.Load(); arrived != l.noted {
			l.noted = arrived
			heard = append(heard, id)
		}
	}
	e.mu.Unlock()
	for _, id := range heard {
		e.step(Heard{Session: id})
	}
}

func (e *Engine) stop() {
	e.mu.Lock()
	e.closed = true
	links := make([]*link, 0, len(e.links))
	for _, l := range e.links {
		links = append(links, l)
	}
	e.mu.Unlock()
	e.cancel()
	for _, l := range links {
		l.cut()
	}
	e.running.Wait()
}

// spawn runs fn in a goroutine that Run waits for. It reports false, and runs nothing, once Run has ended.
func (e *Engine) spawn(fn func()) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return false
	}
	e.running.Go(fn)
	return true
}

// post hands an event to the loop. It blocks while the loop is busy, and returns when Run ends.
func (e *Engine) post(event Event) {
	select {
	case e.events <- event:
	case <-e.ctx.Done():
	}
}

// step takes one event and does what the machine asks. Nothing here blocks.
func (e *Engine) step(event Event) {
	e.stepMu.Lock()
	defer e.stepMu.Unlock()
	for _, action := range e.machine.Step(e.options.Now(), event) {
		e.act(action)
	}
}

func (e *Engine) act(action Action) {
	switch a := action.(type) {
	case Send:
		if l := e.link(a.Session); l != nil {
			l.send(a.Message)
		}
	case Close:
		if l := e.link(a.Session); l != nil {
			l.end()
		}
	case Apply:
		e.apply(a)
	case ReadPage:
		e.spawn(func() { e.readPage(a) })
	case ReadRange:
		e.spawn(func() { e.readRange(a) })
	case TakeRange:
		e.spawn(func() {
			taken, err := e.options.Ranges.TakeRange(e.ctx, a)
			e.post(RangeTaken{Take: a, Taken: taken, Err: err})
		})
	case Digest:
		e.spawn(func() { e.digest(a) })
	case Prune:
		e.spawn(func() { e.post(e.prune(a)) })
	case Seal:
		e.spawn(func() { e.post(Sealed{Err: e.options.Keeper.Seal(e.ctx)}) })
	case Dial:
		e.spawn(func() { e.dial(a) })
	case Acknowledged:
		e.learn(a)
	case Log:
		e.options.Log.Log(a.Level, a.Message, a.Args...)
	}
}

func (e *Engine) readPage(a ReadPage) {
	select {
	case e.reads <- struct{}{}:
	case <-e.ctx.Done():
		return
	}
	page, more, err := e.options.Reader.ReadPage(e.ctx, a.Stream, a.Since, a.MaxBytes)
	<-e.reads
	e.post(PageRead{Read: a, Page: page, More: more, Err: err})
}

func (e *Engine) readRange(a ReadRange) {
	select {
	case e.reads <- struct{}{}:
	case <-e.ctx.Done():
		return
	}
	page, err := e.options.Ranges.ReadRange(e.ctx, a)
	<-e.reads
	e.post(RangeRead{Read: a, Page: page, Err: err})
}

func (e *Engine) digest(a Digest) {
	select {
	case e.digests <- struct{}{}:
	case <-e.ctx.Done():
		return
	}
	models, err := e.options.Ranges.Digests(e.ctx)
	<-e.digests
	e.post(Digested{Digest: a, Models: models, Err: err})
}

func (e *Engine) prune(a Prune) (done Pruned) {
	if done.Err = e.options.Keeper.Prune(e.ctx, a); done.Err != nil {
		return done
	}
	done.Floors, done.Err = e.options.Keeper.Floors(e.ctx)
	return done
}

// learn has what a device acknowledged kept at the next beat: each would be a commit of its own.
func (e *Engine) learn(a Acknowledged) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.gather(a)
}

// gather is learn for who holds mu.
func (e *Engine) gather(a Acknowledged) {
	if a.All {
		e.learned = slices.DeleteFunc(e.learned, func(old Acknowledged) bool { return old.Peer == a.Peer })
	} else if at := slices.IndexFunc(e.learned, func(old Acknowledged) bool { return old.Peer == a.Peer }); at >= 0 {
		maps.Copy(e.learned[at].Heads, a.Heads)
		return
	}
	e.learned = append(e.learned, a)
}

func (e *Engine) keepLearned() {
	e.mu.Lock()
	learned := e.learned
	if e.keeping || len(learned) == 0 {
		e.mu.Unlock()
		return
	}
	e.learned, e.keeping = nil, true
	e.mu.Unlock()
	e.spawn(func() {
		err := e.options.Keeper.Acknowledge(e.ctx, learned)
		if err != nil && e.ctx.Err() == nil {
			e.options.Log.Warn("what peers have acknowledged could not be kept; it is tried again", "error", err)
		}
		e.mu.Lock()
		defer e.mu.Unlock()
		e.keeping = false
		if err != nil { // peers do not say again what has not moved
			newer := e.learned
			e.learned = learned
			for _, a := range newer {
				e.gather(a)
			}
		}
	})
}

// Retain asks that the log keeps nothing at or below these stamps, whoever may need it.
func (e *Engine) Retain(floors map[protocol.Stream]hlc.Stamp) { e.post(Retain{Floors: floors}) }

// Audit has digests compared with a peer (zero: with every one) as soon as both have the same. Peers tells how it ended.
func (e *Engine) Audit(peer sdk.DeviceID) { e.post(AuditNow{Peer: peer}) }

// SelfStatus is how this device is, for people.
type SelfStatus struct {
	RunsTwice bool             // another running copy of it has shown itself
	Lost      bool             // a peer has changes of this device that this device lacks, and fetches
	Repairs   int              // records that audits have repaired since the start
	Snapshots int              // that are being fetched
	Refusals  map[string]int64 // what peers sent over a limit since the start, by the limit's setting
}

// Status returns how this device is.
func (e *Engine) Status() SelfStatus {
	e.stepMu.Lock()
	defer e.stepMu.Unlock()
	status := SelfStatus{
		RunsTwice: e.machine.RunsTwice(e.options.Now()), Lost: e.machine.Lost(), Repairs: e.machine.Repairs(), Snapshots: len(e.machine.snapshots),
		Refusals: maps.Clone(e.machine.over),
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for limit, n := range e.refusals {
		status.Refusals[limit] += n
	}
	return status
}

// countRefusal counts input that was over a limit.
func (e *Engine) countRefusal(err error) {
	if over, ok := errors.AsType[protocol.Over](err); ok {
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.refusals == nil {
			e.refusals = map[string]int64{}
		}
		e.refusals[string(over)]++
	}
}

// AcknowledgedBy returns what a device is known to have.
func (e *Engine) AcknowledgedBy(device sdk.DeviceID) map[protocol.Stream]protocol.Heads {
	e.stepMu.Lock()
	defer e.stepMu.Unlock()
	return e.machine.AcknowledgedBy(device)
}

// Committed announces a page of this device's own stream, durable, in commit order: Page.From is where the stream ended
// before it. It never waits for a peer. The page's batches must not change afterwards.
func (e *Engine) Committed(page protocol.Page) { e.commits.add(page) }

// SetMembers replaces the members. It blocks while the loop is busy.
func (e *Engine) SetMembers(members []Member) { e.post(MembersChanged{Members: members}) }

// SetModels replaces what later sessions are told of the models served here.
func (e *Engine) SetModels(models []protocol.ModelVersion) { e.post(ModelsChanged{Models: models}) }

// AddTransport makes addresses of the transport's kind (its Name) reachable. A second one of a label replaces the first.
func (e *Engine) AddTransport(label string, t sdk.Transport) {
	e.RemoveTransport(label)
	e.mu.Lock()
	e.transports = append(e.transports, transport{label: label, Transport: t})
	e.mu.Unlock()
	e.spawn(func() { e.post(Redial{}) })
}

// RemoveTransport takes a transport out of use for dialling. Connections that it carries go on as long as they can.
func (e *Engine) RemoveTransport(label string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	kept := make([]transport, 0, len(e.transports)+1)
	for _, t := range e.transports {
		if t.label != label {
			kept = append(kept, t)
		}
	}
	e.transports = kept
}

// Leave ends the sessions that t carries, which should be out of use already, and asks their peers to connect again at
// once. It returns when t carries nothing any more, or ctx ends.
func (e *Engine) Leave(ctx context.Context, t sdk.Transport) {
	again := time.NewTicker(leaveLook)
	defer again.Stop()
	told := map[SessionID]bool{}
	for {
		e.mu.Lock()
		left := e.carried[t]
		var leaving []SessionID
		for id, l := range e.links {
			if l.carrier == t && !told[id] {
				leaving = append(leaving, id)
				told[id] = true
			}
		}
		e.mu.Unlock()
		if len(leaving) > 0 {
			slices.Sort(leaving)
			e.post(Leave{Sessions: leaving})
		}
		if left == 0 {
			return
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return
		case <-e.ctx.Done():
			return
		}
	}
}

// leaveLook is how often Leave looks for what is left.
const leaveLook = 5 * time.Millisecond

// carry counts a connection of t until the function that it returns is called.
func (e *Engine) carry(t sdk.Transport) (done func()) {
	if t == nil {
		return func() {}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.carried[t]++
	return func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.carried[t]--; e.carried[t] == 0 {
			delete(e.carried, t)
		}
	}
}

// carrierOf returns the transport of a label; nil if there is none.
func (e *Engine) carrierOf(label string) sdk.Transport {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, t := range e.transports {
		if t.label == label {
			return t.Transport
		}
	}
	return nil
}

// Peers returns the state of every member but this device, ascending by id; each as of a moment of its own, since to look
// at all streams of a thousand peers at once would keep the loop waiting.
func (e *Engine) Peers() []PeerStatus {
	e.stepMu.Lock()
	ids := make([]sdk.DeviceID, 0, len(e.machine.peerOrder))
	for _, p := range e.machine.peerOrder {
		ids = append(ids, p.id)
	}
	e.stepMu.Unlock()
	peers := make([]PeerStatus, 0, len(ids))
	for _, id := range ids {
		if status, ok := e.peer(id); ok {
			peers = append(peers, status)
		}
	}
	return peers
}

func (e *Engine) peer(id sdk.DeviceID) (PeerStatus, bool) {
	e.stepMu.Lock()
	defer e.stepMu.Unlock()
	status, ok := e.machine.Peer(e.options.Now(), id)
	if session, connected := e.machine.SessionOf(id); connected {
		if l := e.link(session); l != nil {
			status.BytesIn, status.BytesOut = l.in.Load(), l.out.Load()
		}
	}
	return status, ok
}

// Vector returns the watermarks of every stream.
func (e *Engine) Vector() []protocol.Mark {
	e.stepMu.Lock()
	defer e.stepMu.Unlock()
	return e.machine.Vector()
}

func (e *Engine) link(id SessionID) *link {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.links[id]
}

// commitQueue holds announced commits until the loop takes them. Beyond its limit it remembers only how far the stream
// is: the peers then read the rest from the database.
type commitQueue struct {
	limit int
	wake  chan struct{}

	mu    sync.Mutex
	pages []protocol.Page
	bytes int
	marks map[protocol.Stream]Advanced
}

func (q *commitQueue) add(page protocol.Page) {
	size := page.Bytes()
	q.mu.Lock()
	if _, over := q.marks[page.Stream]; !over && q.bytes+size <= q.limit { // pages of a stream keep their order
		q.pages = append(q.pages, page)
		q.bytes += size
	} else {
		if q.marks == nil {
			q.marks = map[protocol.Stream]Advanced{}
		}
		advanced := q.marks[page.Stream]
		advanced.Opened = append(advanced.Opened, page.Epochs...)
		advanced.Mark = protocol.Mark{Stream: page.Stream, Position: page.Heads[0]} // a commit has one position
		q.marks[page.Stream] = advanced
	}
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *commitQueue) take() ([]protocol.Page, []Advanced) {
	q.mu.Lock()
	defer q.mu.Unlock()
	pages := q.pages
	advanced := slices.Collect(maps.Values(q.marks)) // of two streams at most, in no order
	q.pages, q.bytes, q.marks = nil, 0, nil
	return pages, advanced
}

var errEnded = errors.New("the connection ended")
