// Package service is this host's side of a service manager such as systemd: the listening sockets that it hands to the
// process, and what the process tells it.
//
// It promises that a socket is used for the address that it listens at and for no other, that it stays open as long as
// the process lives, and that the manager's watchdog is fed only while the host says that it is alive. Without a service
// manager it does nothing, and opens sockets itself. It leaves to others when the host is ready.
package service

import (
	"context"
	"net"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/coreos/go-systemd/v22/activation"

	"github.com/starling-sync/starling/sdk"
)

// Sockets are the listening TCP sockets that the service manager has opened. Its methods may be called at once.
type Sockets struct {
	mu   sync.Mutex
	kept []*socket
}

type socket struct {
	file *os.File
	at   *net.TCPAddr
	used bool
}

// Inherit takes the sockets that were handed to this process (LISTEN_FDS), and takes them out of its environment; call it
// once. A descriptor that is no listening TCP socket is an error. Where there is no manager, there are no sockets.
func Inherit() (*Sockets, error) {
	return inherit(activation.Files(true))
}

func inherit(files []*os.File) (*Sockets, error) {
	s := &Sockets{}
	for _, file := range files {
		listener, err := net.FileListener(file)
		if err != nil {
			return nil, sdk.Errorf(sdk.CodeInvalid, "the service manager handed over %s, which is no listening socket: %w", file.Name(), err)
		}
		if on, err := listens(file); err != nil || !on {
			_ = listener.Close()
			return nil, sdk.Errorf(sdk.CodeInvalid, "the service manager handed over %s, a socket that takes no connections; is it Accept=yes in the .socket unit? It has to be Accept=no", file.Name())
		}
		at, ok := listener.Addr().(*net.TCPAddr)
		_ = listener.Close() // the file stays
		if !ok {
			return nil, sdk.Errorf(sdk.CodeInvalid, "the service manager handed over a socket that is no TCP socket (%s); write ListenStream = host:port", listener.Addr())
		}
		s.kept = append(s.kept, &socket{file: file, at: at})
	}
	return s, nil
}

// Listen returns a listener at address (host:port): one on the socket that the service manager has opened there, as often as
// it is asked for, or else one of its own. Closing it leaves the manager's socket open: who connects meanwhile waits in its
// queue.
func (s *Sockets) Listen(ctx context.Context, address string) (*net.TCPListener, error) {
	if found := s.find(ctx, address); found != nil {
		listener, err := net.FileListener(found.file)
		if err != nil {
			return nil, err
		}
		return listener.(*net.TCPListener), nil //nolint:forcetypeassert // inherit has looked
	}
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return listener.(*net.TCPListener), nil //nolint:forcetypeassert // "tcp"
}

func (s *Sockets) find(ctx context.Context, address string) *socket {
	if s == nil || len(s.kept) == 0 {
		return nil
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil
	}
	number, err := net.DefaultResolver.LookupPort(ctx, "tcp", port)
	if err != nil {
		return nil
	}
	ips := []net.IP{net.IPv4zero}
	if host != "" {
		if ips, err = net.DefaultResolver.LookupIP(ctx, "ip", host); err != nil {
			return nil
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.kept {
		same := func(ip net.IP) bool { return ip.Equal(k.at.IP) || ip.IsUnspecified() && k.at.IP.IsUnspecified() }
		if k.at.Port == number && slices.ContainsFunc(ips, same) {
			k.used = true
			return k
		}
	}
	return nil
}

// Unused returns where sockets listen that nobody has asked for.
func (s *Sockets) Unused() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []string
	for _, k := range s.kept {
		if !k.used {
			list = append(list, k.at.String())
		}
	}
	return strings.Join(list, ", ")
}
