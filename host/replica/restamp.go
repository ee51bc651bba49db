package replica

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/history"
	"github.com/starling-sync/starling/host/peerlog"
	"github.com/starling-sync/starling/host/registry"
	"github.com/starling-sync/starling/sdk"
)

// Restamp gives what the device self wrote while its clock was ahead, and what no peer has accepted, stamps of now, in the
// order in which it was written, and takes the clock's mark back. Without it peers would hold all that until their clocks
// have come that far, and everything that is written meanwhile. A peer that has accepted some of it after all, and could not say so,
// has a branch of this device's history, which comes back as any branch does.
//
// What is not ahead of the wall clock, nor of what others have written and accepted, keeps its stamp, accepted or not: another
// device's later change may have won over it here, and it would win over that elsewhere.
//
// It does nothing unless the mark is ahead of the wall clock by more than maxDrift and can be taken back, and where the wall
// clock itself is behind what peers have accepted, or before Starling was written: then it is the one that is wrong. Call it before
// Clock, when nothing else runs. It returns how many stamps were changed, and how far back the mark was taken.
//
// HAZARD: what a peer had accepted and this device did not know of (an acknowledgement is kept a heartbeat after it came) comes
// back as it was, and wins over what was written to the same field or row since, until the time of its stamps.
func Restamp(ctx context.Context, db *database.DB, journal *peerlog.Log, r *registry.Registry, self sdk.DeviceID, epoch history.EpochID, now func() time.Time, maxDrift time.Duration) (changed int, back time.Duration, err error) {
	mark, err := journal.LoadClock(ctx)
	if err != nil || mark.Time().Sub(now()) <= maxDrift || now().Before(notBefore) {
		return 0, 0, err
	}
	acks, err := journal.Acknowledgements(ctx)
	if err != nil {
		return 0, 0, err
	}
	err = db.Write(ctx, func(tx *database.Tx) error {
		p := restamping{tx: tx, journal: journal, registry: r, self: self, epoch: epoch}
		if err := p.plan(acks, hlc.New(max(0, now().UnixMilli()), 0)); err != nil {
			return err
		}
		if p.base >= mark || p.base.Time().Sub(now()) > maxDrift {
			return nil // others have used such stamps too, or this clock is behind theirs: going back helps nobody
		}
		changed, back = len(p.old), mark.Time().Sub(p.base.Time())
		return p.apply()
	})
	if err != nil {
		return 0, 0, fmt.Errorf("restamp what was written while the clock was ahead: %w", err)
	}
	return changed, back, nil
}

// notBefore is a time that every clock has passed which is not simply unset.
var notBefore = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)

type restamping struct {
	tx       *database.Tx
	journal  *peerlog.Log
	registry *registry.Registry
	self     sdk.DeviceID
	epoch    history.EpochID

	base hlc.Stamp                       // what is after it gets new stamps, which come after it: now, and all that anybody else has used
	kept map[sdk.Ownership]history.Heads // of the own streams, up to base
	old  []hlc.Stamp                     // ascending; old[i] becomes base + 1 + i
}

// plan finds what nobody has accepted, and after what it may be stamped again.
func (p *restamping) plan(acks map[sdk.DeviceID]map[history.Stream]history.Heads, wall hlc.Stamp) error {
	vector, err := p.journal.WatermarksIn(p.tx)
	if err != nil {
		return err
	}
	p.base, p.kept = wall, map[sdk.Ownership]history.Heads{}
	for key, heads := range vector {
		if key.Origin != p.self {
			p.base = max(p.base, heads.Top())
		}
	}
	graphs := map[history.Stream]*history.Graph{}
	for _, kind := range []sdk.Ownership{sdk.DeviceOwned, sdk.SharedByAll} {
		key := history.Stream{Origin: p.self, Kind: kind}
		if graphs[key], err = p.journal.Graph(p.tx, key); err != nil {
			return err
		}
		for _, of := range acks {
			accepted := graphs[key].Until(vector[key], graphs[key].Low(of[key], vector[key]))
			p.base = max(p.base, accepted.Top()) // not where an epoch begins of which nothing was accepted
		}
	}
	for key, graph := range graphs {
		p.kept[key.Kind] = graph.Until(vector[key], p.base)
	}
	if p.old, err = p.registry.OwnStamps(p.tx, p.base, p.base); err != nil {
		return err
	}
	logged, err := p.journal.Stamps(p.tx, p.self, p.base)
	p.old = append(p.old, logged...)
	slices.Sort(p.old)
	p.old = slices.Compact(p.old)
	return err
}

func (p *restamping) rename(stamp hlc.Stamp) hlc.Stamp {
	if at, found := slices.BinarySearch(p.old, stamp); found {
		return p.base + 1 + hlc.Stamp(at) //nolint:gosec // an index
	}
	return stamp
}

func (p *restamping) apply() error {
	if err := p.registry.Restamp(p.tx, p.base, p.base, p.rename); err != nil {
		return err
	}
	if err := p.journal.Restamp(p.tx, p.self, p.base, p.rename); err != nil {
		return err
	}
	last := p.base + hlc.Stamp(len(p.old)) //nolint:gosec // a length
	for _, kind := range []sdk.Ownership{sdk.DeviceOwned, sdk.SharedByAll} {
		key := history.Stream{Origin: p.self, Kind: kind}
		if err := p.journal.SetHeads(p.tx, key, p.kept[kind], nil); err != nil {
			return err
		}
		if err := p.lowerFloor(key); err != nil {
			return err
		}
		if len(p.old) == 0 {
			continue
		}
		if _, _, _, err := p.journal.Extend(p.tx, key, p.epoch.Of(kind), p.base+1, last); err != nil {
			return err
		}
	}
	return p.journal.ResetClock(p.tx, last)
}

// lowerFloor takes the floor of an own stream back to where what was forgotten below it is now.
func (p *restamping) lowerFloor(key history.Stream) error {
	floor, err := p.journal.FloorIn(p.tx, key)
	if err != nil || floor <= p.base {
		return err
	}
	at, found := slices.BinarySearch(p.old, floor)
	if found {
		at++
	}
	return p.journal.LowerFloor(p.tx, key, p.base+hlc.Stamp(at)) //nolint:gosec // an index
}
