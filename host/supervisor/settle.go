package supervisor

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/starling-sync/starling/sdk"
)

// verdict says why a new process has to give its place back.
type verdict struct {
	why    error  // nil: it need not
	by     string // who wants it; empty: nobody, the host itself found why
	faulty bool   // its build does not work, and is not started again by itself
}

// observe watches the new process for the time that was asked for.
func (k *keeper) observe(ctx context.Context, from, to *generation, a *ask) verdict {
	before := to.calls()
	soak := time.NewTimer(a.Soak)
	defer soak.Stop()
	k.mu.Lock()
	a.trial.until = k.options.Now().Add(a.Soak)
	k.mu.Unlock()
	fromEnded := from.ended
	look := time.NewTicker(k.options.WatchInterval)
	defer look.Stop()
	var slow error // at the last look; a build is slow that is at two in a row
	for {
		select {
		case <-ctx.Done():
			return verdict{}
		case why := <-a.trial.fault:
			return verdict{why: why, faulty: true}
		case why := <-to.sick:
			return verdict{why: why, faulty: true}
		case <-to.ended:
			return verdict{why: to.reason, faulty: true}
		case by := <-a.trial.undo:
			return verdict{why: sdk.Errorf(sdk.CodeUnavailable, "a rollback was asked for"), by: by}
		case <-fromEnded:
			k.log.Warn("the old process of a swap ended; there is no way back to it", "reason", from.reason)
			k.point(to, nil)
			fromEnded = nil
		case <-look.C:
			was := slow
			if slow = k.behind(from, to); slow != nil && was != nil && fromEnded != nil {
				return verdict{why: slow, faulty: true}
			}
		case <-soak.C:
			if slow != nil && fromEnded != nil {
				if why := k.behind(from, to); why != nil {
					return verdict{why: why, faulty: true}
				}
			}
			text := fmt.Sprintf("watched for %s, no fault", a.Soak)
			if len(to.serves) > 0 {
				text = fmt.Sprintf("watched for %s: %d calls, no fault", a.Soak, to.calls()-before)
			}
			k.enter(a, Settling, Watching, text)
			return verdict{}
		}
	}
}

// settle makes the new process the plugin's. That its build is the one in use is durable before the host makes its tables
// fit it, which an older build may not be able to serve any more: whenever the host is killed, it starts one that can.
func (k *keeper) settle(ctx context.Context, from, to *generation, a *ask) *generation {
	before := k.choices.of(k.name)
	err := k.choices.change(k.name, to.spec.Path, func(c *choice) {
		c.Running = cmp.Or(c.Running, pickOf(from))
		c.use(pickOf(to))
	})
	if err != nil {
		return k.rollBack(ctx, from, to, a, verdict{why: err})
	}
	k.point(to, nil) // what the tables of a newer version are asked to keep, the old one may not decide
	to.onTrial(false)
	k.options.reach(chosen)
	if err := k.options.Observer.PluginSettled(ctx, to.instance); err != nil {
		return k.unsettled(ctx, from, to, a, before, err)
	}
	k.options.reach(Settling)
	k.keepNew(ctx, from, to, a, before)
	k.record(Event{Kind: Swapped, By: a.By, From: from.build(), To: to.build()})
	k.log.Info("plugin swapped", "pid", to.process.PID(), "version", to.info.Version, "sha256", to.bin.sum, "from", from.bin.sum)
	k.options.reach(Done)
	text := "done"
	if a.back {
		text = fmt.Sprintf("done: back to %s; to return to %s: starling plugin rollback %s", pickOf(to), pickOf(from), k.name)
	}
	a.steps <- Step{Stage: Done, Text: text}
	k.finish(a, nil)
	return to
}

// keepNew stops the old process.
func (k *keeper) keepNew(ctx context.Context, from, to *generation, a *ask, before choice) {
	a.trial.kept = true
	k.adopt(to)
	k.passed = passing{why: k.choices.of(k.name).Passed}
	k.drop(ctx, from)
	k.discard(before.Before.SHA256)
	for _, staged := range before.Staged {
		k.discard(staged.SHA256) // unless it is staged still
	}
}

// unsettled ends a swap after which the host could not make its tables fit the new build, or not apply what had waited for
// it. If the old build can still serve them, it does; else there is no way back, and the new one is started again, which
// tries the rest once more.
func (k *keeper) unsettled(ctx context.Context, from, to *generation, a *ask, before choice, why error) *generation {
	if ctx.Err() != nil {
		k.keepNew(ctx, from, to, a, before)
		k.finish(a, sdk.Errorf(sdk.CodeUnavailable, "%w; at its next start the new build runs", errStops))
		return to
	}
	if !from.gone() && k.options.Observer.PluginCheck(ctx, to.instance, from.instance) == nil {
		if err := k.choices.put(k.name, before); err != nil {
			k.log.Warn("after a restart of the host the new build is started", "reason", err)
		}
		return k.rollBack(ctx, from, to, a, verdict{why: why, faulty: !sdk.CodeOf(why).Retryable()})
	}
	k.keepNew(ctx, from, to, a, before)
	k.record(Event{Kind: Swapped, By: a.By, Why: "there is no way back, though " + why.Error(), From: from.build(), To: to.build()})
	k.log.Error("plugin swapped, from which there is no way back, and could not be taken into use entirely; it is started again", "sha256", to.bin.sum, "reason", why)
	to.process.Kill()
	<-to.ended
	to.reason = sdk.Errorf(sdk.CodeOf(why), "the host can not use plugin %s: %w", k.name, why)
	k.finish(a, sdk.Errorf(sdk.CodeUnavailable, "the new build of %s is in use, since the old one can not serve the tables any more, and is started again: %w", k.name, why))
	return to
}

// rollBack puts the old process back in its place. Where that has died too, the usual restart follows, with its build.
func (k *keeper) rollBack(ctx context.Context, from, to *generation, a *ask, v verdict) *generation {
	a.trial.failed.Store(true)
	why := v.why
	if sdk.CodeOf(why) == sdk.CodeUnavailable && v.faulty {
		select { // a call may have been first to notice that the process ended, and how it did says more
		case <-to.ended:
			why = to.reason
		case <-time.After(lastWords):
		}
	}
	if from.gone() {
		k.point(to, nil)
	} else {
		k.point(from, nil)
	}
	using, release := context.WithCancel(ctx)
	from.release = release
	go func() { // so that the switch waits for nothing of a process that has ended
		select {
		case <-from.ended:
			release()
		case <-using.Done():
		}
	}()
	var err error
	if !from.gone() {
		err = k.options.Observer.PluginSwitch(using, to.instance, from.instance)
	}
	to.release()
	if from.gone() {
		k.set(BackingOff, why.Error(), func(s *Status) { s.PID = 0 }) // it is started again
	} else {
		k.use(from)
	}
	k.drop(ctx, to)
	if !sameSockets(from.sockets, to.sockets) {
		closeAll(to.sockets)
	}
	if !v.faulty {
		k.keepStaged(to)
	}
	k.forget(a, v.faulty, why)
	k.options.reach(Undone)
	said := why.Error()
	if a.By != "" {
		said += " (swapped by " + a.By + ")"
	}
	k.record(Event{Kind: RolledBack, By: v.by, Why: said, From: to.build(), To: from.build()})
	k.log.Error("plugin rolled back", "pid", from.process.PID(), "sha256", from.bin.sum, "failed", to.bin.sum, "reason", why)
	if err != nil {
		k.log.Error("the host can not use the old process any more; it is started again", "reason", err)
		from.process.Kill()
		<-from.ended
	}
	k.finish(a, sdk.Errorf(sdk.CodeUnavailable, "rolled back: the new build of %s was in use for a while, and then: %w; the old one is in use again", k.name, why))
	return from
}

// keepStaged remembers a build that was probed and not taken into use: it can be swapped to by its version.
func (k *keeper) keepStaged(g *generation) {
	var gone string
	err := k.choices.change(k.name, k.specNow().Path, func(c *choice) { gone = c.stage(pickOf(g)) })
	if err != nil {
		k.log.Warn("a build is not kept in the store", "sha256", g.bin.sum, "reason", err)
		return
	}
	k.discard(gone)
}

// forget ends the trial of a build that is not kept. failed: it does not work, and is not started again unless somebody
// asks for it; why says what is wrong with it.
func (k *keeper) forget(a *ask, failed bool, why error) {
	if a.sum == "" || a.DryRun {
		return
	}
	err := k.choices.change(k.name, k.specNow().Path, func(c *choice) {
		c.Trying = ""
		if failed {
			c.failed(a.sum, why.Error())
		}
	})
	if err != nil {
		k.log.Warn("that a build was not kept is not remembered", "sha256", a.sum, "reason", err)
		return
	}
	k.discard(a.sum)
}

// refuse ends a swap whose build never did any work. to is nil if it was not started.
func (k *keeper) refuse(a *ask, from, to *generation, why error) {
	e := Event{Kind: SwapRefused, By: a.By, Why: why.Error(), To: Build{SHA256: a.sum, Path: a.Path}}
	if from != nil {
		e.From = from.build()
	}
	if to != nil {
		e.To = to.build()
	}
	if to != nil && !a.faulty && !a.DryRun {
		k.keepStaged(to)
	}
	k.forget(a, a.faulty, why)
	if !a.DryRun {
		k.record(e)
	}
	k.log.Warn("plugin not swapped", "reason", why)
	after := "the running one goes on"
	if from == nil {
		after = "it still does not run"
	}
	k.finish(a, sdk.Errorf(sdk.CodeOf(why), "plugin %s was not swapped, %s: %w", k.name, after, why))
}

// drop stops a process that nothing uses any more. A dead one is as good.
func (k *keeper) drop(ctx context.Context, g *generation) {
	g.release()
	if g.gone() {
		return
	}
	k.stop(ctx, g)
}
