package registry_test

import (
	"fmt"
	"testing"

	"github.com/starling-sync/starling/host/history"
	"github.com/starling-sync/starling/sdk"
)

// TestConflicts_anyOrder has writes that saw one another, and one that saw none, arrive in each order.
func TestConflicts_anyOrder(t *testing.T) {
	devices := []*device{newDevice(t, 1, labels()), newDevice(t, 2, labels()), newDevice(t, 3, labels())}
	a, b, c := devices[0], devices[1], devices[2]
	apart := newDevice(t, 5, labels())
	a.share(packed(t, labels(), label(1, 0, "A")))
	apart.share(packed(t, labels(), label(1, 0, "apart"))) // saw nothing
	b.wall = b.wall.Add(1000_000_000)
	b.pull(a, 1<<20)
	b.share(updates(t, labels(), label(1, 0, "B"), "name")) // saw A
	c.wall = b.wall.Add(1000_000_000)
	c.pull(b, 1<<20)
	c.share(updates(t, labels(), label(1, 0, "C"), "name")) // saw B
	devices = append(devices, apart)
	for n, order := range permutations(len(devices)) {
		t.Run(fmt.Sprint(order), func(t *testing.T) {
			d := newDevice(t, byte(10+n), labels())
			for _, i := range order {
				p, _ := devices[i].read(history.Stream{Origin: devices[i].id, Kind: sdk.SharedByAll}, 0, 1<<20)
				d.apply(p)
			}
			list, err := d.registry.Conflicts(t.Context(), "label", rid(1))
			if err != nil || len(list) != 1 || list[0].Value != "apart" {
				t.Errorf("the journal holds %+v, %v; want the one write that nobody saw", list, err)
			}
			d.close()
		})
	}
}

func permutations(n int) (all [][]int) {
	if n == 0 {
		return [][]int{nil}
	}
	for _, rest := range permutations(n - 1) {
		for at := 0; at <= len(rest); at++ {
			order := append(append(append([]int{}, rest[:at]...), n-1), rest[at:]...)
			all = append(all, order)
		}
	}
	return all
}
