package supervisor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/rpc"
)

// Stage is how far a swap is. Its stages follow one another in this order; a swap ends with Done, Undone or an error.
//
//	staging -> starting -> switching -> draining -> watching -> settling -> done
//	   |           |           |                        |           |
//	   +-----------+-----------+-> refused              +-----------+-> rolled back
type Stage string

// The stages of a swap. Up to Switching the old process does all the work, and a build that is refused has never done any.
const (
	Staging   Stage = "staging"     // the binary is copied into the store and its checksum compared
	Probing   Stage = "starting"    // its process starts beside the old one, is probed and configured
	Switching Stage = "switching"   // new work goes to it
	Draining  Stage = "draining"    // the old process finishes what it has
	Watching  Stage = "watching"    // the old process stays ready
	Settling  Stage = "settling"    // it is written down that the new build is the one in use, then the host makes its tables fit it
	Done      Stage = "done"        // the old process is stopped
	Undone    Stage = "rolled back" // the old process does the work again, the new one is stopped
)

// chosen is the middle of Settling: the choice is durable, and the tables are as they were.
const chosen Stage = "chosen"

// Swap asks for another build of a plugin, or another configuration of it.
type Swap struct {
	Name string
	Path string // of the binary; empty: the one where the build in use was taken from
	// Version of a build in the store, in place of Path: as it says itself, or "sha256:" and the beginning of its checksum.
	Version string
	SHA256  string        // that the binary must have; empty: the configuration says
	Spec    *Spec         // the plugin's new configuration; nil: it stays. If it names the same binary, the build in use stays
	Soak    time.Duration // how long the new process is watched
	DryRun  bool          // start and probe it, and say whether it would be let in
	By      string        // who or what wants it, for people

	back bool // to the build before the one in use
}

// Step is a stage that has been completed, for people.
type Step struct {
	Stage Stage
	Text  string
	Took  time.Duration
}

// ask is a Swap on its way to the keeper.
type ask struct {
	Swap
	trial  *trial
	sum    string    // of the build that is tried; empty: none is yet
	faulty bool      // what the swap is refused for says that the build does not work
	steps  chan Step // never full: a swap has fewer steps
	began  time.Time
}

// lastWords is how long a failed process is given to be found dead. Its calls go elsewhere already.
const lastWords = 200 * time.Millisecond

// maxSteps is more than a swap has.
const maxSteps = 16

// Swap puts another build of a plugin in its place while it works, and returns when that is done, refused or rolled
// back; the latter two are errors that say why, and leave the plugin as it was. report is told of each step, by the
// calling goroutine. When ctx ends Swap returns and the swap goes on.
func (s *Supervisor) Swap(ctx context.Context, swap Swap, report func(Step)) error {
	k, err := s.keeperOf(swap.Name)
	if err != nil {
		return err
	}
	if swap.Spec != nil && k.shelve(swap.Spec) {
		report(Step{Stage: Done, Text: "it is stopped: what has changed takes effect when it is started, by: starling plugin restart " + k.name})
		return nil
	}
	if swap.Spec != nil && k.debugs(swap.Spec) {
		return k.replace(ctx, swap, report)
	}
	return k.askFor(ctx, swap, report)
}

// errStops says why a swap is not brought to its end.
var errStops = errors.New("the host stops")

// Rollback puts the build before the one in use back in its place: at once if a swap is under way, else by a swap. A swap
// under way that is done before it could be ended is undone by another one.
func (s *Supervisor) Rollback(ctx context.Context, swap Swap, report func(Step)) error {
	k, err := s.keeperOf(swap.Name)
	if err != nil {
		return err
	}
	k.mu.Lock()
	t := k.trial
	k.mu.Unlock()
	if t != nil {
		t.back(cmp.Or(swap.By, "somebody"))
		select {
		case <-t.done:
		case <-ctx.Done():
			return ctx.Err()
		}
		switch {
		case errors.Is(t.err, errStops):
			return t.err
		case t.err != nil && !t.kept:
			report(Step{Stage: Undone, Text: "the swap under way has ended: " + t.err.Error()})
			return nil
		case !t.kept:
			return sdk.Errorf(sdk.CodeNotFound, "only a dry run of a swap of %s was under way, and it is over; there was nothing to roll back", k.name)
		}
	}
	swap.back = true
	return k.askFor(ctx, swap, report)
}

func (k *keeper) askFor(ctx context.Context, swap Swap, report func(Step)) error {
	a := &ask{Swap: swap, trial: newTrial(), steps: make(chan Step, maxSteps), began: time.Now()}
	k.mu.Lock()
	switch {
	case k.trial != nil:
		defer k.mu.Unlock()
		return k.trial.busy(k.name, k.options.Now())
	case k.paused != "":
		defer k.mu.Unlock()
		return sdk.Errorf(sdk.CodeUnavailable, "plugin %s is stopped: %s", k.name, k.paused)
	case k.life == nil:
		defer k.mu.Unlock()
		return sdk.Errorf(sdk.CodeUnavailable, "plugin %s does not run yet", k.name)
	}
	k.trial = a.trial
	k.mu.Unlock()
	go k.handOver(a) // which may take longer than whoever asks for it waits
	for {
		select {
		case step := <-a.steps:
			report(step)
		case <-a.trial.done:
			for len(a.steps) > 0 {
				report(<-a.steps)
			}
			return a.trial.err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// handOver gives a swap to the keeper, once that can take it.
func (k *keeper) handOver(a *ask) {
	starting := time.NewTimer(2 * k.options.StartTimeout) // it starts already, which must end first
	defer starting.Stop()
	select {
	case k.asks <- a:
	case <-k.ended:
		k.finish(a, sdk.Errorf(sdk.CodeUnavailable, "%w", errStops))
	case <-a.trial.undo:
		k.finish(a, sdk.Errorf(sdk.CodeUnavailable, "%w", errEnded))
	case <-starting.C:
		k.finish(a, sdk.Errorf(sdk.CodeUnavailable, "plugin %s is busy starting; try again", k.name))
	}
}

// enter notes that a swap begins its next stage, and reports the one before, unless text is empty.
func (k *keeper) enter(a *ask, next, before Stage, text string) {
	k.mu.Lock()
	a.trial.at = next
	k.mu.Unlock()
	if text != "" {
		k.options.reach(before)
		a.steps <- Step{Stage: before, Text: text, Took: time.Since(a.began)}
	}
	a.began = time.Now()
}

// finish ends a swap for those who wait for it.
func (k *keeper) finish(a *ask, err error) {
	k.mu.Lock()
	k.trial = nil
	k.mu.Unlock()
	a.trial.err = err
	close(a.trial.done)
}

// swapDead is swap where nothing runs: the new process is returned, if the host can use it, and is not watched, since
// there is no way back.
func (k *keeper) swapDead(ctx context.Context, a *ask) *generation {
	if a.DryRun {
		k.finish(a, sdk.Errorf(sdk.CodeUnavailable, "plugin %s does not run, so there is nothing to compare a build with", k.name))
		return nil
	}
	to, _, err := k.prepare(ctx, a, nil)
	if err != nil {
		k.refuse(a, nil, to, err)
		return nil
	}
	k.passed = passing{}
	if err := k.take(to); err != nil {
		k.drop(ctx, to)
		if !sameSockets(k.sockets, to.sockets) {
			closeAll(to.sockets)
		}
		k.refuse(a, nil, to, err)
		return nil
	}
	k.adopt(to)
	k.record(Event{Kind: Swapped, By: a.By, Why: "nothing was running", To: to.build()})
	a.trial.kept = true
	a.steps <- Step{Stage: Done, Text: "it runs; nothing was running before, so it is not watched"}
	k.finish(a, nil)
	return to
}

// adopt makes the configuration that a process was started with the plugin's.
func (k *keeper) adopt(to *generation) {
	k.mu.Lock()
	old := k.sockets
	k.spec, k.sockets = to.spec, to.sockets
	k.mu.Unlock()
	if !sameSockets(old, to.sockets) {
		closeAll(old)
	}
}

func sameSockets(a, b []rpc.Socket) bool {
	return len(a) == 0 && len(b) == 0 || len(a) > 0 && len(b) > 0 && a[0].Listener == b[0].Listener
}

// swap puts another process in the place of from, and returns the one that is in use afterwards, which may be dead.
func (k *keeper) swap(ctx context.Context, from *generation, a *ask) *generation {
	if err := from.refuseSwap(); err != nil {
		k.refuse(a, from, nil, err)
		return from
	}
	if a.pinsOnly(from) {
		k.mu.Lock()
		from.spec, k.spec = *a.Spec, *a.Spec
		k.mu.Unlock()
		a.steps <- Step{Stage: Done, Text: "the build in use is the one that is wanted"}
		k.finish(a, nil)
		return from
	}
	to, same, err := k.prepare(ctx, a, from)
	if err != nil {
		k.refuse(a, from, to, err)
		return from
	}
	if same != "" {
		a.steps <- Step{Stage: Done, Text: same}
		k.finish(a, nil)
		return from
	}
	if a.DryRun {
		k.drop(ctx, to)
		k.keepStaged(to)
		a.steps <- Step{Stage: Done, Text: "it would be let in: " + plan(from, to, a.Soak)}
		k.finish(a, nil)
		return from
	}
	old, err := k.switchTo(ctx, from, to, a)
	if err != nil {
		k.drop(ctx, to)
		if !sameSockets(from.sockets, to.sockets) {
			closeAll(to.sockets) // else they take connections that nobody serves
		}
		k.refuse(a, from, to, err)
		return from
	}
	k.drain(ctx, from, old)
	k.enter(a, Watching, Draining, fmt.Sprintf("the old process, %d, has finished its calls; watching the new one for %s", from.process.PID(), a.Soak))
	v := k.observe(ctx, from, to, a)
	if v.why == nil && to.gone() {
		v = verdict{why: to.reason, faulty: true}
	}
	if v.why == nil && ctx.Err() == nil && !a.trial.failed.CompareAndSwap(false, true) {
		v = verdict{why: <-a.trial.fault, faulty: true} // at the last moment
	}
	switch {
	case ctx.Err() != nil: // the host starts with the old one again
		k.drop(ctx, from)
		k.finish(a, sdk.Errorf(sdk.CodeUnavailable, "%w; at its next start the old build runs", errStops))
		return to
	case v.why != nil:
		return k.rollBack(ctx, from, to, a, v)
	}
	return k.settle(ctx, from, to, a)
}

// pinsOnly reports whether a swap asks for nothing but another checksum in the configuration, which the build in use has, or
// for none any more.
func (a *ask) pinsOnly(from *generation) bool {
	return a.alike(from) && a.Spec.Path == from.spec.Path && a.Spec.SHA256 != from.spec.SHA256 && (a.Spec.SHA256 == "" || a.Spec.SHA256 == from.bin.sum)
}

// same says that the build in use is the one that a swap asks for, configured as it is, and notes the path that the swap names: the
// process goes on, and the way back stays. Empty: the swap asks for something else.
func (k *keeper) same(a *ask, from *generation, spec Spec, bin binary) (string, error) {
	if bin.sum != from.bin.sum || a.Spec != nil && (!a.alike(from) || spec.Path == from.spec.Path) {
		return "", nil
	}
	build := pickOf(from)
	switch {
	case a.DryRun:
		return fmt.Sprintf("nothing would be swapped: %s is the build in use already", build), nil
	case a.Spec == nil && (a.Path == "" || a.Path == from.bin.origin):
		return fmt.Sprintf("nothing is swapped: %s is the build in use already; to start it anew: starling plugin restart %s", build, k.name), nil
	}
	if err := k.moves(from, spec, bin); err != nil {
		return "", err
	}
	return fmt.Sprintf("nothing is swapped: %s is the build in use already; that it lies at %s is noted, from where it is taken from now on", build, bin.origin), nil
}

// moves notes where the build in use lies.
func (k *keeper) moves(from *generation, spec Spec, bin binary) error {
	before := k.choices.of(k.name)
	err := k.choices.change(k.name, spec.Path, func(c *choice) {
		c.Running, c.Before = before.Running, before.Before
		c.use(pick{SHA256: bin.sum, Path: bin.origin, Version: from.info.Version})
		c.Passed = ""
	})
	if err != nil {
		return err
	}
	k.passed = passing{}
	k.mu.Lock()
	defer k.mu.Unlock()
	from.spec, from.bin, k.spec, k.status.Path = spec, bin, spec, bin.origin
	return nil
}

// alike reports whether a swap asks for a configuration that differs from that in use in the path or checksum of the binary alone.
func (a *ask) alike(from *generation) bool {
	if a.Spec == nil || a.Path != "" || a.Version != "" || a.back {
		return false
	}
	was, wanted := from.spec, *a.Spec
	was.SHA256, was.SHA256At, was.Path, was.PathAt = wanted.SHA256, wanted.SHA256At, wanted.Path, wanted.PathAt
	if !slices.Equal(was.secrets(from.info.Settings), wanted.secrets(from.info.Settings)) {
		return false // the process was told what to hide at its start
	}
	was.Blocks, wanted.Blocks = nil, nil // which say in which line they stand: what they hold is in Config
	return reflect.DeepEqual(was, wanted)
}

// prepare stages, starts and checks the process that a swap asks for, or says that the build in use is the one. Where it fails after
// the process was started, that is stopped and returned with the error.
func (k *keeper) prepare(ctx context.Context, a *ask, from *generation) (to *generation, same string, err error) {
	k.choices.starting.RLock()
	defer k.choices.starting.RUnlock()
	spec, bin, err := k.wanted(a, from)
	if err == nil && from != nil {
		same, err = k.same(a, from, spec, bin)
	}
	if err != nil || same != "" {
		return nil, same, err
	}
	to, err = k.candidate(ctx, a, from, spec, bin)
	return to, "", err
}

// candidate starts and checks the process that a swap asks for. Where it fails after the process was started, that is stopped
// and returned with the error.
func (k *keeper) candidate(ctx context.Context, a *ask, from *generation, spec Spec, bin binary) (_ *generation, err error) {
	a.sum = bin.sum
	if !a.DryRun {
		if err := k.choices.change(k.name, k.specNow().Path, func(c *choice) { c.Trying = bin.sum }); err != nil {
			return nil, err
		}
	}
	k.enter(a, Probing, Staging, "staged sha256:"+bin.sum[:12]+"; starting it beside the one in use")
	sockets := k.sockets
	if spec.Listen != k.specNow().Listen {
		if sockets, err = k.options.openSocket(ctx, spec); err != nil {
			return nil, err
		}
	}
	to, err := k.probeBeside(ctx, a, from, spec, bin, sockets)
	if err != nil {
		if !sameSockets(sockets, k.sockets) {
			closeAll(sockets)
		}
		return to, err
	}
	k.enter(a, Switching, Probing, fmt.Sprintf("started and probed: version %s, process %d", cmp.Or(to.info.Version, "unknown"), to.process.PID()))
	return to, nil
}

// errEnded says why a swap ended that nobody found fault with.
var errEnded = errors.New("the old process ended, or a rollback was asked for, before the switch")

// probeBeside starts and checks a process, unless the old one ends or somebody wants it to stay.
func (k *keeper) probeBeside(ctx context.Context, a *ask, from *generation, spec Spec, bin binary, sockets []rpc.Socket) (*generation, error) {
	starting, cancel := context.WithCancel(ctx)
	defer cancel()
	var ended <-chan struct{}
	if from != nil {
		ended = from.ended
	}
	go func() {
		select {
		case <-ended:
		case by := <-a.trial.undo:
			a.trial.back(by)
		case <-starting.Done():
		}
		cancel()
	}()
	to, err := k.start(starting, spec, bin, sockets)
	a.faulty = err != nil
	if err == nil && from != nil {
		err = k.check(starting, a, from, to)
	}
	if starting.Err() != nil {
		a.faulty = false
		if ctx.Err() == nil {
			err = sdk.Errorf(sdk.CodeUnavailable, "%w", errEnded)
		}
	}
	if err != nil && to != nil {
		k.drop(ctx, to)
	}
	return to, err
}

// wanted returns the configuration and the build that a swap asks for.
func (k *keeper) wanted(a *ask, from *generation) (spec Spec, bin binary, err error) {
	spec = k.specNow()
	if a.Spec != nil {
		spec = *a.Spec
	}
	want := cmp.Or(strings.ToLower(a.SHA256), spec.SHA256)
	if spec.SHA256 != "" && want != spec.SHA256 {
		return spec, bin, spec.pinned(want)
	}
	if a.back || a.Version != "" {
		bin, err = k.stored(a)
		if err == nil && want != "" && bin.sum != want {
			err = spec.pinned(bin.sum)
		}
		return spec, bin, err
	}
	path, was := a.Path, k.specNow()
	switch {
	case path != "":
	case from == nil || spec.Path != was.Path || spec.SHA256 != was.SHA256:
		path = spec.Path
	case a.Spec != nil && from.bin.intact(): // only how it is configured changes
		return spec, from.bin, nil
	default:
		path = from.bin.origin
	}
	if a.Path == "" && want != "" { // which may lie in the store already, whatever lies at its path
		remembered := k.choices.of(k.name)
		if bin, kept := remembered.inStore(k.options.StoreDir, want); kept {
			return spec, bin, nil
		}
	}
	bin, err = k.stage(&spec, path, want)
	return spec, bin, err
}

// stored returns the build in the store that a swap asks for: the one before, or one by its version.
func (k *keeper) stored(a *ask) (bin binary, err error) {
	remembered, _ := k.choices.get(k.name, k.specNow().Path)
	wanted := remembered.Before
	if !a.back {
		if wanted, err = remembered.versioned(k.name, a.Version); err != nil {
			return bin, err
		}
	}
	bin, there := wanted.again(k.options.StoreDir)
	switch {
	case a.back && wanted.SHA256 == "":
		err = sdk.Errorf(sdk.CodeNotFound, "no build of %s is known that ran before the one in use", k.name)
	case !there:
		err = sdk.Errorf(sdk.CodeNotFound, "the copy of build %s of %s in the store is gone or damaged: %s; nor does that build lie at %s, where it was taken from", wanted, k.name, bin.path, wanted.Path)
	}
	return bin, err
}

// pinned says that a build is not the one that is configured.
func (s *Spec) pinned(sum string) error {
	return sdk.Errorf(sdk.CodeInvalid, "%s says that the build of %s has the SHA-256 %s, not %s; write the new one there, and: starling reload", cmp.Or(s.SHA256At, "the configuration"), s.Name, s.SHA256, sum)
}

// check says why a probed process can not take the place of the one that runs.
func (k *keeper) check(ctx context.Context, a *ask, from, to *generation) error {
	a.faulty = true
	for _, d := range from.info.Models {
		if to.versionOf(d.Model) == 0 {
			return sdk.Errorf(sdk.CodeInvalid, "it does not serve model %q, which the running one serves", d.Model)
		}
	}
	if !to.health.OK && from.health.OK {
		return sdk.Errorf(sdk.CodeUnavailable, "it says that it is not well: %s", to.health)
	}
	err := k.options.Observer.PluginCheck(ctx, from.instance, to.instance)
	a.faulty = err != nil && !sdk.CodeOf(err).Retryable()
	return err
}

// plan says what a swap would do.
func plan(from, to *generation, soak time.Duration) string {
	text := fmt.Sprintf("sha256:%s version %s in place of sha256:%s version %s, watched for %s",
		to.bin.sum[:12], cmp.Or(to.info.Version, "unknown"), from.bin.sum[:12], cmp.Or(from.info.Version, "unknown"), soak)
	for _, d := range to.info.Models {
		if was := from.versionOf(d.Model); was != d.Version {
			text += fmt.Sprintf("; model %s from version %d to %d, from which there is no way back once it is done", d.Model, was, d.Version)
		}
	}
	return text
}

// switchTo has new work go to the new process. It returns where calls went before.
func (k *keeper) switchTo(ctx context.Context, from, to *generation, a *ask) ([]*target, error) {
	k.mu.Lock()
	a.trial.from, a.trial.to = from, to
	k.mu.Unlock()
	to.onTrial(true)
	old := k.point(to, from)
	if err := k.hand(ctx, from, to, a); err != nil {
		k.point(from, nil)
		to.release()
		return nil, err
	}
	from.release()
	k.use(to)
	k.enter(a, Draining, Switching, "switched")
	return old, nil
}

// errLate says why a switch was ended that the observer did not end.
var errLate = errors.New("the host could not switch to it in time")

// hand has the observer switch to a process. Whatever that waits for, it ends when the process has ended, when somebody wants
// the old one to stay, or after StartTimeout: then there is an error, or where the switch was made in that very moment, what
// ended it is left to observe.
func (k *keeper) hand(ctx context.Context, from, to *generation, a *ask) error {
	using, release := context.WithCancel(ctx)
	to.release = release
	over, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		late := time.NewTimer(k.options.StartTimeout)
		defer late.Stop()
		var why error
		select {
		case <-over:
		case <-to.ended:
			why = to.reason
		case by := <-a.trial.undo:
			a.trial.back(by)
			why = errEnded
		case <-late.C:
			why = errLate
		}
		if why != nil {
			release()
		}
		ended <- why
	}()
	err := k.options.Observer.PluginSwitch(using, from.instance, to.instance)
	close(over)
	why := <-ended
	if err == nil {
		if errors.Is(why, errLate) {
			k.fault(nil, why)
		}
		return nil
	}
	a.faulty = ctx.Err() == nil && !errors.Is(why, errEnded) && !errors.Is(why, errLate)
	if why != nil {
		return sdk.Errorf(sdk.CodeUnavailable, "%w", why)
	}
	select {
	case sick := <-to.sick: // which may well be why
		return sdk.Errorf(sdk.CodeOf(err), "%w; %w", err, sick)
	default:
		return err
	}
}

// drain waits until the process has finished the calls that went to it, or for DrainTimeout. It stays ready.
func (k *keeper) drain(ctx context.Context, from *generation, old []*target) {
	giveUp := time.NewTimer(k.options.DrainTimeout)
	defer giveUp.Stop()
	again := time.NewTicker(2 * time.Millisecond)
	defer again.Stop()
	for {
		if !slices.ContainsFunc(old, func(t *target) bool { return t.calls.Load() > 0 }) {
			return
		}
		select {
		case <-again.C:
		case <-giveUp.C:
			return
		case <-from.ended:
			return
		case <-ctx.Done():
			return
		}
	}
}
