package supervisor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/rpc"
)

var errRestart = errors.New("restart asked for")

// keep runs the plugin, again and again, until ctx ends.
func (k *keeper) keep(ctx context.Context, socketDir string) {
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = k.options.MinBackoff, k.options.MaxBackoff
	var (
		bin     binary
		crashes []time.Time // within the budget's window
	)
	for ctx.Err() == nil {
		life, asked := k.begin(ctx)
		if asked {
			bin, crashes = binary{}, nil
			pause.Reset()
		}
		err := k.live(life, socketDir, &bin)
		if life.Err() != nil {
			continue
		}
		now := k.options.Now()
		if hung, ok := errors.AsType[*hungError](err); ok { // what it spent on hanging is no time without a failure
			for i := range crashes {
				crashes[i] = crashes[i].Add(hung.lasted)
			}
		}
		crashes = slices.DeleteFunc(crashes, func(at time.Time) bool { return now.Sub(at) > k.options.BudgetWindow })
		if len(crashes) == 0 {
			pause.Reset()
		}
		crashes = append(crashes, now)
		wait := pause.NextBackOff()
		switch {
		case permanent(err):
			k.log.Error("plugin quarantined: starting it again would not help; the rest goes on", "reason", err)
			wait = 0
		case len(crashes) > k.options.Budget:
			k.log.Error("plugin quarantined: it keeps failing; the rest goes on", "failures", len(crashes), "within", k.options.BudgetWindow, "reason", err)
			wait = 0
		default:
			k.log.Warn("plugin ended; starting it again", "in", wait.Round(time.Millisecond), "failures", len(crashes), "of", k.options.Budget, "reason", err)
		}
		k.rest(life, wait, err)
	}
	k.end()
}

// begin returns the context of the next life and of the rest after it, which ends with ctx or when Restart is called.
// It reports whether Restart ended the one before.
func (k *keeper) begin(ctx context.Context) (life context.Context, asked bool) {
	k.mu.Lock()
	first := k.life == nil
	if !first {
		asked = errors.Is(context.Cause(k.life), errRestart)
		k.cut(nil)
	}
	k.life, k.cut = context.WithCancelCause(ctx)
	life = k.life
	k.mu.Unlock()
	k.set(Starting, "", func(s *Status) {
		if !first {
			s.Restarts++
		}
	})
	return life, asked
}

// end is called when there will be no more lives.
func (k *keeper) end() {
	k.mu.Lock()
	if k.cut != nil {
		k.cut(nil)
	}
	k.mu.Unlock()
	k.set(Stopped, "", nil)
}

// startAgain ends what the plugin is doing, be it starting, running or resting.
func (k *keeper) startAgain() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.cut != nil { // else its first start is yet to come
		k.cut(errRestart)
	}
}

// rest waits before the next start: for wait, or where that is 0 until life ends.
func (k *keeper) rest(life context.Context, wait time.Duration, reason error) {
	var over <-chan time.Time
	state := Quarantined
	if wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		over, state = timer.C, BackingOff
	}
	k.set(state, reason.Error(), func(s *Status) { s.PID = 0 })
	select {
	case <-life.Done():
	case <-over:
	}
}

// permanent reports whether the same start would fail the same way.
func permanent(err error) bool {
	switch sdk.CodeOf(err) {
	case sdk.CodeInvalid, sdk.CodeNotFound, sdk.CodeUnsupported, sdk.CodeUnknownModel:
		return true
	}
	return false
}

// live is one life of the plugin: it returns when the process is gone, with the reason; after ctx ended, that is any.
func (k *keeper) live(ctx context.Context, socketDir string, bin *binary) error {
	if err := bin.stage(k.options.StoreDir, k.spec.Path); err != nil {
		return err
	}
	if want := k.spec.SHA256; want != "" && !strings.EqualFold(want, bin.sum) {
		sum := bin.sum
		*bin = binary{} // what lies there is read anew when it is asked for again
		return sdk.Errorf(sdk.CodeInvalid, "the binary at %s is not the one that is configured: its SHA-256 is %s, want %s; it was not run", k.spec.Path, sum, want)
	}
	starting, cancel := context.WithTimeout(ctx, k.options.StartTimeout)
	defer cancel()
	process, err := rpc.Start(starting, rpc.Command{
		Name: k.spec.Name, Path: bin.path, Origin: k.spec.Path, Env: k.spec.Env, SocketDir: socketDir, Sockets: k.sockets,
		Timeout: k.options.StartTimeout, CallTimeout: k.options.CallTimeout, Log: k.options.Log,
	})
	if err != nil {
		return err
	}
	up, err := k.probe(starting, process)
	if err != nil {
		process.Kill()
		return err
	}
	return k.watch(ctx, process, up, bin.sum)
}

// hungError says that a process worked on one batch for too long.
type hungError struct {
	call   string
	lasted time.Duration
}

func (e *hungError) Error() string {
	return fmt.Sprintf("%s had been running for %s", e.call, e.lasted.Round(time.Millisecond))
}

func stateOf(h rpc.Health) State {
	if h.OK {
		return Running
	}
	return Unhealthy
}

// watch tells the observer of the instance, and returns when its process is gone.
func (k *keeper) watch(ctx context.Context, process *rpc.Process, up *probed, sum string) error {
	using, release := context.WithCancel(ctx)
	defer release()
	if err := k.options.Observer.PluginUp(using, up.instance); err != nil {
		release()
		k.options.Observer.PluginDown(up.instance, err)
		k.stop(ctx, process)
		return sdk.Errorf(sdk.CodeOf(err), "the host can not use plugin %s: %w", k.spec.Name, err)
	}
	k.set(stateOf(up.health), up.health.String(), func(s *Status) {
		s.PID, s.SHA256, s.Version, s.Transport = process.PID(), sum, up.info.Version, up.info.Transport
		s.Models = nil
		for _, d := range up.info.Models {
			s.Models = append(s.Models, d.Model)
		}
	})
	k.log.Info("plugin is up", "pid", process.PID(), "version", up.info.Version, "sha256", sum)
	reason := k.untilEnd(ctx, process)
	release()
	if ctx.Err() != nil {
		k.options.Observer.PluginDown(up.instance, nil)
		k.stop(ctx, process)
		return reason
	}
	process.Kill()
	k.options.Observer.PluginDown(up.instance, reason)
	return reason
}

// untilEnd checks the plugin's health until its process ends, hangs (a defect of the plugin: it is killed), or should.
func (k *keeper) untilEnd(ctx context.Context, process *rpc.Process) error {
	tick := time.NewTicker(k.options.HealthInterval)
	defer tick.Stop()
	misses := 0
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-process.Done():
			return sdk.Errorf(sdk.CodeUnavailable, "process %d ended: %s", process.PID(), process.Reason())
		case <-tick.C:
		}
		asking, cancel := context.WithTimeout(ctx, k.options.HealthTimeout)
		health, err := process.Client().Health(asking)
		cancel()
		switch {
		case ctx.Err() != nil:
		case err == nil && health.Oldest > k.options.CallTimeout:
			process.Kill()
			hung := &hungError{health.OldestCall, health.Oldest}
			return sdk.Errorf(sdk.CodeUnavailable, "process %d hung: %w; that is a defect of the plugin", process.PID(), hung)
		case err == nil:
			misses = 0
			k.set(stateOf(health), health.String(), nil)
		default:
			misses++
			k.log.Warn("plugin did not answer its health call", "misses", misses, "of", k.options.HealthMisses, "error", err)
		}
		if misses >= k.options.HealthMisses {
			process.Kill()
			return sdk.Errorf(sdk.CodeUnavailable, "process %d hung: it did not answer %d health calls of %s each", process.PID(), misses, k.options.HealthTimeout)
		}
	}
}

// stop ends a process that still works. ctx may have ended.
func (k *keeper) stop(ctx context.Context, process *rpc.Process) {
	draining, cancel := context.WithTimeout(context.WithoutCancel(ctx), k.options.DrainTimeout)
	defer cancel()
	if err := process.Stop(draining); err != nil {
		k.log.Warn("plugin did not stop cleanly", "reason", err)
	}
	k.set(Stopped, "", func(s *Status) { s.PID = 0 })
}

// probed is what probe found.
type probed struct {
	instance *Instance
	info     rpc.Info
	health   rpc.Health
}

// probe asks the plugin what it serves, checks that this is what the configuration expects, and configures it.
func (k *keeper) probe(ctx context.Context, process *rpc.Process) (*probed, error) {
	client := process.Client()
	info, err := client.Info(ctx)
	if err != nil {
		return nil, err
	}
	if err := k.expected(info); err != nil {
		return nil, err
	}
	instance := &Instance{Name: k.spec.Name, PID: process.PID()}
	for _, d := range info.Models {
		m := client.Model(d)
		if err := k.configure(ctx, m, d.Model); err != nil {
			return nil, err
		}
		instance.Models = append(instance.Models, Model{Description: d, Server: m})
	}
	if info.Transport != "" {
		instance.Transport = client.Transport(info.Transport)
		if err := k.configure(ctx, instance.Transport, ""); err != nil {
			return nil, err
		}
	}
	health, err := client.Health(ctx)
	return &probed{instance, info, health}, err
}

func (k *keeper) configure(ctx context.Context, target any, model sdk.ModelName) error {
	c, ok := target.(sdk.Configurable)
	if !ok {
		return nil
	}
	what := "transport " + k.spec.Transport
	if model != "" {
		what = "model " + string(model)
	}
	if err := c.Configure(ctx, k.spec.Config[model]); err != nil {
		return sdk.Errorf(sdk.CodeOf(err), "configure %s: %w", what, err)
	}
	return nil
}

// expected checks that the plugin serves what the configuration says it does.
func (k *keeper) expected(info rpc.Info) error {
	serves := func(model sdk.ModelName) bool {
		return slices.ContainsFunc(info.Models, func(d sdk.Description) bool { return d.Model == model })
	}
	for _, model := range k.spec.Models {
		if !serves(model) {
			return sdk.Errorf(sdk.CodeInvalid, "the plugin at %s does not serve model %q; is it the right binary?", k.spec.Path, model)
		}
	}
	for model := range k.spec.Config {
		if model != "" && !serves(model) {
			return sdk.Errorf(sdk.CodeInvalid, "there is configuration for model %q, which the plugin at %s does not serve", model, k.spec.Path)
		}
	}
	if k.spec.Transport != "" && info.Transport != k.spec.Transport {
		return sdk.Errorf(sdk.CodeInvalid, "the plugin at %s serves transport %q, not %q; is it the right binary?", k.spec.Path, info.Transport, k.spec.Transport)
	}
	return nil
}
