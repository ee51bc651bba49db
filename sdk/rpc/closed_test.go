package rpc_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/starling-sync/starling/sdk/rpc"
)

// TestStart_saysNothing wants a program that ends its output without a word to be told from one that is late.
func TestStart_saysNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "plugin")
	if err := os.WriteFile(path, []byte("#!/bin/sh\nexec >&-\nexec sleep 1000\n"), 0o700); err != nil { //nolint:gosec // it is run
		t.Fatal(err)
	}
	_, err := rpc.Start(t.Context(), rpc.Command{Name: "plugin", Path: path, Log: hclog.NewNullLogger(), SocketDir: t.TempDir()})
	if want := path + " closed its standard output before its handshake; is it a Starling plugin?"; err == nil || err.Error() != want {
		t.Errorf("got %v; want %q", err, want)
	}
}
