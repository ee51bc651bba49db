// Package replica joins the parts that do not know one another into the storing half of a device: the registry's
// decisions, the peer log and the clock, in one transaction each.
//
// It promises that a page's records, clocks, log entries and watermark are written together or not at all, that the
// clock's mark is stored in every commit, and that a stamp drawn later sorts after everything applied before. It is the
// one copy of these joints: the host runs the sync engine on it, and the simulator the sync machine.
package replica

import (
	"context"
	"slices"
	"time"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/peerlog"
	"github.com/starling-sync/starling/host/peersync"
	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/host/registry"
	"github.com/starling-sync/starling/host/transaction"
	"github.com/starling-sync/starling/sdk"
)

// Pages joins the sync engine to the store: it makes other devices' pages durable and reads pages for them. All fields
// but Turn are required. It implements peersync.Applier and peersync.Reader.
type Pages struct {
	DB       *database.DB
	Registry *registry.Registry
	Journal  *peerlog.Log
	Clock    *hlc.Clock

	// Turn, if set, keeps local writers who were late as well from the records of a page to which they were ahead too often
	// (transaction.Manager.Turn). Without it a page to which they were ahead is a CodeStale error of its Commit at once.
	Turn func(ctx context.Context) (end func(), err error)
}

// Prepare implements peersync.Applier.
func (p *Pages) Prepare(ctx context.Context, page protocol.Page) (peersync.Prepared, error) {
	prepared, err := p.prepare(ctx, page)
	if err != nil {
		return nil, err
	}
	return &preparedPage{Pages: p, page: page, prepared: prepared}, nil
}

func (p *Pages) prepare(ctx context.Context, page protocol.Page) (*registry.Prepared, error) {
	if err := p.Clock.Check(page.Through); err != nil {
		return nil, sdk.Errorf(sdk.CodeClockSkew, "%w", err)
	}
	in := registry.Incoming{Origin: page.Origin, Kind: page.Kind, From: page.From, Through: page.Through, Batches: page.Batches}
	if page.Kind == sdk.SharedByAll {
		if err := p.DB.Read(ctx, func(tx *database.Tx) (err error) {
			_, in.Applied, err = p.Journal.Watermark(tx, page.Origin, page.Kind)
			return err
		}); err != nil {
			return nil, err
		}
	}
	return p.Registry.Prepare(ctx, in)
}

type preparedPage struct {
	*Pages
	page     protocol.Page
	prepared *registry.Prepared
}

const (
	// patience is how often a page is decided again, because local writers were ahead, before it takes a turn.
	patience = 3
	// attempts bounds the decisions with and without a turn.
	attempts = 20
)

// Commit implements peersync.Prepared: records, clocks, log and watermark in one transaction. A page takes longer to decide
// than the local writes that it may meet, so that without turns it would lose to them again and again.
func (p *preparedPage) Commit(ctx context.Context) error {
	for try := 1; ; try++ {
		err := p.write(ctx)
		if sdk.CodeOf(err) != sdk.CodeStale || try == attempts || p.Turn == nil {
			return err
		}
		if try == patience {
			end, err := p.Turn(ctx)
			if err != nil {
				return err
			}
			defer end()
		}
		if p.prepared, err = p.prepare(ctx, p.page); err != nil {
			return err
		}
	}
}

func (p *preparedPage) write(ctx context.Context) error {
	return p.DB.Write(ctx, func(tx *database.Tx) error {
		_, at, err := p.Journal.Watermark(tx, p.page.Origin, p.page.Kind)
		if err != nil {
			return err
		}
		if p.page.From > at {
			return sdk.Errorf(sdk.CodeUnavailable, "a page begins at %s, beyond the watermark %s", p.page.From, at)
		}
		if p.page.Through <= at {
			return nil
		}
		if _, err := p.prepared.Write(tx); err != nil {
			return err
		}
		if p.page.Kind == sdk.SharedByAll {
			if err := p.Journal.Append(tx, p.page.Origin, p.page.Batches); err != nil {
				return err
			}
		}
		// Before the mark is stored in this same transaction, so that no later stamp of this device sorts before it.
		if err := p.Clock.Observe(p.page.Through); err != nil {
			return sdk.Errorf(sdk.CodeClockSkew, "%w", err)
		}
		return p.Journal.SetWatermark(tx, p.page.Origin, p.page.Kind, p.page.Epoch, p.page.Through)
	})
}

// ReadPage implements peersync.Reader.
func (p *Pages) ReadPage(ctx context.Context, stream protocol.Stream, since hlc.Stamp, maxBytes int) (protocol.Page, bool, error) {
	read := p.Journal.Read
	if stream.Kind == sdk.DeviceOwned {
		read = p.Registry.ReadState
	}
	batches, through, more, err := read(ctx, stream.Origin, since, maxBytes)
	return protocol.Page{Stream: stream, From: since, Through: through, Batches: batches}, more, err
}

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
	for _, at := range vector {
		mark = max(mark, at.Stamp)
	}
	clock := hlc.NewClock(now, mark, maxDrift)
	db.BeforeCommit(func(tx *database.Tx) error { return journal.StoreClock(tx, clock.Last()) })
	return clock, nil
}

// OpenEpoch keeps this start of the device self under a new id, with the positions that it continues.
func OpenEpoch(ctx context.Context, db *database.DB, journal *peerlog.Log, clock *hlc.Clock, self sdk.DeviceID, id peerlog.EpochID) error {
	epoch := peerlog.Epoch{ID: id, Device: self, Opened: clock.Now()}
	return db.Write(ctx, func(tx *database.Tx) error {
		vector, err := journal.WatermarksIn(tx)
		if err != nil {
			return err
		}
		for _, kind := range []sdk.Ownership{sdk.DeviceOwned, sdk.SharedByAll} {
			if at, ok := vector[peerlog.Stream{Origin: self, Kind: kind}]; ok {
				epoch.Parents = append(epoch.Parents, at.Epoch)
			}
		}
		return journal.OpenEpoch(tx, epoch)
	})
}

// PrepareLocal has r decide on local writes.
func PrepareLocal(r *registry.Registry) transaction.PrepareFunc {
	return func(ctx context.Context, kind sdk.Ownership, batches []sdk.Batch) (transaction.Prepared, error) {
		return r.PrepareLocal(ctx, kind, batches)
	}
}

// PageOf is a local commit of the device self as its peers get it.
func PageOf(self sdk.DeviceID, c transaction.Committed) protocol.Page {
	return protocol.Page{
		Stream: protocol.Stream{Origin: self, Kind: c.Kind}, Epoch: protocol.EpochID(c.Epoch),
		From: c.From, Through: c.Through, Head: c.Through, Batches: c.Batches,
	}
}

// Marks returns the watermarks of every stream, in the order of streams.
func Marks(ctx context.Context, journal *peerlog.Log) ([]protocol.Mark, error) {
	vector, err := journal.Watermarks(ctx)
	if err != nil {
		return nil, err
	}
	marks := make([]protocol.Mark, 0, len(vector))
	for stream, at := range vector {
		marks = append(marks, protocol.Mark{
			Stream:   protocol.Stream{Origin: stream.Origin, Kind: stream.Kind},
			Position: protocol.Position{Epoch: protocol.EpochID(at.Epoch), Stamp: at.Stamp},
		})
	}
	slices.SortFunc(marks, func(a, b protocol.Mark) int { return a.Compare(b.Stream) })
	return marks, nil
}
