package catalog

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/starling-sync/starling/plugins/location/catalog/disk"
	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/sdktest"
)

// volumes puts volumes into the host, in place of those it has.
func (w *world) volumes(all ...volume) []sdk.RecordID {
	w.Helper()
	packer, err := volumeModel().Packer()
	w.check(err)
	for _, v := range sdktest.Records(w.T, w.host, volumeModel()) {
		packer.Delete(v.ID)
	}
	var ids []sdk.RecordID
	for i := range all {
		packer.Put(&all[i])
		ids = append(ids, all[i].ID)
	}
	_, err = w.host.Commit(w.Context(), packer.Batch())
	w.check(err)
	return ids
}

func (w *world) locationVolume() sdk.RecordID {
	w.Helper()
	for _, l := range sdktest.Records(w.T, w.host, locationModel()) {
		if l.ID == w.location {
			return l.Volume.ID()
		}
	}
	return sdk.RecordID{}
}

func TestRun_Volume(t *testing.T) {
	w := newWorld(t, "a")
	info, err := disk.System{}.Stat(w.dir)
	w.check(err)
	w.host = sdktest.NewSourceHost(t, locationModel(), entryModel(), volumeModel())
	w.location = w.addLocation(w.dir)
	root := volume{MountPoint: filepath.VolumeName(w.dir) + string(filepath.Separator), Mounted: true}
	near := volume{MountPoint: filepath.Dir(w.dir), Mounted: true}
	beside := volume{MountPoint: w.dir + "x", Mounted: true}
	ids := w.volumes(root, near, beside)
	w.start()
	expect := func(what string, want sdk.RecordID) {
		t.Helper()
		w.await(what, func() bool { return w.locationVolume() == want })
	}
	expect("the volume that is nearest above", ids[1])
	w.expect("a")

	near.Mounted = false
	ids = w.volumes(root, near)
	expect("the volume that is mounted", ids[0])

	if info.Device != 0 {
		other := volume{MountPoint: "/elsewhere", Mounted: true, DeviceNumber: info.Device}
		ids = w.volumes(root, other)
		expect("the volume of the file system, wherever it is mounted", ids[1])
	}

	w.stop()
	last := w.locationVolume()
	w.check(os.Rename(w.dir, w.dir+".away")) // unmounted: it keeps what it had
	w.volumes(volume{MountPoint: root.MountPoint, Mounted: true})
	w.run()
	w.await("the warning", func() bool { _, ok := w.host.Warnings()["absent "+w.dir]; return ok })
	if got := w.locationVolume(); got != last {
		t.Errorf("its folder is gone, and its volume went from %s to %s", last, got)
	}
	w.check(os.Mkdir(w.dir, 0o700)) // what is left where a disk was unmounted
	w.volumes(volume{MountPoint: root.MountPoint, Mounted: true})
	w.check(placeLocations(t.Context(), w.host, disk.System{}))
	if got := w.locationVolume(); got != last && runtime.GOOS != "windows" {
		t.Errorf("an empty folder is left in its place, and its volume went from %s to %s", last, got)
	}
	w.check(os.Remove(w.dir))
	w.check(os.Rename(w.dir+".away", w.dir))
	ids = w.volumes(volume{MountPoint: root.MountPoint, Mounted: true})
	expect("the volume again", ids[0])
}

// TestPlaceLocations_RemovedMeanwhile writes the volume of a location that is there no more: it must not come back.
func TestPlaceLocations_RemovedMeanwhile(t *testing.T) {
	w := newWorld(t)
	packer, err := placedModel().Packer()
	w.check(err)
	w.removeLocation(w.location)
	packer.Put(&placed{Owned: sdk.Owned{ID: w.location}, Volume: sdk.Ref{1}})
	refused, err := w.host.Commit(t.Context(), packer.Batch())
	w.check(err)
	if len(refused) != 1 || w.host.Count("location") != 0 {
		t.Errorf("refused %v; %d locations", refused, w.host.Count("location"))
	}
}
