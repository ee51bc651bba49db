//go:build unix

package main_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/starling-sync/starling/host/clustertest"
	"github.com/starling-sync/starling/host/control"
)

// killing is a moment of a swap, by the stage that is over then, and what is killed with SIGKILL.
type killing struct {
	plugin, path, at, victim string
}

// killings are the moments at which swaps of a model and of a transport are looked at, to a good build and to one that ends
// after a second.
func killings(t *testing.T) (all []killing) {
	t.Helper()
	good, bad, lan := built(t, "plugins/tag", "1"), built(t, "host/testdata/badtag", "crash-second"), built(t, "plugins/transport-tcp", "1")
	for _, at := range []string{"staging", "starting", "switching", "draining", "watching"} {
		for _, victim := range []string{"host", "old", "new"} {
			if at == "staging" && victim == "new" {
				continue // it does not run yet
			}
			all = append(all, killing{"tag", good, at, victim}, killing{"lan", lan, at, victim})
			if at != "watching" { // which it does not survive
				all = append(all, killing{"tag", bad, at, victim})
			}
		}
	}
	return all
}

// TestSwap_KillNine kills the host, the new or the old process at each step of swaps. Whatever is killed, the plugin runs
// afterwards by itself, with a build that works, and nothing that was acknowledged is lost.
func TestSwap_KillNine(t *testing.T) {
	t.Parallel()
	alice, bob := pair(t)
	acknowledged := map[string]string{}
	put := func(name string) error {
		id, err := alice.TryRun("put", "tag", `{"name":"`+name+`"}`)
		if err == nil {
			acknowledged[id] = name
		}
		return err
	}
	all := killings(t)
	times := rounds(5)
	for i := range times {
		k := all[i*len(all)/times%len(all)]
		if times > len(all) {
			k = all[i%len(all)]
		}
		t.Logf("%+v", k)
		children := alice.Processes()
		_ = put(fmt.Sprintf("before %d", i))
		k.swap(t, alice)
		_ = put(fmt.Sprintf("at %d", i)) // the host may be dead
		if k.victim == "host" {
			alice.Kill(t)
			noneLeft(t, children)
			alice.Start(t)
		}
		clustertest.Eventually(t, k.plugin+" runs", func() error {
			if pidOf(t, alice, k.plugin) == 0 {
				return errors.New(alice.Run(t, "plugin", "list"))
			}
			return put(fmt.Sprintf("after %d", i))
		})
		settled(t, alice, k.plugin)
		if list := alice.Run(t, "plugin", "list"); strings.Contains(list, "badtag") || strings.Contains(list, "quarantined") {
			t.Errorf("after %+v:\n%s", k, list)
		}
	}
	clustertest.WaitEqual(t, alice, bob)
	for _, d := range []*clustertest.Device{alice, bob} {
		tags := d.List(t, "tag")
		for id, name := range acknowledged {
			if tags[id]["name"] != name {
				t.Errorf("%s lost %q", d.Name, name)
			}
		}
	}
	t.Logf("%d of %d moments, %d writes", min(times, len(all)), len(all), len(acknowledged))
}

// swap swaps the plugin, and kills the victim once the stage is over. It returns when the swap has ended for who asked.
func (k killing) swap(t *testing.T, d *clustertest.Device) {
	t.Helper()
	client, err := control.Dial(t.Context(), d.Data())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	pids := map[string]int{"host": d.PID(), "old": pidOf(t, d, k.plugin)}
	soak := 300 * time.Millisecond
	if strings.Contains(k.path, "crash-second") {
		soak = 3 * time.Second
	}
	var steps []string
	err = client.SwapPlugin(t.Context(), control.PluginSwap{Name: k.plugin, Path: k.path, Soak: soak}, func(step control.Step) {
		steps = append(steps, step.Stage)
		if step.Stage == "starting" {
			var pid int
			_, number, _ := strings.Cut(step.Text, "process ")
			if _, err := fmt.Sscan(number, &pid); err != nil {
				t.Errorf("no process in %q", step.Text)
			}
			pids["new"] = pid
		}
		if pid := pids[k.victim]; step.Stage == k.at && pid > 0 {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	t.Logf("%v: %v", steps, err)
}

// settled waits until no swap of a plugin is under way.
func settled(t *testing.T, d *clustertest.Device, plugin string) {
	t.Helper()
	client, err := control.Dial(t.Context(), d.Data())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	clustertest.Eventually(t, "no swap of "+plugin, func() error {
		all, err := client.Plugins(t.Context())
		for _, p := range all {
			if p.Name == plugin && (p.Swap != "" || p.State != "running") {
				err = fmt.Errorf("%+v", p)
			}
		}
		return err
	})
}

// pidOf returns the process of a plugin; 0: none runs.
func pidOf(t *testing.T, d *clustertest.Device, plugin string) int {
	t.Helper()
	client, err := control.Dial(t.Context(), d.Data())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	all, err := client.Plugins(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		if p.Name == plugin {
			return p.PID
		}
	}
	return 0
}

// TestSwap_KillNineAtVersion kills the host about the moment at which the tables are made to fit a newer version of a model,
// and at which it is written down that its build is the one in use. The host that follows serves the model, by either build.
func TestSwap_KillNineAtVersion(t *testing.T) {
	t.Parallel()
	path, next := mustBuild(t), built(t, "host/testdata/badtag", "next")
	raised, times := 0, min(rounds(4), 24)
	for i := range times {
		alice := clustertest.NewDevice(t, path, "alice", "--library", "home")
		alice.Start(t)
		id := alice.Run(t, "put", "tag", `{"name":"before"}`)
		client, err := control.Dial(t.Context(), alice.Data())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		killed := make(chan struct{})
		_ = client.SwapPlugin(ctx, control.PluginSwap{Name: "tag", Path: next, Soak: 100 * time.Millisecond}, func(step control.Step) {
			if step.Stage == "watching" { // what follows takes some milliseconds
				time.AfterFunc(time.Duration(i*7%24)*time.Millisecond/2, func() { _ = syscall.Kill(alice.PID(), syscall.SIGKILL); close(killed) })
			}
		})
		<-killed
		cancel()
		client.Close()
		alice.Kill(t)
		alice.Start(t)
		settled(t, alice, "tag")
		if list := alice.Run(t, "plugin", "list"); strings.Contains(list, "quarantined") {
			t.Errorf("killed at %d:\n%s", i, list)
		}
		alice.Run(t, "put", "tag", `{"name":"after"}`, "--id", id)
		if _, err := alice.TryRun("put", "tag", `{"shade":"dark"}`, "--id", id); err == nil {
			raised++
		}
		alice.Kill(t)
	}
	t.Logf("killed %d times; the tables were raised in %d of them by then or at the start that followed", times, raised)
}
