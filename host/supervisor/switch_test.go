//go:build unix

package supervisor

import (
	"context"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/starling-sync/starling/sdk"
)

// TestSupervisor_SwitchThatHangs has the host wait, while it switches to a new process, for what never comes. Whatever ends that
// wait, the swap ends, the old process goes on, and the next swap is let in.
func TestSupervisor_SwitchThatHangs(t *testing.T) {
	for name, each := range map[string]struct {
		late bool
		end  func(t *testing.T, s *Supervisor, to *Instance)
		want string
	}{
		"rollback": {end: func(t *testing.T, s *Supervisor, _ *Instance) {
			if err := s.Rollback(t.Context(), Swap{Name: "note", By: "starling plugin rollback"}, nothing); err != nil {
				t.Errorf("rollback: %v", err)
			}
		}, want: "a rollback was asked for"},
		"it dies":      {end: func(_ *testing.T, _ *Supervisor, to *Instance) { _ = syscall.Kill(to.PID, syscall.SIGKILL) }, want: "ended"},
		"nothing does": {late: true, end: func(*testing.T, *Supervisor, *Instance) {}, want: "could not switch to it in time"},
	} {
		t.Run(name, func(t *testing.T) {
			w, j := newWatcher(), &journal{}
			o := options(t, t.TempDir(), w)
			o.Record = j.record
			s, _ := run(t, o, selfSpec(t, ""))
			p := receive(t, w.up, "up")
			if err := s.Settled(t.Context()); err != nil {
				t.Fatal(err)
			}
			at := make(chan *Instance, 1)
			w.mu.Lock()
			w.switching = func(ctx context.Context, to *Instance) error {
				at <- to
				<-ctx.Done()
				return ctx.Err()
			}
			w.mu.Unlock()
			if each.late {
				s.options.StartTimeout = 5 * time.Second // read by the swap alone from now on
			}
			over := make(chan error, 1)
			go func() { over <- s.Swap(t.Context(), Swap{Name: "note", Path: build(t, "note.1")}, nothing) }()
			to := receive(t, at, "the switch")
			each.end(t, s, to)
			if err := receive(t, over, "the swap"); err == nil || !strings.Contains(err.Error(), each.want) {
				t.Errorf("the swap: %v, want %q", err, each.want)
			}
			gone(t, to.PID)
			if st := s.Status()[0]; st.PID != p.PID || st.State != Running || st.Swap != "" {
				t.Errorf("status %+v, want process %d", st, p.PID)
			}
			if got := j.kinds(); got != "refused" {
				t.Errorf("events %q", got)
			}
			w.mu.Lock()
			w.switching = nil
			w.mu.Unlock()
			if err := s.Swap(t.Context(), Swap{Name: "note", Path: build(t, "note.2")}, nothing); err != nil {
				t.Errorf("the next swap: %v", err)
			}
		})
	}
}

// TestSupervisor_SwitchBackThatHangs has the old process die while the host waits for it to take its place again.
func TestSupervisor_SwitchBackThatHangs(t *testing.T) {
	s, w, _, p, load := swapped(t, nil)
	load.stop()
	back := make(chan struct{})
	w.mu.Lock()
	w.switching = func(ctx context.Context, to *Instance) error {
		if to.PID != p.PID {
			return nil
		}
		close(back)
		<-ctx.Done()
		return sdk.Errorf(sdk.CodeUnavailable, "%w", ctx.Err())
	}
	w.mu.Unlock()
	watching, over := make(chan struct{}), make(chan error, 1)
	go func() {
		over <- s.Swap(t.Context(), Swap{Name: "note", Path: build(t, "note.1"), Soak: time.Hour}, func(step Step) {
			if step.Stage == Draining {
				close(watching)
			}
		})
	}()
	receive(t, watching, "the watch")
	go func() { _ = s.Rollback(t.Context(), Swap{Name: "note"}, nothing) }()
	receive(t, back, "the switch back")
	_ = syscall.Kill(p.PID, syscall.SIGKILL)
	if err := receive(t, over, "the swap"); err == nil {
		t.Error("the swap is done")
	}
	receive(t, w.up, "up again")
	until(t, "running", func() bool { return s.Status()[0].State == Running })
}

// TestSupervisor_SwapToItself asks for the build in use, and for the one before twice: what is said tells what there is to do.
func TestSupervisor_SwapToItself(t *testing.T) {
	s, w, j, p, _ := swapped(t, nil)
	last := func(do func(context.Context, Swap, func(Step)) error, swap Swap) (text string) {
		t.Helper()
		if err := do(t.Context(), swap, func(step Step) { text = step.Text }); err != nil {
			t.Fatal(err)
		}
		return text
	}
	if got := last(s.Swap, Swap{Name: "note", Soak: time.Hour}); !strings.Contains(got, "nothing is swapped") || !strings.Contains(got, "starling plugin restart note") {
		t.Errorf("a swap to itself: %q", got)
	}
	if st := s.Status()[0]; st.PID != p.PID || len(w.switches) != 0 || j.kinds() != "" {
		t.Errorf("status %+v, events %s", st, j.kinds())
	}
	first := s.Status()[0].SHA256[:12]
	last(s.Swap, Swap{Name: "note", Path: build(t, "note.1"), By: "test"})
	second := s.Status()[0].SHA256[:12]
	for _, to := range []string{first, second} {
		got := last(s.Rollback, Swap{Name: "note"})
		back, forth, _ := strings.Cut(got, "to return to")
		if !strings.Contains(back, to) || !strings.Contains(forth, "starling plugin rollback note") || s.Status()[0].SHA256[:12] != to {
			t.Errorf("a rollback to %s: %q", to, got)
		}
	}
}

// TestSupervisor_RollbackNamesTheSwap wants the event of a rollback to say who had swapped.
func TestSupervisor_RollbackNamesTheSwap(t *testing.T) {
	s, _, j, _, _ := swapped(t, nil)
	if err := s.Swap(t.Context(), Swap{Name: "note", Path: build(t, "crash-later"), Soak: time.Hour, By: "starling plugin swap"}, nothing); err == nil {
		t.Fatal("a build that crashed was kept")
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if last := j.events[len(j.events)-1]; last.Kind != RolledBack || last.By != "" || !strings.HasSuffix(last.Why, "(swapped by starling plugin swap)") {
		t.Errorf("event %+v", last)
	}
}
