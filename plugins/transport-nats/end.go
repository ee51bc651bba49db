package main

import (
	"crypto/rand"
	"errors"
	"sync"

	"github.com/nats-io/nats.go"

	"github.com/starling-sync/starling/plugins/transport-nats/stream"
	"github.com/starling-sync/starling/sdk"
)

// slack is how much more than the window may wait between the client library and a connection, which takes it at once:
// a flood from elsewhere is dropped there, and the gap ends the connection.
const slack = 2

// end is this side's end of a connection: a subject of its own, and that of the other end. It implements stream.Wire.
type end struct {
	life   *life
	own    string        // the subject that this end receives on
	answer func(answer)  // takes what comes before the connection is made, and what comes late of that; it returns at once
	gone   chan struct{} // closed when nothing is received any more

	once sync.Once // of drop

	// Set before anything is sent to the other end, and not changed then.
	peer string // the other end's subject
	max  int    // the greatest message that the other end takes

	mu      sync.Mutex
	sub     *nats.Subscription
	conn    *stream.Conn // nil before meet
	made    bool         // both ends have met
	err     error        // why it ended without a connection
	forgets []func()
}

// answer is a message of setting up. kindNobody: what was sent has reached nobody.
type answer struct {
	kind  byte
	body  []byte
	reply string
}

// newEnd subscribes on a new subject.
func newEnd(l *life, take func(answer)) (*end, error) {
	e := &end{life: l, own: l.fabric.settings.inbox + "." + rand.Text(), answer: take, gone: make(chan struct{})}
	if err := l.add(e); err != nil {
		return nil, err
	}
	e.concern(e.own)
	sub, err := l.nc.Subscribe(e.own, e.receive)
	if err == nil {
		err = sub.SetPendingLimits(slack*stream.DefaultWindow/stream.Overhead, slack*stream.DefaultWindow)
	}
	e.mu.Lock()
	e.sub = sub
	e.mu.Unlock()
	if err != nil {
		e.drop()
		return nil, sdk.Errorf(sdk.CodeUnavailable, "subscribe to %s: %w", e.own, err)
	}
	return e, nil
}

// concern has the end fail when the server denies the use of a subject.
func (e *end) concern(subject string) {
	forget := e.life.concern(subject, e.fail)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.forgets = append(e.forgets, forget)
}

// meet makes this end one of a connection with the end that receives on a subject. name is that of the peer, for people.
// It is called once, by the goroutine that then says so to the peer.
func (e *end) meet(subject, name string, g greeting) *stream.Conn {
	e.concern(subject)
	e.peer, e.max = subject, g.maxMessage
	conn := stream.New(stream.Options{
		Wire: e, Remote: name, Window: stream.DefaultWindow, PeerWindow: g.window, Beat: stream.DefaultBeat, Ended: e.drop,
	})
	e.mu.Lock()
	e.conn = conn
	err := e.err
	e.mu.Unlock()
	if err != nil { // meanwhile
		conn.Fail(err)
	}
	return conn
}

// settle notes that both ends have met: from now on they go together.
func (e *end) settle() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.made = true
}

// greeting is what this end says of itself.
func (e *end) greeting(name string) greeting {
	return greeting{version: protocolVersion, window: stream.DefaultWindow, maxMessage: int(e.life.nc.MaxPayload()), name: name}
}

// MaxMessage implements stream.Wire.
func (e *end) MaxMessage() int { return min(e.max, int(e.life.nc.MaxPayload())) }

// Send implements stream.Wire.
func (e *end) Send(message []byte) error { return e.sendTo(e.peer, message) }

// sendTo publishes a message with the own subject as its reply, where the server also says that nobody takes it.
func (e *end) sendTo(subject string, message []byte) error {
	err := e.life.nc.PublishRequest(subject, e.own, message)
	if errors.Is(err, nats.ErrConnectionClosed) {
		return sdk.Errorf(sdk.CodeUnavailable, "the connection to the NATS server has ended: %w", err)
	}
	return err
}

// receive is called with each message on the own subject, one after another, in the order of their arrival.
func (e *end) receive(m *nats.Msg) {
	e.mu.Lock()
	conn, made := e.conn, e.made
	e.mu.Unlock()
	switch {
	case len(m.Data) == 0:
		if m.Header.Get("Status") != "503" {
			return
		}
		if made {
			conn.Fail(sdk.Errorf(sdk.CodeUnavailable, "%s is gone: the NATS servers know nobody who takes messages for this connection", conn.RemoteAddress()))
			return
		}
		e.answer(answer{kind: kindNobody})
	case m.Data[0] == '{': // of no message here; a stream that stores messages answers so
		e.fail(sdk.Errorf(sdk.CodeUnavailable, "JetStream answers in place of the peer: no stream of the NATS account may take the subjects of this library; see: nats stream ls --subjects"))
	case !stream.IsFrame(m.Data):
		e.answer(answer{kind: m.Data[0], body: m.Data, reply: m.Reply})
	case conn != nil:
		if !made {
			e.answer(answer{kind: kindReady}) // the message that says so was lost
		}
		conn.Receive(m.Data)
	}
}

// fail ends it, be it a connection by now or not.
func (e *end) fail(err error) {
	e.mu.Lock()
	if e.err == nil {
		e.err = err
	}
	conn := e.conn
	e.mu.Unlock()
	if conn != nil {
		conn.Fail(err)
	} else {
		e.drop()
	}
}

// failure says why it ended.
func (e *end) failure() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.err == nil {
		return sdk.Errorf(sdk.CodeUnavailable, "the other end has given up")
	}
	return e.err
}

// abandon ends it without a reason.
func (e *end) abandon() {
	e.mu.Lock()
	conn := e.conn
	e.mu.Unlock()
	if conn != nil {
		_ = conn.Close() // returns nil
	} else {
		e.drop()
	}
}

// drop ends the subscription. Who has a connection ends that instead.
func (e *end) drop() {
	e.once.Do(func() {
		e.mu.Lock()
		sub, forgets := e.sub, e.forgets
		e.mu.Unlock()
		if sub != nil {
			_ = sub.Unsubscribe() // the life may have ended
		}
		for _, forget := range forgets {
			forget()
		}
		e.life.remove(e)
		close(e.gone)
	})
}
