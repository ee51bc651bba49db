//go:build unix

package supervisor

import (
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestMachine_StoodStill is a table of what says that the machine is to blame for a missed deadline of 4 s.
func TestMachine_StoodStill(t *testing.T) {
	const deadline = 4 * time.Second
	for name, each := range map[string]struct {
		late   time.Duration // that this process was woken, once
		missed map[string]bool
		want   bool
	}{
		"nothing":             {},
		"late by a little":    {late: deadline/lateShare - time.Millisecond},
		"late":                {late: deadline / lateShare, want: true},
		"one of one":          {missed: map[string]bool{"a": true}},
		"two of two":          {missed: map[string]bool{"a": true, "b": true}},
		"three of four":       {missed: map[string]bool{"a": true, "b": true, "c": true, "d": false}, want: true},
		"three of six":        {missed: map[string]bool{"a": true, "b": true, "c": true, "d": false, "e": false, "f": false}},
		"three, and one gone": {missed: map[string]bool{"a": true, "b": true, "c": true, "gone": true}, want: true},
	} {
		m := &machine{due: time.Now()}
		for plugin, missed := range each.missed {
			m.note(plugin, missed)
		}
		m.forget("gone")
		if each.late > 0 {
			m.woken(m.due.Add(each.late))
		}
		if got := m.stoodStill(0, deadline); (got != "") != each.want {
			t.Errorf("%s: %q", name, got)
		}
		if got := m.stoodStill(m.lost, deadline); each.late > 0 && got != "" {
			t.Errorf("%s: what was lost before counts: %q", name, got)
		}
	}
	m := &machine{due: time.Now().Add(-deadline)}
	if m.stoodStill(0, deadline) == "" {
		t.Error("a process that has yet to wake was not late")
	}
}

// others has more plugins than the one that runs miss their deadlines.
func others(m *machine) {
	for _, name := range []string{"a", "b", "c"} {
		m.note(name, true)
	}
}

// TestSupervisor_MachineStandsStill stops a plugin's process while most others are late too: it is left alone, and goes on.
func TestSupervisor_MachineStandsStill(t *testing.T) {
	w := newWatcher()
	o := options(t, t.TempDir(), w)
	o.HealthTimeout = 300 * time.Millisecond
	s, _ := run(t, o, selfSpec(t, ""))
	p := receive(t, w.up, "up")
	m := s.options.machine
	others(m)
	missed := func() bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.states["note"]
	}
	if err := syscall.Kill(p.PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	until(t, "a missed health call", missed)
	if err := syscall.Kill(p.PID, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	until(t, "an answer", func() bool { return !missed() || len(w.down) > 0 })
	if st := s.Status()[0]; st.PID != p.PID || st.State != Running {
		t.Errorf("status %+v, want process %d", st, p.PID)
	}
}

// TestSupervisor_StallIsNoFailure has a plugin hang in more lives than its budget has, for longer than it is left alone: while
// most others are late too it is not quarantined.
func TestSupervisor_StallIsNoFailure(t *testing.T) {
	w := newWatcher()
	o := options(t, t.TempDir(), w)
	o.HealthTimeout, o.StallTime, o.Budget = 300*time.Millisecond, time.Nanosecond, 1
	s, _ := run(t, o, selfSpec(t, ""))
	for range 2 * (o.Budget + 1) {
		p := receive(t, w.up, "up")
		others(s.options.machine)
		if err := syscall.Kill(p.PID, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		if reason := receive(t, w.down, "down"); !strings.Contains(reason.Error(), "the machine may be to blame") {
			t.Fatalf("reason %v", reason)
		}
	}
	receive(t, w.up, "up again")
}

// TestSupervisor_QuarantineEnds wants a quarantined plugin to be tried once more by itself, ever later, and said so.
func TestSupervisor_QuarantineEnds(t *testing.T) {
	w, j := newWatcher(), &journal{}
	o := options(t, t.TempDir(), w)
	o.Record, o.Budget, o.MinQuarantine, o.MaxQuarantine = j.record, 2, time.Second, time.Hour
	s, _ := run(t, o, selfSpec(t, ""))
	for lives := range o.Budget + 2 { // the budget, and two tries
		if err := syscall.Kill(receive(t, w.up, "up").PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		receive(t, w.down, "down")
		if lives >= o.Budget-1 {
			until(t, "quarantine", func() bool {
				st := s.Status()[0]
				return st.State == Quarantined && strings.Contains(st.Reason, "; it is tried once more in ")
			})
		}
	}
	if got, want := j.kinds(), "crashed, crashed, quarantined, crashed, quarantined, crashed, quarantined"; got != want {
		t.Errorf("events %q, want %q", got, want)
	}
	tries := retries{options: &Options{MinQuarantine: 10 * time.Minute, MaxQuarantine: 4 * time.Hour}}
	var waits []string
	for range 7 {
		waits = append(waits, tries.next().String())
	}
	if got, want := strings.Join(waits, " "), "10m0s 20m0s 40m0s 1h20m0s 2h40m0s 4h0m0s 4h0m0s"; got != want {
		t.Errorf("it is tried after %s, want %s", got, want)
	}
}
