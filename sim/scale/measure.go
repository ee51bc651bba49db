package main

import (
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/starling-sync/starling/host/peersync"
	"github.com/starling-sync/starling/host/protocol"
)

// result is what one run shows. Times are simulated unless they say otherwise.
type result struct {
	Devices int
	Full    bool // every device knows all members
	Sealed  bool // devices close stamps, which is traffic of its own
	Sample  int  // one in so many messages was encoded

	First costs // of the first change that a device makes after its start: it opens an epoch
	Later costs // of those after it

	AtRest, AfterWrites int           // heap a device
	Look                time.Duration // real time of the first look at what may be forgotten ...
	LookAgain           time.Duration // ... and of one at which nothing has changed since
	Real                time.Duration
	Events              uint64
	Warned              map[string]int
}

// costs is what the writes of one phase took.
type costs struct {
	Writes int

	// From a commit to durable on another device: of all pairs of a write and a device, and to the last device of each write.
	Half, AllHalf, All99, AllMax time.Duration

	Messages   float64            // a write, heartbeats left out
	Bytes      float64            // a write, heartbeats that carry marks included
	Deliveries float64            // a write
	ByType     map[string]float64 // messages a write
}

// receivers is how many devices a write must reach.
func (r *result) receivers() float64 { return float64(r.Devices - 1) }

// traffic counts messages by type. Index 0 is for heartbeats that carry nothing but the time: they come anyway.
type traffic struct {
	codec    *protocol.Codec
	sample   int
	messages [256]int
	encoded  [256]int
	bytes    [256]int
	frame    []byte
}

func (t *traffic) start(limits protocol.Limits, sample int) (err error) {
	t.codec, err = protocol.NewCodec(limits)
	t.sample = sample
	return err
}

func (t *traffic) count(m protocol.Message) (err error) {
	index := m.Type()
	if beat, ok := m.(*protocol.Heartbeat); ok && len(beat.Vector)+len(beat.Known) == 0 {
		index = 0
	}
	if t.messages[index]++; t.messages[index]%t.sample != 1%t.sample {
		return nil
	}
	t.frame, err = t.codec.AppendFrame(t.frame[:0], m)
	t.encoded[index]++
	t.bytes[index] += len(t.frame)
	return err
}

func (t *traffic) reset() { t.messages, t.encoded, t.bytes = [256]int{}, [256]int{}, [256]int{} }

// sum fills in what the traffic since reset comes to for each write.
func (t *traffic) sum(c *costs) {
	writes := float64(c.Writes)
	c.ByType = map[string]float64{}
	for i, n := range t.messages {
		kind := protocol.Type(i) //nolint:gosec // below 256
		if i == 0 || n == 0 {
			continue
		}
		c.ByType[kind.String()] = float64(n) / writes
		c.Bytes += float64(t.bytes[i]) / float64(t.encoded[i]) * float64(n) / writes
		switch kind {
		case protocol.TypeHeartbeat:
			continue
		case protocol.TypeSharedChange, protocol.TypeSharedChangeBatch, protocol.TypeSharedChangeResponse:
			c.Deliveries += float64(n) / writes
		}
		c.Messages += float64(n) / writes
	}
}

const (
	warmUp   = 20 * time.Second // sessions stand, and all have told each other of it
	writing  = 10 * time.Second
	patience = 10 * time.Minute
)

func never() bool { return false }

// measure makes one run.
func measure(o options) (*result, error) {
	began := time.Now()
	w, err := newWorld(o)
	if err != nil {
		return nil, err
	}
	before := heapInUse()
	w.start()
	w.run(warmUp, never)
	if err := w.connected(); err != nil {
		return nil, err
	}
	r := &result{Devices: o.Devices, Full: o.Full, Sealed: o.Seal, Sample: o.Sample, Warned: w.warned}
	r.AtRest = (heapInUse() - before) / o.Devices
	if r.First, err = w.write(len(w.writers)); err != nil {
		return nil, fmt.Errorf("first changes: %w", err)
	}
	if r.Later, err = w.write(o.Writes); err != nil {
		return nil, fmt.Errorf("later changes: %w", err)
	}
	if err := w.check(); err != nil {
		return nil, err
	}
	r.AfterWrites = (heapInUse() - before) / o.Devices
	r.Look, r.LookAgain = w.lookTimes()
	r.Events, r.Real = w.seq, time.Since(began)
	return r, nil
}

// write makes n writes and returns what they took.
func (w *world) write(n int) (costs, error) {
	c := costs{Writes: n}
	w.traffic.reset()
	w.planWrites(n, writing)
	w.run(w.now+patience, w.spread)
	if w.broken == nil && !w.spread() {
		return c, fmt.Errorf("after %s of %d copies %d are there", patience, n*(len(w.devices)-1), len(w.delays))
	}
	w.run(w.now+2*w.config.Heartbeat, never) // the acknowledgements of the last writes
	w.traffic.sum(&c)
	w.times(&c)
	return c, w.broken
}

// connected returns an error unless every link carries a session.
func (w *world) connected() error {
	if w.broken != nil {
		return w.broken
	}
	for _, e := range w.edges {
		for _, i := range [...]int{e.dials, e.listens} {
			if _, up := w.devices[i].machine.SessionOf(w.devices[e.other(i)].id); !up {
				return fmt.Errorf("after %s a link of device %d carries no session", w.now, i)
			}
		}
	}
	return nil
}

func (w *world) times(c *costs) {
	if w.broken != nil {
		return
	}
	slices.Sort(w.delays)
	var all []time.Duration
	for _, wr := range w.writes[w.phase:] {
		all = append(all, wr.done-wr.at)
	}
	slices.Sort(all)
	c.Half, c.AllHalf, c.All99, c.AllMax = part(w.delays, 50), part(all, 50), part(all, 99), part(all, 100)
}

// part returns the value that percent of a sorted list do not exceed.
func part(sorted []time.Duration, percent int) time.Duration {
	return sorted[max(0, (len(sorted)*percent+99)/100-1)]
}

// lookTimes measures what a machine takes to decide what may be forgotten: at first, and where nothing has changed since. A look
// in between, every minute in which something has moved, costs as much of the first as there are streams that have. It comes
// last: the machines are not used any more.
func (w *world) lookTimes() (first, again time.Duration) {
	m := w.devices[0].machine
	look := func() time.Duration {
		began := time.Now()
		m.Step(w.wall(), peersync.Retain{})
		return time.Since(began)
	}
	first = look()
	m.Step(w.wall(), peersync.Pruned{})
	return first, look()
}

func heapInUse() int {
	runtime.GC()
	runtime.GC() // what has finalizers, and pools, goes with the second
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int(stats.HeapAlloc) //nolint:gosec // fits
}
