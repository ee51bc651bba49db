package sdktest

import (
	"context"
	"flag"
	"fmt"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Result is what came of one check.
type Result struct {
	Law
	Of      string   `json:"of,omitempty"` // as in Check
	Status  Status   `json:"status"`
	Reasons []string `json:"reasons,omitempty"` // why it failed or was skipped
	Seconds float64  `json:"seconds"`
}

// Status says whether a law was kept.
type Status string

// The statuses.
const (
	Kept    Status = "kept"
	Broken  Status = "broken"
	Skipped Status = "skipped" // it could not be checked here; the reason says why
)

// Run runs checks outside of `go test`, one after the other, and gives each result to each as it comes. It returns early
// with ctx's error when that ends. seed repeats the random histories of an earlier run; 0 draws new ones.
func Run(ctx context.Context, checks []Check, seed uint64, each func(Result)) error {
	if err := settle(seed); err != nil {
		return err
	}
	for _, c := range checks {
		if err := ctx.Err(); err != nil {
			return err
		}
		began := time.Now()
		r := newRecorder(ctx, c.ID)
		r.run(c.Run)
		if ctx.Err() != nil {
			return ctx.Err() // what it says is that it was interrupted
		}
		each(r.result(&c, time.Since(began)))
	}
	return nil
}

// settle makes rapid, which is made for tests, work outside of them.
func settle(seed uint64) error {
	if testing.Testing() {
		return nil // who runs the test chose
	}
	testing.Init() // rapid asks whether tests are to be short
	if !flag.Parsed() {
		if err := flag.CommandLine.Parse(nil); err != nil {
			return fmt.Errorf("set rapid up: %w", err)
		}
	}
	for name, value := range map[string]string{
		"rapid.nofailfile": "true", "rapid.shrinktime": "10s", "rapid.seed": strconv.FormatUint(seed, 10),
	} {
		if err := flag.Set(name, value); err != nil {
			return fmt.Errorf("set rapid up: %w", err)
		}
	}
	return nil
}

// recorder is a T that keeps what happened.
type recorder struct {
	name   string
	ctx    context.Context //nolint:containedctx // T has a method for it
	cancel context.CancelFunc

	mu       sync.Mutex
	failed   bool
	skipped  bool
	reasons  []string
	cleanups []func()
}

func newRecorder(ctx context.Context, name string) *recorder {
	r := &recorder{name: name}
	r.ctx, r.cancel = context.WithCancel(ctx)
	return r
}

// run runs f in a goroutine of its own, which FailNow and SkipNow end, then what Cleanup was given.
func (r *recorder) run(f func(T)) {
	r.protected(func() { f(r) })
	r.cancel()
	for {
		r.mu.Lock()
		n := len(r.cleanups)
		if n == 0 {
			r.mu.Unlock()
			return
		}
		last := r.cleanups[n-1]
		r.cleanups = r.cleanups[:n-1]
		r.mu.Unlock()
		r.protected(last)
	}
}

func (r *recorder) protected(f func()) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer func() {
			if p := recover(); p != nil {
				r.Errorf("panic: %v\n%s", p, debug.Stack())
			}
		}()
		f()
	}()
	<-ended
}

func (r *recorder) result(c *Check, took time.Duration) Result {
	r.mu.Lock()
	defer r.mu.Unlock()
	result := Result{Law: c.Law, Of: c.Of, Status: Kept, Reasons: r.reasons, Seconds: took.Seconds()}
	switch {
	case r.failed:
		result.Status = Broken
	case r.skipped:
		result.Status = Skipped
	default:
		result.Reasons = nil
	}
	return result
}

func (r *recorder) say(failed, skipped bool, text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed, r.skipped = r.failed || failed, r.skipped || skipped
	if text = strings.TrimSpace(text); text != "" && (failed || skipped) {
		r.reasons = append(r.reasons, text)
	}
}

// Helper and the methods below implement T.
func (r *recorder) Helper()                  {}
func (r *recorder) Name() string             { return r.name }
func (r *recorder) Context() context.Context { return r.ctx }
func (r *recorder) Logf(string, ...any)      {}
func (r *recorder) Log(...any)               {}
func (r *recorder) Errorf(format string, args ...any) {
	r.say(true, false, fmt.Sprintf(format, args...))
}
func (r *recorder) Error(args ...any)                 { r.say(true, false, fmt.Sprintln(args...)) }
func (r *recorder) Fail()                             { r.say(true, false, "") }
func (r *recorder) FailNow()                          { r.Fail(); runtime.Goexit() }
func (r *recorder) Fatalf(format string, args ...any) { r.Errorf(format, args...); runtime.Goexit() }
func (r *recorder) Fatal(args ...any)                 { r.Error(args...); runtime.Goexit() }
func (r *recorder) SkipNow()                          { r.say(false, true, ""); runtime.Goexit() }
func (r *recorder) Skipf(format string, args ...any) {
	r.say(false, true, fmt.Sprintf(format, args...))
	runtime.Goexit()
}
func (r *recorder) Skip(args ...any) { r.say(false, true, fmt.Sprintln(args...)); runtime.Goexit() }

func (r *recorder) Failed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failed
}

func (r *recorder) Cleanup(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cleanups = append(r.cleanups, f)
}

// Run implements T. What a part says is said with the part's name.
func (r *recorder) Run(name string, f func(T)) bool {
	part := newRecorder(r.ctx, r.name+"/"+name)
	part.run(f)
	for _, reason := range part.reasons {
		r.say(part.failed, false, name+": "+reason)
	}
	if part.failed {
		r.Fail()
	}
	return !part.failed
}
