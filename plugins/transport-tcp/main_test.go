package main

import (
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/rpc"
	"github.com/starling-sync/starling/sdk/rpc/rpctest"
	"github.com/starling-sync/starling/sdk/sdktest"
)

func TestMain(m *testing.M) {
	rpctest.Main(transport{})
	m.Run()
}

func TestTransport(t *testing.T) {
	t.Run("in process", func(t *testing.T) {
		sdktest.Transport(t, func(*testing.T) sdk.Transport { return transport{} })
	})
	t.Run("binary", func(t *testing.T) {
		path := rpctest.Build(t, ".")
		sdktest.Transport(t, func(t *testing.T) sdk.Transport { return rpctest.Transport(t, path) })
	})
}

// TestTransport_InheritedSocket accepts on a socket that the host opened before the plugin started.
func TestTransport_InheritedSocket(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("sockets can not be passed to another process on this system")
	}
	socket, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = socket.Close() }()
	command := rpctest.Command(t, rpctest.Self(t))
	command.Sockets = []rpc.Socket{{Address: "lan", Listener: socket.(*net.TCPListener)}}
	process, err := rpc.Start(t.Context(), command)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(process.Kill)
	tcp := process.Client().Transport("tcp")
	for name, each := range map[string]struct {
		address  string
		listener net.Listener
	}{"by address": {"lan", nil}, "by listener": {"", socket}} {
		t.Run(name, func(t *testing.T) {
			l, err := tcp.Listen(t.Context(), each.address, each.listener)
			if err != nil {
				t.Fatal(err)
			}
			peer, err := net.Dial("tcp", socket.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = peer.Close() }()
			conn, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			if got, want := conn.RemoteAddress(), peer.LocalAddr().String(); got != want {
				t.Errorf("accepted from %s, want %s", got, want)
			}
			_ = conn.Close()
			if err := l.Close(); err != nil { // the socket itself stays open, for the next round
				t.Error(err)
			}
		})
	}
}

func TestTransport_Errors(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	for name, each := range map[string]struct {
		address string
		want    sdk.Code
	}{
		"no port":    {"127.0.0.1", sdk.CodeInvalid},
		"port taken": {taken.Addr().String(), sdk.CodeUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := transport{}.Listen(t.Context(), each.address, nil)
			if err == nil {
				_ = l.Close()
			}
			if got := sdk.CodeOf(err); got != each.want {
				t.Errorf("want %s, got %s: %v", each.want, got, err)
			}
		})
	}
}

// failing is a net.Listener whose Accept returns errors, one after another, before it does what others do.
type failing struct {
	net.Listener
	errors  []error
	forever bool // the first of errors
}

func (l *failing) Accept() (net.Conn, error) {
	if len(l.errors) == 0 {
		return l.Listener.Accept()
	}
	err := l.errors[0]
	if !l.forever {
		l.errors = l.errors[1:]
	}
	return nil, &net.OpError{Op: "accept", Net: "tcp", Err: err}
}

// TestListener_AcceptFails wants a listener to outlive what passes, to say what does not, and to close meanwhile.
func TestListener_AcceptFails(t *testing.T) {
	listen := func(t *testing.T, forever bool, errs ...error) sdk.Listener {
		t.Helper()
		socket, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		l, err := transport{}.Listen(t.Context(), "", &failing{socket, errs, forever})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		return l
	}
	errnos := passingErrnos()
	t.Run("for a moment", func(t *testing.T) {
		l := listen(t, false, os.NewSyscallError("accept", errnos[0]), os.NewSyscallError("accept", errnos[1]), errnos[5])
		peer, err := net.Dial("tcp", l.Address())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = peer.Close() }()
		conn, err := l.Accept()
		if err != nil {
			t.Fatalf("the listener is deaf: %v", err)
		}
		_ = conn.Close()
	})
	t.Run("for good", func(t *testing.T) {
		if _, err := listen(t, false, syscall.EINVAL).Accept(); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("want EINVAL, got %v", err)
		}
	})
	t.Run("closed meanwhile", func(t *testing.T) {
		l := listen(t, true, os.NewSyscallError("accept", errnos[1]))
		ended := make(chan error, 1)
		go func() {
			_, err := l.Accept()
			ended <- err
		}()
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		if err := <-ended; !errors.Is(err, net.ErrClosed) {
			t.Errorf("want net.ErrClosed, got %v", err)
		}
	})
}

// BenchmarkTransport carries 64 KiB at a time through two plugin processes over TCP loopback.
func BenchmarkTransport(b *testing.B) {
	path := rpctest.Self(b)
	from, to := transports(b, path), transports(b, path)
	listener, err := to.Listen(b.Context(), "127.0.0.1:0", nil)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	out, err := from.Dial(b.Context(), listener.Address())
	if err != nil {
		b.Fatal(err)
	}
	in, err := listener.Accept()
	if err != nil {
		b.Fatal(err)
	}
	b.Run("stream", func(b *testing.B) {
		piece := make([]byte, 64<<10)
		b.SetBytes(int64(len(piece)))
		done := make(chan error, 1)
		go func() {
			_, err := io.CopyN(io.Discard, in, int64(b.N)*int64(len(piece)))
			done <- err
		}()
		for range b.N {
			if _, err := out.Write(piece); err != nil {
				b.Fatal(err)
			}
		}
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	})
	b.Run("round trip of 200 bytes", func(b *testing.B) {
		echo := make([]byte, 200)
		go func() {
			buf := make([]byte, 200)
			for {
				if _, err := io.ReadFull(in, buf); err != nil {
					return
				}
				if _, err := in.Write(buf); err != nil {
					return
				}
			}
		}()
		for b.Loop() {
			if _, err := out.Write(echo); err != nil {
				b.Fatal(err)
			}
			if _, err := io.ReadFull(out, echo); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func transports(b *testing.B, path string) sdk.Transport {
	b.Helper()
	command := rpctest.Command(b, path)
	p, err := rpc.Start(b.Context(), command)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(p.Kill)
	return p.Client().Transport("tcp")
}

// TestListener_MakesWay has two processes take turns at one socket of the host's while peers connect. None is lost: who was
// accepted is served, who was not waits for the other.
func TestListener_MakesWay(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("sockets can not be passed on")
	}
	socket, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	address := socket.Addr().String()
	path := rpctest.Build(t, ".")
	var transports []sdk.Transport
	for range 2 {
		command := rpctest.Command(t, path)
		command.Sockets = []rpc.Socket{{Address: address, Listener: socket.(*net.TCPListener)}}
		p, err := rpc.Start(t.Context(), command)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.Kill)
		transports = append(transports, p.Client().Transport("tcp"))
	}
	var accepting, connecting sync.WaitGroup
	take := func(i int) sdk.Listener {
		l, err := transports[i%2].Listen(t.Context(), address, nil)
		if err != nil {
			t.Fatal(err)
		}
		accepting.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					_ = l.Close()
					return
				}
				_, _ = c.Write([]byte("x"))
				_ = c.Close()
			}
		})
		return l
	}
	last := take(0)
	stop := make(chan struct{})
	var served atomic.Int64
	for range 4 {
		connecting.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				c, err := net.Dial("tcp", address)
				if err != nil {
					t.Errorf("refused: %v", err)
					return
				}
				_ = c.SetDeadline(time.Now().Add(2 * time.Minute))
				if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
					t.Errorf("not served: %v", err)
				}
				c.Close()
				served.Add(1)
			}
		})
	}
	for i := range 20 {
		for before := served.Load(); served.Load() < before+20; { // so that each takes part
			runtime.Gosched()
		}
		next := take(i + 1)
		last.(interface{ Shutdown() }).Shutdown()
		last = next
	}
	close(stop)
	connecting.Wait()
	_ = last.Close()
	accepting.Wait()
	t.Logf("%d connections, 20 turns", served.Load())
}
