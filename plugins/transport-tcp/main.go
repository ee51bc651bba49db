// Command transport-tcp is the TCP transport: it carries a connection's bytes over one TCP connection, and nothing else.
package main

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/rpc"
)

const (
	dialTimeout = 10 * time.Second

	minAcceptPause = 5 * time.Millisecond // after an accept that may work later
	maxAcceptPause = time.Second
)

func main() {
	set := new(sdk.Metrics)
	rpc.Serve(transport{newMetrics(set)}, set)
}

// transport implements sdk.Transport over TCP. Addresses are host:port. Its zero value counts nothing.
type transport struct{ metrics metrics }

// Name implements sdk.Transport.
func (transport) Name() string { return "tcp" }

// Listen implements sdk.Transport.
func (t transport) Listen(ctx context.Context, address string, inherited net.Listener) (sdk.Listener, error) {
	if inherited != nil {
		return newListener(inherited, t.metrics), nil
	}
	config := net.ListenConfig{KeepAliveConfig: keepAlive()}
	l, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, explain("listen on", address, err)
	}
	return newListener(l, t.metrics), nil
}

// Dial implements sdk.Transport.
func (t transport) Dial(ctx context.Context, address string) (sdk.Conn, error) {
	dialer := net.Dialer{Timeout: dialTimeout, KeepAliveConfig: keepAlive()}
	c, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		t.metrics.failed(ctx, err)
		return nil, explain("dial", address, err)
	}
	t.metrics.dials.Inc()
	return t.metrics.opened(c), nil
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
	case errors.Is(err, errnoInUse):
		return sdk.Errorf(sdk.CodeUnavailable, "%s %s: another program uses that port; choose another or stop it: %w", what, address, err)
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		err = op.Err // who asked names the address
	}
	return sdk.Errorf(sdk.CodeUnavailable, "%s: %w", what, err)
}

// listener accepts until it is closed, also where a single accept fails.
type listener struct {
	net.Listener
	metrics metrics
	closing sync.Once
	closed  chan struct{} // ends an Accept that pauses
}

func newListener(l net.Listener, m metrics) *listener {
	return &listener{Listener: l, metrics: m, closed: make(chan struct{})}
}

// Accept implements sdk.Listener. While the process has no descriptors left, say, it tries again, ever more slowly.
func (l *listener) Accept() (sdk.Conn, error) {
	c, err := l.Listener.Accept()
	for pause := minAcceptPause; passing(err); pause = min(2*pause, maxAcceptPause) {
		l.metrics.acceptFailures.Inc()
		if pause == minAcceptPause {
			hclog.Default().Warn("cannot accept a connection now; trying again", "address", l.Address(), "error", err)
		}
		select {
		case <-time.After(pause):
		case <-l.closed:
			return nil, net.ErrClosed
		}
		c, err = l.Listener.Accept()
	}
	if err != nil {
		return nil, err
	}
	if tcp, ok := c.(*net.TCPConn); ok { // an inherited socket has no ListenConfig
		_ = tcp.SetKeepAliveConfig(keepAlive()) // a connection without keepalive still works
	}
	l.metrics.accepts.Inc()
	return l.metrics.opened(c), nil
}

// passing reports whether an error of accept is about one connection or one moment, not about the socket.
func passing(err error) bool {
	return slices.ContainsFunc(passingErrnos(), func(each syscall.Errno) bool { return errors.Is(err, each) })
}

// Close implements io.Closer.
func (l *listener) Close() error {
	l.closing.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// Address implements sdk.Listener.
func (l *listener) Address() string { return l.Addr().String() }

// conn is a TCP connection. TCP_NODELAY is on: the host writes whole frames.
type conn struct {
	net.Conn
	metrics metrics
	closing sync.Once
}

// RemoteAddress implements sdk.Conn.
func (c *conn) RemoteAddress() string { return c.Conn.RemoteAddr().String() }

// Read implements io.Reader.
func (c *conn) Read(into []byte) (int, error) {
	n, err := c.Conn.Read(into)
	c.metrics.received.Add(float64(n))
	return n, err
}

// Write implements io.Writer.
func (c *conn) Write(from []byte) (int, error) {
	n, err := c.Conn.Write(from)
	c.metrics.sent.Add(float64(n))
	return n, err
}

// Close implements io.Closer.
func (c *conn) Close() error {
	c.closing.Do(func() { c.metrics.open.Add(-1) })
	return c.Conn.Close()
}
