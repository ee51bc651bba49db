package peersync

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/sdk"
)

// world is a few devices in one goroutine: machines, stores in memory, connections that can be cut, virtual time. One
// seed always gives the same run.
type world struct {
	tb      testing.TB
	rand    *rand.Rand
	now     time.Time
	devices []*worldDevice
	cut     map[[2]int]bool // edges that do not exist or are cut
	conns   []*worldConn
	lastID  SessionID
	limits  protocol.Limits
	begin   time.Time
	orderly bool                                              // the oldest thing happens first, not one at random
	onFrame func(from, to *worldDevice, msg protocol.Message) // sees what arrives
	onLog   func(d *worldDevice, l Log)
}

type worldDevice struct {
	index   int
	id      sdk.DeviceID
	up      bool
	epoch   byte
	store   *memoryStore
	machine *Machine
	clock   *hlc.Clock
	todo    []func() // applies and reads; run in order within one key
	pipes   map[protocol.Stream][]Apply
	failed  map[protocol.Stream]uint64
}

// worldConn is one connection; each end has the session id that its device knows it by.
type worldConn struct {
	ends   [2]*worldDevice
	ids    [2]SessionID
	queues [2][]protocol.Message // to ends[i]
	closed [2]bool               // by ends[i]
	dead   bool
}

func deviceID(n int) sdk.DeviceID { return sdk.DeviceID{0: 0xd0, 15: byte(n + 1)} }

func newWorld(tb testing.TB, seed uint64, n int) *world {
	w := &world{
		tb: tb, rand: rand.New(rand.NewPCG(seed, 1)), now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), cut: map[[2]int]bool{},
		limits: protocol.DefaultLimits(),
	}
	w.begin = w.now
	w.limits.PageBytes, w.limits.WindowBytes = 4<<10, 64<<10
	for i := range n {
		d := &worldDevice{index: i, id: deviceID(i), store: newMemoryStore(deviceID(i))}
		d.store.onGap = func(text string) { tb.Fatalf("seed %d: device %d: %s", seed, i, text) }
		w.devices = append(w.devices, d)
	}
	for _, d := range w.devices {
		w.start(d)
	}
	return w
}

func (w *world) members() []Member {
	var members []Member
	for _, d := range w.devices {
		members = append(members, Member{
			ID: d.id, Name: fmt.Sprintf("d%d", d.index), Addresses: []protocol.Address{{Transport: "mem", Address: fmt.Sprint(d.index)}},
		})
	}
	return members
}

func (w *world) start(d *worldDevice) {
	d.up = true
	d.epoch++
	d.pipes, d.failed, d.todo = map[protocol.Stream][]Apply{}, map[protocol.Stream]uint64{}, nil
	var last hlc.Stamp
	for _, mark := range d.store.vector() {
		last = max(last, mark.Stamp)
	}
	d.clock = hlc.NewClock(func() time.Time { return w.now }, last, 0)
	d.machine = NewMachine(MachineOptions{
		Self:  Self{Device: d.id, Name: fmt.Sprintf("d%d", d.index), Library: protocol.LibraryID{1}, Epoch: protocol.EpochID{d.epoch, byte(d.index + 1)}},
		Marks: d.store.vector(), Members: w.members(), Limits: w.limits, Config: DefaultConfig(), Rand: rand.New(rand.NewPCG(uint64(d.index), uint64(d.epoch))),
	})
}

func (w *world) stop(d *worldDevice) {
	d.up = false
	for _, c := range slices.Clone(w.conns) {
		if c.ends[0] == d || c.ends[1] == d {
			w.breakConn(c)
		}
	}
	d.machine, d.todo = nil, nil
}

func (w *world) step(d *worldDevice, e Event) {
	if !d.up {
		return
	}
	actions := slices.Clone(d.machine.Step(w.now, e))
	for _, a := range actions {
		w.act(d, a)
	}
}

func (w *world) act(d *worldDevice, a Action) {
	switch a := a.(type) {
	case Send:
		if c, i := w.find(d, a.Session); c != nil && !c.closed[i] {
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
		d.todo = append(d.todo, func() { w.applyNext(d, a.Page.Stream) })
	case ReadPage:
		d.todo = append(d.todo, func() {
			page, more, err := d.store.ReadPage(context.Background(), a.Stream, a.Since, a.MaxBytes)
			w.step(d, PageRead{Read: a, Page: page, More: more, Err: err})
		})
	case Dial:
		var target int
		_, _ = fmt.Sscan(a.Addresses[0].Address, &target)
		d.todo = append(d.todo, func() { w.dial(d, w.devices[target]) })
	}
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
	w.step(d, Applied{Generation: a.Generation, Page: a.Page, Err: err})
}

func (w *world) edge(a, b *worldDevice) [2]int {
	return [2]int{min(a.index, b.index), max(a.index, b.index)}
}

func (w *world) dial(from, to *worldDevice) {
	if !to.up || w.cut[w.edge(from, to)] {
		w.step(from, DialFailed{Peer: to.id, Err: sdk.Errorf(sdk.CodeUnavailable, "no route")})
		return
	}
	w.lastID += 2
	c := &worldConn{ends: [2]*worldDevice{from, to}, ids: [2]SessionID{w.lastID - 1, w.lastID}}
	w.conns = append(w.conns, c)
	w.step(from, PeerUp{Session: c.ids[0], Peer: to.id, Dialed: true, Via: "mem"})
	w.step(to, PeerUp{Session: c.ids[1], Peer: from.id, Via: "mem"})
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
				choices = append(choices, func() {
					msg := c.queues[i][0]
					c.queues[i] = c.queues[i][1:]
					if w.onFrame != nil {
						w.onFrame(c.ends[1-i], c.ends[i], msg)
					}
					w.step(c.ends[i], Received{Session: c.ids[i], Message: msg})
				})
			} else if c.closed[1-i] {
				choices = append(choices, func() { w.breakConn(c) })
			}
		}
	}
	for _, d := range w.devices {
		if len(d.todo) > 0 {
			choices = append(choices, func() {
				fn := d.todo[0]
				d.todo = d.todo[1:]
				fn()
			})
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
	return true
}

// settle lets everything happen that can without time passing.
func (w *world) settle() {
	for i := 0; w.turn(); i++ {
		if i > 2_000_000 {
			w.tb.Fatal("the devices do not come to rest: some exchange goes on for ever")
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
	page := d.store.commit(kind, d.machine.self.Epoch, d.clock.Now, first, n, text)
	w.step(d, Committed{Page: page})
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
	n := len(w.devices)
	for a := range n {
		for b := a + 1; b < n; b++ {
			if !exists(a, b, n) {
				w.cut[[2]int{a, b}] = true
			}
		}
	}
}

// checkEqual fails unless all devices have the same data and the same watermarks.
func (w *world) checkEqual(name string) {
	w.tb.Helper()
	defer func() {
		if w.tb.Failed() {
			w.describe()
		}
	}()
	want, marks := w.devices[0].store.dump(), w.devices[0].machine.Vector()
	for _, d := range w.devices[1:] {
		if diff := cmp.Diff(want, d.store.dump()); diff != "" {
			w.tb.Errorf("%s: device %d differs from device 0 (-0 +%d):\n%s", name, d.index, d.index, diff)
		}
		if diff := cmp.Diff(marks, d.machine.Vector()); diff != "" {
			w.tb.Errorf("%s: vector of device %d differs (-0 +%d):\n%s", name, d.index, d.index, diff)
		}
	}
}

// describe logs how every device stands.
func (w *world) describe() {
	for _, d := range w.devices {
		if !d.up {
			w.tb.Logf("d%d is down", d.index)
			continue
		}
		for _, p := range d.machine.Peers(w.now) {
			w.tb.Logf("d%d sees %s as %s (%s)", d.index, p.Name, p.State, p.Reason)
		}
		for _, st := range d.machine.streamList {
			up := "-"
			if st.upstream != nil {
				up = st.upstream.peer.String() + fmt.Sprintf(" at %s", st.upstream.vector[st.Stream].Stamp)
			}
			w.tb.Logf("  d%d %s of d%d: applied %s given %s tail %s handed %d queue %d upstream %s held %q", d.index, st.Kind, st.Origin[15]-1,
				st.applied.Stamp, st.given, st.tail, len(st.handed), len(st.queue), up, st.heldReason)
		}
		for _, s := range d.machine.sessionList {
			for i := range s.windows {
				w.tb.Logf("  d%d to %s: window %d used %d lagging %d", d.index, s.peer, s.windows[i].size, s.windows[i].used, len(s.windows[i].lagging))
			}
		}
	}
}

// disturb does something that devices and networks do.
func (w *world) disturb() {
	d := w.devices[w.rand.IntN(len(w.devices))]
	switch w.rand.IntN(12) {
	case 0, 1, 2, 3:
		if d.up {
			w.write(d, sdk.DeviceOwned, w.rand.IntN(40), 1+w.rand.IntN(8), fmt.Sprint(w.rand.Uint32()))
		}
	case 4, 5, 6:
		if d.up {
			w.write(d, sdk.SharedByAll, w.rand.IntN(40), 1+w.rand.IntN(3), fmt.Sprint(w.rand.Uint32()))
		}
	case 7:
		if len(w.conns) > 0 {
			w.breakConn(w.conns[w.rand.IntN(len(w.conns))])
		}
	case 8:
		if d.up {
			w.stop(d)
		}
	case 9:
		if !d.up {
			w.start(d)
		}
	case 10:
		refuse := w.rand.IntN(2) == 0
		d.store.fail = func(protocol.Page) error {
			if refuse {
				return sdk.Errorf(sdk.CodeUnavailable, "the disk is full")
			}
			return nil
		}
	case 11:
		w.pass(time.Duration(w.rand.IntN(8000)) * time.Millisecond)
	}
}

func TestMachine_Converges(t *testing.T) {
	seeds := 150
	if testing.Short() {
		seeds = 20
	}
	for name, exists := range topologies {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(seeds) {
				w := newWorld(t, seed, 2+int(seed%5))
				w.cutAll(exists)
				for range 120 {
					w.disturb()
					for range w.rand.IntN(60) {
						w.turn()
					}
				}
				for _, d := range w.devices {
					d.store.fail = nil
					if !d.up {
						w.start(d)
					}
				}
				w.pass(2 * time.Minute)
				w.checkEqual(fmt.Sprintf("%s, seed %d", name, seed))
				if t.Failed() {
					return
				}
				for _, d := range w.devices {
					for _, p := range d.machine.Peers(w.now) {
						if p.State != Live && !w.cut[[2]int{min(d.index, int(p.ID[15])-1), max(d.index, int(p.ID[15])-1)}] {
							t.Fatalf("seed %d: d%d sees %s as %s (%s) after faults stopped", seed, d.index, p.Name, p.State, p.Reason)
						}
					}
				}
			}
		})
	}
}
