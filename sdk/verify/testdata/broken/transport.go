package main

import (
	"bytes"
	"context"
	"net"
	"sync"

	"github.com/starling-sync/starling/sdk"
)

// transport is a sound transport over TCP, and bends its connections.
type transport struct{ bug string }

func (t transport) Name() string { return "bent" }

func (t transport) Listen(ctx context.Context, address string, inherited net.Listener) (sdk.Listener, error) {
	if inherited != nil {
		return listener{inherited, t}, nil
	}
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", address)
	return listener{l, t}, err
}

func (t transport) Dial(ctx context.Context, address string) (sdk.Conn, error) {
	var dialer net.Dialer
	c, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	return t.conn(c), nil
}

type listener struct {
	net.Listener
	transport transport
}

func (l listener) Accept() (sdk.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.transport.conn(c), nil
}

func (l listener) Address() string { return l.Addr().String() }

func (t transport) conn(c net.Conn) *conn {
	if t.bug == "leaks descriptors" {
		if f, err := c.(*net.TCPConn).File(); err == nil { // a copy that nobody closes
			leaked = append(leaked, f)
		}
	}
	return &conn{Conn: c, bug: t.bug}
}

var leaked []any

type conn struct {
	net.Conn
	bug   string
	once  sync.Once
	queue chan []byte
}

func (c *conn) RemoteAddress() string { return c.Conn.RemoteAddr().String() }

func (c *conn) Write(p []byte) (int, error) {
	switch c.bug {
	case "swaps bytes":
		p = bytes.Clone(p)
		if len(p) > 1 {
			p[0], p[1] = p[1], p[0]
		}
	case "takes everything at once":
		c.once.Do(func() {
			c.queue = make(chan []byte, 1<<20)
			go func() {
				for p := range c.queue {
					if _, err := c.Conn.Write(p); err != nil {
						return
					}
				}
			}()
		})
		c.queue <- bytes.Clone(p)
		return len(p), nil
	}
	return c.Conn.Write(p)
}

func (c *conn) Close() error {
	if c.bug == "never closes" {
		return nil
	}
	if c.bug == "leaks descriptors" {
		// The copy keeps the connection open; both directions are ended, so that nothing but the descriptor stays.
		_ = c.Conn.(*net.TCPConn).CloseWrite()
		_ = c.Conn.(*net.TCPConn).CloseRead()
	}
	return c.Conn.Close()
}
