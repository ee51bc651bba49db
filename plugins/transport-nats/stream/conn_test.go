package stream

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/starling-sync/starling/sdk"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pipe is one direction of a wire in memory: what is sent is received by to on a goroutine of its own, unless fate says
// otherwise.
type pipe struct {
	max  int
	fate func(n int) fate // of the nth message

	mu     sync.Mutex
	to     *Conn
	queue  [][]byte
	held   []byte // delivered after the next
	count  int
	busy   bool
	broken error
}

type fate int

const (
	arrives fate = iota
	lost
	repeated
	late
)

func (p *pipe) MaxMessage() int { return p.max }

func (p *pipe) Send(message []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.broken != nil {
		return p.broken
	}
	message = bytes.Clone(message)
	what := arrives
	if p.fate != nil {
		what = p.fate(p.count)
	}
	p.count++
	switch what {
	case lost:
		return nil
	case late:
		if p.held == nil {
			p.held = message
			return nil
		}
	case repeated:
		p.queue = append(p.queue, message)
	}
	p.queue = append(p.queue, bytes.Clone(message))
	if p.held != nil {
		p.queue, p.held = append(p.queue, p.held), nil
	}
	if !p.busy && p.to != nil {
		p.busy = true
		go p.deliver()
	}
	return nil
}

func (p *pipe) deliver() {
	for {
		p.mu.Lock()
		if len(p.queue) == 0 {
			p.busy = false
			p.mu.Unlock()
			return
		}
		first := p.queue[0]
		p.queue = p.queue[1:]
		p.mu.Unlock()
		p.to.Receive(first)
	}
}

type pairOptions struct {
	window, max int
	fate        func(n int) fate // of what a sends
	ended       func(name string)
}

func newPair(t interface{ Helper() }, o pairOptions) (a, b *Conn, toB, toA *pipe) {
	t.Helper()
	if o.window == 0 {
		o.window = DefaultWindow
	}
	if o.max == 0 {
		o.max = 1 << 20
	}
	if o.ended == nil {
		o.ended = func(string) {}
	}
	toB, toA = &pipe{max: o.max, fate: o.fate}, &pipe{max: o.max}
	a = New(Options{Wire: toB, Remote: "b", Window: o.window, PeerWindow: o.window, Beat: DefaultBeat, Ended: func() { o.ended("a") }})
	b = New(Options{Wire: toA, Remote: "a", Window: o.window, PeerWindow: o.window, Beat: DefaultBeat, Ended: func() { o.ended("b") }})
	toB.mu.Lock()
	toB.to = b
	toB.mu.Unlock()
	toA.mu.Lock()
	toA.to = a
	toA.mu.Unlock()
	return a, b, toB, toA
}

// TestConn_Prefix is the law: whatever the wire does to messages, what is read is a prefix of what was written; it is all
// of it, with io.EOF at the end, iff nothing was done.
func TestConn_Prefix(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		c := carried{
			size: rapid.IntRange(1, 200_000).Draw(r, "bytes"), piece: rapid.IntRange(1, 30_000).Draw(r, "piece"),
			window: rapid.IntRange(MinWindow, 1<<17).Draw(r, "window"), max: rapid.IntRange(MinMessage, 1<<17).Draw(r, "max message"),
			what: fate(rapid.IntRange(int(arrives), int(late)).Draw(r, "fate")), at: rapid.IntRange(0, 60).Draw(r, "at"),
		}
		var err error
		synctest.Test(t, func(t *testing.T) { err = c.run(t) })
		if err != nil {
			r.Fatal(err)
		}
	})
}

// carried is a stream from one end to the other, and what the wire does to one message.
type carried struct {
	size, piece, window, max int
	what                     fate
	at                       int
}

func (c carried) run(t *testing.T) error {
	hit := false
	a, b, toB, _ := newPair(t, pairOptions{window: c.window, max: c.max, fate: func(n int) fate {
		if n == c.at && c.what != arrives {
			hit = true
			return c.what
		}
		return arrives
	}})
	data := make([]byte, c.size)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(data)
	wrote := make(chan struct{})
	go func() {
		defer close(wrote)
		var err error
		for rest := data; len(rest) > 0 && err == nil; {
			n := min(c.piece, len(rest))
			_, err = a.Write(rest[:n])
			rest = rest[n:]
		}
		_ = a.Close()
	}()
	var got bytes.Buffer
	var err error
	for buffer := make([]byte, 1+c.piece/2); err == nil; { // a lost last message shows as silence
		var n int
		n, err = b.Read(buffer)
		got.Write(buffer[:n])
	}
	_ = b.Close()
	<-wrote
	toB.mu.Lock()
	defer toB.mu.Unlock()
	switch {
	case !bytes.HasPrefix(data, got.Bytes()):
		return errors.New("what was read is no prefix of what was written")
	case !hit && (!errors.Is(err, io.EOF) || got.Len() != c.size):
		return fmt.Errorf("read %d of %d bytes, though nothing was lost: %w", got.Len(), c.size, err)
	case hit && errors.Is(err, io.EOF) && (c.what != repeated || c.at != toB.count-1): // a close may come twice
		return fmt.Errorf("a plain end, though something befell message %d of %d", c.at, toB.count)
	}
	return nil
}

// TestConn_Bounded wants no more unread data on the way than the window, in frames of one byte too.
func TestConn_Bounded(t *testing.T) {
	for _, piece := range []int{1, 100, 64 << 10} {
		t.Run(fmt.Sprintf("pieces of %d", piece), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const window = 64 << 10
				a, b, _, _ := newPair(t, pairOptions{window: window})
				done := make(chan error, 1)
				go func() {
					for {
						if _, err := a.Write(make([]byte, piece)); err != nil {
							done <- err
							return
						}
					}
				}()
				synctest.Wait() // the writer is blocked
				b.mu.Lock()
				held, frames := b.received-b.freed, len(b.chunks)
				b.mu.Unlock()
				if held > window || held < window/2 {
					t.Errorf("%d bytes are held of a window of %d", held, window)
				}
				if frames > window/Overhead {
					t.Errorf("%d frames are held of a window of %d", frames, window)
				}
				for range 10 { // a window each
					if _, err := io.ReadFull(b, make([]byte, window/(1+Overhead/min(piece, 1<<14)))); err != nil {
						t.Fatal(err)
					}
				}
				synctest.Wait()
				if err := a.Close(); err != nil {
					t.Error(err)
				}
				if err := <-done; !errors.Is(err, net.ErrClosed) {
					t.Errorf("a blocked write: want net.ErrClosed, got %v", err)
				}
				if err := b.Close(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestConn_PeerOverWindow has a peer that does not keep to the credit it was given.
func TestConn_PeerOverWindow(t *testing.T) {
	_, b, _, _ := newPair(t, pairOptions{window: MinWindow})
	for n := range uint64(10) {
		b.Receive(appendFrame(nil, kindData, n, make([]byte, 1000)))
	}
	if _, err := io.Copy(io.Discard, b); sdk.CodeOf(err) != sdk.CodeInvalid || !strings.Contains(err.Error(), "more than it was granted") {
		t.Errorf("want a refusal, got %v", err)
	}
}

// TestConn_Malformed wants what is no frame to end the connection, and nothing to panic.
func TestConn_Malformed(t *testing.T) {
	for name, message := range map[string][]byte{
		"empty":          {},
		"short":          {kindData, 0, 0},
		"unknown kind":   appendFrame(nil, 99, 0, nil),
		"empty data":     appendFrame(nil, kindData, 0, nil),
		"short credit":   appendFrame(nil, kindCredit, 0, []byte{1}),
		"beat with body": appendFrame(nil, kindBeat, 0, []byte{1}),
		"ahead":          appendFrame(nil, kindBeat, 7, nil),
	} {
		t.Run(name, func(t *testing.T) {
			a, b, _, _ := newPair(t, pairOptions{})
			b.Receive(message)
			_, err := b.Read(make([]byte, 1))
			if err == nil || errors.Is(err, io.EOF) {
				t.Errorf("want a failure, got %v", err)
			}
			if _, err := a.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "given the connection up") {
				t.Errorf("the peer is told %v", err)
			}
		})
	}
}

// TestConn_Silence wants a silent peer to be noticed, and one that only beats to be kept.
func TestConn_Silence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		silent := false
		ended := map[string]int{}
		a, b, _, toA := newPair(t, pairOptions{
			fate: func(int) fate {
				mu.Lock()
				defer mu.Unlock()
				if silent {
					return lost
				}
				return arrives
			},
			ended: func(name string) {
				mu.Lock()
				defer mu.Unlock()
				ended[name]++
			},
		})
		time.Sleep(time.Hour)
		if _, err := a.Write([]byte("x")); err != nil {
			t.Fatalf("an idle connection has ended: %v", err)
		}
		if _, err := io.ReadFull(b, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		silent = true
		mu.Unlock()
		toA.mu.Lock()
		toA.broken = errors.New("cut") // b can not tell a, so a must notice by itself
		toA.mu.Unlock()
		began := time.Now()
		for _, c := range []*Conn{a, b} {
			if _, err := c.Read(make([]byte, 1)); sdk.CodeOf(err) != sdk.CodeUnavailable {
				t.Errorf("want unavailable, got %v", err)
			}
		}
		if took := time.Since(began); took > (missedBeats+1)*DefaultBeat {
			t.Errorf("silence was noticed after %s", took)
		}
		_, _ = a.Close(), b.Close()
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		if ended["a"] != 1 || ended["b"] != 1 {
			t.Errorf("Ended was called %v times; want once each", ended)
		}
	})
}

// TestConn_Close wants what was written before a close to be read after it, and then io.EOF.
func TestConn_Close(t *testing.T) {
	a, b, _, _ := newPair(t, pairOptions{})
	if _, err := a.Write([]byte("last words")); err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	<-b.Gone()
	if got, err := io.ReadAll(b); err != nil || string(got) != "last words" {
		t.Errorf("read %q, %v", got, err)
	}
	if _, err := b.Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("a write to a closed peer: want io.ErrClosedPipe, got %v", err)
	}
	if _, err := a.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a write after close: want net.ErrClosed, got %v", err)
	}
	_ = a.Close()
	_ = b.Close()
}

// TestConn_WireBreaks has the wire refuse a frame: the write says so, and the connection has ended.
func TestConn_WireBreaks(t *testing.T) {
	a, _, toB, _ := newPair(t, pairOptions{})
	toB.mu.Lock()
	toB.broken = errors.New("no server")
	toB.mu.Unlock()
	if _, err := a.Write([]byte("x")); err == nil || !strings.Contains(err.Error(), "no server") {
		t.Errorf("want the wire's reason, got %v", err)
	}
	if _, err := a.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "no server") {
		t.Errorf("want the wire's reason, got %v", err)
	}
}

// TestConn_FailIsNoEnd wants a failure whose cause is io.EOF, as of a server that hangs up, not to pass for a peer's close.
func TestConn_FailIsNoEnd(t *testing.T) {
	cause := fmt.Errorf("the server hung up: %w", io.EOF)
	a, _, _, _ := newPair(t, pairOptions{})
	a.Fail(cause)
	if _, err := a.Read(make([]byte, 1)); errors.Is(err, io.EOF) || err == nil || err.Error() != cause.Error() {
		t.Errorf("a read after a failure: %v", err)
	}
	b, _, toB, _ := newPair(t, pairOptions{})
	toB.mu.Lock()
	toB.broken = cause
	toB.mu.Unlock()
	if _, err := b.Write([]byte("x")); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("a write that fails: %v", err)
	}
	if _, err := b.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("a read after it: %v", err)
	}
}

func FuzzReceive(f *testing.F) {
	f.Add(appendFrame(nil, kindData, 0, []byte("x")), appendFrame(nil, kindClose, 1, nil))
	f.Fuzz(func(t *testing.T, first, second []byte) {
		_, b, _, _ := newPair(t, pairOptions{window: MinWindow})
		b.Receive(first)
		b.Receive(second)
		_ = b.Close()
	})
}
