package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"slices"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/peersync"
	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/host/replica"
	"github.com/starling-sync/starling/host/transaction"
	"github.com/starling-sync/starling/sdk"
)

// bugs are the seeded bugs. A new checker, or a new part of the protocol, brings some of its own.
func bugs() []*bug {
	return slices.Concat(storeBugs(), mergeBugs(), editBugs(), talkBugs(), historyBugs())
}

func findBug(name string) *bug {
	for _, b := range bugs() {
		if b.name == name {
			return b
		}
	}
	return &bug{}
}

// sql runs statements at a device, as a defect would.
func sql(d *device, statements ...string) {
	d.w.check(d.db.Write(context.Background(), func(tx *database.Tx) error {
		for _, s := range statements {
			if err := tx.Run(s); err != nil {
				return err
			}
		}
		return nil
	}), "a seeded bug")
}

// storeBugs are about what is durable, and when.
func storeBugs() []*bug {
	return []*bug{
		{name: "clock-not-persisted", does: "the clock's mark is not stored: it begins anew at each start", clock: func(d *device) (*hlc.Clock, error) {
			return hlc.NewClock(d.wall, 0, maxDrift), nil
		}},
		{name: "clock-learns-nothing", does: "pages do not move the clock on", join: func(d *device, p *replica.Pages) *replica.Pages {
			p.Clock = hlc.NewClock(d.wall, 0, maxDrift)
			return p
		}},
		{name: "stamps-before-commit", does: "stamps are drawn ahead of the commit that uses them", nextStamp: func(d *device) func() hlc.Stamp {
			ahead := d.clock.Now()
			return func() hlc.Stamp {
				stamp := ahead
				ahead = d.clock.Now()
				return stamp
			}
		}},
		{name: "ack-on-receive", does: "a page counts as durable when it has come", onReceived: func(d *device, a peersync.Apply) {
			d.w.plan(0, d, func() { d.step(peersync.Applied{Generation: a.Generation, Page: a.Page}) })
		}, onReply: func(*device, peersync.Applied) bool { return false }},
		{name: "commit-not-durable", does: "a crash takes the latest commits", onImage: func(d *device, image []byte) []byte {
			if d.store.image != nil && d.shared.committed%3 == 0 {
				return d.store.image
			}
			return image
		}},
		{name: "page-not-atomic", does: "the watermark of a page is a transaction of its own, before its data", onPrepared: func(d *device, page protocol.Page, p peersync.Prepared, err error) (peersync.Prepared, error) {
			return halfPage{d, page, p}, err
		}},
		{name: "log-entry-missing", does: "every eighth local operation does not get into the log", log: func(d *device) transaction.Journal {
			return forgetful{d.journal, d}
		}},
		{name: "tombstone-forgotten", does: "tombstones go before everybody has them", onCommit: func(d *device) {
			if d.shared.committed%4 == 0 {
				sql(d, "DELETE FROM _tombstone")
			}
		}},
		{name: "clocks-of-deleted-forgotten", does: "shared records that were deleted leave no clocks", onCommit: func(d *device) {
			sql(d, "DELETE FROM _shadow WHERE present = 0")
		}},
		{name: "waiting-lost", does: "records that wait for others are kept in memory only", onImage: func(d *device, image []byte) []byte {
			ctx := context.Background()
			db, err := database.OpenMemory(ctx, image, nil)
			d.w.check(err, "a seeded bug")
			err = db.Write(ctx, func(tx *database.Tx) error {
				_, err := tx.Exec("DELETE FROM _shadow WHERE present = 1")
				return err
			})
			d.w.check(err, "a seeded bug")
			image, err = db.Image()
			d.w.check(err, "a seeded bug")
			d.w.check(db.Close(), "a seeded bug")
			return image
		}},
		{name: "owner-not-checked", does: "a device takes another's record over", onTheft: func(d *device, id sdk.RecordID) {
			sql(d, "UPDATE folder SET _owner = (SELECT n FROM _device WHERE id = x'"+hex.EncodeToString(d.id[:])+"') WHERE id = x'"+hex.EncodeToString(id[:])+"'")
		}},
	}
}

// halfPage writes its watermark first, in a transaction of its own.
type halfPage struct {
	d    *device
	page protocol.Page
	peersync.Prepared
}

func (h halfPage) Commit(ctx context.Context) error {
	d := h.d
	if d.crashing != noCrash {
		at := d.crashing
		d.crashing = noCrash
		err := d.db.Write(ctx, func(tx *database.Tx) error {
			return d.journal.SetHeads(tx, h.page.Stream, h.page.Heads, h.page.Epochs)
		})
		d.crashing = at
		if err != nil {
			return err
		}
	}
	return h.Prepared.Commit(ctx)
}

type forgetful struct {
	transaction.Journal
	d *device
}

func (f forgetful) Append(tx *database.Tx, origin sdk.DeviceID, batches []sdk.Batch) error {
	if f.d.shared.committed%8 == 7 {
		return nil
	}
	return f.Journal.Append(tx, origin, batches)
}

// mergeBugs are about what the changes mean.
func mergeBugs() []*bug {
	wrap := func(merge func(*sdk.SharedChanges), describe func(*sdk.Description)) func(sdk.ModelServer) sdk.ModelServer {
		return func(s sdk.ModelServer) sdk.ModelServer { return server{s, merge, describe} }
	}
	return []*bug{
		{name: "no-tie-break", does: "of two writes with one stamp the first to come stands", server: func(s sdk.ModelServer) sdk.ModelServer { return firstOfTies{s} }},
		{name: "last-to-come-wins", does: "the value that comes last stands", server: wrap(func(in *sdk.SharedChanges) {
			for i := range in.Current {
				for k := range in.Current[i].Fields {
					in.Current[i].Fields[k].Version = sdk.Version{}
				}
			}
		}, nil)},
		{name: "update-resurrects", does: "an update of a deleted record brings it back", server: wrap(func(in *sdk.SharedChanges) {
			if in.Local {
				return
			}
			for i := range in.Current {
				if !in.Current[i].Exists() {
					in.Current[i].Deleted = sdk.Version{}
				}
			}
		}, nil)},
		{name: "delete-forgets-insert", does: "a delete wins over an insert that is later", server: wrap(func(in *sdk.SharedChanges) {
			for i := range in.Current {
				if r := &in.Current[i]; !in.Local && r.Exists() && !r.Deleted.IsZero() {
					r.Inserted = sdk.Version{}
				}
			}
		}, nil)},
		{name: "max-as-lww", does: "a max field takes the latest value", server: wrap(nil, func(desc *sdk.Description) {
			for i := range desc.Fields {
				desc.Fields[i].Merge = ""
			}
		})},
		{name: "references-not-checked", does: "records show while what they refer to is missing", server: wrap(nil, func(desc *sdk.Description) {
			for i := range desc.Fields {
				desc.Fields[i].Weak = desc.Fields[i].Type == sdk.UUID
			}
		})},
	}
}

// server is a model with a defect.
type server struct {
	sdk.ModelServer
	merge    func(*sdk.SharedChanges)
	describe func(*sdk.Description)
}

func (s server) Describe(ctx context.Context) (sdk.Description, error) {
	desc, err := s.ModelServer.Describe(ctx)
	if s.describe != nil {
		s.describe(&desc)
	}
	return desc, err
}

func (s server) ApplySharedChange(ctx context.Context, in sdk.SharedChanges) (sdk.SharedResult, error) {
	if s.merge != nil {
		s.merge(&in)
	}
	if s.describe == nil {
		return s.ModelServer.ApplySharedChange(ctx, in)
	}
	desc, err := s.Describe(ctx)
	if err != nil {
		return sdk.SharedResult{}, err
	}
	return sdk.MergeShared(&desc, in, nil)
}

// firstOfTies lets the value that came first stand where two devices wrote it at one stamp.
type firstOfTies struct{ sdk.ModelServer }

func (s firstOfTies) ApplySharedChange(ctx context.Context, in sdk.SharedChanges) (sdk.SharedResult, error) {
	tied := map[sdk.RecordID]map[string]sdk.FieldState{}
	for op := range in.Batch.Ops() { //nolint:errcheck // the real code looks at it
		for i := range in.Current {
			for _, f := range in.Current[i].Fields {
				if !in.Local && op.ID == in.Current[i].ID && op.Stamp == f.Version.Stamp && in.Origin != f.Version.Device {
					if tied[op.ID] == nil {
						tied[op.ID] = map[string]sdk.FieldState{}
					}
					tied[op.ID][f.Name] = f
				}
			}
		}
	}
	result, err := s.ModelServer.ApplySharedChange(ctx, in)
	for i := range result.Records {
		for k := range result.Records[i].Fields {
			f := &result.Records[i].Fields[k]
			if first, ok := tied[result.Records[i].ID][f.Name]; ok && f.Version.Stamp == first.Version.Stamp {
				*f = first
			}
		}
	}
	return result, err
}

// talkBugs are about what devices say and believe.
func talkBugs() []*bug {
	return []*bug{
		{name: "watermark-past-gap", does: "a page read from the database leaves changes out that it covers", onRead: func(_ *device, page protocol.Page, more bool) (protocol.Page, bool) {
			if more {
				page.Through++
			}
			return page, false
		}},
		{name: "page-loses-model", does: "of a page with several models the last is not applied", onPage: func(_ *device, page protocol.Page) protocol.Page {
			if len(page.Batches) > 1 {
				page.Batches = page.Batches[:len(page.Batches)-1]
			}
			return page
		}},
		{name: "dropped-instead-of-held", does: "what is ahead of the clock is dropped", onPrepared: func(d *device, page protocol.Page, p peersync.Prepared, err error) (peersync.Prepared, error) {
			if sdk.CodeOf(err) != sdk.CodeClockSkew {
				return p, err
			}
			return dropped{d, page}, nil
		}},
		{name: "page-never-announced", does: "some commits are not announced", onAnnounce: func(d *device, _ protocol.Page) bool { return d.shared.committed%3 != 0 }},
		{name: "refusal-to-connect-lost", does: "a failure to connect is not noticed", onDial: func(*device) bool { return false }},
		{name: "acks-lost", does: "acknowledgements do not free the window", onMessage: func(_ *device, m protocol.Message) protocol.Message {
			switch m := m.(type) {
			case *protocol.AckSharedChanges:
				return nil
			case *protocol.Heartbeat:
				beat := *m
				beat.Vector = nil
				return &beat
			}
			return m
		}},
		{name: "window-ignored", does: "a peer is sent more than it can take", onLimits: func(l protocol.Limits) protocol.Limits {
			l.WindowBytes = 1 << 20
			return l
		}},
		{name: "relay-alters", does: "a relay changes what it passes on", onRead: func(d *device, page protocol.Page, more bool) (protocol.Page, bool) {
			if page.Origin != d.id && page.Kind == sdk.DeviceOwned {
				for i := range page.Batches {
					b := &page.Batches[i]
					if at := bytes.IndexByte(b.Rows, 0xa8); at >= 0 && at+2 < len(b.Rows) { // a text of eight letters
						b.Rows[at+1] = 'x'
					}
				}
			}
			return page, more
		}},
		{name: "relay-is-silent", does: "nobody passes on what others wrote", onRead: func(d *device, page protocol.Page, more bool) (protocol.Page, bool) {
			if page.Origin != d.id {
				page.Batches = nil
			}
			return page, more
		}},
		{name: "hello-says-too-much", does: "a device claims what it was only sent", onMessage: func(d *device, m protocol.Message) protocol.Message {
			if delivery, ok := protocol.DeliveryOf(m); ok && delivery.Page.Origin != d.id {
				for _, at := range delivery.Page.Heads {
					d.step(peersync.Advanced{Mark: protocol.Mark{Stream: delivery.Page.Stream, Position: at}})
				}
			}
			return m
		}},
	}
}

// dropped moves the watermark past a page and applies nothing.
type dropped struct {
	d    *device
	page protocol.Page
}

func (p dropped) Commit(ctx context.Context) error {
	return p.d.db.Write(ctx, func(tx *database.Tx) error {
		return p.d.journal.SetHeads(tx, p.page.Stream, p.page.Heads, p.page.Epochs)
	})
}
