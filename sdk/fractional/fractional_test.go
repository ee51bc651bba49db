package fractional

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// mustBetween is between, and fails the test where it fails.
func mustBetween(t interface {
	Helper()
	Fatalf(string, ...any)
}, a, b string, pick func(int) int) string {
	t.Helper()
	made, err := between(a, b, pick)
	if err != nil {
		t.Fatalf("between %q and %q: %v", a, b, err)
	}
	if err := Check(made); err != nil {
		t.Fatalf("between %q and %q: %v", a, b, err)
	}
	if made <= a || (b != "" && made >= b) {
		t.Fatalf("between %q and %q it made %q", a, b, made)
	}
	return made
}

// extremes are the ways to pick that leave the least room, and a fair one.
func extremes(t *rapid.T) func(int) int {
	source := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0)) //nolint:gosec // a replayable choice
	return rapid.SampledFrom([]func(int) int{
		func(int) int { return 0 }, func(n int) int { return n - 1 }, source.IntN,
	}).Draw(t, "pick")
}

// position is any text that Check takes, few digits the more often, so that neighbours are close.
func position() *rapid.Generator[string] {
	digit := rapid.OneOf(rapid.SampledFrom([]string{"0", "1", "y", "z"}), rapid.StringMatching("[0-9A-Za-z]"))
	return rapid.Custom(func(t *rapid.T) string {
		return strings.Join(rapid.SliceOfN(digit, 0, 12).Draw(t, "digits"), "") + rapid.StringMatching("[1-9A-Za-z]").Draw(t, "last")
	})
}

func TestBetween_IsBetween(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := position().Draw(t, "a"), position().Draw(t, "b")
		if a == b {
			t.Skip("the same twice")
		}
		a, b = min(a, b), max(a, b)
		pick := extremes(t)
		mustBetween(t, "", "", pick)
		mustBetween(t, "", b, pick)
		mustBetween(t, a, "", pick)
		mustBetween(t, a, b, pick)
	})
}

// TestBetween_RandomList inserts and moves at random places, and looks whether the list's order is the texts' order.
func TestBetween_RandomList(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pick := extremes(t)
		var list []string
		for range rapid.IntRange(1, 60).Draw(t, "items") {
			i := rapid.IntRange(0, len(list)).Draw(t, "at")
			a, b := "", ""
			if i > 0 {
				a = list[i-1]
			}
			if i < len(list) {
				b = list[i]
			}
			list = slices.Insert(list, i, mustBetween(t, a, b, pick))
		}
		if !slices.IsSorted(list) {
			t.Fatalf("not in order: %q", list)
		}
	})
}

// TestBetween_Length holds what the package says of how long positions become.
func TestBetween_Length(t *testing.T) {
	pick := rand.New(rand.NewPCG(1, 1)).IntN //nolint:gosec // a replayable choice
	first := mustBetween(t, "", "", pick)
	for name, step := range map[string]func(last string) string{
		"at the end":       func(last string) string { return mustBetween(t, last, "", pick) },
		"at the beginning": func(last string) string { return mustBetween(t, "", last, pick) },
	} {
		last := first
		for range 100_000 {
			last = step(last)
		}
		if len(last) != block+random {
			t.Errorf("100,000 items %s: %q has %d digits, want %d", name, last, len(last), block+random)
		}
	}
	second := mustBetween(t, first, "", pick)
	for name, step := range map[string]func(last string) string{
		"after the one before": func(last string) string { return mustBetween(t, last, second, pick) },
		"before the one after": func(last string) string { return mustBetween(t, first, last, pick) },
	} {
		last := second
		if strings.HasPrefix(name, "after") {
			last = first
		}
		for range 1000 {
			last = step(last)
		}
		if len(last) > 1000/4+20 {
			t.Errorf("1,000 splits %s: %d digits", name, len(last))
		}
	}
}

func TestBetween_Ends(t *testing.T) {
	zero, most := func(int) int { return 0 }, func(n int) int { return n - 1 }
	for _, test := range []struct {
		a, b string
		pick func(int) int
	}{
		{"", "1", most}, {"", "0001", most}, {"", "00000001", most}, {"", "0002", most}, {"zzzz", "", zero}, {"zzzzzzzzz", "", zero},
		{"V", "V1", most}, {"V", "V01", most}, {"V", "W", most}, {"Vz", "W", zero}, {"Vzzzz", "W", zero}, {"Vz", "W01", zero},
		{"A", "A0001", most}, {"000z", "0011", zero},
	} {
		mustBetween(t, test.a, test.b, test.pick)
	}
}

func TestBetween_Wrong(t *testing.T) {
	long := strings.Repeat("z", MaxBytes)
	for _, test := range []struct{ a, b, want string }{
		{"b", "a", "does not sort"}, {"a", "a", "does not sort"}, {"a0", "b", "ends in 0"}, {"a", "\u00e9", "ASCII"}, {"a b", "b", "ASCII"},
		{long + "z", "", "1025"}, {long, "", "new positions"},
	} {
		_, err := Between(test.a, test.b)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("Between(%.8q, %.8q): %v, want an error that says %q", test.a, test.b, err, test.want)
		}
		if errors.Is(err, ErrOrder) != (test.want == "does not sort") {
			t.Errorf("Between(%.8q, %.8q): %v, ErrOrder or not", test.a, test.b, err)
		}
	}
}

// TestBetween_TwoWriters has two insert at the same place, again and again: never the same.
func TestBetween_TwoWriters(t *testing.T) {
	seen := map[string]bool{}
	for range 300 {
		made, err := Between("V000abcd", "V001abcd")
		if err != nil {
			t.Fatal(err)
		}
		if seen[made] {
			t.Fatalf("%q was made twice", made)
		}
		seen[made] = true
	}
}

func TestCheck(t *testing.T) {
	for position, valid := range map[string]bool{"V": true, "0001": true, "aZ9": true, "": false, "0": false, "a0": false, "a-b": false, "\xff": false, "a\x00": false} {
		if err := Check(position); (err == nil) != valid {
			t.Errorf("Check(%q) = %v", position, err)
		}
	}
}
