package sdk

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// Metrics is a set of figures by which operators watch a plugin. Its zero value is empty. Give it to rpc.Serve beside the
// models or the transport; the host asks for it when it is asked for its own metrics, and passes it on with the plugin's
// name as a label. Its methods may be called at once.
type Metrics struct {
	mu  sync.Mutex
	all map[string]measured
}

// MetricKind says how a metric moves.
type MetricKind string

// The kinds of metrics.
const (
	KindCounter MetricKind = "counter" // only grows while the process lives
	KindGauge   MetricKind = "gauge"   // goes up and down
)

// Metric is one figure at one moment.
type Metric struct {
	Name  string
	Help  string // one sentence
	Kind  MetricKind
	Value float64
}

// MaxMetrics is how many metrics one plugin can have.
const MaxMetrics = 100

type measured interface {
	measure() Metric
}

// MetricCounter is a figure that only grows, such as files read. Its methods may be called at once. Name it by what it counts, in
// its unit: files_read_total, bytes_read_total, scan_seconds_total.
type MetricCounter struct {
	name, help string
	bits       atomic.Uint64
}

// Add adds n, which is neither negative nor NaN; else, and where c is nil, it adds nothing.
func (c *MetricCounter) Add(n float64) {
	if c != nil && n > 0 {
		addTo(&c.bits, n)
	}
}

// Inc adds 1.
func (c *MetricCounter) Inc() { c.Add(1) }

// Value returns the sum.
func (c *MetricCounter) Value() float64 { return math.Float64frombits(c.bits.Load()) }

func (c *MetricCounter) measure() Metric { return Metric{c.name, c.help, KindCounter, c.Value()} }

// MetricGauge is a figure that goes up and down, such as files that wait. Its methods may be called at once. Name it by what it
// is, in its unit: queue_files, cache_bytes.
type MetricGauge struct {
	name, help string
	bits       atomic.Uint64
}

// Set sets the figure; of a nil gauge nothing.
func (g *MetricGauge) Set(value float64) {
	if g != nil {
		g.bits.Store(math.Float64bits(value))
	}
}

// Add adds n, which may be negative; to a nil gauge nothing.
func (g *MetricGauge) Add(n float64) {
	if g != nil {
		addTo(&g.bits, n)
	}
}

// Value returns the figure.
func (g *MetricGauge) Value() float64 { return math.Float64frombits(g.bits.Load()) }

func (g *MetricGauge) measure() Metric { return Metric{g.name, g.help, KindGauge, g.Value()} }

func addTo(bits *atomic.Uint64, n float64) {
	for {
		old := bits.Load()
		if bits.CompareAndSwap(old, math.Float64bits(math.Float64frombits(old)+n)) {
			return
		}
	}
}

// Counter returns the counter of a name, made at the first call. The name has lower-case letters, digits and _, a letter first,
// at most 64, and ends in _total; help is a sentence for operators. A name that breaks these rules, one that a gauge has, and
// one more than MaxMetrics are a defect of the plugin: it panics.
func (m *Metrics) Counter(name, help string) *MetricCounter {
	c, ok := m.get(name, KindCounter, func() measured { return &MetricCounter{name: name, help: help} }).(*MetricCounter)
	if !ok {
		panic(fmt.Sprintf("sdk: metric %q is a gauge", name))
	}
	return c
}

// Gauge returns the gauge of a name, made at the first call. The rules are those of Counter, but the name does not end in
// _total.
func (m *Metrics) Gauge(name, help string) *MetricGauge {
	g, ok := m.get(name, KindGauge, func() measured { return &MetricGauge{name: name, help: help} }).(*MetricGauge)
	if !ok {
		panic(fmt.Sprintf("sdk: metric %q is a counter", name))
	}
	return g
}

func (m *Metrics) get(name string, kind MetricKind, made func() measured) measured {
	if err := CheckMetric(name, kind); err != nil {
		panic("sdk: " + err.Error())
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if one, ok := m.all[name]; ok {
		return one
	}
	if len(m.all) >= MaxMetrics {
		panic(fmt.Sprintf("sdk: metric %q is one more than the %d that a plugin can have", name, MaxMetrics))
	}
	if m.all == nil {
		m.all = make(map[string]measured)
	}
	one := made()
	m.all[name] = one
	return one
}

// List returns every metric as it is now, by name.
func (m *Metrics) List() []Metric {
	m.mu.Lock()
	list := make([]Metric, 0, len(m.all))
	for _, one := range m.all {
		list = append(list, one.measure())
	}
	m.mu.Unlock()
	slices.SortFunc(list, func(a, b Metric) int { return cmp.Compare(a.Name, b.Name) })
	return list
}

// CheckMetric returns what is wrong with a metric's name or kind, for people; nil: nothing.
func CheckMetric(name string, kind MetricKind) error {
	total := strings.HasSuffix(name, "_total")
	switch {
	case name == "" || len(name) > 64 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789_") != "" || name[0] < 'a' || name[0] > 'z':
		return Errorf(CodeInvalid, "metric %.70q: a name has lower-case letters, digits and _, a letter first, at most 64", name)
	case kind != KindCounter && kind != KindGauge:
		return Errorf(CodeInvalid, "metric %q is a %.20q; want %s or %s", name, kind, KindCounter, KindGauge)
	case kind == KindCounter && !total:
		return Errorf(CodeInvalid, "metric %q: a counter's name ends in _total", name)
	case kind == KindGauge && total:
		return Errorf(CodeInvalid, "metric %q: a gauge's name does not end in _total", name)
	}
	return nil
}
