//go:build unix

package main_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/starling-sync/starling/host/clustertest"
	"github.com/starling-sync/starling/host/control"
	"github.com/starling-sync/starling/sdk"
)

// What writing does on each device: so many writers, each of which puts a batch at each turn. Two devices aim at 1,333
// writes a second.
const (
	writers   = 4
	batchSize = 10
	turn      = 60 * time.Millisecond
)

// writing puts records on devices at a steady rate until stopped. No write may be refused or fail.
type writing struct {
	began time.Time
	took  time.Duration // when it is stopped
	wait  sync.WaitGroup
	stop  func()

	mu    sync.Mutex
	names map[string]string // of tags that are acknowledged, by id
	hits  map[string]int64  // acknowledged, by the id of the tally
}

// write puts tags on devices.
func write(t *testing.T, devices ...*clustertest.Device) *writing {
	t.Helper()
	w := &writing{began: time.Now(), names: map[string]string{}, hits: map[string]int64{}}
	ctx, cancel := context.WithCancel(t.Context())
	w.stop = sync.OnceFunc(func() { cancel(); w.wait.Wait(); w.took = time.Since(w.began) })
	t.Cleanup(w.stop)
	for _, d := range devices {
		for each := range writers {
			w.put(ctx, t, d, "tag", func(i int) (puts []control.Put) {
				for k := range batchSize {
					puts = append(puts, control.Put{JSON: fmt.Appendf(nil, `{"name":"%s %d %d %d"}`, d.Name, each, i, k)})
				}
				return puts
			}, func(i, k int, id sdk.RecordID) { w.names[id.String()] = fmt.Sprintf("%s %d %d %d", d.Name, each, i, k) })
		}
	}
	return w
}

// tally makes counters on each device, to which it adds: many writers of one record have a page of a peer that is about it
// decided again and again on a busy machine, and that is not what these tests are about.
func (w *writing) tally(t *testing.T, devices ...*clustertest.Device) {
	t.Helper()
	counters := map[string][]control.Put{}
	for _, d := range devices {
		for i := range batchSize {
			id, err := sdk.ParseRecordID(d.Run(t, "put", "tally", fmt.Sprintf(`{"name":"%d"}`, i)))
			if err != nil {
				t.Fatal(err)
			}
			counters[d.Name] = append(counters[d.Name], control.Put{ID: id, JSON: []byte(`{"hits":{"add":1}}`)})
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	stop := w.stop
	w.stop = sync.OnceFunc(func() { cancel(); stop() })
	t.Cleanup(w.stop)
	for _, d := range devices {
		w.put(ctx, t, d, "tally", func(int) []control.Put { return counters[d.Name] }, func(_, _ int, id sdk.RecordID) { w.hits[id.String()]++ })
	}
}

// put puts what make returns for each turn, until ctx ends, and calls acknowledged for each of it.
func (w *writing) put(ctx context.Context, t *testing.T, d *clustertest.Device, model sdk.ModelName, make func(i int) []control.Put, acknowledged func(i, k int, id sdk.RecordID)) {
	t.Helper()
	client, err := control.Dial(t.Context(), d.Data())
	if err != nil {
		t.Fatal(err)
	}
	w.wait.Go(func() {
		defer client.Close()
		next := time.NewTicker(turn)
		defer next.Stop()
		for i := 0; ctx.Err() == nil; i++ {
			puts := make(i)
			result, err := client.Put(context.WithoutCancel(ctx), model, puts, true)
			if err != nil || len(result.Refused) > 0 {
				t.Errorf("a write on %s: %v, %v", d.Name, err, result.Refused)
				return
			}
			w.mu.Lock()
			for k, id := range result.IDs {
				acknowledged(i, k, id)
			}
			w.mu.Unlock()
			select {
			case <-next.C:
			case <-ctx.Done():
			}
		}
	})
}

// count is how many writes have been acknowledged.
func (w *writing) count() (total int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range w.hits {
		total += n
	}
	return total + int64(len(w.names))
}

func (w *writing) String() string {
	return fmt.Sprintf("%d writes, %.0f a second", w.count(), float64(w.count())/w.took.Seconds())
}

// check stops the writing and looks whether all devices have each acknowledged write, once and as it was.
func (w *writing) check(t *testing.T, devices ...*clustertest.Device) {
	t.Helper()
	w.stop()
	clustertest.WaitEqual(t, devices...)
	for _, d := range devices {
		tags := d.List(t, "tag")
		if len(tags) != len(w.names) {
			t.Errorf("%s has %d tags; %d were written", d.Name, len(tags), len(w.names))
		}
		for id, name := range w.names {
			if tags[id]["name"] != name {
				t.Errorf("%s has %v for %q", d.Name, tags[id]["name"], name)
				break
			}
		}
		if len(w.hits) > 0 {
			tallies := d.List(t, "tally")
			for id, hits := range w.hits {
				if got := tallies[id]["hits"]; got != float64(hits) {
					t.Errorf("%s counts %v; %d were added", d.Name, got, hits)
				}
			}
		}
		if status := d.Run(t, "status", "--json"); !strings.Contains(status, `"refused":0`) || !strings.Contains(status, `"conflicts":0`) {
			t.Errorf("%s refused something, or found conflicts: %s", d.Name, status)
		}
	}
}

// add appends blocks to a device's configuration.
func add(t *testing.T, d *clustertest.Device, blocks string) {
	t.Helper()
	text, err := os.ReadFile(d.Config())
	if err == nil {
		err = os.WriteFile(d.Config(), append(text, blocks...), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// addTally has a device count.
func addTally(t *testing.T, d *clustertest.Device) {
	t.Helper()
	add(t, d, fmt.Sprintf("\nmodel \"tally\" { path = %q }\n", built(t, "host/testdata/tally", "1")))
}

// knocking connects to an address again and again until stopped, and counts refusals.
type knocking struct {
	tried, refused atomic.Int64
	stop           func()
}

func knock(t *testing.T, address string) *knocking {
	t.Helper()
	k := &knocking{}
	ctx, cancel := context.WithCancel(t.Context())
	var wait sync.WaitGroup
	wait.Go(func() {
		again := time.NewTicker(5 * time.Millisecond)
		defer again.Stop()
		for ctx.Err() == nil {
			k.tried.Add(1)
			if c, err := net.DialTimeout("tcp", address, 5*time.Second); err == nil {
				_ = c.Close()
			} else {
				k.refused.Add(1)
			}
			select {
			case <-again.C:
			case <-ctx.Done():
			}
		}
	})
	k.stop = sync.OnceFunc(func() { cancel(); wait.Wait() })
	t.Cleanup(k.stop)
	return k
}

// parting watches how long a device has no session with any other, until stopped.
type parting struct {
	mu      sync.Mutex
	longest time.Duration
	stop    func()
}

func watchSessions(t *testing.T, d *clustertest.Device) *parting {
	t.Helper()
	client, err := control.Dial(t.Context(), d.Data())
	if err != nil {
		t.Fatal(err)
	}
	p := &parting{}
	ctx, cancel := context.WithCancel(t.Context())
	var wait sync.WaitGroup
	wait.Go(func() {
		defer client.Close()
		again := time.NewTicker(5 * time.Millisecond)
		defer again.Stop()
		last := time.Now()
		for ctx.Err() == nil {
			peers, err := client.Peers(ctx)
			now := time.Now()
			for _, each := range peers {
				if err == nil && each.Via != "" {
					last = now
				}
			}
			p.mu.Lock()
			p.longest = max(p.longest, now.Sub(last))
			p.mu.Unlock()
			select {
			case <-again.C:
			case <-ctx.Done():
			}
		}
	})
	p.stop = sync.OnceFunc(func() { cancel(); wait.Wait() })
	t.Cleanup(p.stop)
	return p
}
