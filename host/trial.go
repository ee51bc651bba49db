package main

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/starling-sync/starling/host/peersync"
	"github.com/starling-sync/starling/sdk"
)

// trials are the transports that took the place of others, and that swaps watch.
type trials struct {
	mu      sync.Mutex
	cancels map[string]context.CancelFunc
}

// begin returns the context of a trial, which ends with ctx, with the next trial of that name or with end.
func (t *trials) begin(ctx context.Context, name string) context.Context {
	t.end(name)
	ctx, cancel := context.WithCancel(ctx)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cancels == nil {
		t.cancels = make(map[string]context.CancelFunc)
	}
	t.cancels[name] = cancel
	return ctx
}

func (t *trials) end(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if cancel := t.cancels[name]; cancel != nil {
		cancel()
		delete(t.cancels, name)
	}
}

// returnTime is how long a transport that took the place of another has to bring back one of the peers.
const returnTime = 10 * time.Second

// When a transport falls behind the one before: heartbeats wait in line with the changes, so a round trip takes as long as
// the line is. A line that gets shorter is what had piled up, be it by the swap itself, and no fault of the transport.
const (
	slowTrips  = 3                      // so many round trips in a row
	slowFactor = 4                      // take so many times as long as the last one by the transport before
	slowFloor  = 500 * time.Millisecond // and so much longer, with each device that came back
	maxBreaks  = 3                      // or sessions end so often
)

// roundTrips returns the devices that the transport of a label connects now, and how long the last round trip to each took.
func (n *network) roundTrips(label string) map[sdk.DeviceID]time.Duration {
	trips := make(map[sdk.DeviceID]time.Duration)
	for _, p := range n.peers() {
		if p.Via == label {
			trips[p.ID] = p.RTT
		}
	}
	return trips
}

// lags returns how far behind this device those are that the transport of a label connects now, but for the devices whose own
// changes are being caught up with here.
func (n *network) lags(label string) map[sdk.DeviceID]time.Duration {
	lags := make(map[sdk.DeviceID]time.Duration)
	for _, p := range n.peers() {
		if p.Via == label && p.State != peersync.Backfilling && p.State != peersync.CatchingUp {
			lags[p.ID] = p.BehindMe
		}
	}
	return lags
}

// proved returns why the transport of a label does not do its work, or nil once ctx has ended. before are the devices that
// were connected by the one before, with their round trips.
func (n *network) proved(ctx context.Context, label string, before map[sdk.DeviceID]time.Duration) error {
	devices := slices.Collect(maps.Keys(before))
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	late := time.NewTimer(returnTime)
	defer late.Stop()
	link := linkTrial{before: before}
	for {
		returned := n.connected(devices)
		if why := link.look(returned, n.roundTrips(label), n.lags(label)); why != nil {
			return why
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return nil
		case <-late.C:
			if !link.returned {
				return sdk.Errorf(sdk.CodeUnavailable, "none of %d devices that were connected came back within %s", len(before), returnTime)
			}
		}
	}
}

// linkTrial judges a transport by looks at its sessions.
type linkTrial struct {
	before   map[sdk.DeviceID]time.Duration // as of network.proved
	returned bool                           // one of before has been connected since
	up       bool                           // one was at the last look
	breaks   int                            // how often none was any more
	last     map[sdk.DeviceID]time.Duration // the last round trips
	lags     map[sdk.DeviceID]time.Duration // as of look, at the last round trip of each
	slow     map[sdk.DeviceID]int           // how many in a row took too long
}

// look takes in whether one of the devices is connected, the round trips by the new transport, and how far behind the devices
// are (none: this device is behind). It returns what is wrong.
func (l *linkTrial) look(connected bool, trips, lags map[sdk.DeviceID]time.Duration) error {
	if l.up && !connected {
		l.breaks++
	}
	l.up, l.returned = connected, l.returned || connected
	if l.breaks >= maxBreaks {
		return sdk.Errorf(sdk.CodeUnavailable, "the sessions by it ended %d times", l.breaks)
	}
	if l.slow == nil {
		l.slow, l.lags = make(map[sdk.DeviceID]int), make(map[sdk.DeviceID]time.Duration)
	}
	judged, keepUp, worst := 0, 0, time.Duration(0)
	for id, trip := range trips {
		was := l.before[id]
		if was == 0 || trip == 0 {
			continue // there is nothing to compare
		}
		lag, level := lags[id]
		if trip != l.last[id] { // a new one
			switch {
			case trip <= slowFactor*was+slowFloor:
				l.slow[id] = 0
			case level && lag >= l.lags[id]: // else the line gets shorter
				l.slow[id]++
			}
			l.lags[id] = lag
		}
		judged++
		if l.slow[id] < slowTrips {
			keepUp++
		}
		worst = max(worst, trip)
	}
	l.last = trips
	if judged == 0 || keepUp > 0 {
		return nil
	}
	return sdk.Errorf(sdk.CodeUnavailable, "it falls behind: the last %d round trips to each device took up to %s, over %d times as long as by the transport before", slowTrips, worst.Round(time.Millisecond), slowFactor)
}
