package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/errgroup"

	"github.com/starling-sync/starling/host/config"
	"github.com/starling-sync/starling/host/control"
	"github.com/starling-sync/starling/host/eventlog"
	"github.com/starling-sync/starling/host/membership"
	"github.com/starling-sync/starling/host/service"
	"github.com/starling-sync/starling/host/supervisor"
	"github.com/starling-sync/starling/host/telemetry"
	"github.com/starling-sync/starling/sdk"
)

// live is the configuration that the host runs with now: that of its start, with what has been reloaded since.
type live struct{ atomic.Pointer[config.Config] }

func newLive(c *config.Config) *live {
	l := &live{}
	l.Store(c)
	return l
}

// operator implements control.Operator: it replaces plugins, transports and configuration while the host runs.
type operator struct {
	live       *live
	load       func() (*config.Config, error) // reads the configuration anew
	supervisor *supervisor.Supervisor
	network    *network
	members    *membership.Members
	events     *eventlog.Log
	service    *service.Manager
	record     func(supervisor.Event)
	hangup     hangups
	log        hclog.Logger
	changing   sync.Mutex // held by who changes the configuration or moves sessions
}

func newOperator(c *config.Config, l *live, s *supervisor.Supervisor, n *network, members *membership.Members, events *eventlog.Log, m *service.Manager, rec *telemetry.Recorder, hangup hangups, log hclog.Logger) *operator {
	return &operator{
		live: l, load: func() (*config.Config, error) { return config.Load(c.Paths...) },
		supervisor: s, network: n, members: members, events: events, service: m, record: counted(rec, recorder(events, log)), hangup: hangup, log: log,
	}
}

// Run says where this device is reached, once it is known which transports run, and reloads at each SIGHUP, until ctx ends.
func (o *operator) Run(ctx context.Context) error {
	if err := o.supervisor.Settled(ctx); err != nil {
		return nil //nolint:nilerr // stopped before the plugins were up
	}
	if slices.ContainsFunc(o.supervisor.Status(), func(s supervisor.Status) bool { return s.Paused() }) {
		if err := o.announce(ctx); err != nil && ctx.Err() == nil {
			o.log.Warn("where this device is reached could not be said", "error", err)
		}
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-o.hangup:
		}
		o.service.Reloading()
		err := o.reload(ctx, "SIGHUP", defaultSoak, func(step control.Step) {
			o.log.Info("reload", "subject", step.Subject, "stage", step.Stage, "text", step.Text)
		})
		if err != nil && ctx.Err() == nil {
			o.log.Error("the configuration was not reloaded, or not all of it", "error", err)
		}
		o.service.Ready()
	}
}

// defaultSoak is how long a new build is watched where nobody says.
const defaultSoak = 30 * time.Second

// SwapPlugin implements control.Operator.
func (o *operator) SwapPlugin(ctx context.Context, in control.PluginSwap, report func(control.Step)) error {
	if in.Path != "" && !filepath.IsAbs(in.Path) {
		return sdk.Errorf(sdk.CodeInvalid, "%q is no absolute path", in.Path)
	}
	if err := o.notMoved(in.Name); err != nil {
		return err
	}
	return o.supervisor.Swap(ctx, supervisor.Swap{
		Name: in.Name, Path: in.Path, Version: in.Version, SHA256: in.SHA256, Soak: in.Soak, DryRun: in.DryRun, By: "starling plugin swap",
	}, stepTo(report, ""))
}

// RollbackPlugin implements control.Operator.
func (o *operator) RollbackPlugin(ctx context.Context, name string, soak time.Duration, report func(control.Step)) error {
	if err := o.notMoved(name); err != nil {
		return err
	}
	return o.supervisor.Rollback(ctx, supervisor.Swap{Name: name, Soak: soak, By: "starling plugin rollback"}, stepTo(report, ""))
}

// restart starts a plugin again. A transport that is stopped runs beside the others from then on, and peers hear of it.
func (o *operator) restart(ctx context.Context, name, by string) error {
	if err := o.notMoved(name); err != nil {
		return err
	}
	if o.stopped(name) == "" {
		return o.supervisor.Restart(name, by)
	}
	if !o.changing.TryLock() {
		return o.busy()
	}
	defer o.changing.Unlock()
	if err := o.supervisor.Resume(ctx, name, by); err != nil {
		return err
	}
	return o.announce(context.WithoutCancel(ctx))
}

func builds(in []supervisor.Build) []control.Build {
	out := make([]control.Build, 0, len(in))
	for _, b := range in {
		out = append(out, control.Build(b))
	}
	return out
}

func stepTo(report func(control.Step), subject string) func(supervisor.Step) {
	return func(s supervisor.Step) {
		report(control.Step{Subject: subject, Stage: string(s.Stage), Text: s.Text, Took: s.Took})
	}
}

// Events implements control.Operator.
func (o *operator) Events(after int64) ([]control.PluginEvent, <-chan struct{}, error) {
	events, more, err := o.events.After(after)
	out := make([]control.PluginEvent, 0, len(events))
	for _, e := range events {
		out = append(out, control.PluginEvent{
			Number: e.Number, At: e.At, Kind: e.Kind, Plugin: e.Plugin, By: e.By, Why: e.Why, From: control.Build(e.From), To: control.Build(e.To),
		})
	}
	return out, more, err
}

// recorder returns what writes a supervisor's events down.
func recorder(events *eventlog.Log, log hclog.Logger) func(supervisor.Event) {
	return func(e supervisor.Event) {
		err := events.Append(eventlog.Event{
			At: e.At, Kind: string(e.Kind), Plugin: e.Plugin, By: e.By, Why: e.Why, From: eventlog.Build(e.From), To: eventlog.Build(e.To),
		})
		if err != nil {
			log.Warn("an event could not be written down", "kind", e.Kind, "plugin", e.Plugin, "why", e.Why, "error", err)
		}
	}
}

// Reload implements control.Operator.
func (o *operator) Reload(ctx context.Context, soak time.Duration, report func(control.Step)) error {
	return o.reload(ctx, "starling reload", soak, report)
}

// busy says that a reload or a swap of transports is under way, and how what it waits for is ended.
func (o *operator) busy() error {
	if m := o.network.moving.Load(); m != nil {
		return sdk.Errorf(sdk.CodeUnavailable, "a swap of transport %s to %s is under way; wait for its end, or: starling transport rollback %s", m.from, m.to, m.from)
	}
	for _, s := range o.supervisor.Status() {
		if s.Swap != "" {
			return sdk.Errorf(sdk.CodeUnavailable, "a reload is under way (%s: %s); wait for its end, or: starling plugin rollback %s", s.Name, s.Swap, s.Name)
		}
	}
	return sdk.Errorf(sdk.CodeUnavailable, "a reload or a swap of transports is under way; wait for its end")
}

func (o *operator) reload(ctx context.Context, by string, soak time.Duration, report func(control.Step)) error {
	if !o.changing.TryLock() {
		return o.busy()
	}
	defer o.changing.Unlock()
	next, err := o.load()
	if err != nil {
		return readable(err)
	}
	wanted := map[string]supervisor.Spec{}
	for _, spec := range specs(next) {
		if _, twice := wanted[spec.Name]; twice {
			return sdk.Errorf(sdk.CodeInvalid, "plugin %q is configured twice", spec.Name)
		}
		wanted[spec.Name] = spec
	}
	running := o.live.Load()
	changes := config.Diff(running, next)
	if len(changes) == 0 {
		report(control.Step{Stage: "unchanged", Text: "the configuration says what it said before"})
		return nil
	}
	if err := o.tryBlocks(ctx, changes, wanted, next); err != nil {
		return readable(err)
	}
	r := &reloading{operator: o, by: by, soak: soak, wanted: wanted, report: report}
	failed := r.all(context.WithoutCancel(ctx), changes)
	o.live.Store(keepFailed(running, config.WithRestartOf(running, next), failed))
	if err := o.announce(ctx); err != nil {
		return err
	}
	if made := made(changes, failed); made != "" {
		o.record(supervisor.Event{At: time.Now(), Kind: "reloaded", By: by, Why: made})
	}
	if len(failed) > 0 {
		err = sdk.Errorf(sdk.CodeUnavailable, "%d of %d changes were not made; what they concern goes on as before: %w", len(failed), len(changes), failed.err())
	}
	if len(r.unfit) > 0 {
		err = errors.Join(err, sdk.Errorf(sdk.CodeUnavailable, "what was added does not do its work yet, and is tried further: %w", r.unfit.err()))
	}
	return err
}

// made says which changes a running host has made, for people.
func made(changes []config.Change, failed failures) string {
	var whats []string
	for _, c := range changes {
		if c.Kind != config.NeedsRestart && (c.Plugin == "" || failed[c.Plugin] == nil) {
			whats = append(whats, c.What)
		}
	}
	return strings.Join(whats, "; ")
}

// tryBlocks returns every mistake in the config blocks of what changes, as the plugins see them, and each plugin that is not
// there. That one which is there does not start is no such mistake: it concerns that plugin alone.
func (o *operator) tryBlocks(ctx context.Context, changes []config.Change, wanted map[string]supervisor.Spec, next *config.Config) error {
	absent, _ := next.Absent()
	var (
		mu    sync.Mutex
		found []error
		tries errgroup.Group
	)
	tries.SetLimit(tryAtOnce)
	for _, c := range changes {
		if c.Kind != config.PluginAdded && c.Kind != config.PluginChanged {
			continue
		}
		tries.Go(func() error {
			spec := wanted[c.Plugin]
			err := o.supervisor.Try(ctx, spec)
			var wrong error
			if blocks, ok := errors.AsType[*supervisor.ConfigError](err); ok {
				wrong = blocks
			} else if sdk.CodeOf(err) == sdk.CodeNotFound && spec.Attach == "" && spec.SHA256 == "" { // else a copy in the store may do
				wrong = err
				if mistake, ok := absent[c.Plugin]; ok {
					wrong = config.Diagnostics{mistake}
				}
			}
			if wrong != nil {
				mu.Lock()
				defer mu.Unlock()
				found = append(found, wrong)
			}
			return nil
		})
	}
	_ = tries.Wait() // found has the errors
	return mistakes(found)
}

// readable makes the mistakes of a file one error that says that nothing has changed.
func readable(err error) error {
	if mistakes, ok := errors.AsType[config.Diagnostics](err); ok {
		var lines []string
		for _, m := range mistakes {
			lines = append(lines, m.String())
		}
		return sdk.Errorf(sdk.CodeInvalid, "nothing has changed, since the file is not valid:\n%s", strings.Join(lines, "\n"))
	}
	return sdk.Errorf(sdk.CodeOf(err), "nothing has changed: %w", err)
}

// failures are what could not be changed, by plugin.
type failures map[string]error

func (f failures) err() error {
	var all []error
	for name, err := range f {
		all = append(all, fmt.Errorf("%s: %w", name, err))
	}
	return errors.Join(all...)
}

// reloading is one reload.
type reloading struct {
	*operator
	by     string
	soak   time.Duration
	wanted map[string]supervisor.Spec

	mu     sync.Mutex
	report func(control.Step)
	failed failures
	unfit  failures // what has been added, and does not do its work
}

// all makes the changes: what goes first, then what comes, and meanwhile the swaps, at once.
func (r *reloading) all(ctx context.Context, changes []config.Change) failures {
	r.failed, r.unfit = failures{}, failures{}
	var swaps errgroup.Group
	for _, c := range changes {
		r.say(c, string(c.Kind), "")
		switch c.Kind {
		case config.PluginRemoved:
			if err := r.supervisor.Remove(c.Plugin, r.by); sdk.CodeOf(err) != sdk.CodeNotFound { // it is gone since a reload that failed
				r.done(c, err)
			}
		case config.PluginChanged:
			swaps.Go(func() error {
				spec := r.wanted[c.Plugin]
				r.done(c, r.supervisor.Swap(ctx, supervisor.Swap{Name: c.Plugin, Spec: &spec, Soak: r.soak, By: r.by}, func(s supervisor.Step) { r.say(c, string(s.Stage), s.Text) }))
				return nil
			})
		case config.LogLevel:
			_, level, _ := strings.Cut(c.What, "level ")
			r.log.SetLevel(hclog.LevelFromString(level))
		}
	}
	for _, c := range changes {
		if c.Kind != config.PluginAdded { // after what is removed, whose address it may want
			continue
		}
		if err := r.supervisor.Add(ctx, r.wanted[c.Plugin], r.by); err != nil {
			r.done(c, err)
			continue
		}
		swaps.Go(func() error { r.await(ctx, c); return nil })
	}
	_ = swaps.Wait() // done and await keep the errors
	return r.failed
}

// await waits for a plugin that has been added to do its work. That it does not in time is said, and it stays.
func (r *reloading) await(ctx context.Context, c config.Change) {
	err := r.awaitFit(ctx, c.Plugin, nil)
	if err == nil {
		return
	}
	r.say(c, "unfit", "it does not do its work yet: "+err.Error())
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unfit[c.Plugin] = err
}

// say reports a step. The first one of a change says what has changed, those after it only of which plugin.
func (r *reloading) say(c config.Change, stage, text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	subject := c.What
	if text != "" && c.Plugin != "" {
		subject = c.Plugin
	}
	r.report(control.Step{Subject: subject, Stage: stage, Text: text})
}

func (r *reloading) done(c config.Change, err error) {
	if err == nil {
		return
	}
	r.say(c, "failed", err.Error())
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed[c.Plugin] = err
}

// keepFailed returns next with what could not be changed as it is, so that the next reload tries it again.
func keepFailed(running, next *config.Config, failed failures) *config.Config {
	merged := *next
	merged.Models = keepBlocks(running.Models, next.Models, func(m config.Model) string { return string(m.Name) }, failed)
	merged.Transports = keepBlocks(running.Transports, next.Transports, func(t config.Transport) string { return t.Name }, failed)
	return &merged
}

func keepBlocks[T any](running, next []T, name func(T) string, failed failures) []T {
	var kept []T
	for _, b := range next {
		if failed[name(b)] == nil {
			kept = append(kept, b)
		}
	}
	for _, b := range running {
		if failed[name(b)] != nil {
			kept = append(kept, b)
		}
	}
	return kept
}

// announce says where this device is reached: by the transports that are not stopped.
func (o *operator) announce(ctx context.Context, without ...string) error {
	c := *o.live.Load()
	for _, s := range o.supervisor.Status() {
		if s.Paused() {
			without = append(without, s.Name)
		}
	}
	c.Transports = slices.DeleteFunc(slices.Clone(c.Transports), func(t config.Transport) bool { return slices.Contains(without, t.Name) })
	addresses, err := ownAddresses(&c)
	if err != nil {
		return err
	}
	return o.members.Announce(ctx, c.Device.Name, addresses)
}

// SwapTransport implements control.Operator.
func (o *operator) SwapTransport(ctx context.Context, swap control.TransportSwap, report func(control.Step)) error {
	return o.swapTransport(ctx, swap, "starling transport swap", report)
}

func (o *operator) swapTransport(ctx context.Context, swap control.TransportSwap, by string, report func(control.Step)) (err error) {
	if !o.changing.TryLock() {
		return o.busy()
	}
	m := newMove(swap)
	o.network.moving.Store(m)
	defer func() { m.end(err) }() // last: who waits for it may begin another one
	defer o.changing.Unlock()
	defer func() {
		if err != nil {
			o.stopAgain(context.WithoutCancel(ctx), m, by)
		}
		o.network.moving.Store(nil)
	}()
	if err := o.readyTransport(ctx, m, swap.Force, by); err != nil {
		return err
	}
	began := time.Now()
	step := func(stage, format string, args ...any) {
		report(control.Step{Stage: stage, Text: fmt.Sprintf(format, args...), Took: time.Since(began)})
		began = time.Now()
	}
	step("starting", "%s runs", m.to)
	return o.moveSessions(context.WithoutCancel(ctx), m, by, step) // what has begun is brought to an end
}

// readyTransport checks that both are transports, and has to run.
func (o *operator) readyTransport(ctx context.Context, m *move, force bool, by string) error {
	from, to, transports := m.from, m.to, o.live.Load().Transports
	if from == to {
		return sdk.Errorf(sdk.CodeInvalid, "transport %s takes its own place; for another build of it: starling plugin swap %s PATH", from, from)
	}
	for _, name := range []string{from, to} {
		if !slices.ContainsFunc(transports, func(t config.Transport) bool { return t.Name == name }) {
			return sdk.Errorf(sdk.CodeNotFound, "there is no transport %q; there are: %s; write another in the configuration, and: starling reload", name, labels(transports))
		}
	}
	if why := o.stopped(from); why != "" {
		return sdk.Errorf(sdk.CodeUnavailable, "nothing has changed, since transport %s is stopped already: %s", from, why)
	}
	stopped := o.stopped(to)
	if f := o.fitness(to); stopped == "" && f.why != nil { // whatever is forced, it would only be rolled back
		return sdk.Errorf(sdk.CodeUnavailable, "nothing has changed, since transport %w", f.why)
	}
	if cut := cutOff(o.members.All(), o.network.identity.ID(), kindsWithout(transports, from, to, o.supervisor.Status())); len(cut) > 0 && !force {
		return sdk.Errorf(sdk.CodeUnavailable, "nothing has changed: %s, of which no address is known but of transports that would not run here any more, could not be reached; have another transport run there first (one that is stopped is started by: starling plugin restart NAME), retire them, or: starling transport swap %s %s --force", strings.Join(cut, ", "), from, to)
	}
	if err := o.supervisor.Resume(ctx, to, by); err != nil {
		return err
	}
	m.stopped = stopped
	if err := o.awaitFit(ctx, to, m.undo); err != nil {
		return sdk.Errorf(sdk.CodeUnavailable, "nothing was moved: %w", err)
	}
	return nil
}

// labels names transports with their kinds.
func labels(transports []config.Transport) string {
	names := make([]string, 0, len(transports))
	for i := range transports {
		names = append(names, transports[i].Name+" ("+transports[i].Kind+")")
	}
	return strings.Join(names, ", ")
}

// kindsWithout returns the kinds of the transports that are in use once to is and from is not.
func kindsWithout(transports []config.Transport, from, to string, running []supervisor.Status) (kinds []string) {
	for i := range transports {
		t := &transports[i]
		stopped := slices.ContainsFunc(running, func(s supervisor.Status) bool { return s.Name == t.Name && s.Paused() })
		if t.Name != from && (!stopped || t.Name == to) {
			kinds = append(kinds, t.Kind)
		}
	}
	return kinds
}

// cutOff names the other members that have said where they are reached, but at no address of one of kinds.
func cutOff(members []membership.Member, self sdk.DeviceID, kinds []string) (names []string) {
	for i := range members {
		m := &members[i]
		addresses, err := m.Where()
		if err != nil || len(addresses) == 0 || m.Retired() || m.Device() == self {
			continue
		}
		if !slices.ContainsFunc(addresses, func(a membership.Address) bool { return slices.Contains(kinds, a.Transport) }) {
			names = append(names, m.Name)
		}
	}
	return names
}

// moveSessions has the sessions of one transport begin anew over others, and stops it once they have.
func (o *operator) moveSessions(ctx context.Context, m *move, by string, step func(stage, format string, args ...any)) error {
	from, to := m.from, m.to
	before := o.network.roundTrips(from)
	if err := o.announce(ctx, from); err != nil {
		return err
	}
	back, done, err := o.network.takeOut(ctx, from)
	if err != nil {
		return errors.Join(err, o.announce(ctx))
	}
	ended := fmt.Sprintf("%d sessions of %s were ended; their devices connect", len(before), from)
	if len(before) == 1 {
		ended = "1 session of " + from + " was ended; its device connects"
	}
	step("switching", "%s by what is left", ended)
	why := o.awaitReturn(ctx, before, m)
	if why == nil {
		step("watching", "watched for %s", m.soak)
		why = o.supervisor.Pause(from, "transport "+to+" took its place; back with: starling transport swap "+to+" "+from+"; or to run it beside that: starling plugin restart "+from, by)
	}
	event := supervisor.Event{
		At: time.Now(), Kind: supervisor.Swapped, Plugin: from, By: by, Why: "its sessions were moved to transport " + to,
		From: o.buildOf(from), To: o.buildOf(to),
	}
	if why != nil {
		back()
		event.Kind, event.Why, event.From, event.To = supervisor.RolledBack, why.Error()+" (swapped by "+by+")", event.To, event.From
		event.By = "" // the host itself, unless somebody asked for it
		if undone, ok := errors.AsType[*undoneError](why); ok {
			event.By = undone.by
		}
		why = errors.Join(sdk.Errorf(sdk.CodeUnavailable, "rolled back, transport %s is in use again: %w", from, why), o.announce(ctx))
	}
	o.record(event)
	if why != nil {
		return why
	}
	done()
	if err := o.announce(ctx); err != nil { // as before the watch: the swap is done nevertheless
		o.log.Warn("where this device is reached could not be said again after a swap of transports", "stopped", from, "in_use", to, "error", err)
	}
	step("done", "done: %s is stopped", from)
	return nil
}

// buildOf returns the build that a plugin runs, or ran last.
func (o *operator) buildOf(name string) supervisor.Build {
	for _, s := range o.supervisor.Status() {
		if s.Name == name {
			return supervisor.Build{Version: s.Version, SHA256: s.SHA256, Path: s.Path}
		}
	}
	return supervisor.Build{}
}

// awaitReturn returns after soak, or why the devices that were connected are not by then: none by to within returnTime,
// their sessions by it ending or slow, the process of to gone, or that somebody wants it so. before has their round trips by the
// other transport.
func (o *operator) awaitReturn(ctx context.Context, before map[sdk.DeviceID]time.Duration, m *move) error {
	to := m.to
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	over, late := time.Now().Add(m.soak), time.Now().Add(returnTime)
	devices, link := slices.Collect(maps.Keys(before)), linkTrial{before: before, returned: len(before) == 0}
	for {
		if why := link.look(o.network.connected(devices), o.network.roundTrips(to), o.network.lags(to)); why != nil {
			return why
		}
		for _, s := range o.supervisor.Status() {
			if s.Name == to && !s.State.Works() {
				return sdk.Errorf(sdk.CodeUnavailable, "transport %s is %s: %s", to, s.State, s.Reason)
			}
		}
		now := time.Now()
		switch {
		case link.returned && now.After(over):
			return nil
		case !link.returned && now.After(late):
			return sdk.Errorf(sdk.CodeUnavailable, "none of %d devices that were connected came back within %s%s", len(before), returnTime, o.addressed(devices, to))
		}
		select {
		case <-again.C:
		case by := <-m.undo:
			return &undoneError{by}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// takeOut has a transport carry nothing any more, nor a process that takes the place of its own: who connects by it is turned away at
// once, so as to try another address. back puts it into use again; done says that it has been stopped instead.
func (n *network) takeOut(ctx context.Context, label string) (back, done func(), err error) {
	n.mu.Lock()
	old, engine := n.transports[label], n.engine
	if old == nil {
		n.mu.Unlock()
		return nil, nil, sdk.Errorf(sdk.CodeUnavailable, "transport %s does not run", label)
	}
	delete(n.transports, label)
	if engine != nil {
		engine.RemoveTransport(label)
	}
	old.leave()
	away := newOuting()
	away.take(old)
	n.out[label] = away
	n.mu.Unlock()
	n.retire(ctx, engine, old)
	done = func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.out, label)
	}
	return func() {
		done()
		away.end()
		away.turning.Wait()
		n.mu.Lock()
		defer n.mu.Unlock()
		if away.now.ctx.Err() != nil || n.transports[label] != nil {
			return // its process went meanwhile, and another may have come
		}
		a := newAttachment(away.now.ctx, label, away.now.Transport, away.now.address)
		n.transports[label] = a
		if n.engine != nil {
			n.serve(a)
		}
	}, done, nil
}

// turnAway closes every connection that comes, until ctx ends.
func turnAway(ctx context.Context, a *attachment) {
	listener, err := a.Listen(ctx, a.address, nil)
	if err != nil {
		return // who connects is turned away by the system
	}
	defer context.AfterFunc(ctx, func() { _ = listener.Close() })()
	defer func() { _ = listener.Close() }()
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		_ = conn.Close()
	}
}
