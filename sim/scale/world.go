package main

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/peersync"
	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/sdk"
)

// Times of the world.
const (
	linkTime     = 50 * time.Millisecond // one way; that of connecting and of TLS is twice as much again
	applyTime    = 5 * time.Millisecond  // from Apply to durable; the same for a commit of this device
	readTime     = 2 * time.Millisecond  // of a page
	ticksPerBeat = 8                     // as in the engine
)

// event is something that will happen to a device. Everything of one time happens in the order in which it was planned,
// so a session keeps the order of its messages.
type event struct {
	at     time.Duration
	seq    uint64
	device int
	what   any // a peersync.Event, or firstTick, commit, seal or Apply
}

type (
	firstTick struct{}
	commit    struct{ write int }
	seal      struct{}
)

// agenda is a heap of events.
type agenda []event

func (a agenda) Len() int { return len(a) }

func (a agenda) Less(i, j int) bool {
	return a[i].at < a[j].at || a[i].at == a[j].at && a[i].seq < a[j].seq
}

func (a agenda) Swap(i, j int) { a[i], a[j] = a[j], a[i] }

// Push implements heap.Interface.
func (a *agenda) Push(x any) { *a = append(*a, x.(event)) } //nolint:forcetypeassert // only events are pushed

// Pop implements heap.Interface.
func (a *agenda) Pop() any {
	last := len(*a) - 1
	e := (*a)[last]
	(*a)[last] = event{}
	*a = (*a)[:last]
	return e
}

// world is all devices, the links between them and what was written.
//
// There is one store for all: what a device has of a stream is a prefix of what was written, and which one its machine
// says with the read. So a run costs what machines cost, and nothing else.
type world struct {
	options options
	config  peersync.Config
	limits  protocol.Limits
	rand    *rand.Rand
	now     time.Duration
	seq     uint64
	agenda  agenda

	devices []device
	byID    map[sdk.DeviceID]int
	edges   []edge
	writes  []write
	written map[sdk.DeviceID][]int // writes by origin, in the order of their stamps
	writers []int                  // devices, in the order of their first write
	phase   int                    // the first write of the present phase
	delays  []time.Duration        // from a commit to durable on another device, of every write of the phase and device
	traffic traffic
	warned  map[string]int // lines for the operator at Warn and above
	broken  error          // the first thing that should not happen
}

// edge is a link. Its index and one is the SessionID at both ends.
type edge struct{ dials, listens int }

func (e edge) other(i int) int { return e.dials + e.listens - i }

// device is a machine and its clock.
type device struct {
	id      sdk.DeviceID
	machine *peersync.Machine
	clock   *hlc.Clock
	start   protocol.EpochID // of its only start
	near    []int            // edges
	has     []uint64         // bit i: write i is durable here
	last    protocol.Heads   // of its shared stream
}

// write is one shared operation.
type write struct {
	device int
	at     time.Duration
	done   time.Duration // durable everywhere; zero: not yet
	stamp  hlc.Stamp     // zero: not yet written
	page   protocol.Page
	has    int // devices
}

// epoch is the simulation's zero time.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func (w *world) wall() time.Time { return epoch.Add(w.now) }

func (w *world) plan(after time.Duration, device int, what any) {
	w.seq++
	heap.Push(&w.agenda, event{at: w.now + after, seq: w.seq, device: device, what: what})
}

func (w *world) breaks(format string, args ...any) {
	if w.broken == nil {
		w.broken = fmt.Errorf("at %s: %w", w.now, fmt.Errorf(format, args...))
	}
}

// newWorld returns a world whose devices have no session yet.
func newWorld(o options) (*world, error) {
	w := &world{
		options: o, config: peersync.DefaultConfig(), limits: protocol.DefaultLimits(),
		rand: rand.New(rand.NewPCG(o.Seed, uint64(o.Devices))), //nolint:gosec // a seed replays a run
		byID: map[sdk.DeviceID]int{}, written: map[sdk.DeviceID][]int{}, warned: map[string]int{},
	}
	w.config.AuditTime, w.config.PruneTime, w.config.GossipTime = 0, 24*time.Hour, 24*time.Hour // one run is shorter than a minute
	if err := w.traffic.start(w.limits, o.Sample); err != nil {
		return nil, err
	}
	w.devices = make([]device, o.Devices)
	for i := range w.devices {
		d := &w.devices[i]
		d.id, d.start = newID(w.rand), newID(w.rand)
		d.clock = hlc.NewClock(w.wall, 0, time.Minute)
		d.has = make([]uint64, (2*o.Writes+63)/64)
		w.byID[d.id] = i
	}
	edges, err := overlay(w.rand, o.Devices, o.Degree)
	if err != nil {
		return nil, err
	}
	w.edges = edges
	for at, e := range w.edges {
		w.devices[e.dials].near = append(w.devices[e.dials].near, at)
		w.devices[e.listens].near = append(w.devices[e.listens].near, at)
	}
	w.writers = w.rand.Perm(o.Devices)[:min(o.Devices, o.Writes)]
	w.delays = make([]time.Duration, 0, o.Writes*(o.Devices-1))
	return w, nil
}

func newID(r *rand.Rand) (id [16]byte) {
	for i := range id {
		id[i] = byte(r.Uint32())
	}
	return id
}

// start makes the machines, which know their neighbours so far.
func (w *world) start() {
	for i := range w.devices {
		d := &w.devices[i]
		d.machine = peersync.NewMachine(peersync.MachineOptions{
			Self:    peersync.Self{Device: d.id, Library: protocol.LibraryID{1}, LibraryName: "scale", Epoch: d.start, Started: d.clock.Now()},
			Members: w.neighbours(i), Limits: w.limits, Config: w.config,
			Rand: rand.New(rand.NewPCG(w.options.Seed, uint64(i))), //nolint:gosec // as above
		})
		w.plan(time.Duration(w.rand.Int64N(int64(w.config.Heartbeat/ticksPerBeat))), i, firstTick{})
	}
}

// neighbours are the devices at the other ends of a device's links. Only one end has an address: connections that cross
// are another test's.
func (w *world) neighbours(i int) []peersync.Member {
	var list []peersync.Member
	for _, at := range w.devices[i].near {
		member := peersync.Member{ID: w.devices[w.edges[at].other(i)].id}
		if w.edges[at].dials == i {
			member.Addresses = []protocol.Address{{Transport: "sim", Address: "link"}}
		}
		list = append(list, member)
	}
	return list
}

// members are all devices.
func (w *world) members(i int) []peersync.Member {
	list := make([]peersync.Member, 0, len(w.devices))
	near := map[sdk.DeviceID]bool{w.devices[i].id: true}
	for _, member := range w.neighbours(i) {
		near[member.ID] = true
		list = append(list, member)
	}
	for k := range w.devices {
		if id := w.devices[k].id; !near[id] {
			list = append(list, peersync.Member{ID: id})
		}
	}
	return list
}

// run lets everything happen up to a time, or until something is broken, or until stop says so.
func (w *world) run(until time.Duration, stop func() bool) {
	for len(w.agenda) > 0 && w.agenda[0].at <= until && w.broken == nil && !stop() {
		e := heap.Pop(&w.agenda).(event) //nolint:forcetypeassert // only events are pushed
		w.now = e.at
		w.happen(e)
	}
	if w.broken == nil && !stop() {
		w.now = until
	}
}

func (w *world) happen(e event) {
	switch what := e.what.(type) {
	case firstTick:
		// The first look at what may be forgotten, which the first tick takes, costs members times streams. It is measured
		// apart (see lookTime), so the rest of the members come after it.
		w.step(e.device, peersync.Tick{})
		if w.options.Full {
			w.step(e.device, peersync.MembersChanged{Members: w.members(e.device)})
		}
		w.plan(w.config.Heartbeat/ticksPerBeat, e.device, peersync.Tick{})
	case peersync.Tick:
		w.step(e.device, what)
		w.plan(w.config.Heartbeat/ticksPerBeat, e.device, what)
	case commit:
		w.commit(what.write)
	case seal:
		d := &w.devices[e.device]
		w.step(e.device, peersync.Committed{Page: w.extend(d)})
		w.step(e.device, peersync.Sealed{})
	case peersync.Apply:
		w.apply(e.device, what)
	case peersync.Event:
		w.step(e.device, what)
	}
}

func (w *world) step(i int, e peersync.Event) {
	for _, action := range w.devices[i].machine.Step(w.wall(), e) { // what follows is planned, never done at once
		w.act(i, action)
	}
}

func (w *world) act(i int, action peersync.Action) {
	switch a := action.(type) {
	case peersync.Send:
		if err := w.traffic.count(a.Message); err != nil {
			w.breaks("encode: %w", err)
		}
		w.plan(linkTime, w.edges[a.Session-1].other(i), peersync.Received(a))
	case peersync.Dial:
		w.connect(i, a.Peer)
	case peersync.Apply:
		w.plan(applyTime, i, a)
	case peersync.ReadPage:
		w.plan(readTime, i, w.read(a))
	case peersync.Seal:
		if w.options.Seal {
			w.plan(applyTime, i, seal{})
		} else {
			w.plan(applyTime, i, peersync.Sealed{})
		}
	case peersync.Prune:
		w.plan(applyTime, i, peersync.Pruned{})
	case peersync.Close:
		w.breaks("device %d closes a session: %s", i, a.Reason)
	case peersync.Log:
		if a.Level >= hclog.Warn {
			w.warned[a.Message]++
		}
	case peersync.Acknowledged: // is for the store
	case peersync.ReadRange, peersync.TakeRange, peersync.Digest:
		w.breaks("device %d asks for records (%T): nothing is forgotten here, so nobody needs them", i, a)
	}
}

// connect brings a session up at both ends, once it is known at both.
func (w *world) connect(i int, peer sdk.DeviceID) {
	for _, at := range w.devices[i].near {
		if other := w.edges[at].other(i); w.devices[other].id == peer {
			id := peersync.SessionID(at + 1) //nolint:gosec // an index
			w.plan(3*linkTime, other, peersync.PeerUp{Session: id, Peer: w.devices[i].id, Via: "sim"})
			w.plan(3*linkTime, i, peersync.PeerUp{Session: id, Peer: peer, Dialed: true, Via: "sim"})
			return
		}
	}
	w.breaks("device %d dials %s, which is no neighbour", i, peer)
}
