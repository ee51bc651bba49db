// Package supervisor owns the plugin processes of a host: it stages their binaries, starts and probes them, watches
// their health, restarts those that crash, and stops them all.
//
// It promises that no process outlives Run, that one bad plugin never stops the others, that a plugin which keeps
// failing is left alone and named (quarantined), and that a listening socket stays open while the plugin that serves
// it is away. It leaves to its observer what the plugins are used for.
package supervisor

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/errgroup"

	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/rpc"
)

// Spec describes a plugin that should run.
type Spec struct {
	Name      string                            // for people and logs; one plugin each
	Path      string                            // of the binary
	SHA256    string                            // that the binary must have, in hexadecimal; empty: any
	Models    []sdk.ModelName                   // that it must serve; it may serve more
	Transport string                            // that it must serve; empty: none
	Config    map[sdk.ModelName]json.RawMessage // config blocks by model; the transport's under ""
	Listen    string                            // host:port of a TCP socket that the host owns and the plugin accepts on; empty: none
	Env       []string                          // added to the process's environment
}

// State is where a plugin is in its life.
type State string

// The states of a plugin.
const (
	Starting    State = "starting"
	Running     State = "running"
	Unhealthy   State = "unhealthy"   // it runs and says that it is not well
	BackingOff  State = "backing off" // it ended and will be started again
	Quarantined State = "quarantined" // it is not started again until Restart: its budget is used up, or starting it again can not help
	Stopped     State = "stopped"
)

// Status is a plugin at one moment.
type Status struct {
	Name      string
	State     State
	PID       int       // 0 if no process runs
	Since     time.Time // of the state
	Restarts  int       // since Run began, those asked for among them
	Reason    string    // why it is not running, or not well
	Version   string    // of the build, as it says itself
	Path      string    // as configured
	SHA256    string    // of the binary that runs, in hexadecimal
	Models    []sdk.ModelName
	Transport string
}

// Instance is one life of a plugin process that has been probed and configured.
type Instance struct {
	Name      string
	PID       int
	Models    []Model
	Transport sdk.Transport // nil if it serves none; Listen with Spec.Listen and no listener uses the host's socket
}

// Model is a model that an instance serves. Server is an sdk.Source too if Description.Source.
type Model struct {
	Description sdk.Description
	Server      sdk.ModelServer
}

// Observer is told when plugins come and go. Calls about one plugin come one after another, an Up before each Down.
type Observer interface {
	// PluginUp says that an instance can be used until ctx ends. It returns soon; what it starts ends with ctx. An
	// error says that the host can not use this plugin: it is stopped. By the error's code it is started again later,
	// or is quarantined since that would not help.
	PluginUp(ctx context.Context, p *Instance) error
	// PluginDown says that the instance is gone, or about to be stopped (then reason is nil).
	PluginDown(p *Instance, reason error)
}

// Options configures a Supervisor. Zero durations and counts stand for the defaults.
type Options struct {
	Log      hclog.Logger
	Observer Observer
	Now      func() time.Time
	StoreDir string // the content-addressed store of binaries; made if missing. It belongs to this host alone, and is swept
	// RuntimeDir is for sockets between host and plugins. It belongs to this host alone, and is emptied.
	RuntimeDir string

	StartTimeout   time.Duration // process start to configured; 30 s
	HealthInterval time.Duration // 5 s
	HealthTimeout  time.Duration // 5 s; after HealthMisses of them in a row the process is killed
	HealthMisses   int           // 2
	CallTimeout    time.Duration // of a batch, 2 min: then the call fails, and the process is killed if it still works on it
	DrainTimeout   time.Duration // 5 s
	MinBackoff     time.Duration // before the first restart; 500 ms
	MaxBackoff     time.Duration // 30 s
	Budget         int           // restarts within BudgetWindow, 5; one more quarantines
	BudgetWindow   time.Duration // 10 min
}

func (o *Options) setDefaults() {
	for d, v := range map[*time.Duration]time.Duration{
		&o.StartTimeout: 30 * time.Second, &o.HealthInterval: 5 * time.Second, &o.HealthTimeout: 5 * time.Second,
		&o.DrainTimeout: 5 * time.Second, &o.MinBackoff: 500 * time.Millisecond, &o.MaxBackoff: 30 * time.Second,
		&o.CallTimeout: 2 * time.Minute, &o.BudgetWindow: 10 * time.Minute,
	} {
		if *d == 0 {
			*d = v
		}
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
	plugins []*keeper
}

// New returns a supervisor of specs. It starts nothing.
func New(options Options, specs []Spec) (*Supervisor, error) {
	options.setDefaults()
	s := &Supervisor{options: options}
	names := make(map[string]bool)
	for _, spec := range specs {
		if names[spec.Name] {
			return nil, sdk.Errorf(sdk.CodeInvalid, "plugin %q is configured twice", spec.Name)
		}
		names[spec.Name] = true
		s.plugins = append(s.plugins, newKeeper(&s.options, spec))
	}
	return s, nil
}

// Run opens the sockets, runs the plugins until ctx ends, and stops them. Its error says that a socket or a folder
// could not be had; then nothing was started.
func (s *Supervisor) Run(ctx context.Context) error {
	sockets, err := openSockets(ctx, s.plugins)
	defer closeSockets(sockets)
	if err != nil {
		return err
	}
	dir, remove, err := socketDir(s.options.RuntimeDir)
	if err != nil {
		return fmt.Errorf("folder for plugin sockets: %w", err)
	}
	defer remove()
	var sources []string
	for _, k := range s.plugins {
		sources = append(sources, k.spec.Path)
	}
	if err := sweep(s.options.StoreDir, sources); err != nil {
		s.options.Log.Warn("old plugin binaries stay in the store", "dir", s.options.StoreDir, "reason", err)
	}
	var group errgroup.Group
	for _, k := range s.plugins {
		group.Go(func() error {
			k.keep(ctx, dir)
			return nil
		})
	}
	return group.Wait()
}

// Status returns every plugin's state, in the order of New.
func (s *Supervisor) Status() []Status {
	out := make([]Status, 0, len(s.plugins))
	for _, k := range s.plugins {
		out = append(out, k.snapshot())
	}
	return out
}

// Settled returns when every plugin has been tried: it has been up, or its first start has failed. It returns early,
// with an error, when ctx ends. What waits for it waits for one start of the slowest plugin, StartTimeout at most.
func (s *Supervisor) Settled(ctx context.Context) error {
	for _, k := range s.plugins {
		select {
		case <-k.settled:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// Restart stages the plugin's binary anew and starts it again, with a fresh budget: after a quarantine, or to take up
// a new build. What the plugin is doing, be it starting, running or waiting, ends first. It returns at once, and
// Status tells the rest; before Run and after it there is nothing to do.
func (s *Supervisor) Restart(name string) error {
	for _, k := range s.plugins {
		if k.spec.Name == name {
			k.startAgain()
			return nil
		}
	}
	return sdk.Errorf(sdk.CodeNotFound, "there is no plugin %q; starling plugins lists them", name)
}

// keeper keeps one plugin running.
type keeper struct {
	options *Options
	spec    Spec
	log     hclog.Logger
	sockets []rpc.Socket // set by Run, before keep

	once    sync.Once
	settled chan struct{} // closed when the plugin has been up, or its first start has failed

	mu     sync.Mutex
	status Status
	life   context.Context         //nolint:containedctx // of the present life; nil before the first
	cut    context.CancelCauseFunc // ends life
}

func newKeeper(options *Options, spec Spec) *keeper {
	return &keeper{
		options: options, spec: spec, log: options.Log.With("plugin", spec.Name),
		settled: make(chan struct{}),
		status:  Status{Name: spec.Name, State: Stopped, Path: spec.Path, Since: options.Now(), Models: spec.Models, Transport: spec.Transport},
	}
}

func (k *keeper) snapshot() Status {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.status
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
	if state != Starting && state != Stopped {
		k.once.Do(func() { close(k.settled) })
	}
}
