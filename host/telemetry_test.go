package main_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/starling-sync/starling/host/clustertest"
	"github.com/starling-sync/starling/host/telemetry"
)

// watched is a device with a telemetry block.
type watched struct {
	*clustertest.Device
	address string
}

func watch(t *testing.T, name string, extra ...string) watched {
	t.Helper()
	d := watched{clustertest.NewDevice(t, mustBuild(t), name, extra...), clustertest.FreeAddress(t)}
	d.add(t, fmt.Sprintf("telemetry { prometheus = %q }", d.address))
	d.replace(t, "sync {", "sync {\n  heartbeat = \"250ms\"")
	return d
}

// add writes more into the device's configuration.
func (d watched) add(t *testing.T, text string) {
	t.Helper()
	file, err := os.OpenFile(d.Config(), os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := fmt.Fprintln(file, text); err != nil {
		t.Fatal(err)
	}
}

// replace writes a line of the device's configuration anew.
func (d watched) replace(t *testing.T, line, with string) {
	t.Helper()
	text, err := os.ReadFile(d.Config())
	if err != nil || !strings.Contains(string(text), "\n"+line) {
		t.Fatalf("%v, or no line %s in\n%s", err, line, text)
	}
	if err := os.WriteFile(d.Config(), []byte(strings.Replace(string(text), "\n"+line, "\n"+with, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (d watched) get(ctx context.Context, path string) (int, string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+d.address+path, nil)
	if err != nil {
		return 0, "", err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return response.StatusCode, string(body), err
}

// series are the values of one scrape, by name and labels as they stand.
type series map[string]float64

var sample = regexp.MustCompile(`^((?:starling|starlingplugin)_[a-z_]+(?:\{.*\})?) (\S+)$`)

func (d watched) scrape(t *testing.T) series {
	t.Helper()
	status, body, err := d.get(t.Context(), "/metrics")
	if err != nil || status != http.StatusOK {
		t.Fatalf("scrape %s: %d, %v\n%s", d.Name, status, err, body)
	}
	all := series{}
	lines := bufio.NewScanner(strings.NewReader(body))
	for lines.Scan() {
		if m := sample.FindStringSubmatch(lines.Text()); m != nil {
			value, err := strconv.ParseFloat(m[2], 64)
			if err != nil {
				t.Fatal(err)
			}
			all[m[1]] = value
		}
	}
	return all
}

// sum adds the series of a metric whose labels hold all of parts.
func (s series) sum(name string, parts ...string) (sum float64) {
	for key, value := range s {
		if key != name && !strings.HasPrefix(key, name+"{") {
			continue
		}
		all := true
		for _, part := range parts {
			all = all && strings.Contains(key, part)
		}
		if all {
			sum += value
		}
	}
	return sum
}

// moved notes which metrics have been seen to be other than zero.
type moved map[string]bool

func (m moved) see(s series) {
	for key, value := range s {
		name, _, _ := strings.Cut(key, "{")
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			if base := strings.TrimSuffix(name, suffix); base != name && strings.HasSuffix(base, "_seconds") {
				name = base
			}
		}
		m[name] = m[name] || value != 0
	}
}

// still are the metrics that do not move in TestTelemetry, and why.
var still = map[string]string{
	"starling_clock_ahead_seconds":                "only a clock that was set back makes it: host/replica tests the clock",
	"starling_snapshots":                          "a snapshot of so few records is over before a scrape sees it",
	"starling_repaired_records_total":             "what was put right needs a disk that changed by itself: TestAudit has it",
	"starling_commit_queue_bytes":                 "the loop takes it up before a scrape sees it",
	"starling_limit_refusals_total":               "a peer that breaks limits is host/peersync's own",
	"starling_peers_unlisted":                     "needs 1,000 peers: host/telemetry has them",
	"starling_peer_backfill_left_seconds":         "so few records are there at once",
	"starling_peer_gaps_total":                    "needs a peer that leaves gaps: host/peersync has it",
	"starling_peer_stalls_total":                  "needs a third device: host/peersync has it",
	"starling_peer_read_failures_total":           "needs a disk that fails",
	"starling_peer_snapshot_records_total":        "needs a device that was away for longer than the log is kept",
	"starling_peer_queued_bytes":                  "it is applied before a scrape sees it",
	"starling_peer_queued_messages":               "it leaves before a scrape sees it",
	"starling_peer_unacknowledged_bytes":          "it is acknowledged before a scrape sees it",
	"starling_peer_streams_held":                  "the plugin that fails parks its changes, and holds nothing",
	"starling_streams_held":                       "likewise",
	"starling_peer_holds_total":                   "likewise",
	"starling_changes_stale_total":                "a relay that is late: host/registry has it",
	"starling_changes_refused_total":              "a device that writes another's records: host/registry has it",
	"starling_refused_changes":                    "likewise",
	"starlingplugin_location_hash_queue_folders":  "two files are hashed before a scrape sees them wait",
	"starling_store_full":                         "no disk is filled here: TestHealth_FullDisk has it",
	"starling_store_writing_seconds":              "a write is over before a scrape sees it, but for one that hangs",
	"starlingplugin_tcp_dials_timed_out_total":    "needs a network that swallows what is sent",
	"starlingplugin_tcp_dials_failed_total":       "needs an address without a way there",
	"starlingplugin_tcp_accept_failures_total":    "needs a process without descriptors",
	"starlingplugin_location_hash_failures_total": "needs a file that can not be read, which root can",
	"starling_commit_failures_total":              "needs a disk that fails: host/telemetry has it",
	"starling_peer_behind_seconds":                "what is behind so little has come before a scrape sees it",
	"starling_plugin_scrape_failures_total":       "TestTelemetry_PluginHangs has it",
}

// TestTelemetry runs two devices through what they do in a life, and wants every metric that the page names to be there and
// to move, but for those in still; and no other.
func TestTelemetry(t *testing.T) {
	t.Parallel()
	l := &life{alice: watch(t, "alice", "--library", "home"), bob: watch(t, "bob", "--join"), seen: moved{}, folder: t.TempDir()}
	l.bob.replace(t, `model "album" {}`, "") // what comes of it is parked
	l.alice.replace(t, "    ignore = ", "    hash = true\n    ignore = ")
	l.alice.Start(t)
	l.bob.Start(t)
	for _, chapter := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"they pair", l.pair}, {"alice writes", l.write}, {"what she did is counted", l.counted}, {"they change a tag apart", l.apart},
		{"a plugin is restarted", l.pluginRestarts}, {"what the databases hold is counted", l.held}, {"bob retires", l.retire},
	} {
		if !t.Run(chapter.name, chapter.run) {
			return // each begins where the one before ends
		}
	}
	compare(t, l.seen)
}

// life is what two devices go through in TestTelemetry.
type life struct {
	alice, bob watched
	seen       moved
	folder, id string // of alice's location, and of her tag
}

// look scrapes d, and notes what has moved.
func (l *life) look(t *testing.T, d watched) series {
	t.Helper()
	s := d.scrape(t)
	l.seen.see(s)
	return s
}

func (l *life) pair(t *testing.T) {
	wantReady(t, l.bob, http.StatusServiceUnavailable, "failed  library: this device belongs to none yet")
	clustertest.Pair(t, l.alice.Device, l.bob.Device)
	wantReady(t, l.bob, http.StatusOK, "ok      library: home")
	wantReady(t, l.alice, http.StatusOK, "ok      transport lan")
}

// write has alice write what moves to bob, what is parked there, and what waits for a tag that is gone.
func (l *life) write(t *testing.T) {
	writeFiles(t, l.folder, "a.txt", "b/c.txt")
	for _, name := range []string{"a.txt", "b/c.txt"} { // what has just changed is not hashed yet
		if err := os.Chtimes(filepath.Join(l.folder, name), time.Time{}, time.Now().Add(-time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	l.alice.Run(t, "location", "add", l.folder)
	l.id = l.alice.Run(t, "put", "tag", `{"name":"work","color":"red"}`)
	gone := l.alice.Run(t, "put", "tag", `{"name":"gone"}`)
	l.alice.Run(t, "put", "album", `{"name":"parked at bob"}`)
	l.alice.Run(t, "put", "tagging", `{"tag_id":"`+gone+`","target":"`+l.id+`"}`)
	l.alice.Run(t, "delete", "tag", gone) // and the tagging waits
	waitTags(t, l.alice, l.bob)
}

// counted waits for the figures of what alice wrote, here and at bob.
func (l *life) counted(t *testing.T) {
	clustertest.Eventually(t, "figures of the first changes", func() error {
		a, b := l.look(t, l.alice), l.look(t, l.bob)
		switch {
		case a.sum("starling_changes_sent_total", `model="entry"`) < 3 || b.sum("starling_changes_applied_total", `model="entry"`) < 3:
			return fmt.Errorf("entries: %v sent, %v applied", a.sum("starling_changes_sent_total", `model="entry"`), b.sum("starling_changes_applied_total", `model="entry"`))
		case a.sum("starling_round_trip_seconds_count") == 0 || a.sum("starling_peer_round_trip_seconds") == 0:
			return fmt.Errorf("no round trip yet")
		case b.sum("starling_peer_received_bytes_total", `peer="alice"`) != 0 && a.sum("starling_peer_sent_bytes_total", `peer="bob"`) < 500:
			return fmt.Errorf("bytes: %v", a.sum("starling_peer_sent_bytes_total"))
		case a.sum("starlingplugin_location_scans_total", `plugin="location"`) < 1 || a.sum("starlingplugin_location_files_hashed_total") != 2:
			return fmt.Errorf("the plugin's own figures: %v scans, %v files hashed", a.sum("starlingplugin_location_scans_total"), a.sum("starlingplugin_location_files_hashed_total"))
		}
		for name, want := range map[string]float64{
			`starling_local_changes_total{model="tag"}`: 3, `starling_peers{state="live"}`: 1, `starling_plugin_up{plugin="tag"}`: 1,
			`starling_transport_listening{kind="tcp",transport="lan"}`: 1, `starling_source_running{model="location"}`: 1,
		} {
			if a[name] != want {
				return fmt.Errorf("%s is %v; want %v", name, a[name], want)
			}
		}
		return nil
	})
}

// apart has both change a tag while they do not hear of one another.
func (l *life) apart(t *testing.T) {
	l.bob.Stop(t)
	l.alice.Run(t, "put", "tag", `{"name":"job"}`, "--id", l.id)
	clustertest.Eventually(t, "how much bob lacks", func() error { // by what he acknowledged, which a start may not know yet
		if seconds := l.look(t, l.alice).sum("starling_peer_behind_me_seconds"); seconds <= 0 {
			return fmt.Errorf("%v seconds", seconds)
		}
		return nil
	})
	l.alice.Stop(t)
	l.alice.Start(t)
	clustertest.Eventually(t, "what bob lacks", func() error {
		if n := l.look(t, l.alice).sum("starling_peer_behind_me_changes", `kind="shared"`); n < 1 { // also what says where alice is reached
			return fmt.Errorf("%v changes", n)
		}
		return nil
	})
	l.alice.Stop(t)
	l.bob.Start(t)
	l.bob.Run(t, "put", "tag", `{"name":"labour"}`, "--id", l.id)
	l.alice.Start(t)
	waitTags(t, l.alice, l.bob)
	clustertest.Eventually(t, "conflicts", func() error {
		if n := l.look(t, l.alice).sum("starling_changes_conflicts_total") + l.look(t, l.bob).sum("starling_changes_conflicts_total"); n == 0 {
			return fmt.Errorf("none")
		}
		return nil
	})
}

func (l *life) pluginRestarts(t *testing.T) {
	l.bob.Run(t, "plugin", "restart", "tag")
	clustertest.Eventually(t, "a restart", func() error {
		b := l.look(t, l.bob)
		if b.sum("starling_plugin_restarts_total", `plugin="tag"`) != 1 || b.sum("starling_plugin_events_total", `event="restarted"`) != 1 {
			return fmt.Errorf("restarts: %v", b.sum("starling_plugin_restarts_total"))
		}
		return nil
	})
}

// held starts both again, since what the database holds is counted at the first scrape after a start. Bob is away for alice's: what
// he has acknowledged she forgets.
func (l *life) held(t *testing.T) {
	if err := os.RemoveAll(l.folder); err != nil {
		t.Fatal(err)
	}
	l.bob.Stop(t)
	l.alice.Run(t, "delete", "tag", l.alice.Run(t, "put", "tag", `{"name":"brief"}`))
	l.alice.Stop(t)
	l.alice.Start(t)
	clustertest.Eventually(t, "what alice's database holds", func() error {
		a := l.look(t, l.alice)
		held := []float64{
			a.sum("starling_conflicts", `model="tag"`), a.sum("starling_records_waiting", `model="tagging"`), a.sum("starling_tombstones"),
			a.sum("starling_log_entries"), a.sum("starling_source_warnings"),
		}
		if slices.Contains(held, 0) {
			return fmt.Errorf("%v", held)
		}
		return nil
	})
	l.bob.Start(t)
	clustertest.Eventually(t, "what bob's database holds", func() error {
		if l.look(t, l.bob).sum("starling_parked_changes", `model="album"`) == 0 {
			return errors.New("no changes that are parked")
		}
		return nil
	})
}

func (l *life) retire(t *testing.T) {
	l.alice.Run(t, "retire", "bob", "--yes")
	clustertest.Eventually(t, "bob is no peer", func() error {
		if n := l.look(t, l.alice).sum("starling_peers"); n != 0 {
			return fmt.Errorf("%v peers", n)
		}
		return nil
	})
}

// waitTags waits until both have the same tags. Their digests differ, since bob keeps albums unread.
func waitTags(t *testing.T, alice, bob watched) {
	t.Helper()
	clustertest.Eventually(t, "equal tags", func() error {
		a, errA := alice.TryRun("list", "tag")
		b, errB := bob.TryRun("list", "tag")
		if errA != nil || errB != nil || a != b {
			return fmt.Errorf("%w\n%s\n%s", errors.Join(errA, errB, errors.New("they differ")), a, b)
		}
		return nil
	})
}

func wantReady(t *testing.T, d watched, want int, line string) {
	t.Helper()
	clustertest.Eventually(t, fmt.Sprintf("%s answers %d", d.Name, want), func() error {
		status, text, err := d.get(t.Context(), "/readyz")
		if err != nil || status != want || !strings.Contains(text, line) {
			return fmt.Errorf("%d\n%s: %w", status, text, errors.Join(err, errors.New("not yet")))
		}
		return nil
	})
}

// compare holds docs/metrics.md to what was scraped, both ways.
func compare(t *testing.T, seen moved) {
	t.Helper()
	page, err := os.ReadFile("../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	paged := map[string]bool{}
	for _, row := range regexp.MustCompile("(?m)^\\| `((?:starling|starlingplugin)_[a-z_]+)` \\|").FindAllStringSubmatch(string(page), -1) {
		paged[row[1]] = true
	}
	for name := range seen {
		if !paged[name] {
			t.Errorf("%s is scraped and not on the page", name)
		}
	}
	for name := range paged {
		_, excused := still[name]
		switch {
		case strings.HasPrefix(name, telemetry.PluginPrefix+"nats_"): // there is no NATS here: docs holds the page to it
		case seen[name] && excused:
			t.Logf("%s has moved: strike it from still", name)
		case !seen[name] && !excused:
			t.Errorf("%s is on the page and has not moved", name)
		}
	}
	for name := range still {
		if !paged[name] {
			t.Errorf("still names %s, which is not on the page", name)
		}
	}
}
