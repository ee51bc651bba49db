package disk

import (
	"io/fs"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/windows"
)

const dontBlock = 0 // no pipe lies in a folder here

// native leaves inode and device at 0: asking for them opens every file. Names are the identity here.
func native(f fs.FileInfo) Info {
	info := portable(f)
	if s, ok := f.Sys().(*syscall.Win32FileAttributeData); ok {
		info.Created = stampTime(time.Unix(0, s.CreationTime.Nanoseconds()))
	}
	return info
}

func remote(path string) bool {
	root, err := windows.UTF16PtrFromString(filepath.VolumeName(path) + `\`)
	return err == nil && windows.GetDriveType(root) == windows.DRIVE_REMOTE
}
