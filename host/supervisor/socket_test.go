//go:build unix

package supervisor

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/starling-sync/starling/sdk"
)

// TestSupervisor_SocketSurvivesCrash connects while the transport is dead, and is served by its successor.
func TestSupervisor_SocketSurvivesCrash(t *testing.T) {
	const address = "127.0.0.1:0"
	spec := selfSpec(t, "")
	spec.Listen, spec.Transport = address, "loopback"
	w := newWatcher()
	run(t, options(t, t.TempDir(), w), spec)
	first := receive(t, w.up, "up")
	l, err := first.Transport.Listen(t.Context(), address, nil)
	if err != nil {
		t.Fatal(err)
	}
	at := l.Address()
	if err := syscall.Kill(first.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	receive(t, w.down, "down") // from here until the second Listen nobody accepts
	peer, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatalf("dial while nobody accepts: %v", err)
	}
	defer func() { _ = peer.Close() }()
	if _, err := l.Accept(); err == nil {
		t.Error("accept on a dead plugin succeeded")
	}
	second := receive(t, w.up, "up again")
	again, err := second.Transport.Listen(t.Context(), address, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = again.Close() }()
	if again.Address() != at {
		t.Errorf("address %s became %s", at, again.Address())
	}
	conn, err := again.Accept()
	if err != nil {
		t.Fatalf("the waiting peer was lost: %v", err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := conn.Write([]byte("hi")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 2)
	if _, err := io.ReadFull(peer, got); err != nil || string(got) != "hi" {
		t.Errorf("peer read %q, %v", got, err)
	}
}

func TestSupervisor_PortInUse(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	spec := selfSpec(t, "")
	spec.Listen = taken.Addr().String()
	s, err := New(options(t, t.TempDir(), newWatcher()), []Spec{spec})
	if err != nil {
		t.Fatal(err)
	}
	err = s.Run(t.Context())
	if sdk.CodeOf(err) != sdk.CodeUnavailable || !strings.Contains(err.Error(), spec.Listen) {
		t.Errorf("want an error that names %s, got %v", spec.Listen, err)
	}
}

// TestSupervisor_PortOfOrphan starts a host while a plugin of the one before, which was killed, still has its socket.
func TestSupervisor_PortOfOrphan(t *testing.T) {
	orphan, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	spec := selfSpec(t, "")
	spec.Transport, spec.Listen = "loopback", orphan.Addr().String()
	w := newWatcher()
	o := options(t, t.TempDir(), w)
	o.Listen = func(ctx context.Context, address string) (*net.TCPListener, error) {
		defer func() { _ = orphan.Close() }() // it ends once it has been met
		return listenTCP(ctx, address)
	}
	run(t, o, spec)
	receive(t, w.up, "up")
}

// TestSocketDir wants what a killed host left behind gone, in a folder with a long path as in one with a short one, and what is
// another host's left alone.
func TestSocketDir(t *testing.T) {
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	for name, dir := range map[string]string{"short": filepath.Join(temp, "s[1]"), "long": filepath.Join(temp, strings.Repeat("l", maxRuntimePath))} {
		t.Run(name, func(t *testing.T) {
			if name == "short" && len(dir) > maxRuntimePath {
				t.Skipf("no temporary folder with a short path: %s", dir)
			}
			left := make([]string, 3)
			for i, runtimeDir := range []string{dir, dir + "-another", strings.NewReplacer("[", "", "]", "").Replace(dir) + strings.Repeat("2", len(dir)/maxRuntimePath)} {
				killed, _, err := socketDir(runtimeDir)
				if err != nil {
					t.Fatal(err)
				}
				left[i] = filepath.Join(killed, "plugin-dir1")
				if err := os.MkdirAll(left[i], 0o700); err != nil {
					t.Fatal(err)
				}
			}
			asked := filepath.Join(dir, describing+"1")
			if err := os.MkdirAll(asked, 0o700); err != nil {
				t.Fatal(err)
			}
			_, remove, err := socketDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer remove()
			for _, path := range []string{left[0], asked} {
				if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s of a killed host is there: %v", path, err)
				}
			}
			for _, path := range left[1:] {
				if _, err := os.Stat(path); err != nil {
					t.Errorf("another host's is gone: %v", err)
				}
			}
		})
	}
}
