package disk

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const noFollow = unix.O_NOFOLLOW | unix.O_DIRECTORY

func stat(path string) (Info, error) {
	info, f, err := portableStat(path)
	if err != nil {
		return info, err
	}
	if s, ok := f.Sys().(*syscall.Stat_t); ok {
		info.Inode = int64(s.Ino)  //nolint:gosec // compared, never computed with
		info.Device = int64(s.Dev) // compared, never computed with
		info.Created = stampTime(time.Unix(s.Birthtimespec.Sec, s.Birthtimespec.Nsec))
	}
	return info, nil
}

func remote(path string) bool {
	var s unix.Statfs_t
	return unix.Statfs(path, &s) == nil && s.Flags&unix.MNT_LOCAL == 0
}
