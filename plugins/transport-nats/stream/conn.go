// Package stream makes a connection, an ordered and reliable stream of bytes in both directions, out of messages that
// may be lost.
//
// It promises that what is read is a prefix of what the peer wrote, to the byte: frames are numbered, and a message that
// is lost, repeated or out of order ends the connection with an error on both sides rather than leaving a gap. A writer
// is held back by credit, so that a connection holds at most its window of bytes that nobody has read, and a peer that
// falls silent is noticed. It leaves to its callers how messages travel, how two ends find one another, and what to do
// after an error: nothing is sent again.
package stream

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/starling-sync/starling/sdk"
)

// Wire carries messages to the peer, in order as long as none is lost.
type Wire interface {
	// Send sends a message, or says why it can not. It may block while the network does not take it. The message is the
	// caller's again when Send returns.
	Send(message []byte) error
	// MaxMessage is the greatest message, in bytes, that Send takes now; MinMessage at least.
	MaxMessage() int
}

// Options is what a Conn needs. All of it is required.
type Options struct {
	Wire       Wire
	Remote     string        // the other end, for people
	Window     int           // cost of data that the peer may send ahead of the reader; the peer must be told it
	PeerWindow int           // the peer's; both MinWindow to MaxWindow
	Beat       time.Duration // after so long without another frame a beat is sent; three of the peer's missing end the connection
	Ended      func()        // called once, when nothing is sent or wanted any more. It must not call the connection
}

// DefaultWindow is a window that fills a path of 10 MB/s and 100 ms.
const DefaultWindow = 1 << 20

// DefaultBeat is a pause between signs of life.
const DefaultBeat = 5 * time.Second

const missedBeats = 3

// Conn is one end of a connection. It implements sdk.Conn; Receive and Fail are for who carries its messages.
type Conn struct {
	o    Options
	gone chan struct{} // closed when the connection ends, for whatever reason
	turn chan struct{} // held while a frame is numbered and sent: frames leave in the order of their numbers

	number uint64 // of the next frame; of who has the turn
	frame  []byte // the same

	readable, room chan struct{} // hold a value after something may have changed for Read, for Write

	mu     sync.Mutex
	reason error // why it ended; nil: it has not
	closed bool  // by Close: what was received is no more read

	chunks [][]byte // received and not yet read to their ends
	read   int      // bytes of chunks[0] that have been read

	// Costs, since the beginning. received <= granted, and granted <= freed + Window.
	received, granted, freed uint64
	// spent <= allowed
	spent, allowed uint64

	due         uint64 // number of the next frame of the peer
	heard, said bool   // since the last tick
	silent      int    // ticks on which nothing had been heard
	timer       *time.Timer
}

// New returns a connection that is set up on both sides. Whoever ends it (Close, Fail, the peer) ends all that belongs to
// it.
func New(o Options) *Conn {
	c := &Conn{
		o: o, gone: make(chan struct{}), turn: make(chan struct{}, 1), readable: make(chan struct{}, 1), room: make(chan struct{}, 1),
		granted: uint64(o.Window), allowed: uint64(o.PeerWindow), //nolint:gosec // not negative
	}
	c.mu.Lock()
	c.timer = time.AfterFunc(o.Beat, c.tick)
	c.mu.Unlock()
	return c
}

// RemoteAddress implements sdk.Conn.
func (c *Conn) RemoteAddress() string { return c.o.Remote }

// Gone is closed when the connection ends, for whatever reason. What was received before can still be read.
func (c *Conn) Gone() <-chan struct{} { return c.gone }

// Read implements io.Reader. At the end, what was received before is returned first; then io.EOF if the peer closed, or
// why the connection ended.
func (c *Conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		n, grant, err := c.take(p)
		if grant > 0 {
			_ = c.send(kindCredit, binary.BigEndian.AppendUint64(nil, grant)) // the next Read says why it ended
		}
		if n > 0 || err != nil {
			return n, err
		}
		select {
		case <-c.readable:
		case <-c.gone:
		}
	}
}

// take copies what there is into p, and returns what the peer is to be granted now; 0: nothing new.
func (c *Conn) take(p []byte) (n int, grant uint64, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return 0, 0, net.ErrClosed
	}
	for n < len(p) && len(c.chunks) > 0 {
		first := c.chunks[0]
		copied := copy(p[n:], first[c.read:])
		n, c.read = n+copied, c.read+copied
		if c.read == len(first) {
			c.freed += cost(len(first))
			c.chunks[0], c.read = nil, 0
			c.chunks = c.chunks[1:]
		}
	}
	if n == 0 {
		return 0, 0, c.reason
	}
	window := uint64(c.o.Window) //nolint:gosec // not negative
	if open := c.freed + window; c.reason == nil && open-c.granted >= window/4 {
		c.granted = open
		return n, open, nil
	}
	return n, 0, nil
}

// Write implements io.Writer. It blocks while the peer does not read.
func (c *Conn) Write(p []byte) (written int, err error) {
	for written < len(p) {
		n, err := c.reserve(len(p) - written)
		if err == nil {
			err = c.send(kindData, p[written:written+n])
		}
		if err != nil {
			return written, err
		}
		written += n
	}
	return written, nil
}

// reserve waits for credit and returns how much of rest bytes may be sent in one frame.
func (c *Conn) reserve(rest int) (int, error) {
	// A window holds four frames: credit that comes a quarter late still leaves room for one.
	n := min(rest, min(c.o.Wire.MaxMessage(), maxFrame)-headerBytes, c.o.PeerWindow/4-Overhead)
	if n <= 0 {
		return 0, sdk.Errorf(sdk.CodeUnavailable, "write to %s: messages of %d bytes are too small", c.o.Remote, c.o.Wire.MaxMessage())
	}
	for {
		c.mu.Lock()
		ok := c.spent+cost(n) <= c.allowed
		if ok && c.reason == nil {
			c.spent += cost(n)
		}
		err := c.writeError()
		c.mu.Unlock()
		if err != nil || ok {
			return n, err
		}
		select {
		case <-c.room:
		case <-c.gone:
		}
	}
}

// writeError says why nothing can be written; nil if it can. The caller holds mu.
func (c *Conn) writeError() error {
	if c.reason == io.EOF { //nolint:errorlint // set as it is, by Receive
		return sdk.Errorf(sdk.CodeUnavailable, "write to %s: the peer has closed the connection: %w", c.o.Remote, io.ErrClosedPipe)
	}
	return c.reason
}

// send numbers a frame and sends it.
func (c *Conn) send(kind byte, body []byte) error {
	select {
	case c.turn <- struct{}{}:
	case <-c.gone:
		return c.sayable()
	}
	err := c.sayable()
	if err != nil {
		<-c.turn
		return err
	}
	err = c.sendInTurn(kind, body)
	<-c.turn
	if err != nil {
		err = noPlainEnd(sdk.Errorf(sdk.CodeUnavailable, "write to %s: %w", c.o.Remote, err))
		if c.end(err) {
			c.o.Ended()
		}
	}
	return err
}

// sayable says why nothing can be sent; nil if it can.
func (c *Conn) sayable() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.said = true
	return c.writeError()
}

func (c *Conn) sendInTurn(kind byte, body []byte) error {
	c.frame = appendFrame(c.frame[:0], kind, c.number, body)
	c.number++
	return c.o.Wire.Send(c.frame)
}

// Receive takes a message of the peer, which belongs to the connection from then on. It is called for all of them, in the
// order of their arrival, one at a time.
func (c *Conn) Receive(message []byte) {
	grown, err := c.receive(message)
	switch {
	case err == io.EOF: //nolint:errorlint // as in writeError
		if c.end(io.EOF) {
			c.o.Ended()
		}
	case err != nil:
		c.Fail(err)
	case grown:
		wake(c.readable)
	default:
		wake(c.room)
	}
}

// receive reports whether there is more to read. io.EOF: the peer has closed.
func (c *Conn) receive(message []byte) (grown bool, err error) {
	kind, number, body, ok := parseFrame(message)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reason != nil {
		return false, nil // it may arrive still
	}
	switch {
	case !ok:
		return false, sdk.Errorf(sdk.CodeInvalid, "a message of %d bytes from %s is no frame", len(message), c.o.Remote)
	case number > c.due:
		return false, sdk.Errorf(sdk.CodeUnavailable, "%d messages from %s were lost on the way", number-c.due, c.o.Remote)
	case number < c.due:
		return false, sdk.Errorf(sdk.CodeUnavailable, "message %d from %s came again, or late", number, c.o.Remote)
	}
	c.due++
	c.heard = true
	switch {
	case kind == kindData && len(body) > 0:
		if c.received += cost(len(body)); c.received > c.granted {
			return false, sdk.Errorf(sdk.CodeInvalid, "%s sends more than it was granted", c.o.Remote)
		}
		c.chunks = append(c.chunks, body)
		return true, nil
	case kind == kindCredit && len(body) == 8:
		c.allowed = max(c.allowed, binary.BigEndian.Uint64(body))
		return false, nil
	case kind == kindBeat && len(body) == 0:
		return false, nil
	case kind == kindClose && len(body) == 0:
		return false, io.EOF
	case kind == kindReset:
		text := strings.ToValidUTF8(string(body[:min(len(body), maxReasonBytes)]), "?")
		return false, sdk.Errorf(sdk.CodeUnavailable, "%s has given the connection up: %q", c.o.Remote, text)
	}
	return false, sdk.Errorf(sdk.CodeInvalid, "a frame of kind %d with %d bytes from %s is not understood", kind, len(body), c.o.Remote)
}

func wake(signal chan struct{}) {
	select {
	case signal <- struct{}{}:
	default: // it has one already
	}
}

// noPlainEnd takes io.EOF, which says that the peer has closed, out of the causes of a failure.
func noPlainEnd(err error) error {
	if errors.Is(err, io.EOF) {
		return sdk.Errorf(sdk.CodeOf(err), "%s", err.Error())
	}
	return err
}

// Fail ends the connection with err, and tells the peer if it still can.
func (c *Conn) Fail(err error) {
	err = noPlainEnd(err)
	if c.end(err) {
		c.farewell(kindReset, []byte(fmt.Sprintf("%.*s", maxReasonBytes/4, err))) // in characters, of 4 bytes at most
	}
}

// Close implements io.Closer. What was written before still reaches the peer. It waits for a Write under way to hand its
// frame over.
func (c *Conn) Close() error {
	c.mu.Lock()
	c.closed, c.chunks = true, nil
	c.mu.Unlock()
	if c.end(net.ErrClosed) {
		c.farewell(kindClose, nil)
	}
	return nil
}

// farewell sends the last frame.
func (c *Conn) farewell(kind byte, body []byte) {
	c.turn <- struct{}{}
	_ = c.sendInTurn(kind, body) // it may be the wire that is broken
	<-c.turn
	c.o.Ended()
}

// end ends the connection for a reason. It reports whether it was the first to do so.
func (c *Conn) end(reason error) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reason != nil {
		return false
	}
	c.reason = reason
	c.timer.Stop()
	close(c.gone)
	return true
}

// tick sends a beat if nothing else was sent, and ends the connection if nothing was heard for long.
func (c *Conn) tick() {
	c.mu.Lock()
	if c.silent++; c.heard {
		c.silent = 0
	}
	idle, lost := !c.said, c.silent >= missedBeats
	c.heard, c.said = false, false
	c.mu.Unlock()
	if lost {
		c.Fail(sdk.Errorf(sdk.CodeUnavailable, "nothing came from %s for %s", c.o.Remote, missedBeats*c.o.Beat))
		return
	}
	if idle && c.send(kindBeat, nil) != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reason == nil {
		c.timer.Reset(c.o.Beat)
	}
}
