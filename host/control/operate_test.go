package control_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/starling-sync/starling/host/control"
	"github.com/starling-sync/starling/sdk"
)

func TestOperate_Steps(t *testing.T) {
	host, c := start(t)
	host.Processes = []control.Plugin{{Name: "tag"}}
	host.Steps = []control.Step{{Stage: "staging", Text: "staged", Took: time.Millisecond}, {Subject: "store", Stage: "needs a restart"}}
	for call, do := range map[string]func(report func(control.Step)) error{
		"SwapPlugin": func(report func(control.Step)) error {
			return c.SwapPlugin(t.Context(), control.PluginSwap{Name: "tag", Path: "/p", SHA256: "ab", Soak: time.Second, DryRun: true}, report)
		},
		"RollbackPlugin": func(report func(control.Step)) error { return c.RollbackPlugin(t.Context(), "tag", 0, report) },
		"SwapTransport": func(report func(control.Step)) error {
			return c.SwapTransport(t.Context(), control.TransportSwap{From: "a", To: "b"}, report)
		},
		"RollbackTransport": func(report func(control.Step)) error { return c.RollbackTransport(t.Context(), "a", report) },
		"Reload":            func(report func(control.Step)) error { return c.Reload(t.Context(), 0, report) },
	} {
		t.Run(call, func(t *testing.T) {
			for _, failure := range []error{nil, sdk.Errorf(sdk.CodeDenied, "rolled back")} {
				host.Fail = func(asked string) error {
					if asked == call {
						return failure
					}
					return nil
				}
				var got []control.Step
				err := do(func(s control.Step) { got = append(got, s) })
				if sdk.CodeOf(err) != sdk.CodeOf(failure) {
					t.Errorf("got %v, want %v", err, failure)
				}
				if diff := cmp.Diff(host.Steps, got); diff != "" {
					t.Errorf("steps before the end (-want +got):\n%s", diff)
				}
			}
			host.Fail = nil
		})
	}
	if err := c.Reload(t.Context(), -3*time.Second, func(control.Step) {}); sdk.CodeOf(err) != sdk.CodeInvalid || !strings.Contains(err.Error(), "a soak of -3s") {
		t.Errorf("a soak before now: %v", err)
	}
	host.Fail = func(string) error {
		return sdk.Errorf(sdk.CodeUnavailable, "the build did not start: %w", context.DeadlineExceeded)
	}
	if err := c.Reload(t.Context(), 0, func(control.Step) {}); sdk.CodeOf(err) != sdk.CodeUnavailable || strings.Contains(err.Error(), "the host stopped") {
		t.Errorf("a build that did not start in time: %v", err)
	}
}

func TestOperate_Events(t *testing.T) {
	host, c := start(t)
	build := control.Build{Version: "v1", SHA256: "ab", Path: "/p"}
	host.Events = []control.PluginEvent{
		{Number: 1, At: noon, Kind: "swapped", Plugin: "tag", By: "me", Why: "so", From: build, To: build}, {Number: 2, At: noon, Kind: "crashed", Plugin: "tag"},
	}
	read := func(ctx context.Context, after int64, follow bool, most int) (got []control.PluginEvent, err error) {
		enough := errors.New("enough")
		err = c.Events(ctx, after, follow, func(e control.PluginEvent) error {
			if got = append(got, e); len(got) == most {
				return enough
			}
			return nil
		})
		if errors.Is(err, enough) {
			err = nil
		}
		return got, err
	}
	got, err := read(t.Context(), 0, false, 99)
	if diff := cmp.Diff(host.Events, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if got, err := read(t.Context(), 1, true, 1); err != nil || len(got) != 1 || got[0].Number != 2 {
		t.Errorf("after the first: %v, %v", got, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan error, 1)
	go func() {
		_, err := read(ctx, 2, true, 1)
		over <- err
	}()
	cancel()
	if err := <-over; !errors.Is(err, context.Canceled) {
		t.Errorf("a follower that is cancelled: %v", err)
	}
}
