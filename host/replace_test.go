package main

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/starling-sync/starling/host/peersync"
	"github.com/starling-sync/starling/sdk"
)

// ear is a transport whose Listen answers as a test wants.
type ear struct {
	sdk.Transport
	mu    sync.Mutex
	open  int                             // listeners that take connections now
	heard func(ctx context.Context) error // before a listener is there
}

func (*ear) Name() string { return "ear" }

func (e *ear) Listen(ctx context.Context, _ string, _ net.Listener) (sdk.Listener, error) {
	if err := e.heard(ctx); err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.open++
	return &earListener{ear: e, closed: make(chan struct{})}, nil
}

func (e *ear) listens() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.open
}

type earListener struct {
	ear    *ear
	once   sync.Once
	closed chan struct{}
}

func (*earListener) Address() string { return "here" }

func (l *earListener) Accept() (sdk.Conn, error) {
	<-l.closed
	return nil, net.ErrClosed
}

func (l *earListener) Close() error {
	l.once.Do(func() {
		l.ear.mu.Lock()
		defer l.ear.mu.Unlock()
		l.ear.open--
		close(l.closed)
	})
	return nil
}

func hangs(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

// TestNetwork_ReplaceByTheDeaf has transports take the place of one that works and never take a connection, each in another
// way: after listenTime at the latest the one that works takes connections as before.
func TestNetwork_ReplaceByTheDeaf(t *testing.T) {
	works := func(context.Context) error { return nil }
	for name, each := range map[string]struct {
		heard func(context.Context) error
		dies  bool // its process ends after listenTime
		want  string
	}{
		"hangs":         {hangs, false, "it takes no connections at here after 5s: it does not answer"},
		"fails":         {func(context.Context) error { return errors.New("no place") }, false, "it takes no connections at here after 5s: listen at here: no place"},
		"fails at last": {func(ctx context.Context) error { time.Sleep(listenTime - time.Second); return errors.New("no place") }, false, "no place"},
		"dies":          {hangs, true, "context canceled"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, stop := context.WithCancel(t.Context())
				engine, err := peersync.New(peersync.Options{
					Self: peersync.Self{Device: sdk.DeviceID{1}}, Applier: struct{ peersync.Applier }{}, Reader: struct{ peersync.Reader }{},
					Ranges: struct{ peersync.Ranges }{}, Keeper: struct{ peersync.Keeper }{}, Security: struct{ peersync.Security }{},
				})
				if err != nil {
					t.Fatal(err)
				}
				n := &network{transports: map[string]*attachment{}, out: map[string]*outing{}, log: hclog.NewNullLogger()}
				n.use(ctx, engine)
				old := &ear{heard: works}
				n.attach(ctx, "fleet", old, "here")
				synctest.Wait()
				using, release := context.WithCancel(ctx)
				if each.dies {
					time.AfterFunc(listenTime/2, release)
				}
				began := time.Now()
				err = n.replace(using, "fleet", &ear{heard: each.heard}, "here")
				release()
				if err == nil || !strings.Contains(err.Error(), each.want) {
					t.Errorf("%v, want %q", err, each.want)
				}
				if took := time.Since(began); took > listenTime {
					t.Errorf("it took %s", took)
				}
				time.Sleep(leaveTime)
				synctest.Wait()
				if old.listens() != 1 || n.deafness("fleet") != nil || n.transports["fleet"].Transport != old {
					t.Errorf("the old one has %d listeners; %v", old.listens(), n.deafness("fleet"))
				}
				stop()
				n.serving.Wait()
				if err := engine.Run(ctx); err != nil {
					t.Error(err)
				}
			})
		})
	}
}
