package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/control"
	"github.com/starling-sync/starling/host/membership"
	"github.com/starling-sync/starling/host/peersync"
	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/host/registry"
	"github.com/starling-sync/starling/sdk"
)

// auditTime bounds how long an audit that was asked for may take with one peer.
const auditTime = time.Minute

// auditLook is how often the engine is asked how an audit stands.
const auditLook = 50 * time.Millisecond

// Retire implements control.Pairing.
func (b *backend) Retire(ctx context.Context, id sdk.DeviceID, evenSelf bool) (control.Retired, error) {
	retire := b.members.Retire
	if evenSelf && id == b.identity.ID() {
		retire = func(ctx context.Context, _ sdk.DeviceID) error { return b.members.RetireSelf(ctx) }
	}
	switch err := retire(ctx, id); {
	case errors.Is(err, membership.ErrWritten):
		return control.Retired{}, err
	case err != nil:
		return control.Retired{}, control.NotWritten(outcomeOf(err))
	}
	member, _ := b.members.Member(id)
	return control.Retired{ID: id, Name: member.Name, At: member.RetiredAt}, nil
}

// Audit implements control.Journal.
func (b *backend) Audit(ctx context.Context, peer sdk.DeviceID, yield func(control.AuditResult) error) error {
	member, known := membership.Member{}, false
	if !peer.IsZero() {
		if member, known = b.members.Member(peer); !known {
			return sdk.Errorf(sdk.CodeNotFound, "no device %s in this library; its devices are listed by: starling peers", peer)
		}
	}
	before := map[sdk.DeviceID]time.Time{}
	for _, p := range b.network.peers() {
		if (peer.IsZero() || peer == p.ID) && p.Via != "" {
			before[p.ID] = p.Audit.At
		}
	}
	switch {
	case len(before) > 0:
	case known && member.Retired():
		return sdk.Errorf(sdk.CodeUnavailable, "there is nobody to compare with: %s is retired; see: starling peers", member.Name)
	case known:
		return sdk.Errorf(sdk.CodeUnavailable, "there is nobody to compare with: %s is not connected; see: starling peers", member.Name)
	default:
		return sdk.Errorf(sdk.CodeUnavailable, "there is nobody to compare with: no other device is connected; see: starling peers")
	}
	// What changed behind the host's back is to be found too.
	b.registry.AuditAnew()
	began := time.Now()
	b.network.audit(peer)
	deadline := time.After(auditTime)
	ticker := time.NewTicker(auditLook)
	defer ticker.Stop()
	for len(before) > 0 {
		late := false
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-deadline:
			late = true
		case <-ticker.C:
		}
		for _, p := range b.network.peers() {
			at, asked := before[p.ID]
			if !asked {
				continue
			}
			result := control.AuditResult{ID: p.ID, Name: p.Name, Audit: auditOf(&p)}
			switch {
			case p.Audit.At.After(at):
			case p.Audit.FailedAt.After(began):
				result.Audit = control.Audit{Outcome: control.AuditFailed, Reason: p.Audit.Failed}
			case p.Via == "":
				result.Audit = control.Audit{Outcome: control.AuditFailed, Reason: "it is gone meanwhile; it is compared once it is back"}
			case late && p.Audit.Waits != "":
				result.Audit = control.Audit{Outcome: control.AuditNotAlike, Reason: p.Audit.Waits}
			case late:
				result.Audit = control.Audit{Outcome: control.AuditNotAlike, Reason: fmt.Sprintf("the two did not have the same for %s; changes are still on their way", auditTime)}
			default:
				continue
			}
			delete(before, p.ID)
			if err := yield(result); err != nil {
				return err
			}
		}
	}
	return nil
}

func auditOf(p *peersync.PeerStatus) control.Audit {
	a := p.Audit
	if a.At.IsZero() {
		return control.Audit{}
	}
	outcome := control.AuditEqual
	if a.Ranges > 0 {
		outcome = control.AuditRepaired
	}
	return control.Audit{At: a.At, Outcome: outcome, Ranges: int64(a.Ranges), Repaired: int64(a.Repaired), Took: a.Took}
}

// Waiting implements control.History.
func (b *backend) Waiting(ctx context.Context, model sdk.ModelName, limit int, yield func(control.WaitingRecord) error) error {
	most := limit
	if limit == 0 || model != "" {
		most = math.MaxInt32
	}
	list, err := b.registry.Waiting(ctx, most)
	if err != nil {
		return err
	}
	told := 0
	for _, w := range list {
		if model != "" && w.Model != model {
			continue
		}
		if limit > 0 && told == limit {
			break
		}
		record := control.WaitingRecord{Model: w.Model, ID: w.ID}
		e, err := b.registry.Explain(ctx, w.Model, w.ID)
		if sdk.CodeOf(err) == sdk.CodeNotFound || err == nil && len(e.Missing) == 0 {
			continue // it has appeared meanwhile, or is gone
		}
		if err != nil {
			return err
		}
		record.Missing = missingOf(&e)
		told++
		if err := yield(record); err != nil {
			return err
		}
	}
	return nil
}

func missingOf(e *registry.Explanation) (list []control.Missing) {
	for _, m := range e.Missing {
		list = append(list, control.Missing{Field: m.Field, Model: m.Model, ID: m.ID, State: string(m.State)})
	}
	return list
}

// elsewhere says which other devices are known to have the writes that made a record what it is here.
func (b *backend) elsewhere(e *registry.Explanation) (list []control.Whereabouts) {
	kind := sdk.SharedByAll
	if desc, ok := b.registry.Description(e.Model); ok {
		kind = desc.Ownership
	}
	if kind == sdk.HybridOwned {
		if kind = sdk.SharedByAll; !e.Owner.IsZero() {
			kind = sdk.DeviceOwned
		}
	}
	versions := []sdk.Version{e.Inserted, e.Deleted, {Stamp: e.Stamp, Device: e.Owner}}
	for i := range e.Fields {
		versions = append(versions, e.Fields[i].Version)
		parts, err := e.Fields[i].Parts()
		for k := range parts {
			if err == nil {
				versions = append(versions, parts[k].Version)
			}
		}
	}
	versions = slices.DeleteFunc(versions, func(v sdk.Version) bool { return v.Stamp == 0 || v.Device.IsZero() })
	for _, member := range b.members.All() {
		if id := member.Device(); id != b.identity.ID() && !member.Retired() {
			list = append(list, whereabouts(id, kind, versions, b.network.hasThrough, b.nameOf))
		}
	}
	return list
}

// whereabouts says whether a device is known to have writes of streams of one kind. What it wrote itself it has: it is asked
// for nothing, and what it says of its own stream comes a heartbeat after the write.
func whereabouts(id sdk.DeviceID, kind sdk.Ownership, writes []sdk.Version, hasThrough func(sdk.DeviceID, protocol.Stream, hlc.Stamp) (has, known bool), nameOf func(sdk.DeviceID) string) control.Whereabouts {
	for _, v := range writes {
		if v.Device == id {
			continue
		}
		has, known := hasThrough(id, protocol.Stream{Origin: v.Device, Kind: kind}, v.Stamp)
		switch {
		case !known:
			return control.Whereabouts{Device: id, State: control.PresenceUnknown, Detail: "nothing has been heard of what it has"}
		case !has:
			detail := fmt.Sprintf("it has not acknowledged what %s wrote at %s", nameOf(v.Device), v.Stamp.Time().UTC().Format("15:04:05.000"))
			return control.Whereabouts{Device: id, State: control.PresenceNotYet, Detail: detail}
		}
	}
	return control.Whereabouts{Device: id, State: control.PresenceSame}
}

func (b *backend) nameOf(id sdk.DeviceID) string {
	if member, ok := b.members.Member(id); ok && member.Name != "" {
		return member.Name
	}
	return id.String()
}

// keeping fills in what is kept for others, and for how long.
func (b *backend) keeping(ctx context.Context, s *control.Status) error {
	var err error
	if s.Log.Entries, s.Log.Bytes, err = b.network.journal.Size(ctx); err != nil {
		return err
	}
	oldest, err := b.network.journal.Oldest(ctx)
	if err != nil {
		return err
	}
	if oldest > 0 {
		s.Log.Oldest = oldest.Time()
	}
	return nil
}

// remembered fills in what is known without the database.
func (b *backend) remembered(s *control.Status) {
	sync := &b.config.Sync
	s.Retention = control.Retention{Age: sync.Retention.Age, Bytes: sync.Retention.Bytes, Conflicts: sync.Retention.Conflicts}
	s.Shadow.WaitingBound = int64(sync.Limits.WaitingRecords)
	if own, ok := b.members.Member(b.identity.ID()); ok {
		s.RetiredAt = own.RetiredAt
	}
	engine := b.network.status()
	s.Repaired = int64(engine.Repairs)
	for limit, count := range engine.Refusals {
		s.Refusals = append(s.Refusals, control.RefusedInput{Limit: limit, Count: count})
	}
	slices.SortFunc(s.Refusals, func(a, b control.RefusedInput) int { return strings.Compare(a.Limit, b.Limit) })
	b.warn(s, engine)
}

// longWrite is more than a write takes while nothing is wrong, but for the first start with a model on a large database.
const longWrite = 10 * time.Second

// warn adds what the backend alone knows to want a person.
func (b *backend) warn(s *control.Status, engine peersync.SelfStatus) {
	if err := b.db.Broken(); err != nil {
		s.Warnings = append(s.Warnings, control.WarnStoreBroken(err))
	}
	if err := b.db.Full(); err != nil {
		s.Warnings = append(s.Warnings, control.WarnStoreFull(err))
	}
	if since := b.db.WritingSince(); !since.IsZero() && time.Since(since) > longWrite {
		s.Warnings = append(s.Warnings, control.WarnStoreBusy(b.config.Store.Kind, time.Since(since)))
	}
	if engine.RunsTwice {
		s.Warnings = append(s.Warnings, control.WarnRunsTwice())
	}
	if engine.Lost {
		s.Warnings = append(s.Warnings, control.WarnRestored())
	}
	if ahead := b.network.pages.Clock.Ahead(); ahead > b.config.Sync.MaxClockDrift {
		s.Warnings = append(s.Warnings, control.WarnClockAhead(ahead))
	}
	for _, p := range b.supervisor.Status() {
		if p.Passed.Why != "" {
			s.Warnings = append(s.Warnings, control.WarnPassedOver(p.Name, control.Build{Version: p.Version, SHA256: p.SHA256}, p.Passed.Path, p.Passed.Why))
		}
	}
	if n := b.network.start.restamped; n > 0 {
		s.Warnings = append(s.Warnings, control.WarnRestamped(int64(n)))
	}
}
