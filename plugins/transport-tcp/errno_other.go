//go:build !windows

package main

import "syscall"

// What the system says of a socket.
const (
	errnoRefused = syscall.ECONNREFUSED
	errnoReset   = syscall.ECONNRESET
	errnoInUse   = syscall.EADDRINUSE
)

// passingErrnos are what the system says of an accept that is about one connection or one moment.
func passingErrnos() []syscall.Errno {
	return []syscall.Errno{
		syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, // short of descriptors or memory
		syscall.ECONNABORTED, syscall.ECONNRESET, syscall.EPROTO, syscall.EINTR, // the peer went while it waited
		syscall.ENETDOWN, syscall.ENETUNREACH, syscall.EHOSTDOWN, syscall.EHOSTUNREACH, // Linux hands over the connection's own
	}
}
