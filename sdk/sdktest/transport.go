package sdktest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"

	"github.com/starling-sync/starling/sdk"
)

// TransportOption changes what Transport does.
type TransportOption func(*transportSuite)

// ListenAt makes the suite listen at address, which must stand for a free one; the default is "127.0.0.1:0".
func ListenAt(address string) TransportOption {
	return func(s *transportSuite) { s.address = address }
}

// Patience sets how long the suite waits for what should happen at once; the default is 30 s. It decides nothing but
// when to give up.
func Patience(d time.Duration) TransportOption {
	return func(s *transportSuite) { s.patience = d }
}

// Descriptors has the suite count what the transport holds open by count instead of by this process's descriptors: those
// of the process that it runs in. An error means that they can not be counted on this system.
func Descriptors(count func() (int, error)) TransportOption {
	return func(s *transportSuite) { s.open = count }
}

// OpenDescriptors returns how many descriptors the process holds open. It can be told on Linux alone.
func OpenDescriptors(pid int) (int, error) {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	return len(entries), err
}

func ownDescriptors() (int, error) { return OpenDescriptors(os.Getpid()) }

type transportSuite struct {
	new      func(t T) sdk.Transport
	address  string
	patience time.Duration
	open     func() (int, error)
}

// Transport runs the laws of transports against those that newTransport returns, one a subtest; newTransport ends its
// own with t.Cleanup.
func Transport(t *testing.T, newTransport func(t *testing.T) sdk.Transport, options ...TransportOption) {
	t.Helper()
	Test(t, TransportChecks(func(t T) sdk.Transport {
		return newTransport(t.(goTest).T) //nolint:forcetypeassert // Test runs each with one
	}, options...))
}

// TransportChecks returns the checks of the laws of transports. Each makes a transport of its own with newTransport, which
// ends it with T's Cleanup.
func TransportChecks(newTransport func(t T) sdk.Transport, options ...TransportOption) []Check {
	s := &transportSuite{new: newTransport, address: "127.0.0.1:0", patience: 30 * time.Second, open: ownDescriptors}
	for _, option := range options {
		option(s)
	}
	laws := transportLaws()
	checks := make([]Check, len(laws))
	for i, law := range laws {
		checks[i] = Check{Law: law.Law, Run: func(t T) { law.check(s, t) }}
	}
	return checks
}

// transportLaw is a law of transports.
type transportLaw struct {
	Law
	check func(s *transportSuite, t T)
}

// transportLaws are the laws of transports. A new law gets a new id and a row in docs/conformance.md.
func transportLaws() []transportLaw {
	return []transportLaw{
		{Law{"TRANSPORT-001", "Name", "The transport has a name"}, (*transportSuite).name},
		{Law{"TRANSPORT-002", "Order", "Bytes arrive whole and in order, however they are cut into writes"}, (*transportSuite).order},
		{Law{"TRANSPORT-003", "LargeFrame", "One write of 16 MiB arrives"}, (*transportSuite).largeFrame},
		{Law{"TRANSPORT-004", "BothDirections", "Both ends write while both ends read"}, (*transportSuite).bothDirections},
		{Law{"TRANSPORT-005", "ManyConnections", "20 connections at once do not disturb one another"}, (*transportSuite).manyConnections},
		{Law{"TRANSPORT-006", "BackPressure", "A writer waits for a peer that does not read, and goes on once it does"}, (*transportSuite).backPressure},
		{Law{"TRANSPORT-007", "CloseEndsBothEnds", "Close ends reads and writes on both ends"}, (*transportSuite).closeEndsBothEnds},
		{Law{"TRANSPORT-008", "HalfOpen", "Close ends a read and a write under way although the peer is silent"}, (*transportSuite).halfOpen},
		{Law{"TRANSPORT-009", "ListenerClose", "Close of a listener ends Accept, which then says that it was closed"}, (*transportSuite).listenerClose},
		{Law{"TRANSPORT-010", "DialNobody", "A dial to where nobody listens fails"}, (*transportSuite).dialNobody},
		{Law{"TRANSPORT-011", "DialCancelled", "A dial whose caller has given up fails"}, (*transportSuite).dialCancelled},
		{Law{"TRANSPORT-012", "Reconnect", "A thousand connections, one after the other, leave nothing behind"}, (*transportSuite).reconnect},
		{Law{"TRANSPORT-013", "HostSocket", "A listener can use a socket that the host opened, or says that it can not"}, (*transportSuite).hostSocket},
	}
}

// TransportLaws returns the laws of transports.
func TransportLaws() []Law {
	laws := transportLaws()
	out := make([]Law, len(laws))
	for i := range laws {
		out[i] = laws[i].Law
	}
	return out
}

func (s *transportSuite) name(t T) {
	if s.new(t).Name() == "" {
		t.Error("the transport has no name")
	}
}

// listen returns a listening transport.
func (s *transportSuite) listen(t T) (sdk.Transport, sdk.Listener) {
	t.Helper()
	transport := s.new(t)
	listener, err := transport.Listen(t.Context(), s.address, nil)
	if err != nil {
		t.Fatalf("listen at %s: %v", s.address, err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	return transport, listener
}

// pair returns the two ends of a connection.
func (s *transportSuite) pair(t T) (dialled, accepted sdk.Conn) {
	t.Helper()
	transport, listener := s.listen(t)
	dialled, accepted = s.connect(t, transport, listener)
	t.Cleanup(func() {
		_ = dialled.Close()
		_ = accepted.Close()
	})
	return dialled, accepted
}

func (s *transportSuite) connect(t T, transport sdk.Transport, listener sdk.Listener) (dialled, accepted sdk.Conn) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), s.patience)
	defer cancel()
	var group errgroup.Group
	group.Go(func() (err error) {
		accepted, err = listener.Accept()
		return err
	})
	dialled, err := transport.Dial(ctx, listener.Address())
	if err != nil {
		_ = listener.Close() // ends Accept
		_ = group.Wait()
		t.Fatalf("dial the listener's own address %q: %v", listener.Address(), err)
	}
	if err := s.within(t, "accept", &group); err != nil {
		t.Fatalf("accept: %v", err)
	}
	if accepted.RemoteAddress() == "" || dialled.RemoteAddress() == "" {
		t.Error("a connection does not name its other end")
	}
	return dialled, accepted
}

// within fails the test if the group is not done in time.
func (s *transportSuite) within(t T, what string, group *errgroup.Group) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- group.Wait() }()
	select {
	case err := <-done:
		return err
	case <-time.After(s.patience):
		t.Fatalf("%s: not done after %s", what, s.patience)
		return nil
	}
}

// stream returns size bytes that differ by seed, so that a lost or swapped piece shows.
func stream(seed uint64, size int) []byte {
	data := make([]byte, size)
	source := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = source.Read(data) // never fails
	return data
}

// transfer sends data from one end to the other in pieces and compares what arrives.
func transfer(group *errgroup.Group, from, to sdk.Conn, data []byte, piece int) {
	group.Go(func() error {
		for rest := data; len(rest) > 0; {
			n := min(piece, len(rest))
			written, err := from.Write(rest[:n])
			if err != nil || written != n {
				return fmt.Errorf("write %d bytes: wrote %d: %w", n, written, err)
			}
			rest = rest[n:]
		}
		return nil
	})
	group.Go(func() error {
		got := make([]byte, len(data))
		if n, err := io.ReadFull(to, got); err != nil {
			return fmt.Errorf("read: %d of %d bytes: %w", n, len(data), err)
		}
		if !bytes.Equal(got, data) {
			return errors.New("what arrived differs from what was sent")
		}
		return nil
	})
}

func (s *transportSuite) order(t T) {
	dialled, accepted := s.pair(t)
	for seed, piece := range []int{1, 7, 1000, 65536, 100_003} {
		var group errgroup.Group
		transfer(&group, dialled, accepted, stream(uint64(seed), 1000*piece/(1+piece/500)), piece)
		if err := s.within(t, "transfer", &group); err != nil {
			t.Fatalf("pieces of %d bytes: %v", piece, err)
		}
	}
}

func (s *transportSuite) largeFrame(t T) {
	dialled, accepted := s.pair(t)
	var group errgroup.Group
	transfer(&group, accepted, dialled, stream(1, 16<<20), 16<<20)
	if err := s.within(t, "a write of 16 MiB", &group); err != nil {
		t.Fatal(err)
	}
}

func (s *transportSuite) bothDirections(t T) {
	dialled, accepted := s.pair(t)
	var group errgroup.Group
	transfer(&group, dialled, accepted, stream(1, 8<<20), 32<<10)
	transfer(&group, accepted, dialled, stream(2, 8<<20), 50_000)
	if err := s.within(t, "both directions at once", &group); err != nil {
		t.Fatal(err)
	}
	s.pingPong(t, dialled, accepted)
}

// pingPong writes on each end while a read of it is under way.
func (s *transportSuite) pingPong(t T, dialled, accepted sdk.Conn) {
	t.Helper()
	const rounds = 200
	var group errgroup.Group
	for _, end := range []sdk.Conn{dialled, accepted} {
		turns := make(chan struct{}, rounds)
		if end == dialled {
			turns <- struct{}{}
		}
		group.Go(func() error {
			for range rounds {
				if _, err := io.ReadFull(end, make([]byte, 1)); err != nil {
					return err
				}
				turns <- struct{}{}
			}
			return nil
		})
		group.Go(func() error {
			for range rounds {
				<-turns
				if _, err := end.Write([]byte{1}); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := s.within(t, "writes while a read is under way", &group); err != nil {
		t.Fatal(err)
	}
}

func (s *transportSuite) manyConnections(t T) {
	transport, listener := s.listen(t)
	var group errgroup.Group
	for i := range 20 {
		dialled, accepted := s.connect(t, transport, listener)
		t.Cleanup(func() {
			_ = dialled.Close()
			_ = accepted.Close()
		})
		transfer(&group, dialled, accepted, stream(uint64(i), 200_000), 10_000)
		transfer(&group, accepted, dialled, stream(uint64(i+100), 200_000), 3000)
	}
	if err := s.within(t, "20 connections", &group); err != nil {
		t.Fatal(err)
	}
}

// fill writes to conn until an error, at most limit bytes, and counts.
func fill(conn sdk.Conn, limit int64, count *atomic.Int64) error {
	piece := make([]byte, 64<<10)
	for count.Load() < limit {
		n, err := conn.Write(piece)
		count.Add(int64(n))
		if err != nil {
			return err
		}
	}
	return nil
}

// untilStill returns when count has not changed for some looks, which is when its writer is blocked or done.
func (s *transportSuite) untilStill(t T, count *atomic.Int64) {
	t.Helper()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	giveUp := time.After(s.patience)
	for last, still := int64(-1), 0; still < 10; {
		select {
		case <-look.C:
		case <-giveUp:
			t.Fatalf("the writer still goes on after %s and %d bytes that nobody read", s.patience, count.Load())
		}
		if now := count.Load(); now > 0 && now == last {
			still++
		} else {
			last, still = now, 0
		}
	}
}

func (s *transportSuite) backPressure(t T) {
	const limit = 64 << 20
	dialled, accepted := s.pair(t)
	var count atomic.Int64
	var group errgroup.Group
	group.Go(func() error { return fill(dialled, limit, &count) })
	s.untilStill(t, &count)
	if count.Load() >= limit {
		t.Fatalf("%d bytes were taken while the peer did not read; a writer must block", count.Load())
	}
	group.Go(func() error {
		_, err := io.CopyN(io.Discard, accepted, limit)
		return err
	})
	if err := s.within(t, "the writer, once the peer reads", &group); err != nil {
		t.Fatal(err)
	}
}

func (s *transportSuite) closeEndsBothEnds(t T) {
	for name, closeDialled := range map[string]bool{"Dialled": true, "Accepted": false} {
		t.Run(name, func(t T) {
			closing, other := s.pair(t)
			if !closeDialled {
				closing, other = other, closing
			}
			ended := readersEnd(closing, other)
			if err := closing.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
			if err := s.within(t, "reads on both ends", ended); err != nil {
				t.Error(err)
			}
			if _, err := closing.Write([]byte("x")); err == nil {
				t.Error("a write after close succeeded")
			}
			var count atomic.Int64
			var group errgroup.Group
			group.Go(func() error {
				if fill(other, 64<<20, &count) == nil {
					return errors.New("writing to a closed peer never failed")
				}
				return nil
			})
			if err := s.within(t, "a write to a closed peer", &group); err != nil {
				t.Error(err)
			}
			_ = closing.Close() // a second close must not hang or panic
		})
	}
}

// readersEnd starts a Read on each connection; each must end with an error.
func readersEnd(conns ...sdk.Conn) *errgroup.Group {
	var group errgroup.Group
	for _, conn := range conns {
		group.Go(func() error {
			if n, err := conn.Read(make([]byte, 16)); err == nil {
				return fmt.Errorf("a read of a closed connection returned %d bytes and no error", n)
			}
			return nil
		})
	}
	return &group
}

func (s *transportSuite) halfOpen(t T) {
	dialled, _ := s.pair(t) // the peer neither reads, writes nor closes
	ended := readersEnd(dialled)
	var count atomic.Int64
	ended.Go(func() error {
		if fill(dialled, 64<<20, &count) == nil {
			return errors.New("64 MiB were taken while the peer did not read")
		}
		return nil
	})
	s.untilStill(t, &count)
	_ = dialled.Close()
	if err := s.within(t, "a read and a write under way", ended); err != nil {
		t.Error(err)
	}
}

func (s *transportSuite) listenerClose(t T) {
	_, listener := s.listen(t)
	var group errgroup.Group
	group.Go(func() error {
		_, err := listener.Accept()
		return err
	})
	if err := listener.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if err := s.within(t, "accept under way", &group); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept under way at close: want net.ErrClosed, got %v", err)
	}
	if _, err := listener.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept after close: want net.ErrClosed, got %v", err)
	}
}

func (s *transportSuite) dialNobody(t T) {
	transport, listener := s.listen(t)
	address := listener.Address()
	if err := listener.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), s.patience)
	defer cancel()
	conn, err := transport.Dial(ctx, address)
	if err == nil {
		_ = conn.Close()
		t.Fatalf("dialled %s, where nobody listens", address)
	}
	if ctx.Err() != nil {
		t.Errorf("a dial to nobody did not fail within %s", s.patience)
	}
}

func (s *transportSuite) dialCancelled(t T) {
	transport, listener := s.listen(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if conn, err := transport.Dial(ctx, listener.Address()); err == nil {
		_ = conn.Close()
		t.Error("a dial whose context had ended succeeded")
	}
}

// reconnects is how many connections must leave nothing behind, and spare how many descriptors more may be open after
// them: a runtime opens some of its own when it pleases.
const (
	reconnects = 1000
	spare      = 20
)

func (s *transportSuite) reconnect(t T) {
	transport, listener := s.listen(t)
	round := func(i int) {
		dialled, accepted := s.connect(t, transport, listener)
		var group errgroup.Group
		transfer(&group, dialled, accepted, stream(uint64(i), 3000), 1000)
		transfer(&group, accepted, dialled, stream(uint64(i)+500, 3000), 1000)
		if err := s.within(t, "transfer", &group); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		_ = dialled.Close()
		_ = accepted.Close()
	}
	round(0) // what a first connection starts for good is not a leak
	before := goleak.IgnoreCurrent()
	open, uncountable := s.open()
	for i := range reconnects {
		round(i + 1)
	}
	if err := goleak.Find(before); err != nil {
		t.Errorf("%d connections left goroutines: %.2000v", reconnects, err)
	}
	if uncountable == nil {
		s.untilClosed(t, open)
	}
}

// untilClosed fails if more descriptors than before stay open.
func (s *transportSuite) untilClosed(t T, before int) {
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	giveUp := time.After(s.patience)
	for {
		now, err := s.open()
		if err != nil {
			t.Fatalf("count descriptors: %v", err)
		}
		if now <= before+spare {
			return
		}
		select {
		case <-look.C:
		case <-giveUp:
			t.Fatalf("%d connections left descriptors open: %d before, %d after", reconnects, before, now)
		}
	}
}

func (s *transportSuite) hostSocket(t T) {
	socket, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Skipf("no loopback socket here: %v", err)
	}
	defer func() { _ = socket.Close() }()
	transport := s.new(t)
	listener, err := transport.Listen(t.Context(), socket.Addr().String(), socket)
	if sdk.CodeOf(err) == sdk.CodeUnsupported {
		t.Skipf("it takes no socket of the host: %v", err)
	}
	if err != nil {
		t.Fatalf("listen on the host's socket: %v", err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	dialled, accepted := s.connect(t, transport, listener)
	var group errgroup.Group
	transfer(&group, dialled, accepted, stream(1, 100_000), 5000)
	if err := s.within(t, "transfer", &group); err != nil {
		t.Error(err)
	}
	_ = dialled.Close()
	_ = accepted.Close()
}
