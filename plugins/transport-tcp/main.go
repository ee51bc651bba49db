// Command transport-tcp is the TCP transport: it carries a connection's bytes over one TCP connection, and nothing else.
package main

import (
	"context"
	"errors"
	"net"
	"syscall"
	"time"

	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/rpc"
)

const dialTimeout = 10 * time.Second

func main() { rpc.Serve(transport{}) }

// transport implements sdk.Transport over TCP. Addresses are host:port.
type transport struct{}

// Name implements sdk.Transport.
func (transport) Name() string { return "tcp" }

// Listen implements sdk.Transport.
func (transport) Listen(ctx context.Context, address string, inherited net.Listener) (sdk.Listener, error) {
	if inherited != nil {
		return listener{inherited}, nil
	}
	config := net.ListenConfig{KeepAliveConfig: keepAlive()}
	l, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, explain("listen on", address, err)
	}
	return listener{l}, nil
}

// Dial implements sdk.Transport.
func (transport) Dial(ctx context.Context, address string) (sdk.Conn, error) {
	dialer := net.Dialer{Timeout: dialTimeout, KeepAliveConfig: keepAlive()}
	c, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, explain("dial", address, err)
	}
	return conn{c}, nil
}

// keepAlive finds a dead peer in a minute even where nothing is sent.
func keepAlive() net.KeepAliveConfig {
	return net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 10 * time.Second, Count: 3}
}

// explain gives a failure of the network its code and says what to do where that is known.
func explain(what, address string, err error) error {
	var bad *net.AddrError
	switch {
	case errors.As(err, &bad):
		return sdk.Errorf(sdk.CodeInvalid, "%s %q: want host:port, such as 0.0.0.0:7420: %w", what, address, err)
	case errors.Is(err, syscall.EADDRINUSE):
		return sdk.Errorf(sdk.CodeUnavailable, "%s %s: another program uses that port; choose another or stop it: %w", what, address, err)
	}
	return sdk.Errorf(sdk.CodeUnavailable, "%s %s: %w", what, address, err)
}

type listener struct{ net.Listener }

// Accept implements sdk.Listener.
func (l listener) Accept() (sdk.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if tcp, ok := c.(*net.TCPConn); ok { // an inherited socket has no ListenConfig
		_ = tcp.SetKeepAliveConfig(keepAlive()) // a connection without keepalive still works
	}
	return conn{c}, nil
}

// Address implements sdk.Listener.
func (l listener) Address() string { return l.Addr().String() }

// conn is a TCP connection. TCP_NODELAY is on: the host writes whole frames.
type conn struct{ net.Conn }

// RemoteAddress implements sdk.Conn.
func (c conn) RemoteAddress() string { return c.Conn.RemoteAddr().String() }
