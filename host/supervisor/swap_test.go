//go:build unix

package supervisor

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/starling-sync/starling/sdk"
)

// load calls a model without pause until stopped, and counts the calls. None may fail.
type load struct {
	calls atomic.Int64
	stop  func()
}

func loadOn(t *testing.T, server sdk.ModelServer) *load {
	t.Helper()
	l := &load{}
	ctx, cancel := context.WithCancel(t.Context())
	var wait sync.WaitGroup
	for i := range 4 {
		wait.Go(func() {
			for ctx.Err() == nil {
				out, err := server.ApplySharedChange(ctx, sdk.SharedChanges{Batch: sdk.Batch{Model: "note"}, Local: i == 0})
				if (err != nil || len(out.Refused) > 0) && ctx.Err() == nil {
					t.Errorf("a call failed: %v, %v", err, out.Refused)
					return
				}
				l.calls.Add(1)
			}
		})
	}
	l.stop = sync.OnceFunc(func() { cancel(); wait.Wait() })
	t.Cleanup(l.stop)
	return l
}

// journal keeps events.
type journal struct {
	mu     sync.Mutex
	events []Event
}

func (j *journal) record(e Event) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.events = append(j.events, e)
}

func (j *journal) kinds() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	var kinds []string
	for _, e := range j.events {
		kinds = append(kinds, string(e.Kind))
	}
	return strings.Join(kinds, ", ")
}

// swapped returns a supervisor with a plugin that is up, and has load on its model.
func swapped(t *testing.T, change func(*Options)) (*Supervisor, *watcher, *journal, *Instance, *load) {
	t.Helper()
	w, j := newWatcher(), &journal{}
	o := options(t, t.TempDir(), w)
	o.Record = j.record
	if change != nil {
		change(&o)
	}
	s, _ := run(t, o, selfSpec(t, ""))
	p := receive(t, w.up, "up")
	if err := s.Settled(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s, w, j, p, loadOn(t, p.Models[0].Server)
}

func nothing(Step) {}

// TestSupervisor_SwapUnderLoad swaps again and again while calls go on. STARLING_SWAPS says how often.
func TestSupervisor_SwapUnderLoad(t *testing.T) {
	times := 5
	if n, err := strconv.Atoi(os.Getenv("STARLING_SWAPS")); err == nil {
		times = n
	}
	s, w, j, first, load := swapped(t, nil)
	builds := []string{build(t, "note.1"), build(t, "note.2")}
	last := first.PID
	for i := range times {
		before := load.calls.Load()
		var stages []string
		err := s.Swap(t.Context(), Swap{Name: "note", Path: builds[i%2], By: "test", Soak: 100 * time.Millisecond}, func(step Step) { stages = append(stages, string(step.Stage)) })
		if err != nil {
			t.Fatalf("swap %d: %v", i, err)
		}
		if got, want := strings.Join(stages, " "), "staging starting switching draining watching done"; got != want {
			t.Errorf("steps %q, want %q", got, want)
		}
		st := s.Status()[0]
		if st.PID == last || st.State != Running || st.Path != builds[i%2] || st.Restarts != 0 || st.Swap != "" {
			t.Errorf("status %+v", st)
		}
		gone(t, last)
		last = st.PID
		if load.calls.Load() == before {
			t.Error("no call went through during the swap")
		}
	}
	load.stop()
	if kept, err := os.ReadDir(filepath.Join(s.options.StoreDir, "sha256")); err != nil || len(kept) > 3 {
		t.Errorf("the store keeps %d builds of 3: %v", len(kept), err)
	}
	if len(w.down) > 0 || len(w.switches) != times {
		t.Errorf("%d downs, %d switches", len(w.down), len(w.switches))
	}
	if got, want := j.kinds(), strings.TrimSuffix(strings.Repeat("swapped, ", times), ", "); got != want {
		t.Errorf("events %q", got)
	}
	t.Logf("%d swaps, %d calls", times, load.calls.Load())
}

// TestSupervisor_SwapToBadBuilds wants each of them refused or rolled back, the old process at work, and not one call to fail.
func TestSupervisor_SwapToBadBuilds(t *testing.T) {
	for mode, each := range map[string]struct {
		kind EventKind
		want string
	}{
		"crash-start":      {SwapRefused, "exit status 3"},
		"other-model":      {SwapRefused, `does not serve model "note"`},
		"hangs":            {SwapRefused, "did not complete its handshake"},
		"crash-later":      {RolledBack, "exit status 4"},
		"stop-later":       {RolledBack, "it did not"}, // decide on a batch, or answer a health call
		"crash-hundredth":  {RolledBack, "exit status 5"},
		"panic-hundredth":  {RolledBack, "boom"},
		"hang-hundredth":   {RolledBack, "ApplySharedChange of note"},
		"wrong-hundredth":  {RolledBack, "otherwise than the one before"},
		"refuse-hundredth": {RolledBack, "otherwise than the one before"},
		"slow-hundredth":   {RolledBack, "it falls behind"},
		"slow-local":       {RolledBack, "it falls behind"}, // although most calls are for what peers wrote
		"newer-slow":       {RolledBack, "it falls behind"},
	} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			s, w, j, p, load := swapped(t, func(o *Options) { o.StartTimeout = 5 * time.Second })
			bad := build(t, mode)
			err := s.Swap(t.Context(), Swap{Name: "note", Path: bad, Soak: patience}, nothing)
			if err == nil || !strings.Contains(err.Error(), each.want) {
				t.Fatalf("want an error with %q, got %v", each.want, err)
			}
			if mode == "other-model" && !strings.Contains(err.Error(), bad) {
				t.Errorf("want an error that names %s, got %v", bad, err)
			}
			before := load.calls.Load()
			until(t, "calls go on", func() bool { return load.calls.Load() > before+100 })
			load.stop()
			if st := s.Status()[0]; st.PID != p.PID || st.State != Running || st.Swap != "" {
				t.Errorf("status %+v, want process %d", st, p.PID)
			}
			if len(w.down) > 0 {
				t.Error("the plugin went down")
			}
			if got := j.kinds(); got != string(each.kind) {
				t.Errorf("events %q, want %q", got, each.kind)
			}
			if err := s.Swap(t.Context(), Swap{Name: "note", Path: build(t, "note"), Soak: 10 * time.Millisecond}, nothing); err != nil {
				t.Errorf("a good build afterwards: %v", err)
			}
		})
	}
}

// TestSupervisor_SwapOfSchema raises the version: what the two decide is not compared.
func TestSupervisor_SwapOfSchema(t *testing.T) {
	s, w, _, _, _ := swapped(t, nil)
	if err := s.Swap(t.Context(), Swap{Name: "note", Path: build(t, "newer"), Soak: 50 * time.Millisecond}, nothing); err != nil {
		t.Fatal(err)
	}
	w.mu.Lock()
	w.settle = sdk.Errorf(sdk.CodeUnsupported, "no such table")
	w.mu.Unlock()
	pid := s.Status()[0].PID
	err := s.Swap(t.Context(), Swap{Name: "note", Path: build(t, "note"), Soak: 50 * time.Millisecond}, nothing)
	if err == nil || !strings.Contains(err.Error(), "no such table") || s.Status()[0].PID != pid {
		t.Errorf("what the host can not settle: %v, %+v", err, s.Status()[0])
	}
}

// blocksAt are right, stand somewhere, and hold secrets.
type blocksAt struct {
	line    int
	secrets []string
}

func (*blocksAt) Check(map[sdk.ModelName][]sdk.Setting) error        { return nil }
func (*blocksAt) Locate(_ sdk.ModelName, refusal error) error        { return refusal }
func (b *blocksAt) Secrets(map[sdk.ModelName][]sdk.Setting) []string { return b.secrets }

// TestSupervisor_SwapOfConfig configures the same build otherwise, so that it decides otherwise.
func TestSupervisor_SwapOfConfig(t *testing.T) {
	s, _, _, p, load := swapped(t, nil)
	load.stop()
	spec := selfSpec(t, "")
	spec.Config = map[sdk.ModelName]json.RawMessage{"note": json.RawMessage(`{"strict":true}`)}
	over := make(chan error, 1)
	watching := make(chan struct{})
	go func() {
		over <- s.Swap(t.Context(), Swap{Name: "note", Spec: &spec, Soak: 100 * time.Millisecond}, func(step Step) {
			if step.Stage == Draining {
				close(watching)
			}
		})
	}()
	receive(t, watching, "watching")
	out, err := p.Models[0].Server.ApplySharedChange(t.Context(), sdk.SharedChanges{Batch: sdk.Batch{Model: "note"}})
	if err != nil || len(out.Refused) != 1 {
		t.Errorf("%v, %v; want what the new configuration says", out, err)
	}
	if err := receive(t, over, "the swap"); err != nil {
		t.Error(err)
	}
	if err := s.Swap(t.Context(), Swap{Name: "note", Path: build(t, "note")}, nothing); err != nil {
		t.Fatal(err)
	}
	spec.Blocks = &blocksAt{secrets: []string{"a", "b"}}
	if err := s.Swap(t.Context(), Swap{Name: "note", Spec: &spec}, nothing); err != nil {
		t.Fatal(err)
	}
	elsewhere := s.Status()[0]
	for line, sum := range []string{elsewhere.SHA256, ""} { // a checksum that the build in use has, and none any more
		spec.SHA256 = sum
		spec.Blocks = &blocksAt{line: line + 1, secrets: []string{"b", "a"}} // which moves the block below it
		if err := s.Swap(t.Context(), Swap{Name: "note", Spec: &spec}, nothing); err != nil || s.Status()[0].PID != elsewhere.PID {
			t.Errorf("sha256 = %q alone: %v, %+v", sum, err, s.Status()[0])
		}
		err := s.Swap(t.Context(), Swap{Name: "note", Path: build(t, "crash-start")}, nothing)
		if want := map[bool]string{true: "want " + sum, false: "exit status 3"}[sum != ""]; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("sha256 = %q: want %q, got %v", sum, want, err)
		}
	}
	spec.SHA256, spec.Blocks = elsewhere.SHA256, &blocksAt{secrets: []string{"a", "b", "c"}}
	if err := s.Swap(t.Context(), Swap{Name: "note", Spec: &spec}, nothing); err != nil || s.Status()[0].PID == elsewhere.PID {
		t.Errorf("one more secret: %v, and the process does not know it", err)
	}
	spec.Config = nil
	if err := s.Swap(t.Context(), Swap{Name: "note", Spec: &spec}, nothing); err != nil {
		t.Fatal(err)
	}
	if st := s.Status()[0]; st.SHA256 != elsewhere.SHA256 || st.Path != elsewhere.Path || st.PID == elsewhere.PID {
		t.Errorf("a change of configuration alone changed the build: %+v, before %+v", st, elsewhere)
	}
}

func TestSupervisor_SwapIsRefused(t *testing.T) {
	s, w, j, p, _ := swapped(t, nil)
	good := build(t, "note")
	w.mu.Lock()
	w.check = sdk.Errorf(sdk.CodeDenied, "bob can not read it")
	w.mu.Unlock()
	for name, each := range map[string]struct {
		swap Swap
		want string
	}{
		"by the host":    {Swap{Name: "note", Path: good}, "bob can not read it"},
		"wrong checksum": {Swap{Name: "note", Path: good, SHA256: strings.Repeat("ab", 32)}, "is not the one that is expected"},
		"absent":         {Swap{Name: "note", Path: good + "x"}, "no plugin binary at"},
		"no such plugin": {Swap{Name: "nobody", Path: good}, "there is no plugin"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := s.Swap(t.Context(), each.swap, nothing); err == nil || !strings.Contains(err.Error(), each.want) {
				t.Errorf("want %q, got %v", each.want, err)
			}
			if st := s.Status()[0]; st.PID != p.PID || st.State != Running {
				t.Errorf("status %+v", st)
			}
		})
	}
	w.mu.Lock()
	w.check = nil
	w.mu.Unlock()
	events := j.kinds()
	var said string
	if err := s.Swap(t.Context(), Swap{Name: "note", Path: good, DryRun: true}, func(step Step) { said = step.Text }); err != nil || !strings.Contains(said, "would be let in") {
		t.Errorf("dry run: %v, %q", err, said)
	}
	if s.Status()[0].PID != p.PID || j.kinds() != events {
		t.Errorf("the dry run did something: %+v, %s", s.Status()[0], j.kinds())
	}
}

// TestSupervisor_Rollback ends a swap while it is watched, and undoes one that is done.
func TestSupervisor_Rollback(t *testing.T) {
	s, _, j, p, _ := swapped(t, nil)
	if err := s.Rollback(t.Context(), Swap{Name: "note"}, nothing); sdk.CodeOf(err) != sdk.CodeNotFound {
		t.Errorf("with no build before: %v", err)
	}
	good := build(t, "note")
	watching, over := make(chan struct{}), make(chan error, 1)
	go func() {
		over <- s.Swap(t.Context(), Swap{Name: "note", Path: good, Soak: time.Hour}, func(step Step) {
			if step.Stage == Draining {
				close(watching)
			}
		})
	}()
	receive(t, watching, "watching")
	if st := s.Status()[0]; st.PID == p.PID || !strings.Contains(st.Swap, "watching") {
		t.Errorf("status %+v", st)
	}
	for what, err := range map[string]error{
		"swap": s.Swap(t.Context(), Swap{Name: "note", Path: good}, nothing), "restart": s.Restart("note", "test"),
	} {
		if err == nil || !strings.Contains(err.Error(), "under way") {
			t.Errorf("%s meanwhile: %v", what, err)
		}
	}
	if err := s.Rollback(t.Context(), Swap{Name: "note", By: "me"}, nothing); err != nil {
		t.Fatal(err)
	}
	if err := receive(t, over, "the swap"); err == nil || !strings.Contains(err.Error(), "rollback was asked for") {
		t.Errorf("swap: %v", err)
	}
	if st := s.Status()[0]; st.PID != p.PID {
		t.Errorf("status %+v, want process %d", st, p.PID)
	}
	soon := 20 * time.Millisecond
	first := s.Status()[0].SHA256
	if err := s.Swap(t.Context(), Swap{Name: "note", Path: good, Soak: soon}, nothing); err != nil {
		t.Fatal(err)
	}
	if err := s.Rollback(t.Context(), Swap{Name: "note", Soak: soon}, nothing); err != nil {
		t.Fatal(err)
	}
	if st := s.Status()[0]; st.SHA256 != first {
		t.Errorf("status %+v, want %s", st, first)
	}
	if got, want := j.kinds(), "refused, rolled back, swapped, swapped"; got != want {
		t.Errorf("events %q, want %q", got, want)
	}
}

// TestSupervisor_SwapOutOfQuarantine gives a plugin that can not run another build.
func TestSupervisor_SwapOutOfQuarantine(t *testing.T) {
	w := newWatcher()
	spec := selfSpec(t, "")
	spec.Path = build(t, "crash-start")
	s, _ := run(t, options(t, t.TempDir(), w), spec)
	until(t, "quarantine", func() bool { return s.Status()[0].State == Quarantined })
	if err := s.Swap(t.Context(), Swap{Name: "note", Path: build(t, "exits")}, nothing); err == nil || s.Status()[0].State != Quarantined {
		t.Errorf("another bad one: %v, %+v", err, s.Status()[0])
	}
	if err := s.Swap(t.Context(), Swap{Name: "note", Path: build(t, "note")}, nothing); err != nil {
		t.Fatal(err)
	}
	receive(t, w.up, "up")
	until(t, "running", func() bool { return s.Status()[0].State == Running })
}

// TestSupervisor_SwapAndDeath kills a process of a swap that is watched: of the new one the old one takes over, of the old
// one nothing happens, of both the old build is started again.
func TestSupervisor_SwapAndDeath(t *testing.T) {
	for name, each := range map[string]struct{ old, new bool }{"new": {new: true}, "old": {old: true}, "both": {true, true}} {
		t.Run(name, func(t *testing.T) {
			w := newWatcher()
			s, _ := run(t, options(t, t.TempDir(), w), selfSpec(t, ""))
			p := receive(t, w.up, "up")
			first := s.Status()[0].SHA256
			over := make(chan error, 1)
			watching := make(chan struct{})
			go func() {
				over <- s.Swap(t.Context(), Swap{Name: "note", Path: build(t, "note"), Soak: 2 * time.Second}, func(step Step) {
					if step.Stage == Draining {
						close(watching)
					}
				})
			}()
			receive(t, watching, "watching")
			st := s.Status()[0]
			if each.old {
				_ = syscall.Kill(p.PID, syscall.SIGKILL)
				gone(t, p.PID)
			}
			if each.new {
				_ = syscall.Kill(st.PID, syscall.SIGKILL)
			}
			err := receive(t, over, "the swap")
			if (err != nil) != each.new {
				t.Errorf("swap: %v", err)
			}
			until(t, "running", func() bool { return s.Status()[0].State == Running })
			after := s.Status()[0]
			if each.new != (after.SHA256 == first) || (after.PID == p.PID) != (each.new && !each.old) {
				t.Errorf("afterwards %+v; old %d, new %d", after, p.PID, st.PID)
			}
			if _, err := w.server(p).ApplySharedChange(t.Context(), sdk.SharedChanges{Batch: sdk.Batch{Model: "note"}}); err != nil {
				t.Errorf("a call afterwards: %v", err)
			}
		})
	}
}

func (w *watcher) server(p *Instance) sdk.ModelServer { return p.Models[0].Server }
