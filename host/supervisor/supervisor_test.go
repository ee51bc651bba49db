//go:build unix

package supervisor

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/starling-sync/starling/sdk"
)

// patience is when a test gives up; it decides nothing else. It is longer than a start that hangs and is begun again.
const patience = 2 * time.Minute

// watcher is an Observer that keeps what it hears.
type watcher struct {
	up   chan *Instance
	down chan error

	mu   sync.Mutex
	deny []error // one for each coming PluginUp, until there are no more

	check, settle error                                         // answers
	settling      func()                                        // called while a swap is settled; nil: nothing is
	switching     func(ctx context.Context, to *Instance) error // called in PluginSwitch; nil: nothing is
	switches      [][2]int
}

func newWatcher() *watcher {
	return &watcher{up: make(chan *Instance, 100), down: make(chan error, 100)}
}

func (w *watcher) PluginUp(_ context.Context, p *Instance) error {
	w.up <- p
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.deny) == 0 {
		return nil
	}
	err := w.deny[0]
	w.deny = w.deny[1:]
	return err
}

func (w *watcher) PluginDown(_ *Instance, reason error) { w.down <- reason }

func (w *watcher) PluginCheck(_ context.Context, _, to *Instance) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.check
}

func (w *watcher) PluginSwitch(ctx context.Context, from, to *Instance) error {
	w.mu.Lock()
	w.switches = append(w.switches, [2]int{from.PID, to.PID})
	switching := w.switching
	w.mu.Unlock()
	if switching != nil {
		return switching(ctx, to)
	}
	return nil
}

func (w *watcher) PluginSettled(context.Context, *Instance) error {
	if w.settling != nil {
		w.settling()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.settle
}

func receive[T any](t *testing.T, ch <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatalf("%s: nothing after %s", what, patience)
		panic("unreachable")
	}
}

func options(tb testing.TB, dir string, observer Observer) Options {
	tb.Helper()
	level := hclog.Off
	if testing.Verbose() {
		level = hclog.Debug
	}
	return Options{
		Log: hclog.New(&hclog.LoggerOptions{Level: level, Output: os.Stderr}), Observer: observer, Now: time.Now,
		StoreDir: filepath.Join(dir, "plugins"), RuntimeDir: filepath.Join(dir, "run"),
		MinBackoff: time.Millisecond, MaxBackoff: 5 * time.Millisecond,
		HealthInterval: 50 * time.Millisecond, HealthTimeout: 2 * time.Second, HealthMisses: 1, WatchInterval: 50 * time.Millisecond, WatchCallTime: time.Second,
	}
}

func selfSpec(tb testing.TB, mode string) Spec {
	tb.Helper()
	self, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	return Spec{Name: "note", Path: self, Models: []sdk.ModelName{"note"}, Env: []string{envMode + "=" + mode}}
}

// run runs a supervisor until the test ends or stop is called.
func run(t *testing.T, o Options, specs ...Spec) (s *Supervisor, stop func()) {
	t.Helper()
	s, err := New(o, specs)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := receive(t, ended, "stop"); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(func() {
		if t.Failed() { // what it was waiting for
			t.Logf("plugins at the end: %+v", s.Status())
		}
		stop()
	})
	return s, stop
}

// until looks again and again until condition holds.
func until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	look := time.NewTicker(2 * time.Millisecond)
	defer look.Stop()
	giveUp := time.After(patience)
	for !condition() {
		select {
		case <-look.C:
		case <-giveUp:
			t.Fatalf("%s: not after %s", what, patience)
		}
	}
}

// gone waits until no process has pid.
func gone(t *testing.T, pid int) {
	t.Helper()
	until(t, fmt.Sprintf("process %d ends", pid), func() bool {
		if data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil && strings.Contains(string(data), ") Z ") {
			return true // dead; whoever adopted it has yet to ask
		}
		return syscall.Kill(pid, 0) != nil
	})
}

func TestSupervisor_StartAndStop(t *testing.T) {
	w := newWatcher()
	s, stop := run(t, options(t, t.TempDir(), w), selfSpec(t, "child"))
	p := receive(t, w.up, "up")
	if err := s.Settled(t.Context()); err != nil {
		t.Fatal(err)
	}
	st := s.Status()[0]
	if st.State != Running || st.PID != p.PID || len(st.SHA256) != 64 || st.Transport != "loopback" {
		t.Errorf("status %+v", st)
	}
	child, err := strconv.Atoi(p.Models[0].Description.Doc)
	if err != nil || child == 0 {
		t.Fatalf("no child: %v", err)
	}
	stop()
	if reason := receive(t, w.down, "down"); reason != nil {
		t.Errorf("a clean stop has a reason: %v", reason)
	}
	gone(t, p.PID)
	gone(t, child) // the whole process group
	if st := s.Status()[0]; st.State != Stopped || st.PID != 0 {
		t.Errorf("status after stop %+v", st)
	}
}

func TestSupervisor_PanicCostsOneCall(t *testing.T) {
	w := newWatcher()
	s, _ := run(t, options(t, t.TempDir(), w), selfSpec(t, ""))
	p := receive(t, w.up, "up")
	_, err := p.Models[0].Server.ApplyStateChange(t.Context(), sdk.StateChanges{Batch: sdk.Batch{Model: "note"}})
	if sdk.CodeOf(err) != sdk.CodeInternal || !strings.Contains(err.Error(), "boom") {
		t.Errorf("want an internal error that names the panic, got %v", err)
	}
	if _, err := p.Models[0].Server.ApplySharedChange(t.Context(), sdk.SharedChanges{Batch: sdk.Batch{Model: "note"}}); err != nil {
		t.Errorf("the call after a panic: %v", err)
	}
	if st := s.Status()[0]; st.Restarts != 0 {
		t.Errorf("it was restarted: %+v", st)
	}
}

func TestSupervisor_PluginEndsWithHost(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	host := exec.CommandContext(t.Context(), self) //nolint:gosec // this binary
	host.Env = append(os.Environ(), envHost+"="+t.TempDir())
	out, err := host.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := host.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	if err := host.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = host.Wait() // it was killed
	killed := time.Now()
	gone(t, pid)
	t.Logf("the plugin ended %s after its host", time.Since(killed).Round(time.Millisecond))
}

// build makes a build of the plugin of these tests that differs from others and does what mode says.
func build(tb testing.TB, mode string) string {
	tb.Helper()
	self, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	text, err := os.ReadFile(self) //nolint:gosec // this binary
	if err != nil {
		tb.Fatal(err)
	}
	path := filepath.Join(tb.TempDir(), mode)
	if err := os.WriteFile(path, append(text, mode...), 0o700); err != nil { //nolint:gosec // it is run
		tb.Fatal(err)
	}
	return path
}

func copyFile(tb testing.TB, to, from string) {
	tb.Helper()
	if err := replaceFile(to, from); err != nil {
		tb.Fatal(err)
	}
}

func replaceFile(to, from string) error {
	text, err := os.ReadFile(from) //nolint:gosec // a test's
	if err != nil {
		return err
	}
	if err := os.WriteFile(to+".new", text, 0o700); err != nil { //nolint:gosec // it is run
		return err
	}
	return os.Rename(to+".new", to)
}
