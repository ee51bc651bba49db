package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/starling-sync/starling/host/config"
	"github.com/starling-sync/starling/host/control"
	"github.com/starling-sync/starling/host/supervisor"
	"github.com/starling-sync/starling/sdk"
)

// move is a swap of transports under way.
type move struct {
	from, to string
	soak     time.Duration
	stopped  string      // why to was stopped, and is to be again if this is not done; empty: it ran
	undo     chan string // who wants it ended; holds one
	done     chan struct{}
	err      error // why it is not done; set before done is closed
}

func newMove(swap control.TransportSwap) *move {
	return &move{from: swap.From, to: swap.To, soak: swap.Soak, undo: make(chan string, 1), done: make(chan struct{})}
}

// back says that somebody wants it ended. It returns at once.
func (m *move) back(by string) {
	select {
	case m.undo <- by:
	default: // somebody else wants it too
	}
}

// end ends it for those who wait for it.
func (m *move) end(err error) {
	m.err = err
	close(m.done)
}

// undoneError says that a swap of transports is not brought to its end since somebody wants it so.
type undoneError struct{ by string }

func (*undoneError) Error() string { return "a rollback was asked for" }

// RollbackTransport implements control.Operator.
func (o *operator) RollbackTransport(ctx context.Context, name string, report func(control.Step)) error {
	m := o.network.moving.Load()
	switch {
	case m == nil:
		return o.restsAs(name)
	case name != m.from && name != m.to:
		return sdk.Errorf(sdk.CodeNotFound, "the swap under way is one of transport %s to %s; end it with: starling transport rollback %s", m.from, m.to, m.from)
	}
	const by = "starling transport rollback"
	m.back(by)
	select {
	case <-m.done:
	case <-ctx.Done():
		return ctx.Err()
	}
	if m.err == nil { // it was done before it could be ended
		return o.swapTransport(ctx, control.TransportSwap{From: m.to, To: m.from, Soak: m.soak}, by, report)
	}
	report(control.Step{Stage: string(supervisor.Undone), Text: "the swap under way has ended: " + m.err.Error()})
	return nil
}

// restsAs says why there is nothing to roll back of a transport while no swap of transports is under way.
func (o *operator) restsAs(name string) error {
	transports := o.live.Load().Transports
	if !slices.ContainsFunc(transports, func(t config.Transport) bool { return t.Name == name }) {
		return sdk.Errorf(sdk.CodeNotFound, "there is no transport %q; there are: %s", name, labels(transports))
	}
	if why := o.stopped(name); why != "" {
		return sdk.Errorf(sdk.CodeNotFound, "no swap of transports is under way; %s is stopped: %s", name, why)
	}
	return sdk.Errorf(sdk.CodeNotFound, "no swap of transports is under way, and %s is in use; for the build of it before: starling plugin rollback %s", name, name)
}

// stopped says why a transport was stopped; empty: it was not.
func (o *operator) stopped(name string) string {
	for _, s := range o.supervisor.Status() {
		if s.Name == name && s.Paused() {
			return s.Reason
		}
	}
	return ""
}

// stopAgain has a transport stopped as it was before a swap to it that is not done.
func (o *operator) stopAgain(ctx context.Context, m *move, by string) {
	if m.stopped == "" {
		return
	}
	err := o.supervisor.Pause(m.to, m.stopped, by)
	if err == nil {
		err = o.announce(ctx)
	}
	if err != nil {
		o.log.Warn("a transport goes on that had been stopped before the swap to it", "transport", m.to, "reason", err)
	}
}

// notMoved refuses another build, or a restart, of a transport whose sessions are being moved away from it, which would put it back into use.
func (o *operator) notMoved(name string) error {
	if m := o.network.moving.Load(); m != nil && m.from == name {
		return sdk.Errorf(sdk.CodeUnavailable, "the sessions of %s are being moved to transport %s; wait for the end of that, or: starling transport rollback %s", name, m.to, name)
	}
	return nil
}

// outing is a transport that is out of use while its process runs.
type outing struct {
	now     *attachment // what would be in use; guarded by network.mu
	over    context.Context
	end     context.CancelFunc
	turning sync.WaitGroup
}

func newOuting() *outing {
	o := &outing{}
	o.over, o.end = context.WithCancel(context.Background())
	return o
}

// take has who connects by a be turned away. The caller holds network.mu.
func (o *outing) take(a *attachment) {
	o.now = a
	if a.address == "" {
		return
	}
	o.turning.Go(func() {
		ctx, cancel := context.WithCancel(a.ctx)
		defer cancel()
		defer context.AfterFunc(o.over, cancel)()
		turnAway(ctx, a)
	})
}

// maxNamed is how many devices are named in a reason.
const maxNamed = 3

// addressed says how devices are reached by the kind of a transport, as far as they have said, for whom they do not come back by it.
func (o *operator) addressed(devices []sdk.DeviceID, transport string) (text string) {
	kind := ""
	for _, t := range o.live.Load().Transports {
		if t.Name == transport {
			kind = t.Kind
		}
	}
	slices.SortFunc(devices, func(a, b sdk.DeviceID) int { return strings.Compare(a.String(), b.String()) })
	for i, id := range devices {
		if i == maxNamed {
			return text + fmt.Sprintf("; and %d more", len(devices)-i)
		}
		m, known := o.members.Member(id)
		if !known {
			continue
		}
		addresses, _ := m.Where() // none can be read: it has said none
		var at []string
		for _, a := range addresses {
			if a.Transport == kind {
				at = append(at, a.Address)
			}
		}
		if len(at) == 0 {
			text += fmt.Sprintf("; %s has said no address of kind %s: there, no such transport runs, or it does not listen; start it first", m.Name, kind)
			continue
		}
		text += fmt.Sprintf("; %s has said that it is reached by %s at %s: does that transport run there, and is it reached there from here?", m.Name, kind, strings.Join(at, ", "))
	}
	return text
}
