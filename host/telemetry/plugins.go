package telemetry

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/starling-sync/starling/sdk"
)

// PluginPrefix begins the names of the metrics that plugins count themselves.
const PluginPrefix = "starlingplugin_"

// pluginTime is what the plugins have together to say their metrics, so that one that hangs costs a scrape no more.
const pluginTime = time.Second

// collectPlugins asks the plugins. A metric that two of them give with different kinds is that of the first; its help is the
// first's too, since a metric has one.
func (c *collector) collectPlugins(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), pluginTime)
	defer cancel()
	type known struct {
		kind sdk.MetricKind
		desc *prometheus.Desc
	}
	names := map[string]known{}
	for _, p := range c.source.PluginMetrics(ctx) {
		failed := p.Err != nil
		seen := map[string]bool{}
		for i, m := range p.Metrics {
			k, ok := names[m.Name]
			if sdk.CheckMetric(m.Name, m.Kind) != nil || ok && k.kind != m.Kind || seen[m.Name] || i >= MaxPluginMetrics {
				failed = true
				continue
			}
			seen[m.Name] = true
			if !ok {
				k = known{m.Kind, prometheus.NewDesc(PluginPrefix+m.Name, valid([]string{m.Help})[0], []string{"plugin"}, nil)}
				names[m.Name] = k
			}
			kind := gauge
			if m.Kind == sdk.KindCounter {
				kind = counter
			}
			out <- prometheus.MustNewConstMetric(k.desc, kind, m.Value, p.Plugin)
		}
		if failed {
			c.recorder.pluginFailures.WithLabelValues(p.Plugin).Inc()
		}
	}
}
