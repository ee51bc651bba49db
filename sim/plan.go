package main

import (
	"math/rand/v2"
	"slices"
	"time"

	"github.com/starling-sync/starling/host/peersync"
)

// plan is what a seed makes of a run before it begins.
type plan struct {
	topology               string
	devices, joins         int
	edges                  [][2]int
	diameter               int
	rotate                 time.Duration // store-and-forward: one link at a time, for so long
	active                 time.Duration // writes and faults end
	writes                 int
	faults                 int
	pageBytes, windowBytes int
	encode                 bool
	aligned                bool // clocks without skew, and writes at whole tenths of seconds: ties

	gossip, prune, seal, audit time.Duration // between two
	retention                  time.Duration // zero: nothing is forgotten for its age
	restores, clones, rots     int
	retire, away, ahead        bool
}

// topologies, and how often each is drawn.
var topologies = []string{"mesh", "mesh", "star", "line", "line", "tree", "sparse", "ring", "store-and-forward"} //nolint:gochecknoglobals // a table

// faultKinds name what -without leaves out. The first ones happen often, the last ones in some runs, as planned.
var faultKinds = []string{ //nolint:gochecknoglobals // a table
	"crash", "midcommit", "cut", "oneway", "partition", "stop", "slow", "reset", "jump", "freeze", "overlap",
	"drift", "restore", "clone", "retire", "away", "rot", "age", "ahead",
}

// oftenKinds is how many of faultKinds happen often.
const oftenKinds = 11

func newPlan(o Options, r *rand.Rand) plan {
	p := plan{topology: topologies[r.IntN(len(topologies))], devices: 2 + r.IntN(3)}
	if r.IntN(5) == 0 {
		p.devices += r.IntN(8)
	}
	p.active = time.Duration(8+r.IntN(20)) * time.Minute
	p.writes = 40 + r.IntN(70)
	p.faults = 5 + r.IntN(25)
	p.pageBytes = []int{300, 1000, 4 << 10, 64 << 10}[r.IntN(4)]
	p.windowBytes = p.pageBytes * []int{1, 4, 32}[r.IntN(3)]
	p.encode = r.IntN(8) == 0
	p.aligned = r.IntN(3) == 0
	joins := r.IntN(3)
	if o.Topology != "" {
		p.topology = o.Topology
	}
	if o.Devices != 0 {
		p.devices = o.Devices
	}
	if o.Writes != 0 {
		p.writes = o.Writes
	}
	if p.devices > 2 && joins == 0 {
		p.joins = 1
	}
	p.edges = edgesOf(p.topology, p.devices, r)
	if p.topology == "store-and-forward" {
		p.rotate = time.Duration(20+r.IntN(20)) * time.Second
	}
	p.diameter = diameter(p.edges, p.devices, -1)
	p.losses(o, r)
	return p
}

// losses draws what is lost, and when things are forgotten.
func (p *plan) losses(o Options, r *rand.Rand) {
	seconds := func(least, most int) time.Duration { return time.Duration(least+r.IntN(most-least+1)) * time.Second }
	p.gossip, p.prune, p.seal, p.audit = seconds(5, 40), seconds(5, 40), seconds(10, 60), seconds(60, 240)
	some := func(kind string, of, most int) int {
		n := 1 + r.IntN(most)
		if r.IntN(of) > 0 || slices.Contains(o.Without, kind) {
			return 0
		}
		return n
	}
	p.restores, p.clones, p.rots = some("restore", 3, 4), some("clone", 8, 2), some("rot", 5, 3)
	p.retire, p.away = some("retire", 6, 1) > 0, some("away", 4, 1) > 0
	// Who meets rarely would get nothing but snapshots; and what is forgotten before anybody has it can not be told apart once
	// it has a new stamp.
	if age := seconds(100, 300); some("age", 3, 1) > 0 && p.rotate == 0 {
		p.retention = age
	}
	p.ahead = some("ahead", 4, 1) > 0
}

// times sets the times of the protocol that a run has of its own.
func (p *plan) times(c *peersync.Config) {
	c.GossipTime, c.PruneTime, c.SealTime, c.AuditTime, c.RetentionAge = p.gossip, p.prune, p.seal, p.audit, p.retention
}

func edgesOf(topology string, n int, r *rand.Rand) (edges [][2]int) {
	add := func(a, b int) {
		if a > b {
			a, b = b, a
		}
		if a != b && !slices.Contains(edges, [2]int{a, b}) {
			edges = append(edges, [2]int{a, b})
		}
	}
	for b := 1; b < n; b++ {
		switch topology {
		case "mesh":
			for a := range b {
				add(a, b)
			}
		case "star":
			add(0, b)
		case "tree", "sparse", "store-and-forward":
			add(r.IntN(b), b)
		default: // line, ring
			add(b-1, b)
		}
	}
	if topology == "ring" {
		add(0, n-1)
	}
	if topology == "sparse" {
		for range n / 2 {
			add(r.IntN(n), r.IntN(n))
		}
	}
	return edges
}

// diameter returns the greatest distance of two devices, without one: a distance over it does not count.
func diameter(edges [][2]int, n, without int) (most int) {
	for from := range n {
		if from == without {
			continue
		}
		distance := make([]int, n)
		reached := []int{from}
		for i := 0; i < len(reached); i++ {
			for _, e := range edges {
				for k := range e {
					if next := e[1-k]; e[k] == reached[i] && next != from && next != without && distance[next] == 0 {
						distance[next] = distance[reached[i]] + 1
						reached = append(reached, next)
						most = max(most, distance[next])
					}
				}
			}
		}
	}
	return most
}

// connected reports whether a way leads from every device to every other, some left out.
func connected(edges [][2]int, n int, without ...int) bool {
	var reached []int
	for i := range n {
		if !slices.Contains(without, i) {
			reached = []int{i}
		}
	}
	for i := 0; i < len(reached); i++ {
		for _, e := range edges {
			for k := range e {
				if next := e[1-k]; e[k] == reached[i] && !slices.Contains(without, next) && !slices.Contains(reached, next) {
					reached = append(reached, next)
				}
			}
		}
	}
	return len(reached) == n-len(without)
}
