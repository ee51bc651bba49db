package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/singleflight"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/config"
	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/peersync"
	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/host/source"
	"github.com/starling-sync/starling/host/supervisor"
	"github.com/starling-sync/starling/host/telemetry"
	"github.com/starling-sync/starling/sdk"
)

// newRecorder returns nil where nobody asks.
func newRecorder(c *config.Config) *telemetry.Recorder {
	if c.Telemetry.Prometheus == "" {
		return nil
	}
	return telemetry.NewRecorder()
}

// exporter serves this device's metrics and health checks. Its zero value serves none.
type exporter struct {
	server *telemetry.Server
	door   *entrance
}

// Run serves until ctx ends.
func (e *exporter) Run(ctx context.Context) error {
	if e.server == nil {
		return nil
	}
	listener, err := e.door.scrapes()
	if err != nil {
		return err
	}
	return e.server.Run(ctx, listener)
}

func newExporter(figures *figures, health *health, r *telemetry.Recorder, door *entrance, log hclog.Logger) (*exporter, error) {
	if r == nil {
		return &exporter{}, nil
	}
	server, err := telemetry.NewServer(telemetry.Options{Source: figures, Health: health, Recorder: r, Log: log.Named("telemetry")})
	if err != nil {
		return nil, err
	}
	if err := door.openMetrics(); err != nil {
		return nil, err
	}
	return &exporter{server: server, door: door}, nil
}

// counted has what happens to plugins counted as well as recorded.
func counted(r *telemetry.Recorder, record func(supervisor.Event)) func(supervisor.Event) {
	return func(e supervisor.Event) {
		if e.Plugin != "" {
			r.Happened(e.Plugin, string(e.Kind))
		}
		record(e)
	}
}

// timed is an Applier that observes how long pages take.
type timed struct {
	peersync.Applier
	recorder *telemetry.Recorder
}

// Prepare implements peersync.Applier.
func (t timed) Prepare(ctx context.Context, page protocol.Page) (peersync.Prepared, error) {
	began := time.Now()
	prepared, err := t.Applier.Prepare(ctx, page)
	if err != nil {
		return prepared, err
	}
	return &timedPage{prepared, func() { t.recorder.Applied(page.Kind, time.Since(began)) }}, nil
}

type timedPage struct {
	peersync.Prepared
	applied func()
}

// Commit implements peersync.Prepared.
func (p *timedPage) Commit(ctx context.Context) error {
	err := p.Prepared.Commit(ctx)
	if err == nil {
		p.applied()
	}
	return err
}

// Account implements peersync.Accountant.
func (p *timedPage) Account() []peersync.Account {
	if a, ok := p.Prepared.(peersync.Accountant); ok {
		return a.Account()
	}
	return nil
}

// figures is the device as those who watch it see it. It implements telemetry.Source.
type figures struct {
	backend *backend
}

func newFigures(b *backend) *figures { return &figures{b} }

// Figures implements telemetry.Source.
func (f *figures) Figures() telemetry.Figures {
	b := f.backend
	out := telemetry.Figures{
		Device: b.config.Device.Name, DeviceID: b.identity.ID().String(), Version: version(), Store: b.config.Store.Kind,
		StoreAway: b.db.Outage() != nil, StoreBroken: b.db.Broken() != nil, StoreFull: b.db.Full() != nil,
		ClockAhead: b.network.pages.Clock.Ahead(),
		Peers:      slices.DeleteFunc(b.network.peers(), func(p peersync.PeerStatus) bool { return f.retired(p.ID) }),
		Engine:     b.network.figures(), Plugins: b.supervisor.Status(),
	}
	if since := b.db.WritingSince(); !since.IsZero() {
		out.Writing = time.Since(since)
	}
	if library := b.network.belongs.Load(); library != nil {
		out.Library, out.LibraryID = library.Name, library.ID.String()
	}
	var peers []skew
	for i := range out.Peers {
		peers = append(peers, skew{out.Peers[i].RTT, out.Peers[i].Skew})
	}
	out.ClockOffset, _ = median(peers)
	for _, limit := range protocol.Overs() {
		out.Limits = append(out.Limits, string(limit))
	}
	for _, t := range b.live.Load().Transports {
		out.Transports = append(out.Transports, telemetry.Transport{Name: t.Name, Kind: t.Kind, Listening: b.network.listens(t.Name, t.Listen) == nil})
	}
	for _, s := range b.sources.Status() {
		p := telemetry.SourceFigures{Model: s.Model, Running: s.State == source.Running, Work: map[sdk.Unit]telemetry.Work{}}
		for _, each := range s.Progress {
			work := p.Work[each.Unit]
			p.Work[each.Unit] = telemetry.Work{Done: work.Done + each.Done, Known: work.Known + each.Total}
		}
		for _, each := range s.Warnings {
			p.Warnings += int64(each.Count)
		}
		out.Sources = append(out.Sources, p)
	}
	return out
}

// retired reports whether nobody waits for a device any more.
func (f *figures) retired(id sdk.DeviceID) bool {
	member, ok := f.backend.members.Member(id)
	return ok && member.Retired()
}

// Stock implements telemetry.Source.
func (f *figures) Stock(ctx context.Context) (out telemetry.Stock, err error) {
	b := f.backend
	if out.StoreBytes, err = b.storeBytes(ctx); err != nil {
		return out, err
	}
	if out.Models, err = b.registry.Counts(ctx); err != nil {
		return out, err
	}
	journal := b.network.journal
	if out.LogEntries, out.LogBytes, err = journal.Size(ctx); err != nil {
		return out, err
	}
	oldest, err := journal.Oldest(ctx)
	if err != nil {
		return out, err
	}
	if oldest > 0 {
		out.LogOldest = oldest.Time()
	}
	out.Lag, err = f.lag(ctx)
	return out, err
}

// lag counts the changes that each peer lacks and this device has.
func (f *figures) lag(ctx context.Context) (map[sdk.DeviceID]map[string]int, error) {
	b := f.backend
	b.network.mu.Lock()
	engine := b.network.engine
	b.network.mu.Unlock()
	if engine == nil {
		return nil, nil
	}
	here := map[protocol.Stream]protocol.Heads{}
	for _, mark := range engine.Vector() {
		here[mark.Stream] = append(here[mark.Stream], mark.Position)
	}
	all := map[sdk.DeviceID]map[string]int{}
	for _, p := range engine.Peers() {
		if len(all) == telemetry.MaxPeers {
			break
		}
		if f.retired(p.ID) {
			continue
		}
		lag := map[string]int{}
		all[p.ID] = lag
		acknowledged := engine.AcknowledgedBy(p.ID)
		for key, heads := range here {
			since := least(acknowledged[key])
			kind := telemetry.KindOf(key.Kind)
			most := telemetry.MaxLag - lag[kind]
			if key.Origin == p.ID || most == 0 || since >= heads.Top() {
				continue
			}
			count := b.network.journal.CountAfter
			if key.Kind == sdk.DeviceOwned {
				count = b.registry.CountState
			}
			n, err := count(ctx, key.Origin, since, most)
			if err != nil {
				return nil, err
			}
			lag[kind] += n
		}
	}
	return all, nil
}

// least returns the earliest of the positions of somebody in a stream; 0 for who has nothing of it.
func least(heads protocol.Heads) (at hlc.Stamp) {
	for i, p := range heads {
		if i == 0 || p.Stamp < at {
			at = p.Stamp
		}
	}
	return at
}

// PluginMetrics implements telemetry.Source.
func (f *figures) PluginMetrics(ctx context.Context) []supervisor.PluginMetrics {
	return f.backend.supervisor.Metrics(ctx)
}

// health implements telemetry.Health.
type health struct {
	backend  *backend
	started  atomic.Bool // the plugins have been tried, and commands are answered
	stopping atomic.Bool
}

func newHealth(b *backend) *health { return &health{backend: b} }

var errProbe = errors.New("undo: it was a probe")

// intact reports whether the database takes writes as far as this process can help. A server that is away, or a write that
// takes long, is none of its doing: started again it would wait for the same, and a commit in doubt would be forgotten.
func (h *health) intact() telemetry.Check {
	c := telemetry.Check{Name: "database", OK: true}
	if err := h.backend.db.Broken(); err != nil {
		c.OK, c.Reason = false, err.Error()
	} else if outage := h.backend.db.Outage(); outage != nil {
		c.Reason = "out of reach since " + outage.Since.Format(time.DateTime) + "; it is connected again as soon as it is back"
	} else if err := h.backend.db.Full(); err != nil {
		c.Reason = err.Error()
	}
	return c
}

// database reports whether the database answers readers and takes writers in turn.
func (h *health) database(ctx context.Context) telemetry.Check {
	_, err := askOnce(ctx, &h.backend.asked, "database", func(ctx context.Context) (struct{}, error) {
		err := h.backend.reads(ctx)
		if err == nil {
			if err = h.backend.db.Write(ctx, func(*database.Tx) error { return errProbe }); errors.Is(err, errProbe) {
				err = nil
			}
		}
		if err == nil { // what is undone needs no space
			err = h.backend.db.Full()
		}
		return struct{}{}, err
	})
	return withError(telemetry.Check{Name: "database"}, err, "it did not answer in time")
}

// askOnce returns what fn, which has telemetry.HealthTime and may overrun it, returns; or the error of ctx once that has ended.
// While it still runs, those who ask for the same wait for it: what hangs is asked once.
func askOnce[T any](ctx context.Context, asked *singleflight.Group, what string, fn func(context.Context) (T, error)) (answer T, err error) {
	ended := asked.DoChan(what, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), telemetry.HealthTime)
		defer cancel()
		return fn(ctx)
	})
	select {
	case result := <-ended:
		return result.Val.(T), result.Err //nolint:forcetypeassert // one kind of answer to one question
	case <-ctx.Done():
		return answer, ctx.Err()
	}
}

func withError(c telemetry.Check, err error, late string) telemetry.Check {
	switch {
	case err == nil:
		c.OK = true
	case errors.Is(err, context.DeadlineExceeded):
		c.Reason = late
	default:
		c.Reason = err.Error()
	}
	return c
}

func (h *health) loop(ctx context.Context) telemetry.Check {
	n := h.backend.network
	n.mu.Lock()
	engine := n.engine
	n.mu.Unlock()
	if engine == nil {
		return telemetry.Check{Name: "sync", OK: true, Reason: "it does not run yet"}
	}
	return withError(telemetry.Check{Name: "sync"}, engine.Alive(ctx), "its loop did not answer in time")
}

// Alive implements telemetry.Health. A plugin that is not well is no reason to start the host again: the supervisor starts it
// again, or has given it up. That the supervisor answers is one.
func (h *health) Alive(ctx context.Context) []telemetry.Check {
	checks := []telemetry.Check{h.intact(), h.loop(ctx)}
	list, err := h.plugins(ctx)
	c := withError(telemetry.Check{Name: "plugins"}, err, noSupervisor)
	if c.OK {
		running := 0
		for _, p := range list {
			if p.State.Works() {
				running++
			}
		}
		c.Reason = fmt.Sprintf("%d of %d run", running, len(list))
	}
	return append(checks, c)
}

const noSupervisor = "their supervisor did not answer in time"

// plugins asks the supervisor, whose locks may be held.
func (h *health) plugins(ctx context.Context) ([]supervisor.Status, error) {
	return askOnce(ctx, &h.backend.asked, "plugins", func(context.Context) ([]supervisor.Status, error) { return h.backend.supervisor.Status(), nil })
}

// host reports whether the host is between its start and its stop.
func (h *health) host() telemetry.Check {
	switch {
	case h.stopping.Load():
		return telemetry.Check{Name: "host", Reason: "it is being stopped"}
	case !h.started.Load():
		return telemetry.Check{Name: "host", Reason: "it is starting"}
	}
	return telemetry.Check{Name: "host", OK: true}
}

// Ready implements telemetry.Health.
func (h *health) Ready(ctx context.Context) []telemetry.Check {
	b := h.backend
	checks := []telemetry.Check{h.host(), h.database(ctx), h.loop(ctx)}
	library := telemetry.Check{Name: "library"}
	own, member := b.members.Member(b.identity.ID())
	switch at := b.network.belongs.Load(); {
	case at == nil && !b.network.alone.Load():
		library.Reason = "it has not been looked up yet"
	case at == nil:
		library.Reason = "this device belongs to none yet; let it join one with: starling join CODE"
	case member && own.Retired():
		library.Reason = "this device was retired"
	default:
		library.OK, library.Reason = true, at.Name
	}
	checks = append(checks, library)
	paused := map[string]bool{}
	plugins, err := h.plugins(ctx)
	if err != nil {
		checks = append(checks, withError(telemetry.Check{Name: "plugins"}, err, noSupervisor))
	}
	for _, p := range plugins {
		c := pluginCheck(p)
		if p.State == supervisor.Stopped && checks[0].OK { // because somebody wanted it
			c.OK, paused[p.Name] = true, true
		}
		checks = append(checks, c)
	}
	for _, t := range b.live.Load().Transports {
		if t.Listen == "" || paused[t.Name] {
			continue
		}
		checks = append(checks, withError(telemetry.Check{Name: "transport " + t.Name}, b.network.listens(t.Name, t.Listen), ""))
	}
	return checks
}

// pluginCheck is whether a plugin can be used. One under a debugger can, even where it stands at a breakpoint: whoever put it
// there knows.
func pluginCheck(p supervisor.Status) telemetry.Check {
	c := telemetry.Check{Name: "plugin " + p.Name, OK: p.State.Works(), Reason: p.Reason}
	if p.State != supervisor.Running {
		c.Reason = strings.TrimSuffix(string(p.State)+": "+p.Reason, ": ")
	}
	return c
}

// err returns why the process does not do its work; nil if it does.
func (h *health) err(ctx context.Context) error {
	var reasons []string
	for _, c := range h.Alive(ctx) {
		if !c.OK {
			reasons = append(reasons, c.Name+": "+c.Reason)
		}
	}
	if len(reasons) > 0 {
		return errors.New(strings.Join(reasons, "; "))
	}
	return nil
}

// listens returns why the transport of a label takes no connections, though it is to listen at address.
func (n *network) listens(label, address string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	a := n.transports[label]
	switch {
	case address == "":
		return nil
	case a == nil:
		return errors.New("its plugin does not run")
	case a.deaf != nil:
		return a.deaf
	case n.engine == nil:
		return errors.New("it listens once this device belongs to a library")
	}
	select {
	case <-a.listening:
		return nil
	default:
		return errors.New("it does not listen yet")
	}
}

// figures returns what the engine has counted; nothing without a library.
func (n *network) figures() peersync.Figures {
	n.mu.Lock()
	engine := n.engine
	n.mu.Unlock()
	if engine == nil {
		return peersync.Figures{}
	}
	return engine.Figures()
}

// skew is what a peer tells of this device's clock: its own minus this one, as of a round trip.
type skew struct{ rtt, by time.Duration }

// median returns the median of how far this device's clock is from those of its peers that have answered; false: none has.
func median(peers []skew) (time.Duration, bool) {
	var offsets []time.Duration
	for _, p := range peers {
		if p.rtt > 0 {
			offsets = append(offsets, -p.by)
		}
	}
	if len(offsets) == 0 {
		return 0, false
	}
	slices.Sort(offsets)
	return offsets[len(offsets)/2], true
}
