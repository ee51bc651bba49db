// Package disk is what the file system says of a folder: the names in it, and what each name is.
//
// It promises that no link, wherever it is in a path below a location, leads out of the location, and leaves to others
// what to make of the answers.
// Tests put another Files in its place, for what a real file system will not do on demand.
package disk

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
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
	// Open opens the directory at below, a path from the directory root; "." is root itself. Where a link leads out of
	// root, or below is no directory, the error is one that is Gone. A link that stays within root may be followed: a
	// caller that must know compares what Stat(".") says.
	Open(root, below string) (Dir, error)
	// Stat says what path is. A link at its end is not followed.
	Stat(path string) (Info, error)
	// Remote reports whether path lies on a file system whose changes by others this system is not told of.
	Remote(path string) bool
}

// Dir is an open directory: it stays the same one, whatever takes its path meanwhile. It is for one goroutine, which
// closes it.
type Dir interface {
	// Names returns the names in the directory, sorted, as the system spells them. It is called once.
	Names() ([]string, error)
	// Stat says what name, one of Names or "." for the directory itself, is. A link is not followed.
	Stat(name string) (Info, error)
	// Open opens the file name, one of Names, for reading. It blocks on no pipe. A link may be followed, within the root
	// of the directory: a caller that must know compares what the Reader's Stat says.
	Open(name string) (Reader, error)
	Close()
}

// Reader is an open file. It is for one goroutine, which closes it.
type Reader interface {
	io.ReaderAt
	// Stat says what the file is now, whatever has its name.
	Stat() (Info, error)
	io.Closer
}

// System is the Files of the operating system.
type System struct{}

// Open implements Files.
func (System) Open(root, below string) (Dir, error) {
	top, err := os.OpenRoot(filepath.Join(root) + string(filepath.Separator) + ".") // it blocks on no pipe
	if err != nil {
		return nil, err
	}
	defer top.Close() //nolint:errcheck // nothing was written
	at, err := top.OpenRoot(below + string(filepath.Separator) + ".")
	if err != nil {
		if _, system := errors.AsType[syscall.Errno](err); !system { // it would leave root
			return nil, &fs.PathError{Op: "open", Path: filepath.Join(root, below), Err: syscall.ELOOP}
		}
		return nil, err
	}
	file, err := at.Open(".")
	if err != nil {
		at.Close() //nolint:errcheck // nothing was written
		return nil, err
	}
	return &dir{root: at, file: file}, nil
}

// Stat implements Files.
func (System) Stat(path string) (Info, error) { return stat(path) }

// Remote implements Files.
func (System) Remote(path string) bool { return remote(path) }

// dir is the Dir of the operating system: one directory, opened for its names and for what lies in it.
type dir struct {
	root *os.Root
	file *os.File
}

// Names implements Dir.
func (d *dir) Names() ([]string, error) {
	names, err := d.file.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	return names, nil
}

// Open implements Dir.
func (d *dir) Open(name string) (Reader, error) {
	f, err := d.root.OpenFile(name, os.O_RDONLY|dontBlock, 0)
	if err != nil {
		return nil, err
	}
	return file{f}, nil
}

// file is the Reader of the operating system.
type file struct{ *os.File }

// Close implements Dir.
func (d *dir) Close() {
	d.file.Close()
	d.root.Close() //nolint:errcheck // nothing was written
}

// Gone reports whether err says that the path is not there any more, or is not a directory any more.
func Gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) || errors.Is(err, syscall.ELOOP)
}

// portable says what every system says of f.
func portable(f fs.FileInfo) Info {
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
	return info
}

// stampTime cuts t to what the database keeps.
func stampTime(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }
