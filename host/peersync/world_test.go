package peersync

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/history"
	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/sdk"
)

// world is a few devices in one goroutine: machines, stores in memory, connections that can be cut, virtual time. One
// seed always gives the same run.
type world struct {
	tb      testing.TB
	rand    *rand.Rand
	seed    uint64
	now     time.Time
	devices []*worldDevice  // by index; then copies of some that run beside them
	cut     map[[2]int]bool // edges that do not exist or are cut
	conns   []*worldConn
	lastID  SessionID
	limits  protocol.Limits
	config  Config
	members []Member
	begin   time.Time
	starts  int           // of devices; names epochs
	truth   history.Graph // every epoch that was ever opened
	ledger  *ledger
	orderly bool // the oldest thing happens first, not one at random, and what a store has done is told at once

	epochsKept int // by each machine

	onFrame  func(from, to *worldDevice, msg protocol.Message) // sees what arrives
	onLog    func(d *worldDevice, l Log)
	onAction func(d *worldDevice, a Action)
	onTurn   func()
}

type worldDevice struct {
	index   int
	id      sdk.DeviceID
	up      bool
	store   *memoryStore
	machine *Machine
	clock   *hlc.Clock
	parity  int      // while two copies run they draw even and odd stamps, since no two clocks are that alike; else -1
	todo    []func() // for the store
	answers []answer // that the machine has not had
	commits []Event  // that it was not told of
	pipes   map[protocol.Stream][]Apply
	failed  map[protocol.Stream]uint64
	seals   int
}

// answer is what a store tells the machine. Those of one stream keep their order.
type answer struct {
	stream protocol.Stream
	event  Event
}

// worldConn is one connection; each end has the session id that its device knows it by.
type worldConn struct {
	ends   [2]*worldDevice
	ids    [2]SessionID
	queues [2][]protocol.Message        // to ends[i]
	closed [2]bool                      // by ends[i]
	told   [2]map[protocol.EpochID]bool // epochs that ends[i] knows of from, or has told in, this session
	dead   bool
}

func deviceID(n int) sdk.DeviceID { return sdk.DeviceID{0: 0xd0, 15: byte(n + 1)} }

func newWorld(tb testing.TB, seed uint64, n int) *world {
	return newWorldWith(tb, seed, n, DefaultConfig())
}

func newWorldWith(tb testing.TB, seed uint64, n int, config Config) *world {
	w := &world{
		tb: tb, rand: rand.New(rand.NewPCG(seed, 1)), seed: seed, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), cut: map[[2]int]bool{},
		limits: protocol.DefaultLimits(), config: config, ledger: newLedger(), epochsKept: epochsKept,
	}
	w.begin = w.now
	w.limits.PageBytes, w.limits.WindowBytes = 4<<10, 64<<10
	for i := range n {
		d := &worldDevice{index: i, id: deviceID(i), store: newMemoryStore(deviceID(i)), parity: -1}
		d.store.onGap = func(text string) { tb.Fatalf("seed %d: device %d: %s", seed, i, text) }
		w.devices = append(w.devices, d)
		w.members = append(w.members, Member{
			ID: d.id, Name: fmt.Sprintf("d%d", i), Addresses: []protocol.Address{{Transport: "mem", Address: fmt.Sprint(i)}},
		})
	}
	for _, d := range w.devices {
		w.start(d)
	}
	return w
}

func (w *world) start(d *worldDevice) {
	d.up = true
	w.starts++
	d.pipes, d.failed, d.todo, d.answers, d.commits = map[protocol.Stream][]Apply{}, map[protocol.Stream]uint64{}, nil, nil, nil
	d.clock = hlc.NewClock(func() time.Time { return w.now }, d.store.top(), 0)
	d.machine = NewMachine(MachineOptions{
		Self: Self{
			Device: d.id, Name: fmt.Sprintf("d%d", d.index), Library: protocol.LibraryID{1}, Started: d.clock.Now(),
			Epoch: protocol.EpochID{1: byte(w.starts >> 8), 2: byte(w.starts), 3: byte(d.index + 1)},
		},
		Stored: d.store.stored(), Members: w.members, Limits: w.limits, Config: w.config, Rand: rand.New(rand.NewPCG(uint64(d.index), uint64(w.starts))),
	})
	d.machine.epochsKept = w.epochsKept
}

func (w *world) stop(d *worldDevice) {
	d.up = false
	for _, c := range slices.Clone(w.conns) {
		if c.ends[0] == d || c.ends[1] == d {
			w.breakConn(c)
		}
	}
	d.machine, d.todo, d.answers, d.commits = nil, nil, nil, nil
}

func (w *world) step(d *worldDevice, e Event) {
	if !d.up {
		return
	}
	actions := slices.Clone(d.machine.Step(w.now, e))
	for _, a := range actions {
		if w.onAction != nil {
			w.onAction(d, a)
		}
		w.act(d, a)
	}
}

// answer tells a machine what its store has done.
func (w *world) answer(d *worldDevice, stream protocol.Stream, e Event) {
	if w.orderly {
		w.step(d, e)
	} else {
		d.answers = append(d.answers, answer{stream, e})
	}
}

func (w *world) act(d *worldDevice, a Action) {
	none := protocol.Stream{}
	do := func(fn func()) { d.todo = append(d.todo, fn) }
	switch a := a.(type) {
	case Send:
		if c, i := w.find(d, a.Session); c != nil && !c.closed[i] {
			w.checkTold(c, i, a.Message)
			c.queues[1-i] = append(c.queues[1-i], a.Message)
		}
	case Close:
		if c, i := w.find(d, a.Session); c != nil {
			c.closed[i] = true
		}
	case Log:
		if w.onLog != nil {
			w.onLog(d, a)
		}
	case Apply:
		d.pipes[a.Page.Stream] = append(d.pipes[a.Page.Stream], a)
		do(func() { w.applyNext(d, a.Page.Stream) })
	case ReadPage:
		do(func() {
			page, more, err := d.store.ReadPage(context.Background(), a.Stream, a.Since, w.cutAt(a.MaxBytes))
			w.answer(d, a.Stream, PageRead{Read: a, Page: page, More: more, Err: err})
		})
	case ReadRange:
		do(func() {
			small := a
			small.Bytes = w.cutAt(a.Bytes)
			page, err := d.store.ReadRange(context.Background(), small)
			w.answer(d, none, RangeRead{Read: a, Page: page, Err: err})
		})
	case TakeRange:
		do(func() {
			taken, err := d.store.TakeRange(context.Background(), a)
			if observed := d.clock.Observe(d.store.top()); observed != nil {
				w.tb.Fatal(observed)
			}
			w.answer(d, none, RangeTaken{Take: a, Taken: taken, Err: err})
		})
	case Digest:
		do(func() {
			models, err := d.store.Digests(context.Background())
			w.answer(d, none, Digested{Digest: a, Models: models, Err: err})
		})
	case Prune:
		w.checkLook(d)
		do(func() {
			done := Pruned{Err: d.store.Prune(context.Background(), a)}
			done.Floors, _ = d.store.Floors(context.Background())
			w.answer(d, none, done)
		})
	case Seal:
		do(func() {
			d.seals++
			w.commit(d, sdk.SharedByAll, nil)
			w.answer(d, none, Sealed{})
		})
	case Acknowledged:
		if err := d.store.Acknowledge(context.Background(), []Acknowledged{a}); err != nil && w.orderly {
			w.tb.Fatal(err)
		}
	case Dial:
		var target int
		_, _ = fmt.Sscan(a.Addresses[0].Address, &target)
		do(func() { w.dial(d, target) })
	}
}

// cutAt makes pages small, of any size: the contract is "about".
func (w *world) cutAt(bytes int) int {
	if w.orderly {
		return bytes
	}
	return min(bytes, 50<<w.rand.IntN(6))
}

func (w *world) applyNext(d *worldDevice, key protocol.Stream) {
	a := d.pipes[key][0]
	d.pipes[key] = d.pipes[key][1:]
	var err error
	if a.Generation < d.failed[key] {
		err = sdk.Errorf(sdk.CodeUnavailable, "a page before this one was not applied")
	} else if err = d.store.apply(a.Page); err != nil {
		d.failed[key] = a.Generation + 1
	} else if observed := d.clock.Observe(a.Page.Through); observed != nil {
		w.tb.Fatal(observed)
	}
	w.answer(d, key, Applied{Generation: a.Generation, Page: a.Page, Err: err})
}

func (w *world) edge(a, b *worldDevice) [2]int {
	return [2]int{min(a.index, b.index), max(a.index, b.index)}
}

// dial reaches one of the copies of a device that run.
func (w *world) dial(from *worldDevice, index int) {
	var to []*worldDevice
	for _, d := range w.devices {
		if d.index == index && d.up && !w.cut[w.edge(from, d)] {
			to = append(to, d)
		}
	}
	if len(to) == 0 {
		w.step(from, DialFailed{Peer: deviceID(index), Err: sdk.Errorf(sdk.CodeUnavailable, "no route")})
		return
	}
	w.lastID += 2
	c := &worldConn{ends: [2]*worldDevice{from, to[0]}, ids: [2]SessionID{w.lastID - 1, w.lastID}}
	if len(to) > 1 {
		c.ends[1] = to[w.rand.IntN(len(to))]
	}
	c.told = [2]map[protocol.EpochID]bool{{}, {}}
	w.conns = append(w.conns, c)
	w.step(from, PeerUp{Session: c.ids[0], Peer: c.ends[1].id, Dialed: true, Via: "mem"})
	w.step(c.ends[1], PeerUp{Session: c.ids[1], Peer: from.id, Via: "mem"})
}

func (w *world) find(d *worldDevice, id SessionID) (*worldConn, int) {
	for _, c := range w.conns {
		for i := range c.ends {
			if c.ends[i] == d && c.ids[i] == id && !c.dead {
				return c, i
			}
		}
	}
	return nil, 0
}

// breakConn loses what is under way and tells both ends.
func (w *world) breakConn(c *worldConn) {
	if c.dead {
		return
	}
	c.dead = true
	w.conns = slices.DeleteFunc(w.conns, func(other *worldConn) bool { return other == c })
	for i, d := range c.ends {
		w.step(d, PeerDown{Session: c.ids[i], Err: errEnded})
	}
}

// turn lets one thing happen, chosen at random; it reports false if nothing waits.
func (w *world) turn() bool {
	var choices []func()
	for _, c := range w.conns {
		for i := range c.ends {
			if len(c.queues[i]) > 0 {
				choices = append(choices, func() { w.deliver(c, i) })
			} else if c.closed[1-i] {
				choices = append(choices, func() { w.breakConn(c) })
			}
		}
	}
	for _, d := range w.devices {
		if len(d.todo) > 0 {
			choices = append(choices, func() { w.take(&d.todo)() })
		}
		if len(d.answers) > 0 {
			choices = append(choices, func() { w.tellAnswer(d) })
		}
		if len(d.commits) > 0 {
			choices = append(choices, func() { w.tellCommit(d) })
		}
	}
	if len(choices) == 0 {
		return false
	}
	pick := 0
	if !w.orderly {
		pick = w.rand.IntN(len(choices))
	}
	choices[pick]()
	if w.onTurn != nil {
		w.onTurn()
	}
	return true
}

func (w *world) deliver(c *worldConn, i int) {
	msg := c.queues[i][0]
	c.queues[i] = c.queues[i][1:]
	c.note(i, msg)
	if w.onFrame != nil {
		w.onFrame(c.ends[1-i], c.ends[i], msg)
	}
	w.step(c.ends[i], Received{Session: c.ids[i], Message: msg})
}

func (w *world) take(list *[]func()) (fn func()) {
	at := 0
	if !w.orderly {
		at = w.rand.IntN(len(*list))
	}
	fn = (*list)[at]
	*list = slices.Delete(*list, at, at+1)
	return fn
}

func (w *world) tellAnswer(d *worldDevice) {
	at := w.rand.IntN(len(d.answers))
	at = slices.IndexFunc(d.answers, func(a answer) bool { return a.stream == d.answers[at].stream })
	event := d.answers[at].event
	d.answers = slices.Delete(d.answers, at, at+1)
	if _, ok := event.(Digested); ok { // as the engine does
		for len(d.commits) > 0 {
			w.tellCommit(d)
		}
	}
	w.step(d, event)
}

func (w *world) tellCommit(d *worldDevice) {
	event := d.commits[0]
	d.commits = d.commits[1:]
	w.step(d, event)
}

// settle lets everything happen that can without time passing.
func (w *world) settle() {
	for i := 0; w.turn(); i++ {
		if i > 500_000 {
			w.describe()
			w.tb.Fatalf("seed %d: the devices do not come to rest: some exchange goes on for ever", w.seed)
		}
	}
}

// pass lets time pass in ticks, and everything that follows.
func (w *world) pass(d time.Duration) {
	for step := 250 * time.Millisecond; d > 0; d -= step {
		w.now = w.now.Add(step)
		for _, dev := range w.devices {
			w.step(dev, Tick{})
		}
		w.settle()
	}
}

func (w *world) write(d *worldDevice, kind sdk.Ownership, first, n int, text string) {
	writes := make([]write, n)
	for i := range writes {
		writes[i] = write{first + i, sdk.Insert, text}
	}
	w.commit(d, kind, writes)
}

// commit makes changes at a device, of which its machine learns now or later.
func (w *world) commit(d *worldDevice, kind sdk.Ownership, writes []write) {
	page := d.store.commitAll(kind, d.machine.self.Epoch, func() hlc.Stamp {
		for {
			if stamp := d.clock.Now(); d.parity < 0 || int(stamp)%2 == d.parity {
				return stamp
			}
		}
	}, writes)
	for _, e := range page.Epochs {
		w.truth.Add(e)
	}
	w.ledger.note(d, &page, writes)
	event := Event(Committed{Page: page})
	if !w.orderly && w.rand.IntN(4) == 0 { // as where commits come faster than the loop takes them
		event = Advanced{Mark: protocol.Mark{Stream: page.Stream, Position: page.Heads[0]}, Opened: page.Epochs}
	}
	if w.orderly {
		w.step(d, event)
	} else {
		d.commits = append(d.commits, event)
	}
}

// topologies name the edges that exist.
var topologies = map[string]func(a, b, n int) bool{
	"mesh": func(_, _, _ int) bool { return true },
	"star": func(a, _, _ int) bool { return a == 0 },
	"line": func(a, b, _ int) bool { return b == a+1 },
	"ring": func(a, b, n int) bool { return b == a+1 || a == 0 && b == n-1 },
}

func (w *world) cutAll(exists func(a, b, n int) bool) {
	w.cut = map[[2]int]bool{}
	n := len(w.members)
	for a := range n {
		for b := a + 1; b < n; b++ {
			if !exists(a, b, n) {
				w.cut[[2]int{a, b}] = true
			}
		}
	}
}
