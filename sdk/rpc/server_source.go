package rpc

import (
	"context"
	"sync"

	"google.golang.org/grpc"

	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/rpc/rpcpb"
)

// Source implements rpcpb.ModelServiceServer: it runs the source until the host ends the call or the process drains.
func (s *server) Source(stream grpc.BidiStreamingServer[rpcpb.SourceHostMessage, rpcpb.SourceMessage]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	start := first.GetStart()
	model, err := s.model(start.GetModel())
	if err != nil {
		return err
	}
	source, ok := model.(sdk.Source)
	if !ok {
		return sdk.Errorf(sdk.CodeUnsupported, "model %q is not a source", start.GetModel())
	}
	if err := s.begin(); err != nil {
		return err
	}
	defer s.end()
	ctx, cancel := s.untilDrain(stream.Context())
	host := &sourceHost{
		ctx: ctx, stream: stream, sending: newTurn(),
		credits: make(chan struct{}, max(1, start.GetCredits())),
		waiting: make(map[uint64]*sourceCall),
		watched: make(map[sdk.ModelName][]chan struct{}),
	}
	context.AfterFunc(ctx, host.close)
	defer cancel()
	go host.receive(cancel)
	return s.guard("Run of source "+start.GetModel(), func() error { return source.Run(ctx, host) })
}

// sourceHost is the sdk.SourceHost that a source in this process sees.
type sourceHost struct {
	ctx     context.Context //nolint:containedctx // the life of one Run
	stream  grpc.BidiStreamingServer[rpcpb.SourceHostMessage, rpcpb.SourceMessage]
	sending turn
	credits chan struct{} // holds one a call in flight

	mu      sync.Mutex
	last    uint64
	waiting map[uint64]*sourceCall
	watched map[sdk.ModelName][]chan struct{}
	closed  bool // Run has ended: watched is no more
}

// sourceCall is a Commit or a Find in flight.
type sourceCall struct {
	rows []byte                        // parts of a Find's answer so far; only receive touches it
	done chan *rpcpb.SourceHostMessage // buffered: receive never waits
}

// receive hands answers to their callers until the stream ends, which cancel then tells the source.
func (h *sourceHost) receive(cancel context.CancelFunc) {
	defer cancel()
	for {
		m, err := h.stream.Recv()
		if err != nil {
			return
		}
		if changed, ok := m.Kind.(*rpcpb.SourceHostMessage_Changed); ok {
			h.changed(sdk.ModelName(changed.Changed))
			continue
		}
		h.mu.Lock()
		call := h.waiting[m.Id]
		h.mu.Unlock()
		if call == nil {
			continue // its caller gave up
		}
		if found := m.GetFound(); found != nil {
			call.rows = append(call.rows, found.Rows...)
			if !found.Last {
				continue
			}
			found.Rows = call.rows
		}
		h.mu.Lock()
		delete(h.waiting, m.Id)
		h.mu.Unlock()
		call.done <- m
	}
}

func (h *sourceHost) changed(model sdk.ModelName) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return
	}
	for _, ch := range h.watched[model] {
		select {
		case ch <- struct{}{}:
		default: // one value stands for several changes
		}
	}
}

func (h *sourceHost) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for _, chans := range h.watched {
		for _, ch := range chans {
			close(ch)
		}
	}
	clear(h.watched)
}

// call sends m and waits for its answer.
func (h *sourceHost) call(ctx context.Context, m *rpcpb.SourceMessage) (*rpcpb.SourceHostMessage, error) {
	if err := checkMessage(m, "a batch"); err != nil {
		return nil, err
	}
	select {
	case h.credits <- struct{}{}:
		defer func() { <-h.credits }()
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-h.ctx.Done():
		return nil, h.ctx.Err()
	}
	call := &sourceCall{done: make(chan *rpcpb.SourceHostMessage, 1)}
	h.mu.Lock()
	h.last++
	m.Id = h.last
	h.waiting[m.Id] = call
	h.mu.Unlock()
	if err := h.send(ctx, m); err != nil {
		h.forget(m.Id)
		return nil, err
	}
	select {
	case answer := <-call.done:
		return answer, errorFromWire(answer.Error)
	case <-ctx.Done():
		h.forget(m.Id)
		return nil, ctx.Err()
	case <-h.ctx.Done():
		h.forget(m.Id)
		return nil, h.ctx.Err()
	}
}

func (h *sourceHost) forget(id uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.waiting, id)
}

func (h *sourceHost) send(ctx context.Context, m *rpcpb.SourceMessage) error {
	return fromStatus(h.sending.do(ctx, func() error { return h.stream.Send(m) }))
}

// Commit implements sdk.SourceHost.
func (h *sourceHost) Commit(ctx context.Context, batch sdk.Batch) ([]sdk.Refusal, error) {
	b, err := batchToWire(batch)
	if err != nil {
		return nil, err
	}
	answer, err := h.call(ctx, &rpcpb.SourceMessage{Kind: &rpcpb.SourceMessage_Commit{Commit: b}})
	if err != nil {
		return nil, err
	}
	return refusalsFromWire(answer.GetCommitted().GetRefused()), nil
}

// Find implements sdk.SourceHost.
func (h *sourceHost) Find(ctx context.Context, model sdk.ModelName, field string, values []any) (sdk.Batch, error) {
	packed, err := appendValues(nil, values)
	if err != nil {
		return sdk.Batch{}, err
	}
	find := &rpcpb.SourceMessage_Find{Model: text(string(model)), Field: text(field), Values: packed}
	answer, err := h.call(ctx, &rpcpb.SourceMessage{Kind: &rpcpb.SourceMessage_Find_{Find: find}})
	if err != nil {
		return sdk.Batch{}, err
	}
	batch := batchFromWire(answer.GetFound().GetBatch())
	batch.Rows = answer.GetFound().GetRows()
	return batch, nil
}

// Changed implements sdk.SourceHost.
func (h *sourceHost) Changed(model sdk.ModelName) <-chan struct{} {
	ch := make(chan struct{}, 1)
	h.mu.Lock()
	first := len(h.watched[model]) == 0
	if h.closed {
		close(ch)
		h.mu.Unlock()
		return ch
	}
	h.watched[model] = append(h.watched[model], ch)
	h.mu.Unlock()
	if first {
		_ = h.send(h.ctx, &rpcpb.SourceMessage{Kind: &rpcpb.SourceMessage_Subscribe{Subscribe: text(string(model))}}) // a broken stream ends Run
	}
	return ch
}

// Warn implements sdk.SourceHost.
func (h *sourceHost) Warn(key string, count int, message string) {
	w := &rpcpb.SourceMessage_Warning{Key: text(key), Count: int64(count), Message: text(message)}
	_ = h.send(h.ctx, &rpcpb.SourceMessage{Kind: &rpcpb.SourceMessage_Warning_{Warning: w}}) // a broken stream ends Run
}

// Progress implements sdk.SourceHost.
func (h *sourceHost) Progress(progress sdk.Progress) {
	p := &rpcpb.SourceMessage_Progress{
		Key: text(progress.Key), Done: progress.Done, Total: progress.Total, Unit: text(string(progress.Unit)),
	}
	_ = h.send(h.ctx, &rpcpb.SourceMessage{Kind: &rpcpb.SourceMessage_Progress_{Progress: p}}) // a broken stream ends Run
}
