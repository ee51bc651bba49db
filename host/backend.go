package main

import (
	"cmp"
	"context"
	"errors"
	"strings"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/starling-sync/starling/host/config"
	"github.com/starling-sync/starling/host/control"
	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/membership"
	"github.com/starling-sync/starling/host/peersync"
	"github.com/starling-sync/starling/host/registry"
	"github.com/starling-sync/starling/host/source"
	"github.com/starling-sync/starling/host/supervisor"
	"github.com/starling-sync/starling/host/telemetry"
	"github.com/starling-sync/starling/host/transaction"
	"github.com/starling-sync/starling/sdk"
)

// backend is the host as the control API sees it.
type backend struct {
	config     *config.Config // of the start
	live       *live
	identity   *membership.Identity
	db         *database.DB
	registry   *registry.Registry
	manager    *transaction.Manager
	members    *membership.Members
	meta       membership.Meta
	pairing    *membership.Pairing
	network    *network
	supervisor *supervisor.Supervisor
	sources    *source.Runner
	started    time.Time

	asked singleflight.Group // questions that may never be answered, each asked once at a time
}

func newBackend(c *config.Config, l *live, identity *membership.Identity, db *database.DB, r *registry.Registry, m *transaction.Manager,
	members *membership.Members, meta membership.Meta, pairing *membership.Pairing, n *network, s *supervisor.Supervisor, sources *source.Runner,
) *backend {
	return &backend{
		config: c, live: l, identity: identity, db: db, registry: r, manager: m, members: members, meta: meta, pairing: pairing,
		network: n, supervisor: s, sources: sources, started: time.Now(),
	}
}

// forControl is the backend with the operator beside it.
func forControl(b *backend, o *operator) control.Backend {
	return control.Backend{Records: b, Journal: b, History: b, Feed: b, Reporter: reporter{b, o}, Pairing: b, Operator: o}
}

// Models implements control.Records.
func (b *backend) Models() []sdk.Description { return b.registry.Descriptions() }

// Commit implements control.Records.
func (b *backend) Commit(ctx context.Context, w control.Write) ([]sdk.Refusal, error) {
	if w.Batch.Model == membership.MemberModel {
		return nil, sdk.Errorf(sdk.CodeDenied, "members come by starling invite and starling join; their records are not written by hand")
	}
	result, err := b.manager.Commit(ctx, transaction.Request{Kind: w.Kind, Batches: []sdk.Batch{w.Batch}, AllOrNothing: w.AllOrNothing})
	refused := plainRefusals(result.Refused)
	for i := range refused {
		refused[i].Message = b.withNames(refused[i].Message)
	}
	return refused, outcomeOf(err)
}

// outcomeOf returns the error of a write as the control API tells what became of it.
func outcomeOf(err error) error {
	switch {
	case errors.Is(err, database.ErrUnknown):
		return control.Unknown(err)
	case errors.Is(err, database.ErrNotKept):
		return control.Nothing(err)
	}
	return err
}

// withNames puts the names of members in place of their ids, for people.
func (b *backend) withNames(message string) string {
	for _, m := range b.members.All() {
		message = strings.ReplaceAll(message, m.Device().String(), m.Name)
	}
	return message
}

// Invite implements control.Pairing.
func (b *backend) Invite(ctx context.Context) (control.Invitation, error) {
	code, expires, err := b.pairing.Invite(ctx)
	return control.Invitation{Code: code, Expires: expires}, err
}

// Join implements control.Pairing.
func (b *backend) Join(ctx context.Context, code string) (control.Joined, error) {
	return b.network.joinLibrary(ctx, code)
}

// Status implements control.Reporter. While the database is out of reach it says that, and what can be said without it.
func (b *backend) Status(ctx context.Context) (control.Status, error) {
	answering, cancel := context.WithTimeout(ctx, telemetry.HealthTime)
	_, err := askOnce(answering, &b.asked, "read", func(ctx context.Context) (struct{}, error) { return struct{}{}, b.reads(ctx) })
	cancel()
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil && b.db.Outage() == nil {
		return b.statusWithout(ctx, control.WarnStoreSilent(b.config.Store.Kind, telemetry.HealthTime))
	}
	s, err := b.wholeStatus(ctx)
	if outage := b.db.Outage(); err != nil && outage != nil {
		return b.statusWithout(ctx, control.WarnStoreAway(outage.Where, outage.Since, outage.Cause))
	}
	return s, err
}

// reads returns nil once the database has answered a reader.
func (b *backend) reads(ctx context.Context) error {
	return b.db.Read(ctx, func(tx *database.Tx) error {
		var one int
		_, err := tx.One("SELECT 1", nil, &one)
		return err
	})
}

// storeBytes returns the bytes of the database on disk. It waits for its server, until ctx ends.
func (b *backend) storeBytes(ctx context.Context) (int64, error) {
	return askOnce(ctx, &b.asked, "size", func(context.Context) (int64, error) { return b.db.Size() })
}

// statusWithout is what can be said without the database, with why.
func (b *backend) statusWithout(ctx context.Context, why control.StatusWarning) (s control.Status, err error) {
	s = control.Status{
		DeviceID: b.identity.ID(), DeviceName: b.config.Device.Name, LibraryID: "unknown", LibraryName: "library unknown now", Version: version(), Started: b.started,
		StoreKind: b.config.Store.Kind, Transports: b.transports(), Warnings: []control.StatusWarning{why},
	}
	if library := b.network.belongs.Load(); library != nil {
		s.LibraryID, s.LibraryName = library.ID.String(), library.Name
	}
	if s.Peers, err = b.Peers(ctx); err != nil {
		return s, err
	}
	s.ClockState, s.ClockOffset = clockOf(s.Peers, b.config.Sync.MaxClockDrift)
	for _, src := range b.sources.Status() {
		s.Sources = append(s.Sources, sourceOf(src))
	}
	b.remembered(&s)
	s.Plugins, err = b.Plugins(ctx)
	return s, err
}

func (b *backend) wholeStatus(ctx context.Context) (control.Status, error) {
	library, _, err := membership.Current(ctx, b.meta)
	if err != nil {
		return control.Status{}, err
	}
	bytes, err := b.storeBytes(ctx)
	if err != nil {
		return control.Status{}, err
	}
	s := control.Status{
		DeviceID: b.identity.ID(), DeviceName: b.config.Device.Name, LibraryName: library.Name, Version: version(), Started: b.started,
		StoreKind: b.config.Store.Kind, StoreBytes: bytes,
	}
	if library.ID != (membership.LibraryID{}) {
		s.LibraryID = library.ID.String()
	}
	if s.Peers, err = b.Peers(ctx); err != nil {
		return s, err
	}
	if s.Plugins, err = b.Plugins(ctx); err != nil {
		return s, err
	}
	s.ClockState, s.ClockOffset = clockOf(s.Peers, b.config.Sync.MaxClockDrift)
	s.Transports = b.transports()
	for _, src := range b.sources.Status() {
		s.Sources = append(s.Sources, sourceOf(src))
	}
	if err := b.count(ctx, &s); err != nil {
		return s, err
	}
	if err := b.keeping(ctx, &s); err != nil {
		return s, err
	}
	b.remembered(&s)
	return s, nil
}

// clockOf judges this device's clock by its peers': how far it is from the median of them, which one wrong peer among
// several does not move.
func clockOf(peers []control.Peer, drift time.Duration) (state string, offset time.Duration) {
	var told []skew
	for i := range peers {
		told = append(told, skew{peers[i].RTT, peers[i].Skew})
	}
	offset, ok := median(told)
	if !ok {
		return "ok", 0
	}
	switch {
	case offset > drift:
		return "ahead of the peers' clocks: what is written here is held there until their clocks have come that far; set this clock", offset
	case offset < -drift:
		return "behind the peers' clocks: what they write is held here; set this clock, nothing is lost", offset
	}
	return "ok", offset
}

func (b *backend) transports() []control.TransportStatus {
	states := map[string]supervisor.Status{}
	for _, p := range b.supervisor.Status() {
		states[p.Name] = p
	}
	var all []control.TransportStatus
	for _, t := range b.live.Load().Transports {
		status := control.TransportStatus{Name: t.Name, Kind: t.Kind, Address: t.Listen, State: string(states[t.Name].State), Reason: states[t.Name].Reason}
		if err := b.network.deafness(t.Name); err != nil {
			status.State, status.Reason = "deaf", err.Error()
		}
		all = append(all, status)
	}
	return all
}

func sourceOf(s source.Status) control.SourceStatus {
	out := control.SourceStatus{Model: s.Model, State: string(s.State)}
	if s.State != source.Running {
		out.Reason = s.Reason // while it runs, its last failure is history
	}
	for _, p := range s.Progress {
		out.Progress = append(out.Progress, control.Progress{Key: p.Key, Unit: p.Unit.String(), Done: p.Done, Total: p.Total})
	}
	for _, w := range s.Warnings {
		out.Warnings = append(out.Warnings, control.Warning{Key: w.Key, Count: int64(w.Count), Message: w.Message})
	}
	return out
}

// Peers implements control.Reporter.
func (b *backend) Peers(context.Context) ([]control.Peer, error) {
	var all []control.Peer
	for _, p := range b.network.peers() {
		all = append(all, b.peerOf(p))
	}
	return all, nil
}

func (b *backend) peerOf(p peersync.PeerStatus) control.Peer {
	out := control.Peer{
		ID: p.ID, Name: p.Name, State: string(p.State), Reason: p.Reason, Behind: p.Lag, BehindMe: p.LagOfPeer, Progress: p.Progress, Left: p.Left,
		RTT: p.RTT, Skew: p.Skew, Via: p.Via, Since: p.Since, BytesIn: p.BytesIn, BytesOut: p.BytesOut, RowsIn: p.RowsIn,
		RunsTwice: p.RunsTwice, Refuses: p.Refuses, Audit: auditOf(&p),
	}
	if elapsed := time.Since(p.Since); p.State == peersync.Backfilling && elapsed > 0 {
		out.RowsPerSecond = float64(p.RowsIn) / elapsed.Seconds()
	}
	if member, ok := b.members.Member(p.ID); ok {
		if member.Retired() {
			out.State, out.Reason, out.Since, out.RetiredAt = "retired", "", member.RetiredAt, member.RetiredAt
		}
		if addresses, err := member.Where(); err == nil {
			for _, a := range addresses {
				out.Addresses = append(out.Addresses, a.Transport+" "+a.Address)
			}
		}
	}
	return out
}

// Plugins implements control.Reporter.
func (b *backend) Plugins(context.Context) ([]control.Plugin, error) {
	var all []control.Plugin
	for _, p := range b.supervisor.Status() {
		kind := "model"
		if p.Transport != "" {
			kind = "transport"
		}
		if m := b.network.moving.Load(); m != nil && m.from == p.Name {
			p.Swap = cmp.Or(p.Swap, "its sessions are being moved to transport "+m.to)
		}
		all = append(all, control.Plugin{
			Name: p.Name, Kind: kind, State: string(p.State), Reason: p.Reason, PID: p.PID, Since: p.Since, Restarts: p.Restarts,
			Path: p.Path, SHA256: p.SHA256, Version: p.Version, Swap: p.Swap, Models: p.Models, Staged: builds(p.Staged),
		})
	}
	return all, nil
}

// reporter is the backend, which leaves to the operator what changes something.
type reporter struct {
	*backend
	operator *operator
}

// RestartPlugin implements control.Reporter.
func (r reporter) RestartPlugin(ctx context.Context, name string) error {
	return r.operator.restart(ctx, name, "starling plugin restart")
}
