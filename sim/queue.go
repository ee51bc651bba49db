package main

import (
	"container/heap"
	"time"
)

// event is something that will happen at a time of the simulation.
type event struct {
	at  time.Duration
	seq uint64 // events of one time happen in the order in which they were planned
	dev *device
	gen int // of dev: a device that has crashed since does not see it
	fn  func()
}

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

// after plans fn for the world.
func (w *world) after(d time.Duration, fn func()) { w.plan(d, nil, fn) }

// plan plans fn for a device: it happens once the device runs, and not at all if that has crashed by then.
func (w *world) plan(d time.Duration, dev *device, fn func()) {
	w.seq++
	e := event{at: w.now + d, seq: w.seq, dev: dev, fn: fn}
	if dev != nil {
		e.gen = dev.starts
	}
	heap.Push(&w.agenda, e)
}

// runUntil lets everything happen that is due by a time.
func (w *world) runUntil(until time.Duration) {
	for len(w.agenda) > 0 && w.agenda[0].at <= until {
		e := heap.Pop(&w.agenda).(event) //nolint:forcetypeassert // only events are pushed
		w.now = max(w.now, e.at)
		w.do(e)
	}
	w.now = max(w.now, until)
}

func (w *world) do(e event) {
	if d := e.dev; d != nil {
		if e.gen != d.starts || !d.up {
			return
		}
		if d.stopped {
			d.late = append(d.late, e)
			return
		}
	}
	w.stats.Events++
	e.fn()
}
