//go:build unix

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"golang.org/x/sync/errgroup"

	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/rpc"
	"github.com/starling-sync/starling/sdk/rpc/rpctest"
)

// serverBinary builds nats-server, from the module that the tests also embed, once.
var serverBinary = sync.OnceValues(func() (string, error) {
	path := filepath.Join(buildDir, "nats-server")
	return path, rpctest.BuildAt(path, "github.com/nats-io/nats-server/v2", "-ldflags", "-s -w")
})

// serverProcess is a nats-server in a process of its own, at one address for all its lives.
type serverProcess struct {
	address string
	cmd     *exec.Cmd
}

func newServerProcess(tb testing.TB) *serverProcess {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	s := &serverProcess{address: l.Addr().String()}
	_ = l.Close()
	tb.Cleanup(s.kill)
	s.start(tb)
	return s
}

func (s *serverProcess) start(tb testing.TB) {
	tb.Helper()
	path, err := serverBinary()
	if err != nil {
		tb.Fatal(err)
	}
	host, port, err := net.SplitHostPort(s.address)
	if err != nil {
		tb.Fatal(err)
	}
	s.cmd = exec.Command(path, "-a", host, "-p", port)
	if err := s.cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	eventually(tb, "nats-server takes connections", func() error {
		c, err := net.Dial("tcp", s.address)
		if err == nil {
			_ = c.Close()
		}
		return err
	})
}

// kill ends it with SIGKILL.
func (s *serverProcess) kill() {
	if s.cmd != nil {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
		s.cmd = nil
	}
}

func (s *serverProcess) config() []byte {
	return fmt.Appendf(nil, `{"servers": ["nats://%s"]}`, s.address)
}

// startProcess returns a plugin's process, and its transport.
func startProcess(tb testing.TB, config []byte) (*rpc.Process, sdk.Transport) {
	tb.Helper()
	p := rpctest.Start(tb, rpctest.Self(tb))
	t := p.Client().Transport("nats")
	if err := t.(sdk.Configurable).Configure(tb.Context(), config); err != nil {
		tb.Fatal(err)
	}
	return p, t
}

// TestProcess_ServerKilled has the server killed again and again while data flows between two plugins' processes: what
// is read is always a prefix of what was written.
func TestProcess_ServerKilled(t *testing.T) {
	t.Parallel()
	s := newServerProcess(t)
	_, alice := startProcess(t, s.config())
	_, bob := startProcess(t, s.config())
	l := listenAs(t, alice, "alice")
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // 1 MiB
	for range 5 {
		a, b := connect(t, bob, l)
		flowing := make(chan struct{})
		var group errgroup.Group
		group.Go(func() error {
			for {
				if _, err := a.Write(data); err != nil {
					return nil //nolint:nilerr // its end
				}
			}
		})
		group.Go(func() error {
			got := make([]byte, len(data))
			for i := 0; ; i++ {
				n, err := io.ReadFull(b, got)
				if !bytes.Equal(got[:n], data[:n]) {
					return errors.New("what was read is not what was written")
				}
				if err != nil {
					return nil //nolint:nilerr // its end
				}
				if i == 3 {
					close(flowing)
				}
			}
		})
		<-flowing
		s.kill()
		if err := group.Wait(); err != nil {
			t.Fatal(err)
		}
		s.start(t)
	}
}

// TestProcess_PeerKilled kills a peer's process: its server tells at the next message.
func TestProcess_PeerKilled(t *testing.T) {
	t.Parallel()
	s := newServerProcess(t)
	_, alice := startProcess(t, s.config())
	process, bob := startProcess(t, s.config())
	l := listenAs(t, alice, "alice")
	_, b := connect(t, bob, l)
	process.Kill()
	eventually(t, "a write fails", func() error {
		if _, err := b.Write([]byte("x")); err == nil {
			return errors.New("not yet")
		}
		return nil
	})
	mustEnd(t, "is gone", b)
}

// TestProcess_SlowConsumer stops a plugin's process while its server has more for it than the server holds: the server
// throws it out, its connections end, none has a gap, and all works again afterwards.
func TestProcess_SlowConsumer(t *testing.T) {
	t.Parallel()
	s := startServer(t, func(o *server.Options) { o.MaxPending, o.WriteDeadline = 1<<20, time.Second })
	config := configOf(t, []*server.Server{s}, nil)
	process, alice := startProcess(t, config)
	bob := newTransport(t, config)
	l := listenAs(t, alice, "alice")
	const many = 40
	var ins, outs []sdk.Conn
	for range many {
		out, in := connect(t, bob, l)
		outs, ins = append(outs, out), append(ins, in)
	}
	if err := syscall.Kill(process.PID(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	var group errgroup.Group
	for i, out := range outs {
		group.Go(func() error {
			piece := bytes.Repeat([]byte{byte(i)}, 64<<10)
			for {
				if _, err := out.Write(piece); err != nil {
					if sdk.CodeOf(err) != sdk.CodeUnavailable {
						return err
					}
					return nil //nolint:nilerr // its end
				}
			}
		})
	}
	eventually(t, "the server throws the stopped one out", func() error {
		if s.NumSlowConsumers() == 0 {
			return fmt.Errorf("%d clients", s.NumClients())
		}
		return nil
	})
	if err := syscall.Kill(process.PID(), syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	for i, in := range ins {
		got, err := io.ReadAll(in)
		if err == nil || sdk.CodeOf(err) != sdk.CodeUnavailable {
			t.Errorf("connection %d ended with %v", i, err)
		}
		if len(bytes.Trim(got, string(rune(i)))) > 0 {
			t.Errorf("connection %d has bytes of another", i)
		}
	}
	a, b := connect(t, bob, l)
	mustTalk(t, a, b)
}

// TestProcess_SmallMessages wants a server whose messages are too small to be named, with what to do.
func TestProcess_SmallMessages(t *testing.T) {
	s := startServer(t, func(o *server.Options) { o.MaxPayload = 400 })
	_, alice := startProcess(t, configOf(t, []*server.Server{s}, nil))
	_, err := alice.Dial(t.Context(), "bob")
	if sdk.CodeOf(err) != sdk.CodeUnavailable || !strings.Contains(err.Error(), "raise its max_payload to 512") {
		t.Errorf("%s: %v", sdk.CodeOf(err), err)
	}
}

// TestBinary wants nothing of the server in the plugin's binary.
func TestBinary(t *testing.T) {
	out, err := exec.Command("go", "version", "-m", rpctest.Build(t, ".")).Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, module := range []string{"nats-server", "nats-io/jwt"} {
		if strings.Contains(string(out), module) {
			t.Errorf("%s is in the binary:\n%s", module, out)
		}
	}
	if !strings.Contains(string(out), "github.com/nats-io/nats.go") {
		t.Errorf("the binary does not say what it is made of:\n%s", out)
	}
}
