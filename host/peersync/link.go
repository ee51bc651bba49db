package peersync

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/sdk"
)

const (
	flushBytes   = 256 << 10       // encoded bytes that leave at once
	urgentQueued = 16 << 10        // messages that may wait for a peer that does not read
	lingerTime   = 2 * time.Second // for the peer to read the last message before its connection is cut
)

// link is one connection with its reader and its writer.
type link struct {
	id      SessionID
	peer    sdk.DeviceID
	conn    *tls.Conn
	wire    *netConn
	carrier sdk.Transport // what carries it; nil: not known
	reader  *protocol.Reader
	codec   *protocol.Codec
	wake    chan struct{} // something to send, or ending; holds one
	gone    chan struct{} // closed once the connection is cut
	cutOnce sync.Once
	in, out atomic.Int64
	slow    atomic.Bool // it was cut since what was sent did not leave in time
	noted   int64       // of wire.arrived, told to the machine; of the loop

	mu     sync.Mutex
	urgent []protocol.Message // leave first, so that tags and acknowledgements do not wait behind a backfill
	bulk   []protocol.Message // pages of rows; bounded by the window, and pages of records by rangesAtOnce
	ending bool               // send what is urgent, then close
}

// send queues a message. It never blocks; a peer that reads nothing at all is cut.
func (l *link) send(msg protocol.Message) {
	l.mu.Lock()
	if isBulk(msg) {
		l.bulk = append(l.bulk, msg)
	} else {
		l.urgent = append(l.urgent, msg)
	}
	over := len(l.urgent) > urgentQueued
	l.mu.Unlock()
	if over {
		l.cut()
	}
	l.poke()
}

// isBulk reports whether a message leaves last: pages of rows, and of records.
func isBulk(msg protocol.Message) bool {
	if msg.Type() == protocol.TypeSnapshotPage {
		return true
	}
	d, ok := protocol.DeliveryOf(msg)
	return ok && d.Page.Kind == sdk.DeviceOwned
}

// end closes the connection after what is urgent has been sent.
func (l *link) end() {
	l.mu.Lock()
	l.ending = true
	l.mu.Unlock()
	l.poke()
}

// cut closes the connection now.
func (l *link) cut() {
	l.cutOnce.Do(func() {
		close(l.gone)
		_ = l.wire.Close()
	})
}

func (l *link) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// next returns the message that leaves next. Of the pages one is taken at a time, so that what is urgent overtakes.
func (l *link) next() (msg protocol.Message, ending bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case len(l.urgent) > 0:
		msg = l.urgent[0]
		l.urgent[0] = nil
		if l.urgent = l.urgent[1:]; len(l.urgent) == 0 {
			l.urgent = nil
		}
	case l.ending:
		return nil, true
	case len(l.bulk) > 0:
		msg = l.bulk[0]
		l.bulk[0] = nil
		if l.bulk = l.bulk[1:]; len(l.bulk) == 0 {
			l.bulk = nil
		}
	}
	return msg, false
}

// write sends until the connection is cut or the link ends.
func (l *link) write(limit time.Duration) error {
	w := protocol.NewWriter(l.conn, l.codec)
	flush := func() error {
		if w.Buffered() == 0 {
			return nil
		}
		watch := time.AfterFunc(limit, func() { l.slow.Store(true); l.cut() })
		defer watch.Stop()
		l.wire.cork(func() { watch.Reset(limit) })
		err := w.Flush()
		if uncorked := l.wire.uncork(); err == nil {
			err = uncorked
		}
		l.out.Store(w.Bytes())
		return err
	}
	for {
		msg, ending := l.next()
		if msg != nil {
			if err := w.Add(msg); err != nil {
				return fmt.Errorf("send %s: %w", msg.Type(), err)
			}
			if w.Buffered() >= flushBytes {
				if err := flush(); err != nil {
					return err
				}
			}
			continue
		}
		if err := flush(); err != nil {
			return err
		}
		if ending {
			return l.closeWrite(limit)
		}
		select {
		case <-l.wake:
		case <-l.gone:
			return nil
		}
	}
}

// closeWrite tells the peer that nothing follows and gives it a moment to read what was sent.
func (l *link) closeWrite(limit time.Duration) error {
	watch := time.AfterFunc(min(limit, lingerTime), l.cut)
	defer watch.Stop()
	if err := l.conn.CloseWrite(); err != nil {
		return err
	}
	<-l.gone // the reader cuts once the peer has closed its end
	return nil
}

// run reads and writes until the connection is over, and tells the machine of both ends. first is a message that was
// read already, or nil.
func (e *Engine) run(l *link, up PeerUp, first protocol.Message) {
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		l.cut()
		return
	}
	e.lastID++
	l.id, l.peer, up.Session = e.lastID, up.Peer, e.lastID
	e.links[l.id] = l
	e.mu.Unlock()
	e.post(up)
	if first != nil {
		e.post(Received{Session: l.id, Message: first})
	}
	var failed error
	written := make(chan struct{})
	go func() {
		defer close(written)
		if failed = l.write(e.options.Limits.SendTime); failed != nil {
			l.cut()
		}
	}()
	err := e.readAll(l)
	l.cut()
	<-written
	if failed != nil && sdk.CodeOf(failed) != sdk.CodeInternal {
		err = failed
	}
	if l.slow.Load() {
		e.countRefusal(protocol.Over("send_time"))
	}
	member := e.isMember(l.peer)
	e.mu.Lock()
	delete(e.links, l.id)
	if member { // anybody can make keys, and so connect as many a device
		e.noteEnded(l)
	}
	e.mu.Unlock()
	e.post(PeerDown{Session: l.id, Err: err})
}

func (e *Engine) readAll(l *link) error {
	for {
		msg, err := l.reader.Read()
		if err != nil {
			e.countRefusal(err)
			return plainEnd(err)
		}
		l.in.Store(l.reader.Bytes())
		e.post(Received{Session: l.id, Message: msg})
	}
}

// plainEnd makes the many ways in which connections end between two frames one: TLS calls an end without its own
// farewell unexpected, and wraps nothing.
func plainEnd(err error) error {
	if err == io.ErrUnexpectedEOF || //nolint:errorlint // the reader wraps the same error where a frame is cut short
		errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe) {
		return errEnded
	}
	return err
}

func (e *Engine) newLink(conn *tls.Conn, wire *netConn) *link {
	return &link{
		conn: conn, wire: wire, codec: e.codec, reader: protocol.NewReader(conn, e.codec), wake: make(chan struct{}, 1), gone: make(chan struct{}),
	}
}

// dial tries the addresses of a peer one after the other.
func (e *Engine) dial(a Dial) {
	failed := error(sdk.Errorf(sdk.CodeUnavailable, "no address is known"))
	for _, address := range a.Addresses {
		for _, t := range e.transportsFor(address.Transport) {
			done := e.carry(t.Transport)
			l, err := e.connect(t, a.Peer, address.Address)
			if err == nil {
				l.carrier = t.Transport
				e.run(l, PeerUp{Peer: a.Peer, Dialed: true, Via: t.label, Address: address.Address}, nil)
				done()
				return
			}
			done()
			failed = fmt.Errorf("%s %s: %w", address.Transport, address.Address, err)
			if e.ctx.Err() != nil {
				return
			}
		}
		if len(e.transportsFor(address.Transport)) == 0 {
			failed = sdk.Errorf(sdk.CodeUnavailable, "dial %s %s: no transport of that kind runs here", address.Transport, address.Address)
		}
	}
	e.post(DialFailed{Peer: a.Peer, Err: failed})
}

func (e *Engine) transportsFor(kind string) []transport {
	e.mu.Lock()
	defer e.mu.Unlock()
	var found []transport
	for _, t := range e.transports {
		if t.Name() == kind {
			found = append(found, t)
		}
	}
	return found
}

func (e *Engine) connect(t transport, peer sdk.DeviceID, address string) (*link, error) {
	ctx, cancel := context.WithTimeout(e.ctx, e.options.Config.DialTime)
	defer cancel()
	conn, err := t.Dial(ctx, address)
	if err != nil {
		return nil, err
	}
	wire := newNetConn(conn)
	secure := tls.Client(wire, e.options.Security.ClientTLS(peer))
	if err := secure.HandshakeContext(ctx); err != nil {
		_ = wire.Close()
		return nil, fmt.Errorf("handshake: %w", err)
	}
	return e.newLink(secure, wire), nil
}

// Pair presents an invitation on a fresh connection to the device that gave it, and returns its welcome. config is the
// ClientTLS that expects that device. It blocks until answered, refused or ctx ends, and for HandshakeTime at most; it
// closes conn.
func Pair(ctx context.Context, conn sdk.Conn, config *tls.Config, join protocol.Join) (protocol.Welcome, error) {
	return pair(ctx, conn, config, join, protocol.DefaultLimits())
}

func pair(ctx context.Context, conn sdk.Conn, config *tls.Config, join protocol.Join, limits protocol.Limits) (protocol.Welcome, error) {
	var none protocol.Welcome
	ctx, cancel := context.WithTimeout(ctx, limits.HandshakeTime)
	defer cancel()
	wire := newNetConn(conn)
	defer func() { _ = wire.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = wire.Close() })
	defer stop()
	codec, err := protocol.NewCodec(limits)
	if err != nil {
		return none, err
	}
	secure := tls.Client(wire, config)
	if err := secure.HandshakeContext(ctx); err != nil {
		return none, sdk.Errorf(sdk.CodeUnavailable, "connect securely to %s: %w", conn.RemoteAddress(), err)
	}
	join.MinVersion, join.MaxVersion = protocol.MinVersion, protocol.MaxVersion
	if err := protocol.NewWriter(secure, codec).Write(&join); err != nil {
		return none, sdk.Errorf(sdk.CodeUnavailable, "present the invitation: %w", err)
	}
	answer, err := protocol.NewReader(secure, codec).Read()
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return none, sdk.Errorf(sdk.CodeUnavailable, "wait for the answer to the invitation: %w", err)
	}
	switch answer := answer.(type) {
	case *protocol.Welcome:
		return *answer, nil
	case *protocol.Error:
		return none, sdk.Errorf(answer.Code, "%s", answer.Message)
	}
	return none, sdk.Errorf(sdk.CodeInvalid, "the invitation was answered with %s", answer.Type())
}
