package supervisor

import (
	"context"
	"sync"
	"time"
)

// machine tells a machine that stands still, such as one that is out of memory, from a plugin that does: by how late this
// process itself is woken, and by whether most plugins miss their deadlines at once.
type machine struct {
	mu     sync.Mutex
	lost   time.Duration   // how late this process was woken, in all
	due    time.Time       // when it is to be woken next; zero: nothing is measured
	states map[string]bool // of each plugin that runs or is being started: it has missed its last deadline
}

const (
	beatTime  = 100 * time.Millisecond // between two looks at the clock
	lateShare = 4                      // of a deadline a quarter lost by this process says that the machine stood still
	fewest    = 3                      // so many plugins must miss their deadlines before that says anything
)

// measure looks at the clock until ctx ends.
func (m *machine) measure(ctx context.Context) {
	timer := time.NewTimer(beatTime)
	defer timer.Stop()
	for {
		m.mu.Lock()
		m.due = time.Now().Add(beatTime)
		m.mu.Unlock()
		timer.Reset(beatTime)
		select {
		case <-timer.C:
			m.woken(time.Now())
		case <-ctx.Done():
			return
		}
	}
}

// woken takes in when this process was woken; less than a beat is no more than a busy machine.
func (m *machine) woken(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if late := now.Sub(m.due); late > beatTime {
		m.lost += late
	}
	m.due = now
}

// lostBy returns how much time this process has lost, up to now.
func (m *machine) lostBy(now time.Time) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	if late := now.Sub(m.due); !m.due.IsZero() && late > beatTime {
		return m.lost + late // whoever measures has yet to wake
	}
	return m.lost
}

// note remembers whether a plugin has missed its last deadline.
func (m *machine) note(plugin string, missed bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.states == nil {
		m.states = make(map[string]bool)
	}
	m.states[plugin] = missed
}

// forget says that a plugin neither runs nor is started.
func (m *machine) forget(plugin string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.states, plugin)
}

// stoodStill says how it is known that the machine, and no plugin, is why a deadline of so long was missed; empty: it is not.
// before is what had been lost when that began.
func (m *machine) stoodStill(before, deadline time.Duration) string {
	if m.lostBy(time.Now())-before >= deadline/lateShare {
		return "the host itself was not run for a part of that time"
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	missed := 0
	for _, is := range m.states {
		if is {
			missed++
		}
	}
	if missed >= fewest && 2*missed > len(m.states) {
		return "most plugins of this host are late at once"
	}
	return ""
}
