package cluster_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/starling-sync/starling/host/clustertest"
)

// TestFive_NewDeviceJoinsWhileOthersWrite lets eve join, and catch up, while four devices write without a pause.
func TestFive_NewDeviceJoinsWhileOthersWrite(t *testing.T) {
	needsTask(t)
	f := newFive(t, mustBuild(t), nil)
	old := []*clustertest.Device{f.alice, f.bob, f.carol, f.dave}
	for _, d := range old {
		d.Start(t)
	}
	clustertest.Pair(t, f.alice, old[1:]...)
	folder := t.TempDir()
	writeFiles(t, folder, manyFiles(300)...)
	f.alice.Run(t, "location", "add", folder)

	var writers sync.WaitGroup
	var mu sync.Mutex
	acknowledged := map[string]string{} // id -> name
	stop := make(chan struct{})
	end := sync.OnceFunc(func() { close(stop); writers.Wait() })
	defer end()
	for _, d := range old {
		writers.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				name := fmt.Sprintf("%s-%d", d.Name, i)
				id, err := d.TryRun("put", "tag", `{"name":"`+name+`"}`)
				if err != nil {
					t.Errorf("%s can not write while a device joins: %v", d.Name, err)
					return
				}
				mu.Lock()
				acknowledged[id] = name
				mu.Unlock()
			}
		})
	}
	count := func() int { mu.Lock(); defer mu.Unlock(); return len(acknowledged) }
	wait := func(n int) {
		clustertest.Eventually(t, "writes", func() error {
			if got := count(); got < n && !t.Failed() {
				return fmt.Errorf("%d of %d", got, n)
			}
			return nil
		})
	}
	wait(100)
	f.eve.Start(t)
	before := count()
	clustertest.Pair(t, f.carol, f.eve)
	eves := f.eve.Run(t, "put", "tag", `{"name":"from eve"}`)
	clustertest.Eventually(t, "tags and entries at eve", func() error {
		if tags, entries := len(f.eve.List(t, "tag")), len(f.eve.List(t, "entry")); tags < before || entries < 300 {
			return fmt.Errorf("%d of %d tags, %d entries", tags, before, entries)
		}
		return nil
	})
	wait(count() + 100)
	end()
	f.eve.WaitCount(t, "entry", len(f.alice.List(t, "entry")))
	clustertest.WaitEqual(t, f.all()...)
	t.Logf("%d acknowledged writes, %d of them before eve joined", count(), before)
	acknowledged[eves] = "from eve"
	for _, d := range f.all() {
		tags := d.List(t, "tag")
		for id, name := range acknowledged {
			if tags[id]["name"] != name {
				t.Errorf("%s lacks tag %s %q", d.Name, id, name)
			}
		}
		if len(tags) != len(acknowledged) {
			t.Errorf("%s has %d tags; want %d", d.Name, len(tags), len(acknowledged))
		}
	}
}

// manyFiles returns n names in folders of 30.
func manyFiles(n int) []string {
	var names []string
	for i := range n {
		names = append(names, fmt.Sprintf("dir%d/file%d.txt", i/30, i))
	}
	return names
}

// TestFive_ThirdDeviceRelays has alice write while only bob is there, and go. The others get all of it, hers alone and
// shared, from bob, and eve from dave, who never met alice since.
func TestFive_ThirdDeviceRelays(t *testing.T) {
	needsTask(t)
	path, network := mustBuild(t), clustertest.NewNetwork(t)
	f := newFive(t, path, network)
	network.Connect(f.all())
	f.startAll(t)
	for _, d := range []*clustertest.Device{f.carol, f.dave, f.eve} {
		d.Stop(t)
	}
	folder := t.TempDir()
	writeFiles(t, folder, manyFiles(300)...)
	f.alice.Run(t, "location", "add", folder)
	tag := f.alice.Run(t, "put", "tag", `{"name":"work","color":"red"}`)
	gone := f.alice.Run(t, "put", "tag", `{"name":"gone"}`)
	f.alice.WaitCount(t, "entry", 311) // 300 files in 10 folders in the one added
	entry := entryCalled(t, f.alice, "file7")
	f.alice.Run(t, "put", "tagging", `{"tag_id":"`+tag+`","target":"`+entry+`"}`)
	f.alice.Run(t, "delete", "tag", gone)
	want := clustertest.WaitEqual(t, f.alice, f.bob)
	f.alice.Stop(t)

	network.Connect([]*clustertest.Device{f.bob, f.carol, f.dave}, []*clustertest.Device{f.dave, f.eve})
	for _, d := range []*clustertest.Device{f.carol, f.dave, f.eve} {
		d.Start(t)
	}
	if got := clustertest.WaitEqual(t, f.bob, f.carol, f.dave, f.eve); clustertest.Written(got) != clustertest.Written(want) {
		t.Errorf("the others agree on something else than what alice had:\n%s\nwant\n%s", got, want)
	}
	waitConnected(t, f.eve, f.dave)
	if n := len(f.eve.List(t, "tagging")); n != 1 {
		t.Errorf("eve has %d taggings; want alice's one", n)
	}
	f.eve.Run(t, "put", "tag", `{"color":"blue"}`, "--id", tag)

	if err := os.RemoveAll(filepath.Join(folder, "dir0")); err != nil {
		t.Fatal(err)
	}
	network.Connect(f.all())
	f.alice.Start(t)
	f.alice.WaitCount(t, "entry", 280)
	f.eve.WaitCount(t, "entry", 280)
	clustertest.WaitEqual(t, f.all()...)
	for _, d := range f.all() {
		if color := d.List(t, "tag")[tag]["color"]; color != "blue" {
			t.Errorf("%s has color %v; want eve's blue", d.Name, color)
		}
		if n := len(d.List(t, "tagging")); n != 0 {
			t.Errorf("%s shows %d taggings of an entry that is gone", d.Name, n)
		}
	}
}

// entryCalled returns the id of d's entry with that name, whatever its ending.
func entryCalled(t *testing.T, d *clustertest.Device, name string) string {
	t.Helper()
	for id, e := range d.List(t, "entry") {
		if found := fmt.Sprint(e["name"]); found == name || strings.HasPrefix(found, name+".") {
			return id
		}
	}
	t.Fatalf("%s has no entry %q", d.Name, name)
	return ""
}

// TestFive_Line lets each device reach its neighbours only, and cuts the line in the middle for a while.
func TestFive_Line(t *testing.T) {
	needsTask(t)
	path, network := mustBuild(t), clustertest.NewNetwork(t)
	f := newFive(t, path, network)
	links := [][]*clustertest.Device{{f.alice, f.bob}, {f.bob, f.carol}, {f.carol, f.dave}, {f.dave, f.eve}}
	network.Connect(links...)
	f.startAll(t)
	neighbours := func() {
		t.Helper()
		waitConnected(t, f.alice, f.bob)
		waitConnected(t, f.bob, f.alice, f.carol)
		waitConnected(t, f.carol, f.bob, f.dave)
		waitConnected(t, f.dave, f.carol, f.eve)
		waitConnected(t, f.eve, f.dave)
	}
	neighbours()
	near, far := t.TempDir(), t.TempDir()
	writeFiles(t, near, manyFiles(60)...)
	writeFiles(t, far, manyFiles(90)...)
	f.alice.Run(t, "location", "add", near)
	f.eve.Run(t, "location", "add", far)
	for i := range 20 {
		for _, d := range f.all() {
			d.Run(t, "put", "tag", fmt.Sprintf(`{"name":"%s-%d"}`, d.Name, i))
		}
	}
	const entries = 63 + 94
	for _, d := range f.all() {
		d.WaitCount(t, "entry", entries)
		d.WaitCount(t, "tag", 100)
	}
	clustertest.WaitEqual(t, f.all()...)
	neighbours()

	network.Connect(links[0], links[1], links[3]) // between carol and dave it is cut
	waitConnected(t, f.carol, f.bob)
	waitConnected(t, f.dave, f.eve)
	for _, d := range f.all() {
		d.Run(t, "put", "tag", fmt.Sprintf(`{"name":"%s apart"}`, d.Name))
	}
	writeFiles(t, near, "later.txt")
	writeFiles(t, far, "later.txt")
	left, right := clustertest.WaitEqual(t, f.alice, f.bob, f.carol), clustertest.WaitEqual(t, f.dave, f.eve)
	if left == right {
		t.Error("the halves agree though the line is cut: this run shows nothing")
	}
	network.Connect(links...)
	for _, d := range f.all() {
		d.WaitCount(t, "entry", entries+2)
		d.WaitCount(t, "tag", 105)
	}
	clustertest.WaitEqual(t, f.all()...)
	neighbours()
}

// TestFive_Partition lets two and three devices write apart from one another, also to the same records, and meet again.
func TestFive_Partition(t *testing.T) {
	needsTask(t)
	path, network := mustBuild(t), clustertest.NewNetwork(t)
	f := newFive(t, path, network)
	network.Connect(f.all())
	f.startAll(t)
	both := f.alice.Run(t, "put", "tag", `{"name":"work","color":"red"}`)
	deleted := f.alice.Run(t, "put", "tag", `{"name":"deleted on one side"}`)
	clustertest.WaitEqual(t, f.all()...)

	few, many := []*clustertest.Device{f.alice, f.bob}, []*clustertest.Device{f.carol, f.dave, f.eve}
	network.Connect(few, many)
	waitConnected(t, f.bob, f.alice)
	waitConnected(t, f.carol, f.dave, f.eve)
	for i, d := range f.all() {
		folder := t.TempDir()
		writeFiles(t, folder, manyFiles(10*(i+1))...)
		d.Run(t, "location", "add", folder)
		if _, err := putGroup(d, d.Name, 10); err != nil {
			t.Fatal(err)
		}
	}
	f.bob.Run(t, "put", "tag", `{"name":"job"}`, "--id", both)
	f.bob.Run(t, "delete", "tag", deleted)
	f.dave.Run(t, "put", "tag", `{"color":"blue"}`, "--id", both)
	f.dave.Run(t, "put", "tag", `{"color":"green"}`, "--id", deleted)
	f.eve.Run(t, "put", "tag", `{"name":"labour"}`, "--id", both) // later than bob's
	const mine = 10 + 20 + 30 + 40 + 50 + 1 + 1 + 1 + 2 + 2 + 5   // files, their folders, and the five added
	clustertest.Eventually(t, "each side by itself", func() error {
		if a, c := len(f.alice.List(t, "entry")), len(f.carol.List(t, "entry")); a+c != mine {
			return fmt.Errorf("alice has %d entries, carol %d; want %d together", a, c, mine)
		}
		return nil
	})
	if clustertest.WaitEqual(t, few...) == clustertest.WaitEqual(t, many...) {
		t.Error("the sides agree though they are apart: this run shows nothing")
	}

	network.Connect(f.all())
	for _, d := range f.all() {
		d.WaitCount(t, "entry", mine)
		d.WaitCount(t, "tag", 1+50)
	}
	clustertest.WaitEqual(t, f.all()...)
	for _, d := range f.all() {
		tags := d.List(t, "tag")
		if tag := tags[both]; tag["name"] != "labour" || tag["color"] != "blue" {
			t.Errorf("%s has %v; want labour (the later), blue", d.Name, tag)
		}
		if tag, there := tags[deleted]; there {
			t.Errorf("an update on one side brought back at %s what the other deleted: %v", d.Name, tag)
		}
		clustertest.Eventually(t, d.Name+" keeps the value that lost", func() error {
			if journal := d.Run(t, "conflicts", "tag", both, "--json"); !strings.Contains(journal, `"job"`) {
				return errors.New(journal)
			}
			return nil
		})
	}
}
