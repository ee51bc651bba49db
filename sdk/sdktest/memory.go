package sdktest

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"

	"github.com/starling-sync/starling/sdk"
)

// MemoryTransport is an sdk.Transport without a network: who shares one can reach one another. It keeps what every
// transport must keep, so a test over it says something about the others. Its methods may be called at once.
type MemoryTransport struct {
	mu        sync.Mutex
	listeners map[string]*memoryListener
	names     int // addresses given out
}

// NewMemoryTransport returns a transport on which nobody listens yet.
func NewMemoryTransport() *MemoryTransport {
	return &MemoryTransport{listeners: map[string]*memoryListener{}}
}

// Name implements sdk.Transport.
func (*MemoryTransport) Name() string { return "memory" }

// Listen implements sdk.Transport. An empty address, and one that ends with ":0", stands for a fresh one.
func (m *MemoryTransport) Listen(ctx context.Context, address string, listener net.Listener) (sdk.Listener, error) {
	if listener != nil {
		return nil, sdk.Errorf(sdk.CodeUnsupported, "the memory transport takes no socket; listen without one")
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if address == "" || strings.HasSuffix(address, ":0") {
		m.names++
		address = fmt.Sprintf("memory-%d", m.names)
	}
	if m.listeners[address] != nil {
		return nil, sdk.Errorf(sdk.CodeInvalid, "listen at %s: somebody listens there already", address)
	}
	l := &memoryListener{transport: m, address: address, waiting: make(chan *memoryConn), closed: make(chan struct{})}
	m.listeners[address] = l
	return l, nil
}

// Dial implements sdk.Transport. It blocks until the listener accepts.
func (m *MemoryTransport) Dial(ctx context.Context, address string) (sdk.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	l := m.listeners[address]
	m.names++
	from := fmt.Sprintf("memory-%d", m.names)
	m.mu.Unlock()
	if l == nil {
		return nil, sdk.Errorf(sdk.CodeUnavailable, "dial %s: nobody listens there", address)
	}
	there, back := newMemoryPipe(), newMemoryPipe()
	select {
	case l.waiting <- &memoryConn{in: there, out: back, remote: from}:
		return &memoryConn{in: back, out: there, remote: address}, nil
	case <-l.closed:
		return nil, sdk.Errorf(sdk.CodeUnavailable, "dial %s: the listener was closed", address)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

type memoryListener struct {
	transport *MemoryTransport
	address   string
	waiting   chan *memoryConn
	closed    chan struct{}
	once      sync.Once
}

func (l *memoryListener) Accept() (sdk.Conn, error) {
	select {
	case <-l.closed:
		return nil, net.ErrClosed
	default:
	}
	select {
	case conn := <-l.waiting:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *memoryListener) Address() string { return l.address }

func (l *memoryListener) Close() error {
	l.once.Do(func() {
		close(l.closed)
		l.transport.mu.Lock()
		defer l.transport.mu.Unlock()
		delete(l.transport.listeners, l.address)
	})
	return nil
}

type memoryConn struct {
	in, out *memoryPipe
	remote  string
}

func (c *memoryConn) Read(p []byte) (int, error)  { return c.in.read(p) }
func (c *memoryConn) Write(p []byte) (int, error) { return c.out.write(p) }
func (c *memoryConn) RemoteAddress() string       { return c.remote }

func (c *memoryConn) Close() error {
	c.out.finish()
	c.in.abandon()
	return nil
}

// memoryPipeBytes is what a pipe holds before its writer blocks.
const memoryPipeBytes = 64 << 10

// memoryPipe carries bytes in one direction.
type memoryPipe struct {
	mu        sync.Mutex
	changed   sync.Cond
	held      []byte // len(held) <= memoryPipeBytes
	finished  bool   // by the writer: what is held can still be read
	abandoned bool   // by the reader
}

func newMemoryPipe() *memoryPipe {
	p := &memoryPipe{}
	p.changed.L = &p.mu
	return p
}

func (p *memoryPipe) read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.held) == 0 && !p.finished && !p.abandoned && len(b) > 0 {
		p.changed.Wait()
	}
	switch {
	case p.abandoned:
		return 0, net.ErrClosed
	case len(b) == 0:
		return 0, nil
	case len(p.held) == 0:
		return 0, io.EOF
	}
	n := copy(b, p.held)
	p.held = append(p.held[:0], p.held[n:]...)
	p.changed.Broadcast()
	return n, nil
}

func (p *memoryPipe) write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	written := 0
	for {
		switch {
		case p.finished:
			return written, net.ErrClosed
		case p.abandoned:
			return written, io.ErrClosedPipe
		case len(b) == written:
			return written, nil
		}
		if n := min(len(b)-written, memoryPipeBytes-len(p.held)); n > 0 {
			p.held = append(p.held, b[written:written+n]...)
			written += n
			p.changed.Broadcast()
			continue
		}
		p.changed.Wait()
	}
}

// finish says that nothing more is written.
func (p *memoryPipe) finish() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.finished = true
	p.changed.Broadcast()
}

// abandon says that nothing more is read.
func (p *memoryPipe) abandon() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.abandoned, p.held = true, nil
	p.changed.Broadcast()
}
