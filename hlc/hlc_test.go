package hlc_test

import (
	"errors"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/starling-sync/starling/hlc"
)

// wallClock is a wall clock that a test sets.
type wallClock struct{ millis int64 }

func (w *wallClock) now() time.Time { return time.UnixMilli(w.millis) }

func parseTable(t *testing.T, text string) hlc.Stamp {
	t.Helper()
	millis, counter, _ := strings.Cut(text, ".")
	m, err := strconv.ParseInt(millis, 10, 64)
	if err != nil {
		t.Fatalf("stamp %q: %v", text, err)
	}
	c, err := strconv.ParseUint(counter, 10, 16)
	if err != nil {
		t.Fatalf("stamp %q: %v", text, err)
	}
	return hlc.New(m, uint16(c))
}

// TestClock_Table replays testdata/table.txt.
func TestClock_Table(t *testing.T) {
	text, err := os.ReadFile("testdata/table.txt")
	if err != nil {
		t.Fatal(err)
	}
	wall, steps := &wallClock{}, 0
	var clock *hlc.Clock
	for i, line := range strings.Split(string(text), "\n") {
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		switch {
		case len(words) == 0:
			continue
		case words[0] == "clock":
			clock = hlc.NewClock(wall.now, parseTable(t, words[1]), time.Second)
			continue
		case len(words) != 4:
			t.Fatalf("line %d: want wall, op, remote and result: %q", i+1, line)
		}
		if wall.millis, err = strconv.ParseInt(words[0], 10, 64); err != nil {
			t.Fatalf("line %d: %v", i+1, err)
		}
		before := clock.Last()
		err = nil
		if words[1] == "now" {
			if got := clock.Now(); got != clock.Last() || got <= before {
				t.Errorf("line %d: issued %s after %s, and the mark is %s", i+1, got, before, clock.Last())
			}
		} else {
			err = clock.Observe(parseTable(t, words[2]))
		}
		drift := new(hlc.DriftError)
		switch {
		case words[3] == "drift":
			if !errors.As(err, &drift) || clock.Last() != before {
				t.Errorf("line %d: want a DriftError and the mark left at %s, got %v and %s", i+1, before, err, clock.Last())
			}
		case err != nil:
			t.Errorf("line %d: %v", i+1, err)
		case clock.Last() != parseTable(t, words[3]):
			t.Errorf("line %d: want %s, got %d.%d", i+1, words[3], clock.Last().Millis(), clock.Last().Counter())
		}
		steps++
	}
	if steps < 20 {
		t.Errorf("only %d steps were read", steps)
	}
}

// TestClock_Monotone lets the wall clock jump, remote stamps arrive and the device restart.
func TestClock_Monotone(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		wall := &wallClock{millis: 1_795_000_000_000}
		clock := hlc.NewClock(wall.now, 0, time.Minute)
		var last, seen hlc.Stamp
		for range rapid.IntRange(1, 200).Draw(rt, "steps") {
			switch rapid.SampledFrom([]string{"now", "now", "observe", "jump", "restart"}).Draw(rt, "step") {
			case "now":
				got := clock.Now()
				if got <= last || got <= seen {
					rt.Fatalf("issued %s after %s, having seen %s", got, last, seen)
				}
				last = got
			case "observe":
				ahead := rapid.Int64Range(-1000, 120_000).Draw(rt, "ahead")
				remote := hlc.New(wall.millis+ahead, rapid.Uint16().Draw(rt, "counter"))
				err := clock.Observe(remote)
				if tooFar := ahead > 60_000; (err != nil) != tooFar {
					rt.Fatalf("a stamp %d ms ahead: %v", ahead, err)
				}
				if err == nil {
					seen = max(seen, remote)
				}
			case "jump":
				wall.millis += rapid.Int64Range(-10_000_000, 10_000_000).Draw(rt, "by")
			case "restart":
				clock = hlc.NewClock(wall.now, clock.Last(), time.Minute)
			}
		}
	})
}

func TestClock_Concurrent(t *testing.T) {
	clock := hlc.NewClock((&wallClock{millis: 7}).now, 0, 0)
	var group sync.WaitGroup
	drawn := make([][]hlc.Stamp, 8)
	for i := range drawn {
		group.Go(func() {
			for range 1000 {
				drawn[i] = append(drawn[i], clock.Now())
			}
		})
	}
	group.Wait()
	all := slices.Concat(drawn...)
	slices.Sort(all)
	if unique := slices.Compact(slices.Clone(all)); len(unique) != len(all) {
		t.Errorf("%d of %d stamps were issued twice", len(all)-len(unique), len(all))
	}
}

func TestClock_Check(t *testing.T) {
	wall := &wallClock{millis: 10_000}
	bounded, unbounded := hlc.NewClock(wall.now, 0, time.Minute), hlc.NewClock(wall.now, 0, 0)
	far := hlc.New(10_000+61_000, 0)
	err := bounded.Check(far)
	drift := new(hlc.DriftError)
	if !errors.As(err, &drift) || drift.Ahead != 61*time.Second || drift.Max != time.Minute || drift.Stamp != far {
		t.Errorf("want a DriftError of 61 s, got %v", err)
	}
	if want := "stamp " + far.String() + " is 1m1s ahead of the local clock (at most 1m0s is accepted)"; err.Error() != want {
		t.Errorf("want %q, got %q", want, err)
	}
	wall.millis += 1000
	if err := bounded.Check(far); err != nil {
		t.Errorf("once time has passed: %v", err)
	}
	if err := unbounded.Observe(hlc.MaxStamp - 1<<40); err != nil {
		t.Errorf("a clock without a bound: %v", err)
	}
	err = unbounded.Observe(hlc.MaxStamp)
	if !errors.As(err, &drift) || !strings.Contains(err.Error(), "too near") || unbounded.Now() > hlc.MaxStamp {
		t.Errorf("the greatest stamp: %v, then %s", err, unbounded.Now())
	}
}

func TestClock_Ahead(t *testing.T) {
	wall := &wallClock{millis: 10_000}
	clock := hlc.NewClock(wall.now, hlc.New(12_500, 7), 0)
	if got := clock.Ahead(); got != 2500*time.Millisecond {
		t.Errorf("ahead by %s", got)
	}
	wall.millis = 20_000
	if got := clock.Ahead(); got != 0 {
		t.Errorf("ahead by %s once time has passed", got)
	}
}

func TestStamp_Parts(t *testing.T) {
	s := hlc.New(1_795_331_411_123, 0xabcd)
	if s.Millis() != 1_795_331_411_123 || s.Counter() != 0xabcd {
		t.Errorf("got %d.%d", s.Millis(), s.Counter())
	}
	if want := time.Date(2026, 11, 22, 7, 10, 11, 123_000_000, time.UTC); !s.Time().Equal(want) {
		t.Errorf("want %s, got %s", want, s.Time())
	}
	if want := "01a202174cb3abcd"; s.String() != want {
		t.Errorf("want %s, got %s", want, s)
	}
	if hlc.MaxStamp > math.MaxInt64 || hlc.MaxStamp.Time().Year() != 6429 {
		t.Errorf("the greatest stamp %s, in the year %d, does not fit a signed column", hlc.MaxStamp, hlc.MaxStamp.Time().Year())
	}
}

// TestStamp_Order checks that stamps sort alike as numbers, signed numbers and text.
func TestStamp_Order(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		a := hlc.Stamp(rapid.Uint64Range(0, uint64(hlc.MaxStamp)).Draw(rt, "a"))
		b := hlc.Stamp(rapid.Uint64Range(0, uint64(hlc.MaxStamp)).Draw(rt, "b"))
		if (a < b) != (a.String() < b.String()) || (a < b) != (int64(a) < int64(b)) {
			rt.Fatalf("%s and %s sort in several ways", a, b)
		}
	})
}

func TestParse_Refuses(t *testing.T) {
	cases := map[string]string{
		"":                  "want 16 hexadecimal digits, got 0 characters",
		"01a1e2ab5c33abc":   "got 15 characters",
		"01a1e2ab5c33abcd0": "got 17 characters",
		"01A1e2ab5c33abcd":  "character 3 is not a lower-case hexadecimal digit",
		"01a1e2ab5c33abc ":  "character 16 is not",
		"+1a1e2ab5c33abcd":  "character 1 is not",
		"8000000000000000":  "beyond the greatest stamp 7fffffffffffffff",
	}
	for text, want := range cases {
		if _, err := hlc.Parse(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: want %q, got %v", text, want, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("01a1e2ab5c33abcd")
	f.Add("7fffffffffffffff")
	f.Add("8000000000000000")
	f.Add("01A1")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := hlc.Parse(text)
		if err != nil {
			return
		}
		if s.String() != text || s > hlc.MaxStamp {
			t.Errorf("%q was read as %s", text, s)
		}
	})
}

func FuzzStamp(f *testing.F) {
	f.Add(uint64(0))
	f.Add(uint64(hlc.MaxStamp))
	f.Fuzz(func(t *testing.T, n uint64) {
		s := hlc.Stamp(n) & hlc.MaxStamp
		again, err := hlc.Parse(s.String())
		if err != nil || again != s || hlc.New(s.Millis(), s.Counter()) != s {
			t.Errorf("%s was read as %s, %v", s, again, err)
		}
	})
}

func BenchmarkClock_Now(b *testing.B) {
	clock := hlc.NewClock(time.Now, 0, time.Minute)
	for b.Loop() {
		clock.Now()
	}
}
