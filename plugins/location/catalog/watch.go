package catalog

import (
	"context"
	"path/filepath"
	"sync"
	"time"

	"github.com/fsnotify/fsnotify"
)

// maxDirty is how many folders may wait for a reading before the whole location is read again instead.
const maxDirty = 50_000

// watch gathers the folders in which something happened. A goroutine drains the system's queue all the time, so that
// it does not overflow while a commit is under way. Its methods may be called at once.
type watch struct {
	watcher *fsnotify.Watcher
	ignored func(path string) bool
	signal  chan struct{} // holds a value after something happened
	done    chan struct{} // closed when the goroutine has ended

	mu      sync.Mutex
	watched map[string]struct{}
	dirty   map[string]struct{} // paths of folders; some may be unknown or files
	lost    bool                // events were lost: everything may have changed
}

// newWatch starts a goroutine, which close ends.
func newWatch(newWatcher func() (*fsnotify.Watcher, error), ignored func(path string) bool) (*watch, error) {
	watcher, err := newWatcher()
	if err != nil {
		return nil, err
	}
	w := &watch{
		watcher: watcher,
		ignored: ignored,
		signal:  make(chan struct{}, 1),
		done:    make(chan struct{}),
		watched: map[string]struct{}{},
		dirty:   map[string]struct{}{},
	}
	go w.drain()
	return w, nil
}

func (w *watch) close() {
	w.watcher.Close() //nolint:errcheck // nothing is left to do with it
	<-w.done
}

func (w *watch) drain() {
	defer close(w.done)
	events, errs := w.watcher.Events, w.watcher.Errors
	for events != nil || errs != nil {
		select {
		case event, ok := <-events:
			if !ok {
				events = nil
				continue
			}
			w.note(event)
		case _, ok := <-errs:
			if !ok {
				errs = nil
				continue
			}
			w.noteLost()
		}
	}
}

// note marks the folder that holds the event's name. A watched folder that came, went or was renamed is marked too:
// its own watch may be gone.
func (w *watch) note(event fsnotify.Event) {
	if event.Name == "" { // a watch ended by itself: a file system was unmounted, or a folder was removed
		w.wake()
		return
	}
	path := filepath.Clean(event.Name)
	w.mu.Lock()
	_, self := w.watched[path]
	if !self && w.ignored(path) {
		w.mu.Unlock()
		return
	}
	w.dirty[filepath.Dir(path)] = struct{}{}
	if self && (event.Has(fsnotify.Create) || event.Has(fsnotify.Remove) || event.Has(fsnotify.Rename)) {
		w.dirty[path] = struct{}{}
	}
	if len(w.dirty) > maxDirty {
		w.lost = true
		clear(w.dirty)
	}
	w.mu.Unlock()
	w.wake()
}

func (w *watch) noteLost() {
	w.mu.Lock()
	w.lost = true
	clear(w.dirty)
	w.mu.Unlock()
	w.wake()
}

func (w *watch) wake() {
	select {
	case w.signal <- struct{}{}:
	default:
	}
}

// take returns the marked folders and forgets them, and whether events were lost.
func (w *watch) take() (dirty map[string]struct{}, lost bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	dirty, lost = w.dirty, w.lost
	w.dirty, w.lost = map[string]struct{}{}, false
	return dirty, lost
}

// add watches path, again if it is watched already: the folder of that name may be another one now.
// HAZARD: a path that the watcher knows is taken out first. Added again, while its folder is known to the watcher under
// another path, it would be left half known, and the next Remove of it would panic.
func (w *watch) add(path string) error {
	w.mu.Lock()
	_, again := w.watched[path]
	w.mu.Unlock()
	if again {
		w.watcher.Remove(path) //nolint:errcheck // it may have ended by itself
	}
	err := w.watcher.Add(path)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		delete(w.watched, path)
		return err
	}
	w.watched[path] = struct{}{}
	return nil
}

func (w *watch) remove(path string) {
	w.watcher.Remove(path) //nolint:errcheck // it may have ended by itself
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.watched, path)
}

// settle blocks until nothing has happened for quiet, ten times quiet have passed, or ctx ends.
func (w *watch) settle(ctx context.Context, quiet time.Duration) {
	limit := time.NewTimer(10 * quiet)
	defer limit.Stop()
	timer := time.NewTimer(quiet)
	defer timer.Stop()
	for {
		select {
		case <-w.signal:
			timer.Reset(quiet)
		case <-timer.C:
			return
		case <-limit.C:
			return
		case <-ctx.Done():
			return
		}
	}
}
