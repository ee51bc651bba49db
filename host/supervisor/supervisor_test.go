//go:build unix

package supervisor

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"

	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/rpc"
)

// The test binary is also the plugin and the host of these tests: these variables say which.
const (
	envMode = "SUPERVISOR_TEST_MODE"
	envHost = "SUPERVISOR_TEST_HOST"
	envSwap = "SUPERVISOR_TEST_SWAP"

	envReplace = "SUPERVISOR_TEST_REPLACE"
	envStop    = "SUPERVISOR_TEST_STOP"
)

// stopsHere is what a host prints when it has come to the stage that envStop names, where it stays.
const stopsHere = "stops here"

func TestMain(m *testing.M) {
	if rpc.StartedByHost() {
		switch mode() {
		case "crash-start":
			os.Exit(3)
		case "other-model":
			rpc.Serve(model{name: "other"}, loopback{})
			return
		case "newer":
			rpc.Serve(model{version: 2}, loopback{})
			return
		case "prints":
			fmt.Println("hello from main")
		case "hangs": // at its start
			fmt.Fprintln(os.Stderr, "waiting for a lock")
			time.Sleep(time.Hour)
		case "exits":
			fmt.Fprintln(os.Stderr, "no room for me")
			os.Exit(3)
		case "child": // a grandchild of the host that would live on
			child := exec.Command("sleep", "1000")
			if err := child.Start(); err != nil {
				panic(err)
			}
			hclog.Default().Info("child started")
			rpc.Serve(model{child: child.Process.Pid}, loopback{})
			return
		}
		rpc.Serve(model{}, loopback{})
		return
	}
	if dir := os.Getenv(envHost); dir != "" {
		hostMain(dir, os.Getenv(envSwap))
		return
	}
	goleak.VerifyTestMain(m)
}

// patience is when a test gives up; it decides nothing else.
const patience = 30 * time.Second

// mode is what the plugin of a test is to do: its binary's name says so, or the environment.
func mode() string {
	if bad := filepath.Base(os.Args[0]); bad == "note" && os.Getenv(envMode) == "" { // its end says, where its name can not
		if text, err := os.ReadFile(os.Args[0]); err == nil && strings.HasSuffix(string(text), "crash-later") {
			return "crash-later"
		}
	}
	if name := filepath.Base(os.Args[0]); !strings.HasPrefix(name, "supervisor") {
		name, _, _ = strings.Cut(name, ".")
		return name
	}
	return os.Getenv(envMode)
}

// model is a model whose doc names its process, and that panics and takes configuration on request.
type model struct {
	child   int
	name    sdk.ModelName // empty: note
	version uint32        // 0: 1
}

func (m model) Describe(context.Context) (sdk.Description, error) {
	return sdk.Description{
		Model: cmp.Or(m.name, "note"), Version: cmp.Or(m.version, 1), Ownership: sdk.DeviceOwned, Doc: strconv.Itoa(m.child),
	}, nil
}

// strict says that the process is configured to refuse.
var strict atomic.Bool

// batches counts those of a process that fails at the hundredth.
var batches atomic.Int64

func (model) Configure(_ context.Context, config json.RawMessage) error {
	strict.Store(strings.Contains(string(config), "strict"))
	const later = time.Second // when the probe is over
	switch mode() {
	case "crash-later":
		time.AfterFunc(later, func() { os.Exit(4) })
	case "stop-later":
		time.AfterFunc(later, func() { _ = syscall.Kill(os.Getpid(), syscall.SIGSTOP) })
	}
	if strings.Contains(string(config), "colour") {
		return sdk.Errorf(sdk.CodeInvalid, "unknown key colour; did you mean color?")
	}
	return nil
}

func (model) ApplyStateChange(context.Context, sdk.StateChanges) (sdk.StateResult, error) {
	panic("boom")
}

func (model) ApplySharedChange(_ context.Context, in sdk.SharedChanges) (sdk.SharedResult, error) {
	if strict.Load() {
		return sdk.SharedResult{Refused: []sdk.Refusal{{Code: sdk.CodeInvalid, Message: "strict"}}}, nil
	}
	if slices.Contains(in.Batch.Columns, "hang") {
		<-make(chan struct{})
	}
	if mode := mode(); strings.Contains(mode, "hundredth") && batches.Add(1) == 100 {
		switch mode {
		case "crash-hundredth":
			os.Exit(5)
		case "panic-hundredth":
			panic("boom")
		case "hang-hundredth":
			<-make(chan struct{})
		case "wrong-hundredth":
			return sdk.SharedResult{Refused: []sdk.Refusal{{Code: sdk.CodeInvalid, Message: "no"}}}, nil
		case "refuse-hundredth":
			return sdk.SharedResult{}, sdk.Errorf(sdk.CodeInvalid, "no")
		}
	}
	return sdk.SharedResult{}, nil
}

// loopback is a transport over TCP that greets each connection with its process id.
type loopback struct{}

func (loopback) Name() string { return "loopback" }

func (loopback) Dial(context.Context, string) (sdk.Conn, error) {
	return nil, errors.New("no dialling")
}

func (loopback) Listen(_ context.Context, _ string, l net.Listener) (sdk.Listener, error) {
	return loopListener{l}, nil
}

type loopListener struct{ net.Listener }

func (l loopListener) Address() string { return l.Addr().String() }

func (l loopListener) Accept() (sdk.Conn, error) {
	c, err := l.Listener.Accept()
	return loopConn{c}, err
}

type loopConn struct{ net.Conn }

func (c loopConn) RemoteAddress() string { return c.RemoteAddr().String() }

// watcher is an Observer that keeps what it hears.
type watcher struct {
	up   chan *Instance
	down chan error

	mu   sync.Mutex
	deny []error // one for each coming PluginUp, until there are no more

	check, settle error  // answers
	settling      func() // called while a swap is settled; nil: nothing is
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

func (w *watcher) PluginSwitch(_ context.Context, from, to *Instance) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.switches = append(w.switches, [2]int{from.PID, to.PID})
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
	t.Cleanup(stop)
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
	o.CallTimeout, o.Budget, o.BudgetWindow = 2*time.Second, 1, 1900*time.Millisecond
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
	if st := s.Status()[0]; st.Restarts < o.Budget {
		t.Errorf("it was not started again: %+v", st)
	}
}

func TestSupervisor_Quarantine(t *testing.T) {
	o := options(t, t.TempDir(), nil)
	o.Budget = 2
	w := newWatcher()
	o.Observer = w
	s, _ := run(t, o, selfSpec(t, ""))
	for range o.Budget + 1 {
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
		"wrong checksum": {bad(func(s *Spec) { s.SHA256 = strings.Repeat("ab", 32) }), "is not the one that is configured"},
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

// TestSupervisor_SocketSurvivesCrash connects while the transport is dead, and is served by its successor.
func TestSupervisor_SocketSurvivesCrash(t *testing.T) {
	const address = "127.0.0.1:0"
	spec := selfSpec(t, "")
	spec.Listen, spec.Transport = address, "loopback"
	w := newWatcher()
	run(t, options(t, t.TempDir(), w), spec)
	first := receive(t, w.up, "up")
	l, err := first.Transport.Listen(t.Context(), address, nil)
	if err != nil {
		t.Fatal(err)
	}
	at := l.Address()
	if err := syscall.Kill(first.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	receive(t, w.down, "down") // from here until the second Listen nobody accepts
	peer, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatalf("dial while nobody accepts: %v", err)
	}
	defer func() { _ = peer.Close() }()
	if _, err := l.Accept(); err == nil {
		t.Error("accept on a dead plugin succeeded")
	}
	second := receive(t, w.up, "up again")
	again, err := second.Transport.Listen(t.Context(), address, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = again.Close() }()
	if again.Address() != at {
		t.Errorf("address %s became %s", at, again.Address())
	}
	conn, err := again.Accept()
	if err != nil {
		t.Fatalf("the waiting peer was lost: %v", err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := conn.Write([]byte("hi")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 2)
	if _, err := io.ReadFull(peer, got); err != nil || string(got) != "hi" {
		t.Errorf("peer read %q, %v", got, err)
	}
}

func TestSupervisor_PortInUse(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	spec := selfSpec(t, "")
	spec.Listen = taken.Addr().String()
	s, err := New(options(t, t.TempDir(), newWatcher()), []Spec{spec})
	if err != nil {
		t.Fatal(err)
	}
	err = s.Run(t.Context())
	if sdk.CodeOf(err) != sdk.CodeUnavailable || !strings.Contains(err.Error(), spec.Listen) {
		t.Errorf("want an error that names %s, got %v", spec.Listen, err)
	}
}

// hostMain is a host process: it prints its plugin's process id, and the steps of a swap to another build if it is given
// one, and goes on until it is killed.
func hostMain(dir, swap string) {
	w := newWatcher()
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	o := Options{Log: hclog.NewNullLogger(), Observer: w, Now: time.Now, StoreDir: filepath.Join(dir, "plugins"), RuntimeDir: filepath.Join(dir, "run")}
	soak := time.Hour
	stop := Stage(os.Getenv(envStop))
	if slices.Contains([]Stage{Watching, chosen, Settling, Done}, stop) {
		soak = 50 * time.Millisecond
	}
	o.reached = func(at Stage) {
		if at == stop {
			fmt.Println(stopsHere)
			select {}
		}
	}
	s, err := New(o, []Spec{{Name: "note", Path: self}})
	if err != nil {
		panic(err)
	}
	if swap != "" {
		s, err = New(o, []Spec{{Name: "note", Path: filepath.Join(dir, "note")}})
		if err != nil {
			panic(err)
		}
	}
	go func() {
		fmt.Println((<-w.up).PID)
		if swap == "" {
			return
		}
		until := func() bool { return s.Status()[0].State == Running }
		for !until() {
			time.Sleep(time.Millisecond)
		}
		if bad := os.Getenv(envReplace); bad != "" {
			if err := replaceFile(swap, bad); err != nil {
				panic(err)
			}
		}
		err := s.Swap(context.Background(), Swap{Name: "note", Path: swap, Soak: soak}, func(step Step) { fmt.Println(step.Stage) })
		fmt.Println("over", err)
	}()
	panic(s.Run(context.Background()))
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
