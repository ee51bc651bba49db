// Package mounts says which volumes the system has mounted, and how full they are.
//
// It promises one Volume for each file system of a disk, however often it is mounted, and none for what is no disk
// (processes, devices, memory, network shares, images of packages), save the one at the root, whatever that is. It
// leaves to others what to make of a volume that is gone.
package mounts

import (
	"cmp"
	"slices"
)

// Volume is a file system that is mounted.
type Volume struct {
	MountPoint string // absolute; where it is mounted several times, the one that shows most of it
	Source     string // what is mounted: a device such as /dev/sda1, or what the system calls it
	FileSystem string // such as "ext4"
	UUID       string // of the file system, as the system spells it; empty where it does not tell
	Label      string // the file system's name; empty where it has none
	Number     int64  // of the file system, as in what stat tells of a file; 0 where the system has none
	Capacity   int64  // bytes
	Free       int64  // bytes that an ordinary user may still write
	Removable  bool   // made to be taken out: a stick, a card, a disk on USB
	ReadOnly   bool
}

// sorted orders volumes by mount point.
func sorted(volumes []Volume) []Volume {
	slices.SortFunc(volumes, func(a, b Volume) int { return cmp.Compare(a.MountPoint, b.MountPoint) })
	return volumes
}
