package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/starling-sync/starling/plugins/transport-nats/stream"
	"github.com/starling-sync/starling/sdk"
)

// patience is when a test gives up; it decides nothing else.
const patience = 2 * time.Minute

func eventually(tb testing.TB, what string, check func() error) {
	tb.Helper()
	deadline := time.After(patience)
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-deadline:
			tb.Fatalf("%s: not within %s: %v", what, patience, err)
		case <-again.C:
		}
	}
}

func listenAs(tb testing.TB, t sdk.Transport, name string) sdk.Listener {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), patience)
	defer cancel()
	l, err := t.Listen(ctx, name, nil)
	if err != nil {
		tb.Fatalf("listen as %s: %v", name, err)
	}
	tb.Cleanup(func() { _ = l.Close() })
	return l
}

// connect dials until it works, as the host does, and returns both ends.
func connect(tb testing.TB, from sdk.Transport, l sdk.Listener) (dialled, accepted sdk.Conn) {
	tb.Helper()
	eventually(tb, "dial "+l.Address(), func() (err error) {
		dialled, err = from.Dial(tb.Context(), l.Address())
		return err
	})
	giveUp := time.AfterFunc(patience, func() { _ = l.Close() })
	accepted, err := l.Accept()
	if err != nil || !giveUp.Stop() {
		tb.Fatalf("%s was dialled and does not accept it: %v", l.Address(), err)
	}
	tb.Cleanup(func() {
		_ = dialled.Close()
		_ = accepted.Close()
	})
	return dialled, accepted
}

// talk has each end send a word to the other.
func talk(a, b sdk.Conn) error {
	for _, way := range []struct{ from, to sdk.Conn }{{a, b}, {b, a}} {
		if _, err := way.from.Write([]byte("hello")); err != nil {
			return err
		}
		word := make([]byte, 5)
		if _, err := io.ReadFull(way.to, word); err != nil {
			return err
		}
		if string(word) != "hello" {
			return fmt.Errorf("%q arrived", word)
		}
	}
	return nil
}

func mustTalk(tb testing.TB, a, b sdk.Conn) {
	tb.Helper()
	if err := talk(a, b); err != nil {
		tb.Fatal(err)
	}
}

// mustEnd wants a read of each connection to end with CodeUnavailable, and the words in its error.
func mustEnd(tb testing.TB, words string, conns ...sdk.Conn) {
	tb.Helper()
	for _, c := range conns {
		_, err := io.Copy(io.Discard, c)
		if errors.Is(err, io.EOF) || sdk.CodeOf(err) != sdk.CodeUnavailable || !strings.Contains(err.Error(), words) {
			tb.Errorf("a connection to %s: want its end, with %q in the reason, got %v", c.RemoteAddress(), words, err)
		}
	}
}

// TestServerRestart ends connections with their server, and has the listener listen again once it is back.
func TestServerRestart(t *testing.T) {
	s := startServer(t, nil)
	port := s.Addr().(*net.TCPAddr).Port
	config := configOf(t, []*server.Server{s}, nil)
	alice, bob := newTransport(t, config), newTransport(t, config)
	l := listenAs(t, alice, "alice")
	dialled, accepted := connect(t, bob, l)
	mustTalk(t, dialled, accepted)

	s.Shutdown()
	s.WaitForShutdown()
	mustEnd(t, "the connection to the NATS server ended", dialled, accepted)
	if _, err := dialled.Write([]byte("x")); sdk.CodeOf(err) != sdk.CodeUnavailable {
		t.Errorf("a write after the server's end: %v", err)
	}
	eventually(t, "the check says so", func() error {
		if err := bob.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "connection refused") {
			return fmt.Errorf("it says %w", err)
		}
		return nil
	})
	began := time.Now()
	_, err := bob.Dial(t.Context(), "alice")
	if sdk.CodeOf(err) != sdk.CodeUnavailable || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("a dial without a server, after %s: %v", time.Since(began), err)
	}
	startServer(t, func(o *server.Options) { o.Port = port })
	dialled, accepted = connect(t, bob, l)
	mustTalk(t, dialled, accepted)
	if err := errors.Join(alice.Check(t.Context()), bob.Check(t.Context())); err != nil {
		t.Errorf("with a server again: %v", err)
	}
}

// TestDial_Nobody wants the server's word that nobody listens to be believed, and told.
func TestDial_Nobody(t *testing.T) {
	device := newTransport(t, configOf(t, []*server.Server{startServer(t, nil)}, map[string]any{"subject": "starling.home"}))
	_, err := device.Dial(t.Context(), "bob")
	if sdk.CodeOf(err) != sdk.CodeUnavailable || !strings.Contains(err.Error(), `nobody listens as "bob" there (starling.home.dial.bob)`) {
		t.Errorf("%s: %v", sdk.CodeOf(err), err)
	}
}

// TestServerLate has a listener wait for its server.
func TestServerLate(t *testing.T) {
	s := startServer(t, nil)
	port := s.Addr().(*net.TCPAddr).Port
	config := configOf(t, []*server.Server{s}, nil)
	s.Shutdown()
	s.WaitForShutdown()
	alice := newTransport(t, config)
	listening := make(chan error, 1)
	go func() {
		l, err := alice.Listen(t.Context(), "alice", nil)
		if err == nil {
			err = l.Close()
		}
		listening <- err
	}()
	eventually(t, "the check says why", func() error {
		if err := alice.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "connection refused") {
			return fmt.Errorf("it says %w", err)
		}
		return nil
	})
	select {
	case err := <-listening:
		t.Fatalf("listen returned without a server: %v", err)
	default:
	}
	startServer(t, func(o *server.Options) { o.Port = port })
	if err := <-listening; err != nil {
		t.Error(err)
	}
	t.Run("until it is cancelled", func(t *testing.T) {
		bob := newTransport(t, []byte(`{"servers": ["nats://127.0.0.1:1"]}`))
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(50*time.Millisecond, cancel)
		if _, err := bob.Listen(ctx, "bob", nil); !errors.Is(err, context.Canceled) {
			t.Errorf("want context.Canceled, got %v", err)
		}
	})
}

// startCluster runs n servers that know one another.
func startCluster(tb testing.TB, n int, change func(o *server.Options)) []*server.Server {
	tb.Helper()
	var servers []*server.Server
	for i := range n {
		servers = append(servers, startServer(tb, func(o *server.Options) {
			o.ServerName = fmt.Sprintf("server-%d", i)
			o.Cluster = server.ClusterOpts{Name: "fleet", Host: "127.0.0.1", Port: server.RANDOM_PORT}
			if i > 0 {
				o.Routes = server.RoutesFromStr("nats://" + servers[0].ClusterAddr().String())
			}
			if change != nil {
				change(o)
			}
		}))
	}
	eventually(tb, "a cluster", func() error {
		for _, s := range servers {
			if known := s.NumRemotes(); known != n-1 {
				return fmt.Errorf("%s knows %d others", s.Name(), known)
			}
		}
		return nil
	})
	return servers
}

// TestCluster kills one of three servers: connections through it end, others go on, and who used it finds another.
func TestCluster(t *testing.T) {
	servers := startCluster(t, 3, nil)
	var devices []*transport
	for _, s := range servers {
		devices = append(devices, newTransport(t, configOf(t, []*server.Server{s}, nil))) // the others it is told of
	}
	l0, l1 := listenAs(t, devices[0], "zero"), listenAs(t, devices[1], "one")
	broken, brokenToo := connect(t, devices[2], l0) // through servers 2 and 0
	whole, wholeToo := connect(t, devices[2], l1)   // through servers 2 and 1
	mustTalk(t, broken, brokenToo)
	mustTalk(t, whole, wholeToo)

	servers[0].Shutdown()
	servers[0].WaitForShutdown()
	mustEnd(t, "the connection to the NATS server ended", brokenToo)
	var wait sync.WaitGroup
	wait.Go(func() { // its own server lives, and tells that nobody takes what it sends
		eventually(t, "the other end notices", func() error {
			_, err := broken.Write([]byte("x"))
			if err == nil {
				return errors.New("not yet")
			}
			return nil
		})
	})
	mustTalk(t, whole, wholeToo)
	wait.Wait()
	again, againToo := connect(t, devices[2], l0)
	mustTalk(t, again, againToo)
	mustTalk(t, whole, wholeToo)
}

// TestCluster_FirstDial dials through a server that has just heard of the listener from another.
func TestCluster_FirstDial(t *testing.T) {
	servers := startCluster(t, 3, nil)
	alice := newTransport(t, configOf(t, servers[:1], map[string]any{"discover": false}))
	bob := newTransport(t, configOf(t, servers[1:2], map[string]any{"discover": false}))
	for range 50 {
		l := listenAs(t, alice, newName())
		dialled, err := bob.Dial(t.Context(), l.Address()) // at once, and only once
		if err != nil {
			t.Fatal(err)
		}
		accepted, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		mustTalk(t, dialled, accepted)
		_, _, _ = dialled.Close(), accepted.Close(), l.Close()
	}
}

// TestLameDuck stops a server gently: who uses it moves to another before it ends.
func TestLameDuck(t *testing.T) {
	servers := startCluster(t, 2, func(o *server.Options) {
		o.LameDuckGracePeriod, o.LameDuckDuration = 4*time.Second, 4100*time.Millisecond
	})
	config := configOf(t, servers[:1], nil) // of the other the first tells
	alice, bob := newTransport(t, config), newTransport(t, config)
	l := listenAs(t, alice, "alice")
	old, oldToo := connect(t, bob, l)
	mustTalk(t, old, oldToo)

	down := make(chan struct{})
	go func() {
		servers[0].LameDuckShutdown()
		close(down)
	}()
	other := servers[1].ClientURL()
	for _, device := range []*transport{alice, bob} {
		eventually(t, "a device moves", func() error {
			life, err := device.fabric.life(t.Context(), true)
			if err != nil {
				return err
			}
			if at := life.where(); at != other {
				return fmt.Errorf("it is at %s", at)
			}
			return nil
		})
	}
	select {
	case <-down:
		t.Error("the server went down before the devices moved")
	default:
		mustTalk(t, old, oldToo) // what it carries goes on meanwhile
	}
	fresh, freshToo := connect(t, bob, l)
	mustTalk(t, fresh, freshToo)
	<-down
	mustEnd(t, "the connection to the NATS server ended", old, oldToo)
	mustTalk(t, fresh, freshToo)
}

// TestRetire has a connection to a server end with the last of what it carries.
func TestRetire(t *testing.T) {
	servers := startCluster(t, 2, func(o *server.Options) {
		o.LameDuckGracePeriod, o.LameDuckDuration = time.Minute, 2*time.Minute // longer than this takes
	})
	config := configOf(t, servers[:1], nil)
	alice := newTransport(t, config)
	l := listenAs(t, alice, "alice")
	a, b := connect(t, alice, l)
	first, err := alice.fabric.life(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	first.leave() // as word from the server has it
	eventually(t, "another life", func() error {
		if life, err := alice.fabric.life(t.Context(), true); err != nil || life == first {
			return fmt.Errorf("not yet: %w", err)
		}
		return nil
	})
	mustTalk(t, a, b)
	_, _ = a.Close(), b.Close()
	select {
	case <-first.ended:
	case <-time.After(patience):
		t.Error("the connection to the old server stays, though nothing uses it")
	}
}

// TestJetStream has a stream take what devices send, which it must not: the reason says so.
func TestJetStream(t *testing.T) {
	s := startServer(t, func(o *server.Options) { o.JetStream, o.StoreDir = true, t.TempDir() })
	nc, err := nats.Connect(s.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := nc.JetStream()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.AddStream(&nats.StreamConfig{Name: "all", Subjects: []string{"starling.>"}, Storage: nats.MemoryStorage}); err != nil {
		t.Fatal(err)
	}
	device := newTransport(t, configOf(t, []*server.Server{s}, nil))
	if _, err := device.Dial(t.Context(), "alice"); sdk.CodeOf(err) != sdk.CodeUnavailable || !strings.Contains(err.Error(), "JetStream answers") {
		t.Errorf("%s: %v", sdk.CodeOf(err), err)
	}
}

// TestStranger has somebody with rights on the library's subjects send what is no connection's.
func TestStranger(t *testing.T) {
	s := startServer(t, nil)
	config := configOf(t, []*server.Server{s}, nil)
	alice, bob := newTransport(t, config), newTransport(t, config)
	l := listenAs(t, alice, "alice")
	nc, err := nats.Connect(s.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	t.Run("noise to a listener", func(t *testing.T) {
		for _, message := range [][]byte{nil, {0}, {kindDial}, {kindDial, 9}, {kindAccept, 1}, {99}, bytes.Repeat([]byte{1}, 5000)} {
			if err := errors.Join(nc.Publish("starling.dial.alice", message), nc.PublishRequest("starling.dial.alice", "nowhere", message)); err != nil {
				t.Fatal(err)
			}
		}
		a, b := connect(t, bob, l)
		mustTalk(t, a, b)
	})
	t.Run("dials that come to nothing", func(t *testing.T) {
		hello := greeting{version: protocolVersion, window: stream.DefaultWindow, maxMessage: 1 << 20}.encode(kindDial)
		inbox := nats.NewInbox()
		if _, err := nc.SubscribeSync(inbox + ".*"); err != nil {
			t.Fatal(err)
		}
		for i := range 500 {
			if err := nc.PublishRequest("starling.dial.alice", fmt.Sprintf("%s.%d", inbox, i), hello); err != nil {
				t.Fatal(err)
			}
		}
		if err := nc.Flush(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the listener has seen them", func() error {
			lis := l.(*listener)
			lis.mu.Lock()
			defer lis.mu.Unlock()
			if n := len(lis.setups); n != maxSetups {
				return fmt.Errorf("%d setups", n)
			}
			return nil
		})
	})
	for name, message := range map[string][]byte{"noise": []byte("\xffnoise that is no frame"), "a frame": append([]byte{16, 0, 0, 0, 0, 0, 0, 0, 0}, "forged"...)} {
		t.Run("into a connection: "+name, func(t *testing.T) {
			l := listenAs(t, alice, newName())
			a, b := connect(t, bob, l)
			mustTalk(t, a, b)
			if _, err := a.Write([]byte("to b")); err != nil {
				t.Fatal(err)
			}
			word := make([]byte, 4)
			if _, err := io.ReadFull(b, word); err != nil || string(word) != "to b" {
				t.Fatalf("read %q, %v", word, err)
			}
			if err := nc.Publish(subjectOf(t, alice, b), message); err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(b)
			if err == nil || len(got) > 0 {
				t.Errorf("read %q, %v", got, err)
			}
		})
	}
}

// subjectOf returns the subject on which a device receives for a connection.
func subjectOf(t *testing.T, device *transport, conn sdk.Conn) string {
	t.Helper()
	life, err := device.fabric.life(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	life.mu.Lock()
	defer life.mu.Unlock()
	for e := range life.ends {
		e.mu.Lock()
		mine := e.conn == conn
		e.mu.Unlock()
		if mine {
			return e.own
		}
	}
	t.Fatal("the connection is not there")
	return ""
}
