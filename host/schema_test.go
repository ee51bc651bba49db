package main_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/starling-sync/starling/host/clustertest"
	"github.com/starling-sync/starling/sdk/rpc/rpctest"
)

// notes are the plugins of testdata/note by their version: "one", "two", or "broken", which no table can follow.
var notes = func() func(version string) (string, error) {
	var mu sync.Mutex
	built := map[string]string{}
	return func(version string) (string, error) {
		mu.Lock()
		defer mu.Unlock()
		if path := built[version]; path != "" {
			return path, nil
		}
		path, err := buildPlugin(filepath.Join("testdata", "note"), "note-"+version, "-tags", version)
		if err == nil {
			built[version] = path
		}
		return path, err
	}
}()

func buildPlugin(dir, name string, args ...string) (string, error) {
	path := filepath.Join(buildDir, name)
	if runtime.GOOS == "windows" {
		path += ".exe"
	}
	return path, rpctest.BuildAt(path, "./"+filepath.ToSlash(dir), append(args, "-ldflags", "-s -w")...)
}

// configure has d run the plugin at path for model, in place of what it ran, from its next start on.
func configure(t *testing.T, d *clustertest.Device, model, path string) {
	t.Helper()
	text, err := os.ReadFile(d.Config())
	if err != nil {
		t.Fatal(err)
	}
	block := fmt.Sprintf("model %q { path = %q }\n", model, path)
	changed := string(text)
	if at := strings.Index(changed, fmt.Sprintf("model %q {}\n", model)); at >= 0 {
		changed = strings.Replace(changed, fmt.Sprintf("model %q {}\n", model), block, 1)
	} else {
		changed += "\n" + block
	}
	if err := os.WriteFile(d.Config(), []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
}

// notePath is where d's note plugin lies.
func notePath(d *clustertest.Device) string { return filepath.Join(d.Dir, "note-plugin") }

// place puts a version of the note plugin where d's lies.
func place(t *testing.T, d *clustertest.Device, version string) {
	t.Helper()
	from, err := notes(version)
	if err != nil {
		t.Fatal(err)
	}
	binary, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	fresh := notePath(d) + ".new" // a running program is not written over
	if err := os.WriteFile(fresh, binary, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(fresh, notePath(d)); err != nil {
		t.Fatal(err)
	}
}

// install has d, which does not run, know of notes from its next start on.
func install(t *testing.T, d *clustertest.Device, version string) {
	t.Helper()
	place(t, d, version)
	configure(t, d, "note", notePath(d))
}

// swap puts another version of the note plugin in place of the one that runs.
func swap(t *testing.T, d *clustertest.Device, version string) {
	t.Helper()
	place(t, d, version)
	_, _ = d.TryRun("plugin", "restart", "note") // that it is refused is what some tests are about
}

type pluginState struct{ Name, State, Reason string }

// notePlugin waits until d's note plugin is in state, and returns why it is.
func notePlugin(t *testing.T, d *clustertest.Device, state string) string {
	t.Helper()
	var found pluginState
	clustertest.Eventually(t, "the note plugin of "+d.Name+" is "+state, func() error {
		for line := range strings.Lines(d.Run(t, "plugin", "list", "--json")) {
			var p pluginState
			if err := json.Unmarshal([]byte(line), &p); err != nil {
				return err
			}
			if p.Name == "note" {
				found = p
			}
		}
		if found.State != state {
			return fmt.Errorf("%+v", found)
		}
		return nil
	})
	return found.Reason
}

// expectRecord waits until d shows the record with these values.
func expectRecord(t *testing.T, d *clustertest.Device, model, id string, want map[string]any) {
	t.Helper()
	clustertest.Eventually(t, fmt.Sprintf("%s %s at %s", model, id, d.Name), func() error {
		text, err := d.TryRun("get", model, id, "--json")
		if err != nil {
			return err
		}
		var record map[string]any
		if err := json.Unmarshal([]byte(text), &record); err != nil {
			return err
		}
		for field, value := range want {
			if got, there := record[field]; !there || got != value {
				return fmt.Errorf("%s: %v (there: %v), want %v, in %s", field, got, there, value, text)
			}
		}
		return nil
	})
}

// line makes alice, bob and carol of which only bob reaches both others, with the note plugin in these versions; "": none.
func line(t *testing.T, versions ...string) (alice, bob, carol *clustertest.Device) {
	t.Helper()
	path := mustBuild(t)
	network := clustertest.NewNetwork(t)
	var devices []*clustertest.Device
	for i, name := range []string{"alice", "bob", "carol"} {
		how := []string{"--join"}
		if i == 0 {
			how = []string{"--library", "home"}
		}
		d := clustertest.NewDevice(t, path, name, how...)
		if versions[i] != "" {
			install(t, d, versions[i])
		}
		network.Add(t, d)
		d.Start(t)
		devices = append(devices, d)
	}
	alice, bob, carol = devices[0], devices[1], devices[2]
	network.Connect([]*clustertest.Device{alice, bob, carol})
	clustertest.Pair(t, alice, bob, carol)
	tag := alice.Run(t, "put", "tag", `{"name":"first"}`)
	for _, d := range devices {
		expectRecord(t, d, "tag", tag, map[string]any{"name": "first"})
	}
	network.Connect([]*clustertest.Device{alice, bob}, []*clustertest.Device{bob, carol})
	return alice, bob, carol
}

// TestSchema_NewerPeer has a device in the middle that knows only version 1 of two models: it keeps and passes on what
// version 2 added, also of records that it changes itself, and shows it once it has version 2 too.
func TestSchema_NewerPeer(t *testing.T) {
	t.Parallel()
	alice, bob, carol := line(t, "one", "one", "two")
	note := alice.Run(t, "put", "note", `{"title":"early"}`)
	gadget := alice.Run(t, "put", "gadget", `{"name":"lamp"}`)
	clustertest.WaitEqual(t, alice, bob, carol)

	swap(t, alice, "two") // while it runs: its rows stay, with nothing in the new fields
	notePlugin(t, alice, "running")
	expectRecord(t, alice, "note", note, map[string]any{"title": "early", "stars": nil, "tag_id": nil})
	expectRecord(t, alice, "gadget", gadget, map[string]any{"name": "lamp", "colour": nil})

	tag := alice.Run(t, "put", "tag", `{"name":"work"}`)
	alice.Run(t, "put", "note", fmt.Sprintf(`{"stars":3,"tag_id":%q}`, tag), "--id", note)
	second := alice.Run(t, "put", "note", `{"title":"second","stars":5}`)
	alice.Run(t, "put", "gadget", `{"colour":"red"}`, "--id", gadget)
	expectRecord(t, bob, "note", second, map[string]any{"title": "second"})
	if text := bob.Run(t, "list", "note", "--json"); strings.Contains(text, "stars") {
		t.Errorf("bob shows a field that his plugin does not know: %s", text)
	}
	bob.Run(t, "put", "note", `{"title":"by bob"}`, "--id", note)
	expectRecord(t, carol, "note", note, map[string]any{"title": "by bob", "stars": 3.0, "tag_id": tag})
	expectRecord(t, carol, "note", second, map[string]any{"stars": 5.0})
	expectRecord(t, carol, "gadget", gadget, map[string]any{"name": "lamp", "colour": "red"})
	clustertest.WaitEqual(t, alice, bob, carol)

	bob.Stop(t)
	place(t, bob, "two")
	bob.Start(t)
	notePlugin(t, bob, "running")
	expectRecord(t, bob, "note", note, map[string]any{"title": "by bob", "stars": 3.0, "tag_id": tag})
	expectRecord(t, bob, "gadget", gadget, map[string]any{"colour": "red"})
	bob.Run(t, "put", "note", `{"stars":1}`, "--id", note) // less: the greatest stands
	alice.Run(t, "delete", "tag", tag)                     // what the new field refers to counts by now
	clustertest.Eventually(t, "the note waits for its tag everywhere", func() error {
		for _, d := range []*clustertest.Device{alice, bob, carol} {
			if _, there := d.List(t, "note")[note]; there {
				return fmt.Errorf("%s shows it", d.Name)
			}
		}
		return nil
	})
	carol.Run(t, "put", "note", `{"tag_id":null}`, "--id", note)
	for _, d := range []*clustertest.Device{alice, bob, carol} {
		expectRecord(t, d, "note", note, map[string]any{"title": "by bob", "stars": 3.0, "tag_id": nil})
	}
	clustertest.WaitEqual(t, alice, bob, carol)
}

// TestSchema_WithoutPlugin has a device in the middle that knows nothing of two models: it keeps and passes on their
// records, and shows them once it has the plugin.
func TestSchema_WithoutPlugin(t *testing.T) {
	t.Parallel()
	alice, bob, carol := line(t, "two", "", "two")
	note := alice.Run(t, "put", "note", `{"title":"over bob","stars":2}`)
	gadget := alice.Run(t, "put", "gadget", `{"name":"lamp","colour":"blue"}`)
	gone := alice.Run(t, "put", "note", `{"title":"gone"}`)
	alice.Run(t, "delete", "note", gone)
	expectRecord(t, carol, "note", note, map[string]any{"title": "over bob", "stars": 2.0})
	expectRecord(t, carol, "gadget", gadget, map[string]any{"name": "lamp", "colour": "blue"})
	carol.Run(t, "put", "note", `{"title":"by carol"}`, "--id", note)
	expectRecord(t, alice, "note", note, map[string]any{"title": "by carol", "stars": 2.0})

	if _, err := bob.TryRun("list", "note"); err == nil || !strings.Contains(err.Error(), "note") {
		t.Errorf("bob lists a model that he does not know: %v", err)
	}
	var status struct {
		Models []struct {
			Model  string
			Parked int
		}
	}
	if err := json.Unmarshal([]byte(bob.Run(t, "status", "--json")), &status); err != nil {
		t.Fatal(err)
	}
	parked := map[string]int{}
	for _, m := range status.Models {
		parked[m.Model] = m.Parked
	}
	if parked["note"] < 4 || parked["gadget"] != 1 { // two inserts, a delete and an update
		t.Errorf("bob says that he keeps %v", status.Models)
	}

	bob.Stop(t)
	install(t, bob, "two")
	bob.Start(t)
	notePlugin(t, bob, "running")
	expectRecord(t, bob, "note", note, map[string]any{"title": "by carol", "stars": 2.0})
	expectRecord(t, bob, "gadget", gadget, map[string]any{"name": "lamp", "colour": "blue"})
	if _, there := bob.List(t, "note")[gone]; there {
		t.Error("bob shows a note that was deleted while he did not know of notes")
	}
	clustertest.WaitEqual(t, alice, bob, carol)
}

// TestSchema_Refused brings a plugin whose schema no table can follow, and one of an older version: each is refused with
// what is wrong, the other models go on, and with the right plugin everything is there, also what came meanwhile.
func TestSchema_Refused(t *testing.T) {
	t.Parallel()
	path := mustBuild(t)
	alice := clustertest.NewDevice(t, path, "alice", "--library", "home")
	bob := clustertest.NewDevice(t, path, "bob", "--join")
	for _, d := range []*clustertest.Device{alice, bob} {
		install(t, d, "two")
		d.Start(t)
	}
	clustertest.Pair(t, alice, bob)
	note := alice.Run(t, "put", "note", `{"title":"kept","stars":4}`)
	gadget := alice.Run(t, "put", "gadget", `{"name":"lamp","colour":"red"}`)
	clustertest.WaitEqual(t, alice, bob)
	stars := 4
	for round, test := range []struct{ version, want string }{
		{"broken", `field "title" was of type "text" and can not become "int"`},
		{"one", `version 2 served this database already; version 1 would lose its newer fields; run the newer plugin`},
	} {
		t.Run(test.version, func(t *testing.T) {
			for _, restart := range []bool{false, true} { // as the plugin is swapped, and as the host starts with it
				if restart {
					alice.Stop(t)
					alice.Start(t)
				} else {
					swap(t, alice, test.version)
				}
				if reason := notePlugin(t, alice, "quarantined"); !strings.Contains(reason, test.want) || !strings.Contains(reason, `model "note"`) {
					t.Errorf("restart %v: refused with %q, want why: %q", restart, reason, test.want)
				}
			}
			if _, err := alice.TryRun("put", "note", `{"title":"x"}`); err == nil {
				t.Error("a note was written without its plugin")
			} else if exit, ok := errors.AsType[*clustertest.ExitError](err); !ok || !strings.Contains(exit.Stderr, "plugin") {
				t.Errorf("a note was refused with %v, want word of the plugin", err)
			}
			expectRecord(t, alice, "note", note, map[string]any{"stars": float64(stars)}) // what is there can be read all the same
			tag := alice.Run(t, "put", "tag", fmt.Sprintf(`{"name":"tag %d"}`, round))
			title := fmt.Sprintf("meanwhile %d", round)
			fresh := bob.Run(t, "put", "note", fmt.Sprintf(`{"title":%q,"stars":1}`, title))
			stars += 10
			bob.Run(t, "put", "note", fmt.Sprintf(`{"stars":%d}`, stars), "--id", note)
			expectRecord(t, bob, "tag", tag, nil)
			clustertest.Eventually(t, "alice has what bob wrote", func() error {
				if text := alice.Run(t, "peers", "--json"); !strings.Contains(text, `"state":"live"`) {
					return errors.New(text)
				}
				return nil
			})
			swap(t, alice, "two")
			notePlugin(t, alice, "running")
			expectRecord(t, alice, "note", fresh, map[string]any{"title": title, "stars": 1.0})
			expectRecord(t, alice, "note", note, map[string]any{"title": "kept", "stars": float64(stars)})
			expectRecord(t, alice, "gadget", gadget, map[string]any{"name": "lamp", "colour": "red"})
			clustertest.WaitEqual(t, alice, bob)
		})
	}
}

// TestSchema_FirstCatalogue starts on a database of the first versions of the models entry and location: its rows stay as
// they are, with the fields that were added, and the catalogue goes on from them.
func TestSchema_FirstCatalogue(t *testing.T) {
	path := mustBuild(t)
	alice := clustertest.NewDevice(t, path, "alice", "--library", "home")
	now, err := os.ReadFile(alice.Config())
	if err != nil {
		t.Fatal(err)
	}
	old := strings.NewReplacer(`model "device" {}`, "", `model "volume" {}`, "", `model "album" {}`, "", `model "user_metadata" {}`, "").Replace(string(now))
	for _, model := range []string{"entry", "location"} {
		plugin, err := buildPlugin(filepath.Join("testdata", "first", model), "first-"+model)
		if err != nil {
			t.Fatal(err)
		}
		head := fmt.Sprintf("model %q {", model)
		if !strings.Contains(old, head) {
			t.Fatalf("%s has no %s", alice.Config(), head)
		}
		if model == "entry" {
			old = strings.Replace(old, head+"}", head+fmt.Sprintf(" path = %q }", plugin), 1)
		} else {
			old = strings.Replace(old, head, head+fmt.Sprintf("\n  path = %q", plugin), 1)
		}
	}
	if err := os.WriteFile(alice.Config(), []byte(old), 0o600); err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	writeFiles(t, folder, "a.txt", "b/c.txt")
	long := time.Now().Add(-time.Hour)
	if err := os.Chtimes(filepath.Join(folder, "a.txt"), long, long); err != nil {
		t.Fatal(err)
	}
	alice.Start(t)
	location := alice.Run(t, "location", "add", folder, "--name", "papers")
	entry := alice.Run(t, "put", "entry", fmt.Sprintf(`{"name":"gone.txt","kind":"file","size":7,"location_id":%q}`, location))
	before := alice.List(t, "location")[location]
	if _, there := before["volume_id"]; there {
		t.Fatalf("the first version has a volume: %v", before)
	}
	alice.Stop(t)

	if err := os.WriteFile(alice.Config(), []byte(strings.Replace(string(now), "ignore = ", "hash = true\n    ignore = ", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	alice.Start(t)
	expectRecord(t, alice, "location", location, map[string]any{"path": before["path"], "name": "papers"})
	expectRecord(t, alice, "entry", entry, map[string]any{"name": "gone.txt", "size": 7.0, "content_hash": nil})
	const ofA = "sha256:18b7cb099a9ea3f50ba899b5ba81e0d377a5f3b16f8f6eeb8b3e58cd4692b993"
	clustertest.Eventually(t, "the folder is catalogued, and what a file holds is known", func() error {
		hashes := map[any]any{}
		for _, e := range alice.List(t, "entry") {
			hashes[e["name"]] = e["content_hash"]
		}
		if _, there := hashes["c.txt"]; !there || hashes["a.txt"] != ofA {
			return fmt.Errorf("entries %v", hashes)
		}
		return nil
	})
	if runtime.GOOS == "linux" {
		clustertest.Eventually(t, "the location's volume", func() error {
			volume := alice.List(t, "location")[location]["volume_id"]
			if _, there := alice.List(t, "volume")[fmt.Sprint(volume)]; !there {
				return fmt.Errorf("it is %v", volume)
			}
			return nil
		})
	}
}
