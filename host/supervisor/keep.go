package supervisor

import (
	"context"
	"errors"
	"slices"
	"syscall"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/rpc"
)

// What a life is ended for that somebody wants ended.
var (
	errRestart = errors.New("restart asked for")
	errPaused  = errors.New("it makes way for another plugin, or comes back") // which is no restart
)

// keep runs the plugin, again and again, until ctx ends.
func (k *keeper) keep(ctx context.Context) {
	defer close(k.ended)
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = k.options.MinBackoff, k.options.MaxBackoff
	var (
		bin     binary
		next    *generation // started by a swap while nothing ran
		crashes []time.Time // within the budget's window
		tries   = retries{options: k.options}
	)
	for ctx.Err() == nil {
		life, asked := k.begin(ctx)
		if asked || next != nil {
			bin, crashes = binary{}, nil
			tries.over()
			pause.Reset()
		}
		why := k.pausedNow()
		if next != nil && (asked || why != "") { // somebody wants it otherwise since
			k.drop(ctx, next)
			next = nil
		}
		if why != "" {
			k.closeSockets() // who connects is refused, rather than left waiting
			k.set(Stopped, why, func(s *Status) { s.PID = 0 })
			<-life.Done()
			continue
		}
		began, lost := k.options.Now(), k.options.machine.lostBy(time.Now())
		err := k.live(life, next, &bin, asked)
		next = nil
		if life.Err() != nil {
			k.options.machine.forget(k.name)
			continue
		}
		if errors.Is(err, errDebugged) {
			k.log.Info("plugin is not under a debugger any more", "reason", err)
			next = k.rest(life, k.options.MinBackoff, err)
			continue
		}
		now := k.options.Now()
		if hung, ok := errors.AsType[*hungError](err); ok { // what it spent on hanging is no time without a failure
			for i := range crashes {
				crashes[i] = crashes[i].Add(hung.lasted)
			}
		}
		if now.Sub(began) > k.options.BudgetWindow {
			tries.over() // it has worked since
		}
		crashes = slices.DeleteFunc(crashes, func(at time.Time) bool { return now.Sub(at) > k.options.BudgetWindow })
		if len(crashes) == 0 {
			pause.Reset()
		}
		wait := pause.NextBackOff()
		k.record(Event{Kind: Crashed, Why: err.Error(), From: k.lastBuild()})
		if still := k.still(lost, err); still != "" && tries.forgive() {
			k.log.Warn("plugin ended, for which the machine is to blame; starting it again", "in", wait.Round(time.Millisecond), "since", still, "reason", err)
			next = k.rest(life, wait, err)
			continue
		}
		if crashes = append(crashes, now); permanent(err) || len(crashes) >= k.options.Budget || tries.under {
			k.options.machine.forget(k.name)
			wait = tries.next()
			k.log.Error("plugin quarantined: it keeps failing, or starting it again can hardly help; the rest goes on", "failures", len(crashes), "within", k.options.BudgetWindow, "again_in", wait, "reason", err)
			k.record(Event{Kind: WasQuarantined, Why: err.Error(), From: k.lastBuild()})
			next = k.quarantined(life, wait, err)
			continue
		}
		k.log.Warn("plugin ended; starting it again", "in", wait.Round(time.Millisecond), "failures", len(crashes), "of", k.options.Budget, "reason", err)
		next = k.rest(life, wait, err)
	}
	if next != nil {
		k.drop(ctx, next)
	}
	k.end()
}

// maxForgiven is for how many failures the machine is blamed before they count for a plugin after all.
const maxForgiven = 20

// retries is how a plugin is tried beyond its budget.
type retries struct {
	options  *Options
	forgiven int           // failures for which the machine was to blame
	under    bool          // it has been quarantined: it is tried once, not by its budget
	wait     time.Duration // the last one
}

// next returns how long a quarantine lasts that begins.
func (r *retries) next() time.Duration {
	r.wait = min(max(2*r.wait, r.options.MinQuarantine), r.options.MaxQuarantine)
	r.under = true
	return r.wait
}

// over says that the plugin works, or is another one.
func (r *retries) over() { r.under, r.wait, r.forgiven = false, 0, 0 }

// forgive reports whether one more failure does not count, since the machine is to blame.
func (r *retries) forgive() bool {
	r.forgiven++
	return r.forgiven <= maxForgiven
}

// still says how it is known that a life ended since the machine stood still, or had nothing left for it; empty: it is not. lost is what had been lost when it began.
func (k *keeper) still(lost time.Duration, err error) string {
	if stall, ok := errors.AsType[*stallError](err); ok {
		return stall.still
	}
	if _, ok := errors.AsType[*lateError](err); ok {
		return k.options.machine.stoodStill(lost, k.options.StartTimeout)
	}
	k.options.machine.forget(k.name)
	return starved(err)
}

// starved says what the machine had none left of; empty: that is not why.
func starved(err error) string {
	for of, errs := range map[string][]error{
		"process or memory": {syscall.EAGAIN, syscall.ENOMEM}, "file descriptor": {syscall.EMFILE, syscall.ENFILE}, "room on the disk": {syscall.ENOSPC, syscall.EDQUOT},
	} {
		if slices.ContainsFunc(errs, func(each error) bool { return errors.Is(err, each) }) {
			return "the machine had no " + of + " left for it"
		}
	}
	return ""
}

// lastBuild is the build that runs, or ran last.
func (k *keeper) lastBuild() Build {
	s := k.snapshot()
	return Build{Version: s.Version, SHA256: s.SHA256, Path: s.Path}
}

// begin returns the context of the next life and of the rest after it, which ends with ctx or when Restart, Pause or Resume is
// called. It reports whether one of these ended the one before.
func (k *keeper) begin(ctx context.Context) (life context.Context, asked bool) {
	k.mu.Lock()
	again := k.life != nil
	if again {
		paused := errors.Is(context.Cause(k.life), errPaused)
		asked, again = paused || errors.Is(context.Cause(k.life), errRestart), !paused
		k.cut(nil)
	}
	k.life, k.cut = context.WithCancelCause(ctx)
	life = k.life
	k.mu.Unlock()
	k.set(Starting, "", func(s *Status) {
		if again {
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

// startAgain ends what the plugin is doing, be it starting, running or resting. From then on it runs by next; nil: by what it
// ran by. An error says that nothing has changed.
func (k *keeper) startAgain(by string, next *Spec) error {
	was := k.lastBuild()
	begun, err := k.cutLife(next)
	if begun {
		k.record(Event{Kind: WasRestarted, By: by, From: was})
	}
	return err
}

// cutLife is startAgain, but for the event. It reports whether there was anything to end.
func (k *keeper) cutLife(next *Spec) (begun bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case k.trial != nil:
		return false, k.trial.busy(k.name, k.options.Now())
	case k.paused != "":
		return false, sdk.Errorf(sdk.CodeUnavailable, "plugin %s is stopped: %s", k.name, k.paused)
	}
	if next != nil {
		if k.spec.Listen != next.Listen {
			closeAll(k.sockets) // here, so that the next start finds them gone and their port free
			k.sockets = nil
		}
		k.spec = *next
	}
	if k.cut == nil {
		return false, nil // its first start is yet to come
	}
	k.cut(errRestart)
	return true, nil
}

// quarantined waits as rest does, in quarantine.
func (k *keeper) quarantined(life context.Context, wait time.Duration, reason error) *generation {
	retry := func(at time.Time) {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.retry = at
	}
	retry(k.options.Now().Add(wait))
	defer retry(time.Time{})
	return k.waits(life, Quarantined, wait, reason)
}

// rest waits before the next start: for wait, or until life ends. It returns the process that a swap has started meanwhile, if
// one did.
func (k *keeper) rest(life context.Context, wait time.Duration, reason error) *generation {
	return k.waits(life, BackingOff, wait, reason)
}

func (k *keeper) waits(life context.Context, state State, wait time.Duration, reason error) *generation {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	k.set(state, reason.Error(), func(s *Status) { s.PID = 0 })
	for {
		select {
		case <-life.Done():
			return nil
		case <-timer.C:
			return nil
		case a := <-k.asks:
			if g := k.swapDead(life, a); g != nil && life.Err() == nil {
				return g
			} else if g != nil {
				k.drop(life, g)
				return nil
			}
			k.set(state, reason.Error(), nil)
		}
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
// g is the process to use; nil: it is started. bin is the build of the last life, if there was one that stays.
func (k *keeper) live(ctx context.Context, g *generation, bin *binary, fresh bool) (err error) {
	if g == nil {
		if g, err = k.debugged(ctx); err != nil {
			return err
		}
	}
	if g == nil {
		if g, err = k.startChosen(ctx, bin, fresh); err != nil {
			return err
		}
	}
	g, err = k.serve(ctx, g)
	*bin = g.bin
	return err
}

// startChosen starts the build of the last life, or the one that is chosen, and leaves it in bin.
func (k *keeper) startChosen(ctx context.Context, bin *binary, fresh bool) (_ *generation, err error) {
	if err := k.reopen(ctx); err != nil {
		return nil, err
	}
	k.choices.starting.RLock()
	defer k.choices.starting.RUnlock()
	if !bin.intact() {
		if *bin, k.passed, err = k.choose(fresh); err != nil {
			*bin = binary{}
			return nil, err
		}
	}
	k.mu.Lock()
	spec, sockets := k.spec, k.sockets
	k.status.Path, k.status.SHA256 = bin.origin, bin.sum
	k.mu.Unlock()
	return k.start(ctx, spec, *bin, sockets)
}

// debugged returns the process that the plugin's author runs under a debugger; nil: none is to be used, or none runs.
func (k *keeper) debugged(ctx context.Context) (*generation, error) {
	spec := k.specNow()
	if spec.Attach == "" {
		return nil, nil //nolint:nilnil // as said
	}
	g, err := k.attach(ctx)
	if sdk.CodeOf(err) == sdk.CodeNotFound {
		k.log.Info("nobody debugs the plugin: its binary is started", "reason", err)
		return nil, nil //nolint:nilnil // as said
	}
	return g, err
}

func stateOf(h rpc.Health) State {
	if h.OK {
		return Running
	}
	return Unhealthy
}

// serve tells the observer of the process, and returns when it is gone, or the one that a swap put in its place.
func (k *keeper) serve(ctx context.Context, g *generation) (*generation, error) {
	using, release := context.WithCancel(ctx)
	g.release = release
	if err := k.take(g); err != nil {
		k.stop(ctx, g)
		return g, err
	}
	k.point(g, nil)
	if err := k.options.Observer.PluginUp(using, g.instance); err != nil {
		release()
		k.options.Observer.PluginDown(g.instance, err)
		k.stop(ctx, g)
		return g, sdk.Errorf(sdk.CodeOf(err), "the host can not use plugin %s: %w", k.name, err)
	}
	k.use(g)
	k.log.Info("plugin is up", "pid", g.process.PID(), "version", g.info.Version, "sha256", g.bin.sum)
	for {
		select {
		case a := <-k.asks:
			g = k.swap(ctx, g, a)
		case <-ctx.Done():
			g.release()
			k.use(nil)
			k.options.Observer.PluginDown(g.instance, nil)
			k.stop(ctx, g)
			k.set(Stopped, "", func(s *Status) { s.PID = 0 })
			return g, nil
		case <-g.ended:
			g.release()
			k.use(nil)
			k.options.Observer.PluginDown(g.instance, g.reason)
			return g, g.reason
		}
	}
}

// use makes g the process that the status is of; nil: none is.
func (k *keeper) use(g *generation) {
	k.mu.Lock()
	k.current = g
	k.mu.Unlock()
	if g == nil {
		return
	}
	state, why := stateOf(g.health), g.health.String()
	if g.process.Debugged() {
		state, why = Debugging, "it is under a debugger: no deadlines, no health checks, and it is not replaced"
	}
	k.set(state, why, func(s *Status) {
		if s.PID != g.process.PID() {
			s.Since = k.options.Now()
		}
		s.PID, s.SHA256, s.Path, s.Version, s.Transport = g.process.PID(), g.bin.sum, g.bin.origin, g.info.Version, g.info.Transport
		s.Models = nil
		for _, d := range g.info.Models {
			s.Models = append(s.Models, d.Model)
		}
	})
}

// feels takes in how a process says that it is.
func (k *keeper) feels(g *generation, health rpc.Health) {
	k.mu.Lock()
	current := k.current == g
	k.mu.Unlock()
	if current {
		k.set(stateOf(health), health.String(), nil)
	}
	if !health.OK && g.health.OK {
		select {
		case g.sick <- sdk.Errorf(sdk.CodeUnavailable, "it says that it is not well: %s", health):
		default: // it has been said
		}
	}
}

// take remembers that a build is the one in use. That comes before the host makes its tables fit it, as in settle. A process
// under a debugger has no build that could be started again.
func (k *keeper) take(g *generation) error {
	if g.process.Debugged() {
		return nil
	}
	if remembered, same := k.choices.get(k.name, g.spec.Path); same && remembered.Running == pickOf(g) && remembered.Trying == "" && remembered.Passed == k.passed.why {
		return nil
	}
	return k.choices.change(k.name, g.spec.Path, func(c *choice) {
		if k.passed.sum == c.Trying { // by this start, and so it is by the next
			c.refuse(c.Trying, k.passed.why)
		}
		c.use(pickOf(g))
		c.Passed = k.passed.why
	})
}

// stop ends a process that still works, or is gone already. ctx may have ended.
func (k *keeper) stop(ctx context.Context, g *generation) {
	draining, cancel := context.WithTimeout(context.WithoutCancel(ctx), k.options.DrainTimeout)
	defer cancel()
	if err := g.process.Stop(draining); err != nil && !g.gone() {
		k.log.Warn("plugin did not stop cleanly", "pid", g.process.PID(), "reason", err)
	}
	<-g.ended
}

// pausedNow says why the plugin is not to run; empty: it is to run.
func (k *keeper) pausedNow() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.paused
}
