// Package bench measures what BENCHMARKS.md states, on real hosts with their plugins, over loopback TCP with TLS, in
// SQLite, and where they say so PostgreSQL. Each figure that is a ratio is taken against the plain database in the same run.
//
//	task bench                        all of it
//	task bench -- -bench Backfill/1M  one
package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/starling-sync/starling/host/clustertest"
	"github.com/starling-sync/starling/host/control"
	"github.com/starling-sync/starling/sdk"
)

var buildDir string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "starling-bench")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		buildDir = dir
		return m.Run()
	}())
}

var binary = sync.OnceValues(func() (string, error) { return clustertest.Binaries(buildDir) })

func mustBuild(b *testing.B) string {
	b.Helper()
	path, err := binary()
	if err != nil {
		b.Fatal(err)
	}
	return path
}

// newDevice makes a device with the models that are measured: what else a device has on by default says things by itself, of
// which the figures are not.
func newDevice(b *testing.B, binary, name string, extra ...string) *clustertest.Device {
	b.Helper()
	d := clustertest.NewDevice(b, binary, name, extra...)
	config, err := os.ReadFile(d.Config())
	if err != nil {
		b.Fatal(err)
	}
	text := string(config)
	for _, model := range []string{"device", "volume", "album", "user_metadata"} {
		block := fmt.Sprintf("model %q {}", model)
		if !strings.Contains(text, block) {
			b.Fatalf("%s has no %s", d.Config(), block)
		}
		text = strings.Replace(text, block, "", 1)
	}
	if err := os.WriteFile(d.Config(), []byte(text), 0o600); err != nil {
		b.Fatal(err)
	}
	return d
}

func dial(b *testing.B, d *clustertest.Device) *control.Client {
	b.Helper()
	client, err := control.Dial(b.Context(), d.Data())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(client.Close)
	return client
}

// putAll writes records through the control API, 100 a call, four calls at once, and returns their ids.
func putAll(b *testing.B, client *control.Client, model sdk.ModelName, n int, object func(i int) string) []sdk.RecordID {
	b.Helper()
	const batch = 100
	ids := make([]sdk.RecordID, n)
	group, ctx := errgroup.WithContext(b.Context())
	group.SetLimit(4)
	for from := 0; from < n; from += batch {
		group.Go(func() error {
			var puts []control.Put
			for i := from; i < min(n, from+batch); i++ {
				puts = append(puts, control.Put{JSON: []byte(object(i))})
			}
			result, err := client.Put(ctx, model, puts, true)
			if err == nil && len(result.Refused) > 0 {
				err = fmt.Errorf("%s %d: %s", model, from, result.Refused[0].Message)
			}
			copy(ids[from:], result.IDs)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		b.Fatal(err)
	}
	return ids
}

// entry is an entry much as a real tree has them: about 250 bytes with its ids.
func entry(i int, location sdk.RecordID) string {
	return fmt.Sprintf(`{"name":"handler_%d_test.go","extension":"go","kind":"file","size":%d,"modified_at":%d,"created_at":%d,"permissions":420,"inode":%d,"device_number":65024,"location_id":%q}`,
		i, 1000+i%50000, 1_760_000_000_000_000+int64(i)*1_000, 1_760_000_000_000_000+int64(i)*1_000, 5_000_000+i, location)
}

func makeLocation(b *testing.B, client *control.Client) sdk.RecordID {
	b.Helper()
	path, err := json.Marshal(filepath.Join(b.TempDir(), "unmounted")) // never there: its entries are left alone
	if err != nil {
		b.Fatal(err)
	}
	return putAll(b, client, "location", 1, func(int) string { return `{"name":"bench","path":` + string(path) + `}` })[0]
}

// untilLive blocks until the one peer of client is live and nothing is behind.
func untilLive(b *testing.B, client *control.Client) control.Peer {
	b.Helper()
	deadline := time.Now().Add(20 * time.Minute)
	for {
		peers, err := client.Peers(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		if len(peers) == 1 && peers[0].State == "live" && peers[0].Behind == 0 {
			return peers[0]
		}
		if time.Now().After(deadline) {
			b.Fatalf("not live: %+v", peers)
		}
		<-time.After(10 * time.Millisecond)
	}
}

func rows(b *testing.B, client *control.Client, model sdk.ModelName) int64 {
	b.Helper()
	status, err := client.Status(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	for _, m := range status.Models {
		if m.Model == model {
			return m.Rows
		}
	}
	return 0
}

func sameDigests(b *testing.B, x, y *control.Client) {
	b.Helper()
	var all [2]string
	for i, c := range []*control.Client{x, y} {
		digests, err := c.Digests(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		all[i] = fmt.Sprint(digests)
	}
	if all[0] != all[1] {
		b.Fatalf("digests differ:\n%s\n%s", all[0], all[1])
	}
}

// memory returns the present and the greatest resident set of a process, in MiB; zeros where the system does not tell.
func memory(pid int) (now, peak float64) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, 0
	}
	field := func(name string) float64 {
		for line := range strings.Lines(string(text)) {
			if rest, ok := strings.CutPrefix(line, name+":"); ok {
				kib, _ := strconv.ParseFloat(strings.Fields(rest)[0], 64)
				return kib / 1024
			}
		}
		return 0
	}
	return field("VmRSS"), field("VmHWM")
}

// BenchmarkBackfill gives a new device everything that the first one has, then takes it away and brings it back.
func BenchmarkBackfill(b *testing.B) {
	for _, size := range []struct {
		name string
		n    int
	}{{"100k", 100_000}, {"1M", 1_000_000}} {
		b.Run(size.name, func(b *testing.B) {
			for b.Loop() {
				backfill(b, size.n)
			}
		})
	}
}

func backfill(b *testing.B, n int) {
	path := mustBuild(b)
	alice := newDevice(b, path, "alice", "--library", "bench")
	alice.Start(b)
	a := dial(b, alice)
	location := makeLocation(b, a)
	putAll(b, a, "entry", n, func(i int) string { return entry(i, location) })
	plain, plainSize := plainInsert(b, filepath.Join(alice.Data(), "starling.db"), "entry", n)

	bob := newDevice(b, path, "bob", "--join")
	bob.Start(b)
	c := dial(b, bob)
	idle, _ := memory(bob.PID())
	invitation, err := a.Invite(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	began := time.Now()
	if _, err := c.Join(b.Context(), invitation.Code); err != nil {
		b.Fatal(err)
	}
	peer := untilLive(b, c)
	took := time.Since(began)
	if got := rows(b, c, "entry"); got != int64(n) {
		b.Fatalf("bob has %d entries; want %d", got, n)
	}
	_, received := memory(bob.PID())
	_, sent := memory(alice.PID())
	sameDigests(b, a, c)

	rate := float64(n) / took.Seconds()
	b.ReportMetric(rate, "rows/s")
	b.ReportMetric(plain, "plain-rows/s")
	b.ReportMetric(rate/plain, "ratio")
	b.ReportMetric(float64(peer.BytesIn)/float64(n), "wire-B/row")
	b.ReportMetric(idle, "idle-MiB")
	b.ReportMetric(received, "peak-in-MiB")
	b.ReportMetric(sent, "peak-out-MiB")
	b.ReportMetric(size(b, bob)/plainSize, "size-ratio")
	reconnect(b, alice, bob, location)
	audit(b, alice, bob)
}

// reconnect stops bob, makes ten changes, and starts him again.
func reconnect(b *testing.B, alice, bob *clustertest.Device, location sdk.RecordID) {
	b.Helper()
	bob.Stop(b)
	a := dial(b, alice)
	putAll(b, a, "entry", 10, func(i int) string { return entry(-1-i, location) })
	began := time.Now()
	bob.Start(b)
	c := dial(b, bob)
	peer := untilLive(b, c)
	b.ReportMetric(float64(time.Since(began).Milliseconds()), "reconnect-ms")
	b.ReportMetric(float64(peer.BytesIn), "reconnect-B")
	sameDigests(b, a, c)
}

// audit measures three audits of what is equal: the first, for which both read all records, the next one, for which they have
// the digests, and the first after both were stopped and started.
func audit(b *testing.B, alice, bob *clustertest.Device) {
	b.Helper()
	for _, d := range []*clustertest.Device{alice, bob} {
		d.Stop(b)
		text, err := os.ReadFile(d.Config())
		if err != nil {
			b.Fatal(err)
		}
		often := strings.Replace(string(text), "\nsync {\n", "\nsync {\n  audit = \"1s\"\n  heartbeat = \"500ms\"\n", 1)
		if err := os.WriteFile(d.Config(), []byte(often), 0o600); err != nil {
			b.Fatal(err)
		}
		d.Start(b)
	}
	clients := []*control.Client{dial(b, alice), dial(b, bob)}
	last := audited(b, clients, time.Time{}, "audit-first-ms")
	last = audited(b, clients, last, "audit-again-ms")
	b.ReportMetric(float64(untilLive(b, clients[0]).BytesIn+untilLive(b, clients[1]).BytesIn), "audit-session-B")
	for _, d := range []*clustertest.Device{alice, bob} {
		d.Stop(b)
		d.Start(b)
	}
	audited(b, []*control.Client{dial(b, alice), dial(b, bob)}, last, "audit-restarted-ms")
}

// audited waits for an audit that ends after last, of whichever of a pair asks (the one with the smaller id), and reports how
// long it took.
func audited(b *testing.B, clients []*control.Client, last time.Time, name string) time.Time {
	b.Helper()
	for {
		for _, c := range clients {
			peer := untilLive(b, c)
			if !peer.Audit.At.After(last) {
				continue
			}
			if peer.Audit.Outcome != control.AuditEqual {
				b.Fatalf("an audit found %+v", peer.Audit)
			}
			b.ReportMetric(float64(peer.Audit.Took.Microseconds())/1000, name)
			return peer.Audit.At
		}
		<-time.After(10 * time.Millisecond)
	}
}

// size is the size of a device's database, in bytes, after what was written is in the database file itself.
func size(b *testing.B, d *clustertest.Device) float64 {
	b.Helper()
	info, err := os.Stat(filepath.Join(d.Data(), "starling.db"))
	if err != nil {
		b.Fatal(err)
	}
	return float64(info.Size())
}

// BenchmarkSharedOperations measures shared operations from the wire to applied.
func BenchmarkSharedOperations(b *testing.B) {
	const n = 100_000
	for b.Loop() {
		path := mustBuild(b)
		alice := newDevice(b, path, "alice", "--library", "bench")
		bob := newDevice(b, path, "bob", "--join")
		alice.Start(b)
		bob.Start(b)
		a, c := dial(b, alice), dial(b, bob)
		putAll(b, a, "tag", n, func(i int) string { return fmt.Sprintf(`{"name":"tag number %d","color":"red"}`, i) })
		invitation, err := a.Invite(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		began := time.Now()
		if _, err := c.Join(b.Context(), invitation.Code); err != nil {
			b.Fatal(err)
		}
		untilLive(b, c)
		b.ReportMetric(n/time.Since(began).Seconds(), "rows/s")
		sameDigests(b, a, c)
	}
}

// BenchmarkLocalCommits measures local commits through the control API, 100 records each, one after another.
func BenchmarkLocalCommits(b *testing.B) {
	const n, batch = 50_000, 100
	for b.Loop() {
		alice := newDevice(b, mustBuild(b), "alice", "--library", "bench")
		alice.Start(b)
		a := dial(b, alice)
		rate := n / commitLocally(b, a, n, batch).Seconds()
		plain, _ := plainInsertBy(b, filepath.Join(alice.Data(), "starling.db"), "entry", n, batch)
		b.ReportMetric(rate, "rows/s")
		b.ReportMetric(plain, "plain-rows/s")
		b.ReportMetric(rate/plain, "ratio")
	}
}

// commitLocally puts n entries through the control API, batch of them at a time, one call after another, and returns how long
// that took.
func commitLocally(b *testing.B, client *control.Client, n, batch int) time.Duration {
	b.Helper()
	location := makeLocation(b, client)
	began := time.Now()
	for from := 0; from < n; from += batch {
		var puts []control.Put
		for i := from; i < from+batch; i++ {
			puts = append(puts, control.Put{JSON: []byte(entry(i, location))})
		}
		if _, err := client.Put(b.Context(), "entry", puts, true); err != nil {
			b.Fatal(err)
		}
	}
	return time.Since(began)
}

// BenchmarkVisible measures from the call that commits on one device to the event on the other.
func BenchmarkVisible(b *testing.B) {
	const n = 1000
	for b.Loop() {
		path := mustBuild(b)
		alice := newDevice(b, path, "alice", "--library", "bench")
		bob := newDevice(b, path, "bob", "--join")
		alice.Start(b)
		bob.Start(b)
		clustertest.Pair(b, alice, bob)
		a, c := dial(b, alice), dial(b, bob)
		untilLive(b, c)
		ctx, cancel := context.WithCancel(b.Context())
		watch, err := c.Watch(ctx, "tag")
		if err != nil {
			b.Fatal(err)
		}
		var took []time.Duration
		for i := range n {
			began := time.Now()
			if _, err := a.Put(b.Context(), "tag", []control.Put{{JSON: fmt.Appendf(nil, `{"name":"tag %d"}`, i)}}, true); err != nil {
				b.Fatal(err)
			}
			if _, err := watch.Next(); err != nil {
				b.Fatal(err)
			}
			took = append(took, time.Since(began))
		}
		cancel()
		watch.Close()
		slices.Sort(took)
		b.ReportMetric(float64(took[n/2].Microseconds())/1000, "p50-ms")
		b.ReportMetric(float64(took[n*99/100].Microseconds())/1000, "p99-ms")
	}
}

// BenchmarkRealTree catalogues Go's own source on one device while the other follows.
func BenchmarkRealTree(b *testing.B) {
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		b.Skipf("go env GOROOT: %v", err)
	}
	for b.Loop() {
		path := mustBuild(b)
		alice := newDevice(b, path, "alice", "--library", "bench")
		bob := newDevice(b, path, "bob", "--join")
		alice.Start(b)
		bob.Start(b)
		a, c := dial(b, alice), dial(b, bob)
		alice.Run(b, "location", "add", filepath.Join(strings.TrimSpace(string(out)), "src"))
		clustertest.Eventually(b, "the walk", func() error {
			status, err := a.Status(b.Context())
			if err != nil {
				return err
			}
			for _, s := range status.Sources {
				for _, p := range s.Progress {
					if p.Total > 0 && p.Done >= p.Total && !strings.HasPrefix(p.Key, "hashing ") {
						return nil
					}
				}
			}
			return fmt.Errorf("still walking")
		})
		clustertest.Pair(b, alice, bob)
		peer := untilLive(b, c)
		n := rows(b, c, "entry")
		sameDigests(b, a, c)
		b.ReportMetric(float64(n), "entries")
		b.ReportMetric(float64(peer.BytesIn)/float64(n), "wire-B/row")
	}
}
