package main_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/starling-sync/starling/host/clustertest"
)

// TestCluster_Album has two devices that do not hear of one another add to and move in one album: everything that was
// added stays, once, what one of them moved is where it was put, and both have the same order.
func TestCluster_Album(t *testing.T) {
	t.Parallel()
	alice, bob := pair(t)
	folder := t.TempDir()
	names := []string{"a", "b", "c", "d", "e", "f"}
	writeFiles(t, folder, names...)
	alice.Run(t, "location", "add", folder)
	entries := map[string]string{}
	clustertest.Eventually(t, "entries at bob", func() error {
		for id, e := range bob.List(t, "entry") {
			entries[fmt.Sprint(e["name"])] = id
		}
		if len(entries) < len(names)+1 {
			return fmt.Errorf("%v", entries)
		}
		return nil
	})
	album := alice.Run(t, "put", "album", `{"name":"summer"}`)
	alice.Run(t, "album", "add", album, entries["a"], entries["b"], entries["c"])
	clustertest.WaitEqual(t, alice, bob)
	order := func(d *clustertest.Device) string {
		t.Helper()
		var all []string
		for line := range strings.Lines(d.Run(t, "album", "list", album)) {
			if fields := strings.Fields(line); fields[0] != "ENTRY" {
				all = append(all, fields[1])
			}
		}
		return strings.Join(all, " ")
	}
	if got := order(bob); got != "a b c" {
		t.Fatalf("bob has %q before they part", got)
	}

	bob.Stop(t)
	alice.Run(t, "album", "add", album, entries["d"], entries["e"], "--after", entries["a"])
	alice.Run(t, "album", "add", album, entries["c"], "--before", entries["a"])
	alice.Stop(t)
	bob.Start(t)
	bob.Run(t, "album", "add", album, entries["e"], entries["f"], "--after", entries["a"]) // e is added by both
	bob.Run(t, "album", "add", album, entries["b"])                                        // to the end
	if got := order(bob); got != "a e f c b" {
		t.Fatalf("bob has %q of his own", got)
	}
	alice.Start(t)
	clustertest.WaitEqual(t, alice, bob)
	got := order(alice)
	if other := order(bob); got != other {
		t.Errorf("alice has %q, bob %q", got, other)
	}
	// d, e and f came to the same place; of these, e before f, as bob had them last. c stays where alice put it, b where bob did.
	fields := strings.Fields(got)
	if len(fields) != 6 || fields[0] != "c" || fields[1] != "a" || fields[5] != "b" || slices.Index(fields, "e") > slices.Index(fields, "f") {
		t.Errorf("the order is %q, want c a, then d, e and f, e before f, then b", got)
	}
}
