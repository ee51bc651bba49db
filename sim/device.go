package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/peerlog"
	"github.com/starling-sync/starling/host/peersync"
	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/host/registry"
	"github.com/starling-sync/starling/host/replica"
	"github.com/starling-sync/starling/host/transaction"
	"github.com/starling-sync/starling/sdk"
)

// device is one device of the world: the real parts, and the world's own account of what they have promised.
type device struct {
	w     *world
	index int
	id    sdk.DeviceID

	// What a crash leaves.
	joined    bool
	retired   bool
	bootstrap []int // the members that it was told of when it joined
	store     store

	twin   *device // another running copy of it
	isTwin bool

	// The wall clock.
	offset   time.Duration
	ahead    time.Duration // years, while it is set to another age
	drift    float64       // of each second
	frozen   bool
	frozenAt time.Time

	// One start.
	up       bool
	stopped  bool // as by SIGSTOP
	starts   int
	late     []event // that came while stopped
	db       *database.DB
	journal  *peerlog.Log
	registry *registry.Registry
	manager  *transaction.Manager
	clock    *hlc.Clock
	pages    *replica.Pages
	keeper   *replica.Keeper
	machine  *peersync.Machine
	epoch    protocol.EpochID
	pipes    map[protocol.Stream]*pipe
	known    []member
	epochs   map[protocol.EpochID]bool // of which it knows what they continue
	crashing crashPoint
	slow     time.Duration // that its disk takes more
	ticks    int
	learned  []peersync.Acknowledged // to be kept at the next beat
	reading  *cargo                  // what the page of records holds that is being sent
	retained map[protocol.Stream]hlc.Stamp
	asked    map[peersync.Scope]sdk.DeviceID // who was last asked for a page of a snapshot

	account // not lost in a crash
	shared  lifetime
}

// lifetime is what stays whatever copy a device is put back to.
type lifetime struct {
	committed int
	restored  bool // at some time
	copies    []stored
}

// member is a device of the library, as a device knows it.
type member struct {
	index   int
	retired bool
}

// crashPoint is a moment of a commit.
type crashPoint int

const (
	noCrash      crashPoint = iota
	beforeCommit            // all is written, and not committed
	afterCommit             // it is durable, and nobody has been told
)

var errPower = errors.New("the power is gone")

func (d *device) String() string {
	if d.isTwin {
		return fmt.Sprintf("d%d'", d.index)
	}
	return fmt.Sprintf("d%d", d.index)
}

var epochStart = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// wall reads the device's wall clock.
func (d *device) wall() time.Time {
	if d.frozen {
		return d.frozenAt
	}
	t := epochStart.Add(d.w.now).Add(d.offset + d.ahead)
	return t.Add(time.Duration(d.drift * float64(d.w.now)))
}

// monotonic is what a host's timers run on: it does not jump.
func (d *device) monotonic() time.Time { return epochStart.Add(d.w.now) }

// newEpoch names a start. Their order says nothing.
func (w *world) newEpoch(d *device) protocol.EpochID {
	w.starts++
	n := uint32(w.starts) * 2654435761 //nolint:gosec // odd, so that no two are alike
	return protocol.EpochID{0xe0, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n), 15: byte(d.index + 1)}
}

// start starts a device that is down from what it has stored.
func (d *device) start() {
	w, ctx := d.w, context.Background()
	d.starts++
	if d.asked == nil {
		d.asked = map[peersync.Scope]sdk.DeviceID{}
	}
	d.up, d.stopped, d.late, d.crashing, d.slow = true, false, nil, noCrash, 0
	d.pipes, d.learned, d.reading, d.retained = map[protocol.Stream]*pipe{}, nil, nil, nil
	d.epoch = w.newEpoch(d)
	w.check(d.open(ctx), "start %s", d)
	d.journal = peerlog.New(d.db)
	var err error
	d.registry, err = registry.New(ctx, registry.Options{DB: d.db, Self: d.id, Part: w.bug.part(d), Log: w.log})
	w.check(err, "start %s: registry", d)
	for _, server := range servers() {
		_, err := d.registry.Add(ctx, w.bug.wrapServer(server))
		w.check(err, "start %s: model", d)
	}
	d.restamp(ctx)
	d.clock, err = w.bug.openClock(d)
	w.check(err, "start %s: clock", d)
	w.rightClock(d)
	d.db.BeforeCommit(func(*database.Tx) error {
		if d.crashing == beforeCommit {
			return errPower
		}
		return nil
	})
	d.pages = w.bug.joinPages(d, &replica.Pages{DB: d.db, Registry: d.registry, Journal: d.journal, Clock: d.clock})
	d.manager = transaction.New(transaction.Options{
		DB: d.db, Self: d.id, Epoch: d.epoch, Next: d.nextStamp(), Prepare: w.prepareLocal(d), Journal: w.bug.journal(d), Announce: d.announced,
	})
	d.pages.Turn = d.manager.Turn
	d.keeper = &replica.Keeper{DB: d.db, Registry: d.registry, Journal: d.journal, Sealer: d.manager.Seal}
	d.startMachine(ctx)
	w.trace(d, "start", "start %d, clock %s, wall %s", d.starts, d.clock.Last(), d.wall().Format(time.TimeOnly))
	w.checkDevice(d)
	w.checkDigests(d)
	w.cameBack(d)
	d.tick()
}

func (d *device) startMachine(ctx context.Context) {
	w := d.w
	started := d.clock.Now()
	stored, err := replica.Stored(ctx, d.journal)
	w.check(err, "start %s: what it remembers", d)
	w.checkStored(d, &stored)
	d.epochs = map[protocol.EpochID]bool{}
	for _, e := range stored.Epochs {
		d.epochs[e.ID] = true
	}
	w.bug.stored(d, &stored)
	d.known = d.members()
	d.machine = peersync.NewMachine(peersync.MachineOptions{
		Self: peersync.Self{
			Device: d.id, Name: d.String(), Library: protocol.LibraryID{1}, LibraryName: "sim", Epoch: d.epoch, Started: started,
		},
		Stored: stored, Members: d.memberList(), Limits: w.bug.limits(w.limits), Config: w.config,
		Rand: rand.New(rand.NewPCG(w.options.Seed, uint64(d.index)<<32|uint64(w.starts))), //nolint:gosec // reproducible jitter
	})
}

// rightClock sets the wall clock of a device right that was put back to a copy, if both its clock and its mark are behind what
// it has ever written. Then stamps would go back, and what has been forgotten would be met again; nothing is promised of that.
func (w *world) rightClock(d *device) {
	if !d.shared.restored {
		return
	}
	for st, heads := range w.ever[d.index] {
		if top := w.graph.Until(heads, w.horizon()).Top(); st.Origin == d.id && d.clock.Last() < top && d.wall().Before(top.Time()) {
			d.offset, d.drift, d.frozen, d.ahead = 0, 0, false, 0
		}
	}
}

// nextStamp returns what draws a device's stamps.
//
// Two copies of a device that run, or a restored one whose clock is behind what it had written, can draw one stamp for
// different changes. No protocol mends that, so the world lets it not happen, and counts.
func (d *device) nextStamp() func() hlc.Stamp {
	next := d.w.bug.next(d)
	if d.w.bug.sameStamps {
		return next
	}
	return func() hlc.Stamp {
		for {
			stamp := next()
			if !d.w.ledger.drawn[sdk.Version{Stamp: stamp, Device: d.id}] {
				return stamp
			}
			d.w.stats.Collisions++
		}
	}
}

func (d *device) tick() {
	d.step(peersync.Tick{})
	if d.ticks++; d.ticks%ticksPerBeat == 0 {
		d.keepLearned()
	}
	d.w.plan(d.w.config.Heartbeat/ticksPerBeat, d, d.tick)
}

// ticksPerBeat is as in the engine.
const ticksPerBeat = 8

// crash ends a device at once. What its last commit left stays.
func (d *device) crash() {
	w := d.w
	w.trace(d, "crash", "")
	w.check(d.keepStore(), "crash %s", d)
	d.up, d.machine, d.pipes, d.late = false, nil, nil, nil
	w.stats.Crashes++
}

// step tells the machine of an event and does what it asks.
func (d *device) step(e peersync.Event) {
	for _, a := range slices.Clone(d.machine.Step(d.monotonic(), e)) {
		d.act(a)
	}
}

func (d *device) act(a peersync.Action) {
	w := d.w
	switch a := a.(type) {
	case peersync.Send:
		w.checkClaims(d, a.Message)
		w.send(d, a.Session, a.Message)
	case peersync.Close:
		w.closeEnd(d, a.Session)
	case peersync.Apply:
		d.apply(a)
	case peersync.ReadPage:
		d.readPage(a)
	case peersync.ReadRange:
		d.readRange(a)
	case peersync.TakeRange:
		d.takeRange(a)
	case peersync.Digest:
		d.digests(a)
	case peersync.Prune:
		d.prune(a)
	case peersync.Seal:
		d.seal()
	case peersync.Acknowledged:
		d.learn(a)
	case peersync.Dial:
		w.dial(d, a)
	case peersync.Log:
		if w.verbose() {
			w.trace(d, "log", "%s: %s %v", a.Level, a.Message, a.Args)
		}
	}
}

func (d *device) readPage(a peersync.ReadPage) {
	w := d.w
	w.plan(w.jitter(w.netRand, 3*time.Millisecond)+d.slow, d, func() {
		page, more, err := d.pages.ReadPage(context.Background(), a.Stream, a.Since, a.MaxBytes)
		page, more = w.bug.read(d, page, more)
		w.stats.Reads++
		w.traceStamp(d, "read", a.Stream, page.From, page.Through)
		w.plan(w.jitter(w.netRand, 3*time.Millisecond), d, func() {
			d.step(peersync.PageRead{Read: a, Page: page, More: more, Err: err})
		})
	})
}

// announced takes in a durable local commit.
func (d *device) announced(c transaction.Committed) {
	page := replica.PageOf(d.id, c)
	defer func() { // the database still holds its turn: commit ends the run
		if r := recover(); r != nil {
			d.w.raised = r
		}
	}()
	d.w.acknowledged(d, &page)
	if d.crashing == afterCommit {
		return
	}
	d.w.plan(0, d, func() { d.w.bug.announce(d, page) })
	d.noticeMembers(page.Batches)
}

// members reads who belongs to the library, as far as this device knows.
func (d *device) members() []member {
	known := map[int]bool{d.index: false}
	for _, n := range d.bootstrap {
		known[n] = false
	}
	err := d.registry.List(context.Background(), memberModel, registry.Filter{}, func(row registry.Row) error {
		if n, ok := row.Value("device").(int64); ok {
			_, retired := row.Value("retired").(int64)
			known[int(n)] = retired
		}
		return nil
	})
	d.w.check(err, "%s: list members", d)
	var list []member
	for n, retired := range known {
		list = append(list, member{n, retired})
	}
	slices.SortFunc(list, func(a, b member) int { return a.index - b.index })
	return list
}

// knows reports whether the device knows another one as a member, and as one that is not retired.
func (d *device) knows(index int) (known, enrolled bool) {
	for _, m := range d.known {
		if m.index == index {
			return true, !m.retired
		}
	}
	return false, false
}

// memberList is what the machine is told; there are addresses for those that can be dialled.
func (d *device) memberList() []peersync.Member {
	list := make([]peersync.Member, 0, len(d.known))
	for _, k := range d.known {
		m := peersync.Member{ID: deviceID(k.index), Name: fmt.Sprintf("d%d", k.index), Retired: k.retired}
		if k.index != d.index && d.w.links[d.index][k.index] != nil {
			m.Addresses = []protocol.Address{{Transport: "sim", Address: fmt.Sprint(k.index)}}
		}
		list = append(list, m)
	}
	d.w.bug.members(list)
	return list
}

// noticeMembers tells the machine of members that a commit has brought.
func (d *device) noticeMembers(batches []sdk.Batch) {
	if !slices.ContainsFunc(batches, func(b sdk.Batch) bool { return b.Model == memberModel }) {
		return
	}
	d.w.plan(0, d, func() {
		if list := d.members(); !slices.Equal(list, d.known) {
			d.known = list
			d.step(peersync.MembersChanged{Members: d.memberList()})
		}
	})
}
