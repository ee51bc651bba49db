package main_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/starling-sync/starling/host/clustertest"
)

// TestCluster_ExplainAndRestore has two devices rename a tag apart, then explains it on both and writes the lost name
// again on one.
func TestCluster_ExplainAndRestore(t *testing.T) {
	t.Parallel()
	alice, bob := pair(t)
	tag := alice.Run(t, "put", "tag", `{"name":"work","color":"red"}`)
	clustertest.WaitEqual(t, alice, bob)
	bob.Stop(t)
	alice.Run(t, "put", "tag", `{"name":"job"}`, "--id", tag)
	alice.Stop(t)
	bob.Start(t)
	bob.Run(t, "put", "tag", `{"name":"labour"}`, "--id", tag)
	alice.Start(t)
	clustertest.WaitEqual(t, alice, bob)

	contains(t, bob.Run(t, "explain", "tag", tag), "visible", "inserted by alice", "labour", `over "job" by alice (kept: starling conflicts restore 1)`)
	contains(t, bob.Run(t, "explain", "tag", tag, "--json"), `"state":"visible"`, `"value":"labour","by":"bob"`, `"over":[{"number":1,"value":"job","by":"alice"`)
	contains(t, bob.Run(t, "conflicts", "restore", "1"), `name is "job" again`)
	clustertest.WaitEqual(t, alice, bob)
	for _, d := range []*clustertest.Device{alice, bob} {
		if name := d.List(t, "tag")[tag]["name"]; name != "job" {
			t.Errorf("%s has the name %v after the restore; want job", d.Name, name)
		}
	}
	if left := bob.Run(t, "conflicts"); left != "no conflicts" {
		t.Errorf("bob's journal after the restore:\n%s", left)
	}
	exits(t, bob, 1, "no entry 1", "conflicts", "restore", "1")

	child := alice.Run(t, "put", "tag", fmt.Sprintf(`{"name":"child","parent_id":"%s"}`, tag))
	alice.Run(t, "delete", "tag", tag)
	clustertest.WaitEqual(t, alice, bob)
	contains(t, bob.Run(t, "explain", "tag", child), "not visible: it waits for 1 record", "parent_id waits for tag "+tag+", which is deleted")
	contains(t, bob.Run(t, "explain", "tag", tag), "deleted by alice 20")
	contains(t, alice.Run(t, "conflicts"), "job") // her journal is her own
	exits(t, alice, 1, "is deleted", "conflicts", "restore", "1")

	alice.Run(t, "delete", "tag", child) // that it waits is no reason to keep it for ever
	clustertest.WaitEqual(t, alice, bob)
	contains(t, bob.Run(t, "explain", "tag", child), "deleted by alice 20")
	exits(t, bob, 1, "no tag", "delete", "tag", child)
}

func contains(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("no %q in:\n%s", part, text)
		}
	}
}

func exits(t *testing.T, d *clustertest.Device, status int, message string, args ...string) {
	t.Helper()
	_, err := d.TryRun(args...)
	if exit, ok := errors.AsType[*clustertest.ExitError](err); !ok || exit.Status != status || !strings.Contains(exit.Stderr, message) {
		t.Errorf("starling %s: %v; want status %d and %q", strings.Join(args, " "), err, status, message)
	}
}
