package replica

import (
	"context"
	"time"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/peerlog"
	"github.com/starling-sync/starling/host/peersync"
	"github.com/starling-sync/starling/host/protocol"
)

// Clock continues the clock from its stored mark, and at least from every watermark, so that a mark that was lost can not
// bring stamps back that were used. It has every commit of db store the mark. Call it before the first write. A clock
// that is ahead (hlc.Clock.Ahead) by more than maxDrift is returned all the same: the caller says so to people.
func Clock(ctx context.Context, db *database.DB, journal *peerlog.Log, now func() time.Time, maxDrift time.Duration) (*hlc.Clock, error) {
	mark, err := journal.LoadClock(ctx)
	if err != nil {
		return nil, err
	}
	vector, err := journal.Watermarks(ctx)
	if err != nil {
		return nil, err
	}
	for _, heads := range vector {
		mark = max(mark, heads.Top())
	}
	clock := hlc.NewClock(now, mark, maxDrift)
	db.BeforeCommit(func(tx *database.Tx) error { return journal.StoreClock(tx, clock.Last()) })
	return clock, nil
}

// Stored returns what the sync engine must remember of an earlier start.
func Stored(ctx context.Context, journal *peerlog.Log) (stored peersync.Stored, err error) {
	if stored.Heads, err = journal.Watermarks(ctx); err != nil {
		return stored, err
	}
	if stored.Epochs, err = journal.Epochs(ctx); err != nil {
		return stored, err
	}
	if stored.Floors, err = journal.Floors(ctx); err != nil {
		return stored, err
	}
	if stored.Acknowledged, err = journal.Acknowledgements(ctx); err != nil {
		return stored, err
	}
	snapshots, err := journal.Snapshots(ctx)
	for _, s := range snapshots {
		stored.Snapshots = append(stored.Snapshots, peersync.StoredSnapshot{
			Scope: peersync.Scope{Kind: s.Kind, Origin: s.Origin}, Vector: s.Vector, After: protocol.Place{Model: s.Model, ID: s.ID},
		})
	}
	return stored, err
}
