package verify

import (
	"context"
	"sync"
	"time"

	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/rpc"
	"github.com/starling-sync/starling/sdk/sdktest"
)

func (s *subject) servesSources() bool {
	for i := range s.info.Models {
		if s.info.Models[i].Source {
			return true
		}
	}
	return false
}

// sourceEnds ends each source in both ways.
func (s *subject) sourceEnds(t sdktest.T) {
	for i := range s.info.Models {
		if !s.info.Models[i].Source {
			continue
		}
		t.Run(string(s.info.Models[i].Model), func(t sdktest.T) {
			p := s.started(t, i)
			ctx, cancel := context.WithCancel(s.soon(t))
			ended := s.runSource(ctx, p, i)
			cancel()
			s.mustEnd(t, "the host's call had ended", ended)
			if err := p.Client().Drain(s.soon(t)); err != nil {
				t.Errorf("drain, after the host's call had ended: the source goes on: %v", err)
			}
			p = s.started(t, i)
			ended = s.runSource(s.soon(t), p, i)
			if err := p.Client().Drain(s.soon(t)); err != nil {
				t.Errorf("drain: the source goes on: %v", err)
			}
			s.mustEnd(t, "the drain", ended)
		})
	}
}

// beginWait is how long a source has for its first word; one that is silent may be at work all the same.
const beginWait = time.Second

// runSource runs the source of a model, and returns once it has said something, with a channel for what Run returns.
func (s *subject) runSource(ctx context.Context, p *rpc.Process, target int) <-chan error {
	source := p.Client().Model(s.info.Models[target]).(sdk.Source) //nolint:forcetypeassert // its description says so
	host := &silentHost{ctx: ctx, heard: make(chan struct{})}
	ended := make(chan error, 1)
	go func() { ended <- source.Run(ctx, host) }()
	select {
	case <-host.heard:
	case <-time.After(beginWait):
	}
	return ended
}

func (s *subject) mustEnd(t sdktest.T, after string, ended <-chan error) {
	t.Helper()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("the source failed after %s: %v", after, err)
		}
	case <-time.After(s.Patience):
		t.Errorf("the source still ran %s after %s", s.Patience, after)
	}
}

// silentHost is a host that has no records, takes every change and keeps none.
type silentHost struct {
	ctx   context.Context //nolint:containedctx // of the source: ends what Changed returns
	once  sync.Once
	heard chan struct{} // closed when the source has called
}

func (h *silentHost) hear() { h.once.Do(func() { close(h.heard) }) }

// Commit implements sdk.SourceHost.
func (h *silentHost) Commit(context.Context, sdk.Batch) ([]sdk.Refusal, error) {
	h.hear()
	return nil, nil
}

// Find implements sdk.SourceHost.
func (h *silentHost) Find(_ context.Context, model sdk.ModelName, _ string, _ []any) (sdk.Batch, error) {
	h.hear()
	return sdk.Batch{Model: model, Version: 1}, nil
}

// Changed implements sdk.SourceHost.
func (h *silentHost) Changed(sdk.ModelName) <-chan struct{} {
	h.hear()
	changed := make(chan struct{})
	context.AfterFunc(h.ctx, func() { close(changed) })
	return changed
}

// Warn implements sdk.SourceHost.
func (h *silentHost) Warn(string, int, string) { h.hear() }

// Progress implements sdk.SourceHost.
func (h *silentHost) Progress(sdk.Progress) { h.hear() }
