package rpc

import (
	"context"
	"fmt"
	"net"
	"runtime/debug"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"

	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/rpc/rpcpb"
)

// Checker may be implemented by a model or a transport that knows when it is not well.
type Checker interface {
	// Check returns why it can not do its work now, for people, or nil. It returns at once.
	Check(ctx context.Context) error
}

// server is the plugin's end of the border.
type server struct {
	rpcpb.UnimplementedPluginServiceServer
	rpcpb.UnimplementedModelServiceServer
	rpcpb.UnimplementedTransportServiceServer

	log       hclog.Logger
	models    map[sdk.ModelName]sdk.ModelServer
	described []sdk.Description
	settings  map[sdk.ModelName]*rpcpb.Settings // of models, and of the transport under ""; nil: it does not say
	transport sdk.Transport
	metrics   *sdk.Metrics                          // nil: it has none
	listeners func(index int) (net.Listener, error) // inherited sockets
	stop      func()                                // ends the process's server; set before the first call

	draining context.Context // done when Drain is called
	drain    context.CancelFunc

	mu       sync.Mutex
	working  int           // calls under way that Drain waits for
	idle     chan struct{} // closed when working becomes 0 after a drain
	panics   int
	panicked string                 // the last one's place
	batches  map[*handling]struct{} // under way

	accepted acceptedConns
}

// newServer asks each model to describe itself, and refuses what can not be served together.
func newServer(ctx context.Context, log hclog.Logger, servers []any) (*server, error) {
	s := &server{
		log:      log,
		models:   make(map[sdk.ModelName]sdk.ModelServer),
		settings: make(map[sdk.ModelName]*rpcpb.Settings),
		idle:     make(chan struct{}),
		batches:  make(map[*handling]struct{}),
		listeners: func(index int) (net.Listener, error) {
			return nil, sdk.Errorf(sdk.CodeUnsupported, "no socket %d was inherited", index)
		},
		stop: func() {},
	}
	s.accepted.waiting = make(map[uint64]acceptedConn)
	s.draining, s.drain = context.WithCancel(context.WithoutCancel(ctx))
	for i, each := range servers {
		if err := s.add(ctx, each); err != nil {
			return nil, fmt.Errorf("argument %d of rpc.Serve: %w", i+1, err)
		}
	}
	if len(s.models) == 0 && s.transport == nil {
		return nil, sdk.Errorf(sdk.CodeInvalid, "rpc.Serve needs at least one sdk.ModelServer or one sdk.Transport")
	}
	return s, nil
}

func (s *server) add(ctx context.Context, each any) error {
	known := false
	if t, ok := each.(sdk.Transport); ok {
		if s.transport != nil {
			return sdk.Errorf(sdk.CodeInvalid, "transport %q after %q; a process serves one transport", t.Name(), s.transport.Name())
		}
		s.transport, known = t, true
		if err := s.declare("", each); err != nil {
			return fmt.Errorf("settings of transport %q: %w", t.Name(), err)
		}
	}
	if m, ok := each.(sdk.ModelServer); ok {
		var d sdk.Description
		err := s.guard("Describe", func() (err error) { d, err = m.Describe(ctx); return err })
		if err != nil {
			return fmt.Errorf("describe %T: %w", each, err)
		}
		if _, twice := s.models[d.Model]; twice {
			return sdk.Errorf(sdk.CodeInvalid, "model %q is served twice", d.Model)
		}
		if _, ok := m.(sdk.Source); d.Source && !ok {
			return sdk.Errorf(sdk.CodeInvalid, "model %q says that it is a source, but %T has no Run method of sdk.Source", d.Model, each)
		}
		if err := s.declare(d.Model, each); err != nil {
			return fmt.Errorf("settings of model %q: %w", d.Model, err)
		}
		s.models[d.Model], known = m, true
		s.described = append(s.described, d)
	}
	if m, ok := each.(*sdk.Metrics); ok {
		if s.metrics != nil {
			return sdk.Errorf(sdk.CodeInvalid, "a second *sdk.Metrics; a process has one")
		}
		s.metrics, known = m, true
	}
	if !known {
		return sdk.Errorf(sdk.CodeInvalid, "%T is neither an sdk.ModelServer nor an sdk.Transport nor *sdk.Metrics", each)
	}
	return nil
}

// declare asks a model, or the transport, what its config block may hold.
func (s *server) declare(model sdk.ModelName, target any) error {
	return s.guard("DeclareSettings", func() (err error) {
		s.settings[model], err = settingsToWire(target)
		return err
	})
}

func (s *server) register(g *grpc.Server) {
	rpcpb.RegisterPluginServiceServer(g, s)
	rpcpb.RegisterModelServiceServer(g, s)
	rpcpb.RegisterTransportServiceServer(g, s)
}

// interceptors make every handler survive its panics and keep its error's code.
func (s *server) interceptors() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (reply any, err error) {
			err = s.guard(info.FullMethod, func() (err error) { reply, err = next(ctx, req); return err })
			return reply, toStatus(err)
		}),
		grpc.ChainStreamInterceptor(func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			return toStatus(s.guard(info.FullMethod, func() error { return next(srv, stream) }))
		}),
	}
}

// panicRecovered is said of a panic that ends no process, and so explains no end of one.
const panicRecovered = "panic recovered; the process goes on"

// guard runs fn; a panic becomes an error, and its stack a line in the log.
func (s *server) guard(what string, fn func() error) (err error) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		s.log.Error(panicRecovered, "in", what, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		s.mu.Lock()
		s.panics++
		s.panicked = what
		s.mu.Unlock()
		err = sdk.Errorf(sdk.CodeInternal, "panic in %s: %v (the stack is in the log)", what, p)
	}()
	return fn()
}

// begin counts a call that Drain waits for; after Drain it refuses. Each success is followed by one end.
func (s *server) begin() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining.Err() != nil {
		return sdk.Errorf(sdk.CodeUnavailable, "the plugin is being stopped; call again")
	}
	s.working++
	return nil
}

func (s *server) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.working--
	if s.working == 0 && s.draining.Err() != nil {
		close(s.idle)
	}
}

// handling is a batch under way.
type handling struct {
	what  string
	since time.Time
}

// slow is when a batch under way is worth a remark in the answer to a health call.
const slow = 30 * time.Second

// handle notes that a batch is under way, until done is called.
func (s *server) handle(what string) (done func()) {
	h := &handling{what: what, since: time.Now()}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.batches[h] = struct{}{}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.batches, h)
	}
}

// oldest adds the batch that has been under way longest. The caller holds s.mu.
func (s *server) oldest(reply *rpcpb.HealthReply) {
	var oldest *handling
	for h := range s.batches {
		if oldest == nil || h.since.Before(oldest.since) {
			oldest = h
		}
	}
	if oldest == nil {
		return
	}
	lasted := time.Since(oldest.since)
	reply.Oldest, reply.OldestMs = text(oldest.what), uint64(max(0, lasted.Milliseconds())) //nolint:gosec // not negative
	if lasted > slow {
		reply.Reasons = append(reply.Reasons, fmt.Sprintf("%s has been running for %s", reply.Oldest, lasted.Round(time.Second)))
	}
}

// untilDrain returns ctx, which also ends when the process drains.
func (s *server) untilDrain(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(s.draining, cancel)
	return ctx, func() { stop(); cancel() }
}

// Info implements rpcpb.PluginServiceServer.
func (s *server) Info(context.Context, *rpcpb.InfoRequest) (*rpcpb.InfoReply, error) {
	reply := &rpcpb.InfoReply{Version: buildVersion()}
	for _, d := range s.described {
		wire := descriptionToWire(d)
		wire.Settings = s.settings[d.Model]
		reply.Models = append(reply.Models, wire)
	}
	if s.transport != nil {
		reply.Transport, reply.TransportSettings = text(s.transport.Name()), s.settings[""]
	}
	return reply, nil
}

// version is what whoever builds a plugin calls the build: -ldflags "-X github.com/starling-sync/starling/sdk/rpc.version=v1.4.0".
// Empty: what Go knows of it, which is the tag of the commit that it was built from.
var version string //nolint:gochecknoglobals // the linker sets it

// buildVersion says which build this process is, for people, and for who swaps to it by its version.
func buildVersion() string {
	if version != "" {
		return version
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	version := info.Main.Version
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" && (version == "" || version == "(devel)") {
			return setting.Value
		}
	}
	return version
}

// Configure implements rpcpb.PluginServiceServer.
func (s *server) Configure(ctx context.Context, req *rpcpb.ConfigureRequest) (*rpcpb.ConfigureReply, error) {
	target, err := s.configured(req.Model)
	if err != nil {
		return nil, err
	}
	if c, ok := target.(sdk.Configurable); ok {
		return &rpcpb.ConfigureReply{}, c.Configure(ctx, req.Config)
	}
	return &rpcpb.ConfigureReply{}, takesNone(req.Model, req.Config)
}

// CheckConfig implements rpcpb.PluginServiceServer.
func (s *server) CheckConfig(ctx context.Context, req *rpcpb.CheckConfigRequest) (*rpcpb.CheckConfigReply, error) {
	target, err := s.configured(req.Model)
	if err != nil {
		return nil, err
	}
	if _, ok := target.(sdk.Configurable); !ok {
		return &rpcpb.CheckConfigReply{}, takesNone(req.Model, req.Config)
	}
	c, ok := target.(sdk.ConfigChecker)
	if !ok {
		return &rpcpb.CheckConfigReply{Unknown: true}, nil
	}
	err = c.CheckConfig(ctx, req.Config)
	if sdk.CodeOf(err) == sdk.CodeUnsupported {
		return &rpcpb.CheckConfigReply{Unknown: true}, nil
	}
	return &rpcpb.CheckConfigReply{}, err
}

// configured returns what a config block is for: a model, or the transport under "".
func (s *server) configured(model string) (any, error) {
	if model != "" {
		return s.model(model)
	}
	if s.transport == nil {
		return nil, sdk.Errorf(sdk.CodeUnsupported, "this plugin serves no transport")
	}
	return s.transport, nil
}

// takesNone refuses a config block that says anything, for who takes none.
func takesNone(model string, config []byte) error {
	what := "the transport"
	if model != "" {
		what = fmt.Sprintf("model %q", model)
	}
	if _, err := sdk.ParseSettings(nil, config); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

func (s *server) model(name string) (sdk.ModelServer, error) {
	m, ok := s.models[sdk.ModelName(name)]
	if !ok {
		return nil, sdk.Errorf(sdk.CodeUnknownModel, "this plugin does not serve model %q", name)
	}
	return m, nil
}

// Health implements rpcpb.PluginServiceServer.
func (s *server) Health(ctx context.Context, _ *rpcpb.HealthRequest) (*rpcpb.HealthReply, error) {
	reply := &rpcpb.HealthReply{Ok: true}
	check := func(what string, target any) {
		c, ok := target.(Checker)
		if !ok {
			return
		}
		if err := s.guard("Check of "+what, func() error { return c.Check(ctx) }); err != nil {
			reply.Ok = false
			reply.Reasons = append(reply.Reasons, text(what+": "+err.Error()))
		}
	}
	for _, d := range s.described {
		check("model "+string(d.Model), s.models[d.Model])
	}
	if s.transport != nil {
		check("transport "+s.transport.Name(), s.transport)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.panics > 0 {
		panics := "1 panic"
		if s.panics != 1 {
			panics = fmt.Sprintf("%d panics", s.panics)
		}
		reply.Reasons = append(reply.Reasons, fmt.Sprintf("%s recovered, the last in %s", panics, s.panicked))
	}
	s.oldest(reply)
	if s.draining.Err() != nil {
		reply.Reasons = append(reply.Reasons, fmt.Sprintf("draining: %d calls under way", s.working))
	}
	return reply, nil
}

// Metrics implements rpcpb.PluginServiceServer.
func (s *server) Metrics(context.Context, *rpcpb.MetricsRequest) (*rpcpb.MetricsReply, error) {
	reply := &rpcpb.MetricsReply{}
	if s.metrics == nil {
		return reply, nil
	}
	for _, m := range s.metrics.List() {
		reply.Metrics = append(reply.Metrics, &rpcpb.Metric{Name: m.Name, Help: text(m.Help), Kind: string(m.Kind), Value: m.Value})
	}
	return reply, nil
}

// Drain implements rpcpb.PluginServiceServer.
func (s *server) Drain(ctx context.Context, _ *rpcpb.DrainRequest) (*rpcpb.DrainReply, error) {
	s.startDrain()
	select {
	case <-s.idle:
		return &rpcpb.DrainReply{}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (s *server) startDrain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining.Err() != nil {
		return
	}
	s.drain()
	if s.working == 0 {
		close(s.idle)
	}
}

// Stop implements rpcpb.PluginServiceServer. The server goes when the reply has been handed over, or a little earlier.
func (s *server) Stop(ctx context.Context, _ *rpcpb.StopRequest) (*rpcpb.StopReply, error) {
	s.startDrain()
	context.AfterFunc(ctx, s.stop)
	return &rpcpb.StopReply{}, nil
}
