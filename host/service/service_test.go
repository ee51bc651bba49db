//go:build unix

package service

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"

	"github.com/starling-sync/starling/sdk"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, network, address string) (net.Listener, *os.File) {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	file, err := l.(interface{ File() (*os.File, error) }).File() //nolint:forcetypeassert // both kinds have it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = file.Close() })
	return l, file
}

func TestSockets(t *testing.T) {
	one, fileOne := open(t, "tcp", "127.0.0.1:0")
	all, fileAll := open(t, "tcp", ":0")
	s, err := inherit([]*os.File{fileOne, fileAll})
	if err != nil {
		t.Fatal(err)
	}
	port := func(l net.Listener) string { return strconv.Itoa(l.Addr().(*net.TCPAddr).Port) } //nolint:forcetypeassert // TCP
	for range 2 {                                                                             // again after it was closed
		for _, address := range []string{"127.0.0.1:" + port(one), "0.0.0.0:" + port(all), "[::]:" + port(all), ":" + port(all)} {
			got, err := s.Listen(t.Context(), address) // the port is taken, so that it is no new one
			if err != nil {
				t.Fatalf("%s: %v", address, err)
			}
			conn, err := net.Dial("tcp", "127.0.0.1:"+got.Addr().String()[len(got.Addr().String())-len(port(one)):])
			if err == nil {
				_ = conn.Close()
			}
			_ = got.Close()
		}
	}
	if got, err := s.Listen(t.Context(), "127.0.0.1:"+port(all)); err == nil {
		_ = got.Close()
		t.Error("a socket of all addresses was taken for one of them")
	}
	own, err := s.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = own.Close()
	if unused := s.Unused(); unused != "" {
		t.Errorf("not asked for: %s", unused)
	}
	var none *Sockets
	if own, err = none.Listen(t.Context(), "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	_ = own.Close()
}

func TestSockets_Unused(t *testing.T) {
	one, file := open(t, "tcp", "127.0.0.1:0")
	s, err := inherit([]*os.File{file})
	if err != nil || s.Unused() != one.Addr().String() {
		t.Errorf("%v, %q", err, s.Unused())
	}
}

func TestSockets_Refuses(t *testing.T) {
	_, unix := open(t, "unix", filepath.Join(t.TempDir(), "s"))
	plain, err := os.Create(filepath.Join(t.TempDir(), "plain"))
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	server, _ := open(t, "tcp", "127.0.0.1:0")
	conn, err := net.Dial("tcp", server.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	connected, err := conn.(*net.TCPConn).File() //nolint:forcetypeassert // TCP
	if err != nil {
		t.Fatal(err)
	}
	defer connected.Close()
	for _, file := range []*os.File{unix, plain, connected} {
		if _, err := inherit([]*os.File{file}); sdk.CodeOf(err) != sdk.CodeInvalid {
			t.Errorf("%s: %v", file.Name(), err)
		}
	}
}

// TestManager_Watch feeds the watchdog while the host is alive, and not otherwise.
func TestManager_Watch(t *testing.T) {
	path := filepath.Join(t.TempDir(), "n")
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer notify.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "40000")
	t.Setenv("WATCHDOG_PID", strconv.Itoa(os.Getpid()))
	ctx, cancel := context.WithCancel(t.Context())
	asked, answer := make(chan struct{}), make(chan error)
	done := make(chan error, 1)
	m := NewManager(hclog.NewNullLogger())
	go func() {
		done <- m.Watch(ctx, func(ctx context.Context) error {
			select {
			case asked <- struct{}{}:
				return <-answer
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	buffer := make([]byte, 100)
	heard := func() string {
		n, err := notify.Read(buffer)
		if err != nil {
			return ""
		}
		return string(buffer[:n])
	}
	<-asked
	answer <- nil
	if got := heard(); got != "WATCHDOG=1" {
		t.Errorf("alive: %q", got)
	}
	for range 3 {
		<-asked
		answer <- errors.New("it hangs")
	}
	<-asked // the one before has been dealt with
	m.Ready()
	if got := heard(); got != "READY=1" {
		t.Errorf("hanging: %q", got)
	}
	m.Waiting("the server")
	if got := heard(); got != "EXTEND_TIMEOUT_USEC=120000000\nSTATUS=the server" {
		t.Errorf("waiting: %q", got)
	}
	answer <- nil
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
