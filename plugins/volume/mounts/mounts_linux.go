package mounts

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// system is where Linux says what there is. Tests put a folder of their own in its place.
type system struct {
	mountinfo string // /proc/self/mountinfo
	dev       string // /dev
	sys       string // /sys
	statfs    func(path string, s *unix.Statfs_t) error
	stat      func(path string) (number int64, isDir bool, err error)
}

// List returns the volumes that are mounted now, by mount point. It blocks on the disks.
func List() ([]Volume, error) {
	s := system{mountinfo: "/proc/self/mountinfo", dev: "/dev", sys: "/sys", statfs: statfs, stat: stat}
	return s.list()
}

func statfs(path string, s *unix.Statfs_t) error {
	for {
		if err := unix.Statfs(path, s); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func stat(path string) (number int64, isDir bool, err error) {
	var s unix.Stat_t
	if err := unix.Stat(path, &s); err != nil {
		return 0, false, err
	}
	return int64(s.Dev), s.Mode&unix.S_IFMT == unix.S_IFDIR, nil //nolint:gosec,unconvert // compared, never computed with
}

func (s *system) list() ([]Volume, error) {
	text, err := os.ReadFile(s.mountinfo)
	if err != nil {
		return nil, fmt.Errorf("read what is mounted: %w", err)
	}
	uuids, labels := s.links("by-uuid"), s.links("by-label")
	var volumes []Volume
	for _, m := range primary(parse(string(text))) {
		number, isDir, err := s.stat(m.point)
		if err != nil || !isDir {
			continue // unmounted meanwhile, not for this user, or a single file
		}
		var fs unix.Statfs_t
		if err := s.statfs(m.point, &fs); err != nil {
			continue // as above
		}
		device := s.resolve(m.source)
		volumes = append(volumes, Volume{
			MountPoint: m.point, Source: m.source, FileSystem: m.kind, UUID: uuids[device], Label: labels[device], Number: number,
			Capacity: bytes(fs.Blocks, &fs), Free: bytes(fs.Bavail, &fs),
			Removable: s.removable(filepath.Join(s.sys, "dev", "block", m.number), 0), ReadOnly: m.readOnly,
		})
	}
	return sorted(volumes), nil
}

// bytes returns how many bytes so many blocks are.
func bytes(blocks uint64, fs *unix.Statfs_t) int64 {
	size := uint64(fs.Frsize) //nolint:gosec,unconvert // its type differs between machines
	if size == 0 {
		size = uint64(fs.Bsize) //nolint:gosec,unconvert // as above
	}
	return int64(blocks * size) //nolint:gosec // no disk has 2^63 bytes
}

// mount is a line of mountinfo.
type mount struct {
	number   string // major:minor
	root     string // the folder of the file system that is mounted
	point    string
	kind     string
	source   string
	readOnly bool
}

// parse reads mountinfo as proc_pid_mountinfo(5) has it. A line that it does not understand is left out.
func parse(text string) []mount {
	var mounts []mount
	for line := range strings.Lines(text) {
		before, after, found := strings.Cut(strings.TrimSuffix(line, "\n"), " - ")
		head, tail := strings.Fields(before), strings.Fields(after)
		if !found || len(head) < 6 || len(tail) < 2 {
			continue
		}
		mounts = append(mounts, mount{
			number: head[2], root: unescape(head[3]), point: unescape(head[4]), kind: tail[0], source: unescape(tail[1]),
			readOnly: hasOption(head[5], "ro") || (len(tail) > 2 && hasOption(tail[2], "ro")),
		})
	}
	return mounts
}

func hasOption(options, wanted string) bool {
	for option := range strings.SplitSeq(options, ",") {
		if option == wanted {
			return true
		}
	}
	return false
}

// unescape reads the \ooo that stand for space, tab, newline and backslash.
func unescape(text string) string {
	if !strings.Contains(text, `\`) {
		return text
	}
	var b strings.Builder
	for i := 0; i < len(text); {
		if text[i] == '\\' && i+4 <= len(text) {
			if n, err := strconv.ParseUint(text[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 4
				continue
			}
		}
		b.WriteByte(text[i])
		i++
	}
	return b.String()
}

// images are file systems that hold installed packages: their number says nothing of a disk.
var images = map[string]bool{"squashfs": true, "erofs": true}

// isDisk reports whether m is of a disk of this device.
func (m *mount) isDisk() bool {
	switch {
	case m.point == "/":
		return true
	case images[m.kind], strings.HasPrefix(m.kind, "fuse."):
		return false
	case m.kind == "zfs":
		return true
	}
	return strings.HasPrefix(m.source, "/dev/")
}

// primary returns the disks' mounts, one for each file system: the one of all of it before one of a part (a bind mount),
// then the one with the shortest path. What another mount covers is not seen.
func primary(all []mount) []mount {
	top := map[string]int{} // by mount point: the last one is on top
	for i := range all {
		top[all[i].point] = i
	}
	best := map[string]int{} // by file system, into chosen
	var chosen []mount
	for i := range all {
		m := &all[i]
		if top[m.point] != i || !m.isDisk() {
			continue
		}
		key := m.source // the parts of one btrfs have numbers of their own
		if !strings.HasPrefix(key, "/dev/") {
			key = m.number
		}
		at, seen := best[key]
		switch {
		case !seen:
			best[key] = len(chosen)
			chosen = append(chosen, *m)
		case m.before(&chosen[at]):
			chosen[at] = *m
		}
	}
	return chosen
}

func (m *mount) before(other *mount) bool {
	if whole := m.root == "/"; whole != (other.root == "/") {
		return whole
	}
	return len(m.point) < len(other.point)
}

// links returns the names in /dev/disk/kind by the device that each is a link to.
func (s *system) links(kind string) map[string]string {
	names := map[string]string{}
	folder := filepath.Join(s.dev, "disk", kind)
	entries, err := os.ReadDir(folder)
	if err != nil {
		return names // there is no udev here
	}
	for _, entry := range entries {
		if device, err := filepath.EvalSymlinks(filepath.Join(folder, entry.Name())); err == nil {
			names[device] = unhex(entry.Name())
		}
	}
	return names
}

// unhex reads the \xHH that udev writes for what a file name should not hold.
func unhex(name string) string {
	for i := 0; i+4 <= len(name); i++ {
		if name[i] != '\\' || name[i+1] != 'x' {
			continue
		}
		if n, err := strconv.ParseUint(name[i+2:i+4], 16, 8); err == nil {
			name = name[:i] + string([]byte{byte(n)}) + name[i+4:]
		}
	}
	return strings.ToValidUTF8(name, "\uFFFD")
}

// resolve returns the device that source names, as links does.
func (s *system) resolve(source string) string {
	below, found := strings.CutPrefix(source, "/dev/")
	if !found {
		return source
	}
	path := filepath.Join(s.dev, below)
	if device, err := filepath.EvalSymlinks(path); err == nil {
		return device
	}
	return path
}

// maxLayers bounds how far a device is followed to the ones that it is made of.
const maxLayers = 4

// removable reports whether the device of folder, one of /sys/dev/block, can be taken out: itself, the disk that it is a
// part of, or one that it is made of, as an encrypted one is.
func (s *system) removable(folder string, layer int) bool {
	device, err := filepath.EvalSymlinks(folder)
	if err != nil || layer > maxLayers {
		return false
	}
	if strings.Contains(device, "/usb") {
		return true
	}
	for _, path := range []string{device, filepath.Dir(device)} {
		if text, err := os.ReadFile(filepath.Join(path, "removable")); err == nil && strings.TrimSpace(string(text)) == "1" {
			return true
		}
	}
	below, _ := filepath.Glob(filepath.Join(device, "slaves", "*")) // it is a pattern that always reads
	for _, slave := range below {
		if s.removable(slave, layer+1) {
			return true
		}
	}
	return false
}
