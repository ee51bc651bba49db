package telemetry

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/starling-sync/starling/host/peersync"
	"github.com/starling-sync/starling/host/registry"
	"github.com/starling-sync/starling/sdk"
)

// view is what one scrape reads.
type view struct {
	Figures
	stock    Stock
	stockAt  time.Time     // zero: nothing has been counted yet
	stockFor time.Duration // that the counting took
	now      time.Time

	listed []listed
}

// listed is a peer with series of its own.
type listed struct {
	*peersync.PeerStatus
	peersync.PeerFigures
	name, id string // as labels
}

// emit is told of one series.
type emit func(value float64, labels ...string)

// metric is one row of the table of what is read at a scrape.
type metric struct {
	name, help string
	kind       prometheus.ValueType
	labels     []string
	read       func(v *view, emit emit)
}

const (
	counter = prometheus.CounterValue
	gauge   = prometheus.GaugeValue
)

// table returns all metrics that are read at a scrape.
func table() []metric {
	return slices.Concat(deviceMetrics(), stockMetrics(), peerMetrics(), changeMetrics(), pluginMetrics())
}

// work emits a figure of what sources do, for each of units that they count in; labelled with the unit where there are several.
func work(figure func(Work) int64, units ...sdk.Unit) func(*view, emit) {
	return func(v *view, emit emit) {
		for _, s := range v.Sources {
			for _, unit := range units {
				w, counts := s.Work[unit]
				switch {
				case counts && len(units) > 1:
					emit(float64(figure(w)), string(s.Model), unit.String())
				case counts:
					emit(float64(figure(w)), string(s.Model))
				}
			}
		}
	}
}

func deviceMetrics() []metric {
	items := []string{"model", "unit"}
	return []metric{
		{"starling_info", "Names of this device, its library and its build; always 1.", gauge, []string{"device", "device_id", "library", "library_id", "version", "store"}, func(v *view, emit emit) {
			emit(1, v.Device, v.DeviceID, v.Library, v.LibraryID, v.Version, v.Store)
		}},
		{"starling_store_up", "Whether the database is within reach and takes writes, as far as is known; a server that says nothing is out of reach after 45 s.", gauge, nil, func(v *view, emit emit) { emit(truth(!v.StoreAway && !v.StoreBroken && !v.StoreFull)) }},
		{"starling_store_full", "Whether writes fail for want of space, on this machine's disk or the database server's.", gauge, nil, func(v *view, emit emit) { emit(truth(v.StoreFull)) }},
		{"starling_store_writing_seconds", "How long the writes under way have taken so far, for which all others wait; 0 where there are none.", gauge, nil, func(v *view, emit emit) { emit(v.Writing.Seconds()) }},
		{"starling_clock_offset_seconds", "This device's clock minus the median of its connected peers' clocks.", gauge, nil, func(v *view, emit emit) { emit(v.ClockOffset.Seconds()) }},
		{"starling_clock_ahead_seconds", "How far the stamps that this device has drawn are ahead of its wall clock; 0 where they are not.", gauge, nil, func(v *view, emit emit) { emit(max(0, v.ClockAhead.Seconds())) }},
		{"starling_streams", "Streams of changes that this device knows of, two for each device that ever wrote.", gauge, nil, func(v *view, emit emit) { emit(float64(v.Engine.Streams)) }},
		{"starling_streams_held", "Streams that are not applied now, since a page of theirs could not be; each is tried again.", gauge, nil, func(v *view, emit emit) { emit(float64(v.Engine.HeldStreams)) }},
		{"starling_snapshots", "Snapshots that are being fetched.", gauge, nil, func(v *view, emit emit) { emit(float64(v.Engine.Snapshots)) }},
		{"starling_repaired_records_total", "Records that audits have put right on this device.", counter, nil, func(v *view, emit emit) { emit(float64(v.Engine.Repairs)) }},
		{"starling_commit_queue_bytes", "Bytes of local commits that the sync loop has not taken up yet.", gauge, nil, func(v *view, emit emit) { emit(float64(v.Engine.CommitsWaiting)) }},
		{"starling_limit_refusals_total", "Input of peers that was refused since it was over a limit of sync.limits, by the limit's setting; of max_page_bytes, pages that could not be sent.", counter, []string{"limit"}, func(v *view, emit emit) {
			for _, limit := range v.Limits {
				emit(float64(v.Engine.Refusals[limit]), limit)
			}
		}},
		{"starling_source_running", "Whether the source of a model runs.", gauge, []string{"model"}, func(v *view, emit emit) {
			for _, s := range v.Sources {
				emit(truth(s.Running), string(s.Model))
			}
		}},
		{"starling_source_done_items", "What a source has done of starling_source_known_items in its present passes.", gauge, items, work(func(w Work) int64 { return w.Done }, sdk.UnitThings, sdk.UnitFiles)},
		{"starling_source_known_items", "What a source has to do in its present passes, as far as it knows, by what it counts: files, or things of another kind.", gauge, items, work(func(w Work) int64 { return w.Known }, sdk.UnitThings, sdk.UnitFiles)},
		{"starling_source_done_bytes", "Bytes that a source has done of starling_source_known_bytes in its present passes.", gauge, []string{"model"}, work(func(w Work) int64 { return w.Done }, sdk.UnitBytes)},
		{"starling_source_known_bytes", "Bytes that a source has to do in its present passes, as far as it knows; what it counts in bytes is mostly counted in items as well.", gauge, []string{"model"}, work(func(w Work) int64 { return w.Known }, sdk.UnitBytes)},
		{"starling_source_warnings", "Conditions that a source has counted and that do not stop it, such as folders that can not be read.", gauge, []string{"model"}, func(v *view, emit emit) {
			for _, s := range v.Sources {
				emit(float64(s.Warnings), string(s.Model))
			}
		}},
	}
}

// stockMetrics are of what is counted in the background. They are not there before the first count is over, nor while the
// database is out of reach.
func stockMetrics() []metric {
	model := []string{"model"}
	of := func(field func(registry.Counts) int64) func(*view, emit) {
		return func(v *view, emit emit) {
			for name, c := range v.stock.Models {
				emit(float64(field(c)), string(name))
			}
		}
	}
	once := func(read func(v *view) float64) func(*view, emit) {
		return func(v *view, emit emit) {
			if !v.stockAt.IsZero() {
				emit(read(v))
			}
		}
	}
	return []metric{
		{"starling_records", "Visible records.", gauge, model, of(func(c registry.Counts) int64 { return c.Visible })},
		{"starling_records_waiting", "Records that are not visible until one that they refer to is.", gauge, model, of(func(c registry.Counts) int64 { return c.Waiting })},
		{"starling_tombstones", "Deleted records that are remembered.", gauge, model, of(func(c registry.Counts) int64 { return c.Deleted })},
		{"starling_parked_changes", "Changes that wait for the plugin of their model.", gauge, model, of(func(c registry.Counts) int64 { return c.Parked })},
		{"starling_conflicts", "Values in the conflict journal.", gauge, model, of(func(c registry.Counts) int64 { return c.Conflicts })},
		{"starling_refused_changes", "Changes of peers that could not be stored and are listed with their reason.", gauge, model, of(func(c registry.Counts) int64 { return c.Refused })},
		{"starling_store_bytes", "Bytes of the database on disk, its write-ahead log among them.", gauge, nil, once(func(v *view) float64 { return float64(v.stock.StoreBytes) })},
		{"starling_log_entries", "Operations in the log of shared changes.", gauge, nil, once(func(v *view) float64 { return float64(v.stock.LogEntries) })},
		{"starling_log_bytes", "Bytes of the operations in the log of shared changes.", gauge, nil, once(func(v *view) float64 { return float64(v.stock.LogBytes) })},
		{"starling_log_oldest_timestamp_seconds", "When the oldest operation in the log was written, in seconds since 1970; 0 where the log is empty.", gauge, nil, once(func(v *view) float64 {
			if v.stock.LogOldest.IsZero() {
				return 0
			}
			return float64(v.stock.LogOldest.UnixMilli()) / 1000
		})},
		{"starling_count_age_seconds", "Age of what is counted in the background: records, tombstones, parked changes, conflicts, refused changes, the log, the bytes on disk, and how many changes peers lack.", gauge, nil, once(func(v *view) float64 { return v.now.Sub(v.stockAt).Seconds() })},
		{"starling_count_seconds", "How long the last such count took.", gauge, nil, once(func(v *view) float64 { return v.stockFor.Seconds() })},
	}
}

func peerMetrics() []metric {
	labels := []string{"peer", "peer_id"}
	each := func(read func(p *listed) float64) func(*view, emit) {
		return func(v *view, emit emit) {
			for i := range v.listed {
				p := &v.listed[i]
				emit(read(p), p.name, p.id)
			}
		}
	}
	connected := func(read func(p *listed) float64) func(*view, emit) {
		return func(v *view, emit emit) {
			for i := range v.listed {
				if p := &v.listed[i]; p.Via != "" {
					emit(read(p), p.name, p.id)
				}
			}
		}
	}
	count := func(name, help string, read func(p *listed) int64) metric {
		return metric{name, help, counter, labels, each(func(p *listed) float64 { return float64(read(p)) })}
	}
	return []metric{
		{"starling_peers", "Devices of the library besides this one, by their state as in starling status.", gauge, []string{"state"}, func(v *view, emit emit) {
			n := map[peersync.State]int{}
			for _, p := range v.Peers {
				n[p.State]++
			}
			for _, state := range []peersync.State{peersync.Offline, peersync.Connecting, peersync.Backfilling, peersync.CatchingUp, peersync.Live, peersync.Held} {
				emit(float64(n[state]), string(state))
			}
		}},
		{"starling_peers_unlisted", "Peers that have no series of their own, since there are more than 1,000.", gauge, nil, func(v *view, emit emit) { emit(float64(len(v.Peers) - len(v.listed))) }},
		{"starling_peer_state", "1 for the state that a peer is in: offline, connecting, backfilling, catching up, live or held.", gauge, []string{"peer", "peer_id", "state"}, func(v *view, emit emit) {
			for i := range v.listed {
				p := &v.listed[i]
				emit(1, p.name, p.id, string(p.State))
			}
		}},
		{"starling_peer_connected", "Whether there is a session with a peer.", gauge, labels, each(func(p *listed) float64 { return truth(p.Via != "") })},
		{"starling_peer_behind_seconds", "How long this device has lacked the oldest of what a peer has and it has not; 0: it lacks nothing.", gauge, labels, each(func(p *listed) float64 { return p.Lag.Seconds() })},
		{"starling_peer_behind_me_seconds", "How long a peer has lacked the oldest of what this device has and it has not acknowledged; 0: it lacks nothing, or has never acknowledged anything.", gauge, labels, each(func(p *listed) float64 { return p.LagOfPeer.Seconds() })},
		{"starling_peer_behind_me_changes", "Changes that this device has and a peer has not acknowledged, by kind, counted up to 10,000.", gauge, []string{"peer", "peer_id", "kind"}, func(v *view, emit emit) {
			for i := range v.listed {
				p := &v.listed[i]
				for _, kind := range []string{kindOwned, kindShared} {
					if lag, counted := v.stock.Lag[p.ID]; counted {
						emit(float64(lag[kind]), p.name, p.id, kind)
					}
				}
			}
		}},
		{"starling_peer_backfill_ratio", "How far a backfill or catching up from a connected peer is, 0 to 1; 1 where there is none.", gauge, labels, connected(func(p *listed) float64 { return p.Progress })},
		{"starling_peer_backfill_left_seconds", "Estimate of how long that still takes; 0 where there is none.", gauge, labels, connected(func(p *listed) float64 { return p.Left.Seconds() })},
		{"starling_peer_round_trip_seconds", "Round trip of the last heartbeat of a connected peer; 0 before the first.", gauge, labels, connected(func(p *listed) float64 { return p.RTT.Seconds() })},
		{"starling_peer_clock_skew_seconds", "Clock of a connected peer minus this device's.", gauge, labels, connected(func(p *listed) float64 { return p.Skew.Seconds() })},
		{"starling_peer_unacknowledged_bytes", "Bytes of changes that were sent to a connected peer and not acknowledged, or are being read for it.", gauge, labels, connected(func(p *listed) float64 { return float64(p.UnacknowledgedBytes) })},
		{"starling_peer_queued_bytes", "Bytes of changes that have come from a connected peer and wait to be applied.", gauge, labels, connected(func(p *listed) float64 { return float64(p.QueuedBytes) })},
		{"starling_peer_queued_messages", "Messages that wait to leave for a connected peer.", gauge, labels, connected(func(p *listed) float64 { return float64(p.QueuedMessages) })},
		{"starling_peer_streams", "Streams that come from a connected peer.", gauge, labels, connected(func(p *listed) float64 { return float64(p.StreamsIn) })},
		{"starling_peer_streams_live", "Those of them that are not catching up.", gauge, labels, connected(func(p *listed) float64 { return float64(p.StreamsLive) })},
		{"starling_peer_streams_held", "Streams that are held since a page from a peer could not be applied.", gauge, labels, each(func(p *listed) float64 { return float64(p.HeldStreams) })},
		count("starling_peer_received_bytes_total", "Bytes of messages that came from a peer, compressed, without TLS.", func(p *listed) int64 { return p.PeerFigures.BytesIn }),
		count("starling_peer_sent_bytes_total", "Bytes of messages that went to a peer, compressed, without TLS.", func(p *listed) int64 { return p.PeerFigures.BytesOut }),
		count("starling_peer_sessions_total", "Sessions with a peer that were begun.", func(p *listed) int64 { return p.Sessions }),
		count("starling_peer_dial_failures_total", "Attempts to reach a peer that failed at all its addresses; each is tried again.", func(p *listed) int64 { return p.DialFailures }),
		count("starling_peer_gaps_total", "Pages of a peer that did not continue what was here; they are asked for again.", func(p *listed) int64 { return p.Gaps }),
		count("starling_peer_stalls_total", "Times that a peer sent nothing while another had more, and was replaced by that.", func(p *listed) int64 { return p.Stalls }),
		count("starling_peer_read_failures_total", "Pages for a peer that could not be read here; each is tried again.", func(p *listed) int64 { return p.ReadFailures }),
		count("starling_peer_snapshot_records_total", "Records taken from a peer in snapshots and audits.", func(p *listed) int64 { return p.SnapshotRecords }),
		{"starling_peer_holds_total", "Times that a stream was held since a page from a peer could not be applied, by the error's code.", counter, []string{"peer", "peer_id", "code"}, func(v *view, emit emit) {
			for i := range v.listed {
				p := &v.listed[i]
				for code, n := range p.Holds {
					emit(float64(n), p.name, p.id, string(code))
				}
			}
		}},
	}
}

// What kinds of changes are called in labels.
const (
	kindOwned  = "device_owned"
	kindShared = "shared"
)

// KindOf returns what a kind of changes is called in labels.
func KindOf(kind sdk.Ownership) string {
	if kind == sdk.DeviceOwned {
		return kindOwned
	}
	return kindShared
}

func changeMetrics() []metric {
	count := func(name, help string, read func(c peersync.Changes) int64) metric {
		return metric{name, help, counter, []string{"peer", "peer_id", "model"}, func(v *view, emit emit) {
			for i := range v.listed {
				p := &v.listed[i]
				for model, c := range p.Changes {
					emit(float64(read(c)), p.name, p.id, string(model))
				}
			}
		}}
	}
	return []metric{
		count("starling_changes_sent_total", "Changes of a model sent to a peer, each as often as it was sent.", func(c peersync.Changes) int64 { return c.Sent }),
		count("starling_changes_received_total", "Changes of a model received from a peer, also those that were known.", func(c peersync.Changes) int64 { return c.Received }),
		count("starling_changes_applied_total", "Changes of a model from a peer whose page was made durable, stale, refused and parked ones among them.", func(c peersync.Changes) int64 { return c.Applied }),
		count("starling_changes_stale_total", "Rows from a peer that were known or older than what is stored.", func(c peersync.Changes) int64 { return c.Stale }),
		count("starling_changes_refused_total", "Changes from a peer that could not be stored.", func(c peersync.Changes) int64 { return c.Refused }),
		count("starling_changes_parked_total", "Changes from a peer that were put aside for the plugin of their model.", func(c peersync.Changes) int64 { return c.Parked }),
		count("starling_changes_conflicts_total", "Values that went into the conflict journal with changes from a peer.", func(c peersync.Changes) int64 { return c.Conflicts }),
	}
}

func pluginMetrics() []metric {
	return []metric{
		{"starling_plugin_up", "Whether a plugin runs and says that it is well, or is under a debugger.", gauge, []string{"plugin"}, func(v *view, emit emit) {
			for _, p := range v.Plugins {
				emit(truth(p.State.Works()), p.Name)
			}
		}},
		{"starling_plugin_state", "1 for the state that a plugin is in: starting, running, unhealthy, debugging, backing off, quarantined or stopped.", gauge, []string{"plugin", "state"}, func(v *view, emit emit) {
			for _, p := range v.Plugins {
				emit(1, p.Name, string(p.State))
			}
		}},
		{"starling_plugin_info", "Which build of a plugin serves which model or transport; always 1.", gauge, []string{"plugin", "version", "model", "transport"}, func(v *view, emit emit) {
			for _, p := range v.Plugins {
				for _, model := range p.Models {
					emit(1, p.Name, p.Version, string(model), "")
				}
				if p.Transport != "" {
					emit(1, p.Name, p.Version, "", p.Transport)
				}
			}
		}},
		{"starling_plugin_restarts_total", "Starts of a plugin's process after its first, swaps apart.", counter, []string{"plugin"}, func(v *view, emit emit) {
			for _, p := range v.Plugins {
				emit(float64(p.Restarts), p.Name)
			}
		}},
		{"starling_transport_listening", "Whether a transport takes connections; 1 also where it only dials.", gauge, []string{"transport", "kind"}, func(v *view, emit emit) {
			for _, t := range v.Transports {
				emit(truth(t.Listening), t.Name, t.Kind)
			}
		}},
	}
}

func truth(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

// list chooses the peers that have series of their own: those of the smallest ids, so that the choice does not change while
// they come and go.
func (v *view) list() {
	peers := v.Peers
	slices.SortFunc(peers, func(a, b peersync.PeerStatus) int { return a.ID.Compare(b.ID) })
	for i := range peers[:min(len(peers), MaxPeers)] {
		p := &peers[i]
		v.listed = append(v.listed, listed{p, v.Engine.Peers[p.ID], valid([]string{p.Name})[0], p.ID.String()})
	}
}

// Description says what a metric is.
type Description struct {
	Name, Help, Type string // Type is counter, gauge or histogram
	Labels           []string
}

// Descriptions returns every metric of the host, by name. Those of the plugins are beside them, under PluginPrefix.
func Descriptions() []Description {
	all := recorded()
	for _, m := range table() {
		kind := "gauge"
		if m.kind == counter {
			kind = "counter"
		}
		all = append(all, Description{m.name, m.help, kind, m.labels})
	}
	slices.SortFunc(all, func(a, b Description) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

// valid makes values fit for labels: what peers and plugins say need not be UTF-8.
func valid(labels []string) []string {
	for i, l := range labels {
		labels[i] = strings.ToValidUTF8(l, "?")
	}
	return labels
}
