package main

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/config"
	"github.com/starling-sync/starling/host/control"
	"github.com/starling-sync/starling/host/control/controltest"
	"github.com/starling-sync/starling/host/service"
	"github.com/starling-sync/starling/sdk"
)

// TestEntrance has commands and health checks answered while the host waits for its database, and by others afterwards at the same
// places.
func TestEntrance(t *testing.T) {
	dir, err := os.MkdirTemp("", "starling-") // short, for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	free, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	log := hclog.NewNullLogger()
	door := newEntrance(&config.Config{Device: config.Device{DataDir: dir}, Telemetry: config.Telemetry{Prometheus: address}},
		service.NewManager(log), &service.Sockets{}, log)
	defer door.close()
	since := time.Now()
	for _, reason := range []string{"open: nothing listens there", "open: it is starting up"} {
		if err := door.wait(since, errors.New(reason)); err != nil {
			t.Fatal(err)
		}
		wantStarting(t, dir, "is starting: it waits for its database since "+since.Format(time.DateTime)+": "+reason)
		wantHealth(t, address, "/healthz", http.StatusOK, reason)
		wantHealth(t, address, "/readyz", http.StatusServiceUnavailable, "failed  database: it waits for its database since")
		wantHealth(t, address, "/metrics", http.StatusServiceUnavailable, "starting")
	}
	door.waited()
	wantStarting(t, dir, "its plugins are not yet")
	wantHealth(t, address, "/readyz", http.StatusServiceUnavailable, "failed  host: it is starting")

	scrapes, err := door.scrapes()
	if err != nil {
		t.Fatal(err)
	}
	commands, err := door.commands()
	if err != nil {
		t.Fatal(err)
	}
	real := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "the real one") }), ReadHeaderTimeout: time.Minute}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 2)
	go func() {
		served <- control.NewServer(controltest.NewHost(sdk.DeviceID{1}, hlc.New(1, 0)).Backend(), log, sdk.NewRecordID).Run(ctx, commands)
	}()
	go func() { served <- real.Serve(scrapes) }()
	wantHealth(t, address, "/readyz", http.StatusOK, "the real one")
	client, err := control.Dial(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Status(t.Context()); err != nil {
		t.Errorf("the host that has started: %v", err)
	}
	client.Close()
	cancel()
	if err := errors.Join(real.Close(), <-served, <-served); !errors.Is(err, http.ErrServerClosed) {
		t.Error(err)
	}
}

func wantStarting(t *testing.T, dir, want string) {
	t.Helper()
	client, err := control.Dial(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	_, status := client.Status(t.Context())
	_, watch := client.Watch(t.Context())
	for _, err := range []error{status, watch} {
		if err == nil || !strings.Contains(err.Error(), want) || sdk.CodeOf(err) != sdk.CodeUnavailable {
			t.Errorf("got %v (%s), want %s", err, sdk.CodeOf(err), want)
		}
	}
}

func wantHealth(t *testing.T, address, path string, code int, want string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != code || !strings.Contains(string(text), want) {
		t.Errorf("%s: %d %s %v; want %d %s", path, response.StatusCode, text, err, code, want)
	}
}
