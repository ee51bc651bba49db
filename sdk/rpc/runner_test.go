package rpc

import (
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/starling-sync/starling/sdk"
)

// TestFromStatus_Gone wants the end of a process told without how the connection noticed it.
func TestFromStatus_Gone(t *testing.T) {
	err := fromStatus(status.Error(codes.Unavailable, "error reading from server: EOF"))
	if sdk.CodeOf(err) != sdk.CodeUnavailable || err.Error() != "the plugin process is gone" {
		t.Errorf("got %s: %v", sdk.CodeOf(err), err)
	}
}

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
