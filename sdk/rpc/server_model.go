package rpc

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"

	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/rpc/rpcpb"
)

// Apply implements rpcpb.ModelServiceServer. Requests run at once, applyCredits at most; replies come as they are done.
func (s *server) Apply(stream grpc.BidiStreamingServer[rpcpb.ApplyRequest, rpcpb.ApplyReply]) error {
	open, err := stream.Recv()
	if err != nil {
		return err
	}
	model, err := s.model(open.Model)
	if err != nil {
		return err
	}
	sending := newTurn()
	if err := stream.Send(&rpcpb.ApplyReply{Credits: applyCredits}); err != nil {
		return err
	}
	var (
		calls    sync.WaitGroup
		inFlight atomic.Int32 // <= applyCredits
	)
	defer calls.Wait()
	for {
		req, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if inFlight.Add(1) > applyCredits {
			return sdk.Errorf(sdk.CodeInvalid, "more than the %d batches in flight that were granted", applyCredits)
		}
		calls.Go(func() {
			req.Model = open.Model
			reply := s.answer(stream.Context(), model, req)
			inFlight.Add(-1)
			_ = sending.do(stream.Context(), func() error { return stream.Send(reply) }) // a broken stream shows in Recv
		})
	}
}

// answer runs one request and never fails: an error is an answer.
func (s *server) answer(ctx context.Context, model sdk.ModelServer, req *rpcpb.ApplyRequest) *rpcpb.ApplyReply {
	reply, err := s.apply(ctx, model, req)
	if err == nil {
		err = checkMessage(reply, "the answer to a batch of "+req.Model)
	}
	if err != nil {
		reply = &rpcpb.ApplyReply{Error: errorToWire(err)}
	}
	reply.Id = req.Id
	return reply
}

func (s *server) apply(ctx context.Context, model sdk.ModelServer, req *rpcpb.ApplyRequest) (*rpcpb.ApplyReply, error) {
	if err := s.begin(); err != nil {
		return nil, err
	}
	defer s.end()
	origin, err := deviceFromWire(req.Origin)
	if err != nil {
		return nil, err
	}
	if req.Shared {
		return s.applyShared(ctx, model, req, origin)
	}
	what := "ApplyStateChange of " + req.Model
	defer s.handle(what)()
	var out sdk.StateResult
	err = s.guard(what, func() (err error) {
		out, err = model.ApplyStateChange(ctx, sdk.StateChanges{Batch: batchFromWire(req.Batch), Origin: origin, Local: req.Local})
		return err
	})
	if err != nil {
		return nil, err
	}
	return &rpcpb.ApplyReply{Rows: out.Rows, Refused: refusalsToWire(out.Refused)}, nil
}

func (s *server) applyShared(ctx context.Context, model sdk.ModelServer, req *rpcpb.ApplyRequest, origin sdk.DeviceID) (*rpcpb.ApplyReply, error) {
	current, err := readRecords(req.Current)
	if err != nil {
		return nil, err
	}
	in := sdk.SharedChanges{Batch: batchFromWire(req.Batch), Origin: origin, Local: req.Local, Current: current}
	what := "ApplySharedChange of " + req.Model
	defer s.handle(what)()
	var out sdk.SharedResult
	err = s.guard(what, func() (err error) {
		out, err = model.ApplySharedChange(ctx, in)
		return err
	})
	if err != nil {
		return nil, err
	}
	reply := &rpcpb.ApplyReply{Refused: refusalsToWire(out.Refused)}
	if reply.Records, err = appendRecords(nil, out.Records); err != nil {
		return nil, err
	}
	if reply.Conflicts, err = appendConflicts(nil, out.Conflicts); err != nil {
		return nil, err
	}
	reply.Resolved, err = appendConflicts(nil, out.Resolved)
	return reply, err
}

// turn lets one goroutine at a time send on a stream, and lets a waiting one give up.
type turn chan struct{}

func newTurn() turn { return make(turn, 1) }

func (t turn) do(ctx context.Context, send func() error) error {
	select {
	case t <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-t }()
	return send()
}
