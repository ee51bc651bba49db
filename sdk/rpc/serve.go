package rpc

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	plugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"github.com/starling-sync/starling/sdk"
)

// What a host tells a plugin process at its start, in the environment.
const (
	envLifeline  = "STARLING_PLUGIN_LIFELINE"  // the descriptor of a pipe that ends when the host does
	envHost      = "STARLING_PLUGIN_HOST"      // the host's process id, where descriptors can not be passed
	envListeners = "STARLING_PLUGIN_LISTENERS" // how many listening sockets follow the lifeline
	envLogLevel  = "STARLING_PLUGIN_LOG_LEVEL"

	lifelineDescriptor = 3 // the first after the standard ones
	firstListener      = lifelineDescriptor + 1
)

// Serve serves the models and the transport among servers to the host that started this process, until the host stops
// it or is gone; then the process ends. Each of servers is an sdk.ModelServer, which may be an sdk.Source as well, or
// an sdk.Transport, of which there is one at most; each may also be an sdk.Configurable or a Checker. An *sdk.Metrics among
// servers is what the process counts for operators.
//
// With the argument -debug, or -debug=FILE, a process that no host started waits for one to attach to it instead, so that it
// can be run under a debugger: see Attach. FILE is where it says how; by default starling-debug.json in the working directory.
//
// Call it from main, and print nothing on standard output before. The default loggers of hclog, slog and log
// write to the host's log from then on: each entry at its level, and a line of log at info, or at that which it begins with, as "[WARN] ". Started by hand, or given what can not be served, Serve says so and exits with status 1.
func Serve(servers ...any) {
	if !StartedByHost() {
		if file, asked := debugFile(os.Args[1:]); asked {
			os.Exit(serveDebug(file, servers))
		}
		fmt.Fprintf(os.Stderr, "%s is a Starling plugin: the host starts it. Name it in config.hcl and run `starling run`.\n", os.Args[0])
		os.Exit(1)
	}
	logger := hclog.New(&hclog.LoggerOptions{
		Level: hclog.LevelFromString(os.Getenv(envLogLevel)), Output: os.Stderr, JSONFormat: true,
	})
	logTo(logger)
	watchHost(func() {
		logger.Warn("the host is gone: ending")
		os.Exit(1)
	})
	s, err := prepare(logger, servers)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig: handshake(),
		Plugins:         plugin.PluginSet{pluginName: &border{server: s}},
		Logger:          logger.Named("border"),
		GRPCServer:      s.grpc,
	})
}

// grpc makes the process's server.
func (s *server) grpc(options []grpc.ServerOption) *grpc.Server {
	g := grpc.NewServer(append(append(options, serverOptions()...), s.interceptors()...)...)
	s.stop = g.Stop
	return g
}

// StartedByHost reports whether a host started this process as a plugin, so that a binary can be both.
func StartedByHost() bool {
	return os.Getenv(handshake().MagicCookieKey) == handshake().MagicCookieValue
}

// prepare makes the server. What models print meanwhile does not disturb the handshake.
func prepare(logger hclog.Logger, servers []any) (*server, error) {
	stdout := os.Stdout
	os.Stdout = os.Stderr
	defer func() { os.Stdout = stdout }()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	s, err := newServer(ctx, logger, servers)
	if err != nil {
		return nil, err
	}
	s.listeners, err = inheritedListeners()
	return s, err
}

// inheritedListeners returns what gives a fresh listener on the socket of an index, as often as asked: the process
// keeps the sockets themselves.
func inheritedListeners() (func(index int) (net.Listener, error), error) {
	count := 0
	if value := os.Getenv(envListeners); value != "" {
		var err error
		if count, err = strconv.Atoi(value); err != nil {
			return nil, fmt.Errorf("%s: %w", envListeners, err)
		}
	}
	var mu sync.Mutex
	files := make([]*os.File, count)
	for i := range files {
		fd := uintptr(firstListener + i) //nolint:gosec // a handful
		closeOnExec(fd)
		files[i] = os.NewFile(fd, fmt.Sprintf("listener %d", i))
	}
	return func(index int) (net.Listener, error) {
		if index < 0 || index >= len(files) {
			return nil, sdk.Errorf(sdk.CodeInvalid, "no socket %d: %d were inherited", index, len(files))
		}
		mu.Lock()
		defer mu.Unlock()
		l, err := net.FileListener(files[index])
		if err != nil {
			return nil, fmt.Errorf("use inherited socket %d: %w", index, err)
		}
		return l, nil
	}, nil
}
