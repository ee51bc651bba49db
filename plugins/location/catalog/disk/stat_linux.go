package disk

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const wanted = unix.STATX_BASIC_STATS | unix.STATX_BTIME

func stat(path string) (Info, error) {
	return statx(unix.AT_FDCWD, path, 0, func() (fs.FileInfo, error) { return os.Lstat(path) })
}

// Stat implements Dir.
func (d *dir) Stat(name string) (Info, error) {
	return statx(int(d.file.Fd()), name, 0, func() (fs.FileInfo, error) { return d.root.Lstat(name) }) //nolint:gosec // a descriptor
}

// Stat implements Reader.
func (f file) Stat() (Info, error) {
	return statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, f.File.Stat) //nolint:gosec // a descriptor
}

// dontBlock keeps the opening of a pipe from waiting for who writes to it.
const dontBlock = unix.O_NONBLOCK

// statx tells the time of creation that lstat, which stands in for it where there is none, does not.
func statx(at int, path string, flags int, lstat func() (fs.FileInfo, error)) (Info, error) {
	var s unix.Statx_t
	var err error
	for {
		if err = unix.Statx(at, path, unix.AT_SYMLINK_NOFOLLOW|flags, wanted, &s); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) { // an old kernel, or a filter of system calls
		f, err := lstat()
		if err != nil {
			return Info{}, err
		}
		return withInode(f), nil
	}
	if err != nil {
		return Info{}, &fs.PathError{Op: "statx", Path: path, Err: err}
	}
	info := Info{
		Kind:        kindOf(uint32(s.Mode)),
		Modified:    stampTime(time.Unix(s.Mtime.Sec, int64(s.Mtime.Nsec))),
		Permissions: int64(s.Mode & 0o7777),
		Inode:       int64(s.Ino),                                //nolint:gosec // compared, never computed with
		Device:      int64(unix.Mkdev(s.Dev_major, s.Dev_minor)), //nolint:gosec // compared, never computed with
	}
	if s.Mask&unix.STATX_BTIME != 0 && (s.Btime.Sec != 0 || s.Btime.Nsec != 0) {
		info.Created = stampTime(time.Unix(s.Btime.Sec, int64(s.Btime.Nsec)))
	}
	if info.Kind == File || info.Kind == Symlink {
		info.Size = int64(s.Size) //nolint:gosec // no file is larger
	}
	return info, nil
}

// withInode says what lstat tells here: all but the time of creation.
func withInode(f fs.FileInfo) Info {
	info := portable(f)
	if s, ok := f.Sys().(*syscall.Stat_t); ok {
		info.Inode, info.Device = int64(s.Ino), int64(s.Dev) //nolint:gosec,unconvert // compared; other widths elsewhere
	}
	return info
}

func kindOf(mode uint32) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		return File
	case unix.S_IFDIR:
		return Directory
	case unix.S_IFLNK:
		return Symlink
	}
	return Other
}

// The magic numbers of statfs(2) for file systems that others change out of this kernel's sight.
const (
	nfsMagic  = 0x6969
	smbMagic  = 0x517b
	cifsMagic = 0xff534d42
	smb2Magic = 0xfe534d42
	fuseMagic = 0x65735546
	v9fsMagic = 0x01021997
	afsMagic  = 0x5346414f
	cephMagic = 0x00c36400
)

func remote(path string) bool {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return false
	}
	switch uint32(s.Type) { //nolint:gosec // the type is 32 bits wide
	case nfsMagic, smbMagic, cifsMagic, smb2Magic, fuseMagic, v9fsMagic, afsMagic, cephMagic:
		return true
	}
	return false
}
