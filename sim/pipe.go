package main

import (
	"context"
	"errors"
	"time"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/peersync"
	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/sdk"
)

// pipe applies the pages of one stream in order, as the engine's does: one is prepared while another commits; of shared
// operations one at a time.
type pipe struct {
	queue      []peersync.Apply
	preparing  bool
	ready      *task // prepared, waiting for the commit before it
	committing *task
	failed     uint64 // generations up to and with failed-1 have failed
}

type task struct {
	peersync.Apply
	prepared peersync.Prepared
	err      error
	behind   bool      // one that failed
	wall     time.Time // when it was prepared
}

// staleTries is as in the engine.
const staleTries = 8

func (d *device) apply(a peersync.Apply) {
	p := d.pipes[a.Page.Stream]
	if p == nil {
		p = &pipe{}
		d.pipes[a.Page.Stream] = p
	}
	if st := a.Page.Stream; st.Kind == sdk.DeviceOwned && len(d.durable[st]) == 0 {
		d.spared[st] = max(d.spared[st], min(a.Page.Head, d.w.horizon())) // what is years ahead is held
	}
	p.queue = append(p.queue, a)
	d.w.bug.received(d, a)
	d.pump(p)
}

func (d *device) pump(p *pipe) {
	w := d.w
	if p.committing == nil && p.ready != nil {
		t := p.ready
		p.committing, p.ready = t, nil
		w.plan(time.Millisecond+w.jitter(w.netRand, 8*time.Millisecond)+d.slow, d, func() { d.commit(p, t) })
	}
	if p.preparing || p.ready != nil || len(p.queue) == 0 || (p.committing != nil && p.queue[0].Page.Kind == sdk.SharedByAll) {
		return
	}
	a := p.queue[0]
	p.queue = p.queue[1:]
	p.preparing = true
	w.plan(w.jitter(w.netRand, 4*time.Millisecond), d, func() {
		p.preparing = false
		t := &task{Apply: a, wall: d.wall()}
		t.Page = w.bug.page(d, t.Page)
		t.prepared, t.err = d.prepare(t.Page)
		p.ready = t
		d.pump(p)
	})
}

func (d *device) prepare(page protocol.Page) (peersync.Prepared, error) {
	prepared, err := d.pages.Prepare(context.Background(), page)
	return d.w.bug.prepared(d, page, prepared, err)
}

// commit makes a prepared page durable and tells the machine.
func (d *device) commit(p *pipe, t *task) {
	w := d.w
	if t.Generation < p.failed {
		t.err, t.behind = sdk.Errorf(sdk.CodeUnavailable, "a page before this one was not applied"), true
	}
	for try := 0; t.err == nil || sdk.CodeOf(t.err) == sdk.CodeStale && try < staleTries; try++ {
		if t.err != nil {
			w.stats.Stale++
			if t.prepared, t.err = d.prepare(t.Page); t.err != nil {
				continue
			}
		}
		if t.err = t.prepared.Commit(context.Background()); t.err == nil {
			break
		}
	}
	if t.err == nil {
		w.applied(d, &t.Page)
	}
	if w.crashed(d) {
		return
	}
	p.committing = nil
	if t.err != nil {
		p.failed = max(p.failed, t.Generation+1)
		w.trace(d, "held", "%s: %v", t.Page.Kind, t.err)
		w.checkHold(d, t)
	}
	w.bug.reply(d, peersync.Applied{Generation: t.Generation, Page: t.Page, Err: t.err})
	if t.err == nil {
		d.noticeMembers(t.Page.Batches)
	}
	d.pump(p)
}

// overlap applies pages that reach back before the watermark, as resubscribing to another upstream brings them.
func (w *world) overlap(d, from *device) {
	for _, st := range w.streamsOf(from) {
		if st.Origin == d.id || w.reaches(d.reach[st], from.durable[st]) || w.faultRand.IntN(2) == 0 {
			continue
		}
		since := w.graph.Low(d.durable[st], from.durable[st])
		if list := w.ledger.streams[st]; len(list) > 0 {
			since = min(since, list[w.faultRand.IntN(len(list))].stamp)
		}
		if since < from.floors[st] || d.snapshots[scopeOf(st)].vector != nil {
			continue // the page would lack what has been forgotten; or no stream goes on while a snapshot is taken in
		}
		if page, ok := w.overlappingPage(from, st, since); ok {
			w.applyOverlap(d, page)
		}
		return
	}
}

// scopeOf is the scope of snapshots that a stream belongs to.
func scopeOf(st protocol.Stream) peersync.Scope {
	if st.Kind == sdk.SharedByAll {
		return peersync.Scope{Kind: st.Kind}
	}
	return peersync.Scope{Kind: st.Kind, Origin: st.Origin}
}

// overlappingPage reads a page as a machine has it read.
func (w *world) overlappingPage(from *device, st protocol.Stream, since hlc.Stamp) (page protocol.Page, ok bool) {
	page, more, err := from.pages.ReadPage(context.Background(), st, since, w.limits.PageBytes)
	w.check(err, "read an overlapping page")
	page.Heads = from.durable[st]
	if more {
		page.Heads = w.graph.Until(page.Heads, page.Through)
	} else {
		page.Through = max(page.Through, page.Heads.Top())
	}
	page.Epochs = w.epochsOf(page.Heads)
	return page, page.Through > since
}

func (w *world) applyOverlap(d *device, page protocol.Page) {
	page = w.bug.page(d, page)
	for try := range staleTries {
		prepared, err := d.prepare(page)
		if err == nil {
			err = prepared.Commit(context.Background())
		}
		if sdk.CodeOf(err) == sdk.CodeStale && try+1 < staleTries {
			continue
		}
		if err == nil {
			w.stats.Overlaps++
			w.applied(d, &page)
			for _, at := range page.Heads {
				d.step(peersync.Advanced{Mark: protocol.Mark{Stream: page.Stream, Position: at}, Opened: page.Epochs})
			}
			d.noticeMembers(page.Batches)
		} else if code := sdk.CodeOf(err); code != sdk.CodeClockSkew && !errors.Is(err, errPower) {
			w.fail("apply", "%s can not apply an overlapping page: %v", d, err)
		}
		return
	}
}
