package supervisor

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/rpc"
)

// generation is one process of a plugin, with what it was made from.
type generation struct {
	spec     Spec
	bin      binary
	sockets  []rpc.Socket
	process  *rpc.Process
	info     rpc.Info
	health   rpc.Health // when it was probed
	instance *Instance
	serves   map[sdk.ModelName]*served

	release context.CancelFunc // ends what uses it
	watched atomic.Bool        // it is on trial: its health is asked for more often
	wake    chan struct{}      // watched has changed; holds one
	sick    chan error         // told once that it says it is not well; holds one
	ended   chan struct{}      // closed when its process is gone; then reason says why
	reason  error
}

func (g *generation) build() Build {
	return Build{Version: g.info.Version, SHA256: g.bin.sum, Path: g.bin.origin}
}

// gone reports whether the process has ended.
func (g *generation) gone() bool {
	select {
	case <-g.ended:
		return true
	default:
		return false
	}
}

// hungError says that a process worked on one batch for too long.
type hungError struct {
	call   string
	lasted time.Duration
}

func (e *hungError) Error() string {
	return fmt.Sprintf("%s had been running for %s", e.call, e.lasted.Round(time.Millisecond))
}

// stallError says that a process was ended for what the machine may be to blame.
type stallError struct{ still string }

func (e *stallError) Error() string { return "for which the machine may be to blame: " + e.still }

// start starts and probes a process, and has its health looked after until it ends.
func (k *keeper) start(ctx context.Context, spec Spec, bin binary, sockets []rpc.Socket) (*generation, error) {
	starting, cancel := context.WithTimeout(ctx, k.options.StartTimeout)
	defer cancel()
	redact := spec.redactor()
	began := time.Now()
	process, err := rpc.Start(starting, rpc.Command{
		Name: spec.Name, Path: bin.path, Origin: bin.origin, Dir: spec.Dir, Env: spec.Env, SocketDir: k.socketDir, Sockets: sockets,
		Timeout: k.options.StartTimeout, CallTimeout: k.options.CallTimeout, Log: k.options.Log, Redact: redact,
	})
	if err != nil {
		return nil, k.lateStart(began, err)
	}
	g := newGeneration(spec, bin, sockets, process)
	if err := k.probe(starting, g, redact); err != nil {
		process.Kill()
		return nil, k.lateStart(began, err)
	}
	go k.watch(g)
	return g, nil
}

// lateError says that a process had not started in time.
type lateError struct{ error }

func (e *lateError) Unwrap() error { return e.error }

// lateStart marks why a process did not start that was begun then, if that is since its time was over.
func (k *keeper) lateStart(began time.Time, err error) error {
	if time.Since(began) < k.options.StartTimeout-lastWords {
		return err
	}
	k.options.machine.note(k.name, true)
	return &lateError{err}
}

func newGeneration(spec Spec, bin binary, sockets []rpc.Socket, process *rpc.Process) *generation {
	return &generation{
		spec: spec, bin: bin, sockets: sockets, process: process, serves: make(map[sdk.ModelName]*served), release: func() {},
		instance: &Instance{Name: spec.Name, PID: process.PID(), Address: spec.Address}, wake: make(chan struct{}, 1), sick: make(chan error, 1), ended: make(chan struct{}),
	}
}

// probe asks the plugin what it serves, checks that this is what the configuration expects, and configures it.
func (k *keeper) probe(ctx context.Context, g *generation, redact *rpc.Redactor) (err error) {
	client := g.process.Client()
	in, err := introduce(ctx, &g.spec, g.bin.origin, client, redact)
	g.info = in.info
	if err != nil {
		return err
	}
	g.instance.Version, g.instance.Transport = g.info.Version, in.transport
	for i, d := range g.info.Models {
		g.serves[d.Model] = &served{ModelServer: in.models[i]}
		source, _ := in.models[i].(sdk.Source)
		g.instance.Models = append(g.instance.Models, Model{Description: d, Server: k.route(d.Model), Source: source})
	}
	g.health, err = client.Health(ctx)
	return err
}

// expects checks that the plugin, which was taken from path, serves what the configuration says it does.
func (s *Spec) expects(path string, info rpc.Info) error {
	serves := func(model sdk.ModelName) bool {
		return slices.ContainsFunc(info.Models, func(d sdk.Description) bool { return d.Model == model })
	}
	for _, model := range s.Models {
		if !serves(model) {
			return sdk.Errorf(sdk.CodeInvalid, "the plugin at %s does not serve model %q; is it the right binary?", path, model)
		}
	}
	for model := range s.Config {
		if model != "" && !serves(model) {
			return sdk.Errorf(sdk.CodeInvalid, "there is configuration for model %q, which the plugin at %s does not serve", model, path)
		}
	}
	if s.Transport != "" && info.Transport != s.Transport {
		return sdk.Errorf(sdk.CodeInvalid, "the plugin at %s serves transport %q, not %q; is it the right binary?", path, info.Transport, s.Transport)
	}
	return nil
}

// route returns the pointer to whoever serves a model.
func (k *keeper) route(model sdk.ModelName) *route {
	k.mu.Lock()
	defer k.mu.Unlock()
	r := k.routes[model]
	if r == nil {
		r = &route{model: model, limit: k.options.WatchCallTime, fault: k.fault}
		k.routes[model] = r
	}
	return r
}

// point has the calls of now's models go to now. While before is not nil, now is on trial. It returns where they went.
func (k *keeper) point(now, before *generation) (old []*target) {
	for i := range now.instance.Models {
		d := &now.instance.Models[i].Description
		to := &target{now: now.serves[d.Model]}
		if before != nil {
			to.before = before.serves[d.Model]
			to.alike = before.versionOf(d.Model) == d.Version && bytes.Equal(before.spec.Config[d.Model], now.spec.Config[d.Model])
			if to.alike {
				to.before.local.forget() // both are timed on the same batches
				to.before.peers.forget()
			}
		}
		if was := k.route(d.Model).to.Swap(to); was != nil {
			old = append(old, was)
		}
	}
	return old
}

// ending says how a process ended that has.
func ending(p *rpc.Process) error {
	return sdk.Errorf(sdk.CodeUnavailable, "process %d ended: %s", p.PID(), p.Reason())
}

// endsWithin reports whether the process has ended, or does in a moment: a call may be first to notice.
func endsWithin(p *rpc.Process, moment time.Duration) bool {
	timer := time.NewTimer(moment)
	defer timer.Stop()
	select {
	case <-p.Done():
		return true
	case <-timer.C:
		return false
	}
}

func (g *generation) versionOf(model sdk.ModelName) uint32 {
	for _, d := range g.info.Models {
		if d.Model == model {
			return d.Version
		}
	}
	return 0
}

// onTrial says whether the process is being watched by a swap.
func (g *generation) onTrial(yes bool) {
	g.watched.Store(yes)
	select {
	case g.wake <- struct{}{}:
	default: // it wakes anyway
	}
}

// calls returns how many calls of its models there have been.
func (g *generation) calls() (total int64) {
	for _, s := range g.serves {
		total += s.total.Load()
	}
	return total
}

// watch asks after the plugin's health until its process ends or hangs, which is a defect of the plugin: it is killed.
func (k *keeper) watch(g *generation) {
	defer close(g.ended)
	if g.process.Debugged() { // it may be stopped for as long as its author likes
		<-g.process.Done()
		g.reason = sdk.Errorf(sdk.CodeUnavailable, "process %d is gone: %w", g.process.PID(), errDebugged)
		return
	}
	misses := 0
	var stalled time.Time // since when health calls are missed that do not count; zero: none is
	k.options.machine.note(k.name, false)
	for {
		interval, timeout, callTime := k.options.HealthInterval, k.options.HealthTimeout, k.options.CallTimeout
		if g.watched.Load() {
			interval, timeout, callTime = k.options.WatchInterval, k.options.WatchTimeout, min(callTime, k.options.WatchCallTime)
		}
		if misses > 0 {
			interval = 0
		}
		timer := time.NewTimer(interval)
		select {
		case <-g.process.Done():
			timer.Stop()
			g.reason = ending(g.process)
			return
		case <-g.wake:
			timer.Stop()
			continue
		case <-timer.C:
		}
		lost := k.options.machine.lostBy(time.Now())
		asking, cancel := context.WithTimeout(context.Background(), timeout)
		health, err := g.process.Client().Health(asking)
		cancel()
		still := ""
		switch {
		case err == nil && health.Oldest > callTime:
			g.process.Kill()
			hung := &hungError{health.OldestCall, health.Oldest}
			g.reason = sdk.Errorf(sdk.CodeUnavailable, "process %d hung: %w; that is a defect of the plugin", g.process.PID(), hung)
			return
		case err == nil:
			misses, stalled = 0, time.Time{}
			k.options.machine.note(k.name, false)
			k.feels(g, health)
		case endsWithin(g.process, lastWords): // so it could not answer
			g.reason = ending(g.process)
			return
		default:
			k.options.machine.note(k.name, true)
			still = k.options.machine.stoodStill(lost, timeout)
			if stalled.IsZero() {
				stalled = time.Now()
			}
			if misses++; still != "" && time.Since(stalled) < k.options.StallTime {
				misses = min(misses, k.options.HealthMisses-1)
			}
			k.log.Warn("plugin did not answer its health call", "pid", g.process.PID(), "misses", misses, "of", k.options.HealthMisses, "error", err, "machine", still)
		}
		if misses >= k.options.HealthMisses {
			g.process.Kill()
			hung := fmt.Sprintf("process %d hung: it did not answer %d health calls of %s each", g.process.PID(), misses, timeout)
			g.reason = sdk.Errorf(sdk.CodeUnavailable, "%s", hung)
			if still != "" {
				g.reason = sdk.Errorf(sdk.CodeUnavailable, "%s, %w", hung, &stallError{still})
			}
			return
		}
	}
}
