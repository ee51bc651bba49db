package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"strings"
	"testing"
)

func prepared(tb testing.TB) Options {
	tb.Helper()
	o := Options{Store: "memory"}
	if err := o.prepare(); err != nil {
		tb.Fatal(err)
	}
	return o
}

// TestRun makes some runs of the real code; task sim makes more.
func TestRun(t *testing.T) {
	o := prepared(t)
	o.Seed = 1
	seeds := uint64(40)
	if testing.Short() {
		seeds = 10
	}
	total, err := runMany(o, seeds, 2)
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	report(&text, total, 1)
	if total.Crashes == 0 || total.MidCommit == 0 || total.Cuts == 0 || total.Stops == 0 || total.Jumps == 0 || total.Resets == 0 || total.Holds == 0 ||
		total.Overlaps == 0 || total.Hidden == 0 || total.Refused == 0 || total.Aheads == 0 || total.Restamped == 0 || total.SeenHeld == 0 ||
		total.Removed == 0 || !testing.Short() && (total.Kept == 0 || total.Stale == 0) { // the rare ones
		t.Errorf("some faults did not happen:\n%s", text.String())
	}
}

// TestRun_files makes runs over SQLite in files; each crash takes what the files hold.
func TestRun_files(t *testing.T) {
	o := prepared(t)
	o.Store, o.Dir, o.Seed = "file", t.TempDir(), 1
	if _, err := runMany(o, 2, 1); err != nil {
		t.Fatal(err)
	}
}

// TestRun_replays makes a run twice: every event, message and byte is the same.
func TestRun_replays(t *testing.T) {
	o := prepared(t)
	digests := map[uint64]bool{}
	for seed := range uint64(5) {
		o.Seed = 100 + seed
		var first uint64
		for i := range 3 {
			_, digest, err := Run(o)
			if err != nil {
				t.Fatal(err)
			}
			if i == 0 {
				first = digest
				digests[digest] = true
			} else if digest != first {
				t.Errorf("seed %d gave another run: %x, then %x", o.Seed, first, digest)
			}
		}
	}
	if len(digests) != 5 {
		t.Errorf("%d different runs of 5 seeds", len(digests))
	}
}

// rare is, for bugs that few seeds show, the first that does. The search begins there and goes around all of them, so
// that a change of the simulator makes it longer, and nothing else.
var rare = map[string]uint64{
	"clocks-of-deleted-forgotten": 75, "shadow-forgotten-early": 64, "remove-takes-unseen": 28, "remove-wins": 28, "retirement-ignored": 18,
	"owner-not-believed": 26, "kept-digests-stale": 20,
	"audit-never-repairs": 12, "own-loss-ignored": 10, "owner-not-checked": 9, "window-ignored": 8, "refusal-to-connect-lost": 6,
}

// TestRare wants each of them to be a bug that there is, and each bug in the table of the page.
func TestRare(t *testing.T) {
	page, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	left := maps.Clone(rare)
	for _, b := range bugs() {
		delete(left, b.name)
		if row := fmt.Sprintf("\n| %s | %s | ", b.name, b.does); !strings.Contains(string(page), row) {
			t.Errorf("the page lacks: %s", row)
		}
	}
	for name := range left {
		t.Errorf("there is no bug %q", name)
	}
}

// TestBugs puts each seeded bug around the real code: the checkers must catch it.
func TestBugs(t *testing.T) {
	for _, b := range bugs() {
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			o := Options{Store: "memory", Bug: b.name}
			if err := o.prepare(); err != nil {
				t.Fatal(err)
			}
			const most = 200
			for tried := range uint64(most) {
				o.Seed = 1 + (max(1, rare[b.name])-1+tried)%most
				_, _, err := Run(o)
				if err == nil {
					continue
				}
				failure, ok := errors.AsType[*Failure](err)
				if !ok || failure.Check == "panic" {
					t.Fatalf("not a check: %v", err)
				}
				t.Logf("| %s | %s | %d | %s |", b.name, b.does, o.Seed, failure.Check)
				return
			}
			t.Errorf("%d seeds did not catch it: %s", most, b.does)
		})
	}
}

func TestOptions_command(t *testing.T) {
	o := Options{Seed: 7, Store: "file", Devices: 3, Writes: 5, Without: []string{"cut", "crash"}, Bug: "x", Topology: "line"}
	want := "task sim -- -seeds 1 -from 7 -v -store file -devices 3 -topology line -writes 5 -without cut,crash -bug x"
	if got := o.command(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestSmaller(t *testing.T) {
	o := prepared(t)
	o.Bug, o.Seed = "page-loses-model", 1
	_, _, err := Run(o)
	failure, ok := errors.AsType[*Failure](err)
	if !ok {
		t.Fatalf("the bug was not caught: %v", err)
	}
	o, failure = smaller(o, failure)
	if _, _, err := Run(o); fmt.Sprint(err) != failure.Error() {
		t.Errorf("the smaller run says %v, and then %v", failure, err)
	}
	if len(o.Without) == 0 {
		t.Errorf("nothing was left out: %s", o.command())
	}
}
