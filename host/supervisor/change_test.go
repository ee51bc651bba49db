//go:build unix

package supervisor

import (
	"net"
	"path/filepath"
	"strings"
	"testing"
)

// TestSupervisor_ResumeAtOnce resumes a plugin while the process that it was paused in is being stopped: its socket is not in its own
// way.
func TestSupervisor_ResumeAtOnce(t *testing.T) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	spec := selfSpec(t, "")
	spec.Transport, spec.Listen = "loopback", free.Addr().String()
	_ = free.Close()
	w := newWatcher()
	s, _ := run(t, options(t, t.TempDir(), w), spec)
	for range 3 {
		p := receive(t, w.up, "up")
		if err := s.Settled(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := s.Pause("note", "it makes way", "test"); err != nil {
			t.Fatal(err)
		}
		if err := s.Resume(t.Context(), "note", "test"); err != nil {
			t.Fatal(err)
		}
		receive(t, w.down, "down")
		gone(t, p.PID)
	}
	p := receive(t, w.up, "up")
	until(t, "running", func() bool { return s.Status()[0].State == Running && s.Status()[0].PID == p.PID })
	if st := s.Status()[0]; st.Restarts != 0 {
		t.Errorf("%d restarts, though it only made way and came back", st.Restarts)
	}
	if c, err := net.Dial("tcp", spec.Listen); err != nil {
		t.Errorf("its socket is closed: %v", err)
	} else {
		_ = c.Close()
	}
}

// TestSupervisor_PausedConfiguration gives a plugin that is paused another path: it stays paused, also over a restart of the host, and
// comes back as it is configured by then. One that is removed and added again runs.
func TestSupervisor_PausedConfiguration(t *testing.T) {
	dir := t.TempDir()
	spec, next := Spec{Name: "note", Path: build(t, "note.1")}, Spec{Name: "note", Path: build(t, "note.2")}
	paused := func(s *Supervisor, path string) {
		t.Helper()
		if st := s.Status()[0]; !st.Paused() || st.Reason != "it makes way" || st.Path != path {
			t.Errorf("it is %+v, want it paused, of %s", st, path)
		}
	}
	w := newWatcher()
	s, stop := run(t, options(t, dir, w), spec)
	receive(t, w.up, "up")
	if err := s.Settled(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Pause("note", "it makes way", "test"); err != nil {
		t.Fatal(err)
	}
	paused(s, spec.Path) // at once, though its process may be there still
	receive(t, w.down, "down")
	said := ""
	if err := s.Swap(t.Context(), Swap{Name: "note", Spec: &next}, func(step Step) { said += step.Text }); err != nil || !strings.Contains(said, "it is stopped: what has changed takes effect when it is started") {
		t.Errorf("another path: %q, %v", said, err)
	}
	paused(s, next.Path)
	absent := Spec{Name: "note", Path: filepath.Join(dir, "nowhere")}
	if err := s.Swap(t.Context(), Swap{Name: "note", Spec: &absent}, nothing); err != nil {
		t.Error(err)
	}
	if err := s.Resume(t.Context(), "note", "test"); err == nil || !strings.Contains(err.Error(), absent.Path) {
		t.Errorf("without a binary: %v", err)
	}
	paused(s, absent.Path)
	if err := s.Swap(t.Context(), Swap{Name: "note", Spec: &next}, nothing); err != nil {
		t.Error(err)
	}
	stop()

	s, _ = run(t, options(t, dir, w), next)
	if err := s.Settled(t.Context()); err != nil {
		t.Fatal(err)
	}
	paused(s, next.Path)
	if err := s.Resume(t.Context(), "note", "test"); err != nil {
		t.Fatal(err)
	}
	receive(t, w.up, "up")
	until(t, "running", func() bool { return s.Status()[0].State == Running })
	if sum, err := hashOf(next.Path); err != nil || s.Status()[0].SHA256 != sum {
		t.Errorf("it runs %+v, want %s (%v)", s.Status()[0], sum, err)
	}
	if err := s.Pause("note", "it makes way", "test"); err != nil {
		t.Fatal(err)
	}
	receive(t, w.down, "down")
	if err := s.Remove("note", "test"); err != nil {
		t.Fatal(err)
	}
	if err := s.Add(t.Context(), next, "test"); err != nil {
		t.Fatal(err)
	}
	receive(t, w.up, "up")
	if st := s.Status()[0]; st.State != Running {
		t.Errorf("added again it is %+v", st)
	}
}
