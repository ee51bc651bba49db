package main

import (
	"strings"
	"testing"
	"time"

	"github.com/starling-sync/starling/sdk"
)

// TestLinkTrial is a table of when a transport is found at fault for how its sessions go, and of what is no reason.
func TestLinkTrial(t *testing.T) {
	a, b := sdk.DeviceID{1}, sdk.DeviceID{2}
	type trips = map[sdk.DeviceID]time.Duration
	const ms = time.Millisecond
	before := trips{a: 10 * ms, b: 100 * ms}
	lags := map[string][]trips{ // how far behind the devices are; of the others, always as far
		"catches up": {{a: 9000 * ms}, {a: 6000 * ms}, {a: 4000 * ms}, {a: 2000 * ms}, {a: 1000 * ms}, {}},
		"is behind":  {{b: 0}, {b: 0}, {b: 0}, {b: 0}},
		"lags more":  {{a: 1000 * ms}, {a: 2000 * ms}, {a: 3000 * ms}},
	}
	for name, each := range map[string]struct {
		looks []trips // nil: no device is connected
		want  string
	}{
		"as before":             {[]trips{{a: 10 * ms}, {a: 11 * ms}, {a: 12 * ms}, {a: 13 * ms}}, ""},
		"slow":                  {[]trips{{a: 700 * ms}, {a: 800 * ms}, {a: 900 * ms}}, "it falls behind"},
		"slow, and nothing new": {[]trips{{a: 700 * ms}, {a: 700 * ms}, {a: 700 * ms}, {a: 700 * ms}}, ""},
		"slow now and then":     {[]trips{{a: 700 * ms}, {a: 800 * ms}, {a: 10 * ms}, {a: 900 * ms}, {a: 910 * ms}}, ""},
		"one keeps up":          {[]trips{{a: 700 * ms, b: 101 * ms}, {a: 800 * ms, b: 102 * ms}, {a: 900 * ms, b: 103 * ms}}, ""},
		"both are slow":         {[]trips{{a: 700 * ms, b: time.Second}, {a: 800 * ms, b: 1001 * ms}, {a: 900 * ms, b: 1002 * ms}}, "it falls behind"},
		"not by the factor":     {[]trips{{b: 800 * ms}, {b: 810 * ms}, {b: 820 * ms}}, ""},
		"a stranger is slow":    {[]trips{{sdk.DeviceID{3}: time.Second}, {sdk.DeviceID{3}: 2 * time.Second}, {sdk.DeviceID{3}: 3 * time.Second}}, ""},
		"catches up":            {[]trips{{a: 3000 * ms}, {a: 2500 * ms}, {a: 2000 * ms}, {a: 1500 * ms}, {a: 1000 * ms}, {a: 10 * ms}}, ""},
		"is behind":             {[]trips{{a: 700 * ms}, {a: 800 * ms}, {a: 900 * ms}, {a: 1000 * ms}}, ""},
		"lags more":             {[]trips{{a: 700 * ms}, {a: 800 * ms}, {a: 900 * ms}}, "it falls behind"},
		"away":                  {[]trips{nil, nil, {a: 10 * ms}}, ""},
		"away twice":            {[]trips{{a: 10 * ms}, nil, {a: 10 * ms}, nil, nil}, ""},
		"away again and again":  {[]trips{{a: 10 * ms}, nil, {a: 10 * ms}, nil, {a: 10 * ms}, nil}, "ended 3 times"},
	} {
		link, got := linkTrial{before: before}, ""
		for i, now := range each.looks {
			lag := trips{a: ms, b: ms}
			if lags[name] != nil {
				lag = lags[name][i]
			}
			if why := link.look(now != nil, now, lag); why != nil {
				got = why.Error()
			}
		}
		if each.want == "" && got != "" || !strings.Contains(got, each.want) {
			t.Errorf("%s: %q, want %q", name, got, each.want)
		}
	}
}
