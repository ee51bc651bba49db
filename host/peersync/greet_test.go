package peersync

import (
	"fmt"
	"testing"

	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/sdktest"
)

// TestEngine_SilentConnections has a member come after many connections that say nothing.
func TestEngine_SilentConnections(t *testing.T) {
	network := sdktest.NewMemoryTransport()
	member := newTestKey(t, 7)
	a := newHost(t, network, 1, nil)
	a.start(a.member(), Member{ID: member.id(), Name: "raw"})
	for range 2 * greetingsAtOnce {
		conn, err := network.Dial(t.Context(), "host1")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
	}
	p := dialRaw(t, a, member)
	p.hello(member, 1)
	if msg, err := p.r.Read(); err != nil || msg.Type() != protocol.TypeHello {
		t.Errorf("the member got %v, %v; want a Hello", msg, err)
	}
}

type fakeConn struct {
	sdk.Conn
	remote string
	closed bool
}

func (c *fakeConn) RemoteAddress() string { return c.remote }

func (c *fakeConn) Close() error {
	c.closed = true
	return nil
}

func TestGreetings(t *testing.T) {
	var g greetings
	var conns []*fakeConn
	enter := func(host, n int) {
		for range n {
			c := &fakeConn{remote: fmt.Sprintf("10.0.0.%d:%d", host, 1000+len(conns))}
			conns = append(conns, c)
			g.enter(c)
		}
	}
	check := func(step string, want ...int) {
		t.Helper()
		var got []int
		for i, c := range conns {
			if c.closed {
				got = append(got, i)
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: closed %v, want %v", step, got, want)
		}
	}
	enter(1, 1)
	enter(2, greetingsOfOne)
	check("room for all")
	enter(2, 2)
	check("two more than one address may have", 1, 2)
	for host := 3; len(g.places) < greetingsAtOnce; host++ {
		enter(host, min(greetingsOfOne/2, greetingsAtOnce-len(g.places)))
	}
	check("room for all", 1, 2)
	enter(99, 1)
	check("full: the oldest of the address that has most", 1, 2, 3)
	place := g.enter(&fakeConn{remote: "x"})
	g.leave(place)
	g.leave(place)
	if len(g.places) != greetingsAtOnce-1 {
		t.Errorf("%d places taken, want %d", len(g.places), greetingsAtOnce-1)
	}
}
