package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/go-hclog"
	"go.uber.org/fx"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/config"
	"github.com/starling-sync/starling/host/control"
	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/eventlog"
	"github.com/starling-sync/starling/host/history"
	"github.com/starling-sync/starling/host/membership"
	"github.com/starling-sync/starling/host/peerlog"
	"github.com/starling-sync/starling/host/registry"
	"github.com/starling-sync/starling/host/replica"
	"github.com/starling-sync/starling/host/service"
	"github.com/starling-sync/starling/host/source"
	"github.com/starling-sync/starling/host/supervisor"
	"github.com/starling-sync/starling/host/telemetry"
	"github.com/starling-sync/starling/host/transaction"
	"github.com/starling-sync/starling/sdk"
)

// stopTime is how long the host takes at most to stop: plugins drain, sessions end, the database closes.
const stopTime = 20 * time.Second

// runHost runs the device that c describes until ctx ends or a part of it fails.
func runHost(ctx context.Context, c *config.Config) error {
	hangup := catchHangups()
	defer hangup.end()
	failed := newFailure()
	var door *entrance
	defer func() { door.close() }() // also where the host does not come to start
	app := fx.New(
		fx.NopLogger,
		fx.StopTimeout(stopTime),
		fx.Supply(c, failed, hangup, fx.Annotate(ctx, fx.As(new(context.Context)))),
		fx.Provide(
			// what is there
			newLog, newService, openIdentity, newEntrance, openDatabase,
			// what is stored, and when it was
			peerlog.New, newRegistry, newRestamped, newClock, newStart,
			// a local write
			newRecorder, newManager,
			// who belongs
			newMembers, newPairing,
			// to and from the peers
			newPages, newKeeper, newNetwork,
			// the plugins
			newSources, newSelf, newPlugins, newSupervisor,
			// to and from people
			newLive, newEvents, newOperator, newBackend, forControl, newControl,
			// to machines
			newFigures, newHealth, newExporter,
		),
		fx.Populate(&door),
		fx.Invoke(start),
	)
	if err := app.Err(); err != nil {
		if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
			return nil // it was stopped while it waited for its database
		}
		return rootCause(err)
	}
	starting, cancel := context.WithTimeout(ctx, app.StartTimeout())
	defer cancel()
	if err := app.Start(starting); err != nil {
		return rootCause(err)
	}
	select {
	case <-ctx.Done():
	case <-failed.done:
	}
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTime)
	defer cancel()
	err := app.Stop(stopping)
	if failed.err != nil {
		return failed.err
	}
	return err
}

// rootCause returns the error of the part that failed, without fx's account of how it came to make that part.
func rootCause(err error) error {
	if e, ok := errors.AsType[*sdk.Error](err); ok {
		return e
	}
	return err
}

// parts are what runs.
type parts struct {
	fx.In
	Lifecycle  fx.Lifecycle
	Failed     *failure
	Config     *config.Config
	Log        hclog.Logger
	Database   *database.DB
	Members    *membership.Members
	Network    *network
	Supervisor *supervisor.Supervisor
	Plugins    *plugins
	Sources    *source.Runner
	Operator   *operator
	Control    *control.Server
	Entrance   *entrance
	Exporter   *exporter
	Health     *health
	Service    *service.Manager
	Sockets    *service.Sockets
}

// start has everything run, in this order, and stop in the reverse.
func start(p parts) {
	for _, path := range p.Config.Exposed {
		p.Log.Warn("every user of this machine can read a file that holds a secret; take that right away: chmod o-r", "file", path)
	}
	lc, failed := p.Lifecycle, p.Failed
	loop(lc, failed, "telemetry", p.Exporter.Run)
	loop(lc, failed, "members", func(ctx context.Context) error {
		return p.Database.Patiently(ctx, func() error { return p.Members.Run(ctx) })
	})
	loop(lc, failed, "plugins", func(ctx context.Context) error {
		defer p.Plugins.watching.Wait()
		return p.Supervisor.Run(ctx)
	})
	loop(lc, failed, "network", p.Network.Run)
	// A source yields records of other plugins' models, and people's first commands mean any model.
	afterPlugins := func(run func(context.Context) error) func(context.Context) error {
		return func(ctx context.Context) error {
			if err := p.Supervisor.Settled(ctx); err != nil {
				return nil //nolint:nilerr // stopped before the plugins were up
			}
			return run(ctx)
		}
	}
	loop(lc, failed, "sources", afterPlugins(p.Sources.Run))
	loop(lc, failed, "operator", p.Operator.Run)
	loop(lc, failed, "control API", afterPlugins(func(ctx context.Context) error {
		listener, err := p.Entrance.commands()
		if err != nil {
			return err
		}
		p.Log.Info("ready", "control", listener.Addr())
		if unused := p.Sockets.Unused(); unused != "" {
			p.Log.Warn("the service manager has opened sockets where nothing of the configuration listens; who connects there waits for ever", "at", unused)
		}
		p.Health.started.Store(true)
		p.Service.Ready()
		return p.Control.Run(ctx, listener)
	}))
	loop(lc, failed, "watchdog", func(ctx context.Context) error { return p.Service.Watch(ctx, p.Health.err) })
	lc.Append(fx.StopHook(func() {
		p.Health.stopping.Store(true)
		p.Service.Stopping()
	}))
}

// fullLog is the log with every line. The other one lacks those that say no more than that the database is out of reach.
type fullLog struct{ hclog.Logger }

func newLog(lc fx.Lifecycle, c *config.Config) (hclog.Logger, fullLog, error) {
	var out io.Writer = os.Stderr
	if c.Log.File != "" {
		file, err := os.OpenFile(c.Log.File, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			return nil, fullLog{}, sdk.Errorf(sdk.CodeInvalid, "%s: open the log: %w", c.Log.Range, err)
		}
		lc.Append(fx.StopHook(file.Close))
		out = file
	}
	options := &hclog.LoggerOptions{
		Name: "starling", Level: hclog.LevelFromString(c.Log.Level), Output: out, JSONFormat: c.Log.Format == "json", Mutex: new(sync.Mutex),
	}
	full := hclog.New(options)
	options.Exclude = func(level hclog.Level, message string, args ...any) bool {
		return full.GetLevel() > hclog.Debug && ofOutage(level, message, args...)
	}
	log := hclog.New(options).With("device", c.Device.Name)
	return hostLog{log, full}, fullLog{full.With("device", c.Device.Name)}, nil
}

// hostLog is the log without what says no more than that the database is out of reach, unless the level is that of debugging. Its
// level is that of the full log too, and of every log that was made of either.
type hostLog struct {
	hclog.Logger
	full hclog.Logger
}

func (l hostLog) SetLevel(level hclog.Level) {
	l.Logger.SetLevel(level)
	l.full.SetLevel(level)
}

// ofOutage reports a line of an error that comes from the database being out of reach. The database says that itself: everything that
// needs it would say so again and again until it is back.
func ofOutage(_ hclog.Level, _ string, args ...any) bool {
	return slices.ContainsFunc(args, func(arg any) bool {
		err, ok := arg.(error)
		return ok && database.Away(err)
	})
}

// newService takes what a service manager has handed over, if there is one.
func newService(log hclog.Logger) (*service.Manager, *service.Sockets, error) {
	sockets, err := service.Inherit()
	return service.NewManager(log), sockets, err
}

func openIdentity(c *config.Config) (*membership.Identity, error) {
	return membership.OpenIdentity(c.Device.DataDir)
}

func openDatabase(ctx context.Context, lc fx.Lifecycle, c *config.Config, identity *membership.Identity, door *entrance, hangup hangups, log fullLog) (*database.DB, error) {
	options := databaseOptions(c, identity)
	options.Stranger = stranger(c)
	options.Log = log.Named("database")
	options.Waiting = door.wait
	defer hangup.postpone(func() {
		log.Info("SIGHUP: there is nothing to reload yet, since this host waits for its database; its configuration is read again when it runs, and what says where the database is at a restart")
	})()
	db, err := database.OpenPatiently(ctx, options)
	if err != nil {
		return nil, err
	}
	door.waited()
	lc.Append(fx.StopHook(db.Close))
	return db, nil
}

// databaseOptions says how to open the database of a device.
func databaseOptions(c *config.Config, identity *membership.Identity) database.Options {
	options := database.Options{Dir: c.Device.DataDir, Device: identity.ID(), Durability: database.Durability(c.Store.Durability)}
	if c.Store.Kind == "postgres" {
		options.Postgres = &database.Postgres{DSN: c.Store.DSN, Schema: c.Store.Schema, Application: "starling " + c.Device.Name}
	}
	return options
}

// restamped says what restamping has done at this start, which it names. The clock is made after it.
type restamped struct {
	epoch   history.EpochID
	changes int
}

func newRestamped(c *config.Config, identity *membership.Identity, db *database.DB, journal *peerlog.Log, r *registry.Registry, log hclog.Logger) (restamped, error) {
	epoch := history.EpochID(uuid.New())
	n, back, err := replica.Restamp(context.Background(), db, journal, r, identity.ID(), epoch, time.Now, c.Sync.MaxClockDrift)
	if back > 0 {
		log.Warn("this device's clock was ahead; what it wrote then and no peer has accepted got new stamps, in the same order", "changes", n, "ahead", back.Round(time.Second))
	}
	return restamped{epoch, n}, err
}

func newClock(_ restamped, c *config.Config, db *database.DB, journal *peerlog.Log, log hclog.Logger) (*hlc.Clock, error) {
	clock, err := replica.Clock(context.Background(), db, journal, time.Now, c.Sync.MaxClockDrift)
	if err != nil {
		return nil, err
	}
	salt, err := rand.Int(rand.Reader, big.NewInt(hlc.MaxSalt))
	if err != nil {
		return nil, err
	}
	clock.Salt(uint16(salt.Int64())) //nolint:gosec // less than MaxSalt
	if ahead := clock.Ahead(); ahead > c.Sync.MaxClockDrift {
		log.Warn("this device has used stamps of the future, so its clock was ahead once, or is behind now; peers hold what it writes until that time",
			"ahead", ahead.Round(time.Second))
	}
	return clock, nil
}

// startID names this start of the device.
type startID struct {
	epoch history.EpochID
	at    hlc.Stamp // whatever this device wrote before has no greater stamp

	restamped int // changes
}

func newStart(clock *hlc.Clock, r restamped) startID {
	return startID{epoch: r.epoch, at: clock.Now(), restamped: r.changes}
}

// newRegistry serves the model of members itself: it is the library's own.
func newRegistry(lc fx.Lifecycle, identity *membership.Identity, db *database.DB, log hclog.Logger) (*registry.Registry, error) {
	ctx := context.Background()
	r, err := registry.New(ctx, registry.Options{DB: db, Self: identity.ID(), Log: log.Named("registry")})
	if err != nil {
		return nil, err
	}
	lc.Append(fx.StopHook(r.KeepAudit))
	_, err = r.Add(ctx, membership.Model())
	return r, err
}

// newManager has commits announced to the network, which is made after it: announcing is a late arrow, kept in one place.
func newManager(identity *membership.Identity, db *database.DB, journal *peerlog.Log, clock *hlc.Clock, start startID, r *registry.Registry, rec *telemetry.Recorder) (*transaction.Manager, *announcer) {
	a := &announcer{recorder: rec}
	return transaction.New(transaction.Options{
		DB: db, Self: identity.ID(), Epoch: start.epoch, Next: clock.Now, Prepare: replica.PrepareLocal(r), Journal: journal, Announce: a.announce,
		Observe: func(kind sdk.Ownership) func(transaction.Result, error) {
			ended := rec.Committing(kind)
			return func(_ transaction.Result, err error) { ended(err) }
		},
	}), a
}

// announcer hands commits to whoever is set, which happens before anything runs.
type announcer struct {
	to       func(transaction.Committed)
	recorder *telemetry.Recorder
}

func (a *announcer) announce(c transaction.Committed) {
	a.recorder.Committed(c.Batches)
	if a.to != nil {
		a.to(c)
	}
}

// newMembers founds the library if the configuration says so and there is none, and says where this device is reached.
func newMembers(c *config.Config, identity *membership.Identity, db *database.DB, journal *peerlog.Log, r *registry.Registry, m *transaction.Manager, log hclog.Logger) (*membership.Members, membership.Meta, error) {
	ctx := context.Background()
	meta := &metaStore{dir: c.Device.DataDir, db: db, journal: journal}
	library, belongs, err := membership.Current(ctx, meta)
	switch {
	case err != nil:
	case belongs: // a mark may not be there yet, or speak of another place
		err = meta.Mark(library)
	case !c.Library.Join:
		_, err = membership.Found(ctx, meta, foundedAs(c), c.Library.Name)
	}
	if err != nil {
		return nil, nil, err
	}
	members := membership.NewMembers(membership.Options{
		Self: identity, Records: &memberRecords{registry: r, manager: m}, Meta: meta, Now: time.Now, Log: log.Named("membership"),
	})
	addresses, err := ownAddresses(c)
	if err != nil {
		return nil, nil, err
	}
	return members, meta, members.Announce(ctx, c.Device.Name, addresses)
}

// foundedAs is the id of the library that this device founds: that of one of the same name that it has founded, where its database
// is a copy from before that, or the host was killed meanwhile.
func foundedAs(c *config.Config) membership.LibraryID {
	if mark, ok, err := membership.ReadMark(c.Device.DataDir); err == nil && ok && mark.Library == c.Library.Name {
		return mark.LibraryID
	}
	return membership.LibraryID(uuid.New())
}

// ownAddresses is where peers can dial this device, by its configuration.
func ownAddresses(c *config.Config) ([]membership.Address, error) {
	var all []membership.Address
	for _, t := range c.Transports {
		reachable, err := membership.Reachable(t.Listen, t.Advertise, net.InterfaceAddrs)
		if err != nil {
			return nil, err
		}
		for _, address := range reachable {
			all = append(all, membership.Address{Transport: t.Kind, Address: address})
		}
	}
	return all, nil
}

func newPairing(members *membership.Members) *membership.Pairing {
	return membership.NewPairing(members, rand.Reader, membership.DefaultLife)
}

func newPages(db *database.DB, r *registry.Registry, journal *peerlog.Log, clock *hlc.Clock, m *transaction.Manager, log hclog.Logger) *replica.Pages {
	return &replica.Pages{DB: db, Registry: r, Journal: journal, Clock: clock, Turn: m.Turn, Log: log.Named("sync")}
}

func newKeeper(db *database.DB, r *registry.Registry, journal *peerlog.Log, m *transaction.Manager) *replica.Keeper {
	return &replica.Keeper{DB: db, Registry: r, Journal: journal, Sealer: m.Seal}
}

type networkParts struct {
	fx.In
	Config    *config.Config
	Live      *live
	Identity  *membership.Identity
	Members   *membership.Members
	Pairing   *membership.Pairing
	Meta      membership.Meta
	Journal   *peerlog.Log
	Registry  *registry.Registry
	Pages     *replica.Pages
	Keeper    *replica.Keeper
	Start     startID
	Log       hclog.Logger
	Announcer *announcer
	Recorder  *telemetry.Recorder
}

func newNetwork(p networkParts) *network {
	n := &network{
		config: p.Config, live: p.Live, identity: p.Identity, members: p.Members, pairing: p.Pairing, meta: p.Meta, journal: p.Journal,
		registry: p.Registry, pages: p.Pages, keeper: p.Keeper, start: p.Start, log: p.Log.Named("sync"), recorder: p.Recorder,
		joined: make(chan struct{}, 1), transports: map[string]*attachment{}, out: map[string]*outing{},
	}
	p.Announcer.to = n.announce
	return n
}

// newSources runs sources as this device's own hand: their rows go through the gate for local writes.
func newSources(r *registry.Registry, m *transaction.Manager, log hclog.Logger) *source.Runner {
	return source.New(source.Options{
		Committer: source.CommitterFunc(func(ctx context.Context, batch sdk.Batch) ([]sdk.Refusal, error) {
			result, err := m.CommitDeviceOwned(ctx, batch)
			return plainRefusals(result.Refused), err
		}),
		Finder: r, Watcher: source.Signals(r.Watch), Now: time.Now, Log: log.Named("source"),
	})
}

func newPlugins(r *registry.Registry, n *network, s *source.Runner, self *self, log fullLog) *plugins {
	return &plugins{registry: r, network: n, sources: s, self: self, log: log}
}

func newEvents(lc fx.Lifecycle, c *config.Config, _ *database.DB) (*eventlog.Log, error) { // the database is the lock of the folder
	events, err := eventlog.Open(c.Device.DataDir)
	if err != nil {
		return nil, err
	}
	lc.Append(fx.StopHook(events.Close))
	return events, nil
}

func newSupervisor(c *config.Config, p *plugins, events *eventlog.Log, rec *telemetry.Recorder, sockets *service.Sockets, log fullLog) (*supervisor.Supervisor, error) {
	s, err := supervisor.New(supervisor.Options{
		Log: log.Named("plugin"), Observer: p, Now: time.Now, Record: counted(rec, recorder(events, log)),
		StoreDir: storeDir(c), RuntimeDir: filepath.Join(c.Device.DataDir, "run"), Listen: sockets.Listen,
	}, specs(c))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", strings.Join(c.Files, ", "), err)
	}
	p.network.ready = s.Settled
	p.fault = s.Fault
	p.registry.OnDefect(s.Defect)
	return s, nil
}

// storeDir is where plugins' binaries are kept.
func storeDir(c *config.Config) string { return filepath.Join(c.Device.DataDir, "plugins") }

func newControl(b control.Backend, log hclog.Logger) *control.Server {
	return control.NewServer(b, log.Named("control"), sdk.NewRecordID)
}
