//go:build unix

package supervisor

import (
	"net"
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
	if c, err := net.Dial("tcp", spec.Listen); err != nil {
		t.Errorf("its socket is closed: %v", err)
	} else {
		_ = c.Close()
	}
}
