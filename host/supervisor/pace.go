package supervisor

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/starling-sync/starling/sdk"
)

// When a new process is slower than the one before. Both bounds must be crossed, by three quarters of the last calls: a few
// that took long are no reason, nor is a busy machine, which has a process that has just started wait for its turn.
const (
	paceCalls  = 32                     // so many calls are looked at
	leastCalls = 8                      // fewer say nothing
	fewCalls   = 3                      // but these do, if they take verySlow longer
	verySlow   = time.Second            //
	slowFactor = 4                      // times as long, for a batch and for a change
	slowSame   = 25 * time.Millisecond  // and so much longer for a batch, where both decide on the same ones
	slowOther  = 250 * time.Millisecond // the same, where those before the switch are compared with those after it
)

// pace is how long the calls of a model of one process take.
type pace struct {
	mu    sync.Mutex
	took  []took // the last ones; len(took) <= paceCalls, and the oldest is at next once that is full
	next  int
	under map[*took]time.Time // the calls under way, and when they began
}

// took is one call.
type took struct {
	time    time.Duration
	changes int
}

// begin notes a call about so many changes. The caller calls the function that it returns when the call is over.
func (p *pace) begin(changes int) (end func()) {
	call, began := &took{changes: max(1, changes)}, time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.under == nil {
		p.under = make(map[*took]time.Time)
	}
	p.under[call] = began
	return func() {
		call.time = time.Since(began)
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.under, call)
		if len(p.took) < paceCalls {
			p.took = append(p.took, *call)
			return
		}
		p.took[p.next] = *call
		p.next = (p.next + 1) % paceCalls
	}
}

// forget has only calls count that end from now on.
func (p *pace) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.took, p.next = nil, 0
}

// last returns the last calls, and those under way that have taken longer than late already.
func (p *pace) last(late time.Duration) []took {
	p.mu.Lock()
	defer p.mu.Unlock()
	calls := slices.Clone(p.took)
	for call, began := range p.under {
		if lasted := time.Since(began); lasted > late {
			calls = append(calls, took{lasted, call.changes})
		}
	}
	return calls
}

// quartiles returns what three quarters of the calls took at least, for a batch and for a change.
func quartiles(calls []took) (batch, change time.Duration) {
	var batches, changes []time.Duration
	for _, c := range calls {
		batches = append(batches, c.time)
		changes = append(changes, c.time/time.Duration(c.changes))
	}
	slices.Sort(batches)
	slices.Sort(changes)
	return batches[len(batches)/4], changes[len(changes)/4]
}

// slower says that calls take distinctly longer than others did: what there is to decide would wait ever longer. floor is
// how much longer it must be for a batch. Empty: they do not, or there are too few to tell.
func slower(now, before []took, floor time.Duration) string {
	if len(now) < fewCalls || len(before) < fewCalls {
		return ""
	}
	batch, change := quartiles(now)
	batchWas, changeWas := quartiles(before)
	limit := slowFactor*batchWas + floor
	if batch <= limit || change <= slowFactor*changeWas {
		return ""
	}
	if (len(now) < leastCalls || len(before) < leastCalls) && batch <= limit+verySlow {
		return ""
	}
	return fmt.Sprintf("%s for a batch, where the one before took %s", batch.Round(time.Millisecond), batchWas.Round(10*time.Microsecond))
}

// behind says that a new process falls behind the one before. A swap asks again and again.
func (k *keeper) behind(from, to *generation) error {
	for model, now := range to.serves {
		before, floor := from.serves[model], slowOther
		if before == nil {
			continue
		}
		if at := k.route(model).to.Load(); at.alike {
			floor = slowSame
		}
		for _, local := range []bool{true, false} { // apart, since one may be slow and the other the more frequent
			if how := slower(now.pace(local).last(floor), before.pace(local).last(floor), floor); how != "" {
				return sdk.Errorf(sdk.CodeUnavailable, "it falls behind: model %q takes %s", model, how)
			}
		}
	}
	return nil
}
