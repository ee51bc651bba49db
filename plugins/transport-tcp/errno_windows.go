package main

import (
	"syscall"

	"golang.org/x/sys/windows"
)

// What the system says of a socket. The names of package syscall are numbers of Go's own here, which no socket returns.
const (
	errnoRefused = windows.WSAECONNREFUSED
	errnoReset   = windows.WSAECONNRESET
	errnoInUse   = windows.WSAEADDRINUSE
)

// passingErrnos are what the system says of an accept that is about one connection or one moment. Those without WSA come from AcceptEx,
// which makes the socket of the connection and fills it as a file.
func passingErrnos() []syscall.Errno {
	return []syscall.Errno{
		windows.WSAEMFILE, windows.WSAENOBUFS, // short of sockets or memory
		windows.ERROR_TOO_MANY_OPEN_FILES, windows.ERROR_NOT_ENOUGH_MEMORY, windows.ERROR_NO_SYSTEM_RESOURCES,
		windows.WSAECONNABORTED, windows.WSAECONNRESET, windows.ERROR_NETNAME_DELETED, windows.WSAEINTR, // the peer went while it waited
		windows.WSAENETDOWN, windows.WSAENETUNREACH, windows.WSAEHOSTDOWN, windows.WSAEHOSTUNREACH,
	}
}
