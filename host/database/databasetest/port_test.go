//go:build unix

package databasetest

import (
	"errors"
	"net"
	"testing"
)

// TestStart_PortTaken starts a server at a port that another process has taken meanwhile: that is told from other failures, for
// StartTCP to try another one.
func TestStart_PortTaken(t *testing.T) {
	if _, err := found(); err != nil {
		refuse(t, err)
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()                                                              //nolint:errcheck // nothing was written
	server, err := start(taken.Addr().(*net.TCPAddr).Port, nil, argumentsOf(nil)...) //nolint:forcetypeassert // it listens on TCP
	if err == nil {
		server.end()
	}
	if !errors.Is(err, errPortTaken) {
		t.Errorf("got %v", err)
	}
}
