package main

import (
	"context"
	"errors"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/starling-sync/starling/plugins/volume/mounts"
	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/sdktest"
)

// shelf is a host and a keeper whose volumes and clock the test sets.
type shelf struct {
	*testing.T
	host    *sdktest.SourceHost
	volumes []mounts.Volume
	err     error
	now     time.Time
	keeper  *keeper
}

func newShelf(t *testing.T, volumes ...mounts.Volume) *shelf {
	t.Helper()
	// The stamps of this host count from the beginning of time.
	return &shelf{T: t, host: sdktest.NewSourceHost(t, model()), volumes: volumes, now: time.Unix(1, 0)}
}

// look has the keeper look once, and returns how many rows it wrote and the records by mount point.
func (s *shelf) look() (written int, records map[string]Volume) {
	s.Helper()
	before := s.host.Written()
	if s.keeper == nil {
		s.keeper = &keeper{host: s.host, list: func() ([]mounts.Volume, error) { return s.volumes, s.err }, now: func() time.Time { return s.now }}
	}
	if err := s.keeper.look(s.Context()); err != nil {
		s.Fatal(err)
	}
	records = map[string]Volume{}
	for _, v := range sdktest.Records(s.T, s.host, model()) {
		records[v.MountPoint] = v
	}
	return s.host.Written() - before, records
}

func (s *shelf) expect(want int) map[string]Volume {
	s.Helper()
	written, records := s.look()
	if written != want {
		s.Errorf("%d rows were written, want %d; records %+v", written, want, records)
	}
	return records
}

func disk(point, uuid, source string) mounts.Volume {
	return mounts.Volume{MountPoint: point, Source: source, FileSystem: "ext4", UUID: uuid, Number: 7, Capacity: 1000, Free: 500}
}

func TestKeeper_First(t *testing.T) {
	stick := disk("/media/me/stick", "b", "/dev/sdb1")
	stick.Label, stick.Removable, stick.ReadOnly = "HOLIDAY", true, true
	s := newShelf(t, disk("/", "a", "/dev/sda1"), stick)
	records := s.expect(2)
	root := records["/"]
	want := Volume{Owned: root.Owned, Name: "/", MountPoint: "/", Mounted: true, FileSystem: "ext4", Source: "/dev/sda1", UUID: "a", DeviceNumber: 7, Capacity: 1000, Free: 500}
	if root != want {
		t.Errorf("root %+v, want %+v", root, want)
	}
	if got := records["/media/me/stick"]; got.Name != "HOLIDAY" || got.Label != "HOLIDAY" || !got.Removable || !got.ReadOnly {
		t.Errorf("stick %+v", got)
	}
	s.expect(0)
}

func TestKeeper_FreeSpace(t *testing.T) {
	s := newShelf(t, disk("/", "a", "/dev/sda1"))
	s.expect(1)
	for _, step := range []struct {
		name    string
		free    int64
		later   time.Duration
		written int
	}{
		{"a hundredth less, after a minute", 490, time.Minute, 0},
		{"more than a hundredth less, soon", 489, 50 * time.Second, 0},
		{"more than a hundredth less, after a minute", 489, time.Minute, 1},
		{"a little more, soon", 490, time.Second, 0},
		{"a little more, for an hour", 490, 2 * time.Hour, 1},
		{"the same, for hours", 490, 5 * time.Hour, 0},
		{"much more", 900, time.Minute, 1},
	} {
		s.volumes[0].Free = step.free
		s.now = time.Unix(1, 0).Add(step.later)
		written, records := s.look()
		if written != step.written || (written > 0 && records["/"].Free != step.free) {
			t.Errorf("%s: %d rows written, free %d; want %d and %d", step.name, written, records["/"].Free, step.written, step.free)
		}
	}
}

// TestKeeper_Capacity has a file system share a pool: its size moves with what others write.
func TestKeeper_Capacity(t *testing.T) {
	s := newShelf(t, disk("/", "", "tank/home"))
	s.expect(1)
	s.now = s.now.Add(time.Minute)
	s.volumes[0].Capacity = 995
	s.expect(0)
	s.volumes[0].Capacity = 900
	if records := s.expect(1); records["/"].Capacity != 900 {
		t.Errorf("it is %+v", records["/"])
	}
}

// TestKeeper_AnotherStick puts a second stick where a first one was. The system tells its UUID a moment after it is mounted, or it
// has none: either way it is no part of the first one's record, nor the other way round.
func TestKeeper_AnotherStick(t *testing.T) {
	const point, source = "/media/stick", "/dev/sdb1"
	second := func(uuid string) mounts.Volume {
		v := disk(point, uuid, source)
		v.Label, v.Capacity, v.Free = "SECOND", 2000, 1500
		return v
	}
	count := func(s *shelf, want int) {
		t.Helper()
		if n := s.host.Count("volume"); n != want {
			t.Errorf("%d records, want %d", n, want)
		}
	}
	t.Run("UUID told late", func(t *testing.T) {
		s := newShelf(t, disk(point, "first", source))
		first := s.expect(1)[point]
		s.volumes = nil
		s.expect(1)
		s.volumes = []mounts.Volume{second("")}
		if got := s.expect(0)[point]; got.Mounted || got.Capacity != first.Capacity {
			t.Errorf("the first stick became %+v", got)
		}
		s.volumes = []mounts.Volume{second("second")}
		got := s.expect(1)
		count(s, 2)
		s.volumes = nil
		s.expect(1)
		s.volumes = []mounts.Volume{disk(point, "", source)} // the first one again
		s.expect(0)
		s.volumes = []mounts.Volume{disk(point, "first", source)}
		s.look()
		for _, v := range sdktest.Records(t, s.host, model()) {
			if (v.ID == first.ID) != (v.UUID == "first") || v.Mounted != (v.UUID == "first") {
				t.Errorf("%+v; %+v", v, got)
			}
		}
		count(s, 2)
	})
	t.Run("swapped between two looks", func(t *testing.T) {
		s := newShelf(t, disk(point, "first", source))
		s.expect(1)
		s.volumes = []mounts.Volume{second("")}
		s.expect(0) // nothing is known yet
		s.volumes = []mounts.Volume{second("second")}
		s.expect(2)
		count(s, 2)
	})
	t.Run("no UUID at all", func(t *testing.T) {
		s := newShelf(t, disk(point, "first", source))
		s.expect(1)
		s.volumes = []mounts.Volume{second("")}
		s.expect(0)
		s.now = s.now.Add(uuidWait)
		s.expect(2)
		s.expect(0)
		count(s, 2)
	})
	t.Run("the first one has none", func(t *testing.T) {
		s := newShelf(t, disk(point, "", source))
		s.expect(1)
		s.volumes = nil
		s.expect(1)
		s.volumes = []mounts.Volume{second("second")}
		s.expect(1)
		count(s, 2)
	})
	t.Run("known from elsewhere", func(t *testing.T) {
		s := newShelf(t, disk("/mnt", "second", "/dev/sdc1"))
		known := s.expect(1)["/mnt"]
		s.volumes = []mounts.Volume{second("")}
		s.expect(2) // what is it? a record that is told apart
		s.volumes = []mounts.Volume{second("second")}
		if records := s.expect(1); records[point].ID != known.ID { // and the other one is deleted
			t.Errorf("it is %+v, want the record %s", records, known.ID)
		}
		count(s, 1)
	})
}

func TestKeeper_Unmounted(t *testing.T) {
	s := newShelf(t, disk("/", "a", "/dev/sda1"), disk("/mnt/x", "b", "/dev/sdb1"))
	before := s.expect(2)["/mnt/x"]
	s.volumes = s.volumes[:1]
	after := s.expect(1)["/mnt/x"]
	if after.ID != before.ID || after.Mounted || after.Free != 500 {
		t.Errorf("an unmounted volume is %+v, want it kept and not mounted", after)
	}
	s.expect(0)
	s.volumes = append(s.volumes, disk("/media/elsewhere", "b", "/dev/sdc1")) // another place, another name of the disk
	records := s.expect(1)
	if back := records["/media/elsewhere"]; back.ID != before.ID || !back.Mounted || len(records) != 2 {
		t.Errorf("mounted again it is %+v, want the record %s", back, before.ID)
	}
}

func TestKeeper_WithoutUUID(t *testing.T) {
	s := newShelf(t, disk("/", "", "/dev/vda"), disk("/mnt/x", "", "/dev/vdb"))
	before := s.expect(2)
	s.volumes[1].MountPoint = "/mnt/y"
	if after := s.expect(1)["/mnt/y"]; after.ID != before["/mnt/x"].ID {
		t.Errorf("it became %s, want %s: the same device is mounted elsewhere", after.ID, before["/mnt/x"].ID)
	}
	s.volumes[1].UUID = "late" // found when the system told
	if after := s.expect(1)["/mnt/y"]; after.ID != before["/mnt/x"].ID || after.UUID != "late" {
		t.Errorf("with its UUID it is %+v, want the record %s", after, before["/mnt/x"].ID)
	}
	s.volumes[1].UUID = "other" // another disk under the same name
	records := s.expect(2)
	if n := s.host.Count("volume"); n != 3 {
		t.Errorf("%d records, want one more for another disk: %+v", n, records)
	}
}

// TestKeeper_Twins has two file systems with one UUID, as a snapshot of a disk has: each keeps a record.
func TestKeeper_Twins(t *testing.T) {
	s := newShelf(t, disk("/a", "u", "/dev/dm-1"), disk("/b", "u", "/dev/dm-2"))
	if records := s.expect(2); len(records) != 2 {
		t.Errorf("records %+v", records)
	}
	s.expect(0)
}

// TestKeeper_OneAgain gives one volume two records, as a restored device may have: the older one stays.
func TestKeeper_OneAgain(t *testing.T) {
	s := newShelf(t, disk("/", "u", "/dev/vda"))
	older := s.expect(1)["/"]
	packer, err := model().Packer()
	if err != nil {
		t.Fatal(err)
	}
	younger := older
	younger.ID = sdk.NewRecordID()
	packer.Put(&younger)
	if _, err := s.host.Commit(t.Context(), packer.Batch()); err != nil {
		t.Fatal(err)
	}
	if _, records := s.look(); records["/"].ID != older.ID || s.host.Count("volume") != 1 {
		t.Errorf("%d records, %+v stays, want %s alone", s.host.Count("volume"), records["/"], older.ID)
	}
}

func TestKeeper_Unknown(t *testing.T) {
	s := newShelf(t, disk("/", "a", "/dev/sda1"))
	s.expect(1)
	s.err = errors.New("no such file")
	if records := s.expect(0); !records["/"].Mounted {
		t.Error("what is not known was taken as not mounted")
	}
	if s.host.Warnings()["volumes"].Count != 1 {
		t.Errorf("warnings %v", s.host.Warnings())
	}
	s.err = nil
	s.expect(0)
	if len(s.host.Warnings()) != 0 {
		t.Errorf("warnings %v, want none any more", s.host.Warnings())
	}
}

func TestKeeper_OddText(t *testing.T) {
	s := newShelf(t, disk("/mnt/caf\xe9", "", "/dev/\xff"))
	s.expect(1)
	s.expect(0)
}

// TestKeeper_Run looks when it is time, and when a record is deleted.
func TestKeeper_Run(t *testing.T) {
	defer goleak.VerifyNone(t)
	host := sdktest.NewSourceHost(t, model())
	defer host.Close()
	lists := make(chan []mounts.Volume)
	tick := make(chan time.Time)
	k := keeper{host: host, list: func() ([]mounts.Volume, error) { return <-lists, nil }, now: time.Now, tick: tick}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- k.run(ctx) }()
	one := []mounts.Volume{disk("/", "a", "/dev/sda1")}
	lists <- one
	lists <- one // its own commit told it of a change
	tick <- time.Time{}
	lists <- append(one, disk("/mnt", "b", "/dev/sdb1"))
	lists <- append(one, disk("/mnt", "b", "/dev/sdb1"))
	if n := host.Count("volume"); n != 2 {
		t.Errorf("%d volumes, want 2", n)
	}
	packer, err := model().Packer()
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range sdktest.Records(t, host, model()) {
		packer.Delete(v.ID)
	}
	if _, err := host.Commit(t.Context(), packer.Batch()); err != nil {
		t.Fatal(err)
	}
	lists <- one
	lists <- one
	if n := host.Count("volume"); n != 1 {
		t.Errorf("%d volumes after all were deleted, want the one that is mounted", n)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("run: %v", err)
	}
}
