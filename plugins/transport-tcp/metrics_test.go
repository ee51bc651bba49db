package main

import (
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/starling-sync/starling/sdk"
)

// figures returns what set holds and is not zero.
func figures(set *sdk.Metrics) map[string]float64 {
	all := map[string]float64{}
	for _, m := range set.List() {
		if m.Value != 0 {
			all[m.Name] = m.Value
		}
	}
	return all
}

// TestMetrics counts one connection from its beginning to its end, and dials that fail, each for another reason.
func TestMetrics(t *testing.T) {
	alice, bob := new(sdk.Metrics), new(sdk.Metrics)
	wants := func(who string, set *sdk.Metrics, want map[string]float64) {
		t.Helper()
		if diff := cmp.Diff(want, figures(set)); diff != "" {
			t.Errorf("%s counts (-want +got):\n%s", who, diff)
		}
	}
	socket, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l, err := transport{newMetrics(alice)}.Listen(t.Context(), "", &failing{socket, []error{passingErrnos()[0]}, false})
	if err != nil {
		t.Fatal(err)
	}
	dialled, err := transport{newMetrics(bob)}.Dial(t.Context(), l.Address())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dialled.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(accepted, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	wants("bob", bob, map[string]float64{"tcp_connections": 1, "tcp_dials_total": 1, "tcp_sent_bytes_total": 5})
	wants("alice", alice, map[string]float64{"tcp_connections": 1, "tcp_accepts_total": 1, "tcp_accept_failures_total": 1, "tcp_received_bytes_total": 5})
	for _, c := range []io.Closer{dialled, accepted, dialled, l} { // one of them twice
		_ = c.Close()
	}
	if _, err := (transport{newMetrics(bob)}).Dial(t.Context(), l.Address()); err == nil {
		t.Error("a closed listener was reached")
	}
	late, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	given, up := context.WithCancel(t.Context())
	up()
	for address, ctx := range map[string]context.Context{l.Address(): late, "127.0.0.1:none": t.Context(), "127.0.0.1:nowhere": given} { // the last counts nowhere
		if _, err := (transport{newMetrics(bob)}).Dial(ctx, address); err == nil {
			t.Error("no port was reached")
		}
	}
	wants("bob", bob, map[string]float64{"tcp_dials_total": 1, "tcp_sent_bytes_total": 5, "tcp_dials_refused_total": 1, "tcp_dials_timed_out_total": 1, "tcp_dials_failed_total": 1})
}

// TestMetrics_Refused has a refusal be told as this system tells it: by a number that its sockets return.
func TestMetrics_Refused(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := net.Listen("tcp", l.Addr().String()); !errors.Is(err, errnoInUse) {
		t.Errorf("a port that is in use: %v", err)
	}
	_ = l.Close()
	if _, err := net.Dial("tcp", l.Addr().String()); !errors.Is(err, errnoRefused) {
		t.Errorf("a port that is not: %v", err)
	}
	if runtime.GOOS == "windows" && (errnoRefused != syscall.Errno(10061) || errnoReset != syscall.Errno(10054)) {
		t.Errorf("refused is %d and reset %d; want Winsock's", errnoRefused, errnoReset)
	}
	for _, each := range passingErrnos() { // Go's own numbers, of no system, begin there
		if runtime.GOOS == "windows" && each >= 1<<29 {
			t.Errorf("%d is no number of Windows", each)
		}
	}
}
