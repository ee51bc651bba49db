package replica

import (
	"context"
	"maps"

	"github.com/hashicorp/go-hclog"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/history"
	"github.com/starling-sync/starling/host/peerlog"
	"github.com/starling-sync/starling/host/peersync"
	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/host/registry"
	"github.com/starling-sync/starling/sdk"
)

// ReadRange implements peersync.Ranges.
func (p *Pages) ReadRange(ctx context.Context, a peersync.ReadRange) (page protocol.SnapshotPage, err error) {
	r, err := p.Registry.ReadRange(ctx, registry.RangeQuery{
		Kind: a.Request.Kind, Owner: a.Request.Origin, Since: a.Since,
		After: registry.Place(a.Request.After), Until: registry.Place(a.Request.Until), MaxBytes: a.Bytes,
	})
	if err != nil {
		return page, err
	}
	page = protocol.SnapshotPage{End: protocol.Place(r.End), Done: r.Done}
	for _, c := range r.Changes {
		page.Changes = append(page.Changes, protocol.Changes{Origin: c.Origin, Batches: c.Batches})
	}
	for _, ids := range r.Unchanged {
		page.Unchanged = append(page.Unchanged, protocol.RecordIDs{Model: ids.Model, IDs: ids.IDs})
	}
	return page, nil
}

// TakeRange implements peersync.Ranges: records, how far the snapshot is and, with the last page, the watermarks move in one
// transaction.
func (p *Pages) TakeRange(ctx context.Context, a peersync.TakeRange) (taken peersync.Taken, err error) {
	for try := range attempts {
		if try == patience && p.Turn != nil { // local writers were ahead of it again and again
			var models []sdk.ModelName
			for _, c := range a.Page.Changes {
				models = append(models, modelsOf(c.Batches)...)
			}
			end, err := p.Turn(ctx, models...)
			if err != nil {
				return taken, err
			}
			defer end()
		}
		if taken, err = p.takeRange(ctx, &a); sdk.CodeOf(err) != sdk.CodeStale {
			break
		}
	}
	return taken, err
}

func (p *Pages) takeRange(ctx context.Context, a *peersync.TakeRange) (taken peersync.Taken, err error) {
	in := registry.IncomingRange{
		From: a.From, Kind: a.Scope.Kind, Owner: a.Scope.Origin, After: registry.Place(a.Since), End: registry.Place(a.Page.End),
	}
	for _, c := range a.Page.Changes {
		in.Changes = append(in.Changes, registry.Changes{Origin: c.Origin, Batches: c.Batches})
	}
	for _, ids := range a.Page.Unchanged {
		in.Unchanged = append(in.Unchanged, registry.IDs{Model: ids.Model, IDs: ids.IDs})
	}
	if !a.Repair {
		if in.Theirs, in.Mine, err = p.covered(ctx, a); err != nil {
			return taken, err
		}
	}
	for rest := &in; rest != nil; {
		if rest, err = p.takePart(ctx, a, *rest, &taken); err != nil {
			return taken, err
		}
	}
	return taken, nil
}

// takePart makes a part of a page durable, the last one together with how far the snapshot is, and returns the rest.
func (p *Pages) takePart(ctx context.Context, a *peersync.TakeRange, in registry.IncomingRange, taken *peersync.Taken) (rest *registry.IncomingRange, err error) {
	prepared, rest, err := p.Registry.PrepareRange(ctx, in)
	if err != nil {
		return nil, err
	}
	latest := prepared.Latest()
	if a.Page.Done {
		for _, heads := range a.Vector {
			latest = max(latest, heads.Top())
		}
	}
	if err := p.Clock.Check(latest); err != nil {
		return nil, sdk.Errorf(sdk.CodeClockSkew, "%w", err)
	}
	err = p.DB.Write(ctx, func(tx *database.Tx) error {
		part := peersync.Taken{}
		outcome, err := prepared.Write(tx)
		if err != nil {
			return err
		}
		if err := p.Clock.Observe(latest); err != nil {
			return sdk.Errorf(sdk.CodeClockSkew, "%w", err)
		}
		if !a.Repair && rest == nil {
			if err := p.moveSnapshot(tx, a, &part); err != nil {
				return err
			}
		}
		part.Records, part.Repaired = taken.Records+outcome.Written+outcome.Deleted, taken.Repaired+outcome.Repairs
		for _, r := range outcome.Repaired {
			tx.AfterCommit(func() {
				p.log().Warn("an audit repaired a record", "model", r.Model, "id", r.ID, "it_was", string(r.What), "peer", a.From)
			})
		}
		*taken = part
		return nil
	})
	return rest, err
}

// covered returns, for each device, up to where the sender of a snapshot has all of what either side has of its stream, and
// up to where this device has.
func (p *Pages) covered(ctx context.Context, a *peersync.TakeRange) (theirs, mine func(sdk.DeviceID) hlc.Stamp, err error) {
	low := [2]map[sdk.DeviceID]hlc.Stamp{{}, {}}
	err = p.DB.Read(ctx, func(tx *database.Tx) error {
		held, err := p.scopeHeads(tx, a.Scope)
		if err != nil {
			return err
		}
		for key := range a.Vector {
			if _, ok := held[key]; !ok {
				held[key] = nil
			}
		}
		for key, heads := range held {
			graph, err := p.graph(tx, key, a.Epochs)
			if err != nil {
				return err
			}
			all := graph.Join(a.Vector[key], heads)
			low[0][key.Origin], low[1][key.Origin] = graph.Low(a.Vector[key], all), graph.Low(heads, all)
		}
		return nil
	})
	return func(d sdk.DeviceID) hlc.Stamp { return low[0][d] }, func(d sdk.DeviceID) hlc.Stamp { return low[1][d] }, err
}

// scopeHeads returns the watermarks of the streams that a snapshot concerns.
func (p *Pages) scopeHeads(tx *database.Tx, scope peersync.Scope) (map[history.Stream]history.Heads, error) {
	vector, err := p.Journal.WatermarksIn(tx)
	maps.DeleteFunc(vector, func(key history.Stream, _ history.Heads) bool {
		return key.Kind != scope.Kind || !scope.Origin.IsZero() && key.Origin != scope.Origin
	})
	return vector, err
}

func (p *Pages) graph(tx *database.Tx, key history.Stream, epochs []history.Epoch) (*history.Graph, error) {
	graph, err := p.Journal.Graph(tx, key)
	if err != nil {
		return nil, err
	}
	for _, epoch := range epochs {
		if epoch.Stream == key {
			graph.Add(epoch)
		}
	}
	return graph, nil
}

// moveSnapshot keeps how far a snapshot is. With its last page the watermarks move to what the sender had; the floors rise
// with them, since the log has nothing of what came as records.
func (p *Pages) moveSnapshot(tx *database.Tx, a *peersync.TakeRange, taken *peersync.Taken) error {
	if !a.Page.Done {
		return p.Journal.KeepSnapshot(tx, peerlog.SnapshotState{
			Kind: a.Scope.Kind, Origin: a.Scope.Origin, Vector: a.Vector, Model: a.Page.End.Model, ID: a.Page.End.ID,
		})
	}
	taken.Heads, taken.Floors = map[history.Stream]history.Heads{}, map[history.Stream]hlc.Stamp{}
	for key, heads := range a.Vector {
		held, err := p.Journal.Heads(tx, key)
		if err != nil {
			return err
		}
		graph, err := p.graph(tx, key, a.Epochs)
		if err != nil {
			return err
		}
		if graph.CoversAll(held, heads) {
			continue
		}
		var epochs []history.Epoch
		for _, epoch := range a.Epochs {
			if epoch.Stream == key {
				epochs = append(epochs, epoch)
			}
		}
		all := graph.Join(held, heads)
		if err := p.Journal.SetHeads(tx, key, all, epochs); err != nil {
			return err
		}
		if err := p.Journal.RaiseFloor(tx, key, heads.Top()); err != nil {
			return err
		}
		taken.Heads[key], taken.Floors[key] = all, heads.Top()
	}
	return p.Journal.EndSnapshot(tx, a.Scope.Kind, a.Scope.Origin)
}

// Digests implements peersync.Ranges. A model of which changes wait for its plugin is left out: what is not merged is in no
// digest.
func (p *Pages) Digests(ctx context.Context) ([]peersync.ModelDigests, error) {
	list, err := p.Registry.AuditDigests(ctx)
	if err != nil {
		return nil, err
	}
	digests := make([]peersync.ModelDigests, 0, len(list))
	for _, d := range list {
		if d.Parked {
			continue
		}
		out := peersync.ModelDigests{Model: d.Model, Kind: d.Kind, Total: protocol.Digest(d.Total), Ranges: make([]protocol.RangeDigest, len(d.Ranges))}
		for i, r := range d.Ranges {
			out.Ranges[i] = protocol.RangeDigest{Until: r.Until, Digest: protocol.Digest(r.Digest)}
		}
		digests = append(digests, out)
	}
	return digests, nil
}

func (p *Pages) log() hclog.Logger {
	if p.Log == nil {
		return hclog.NewNullLogger()
	}
	return p.Log
}
