package peersync

import (
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/starling-sync/starling/sdk"
)

// netConn lets TLS run over a transport's connection. It has no deadlines of its own: who waits closes it.
type netConn struct {
	sdk.Conn
	arrived atomic.Int64 // bytes read: a slow peer gives signs of life before its frame is whole

	mu     sync.Mutex
	corked bool
	held   []byte // written while corked
	left   func() // told of each piece that has left, while corked and until the end of uncork; or nil
}

// pieceBytes is how much of a flush is written at once: progress counts in pieces.
const pieceBytes = 128 << 10

func newNetConn(conn sdk.Conn) *netConn { return &netConn{Conn: conn} }

// Read counts what arrives.
func (c *netConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.arrived.Add(int64(n))
	return n, err
}

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

// cork gathers the records that TLS cuts a flush into, so that the transport carries them as few. left is told, under
// the lock, whenever a piece of them has left.
func (c *netConn) cork(left func()) {
	c.mu.Lock()
	c.corked, c.left = true, left
	c.mu.Unlock()
}

// uncork writes what was held.
func (c *netConn) uncork() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.release()
	c.corked, c.left = false, nil
	return err
}

// release writes what is held. The lock is held across the write: writes keep their order, and only Close, which does
// not take it, ends a write that blocks.
func (c *netConn) release() error {
	var err error
	for rest := c.held; len(rest) > 0 && err == nil; {
		piece := rest[:min(len(rest), pieceBytes)]
		rest = rest[len(piece):]
		if _, err = c.Conn.Write(piece); err == nil && c.left != nil {
			c.left()
		}
	}
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
