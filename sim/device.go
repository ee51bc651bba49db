package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
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
	bootstrap []int  // the members that it was told of when it joined
	image     []byte // the database in memory
	dir       string // the database in files

	// The wall clock.
	offset   time.Duration
	drift    float64 // of each second
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
	machine  *peersync.Machine
	epoch    protocol.EpochID
	pipes    map[protocol.Stream]*pipe
	known    []int // members
	crashing crashPoint
	slow     time.Duration // that its disk takes more

	// The world's account; not lost.
	durable   map[protocol.Stream]hlc.Stamp // watermarks of commits that have returned
	last      hlc.Stamp                     // of the latest acknowledged own write
	seen      hlc.Stamp                     // the greatest stamp that it has durably applied
	committed int
}

// crashPoint is a moment of a commit.
type crashPoint int

const (
	noCrash      crashPoint = iota
	beforeCommit            // all is written, and not committed
	afterCommit             // it is durable, and nobody has been told
)

var errPower = errors.New("the power is gone")

func (d *device) String() string { return fmt.Sprintf("d%d", d.index) }

var epochStart = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// wall reads the device's wall clock.
func (d *device) wall() time.Time {
	if d.frozen {
		return d.frozenAt
	}
	t := epochStart.Add(d.w.now).Add(d.offset)
	return t.Add(time.Duration(d.drift * float64(d.w.now)))
}

// monotonic is what a host's timers run on: it does not jump.
func (d *device) monotonic() time.Time { return epochStart.Add(d.w.now) }

// start starts a device that is down from what it has stored.
func (d *device) start() {
	w, ctx := d.w, context.Background()
	d.starts++
	d.up, d.stopped, d.late, d.crashing, d.slow = true, false, nil, noCrash, 0
	d.pipes = map[protocol.Stream]*pipe{}
	d.epoch = protocol.EpochID{byte(d.starts >> 8), byte(d.starts), 15: byte(d.index + 1)}
	w.check(d.open(ctx), "start %s", d)
	d.journal = peerlog.New(d.db)
	var err error
	d.registry, err = registry.New(ctx, registry.Options{DB: d.db, Self: d.id, Log: w.log})
	w.check(err, "start %s: registry", d)
	for _, server := range servers() {
		_, err := d.registry.Add(ctx, w.bug.wrapServer(server))
		w.check(err, "start %s: model", d)
	}
	d.clock, err = w.bug.openClock(d)
	w.check(err, "start %s: clock", d)
	d.db.BeforeCommit(func(*database.Tx) error {
		if d.crashing == beforeCommit {
			return errPower
		}
		return nil
	})
	w.check(replica.OpenEpoch(ctx, d.db, d.journal, d.clock, d.id, peerlog.EpochID(d.epoch)), "start %s: epoch", d)
	d.pages = w.bug.joinPages(d, &replica.Pages{DB: d.db, Registry: d.registry, Journal: d.journal, Clock: d.clock})
	d.manager = transaction.New(transaction.Options{
		DB: d.db, Self: d.id, Epoch: d.epoch, Next: w.bug.next(d), Prepare: w.prepareLocal(d), Journal: w.bug.journal(d), Announce: d.announced,
	})
	d.pages.Turn = d.manager.Turn
	marks, err := replica.Marks(ctx, d.journal)
	w.check(err, "start %s: watermarks", d)
	w.checkMarks(d, marks)
	d.known = d.members()
	d.machine = peersync.NewMachine(peersync.MachineOptions{
		Self:  peersync.Self{Device: d.id, Name: d.String(), Library: protocol.LibraryID{1}, LibraryName: "sim", Epoch: d.epoch},
		Marks: marks, Members: d.memberList(), Limits: w.bug.limits(w.limits), Config: w.config,
		Rand: rand.New(rand.NewPCG(w.options.Seed, uint64(d.index)<<32|uint64(d.starts))), //nolint:gosec // reproducible jitter
	})
	w.trace(d, "start", "epoch %d, clock %s, wall %s", d.starts, d.clock.Last(), d.wall().Format(time.TimeOnly))
	w.checkDevice(d)
	d.tick()
}

func (d *device) tick() {
	d.step(peersync.Tick{})
	d.w.plan(d.w.config.Heartbeat/ticksPerBeat, d, d.tick)
}

// ticksPerBeat is as in the engine.
const ticksPerBeat = 8

func (d *device) open(ctx context.Context) (err error) {
	if d.w.options.Store == "file" {
		if d.dir == "" {
			d.dir = filepath.Join(d.w.options.Dir, fmt.Sprintf("%d-%d", d.w.options.Seed, d.index))
		}
		d.db, err = database.Open(ctx, database.Options{Dir: d.dir, Durability: database.Normal, Readers: 2, CacheKiB: 1024, Log: d.w.log})
		return err
	}
	image := d.image
	if image == nil {
		image = d.w.options.template
	}
	d.db, err = database.OpenMemory(ctx, image, d.w.log)
	return err
}

// crash ends a device at once. What its last commit left stays.
func (d *device) crash() {
	w := d.w
	w.trace(d, "crash", "")
	if w.options.Store == "file" {
		w.check(d.keepFiles(), "crash %s", d)
	} else {
		image, err := d.db.Image()
		w.check(err, "crash %s", d)
		d.image = w.bug.keepImage(d, image)
		w.check(d.db.Close(), "crash %s", d)
	}
	d.up, d.machine, d.pipes, d.late = false, nil, nil, nil
	w.stats.Crashes++
}

// keepFiles copies the database as it stands in its files, which is what the end of a process leaves, before the old
// one is closed, which would tidy up.
func (d *device) keepFiles() error {
	next := filepath.Join(d.w.options.Dir, fmt.Sprintf("%d-%d-%d", d.w.options.Seed, d.index, d.starts))
	if err := os.MkdirAll(next, 0o700); err != nil {
		return err
	}
	for _, suffix := range []string{"", "-wal"} {
		data, err := os.ReadFile(filepath.Join(d.dir, database.FileName+suffix))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(next, database.FileName+suffix), data, 0o600); err != nil {
			return err
		}
	}
	err := errors.Join(d.db.Close(), os.RemoveAll(d.dir))
	d.dir = next
	return err
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
		w.checkVector(d, a.Message)
		w.send(d, a.Session, a.Message)
	case peersync.Close:
		w.closeEnd(d, a.Session)
	case peersync.Apply:
		d.apply(a)
	case peersync.ReadPage:
		d.readPage(a)
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
func (d *device) members() []int {
	known := map[int]bool{d.index: true}
	for _, n := range d.bootstrap {
		known[n] = true
	}
	err := d.registry.List(context.Background(), memberModel, registry.Filter{}, func(row registry.Row) error {
		if n, ok := row.Value("device").(int64); ok {
			known[int(n)] = true
		}
		return nil
	})
	d.w.check(err, "%s: list members", d)
	var list []int
	for n := range known {
		list = append(list, n)
	}
	slices.Sort(list)
	return list
}

// memberList is what the machine is told; there are addresses for those that can be dialled.
func (d *device) memberList() []peersync.Member {
	list := make([]peersync.Member, 0, len(d.known))
	for _, n := range d.known {
		m := peersync.Member{ID: deviceID(n), Name: fmt.Sprintf("d%d", n)}
		if n != d.index && d.w.links[d.index][n] != nil {
			m.Addresses = []protocol.Address{{Transport: "sim", Address: fmt.Sprint(n)}}
		}
		list = append(list, m)
	}
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
