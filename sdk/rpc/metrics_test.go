package rpc_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/starling-sync/starling/sdk"
)

// probeMetrics is what this binary counts when it is a plugin.
func probeMetrics() *sdk.Metrics {
	set := new(sdk.Metrics)
	set.Counter("probes_total", "Probes \xff made.").Add(3)
	set.Gauge("probe_depth", "How deep.").Set(-1.5)
	return set
}

func TestMetrics(t *testing.T) {
	p, _ := start(t)
	got, err := p.Client().Metrics(t.Context())
	want := []sdk.Metric{
		{Name: "probe_depth", Help: "How deep.", Kind: sdk.KindGauge, Value: -1.5},
		{Name: "probes_total", Help: "Probes \uFFFD made.", Kind: sdk.KindCounter, Value: 3},
	}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	p.Kill()
	if _, err := p.Client().Metrics(t.Context()); sdk.CodeOf(err) != sdk.CodeUnavailable {
		t.Errorf("of a process that is gone: %v", err)
	}
}
