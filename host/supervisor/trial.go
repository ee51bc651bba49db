package supervisor

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/starling-sync/starling/sdk"
)

// trial is a swap under way. Its fields are the keeper's goroutine's, except where it says otherwise.
type trial struct {
	at     Stage       // guarded by keeper.mu
	until  time.Time   // guarded by keeper.mu: the end of the watch; zero before it
	failed atomic.Bool // the new process is out of use already
	fault  chan error  // why; holds one
	undo   chan string // who wants the old process back; holds one
	done   chan struct{}
	err    error // why it is not done; as the next, set before done is closed
	kept   bool  // the new build is the one in use

	from, to *generation // both nil until the switch; guarded by keeper.mu
}

func newTrial() *trial {
	return &trial{at: Staging, fault: make(chan error, 1), undo: make(chan string, 1), done: make(chan struct{})}
}

// back says that somebody wants the old process back. It returns at once.
func (t *trial) back(by string) {
	select {
	case t.undo <- by:
	default: // somebody else wants it too
	}
}

// describe says in a few words what the swap is doing. The caller holds keeper.mu.
func (t *trial) describe(now time.Time) string {
	if t.at == Watching && !t.until.IsZero() {
		return fmt.Sprintf("watching the new build, %s left", max(0, t.until.Sub(now)).Round(time.Second))
	}
	return string(t.at) + " the new build"
}

// busy says that no second swap is begun. The caller holds keeper.mu.
func (t *trial) busy(name string, now time.Time) error {
	return sdk.Errorf(sdk.CodeUnavailable, "a swap of %s is under way (%s); wait, or end it with: starling plugin rollback %s", name, t.describe(now), name)
}

// fault takes the new process of a swap out of use at once: calls go to the one before, on which the keeper then falls
// back entirely. at is where the call went; an earlier one than the present is old news. It may be called by any
// goroutine.
func (k *keeper) fault(at *target, why error) {
	k.mu.Lock()
	t := k.trial
	var from *generation
	if t != nil && t.to != nil {
		for _, s := range t.to.serves {
			if at == nil || s == at.now {
				from = t.from
			}
		}
		if len(t.to.serves) == 0 {
			from = t.from
		}
	}
	k.mu.Unlock()
	if from == nil || !t.failed.CompareAndSwap(false, true) {
		return
	}
	if !from.gone() {
		k.point(from, nil)
	}
	t.fault <- why
}

// Defect says that a model of a plugin answered what can not be used. It reports whether the old process of a swap decides
// from now on, so that asking again may help: that is so while the new one is watched.
func (s *Supervisor) Defect(model sdk.ModelName, why error) bool {
	for _, k := range s.all() {
		k.mu.Lock()
		t, r := k.trial, k.routes[model]
		k.mu.Unlock()
		if t == nil || r == nil {
			continue
		}
		if to := r.to.Load(); to != nil && to.before != nil {
			k.fault(to, sdk.Errorf(sdk.CodeInternal, "what it answered for model %q can not be used: %w", model, why))
		}
		k.mu.Lock()
		from := t.from
		k.mu.Unlock()
		if to := r.to.Load(); from != nil && to.before == nil && to.now == from.serves[model] {
			return true
		}
	}
	return false
}

// Fault says that an instance does not do its work, though its process runs. While a swap of its plugin is watched that
// ends the swap; otherwise it changes nothing.
func (s *Supervisor) Fault(p *Instance, why error) {
	k, err := s.keeperOf(p.Name)
	if err != nil {
		return // gone meanwhile
	}
	k.mu.Lock()
	concerned := k.trial != nil && k.trial.to != nil && k.trial.to.instance == p
	k.mu.Unlock()
	if concerned {
		k.fault(nil, why)
	}
}
