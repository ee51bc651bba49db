package sdk_test

import (
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/starling-sync/starling/sdk"
)

func TestMetrics(t *testing.T) {
	var set sdk.Metrics
	read, waiting := set.Counter("files_read_total", "Files read."), set.Gauge("queue_files", "Files that wait.")
	if set.Counter("files_read_total", "") != read || set.Gauge("queue_files", "") != waiting {
		t.Error("a second call made another metric")
	}
	var writers sync.WaitGroup
	for range 8 {
		writers.Go(func() {
			for range 1000 {
				read.Inc()
				waiting.Add(2)
				waiting.Add(-1)
			}
		})
	}
	writers.Wait()
	read.Add(-5)
	read.Add(math.NaN())
	read.Add(0.5)
	want := []sdk.Metric{
		{Name: "files_read_total", Help: "Files read.", Kind: sdk.KindCounter, Value: 8000.5},
		{Name: "queue_files", Help: "Files that wait.", Kind: sdk.KindGauge, Value: 8000},
	}
	if diff := cmp.Diff(want, set.List()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	var none *sdk.MetricCounter
	none.Inc()
	var noGauge *sdk.MetricGauge
	noGauge.Set(1)
	noGauge.Add(1)
}

func TestMetrics_Refuses(t *testing.T) {
	full := new(sdk.Metrics)
	for i := range sdk.MaxMetrics {
		full.Gauge(fmt.Sprintf("gauge_%d", i), "")
	}
	for name, make := range map[string]func(m *sdk.Metrics){
		"no name":           func(m *sdk.Metrics) { m.Gauge("", "") },
		"a capital":         func(m *sdk.Metrics) { m.Gauge("Files", "") },
		"a digit first":     func(m *sdk.Metrics) { m.Gauge("9_files", "") },
		"a dash":            func(m *sdk.Metrics) { m.Gauge("files-read", "") },
		"65 characters":     func(m *sdk.Metrics) { m.Gauge(strings.Repeat("a", 65), "") },
		"counter, no total": func(m *sdk.Metrics) { m.Counter("files_read", "") },
		"gauge with total":  func(m *sdk.Metrics) { m.Gauge("files_total", "") },
		"one too many":      func(*sdk.Metrics) { full.Gauge("one_more", "") },
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("it was taken")
				}
			}()
			make(new(sdk.Metrics))
		})
	}
	full.Gauge("gauge_7", "") // it is there already
	new(sdk.Metrics).Gauge(strings.Repeat("a", 64), "")
}
