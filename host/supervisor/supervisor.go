// Package supervisor owns the plugin processes of a host: it stages their binaries, starts and probes them, watches
// their health, restarts those that crash, replaces them with other builds, and stops them all.
//
// It promises that no process outlives Run, that one bad plugin never stops the others, that a plugin which keeps
// failing is left alone and named (quarantined), that a listening socket stays open while the plugin that serves it is
// away, and that a plugin is replaced while it works: the new process is started beside the old one and proved before it
// takes over, and the old one stays ready until the new one has shown for a while that it works. It leaves to its observer
// what the plugins are used for.
package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/rpc"
)

// Spec describes a plugin that should run.
type Spec struct {
	Name      string                            // for people and logs; one plugin each
	Path      string                            // of the binary
	PathAt    string                            // what to correct if there is nothing at Path, for people; empty: "the path"
	Dir       string                            // the process's working directory, from which paths in Config start; empty: this process's
	SHA256    string                            // that the binary must have, in hexadecimal; empty: any
	SHA256At  string                            // where that is written, for people; empty: in the configuration
	Models    []sdk.ModelName                   // that it must serve; it may serve more
	Transport string                            // that it must serve; empty: none
	Config    map[sdk.ModelName]json.RawMessage // config blocks by model; the transport's under ""
	Blocks    Blocks                            // where Config stands in the file; nil: nobody knows
	Address   string                            // where the transport is asked to listen; empty: it only dials
	Listen    string                            // host:port of a TCP socket that the host owns and the plugin accepts on; empty: none
	Env       []string                          // added to the process's environment
	Attach    string                            // the file of a process that is debugged, which is used while one runs; empty: none
}

// State is where a plugin is in its life.
type State string

// Works reports whether the plugin can be used now.
func (s State) Works() bool { return s == Running || s == Debugging }

// The states of a plugin.
const (
	Starting    State = "starting"
	Running     State = "running"
	Unhealthy   State = "unhealthy"   // it runs and says that it is not well
	BackingOff  State = "backing off" // it ended and will be started again
	Quarantined State = "quarantined" // its budget is used up, or starting it again can hardly help: it is tried once in a long while, or by Restart
	Stopped     State = "stopped"
	Debugging   State = "debugging" // it runs under a debugger, in a process of its author's
)

// Status is a plugin at one moment.
type Status struct {
	Name      string
	State     State
	PID       int       // 0 if no process runs
	Since     time.Time // of the state
	Restarts  int       // since Run began, those asked for among them; swaps are none, be they of builds or of transports
	Reason    string    // why it is not running, or not well
	Swap      string    // what the swap under way is doing; empty: there is none
	Version   string    // of the build, as it says itself
	Path      string    // where the build was taken from, or will be
	SHA256    string    // of the binary that runs, in hexadecimal
	Passed    Passed    // the build that is configured and is not the one in use; zero: it is, or a swap wanted another
	Models    []sdk.ModelName
	Transport string
	Staged    []Build // in the store, where Swap finds them by Version; the last one that was staged last
}

// Paused reports whether the plugin is not to run until Resume; Reason says why. Its process may still be ending.
func (s *Status) Paused() bool { return s.State == Stopped && s.Reason != "" }

// Passed is a configured build that is not started, since it does not work.
type Passed struct {
	Path string // that is configured
	Why  string
}

// Instance is one process of a plugin that has been probed and configured.
type Instance struct {
	Name      string
	PID       int
	Version   string // of the build, as it says itself
	Models    []Model
	Transport sdk.Transport // nil if it serves none; Listen with Address and no listener uses the host's socket
	Address   string        // of its Spec
}

// Model is a model that an instance serves. Server is the same for every instance of a plugin: its calls go to the
// process that serves the model now. Source is this instance's own, nil unless Description.Source.
type Model struct {
	Description sdk.Description
	Server      sdk.ModelServer
	Source      sdk.Source
}

// Observer is told when plugins come and go. Calls about one plugin come one after another: an Up before each Down, and
// between them a Check, and a Switch after it, for each swap, and a Settled or another Switch (back) after that.
type Observer interface {
	// PluginUp says that an instance can be used until ctx ends. It returns soon; what it starts ends with ctx. An
	// error says that the host can not use this plugin: it is stopped. By the error's code it is started again later,
	// or is quarantined since that would not help.
	PluginUp(ctx context.Context, p *Instance) error
	// PluginDown says that the instance is gone, or about to be stopped (then reason is nil).
	PluginDown(p *Instance, reason error)
	// PluginCheck returns why to can not take the place of from. It changes nothing. An error whose code is Retryable says
	// nothing against to's build.
	PluginCheck(ctx context.Context, from, to *Instance) error
	// PluginSwitch has to, which can be used until ctx ends, take the place of from, which may be dead. It returns when
	// nothing new goes to from and what from carries is told to end; then from stays, unused. After an error from is in
	// use as before. A switch back (a rollback) is a PluginSwitch too.
	PluginSwitch(ctx context.Context, from, to *Instance) error
	// PluginSettled says that there is no way back from the last switch any more, and that this is durable. After an error
	// it is switched back, if PluginCheck says that from can still be used; else the plugin is started again (PluginDown,
	// PluginUp).
	PluginSettled(ctx context.Context, p *Instance) error
}

// Options configures a Supervisor. Zero durations and counts stand for the defaults.
type Options struct {
	Log      hclog.Logger
	Observer Observer
	Now      func() time.Time
	Record   func(Event) // is told what happens, in order for each plugin; it may block for a moment. nil: nobody is
	StoreDir string      // the content-addressed store of binaries; made if missing. It belongs to this host alone, and is swept
	// RuntimeDir is for sockets between host and plugins. It belongs to this host alone, and is emptied.
	RuntimeDir string
	// Listen opens the socket of a Spec.Listen; the supervisor closes what it returns. nil: a new one is opened
	Listen func(ctx context.Context, address string) (*net.TCPListener, error)

	StartTimeout   time.Duration // process start to configured; 30 s
	HealthInterval time.Duration // 5 s
	HealthTimeout  time.Duration // 5 s; after HealthMisses of them in a row the process is killed
	HealthMisses   int           // 2
	CallTimeout    time.Duration // of a batch, 2 min: then the call fails, and the process is killed if it still works on it
	DrainTimeout   time.Duration // 5 s
	MinBackoff     time.Duration // before the first restart; 500 ms
	MaxBackoff     time.Duration // 30 s
	Budget         int           // failures within BudgetWindow that quarantine, 5
	BudgetWindow   time.Duration // 10 min
	MinQuarantine  time.Duration // before a quarantined plugin is tried once more; 10 min, then twice as long each time
	MaxQuarantine  time.Duration // 4 h
	StallTime      time.Duration // how long a plugin that hangs is left alone while the whole machine seems to stand still; 2 min

	WatchInterval time.Duration // as HealthInterval, of a process that a swap watches; 1 s
	WatchTimeout  time.Duration // as HealthTimeout, likewise; 2 s
	WatchCallTime time.Duration // as CallTimeout, likewise; 10 s. The one before then decides

	machine *machine // set by New

	reached func(Stage) // for tests that stop there: called when a stage of a swap is over, and what it has to leave is durable. nil: not
}

func (o *Options) reach(s Stage) {
	if o.reached != nil {
		o.reached(s)
	}
}

func (o *Options) setDefaults() {
	for d, v := range map[*time.Duration]time.Duration{
		&o.StartTimeout: 30 * time.Second, &o.HealthInterval: 5 * time.Second, &o.HealthTimeout: 5 * time.Second,
		&o.DrainTimeout: 5 * time.Second, &o.MinBackoff: 500 * time.Millisecond, &o.MaxBackoff: 30 * time.Second,
		&o.CallTimeout: 2 * time.Minute, &o.BudgetWindow: 10 * time.Minute, &o.StallTime: 2 * time.Minute,
		&o.MinQuarantine: 10 * time.Minute, &o.MaxQuarantine: 4 * time.Hour,
		&o.WatchInterval: time.Second, &o.WatchTimeout: 2 * time.Second, &o.WatchCallTime: 10 * time.Second,
	} {
		if *d == 0 {
			*d = v
		}
	}
	if o.Listen == nil {
		o.Listen = listenTCP
	}
	if o.HealthMisses == 0 {
		o.HealthMisses = 2
	}
	if o.Budget == 0 {
		o.Budget = 5
	}
}

// Supervisor runs plugins. Its methods may be called at once.
type Supervisor struct {
	options Options

	mu      sync.Mutex
	plugins []*keeper
	running *running // nil before Run and after it
	wait    sync.WaitGroup
}

// running is what keepers need while Run runs.
type running struct {
	ctx       context.Context //nolint:containedctx // of Run
	socketDir string
	choices   *choices
}

// New returns a supervisor of specs. It starts nothing.
func New(options Options, specs []Spec) (*Supervisor, error) {
	options.setDefaults()
	options.machine = &machine{}
	s := &Supervisor{options: options}
	for _, spec := range specs {
		if s.find(spec.Name) != nil {
			return nil, sdk.Errorf(sdk.CodeInvalid, "plugin %q is configured twice", spec.Name)
		}
		s.plugins = append(s.plugins, newKeeper(&s.options, spec))
	}
	return s, nil
}

// find returns the keeper of a plugin; nil if there is none. The caller holds mu, or is New.
func (s *Supervisor) find(name string) *keeper {
	for _, k := range s.plugins {
		if k.name == name {
			return k
		}
	}
	return nil
}

// keeperOf returns the keeper of a plugin, or an error for people.
func (s *Supervisor) keeperOf(name string) (*keeper, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if k := s.find(name); k != nil {
		return k, nil
	}
	return nil, sdk.Errorf(sdk.CodeNotFound, "there is no plugin %q; starling plugin list names them", name)
}

// all returns the keepers, in the order in which they were configured.
func (s *Supervisor) all() []*keeper {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.plugins)
}

// Run opens the sockets, runs the plugins until ctx ends, and stops them. Its error says that a socket or a folder
// could not be had; then nothing was started.
func (s *Supervisor) Run(ctx context.Context) error {
	plugins := s.all()
	err := openSockets(ctx, plugins)
	defer func() {
		for _, k := range s.all() {
			k.closeSockets()
		}
	}()
	if err != nil {
		return err
	}
	dir, remove, err := socketDir(s.options.RuntimeDir)
	if err != nil {
		return fmt.Errorf("folder for plugin sockets: %w", err)
	}
	defer remove()
	choices, err := openChoices(s.options.StoreDir)
	if err != nil {
		s.options.Log.Warn("what is remembered of plugins' builds can not be read; the configured ones are started", "file", choices.path, "reason", err)
	}
	if _, missing := os.Lstat(choices.aside()); err != nil || !errors.Is(missing, fs.ErrNotExist) {
		s.options.Log.Warn("old plugin binaries stay in the store, since it is not known which are wanted; remove the file, and they go at the next start", "file", choices.aside())
	} else {
		var sources []string
		for _, k := range plugins {
			sources = append(sources, k.specNow().Path)
		}
		err = sweep(s.options.StoreDir, sources, choices.kept())
		if err != nil {
			s.options.Log.Warn("old plugin binaries stay in the store", "dir", s.options.StoreDir, "reason", err)
		}
	}
	s.wait.Go(func() { s.options.machine.measure(ctx) })
	s.mu.Lock()
	s.running = &running{ctx: ctx, socketDir: dir, choices: choices}
	for _, k := range s.plugins {
		s.start(k)
	}
	s.mu.Unlock()
	<-ctx.Done()
	s.mu.Lock()
	s.running = nil
	s.mu.Unlock()
	s.wait.Wait()
	return nil
}

// start has k keep its plugin until Run, or Remove, ends it. The caller holds mu, and running is set.
func (s *Supervisor) start(k *keeper) {
	ctx, cancel := context.WithCancel(s.running.ctx)
	k.mu.Lock()
	k.choices, k.cancel, k.socketDir = s.running.choices, cancel, s.running.socketDir
	k.paused = k.choices.of(k.name).Paused
	k.mu.Unlock()
	s.wait.Go(func() {
		defer cancel()
		k.keep(ctx)
	})
}

// Status returns every plugin's state, in the order of New and Add.
func (s *Supervisor) Status() []Status {
	plugins := s.all()
	out := make([]Status, 0, len(plugins))
	for _, k := range plugins {
		out = append(out, k.snapshot())
	}
	return out
}

// Settled returns when every plugin has been tried: it has been up, or its first start has failed. It returns early,
// with an error, when ctx ends. What waits for it waits for one start of the slowest plugin, StartTimeout at most.
func (s *Supervisor) Settled(ctx context.Context) error {
	for _, k := range s.all() {
		if err := k.tried(ctx); err != nil {
			return err
		}
	}
	return nil
}

// tried returns when the plugin has been up, or its first start has failed.
func (k *keeper) tried(ctx context.Context) error {
	select {
	case <-k.settled:
		return nil
	case <-k.ended:
		return sdk.Errorf(sdk.CodeUnavailable, "plugin %s was stopped before it had been up", k.name)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Restart stages the plugin's binary anew and starts it again, with a fresh budget: after a quarantine, or to take up
// a new build. What the plugin is doing, be it starting, running or waiting, ends first; a swap of it, or that there
// is no such binary, or that it is paused, is an error, and nothing has changed. by says who wants it, for people. It returns
// once the binary is staged, and Status tells the rest; before Run and after it there is nothing to do.
func (s *Supervisor) Restart(name, by string) error {
	k, err := s.keeperOf(name)
	if err != nil {
		return err
	}
	if err := k.startable(); err != nil {
		return sdk.Errorf(sdk.CodeOf(err), "plugin %s was not started again: %w", name, err)
	}
	return k.startAgain(by, nil)
}

// startable says why there is no binary that could be started now.
func (k *keeper) startable() error {
	k.mu.Lock()
	begun, attached := k.choices != nil, k.spec.Attach != ""
	k.mu.Unlock()
	if !begun || attached {
		return nil
	}
	_, _, err := k.choose(true)
	return err
}

// keeper keeps one plugin running.
type keeper struct {
	options   *Options
	name      string
	log       hclog.Logger
	choices   *choices           // set by start, as the next two; nil before
	cancel    context.CancelFunc // ends keep
	passed    passing            // of the build that keep's goroutine has chosen last, which alone uses it
	socketDir string
	asks      chan *ask // taken by keep

	once    sync.Once
	settled chan struct{} // closed when the plugin has been up, or its first start has failed
	ended   chan struct{} // closed when keep has returned

	mu      sync.Mutex
	spec    Spec
	sockets []rpc.Socket // of spec
	status  Status
	life    context.Context         //nolint:containedctx // of the present life; nil before the first
	cut     context.CancelCauseFunc // ends life
	trial   *trial                  // the swap under way; nil: there is none
	current *generation             // in use; nil: none is
	paused  string                  // why it is not to run; empty: it is to run
	retry   time.Time               // when it is tried again out of quarantine; zero: it is not quarantined
	routes  map[sdk.ModelName]*route
}

func newKeeper(options *Options, spec Spec) *keeper {
	return &keeper{
		options: options, name: spec.Name, spec: spec, log: options.Log.With("plugin", spec.Name),
		asks: make(chan *ask), settled: make(chan struct{}), ended: make(chan struct{}), routes: make(map[sdk.ModelName]*route),
		status: Status{Name: spec.Name, State: Stopped, Path: spec.Path, Since: options.Now(), Models: spec.Models, Transport: spec.Transport},
	}
}

func (k *keeper) specNow() Spec {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.spec
}

func (k *keeper) snapshot() Status {
	k.mu.Lock()
	defer k.mu.Unlock()
	status := k.status
	switch { // as is wanted, from when it is: nobody is to count on a process that is ending, and one comes that is to come back
	case k.paused != "":
		status.State, status.Reason = Stopped, k.paused
	case status.Paused():
		status.State, status.Reason = Starting, ""
	}
	if k.trial != nil {
		status.Swap = k.trial.describe(k.options.Now())
	}
	if !k.retry.IsZero() {
		status.Reason += fmt.Sprintf("; it is tried once more in %s", max(0, k.retry.Sub(k.options.Now())).Round(time.Second))
	}
	if k.choices != nil {
		remembered, same := k.choices.get(k.name, k.spec.Path)
		if same && remembered.Passed != "" {
			status.Passed = Passed{Path: k.spec.Path, Why: remembered.Passed}
		}
		for _, b := range remembered.Staged {
			status.Staged = append(status.Staged, Build{Version: b.Version, SHA256: b.SHA256, Path: b.Path})
		}
	}
	return status
}

// set changes the status. change may be nil.
func (k *keeper) set(state State, reason string, change func(s *Status)) {
	now := k.options.Now()
	k.mu.Lock()
	if k.status.State != state {
		k.status.Since = now
	}
	k.status.State, k.status.Reason = state, reason
	if change != nil {
		change(&k.status)
	}
	k.mu.Unlock()
	if state != Starting && (state != Stopped || reason != "") {
		k.once.Do(func() { close(k.settled) })
	}
}
