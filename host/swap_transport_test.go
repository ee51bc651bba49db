//go:build unix

package main_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/starling-sync/starling/host/clustertest"
	"github.com/starling-sync/starling/host/control"
)

// TestSwap_DeafTransport swaps to a transport that takes connections and carries nothing.
func TestSwap_DeafTransport(t *testing.T) {
	if !thorough() {
		t.Skip("takes half a minute: set STARLING_SWAPS, or run task test:swaps")
	}
	alice, bob := pair(t)
	clustertest.WaitEqual(t, alice, bob)
	waitLive(t, alice, bob)
	_, err := alice.TryRun("plugin", "swap", "lan", built(t, "host/testdata/transport-other", "deaf"), "--soak", "50s")
	if err == nil || !strings.Contains(err.Error(), "none of 1 devices that were connected came back") {
		t.Errorf("the deaf transport: %v", err)
	}
	k := knock(t, alice.Listen)
	_, err = alice.TryRun("plugin", "swap", "lan", built(t, "host/testdata/transport-other", "mute"), "--soak", "50s")
	if err == nil || !strings.Contains(err.Error(), "no network today") {
		t.Errorf("the mute transport: %v", err)
	}
	k.stop()
	if k.refused.Load() > 0 {
		t.Errorf("%d of %d connections were refused", k.refused.Load(), k.tried.Load())
	}
	alice.Run(t, "put", "tag", `{"name":"after"}`)
	clustertest.WaitEqual(t, alice, bob)
}

// TestSwap_SlowTransport swaps to a build of a transport, and to another transport, that carry everything 700 ms
// late. It shows in the round trips, or in sessions that end since heartbeats are late.
func TestSwap_SlowTransport(t *testing.T) {
	if !thorough() {
		t.Skip("takes some seconds: set STARLING_SWAPS, or run task test:swaps")
	}
	path := mustBuild(t)
	alice := clustertest.NewDevice(t, path, "alice", "--library", "home")
	bob := clustertest.NewDevice(t, path, "bob", "--join")
	for _, d := range []*clustertest.Device{alice, bob} {
		edit(t, d, `# heartbeat       = "5s"`, `heartbeat = "1s"`)
		add(t, d, fmt.Sprintf("\ntransport \"other\" \"wan\" {\n  path = %q\n  listen = %q\n}\n", built(t, "host/testdata/transport-other", map[string]string{"alice": "crawl"}[d.Name]), clustertest.FreeAddress(t)))
		d.Start(t)
	}
	clustertest.Pair(t, alice, bob)
	waitLive(t, alice, bob)
	_, err := alice.TryRun("plugin", "swap", "lan", built(t, "host/testdata/transport-other", "slow"), "--soak", "50s")
	if err == nil || !strings.Contains(err.Error(), "it falls behind") && !strings.Contains(err.Error(), "sessions by it ended") {
		t.Errorf("the slow transport: %v", err)
	}
	t.Log(err)
	waitVia(t, alice, "lan")
	_, err = alice.TryRun("transport", "swap", "lan", "wan", "--soak", "50s")
	if err == nil || !strings.Contains(err.Error(), "rolled back, transport lan is in use again: it falls behind") && !strings.Contains(err.Error(), "sessions by it ended") {
		t.Errorf("the other slow transport: %v", err)
	}
	t.Log(err)
	alice.Run(t, "put", "tag", `{"name":"after"}`)
	clustertest.WaitEqual(t, alice, bob)
}

func waitVia(t *testing.T, d *clustertest.Device, transport string) {
	t.Helper()
	clustertest.Eventually(t, "a session by "+transport, func() error {
		if peers := d.Run(t, "peers", "--json"); !strings.Contains(peers, `"via":"`+transport+`"`) || !strings.Contains(peers, `"state":"live"`) {
			return errors.New(peers)
		}
		return nil
	})
}

// TestTransportSwap moves the sessions of TCP to another transport, back, and over a restart.
func TestTransportSwap(t *testing.T) {
	path := mustBuild(t)
	other := built(t, "host/testdata/transport-other", "")
	alice := clustertest.NewDevice(t, path, "alice", "--library", "home")
	bob := clustertest.NewDevice(t, path, "bob", "--join")
	for _, d := range []*clustertest.Device{alice, bob} {
		add(t, d, fmt.Sprintf("\ntransport \"other\" \"wan\" {\n  path = %q\n  listen = %q\n}\n", other, clustertest.FreeAddress(t)))
		d.Start(t)
	}
	clustertest.Pair(t, alice, bob)
	waitLive(t, alice, bob)
	w := write(t, alice, bob)
	via := func(want string) { t.Helper(); waitVia(t, alice, want) }
	began, times := time.Now(), rounds(2)
	for range times {
		alice.Run(t, "transport", "swap", "lan", "wan", "--soak", "200ms")
		via("wan")
		if c, err := net.Dial("tcp", alice.Listen); err == nil {
			c.Close()
			t.Error("the transport that was replaced takes connections")
		}
		alice.Run(t, "transport", "swap", "wan", "lan", "--soak", "200ms")
		via("lan")
	}
	took := time.Since(began)
	w.check(t, alice, bob)
	t.Logf("%d swaps there and back in %s: %s", times, took.Round(time.Millisecond), w)
	alice.Run(t, "transport", "swap", "lan", "wan", "--soak", "0s")
	alice.Run(t, "put", "tag", `{"name":"after the swap"}`) // and after all that alice says of herself in it
	clustertest.WaitEqual(t, alice, bob)
	clustertest.Eventually(t, "bob knows that alice is reached by wan alone", func() error {
		if peers := bob.Run(t, "peers", "--json"); strings.Contains(peers, `"tcp `) || !strings.Contains(peers, `"other `) {
			return errors.New(peers)
		}
		return nil
	})
	alice.Stop(t)
	alice.Start(t)
	via("wan")
	if out := alice.Run(t, "plugin", "list"); !strings.Contains(out, "stopped") {
		t.Errorf("after a restart:\n%s", out)
	}
	if _, err := alice.TryRun("transport", "swap", "wan", "nowhere"); err == nil || !strings.Contains(err.Error(), "no transport") {
		t.Errorf("to nowhere: %v", err)
	}
}

// TestTransportSwap_NATS moves the sessions of two devices from TCP to a NATS server and back while both write, and a stranger
// connects to the TCP transport for as long as it is in use.
func TestTransportSwap_NATS(t *testing.T) {
	path := mustBuild(t)
	server := newNATSServer(t)
	server.start(t)
	alice := clustertest.NewDevice(t, path, "alice", "--library", "home")
	bob := clustertest.NewDevice(t, path, "bob", "--join")
	for _, d := range []*clustertest.Device{alice, bob} {
		throughNATS(t, d, server, true)
		addTally(t, d)
		d.Start(t)
	}
	clustertest.Pair(t, alice, bob)
	waitLive(t, alice, bob)
	client, err := control.Dial(t.Context(), alice.Data())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	// The stranger comes once TCP listens, and goes when its sessions have been moved: it is stopped soak later.
	const soak = time.Second
	k := knock(t, alice.Listen)
	tried, refused := int64(0), int64(0)
	swap := func(from, to string) {
		t.Helper()
		err := client.SwapTransport(t.Context(), control.TransportSwap{From: from, To: to, Soak: soak}, func(step control.Step) {
			switch {
			case step.Stage == "starting" && to == "lan":
				k = knock(t, alice.Listen)
			case step.Stage == "switching" && from == "lan":
				k.stop()
				tried, refused = tried+k.tried.Load(), refused+k.refused.Load()
			}
		})
		if err != nil {
			t.Fatalf("%s to %s: %v", from, to, err)
		}
		waitVia(t, alice, to)
	}
	w, p := write(t, alice, bob), watchSessions(t, alice)
	w.tally(t, alice, bob)
	began, times := time.Now(), rounds(2)
	for range times {
		swap("lan", "fleet")
		swap("fleet", "lan")
	}
	took := time.Since(began)
	k.stop()
	tried, refused = tried+k.tried.Load(), refused+k.refused.Load()
	p.stop()
	w.check(t, alice, bob)
	if refused > 0 {
		t.Errorf("%d of %d connections were refused", refused, tried)
	}
	for _, d := range []*clustertest.Device{alice, bob} {
		if inLog(d, "connection refused") == nil {
			t.Errorf("%s was refused a connection; see its log", d.Name)
		}
	}
	t.Logf("%d swaps of TCP for NATS and back in %s: %s; %d connections by TCP, %d refused; no session for %s at most",
		times, took.Round(time.Millisecond), w, tried, refused, p.longest.Round(time.Millisecond))
}

// crash kills the process of a transport, and returns once another one has taken its place.
func crash(t *testing.T, d *clustertest.Device, transport string) {
	t.Helper()
	find := func() process {
		for _, p := range processes(t, d) {
			if p.Name == transport {
				return p
			}
		}
		return process{}
	}
	was := find()
	if err := syscall.Kill(was.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	clustertest.Eventually(t, transport+" runs again", func() error {
		if p := find(); p.State != "running" || p.PID == was.PID {
			return fmt.Errorf("it is %+v", p)
		}
		return nil
	})
}

// TestTransportSwap_Rollback ends swaps of transports while they are watched: the first transport is used as before, and one that
// had been stopped is stopped again.
func TestTransportSwap_Rollback(t *testing.T) {
	path := mustBuild(t)
	other := built(t, "host/testdata/transport-other", "")
	alice := clustertest.NewDevice(t, path, "alice", "--library", "home")
	bob := clustertest.NewDevice(t, path, "bob", "--join")
	for _, d := range []*clustertest.Device{alice, bob} {
		add(t, d, fmt.Sprintf("\ntransport \"other\" \"wan\" {\n  path = %q\n  listen = %q\n}\n", other, clustertest.FreeAddress(t)))
		d.Start(t)
	}
	clustertest.Pair(t, alice, bob)
	waitLive(t, alice, bob)
	waitVia(t, alice, "lan")
	client, err := control.Dial(t.Context(), alice.Data())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	refused := func(want string, args ...string) {
		t.Helper()
		if _, err := alice.TryRun(args...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: want %q, got %v", args, want, err)
		}
	}
	// begin begins a swap, and returns once its sessions are being watched.
	begin := func(from, to string) (over chan error) {
		t.Helper()
		over, watching := make(chan error, 1), make(chan struct{})
		go func() {
			over <- client.SwapTransport(t.Context(), control.TransportSwap{From: from, To: to, Soak: time.Hour}, func(step control.Step) {
				if step.Stage == "switching" {
					close(watching)
				}
			})
		}()
		select {
		case <-watching:
		case err := <-over:
			t.Fatalf("%s to %s: %v", from, to, err)
		}
		waitVia(t, alice, to)
		return over
	}
	ended := func(over chan error) {
		t.Helper()
		if err := <-over; err == nil || !strings.Contains(err.Error(), "a rollback was asked for") {
			t.Errorf("the swap: %v", err)
		}
	}
	w := write(t, alice, bob)
	refused("lan is in use; for the build of it before: starling plugin rollback lan", "transport", "rollback", "lan")
	refused(`no transport "nowhere"`, "transport", "rollback", "nowhere")

	over := begin("lan", "wan")
	if out := alice.Run(t, "plugin", "list"); strings.Count(out, "its sessions are being moved to transport wan") != 1 {
		t.Errorf("plugin list:\n%s", out)
	}
	refused("or: starling transport rollback lan", "transport", "swap", "wan", "lan")
	refused("or: starling transport rollback lan", "reload")
	refused("or: starling transport rollback lan", "plugin", "swap", "lan")
	refused("or: starling transport rollback lan", "plugin", "rollback", "lan")
	refused("or: starling transport rollback lan", "plugin", "restart", "lan")
	refused("end it with: starling transport rollback lan", "transport", "rollback", "nowhere")
	crash(t, alice, "lan")
	serves := func() error { // it answers a handshake
		c, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", alice.Listen, &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // whoever it is
		if err == nil {
			_ = c.Close()
		}
		return err
	}
	if err := serves(); !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
		t.Errorf("lan, started again after a crash, serves: %v", err)
	}
	if out := alice.Run(t, "transport", "rollback", "lan"); !strings.Contains(out, "the swap under way has ended: rolled back, transport lan is in use again: a rollback was asked for") {
		t.Errorf("it says %q", out)
	}
	ended(over)
	clustertest.Eventually(t, "lan is in use again", func() error {
		if err := serves(); errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EPIPE) {
			return err
		}
		return nil
	})
	alice.Run(t, "transport", "swap", "lan", "wan", "--soak", "0s")
	waitVia(t, alice, "wan")
	refused("lan is stopped: transport wan took its place; back with: starling transport swap wan lan", "transport", "rollback", "lan")

	over = begin("wan", "lan")
	alice.Run(t, "transport", "rollback", "lan") // either name will do
	ended(over)
	waitVia(t, alice, "wan")
	clustertest.Eventually(t, "lan is stopped again", func() error {
		if c, err := net.Dial("tcp", alice.Listen); err == nil {
			c.Close()
			return errors.New("it takes connections")
		}
		return nil
	})
	refused("lan is stopped: transport wan took its place; back with: starling transport swap wan lan", "transport", "rollback", "lan")
	w.check(t, alice, bob)
	events := alice.Run(t, "events")
	if strings.Count(events, "rolled back  lan") != 1 || strings.Count(events, "rolled back  wan") != 1 || strings.Count(events, "by starling transport rollback  a rollback was asked for (swapped by starling transport swap)") != 2 {
		t.Errorf("events:\n%s", events)
	}
}
