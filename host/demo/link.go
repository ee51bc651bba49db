package demo

import (
	"io"
	"net"
	"sync"
)

// link is the wire between the two devices: a relay in front of each, which the demo can cut.
type link struct {
	relays []net.Listener
	wait   sync.WaitGroup

	mu    sync.Mutex
	down  bool
	conns map[net.Conn]struct{}
}

func newLink() *link { return &link{conns: map[net.Conn]struct{}{}} }

// relay begins to pass connections on to target and returns the address to connect to.
func (l *link) relay(target string) (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	l.relays = append(l.relays, listener)
	l.wait.Go(func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			l.wait.Go(func() { l.carry(in, target) })
		}
	})
	return listener.Addr().String(), nil
}

func (l *link) carry(in net.Conn, target string) {
	defer in.Close()
	if !l.keep(in) {
		return
	}
	defer l.forget(in)
	out, err := net.Dial("tcp", target)
	if err != nil {
		return
	}
	defer out.Close()
	if !l.keep(out) {
		return
	}
	defer l.forget(out)
	var one sync.WaitGroup
	pass := func(to, from net.Conn) {
		_, _ = io.Copy(to, from) // ends when either side does
		to.Close()
		from.Close()
	}
	one.Go(func() { pass(in, out) })
	pass(out, in)
	one.Wait()
}

// keep remembers a connection so that a cut ends it; false if the link is cut.
func (l *link) keep(c net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.down {
		l.conns[c] = struct{}{}
	}
	return !l.down
}

func (l *link) forget(c net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, c)
}

// cut ends every connection and refuses new ones until mend.
func (l *link) cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = true
	for c := range l.conns {
		c.Close()
	}
}

func (l *link) mend() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = false
}

func (l *link) close() {
	for _, r := range l.relays {
		r.Close()
	}
	l.cut()
	l.wait.Wait()
}
