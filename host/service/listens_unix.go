//go:build unix

package service

import (
	"os"
	"syscall"
)

// listens reports whether file is a socket that listens: one of a connection (Accept=yes in the .socket unit), too, has an
// address and is taken for a listener by package net.
func listens(file *os.File) (bool, error) {
	raw, err := file.SyscallConn()
	if err != nil {
		return false, err
	}
	on := 0
	controlled := raw.Control(func(fd uintptr) {
		on, err = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_ACCEPTCONN) //nolint:gosec // a descriptor is an int
	})
	if controlled != nil {
		return false, controlled
	}
	return on != 0, err
}
