//go:build unix

package supervisor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/starling-sync/starling/sdk"
)

// debug starts this binary as somebody does who debugs a plugin, and returns its process once it has written file.
func debug(t *testing.T, file string) *os.Process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-debug="+file) //nolint:gosec // this test
	cmd.Env = append(os.Environ(), envMode+"=debug")
	if testing.Verbose() {
		cmd.Stderr = os.Stderr
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGCONT)
		_ = cmd.Process.Kill()
		<-ended
	})
	until(t, "the plugin writes how to attach", func() bool {
		_, err := os.Stat(file)
		return err == nil
	})
	return cmd.Process
}

// suspend stops a process, and returns when every thread of it stands still: until then it may answer.
func suspend(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		return // this system does not say
	}
	until(t, "the process is stopped", func() bool {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		for _, path := range threads {
			text, err := os.ReadFile(path)
			if err != nil {
				return false // a thread that has ended meanwhile
			}
			_, state, _ := strings.Cut(string(text[bytes.LastIndexByte(text, ')'):]), " ")
			if !strings.HasPrefix(state, "T") {
				return false
			}
		}
		return err == nil && len(threads) > 0
	})
}

// attachTo is a plugin that is debugged while file is there.
func attachTo(t *testing.T, file string) Spec {
	t.Helper()
	spec := selfSpec(t, "")
	spec.Attach = file
	return spec
}

// badBlocks are wrong, whatever is declared.
type badBlocks struct{}

func (badBlocks) Check(map[sdk.ModelName][]sdk.Setting) error      { return errors.New("line 7") }
func (badBlocks) Locate(_ sdk.ModelName, refusal error) error      { return refusal }
func (badBlocks) Secrets(map[sdk.ModelName][]sdk.Setting) []string { return nil }

// plainBlocks are right by what is declared; the plugin may refuse them.
type plainBlocks struct{ badBlocks }

func (plainBlocks) Check(map[sdk.ModelName][]sdk.Setting) error { return nil }

// TestDebug stops a process under a debugger, as a breakpoint does, and one that is not, for longer than any deadline: only
// the latter is replaced. The former answers once it goes on. When it has ended, its binary runs.
func TestDebug(t *testing.T) {
	file := filepath.Join(t.TempDir(), "debug.json")
	author := debug(t, file)
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("others can read how to attach: %v, %v", info.Mode(), err)
	}
	w := newWatcher()
	o := options(t, t.TempDir(), w)
	o.HealthTimeout, o.CallTimeout, o.StartTimeout = 200*time.Millisecond, 300*time.Millisecond, 10*time.Second
	other := selfSpec(t, "other-model")
	other.Name, other.Models = "other", []sdk.ModelName{"other"}
	s, stop := run(t, o, attachTo(t, file), other)
	if err := s.Settled(t.Context()); err != nil {
		t.Fatal(err)
	}
	up := map[string]*Instance{}
	for range 2 {
		p := receive(t, w.up, "up")
		up[p.Name] = p
	}
	until(t, "it is said to be debugged", func() bool { return s.Status()[0].State == Debugging })
	if st := s.Status()[0]; st.PID != author.Pid || st.Reason == "" {
		t.Errorf("status %+v; want process %d", st, author.Pid)
	}
	if err := s.Swap(t.Context(), Swap{Name: "note"}, func(Step) {}); err == nil || !strings.Contains(err.Error(), "debugger") {
		t.Errorf("a swap of it: %v", err)
	}

	suspend(t, author.Pid)
	suspend(t, up["other"].PID)
	wrong := attachTo(t, file)
	wrong.Blocks = badBlocks{}
	if _, ok := errors.AsType[*ConfigError](s.Try(t.Context(), wrong)); !ok {
		t.Error("a wrong block for a stopped process is not found")
	}
	refused := attachTo(t, file)
	refused.Blocks, refused.Config = plainBlocks{}, map[sdk.ModelName]json.RawMessage{"note": []byte(`{"colour":1}`)}
	if _, ok := errors.AsType[*ConfigError](s.Try(t.Context(), refused)); !ok {
		t.Error("a block that only the plugin itself refuses is not found while its process is stopped")
	}
	answered := make(chan error, 1)
	go func() {
		_, err := up["note"].Models[0].Server.ApplySharedChange(context.Background(), sdk.SharedChanges{Batch: sdk.Batch{Model: "note", Version: 1}})
		answered <- err
	}()
	if reason := receive(t, w.down, "the other is replaced"); reason == nil || !strings.Contains(reason.Error(), "hung") {
		t.Errorf("the other: %v", reason)
	}
	if p := receive(t, w.up, "the other is up again"); p.Name != "other" {
		t.Errorf("%s was replaced", p.Name)
	}
	select {
	case err := <-answered:
		t.Fatalf("a stopped process has answered: %v", err)
	default:
	}
	if st := s.Status()[0]; st.State != Debugging || st.PID != author.Pid {
		t.Errorf("while it is stopped: %+v", st)
	}
	if err := author.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err := receive(t, answered, "the answer"); err != nil {
		t.Errorf("after it went on: %v", err)
	}

	if err := author.Kill(); err != nil { // which leaves the file
		t.Fatal(err)
	}
	receive(t, w.down, "the debugged process ends")
	if p := receive(t, w.up, "its binary runs"); p.Name != "note" || p.PID == author.Pid {
		t.Errorf("up is %+v", p)
	}
	until(t, "it runs", func() bool { return s.Status()[0].State == Running })
	again := debug(t, file+"2")
	if err := os.Rename(file+"2", file); err != nil {
		t.Fatal(err)
	}
	if err := s.Restart("note", "a test"); err != nil {
		t.Fatal(err)
	}
	receive(t, w.down, "the binary ends")
	if p := receive(t, w.up, "the second debugged process"); p.PID != again.Pid {
		t.Errorf("up is %+v", p)
	}
	stop()
	if err := again.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the host's end has ended the process under a debugger: %v", err)
	}
}

// TestDebug_AsksProcess has a process under a debugger judge a block, where there is no binary that could: it takes none of it.
func TestDebug_AsksProcess(t *testing.T) {
	file := filepath.Join(t.TempDir(), "debug.json")
	author := debug(t, file)
	w := newWatcher()
	spec := attachTo(t, file)
	spec.Path = filepath.Join(t.TempDir(), "absent")
	s, _ := run(t, options(t, t.TempDir(), w), spec)
	p := receive(t, w.up, "up")
	until(t, "it is said to be debugged", func() bool { return s.Status()[0].State == Debugging })
	try := func(block string) error {
		next := spec
		next.Blocks, next.Config = plainBlocks{}, map[sdk.ModelName]json.RawMessage{"note": []byte(block)}
		return s.Try(t.Context(), next)
	}
	err := try(`{"colour":1,"strict":true}`)
	if _, ok := errors.AsType[*ConfigError](err); !ok || !strings.Contains(err.Error(), "did you mean color?") {
		t.Errorf("a block that the process refuses: %v", err)
	}
	if err := try(`{"strict":true}`); err != nil {
		t.Errorf("a block that it would take: %v", err)
	}
	out, err := w.server(p).ApplySharedChange(t.Context(), sdk.SharedChanges{Batch: sdk.Batch{Model: "note", Version: 1}})
	if err != nil || len(out.Refused) != 0 || s.Status()[0].PID != author.Pid {
		t.Errorf("it has taken the block: %v, %v", out.Refused, err)
	}
}

// secretBlocks hold a secret.
type secretBlocks struct {
	plainBlocks
	secret string
}

func (b secretBlocks) Secrets(map[sdk.ModelName][]sdk.Setting) []string { return []string{b.secret} }

// TestDebug_NewSecret has a process under a debugger refuse a block by telling the secret that is new in it.
func TestDebug_NewSecret(t *testing.T) {
	file := filepath.Join(t.TempDir(), "debug.json")
	debug(t, file)
	spec := attachTo(t, file)
	s, _ := run(t, options(t, t.TempDir(), newWatcher()), spec)
	until(t, "it is said to be debugged", func() bool { return s.Status()[0].State == Debugging })
	next := spec
	next.Blocks, next.Config = secretBlocks{secret: "hunter2222"}, map[sdk.ModelName]json.RawMessage{"note": []byte(`{"token":"hunter2222"}`)}
	err := s.Try(t.Context(), next)
	if _, ok := errors.AsType[*ConfigError](err); !ok || sdk.CodeOf(err) != sdk.CodeInvalid || !strings.Contains(err.Error(), "does not take") || strings.Contains(err.Error(), "hunter2222") {
		t.Errorf("it says: %v", err)
	}
}

// TestDebug_StoppedAtStart has a process stopped before it was ever asked: nobody waits for it, and it is used once it goes on.
func TestDebug_StoppedAtStart(t *testing.T) {
	file := filepath.Join(t.TempDir(), "debug.json")
	author := debug(t, file)
	suspend(t, author.Pid)
	w := newWatcher()
	s, _ := run(t, options(t, t.TempDir(), w), attachTo(t, file))
	if err := s.Settled(t.Context()); err != nil {
		t.Fatal(err)
	}
	if st := s.Status()[0]; st.State != Debugging || !strings.Contains(st.Reason, "does not answer") {
		t.Errorf("while it is stopped: %+v", st)
	}
	if err := author.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if p := receive(t, w.up, "up"); p.PID != author.Pid {
		t.Errorf("up is %+v", p)
	}
}

// TestDebug_SwappedAtStart changes the configuration of a plugin whose process is stopped, before that is said of it: nobody waits
// for its start, and the process is attached to with the new one.
func TestDebug_SwappedAtStart(t *testing.T) {
	file := filepath.Join(t.TempDir(), "debug.json")
	author := debug(t, file)
	suspend(t, author.Pid)
	w := newWatcher()
	o := options(t, t.TempDir(), w)
	o.StartTimeout = 100 * time.Millisecond // of the binary; who waits for a start gives up soon
	s, _ := run(t, o, attachTo(t, file))
	k, err := s.keeperOf("note")
	if err != nil {
		t.Fatal(err)
	}
	until(t, "it starts", func() bool {
		k.mu.Lock()
		defer k.mu.Unlock()
		return k.life != nil
	})
	next := attachTo(t, file)
	next.Listen, next.Transport = "127.0.0.1:0", "loopback"
	var said string
	if err := s.Swap(t.Context(), Swap{Name: "note", Spec: &next}, func(step Step) { said = step.Text }); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(said, "not swapped") || strings.Contains(said, "process 0") {
		t.Errorf("it says %q", said)
	}
	if err := author.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if p := receive(t, w.up, "up"); p.PID != author.Pid {
		t.Errorf("up is %+v", p)
	}
	if now := k.specNow(); now.Listen != next.Listen {
		t.Errorf("it runs by %+v", now)
	}
}

// TestReplaced names processes that are known, and no others.
func TestReplaced(t *testing.T) {
	for _, state := range []State{Debugging, Starting, Running, Quarantined} {
		for _, attach := range []string{"", "./debug.json"} {
			for _, pid := range []int{0, 4711} {
				text := replaced(&Status{State: state, PID: pid}, &Spec{Attach: attach})
				if strings.Contains(text, "process 0") || strings.Contains(text, "process 4711") != (pid != 0) || strings.Contains(text, "process of  ") {
					t.Errorf("%s, process %d, attach %q: %s", state, pid, attach, text)
				}
			}
		}
	}
}

// TestDebug_Refused wants the debugging of a plugin by another address while a swap of it is watched: that is refused, and what
// the swap's processes listen on is left alone.
func TestDebug_Refused(t *testing.T) {
	spec := selfSpec(t, "")
	spec.Listen, spec.Transport = "127.0.0.1:0", "loopback"
	w := newWatcher()
	s, _ := run(t, options(t, t.TempDir(), w), spec)
	receive(t, w.up, "up")
	if err := s.Settled(t.Context()); err != nil {
		t.Fatal(err)
	}
	watching, over := make(chan struct{}), make(chan error, 1)
	go func() {
		over <- s.Swap(t.Context(), Swap{Name: "note", Path: build(t, "note"), Soak: time.Hour}, func(step Step) {
			if step.Stage == Draining {
				close(watching)
			}
		})
	}()
	receive(t, watching, "watching")
	next := spec
	next.Attach, next.Listen = filepath.Join(t.TempDir(), "debug.json"), "localhost:0"
	if err := s.Swap(t.Context(), Swap{Name: "note", Spec: &next}, nothing); sdk.CodeOf(err) != sdk.CodeUnavailable {
		t.Errorf("during a swap: %v", err)
	}
	k, err := s.keeperOf("note")
	if err != nil {
		t.Fatal(err)
	}
	k.mu.Lock()
	sockets, now := k.sockets, k.spec
	k.mu.Unlock()
	if now.Attach != "" || len(sockets) != 1 {
		t.Fatalf("it was refused and done: %+v, %d sockets", now, len(sockets))
	}
	file, err := sockets[0].Listener.File()
	if err != nil {
		t.Fatalf("its socket was closed: %v", err)
	}
	_ = file.Close()
	if err := s.Rollback(t.Context(), Swap{Name: "note"}, nothing); err != nil {
		t.Error(err)
	}
	receive(t, over, "the swap")
}

// TestDebug_Unsafe refuses to attach where others could have said to what.
func TestDebug_Unsafe(t *testing.T) {
	for name, spoil := range map[string]func(file string) error{
		"file":   func(file string) error { return os.Chmod(file, 0o622) },
		"not it": func(file string) error { return os.WriteFile(file, []byte("{"), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "debug.json")
			debug(t, file)
			if err := spoil(file); err != nil {
				t.Fatal(err)
			}
			s, _ := run(t, options(t, t.TempDir(), newWatcher()), attachTo(t, file))
			until(t, "it is quarantined", func() bool { return s.Status()[0].State == Quarantined })
			if reason := s.Status()[0].Reason; !strings.Contains(reason, file) {
				t.Errorf("reason %q", reason)
			}
		})
	}
}

// TestDebug_LineLeft changes the configuration of a plugin that names the file of a process which does not run: it is swapped
// like any other.
func TestDebug_LineLeft(t *testing.T) {
	spec := attachTo(t, filepath.Join(t.TempDir(), "debug.json"))
	w := newWatcher()
	s, _ := run(t, options(t, t.TempDir(), w), spec)
	old := receive(t, w.up, "up")
	if err := s.Settled(t.Context()); err != nil {
		t.Fatal(err)
	}
	next := spec
	next.Config = map[sdk.ModelName]json.RawMessage{"note": []byte(`{"a":1}`)}
	var stages []Stage
	if err := s.Swap(t.Context(), Swap{Name: "note", Spec: &next}, func(step Step) { stages = append(stages, step.Stage) }); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(stages, Switching) {
		t.Errorf("it was not swapped: %v", stages)
	}
	if st := s.Status()[0]; st.Restarts != 0 || st.PID == old.PID || st.State != Running {
		t.Errorf("after it: %+v", st)
	}
}
