package disk

import (
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/windows"
)

const noFollow = 0 // a folder that is a link is of kind symlink and is never opened

// stat leaves inode and device at 0: asking for them opens every file. Names are the identity here.
func stat(path string) (Info, error) {
	info, f, err := portableStat(path)
	if err != nil {
		return info, err
	}
	if s, ok := f.Sys().(*syscall.Win32FileAttributeData); ok {
		info.Created = stampTime(time.Unix(0, s.CreationTime.Nanoseconds()))
	}
	return info, nil
}

func remote(path string) bool {
	root, err := windows.UTF16PtrFromString(filepath.VolumeName(path) + `\`)
	return err == nil && windows.GetDriveType(root) == windows.DRIVE_REMOTE
}
