package telemetry

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/starling-sync/starling/host/peersync"
)

// collector reads the device at each scrape. It implements prometheus.Collector.
type collector struct {
	source   Source
	recorder *Recorder
	rows     []metric
	descs    []*prometheus.Desc
	trip     *prometheus.Desc

	counted chan struct{} // wants the stock to be counted anew; holds one

	mu       sync.Mutex
	stock    Stock
	stockAt  time.Time
	stockFor time.Duration
}

func newCollector(source Source, recorder *Recorder) *collector {
	c := &collector{source: source, recorder: recorder, rows: table(), counted: make(chan struct{}, 1)}
	for _, m := range c.rows {
		c.descs = append(c.descs, prometheus.NewDesc(m.name, m.help, m.labels, nil))
	}
	d := described(tripName)
	c.trip = prometheus.NewDesc(d.Name, d.Help, d.Labels, nil)
	return c
}

// Describe implements prometheus.Collector. It says nothing: what plugins count is known only when they are asked.
func (c *collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	v := &view{Figures: c.source.Figures(), now: time.Now()}
	c.mu.Lock()
	if !v.StoreAway { // what it held before it went says nothing of now
		v.stock, v.stockAt, v.stockFor = c.stock, c.stockAt, c.stockFor
	}
	c.mu.Unlock()
	c.wantCount()
	v.list()
	for i, m := range c.rows {
		m.read(v, func(value float64, labels ...string) {
			out <- prometheus.MustNewConstMetric(c.descs[i], m.kind, value, valid(labels)...)
		})
	}
	for via, h := range v.Engine.RoundTrip {
		out <- c.histogram(via, &h)
	}
	c.collectPlugins(out)
	for i := range v.Plugins {
		c.recorder.knows(v.Plugins[i].Name)
	}
	c.recorder.collect(out) // last, so that what this scrape itself has met is in it
}

func (c *collector) histogram(via string, h *peersync.Histogram) prometheus.Metric {
	buckets := make(map[float64]uint64, len(h.Counts))
	var sum uint64
	for i, n := range h.Counts {
		sum += n
		if i < len(h.Counts)-1 {
			buckets[h.Bound(i).Seconds()] = sum
		}
	}
	return prometheus.MustNewConstHistogram(c.trip, sum, h.Sum.Seconds(), buckets, via)
}

// What is counted in the database is counted again at a scrape when it is countLife old, or more where the counting took
// long: it takes a hundredth of the time at most.
const (
	countLife  = 30 * time.Second
	countShare = 100
)

func (c *collector) wantCount() {
	select {
	case c.counted <- struct{}{}:
	default:
	}
}

// count counts the stock when a scrape wants it, until ctx ends. failed is told why it could not be.
func (c *collector) count(ctx context.Context, failed func(error)) {
	for {
		select {
		case <-c.counted:
		case <-ctx.Done():
			return
		}
		began := time.Now()
		stock, err := c.source.Stock(ctx)
		took := time.Since(began)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			failed(err)
		} else {
			c.mu.Lock()
			c.stock, c.stockAt, c.stockFor = stock, began, took
			c.mu.Unlock()
		}
		next := time.NewTimer(max(countLife, countShare*took))
		select {
		case <-next.C:
		case <-ctx.Done():
			next.Stop()
			return
		}
	}
}
