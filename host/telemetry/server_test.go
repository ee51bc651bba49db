package telemetry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"

	"github.com/starling-sync/starling/host/peersync"
	"github.com/starling-sync/starling/host/registry"
	"github.com/starling-sync/starling/host/supervisor"
	"github.com/starling-sync/starling/sdk"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// device is a Source and a Health that says what the test says.
type device struct {
	mu       sync.Mutex
	figures  Figures
	stock    Stock
	stockErr error
	counts   int
	plugins  []supervisor.PluginMetrics
	checks   []Check
	hang     bool // plugins answer when the deadline has passed
}

func (d *device) Figures() Figures {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.figures
}

func (d *device) Stock(context.Context) (Stock, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.counts++
	return d.stock, d.stockErr
}

func (d *device) PluginMetrics(ctx context.Context) []supervisor.PluginMetrics {
	if d.hang {
		<-ctx.Done()
	}
	return d.plugins
}

func (d *device) Alive(context.Context) []Check { return d.checks }
func (d *device) Ready(context.Context) []Check { return d.checks }

// serve serves d and returns what asks it.
func serve(t *testing.T, d *device) (get func(path string, header ...string) (int, string), r *Recorder) {
	t.Helper()
	r = NewRecorder()
	s, err := NewServer(Options{Source: d, Health: d, Recorder: r, Log: hclog.NewNullLogger()})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, listener) }()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
		client.CloseIdleConnections()
	})
	return func(path string, header ...string) (int, string) {
		t.Helper()
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+listener.Addr().String()+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i+1 < len(header); i += 2 {
			request.Header.Set(header[i], header[i+1])
		}
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, string(body)
	}, r
}

func wantLines(t *testing.T, page string, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if !strings.Contains("\n"+page, "\n"+line+"\n") {
			name, _, _ := strings.Cut(line, "{")
			name, _, _ = strings.Cut(name, " ")
			var near []string
			for l := range strings.Lines(page) {
				if strings.HasPrefix(l, name) {
					near = append(near, l)
				}
			}
			t.Errorf("no line %s; there are\n%s", line, strings.Join(near, ""))
		}
	}
}

func lackLines(t *testing.T, page string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if strings.Contains(page, part) {
			t.Errorf("it holds %q", part)
		}
	}
}

var (
	bob   = sdk.DeviceID{0xb0, 15: 1}
	carol = sdk.DeviceID{0xca, 15: 2}
)

func TestMetrics(t *testing.T) {
	d := &device{
		figures: Figures{
			Device: "alice", DeviceID: "a", Library: "home", LibraryID: "l", Version: "v1", Store: "sqlite",
			ClockOffset: 250 * time.Millisecond, Limits: []string{"marks", "heads"},
			Peers: []peersync.PeerStatus{
				{ID: carol, Name: "carol \xff", State: peersync.Offline, LagOfPeer: time.Minute},
				{ID: bob, Name: "bob", State: peersync.Backfilling, Via: "lan", Lag: 90 * time.Second, Progress: 0.25, Left: 2 * time.Second, RTT: time.Millisecond, Skew: -time.Second},
			},
			Engine: peersync.Figures{
				Refusals:  map[string]int64{"marks": 3},
				RoundTrip: map[string]peersync.Histogram{"lan": {Counts: [17]uint64{0: 2, 3: 1, 16: 1}, Sum: 10 * time.Second}},
				Peers: map[sdk.DeviceID]peersync.PeerFigures{
					bob: {
						Changes: map[sdk.ModelName]peersync.Changes{"tag": {Sent: 1, Received: 2, Applied: 3, Stale: 4, Refused: 5, Parked: 6, Conflicts: 7}},
						BytesIn: 10, BytesOut: 20, Sessions: 1, Holds: map[sdk.Code]int64{sdk.CodeClockSkew: 2}, UnacknowledgedBytes: 99,
					},
				},
			},
			Plugins:    []supervisor.Status{{Name: "tag", State: supervisor.Quarantined, Restarts: 6, Version: "v1", Models: []sdk.ModelName{"tag"}}, {Name: "note", State: supervisor.Debugging}},
			Transports: []Transport{{Name: "lan", Kind: "tcp", Listening: true}},
			Sources: []SourceFigures{{Model: "location", Running: true, Warnings: 1, Work: map[sdk.Unit]Work{
				sdk.UnitThings: {5, 9}, sdk.UnitFiles: {2, 4}, sdk.UnitBytes: {1 << 20, 1 << 30}, "mails": {7, 8},
			}}},
		},
		stock: Stock{
			Models: map[sdk.ModelName]registry.Counts{"tag": {Visible: 12, Deleted: 3}}, LogEntries: 7, LogBytes: 700, StoreBytes: 4096,
			Lag: map[sdk.DeviceID]map[string]int{carol: {kindShared: 41}},
		},
	}
	get, r := serve(t, d)
	r.Happened("tag", "swapped")
	r.Committed([]sdk.Batch{{Model: "tag", Count: 2}})
	r.Committing(sdk.SharedByAll)(nil)
	r.Committing(sdk.DeviceOwned)(errors.New("no"))
	r.Applied(sdk.DeviceOwned, 3*time.Millisecond)
	var page string
	for counted := false; !counted; counted = strings.Contains(page, "starling_log_entries 7") {
		_, page = get("/metrics")
	}
	b, c := `peer="bob",peer_id="`+bob.String()+`"`, `peer="carol ?",peer_id="`+carol.String()+`"`
	wantLines(
		t, page,
		`starling_info{device="alice",device_id="a",library="home",library_id="l",store="sqlite",version="v1"} 1`,
		"starling_store_bytes 4096", "starling_clock_offset_seconds 0.25",
		`starling_limit_refusals_total{limit="marks"} 3`, `starling_limit_refusals_total{limit="heads"} 0`,
		`starling_peers{state="offline"} 1`, `starling_peers{state="live"} 0`, "starling_peers_unlisted 0",
		`starling_peer_behind_seconds{`+b+`} 90`, `starling_peer_behind_me_seconds{`+c+`} 60`,
		`starling_peer_connected{`+b+`} 1`, `starling_peer_connected{`+c+`} 0`, `starling_peer_backfill_ratio{`+b+`} 0.25`,
		`starling_peer_behind_me_changes{kind="shared",`+c+`} 41`,
		`starling_changes_sent_total{model="tag",`+b+`} 1`, `starling_changes_conflicts_total{model="tag",`+b+`} 7`,
		`starling_peer_holds_total{code="clock_skew",`+b+`} 2`, `starling_peer_received_bytes_total{`+b+`} 10`,
		`starling_round_trip_seconds_bucket{transport="lan",le="0.00025"} 2`, `starling_round_trip_seconds_bucket{transport="lan",le="0.002"} 3`,
		`starling_round_trip_seconds_bucket{transport="lan",le="8.192"} 3`, `starling_round_trip_seconds_count{transport="lan"} 4`,
		`starling_plugin_up{plugin="tag"} 0`, `starling_plugin_up{plugin="note"} 1`, `starling_plugin_state{plugin="note",state="debugging"} 1`, `starling_plugin_state{plugin="tag",state="quarantined"} 1`, `starling_plugin_restarts_total{plugin="tag"} 6`,
		`starling_plugin_events_total{event="swapped",plugin="tag"} 1`, `starling_plugin_events_total{event="crashed",plugin="tag"} 0`,
		`starling_plugin_events_total{event="swapped",plugin="note"} 0`, `starling_plugin_scrape_failures_total{plugin="note"} 0`, `starling_transport_listening{kind="tcp",transport="lan"} 1`,
		`starling_records{model="tag"} 12`, `starling_tombstones{model="tag"} 3`, "starling_log_bytes 700",
		`starling_local_changes_total{model="tag"} 2`, `starling_commit_seconds_count{kind="shared"} 1`,
		`starling_commit_failures_total{kind="device_owned"} 1`, `starling_commit_failures_total{kind="shared"} 0`, `starling_apply_seconds_bucket{kind="device_owned",le="0.004"} 1`,
		`starling_apply_seconds_bucket{kind="device_owned",le="0.002"} 0`, `starling_source_done_items{model="location",unit="things"} 5`,
		`starling_source_known_items{model="location",unit="files"} 4`, `starling_source_done_bytes{model="location"} 1.048576e+06`,
	)
	lackLines(t, page, `starling_peer_backfill_ratio{`+c, `starling_commit_seconds_count{kind="device_owned"}`)
	t.Run("promtool", func(t *testing.T) { promtool(t, strings.NewReader(page), "check", "metrics") })
}

// TestMetrics_Peers wants a scrape bounded however many peers there are, and the same ones in it whatever their order.
func TestMetrics_Peers(t *testing.T) {
	d := &device{}
	for i := range MaxPeers + 7 {
		n := MaxPeers + 7 - i
		d.figures.Peers = append(d.figures.Peers, peersync.PeerStatus{ID: sdk.DeviceID{byte(n >> 8), byte(n)}, Name: fmt.Sprint(n), State: peersync.Live, Via: "lan"})
	}
	get, _ := serve(t, d)
	_, page := get("/metrics")
	wantLines(t, page, "starling_peers_unlisted 7", fmt.Sprintf(`starling_peers{state="live"} %d`, MaxPeers+7))
	if n := strings.Count(page, "\nstarling_peer_connected{"); n != MaxPeers {
		t.Errorf("%d peers; want %d", n, MaxPeers)
	}
	lackLines(t, page, fmt.Sprintf(`peer="%d"`, MaxPeers+1))
}

func TestMetrics_Plugins(t *testing.T) {
	m := func(name string, kind sdk.MetricKind, value float64) sdk.Metric {
		return sdk.Metric{Name: name, Help: "Help \xff of it.", Kind: kind, Value: value}
	}
	d := &device{plugins: []supervisor.PluginMetrics{
		{Plugin: "one", Metrics: []sdk.Metric{m("files_total", sdk.KindCounter, 5), m("depth", sdk.KindGauge, -1)}},
		{Plugin: "two", Metrics: []sdk.Metric{
			m("depth", sdk.KindGauge, 4), m("files_total", sdk.KindGauge, 1), m(`x{a="b"} 1`, sdk.KindGauge, 1), m("odd", "histogram", 1),
		}},
		{Plugin: "three", Err: errors.New("late")},
		{Plugin: "four"},
		{Plugin: "five", Metrics: []sdk.Metric{m("depth", sdk.KindGauge, 6), m("depth", sdk.KindGauge, 9)}},
	}}
	for i := range MaxPluginMetrics + 5 {
		d.plugins[3].Metrics = append(d.plugins[3].Metrics, m(fmt.Sprintf("many_%d", i), sdk.KindGauge, 1))
	}
	get, _ := serve(t, d)
	status, page := get("/metrics")
	if status != http.StatusOK {
		t.Fatal(page)
	}
	wantLines(
		t, page,
		`starlingplugin_files_total{plugin="one"} 5`, `starlingplugin_depth{plugin="one"} -1`, `starlingplugin_depth{plugin="two"} 4`, `starlingplugin_depth{plugin="five"} 6`,
		"# HELP starlingplugin_depth Help ? of it.", "# TYPE starlingplugin_files_total counter",
	)
	if n := strings.Count(page, "\nstarlingplugin_many_"); n != MaxPluginMetrics {
		t.Errorf("%d metrics of a plugin; want %d", n, MaxPluginMetrics)
	}
	lackLines(t, page, `files_total{plugin="two"}`, "starlingplugin_odd", "starlingplugin_x", `scrape_failures_total{plugin="one"}`)
	_, page = get("/metrics") // what failed is seen by the next scrape at the latest
	for _, plugin := range []string{"two", "three", "four", "five"} {
		if !strings.Contains(page, `starling_plugin_scrape_failures_total{plugin="`+plugin+`"}`) {
			t.Errorf("%s is not counted", plugin)
		}
	}
}

func TestMetrics_PluginHangs(t *testing.T) {
	d := &device{hang: true, figures: Figures{Engine: peersync.Figures{Streams: 1}}}
	get, _ := serve(t, d)
	_, page := get("/metrics")
	wantLines(t, page, "starling_streams 1")
}

// TestCount wants a scrape neither to count by itself nor to have the database counted at each.
func TestCount(t *testing.T) {
	d := &device{stockErr: errors.New("the disk is gone")}
	get, _ := serve(t, d)
	for range 20 {
		_, page := get("/metrics")
		lackLines(t, page, "starling_log_entries ")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.counts > 1 {
		t.Errorf("counted %d times in 20 scrapes", d.counts)
	}
}

// TestMetrics_StoreAway wants what nobody knows while the database is away to be left out, rather than zero or of before.
func TestMetrics_StoreAway(t *testing.T) {
	d := &device{figures: Figures{Writing: 1500 * time.Millisecond}, stock: Stock{StoreBytes: 7, Models: map[sdk.ModelName]registry.Counts{"tag": {Visible: 1}}, LogEntries: 3}}
	get, _ := serve(t, d)
	page := ""
	for !strings.Contains(page, "starling_store_bytes") { // counted beside the scrapes
		_, page = get("/metrics")
	}
	wantLines(t, page, "starling_store_up 1", "starling_store_bytes 7", `starling_records{model="tag"} 1`, "starling_store_writing_seconds 1.5")
	d.mu.Lock()
	d.figures.StoreBroken = true
	d.mu.Unlock()
	_, page = get("/metrics")
	wantLines(t, page, "starling_store_up 0", "starling_store_bytes 7") // it can be read
	d.mu.Lock()
	d.figures.StoreBroken, d.figures.StoreFull = false, true
	d.mu.Unlock()
	_, page = get("/metrics")
	wantLines(t, page, "starling_store_up 0", "starling_store_full 1", "starling_store_bytes 7")
	d.mu.Lock()
	d.figures.StoreAway, d.figures.StoreBroken = true, false
	d.mu.Unlock()
	_, page = get("/metrics")
	wantLines(t, page, "starling_store_up 0")
	lackLines(t, page, "starling_store_bytes", "starling_records", "starling_log_", "starling_count_")
}

func TestHealth(t *testing.T) {
	d := &device{checks: []Check{{Name: "database", OK: true}, {Name: "library", OK: true, Reason: "home"}}}
	get, _ := serve(t, d)
	for _, path := range []string{"/healthz", "/readyz"} {
		status, text := get(path)
		if want := "ok      database\nok      library: home\n"; status != http.StatusOK || text != want {
			t.Errorf("%s: %d\n%s", path, status, text)
		}
	}
	d.checks = append(d.checks, Check{Name: "plugin tag", Reason: "quarantined:\nboom"})
	status, text := get("/readyz")
	if want := "ok      database\nok      library: home\nfailed  plugin tag: quarantined: boom\n"; status != http.StatusServiceUnavailable || text != want {
		t.Errorf("%d\n%s", status, text)
	}
	want := `{"ok":false,"checks":[{"name":"database","ok":true},{"name":"library","ok":true,"reason":"home"},{"name":"plugin tag","ok":false,"reason":"quarantined:\nboom"}]}` + "\n"
	for _, header := range [][]string{{"Accept", "application/json"}, nil} {
		path := "/readyz"
		if header == nil {
			path += "?format=json"
		}
		status, text := get(path, header...)
		if diff := cmp.Diff(want, text); status != http.StatusServiceUnavailable || diff != "" {
			t.Errorf("%d (-want +got):\n%s", status, diff)
		}
	}
}

func TestRecorder_Nil(t *testing.T) {
	var r *Recorder
	r.Committing(sdk.DeviceOwned)(nil)
	r.Committed([]sdk.Batch{{Model: "tag"}})
	r.Applied(sdk.DeviceOwned, time.Second)
	r.Happened("tag", "swapped")
}
