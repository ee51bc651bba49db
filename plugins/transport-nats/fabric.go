package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/hashicorp/go-hclog"
	"github.com/nats-io/nats.go"

	"github.com/starling-sync/starling/plugins/transport-nats/stream"
	"github.com/starling-sync/starling/sdk"
)

const (
	connectTime   = 5 * time.Second  // for one server
	pingTime      = 10 * time.Second // two missed ones end the connection to a server
	flushTime     = 10 * time.Second // for a server to take what is sent
	minRetry      = 250 * time.Millisecond
	maxRetry      = 5 * time.Second
	steady        = 2 * time.Second // a connection that held for so long was a good one
	moveWithin    = 2 * time.Second // of word that a server goes down: not all of its devices leave in one moment
	maxDiscovered = 32
)

// fabric is this process's place on NATS: a connection to one of the servers, made anew whenever it ends. Each such
// connection is a life, with which all that it carried ends: what NATS lost meanwhile nobody would know. So the client
// library's own way to reconnect is not used.
type fabric struct {
	settings *settings
	log      hclog.Logger
	ctx      context.Context //nolint:containedctx // until close
	cancel   context.CancelFunc
	running  sync.WaitGroup

	mu        sync.Mutex
	started   bool
	current   *life                  // nil: there is none now
	lives     map[*life]struct{}     // also those that are being left
	reason    error                  // why there is none; nil: it is being tried for the first time
	changed   chan struct{}          // closed, and replaced, when current or reason has changed
	listeners map[*listener]struct{} // which each life serves

	metrics metrics // set before it is used; else it counts nothing
}

// metrics are what an operator can watch of the transport.
type metrics struct {
	connects, refusals, losses *sdk.MetricCounter // of connections to servers
	peers                      *sdk.MetricGauge   // connections with peers
}

func newMetrics(set *sdk.Metrics) metrics {
	return metrics{
		connects: set.Counter("nats_server_connects_total", "Connections to NATS servers that were made."),
		refusals: set.Counter("nats_server_connect_failures_total", "Times that no NATS server took this device; it is tried again."),
		losses:   set.Counter("nats_server_connections_lost_total", "Connections to NATS servers that ended though nobody wanted it."),
		peers:    set.Gauge("nats_peer_connections", "Connections with peers that go through a NATS server."),
	}
}

// newFabric connects to nothing before it is used.
func newFabric(s *settings, log hclog.Logger) *fabric {
	f := &fabric{settings: s, log: log, changed: make(chan struct{}), lives: map[*life]struct{}{}, listeners: map[*listener]struct{}{}}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	return f
}

// close ends all connections. It is for tests: a plugin's process just ends.
func (f *fabric) close() {
	f.cancel()
	f.mu.Lock()
	lives := make([]*life, 0, len(f.lives))
	for l := range f.lives {
		lives = append(lives, l)
	}
	f.mu.Unlock()
	for _, l := range lives {
		l.nc.Close()
		<-l.ended
	}
	f.running.Wait()
}

// check says why no server can be reached; nil if one is, or it is not known yet.
func (f *fabric) check() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.current != nil {
		return nil
	}
	return f.reason
}

// name returns what peers are told that this device is called; "" if it listens as nobody.
func (f *fabric) name() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	name := ""
	for l := range f.listeners {
		if name == "" || l.name < name {
			name = l.name
		}
	}
	return name
}

// life returns the connection to a server; where there is none it waits until one is made or, unless patient, can not
// be.
func (f *fabric) life(ctx context.Context, patient bool) (*life, error) {
	for {
		f.mu.Lock()
		if !f.started && f.ctx.Err() == nil {
			f.started = true
			f.running.Go(f.keep)
		}
		current, reason, changed := f.current, f.reason, f.changed
		f.mu.Unlock()
		if current != nil {
			return current, nil
		}
		if reason != nil && !patient {
			return nil, reason
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, sdk.Errorf(sdk.CodeUnavailable, "%w", errors.Join(ctx.Err(), reason))
		case <-f.ctx.Done():
			return nil, sdk.Errorf(sdk.CodeUnavailable, "the NATS transport ends: %w", net.ErrClosed)
		}
	}
}

// set says what the life is now, or why there is none.
func (f *fabric) set(current *life, reason error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.current, f.reason = current, reason
	close(f.changed)
	f.changed = make(chan struct{})
}

// keep has this process connected until close.
func (f *fabric) keep() {
	pause := backoff.NewExponentialBackOff()
	pause.InitialInterval, pause.MaxInterval = minRetry, maxRetry
	var discovered []string
	said := ""
	for f.ctx.Err() == nil {
		l, err := f.connect(discovered)
		if err != nil {
			wait := pause.NextBackOff()
			f.failed(err, &said, wait)
			f.sleep(wait, nil)
			continue
		}
		said = ""
		f.log.Info("connected to a NATS server", "server", l.where())
		f.adopt(l)
		select {
		case <-l.ended:
		case <-l.lame:
			f.log.Info("the NATS server is being stopped; moving to another, connections follow as it ends them", "server", l.where())
			f.sleep(rand.N(moveWithin), l.ended)
		case <-f.ctx.Done():
		}
		if f.settings.discover {
			discovered = l.nc.DiscoveredServers()
			discovered = discovered[:min(len(discovered), maxDiscovered)]
		}
		if time.Since(l.since) >= steady {
			pause.Reset()
		} else {
			f.sleep(pause.NextBackOff(), nil) // who lets this device in only to throw it out is not tried at once
		}
	}
}

func (f *fabric) sleep(d time.Duration, until <-chan struct{}) {
	select {
	case <-time.After(d):
	case <-until:
	case <-f.ctx.Done():
	}
}

// failed remembers why no server was reached, and logs it where that is news.
func (f *fabric) failed(err error, said *string, wait time.Duration) {
	f.metrics.refusals.Inc()
	f.mu.Lock()
	leaving := f.current != nil
	f.mu.Unlock()
	if !leaving {
		f.set(nil, err)
	}
	if err.Error() == *said || f.ctx.Err() != nil {
		f.log.Debug("still no NATS server", "reason", err, "in", wait.Round(time.Millisecond).String())
		return
	}
	*said = err.Error()
	f.log.Warn("no NATS server takes this device; trying again and again", "reason", err, "in", wait.Round(time.Millisecond).String())
}

// connect tries each server once.
func (f *fabric) connect(discovered []string) (*life, error) {
	l := &life{
		fabric: f, since: time.Now(), lame: make(chan struct{}), ended: make(chan struct{}),
		ends: map[*end]struct{}{}, concerned: map[string]map[*concern]struct{}{},
	}
	dialer := &lastError{ctx: f.ctx}
	options := nats.GetDefaultOptions()
	options.Servers = slices.Concat(f.settings.servers, discovered)
	for _, option := range slices.Concat(f.settings.options, []nats.Option{
		nats.Name("starling"), nats.NoReconnect(), nats.Timeout(connectTime), nats.SetCustomDialer(dialer),
		nats.PingInterval(pingTime), nats.MaxPingsOutstanding(2), nats.FlusherTimeout(flushTime), nats.ReconnectOnFlusherError(),
		nats.ClosedHandler(l.closed), nats.ErrorHandler(l.complaint),
		nats.LameDuckModeHandler(func(*nats.Conn) { l.leave() }),
	}) {
		if err := option(&options); err != nil {
			return nil, sdk.Errorf(sdk.CodeUnavailable, "%w", err) // a file that was there when it was configured
		}
	}
	nc, err := options.Connect()
	if err != nil {
		return nil, f.explain(err, dialer.last())
	}
	if nc.MaxPayload() < stream.MinMessage {
		err := sdk.Errorf(sdk.CodeUnavailable, "the NATS server %s takes messages of %d bytes at most; raise its max_payload to %d or more",
			nc.ConnectedUrlRedacted(), nc.MaxPayload(), stream.MinMessage)
		l.mu.Lock()
		l.retired = true // its end is no news
		l.mu.Unlock()
		nc.Close()
		return nil, err
	}
	l.nc = nc
	l.mu.Lock()
	l.server = nc.ConnectedUrlRedacted()
	l.mu.Unlock()
	f.metrics.connects.Inc()
	return l, nil
}

// explain says what to do about a failure to connect.
func (f *fabric) explain(err, dialing error) error {
	where := "the NATS servers (" + strings.Join(f.settings.servers, ", ") + ")"
	text := strings.ToLower(err.Error())
	switch {
	case errors.Is(err, nats.ErrNoServers) && dialing != nil:
		return sdk.Errorf(sdk.CodeUnavailable, "%s can not be reached: %w", where, dialing)
	case errors.Is(err, nats.ErrAuthorization) || errors.Is(err, nats.ErrAuthExpired) || errors.Is(err, nats.ErrAuthRevoked) || strings.Contains(text, "nonce"):
		return sdk.Errorf(sdk.CodeUnavailable, "%s do not let this device in, which signs in with: %s: %w", where, f.settings.auth, err)
	case errors.Is(err, nats.ErrSecureConnWanted):
		return sdk.Errorf(sdk.CodeUnavailable, "%s offer no TLS, which the settings (ca, cert, or tls:// in servers) ask for: %w", where, err)
	case strings.Contains(text, "unknown authority"):
		return sdk.Errorf(sdk.CodeUnavailable, "%s have a certificate of an authority that is not known here; name its file in ca: %w", where, err)
	case strings.Contains(text, "remote error: tls") || strings.Contains(text, "closed by remote after tls handshake"):
		return sdk.Errorf(sdk.CodeUnavailable, "%s want a certificate of this device, or another one; name its files in cert and key: %w", where, err)
	}
	return sdk.Errorf(sdk.CodeUnavailable, "%s can not be used: %w", where, err)
}

// lastError dials as net does, and remembers the last error, which the client library forgets.
type lastError struct {
	ctx context.Context //nolint:containedctx // of the fabric
	mu  sync.Mutex
	err error
}

// Dial implements nats.CustomDialer.
func (d *lastError) Dial(network, address string) (net.Conn, error) {
	dialer := net.Dialer{Timeout: connectTime}
	c, err := dialer.DialContext(d.ctx, network, address)
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil {
		d.err = err
	}
	return c, err
}

func (d *lastError) last() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err
}

// adopt makes l the life that is used, has it serve the listeners, and leaves the one before.
func (f *fabric) adopt(l *life) {
	f.mu.Lock()
	old := f.current
	f.lives[l] = struct{}{}
	listeners := make([]*listener, 0, len(f.listeners))
	for each := range f.listeners {
		listeners = append(listeners, each)
	}
	f.mu.Unlock()
	for _, each := range listeners {
		if err := each.serve(l); err != nil && sdk.CodeOf(err) != sdk.CodeUnavailable { // the next life serves it
			each.fail(err)
		}
	}
	f.set(l, nil)
	select {
	case <-l.ended: // already
		f.lost(l)
	default:
	}
	if old != nil {
		old.retire(listeners)
	}
}

// lost is called when l has ended.
func (f *fabric) lost(l *life) {
	f.mu.Lock()
	delete(f.lives, l)
	used := f.current == l
	f.mu.Unlock()
	if used {
		f.set(nil, nil)
	}
}
