package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/history"
	"github.com/starling-sync/starling/host/peersync"
	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/host/registry"
	"github.com/starling-sync/starling/sdk"
)

// Options say which run to make. The zero values of the fields below Store leave the choice to the seed.
type Options struct {
	Seed    uint64
	Store   string // "memory" or "file"
	Dir     string // for the files
	Verbose io.Writer

	Devices  int
	Topology string
	Writes   int      // commits in all
	Without  []string // kinds of faults that do not happen
	Bug      string   // seeded; see bugs.go

	template []byte // an empty database with the models' tables
	codec    *protocol.Codec
}

// prepare makes what all runs share.
func (o *Options) prepare() error {
	ctx := context.Background()
	db, err := database.OpenMemory(ctx, nil, nil)
	if err != nil {
		return err
	}
	r, err := registry.New(ctx, registry.Options{DB: db, Self: deviceID(0)})
	if err != nil {
		return err
	}
	for _, server := range servers() {
		if _, err := r.Add(ctx, findBug(o.Bug).wrapServer(server)); err != nil {
			return err
		}
	}
	if o.template, err = db.Image(); err != nil {
		return err
	}
	if o.codec, err = protocol.NewCodec(protocol.DefaultLimits()); err != nil {
		return err
	}
	return db.Close()
}

// Stats count what a run did.
type Stats struct {
	Runs                              int
	Simulated                         time.Duration
	Settled                           time.Duration // from the end of faults to equal and live
	Writes, Changes, Refused          int           // commits, changes in them, changes refused as they should be
	Pages, Overlaps, Stale, Holds     int
	Checked                           int // changes compared with what a device holds
	Events, Messages, Sessions        int
	Reads, Crashes, MidCommit, Ends   int // ends: of the crashes, those that the device saw coming
	Cuts, Stops, Jumps, Resets, Joins int
	Hidden, MostUnread, Journalled    int
	Removed, Kept, Doubtful           int // adds that removes undid; elements there since the remove had not seen an add; edits by what the account does not know

	Restores, Clones, Retires, Aways, Rots, Aheads int
	SameStamp                                      int // of the rots, those that only the owner's word can repair
	Restamps, Restamped, SeenHeld                  int // starts that restamp; changes with new stamps; streams shown as held on both sides
	Forgiven, MostHeads, Collisions                int // changes that may be gone; positions in one stream; stamps not drawn twice
	Snapshots, SnapshotPages, Resumed              int // completed; taken in; went on at another peer
	PrunesByAck, PrunesByAge, Seals                int
	AuditsEqual, Repaired                          int // records that audits merged
	Quiet                                          int // runs that were seen to come to rest
}

// Failure is an invariant that did not hold. It is the panic of a world, and the error of a run.
type Failure struct {
	Seed  uint64
	Check string // its name
	Text  string
	At    time.Duration
}

func (f *Failure) Error() string {
	return fmt.Sprintf("seed %d, after %s: %s: %s", f.Seed, f.At, f.Check, f.Text)
}

// world is a few devices and the network between them, in one goroutine. One seed always gives the same run.
type world struct {
	options Options
	setup   plan
	bug     *bug
	log     hclog.Logger
	limits  protocol.Limits
	config  peersync.Config
	encode  bool

	now       time.Duration
	seq       uint64
	agenda    agenda
	devices   []*device
	links     [][]*link // by both indexes; nil: none
	linkList  []*link
	conns     []*conn
	sessions  peersync.SessionID
	ledger    *ledger
	stats     Stats
	decisions int            // that the local write at hand took so far
	raised    any            // a failure found while a commit was announced
	healed    bool           // faults have stopped
	shaken    bool           // pages were applied while a local write was being decided
	written   *protocol.Page // by the latest local commit
	asked     []intent       // of the local write at hand, of shared records

	workRand, faultRand, netRand, partRand *rand.Rand

	graph     history.Graph // of all epochs that were ever opened
	starts    int           // of all devices together
	dirs      int
	twins     []*device
	ever      map[int]map[protocol.Stream]protocol.Heads // by device: what it ever had, whatever copies it was put back to
	everReach map[int]map[protocol.Stream]reach
	carried   map[carriedID]*cargo      // pages of records that are on their way
	forgotten map[protocol.EpochID]bool // epochs that some device has forgotten
	// forgottenTo is up to where some device has forgotten deletes: of the rows of a device, or with all other clocks of shared
	// records that do not exist.
	forgottenTo map[peersync.Scope]hlc.Stamp
	branched    bool                  // a store was put back to a copy, or runs twice
	rotten      map[key]bool          // records that were damaged in some store
	trusted     map[sdk.DeviceID]bool // owners whose word repairs some of them
	sound       bool                  // every damage must have been repaired
	astray      *device               // whose clock is years ahead, or whose stamps still are; nil: none
	noisy       time.Duration         // when something was last said but that devices live
	noise       protocol.Type

	digest hash.Hash64
	buf    []byte
}

// Run makes one run. Its error is a *Failure where an invariant did not hold.
func Run(o Options) (stats Stats, digest uint64, err error) {
	if o.template == nil {
		if err := o.prepare(); err != nil {
			return stats, 0, err
		}
	}
	w := newWorld(o)
	defer func() {
		stats, digest = w.stats, w.digest.Sum64()
		if r := recover(); r != nil {
			failure, ok := r.(*Failure)
			if !ok {
				failure = &Failure{Seed: o.Seed, Check: "panic", Text: fmt.Sprintf("%v\n%s", r, stack()), At: w.now}
			}
			err = failure
		}
		err = errors.Join(err, w.close())
		if failure, ok := errors.AsType[*Failure](err); ok {
			err = failure
		}
	}()
	w.run()
	return w.stats, w.digest.Sum64(), nil
}

func newWorld(o Options) *world {
	source := func(n uint64) *rand.Rand { return rand.New(rand.NewPCG(o.Seed, n)) } //nolint:gosec // reproducible
	w := &world{
		options: o, log: hclog.NewNullLogger(), ledger: newLedger(), digest: fnv.New64a(), bug: findBug(o.Bug),
		workRand: source(1), faultRand: source(2), netRand: source(3), partRand: source(4), config: peersync.DefaultConfig(), limits: protocol.DefaultLimits(),
		ever: map[int]map[protocol.Stream]protocol.Heads{}, everReach: map[int]map[protocol.Stream]reach{}, carried: map[carriedID]*cargo{},
		forgottenTo: map[peersync.Scope]hlc.Stamp{}, forgotten: map[protocol.EpochID]bool{}, rotten: map[key]bool{}, trusted: map[sdk.DeviceID]bool{},
	}
	w.setup = newPlan(o, source(0))
	w.setup.times(&w.config)
	w.limits.PageBytes, w.limits.WindowBytes, w.limits.MaxPageBytes = w.setup.pageBytes, w.setup.windowBytes, 64<<10
	w.encode = w.setup.encode
	for i := range w.setup.devices {
		w.devices = append(w.devices, &device{w: w, index: i, id: deviceID(i), account: newAccount()})
	}
	w.links = make([][]*link, len(w.devices))
	for i := range w.links {
		w.links[i] = make([]*link, len(w.devices))
	}
	for _, e := range w.setup.edges {
		l := &link{ends: [2]*device{w.devices[e[0]], w.devices[e[1]]}, latency: time.Millisecond + w.jitter(w.netRand, 80*time.Millisecond)}
		w.links[e[0]][e[1]], w.links[e[1]][e[0]] = l, l
		w.linkList = append(w.linkList, l)
	}
	return w
}

func (w *world) close() error {
	var errs []error
	for _, d := range slices.Concat(w.devices, w.twins) {
		if d.up && d.db != nil {
			errs = append(errs, d.db.Close())
		}
	}
	return errors.Join(errs...)
}

func (w *world) describe() string {
	text := ""
	for _, d := range w.devices {
		if !d.up {
			text += fmt.Sprintf("  %s is down\n", d)
			continue
		}
		text += fmt.Sprintf("  %s at clock %s, wall %s", d, d.clock.Last(), d.wall().Format(time.TimeOnly))
		for _, st := range w.streamsOf(d) {
			text += fmt.Sprintf(" %s/%s=%s", name(st.Origin), st.Kind, describeHeads(d.durable[st]))
		}
		text += "\n"
		for _, p := range d.machine.Peers(d.monotonic()) {
			if w.links[d.index][indexOf(p.ID)] != nil {
				text += fmt.Sprintf("    sees %s: %s %s, behind %d streams, it %d\n", p.Name, p.State, p.Reason, p.StreamsBehind, p.StreamsBehindMe)
			}
		}
	}
	return text
}

// describeHeads writes heads in short.
func describeHeads(heads protocol.Heads) (text string) {
	for i, p := range heads {
		if i > 0 {
			text += "+"
		}
		text += fmt.Sprintf("%x:%s", p.Epoch[1:3], p.Stamp)
	}
	return text
}

func name(id sdk.DeviceID) string { return fmt.Sprintf("d%d", indexOf(id)) }

// fail ends the run: an invariant does not hold.
func (w *world) fail(check, format string, args ...any) {
	panic(&Failure{Seed: w.options.Seed, Check: check, Text: fmt.Sprintf(format, args...), At: w.now})
}

// check ends the run on an error that no fault explains.
func (w *world) check(err error, format string, args ...any) {
	if err != nil {
		w.fail("error", "%s: %v", fmt.Sprintf(format, args...), err)
	}
}

func (w *world) verbose() bool { return w.options.Verbose != nil }

// trace adds a line to the trace. Its arguments must not depend on anything but the seed.
func (w *world) trace(d *device, what, format string, args ...any) {
	index := -1
	if d != nil {
		index = d.index
	}
	w.note(index, what)
	if w.verbose() {
		fmt.Fprintf(w.options.Verbose, "%12s %-4s %-9s %s\n", w.now, fmt.Sprintf("d%d", index), what, fmt.Sprintf(format, args...)) //nolint:errcheck // a trace
	}
}

// note adds an event to the digest of the run.
func (w *world) note(index int, what string, numbers ...uint64) {
	w.buf = binary.BigEndian.AppendUint64(w.buf[:0], uint64(w.now)) //nolint:gosec // not negative
	w.buf = append(w.buf, byte(index))
	w.buf = append(w.buf, what...)
	for _, n := range numbers {
		w.buf = binary.BigEndian.AppendUint64(w.buf, n)
	}
	w.digest.Write(w.buf)
}

func (w *world) traceStamp(d *device, what string, st protocol.Stream, from, through hlc.Stamp) {
	w.note(d.index, what, uint64(st.Origin[15]), uint64(len(st.Kind)), uint64(from), uint64(through))
	if w.verbose() {
		fmt.Fprintf(w.options.Verbose, "%12s %-4s %-9s %s of %s (%s, %s]\n", w.now, d, what, st.Kind, name(st.Origin), from, through) //nolint:errcheck // a trace
	}
}

func (w *world) traceMessage(to, from *device, m protocol.Message) {
	w.note(to.index, "gets", uint64(from.index), uint64(m.Type())) //nolint:gosec // not negative
	if d, ok := protocol.DeliveryOf(m); ok {
		w.note(to.index, "page", uint64(d.Page.From), uint64(d.Page.Through), uint64(d.Page.Bytes())) //nolint:gosec // not negative
		for i := range d.Page.Batches {
			w.digest.Write(d.Page.Batches[i].Rows)
		}
	}
	if w.verbose() {
		text := m.Type().String()
		switch m := m.(type) {
		case *protocol.Error:
			text += " " + m.Message
		case *protocol.StateRequest:
			text += describeRequest(&m.Request)
		case *protocol.SharedChangeRequest:
			text += describeRequest(&m.Request)
		case *protocol.SnapshotRequest:
			text += fmt.Sprintf(" #%d %s after %s %x until %s %x", m.Number, m.Kind, m.After.Model, m.After.ID[14:], m.Until.Model, m.Until.ID[14:])
		case *protocol.SnapshotPage:
			text += fmt.Sprintf(" #%d done %v, end %s %x, %d bytes", m.Number, m.Done, m.End.Model, m.End.ID[14:], m.Bytes())
		}
		if d, ok := protocol.DeliveryOf(m); ok {
			text += fmt.Sprintf(" #%d of %s (%s, %s] heads %s, %d rows", d.Subscription, name(d.Page.Origin), d.Page.From, d.Page.Through, describeHeads(d.Page.Heads), d.Page.Rows())
		}
		fmt.Fprintf(w.options.Verbose, "%12s %-4s %-9s %s: %s\n", w.now, to, "gets", from, text) //nolint:errcheck // a trace
	}
}

func describeRequest(r *protocol.Request) (text string) {
	for _, s := range r.Subscribe {
		text += fmt.Sprintf(" #%d %s after %s", s.Number, name(s.Origin), describeHeads(s.Since))
	}
	for _, origin := range r.Drop {
		text += " drop " + name(origin)
	}
	return text
}
