package rpc

import (
	"context"
	"errors"
	"io"
	"sync"

	"google.golang.org/grpc"

	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/rpc/rpcpb"
)

// sourceClient is a model of a plugin process that is a source too.
type sourceClient struct{ *modelClient }

// Run implements sdk.Source.
func (m *sourceClient) Run(ctx context.Context, host sdk.SourceHost) error {
	ctx, cancel := context.WithCancel(ctx)
	stream, err := m.client.models.Source(ctx)
	if err != nil {
		cancel()
		return fromStatus(err)
	}
	run := &sourceRun{host: host, stream: stream, sending: newTurn(), credits: make(chan struct{}, sourceCredits)}
	defer run.calls.Wait()
	defer cancel()
	start := &rpcpb.SourceHostMessage_Start{Model: string(m.description.Model), Credits: sourceCredits}
	err = stream.Send(&rpcpb.SourceHostMessage{Kind: &rpcpb.SourceHostMessage_Start_{Start: start}})
	for err == nil || errors.Is(err, io.EOF) { // EOF of Send: Recv says why
		var message *rpcpb.SourceMessage
		if message, err = stream.Recv(); err != nil {
			break
		}
		err = run.handle(ctx, message)
	}
	if ctx.Err() != nil || errors.Is(err, io.EOF) {
		return nil
	}
	return fromStatus(err)
}

// sourceRun is one run of a source, seen from the host.
type sourceRun struct {
	host    sdk.SourceHost
	stream  grpc.BidiStreamingClient[rpcpb.SourceHostMessage, rpcpb.SourceMessage]
	sending turn
	credits chan struct{} // holds one a call in flight: a plugin that sends more waits
	calls   sync.WaitGroup
}

// handle starts what m asks for. It waits only while too many calls are in flight.
func (r *sourceRun) handle(ctx context.Context, m *rpcpb.SourceMessage) error {
	switch kind := m.Kind.(type) {
	case *rpcpb.SourceMessage_Commit:
		return r.start(ctx, func() error { return r.commit(ctx, m.Id, kind.Commit) })
	case *rpcpb.SourceMessage_Find_:
		return r.start(ctx, func() error { return r.find(ctx, m.Id, kind.Find) })
	case *rpcpb.SourceMessage_Subscribe:
		r.calls.Go(func() { r.forward(ctx, kind.Subscribe) })
	case *rpcpb.SourceMessage_Warning_:
		r.host.Warn(kind.Warning.Key, int(kind.Warning.Count), kind.Warning.Message)
	case *rpcpb.SourceMessage_Progress_:
		p := kind.Progress
		r.host.Progress(sdk.Progress{Key: p.Key, Unit: sdk.Unit(p.Unit), Done: p.Done, Total: p.Total})
	}
	return nil
}

func (r *sourceRun) start(ctx context.Context, call func() error) error {
	select {
	case r.credits <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	r.calls.Go(func() {
		defer func() { <-r.credits }()
		_ = call() // a broken stream shows in Recv
	})
	return nil
}

func (r *sourceRun) send(ctx context.Context, m *rpcpb.SourceHostMessage) error {
	return r.sending.do(ctx, func() error { return r.stream.Send(m) })
}

func (r *sourceRun) commit(ctx context.Context, id uint64, batch *rpcpb.Batch) error {
	refused, err := r.host.Commit(ctx, batchFromWire(batch))
	if err != nil {
		return r.send(ctx, &rpcpb.SourceHostMessage{Id: id, Error: errorToWire(err)})
	}
	done := &rpcpb.SourceHostMessage_Committed{Refused: refusalsToWire(refused)}
	return r.send(ctx, &rpcpb.SourceHostMessage{Id: id, Kind: &rpcpb.SourceHostMessage_Committed_{Committed: done}})
}

// find answers in parts: this device's own records may be many.
func (r *sourceRun) find(ctx context.Context, id uint64, find *rpcpb.SourceMessage_Find) error {
	batch, header, err := r.found(ctx, find)
	if err != nil {
		return r.send(ctx, &rpcpb.SourceHostMessage{Id: id, Error: errorToWire(err)})
	}
	rest := batch.Rows
	for {
		n := min(partBytes, len(rest))
		part := &rpcpb.SourceHostMessage_Found{Rows: rest[:n], Last: n == len(rest)}
		if part.Last {
			part.Batch = header
		}
		err := r.send(ctx, &rpcpb.SourceHostMessage{Id: id, Kind: &rpcpb.SourceHostMessage_Found_{Found: part}})
		if err != nil || part.Last {
			return err
		}
		rest = rest[n:]
	}
}

func (r *sourceRun) found(ctx context.Context, find *rpcpb.SourceMessage_Find) (batch sdk.Batch, header *rpcpb.Batch, err error) {
	values, err := readValues(find.Values)
	if err != nil {
		return batch, nil, err
	}
	if batch, err = r.host.Find(ctx, sdk.ModelName(find.Model), find.Field, values); err != nil {
		return batch, nil, err
	}
	if header, err = batchToWire(batch); err == nil {
		header.Rows = nil
	}
	return batch, header, err
}

func (r *sourceRun) forward(ctx context.Context, model string) {
	changed := r.host.Changed(sdk.ModelName(model))
	for {
		select {
		case _, ok := <-changed:
			if !ok {
				return
			}
			if r.send(ctx, &rpcpb.SourceHostMessage{Kind: &rpcpb.SourceHostMessage_Changed{Changed: model}}) != nil {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}
