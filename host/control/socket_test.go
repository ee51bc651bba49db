package control_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/control"
	"github.com/starling-sync/starling/host/control/controltest"
	"github.com/starling-sync/starling/sdk"
)

func TestListen_PrivateAndExclusive(t *testing.T) {
	dir := shortDir(t)
	listener, err := control.Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close() //nolint:errcheck // a test
	info, err := os.Stat(filepath.Join(dir, "control.sock"))
	if err != nil {
		t.Fatal(err)
	}
	if runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, want 0600", info.Mode().Perm())
	}
	if _, err := control.Listen(dir); sdk.CodeOf(err) != sdk.CodeUnavailable {
		t.Errorf("a second listener: %v", err)
	}
}

func TestListen_ReplacesTheSocketOfAKilledHost(t *testing.T) {
	for _, long := range []bool{false, true} {
		dir := shortDir(t)
		if long {
			dir = longDir(t)
		}
		killed, err := control.Listen(dir)
		if err != nil {
			t.Fatal(err)
		}
		address := killed.Addr().String()
		leaveBehind(t, dir, killed)
		if _, err := control.Dial(context.Background(), dir); !errors.Is(err, control.ErrNoHost) {
			t.Errorf("dial of a dead socket: %v", err)
		}
		listener, err := control.Listen(dir)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Dir(address)); long && !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the old folder %s is still there: %v", filepath.Dir(address), err)
		}
		_ = listener.Close()
	}
}

// leaveBehind closes a listener and leaves its files, as kill -9 does.
func leaveBehind(tb testing.TB, dir string, listener net.Listener) {
	tb.Helper()
	path, pointer := listener.Addr().String(), filepath.Join(dir, "control.path")
	if err := os.Rename(path, path+".kept"); err != nil {
		tb.Fatal(err)
	}
	pointed, missing := os.ReadFile(pointer) //nolint:gosec // a test's own folder
	_ = listener.Close()
	if err := os.Rename(path+".kept", path); err != nil {
		tb.Fatal(err)
	}
	if missing == nil {
		if err := os.WriteFile(pointer, pointed, 0o600); err != nil {
			tb.Fatal(err)
		}
	}
}

func longDir(tb testing.TB) string {
	tb.Helper()
	dir := filepath.Join(shortDir(tb), strings.Repeat("long/", 20)+strings.Repeat("x", 100))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		tb.Fatal(err)
	}
	return dir
}

func TestListen_LongPath(t *testing.T) {
	dir := longDir(t)
	listener, err := control.Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	host := controltest.NewHost(self, hlc.New(1, 0), tagModel())
	t.Run("serves", func(t *testing.T) {
		c := serve(t, host, dir, listener)
		if _, err := c.Status(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if _, err := os.Stat(filepath.Dir(address)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there: %v", filepath.Dir(address), err)
	}
	if _, err := os.Stat(filepath.Join(dir, "control.path")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the pointer is still there: %v", err)
	}
}

func TestDial_NoHost(t *testing.T) {
	_, err := control.Dial(context.Background(), shortDir(t))
	if !errors.Is(err, control.ErrNoHost) || sdk.CodeOf(err) != sdk.CodeUnavailable {
		t.Errorf("got %v", err)
	}
}
