package database

import (
	"context"
	"net"
	"sync"
	"time"
)

// HAZARD: a server that is stopped, or a network that swallows what is sent, closes no connection. lib/pq waits for its answer
// for ever, whatever becomes of the context. So each read and each write of a socket has a deadline, after which the
// connection is lost like any other.
const (
	// answerPatience is how long the server may say nothing. It is more than lock_timeout of sessionSettings: a statement
	// that waits for a lock shall say so.
	answerPatience = 45 * time.Second
	// longPatience is for what may read or write a whole table: migrations, new indexes. Meanwhile another connection is made
	// now and then, as often as answerPatience goes by: where deadProbes of them in a row get no answer, the server is out of
	// reach. So that is noticed within deadProbes times answerPatience and the time that a connection may take to be made.
	longPatience = time.Hour
	deadProbes   = 2
	// doubtPatience is for asking whether the server is gone, where a connection has had no answer already.
	doubtPatience = 5 * time.Second
	// closePatience is for all that is under way once the database is being closed. Less than a host has to stop.
	closePatience = 5 * time.Second
)

// sockets dials the connections of a database, and knows those that are open.
type sockets struct {
	patience time.Duration // of what is asked daily

	mu      sync.Mutex // guards what follows
	open    map[*socket]struct{}
	long    int  // how many now do what may take long
	doubted int  // how many now ask whether the server is gone
	closing bool // the database is
}

func newSockets(patience time.Duration) *sockets {
	if patience <= 0 {
		patience = answerPatience
	}
	return &sockets{patience: patience, open: make(map[*socket]struct{})}
}

// Dial and DialTimeout implement pq.Dialer, of which nothing but DialContext is called.
func (s *sockets) Dial(network, address string) (net.Conn, error) {
	return s.DialContext(context.Background(), network, address)
}

// DialTimeout implements pq.Dialer.
func (s *sockets) DialTimeout(network, address string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return s.DialContext(ctx, network, address)
}

// DialContext implements pq.DialerContext.
func (s *sockets) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	c := &socket{Conn: conn, of: s}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open[c] = struct{}{}
	return c, nil
}

// takingLong has the server be waited for longer, as long as alive says that it is, until the function is called that it
// returns.
func (s *sockets) takingLong(alive func(context.Context) bool) (end func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.long++
	ctx, cancel := context.WithCancel(context.Background())
	var probing sync.WaitGroup
	probing.Go(func() { s.probe(ctx, alive) })
	return func() {
		cancel()
		probing.Wait()
		s.mu.Lock()
		defer s.mu.Unlock()
		s.long--
	}
}

// doubting has the server be waited for only shortly until the function is called that it returns.
func (s *sockets) doubting() (end func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.doubted++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.doubted--
	}
}

// probe ends every wait once alive has said no often enough, or returns when ctx ends.
func (s *sockets) probe(ctx context.Context, alive func(context.Context) bool) {
	tick := time.NewTicker(s.patience)
	defer tick.Stop()
	for dead := 0; dead < deadProbes; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		dead++
		if alive(ctx) {
			dead = 0
		}
		if ctx.Err() != nil {
			return
		}
	}
	s.waitUntil(time.Now())
}

// waitUntil has whatever waits now do so until a moment at most.
func (s *sockets) waitUntil(moment time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.open {
		_ = c.Conn.SetDeadline(moment) // what is closed meanwhile waits for nothing
	}
}

// hurry has whatever waits now, or will, wait for closePatience at most.
func (s *sockets) hurry() {
	s.mu.Lock()
	s.closing = true
	soon := time.Now().Add(s.most())
	s.mu.Unlock()
	s.waitUntil(soon)
}

// most is how long an answer may take now. The caller holds mu.
func (s *sockets) most() time.Duration {
	switch {
	case s.closing:
		return min(s.patience, closePatience)
	case s.doubted > 0:
		return min(s.patience, doubtPatience)
	case s.long > 0:
		return max(s.patience, longPatience)
	}
	return s.patience
}

// socket is a connection each of whose reads and writes has a deadline.
type socket struct {
	net.Conn
	of    *sockets
	fixed time.Time // a deadline that the driver has set; zero: none. Guarded by of.mu
}

// SetDeadline implements net.Conn: the driver has one for the greeting as a whole.
func (c *socket) SetDeadline(at time.Time) error {
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	c.fixed = at
	return c.Conn.SetDeadline(at)
}

// begin sets the deadline of one read or write: under mu, so that none overtakes that of hurry.
func (c *socket) begin(set func(time.Time) error) error {
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	deadline := time.Now().Add(c.of.most())
	if !c.fixed.IsZero() && c.fixed.Before(deadline) {
		deadline = c.fixed
	}
	return set(deadline)
}

// Read implements net.Conn.
func (c *socket) Read(into []byte) (int, error) {
	if err := c.begin(c.SetReadDeadline); err != nil {
		return 0, err
	}
	return c.Conn.Read(into)
}

// Write implements net.Conn.
func (c *socket) Write(from []byte) (int, error) {
	if err := c.begin(c.SetWriteDeadline); err != nil {
		return 0, err
	}
	return c.Conn.Write(from)
}

// Close implements net.Conn.
func (c *socket) Close() error {
	c.of.mu.Lock()
	delete(c.of.open, c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}
