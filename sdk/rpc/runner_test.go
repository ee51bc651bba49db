package rpc

import (
	"testing"
	"time"
)

// TestRunner_DyingWords wants only what was said just before the end of a process taken for its cause.
func TestRunner_DyingWords(t *testing.T) {
	start := time.Now()
	type line struct {
		at   time.Duration
		text string
	}
	for name, test := range map[string]struct {
		said  []line
		ended time.Duration
		want  string
	}{
		"nothing":             {nil, time.Minute, ""},
		"just before":         {[]line{{59 * time.Second, "no room"}}, time.Minute, ": no room"},
		"long before":         {[]line{{time.Second, "no room"}}, time.Minute, ""},
		"read after the end":  {[]line{{61 * time.Second, "no room"}}, time.Minute, ": no room"},
		"a panic has a trace": {[]line{{59 * time.Second, "panic: boom"}, {59 * time.Second, "goroutine 1:"}}, time.Minute, ": panic: boom"},
		"an old panic":        {[]line{{time.Second, "panic: boom"}, {59 * time.Second, "no room"}}, time.Minute, ": no room"},
		"a recovered panic":   {[]line{{59 * time.Second, `{"@level":"error","@message":"` + panicRecovered + `"}`}}, time.Minute, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := &processRunner{ended: start.Add(test.ended)}
			for _, l := range test.said {
				r.remember(l.text, start.Add(l.at))
			}
			if got := r.dyingWords(); got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}
