package main

import (
	"context"
	"runtime/debug"
	"time"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/peersync"
	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/host/replica"
	"github.com/starling-sync/starling/host/transaction"
	"github.com/starling-sync/starling/sdk"
)

// maxDrift is what hosts accept by default.
const maxDrift = time.Minute

func stack() []byte { return debug.Stack() }

// bug is a defect that is put around the real code, so that the checkers can be seen to catch it. Each hook stands where
// the world calls the real code or carries its words; nil hooks, and so the bug without a name, change nothing.
type bug struct {
	name, does string

	server     func(sdk.ModelServer) sdk.ModelServer
	clock      func(*device) (*hlc.Clock, error)
	join       func(*device, *replica.Pages) *replica.Pages
	nextStamp  func(*device) func() hlc.Stamp
	partID     func(*device) sdk.PartID
	log        func(*device) transaction.Journal
	onReceived func(*device, peersync.Apply)
	onReply    func(*device, peersync.Applied) bool // false: the machine is not told
	onAnnounce func(*device, protocol.Page) bool    // false: the machine is not told
	onDial     func(*device) bool                   // false: the machine is not told of a failure
	onPage     func(*device, protocol.Page) protocol.Page
	onPrepared func(*device, protocol.Page, peersync.Prepared, error) (peersync.Prepared, error)
	onRead     func(*device, protocol.Page, bool) (protocol.Page, bool)
	onMessage  func(*device, protocol.Message) protocol.Message // nil: lost
	onImage    func(*device, []byte) []byte
	onKept     func(*device)
	onCommit   func(*device)
	onTheft    func(*device, sdk.RecordID)
	onLimits   func(protocol.Limits) protocol.Limits
	onStored   func(*device, *peersync.Stored)
	onPrune    func(*device, *peersync.Prune)
	onTake     func(*device, peersync.TakeRange) (peersync.Taken, error)
	onSeal     func(*device)
	onRestamp  func(*device, func())
	onMembers  func([]peersync.Member)

	sameStamps bool // the world lets two copies of a device draw one stamp
}

func (b *bug) wrapServer(s sdk.ModelServer) sdk.ModelServer {
	if b.server != nil {
		return b.server(s)
	}
	return s
}

func (b *bug) openClock(d *device) (*hlc.Clock, error) {
	if b.clock != nil {
		return b.clock(d)
	}
	return replica.Clock(context.Background(), d.db, d.journal, d.wall, maxDrift)
}

func (b *bug) joinPages(d *device, p *replica.Pages) *replica.Pages {
	if b.join != nil {
		return b.join(d, p)
	}
	return p
}

func (b *bug) next(d *device) func() hlc.Stamp {
	if b.nextStamp != nil {
		return b.nextStamp(d)
	}
	return d.clock.Now
}

// part names a start of a device, for counters.
func (b *bug) part(d *device) sdk.PartID {
	if b.partID != nil {
		return b.partID(d)
	}
	return sdk.NewPartID(d.w.partRand.Uint64() | 1)
}

func (b *bug) journal(d *device) transaction.Journal {
	if b.log != nil {
		return b.log(d)
	}
	return d.journal
}

func (b *bug) received(d *device, a peersync.Apply) {
	if b.onReceived != nil {
		b.onReceived(d, a)
	}
}

func (b *bug) reply(d *device, e peersync.Applied) {
	if b.onReply == nil || b.onReply(d, e) {
		d.step(e)
	}
}

func (b *bug) announce(d *device, page protocol.Page) {
	if b.onAnnounce == nil || b.onAnnounce(d, page) {
		d.step(peersync.Committed{Page: page})
	}
}

func (b *bug) dialFailed(d *device, e peersync.DialFailed) {
	if b.onDial == nil || b.onDial(d) {
		d.step(e)
	}
}

func (b *bug) page(d *device, page protocol.Page) protocol.Page {
	if b.onPage != nil {
		return b.onPage(d, page)
	}
	return page
}

func (b *bug) prepared(d *device, page protocol.Page, p peersync.Prepared, err error) (peersync.Prepared, error) {
	if b.onPrepared != nil {
		return b.onPrepared(d, page, p, err)
	}
	return p, err
}

func (b *bug) read(d *device, page protocol.Page, more bool) (protocol.Page, bool) {
	if b.onRead != nil {
		return b.onRead(d, page, more)
	}
	return page, more
}

func (b *bug) message(d *device, m protocol.Message) protocol.Message {
	if b.onMessage != nil {
		return b.onMessage(d, m)
	}
	return m
}

func (b *bug) keepImage(d *device, image []byte) []byte {
	if b.onImage != nil {
		return b.onImage(d, image)
	}
	return image
}

func (b *bug) keepAudit(d *device) error {
	err := d.registry.KeepAudit(context.Background())
	if b.onKept != nil {
		b.onKept(d)
	}
	return err
}

func (b *bug) committed(d *device) {
	if b.onCommit != nil {
		b.onCommit(d)
	}
}

func (b *bug) beforeTheft(d *device, id sdk.RecordID) {
	if b.onTheft != nil {
		b.onTheft(d, id)
	}
}

func (b *bug) limits(l protocol.Limits) protocol.Limits {
	if b.onLimits != nil {
		return b.onLimits(l)
	}
	return l
}

func (b *bug) stored(d *device, s *peersync.Stored) {
	if b.onStored != nil {
		b.onStored(d, s)
	}
}

func (b *bug) prune(d *device, a peersync.Prune) error {
	if b.onPrune != nil {
		b.onPrune(d, &a)
	}
	return d.keeper.Prune(context.Background(), a)
}

func (b *bug) takeRange(d *device, a peersync.TakeRange) (peersync.Taken, error) {
	if b.onTake != nil {
		return b.onTake(d, a)
	}
	return d.pages.TakeRange(context.Background(), a)
}

func (b *bug) seal(d *device) error {
	if b.onSeal != nil {
		b.onSeal(d)
	}
	return d.keeper.Seal(context.Background())
}

func (b *bug) restamp(d *device) (back time.Duration) {
	restamp := func() {
		var err error
		_, back, err = replica.Restamp(context.Background(), d.db, d.journal, d.registry, d.id, d.epoch, d.wall, maxDrift)
		d.w.check(err, "start %s: restamp", d)
	}
	if b.onRestamp != nil {
		b.onRestamp(d, restamp)
	} else {
		restamp()
	}
	return back
}

func (b *bug) members(list []peersync.Member) {
	if b.onMembers != nil {
		b.onMembers(list)
	}
}
