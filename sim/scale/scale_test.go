package main

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/starling-sync/starling/host/peersync"
	"github.com/starling-sync/starling/host/protocol"
)

// few is a small run: its writes reach all, or measure returns an error.
func few() options {
	return options{Devices: 20, Degree: 4, Writes: 30, Seed: 7, Full: true, Sample: 1}
}

func TestMeasure(t *testing.T) {
	for name, change := range map[string]func(*options){
		"all members known": func(*options) {},
		"neighbours known":  func(o *options) { o.Full = false },
		"stamps closed":     func(o *options) { o.Seal = true },
	} {
		t.Run(name, func(t *testing.T) {
			o := few()
			change(&o)
			first, err := measure(o)
			if err != nil {
				t.Fatal(err)
			}
			if first.Later.Deliveries < first.receivers()/2 { // a page may carry several
				t.Errorf("%.1f pages a write reach %.0f devices", first.Later.Deliveries, first.receivers())
			}
			if first.Later.AllMax < 2*linkTime || first.First.AllMax > time.Minute {
				t.Errorf("the last copy is there after %s and %s", first.First.AllMax, first.Later.AllMax)
			}
			again, err := measure(o)
			if err != nil {
				t.Fatal(err)
			}
			machine := cmpopts.IgnoreFields(result{}, "AtRest", "AfterWrites", "Look", "LookAgain", "Real")
			if diff := cmp.Diff(first, again, machine); diff != "" {
				t.Errorf("the same seed, another run (-first +again):\n%s", diff)
			}
			o.Seed++
			if other, err := measure(o); err != nil || cmp.Equal(first, other, machine) {
				t.Errorf("another seed gives the same run, or none (%v)", err)
			}
		})
	}
}

// TestWorld_apply wants a page that lacks what it covers found.
func TestWorld_apply(t *testing.T) {
	w, err := newWorld(few())
	if err != nil {
		t.Fatal(err)
	}
	w.start()
	w.writes = make([]write, w.options.Writes)
	w.commit(0)
	page := w.writes[0].page
	page.Batches = nil
	w.apply(1, peersync.Apply{Page: page})
	if w.broken == nil {
		t.Error("an empty page that covers a write is taken")
	}
}

func TestOverlay(t *testing.T) {
	for _, devices := range []int{20, 30, 300} {
		edges, err := overlay(rand.New(rand.NewPCG(1, 2)), devices, 10)
		if err != nil {
			t.Fatal(err)
		}
		degree, seen := make([]int, devices), map[edge]bool{}
		for _, e := range edges {
			if seen[ordered(e.dials, e.listens)] {
				t.Errorf("two links between %d and %d", e.dials, e.listens)
			}
			seen[ordered(e.dials, e.listens)] = true
			degree[e.dials]++
			degree[e.listens]++
		}
		for i, n := range degree {
			if n != 10 {
				t.Errorf("device %d of %d has %d links", i, devices, n)
			}
		}
	}
	if _, err := overlay(rand.New(rand.NewPCG(1, 2)), 15, 10); err == nil {
		t.Error("15 devices of degree 10 give an overlay")
	}
}

func TestTraffic_count(t *testing.T) {
	var traffic traffic
	if err := traffic.start(protocol.DefaultLimits(), 4); err != nil {
		t.Fatal(err)
	}
	for range 8 {
		for _, m := range []protocol.Message{&protocol.Heartbeat{}, &protocol.AckSharedChanges{}} {
			if err := traffic.count(m); err != nil {
				t.Fatal(err)
			}
		}
	}
	if traffic.messages[0] != 8 || traffic.messages[protocol.TypeHeartbeat] != 0 || traffic.encoded[protocol.TypeAckSharedChanges] != 2 {
		t.Errorf("counted %d empty heartbeats, %d others, encoded %d acknowledgements; want 8, 0, 2",
			traffic.messages[0], traffic.messages[protocol.TypeHeartbeat], traffic.encoded[protocol.TypeAckSharedChanges])
	}
}

// TestGoals wants a miss of each goal found.
func TestGoals(t *testing.T) {
	run := func(n int, messages float64, last time.Duration) *result {
		c := costs{Messages: messages, AllMax: last}
		return &result{Devices: n, First: c, Later: c}
	}
	for name, test := range map[string]struct {
		results []*result
		met     bool
	}{
		"met":              {[]*result{run(30, 58, time.Second), run(100, 198, 0), run(1000, 1998, 0)}, true},
		"30 are too slow":  {[]*result{run(30, 58, 11*time.Second)}, false},
		"more than linear": {[]*result{run(100, 198, 0), run(1000, 2100, 0)}, false},
	} {
		if err := goals(test.results, false); (err == nil) != test.met {
			t.Errorf("%s: %v", name, err)
		}
	}
}
