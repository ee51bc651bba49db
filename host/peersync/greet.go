package peersync

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"

	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/sdk"
)

const (
	greetingsAtOnce = 64       // connections whose peer is not known yet
	greetingsOfOne  = 16       // of them from one remote address
	strangerBytes   = 64 << 10 // the first message of who is no member
)

// greetings holds the connections that have not said who they are. Who comes when it is full takes the place of the
// oldest, so that silent connections keep nobody out.
type greetings struct {
	mu     sync.Mutex
	places []*greeting // oldest first
}

type greeting struct {
	conn   sdk.Conn
	remote string
}

// enter takes a place. It closes the oldest connection of the same remote address if that has too many, else, if there
// are too many of all, the oldest of the address that has most.
func (g *greetings) enter(conn sdk.Conn) *greeting {
	place := &greeting{conn: conn, remote: remoteHost(conn)}
	g.mu.Lock()
	count := map[string]int{}
	for _, p := range g.places {
		count[p.remote]++
	}
	full := place.remote
	if count[full] < greetingsOfOne {
		full = ""
		if len(g.places) >= greetingsAtOnce {
			for _, p := range g.places {
				if full == "" || count[p.remote] > count[full] {
					full = p.remote
				}
			}
		}
	}
	var cut sdk.Conn
	if at := slices.IndexFunc(g.places, func(p *greeting) bool { return p.remote == full }); at >= 0 {
		cut = g.places[at].conn
		g.places = slices.Delete(g.places, at, at+1)
	}
	g.places = append(g.places, place)
	g.mu.Unlock()
	if cut != nil {
		_ = cut.Close()
	}
	return place
}

func (g *greetings) leave(place *greeting) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.places = slices.DeleteFunc(g.places, func(p *greeting) bool { return p == place })
}

// remoteHost is the other end without what differs from connection to connection. It is never empty.
func remoteHost(conn sdk.Conn) string {
	remote := conn.RemoteAddress()
	if host, _, err := net.SplitHostPort(remote); err == nil {
		remote = host
	}
	return "from " + remote
}

// Serve takes the connections of one transport, the one that AddTransport was last given for its label, and closes the listener when it returns: nil when ctx or Run ends, else
// the error of the listener. via is the transport's label. Call it again with the listener of a restarted transport.
func (e *Engine) Serve(ctx context.Context, listener sdk.Listener, via string) error {
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() })
	defer stop()
	stopToo := context.AfterFunc(e.ctx, func() { _ = listener.Close() })
	defer stopToo()
	defer func() { _ = listener.Close() }()
	carrier := e.carrierOf(via)
	for {
		conn, err := listener.Accept()
		if err != nil {
			if ctx.Err() != nil || e.ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("accept connections of transport %s at %s: %w", via, listener.Address(), err)
		}
		done := e.carry(carrier)
		if !e.spawn(func() { defer done(); e.inbound(conn, via, carrier) }) {
			done()
			_ = conn.Close()
		}
	}
}

// inbound greets a connection from outside and, if it is a peer's, runs it.
func (e *Engine) inbound(conn sdk.Conn, via string, carrier sdk.Transport) {
	place := e.greetings.enter(conn)
	l, up, first, err := e.greet(conn, via)
	e.greetings.leave(place)
	if err != nil {
		e.options.Log.Debug("inbound connection ended before Hello", "via", via, "remote", conn.RemoteAddress(), "error", err)
		_ = conn.Close()
		return
	}
	if first == nil {
		return // it was a pairing
	}
	l.carrier = carrier
	e.run(l, up, first)
}

// greet finds out who connects and what it wants. A Join is answered here.
func (e *Engine) greet(conn sdk.Conn, via string) (*link, PeerUp, protocol.Message, error) {
	ctx, cancel := context.WithTimeout(e.ctx, e.options.Limits.HandshakeTime)
	defer cancel()
	wire := newNetConn(conn)
	stop := context.AfterFunc(ctx, func() {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			e.countRefusal(protocol.Over("handshake_time"))
		}
		_ = wire.Close()
	})
	defer stop()
	secure := tls.Server(wire, e.options.Security.ServerTLS())
	if err := secure.HandshakeContext(ctx); err != nil {
		return nil, PeerUp{}, nil, fmt.Errorf("handshake: %w", err)
	}
	peer, err := e.options.Security.PeerID(secure.ConnectionState())
	if err != nil {
		return nil, PeerUp{}, nil, fmt.Errorf("identify the peer: %w", err)
	}
	l := e.newLink(secure, wire)
	most := strangerBytes
	if e.isMember(peer) {
		most = e.options.Limits.FrameBytes // the vector of a large library takes space
	}
	first, err := l.reader.ReadOnly(most, protocol.TypeHello, protocol.TypeJoin)
	if err != nil {
		e.countRefusal(err)
		if refusal, ok := errors.AsType[*sdk.Error](err); ok {
			_ = l.answer(&protocol.Error{Code: refusal.Code, Message: truncate(err.Error(), e.options.Limits.TextBytes)})
		}
		return nil, PeerUp{}, nil, fmt.Errorf("wait for Hello: %w", err)
	}
	if join, ok := first.(*protocol.Join); ok {
		return nil, PeerUp{}, nil, e.admit(ctx, l, peer, join)
	}
	return l, PeerUp{Peer: peer, Via: via, Address: conn.RemoteAddress()}, first, nil
}

func (e *Engine) isMember(id sdk.DeviceID) bool {
	e.stepMu.Lock()
	defer e.stepMu.Unlock()
	return e.machine.peers[id] != nil
}

// admit answers a Join and closes the connection.
func (e *Engine) admit(ctx context.Context, l *link, peer sdk.DeviceID, join *protocol.Join) error {
	answer := e.welcome(ctx, l, peer, join)
	if refusal, ok := answer.(*protocol.Error); ok {
		e.options.Log.Warn("a device was not admitted", "device", peer.String(), "name", join.Name, "reason", refusal.Message)
	} else {
		e.options.Log.Info("a device was admitted", "peer", peer.String(), "name", join.Name)
	}
	if err := l.answer(answer); err != nil {
		return fmt.Errorf("answer Join: %w", err)
	}
	return nil
}

// answer sends one message, waits until the peer has read it and closed its end, and cuts the connection. Whoever calls
// it cuts the connection in time.
func (l *link) answer(msg protocol.Message) error {
	defer l.cut()
	if err := protocol.NewWriter(l.conn, l.codec).Write(msg); err != nil {
		return err
	}
	if err := l.conn.CloseWrite(); err == nil {
		_, _ = l.conn.Read(make([]byte, 1))
	}
	return nil
}

func (e *Engine) welcome(ctx context.Context, l *link, peer sdk.DeviceID, join *protocol.Join) protocol.Message {
	refuse := func(err error) protocol.Message {
		code := sdk.CodeOf(err)
		return &protocol.Error{Code: code, Message: truncate(err.Error(), e.options.Limits.TextBytes), Retryable: code.Retryable()}
	}
	if join.MaxVersion < protocol.MinVersion || join.MinVersion > protocol.MaxVersion {
		return refuse(sdk.Errorf(sdk.CodeUnsupported, "this device speaks protocol %d to %d, the joining one %d to %d; upgrade the older one",
			protocol.MinVersion, protocol.MaxVersion, join.MinVersion, join.MaxVersion))
	}
	if e.options.Pairing == nil {
		return refuse(sdk.Errorf(sdk.CodeDenied, "this device admits nobody"))
	}
	certificates := l.conn.ConnectionState().PeerCertificates
	if len(certificates) == 0 {
		return refuse(sdk.Errorf(sdk.CodeDenied, "the connection has no device key"))
	}
	key, ok := certificates[0].PublicKey.(ed25519.PublicKey)
	if !ok {
		return refuse(sdk.Errorf(sdk.CodeDenied, "a device key must be an Ed25519 key"))
	}
	welcome, err := e.options.Pairing.Join(ctx, peer, key, *join)
	if err != nil {
		return refuse(err)
	}
	return &welcome
}
