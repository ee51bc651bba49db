package telemetry

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/starling-sync/starling/host/supervisor"
	"github.com/starling-sync/starling/sdk"
)

// Recorder is told of what happens, at the place where it does. A nil one does nothing. Its methods may be called at once.
type Recorder struct {
	commit, apply  *prometheus.HistogramVec
	failed         *prometheus.CounterVec
	local          *prometheus.CounterVec
	events         *prometheus.CounterVec
	pluginFailures *prometheus.CounterVec
}

const (
	commitName  = "starling_commit_seconds"
	applyName   = "starling_apply_seconds"
	tripName    = "starling_round_trip_seconds"
	failedName  = "starling_commit_failures_total"
	localName   = "starling_local_changes_total"
	eventsName  = "starling_plugin_events_total"
	scrapesName = "starling_plugin_scrape_failures_total"
)

// recorded describes what is not read at a scrape, and the histogram that is.
func recorded() []Description {
	return []Description{
		{commitName, "Time from a local write's arrival until it is durable, deciding included.", "histogram", []string{"kind"}},
		{applyName, "Time from when a page of a peer is taken up until it is durable, deciding included.", "histogram", []string{"kind"}},
		{tripName, "Round trips of heartbeats, by transport.", "histogram", []string{"transport"}},
		{failedName, "Local writes that failed as a whole.", "counter", []string{"kind"}},
		{localName, "Changes that this device has written, by model.", "counter", []string{"model"}},
		{eventsName, "What happened to plugins, as in starling events: swapped, rolled back, refused, crashed, quarantined, restarted, added, removed, paused, resumed.", "counter", []string{"plugin", "event"}},
		{scrapesName, "Times that a plugin that runs did not say its own metrics in time, or some of them could not be used.", "counter", []string{"plugin"}},
	}
}

func described(name string) Description {
	for _, d := range recorded() {
		if d.Name == name {
			return d
		}
	}
	panic("telemetry: no metric is called " + name)
}

// seconds are the bounds of histograms: 0.25 ms to 8.2 s, doubling.
func seconds() []float64 { return prometheus.ExponentialBuckets(0.00025, 2, 16) }

// NewRecorder returns a recorder.
func NewRecorder() *Recorder {
	r := &Recorder{}
	histogram := func(name string) *prometheus.HistogramVec {
		d := described(name)
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: d.Help, Buckets: seconds()}, d.Labels)
	}
	counter := func(name string) *prometheus.CounterVec {
		d := described(name)
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: d.Help}, d.Labels)
	}
	r.commit, r.apply = histogram(commitName), histogram(applyName)
	r.failed, r.local, r.events, r.pluginFailures = counter(failedName), counter(localName), counter(eventsName), counter(scrapesName)
	for _, kind := range []string{kindOwned, kindShared} {
		r.failed.WithLabelValues(kind)
	}
	return r
}

// collect emits everything that was recorded.
func (r *Recorder) collect(out chan<- prometheus.Metric) {
	for _, c := range []prometheus.Collector{r.commit, r.apply, r.failed, r.local, r.events, r.pluginFailures} {
		c.Collect(out)
	}
}

// knows has what can happen to a plugin counted from 0: Prometheus sees no increase in a counter whose first value is 1.
func (r *Recorder) knows(plugin string) {
	r.pluginFailures.WithLabelValues(plugin)
	for _, kind := range supervisor.EventKinds() {
		r.events.WithLabelValues(plugin, string(kind))
	}
}

// Committing notes that a local write has come, and returns what is called when it is durable or has failed.
func (r *Recorder) Committing(kind sdk.Ownership) (ended func(error)) {
	if r == nil {
		return func(error) {}
	}
	began := time.Now()
	return func(err error) {
		if err != nil {
			r.failed.WithLabelValues(KindOf(kind)).Inc()
			return
		}
		r.commit.WithLabelValues(KindOf(kind)).Observe(time.Since(began).Seconds())
	}
}

// Committed counts changes that this device has written.
func (r *Recorder) Committed(batches []sdk.Batch) {
	if r == nil {
		return
	}
	for i := range batches {
		r.local.WithLabelValues(string(batches[i].Model)).Add(float64(batches[i].Count))
	}
}

// Applied notes how long a page of a peer took.
func (r *Recorder) Applied(kind sdk.Ownership, took time.Duration) {
	if r != nil {
		r.apply.WithLabelValues(KindOf(kind)).Observe(took.Seconds())
	}
}

// Happened counts what happened to a plugin.
func (r *Recorder) Happened(plugin, event string) {
	if r != nil {
		r.events.WithLabelValues(plugin, event).Inc()
	}
}
