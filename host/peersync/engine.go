package peersync

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

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
	reads     chan struct{} // a token for each ReadPage call under way
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
}

type transport struct {
	label string
	sdk.Transport
}

// New returns an engine. It starts nothing.
func New(o Options) (*Engine, error) {
	if o.Applier == nil || o.Reader == nil || o.Security == nil || o.Self.Device.IsZero() {
		return nil, sdk.Errorf(sdk.CodeInternal, "make the sync engine: Self, Applier, Reader and Security are required")
	}
	o = withDefaults(o)
	codec, err := protocol.NewCodec(o.Limits)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	return &Engine{
		options: o, codec: codec, events: make(chan Event, 256), ctx: ctx, cancel: cancel,
		commits: commitQueue{limit: o.Config.CommitsQueue, wake: make(chan struct{}, 1)},
		reads:   make(chan struct{}, o.Config.ReadsAtOnce),
		links:   map[SessionID]*link{}, pipes: map[protocol.Stream]*pipe{},
		machine: NewMachine(MachineOptions{
			Self: o.Self, Models: o.Models, Marks: o.Marks, Members: o.Members, Limits: o.Limits, Config: o.Config, Rand: o.Rand,
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
	for {
		select {
		case <-ctx.Done():
			return nil
		case event := <-e.events:
			e.step(event)
		case <-e.commits.wake:
			pages, marks := e.commits.take()
			for i := range pages {
				e.step(Committed{Page: pages[i]})
			}
			for _, mark := range marks {
				e.step(Advanced{Mark: mark})
			}
		case <-ticker.C:
			e.noteArrivals()
			e.step(Tick{})
		}
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
	case Dial:
		e.spawn(func() { e.dial(a) })
	case Acknowledged:
		if e.options.Acknowledged != nil {
			e.options.Acknowledged(a.Peer, a.Marks)
		}
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

// Peers returns the state of every member but this device, ascending by id.
func (e *Engine) Peers() []PeerStatus {
	e.stepMu.Lock()
	defer e.stepMu.Unlock()
	peers := e.machine.Peers(e.options.Now())
	for i := range peers {
		if id, ok := e.machine.SessionOf(peers[i].ID); ok {
			if l := e.link(id); l != nil {
				peers[i].BytesIn, peers[i].BytesOut = l.in.Load(), l.out.Load()
			}
		}
	}
	return peers
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
	marks map[protocol.Stream]protocol.Position
}

func (q *commitQueue) add(page protocol.Page) {
	size := page.Bytes()
	q.mu.Lock()
	if q.bytes+size <= q.limit {
		q.pages = append(q.pages, page)
		q.bytes += size
	} else {
		if q.marks == nil {
			q.marks = map[protocol.Stream]protocol.Position{}
		}
		q.marks[page.Stream] = protocol.Position{Epoch: page.Epoch, Stamp: page.Through}
	}
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *commitQueue) take() ([]protocol.Page, []protocol.Mark) {
	q.mu.Lock()
	defer q.mu.Unlock()
	pages := q.pages
	var marks []protocol.Mark
	for key, p := range q.marks {
		marks = append(marks, protocol.Mark{Stream: key, Position: p})
	}
	q.pages, q.bytes, q.marks = nil, 0, nil
	return pages, marks
}

var errEnded = errors.New("the connection ended")
