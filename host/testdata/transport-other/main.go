// Command transport-other is a transport over TCP of another name than plugins/transport-tcp. Built with mode deaf it has
// that one's name, takes connections, and carries nothing; with mode mute it takes none; with mode slow it takes 700 ms
// for whatever is sent by it. With mode crawl it has its own name and is as slow.
package main

import (
	"context"
	"net"
	"time"

	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/rpc"
)

var mode string // set when it is built

type transport struct{}

func (transport) Name() string {
	if mode != "" && mode != "crawl" {
		return "tcp"
	}
	return "other"
}

func (transport) Listen(ctx context.Context, address string, inherited net.Listener) (sdk.Listener, error) {
	if mode == "mute" {
		return nil, sdk.Errorf(sdk.CodeUnavailable, "no network today")
	}
	if inherited != nil {
		return listener{inherited}, nil
	}
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", address)
	return listener{l}, err
}

func (transport) Dial(ctx context.Context, address string) (sdk.Conn, error) {
	var dialer net.Dialer
	c, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, sdk.Errorf(sdk.CodeUnavailable, "dial: %w", err)
	}
	return newConn(c), nil
}

type listener struct{ net.Listener }

func (l listener) Address() string { return l.Addr().String() }

func (l listener) Accept() (sdk.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return newConn(c), nil
}

type conn struct {
	net.Conn
	closed chan struct{}
}

func newConn(c net.Conn) sdk.Conn { return &conn{c, make(chan struct{})} }

func (c *conn) RemoteAddress() string { return c.RemoteAddr().String() }

func (c *conn) Read(b []byte) (int, error) {
	if mode == "deaf" {
		<-c.closed
	}
	return c.Conn.Read(b)
}

func (c *conn) Write(b []byte) (int, error) {
	if mode == "slow" || mode == "crawl" {
		time.Sleep(700 * time.Millisecond)
	}
	return c.Conn.Write(b)
}

func (c *conn) Close() error {
	select {
	case <-c.closed:
	default:
		close(c.closed)
	}
	return c.Conn.Close()
}

func main() { rpc.Serve(transport{}) }
