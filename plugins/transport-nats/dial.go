package main

import (
	"context"
	"time"

	"github.com/starling-sync/starling/plugins/transport-nats/stream"
	"github.com/starling-sync/starling/sdk"
)

const (
	setupTime  = 10 * time.Second       // for both ends to meet
	firstAgain = 250 * time.Millisecond // until the same is sent again; it doubles
	maxAgain   = 2 * time.Second
	nobodies   = 3 // times that a message reaches nobody until that is believed: a subscription takes its time to be known
)

// dial connects to who listens as name.
func dial(ctx context.Context, f *fabric, name string) (sdk.Conn, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, setupTime, sdk.Errorf(sdk.CodeUnavailable, "%s has not answered within %s", name, setupTime))
	defer cancel()
	l, err := f.life(ctx, false)
	if err != nil {
		return nil, err
	}
	answers := make(chan answer, 8)
	e, err := newEnd(l, func(a answer) {
		select {
		case answers <- a:
		default: // it is sent again
		}
	})
	if err != nil {
		return nil, err
	}
	d := &dialling{end: e, name: name, answers: answers, to: f.settings.subject + ".dial." + name}
	e.concern(d.to)
	d.message = e.greeting(f.name()).encode(kindDial)
	conn, err := d.run(ctx)
	if err != nil {
		e.abandon()
		return nil, err
	}
	return conn, nil
}

// dialling is a connection that is being made.
type dialling struct {
	*end
	name    string // of the peer
	answers <-chan answer
	to      string       // where
	message []byte       // this is sent until it is answered
	found   *stream.Conn // once the peer has answered
	missed  int          // times that the message has reached nobody
}

func (d *dialling) run(ctx context.Context) (sdk.Conn, error) {
	pause := firstAgain
	again := time.NewTimer(0)
	defer again.Stop()
	for {
		select {
		case <-again.C:
			if err := d.sendTo(d.to, d.message); err != nil {
				return nil, sdk.Errorf(sdk.CodeUnavailable, "%w", err)
			}
			again.Reset(pause)
			pause = min(2*pause, maxAgain)
		case a := <-d.answers:
			done, err := d.take(a)
			if done || err != nil {
				return d.found, err
			}
			if a.kind == kindAccept {
				pause = firstAgain
				again.Reset(0)
			}
		case <-d.gone:
			return nil, d.failure()
		case <-ctx.Done():
			return nil, sdk.Errorf(sdk.CodeUnavailable, "%w", context.Cause(ctx))
		}
	}
}

// take reports whether the connection is made.
func (d *dialling) take(a answer) (done bool, err error) {
	switch {
	case a.kind == kindNobody:
		if d.missed++; d.missed >= nobodies {
			return false, sdk.Errorf(sdk.CodeUnavailable, "nobody listens as %q there (%s): that device is away, or its setting subject or its NATS account is another", d.name, d.to)
		}
	case a.kind == kindRefuse:
		return false, sdk.Errorf(sdk.CodeUnavailable, "%s refuses: %q", d.name, plain(string(a.body[1:])))
	case a.kind == kindAccept && d.found == nil && a.reply != "":
		g, err := parseGreeting(a.body)
		if err != nil {
			return false, sdk.Errorf(sdk.CodeOf(err), "%s: %w", d.name, err)
		}
		d.found = d.meet(a.reply, d.name, g)
		d.to, d.message, d.missed = a.reply, []byte{kindConfirm}, 0
	case a.kind == kindReady && d.found != nil:
		d.settle()
		return true, nil
	}
	return false, nil
}
