package database

import "golang.org/x/sys/windows"

// What the system says of a socket. The names of package syscall are numbers of Go's own here, which no socket returns.
const (
	errnoRefused         = windows.WSAECONNREFUSED
	errnoReset           = windows.WSAECONNRESET
	errnoHostUnreachable = windows.WSAEHOSTUNREACH
	errnoNetUnreachable  = windows.WSAENETUNREACH
)
