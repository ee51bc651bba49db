package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/peersync"
	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/sdk"
)

// horizon is a stamp that only a clock reaches which is years ahead: other clocks are at most some minutes wrong.
func (w *world) horizon() hlc.Stamp { return hlc.New(epochStart.Add(w.now+time.Hour).UnixMilli(), 0) }

// scheduleAhead plans that a wall clock is years ahead for a while.
func (w *world) scheduleAhead() {
	p, r := &w.setup, w.faultRand
	if !p.ahead {
		return
	}
	d := w.devices[r.IntN(len(w.devices))]
	by := time.Duration(1+r.IntN(40)) * year
	span := time.Minute + w.jitter(r, 4*time.Minute)
	w.after(time.Duration((0.05+0.9*r.Float64())*float64(p.active)), func() { w.goAhead(d, by, span) })
}

// goAhead sets a wall clock years ahead, and right after a while, in which its device writes. It may crash meanwhile, or be
// put back to a copy.
//
// Only one device is astray at a time, from then on until it has taken its stamps back: two whose clocks are years ahead
// accept each other's stamps, which can not be taken back then. Whoever has them would wait for the years to pass.
func (w *world) goAhead(d *device, by, span time.Duration) {
	if w.astray != nil || w.healed || !d.up || d.retired || d.twin != nil {
		return
	}
	w.trace(d, "ahead", "by %s for %s", by, span)
	w.stats.Aheads++
	w.astray, d.ahead = d, by
	r := w.faultRand
	for range 3 + r.IntN(6) {
		w.after(w.jitter(r, span), func() {
			if d.up && !d.stopped {
				w.writeAt(d)
			}
		})
	}
	if r.IntN(3) == 0 {
		w.after(w.jitter(r, span), func() {
			if d.up && d.crashing == noCrash && !w.healed {
				w.kill(d, w.faultRand.IntN(2) == 0, time.Second+w.jitter(w.faultRand, 30*time.Second))
			}
		})
	}
	if r.IntN(4) == 0 && !w.without("restore") {
		w.after(w.jitter(r, span), func() { w.takeCopy(d) })
		w.after(w.jitter(r, 2*span), func() { w.restore(d) })
	}
	w.watchHeld(d, map[*device]time.Duration{})
	w.after(span, func() {
		w.trace(d, "right", "")
		d.ahead = 0
		w.comeBack(d)
	})
}

// comeBack restarts a device whose clock has been set right until it has taken its stamps back, as people do whom it tells
// that it is ahead. It may have to wait until what peers have written is not ahead of it any more: they can be minutes ahead.
func (w *world) comeBack(d *device) {
	w.after(time.Second+w.jitter(w.faultRand, 2*time.Minute), func() {
		if w.astray != d || w.healed || d.ahead > 0 {
			return
		}
		if d.up && d.crashing == noCrash {
			w.kill(d, w.faultRand.IntN(2) == 0, time.Second+w.jitter(w.faultRand, 20*time.Second))
		}
		w.comeBack(d)
	})
}

// cameBack notes whether a device that has started goes on at stamps of now. A clock that stands may not show yet that it is ahead.
func (w *world) cameBack(d *device) {
	if limit := w.horizon(); w.astray == d && d.ahead == 0 && d.wall().Before(limit.Time()) && d.clock.Last() < limit && d.last < limit {
		w.trace(d, "back", "")
		w.astray = nil
	}
}

// takeBack waits, when faults have stopped, until nobody is astray any more.
func (w *world) takeBack() {
	began := w.now
	for w.astray != nil && w.astray.belongs() {
		d := w.astray
		if w.now-began > waitToRestamp {
			w.fail("restamp", "%s has still not taken its stamps back %s after its clock was set right: it is at %s", d, w.now-began, d.clock.Last())
		}
		w.runUntil(w.now + 30*time.Second)
		if d.up {
			d.crash()
			w.gone(d, false)
		}
		d.start()
		w.wakeAll()
	}
}

// waitToRestamp is more than what clocks are ahead that are not years ahead.
const waitToRestamp = 10 * time.Minute

// watchHeld looks at whether a device that is astray and its neighbours show that they hold what it writes, while it is: both
// sides, soon after they have met. A snapshot is held by who asked for it alone.
func (w *world) watchHeld(d *device, since map[*device]time.Duration) {
	w.after(2*time.Second, func() {
		if w.astray != d || w.healed {
			return
		}
		for _, other := range w.devices {
			switch began, waits := since[other]; {
			case !w.shouldHold(other, d):
				delete(since, other)
			case w.showsHeld(other, d, "") && (w.showsHeld(d, other, "") || w.showsHeld(other, d, "a snapshot of ")):
				w.stats.SeenHeld++
				delete(since, other)
			case !waits:
				since[other] = w.now
			case w.now-began > shownWithin:
				w.fail("skew", "%s is years ahead, and %s has not shown for %s that it is held, nor that by the other: %s; %s", d, other, w.now-began, describeStatus(w.statusOf(other, d)), describeStatus(w.statusOf(d, other)))
			}
		}
		w.watchHeld(d, since)
	})
}

// shownWithin is how long two devices may be connected and not show that one holds what the other writes: a hold is looked at
// again after some time, and what was written before comes first.
const shownWithin = 90 * time.Second

// shouldHold reports whether other is in a position to be sent what d has written years ahead.
func (w *world) shouldHold(other, d *device) bool {
	if !w.speaksFor(other, d) || !w.speaksFor(d, other) || other.stopped || d.stopped || !other.belongs() || !d.belongs() {
		return false
	}
	l := w.links[d.index][other.index]
	knows, enrolled := other.knows(d.index)
	return l.passes(0) && l.passes(1) && knows && enrolled && w.isAhead(&d.account)
}

// isAhead reports whether the latest write of a store is years ahead.
func (w *world) isAhead(a *account) bool { return a.last >= w.horizon() }

func (w *world) statusOf(d, other *device) peersync.PeerStatus {
	peers := d.machine.Peers(d.monotonic())
	at := slices.IndexFunc(peers, func(p peersync.PeerStatus) bool { return p.ID == other.id })
	if at < 0 {
		return peersync.PeerStatus{}
	}
	return peers[at]
}

func describeStatus(s peersync.PeerStatus) string {
	return fmt.Sprintf("%s is %s (%s)", s.Name, s.State, s.Reason)
}

func (w *world) showsHeld(d, other *device, what string) bool {
	status := w.statusOf(d, other)
	return status.State == peersync.Held && strings.HasPrefix(status.Reason, what) && strings.Contains(status.Reason, "ahead of the local clock")
}

// lose lets go of what nobody has any more of the changes of a device: those years ahead, which would be the latest of their
// records for ever, and those that have new stamps. A copy of its store may still bring them back.
func (w *world) lose(d *device, replaced map[*change]bool) {
	limit := w.horizon()
	for _, kind := range []sdk.Ownership{sdk.SharedByAll, sdk.DeviceOwned} {
		st := protocol.Stream{Origin: d.id, Kind: kind}
		for _, c := range slices.Clone(w.ledger.streams[st]) {
			if (c.stamp >= limit || replaced[c]) && !w.held(c) && !d.covers(c) {
				w.ledger.drop(c)
			}
		}
	}
}

// find brings the changes back that a copy of a device's store has, and nobody else had any more.
func (l *ledger) find(a *account) {
	l.dropped = slices.DeleteFunc(l.dropped, func(c *change) bool {
		found := a.covers(c)
		if found {
			c.forgiven = false
			l.add(c)
		}
		return found
	})
}

const year = 365 * 24 * time.Hour
