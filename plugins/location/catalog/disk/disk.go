// Package disk is what the file system says of a folder: the names in it, and what each name is.
//
// It promises never to follow a link in the last part of a path, and leaves to others what to make of the answers.
// Tests put another Files in its place, for what a real file system will not do on demand.
package disk

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"syscall"
	"time"
)

// The kinds of what a name stands for.
const (
	File      = "file"
	Directory = "directory"
	Symlink   = "symlink"
	Other     = "other" // a socket, pipe or device
)

// Info is what the file system says of one name. Times are in UTC and cut to microseconds.
type Info struct {
	Kind        string
	Size        int64 // bytes; 0 but for files and symlinks, since a directory's size says nothing to people
	Modified    time.Time
	Created     time.Time // zero where the system does not tell
	Permissions int64     // Unix mode bits, at most 07777
	Inode       int64     // 0 where the system has none
	Device      int64     // number of the file system; 0 where the system has none
}

// SameFile reports whether a and b are one file, whatever its name. It is false where the system has no inodes.
// An inode is used again after a delete, so a different time of creation means a different file.
func (a Info) SameFile(b Info) bool {
	return a.Inode != 0 && a.Inode == b.Inode && a.Device == b.Device && a.Kind == b.Kind &&
		(a.Created.IsZero() || b.Created.IsZero() || a.Created.Equal(b.Created))
}

// Files reads folders. Calls block on the disk and may run at once.
type Files interface {
	// Names returns the names in the directory at path, sorted, as the system spells them. A link at path is refused.
	Names(path string) ([]string, error)
	// Stat says what path is. A link is not followed.
	Stat(path string) (Info, error)
	// Remote reports whether path lies on a file system whose changes by others this system is not told of.
	Remote(path string) bool
}

// System is the Files of the operating system.
type System struct{}

// Names implements Files.
func (System) Names(path string) ([]string, error) {
	dir, err := os.OpenFile(path, os.O_RDONLY|noFollow, 0)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	return names, nil
}

// Stat implements Files.
func (System) Stat(path string) (Info, error) { return stat(path) }

// Remote implements Files.
func (System) Remote(path string) bool { return remote(path) }

// Gone reports whether err says that the path is not there any more, or is not a directory any more.
func Gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ELOOP)
}

// portableStat says what os.Lstat says on every system.
func portableStat(path string) (Info, fs.FileInfo, error) {
	f, err := os.Lstat(path)
	if err != nil {
		return Info{}, nil, err
	}
	mode := f.Mode()
	info := Info{Modified: stampTime(f.ModTime()), Permissions: int64(mode.Perm())}
	for bit, unix := range map[fs.FileMode]int64{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000} {
		if mode&bit != 0 {
			info.Permissions |= unix
		}
	}
	switch {
	case mode.IsRegular():
		info.Kind, info.Size = File, f.Size()
	case mode.IsDir():
		info.Kind = Directory
	case mode&fs.ModeSymlink != 0:
		info.Kind, info.Size = Symlink, f.Size()
	default:
		info.Kind = Other
	}
	return info, f, nil
}

// stampTime cuts t to what the database keeps.
func stampTime(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }
