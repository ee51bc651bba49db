package peersync

import (
	"time"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/protocol"
)

// restTime is after how long without a change it is noted when a history went on. Where it did not rest, stamps say so themselves,
// up to this time.
const restTime = time.Second

// mostRises bounds what is remembered of a history. Who lacks more is told of by stamps alone.
const mostRises = 16

// rise is that a history went on after a rest: what is first after from was there at a time. By the stamps alone, who lacks it and
// has from could lack anything between the two.
type rise struct {
	from hlc.Stamp
	at   time.Time
}

// rises are the latest rises of a history, ascending.
type rises []rise

// note takes in that a history went on from a stamp to a greater one; a zero at: nobody knows when.
func (r *rises) note(from, to hlc.Stamp, at time.Time) {
	if at.IsZero() || from == 0 || to <= from || at.Sub(from.Time()) < restTime {
		return
	}
	if len(*r) == mostRises {
		copy(*r, (*r)[1:])
		*r = (*r)[:mostRises-1]
	}
	*r = append(*r, rise{from, at})
}

// after returns since when there is something after low, or an earlier time where that is not known.
func (r rises) after(low hlc.Stamp) time.Time {
	since := low.Time()
	for i := len(r) - 1; i >= 0; i-- {
		if r[i].from <= low {
			if r[i].at.After(since) {
				since = r[i].at
			}
			break
		}
	}
	return since
}

// lag returns how long who has a has lacked the oldest of what he lacks of b, whose rises are r: at most that time, and exactly it
// where he lacks what came after a rest. Zero where he lacks nothing, and where a has not begun: nothing is known then.
func (m *Machine) lag(a, b protocol.Heads, r rises) time.Duration {
	if len(a) == 0 || m.graph.CoversAll(a, b) {
		return 0
	}
	return max(m.now.Sub(r.after(m.graph.Low(a, b))), time.Millisecond)
}
