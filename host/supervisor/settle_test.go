//go:build unix

package supervisor

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/starling-sync/starling/sdk"
)

// TestSupervisor_NoWayBack has the host raise its tables to the new build's version and then fail: the old build can not
// serve them any more, so the new one stays, over a restart of the host too, and is started again.
func TestSupervisor_NoWayBack(t *testing.T) {
	dir, w, j := t.TempDir(), newWatcher(), &journal{}
	o := options(t, dir, w)
	o.Record = j.record
	spec := selfSpec(t, "")
	s, stop := run(t, o, spec)
	first := receive(t, w.up, "up")
	if err := s.Settled(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.settling = func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.check = sdk.Errorf(sdk.CodeUnsupported, "version 2 served this database already")
		w.settle = sdk.Errorf(sdk.CodeUnavailable, "what has waited could not be applied")
	}
	newer := build(t, "newer")
	err := s.Swap(t.Context(), Swap{Name: "note", Path: newer, Soak: 50 * time.Millisecond}, nothing)
	if err == nil || !strings.Contains(err.Error(), "what has waited") || !strings.Contains(err.Error(), "can not serve the tables any more") {
		t.Errorf("swap: %v", err)
	}
	if reason := receive(t, w.down, "down"); !strings.Contains(reason.Error(), "what has waited") {
		t.Errorf("down: %v", reason)
	}
	second := receive(t, w.up, "up again")
	until(t, "running", func() bool { return s.Status()[0].State == Running })
	sum, err := hashOf(newer)
	if err != nil {
		t.Fatal(err)
	}
	if st := s.Status()[0]; st.SHA256 != sum || st.PID != second.PID || second.Models[0].Description.Version != 2 {
		t.Errorf("status %+v, want the build %s", st, sum)
	}
	gone(t, first.PID)
	if got := j.kinds(); got != "swapped, crashed" {
		t.Errorf("events %q", got)
	}
	stop()
	w = newWatcher()
	o.Observer = w
	s, _ = run(t, o, spec)
	receive(t, w.up, "up after a restart")
	if err := s.Settled(t.Context()); err != nil || s.Status()[0].SHA256 != sum {
		t.Errorf("after a restart: %+v, %v", s.Status()[0], err)
	}
}

// TestSupervisor_RemembersRefusals wants a build to be remembered as one that does not work if what it was refused for says
// so, and not else.
func TestSupervisor_RemembersRefusals(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	for name, each := range map[string]struct {
		mode   string
		change func(w *watcher, swap *Swap)
		want   int
	}{
		"a peer is too old":            {"note", func(w *watcher, _ *Swap) { w.check = sdk.Errorf(sdk.CodeUnavailable, "bob can not write it") }, 0},
		"its tables can not fit":       {"note", func(w *watcher, _ *Swap) { w.check = sdk.Errorf(sdk.CodeUnsupported, "field is gone") }, 1},
		"it does not start":            {"crash-start", nil, 1},
		"it serves something else":     {"other-model", nil, 1},
		"its port is taken":            {"note", func(_ *watcher, s *Swap) { s.Spec.Listen = taken.Addr().String() }, 0},
		"it is not the one expected":   {"note", func(_ *watcher, s *Swap) { s.SHA256 = strings.Repeat("ab", 32) }, 0},
		"the host could not settle it": {"note", func(w *watcher, _ *Swap) { w.settle = sdk.Errorf(sdk.CodeUnavailable, "disk full") }, 0},
		"it can not be settled":        {"note", func(w *watcher, _ *Swap) { w.settle = sdk.Errorf(sdk.CodeInvalid, "what it answers") }, 1},
	} {
		t.Run(name, func(t *testing.T) {
			s, w, _, p, _ := swapped(t, nil)
			k, err := s.keeperOf("note")
			if err != nil {
				t.Fatal(err)
			}
			before := k.choices.of("note")
			spec := k.specNow()
			swap := Swap{Name: "note", Path: build(t, each.mode), Spec: &spec}
			if each.change != nil {
				w.mu.Lock()
				each.change(w, &swap)
				w.mu.Unlock()
			}
			if err := s.Swap(t.Context(), swap, nothing); err == nil {
				t.Error("it was let in")
			}
			after := k.choices.of("note")
			if len(after.Refused) != each.want || after.Running != before.Running || after.Trying != "" {
				t.Errorf("remembered %+v; want %d refused", after, each.want)
			}
			if st := s.Status()[0]; st.PID != p.PID || st.State != Running {
				t.Errorf("status %+v", st)
			}
		})
	}
}

// TestSupervisor_RollbackTooLate asks for a rollback when a swap can not be ended any more: it is undone by another swap.
func TestSupervisor_RollbackTooLate(t *testing.T) {
	at, goOn := make(chan struct{}), make(chan struct{})
	var first bool
	s, _, j, _, _ := swapped(t, func(o *Options) {
		o.reached = func(stage Stage) { // on the keeper's goroutine alone
			if stage == chosen && !first {
				first = true
				close(at)
				<-goOn
			}
		}
	})
	before := s.Status()[0].SHA256
	over, back := make(chan error, 1), make(chan error, 1)
	go func() { over <- s.Swap(t.Context(), Swap{Name: "note", Path: build(t, "note")}, nothing) }()
	receive(t, at, "settling")
	k, err := s.keeperOf("note")
	if err != nil {
		t.Fatal(err)
	}
	k.mu.Lock()
	undo := k.trial.undo
	k.mu.Unlock()
	go func() { back <- s.Rollback(t.Context(), Swap{Name: "note"}, nothing) }()
	until(t, "it is asked for", func() bool { return len(undo) > 0 })
	close(goOn)
	if err := receive(t, over, "the swap"); err != nil {
		t.Error(err)
	}
	if err := receive(t, back, "the rollback"); err != nil {
		t.Error(err)
	}
	if st := s.Status()[0]; st.SHA256 != before {
		t.Errorf("status %+v, want %s", st, before)
	}
	if got := j.kinds(); got != "swapped, swapped" {
		t.Errorf("events %q", got)
	}
}

// TestSupervisor_DefectWhileSettling finds fault with an answer when the old process does not decide any more: nobody else
// can be asked.
func TestSupervisor_DefectWhileSettling(t *testing.T) {
	s, w, _, _, _ := swapped(t, nil)
	said := make(chan bool, 1)
	w.settling = func() { said <- s.Defect("note", sdk.Errorf(sdk.CodeInternal, "can not be stored")) }
	if err := s.Swap(t.Context(), Swap{Name: "note", Path: build(t, "note")}, nothing); err != nil {
		t.Error(err)
	}
	if <-said {
		t.Error("it is said that another process decides")
	}
}
