package main

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/starling-sync/starling/host/config"
	"github.com/starling-sync/starling/host/control"
	"github.com/starling-sync/starling/host/service"
	"github.com/starling-sync/starling/host/telemetry"
	"github.com/starling-sync/starling/sdk"
)

// entrance holds where commands, and who scrapes metrics or asks for this host's health, connect. While the host waits for its
// database it answers them itself, until those who can say more take its place: nobody is refused in between.
type entrance struct {
	config  *config.Config
	manager *service.Manager
	sockets *service.Sockets
	log     hclog.Logger

	forCommands, forMetrics place

	mu     sync.Mutex // guards what follows
	reason string     // what the host waits for
	away   bool       // that is its database
}

func newEntrance(c *config.Config, manager *service.Manager, sockets *service.Sockets, log hclog.Logger) *entrance {
	return &entrance{config: c, manager: manager, sockets: sockets, log: log}
}

// wait has everybody told that the host waits for its database since a time, with the error of the latest attempt to open it. Its
// own error is of a place where it can not listen.
func (e *entrance) wait(since time.Time, err error) error {
	text := "it waits for its database since " + since.Format(time.DateTime) + ": " + err.Error()
	e.say(text, true)
	e.manager.Waiting(text)
	if err := e.openCommands(); err != nil {
		return err
	}
	e.forCommands.serve(func(ctx context.Context, listener net.Listener) error {
		return control.RunStarting(ctx, listener, e.log.Named("control"), e.err)
	})
	if e.config.Telemetry.Prometheus == "" {
		return nil
	}
	if err := e.openMetrics(); err != nil {
		return err
	}
	e.forMetrics.serve(func(ctx context.Context, listener net.Listener) error {
		return telemetry.RunStarting(ctx, listener, e.log.Named("telemetry"), e)
	})
	return nil
}

// waited ends what wait has everybody told.
func (e *entrance) waited() {
	e.mu.Lock()
	told := e.reason != ""
	e.mu.Unlock()
	if told {
		e.say("its database is there, its plugins are not yet", false)
		e.manager.Waited()
	}
}

func (e *entrance) say(reason string, away bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.reason, e.away = reason, away
}

// err is what commands are answered.
func (e *entrance) err() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return sdk.Errorf(sdk.CodeUnavailable, "the host for %s is starting: %s", e.config.Device.DataDir, e.reason)
}

// Alive implements telemetry.Health: a host that waits works.
func (e *entrance) Alive(context.Context) []telemetry.Check {
	e.mu.Lock()
	defer e.mu.Unlock()
	return []telemetry.Check{{Name: "host", OK: true, Reason: "starting: " + e.reason}}
}

// Ready implements telemetry.Health.
func (e *entrance) Ready(context.Context) []telemetry.Check {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.away {
		return []telemetry.Check{{Name: "host", Reason: "it is starting"}, {Name: "database", Reason: e.reason}}
	}
	return []telemetry.Check{{Name: "host", Reason: "it is starting: " + e.reason}, {Name: "database", OK: true}}
}

func (e *entrance) openCommands() error {
	return e.forCommands.open(func() (control.Listener, error) { return control.Listen(e.config.Device.DataDir) })
}

func (e *entrance) openMetrics() error {
	return e.forMetrics.open(func() (control.Listener, error) {
		c := e.config.Telemetry
		listener, err := e.sockets.Listen(context.Background(), c.Prometheus)
		if err != nil {
			return nil, sdk.Errorf(sdk.CodeUnavailable, "%s: prometheus: metrics can not be served at %s; choose another address, or stop what uses it: %w", c.PrometheusRange, c.Prometheus, err)
		}
		e.log.Info("metrics and health checks", "address", listener.Addr().String())
		return listener, nil
	})
}

// commands returns where commands connect, of which the caller takes care from now on.
func (e *entrance) commands() (net.Listener, error) {
	if err := e.openCommands(); err != nil {
		return nil, err
	}
	return e.forCommands.take()
}

// scrapes returns where metrics and health are asked for, of which the caller takes care from now on.
func (e *entrance) scrapes() (net.Listener, error) {
	if err := e.openMetrics(); err != nil {
		return nil, err
	}
	return e.forMetrics.take()
}

// close ends all of it. A nil entrance has nothing to end.
func (e *entrance) close() {
	if e != nil {
		e.forCommands.close()
		e.forMetrics.close()
	}
}

// place is where somebody connects. Its methods are called one after the other.
type place struct {
	listener control.Listener // nil: not open
	end      func() error     // ends the serving; nil: nobody serves
}

func (p *place) open(listen func() (control.Listener, error)) (err error) {
	if p.listener == nil {
		p.listener, err = listen()
	}
	return err
}

// serve has run serve at this place, on a goroutine that ends with take or close, unless somebody does already.
func (p *place) serve(run func(context.Context, net.Listener) error) {
	if p.end != nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, lent{p.listener}) }()
	p.end = func() error {
		cancel()
		return errors.Join(<-ended, p.listener.SetDeadline(time.Time{}))
	}
}

// take ends the serving and gives the listener away. Who connects meanwhile waits in its queue.
func (p *place) take() (net.Listener, error) {
	if p.end != nil {
		if err := p.end(); err != nil {
			return nil, err
		}
		p.end = nil
	}
	return p.listener, nil
}

func (p *place) close() {
	if p.end != nil {
		_ = p.end() // the host ends
		p.end = nil
	}
	if p.listener != nil {
		_ = p.listener.Close() // again, where somebody took it
	}
}

// lent is a listener that stays open when who serves on it closes it.
type lent struct{ control.Listener }

// Close implements net.Listener: it ends Accept.
func (l lent) Close() error { return l.SetDeadline(time.Unix(1, 0)) }
