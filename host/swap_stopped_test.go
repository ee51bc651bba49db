//go:build unix

package main_test

import (
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/starling-sync/starling/host/clustertest"
	"github.com/starling-sync/starling/host/control"
	"github.com/starling-sync/starling/host/database"
)

// transportState returns the state of a device's transport.
func transportState(t *testing.T, d *clustertest.Device, name string) string {
	t.Helper()
	for _, p := range processes(t, d) {
		if p.Name == name {
			return p.State
		}
	}
	t.Fatalf("%s has no transport %s", d.Name, name)
	return ""
}

type process struct {
	Name, State, Reason string
	Restarts, PID       int
}

func processes(t *testing.T, d *clustertest.Device) (all []process) {
	t.Helper()
	for _, line := range strings.Split(strings.TrimSpace(d.Run(t, "plugin", "list", "--json")), "\n") {
		var p process
		if err := json.Unmarshal([]byte(line), &p); err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	return all
}

// TestTransportSwap_Stopped has two devices on the second of two transports: the first is not swapped back to while the peer does not
// have it, takes another configuration, runs again beside the other, and is swapped back to then.
func TestTransportSwap_Stopped(t *testing.T) {
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
	for _, d := range []*clustertest.Device{alice, bob} {
		d.Run(t, "transport", "swap", "lan", "wan", "--soak", "0s")
		waitVia(t, alice, "wan")
	}
	clustertest.Eventually(t, "alice knows that bob is reached by wan alone", func() error {
		if peers := alice.Run(t, "peers", "--json"); strings.Contains(peers, `"tcp `) {
			return errors.New(peers)
		}
		return nil
	})
	if refused := fails(t, alice, "transport", "swap", "wan", "lan"); !strings.Contains(refused, "nothing has changed: bob, of which no address is known") {
		t.Errorf("back, while bob's lan is stopped: %s", refused)
	}
	if refused := fails(t, alice, "transport", "swap", "lan", "wan"); !strings.Contains(refused, "nothing has changed, since transport lan is stopped already") {
		t.Errorf("once more: %s", refused)
	}
	if thorough() { // takes 10 s
		if undone := fails(t, alice, "transport", "swap", "wan", "lan", "--force"); !strings.Contains(undone, "came back within 10s; bob has said no address of kind tcp: there, no such transport runs, or it does not listen; start it first") {
			t.Errorf("back by force: %s", undone)
		}
		if state := transportState(t, alice, "lan"); state != "stopped" {
			t.Errorf("after it lan is %s", state)
		}
		waitVia(t, alice, "wan")
	}

	listen := clustertest.FreeAddress(t)
	edit(t, alice, alice.Listen, listen)
	if out := alice.Run(t, "reload"); !strings.Contains(out, "lan: it is stopped: what has changed takes effect when it is started, by: starling plugin restart lan") {
		t.Errorf("the reload: %s", out)
	}
	if state := transportState(t, alice, "lan"); state != "stopped" {
		t.Errorf("after the reload lan is %s", state)
	}
	for _, d := range []*clustertest.Device{alice, bob} {
		d.Run(t, "plugin", "restart", "lan")
	}
	clustertest.Eventually(t, "alice listens where it says now, and knows that bob does", func() error {
		c, err := net.Dial("tcp", listen)
		if err != nil {
			return err
		}
		_ = c.Close()
		if peers := alice.Run(t, "peers", "--json"); !strings.Contains(peers, `"tcp `+bob.Listen+`"`) || !strings.Contains(peers, `"other `) {
			return errors.New(peers)
		}
		return nil
	})
	waitVia(t, alice, "wan")
	alice.Run(t, "transport", "swap", "wan", "lan", "--soak", "0s")
	waitVia(t, alice, "lan")
	alice.Run(t, "put", "tag", `{"name":"after"}`)
	clustertest.WaitEqual(t, alice, bob)
	for _, p := range processes(t, alice) {
		if p.Restarts != 0 {
			t.Errorf("%s has been restarted %d times, though no process has failed", p.Name, p.Restarts)
		}
	}

	// A block that is removed, and added again later, is one that is to run.
	text, err := os.ReadFile(alice.Config())
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(strings.Split(string(text), "\n"), func(line string) bool { return strings.HasPrefix(line, `transport "other"`) })
	without := strings.Join(strings.Split(string(text), "\n")[:i], "\n")
	for _, content := range []string{without, string(text)} {
		if err := os.WriteFile(alice.Config(), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		alice.Run(t, "reload")
	}
	if state := transportState(t, alice, "wan"); state != "running" {
		t.Errorf("added again, wan is %s", state)
	}
}

// TestReload_Events names in the log of events what a reload has changed, and nothing that was refused.
func TestReload_Events(t *testing.T) {
	alice := clustertest.NewDevice(t, mustBuild(t), "alice", "--library", "home")
	alice.Start(t)
	edit(t, alice, `model "tag" {}`, "model \"tag\" {\n  sha256 = \""+strings.Repeat("ab", 32)+"\"\n}")
	refused := fails(t, alice, "reload")
	if events := alice.Run(t, "events"); strings.Contains(events, "reloaded") || !strings.Contains(events, "refused") {
		t.Errorf("after %s\nthe events are\n%s", refused, events)
	}
	edit(t, alice, `level  = "info"`, `level = "debug"`)
	fails(t, alice, "reload")
	if events := alice.Run(t, "events"); !strings.Contains(events, "reloaded     by starling reload  log: level debug") || strings.Contains(events, "debug;") {
		t.Errorf("the events are\n%s", events)
	}
}

// TestTransportSwap_Unsaid swaps transports to and fro while the database fails the host in the watch of the second: what is done is
// done, and one of both runs.
func TestTransportSwap_Unsaid(t *testing.T) {
	alice := clustertest.NewDevice(t, mustBuild(t), "alice", "--library", "home")
	add(t, alice, fmt.Sprintf("\ntransport \"other\" \"wan\" {\n  path = %q\n  listen = %q\n}\n", built(t, "host/testdata/transport-other", ""), clustertest.FreeAddress(t)))
	alice.Start(t)
	alice.Run(t, "transport", "swap", "lan", "wan", "--soak", "0s")
	db, err := sql.Open("sqlite", filepath.Join(alice.Data(), database.FileName))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	rename := func(from, to string) {
		if _, err := db.ExecContext(t.Context(), "PRAGMA busy_timeout = 10000; ALTER TABLE "+from+" RENAME TO "+to); err != nil {
			t.Error(err)
		}
	}
	client, err := control.Dial(t.Context(), alice.Data())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	err = client.SwapTransport(t.Context(), control.TransportSwap{From: "wan", To: "lan", Soak: 3 * time.Second}, func(step control.Step) {
		if step.Stage == "switching" {
			rename("_meta", "_away")
		}
	})
	rename("_away", "_meta")
	if err != nil {
		t.Errorf("the swap: %v", err)
	}
	if err := inLog(alice, "could not be said again"); err != nil {
		t.Errorf("the database did not fail: %v", err)
	}
	for range 2 {
		clustertest.Eventually(t, "lan runs, and wan does not", func() error {
			if lan, wan := transportState(t, alice, "lan"), transportState(t, alice, "wan"); lan != "running" || wan != "stopped" {
				return fmt.Errorf("lan is %s, wan %s", lan, wan)
			}
			return nil
		})
		alice.Stop(t)
		alice.Start(t)
	}
}
