package main_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/starling-sync/starling/host/clustertest"
)

// TestCluster_KillWhileHashing kills the host while it finds out what files hold. After its restart it goes on with those
// that it does not know, and the other device has the same.
func TestCluster_KillWhileHashing(t *testing.T) {
	t.Parallel()
	path := mustBuild(t)
	alice := clustertest.NewDevice(t, path, "alice", "--library", "home")
	bob := clustertest.NewDevice(t, path, "bob", "--join")
	config, err := os.ReadFile(alice.Config())
	if err != nil {
		t.Fatal(err)
	}
	slow := bytes.Replace(config, []byte("ignore = "), []byte("hash = true\n    hash_rate = \"1KiB\"\n    ignore = "), 1)
	if err := os.WriteFile(alice.Config(), slow, 0o600); err != nil {
		t.Fatal(err)
	}
	alice.Start(t)
	bob.Start(t)
	clustertest.Pair(t, alice, bob)
	const files = 600
	folder := t.TempDir()
	long := time.Now().Add(-time.Hour)
	want := map[any]string{}
	for i := range files {
		name := fmt.Sprintf("file%d.txt", i)
		writeFiles(t, folder, fmt.Sprintf("dir%d/%s", i/50, name))
		at := filepath.Join(folder, fmt.Sprintf("dir%d", i/50), name)
		if err := os.Chtimes(at, long, long); err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256([]byte(fmt.Sprintf("dir%d/%s", i/50, name)))
		want[name] = "sha256:" + hex.EncodeToString(sum[:])
	}
	alice.Run(t, "location", "add", folder)
	known := func(d *clustertest.Device) (n int) {
		t.Helper()
		for _, e := range d.List(t, "entry") {
			if hash := e["content_hash"]; hash != nil {
				n++
				if hash != want[e["name"]] {
					t.Fatalf("%s: of %v it is said to hold %v, want %s", d.Name, e["name"], hash, want[e["name"]])
				}
			}
		}
		return n
	}
	const seed = 1
	random := rand.New(rand.NewPCG(seed, seed)) //nolint:gosec // a replayable schedule
	cut, before := 0, 0
	for range 3 {
		clustertest.Eventually(t, "some files more", func() error {
			if n := known(alice); n <= before {
				return fmt.Errorf("%d", n)
			}
			return nil
		})
		<-time.After(time.Duration(random.IntN(300)) * time.Millisecond) // a random moment, not a wait for something
		alice.Kill(t)
		alice.Start(t)
		if before = known(alice); before < files {
			cut++
		}
	}
	alice.Stop(t)
	if err := os.WriteFile(alice.Config(), bytes.Replace(slow, []byte(`"1KiB"`), []byte(`"0"`), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	alice.Start(t)
	for _, d := range []*clustertest.Device{alice, bob} {
		clustertest.Eventually(t, "what all files hold at "+d.Name, func() error {
			if n := known(d); n != files {
				return fmt.Errorf("%d of %d", n, files)
			}
			return nil
		})
	}
	clustertest.WaitEqual(t, alice, bob)
	t.Logf("seed %d: %d of 3 kills fell into the reading", seed, cut)
	if cut == 0 {
		t.Error("no kill fell into the reading: this run showed too little")
	}
}
