package rpc

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"sync"

	"google.golang.org/grpc"

	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/rpc/rpcpb"
)

// modelClient is a model of a plugin process, seen from the host.
type modelClient struct {
	client      *Client
	description sdk.Description
	opening     turn         // guards stream
	stream      *applyStream // nil before the first call
}

// Describe implements sdk.ModelServer.
func (m *modelClient) Describe(context.Context) (sdk.Description, error) { return m.description, nil }

// Configure implements sdk.Configurable.
func (m *modelClient) Configure(ctx context.Context, config json.RawMessage) error {
	return m.client.configure(ctx, string(m.description.Model), config)
}

// ApplyStateChange implements sdk.ModelServer.
func (m *modelClient) ApplyStateChange(ctx context.Context, in sdk.StateChanges) (sdk.StateResult, error) {
	batch, err := batchToWire(in.Batch)
	if err != nil {
		return sdk.StateResult{}, err
	}
	reply, err := m.call(ctx, &rpcpb.ApplyRequest{Batch: batch, Origin: in.Origin[:], Local: in.Local})
	if err != nil {
		return sdk.StateResult{}, err
	}
	return sdk.StateResult{Rows: reply.Rows, Refused: refusalsFromWire(reply.Refused)}, nil
}

// ApplySharedChange implements sdk.ModelServer.
func (m *modelClient) ApplySharedChange(ctx context.Context, in sdk.SharedChanges) (out sdk.SharedResult, err error) {
	req := &rpcpb.ApplyRequest{Shared: true, Origin: in.Origin[:], Local: in.Local}
	if req.Batch, err = batchToWire(in.Batch); err != nil {
		return out, err
	}
	if req.Current, err = appendRecords(nil, in.Current); err != nil {
		return out, err
	}
	reply, err := m.call(ctx, req)
	if err != nil {
		return out, err
	}
	out.Refused = refusalsFromWire(reply.Refused)
	if out.Records, err = readRecords(reply.Records); err != nil {
		return out, err
	}
	if out.Conflicts, err = readConflicts(reply.Conflicts); err != nil {
		return out, err
	}
	out.Resolved, err = readConflicts(reply.Resolved)
	return out, err
}

// call runs one request, for the client's timeout at most, if it has one.
func (m *modelClient) call(ctx context.Context, req *rpcpb.ApplyRequest) (*rpcpb.ApplyReply, error) {
	if err := checkMessage(req, "a batch of "+string(m.description.Model)); err != nil {
		return nil, err
	}
	if m.client.timeout == 0 {
		return m.carry(ctx, req)
	}
	limited, cancel := context.WithTimeout(ctx, m.client.timeout)
	defer cancel()
	reply, err := m.carry(limited, req)
	if err != nil && ctx.Err() == nil && limited.Err() != nil {
		return nil, sdk.Errorf(sdk.CodeUnavailable, "plugin %s did not answer a batch of model %q within %s: %w", m.client.name, m.description.Model, m.client.timeout, limited.Err())
	}
	return reply, err
}

// carry runs one request over the model's stream, which it opens first if there is none.
func (m *modelClient) carry(ctx context.Context, req *rpcpb.ApplyRequest) (*rpcpb.ApplyReply, error) {
	var stream *applyStream
	err := m.opening.do(ctx, func() (err error) {
		if m.stream == nil || m.stream.broken() {
			m.stream, err = openApply(ctx, m.client.models, string(m.description.Model))
		}
		stream = m.stream
		return err
	})
	if err != nil {
		return nil, err
	}
	return stream.call(ctx, req)
}

// applyStream is one Apply stream and the calls that share it.
type applyStream struct {
	stream  grpc.BidiStreamingClient[rpcpb.ApplyRequest, rpcpb.ApplyReply]
	sending turn
	credits chan struct{} // one for each batch that may still be sent
	done    chan struct{} // closed when the stream has ended; then err says why
	err     error

	mu      sync.Mutex
	last    uint64
	waiting map[uint64]chan *rpcpb.ApplyReply // buffered: receive never waits
}

// openApply returns when the plugin has granted its credits. The stream lives until the process ends, and so does the
// goroutine that receives from it.
func openApply(ctx context.Context, models rpcpb.ModelServiceClient, model string) (*applyStream, error) {
	streamCtx, cancel := context.WithCancel(context.Background()) // it outlives the call that needs it first
	abort := context.AfterFunc(ctx, cancel)
	stream, err := models.Apply(streamCtx)
	if err == nil {
		err = stream.Send(&rpcpb.ApplyRequest{Model: model})
	}
	var first *rpcpb.ApplyReply
	if err == nil || errors.Is(err, io.EOF) { // EOF: Recv says why
		first, err = stream.Recv()
	}
	if !abort() || err != nil {
		cancel()
		return nil, errors.Join(ctx.Err(), fromStatus(err))
	}
	s := &applyStream{
		stream: stream, sending: newTurn(), done: make(chan struct{}),
		credits: make(chan struct{}, max(1, first.Credits)),
		waiting: make(map[uint64]chan *rpcpb.ApplyReply),
	}
	for range cap(s.credits) {
		s.credits <- struct{}{}
	}
	go s.receive(cancel)
	return s, nil
}

func (s *applyStream) receive(cancel context.CancelFunc) {
	defer cancel()
	for {
		reply, err := s.stream.Recv()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = sdk.Errorf(sdk.CodeUnavailable, "the plugin ended the stream")
			}
			s.err = fromStatus(err)
			close(s.done)
			return
		}
		s.mu.Lock()
		call := s.waiting[reply.Id]
		delete(s.waiting, reply.Id)
		s.mu.Unlock()
		if call == nil {
			continue // not asked for: no credit either
		}
		call <- reply
		s.credits <- struct{}{}
	}
}

func (s *applyStream) broken() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

func (s *applyStream) call(ctx context.Context, req *rpcpb.ApplyRequest) (*rpcpb.ApplyReply, error) {
	select {
	case <-s.credits:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-s.done:
		return nil, s.err
	}
	call := make(chan *rpcpb.ApplyReply, 1)
	s.mu.Lock()
	s.last++
	req.Id = s.last
	s.waiting[req.Id] = call
	s.mu.Unlock()
	if err := s.sending.do(ctx, func() error { return s.stream.Send(req) }); err != nil && ctx.Err() != nil {
		s.takeBack(req.Id)
		return nil, err
	} // any other error ends the stream, and receive says why
	select {
	case reply := <-call:
		return reply, errorFromWire(reply.Error)
	case <-ctx.Done():
		return nil, ctx.Err() // the credit comes back with the reply
	case <-s.done:
		return nil, s.err
	}
}

// takeBack returns the credit of a request that was never sent.
func (s *applyStream) takeBack(id uint64) {
	s.mu.Lock()
	_, ok := s.waiting[id]
	delete(s.waiting, id)
	s.mu.Unlock()
	if ok {
		s.credits <- struct{}{}
	}
}
