package catalog

import (
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/starling-sync/starling/plugins/location/catalog/disk"
	"github.com/starling-sync/starling/sdk"
)

// TestRun_BornAgain takes the entries away that were made since some time, as an older copy of a device lacks them: what is
// catalogued then has the ids that its peers have, and it is no second record of anything.
func TestRun_BornAgain(t *testing.T) {
	w := newWorld(t, "old")
	w.needsBirth()
	w.start()
	w.make("new")
	w.make("folder/inner")
	w.expect("folder", "folder/inner", "new", "old")
	before := w.ids()
	w.stop()
	w.lose("folder", "folder/inner", "new")
	w.start()
	w.expect("folder", "folder/inner", "new", "old")
	if diff := cmp.Diff(before, w.ids()); diff != "" {
		t.Errorf("ids (-before +after):\n%s", diff)
	}
}

// TestRun_BornTwice gives a file its first name again, beside a second one: the two are two entries.
func TestRun_BornTwice(t *testing.T) {
	w := newWorld(t, "a")
	w.needsBirth()
	w.start()
	first := w.ids()["a"]
	w.rename("a", "b")
	w.expect("b")
	w.check(os.Link(w.at("b"), w.at("a")))
	w.expect("a", "b")
	if ids := w.ids(); ids["b"] != first || ids["a"] == first {
		t.Errorf("ids %v; b was %s", ids, first)
	}
}

func TestBornID(t *testing.T) {
	made := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
	of := func(name string, inode int64, made time.Time) sdk.RecordID {
		id, _ := bornID(sdk.RecordID{1}, &sighting{place: place{sdk.RecordID{2}, name}, info: disk.Info{Inode: inode, Created: made}})
		return id
	}
	id := of("a", 1, made)
	if id != of("a", 1, made) {
		t.Error("one file has two ids")
	}
	for _, other := range []sdk.RecordID{of("b", 1, made), of("a", 2, made), of("a", 1, made.Add(time.Microsecond))} {
		if other == id {
			t.Errorf("two files have the id %s", id)
		}
	}
	if younger := of("a", 1, made.Add(time.Millisecond)); id.Compare(younger) >= 0 {
		t.Errorf("%s of a file made later sorts before %s", younger, id)
	}
	if _, ok := bornID(sdk.RecordID{1}, &sighting{info: disk.Info{Inode: 1}}); ok {
		t.Error("an id was derived of a file whose birth is not known")
	}
	if _, err := sdk.ParseRecordID(id.String()); err != nil {
		t.Error(err)
	}
}

// needsBirth skips a test where the system does not tell when a file was made.
func (w *world) needsBirth() {
	w.Helper()
	w.needsInodes()
	info, err := disk.System{}.Stat(w.dir)
	w.check(err)
	if info.Created.IsZero() {
		w.Skip("this file system does not tell when a file was made")
	}
}

// lose deletes entries, children first, with nobody watching.
func (w *world) lose(paths ...string) {
	w.Helper()
	packer, err := entryModel().Packer()
	w.check(err)
	ids := w.ids()
	for i := len(paths) - 1; i >= 0; i-- {
		packer.Delete(ids[paths[i]])
	}
	_, err = w.host.Commit(w.Context(), packer.Batch())
	w.check(err)
}
