package rpc

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/rpc/rpcpb"
)

// acceptedConns holds connections between Accept here and Accept in the host.
type acceptedConns struct {
	mu      sync.Mutex
	last    uint64
	waiting map[uint64]acceptedConn
}

type acceptedConn struct {
	sdk.Conn
	taken func() // makes room for another
}

func (a *acceptedConns) put(c acceptedConn) uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.last++
	a.waiting[a.last] = c
	return a.last
}

func (a *acceptedConns) take(id uint64) (sdk.Conn, bool) {
	a.mu.Lock()
	c, ok := a.waiting[id]
	delete(a.waiting, id)
	a.mu.Unlock()
	if !ok {
		return nil, false
	}
	c.taken()
	return c.Conn, true
}

// Listen implements rpcpb.TransportServiceServer.
func (s *server) Listen(stream grpc.BidiStreamingServer[rpcpb.ListenRequest, rpcpb.ListenEvent]) error {
	if s.transport == nil {
		return sdk.Errorf(sdk.CodeUnsupported, "this plugin serves no transport")
	}
	req, err := stream.Recv()
	if err != nil {
		return err
	}
	ctx, cancel := s.untilDrain(stream.Context())
	defer cancel()
	var inherited net.Listener
	if req.Inherited {
		if inherited, err = s.listeners(int(req.Index)); err != nil {
			return err
		}
	}
	listener, err := s.transport.Listen(ctx, req.Address, inherited)
	if err != nil {
		return err
	}
	go func() { // the host half-closes, or is gone
		_, _ = stream.Recv()
		cancel()
	}()
	closed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(closed)
		_ = listener.Close()
	})
	err = stream.Send(&rpcpb.ListenEvent{Address: listener.Address()})
	if err == nil {
		err = s.accept(ctx, listener, stream)
	}
	if stop() { // it ended by itself
		return errors.Join(err, listener.Close())
	}
	<-closed // now the address is free
	return nil
}

// accept announces connections until the listener ends. Those that the host has not taken by then are closed.
func (s *server) accept(ctx context.Context, listener sdk.Listener, stream grpc.BidiStreamingServer[rpcpb.ListenRequest, rpcpb.ListenEvent]) error {
	room := make(chan struct{}, acceptedWaiting)
	var announced []uint64
	defer func() {
		s.accepted.untilTaken(stream.Context(), slices.Clone(announced))
		for _, id := range announced {
			if c, ok := s.accepted.take(id); ok {
				_ = c.Close()
			}
		}
	}()
	for {
		select {
		case room <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		id := s.accepted.put(acceptedConn{Conn: conn, taken: func() { <-room }})
		announced = append(announced, id)
		if len(announced) > 2*acceptedWaiting {
			announced = s.accepted.still(announced)
		}
		if err := stream.Send(&rpcpb.ListenEvent{Id: id, Remote: text(conn.RemoteAddress())}); err != nil {
			return err
		}
	}
}

// takeWait is for the host to take the connections that were accepted before the listener was closed.
const takeWait = 500 * time.Millisecond

// untilTaken returns when the host has taken the connections of ids, when ctx ends, or after takeWait: so a listener that
// makes way for another loses none.
func (a *acceptedConns) untilTaken(ctx context.Context, ids []uint64) {
	giveUp := time.NewTimer(takeWait)
	defer giveUp.Stop()
	again := time.NewTicker(2 * time.Millisecond)
	defer again.Stop()
	for ids = a.still(ids); len(ids) > 0; ids = a.still(ids) {
		select {
		case <-again.C:
		case <-giveUp.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// still returns those of ids that nobody has taken.
func (a *acceptedConns) still(ids []uint64) []uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	kept := ids[:0]
	for _, id := range ids {
		if _, ok := a.waiting[id]; ok {
			kept = append(kept, id)
		}
	}
	return kept
}

// Carry implements rpcpb.TransportServiceServer.
func (s *server) Carry(stream grpc.BidiStreamingServer[rpcpb.Chunk, rpcpb.Chunk]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	conn, err := s.open(stream.Context(), first.GetOpen())
	if err != nil {
		return err
	}
	var once sync.Once
	closeConn := func() { once.Do(func() { _ = conn.Close() }) }
	defer closeConn()
	defer context.AfterFunc(stream.Context(), closeConn)() // cancelled: calls under way end too
	if err := stream.Send(&rpcpb.Chunk{Opened: &rpcpb.Chunk_Opened{Remote: text(conn.RemoteAddress())}}); err != nil {
		return err
	}
	ended := make(chan error, 2) // the first end of either direction is the end of both
	go func() { ended <- s.guard("Write of a connection", func() error { return carryIn(stream, conn) }) }()
	go func() { ended <- s.guard("Read of a connection", func() error { return carryOut(conn, stream) }) }()
	return <-ended
}

func (s *server) open(ctx context.Context, open *rpcpb.Chunk_Open) (sdk.Conn, error) {
	switch {
	case s.transport == nil:
		return nil, sdk.Errorf(sdk.CodeUnsupported, "this plugin serves no transport")
	case open.GetDial() != "":
		return s.transport.Dial(ctx, open.Dial)
	}
	conn, ok := s.accepted.take(open.GetAccepted())
	if !ok {
		return nil, sdk.Errorf(sdk.CodeNotFound, "no connection %d waits to be accepted", open.GetAccepted())
	}
	return conn, nil
}

// carryIn writes what the host sends, until the host half-closes: then everything is written.
func carryIn(stream grpc.BidiStreamingServer[rpcpb.Chunk, rpcpb.Chunk], conn sdk.Conn) error {
	for {
		chunk, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := conn.Write(chunk.Data); err != nil {
			return sdk.Errorf(sdk.CodeUnavailable, "write to %s: %w", conn.RemoteAddress(), err)
		}
	}
}

// carryOut sends what the peer writes, until it closes. Send waits for the host to read.
func carryOut(conn sdk.Conn, stream grpc.BidiStreamingServer[rpcpb.Chunk, rpcpb.Chunk]) error {
	buf := make([]byte, chunkBytes)
	for {
		n, err := conn.Read(buf)
		if n > 0 {
			if err := stream.Send(&rpcpb.Chunk{Data: buf[:n]}); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return sdk.Errorf(sdk.CodeUnavailable, "read from %s: %w", conn.RemoteAddress(), err)
		}
	}
}
