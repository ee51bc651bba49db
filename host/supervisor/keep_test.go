//go:build unix

package supervisor

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/starling-sync/starling/sdk"
)

func TestSupervisor_CrashAndHang(t *testing.T) {
	for name, signal := range map[string]syscall.Signal{"kill -9": syscall.SIGKILL, "kill -STOP": syscall.SIGSTOP} {
		t.Run(name, func(t *testing.T) {
			o := options(t, t.TempDir(), nil)
			o.HealthTimeout = 300 * time.Millisecond
			w := newWatcher()
			o.Observer = w
			s, _ := run(t, o, selfSpec(t, ""))
			first := receive(t, w.up, "up")
			if err := syscall.Kill(first.PID, signal); err != nil {
				t.Fatal(err)
			}
			reason := receive(t, w.down, "down")
			if sdk.CodeOf(reason) != sdk.CodeUnavailable {
				t.Errorf("reason %v", reason)
			}
			second := receive(t, w.up, "up again")
			if first.PID == second.PID {
				t.Error("the same process")
			}
			gone(t, first.PID)
			if err := s.Settled(t.Context()); err != nil || s.Status()[0].Restarts != 1 {
				t.Errorf("status %+v, %v", s.Status(), err)
			}
		})
	}
}

// TestSupervisor_HungHandler calls a handler that never returns, in each life. The plugin is started again, within its
// budget, although each life lasts longer than the budget's window.
func TestSupervisor_HungHandler(t *testing.T) {
	w := newWatcher()
	o := options(t, t.TempDir(), w)
	o.CallTimeout, o.Budget, o.BudgetWindow = 2*time.Second, 2, 1900*time.Millisecond
	s, _ := run(t, o, selfSpec(t, ""))
	for lives := 1; ; lives++ {
		p := receive(t, w.up, "up")
		_, err := p.Models[0].Server.ApplySharedChange(t.Context(), sdk.SharedChanges{Batch: sdk.Batch{Model: "note", Columns: []string{"hang"}}})
		if sdk.CodeOf(err) != sdk.CodeUnavailable {
			t.Errorf("want code %s, got %v", sdk.CodeUnavailable, err)
		}
		if reason := receive(t, w.down, "down"); !strings.Contains(reason.Error(), "ApplySharedChange of note had been running for") {
			t.Errorf("reason %v", reason)
		}
		gone(t, p.PID)
		until(t, "the next life, or none", func() bool { return len(w.up) > 0 || s.Status()[0].State == Quarantined })
		if s.Status()[0].State == Quarantined {
			break
		}
		if lives == 8 {
			t.Fatal("it is started again for ever")
		}
	}
	if st := s.Status()[0]; st.Restarts < o.Budget-1 {
		t.Errorf("it was not started again: %+v", st)
	}
}

func TestSupervisor_Quarantine(t *testing.T) {
	o := options(t, t.TempDir(), nil)
	o.Budget = 2
	w := newWatcher()
	o.Observer = w
	s, _ := run(t, o, selfSpec(t, ""))
	for range o.Budget {
		if err := syscall.Kill(receive(t, w.up, "up").PID, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		receive(t, w.down, "down")
	}
	until(t, "quarantine", func() bool { return s.Status()[0].State == Quarantined }) // it follows the last Down
	if len(w.up) > 0 {
		t.Fatal("started beyond its budget")
	}
	if err := s.Restart("note", "test"); err != nil {
		t.Fatal(err)
	}
	receive(t, w.up, "up after Restart")
	if err := s.Restart("nobody", "test"); sdk.CodeOf(err) != sdk.CodeNotFound {
		t.Errorf("restart of nobody: %v", err)
	}
}

// TestSupervisor_BadPlugins wants an answer that a person can act on, at once, and no harm to the good plugin beside.
func TestSupervisor_BadPlugins(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	bad := func(change func(*Spec)) Spec {
		spec := selfSpec(t, "")
		change(&spec)
		return spec
	}
	deaf := options(t, t.TempDir(), nil)
	for name, each := range map[string]struct {
		spec Spec
		want string
	}{
		"wrong checksum": {bad(func(s *Spec) { s.SHA256 = strings.Repeat("ab", 32) }), "is not the one that is expected"},
		"missing":        {bad(func(s *Spec) { s.Path = filepath.Join(dir, "absent") }), "no plugin binary at"},
		"directory":      {bad(func(s *Spec) { s.Path = dir }), "no regular file"},
		"not executable": {bad(func(s *Spec) { s.Path = write("plain", "x", 0o600) }), "chmod +x"},
		"not a program":  {bad(func(s *Spec) { s.Path = write("garbage", "\x00garbage", 0o700) }), "is not a program for"},
		"other program":  {bad(func(s *Spec) { s.Path = write("echo", "#!/bin/sh\necho usage: echo\n", 0o700) }), `printed "usage: echo" before its handshake`},
		"silent program": {bad(func(s *Spec) { s.Path = write("true", "#!/bin/sh\nexit 0\n", 0o700) }), "is it a Starling plugin?"},
		"prints":         {selfSpec(t, "prints"), `printed "hello from main" before its handshake`},
		"exits":          {selfSpec(t, "exits"), "exit status 3): no room for me"},
		"other model":    {bad(func(s *Spec) { s.Models = []sdk.ModelName{"tag"} }), `does not serve model "tag"`},
		"transport":      {bad(func(s *Spec) { s.Transport = "tcp" }), `serves transport "loopback", not "tcp"`},
		"config": {bad(func(s *Spec) {
			s.Config = map[sdk.ModelName]json.RawMessage{"note": json.RawMessage(`{"colour":1}`)}
		}), "did you mean color?"},
		"config of a transport that takes none": {bad(func(s *Spec) {
			s.Config = map[sdk.ModelName]json.RawMessage{"": json.RawMessage(`{"x":1}`)}
		}), "takes no settings"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWatcher()
			o := deaf
			o.Observer = w
			each.spec.Name = "bad"
			s, _ := run(t, o, each.spec, selfSpec(t, ""))
			if err := s.Settled(t.Context()); err != nil {
				t.Fatal(err)
			}
			if name == "exits" { // which it may not do the next time
				until(t, "quarantined by the budget", func() bool { return s.Status()[0].State == Quarantined })
			}
			st := s.Status()
			if st[0].State != Quarantined || !strings.Contains(st[0].Reason, each.want) {
				t.Errorf("want quarantined with %q, got %s: %s", each.want, st[0].State, st[0].Reason)
			}
			if st[1].State != Running {
				t.Errorf("the good plugin is %s: %s", st[1].State, st[1].Reason)
			}
			if strings.Contains(st[0].Reason, "sha256") {
				t.Errorf("the reason names the copy, not the binary: %s", st[0].Reason)
			}
		})
	}
}

// TestSupervisor_HangingStart wants the others to wait for one start of a plugin that hangs, and no longer.
func TestSupervisor_HangingStart(t *testing.T) {
	w := newWatcher()
	o := options(t, t.TempDir(), w)
	o.StartTimeout, o.MinBackoff, o.MaxBackoff = 2*time.Second, time.Hour, time.Hour
	hanging := selfSpec(t, "hangs")
	hanging.Name = "hanging"
	s, _ := run(t, o, hanging)
	settled, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := s.Settled(settled); err != nil {
		t.Fatalf("a plugin that hangs holds up all: %v", err)
	}
	st := s.Status()[0]
	if st.State != BackingOff || !strings.Contains(st.Reason, "did not complete its handshake within") || !strings.Contains(st.Reason, "waiting for a lock") {
		t.Errorf("want its last words, got %s: %s", st.State, st.Reason)
	}
}

func TestSupervisor_HostRefuses(t *testing.T) {
	w := newWatcher()
	w.deny = []error{sdk.Errorf(sdk.CodeUnsupported, "schema went backwards")}
	s, _ := run(t, options(t, t.TempDir(), w), selfSpec(t, ""))
	p := receive(t, w.up, "up")
	if err := s.Settled(t.Context()); err != nil {
		t.Fatal(err)
	}
	if st := s.Status()[0]; st.State != Quarantined || !strings.Contains(st.Reason, "schema went backwards") {
		t.Errorf("status %+v", st)
	}
	gone(t, p.PID)
}

// TestSupervisor_HostRefusesForNow wants a plugin that the host can not use now to be tried again.
func TestSupervisor_HostRefusesForNow(t *testing.T) {
	for name, reason := range map[string]error{
		"database is busy": sdk.Errorf(sdk.CodeUnavailable, "the database is busy"),
		"without a code":   errors.New("disk I/O error"),
	} {
		t.Run(name, func(t *testing.T) {
			w := newWatcher()
			w.deny = []error{reason}
			s, _ := run(t, options(t, t.TempDir(), w), selfSpec(t, ""))
			receive(t, w.up, "up")
			receive(t, w.up, "up again")
			until(t, "running", func() bool { return s.Status()[0].State == Running })
		})
	}
}

// TestSupervisor_Restart mends the binary and asks for a restart, in each state that lasts.
func TestSupervisor_Restart(t *testing.T) {
	for name, each := range map[string]struct {
		script string // what the plugin is at first; empty: it works
		state  State
	}{
		"starting":    {"exec sleep 1000", Starting},
		"running":     {"", Running},
		"backing off": {"kill -9 $$", BackingOff},
		"quarantined": {"exit 0", Quarantined},
	} {
		t.Run(name, func(t *testing.T) {
			spec, dir := selfSpec(t, ""), t.TempDir()
			self := spec.Path
			spec.Path = filepath.Join(dir, "note")
			if each.script != "" {
				script := "#!/bin/sh\n: >" + filepath.Join(dir, "ran") + "\n" + each.script + "\n"
				if err := os.WriteFile(spec.Path, []byte(script), 0o700); err != nil { //nolint:gosec // it is run
					t.Fatal(err)
				}
			} else if err := os.Symlink(self, spec.Path); err != nil {
				t.Fatal(err)
			}
			w := newWatcher()
			o := options(t, dir, w)
			o.StartTimeout, o.MinBackoff, o.MaxBackoff = time.Hour, time.Hour, time.Hour
			s, _ := run(t, o, spec)
			until(t, string(each.state), func() bool {
				_, err := os.Stat(filepath.Join(dir, "ran"))
				return s.Status()[0].State == each.state && (err == nil || each.script == "")
			})
			if err := errors.Join(os.Remove(spec.Path), os.Symlink(self, spec.Path), s.Restart("note", "test")); err != nil {
				t.Fatal(err)
			}
			if each.script == "" {
				receive(t, w.up, "up")
			}
			p := receive(t, w.up, "up after Restart")
			until(t, "running", func() bool { return s.Status()[0].State == Running && s.Status()[0].PID == p.PID })
			if st := s.Status()[0]; st.Restarts != 1 {
				t.Errorf("status %+v", st)
			}
		})
	}
}

// TestSupervisor_RestartOfNothing wants why a plugin can not be started again said to who asks for it, and one that runs left
// alone.
func TestSupervisor_RestartOfNothing(t *testing.T) {
	w := newWatcher()
	ghost, note := Spec{Name: "ghost", Path: "/absent/ghost", PathAt: "line 7"}, selfSpec(t, "")
	self := note.Path
	note.Path = filepath.Join(t.TempDir(), "note")
	if err := os.Symlink(self, note.Path); err != nil {
		t.Fatal(err)
	}
	s, _ := run(t, options(t, t.TempDir(), w), ghost, note)
	p := receive(t, w.up, "up")
	if err := s.Settled(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(note.Path); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"ghost": "line 7", "note": "there is no plugin binary at " + note.Path} {
		if err := s.Restart(name, "test"); sdk.CodeOf(err) != sdk.CodeNotFound || !strings.Contains(err.Error(), want) {
			t.Errorf("restart of %s: %v", name, err)
		}
	}
	if st := s.Status(); st[0].State != Quarantined || st[1].State != Running || st[1].PID != p.PID {
		t.Errorf("status %+v", st)
	}
}

// TestSupervisor_StarvedMachine has the host be out of something when a plugin comes up: that is no failure of the plugin.
func TestSupervisor_StarvedMachine(t *testing.T) {
	for _, of := range []error{syscall.ENOSPC, syscall.EAGAIN, syscall.EMFILE} {
		t.Run(of.Error(), func(t *testing.T) {
			w := newWatcher()
			for range 3 {
				w.deny = append(w.deny, sdk.Errorf(sdk.CodeUnavailable, "store: %w", of))
			}
			o := options(t, t.TempDir(), w)
			o.Budget = 1
			s, _ := run(t, o, selfSpec(t, ""))
			for range 4 {
				receive(t, w.up, "up")
			}
			until(t, "running", func() bool { return s.Status()[0].State == Running })
		})
	}
}

// TestSupervisor_RestartIsTold wants the event of a restart written down by the time that it is said to be under way.
func TestSupervisor_RestartIsTold(t *testing.T) {
	s, w, j, _, load := swapped(t, nil)
	load.stop()
	if err := s.Restart("note", "test"); err != nil {
		t.Fatal(err)
	}
	if got := j.kinds(); got != "restarted" {
		t.Errorf("events %q", got)
	}
	receive(t, w.up, "up again")
}

// TestSupervisor_SwapWithoutPatience asks for a swap of a plugin that is starting still, and waits no longer: the swap goes on.
func TestSupervisor_SwapWithoutPatience(t *testing.T) {
	w := newWatcher()
	o := options(t, t.TempDir(), w)
	o.StartTimeout = time.Hour
	s, _ := run(t, o, selfSpec(t, "hangs"))
	k, err := s.keeperOf("note")
	if err != nil {
		t.Fatal(err)
	}
	until(t, "it starts", func() bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		return k.life != nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	over := make(chan error, 1)
	go func() { over <- s.Swap(ctx, Swap{Name: "note", Path: build(t, "note")}, nothing) }()
	if err := receive(t, over, "who asked goes"); !errors.Is(err, context.Canceled) {
		t.Errorf("who asked: %v", err)
	}
	if st := s.Status()[0]; st.Swap == "" {
		t.Errorf("it does not go on: %+v", st)
	}
	if err := s.Rollback(t.Context(), Swap{Name: "note"}, nothing); err != nil || s.Status()[0].Swap != "" {
		t.Errorf("a rollback: %v, %+v", err, s.Status()[0])
	}
}
