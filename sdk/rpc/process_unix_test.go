//go:build unix

package rpc_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/rpc"
	"github.com/starling-sync/starling/sdk/rpc/rpctest"
)

// TestStart_NoDescriptors wants a host that is short of descriptors to say that the same start may work later.
func TestStart_NoDescriptors(t *testing.T) {
	c := rpctest.Command(t, rpctest.Self(t))
	c.SocketDir = t.TempDir()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	none := limit
	none.Cur = 3
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	_, err := rpc.Start(t.Context(), c)
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if sdk.CodeOf(err) != sdk.CodeUnavailable || !errors.Is(err, syscall.EMFILE) {
		t.Errorf("want code %s and EMFILE, got %s: %v", sdk.CodeUnavailable, sdk.CodeOf(err), err)
	}
}

// TestStart_NoInterpreter wants a binary that never runs to be told from a host that can not run it now.
func TestStart_NoInterpreter(t *testing.T) {
	c := rpctest.Command(t, filepath.Join(t.TempDir(), "plugin"))
	if err := os.WriteFile(c.Path, []byte("#!/absent/interpreter\n"), 0o700); err != nil { //nolint:gosec // it is run
		t.Fatal(err)
	}
	if _, err := rpc.Start(t.Context(), c); sdk.CodeOf(err) != sdk.CodeInvalid || !strings.Contains(err.Error(), c.Path) {
		t.Errorf("want code %s, got %s: %v", sdk.CodeInvalid, sdk.CodeOf(err), err)
	}
}
