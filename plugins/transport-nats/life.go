package main

import (
	"errors"
	"regexp"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/starling-sync/starling/sdk"
)

// life is one connection to a NATS server, from its beginning to its end.
type life struct {
	fabric *fabric
	nc     *nats.Conn // set before the life is used
	since  time.Time
	lame   chan struct{} // closed when the server says that it is being stopped
	ended  chan struct{} // closed when the connection has ended and all that it carried with it; then err says why
	err    error

	mu        sync.Mutex
	server    string // its URL, for people; empty until connected
	leaving   bool   // lame is closed
	retired   bool   // it ends with the last of ends
	over      bool   // nothing is added any more
	ends      map[*end]struct{}
	concerned map[string]map[*concern]struct{} // by subject: who is told that the server denies its use
}

type concern struct{ denied func(error) }

// where returns the server's URL, for people.
func (l *life) where() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.server
}

// leave notes that the server is being stopped.
func (l *life) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.leaving {
		l.leaving = true
		close(l.lame)
	}
}

// closed is called when the connection has ended.
func (l *life) closed(nc *nats.Conn) {
	l.err = sdk.Errorf(sdk.CodeUnavailable, "the connection to the NATS server ended")
	if err := nc.LastError(); err != nil {
		l.err = sdk.Errorf(sdk.CodeUnavailable, "the connection to the NATS server ended: %w", err)
	}
	l.mu.Lock()
	l.over = true
	ends := make([]*end, 0, len(l.ends))
	for e := range l.ends {
		ends = append(ends, e)
	}
	quiet, server := l.retired || l.fabric.ctx.Err() != nil, l.server
	l.mu.Unlock()
	for _, e := range ends {
		e.fail(l.err)
	}
	if !quiet {
		l.fabric.metrics.losses.Inc()
		l.fabric.log.Warn("the connection to the NATS server ended", "server", server, "reason", nc.LastError(), "connections", len(ends))
	}
	close(l.ended)
	l.fabric.lost(l)
}

// retire leaves the connection to what it carries: it ends with the last of that, or when the server ends it.
func (l *life) retire(listeners []*listener) {
	for _, each := range listeners {
		each.unserve(l)
	}
	l.mu.Lock()
	l.retired = true
	empty := len(l.ends) == 0
	l.mu.Unlock()
	if empty {
		l.nc.Close()
	}
}

// add has e end with the life.
func (l *life) add(e *end) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return sdk.Errorf(sdk.CodeUnavailable, "the connection to the NATS server has just ended")
	}
	l.ends[e] = struct{}{}
	l.fabric.metrics.peers.Add(1)
	return nil
}

func (l *life) remove(e *end) {
	l.mu.Lock()
	if _, there := l.ends[e]; there {
		l.fabric.metrics.peers.Add(-1)
	}
	delete(l.ends, e)
	last := l.retired && !l.over && len(l.ends) == 0
	l.mu.Unlock()
	if last {
		l.nc.Close()
	}
}

// concern has denied called when the server denies the use of a subject, until cancel is called.
func (l *life) concern(subject string, denied func(error)) (cancel func()) {
	c := &concern{denied}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.concerned[subject] == nil {
		l.concerned[subject] = map[*concern]struct{}{}
	}
	l.concerned[subject][c] = struct{}{}
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.concerned[subject], c)
		if len(l.concerned[subject]) == 0 {
			delete(l.concerned, subject)
		}
	}
}

var quoted = regexp.MustCompile(`(Publish|Subscription) to "([^"]+)"`)

// complaint is called for what the server or the client library is not content with.
func (l *life) complaint(_ *nats.Conn, sub *nats.Subscription, err error) {
	if errors.Is(err, nats.ErrSlowConsumer) && sub != nil {
		l.fabric.log.Warn("messages came faster than they were taken, and some were dropped; their connection will end", "subject", sub.Subject)
		return
	}
	match := quoted.FindStringSubmatch(err.Error())
	if !errors.Is(err, nats.ErrPermissionViolation) || match == nil {
		l.fabric.log.Warn("trouble with the NATS server", "server", l.where(), "reason", err)
		return
	}
	err = denied(match[1], match[2])
	l.mu.Lock()
	var told []*concern
	for c := range l.concerned[match[2]] {
		told = append(told, c)
	}
	l.mu.Unlock()
	l.fabric.log.Warn("a NATS permission is missing", "server", l.where(), "reason", err)
	for _, c := range told {
		c.denied(err)
	}
}

func denied(what, subject string) error {
	verb := map[string]string{"Publish": "publish to", "Subscription": "subscribe to"}[what]
	return sdk.Errorf(sdk.CodeDenied, "the NATS server does not let this device %s %s; give its user that permission", verb, subject)
}
