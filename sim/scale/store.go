package main

import (
	"fmt"
	"slices"
	"time"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/history"
	"github.com/starling-sync/starling/host/peersync"
	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/sdk"
)

// extend continues a device's shared stream with a page of nothing, as a seal does.
func (w *world) extend(d *device) protocol.Page {
	key := protocol.Stream{Origin: d.id, Kind: sdk.SharedByAll}
	stamp := d.clock.Now()
	page := protocol.Page{Stream: key, From: d.last.Top(), Through: stamp, Head: stamp}
	id := d.start.Of(key.Kind)
	if len(d.last) == 0 {
		page.Epochs = []protocol.Epoch{{ID: id, Stream: key}}
	}
	d.last = history.At(id, stamp)
	page.Heads = d.last
	return page
}

// commit writes one shared operation: a field of twenty bytes.
func (w *world) commit(i int) {
	wr := &w.writes[i]
	d := &w.devices[wr.device]
	page := w.extend(d)
	rows := sdk.AppendOpHeader(nil, newID(w.rand), page.Through, sdk.Update, 1)
	rows = sdk.AppendOpField(rows, 0, fmt.Sprintf("%020d", w.rand.Uint64()), page.From)
	page.Batches = []sdk.Batch{{Model: "tag", Version: 1, Columns: []string{"label"}, Count: 1, Rows: rows}}
	wr.at, wr.stamp, wr.page = w.now, page.Through, page
	w.written[d.id] = append(w.written[d.id], i)
	w.reach(wr.device, i)
	w.step(wr.device, peersync.Committed{Page: page})
}

// after returns what was written of a stream after one stamp and up to another.
func (w *world) after(key protocol.Stream, since, through hlc.Stamp) []int {
	if key.Kind != sdk.SharedByAll {
		return nil
	}
	list := w.written[key.Origin]
	first := slices.IndexFunc(list, func(i int) bool { return w.writes[i].stamp > since })
	if first < 0 {
		return nil
	}
	last := first
	for last < len(list) && w.writes[list[last]].stamp <= through {
		last++
	}
	return list[first:last]
}

// read answers a ReadPage. All that a run writes fits one page.
func (w *world) read(a peersync.ReadPage) peersync.PageRead {
	page := protocol.Page{Stream: a.Stream, From: a.Since, Through: a.Heads.Top(), Heads: a.Heads}
	for _, i := range w.after(a.Stream, a.Since, page.Through) {
		page.Batches = append(page.Batches, w.writes[i].page.Batches...)
	}
	return peersync.PageRead{Read: a, Page: page}
}

// apply makes a page durable. A page that does not hold what it covers ends the run.
func (w *world) apply(i int, a peersync.Apply) {
	d := &w.devices[i]
	covered := w.after(a.Page.Stream, a.Page.From, a.Page.Through)
	if len(covered) != a.Page.Rows() {
		w.breaks("a page of %d operations comes to device %d where %d were written", a.Page.Rows(), i, len(covered))
	}
	if err := d.clock.Observe(a.Page.Through); err != nil {
		w.breaks("clock: %w", err)
	}
	for _, k := range covered {
		w.reach(i, k)
	}
	w.step(i, peersync.Applied{Generation: a.Generation, Page: a.Page})
}

// reach takes in that a device has a write.
func (w *world) reach(device, i int) {
	d, wr := &w.devices[device], &w.writes[i]
	if d.has[i/64]&(1<<(i%64)) != 0 {
		return
	}
	d.has[i/64] |= 1 << (i % 64)
	if wr.has++; device != wr.device {
		w.delays = append(w.delays, w.now-wr.at)
	}
	if wr.has == len(w.devices) {
		wr.done = w.now
	}
}

// spread reports whether everybody has everything that the phase writes.
func (w *world) spread() bool {
	return len(w.delays) == (len(w.writes)-w.phase)*(len(w.devices)-1)
}

// check compares what every machine says that it has with what was written.
func (w *world) check() error {
	for i := range w.devices {
		have := map[sdk.DeviceID]hlc.Stamp{}
		for _, mark := range w.devices[i].machine.Vector() {
			have[mark.Origin] = mark.Stamp
		}
		for origin, list := range w.written {
			if last := w.writes[list[len(list)-1]].stamp; have[origin] < last {
				return fmt.Errorf("device %d says that it has %s of %s; it has %s", i, have[origin], origin, last)
			}
		}
	}
	return nil
}

// planWrites begins a phase: so many writes, by the writers in turn, at random times.
func (w *world) planWrites(n int, over time.Duration) {
	w.phase, w.delays = len(w.writes), w.delays[:0]
	for i := range n {
		w.writes = append(w.writes, write{device: w.writers[i%len(w.writers)]})
		w.plan(time.Duration(w.rand.Int64N(int64(over))), w.writers[i%len(w.writers)], commit{w.phase + i})
	}
}
