package telemetry

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Options is what a Server needs. All fields are required.
type Options struct {
	Source   Source
	Health   Health
	Recorder *Recorder
	Log      hclog.Logger
}

// Server serves the metrics and health checks of one device.
type Server struct {
	log       hclog.Logger
	collector *collector
	handler   http.Handler
}

// Bounds of what a client can take up.
const (
	readTime    = 5 * time.Second
	writeTime   = 30 * time.Second
	idleTime    = 2 * time.Minute
	headerBytes = 16 << 10
	scrapeTime  = 20 * time.Second
	scrapes     = 3 // at once
	stopTime    = 2 * time.Second
)

// NewServer returns a server. It starts nothing.
func NewServer(o Options) (*Server, error) {
	s := &Server{log: o.Log, collector: newCollector(o.Source, o.Recorder)}
	registry := prometheus.NewRegistry() // none of the process's own: two hosts in one process are two
	for _, c := range []prometheus.Collector{s.collector, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})} {
		if err := registry.Register(c); err != nil {
			return nil, err
		}
	}
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{
		ErrorLog: errorLog{o.Log}, ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: scrapes, Timeout: scrapeTime,
	}))
	mux.Handle("/healthz", healthHandler(o.Health.Alive))
	mux.Handle("/readyz", healthHandler(o.Health.Ready))
	s.handler = mux
	return s, nil
}

type errorLog struct{ hclog.Logger }

func (l errorLog) Println(v ...any) { l.Warn("not all metrics could be collected", "error", v) }

// Run serves on listener, which it closes, until ctx ends.
func (s *Server) Run(ctx context.Context, listener net.Listener) error {
	counting, end := context.WithCancel(ctx)
	counted := make(chan struct{})
	go func() {
		defer close(counted)
		s.collector.count(counting, func(err error) {
			s.log.Warn("what the database holds could not be counted; it is tried again", "error", err)
		})
	}()
	defer func() {
		end()
		<-counted
	}()
	return serveHTTP(ctx, listener, s.log, s.handler)
}

// RunStarting serves on listener, which it closes, until ctx ends, for a host that can do nothing yet: there are health checks, and
// no metrics.
func RunStarting(ctx context.Context, listener net.Listener, log hclog.Logger, health Health) error {
	mux := http.NewServeMux()
	mux.HandleFunc("/metrics", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "the host is starting; /readyz says what it waits for", http.StatusServiceUnavailable)
	})
	mux.Handle("/healthz", healthHandler(health.Alive))
	mux.Handle("/readyz", healthHandler(health.Ready))
	return serveHTTP(ctx, listener, log, mux)
}

func serveHTTP(ctx context.Context, listener net.Listener, log hclog.Logger, handler http.Handler) error {
	server := &http.Server{
		Handler: handler, ReadHeaderTimeout: readTime, ReadTimeout: readTime, WriteTimeout: writeTime, IdleTimeout: idleTime,
		MaxHeaderBytes: headerBytes, ErrorLog: log.StandardLogger(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug}),
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTime)
	defer cancel()
	if err := server.Shutdown(stopping); err != nil {
		_ = server.Close() // who is still being answered is cut off
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
