package main

import (
	"cmp"
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/starling-sync/starling/sdk"
)

const (
	maxWaiting = 64 // connections that are made and not accepted
	maxSetups  = 64 // connections that are being made; more dial again
)

// listener takes connections for a name, on one life after another. It implements sdk.Listener.
type listener struct {
	fabric   *fabric
	name     string
	subject  string
	incoming chan sdk.Conn // sent to under mu, and only where there is room
	ended    chan struct{} // closed by Close and fail

	mu     sync.Mutex
	err    error // why it ended; nil: it has not
	served map[*life]service
	setups map[string]*setup // by the dialler's subject
}

// service is a listener on one life.
type service struct {
	sub    *nats.Subscription
	forget func()
}

// setup is a connection that has been dialled and not yet confirmed.
type setup struct {
	*end
	from  string // the dialler's subject
	said  greeting
	timer *time.Timer
}

// listen subscribes as name. It blocks while no server can be reached, until ctx ends.
func listen(ctx context.Context, f *fabric, name string) (*listener, error) {
	l := &listener{
		fabric: f, name: name, subject: f.settings.subject + ".dial." + name,
		incoming: make(chan sdk.Conn, maxWaiting), ended: make(chan struct{}),
		served: map[*life]service{}, setups: map[string]*setup{},
	}
	f.mu.Lock()
	f.listeners[l] = struct{}{}
	f.mu.Unlock()
	for {
		life, err := f.life(ctx, true)
		if err == nil {
			err = l.serve(life)
		}
		if err == nil {
			return l, nil
		}
		if sdk.CodeOf(err) != sdk.CodeUnavailable || ctx.Err() != nil || f.ctx.Err() != nil {
			l.fail(err)
			return nil, err
		}
		<-life.ended // and another is made
	}
}

// serve has the listener take what is dialled on a life, and returns when the server knows. Doing so twice is no harm.
// CodeUnavailable: the life has ended, or does so now.
func (l *listener) serve(on *life) error {
	l.mu.Lock()
	for old := range l.served {
		select {
		case <-old.ended:
			delete(l.served, old)
		default:
		}
	}
	_, already := l.served[on]
	if already || l.err != nil {
		l.mu.Unlock()
		return nil //nolint:nilerr // a listener that has ended serves nobody
	}
	sub, err := on.nc.Subscribe(l.subject, func(m *nats.Msg) { l.dialled(on, m) })
	if err == nil {
		l.served[on] = service{sub, on.concern(l.subject, l.fail)}
	}
	l.mu.Unlock()
	if err == nil {
		err = on.nc.FlushTimeout(connectTime)
	}
	if err != nil {
		on.nc.Close() // a server that does not answer
		return sdk.Errorf(sdk.CodeUnavailable, "subscribe to %s: %w", l.subject, err)
	}
	said := on.nc.LastError()
	if errors.Is(said, nats.ErrPermissionViolation) && strings.Contains(said.Error(), `"`+l.subject+`"`) {
		return denied("Subscription", l.subject)
	}
	return nil
}

// unserve ends what serve began.
func (l *listener) unserve(on *life) {
	l.mu.Lock()
	s, ok := l.served[on]
	delete(l.served, on)
	l.mu.Unlock()
	if ok {
		s.forget()
		_ = s.sub.Unsubscribe() // the life may have ended
	}
}

// dialled takes a message to the listener's subject.
func (l *listener) dialled(on *life, m *nats.Msg) {
	if len(m.Data) == 0 || m.Data[0] != kindDial || m.Reply == "" {
		return
	}
	g, err := parseGreeting(m.Data)
	if err != nil {
		_ = on.nc.Publish(m.Reply, append([]byte{kindRefuse}, err.Error()...)) // who dials will know by the time it took
		return
	}
	s, err := l.setup(on, m.Reply, g)
	if err != nil {
		l.fabric.log.Debug("a connection was dialled and could not be made", "reason", err)
	}
	if s != nil {
		_ = s.sendTo(s.from, s.greeting(l.name).encode(kindAccept)) // it is dialled again
	}
}

// setup returns the connection that is being made with a dialler, be it new or dialled again; nil: there is no room now.
func (l *listener) setup(on *life, from string, g greeting) (*setup, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.setups[from]; s != nil {
		return s, nil
	}
	if l.err != nil || len(l.setups) >= maxSetups {
		return nil, nil
	}
	s := &setup{from: from, said: g}
	e, err := newEnd(on, func(a answer) { l.answered(s, a) })
	if err != nil {
		return nil, err
	}
	s.end = e
	s.timer = time.AfterFunc(setupTime, func() { l.dismiss(s) })
	l.setups[from] = s
	return s, nil
}

// dismiss ends a setup that has come to nothing.
func (l *listener) dismiss(s *setup) {
	l.mu.Lock()
	_, waits := l.setups[s.from]
	delete(l.setups, s.from)
	l.mu.Unlock()
	if waits {
		s.timer.Stop()
		s.abandon()
	}
}

// answered takes what the dialler says to a setup's own subject.
func (l *listener) answered(s *setup, a answer) {
	switch a.kind {
	case kindConfirm:
		if l.confirmed(s) {
			_ = s.sendTo(s.from, []byte{kindReady}) // it is asked for again, or any frame says as much
		}
	case kindNobody: // who dialled has gone, or its servers do not know its subject yet: then it dials again
		l.dismiss(s)
	}
}

// confirmed hands the connection over, once; false: there is no room, or no listener any more.
func (l *listener) confirmed(s *setup) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.setups[s.from] != s {
		return true // it has been handed over, or the end of its subject tells
	}
	if len(l.incoming) == cap(l.incoming) {
		return false
	}
	delete(l.setups, s.from)
	s.timer.Stop()
	conn := s.meet(s.from, cmp.Or(s.said.name, "a device on NATS"), s.said)
	s.settle()
	l.incoming <- conn
	return true
}

// Accept implements sdk.Listener.
func (l *listener) Accept() (sdk.Conn, error) {
	select {
	case <-l.ended:
	default:
		select {
		case conn := <-l.incoming:
			return conn, nil
		case <-l.ended:
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return nil, l.err
}

// Address implements sdk.Listener.
func (l *listener) Address() string { return l.name }

// Close implements io.Closer. Connections that nobody has accepted are closed.
func (l *listener) Close() error {
	l.fail(net.ErrClosed)
	return nil
}

// fail ends the listener.
func (l *listener) fail(err error) {
	l.mu.Lock()
	if l.err != nil {
		l.mu.Unlock()
		return
	}
	l.err = err
	close(l.ended)
	lives := make([]*life, 0, len(l.served))
	for on := range l.served {
		lives = append(lives, on)
	}
	setups := make([]*setup, 0, len(l.setups))
	for _, s := range l.setups {
		setups = append(setups, s)
	}
	l.mu.Unlock()
	l.fabric.mu.Lock()
	delete(l.fabric.listeners, l)
	l.fabric.mu.Unlock()
	for _, on := range lives {
		l.unserve(on)
		_ = on.nc.FlushTimeout(connectTime) // so that who dials then is told that nobody listens
	}
	for _, s := range setups {
		l.dismiss(s)
	}
	for {
		select {
		case conn := <-l.incoming: // nothing is added any more
			_ = conn.Close()
		default:
			return
		}
	}
}
