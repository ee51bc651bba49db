package main

import (
	"math/rand/v2"
	"slices"
	"time"
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
}

// topologies, and how often each is drawn.
var topologies = []string{"mesh", "mesh", "star", "line", "line", "tree", "sparse", "ring", "store-and-forward"} //nolint:gochecknoglobals // a table

// faultKinds name what -without leaves out.
var faultKinds = []string{"crash", "midcommit", "cut", "oneway", "partition", "stop", "slow", "reset", "jump", "freeze", "overlap", "drift"} //nolint:gochecknoglobals // a table

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
	p.diameter = diameter(p.edges, p.devices)
	return p
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

func diameter(edges [][2]int, n int) (most int) {
	for from := range n {
		distance := make([]int, n)
		reached := []int{from}
		for i := 0; i < len(reached); i++ {
			for _, e := range edges {
				for k := range e {
					if next := e[1-k]; e[k] == reached[i] && next != from && distance[next] == 0 {
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
