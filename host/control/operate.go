package control

import (
	"context"
	"time"

	"connectrpc.com/connect"

	"github.com/starling-sync/starling/host/control/controlpb"
	"github.com/starling-sync/starling/sdk"
)

// Operator replaces what runs while it runs. Its methods return when what they do is done, refused or rolled back, an error
// in the latter cases; they tell report of each step, one at a time. When ctx ends they return, and what has begun goes on.
type Operator interface {
	SwapPlugin(ctx context.Context, swap PluginSwap, report func(Step)) error
	// RollbackPlugin puts the build before back: at once while a swap is watched, else by a swap.
	RollbackPlugin(ctx context.Context, name string, soak time.Duration, report func(Step)) error
	// SwapTransport moves the sessions of one transport to another one, and stops the first.
	SwapTransport(ctx context.Context, swap TransportSwap, report func(Step)) error
	// RollbackTransport ends the swap of transports under way, name being either of the two: the first one is used as before.
	// Where there is none it says how name is.
	RollbackTransport(ctx context.Context, name string, report func(Step)) error
	// Reload reads the configuration again and does what has changed in it. An invalid file changes nothing; the error says
	// what is wrong with it.
	Reload(ctx context.Context, soak time.Duration, report func(Step)) error
	// Events returns the events with a greater number, oldest first, and a channel that is closed when there are more.
	Events(after int64) ([]PluginEvent, <-chan struct{}, error)
}

// PluginSwap says which plugin is replaced, and by what.
type PluginSwap struct {
	Name   string
	Path   string        // absolute; empty: where the build in use was taken from
	SHA256 string        // that the binary must have; empty: as configured
	Soak   time.Duration // how long the new one is watched; 0: not at all
	DryRun bool          // start and probe it, and say whether it would be let in

	Version string // of a build in the store, in place of Path: as Plugin.Staged has it, or "sha256:" and the beginning of its checksum
}

// TransportSwap says which transport's sessions are moved, and to which.
type TransportSwap struct {
	From, To string        // their names in the configuration
	Soak     time.Duration // how long the sessions are watched
	Force    bool          // although devices may have no way left to this one
}

// Step is something that has been done, for people.
type Step struct {
	Subject string        `json:"subject,omitempty"` // what it is about, where a call is about several things
	Stage   string        `json:"stage"`
	Text    string        `json:"text"`
	Took    time.Duration `json:"took_ns"`
}

// PluginEvent is something that happened to a plugin.
type PluginEvent struct {
	Number int64     `json:"number"` // ascending from 1
	At     time.Time `json:"at"`
	Kind   string    `json:"kind"`
	Plugin string    `json:"plugin"`
	By     string    `json:"by"` // who or what wanted it; empty: nobody did
	Why    string    `json:"why"`
	From   Build     `json:"from,omitzero"`
	To     Build     `json:"to,omitzero"`
}

// Build names one build of a plugin.
type Build struct {
	Version string `json:"version"`
	SHA256  string `json:"sha256"`
	Path    string `json:"path"`
}

// maxSoak bounds what a call may ask for; two processes of a plugin run meanwhile.
const maxSoak = 24 * time.Hour

func soakFromWire(us int64) (time.Duration, error) {
	soak := duration(us)
	if us < 0 || us > maxSoak.Microseconds() {
		return 0, sdk.Errorf(sdk.CodeInvalid, "a soak of %s; want 0s to %s", soak, maxSoak)
	}
	return soak, nil
}

// operate runs do, whose steps go to send, until it has returned or the server stops.
func (s *service) operate(ctx context.Context, soakUs int64, send func(*controlpb.Step) error, do func(ctx context.Context, soak time.Duration, report func(Step)) error) error {
	soak, err := soakFromWire(soakUs)
	if err != nil {
		return toWire(err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-s.stop:
			cancel()
		case <-ctx.Done():
		}
	}()
	var broken error
	err = do(ctx, soak, func(step Step) {
		if broken == nil {
			broken = send(&controlpb.Step{Stage: step.Stage, Text: step.Text, TookUs: step.Took.Microseconds(), Subject: step.Subject})
		}
	})
	if err == nil {
		return broken
	}
	return toWire(err)
}

func (s *service) SwapPlugin(ctx context.Context, in *controlpb.SwapPluginRequest, out *connect.ServerStream[controlpb.SwapPluginResponse]) error {
	send := func(step *controlpb.Step) error { return out.Send(&controlpb.SwapPluginResponse{Step: step}) }
	return s.operate(ctx, in.GetSoakUs(), send, func(ctx context.Context, soak time.Duration, report func(Step)) error {
		swap := PluginSwap{Name: in.GetName(), Path: in.GetPath(), SHA256: in.GetSha256(), Soak: soak, DryRun: in.GetDryRun(), Version: in.GetVersion()}
		return s.backend.Operator.SwapPlugin(ctx, swap, report)
	})
}

func (s *service) RollbackPlugin(ctx context.Context, in *controlpb.RollbackPluginRequest, out *connect.ServerStream[controlpb.RollbackPluginResponse]) error {
	send := func(step *controlpb.Step) error { return out.Send(&controlpb.RollbackPluginResponse{Step: step}) }
	return s.operate(ctx, in.GetSoakUs(), send, func(ctx context.Context, soak time.Duration, report func(Step)) error {
		return s.backend.Operator.RollbackPlugin(ctx, in.GetName(), soak, report)
	})
}

func (s *service) SwapTransport(ctx context.Context, in *controlpb.SwapTransportRequest, out *connect.ServerStream[controlpb.SwapTransportResponse]) error {
	send := func(step *controlpb.Step) error { return out.Send(&controlpb.SwapTransportResponse{Step: step}) }
	return s.operate(ctx, in.GetSoakUs(), send, func(ctx context.Context, soak time.Duration, report func(Step)) error {
		return s.backend.Operator.SwapTransport(ctx, TransportSwap{From: in.GetFrom(), To: in.GetTo(), Soak: soak, Force: in.GetForce()}, report)
	})
}

func (s *service) RollbackTransport(ctx context.Context, in *controlpb.RollbackTransportRequest, out *connect.ServerStream[controlpb.RollbackTransportResponse]) error {
	send := func(step *controlpb.Step) error { return out.Send(&controlpb.RollbackTransportResponse{Step: step}) }
	return s.operate(ctx, 0, send, func(ctx context.Context, _ time.Duration, report func(Step)) error {
		return s.backend.Operator.RollbackTransport(ctx, in.GetName(), report)
	})
}

func (s *service) Reload(ctx context.Context, in *controlpb.ReloadRequest, out *connect.ServerStream[controlpb.ReloadResponse]) error {
	send := func(step *controlpb.Step) error { return out.Send(&controlpb.ReloadResponse{Step: step}) }
	return s.operate(ctx, in.GetSoakUs(), send, s.backend.Operator.Reload)
}

func (s *service) Events(ctx context.Context, in *controlpb.EventsRequest, out *connect.ServerStream[controlpb.EventsResponse]) error {
	after := in.GetAfter()
	for {
		events, more, err := s.backend.Operator.Events(after)
		if err != nil {
			return toWire(err)
		}
		if len(events) > 0 {
			after = events[len(events)-1].Number
			if err := out.Send(&controlpb.EventsResponse{Events: each(events, eventToWire)}); err != nil {
				return err
			}
		}
		if !in.GetFollow() {
			return nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return nil
		case <-s.stop:
			return nil
		}
	}
}

func buildToWire(b *Build) *controlpb.Build {
	return &controlpb.Build{Version: b.Version, Sha256: b.SHA256, Path: b.Path}
}

func buildFromWire(b *controlpb.Build) Build {
	return Build{Version: b.GetVersion(), SHA256: b.GetSha256(), Path: b.GetPath()}
}

func eventToWire(e *PluginEvent) *controlpb.Event {
	return &controlpb.Event{
		Number: e.Number, AtUs: micros(e.At), Kind: e.Kind, Plugin: e.Plugin, By: e.By, Why: e.Why, From: buildToWire(&e.From), To: buildToWire(&e.To),
	}
}

func eventFromWire(e *controlpb.Event) PluginEvent {
	return PluginEvent{
		Number: e.GetNumber(), At: fromMicros(e.GetAtUs()), Kind: e.GetKind(), Plugin: e.GetPlugin(), By: e.GetBy(), Why: e.GetWhy(),
		From: buildFromWire(e.GetFrom()), To: buildFromWire(e.GetTo()),
	}
}

// steps tells report of what comes on a stream until it ends.
func steps[T interface{ GetStep() *controlpb.Step }, M any](stream *connect.ServerStreamForClient[M], step func(*M) T, report func(Step)) error {
	defer stream.Close() //nolint:errcheck // only read
	for stream.Receive() {
		s := step(stream.Msg()).GetStep()
		report(Step{Subject: s.GetSubject(), Stage: s.GetStage(), Text: s.GetText(), Took: duration(s.GetTookUs())})
	}
	return fromWire(stream.Err())
}

// SwapPlugin puts another build of a plugin in its place while it works.
func (c *Client) SwapPlugin(ctx context.Context, swap PluginSwap, report func(Step)) error {
	stream, err := c.api.SwapPlugin(ctx, &controlpb.SwapPluginRequest{
		Name: swap.Name, Path: swap.Path, Sha256: swap.SHA256, SoakUs: swap.Soak.Microseconds(), DryRun: swap.DryRun, Version: swap.Version,
	})
	if err != nil {
		return fromWire(err)
	}
	return steps(stream, func(m *controlpb.SwapPluginResponse) *controlpb.SwapPluginResponse { return m }, report)
}

// RollbackPlugin puts the build of a plugin before the one in use back in its place.
func (c *Client) RollbackPlugin(ctx context.Context, name string, soak time.Duration, report func(Step)) error {
	stream, err := c.api.RollbackPlugin(ctx, &controlpb.RollbackPluginRequest{Name: name, SoakUs: soak.Microseconds()})
	if err != nil {
		return fromWire(err)
	}
	return steps(stream, func(m *controlpb.RollbackPluginResponse) *controlpb.RollbackPluginResponse { return m }, report)
}

// SwapTransport moves the sessions of one transport to another one, and stops the first.
func (c *Client) SwapTransport(ctx context.Context, swap TransportSwap, report func(Step)) error {
	stream, err := c.api.SwapTransport(ctx, &controlpb.SwapTransportRequest{From: swap.From, To: swap.To, SoakUs: swap.Soak.Microseconds(), Force: swap.Force})
	if err != nil {
		return fromWire(err)
	}
	return steps(stream, func(m *controlpb.SwapTransportResponse) *controlpb.SwapTransportResponse { return m }, report)
}

// RollbackTransport ends the swap of transports under way, name being either of the two.
func (c *Client) RollbackTransport(ctx context.Context, name string, report func(Step)) error {
	stream, err := c.api.RollbackTransport(ctx, &controlpb.RollbackTransportRequest{Name: name})
	if err != nil {
		return fromWire(err)
	}
	return steps(stream, func(m *controlpb.RollbackTransportResponse) *controlpb.RollbackTransportResponse { return m }, report)
}

// Reload has the host read its configuration again.
func (c *Client) Reload(ctx context.Context, soak time.Duration, report func(Step)) error {
	stream, err := c.api.Reload(ctx, &controlpb.ReloadRequest{SoakUs: soak.Microseconds()})
	if err != nil {
		return fromWire(err)
	}
	return steps(stream, func(m *controlpb.ReloadResponse) *controlpb.ReloadResponse { return m }, report)
}

// Events yields what happened to plugins, oldest first, until yield fails; that error is returned. With follow it goes on
// with what happens until ctx ends.
func (c *Client) Events(ctx context.Context, after int64, follow bool, yield func(PluginEvent) error) error {
	stream, err := c.api.Events(ctx, &controlpb.EventsRequest{After: after, Follow: follow})
	if err != nil {
		return fromWire(err)
	}
	defer stream.Close() //nolint:errcheck // only read
	for stream.Receive() {
		for _, e := range stream.Msg().GetEvents() {
			if err := yield(eventFromWire(e)); err != nil {
				return err
			}
		}
	}
	return fromWire(stream.Err())
}
