// Package telemetry tells machines how a device is: metrics for Prometheus at /metrics, and health checks at /healthz and
// /readyz, over HTTP.
//
// It promises that a scrape reads what is in memory and asks each plugin once, with a deadline; that what has to be
// counted in the database is counted in the background, seldom enough to take at most a hundredth of the time; and that
// there are at most MaxPeers peers in a scrape, at most MaxPluginMetrics metrics of a plugin, and one series for each model
// of a peer. It leaves to its Source where the figures come from, and to who configures it who may connect.
package telemetry

import (
	"context"
	"time"

	"github.com/starling-sync/starling/host/peersync"
	"github.com/starling-sync/starling/host/registry"
	"github.com/starling-sync/starling/host/supervisor"
	"github.com/starling-sync/starling/sdk"
)

// Source knows the device. Its methods may be called at once.
type Source interface {
	// Figures reads what is in memory. It waits for no disk, network or plugin.
	Figures() Figures
	// Stock counts in the database. It may take long, and holds up no writer.
	Stock(ctx context.Context) (Stock, error)
	// PluginMetrics asks the plugins that run, all at once, until ctx ends.
	PluginMetrics(ctx context.Context) []supervisor.PluginMetrics
}

// Figures are what a device knows of itself at one moment.
type Figures struct {
	Device, DeviceID   string
	Library, LibraryID string // empty: it belongs to none yet
	Version, Store     string
	StoreAway          bool          // the database is known to be out of reach
	StoreBroken        bool          // it takes no writes until the next start
	StoreFull          bool          // writes fail for want of space
	Writing            time.Duration // that the writes under way have taken so far; 0: there are none
	ClockOffset        time.Duration // this clock minus the median of its peers'
	ClockAhead         time.Duration // how far the stamps of this device are ahead of its wall clock

	Peers      []peersync.PeerStatus // ascending by id
	Engine     peersync.Figures
	Limits     []string // that Engine.Refusals may name
	Plugins    []supervisor.Status
	Transports []Transport
	Sources    []SourceFigures
}

// Transport is a transport that is configured.
type Transport struct {
	Name, Kind string
	Listening  bool // or it only dials
}

// SourceFigures are of one source, all of its tasks together.
type SourceFigures struct {
	Model    sdk.ModelName
	Running  bool
	Work     map[sdk.Unit]Work
	Warnings int64
}

// Work is how much of what there is to do is done, in one unit.
type Work struct{ Done, Known int64 }

// Stock is what the database holds.
type Stock struct {
	StoreBytes           int64 // on disk
	Models               map[sdk.ModelName]registry.Counts
	LogEntries, LogBytes int64
	LogOldest            time.Time                       // zero: the log is empty
	Lag                  map[sdk.DeviceID]map[string]int // changes that a peer lacks and this device has, by kind; see MaxLag
}

// Bounds of what a scrape holds.
const (
	MaxPeers         = 1000  // beyond, peers are counted and not listed, those of the smallest ids first
	MaxPluginMetrics = 100   // of one plugin
	MaxLag           = 10000 // of changes that a peer lacks, by kind: more are not counted
)
