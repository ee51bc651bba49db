package mounts

import (
	"fmt"
	"strings"

	"golang.org/x/sys/windows"
)

// List returns the volumes that have a drive letter, by mount point. It blocks on the disks. A drive without a medium, and
// one of a network, is left out; so is what is mounted at a folder.
func List() ([]Volume, error) {
	mask, err := windows.GetLogicalDrives()
	if err != nil {
		return nil, fmt.Errorf("list the drives: %w", err)
	}
	var volumes []Volume
	for letter := 'A'; letter <= 'Z'; letter++ {
		if mask&(1<<(letter-'A')) == 0 {
			continue
		}
		if v, ok := drive(string(letter) + `:\`); ok {
			volumes = append(volumes, v)
		}
	}
	return sorted(volumes), nil
}

func drive(point string) (v Volume, ok bool) {
	path, err := windows.UTF16PtrFromString(point)
	if err != nil {
		return v, false
	}
	kind := windows.GetDriveType(path)
	if kind != windows.DRIVE_FIXED && kind != windows.DRIVE_REMOVABLE && kind != windows.DRIVE_CDROM {
		return v, false
	}
	var label, fileSystem [windows.MAX_PATH + 1]uint16
	var flags uint32
	err = windows.GetVolumeInformation(path, &label[0], uint32(len(label)), nil, nil, &flags, &fileSystem[0], uint32(len(fileSystem)))
	if err != nil {
		return v, false // no medium
	}
	var free, capacity uint64
	if windows.GetDiskFreeSpaceEx(path, &free, &capacity, nil) != nil {
		return v, false
	}
	v = Volume{
		MountPoint: point, Source: point, FileSystem: windows.UTF16ToString(fileSystem[:]), Label: windows.UTF16ToString(label[:]),
		Capacity: int64(capacity), Free: int64(free), //nolint:gosec // no disk has 2^63 bytes
		Removable: kind != windows.DRIVE_FIXED, ReadOnly: flags&windows.FILE_READ_ONLY_VOLUME != 0,
	}
	var name [64]uint16 // \\?\Volume{GUID}\ has 49 characters
	if windows.GetVolumeNameForVolumeMountPoint(path, &name[0], uint32(len(name))) == nil {
		v.Source = windows.UTF16ToString(name[:])
		_, after, _ := strings.Cut(v.Source, "{")
		v.UUID, _, _ = strings.Cut(after, "}")
	}
	return v, true
}
