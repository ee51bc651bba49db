// Package replica joins the parts that do not know one another into the storing half of a device: the registry's
// decisions, the peer log and the clock, in one transaction each.
//
// It promises that a page's records, clocks, log entries and watermark are written together or not at all, that the
// clock's mark is stored in every commit, and that a stamp drawn later sorts after everything applied before. It is the
// one copy of these joints: the host runs the sync engine on it, and the simulator the sync machine.
package replica

import (
	"context"

	"github.com/hashicorp/go-hclog"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/history"
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
	Log      hclog.Logger // nil: none

	// Turn, if set, keeps local writers who were late as well from the records of a page to which they were ahead too often
	// (transaction.Manager.Turn). Without it a page to which they were ahead is a CodeStale error of its Commit at once.
	Turn func(ctx context.Context, models ...sdk.ModelName) (end func(), err error)
}

// Prepare implements peersync.Applier.
func (p *Pages) Prepare(ctx context.Context, page protocol.Page) (peersync.Prepared, error) {
	prepared := &preparedPage{Pages: p, page: page}
	return prepared, prepared.prepare(ctx)
}

func (p *preparedPage) prepare(ctx context.Context) (err error) {
	page := &p.page
	if err := p.Clock.Check(page.Through); err != nil {
		return sdk.Errorf(sdk.CodeClockSkew, "%w", err)
	}
	in := registry.Incoming{Origin: page.Origin, Kind: page.Kind, From: page.From, Through: page.Through, Batches: page.Batches}
	if page.Kind == sdk.SharedByAll {
		if err := p.DB.Read(ctx, func(tx *database.Tx) error {
			at, err := p.place(tx, page)
			in.Applied = at.low
			return err
		}); err != nil {
			return err
		}
	}
	p.applied = in.Applied
	p.prepared, err = p.Registry.Prepare(ctx, in)
	return err
}

// place is where a stream stands, seen from a page of it.
type place struct {
	graph *history.Graph
	heads history.Heads
	low   hlc.Stamp // of the page's history, all up to here is applied
}

func (p *Pages) place(tx *database.Tx, page *protocol.Page) (at place, err error) {
	if at.heads, err = p.Journal.Heads(tx, page.Stream); err != nil {
		return at, err
	}
	at.graph = &history.Graph{}
	if len(at.heads) != 1 || len(page.Heads) != 1 || at.heads[0].Epoch != page.Heads[0].Epoch { // else the epochs do not matter
		if at.graph, err = p.Journal.Graph(tx, page.Stream); err != nil {
			return at, err
		}
		for _, epoch := range page.Epochs {
			at.graph.Add(epoch)
		}
	}
	at.low = at.graph.Low(at.heads, page.Heads)
	return at, nil
}

type preparedPage struct {
	*Pages
	page     protocol.Page
	applied  hlc.Stamp // shared: operations up to it were left out, as applied before
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
			end, err := p.Turn(ctx, modelsOf(p.page.Batches)...)
			if err != nil {
				return err
			}
			defer end()
		}
		if err := p.prepare(ctx); err != nil {
			return err
		}
	}
}

func modelsOf(batches []sdk.Batch) (models []sdk.ModelName) {
	for i := range batches {
		models = append(models, batches[i].Model)
	}
	return models
}

// Account implements peersync.Accountant.
func (p *preparedPage) Account() []peersync.Account {
	var all []peersync.Account
	for model, o := range p.prepared.ByModel() {
		all = append(all, peersync.Account{Model: model, Stale: o.Stale, Refused: o.Refused, Parked: o.Parked, Conflicts: o.Conflicts})
	}
	return all
}

func (p *preparedPage) write(ctx context.Context) error {
	return p.DB.Write(ctx, func(tx *database.Tx) error {
		at, err := p.place(tx, &p.page)
		if err != nil {
			return err
		}
		if p.page.From > at.low {
			return sdk.Errorf(sdk.CodeUnavailable, "a page begins at %s, beyond the watermark %s", p.page.From, at.low)
		}
		if at.graph.CoversAll(at.heads, p.page.Heads) {
			return nil
		}
		if p.page.Kind == sdk.SharedByAll && at.low != p.applied { // a snapshot has come between
			return sdk.Errorf(sdk.CodeStale, "the stream has moved on from %s to %s; decide again", p.applied, at.low)
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
		return p.Journal.SetHeads(tx, p.page.Stream, at.graph.Join(at.heads, p.page.Heads), p.page.Epochs)
	})
}

// ReadPage implements peersync.Reader. Operations after since may have been pruned meanwhile, also by Keeper.Tidy: that is a
// CodePruned error, decided in the snapshot that is read.
func (p *Pages) ReadPage(ctx context.Context, stream protocol.Stream, since hlc.Stamp, maxBytes int) (page protocol.Page, more bool, err error) {
	page = protocol.Page{Stream: stream, From: since}
	err = p.DB.Read(ctx, func(tx *database.Tx) error {
		read := p.Registry.ReadStateIn // tombstones go only when the machine has said so, and it looks again after the read
		if stream.Kind == sdk.SharedByAll {
			read = p.Journal.ReadIn
			floor, err := p.Journal.FloorIn(tx, stream)
			if err != nil {
				return err
			}
			if since < floor {
				return sdk.Errorf(sdk.CodePruned, "what comes after %s has been pruned up to %s", since, floor)
			}
		}
		page.Batches, page.Through, more, err = read(tx, stream.Origin, since, maxBytes)
		return err
	})
	return page, more, err
}

// PrepareLocal has r decide on local writes.
func PrepareLocal(r *registry.Registry) transaction.PrepareFunc {
	return func(ctx context.Context, kind sdk.Ownership, batches []sdk.Batch) (transaction.Prepared, error) {
		return r.PrepareLocal(ctx, kind, batches)
	}
}

// PageOf is a local commit of the device self as its peers get it.
func PageOf(self sdk.DeviceID, c transaction.Committed) protocol.Page {
	page := protocol.Page{
		Stream: protocol.Stream{Origin: self, Kind: c.Kind}, Heads: c.Heads,
		From: c.From, Through: c.Through, Head: c.Through, Batches: c.Batches,
	}
	if c.Opened != nil {
		page.Epochs = []protocol.Epoch{*c.Opened}
	}
	return page
}
