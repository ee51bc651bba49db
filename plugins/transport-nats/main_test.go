package main

import (
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/nats-io/nats-server/v2/server"
	"go.uber.org/goleak"

	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/rpc/rpctest"
	"github.com/starling-sync/starling/sdk/sdktest"
)

var buildDir string // for what tests share

func TestMain(m *testing.M) {
	rpctest.Main(&transport{})
	dir, err := os.MkdirTemp("", "transport-nats-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	buildDir = dir
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(dir)
		os.Exit(code)
	}))
}

// startServer runs a NATS server in this process until the test ends, unless it is shut down before.
func startServer(tb testing.TB, change func(o *server.Options)) *server.Server {
	tb.Helper()
	o := &server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true}
	if change != nil {
		change(o)
	}
	s, err := server.NewServer(o)
	if err != nil {
		tb.Fatal(err)
	}
	s.Start()
	tb.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	if !s.ReadyForConnections(30 * time.Second) {
		tb.Fatal("the NATS server does not start")
	}
	return s
}

// configOf returns the config block of a device that uses servers, with further settings.
func configOf(tb testing.TB, servers []*server.Server, more map[string]any) json.RawMessage {
	tb.Helper()
	var urls []string
	for _, s := range servers {
		u, err := url.Parse(s.ClientURL())
		if err != nil {
			tb.Fatal(err)
		}
		u.User = nil
		urls = append(urls, u.String())
	}
	block := map[string]any{"servers": urls}
	for name, value := range more {
		block[name] = value
	}
	config, err := json.Marshal(block)
	if err != nil {
		tb.Fatal(err)
	}
	return config
}

// newTransport returns a transport in this process that ends with the test.
func newTransport(tb testing.TB, config json.RawMessage) *transport {
	tb.Helper()
	t := &transport{}
	if err := t.Configure(tb.Context(), config); err != nil {
		tb.Fatal(err)
	}
	level := hclog.Error
	if testing.Verbose() {
		level = hclog.Debug
	}
	t.fabric.log = hclog.New(&hclog.LoggerOptions{Level: level})
	tb.Cleanup(t.fabric.close)
	return t
}

// newProcess returns the transport of a plugin process.
func newProcess(tb testing.TB, path string, config json.RawMessage) sdk.Transport {
	tb.Helper()
	t := rpctest.Start(tb, path).Client().Transport("nats")
	if err := t.(sdk.Configurable).Configure(tb.Context(), config); err != nil {
		tb.Fatal(err)
	}
	return t
}

// names gives each test its own, since one server serves many.
var names atomic.Int64

func newName() string { return fmt.Sprintf("device-%d", names.Add(1)) }

func TestTransport(t *testing.T) {
	t.Run("in process", func(t *testing.T) {
		config := configOf(t, []*server.Server{startServer(t, nil)}, nil)
		sdktest.Transport(t, func(t *testing.T) sdk.Transport { return newTransport(t, config) }, sdktest.ListenAt("alice"))
	})
	t.Run("binary", func(t *testing.T) {
		path := rpctest.Build(t, ".")
		config := configOf(t, []*server.Server{startServer(t, nil)}, nil)
		sdktest.Transport(t, func(t *testing.T) sdk.Transport { return newProcess(t, path, config) }, sdktest.ListenAt("alice"))
	})
	t.Run("small messages", func(t *testing.T) {
		s := startServer(t, func(o *server.Options) { o.MaxPayload = 512 })
		config := configOf(t, []*server.Server{s}, nil)
		sdktest.Transport(t, func(t *testing.T) sdk.Transport { return newTransport(t, config) }, sdktest.ListenAt("alice"))
	})
}
