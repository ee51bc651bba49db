package peersync

import (
	"net"
	"sync"
	"time"

	"github.com/starling-sync/starling/sdk"
)

// netConn lets TLS run over a transport's connection. It has no deadlines of its own: who waits closes it.
type netConn struct {
	sdk.Conn

	mu     sync.Mutex
	corked bool
	held   []byte // written while corked
}

func newNetConn(conn sdk.Conn) *netConn { return &netConn{Conn: conn} }

// Write passes b on, or holds it while corked.
func (c *netConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.corked && len(c.held)+len(b) <= 2*flushBytes {
		c.held = append(c.held, b...)
		return len(b), nil
	}
	if err := c.release(); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}

// cork gathers the records that TLS cuts a flush into, so that the transport carries them as one.
func (c *netConn) cork() {
	c.mu.Lock()
	c.corked = true
	c.mu.Unlock()
}

// uncork writes what was held.
func (c *netConn) uncork() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.corked = false
	return c.release()
}

// release writes what is held. The lock is held across the write: writes keep their order, and only Close, which does
// not take it, ends a write that blocks.
func (c *netConn) release() error {
	if len(c.held) == 0 {
		return nil
	}
	_, err := c.Conn.Write(c.held)
	c.held = c.held[:0]
	return err
}

// address is a transport's address as net knows them.
type address string

func (a address) Network() string { return "starling" }
func (a address) String() string  { return string(a) }

// LocalAddr returns a placeholder: transports do not say.
func (c *netConn) LocalAddr() net.Addr { return address("local") }

// RemoteAddr names the other end for people.
func (c *netConn) RemoteAddr() net.Addr { return address(c.RemoteAddress()) }

// SetDeadline does nothing: who waits closes the connection.
func (c *netConn) SetDeadline(time.Time) error { return nil }

// SetReadDeadline does nothing, as SetDeadline.
func (c *netConn) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline does nothing, as SetDeadline.
func (c *netConn) SetWriteDeadline(time.Time) error { return nil }
