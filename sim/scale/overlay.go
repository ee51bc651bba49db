package main

import (
	"fmt"
	"math/rand/v2"
)

// overlay returns a random graph in which every device has degree links (an even number): so many rings, each through all
// devices in an order of its own, of which no two share a link. One ring already connects all.
func overlay(r *rand.Rand, devices, degree int) ([]edge, error) {
	if degree%2 != 0 || degree < 2 || devices < 2*degree {
		return nil, fmt.Errorf("%d devices of degree %d: the degree must be even, and at most half of the devices", devices, degree)
	}
	taken := map[edge]bool{}
	edges := make([]edge, 0, devices*degree/2)
	for range degree / 2 {
		ring := newRing(r, devices, taken)
		for i, a := range ring {
			b := ring[(i+1)%devices]
			taken[ordered(a, b)] = true
			edges = append(edges, edge{dials: a, listens: b})
		}
	}
	return edges, nil
}

func ordered(a, b int) edge { return edge{min(a, b), max(a, b)} }

// newRing returns an order of the devices in which no two that follow each other are linked. It tries until it finds one:
// where it runs into a dead end, it begins anew.
func newRing(r *rand.Rand, devices int, taken map[edge]bool) []int {
	const tries = 100
	for {
		ring := r.Perm(devices)
		i := 1
		for try := 0; i < devices && try < tries; try++ {
			at := i + r.IntN(devices-i)
			if !taken[ordered(ring[i-1], ring[at])] {
				ring[i], ring[at] = ring[at], ring[i]
				i, try = i+1, 0
			}
		}
		if i == devices && !taken[ordered(ring[0], ring[devices-1])] {
			return ring
		}
	}
}
