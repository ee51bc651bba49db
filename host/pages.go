package main

import (
	"context"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/peerlog"
	"github.com/starling-sync/starling/host/peersync"
	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/host/registry"
	"github.com/starling-sync/starling/host/transaction"
	"github.com/starling-sync/starling/sdk"
)

// pages joins the sync engine to the store: it makes other devices' pages durable and reads pages for them.
type pages struct {
	db       *database.DB
	registry *registry.Registry
	journal  *peerlog.Log
	clock    *hlc.Clock
}

// Prepare implements peersync.Applier.
func (p *pages) Prepare(ctx context.Context, page protocol.Page) (peersync.Prepared, error) {
	if err := p.clock.Check(page.Through); err != nil {
		return nil, sdk.Errorf(sdk.CodeClockSkew, "%w", err)
	}
	prepared, err := p.registry.Prepare(ctx, registry.Incoming{Origin: page.Origin, Kind: page.Kind, From: page.From, Through: page.Through, Batches: page.Batches})
	if err != nil {
		return nil, err
	}
	return &preparedPage{pages: p, page: page, prepared: prepared}, nil
}

type preparedPage struct {
	*pages
	page     protocol.Page
	prepared *registry.Prepared
}

// Commit implements peersync.Prepared: records, clocks, log and watermark in one transaction.
func (p *preparedPage) Commit(ctx context.Context) error {
	return p.db.Write(ctx, func(tx *database.Tx) error {
		_, at, err := p.journal.Watermark(tx, p.page.Origin, p.page.Kind)
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
			if err := p.journal.Append(tx, p.page.Origin, p.page.Batches); err != nil {
				return err
			}
		}
		// Before the mark is stored in this same transaction, so that no later stamp of this device sorts before it.
		if err := p.clock.Observe(p.page.Through); err != nil {
			return sdk.Errorf(sdk.CodeClockSkew, "%w", err)
		}
		return p.journal.SetWatermark(tx, p.page.Origin, p.page.Kind, p.page.Epoch, p.page.Through)
	})
}

// ReadPage implements peersync.Reader.
func (p *pages) ReadPage(ctx context.Context, stream protocol.Stream, since hlc.Stamp, maxBytes int) (protocol.Page, bool, error) {
	read := p.journal.Read
	if stream.Kind == sdk.DeviceOwned {
		read = p.registry.ReadState
	}
	batches, through, more, err := read(ctx, stream.Origin, since, maxBytes)
	return protocol.Page{Stream: stream, From: since, Through: through, Batches: batches}, more, err
}

// prepareLocal implements transaction.PrepareFunc.
func prepareLocal(r *registry.Registry) transaction.PrepareFunc {
	return func(ctx context.Context, kind sdk.Ownership, batches []sdk.Batch) (transaction.Prepared, error) {
		return r.PrepareLocal(ctx, kind, batches)
	}
}

// pageOf is a local commit as the engine sends it on.
func pageOf(self sdk.DeviceID, c transaction.Committed) protocol.Page {
	return protocol.Page{
		Stream: protocol.Stream{Origin: self, Kind: c.Kind}, Epoch: protocol.EpochID(c.Epoch),
		From: c.From, Through: c.Through, Head: c.Through, Batches: c.Batches,
	}
}
