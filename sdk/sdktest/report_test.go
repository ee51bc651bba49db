package sdktest_test

import (
	"context"
	"errors"
	"flag"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/starling-sync/starling/sdk/sdktest"
)

// TestRun wants the same of a law outside of a test as in one: what ends it, what fails it, what runs afterwards.
func TestRun(t *testing.T) {
	var order []string
	note := func(what string) func() { return func() { order = append(order, what) } }
	laws := []struct {
		id     string
		run    func(t sdktest.T)
		status sdktest.Status
		says   string
	}{
		{"KEPT", func(t sdktest.T) {
			t.Cleanup(note("first given"))
			t.Cleanup(note("last given"))
			t.Logf("nobody reads this")
			note("law")()
		}, sdktest.Kept, ""},
		{"ERROR", func(t sdktest.T) { t.Errorf("one %d", 1); t.Error("two") }, sdktest.Broken, "one 1|two"},
		{"FATAL", func(t sdktest.T) {
			defer note("deferred")()
			t.Fatalf("no further")
			t.Error("further") //nolint:govet // it must not be reached
		}, sdktest.Broken, "no further"},
		{"SKIP", func(t sdktest.T) { t.Skipf("not here: %s", "why"); t.Error("further") }, sdktest.Skipped, "not here: why"},
		{"PANIC", func(sdktest.T) { panic("oh") }, sdktest.Broken, "panic: oh"},
		{"PART", func(t sdktest.T) {
			if t.Run("sound", func(sdktest.T) {}) != true || t.Run("bad", func(t sdktest.T) { t.Fatal("broken") }) != false {
				t.Error("Run says the contrary")
			}
			t.Run("left out", func(t sdktest.T) { t.Skip("it is not about this") })
			if !t.Failed() {
				t.Error("a part fails the whole")
			}
		}, sdktest.Broken, "bad: broken"},
		{"CLEANUP", func(t sdktest.T) {
			ctx := t.Context()
			t.Cleanup(func() {
				if ctx.Err() == nil {
					t.Error("the context outlives the law")
				}
				t.Error("found afterwards")
			})
		}, sdktest.Broken, "found afterwards"},
		{"RANDOM", func(t sdktest.T) {
			rapid.Check(t, func(rt *rapid.T) {
				if n := rapid.IntRange(0, 1000).Draw(rt, "n"); n >= 100 {
					rt.Fatalf("%d is too great", n)
				}
			})
		}, sdktest.Broken, "is too great"}, // the smallest that is found in time
	}
	if err := flag.Set("rapid.nofailfile", "true"); err != nil { // RANDOM fails on purpose
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = flag.Set("rapid.nofailfile", "false") })
	var checks []sdktest.Check
	for _, l := range laws {
		checks = append(checks, sdktest.Check{Law: sdktest.Law{ID: l.id}, Run: l.run})
	}
	var results []sdktest.Result
	if err := sdktest.Run(t.Context(), checks, 0, func(r sdktest.Result) { results = append(results, r) }); err != nil {
		t.Fatal(err)
	}
	for i, l := range laws {
		reasons := strings.Join(results[i].Reasons, "|")
		if results[i].ID != l.id || results[i].Status != l.status || !strings.Contains(reasons, l.says) || l.says == "" && reasons != "" {
			t.Errorf("%s: want %s because of %q, got %+v", l.id, l.status, l.says, results[i])
		}
		if strings.Contains(reasons, "further") && l.id != "FATAL" || strings.Contains(reasons, "|further") {
			t.Errorf("%s went on after its end: %s", l.id, reasons)
		}
	}
	if diff := cmp.Diff([]string{"law", "last given", "first given", "deferred"}, order); diff != "" {
		t.Errorf("what ran (-want +got):\n%s", diff)
	}
}

func TestRun_Interrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	checks := []sdktest.Check{
		{Law: sdktest.Law{ID: "FIRST"}, Run: func(sdktest.T) {}},
		{Law: sdktest.Law{ID: "SECOND"}, Run: func(t sdktest.T) { cancel(); <-t.Context().Done(); t.Fatal("interrupted") }},
		{Law: sdktest.Law{ID: "THIRD"}, Run: func(sdktest.T) { t.Error("a law after the interruption was checked") }},
	}
	var kept []string
	err := sdktest.Run(ctx, checks, 0, func(r sdktest.Result) { kept = append(kept, r.ID) })
	if !errors.Is(err, context.Canceled) || len(kept) != 1 || kept[0] != "FIRST" {
		t.Errorf("want FIRST alone and context.Canceled, got %v, %v", kept, err)
	}
}
