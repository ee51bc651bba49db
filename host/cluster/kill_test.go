package cluster_test

import (
	"database/sql"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	_ "modernc.org/sqlite"

	"github.com/starling-sync/starling/host/clustertest"
)

const groupSize = 8 // tags written in one change

// kills returns how often TestFive_KillNine kills.
func kills(t *testing.T) int {
	t.Helper()
	text := os.Getenv("STARLING_KILLS")
	switch {
	case text != "":
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > 200 {
			t.Fatalf("STARLING_KILLS=%q; want 1 to 200", text)
		}
		return n
	case os.Getenv("STARLING_CLUSTER") != "":
		return 20
	default:
		return 3
	}
}

// TestFive_KillNine kills one of five hosts after another with SIGKILL, at random moments, while all of them write. What
// was acknowledged is on all devices at the end, a change is there whole or not at all, and nothing outlives its host.
func TestFive_KillNine(t *testing.T) {
	f := newFive(t, mustBuild(t), nil)
	f.startAll(t)
	all := f.all()
	folders := map[*clustertest.Device]string{f.alice: t.TempDir(), f.carol: t.TempDir()}
	for d, folder := range folders {
		d.Run(t, "location", "add", folder)
	}
	const seed = 1
	random := rand.New(rand.NewPCG(seed, seed)) //nolint:gosec // a schedule that can be had again
	stop := make(chan struct{})
	var running sync.WaitGroup
	end := sync.OnceFunc(func() { close(stop); running.Wait() })
	defer end()
	writers := make([]*writer, len(all))
	for i, d := range all {
		writers[i] = &writer{device: d, tags: map[string]*expected{}}
		running.Go(func() { writers[i].run(stop) })
	}

	n, killed := kills(t), map[string]int{}
	for i := range n {
		for _, folder := range folders {
			writeFiles(t, folder, fmt.Sprintf("dir%d/file.txt", i))
		}
		victim := all[random.IntN(len(all))]
		killed[victim.Name]++
		<-time.After(time.Duration(random.IntN(400)) * time.Millisecond) // a random moment, not a wait for something
		if len(victim.Processes()) < 2 {
			t.Fatalf("%s has no plugins that could outlive it", victim.Name)
		}
		victim.Kill(t)
		noneLeft(t, victim)
		victim.Start(t)
	}
	end()

	for d := range folders {
		d.WaitCount(t, "entry", len(folders)*(1+2*n)) // every file's
	}
	clustertest.WaitEqual(t, all...)
	changes := 0
	for _, w := range writers {
		changes += w.acknowledged
		if w.acknowledged < n/2 {
			t.Errorf("only %d changes of %s were acknowledged: this run showed too little", w.acknowledged, w.device.Name)
		}
		for _, d := range all {
			w.check(t, d)
		}
	}
	t.Logf("seed %d: %d kills %v, %d acknowledged changes", seed, n, killed, changes)
	for _, d := range all {
		d.Stop(t)
		noneLeft(t, d)
		intact(t, d)
	}
}

// noneLeft waits until no process of d lives.
func noneLeft(t *testing.T, d *clustertest.Device) {
	t.Helper()
	clustertest.Eventually(t, "the plugins of "+d.Name+" end with their host", func() error {
		if left := d.Processes(); len(left) > 0 {
			return fmt.Errorf("processes %v still run", left)
		}
		return nil
	})
}

// intact asks SQLite to check the database of d, which does not run.
func intact(t *testing.T, d *clustertest.Device) {
	t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(d.Data(), "starling.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var answer string
	if err := db.QueryRowContext(t.Context(), "PRAGMA integrity_check").Scan(&answer); err != nil || answer != "ok" {
		t.Errorf("the database of %s: %q, %v", d.Name, answer, err)
	}
}

// expected is what must be seen of a tag. A change that was not acknowledged may have been made nevertheless.
type expected struct {
	name     string
	colors   []any // one of them
	deletion answer
}

// answer says what came of a change.
type answer int

const (
	unasked answer = iota
	unanswered
	acknowledged
)

// writer writes to one device and keeps account. Only it changes the tags that it made.
type writer struct {
	device *clustertest.Device

	// Read these after run only.
	tags         map[string]*expected // by id, each acknowledged
	groups       []string             // names of groups, acknowledged or not
	acknowledged int                  // changes
}

// run writes until stop is closed: by turns a tag, which gets another color and may be deleted, and a group.
func (w *writer) run(stop <-chan struct{}) {
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		default:
		}
		if i%2 == 0 {
			w.tag(fmt.Sprintf("%s-%d", w.device.Name, i), i%8 == 0)
		} else {
			w.group(fmt.Sprintf("%s-group-%d", w.device.Name, i))
		}
	}
}

func (w *writer) tag(name string, remove bool) {
	id, err := w.device.TryRun("put", "tag", `{"name":"`+name+`","color":"red"}`)
	if err != nil {
		return
	}
	tag := &expected{name: name, colors: []any{"red"}}
	w.tags[id] = tag
	w.acknowledged++
	if _, err := w.device.TryRun("put", "tag", `{"color":"blue"}`, "--id", id); err == nil {
		tag.colors = []any{"blue"}
		w.acknowledged++
	} else {
		tag.colors = append(tag.colors, "blue")
	}
	if !remove {
		return
	}
	tag.deletion = unanswered
	if _, err := w.device.TryRun("delete", "tag", id); err == nil {
		tag.deletion = acknowledged
		w.acknowledged++
	}
}

func (w *writer) group(name string) {
	w.groups = append(w.groups, name)
	ids, err := putGroup(w.device, name, groupSize)
	if err != nil {
		return
	}
	w.acknowledged++
	for _, id := range ids {
		w.tags[id] = &expected{name: name, colors: []any{nil, ""}}
	}
}

// check looks at d for all that w wrote.
func (w *writer) check(t *testing.T, d *clustertest.Device) {
	t.Helper()
	tags, members := d.List(t, "tag"), map[string]int{}
	for _, tag := range tags {
		members[fmt.Sprint(tag["name"])]++
	}
	for id, want := range w.tags {
		tag, there := tags[id]
		switch {
		case there && want.deletion == acknowledged:
			t.Errorf("%s still has tag %s, which was deleted at %s: %v", d.Name, id, w.device.Name, tag)
		case !there && want.deletion == unasked:
			t.Errorf("%s lost tag %s %q, which was acknowledged at %s", d.Name, id, want.name, w.device.Name)
		case there && (tag["name"] != want.name || !slices.Contains(want.colors, tag["color"])):
			t.Errorf("%s has %v; %s wrote name %q, color one of %v", d.Name, tag, w.device.Name, want.name, want.colors)
		}
	}
	for _, name := range w.groups {
		if got := members[name]; got != 0 && got != groupSize {
			t.Errorf("%s has %d of the %d tags that one change at %s wrote", d.Name, got, groupSize, w.device.Name)
		}
	}
}
