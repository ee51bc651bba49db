package main_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/starling-sync/starling/host/clustertest"
)

// TestCluster_KillWhileLocationIsRemoved kills the host while it deletes the entries of a location that was removed.
// What is left is nobody's: no folder stands for it any more. So it must be found and deleted after the restart.
func TestCluster_KillWhileLocationIsRemoved(t *testing.T) {
	t.Parallel()
	alice, bob := pair(t)
	const folders, perFolder = 50, 99
	const entries = 1 + folders*(1+perFolder)
	folder, kept := t.TempDir(), t.TempDir()
	for i := range folders {
		names := make([]string, perFolder)
		for j := range names {
			names[j] = fmt.Sprintf("folder%d/file%d", i, j)
		}
		writeFiles(t, folder, names...)
	}
	writeFiles(t, kept, "kept.txt")
	alice.Run(t, "location", "add", kept)
	expect := func(entries int) {
		t.Helper()
		alice.WaitCount(t, "entry", entries)
		bob.WaitCount(t, "entry", entries)
	}
	expect(2) // of the location that stays
	const seed = 1
	random := rand.New(rand.NewPCG(seed, seed)) //nolint:gosec // a replayable schedule
	cut := 0
	for round := range 5 {
		location := alice.Run(t, "location", "add", folder)
		expect(2 + entries)
		alice.Run(t, "location", "remove", location)
		<-time.After(time.Duration(random.IntN(500)) * time.Millisecond) // a random moment, not a wait for something
		alice.Kill(t)
		left := len(bob.List(t, "entry"))
		if left > 2 && left < 2+entries {
			cut++
		}
		t.Logf("round %d: bob knows of %d entries when alice was killed", round, left)
		alice.Start(t)
		expect(2)
	}
	clustertest.WaitEqual(t, alice, bob)
	t.Logf("seed %d: %d of 5 kills fell into the deletion", seed, cut)
}
