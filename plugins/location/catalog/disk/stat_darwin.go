package disk

import (
	"io/fs"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// dontBlock keeps the opening of a pipe from waiting for who writes to it.
const dontBlock = unix.O_NONBLOCK

func native(f fs.FileInfo) Info {
	info := portable(f)
	if s, ok := f.Sys().(*syscall.Stat_t); ok {
		info.Inode = int64(s.Ino)  //nolint:gosec // compared, never computed with
		info.Device = int64(s.Dev) // compared, never computed with
		info.Created = stampTime(time.Unix(s.Birthtimespec.Sec, s.Birthtimespec.Nsec))
	}
	return info
}

func remote(path string) bool {
	var s unix.Statfs_t
	return unix.Statfs(path, &s) == nil && s.Flags&unix.MNT_LOCAL == 0
}
