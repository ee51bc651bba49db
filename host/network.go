package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/errgroup"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/config"
	"github.com/starling-sync/starling/host/control"
	"github.com/starling-sync/starling/host/membership"
	"github.com/starling-sync/starling/host/peerlog"
	"github.com/starling-sync/starling/host/peersync"
	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/host/registry"
	"github.com/starling-sync/starling/host/replica"
	"github.com/starling-sync/starling/host/telemetry"
	"github.com/starling-sync/starling/host/transaction"
	"github.com/starling-sync/starling/sdk"
)

// network is the device's side of the library: the sync engine once there is a library to sync, and the transports.
type network struct {
	config   *config.Config // of the start
	live     *live
	identity *membership.Identity
	members  *membership.Members
	pairing  *membership.Pairing
	meta     membership.Meta
	journal  *peerlog.Log
	registry *registry.Registry
	pages    *replica.Pages
	keeper   *replica.Keeper
	start    startID
	log      hclog.Logger
	ready    func(context.Context) error // blocks until the plugins have been tried

	joined chan struct{} // holds a value after the device has joined a library

	serving sync.WaitGroup // the listening of transports; ends with Run

	belongs  atomic.Pointer[membership.Library] // nil: to none yet, as far as is known
	alone    atomic.Bool                        // that it belongs to none has been looked up, once
	recorder *telemetry.Recorder
	moving   atomic.Pointer[move] // the swap of transports under way; nil: there is none

	mu         sync.Mutex
	running    context.Context        // of engine
	engine     *peersync.Engine       // nil until the device belongs to a library, and after Run
	transports map[string]*attachment // by label
	out        map[string]*outing     // by label: transports that run and are not to be used; none of them is in transports
}

// attachment is a transport that can be used until ctx ends.
type attachment struct {
	ctx   context.Context
	label string
	sdk.Transport
	address   string          // where it listens; empty: it only dials
	deaf      error           // why it takes no connections; guarded by network.mu
	tried     chan struct{}   // closed when it has tried to take connections
	listening chan struct{}   // closed when it first takes connections
	first     sync.Once       // closes tried
	heard     sync.Once       // closes listening
	staying   context.Context // ends when another takes its place: it takes no more connections
	leave     context.CancelFunc
}

func newAttachment(ctx context.Context, label string, t sdk.Transport, address string) *attachment {
	a := &attachment{ctx: ctx, label: label, Transport: t, address: address, tried: make(chan struct{}), listening: make(chan struct{})}
	a.staying, a.leave = context.WithCancel(ctx)
	return a
}

// Run waits until the device belongs to a library, then syncs until ctx ends.
func (n *network) Run(ctx context.Context) error {
	if err := n.ready(ctx); err != nil {
		return nil //nolint:nilerr // stopped before the plugins were up
	}
	var library membership.Library
	err := n.pages.DB.Patiently(ctx, func() (err error) { library, err = n.library(ctx); return err })
	if err != nil || ctx.Err() != nil {
		return err
	}
	// Who joined may not have got so far: the database can go away in the midst of it.
	if err := n.pages.DB.Patiently(ctx, func() error { return n.members.Reload(ctx) }); err != nil {
		if ctx.Err() != nil {
			return nil // stopped, not failed: the database is away, say
		}
		n.log.Error("can not read the members", "error", err)
	}
	n.log.Info("syncing", "library", library.Name, "library_id", library.ID)
	var engine *peersync.Engine
	if err := n.pages.DB.Patiently(ctx, func() (err error) { engine, err = n.newEngine(ctx, library); return err }); err != nil {
		return err
	}
	changed := make(chan struct{}, 1)
	cancel := n.members.OnChange(func([]membership.Member) {
		select {
		case changed <- struct{}{}:
		default: // one is waiting already, and reads all
		}
	})
	defer cancel()
	ctx, end := context.WithCancel(ctx)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return engine.Run(ctx) })
	group.Go(func() error { return n.tidy(ctx, engine) })
	group.Go(func() error {
		for {
			engine.SetMembers(membersFor(n.members.All()))
			select {
			case <-changed:
			case <-ctx.Done():
				return nil
			}
		}
	})
	n.use(ctx, engine)
	err = n.pages.DB.Patiently(ctx, func() error { return n.catchUp(ctx, engine) })
	if err != nil {
		end()
	}
	err = errors.Join(err, group.Wait())
	end()
	n.use(ctx, nil)
	n.serving.Wait()
	return err
}

// catchUp tells the engine how far this device's own streams are: it was made from watermarks read before it was told
// of commits.
func (n *network) catchUp(ctx context.Context, engine *peersync.Engine) error {
	stored, err := replica.Stored(ctx, n.journal)
	if err != nil {
		return err
	}
	for _, kind := range []sdk.Ownership{sdk.DeviceOwned, sdk.SharedByAll} {
		key := protocol.Stream{Origin: n.identity.ID(), Kind: kind}
		for _, at := range stored.Heads[key] {
			engine.Committed(protocol.Page{
				Stream: key, Heads: protocol.Heads{at}, From: at.Stamp, Through: at.Stamp, Head: at.Stamp,
				Epochs: slices.DeleteFunc(slices.Clone(stored.Epochs), func(e protocol.Epoch) bool { return e.Stream != key }),
			})
		}
	}
	return nil
}

// library returns the library of this device, and waits until it has joined one.
func (n *network) library(ctx context.Context) (membership.Library, error) {
	for {
		library, ok, err := membership.Current(ctx, n.meta)
		if err != nil {
			return library, err
		}
		if ok {
			n.belongs.Store(&library)
			return library, nil
		}
		n.alone.Store(true)
		n.log.Info("this device belongs to no library yet; let it join one with: starling join CODE")
		select {
		case <-n.joined:
		case <-ctx.Done():
			return library, nil
		}
	}
}

func (n *network) newEngine(ctx context.Context, library membership.Library) (*peersync.Engine, error) {
	stored, err := replica.Stored(ctx, n.journal)
	if err != nil {
		return nil, err
	}
	return peersync.New(peersync.Options{
		Self: peersync.Self{
			Device: n.identity.ID(), Name: n.config.Device.Name,
			Library: protocol.LibraryID(library.ID), LibraryName: library.Name, Epoch: n.start.epoch, Started: n.start.at,
		},
		Models: n.models(), Stored: stored, Members: membersFor(n.members.All()),
		Applier: timed{n.pages, n.recorder}, Reader: n.pages, Ranges: n.pages, Keeper: n.keeper, Security: n.identity, Pairing: n, Log: n.log,
		Limits: limitsOf(&n.config.Sync), Config: timesOf(&n.config.Sync),
	})
}

func limitsOf(s *config.Sync) protocol.Limits {
	limits, l := protocol.DefaultLimits(), &s.Limits
	limits.PageBytes, limits.WindowBytes = s.PageBytes, s.WindowBytes
	limits.FrameBytes, limits.DecodedBytes, limits.MaxPageBytes = l.FrameBytes, l.DecodedBytes, l.MaxPageBytes
	limits.Batches, limits.Columns, limits.Marks, limits.Heads = l.Batches, l.Columns, l.Marks, l.Heads
	limits.Epochs, limits.Origins, limits.Ranges, limits.Models = l.Epochs, l.Origins, l.Ranges, l.Models
	limits.TextBytes, limits.MembersBytes = l.TextBytes, l.MembersBytes
	limits.HandshakeTime, limits.SendTime = l.HandshakeTime, l.SendTime
	return limits
}

// What follows the heartbeat, so that who sets that sets all that goes on at rest.
const (
	beatsToGossip = 12 // also to a look at what may be forgotten
	beatsToSeal   = 60
)

func timesOf(s *config.Sync) peersync.Config {
	times, l := peersync.DefaultConfig(), &s.Limits
	times.Heartbeat, times.AuditTime, times.RetentionAge = s.Heartbeat, s.Audit, s.Retention.Age
	times.GossipTime, times.PruneTime, times.SealTime = beatsToGossip*s.Heartbeat, beatsToGossip*s.Heartbeat, beatsToSeal*s.Heartbeat
	times.StallTime, times.RetryMin, times.RetryMax, times.DialTime = l.StallTime, l.RetryMin, l.RetryMax, l.DialTime
	times.RequestTime = l.RequestTime
	return times
}

// tidyTime is how often the log and the conflict journal are kept to their limits.
const tidyTime = time.Minute

// tidy keeps the log and the conflict journal to their limits until ctx ends.
func (n *network) tidy(ctx context.Context, engine *peersync.Engine) error {
	ticker := time.NewTicker(tidyTime)
	defer ticker.Stop()
	for {
		var before hlc.Stamp
		if age := n.config.Sync.Retention.Conflicts; age > 0 {
			before = hlc.New(max(0, time.Now().Add(-age).UnixMilli()), 0)
		}
		floors, err := n.keeper.Tidy(ctx, n.config.Sync.Retention.Bytes, before)
		if len(floors) > 0 {
			engine.Retain(floors)
		}
		if err != nil && ctx.Err() == nil {
			n.log.Warn("the log could not be kept to its limits; it is tried again", "error", err)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func (n *network) models() []protocol.ModelVersion {
	var models []protocol.ModelVersion
	for _, d := range n.registry.Descriptions() {
		if n.registry.Served(d.Model) {
			models = append(models, protocol.ModelVersion{Model: d.Model, Version: d.Version})
		}
	}
	return models
}

// use makes engine the one that commits and transports go to while it runs, until ctx ends; nil: there is none.
func (n *network) use(ctx context.Context, engine *peersync.Engine) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.running, n.engine = ctx, engine
	if engine == nil {
		return
	}
	for _, label := range slices.Sorted(maps.Keys(n.transports)) {
		n.serve(n.transports[label])
	}
}

// serve gives a transport to the engine, and listens on it where the configuration says so, again and again until the
// plugin or the engine ends. The caller holds mu.
func (n *network) serve(a *attachment) {
	running, engine := n.running, n.engine
	engine.AddTransport(a.label, a.Transport)
	if a.address == "" {
		return
	}
	n.serving.Go(func() {
		ctx, cancel := context.WithCancel(running)
		defer cancel()
		defer context.AfterFunc(a.ctx, cancel)()
		pause := backoff.NewExponentialBackOff()
		for {
			err := n.listen(ctx, engine, a)
			if ctx.Err() != nil || a.staying.Err() != nil {
				return
			}
			wait := pause.NextBackOff()
			n.deaf(a, err)
			a.first.Do(func() { close(a.tried) })
			n.log.Warn("transport takes no connections; listening again", "transport", a.label, "error", err, "in", wait)
			select {
			case <-time.After(wait):
			case <-ctx.Done():
				return
			case <-a.staying.Done():
				return
			}
		}
	})
}

// listen takes connections until the listener fails or ctx ends.
func (n *network) listen(ctx context.Context, engine *peersync.Engine, a *attachment) error {
	listener, err := a.Listen(ctx, a.address, nil)
	if err != nil {
		return fmt.Errorf("listen at %s: %w", a.address, err)
	}
	defer context.AfterFunc(a.staying, func() {
		if l, ok := listener.(interface{ Shutdown() }); ok {
			l.Shutdown() // what it has accepted already is served
			return
		}
		_ = listener.Close()
	})()
	n.deaf(a, nil)
	a.heard.Do(func() { close(a.listening) })
	a.first.Do(func() { close(a.tried) })
	return engine.Serve(ctx, listener, a.label)
}

// deaf remembers why a transport takes no connections; nil: it does.
func (n *network) deaf(a *attachment, reason error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	a.deaf = reason
}

// deafness returns why the transport of a label takes no connections; nil if it does, or has no plugin now.
func (n *network) deafness(label string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if a := n.transports[label]; a != nil {
		return a.deaf
	}
	return nil
}

// attach takes a transport into use until ctx ends, unless it is out of use.
func (n *network) attach(ctx context.Context, label string, t sdk.Transport, address string) {
	a := newAttachment(ctx, label, t, address)
	n.mu.Lock()
	defer n.mu.Unlock()
	if away := n.out[label]; away != nil {
		away.take(a)
		return
	}
	n.transports[label] = a
	if n.engine != nil {
		n.serve(a)
	}
}

// What a transport that takes the place of another is given to take connections, and the other one to end its sessions.
const (
	listenTime = 5 * time.Second
	leaveTime  = 5 * time.Second
)

// replace has a transport, which can be used until ctx ends, take the place of the one of the same label: it takes
// connections before the other one stops to, then the sessions of the other are ended and begin anew. After an error the
// other one goes on.
func (n *network) replace(ctx context.Context, label string, t sdk.Transport, address string) error {
	a := newAttachment(ctx, label, t, address)
	n.mu.Lock()
	if away := n.out[label]; away != nil {
		away.take(a)
		n.mu.Unlock()
		return nil
	}
	old, engine := n.transports[label], n.engine
	n.transports[label] = a
	if engine != nil {
		n.serve(a)
	}
	n.mu.Unlock()
	if engine != nil && address != "" {
		if err := n.awaitListening(ctx, a, old); err != nil {
			n.giveBack(a, old)
			return err
		}
	}
	n.retire(ctx, engine, old)
	return nil
}

// awaitListening returns when a takes connections, or why it does not. Where both can not do so at the same address at
// once, since the socket is not the host's, old stops to first.
func (n *network) awaitListening(ctx context.Context, a, old *attachment) error {
	giving, cancel := context.WithTimeout(ctx, listenTime)
	defer cancel()
	select {
	case <-a.tried:
		if n.deafness(a.label) != nil && old != nil && a.ctx.Err() == nil {
			old.leave()
		}
	case <-giving.Done():
	}
	select {
	case <-a.listening:
		return nil
	case <-giving.Done():
		if ctx.Err() != nil {
			return ctx.Err()
		}
		why := n.deafness(a.label)
		if why == nil {
			why = errors.New("it does not answer")
		}
		return sdk.Errorf(sdk.CodeUnavailable, "it takes no connections at %s after %s: %w", a.address, listenTime, why)
	}
}

// giveBack takes a out of use again, and old, if there is one, back into it.
func (n *network) giveBack(a, old *attachment) {
	n.mu.Lock()
	defer n.mu.Unlock()
	a.leave()
	if n.transports[a.label] != a {
		return
	}
	delete(n.transports, a.label)
	if n.engine != nil {
		n.engine.RemoveTransport(a.label)
	}
	if old == nil || old.ctx.Err() != nil {
		return
	}
	if old.staying.Err() != nil { // it takes connections anew
		old = newAttachment(old.ctx, old.label, old.Transport, old.address)
		n.transports[old.label] = old
		if n.engine != nil {
			n.serve(old)
		}
		return
	}
	n.transports[old.label] = old
	if n.engine != nil {
		n.engine.AddTransport(old.label, old.Transport)
	}
}

// retire has a transport take no more connections, and its sessions end; their peers connect anew.
func (n *network) retire(ctx context.Context, engine *peersync.Engine, old *attachment) {
	if old == nil {
		return
	}
	old.leave()
	if engine != nil {
		leaving, cancel := context.WithTimeout(ctx, leaveTime)
		defer cancel()
		engine.Leave(leaving, old.Transport)
	}
}

// connected reports whether one of devices is connected now, by whatever transport.
func (n *network) connected(devices []sdk.DeviceID) bool {
	return slices.ContainsFunc(n.peers(), func(p peersync.PeerStatus) bool { return p.Via != "" && slices.Contains(devices, p.ID) })
}

// detach forgets a transport whose plugin is gone.
func (n *network) detach(label string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.transports, label)
	if n.engine != nil {
		n.engine.RemoveTransport(label)
	}
}

// announce sends a durable local commit on its way. It does not wait for any peer.
func (n *network) announce(c transaction.Committed) {
	n.mu.Lock()
	engine := n.engine
	n.mu.Unlock()
	if engine != nil {
		engine.Committed(replica.PageOf(n.identity.ID(), c))
	}
}

// modelsChanged tells the engine what is served now.
func (n *network) modelsChanged() {
	n.mu.Lock()
	engine := n.engine
	n.mu.Unlock()
	if engine != nil {
		engine.SetModels(n.models())
	}
}

// peers returns what the engine knows of the other devices; none without a library.
func (n *network) peers() []peersync.PeerStatus {
	n.mu.Lock()
	engine := n.engine
	n.mu.Unlock()
	if engine == nil {
		return nil
	}
	return engine.Peers()
}

// audit has digests compared with a peer, or with every one.
func (n *network) audit(peer sdk.DeviceID) {
	n.mu.Lock()
	engine := n.engine
	n.mu.Unlock()
	if engine != nil {
		engine.Audit(peer)
	}
}

// status returns how this device is in its library; nothing is said without one.
func (n *network) status() peersync.SelfStatus {
	n.mu.Lock()
	engine := n.engine
	n.mu.Unlock()
	if engine == nil {
		return peersync.SelfStatus{}
	}
	return engine.Status()
}

// hasThrough reports whether a device is known to have a stream up to a stamp.
func (n *network) hasThrough(device sdk.DeviceID, key protocol.Stream, stamp hlc.Stamp) (has, known bool) {
	n.mu.Lock()
	engine := n.engine
	n.mu.Unlock()
	if engine == nil {
		return false, false
	}
	return engine.HasThrough(device, key, stamp)
}

// Join implements peersync.Pairing: a device presents an invitation to this one.
func (n *network) Join(ctx context.Context, peer sdk.DeviceID, key ed25519.PublicKey, join protocol.Join) (protocol.Welcome, error) {
	in := membership.Join{Secret: join.Secret, Name: join.Name}
	for _, a := range join.Addresses {
		in.Addresses = append(in.Addresses, membership.Address(a))
	}
	w, err := n.pairing.Accept(ctx, peer, key, in)
	if err != nil {
		return protocol.Welcome{}, err
	}
	return protocol.Welcome{Library: protocol.LibraryID(w.Library), LibraryName: w.LibraryName, Members: w.Members}, nil
}

// joinLibrary presents an invitation to the device that made it, and brings this one into its library.
func (n *network) joinLibrary(ctx context.Context, code string) (control.Joined, error) {
	ticket, err := membership.Decode(code)
	if err != nil {
		return control.Joined{}, err
	}
	if err := membership.Free(ctx, n.meta); err != nil {
		return control.Joined{}, err
	}
	welcome, err := n.present(ctx, ticket)
	if err != nil {
		return control.Joined{}, err
	}
	return n.enter(ctx, ticket.Inviter, &welcome)
}

// enter makes this device a member of the library that an inviter has let it into.
func (n *network) enter(ctx context.Context, inviterID sdk.DeviceID, welcome *protocol.Welcome) (control.Joined, error) {
	library, err := membership.Joined(ctx, n.meta, n.identity.ID(), inviterID, membership.Welcome{
		Library: membership.LibraryID(welcome.Library), LibraryName: welcome.LibraryName, Members: welcome.Members,
	})
	select { // whatever err says: where the database went away it may be stored all the same
	case n.joined <- struct{}{}:
	default: // it is there already
	}
	if err != nil {
		return control.Joined{}, err
	}
	if err := n.members.Reload(ctx); err != nil {
		return control.Joined{}, err
	}
	joined := control.Joined{LibraryID: library.ID.String(), LibraryName: library.Name, InviterID: inviterID}
	if inviter, ok := n.members.Member(inviterID); ok {
		joined.InviterName = inviter.Name
	}
	return joined, nil
}

// present tries the inviter's addresses one after another until one answers; a refusal by the inviter itself ends it.
func (n *network) present(ctx context.Context, ticket membership.Ticket) (protocol.Welcome, error) {
	own, err := ownAddresses(n.live.Load())
	if err != nil {
		return protocol.Welcome{}, err
	}
	join := protocol.Join{Secret: ticket.Secret, Name: n.config.Device.Name, Addresses: protocolAddresses(own)}
	var failed []error
	for _, address := range ticket.Addresses {
		for _, t := range n.transportsOf(address.Transport) {
			welcome, err := n.presentAt(ctx, t, address.Address, ticket.Inviter, join)
			if err == nil || sdk.CodeOf(err) != sdk.CodeUnavailable {
				return welcome, err
			}
			failed = append(failed, fmt.Errorf("%s %s: %w", address.Transport, address.Address, err))
		}
	}
	if len(failed) == 0 {
		return protocol.Welcome{}, sdk.Errorf(sdk.CodeUnavailable, "no transport runs here that reaches the inviting device; see: starling plugin list")
	}
	return protocol.Welcome{}, sdk.Errorf(sdk.CodeUnavailable, "the inviting device can not be reached: %w", errors.Join(failed...))
}

// presentAt gives one address its time, so that a silent one does not keep the others from being tried.
func (n *network) presentAt(ctx context.Context, t sdk.Transport, address string, inviter sdk.DeviceID, join protocol.Join) (protocol.Welcome, error) {
	ctx, cancel := context.WithTimeout(ctx, n.config.Sync.Limits.DialTime+n.config.Sync.Limits.HandshakeTime)
	defer cancel()
	conn, err := t.Dial(ctx, address)
	if err != nil {
		return protocol.Welcome{}, sdk.Errorf(sdk.CodeUnavailable, "%w", err)
	}
	return peersync.Pair(ctx, conn, n.identity.ClientTLS(inviter), join)
}

func (n *network) transportsOf(kind string) []sdk.Transport {
	n.mu.Lock()
	defer n.mu.Unlock()
	var found []sdk.Transport
	for _, label := range slices.Sorted(maps.Keys(n.transports)) {
		if n.transports[label].Name() == kind {
			found = append(found, n.transports[label].Transport)
		}
	}
	return found
}

func membersFor(members []membership.Member) []peersync.Member {
	out := make([]peersync.Member, 0, len(members))
	for i := range members {
		addresses, err := members[i].Where()
		if err != nil {
			addresses = nil // it can not be dialled; it can still dial this device
		}
		out = append(out, peersync.Member{
			ID: members[i].Device(), Name: members[i].Name, Addresses: protocolAddresses(addresses), Retired: members[i].Retired(),
		})
	}
	return out
}

func protocolAddresses(addresses []membership.Address) []protocol.Address {
	out := make([]protocol.Address, 0, len(addresses))
	for _, a := range addresses {
		out = append(out, protocol.Address(a))
	}
	return out
}
