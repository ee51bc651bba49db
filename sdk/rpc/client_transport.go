package rpc

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/rpc/rpcpb"
)

const (
	closeWait = time.Second     // for a listener's address to be free again
	linger    = 5 * time.Second // for the bytes of a closed connection to reach the peer
)

// transportClient is the transport of a plugin process, seen from the host.
type transportClient struct {
	client *Client
	name   string
}

// Name implements sdk.Transport.
func (t *transportClient) Name() string { return t.name }

// Configure implements sdk.Configurable.
func (t *transportClient) Configure(ctx context.Context, config json.RawMessage) error {
	return t.client.configure(ctx, "", config)
}

// Listen implements sdk.Transport. A socket can not cross to a running process: listener must be nil, or one whose
// socket the process inherited at its start. With nil, an inherited socket that was announced as address is used, unless
// the transport has no use for sockets: then it listens at address by itself.
func (t *transportClient) Listen(ctx context.Context, address string, listener net.Listener) (sdk.Listener, error) {
	index := slices.IndexFunc(t.client.sockets, func(s Socket) bool {
		if listener != nil {
			return s.Listener.Addr().String() == listener.Addr().String()
		}
		return s.Address == address
	})
	if listener != nil && index < 0 {
		return nil, sdk.Errorf(sdk.CodeUnsupported, "listen on %s: the plugin process did not inherit that socket when it started", listener.Addr())
	}
	req := &rpcpb.ListenRequest{Address: text(address)}
	if index < 0 {
		return t.listen(ctx, req)
	}
	req.Inherited, req.Index = true, uint32(index) //nolint:gosec // a handful of sockets
	l, err := t.listen(ctx, req)
	if listener == nil && sdk.CodeOf(err) == sdk.CodeUnsupported {
		return t.listen(ctx, &rpcpb.ListenRequest{Address: req.Address})
	}
	return l, err
}

func (t *transportClient) listen(ctx context.Context, req *rpcpb.ListenRequest) (sdk.Listener, error) {
	streamCtx, cancel := context.WithCancel(context.Background()) // until Close
	abort := context.AfterFunc(ctx, cancel)
	stream, err := t.client.transport.Listen(streamCtx)
	if err == nil {
		err = stream.Send(req)
	}
	var first *rpcpb.ListenEvent
	if err == nil || errors.Is(err, io.EOF) { // EOF: Recv says why
		first, err = stream.Recv()
	}
	if !abort() || err != nil {
		cancel()
		return nil, errors.Join(ctx.Err(), fromStatus(err))
	}
	l := &listenerClient{
		transport: t, stream: stream, cancel: cancel, address: first.Address,
		incoming: make(chan *rpcpb.ListenEvent), ended: make(chan struct{}),
	}
	l.accepting, l.stop = context.WithCancel(context.Background())
	go l.receive()
	return l, nil
}

// Dial implements sdk.Transport.
func (t *transportClient) Dial(ctx context.Context, address string) (sdk.Conn, error) {
	if address == "" {
		return nil, sdk.Errorf(sdk.CodeInvalid, "dial: the address is empty")
	}
	return t.carry(ctx, &rpcpb.Chunk_Open{Dial: text(address)})
}

// carry opens one connection.
func (t *transportClient) carry(ctx context.Context, open *rpcpb.Chunk_Open) (sdk.Conn, error) {
	streamCtx, cancel := context.WithCancel(context.Background()) // until Close
	abort := context.AfterFunc(ctx, cancel)
	stream, err := t.client.transport.Carry(streamCtx)
	if err == nil {
		err = stream.Send(&rpcpb.Chunk{Open: open})
	}
	var first *rpcpb.Chunk
	if err == nil || errors.Is(err, io.EOF) { // EOF: Recv says why
		first, err = stream.Recv()
	}
	if !abort() || err != nil {
		cancel()
		return nil, errors.Join(ctx.Err(), fromStatus(err))
	}
	c := &connClient{
		stream: stream, cancel: cancel, remote: first.GetOpened().GetRemote(), sending: newTurn(),
		chunks: make(chan []byte), closed: make(chan struct{}),
	}
	go c.receive()
	return c, nil
}

// listenerClient is a listener of a plugin process, seen from the host.
type listenerClient struct {
	transport *transportClient
	stream    grpc.BidiStreamingClient[rpcpb.ListenRequest, rpcpb.ListenEvent]
	cancel    context.CancelFunc
	address   string
	incoming  chan *rpcpb.ListenEvent
	accepting context.Context //nolint:containedctx // until Close: ends an Accept under way
	stop      context.CancelFunc
	closing   sync.Once
	ended     chan struct{} // the stream has ended; then err says why
	err       error
}

func (l *listenerClient) receive() {
	defer l.cancel()
	defer close(l.ended)
	for {
		event, err := l.stream.Recv()
		if err != nil {
			if errors.Is(err, io.EOF) { // the plugin drains
				err = net.ErrClosed
			}
			l.err = sdk.Errorf(sdk.CodeUnavailable, "listener on %s: %w", l.address, fromStatus(err))
			return
		}
		select {
		case l.incoming <- event:
		case <-l.accepting.Done(): // the plugin closes what nobody takes
		}
	}
}

// Accept implements sdk.Listener.
func (l *listenerClient) Accept() (sdk.Conn, error) {
	for {
		select {
		case <-l.accepting.Done():
			return nil, net.ErrClosed
		case <-l.ended:
			select {
			case <-l.accepting.Done():
				return nil, net.ErrClosed
			default:
				return nil, l.err
			}
		case event := <-l.incoming:
			conn, err := l.transport.carry(l.accepting, &rpcpb.Chunk_Open{Accepted: event.Id})
			if err == nil {
				return conn, nil
			} // it went while it waited: take the next
		}
	}
}

// Address implements sdk.Listener.
func (l *listenerClient) Address() string { return l.address }

// Shutdown stops taking connections, and returns at once. Accept returns those that were taken already, then an error.
func (l *listenerClient) Shutdown() { _ = l.stream.CloseSend() } // a broken stream is closed too

// Close implements io.Closer. It returns when the address is free, or a second later if the plugin does not answer.
func (l *listenerClient) Close() error {
	l.closing.Do(func() {
		l.stop()
		_ = l.stream.CloseSend() // a broken stream is closed too
		giveUp := time.AfterFunc(closeWait, l.cancel)
		defer giveUp.Stop()
		<-l.ended
	})
	return nil
}

// connClient is a connection of a plugin process, seen from the host.
type connClient struct {
	stream  grpc.BidiStreamingClient[rpcpb.Chunk, rpcpb.Chunk]
	cancel  context.CancelFunc
	remote  string
	sending turn          // held by Write while it sends
	chunks  chan []byte   // unbuffered: what nobody reads stays in the stream, whose window holds the peer back
	closed  chan struct{} // by Close
	once    sync.Once
	rest    []byte // of the last chunk; Read's
	err     error  // why chunks was closed
}

func (c *connClient) receive() {
	defer c.cancel()
	defer close(c.chunks)
	for {
		chunk, err := c.stream.Recv()
		if err != nil {
			c.err = err
			if !errors.Is(err, io.EOF) {
				c.err = fromStatus(err)
			}
			return
		}
		select {
		case c.chunks <- chunk.Data:
		case <-c.closed: // receive on, so that what was written before Close can reach the peer
		}
	}
}

// Read implements io.Reader.
func (c *connClient) Read(p []byte) (int, error) {
	for len(c.rest) == 0 {
		if len(p) == 0 {
			return 0, nil
		}
		select {
		case <-c.closed:
			return 0, net.ErrClosed
		case chunk, ok := <-c.chunks:
			if !ok {
				return 0, c.ended()
			}
			c.rest = chunk
		}
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

func (c *connClient) ended() error {
	select {
	case <-c.closed:
		return net.ErrClosed
	default:
		return c.err
	}
}

// Write implements io.Writer.
func (c *connClient) Write(p []byte) (written int, err error) {
	for written < len(p) {
		select {
		case <-c.closed:
			return written, net.ErrClosed
		case c.sending <- struct{}{}:
		}
		n := min(chunkBytes, len(p)-written)
		err := c.send(p[written : written+n])
		<-c.sending
		if err != nil {
			return written, err
		}
		written += n
	}
	return written, nil
}

// send sends one chunk. The caller holds c.sending; Close closes c.closed before it takes its turn.
func (c *connClient) send(p []byte) error {
	select {
	case <-c.closed:
		return net.ErrClosed
	default:
	}
	err := c.stream.Send(&rpcpb.Chunk{Data: p})
	if err == nil {
		return nil
	}
	select {
	case <-c.closed:
		return net.ErrClosed
	default:
		return sdk.Errorf(sdk.CodeUnavailable, "write to %s: the connection is gone: %w", c.remote, io.ErrClosedPipe)
	}
}

// RemoteAddress implements sdk.Conn.
func (c *connClient) RemoteAddress() string { return c.remote }

// Close implements io.Closer. Bytes written before still go to the peer, in the background, unless a Write is under
// way: then the connection is cut.
func (c *connClient) Close() error {
	c.once.Do(func() {
		close(c.closed)
		select {
		case c.sending <- struct{}{}:
			_ = c.stream.CloseSend() // a broken stream is closed too
			time.AfterFunc(linger, c.cancel)
			<-c.sending
		default:
			c.cancel()
		}
	})
	return nil
}
