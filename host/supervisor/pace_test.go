package supervisor

import (
	"slices"
	"testing"
	"time"
)

// TestSlower is a table of when a build falls behind, and of what is no reason to say so.
func TestSlower(t *testing.T) {
	const ms = time.Millisecond
	times := func(n int, time time.Duration, changes int) []took { return slices.Repeat([]took{{time, changes}}, n) }
	for name, each := range map[string]struct {
		now, before []took
		floor       time.Duration
		want        bool
	}{
		"as fast":                     {times(32, ms, 1), times(32, ms, 1), slowSame, false},
		"far slower":                  {times(8, 60*ms, 1), times(8, ms, 1), slowSame, true},
		"slower, and soon enough":     {times(32, 20*ms, 1), times(32, ms, 1), slowSame, false},
		"longer, and not by a factor": {times(32, 300*ms, 1), times(32, 100*ms, 1), slowSame, false},
		"two calls":                   {times(2, time.Minute, 1), times(32, ms, 1), slowSame, false},
		"few calls, slower":           {times(7, 60*ms, 1), times(32, ms, 1), slowSame, false},
		"few calls, very slow":        {times(3, 2*time.Second, 1), times(3, ms, 1), slowSame, true},
		"nothing to compare with":     {times(32, time.Second, 1), nil, slowSame, false},
		"a few took long":             {slices.Concat(times(20, ms, 1), times(12, time.Second, 1)), times(32, ms, 1), slowSame, false},
		"a busy machine":              {slices.Concat(times(10, ms, 1), times(22, time.Second, 1)), times(32, ms, 1), slowSame, false},
		"most took long":              {slices.Concat(times(8, ms, 1), times(24, time.Second, 1)), times(32, ms, 1), slowSame, true},
		"larger batches":              {times(32, 900*ms, 1000), times(32, 10*ms, 1), slowOther, false},
		"smaller batches":             {times(32, 10*ms, 1), times(32, 900*ms, 1000), slowOther, false},
		"other batches, far slower":   {times(32, 900*ms, 100), times(32, 10*ms, 100), slowOther, true},
	} {
		if how := slower(each.now, each.before, each.floor); (how != "") != each.want {
			t.Errorf("%s: %q", name, how)
		}
	}
}

// TestPace wants the last calls, and of those under way the ones that are late already.
func TestPace(t *testing.T) {
	var p pace
	for i := range paceCalls + 3 {
		p.begin(i)()
	}
	calls := p.last(time.Hour)
	slices.SortFunc(calls, func(a, b took) int { return a.changes - b.changes })
	if len(calls) != paceCalls || calls[0].changes != 3 || calls[paceCalls-1].changes != paceCalls+2 {
		t.Errorf("%d calls, %v", len(calls), calls)
	}
	end := p.begin(7)
	if n := len(p.last(time.Hour)); n != paceCalls {
		t.Errorf("%d calls with one under way, want %d", n, paceCalls)
	}
	if n := len(p.last(-1)); n != paceCalls+1 {
		t.Errorf("%d calls with one that is late, want %d", n, paceCalls+1)
	}
	end()
	if p.forget(); len(p.last(-1)) != 0 {
		t.Error("nothing was forgotten")
	}
}
