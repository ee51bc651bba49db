package cluster_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/starling-sync/starling/host/clustertest"
)

// quick lets devices look at what may be forgotten, and pass on acknowledgements, every few seconds: both follow the
// heartbeat.
const quick = "  heartbeat = \"250ms\"\n"

// configure puts settings into the sync block, and into its retention block, of a device that does not run.
func configure(t *testing.T, d *clustertest.Device, sync, retention string) {
	t.Helper()
	text, err := os.ReadFile(d.Config())
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(string(text), "\nsync {\n", "\nsync {\n"+sync, 1)
	changed = strings.Replace(changed, "\n  retention {\n", "\n  retention {\n"+retention, 1)
	if sync != "" && changed == string(text) {
		t.Fatalf("%s has no sync block", d.Config())
	}
	if err := os.WriteFile(d.Config(), []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
}

// copyData copies a device's data folder, as a backup of a device that does not run is made.
func copyData(t *testing.T, d *clustertest.Device, to string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(d.Data())); err != nil {
		t.Fatal(err)
	}
}

// restoreData puts a copy in the place of a device's data folder.
func restoreData(t *testing.T, d *clustertest.Device, from string) {
	t.Helper()
	if err := os.RemoveAll(d.Data()); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(d.Data(), os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(d.Data(), 0o700); err != nil { //nolint:gosec // a folder
		t.Fatal(err)
	}
	key := filepath.Join(d.Data(), "device.key")
	if _, err := os.Stat(key); err == nil {
		if err := os.Chmod(key, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// warnings returns the codes of what a device's status warns of.
func warnings(t *testing.T, d *clustertest.Device) []string {
	t.Helper()
	var status struct {
		Warnings []struct {
			Code string `json:"code"`
		} `json:"warnings"`
	}
	if err := json.Unmarshal([]byte(d.Run(t, "status", "--json")), &status); err != nil {
		t.Fatal(err)
	}
	codes := []string{}
	for _, w := range status.Warnings {
		codes = append(codes, w.Code)
	}
	return codes
}

// TestFive_RestoredBackup puts carol back to a backup, from which she goes on writing while nobody is there, and lets the
// others give her back what she had written since.
func TestFive_RestoredBackup(t *testing.T) {
	needsTask(t)
	f := newFive(t, mustBuild(t), nil)
	f.startAll(t)
	folder := t.TempDir()
	writeFiles(t, folder, manyFiles(60)...)
	f.carol.Run(t, "location", "add", folder)
	early := f.carol.Run(t, "put", "tag", `{"name":"before the backup"}`)
	f.alice.WaitCount(t, "entry", 63)
	clustertest.WaitEqual(t, f.all()...)
	backup := filepath.Join(t.TempDir(), "backup")
	f.carol.Stop(t)
	copyData(t, f.carol, backup)
	f.carol.Start(t)

	lost := f.carol.Run(t, "put", "tag", `{"name":"after the backup"}`)
	f.carol.Run(t, "put", "tag", `{"color":"green"}`, "--id", early)
	writeFiles(t, folder, "later.txt")
	f.eve.WaitCount(t, "entry", 64)
	clustertest.WaitEqual(t, f.all()...)
	for _, d := range f.all() {
		d.Stop(t)
	}

	restoreData(t, f.carol, backup)
	f.carol.Start(t)
	if _, there := f.carol.List(t, "tag")[lost]; there {
		t.Fatal("the backup holds what was written after it: this run shows nothing")
	}
	since := f.carol.Run(t, "put", "tag", `{"name":"written on the backup"}`)
	for _, d := range []*clustertest.Device{f.alice, f.bob, f.dave, f.eve} {
		d.Start(t)
	}
	for _, d := range f.all() {
		clustertest.Eventually(t, "what carol wrote on both sides, at "+d.Name, func() error {
			tags := d.List(t, "tag")
			if tags[lost]["name"] != "after the backup" || tags[since]["name"] != "written on the backup" || tags[early]["color"] != "green" {
				return fmt.Errorf("%v", tags)
			}
			return nil
		})
	}
	clustertest.WaitEqual(t, f.all()...)
	f.carol.Stop(t) // the next start continues both branches
	f.carol.Start(t)
	f.carol.Run(t, "put", "tag", `{"name":"after both"}`)
	for _, d := range f.all() {
		d.WaitCount(t, "tag", 4)
		d.WaitCount(t, "entry", 64) // later.txt was catalogued on both branches: the older entry stays
	}
	clustertest.WaitEqual(t, f.all()...)
	if codes := warnings(t, f.carol); len(codes) > 0 {
		t.Errorf("carol still warns of %v", codes)
	}
}

// TestFive_TwoCopies starts a copy of bob beside him. All report it, and nothing that either writes is lost.
func TestFive_TwoCopies(t *testing.T) {
	needsTask(t)
	f := newFive(t, mustBuild(t), nil)
	for _, d := range f.all() {
		configure(t, d, quick+"  limits {\n    stall_time = \"1s\"\n    retry_max = \"1s\"\n  }\n", "")
		dropLimits(t, d)
	}
	f.startAll(t)
	f.bob.Stop(t)
	twin := &clustertest.Device{Name: "bob's copy", Dir: filepath.Join(t.TempDir(), "bob"), Binary: f.bob.Binary}
	if err := os.MkdirAll(twin.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	copyData(t, f.bob, twin.Data())
	text, err := os.ReadFile(f.bob.Config())
	if err != nil {
		t.Fatal(err)
	}
	moved := strings.ReplaceAll(string(text), f.bob.Listen, clustertest.FreeAddress(t))
	if err := os.WriteFile(twin.Config(), []byte(moved), 0o600); err != nil {
		t.Fatal(err)
	}
	restoreData(t, f.bob, twin.Data()) // both with the rights that a data folder must have
	restoreData(t, twin, f.bob.Data())
	t.Cleanup(func() { twin.Kill(t) })
	f.bob.Start(t)
	twin.Start(t)

	written := map[string]string{}
	reported := func(d *clustertest.Device, code string) bool {
		return strings.Contains(strings.Join(warnings(t, d), " "), code)
	}
	clustertest.Eventually(t, "everybody reports that bob runs twice", func() error {
		n := len(written)
		written[f.bob.Run(t, "put", "tag", fmt.Sprintf(`{"name":"bob %d"}`, n))] = fmt.Sprintf("bob %d", n)
		written[twin.Run(t, "put", "tag", fmt.Sprintf(`{"name":"twin %d"}`, n))] = fmt.Sprintf("twin %d", n)
		for _, d := range []*clustertest.Device{f.bob, twin} {
			if !reported(d, "runs_twice") {
				return errors.New(d.Name + " does not know")
			}
		}
		for _, d := range []*clustertest.Device{f.alice, f.carol} {
			if !reported(d, "peer_runs_twice") {
				return errors.New(d.Name + " does not know")
			}
		}
		return nil
	})
	for _, d := range append(f.all(), twin) {
		d.WaitCount(t, "tag", len(written))
	}
	twin.Stop(t)
	clustertest.WaitEqual(t, f.all()...)
	for _, d := range f.all() {
		tags := d.List(t, "tag")
		for id, name := range written {
			if tags[id]["name"] != name {
				t.Errorf("%s lacks %q", d.Name, name)
			}
		}
	}
}

// dropLimits takes the second limits block out of a configuration to which another one was added.
func dropLimits(t *testing.T, d *clustertest.Device) {
	t.Helper()
	text, err := os.ReadFile(d.Config())
	if err != nil {
		t.Fatal(err)
	}
	last := strings.LastIndex(string(text), "\n  limits {\n")
	end := strings.Index(string(text)[last+1:], "\n  }\n")
	if first := strings.Index(string(text), "\n  limits {\n"); first == last || end < 0 {
		return
	}
	changed := string(text)[:last] + string(text)[last+1+end+len("\n  }"):]
	if err := os.WriteFile(d.Config(), []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestFive_Retired retires eve while she is connected: she is cut off, what she wrote stays, and the log does not wait for
// her.
func TestFive_Retired(t *testing.T) {
	needsTask(t)
	f := newFive(t, mustBuild(t), nil)
	for _, d := range f.all() {
		configure(t, d, quick, "")
	}
	f.startAll(t)
	kept := f.eve.Run(t, "put", "tag", `{"name":"eve was here"}`)
	for _, d := range f.all() {
		d.WaitCount(t, "tag", 1)
	}
	f.dave.Stop(t) // he is told by others
	f.alice.Run(t, "retire", "eve", "--yes")
	f.alice.Run(t, "put", "tag", `{"name":"after"}`)
	clustertest.Eventually(t, "eve is cut off and knows why", func() error {
		if peers := connected(t, f.eve); len(peers) > 0 {
			return fmt.Errorf("she is connected to %v", peers)
		}
		if codes := warnings(t, f.eve); len(codes) == 0 {
			return errors.New("her status warns of nothing")
		}
		return nil
	})
	f.dave.Start(t)
	clustertest.Eventually(t, "dave hears of it", func() error {
		if peers := connected(t, f.dave); len(peers) != 3 || slices.Contains(peers, "eve") {
			return fmt.Errorf("he is connected to %v", peers)
		}
		return nil
	})
	f.eve.Run(t, "put", "tag", `{"name":"too late"}`)
	rest := []*clustertest.Device{f.alice, f.bob, f.carol, f.dave}
	for _, d := range rest {
		d.WaitCount(t, "tag", 2)
		if d.List(t, "tag")[kept]["name"] != "eve was here" {
			t.Errorf("%s has lost what eve wrote while she belonged", d.Name)
		}
	}
	clustertest.WaitEqual(t, rest...)
	waitLog(t, 0, rest...)
	exits := func(message string, args ...string) {
		t.Helper()
		if _, err := f.bob.TryRun(args...); err == nil || !strings.Contains(err.Error(), message) {
			t.Errorf("starling %s: %v; want %q", strings.Join(args, " "), err, message)
		}
	}
	exits("retired", "retire", "eve", "--yes")
	exits("no device", "retire", "mallory", "--yes")
}

// waitLog waits until the logs of devices hold no more than n changes.
func waitLog(t *testing.T, n int, devices ...*clustertest.Device) {
	t.Helper()
	for _, d := range devices {
		clustertest.Eventually(t, d.Name+"'s log", func() error {
			var status struct {
				Log struct {
					Entries int `json:"entries"`
				} `json:"log"`
			}
			if err := json.Unmarshal([]byte(d.Run(t, "status", "--json")), &status); err != nil {
				return err
			}
			if status.Log.Entries > n {
				return fmt.Errorf("%d changes; want %d at most", status.Log.Entries, n)
			}
			return nil
		})
	}
}

// TestFive_BelowTheFloor lets dave be away for longer than the others keep what he has not acknowledged. He is killed while
// he takes in the snapshot, loses what was deleted meanwhile, and sends what he wrote himself.
func TestFive_BelowTheFloor(t *testing.T) {
	needsTask(t)
	f := newFive(t, mustBuild(t), nil)
	for _, d := range f.all() {
		configure(t, d, quick+"  page_bytes = \"4KiB\"\n", "    age = \"1s\"\n")
	}
	f.startAll(t)
	folder := t.TempDir()
	writeFiles(t, folder, manyFiles(90)...)
	f.alice.Run(t, "location", "add", folder)
	ids, err := putGroup(f.bob, "old", 300)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range f.all() {
		d.WaitCount(t, "entry", 94)
		d.WaitCount(t, "tag", 300)
	}
	clustertest.WaitEqual(t, f.all()...)
	f.dave.Stop(t)

	rest := []*clustertest.Device{f.alice, f.bob, f.carol, f.eve}
	for _, id := range ids[:100] {
		f.bob.Run(t, "delete", "tag", id)
	}
	f.carol.Run(t, "put", "tag", `{"color":"red"}`, "--id", ids[200])
	if err := os.RemoveAll(filepath.Join(folder, "dir0")); err != nil {
		t.Fatal(err)
	}
	f.eve.WaitCount(t, "entry", 63)
	clustertest.WaitEqual(t, rest...)
	// The latest change counts time, so something must be written for what is older to go.
	clustertest.Eventually(t, "the logs forget what dave has not got", func() error {
		f.alice.Run(t, "put", "tag", `{"color":"blue"}`, "--id", ids[201])
		for _, d := range rest {
			if strings.Contains(d.Run(t, "status", "--json"), `"entries":1`) {
				return fmt.Errorf("%s keeps much", d.Name)
			}
		}
		waitLog(t, 50, rest...)
		return nil
	})

	for _, d := range rest {
		d.Stop(t)
	}
	f.dave.Start(t)
	own := f.dave.Run(t, "put", "tag", `{"name":"dave, alone"}`)
	f.dave.Run(t, "put", "tag", `{"color":"black"}`, "--id", ids[250])
	f.dave.Run(t, "put", "tag", `{"color":"too late"}`, "--id", ids[0]) // it was deleted meanwhile
	for _, d := range rest {
		d.Start(t)
	}
	for range 5 {
		f.dave.Kill(t)
		f.dave.Start(t)
	}
	for _, d := range f.all() {
		d.WaitCount(t, "entry", 63)
		clustertest.Eventually(t, "tags at "+d.Name, func() error {
			tags := d.List(t, "tag")
			_, back := tags[ids[0]]
			if len(tags) != 201 || back || tags[own]["name"] != "dave, alone" || tags[ids[250]]["color"] != "black" || tags[ids[200]]["color"] != "red" {
				return fmt.Errorf("%d tags, one that was deleted is back: %v; %v %v %v", len(tags), back, tags[own], tags[ids[250]], tags[ids[200]])
			}
			return nil
		})
	}
	clustertest.WaitEqual(t, f.all()...)
	if !strings.Contains(logOf(t, f.dave), "snapshot complete") {
		t.Error("dave got no snapshot: this run shows nothing")
	}
}

func logOf(t *testing.T, d *clustertest.Device) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(d.Dir, "host.log"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
