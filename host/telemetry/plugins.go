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

// collectPlugins asks the plugins. Where two of them give one name, the help is that of the first, since a metric has one; the
// kind follows from the name.
func (c *collector) collectPlugins(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), pluginTime)
	defer cancel()
	descs := map[string]*prometheus.Desc{}
	for _, p := range c.source.PluginMetrics(ctx) {
		failed := p.Err != nil
		seen := map[string]bool{}
		for i, m := range p.Metrics {
			if sdk.CheckMetric(m.Name, m.Kind) != nil || seen[m.Name] || i >= MaxPluginMetrics {
				failed = true
				continue
			}
			seen[m.Name] = true
			desc := descs[m.Name]
			if desc == nil {
				desc = prometheus.NewDesc(PluginPrefix+m.Name, valid([]string{m.Help})[0], []string{"plugin"}, nil)
				descs[m.Name] = desc
			}
			kind := gauge
			if m.Kind == sdk.KindCounter {
				kind = counter
			}
			out <- prometheus.MustNewConstMetric(desc, kind, m.Value, p.Plugin)
		}
		if failed {
			c.recorder.pluginFailures.WithLabelValues(p.Plugin).Inc()
		}
	}
}
