//go:build !linux && !darwin && !windows

package disk

import (
	"io/fs"
	"syscall"
)

// dontBlock keeps the opening of a pipe from waiting for who writes to it.
const dontBlock = syscall.O_NONBLOCK

func native(f fs.FileInfo) Info { return portable(f) }

func remote(string) bool { return false }
