package mounts

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// machine is a made-up /proc, /dev and /sys: a root on an encrypted disk, a stick, what containers and packages mount.
const machine = `22 27 0:21 / /proc rw,relatime - proc proc rw
25 24 0:23 / /dev/shm rw,relatime - tmpfs tmpfs rw,size=24684084k
27 1 252:0 / / rw,relatime shared:1 - ext4 /dev/mapper/luks-root rw,discard
28 27 8:1 / /boot rw,relatime - vfat /dev/sda1 rw,fmask=0022
29 27 252:0 /home /home rw,relatime - ext4 /dev/mapper/luks-root rw
30 27 8:17 /etc/hosts /etc/hosts rw,relatime - ext4 /dev/sdb1 rw
31 27 8:17 /sub /data rw,relatime - ext4 /dev/sdb1 rw
32 27 8:17 / /media/me/my\040stick ro,nosuid - ext4 /dev/sdb1 rw
33 27 7:1 / /snap/core/1 ro,relatime - squashfs /dev/loop1 ro
34 27 0:50 / /var/lib/docker/overlay2/x/merged rw - overlay overlay rw,lowerdir=/l
35 27 0:51 / /home/me/.gvfs rw - fuse.gvfsd-fuse gvfsd-fuse rw
36 27 0:52 / /share rw - nfs4 server:/export rw
37 27 8:33 / /mnt rw - xfs /dev/sdc1 rw
38 27 8:49 / /mnt rw - xfs /dev/sdd1 ro
39 27 0:60 / /tank rw - zfs tank rw
40 27 8:65 /etc/resolv.conf /etc/resolv.conf rw - ext4 /dev/sde1 rw
41 27 8:81 / /gone rw - ext4 /dev/sdf1 rw
this is no line of it
`

func newMachine(t *testing.T, mountinfo string) *system {
	t.Helper()
	dir := t.TempDir()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	file := func(path, content string) {
		t.Helper()
		path = filepath.Join(dir, path)
		check(os.MkdirAll(filepath.Dir(path), 0o700))
		check(os.WriteFile(path, []byte(content), 0o600))
	}
	link := func(path, target string) {
		t.Helper()
		path = filepath.Join(dir, path)
		check(os.MkdirAll(filepath.Dir(path), 0o700))
		check(os.Symlink(target, path))
	}
	file("mountinfo", mountinfo)
	for _, device := range []string{"dm-0", "sda1", "sdb1", "sdd1"} {
		file("dev/"+device, "")
	}
	link("dev/mapper/luks-root", "../dm-0")
	link("dev/disk/by-uuid/7d3b-root", "../../dm-0")
	link("dev/disk/by-uuid/66E2-1A2B", "../../sda1")
	link("dev/disk/by-uuid/c0ffee", "../../sdb1")
	link("dev/disk/by-uuid/lost", "../../none")
	link(`dev/disk/by-label/my\x20stick`, "../../sdb1")
	file("sys/devices/pci/ata1/block/sda/removable", "0\n")
	file("sys/devices/pci/ata1/block/sda/sda1/partition", "1")
	file("sys/devices/pci/usb1/block/sdb/removable", "0\n") // a disk on USB says so
	file("sys/devices/pci/usb1/block/sdb/sdb1/partition", "1")
	file("sys/devices/pci/mmc/block/sdd/removable", "1\n")
	file("sys/devices/pci/mmc/block/sdd/sdd1/partition", "1")
	file("sys/devices/virtual/block/dm-0/size", "1")
	link("sys/devices/virtual/block/dm-0/slaves/sdd1", filepath.Join(dir, "sys/devices/pci/mmc/block/sdd/sdd1"))
	link("sys/dev/block/8:1", "../../devices/pci/ata1/block/sda/sda1")
	link("sys/dev/block/8:17", "../../devices/pci/usb1/block/sdb/sdb1")
	link("sys/dev/block/8:49", "../../devices/pci/mmc/block/sdd/sdd1")
	link("sys/dev/block/252:0", "../../devices/virtual/block/dm-0")
	return &system{
		mountinfo: filepath.Join(dir, "mountinfo"), dev: filepath.Join(dir, "dev"), sys: filepath.Join(dir, "sys"),
		statfs: func(_ string, s *unix.Statfs_t) error {
			s.Blocks, s.Bavail, s.Bfree, s.Frsize, s.Bsize = 100, 40, 45, 4096, 1<<20
			return nil
		},
		stat: func(path string) (int64, bool, error) {
			if path == "/gone" {
				return 0, false, errors.New("gone")
			}
			return int64(len(path)), path != "/etc/hosts" && path != "/etc/resolv.conf", nil
		},
	}
}

func TestSystem_List(t *testing.T) {
	got, err := newMachine(t, machine).list()
	if err != nil {
		t.Fatal(err)
	}
	const capacity, free = 100 * 4096, 40 * 4096
	want := []Volume{
		{MountPoint: "/", Source: "/dev/mapper/luks-root", FileSystem: "ext4", UUID: "7d3b-root", Number: 1, Capacity: capacity, Free: free, Removable: true},
		{MountPoint: "/boot", Source: "/dev/sda1", FileSystem: "vfat", UUID: "66E2-1A2B", Number: 5, Capacity: capacity, Free: free},
		{MountPoint: "/media/me/my stick", Source: "/dev/sdb1", FileSystem: "ext4", UUID: "c0ffee", Label: "my stick", Number: 18, Capacity: capacity, Free: free, Removable: true, ReadOnly: true},
		{MountPoint: "/mnt", Source: "/dev/sdd1", FileSystem: "xfs", Number: 4, Capacity: capacity, Free: free, Removable: true, ReadOnly: true},
		{MountPoint: "/tank", Source: "tank", FileSystem: "zfs", Number: 5, Capacity: capacity, Free: free},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("volumes (-want +got):\n%s", diff)
	}
}

// TestSystem_Container has nothing but an overlay at the root: that is its volume.
func TestSystem_Container(t *testing.T) {
	got, err := newMachine(t, "1 0 0:50 / / rw - overlay overlay rw\n2 1 8:17 /x /etc/hosts rw - ext4 /dev/sdb1 rw\n").list()
	if err != nil || len(got) != 1 || got[0].MountPoint != "/" || got[0].FileSystem != "overlay" || got[0].UUID != "" {
		t.Errorf("volumes %+v, %v", got, err)
	}
}

func TestSystem_Unreadable(t *testing.T) {
	s := newMachine(t, "")
	s.mountinfo += ".none"
	if _, err := s.list(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v, want an error that says what is not there", err)
	}
}

// TestList asks this machine.
func TestList(t *testing.T) {
	volumes, err := List()
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range volumes {
		t.Logf("%+v", v)
		if v.MountPoint == "/" && v.Capacity > 0 && v.Free <= v.Capacity && v.Number != 0 {
			return
		}
	}
	t.Errorf("no volume at the root: %+v", volumes)
}

func TestUnescape(t *testing.T) {
	for text, want := range map[string]string{`/a\040b\011\134c`: "/a b\t\\c", `\04`: `\04`, `\999`: `\999`, "": ""} {
		if got := unescape(text); got != want {
			t.Errorf("unescape(%q) = %q, want %q", text, got, want)
		}
	}
	for name, want := range map[string]string{`my\x20stick`: "my stick", `\x2`: `\x2`, `\xzz`: `\xzz`, `caf\xc3\xa9`: "caf\u00e9", `\xff`: "\uFFFD"} {
		if got := unhex(name); got != want {
			t.Errorf("unhex(%q) = %q, want %q", name, got, want)
		}
	}
}
