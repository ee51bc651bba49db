// Package source runs the sources of changes that model plugins are, and gives each what sdk.SourceHost promises.
//
// It promises that a source that ends with an error or a panic is started again, later each time; that one source never
// stops another; that a source writes no model but as this device; and that what a source warns of, and how far it is,
// can be read at any time. It leaves to others how rows are stored and where the sources come from.
package source

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/hashicorp/go-hclog"

	"github.com/starling-sync/starling/sdk"
)

// Committer writes rows as this device's own. It blocks until they are durable.
type Committer interface {
	CommitDeviceOwned(ctx context.Context, batch sdk.Batch) ([]sdk.Refusal, error)
}

// CommitterFunc is a function that is a Committer.
type CommitterFunc func(ctx context.Context, batch sdk.Batch) ([]sdk.Refusal, error)

// CommitDeviceOwned implements Committer.
func (f CommitterFunc) CommitDeviceOwned(ctx context.Context, batch sdk.Batch) ([]sdk.Refusal, error) {
	return f(ctx, batch)
}

// Finder reads this device's own rows, as sdk.SourceHost.Find says.
// Values are given once each.
type Finder interface {
	Find(ctx context.Context, model sdk.ModelName, field string, values []any) (sdk.Batch, error)
}

// Watcher tells of changes of a model's records, this device's own and others'. The channel receives a value after
// records have changed; several changes may share one. stop releases it.
type Watcher interface {
	Watch(model sdk.ModelName) (changed <-chan struct{}, stop func())
}

// WatcherFunc is a function that is a Watcher.
type WatcherFunc func(model sdk.ModelName) (changed <-chan struct{}, stop func())

// Watch implements Watcher.
func (f WatcherFunc) Watch(model sdk.ModelName) (<-chan struct{}, func()) { return f(model) }

// Options is what a Runner needs. All of it is required but Log.
type Options struct {
	Committer Committer
	Finder    Finder
	Watcher   Watcher
	Now       func() time.Time
	Log       hclog.Logger
}

// The pauses between the end of a source, or of a feed, and its next start.
const (
	firstPause = 500 * time.Millisecond
	lastPause  = time.Minute
	goodRun    = time.Minute // a source that ran this long begins with firstPause again
)

// State is what a source is doing.
type State string

// The states of a source.
const (
	Waiting State = "waiting" // to be started: the runner does not run yet
	Running State = "running"
	Pausing State = "pausing" // between a failure and the next start
	Ended   State = "ended"   // it returned without an error, and is not started again
)

// Status is what there is to know of one source.
type Status struct {
	Model    sdk.ModelName
	State    State
	Since    time.Time      // when it entered State
	Restarts int            // since it was set
	Reason   string         // of its last failure
	Warnings []Warning      // by key
	Progress []sdk.Progress // by key, then by unit
}

// Warning is a counted condition that does not stop the source.
type Warning struct {
	Key     string
	Count   int
	Message string
}

// Runner runs sources, one a model. Its methods may be called at once.
type Runner struct {
	options Options

	mu      sync.Mutex
	tasks   map[sdk.ModelName]*task
	running context.Context // of Run; nil before it
	wait    sync.WaitGroup  // the tasks that were started
}

// task is one source from Set to its end.
type task struct {
	runner *Runner
	model  sdk.ModelName
	source sdk.Source
	log    hclog.Logger
	before *task         // the source of the same model that ends first
	stop   func()        // cancels it; nil until it is started
	done   chan struct{} // closed when it has ended

	mu       sync.Mutex
	status   Status
	warnings map[string]Warning
	progress map[measure]sdk.Progress
}

// measure is of what a source says how far it is, and in which unit.
type measure struct {
	key  string
	unit sdk.Unit
}

// New returns a Runner without sources.
func New(options Options) *Runner {
	if options.Log == nil {
		options.Log = hclog.NewNullLogger()
	}
	return &Runner{options: options, tasks: map[sdk.ModelName]*task{}}
}

// Set makes source the source of model. One that was set before is stopped, and has ended before the new one starts.
// It does not block.
func (r *Runner) Set(model sdk.ModelName, source sdk.Source) {
	t := &task{
		runner:   r,
		model:    model,
		source:   source,
		log:      r.options.Log.With("model", string(model)),
		done:     make(chan struct{}),
		status:   Status{Model: model, State: Waiting, Since: r.options.Now()},
		warnings: map[string]Warning{},
		progress: map[measure]sdk.Progress{},
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	t.before = r.tasks[model]
	t.before.end()
	r.tasks[model] = t
	if r.running != nil {
		r.start(t)
	}
}

// Remove stops the source of model and forgets it. It returns when the source has ended.
func (r *Runner) Remove(model sdk.ModelName) {
	r.mu.Lock()
	t := r.tasks[model]
	delete(r.tasks, model)
	t.end()
	r.mu.Unlock()
	if t != nil {
		<-t.done
	}
}

// Run runs the sources until ctx ends, and returns nil when all of them have ended. It is called once.
func (r *Runner) Run(ctx context.Context) error {
	r.mu.Lock()
	r.running = ctx
	for _, t := range r.tasks {
		r.start(t)
	}
	r.mu.Unlock()
	<-ctx.Done()
	r.mu.Lock() // what is set from here on is not started
	r.running = nil
	r.mu.Unlock()
	r.wait.Wait()
	return nil
}

// start starts t. r.mu is held.
func (r *Runner) start(t *task) {
	ctx, stop := context.WithCancel(r.running)
	t.stop = stop
	r.wait.Go(func() {
		defer close(t.done)
		defer stop()
		if t.before != nil {
			<-t.before.done
			t.before = nil
		}
		t.run(ctx)
	})
}

// end cancels t, if there is one. The runner's mu is held.
func (t *task) end() {
	switch {
	case t == nil:
	case t.stop != nil:
		t.stop()
	default: // it never started: there is nothing to wait for
		close(t.done)
		t.stop = func() {}
	}
}

// Status returns the state of every source, by model.
func (r *Runner) Status() []Status {
	r.mu.Lock()
	tasks := slices.Collect(maps.Values(r.tasks))
	r.mu.Unlock()
	all := make([]Status, 0, len(tasks))
	for _, t := range tasks {
		all = append(all, t.snapshot())
	}
	slices.SortFunc(all, func(a, b Status) int { return cmp.Compare(a.Model, b.Model) })
	return all
}

func (t *task) snapshot() Status {
	t.mu.Lock()
	defer t.mu.Unlock()
	status := t.status
	for _, key := range slices.Sorted(maps.Keys(t.warnings)) {
		status.Warnings = append(status.Warnings, t.warnings[key])
	}
	status.Progress = slices.SortedFunc(maps.Values(t.progress), func(a, b sdk.Progress) int {
		return cmp.Or(cmp.Compare(a.Key, b.Key), cmp.Compare(a.Unit, b.Unit))
	})
	return status
}

// run runs the source, again and again, until ctx ends or it ends by itself.
func (t *task) run(ctx context.Context) {
	pauses := &backoff.ExponentialBackOff{
		InitialInterval: firstPause, RandomizationFactor: 0.2, Multiplier: 2, MaxInterval: lastPause,
	}
	pauses.Reset()
	for {
		began := t.runner.options.Now()
		t.enter(Running, nil)
		err := t.once(ctx)
		if ctx.Err() != nil || err == nil {
			t.enter(Ended, nil)
			return
		}
		if t.runner.options.Now().Sub(began) >= goodRun {
			pauses.Reset()
		}
		pause := pauses.NextBackOff()
		t.enter(Pausing, err)
		t.log.Warn("a source failed and is started again", "error", err, "in", pause.Round(time.Millisecond))
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			t.enter(Ended, err)
			return
		}
	}
}

// once runs the source once. A panic is an error.
func (t *task) once(ctx context.Context) (err error) {
	ctx, stop := context.WithCancel(ctx)
	h := &host{task: t, ctx: ctx}
	defer h.wait.Wait()
	defer stop()
	defer func() {
		if p := recover(); p != nil {
			t.log.Error("a source panicked", "panic", p, "stack", string(debug.Stack()))
			err = sdk.Errorf(sdk.CodeInternal, "the source of model %q panicked: %v", t.model, p)
		}
	}()
	return h.because(t.source.Run(ctx, h))
}

// enter notes a new state, and the failure that led to it.
func (t *task) enter(state State, failure error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if state == Running && t.status.State == Pausing {
		t.status.Restarts++
	}
	if failure != nil {
		t.status.Reason = failure.Error()
	}
	if state == Running {
		clear(t.warnings) // what still holds is said again
		clear(t.progress)
	}
	t.status.State, t.status.Since = state, t.runner.options.Now()
}

// host is the sdk.SourceHost of one run of a source.
type host struct {
	*task
	ctx  context.Context // ends with the run
	wait sync.WaitGroup  // the goroutines of Changed

	refusal atomic.Pointer[refusal] // of the latest commit or search; holds nil after one that succeeded
}

// refusal is why the host did not do what a source asked for.
type refusal struct{ err error }

func (h *host) note(err error) error {
	h.refusal.Store(&refusal{err})
	return err
}

// because returns err, with which the source ended, with what the host refused last in its chain: a source in another process gave it
// back as text.
func (h *host) because(err error) error {
	if last := h.refusal.Load(); err != nil && last != nil && last.err != nil {
		return &caused{err, last.err}
	}
	return err
}

type caused struct {
	error
	cause error
}

func (c *caused) Unwrap() []error { return []error{c.error, c.cause} }

// Commit implements sdk.SourceHost.
func (h *host) Commit(ctx context.Context, batch sdk.Batch) ([]sdk.Refusal, error) {
	refused, err := h.runner.options.Committer.CommitDeviceOwned(ctx, batch)
	if err != nil {
		return refused, h.note(fmt.Errorf("commit %d rows of model %q: %w", batch.Count, batch.Model, err))
	}
	_ = h.note(nil)
	if len(refused) > 0 {
		h.log.Warn("rows of a source were refused", "rows", len(refused), "of", batch.Model,
			"first", refused[0].Message, "code", string(refused[0].Code))
	}
	return refused, nil
}

// Find implements sdk.SourceHost.
func (h *host) Find(ctx context.Context, model sdk.ModelName, field string, values []any) (sdk.Batch, error) {
	batch, err := h.runner.options.Finder.Find(ctx, model, field, distinct(values))
	if err != nil {
		return batch, h.note(fmt.Errorf("find %s by %s: %w", model, field, err))
	}
	_ = h.note(nil)
	return batch, nil
}

// distinct returns values without repetitions: a record that has one of them is found once.
func distinct(values []any) []any {
	type bytes string
	seen := make(map[any]struct{}, len(values))
	once := make([]any, 0, len(values))
	for _, value := range values {
		key := value
		switch v := value.(type) {
		case []byte:
			key = bytes(v)
		case nil, string, int64, float64, bool, sdk.RecordID:
		default: // no value of any type: it is for the finder to refuse
			return values
		}
		if _, repeated := seen[key]; !repeated {
			seen[key] = struct{}{}
			once = append(once, value)
		}
	}
	return once
}

// Changed implements sdk.SourceHost. Its goroutine ends with the run.
func (h *host) Changed(model sdk.ModelName) <-chan struct{} {
	out := make(chan struct{}, 1)
	changed, stop := h.runner.options.Watcher.Watch(model)
	h.wait.Go(func() {
		defer close(out)
		defer func() { stop() }()
		for {
			var open bool
			select {
			case <-h.ctx.Done():
				return
			case _, open = <-changed:
			}
			select {
			case out <- struct{}{}:
			default: // a value is waiting: the two share it
			}
			if open {
				continue
			}
			select { // the feed broke off, and may have left something out: begin another one
			case <-h.ctx.Done():
				return
			case <-time.After(firstPause):
			}
			stop()
			changed, stop = h.runner.options.Watcher.Watch(model)
		}
	})
	return out
}

// Warn implements sdk.SourceHost. A new or greater condition is logged.
func (h *host) Warn(key string, count int, message string) {
	h.mu.Lock()
	before := h.warnings[key]
	if count == 0 {
		delete(h.warnings, key)
	} else {
		h.warnings[key] = Warning{Key: key, Count: count, Message: message}
	}
	h.mu.Unlock()
	switch {
	case count > before.Count:
		h.log.Warn(message, "key", key, "count", count)
	case count == 0 && before.Count > 0:
		h.log.Info("a warning was taken back", "key", key)
	}
}

// Progress implements sdk.SourceHost.
func (h *host) Progress(progress sdk.Progress) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.progress[measure{progress.Key, progress.Unit}] = progress
}

// Signals adapts a feed of events of any type, such as a registry's, to a Watcher.
func Signals[E any](watch func(models ...sdk.ModelName) (<-chan E, func())) Watcher {
	return WatcherFunc(func(model sdk.ModelName) (<-chan struct{}, func()) {
		events, cancel := watch(model)
		changed := make(chan struct{}, 1)
		ended := make(chan struct{})
		go func() {
			defer close(changed)
			for {
				select {
				case <-ended:
					return
				case _, open := <-events:
					if !open {
						return
					}
					select {
					case changed <- struct{}{}:
					default:
					}
				}
			}
		}()
		return changed, sync.OnceFunc(func() { close(ended); cancel() })
	})
}
