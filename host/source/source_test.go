package source

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/starling-sync/starling/sdk"
)

// sourceFunc is a function that is an sdk.Source.
type sourceFunc func(ctx context.Context, host sdk.SourceHost) error

func (f sourceFunc) Run(ctx context.Context, host sdk.SourceHost) error { return f(ctx, host) }

// untilStopped is a source that yields nothing.
func untilStopped(ctx context.Context, _ sdk.SourceHost) error {
	<-ctx.Done()
	return nil
}

// store stands for the host's database.
type store struct {
	batches []sdk.Batch
	refused []sdk.Refusal
	err     error
	events  chan int
	stopped atomic.Int32
}

func (s *store) CommitDeviceOwned(_ context.Context, batch sdk.Batch) ([]sdk.Refusal, error) {
	s.batches = append(s.batches, batch)
	return s.refused, s.err
}

func (s *store) Find(_ context.Context, model sdk.ModelName, field string, values []any) (sdk.Batch, error) {
	return sdk.Batch{Model: model, Columns: []string{field}, Count: len(values)}, s.err
}

func (s *store) watch(...sdk.ModelName) (<-chan int, func()) {
	return s.events, func() { s.stopped.Add(1) }
}

// run calls test in virtual time with a runner that runs, and stops it afterwards.
func run(t *testing.T, s *store, test func(t *testing.T, r *Runner)) {
	synctest.Test(t, func(t *testing.T) {
		s.events = make(chan int)
		r := New(Options{Committer: s, Finder: s, Watcher: Signals(s.watch), Now: time.Now})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- r.Run(ctx) }()
		synctest.Wait()
		test(t, r)
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

func status(t *testing.T, r *Runner) Status {
	t.Helper()
	synctest.Wait()
	all := r.Status()
	if len(all) != 1 {
		t.Fatalf("%d sources, want 1", len(all))
	}
	return all[0]
}

func TestRunner_RestartsWithBackoff(t *testing.T) {
	run(t, &store{}, func(t *testing.T, r *Runner) {
		var starts []time.Time
		r.Set("tag", sourceFunc(func(context.Context, sdk.SourceHost) error {
			starts = append(starts, time.Now())
			if len(starts) == 3 {
				panic("a defect")
			}
			return errors.New("no disk")
		}))
		synctest.Wait()
		if got := status(t, r); got.State != Pausing || got.Reason != "no disk" {
			t.Errorf("status %+v, want it to pause because of no disk", got)
		}
		time.Sleep(10 * time.Minute) // of virtual time
		synctest.Wait()
		var gaps []time.Duration
		for i := 1; i < len(starts); i++ {
			gaps = append(gaps, starts[i].Sub(starts[i-1]))
		}
		if len(gaps) < 10 || gaps[0] > time.Second || slices.Max(gaps) > 2*lastPause || gaps[4] < 4*gaps[0] {
			t.Errorf("pauses %v, want them to grow from %v to about %v", gaps, firstPause, lastPause)
		}
		if got := status(t, r); got.Restarts != len(starts)-1 {
			t.Errorf("%d restarts, want %d", got.Restarts, len(starts)-1)
		}
	})
}

func TestRunner_PanicIsAReason(t *testing.T) {
	run(t, &store{}, func(t *testing.T, r *Runner) {
		r.Set("tag", sourceFunc(func(context.Context, sdk.SourceHost) error { panic("a defect") }))
		if got := status(t, r); !strings.Contains(got.Reason, "a defect") {
			t.Errorf("reason %q, want the panic", got.Reason)
		}
	})
}

func TestRunner_GoodRunForgetsFailures(t *testing.T) {
	run(t, &store{}, func(t *testing.T, r *Runner) {
		var starts, ends []time.Time
		r.Set("tag", sourceFunc(func(ctx context.Context, _ sdk.SourceHost) error {
			starts = append(starts, time.Now())
			if len(starts) == 8 {
				time.Sleep(goodRun)
			}
			ends = append(ends, time.Now())
			return errors.New("no disk")
		}))
		time.Sleep(time.Hour)
		synctest.Wait()
		if pause := starts[8].Sub(ends[7]); pause > 2*firstPause {
			t.Errorf("a pause of %v after a good run, want about %v", pause, firstPause)
		}
	})
}

func TestRunner_SetReplaces(t *testing.T) {
	run(t, &store{}, func(t *testing.T, r *Runner) {
		var alive atomic.Int32
		one := func(ctx context.Context, host sdk.SourceHost) error {
			if n := alive.Add(1); n != 1 {
				t.Errorf("%d sources of one model at once", n)
			}
			<-ctx.Done()
			time.Sleep(time.Second) // slow to end
			alive.Add(-1)
			return nil
		}
		for range 3 {
			r.Set("tag", sourceFunc(one))
		}
		time.Sleep(time.Minute)
		if got := status(t, r); got.State != Running || alive.Load() != 1 {
			t.Errorf("status %+v with %d alive, want the last one running", got, alive.Load())
		}
		r.Remove("tag")
		if n := alive.Load(); n != 0 || len(r.Status()) != 0 {
			t.Errorf("%d alive after Remove, status %v", n, r.Status())
		}
		r.Remove("tag")
	})
}

func TestRunner_BeforeRun(t *testing.T) {
	r := New(Options{Now: time.Now})
	r.Set("tag", sourceFunc(untilStopped))
	r.Set("tag", sourceFunc(untilStopped))
	r.Set("entry", sourceFunc(untilStopped))
	var states []State
	for _, s := range r.Status() {
		states = append(states, s.State)
	}
	if want := []State{Waiting, Waiting}; !slices.Equal(states, want) {
		t.Errorf("states %v, want %v", states, want)
	}
	r.Remove("tag") // does not block
	r.Remove("entry")
}

func TestRunner_WarningsAndProgress(t *testing.T) {
	run(t, &store{}, func(t *testing.T, r *Runner) {
		r.Set("location", sourceFunc(func(ctx context.Context, host sdk.SourceHost) error {
			host.Warn("unreadable", 3, "3 folders can not be read")
			host.Warn("absent", 1, "gone")
			host.Warn("absent", 0, "")
			host.Progress(sdk.Progress{Key: "/b", Done: 1})
			host.Progress(sdk.Progress{Key: "/a", Unit: sdk.UnitFiles, Done: 4, Total: 10})
			host.Progress(sdk.Progress{Key: "/a", Unit: sdk.UnitBytes, Done: 500, Total: 1000})
			host.Progress(sdk.Progress{Key: "/a", Unit: sdk.UnitFiles, Done: 5, Total: 10})
			<-ctx.Done()
			return nil
		}))
		want := Status{
			Model: "location", State: Running,
			Warnings: []Warning{{Key: "unreadable", Count: 3, Message: "3 folders can not be read"}},
			Progress: []sdk.Progress{
				{Key: "/a", Unit: sdk.UnitBytes, Done: 500, Total: 1000}, {Key: "/a", Unit: sdk.UnitFiles, Done: 5, Total: 10}, {Key: "/b", Done: 1},
			},
		}
		if diff := cmp.Diff(want, status(t, r), cmpopts.IgnoreFields(Status{}, "Since")); diff != "" {
			t.Errorf("status (-want +got):\n%s", diff)
		}
	})
}

func TestHost_CommitAndFind(t *testing.T) {
	s := &store{refused: []sdk.Refusal{{Index: 1, Code: sdk.CodeInvalid, Message: "no name"}}}
	run(t, s, func(t *testing.T, r *Runner) {
		failure := sdk.Errorf(sdk.CodeUnavailable, "disk full")
		r.Set("location", sourceFunc(func(ctx context.Context, host sdk.SourceHost) error {
			refused, err := host.Commit(ctx, sdk.Batch{Model: "entry", Count: 2})
			if err != nil || len(refused) != 1 {
				t.Errorf("Commit: %v, %v; want one refusal", refused, err)
			}
			found, err := host.Find(ctx, "entry", "parent_id", []any{nil})
			if err != nil || found.Count != 1 {
				t.Errorf("Find: %v, %v", found, err)
			}
			s.err = failure
			if _, err := host.Commit(ctx, sdk.Batch{Model: "entry"}); !errors.Is(err, failure) || sdk.CodeOf(err) != sdk.CodeUnavailable {
				t.Errorf("Commit: %v, want %v", err, failure)
			}
			if _, err := host.Find(ctx, "entry", "id", nil); !errors.Is(err, failure) {
				t.Errorf("Find: %v, want %v", err, failure)
			}
			return nil
		}))
		if got := status(t, r); got.State != Ended {
			t.Errorf("state %s, want %s", got.State, Ended)
		}
		if len(s.batches) != 2 {
			t.Errorf("%d batches, want 2", len(s.batches))
		}
	})
}

func TestHost_Changed(t *testing.T) {
	s := &store{}
	run(t, s, func(t *testing.T, r *Runner) {
		var seen atomic.Int32
		closed := make(chan struct{})
		r.Set("location", sourceFunc(func(ctx context.Context, host sdk.SourceHost) error {
			changed := host.Changed("location")
			go func() {
				for range changed {
					seen.Add(1)
				}
				close(closed)
			}()
			<-ctx.Done()
			return nil
		}))
		for range 3 {
			s.events <- 1
			synctest.Wait()
		}
		if n := seen.Load(); n != 3 {
			t.Errorf("%d values, want 3", n)
		}
		broken := s.events
		s.events = make(chan int)
		close(broken)
		time.Sleep(2 * firstPause)
		s.events <- 1
		synctest.Wait()
		if n := seen.Load(); n != 5 {
			t.Errorf("%d values after the feed broke off and began again, want 5", n)
		}
		r.Remove("location")
		<-closed
		if n := s.stopped.Load(); n != 2 {
			t.Errorf("feeds were released %d times, want twice", n)
		}
	})
}

// TestHost_because has a source give back as text what the host refused: the cause is found all the same, unless the host did what was
// asked for after that.
func TestHost_because(t *testing.T) {
	cause := sdk.Errorf(sdk.CodeUnavailable, "the store is away")
	h := &host{}
	if err := h.because(nil); err != nil {
		t.Error(err)
	}
	_ = h.note(cause)
	if err := h.because(errors.New(cause.Error())); !errors.Is(err, cause) || err.Error() != cause.Error() {
		t.Errorf("got %v", err)
	}
	if err := h.because(nil); err != nil {
		t.Errorf("a source that ended well: %v", err)
	}
	_ = h.note(nil)
	if err := h.because(errors.New("no disk")); errors.Is(err, cause) {
		t.Errorf("got %v", err)
	}
}
