//go:build !windows

package main

import "syscall"

// What the system says of a socket.
const (
	errnoRefused = syscall.ECONNREFUSED
	errnoReset   = syscall.ECONNRESET
	errnoInUse   = syscall.EADDRINUSE
)
