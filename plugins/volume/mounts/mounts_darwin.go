package mounts

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// List returns the volumes that are mounted now, by mount point. It blocks on the disks. The system's own call tells no
// UUID of a file system, and not whether it can be taken out: UUID is empty and Removable false.
func List() ([]Volume, error) {
	n, err := unix.Getfsstat(nil, unix.MNT_NOWAIT)
	if err != nil {
		return nil, fmt.Errorf("count what is mounted: %w", err)
	}
	all := make([]unix.Statfs_t, n+4) // some may be mounted meanwhile
	if n, err = unix.Getfsstat(all, unix.MNT_NOWAIT); err != nil {
		return nil, fmt.Errorf("read what is mounted: %w", err)
	}
	var volumes []Volume
	for i := range all[:n] {
		s := &all[i]
		point := unix.ByteSliceToString(s.Mntonname[:])
		if point != "/" && (s.Flags&unix.MNT_LOCAL == 0 || s.Flags&unix.MNT_DONTBROWSE != 0) {
			continue
		}
		var at unix.Stat_t
		if unix.Stat(point, &at) != nil {
			continue
		}
		volumes = append(volumes, Volume{
			MountPoint: point, Source: unix.ByteSliceToString(s.Mntfromname[:]), FileSystem: unix.ByteSliceToString(s.Fstypename[:]),
			Number:   int64(at.Dev),
			Capacity: int64(s.Blocks) * int64(s.Bsize), Free: int64(s.Bavail) * int64(s.Bsize), //nolint:gosec // no disk has 2^63 bytes
			ReadOnly: s.Flags&unix.MNT_RDONLY != 0,
		})
	}
	return sorted(volumes), nil
}
