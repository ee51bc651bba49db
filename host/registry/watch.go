package registry

import (
	"maps"
	"sync"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/sdk"
)

// EventKind says what happened to a record.
type EventKind string

// The kinds of events.
const (
	Changed EventKind = "changed" // it is visible, and new or changed
	Hidden  EventKind = "hidden"  // it exists, and waits for a record that it refers to
	Deleted EventKind = "deleted" // it does not exist any more
	Missed  EventKind = "missed"  // events were dropped here, because the watcher was slow: read again
)

// Event is a change that is durable. Of a Missed event only Kind is set.
type Event struct {
	Kind   EventKind
	Model  sdk.ModelName
	ID     sdk.RecordID
	Origin sdk.DeviceID // whose change it is; zero, as Stamp, where a snapshot lacks a shared record that was deleted long ago
	Stamp  hlc.Stamp    // of that change; zero for all that a snapshot lacks
	Local  bool         // written here
}

// feedRoom is how many events wait for a slow watcher.
const feedRoom = 4096

// feed tells watchers of changes.
type feed struct {
	mu       sync.Mutex // guards what follows, and sending
	watchers map[*watcher]bool
	models   map[sdk.ModelName]bool // that they watch, "" for all; replaced, never changed
}

type watcher struct {
	models map[sdk.ModelName]bool // empty: all
	events chan Event             // its last place is for a Missed event
	missed bool                   // one is in there
}

// Watch returns a channel of the changes to these models (none: all) that become durable from now on, and a function that
// ends it and closes the channel. A watcher that is slow never delays a write: it gets a Missed event in place of what was
// dropped. A model that nobody watches costs nothing.
func (r *Registry) Watch(models ...sdk.ModelName) (<-chan Event, func()) {
	w := &watcher{models: make(map[sdk.ModelName]bool), events: make(chan Event, feedRoom+1)}
	for _, model := range models {
		w.models[model] = true
	}
	r.feed.mu.Lock()
	defer r.feed.mu.Unlock()
	r.feed.watchers[w] = true
	r.feed.settle()
	return w.events, func() {
		r.feed.mu.Lock()
		defer r.feed.mu.Unlock()
		if r.feed.watchers[w] {
			delete(r.feed.watchers, w)
			r.feed.settle()
			close(w.events)
		}
	}
}

// wanted returns the models that somebody watches; "" stands for all of them. The caller must not change it.
func (f *feed) wanted() map[sdk.ModelName]bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.models
}

// settle finds out what is wanted. The caller holds mu.
func (f *feed) settle() {
	f.models = make(map[sdk.ModelName]bool)
	for w := range f.watchers {
		maps.Copy(f.models, w.models)
		if len(w.models) == 0 {
			f.models[""] = true
		}
	}
}

func (f *feed) send(events []Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for w := range f.watchers {
		for i := range events {
			w.send(events[i])
		}
	}
}

func (w *watcher) send(event Event) {
	if len(w.models) > 0 && !w.models[event.Model] {
		return
	}
	switch waiting := len(w.events); {
	case w.missed && waiting > 0:
		return // the watcher has not come to the Missed event yet, or not past what was before it
	case waiting < feedRoom:
		w.missed = false
		w.events <- event
	default:
		w.missed = true
		w.events <- Event{Kind: Missed}
	}
}

// notify has the watchers told of rec once the transaction is durable.
func (p *placer) notify(kind EventKind, rec *record) {
	if model := rec.m.name; !p.watched[""] && !p.watched[model] || kind == Changed && p.unchanged[rec] {
		return
	}
	if p.told == nil {
		p.tx.AfterCommit(func() { p.r.feed.send(p.told) })
	}
	p.told = append(p.told, Event{Kind: kind, Model: rec.m.name, ID: rec.id, Origin: rec.origin, Stamp: rec.stamp, Local: p.local})
}
