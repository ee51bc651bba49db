package main

import (
	"context"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	plugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/starling-sync/starling/sdk/rpc/rpcpb"
)

// raw serves one model as a plugin in another language might, without package rpc.
type raw struct {
	plugin.NetRPCUnsupportedPlugin
	rpcpb.UnimplementedPluginServiceServer
	rpcpb.UnimplementedModelServiceServer
	bug      string
	asked    atomic.Int32
	draining atomic.Bool
	server   *grpc.Server
}

func serveRaw(bug string) {
	if os.Getenv("STARLING_PLUGIN") == "" {
		println("a host starts this plugin")
		os.Exit(1)
	}
	if bug != "outlives its host" {
		go func() {
			_, _ = io.Copy(io.Discard, os.NewFile(3, "lifeline"))
			os.Exit(1)
		}()
	}
	limit := 64 << 20
	switch bug {
	case "small messages":
		limit = 4 << 20
	case "boundless messages":
		limit = 1 << 30
	}
	r := &raw{bug: bug}
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig: plugin.HandshakeConfig{ProtocolVersion: 1, MagicCookieKey: "STARLING_PLUGIN", MagicCookieValue: os.Getenv("STARLING_PLUGIN")},
		Plugins:         plugin.PluginSet{"starling": r},
		GRPCServer: func(options []grpc.ServerOption) *grpc.Server {
			r.server = grpc.NewServer(append(options, grpc.MaxRecvMsgSize(limit), grpc.MaxSendMsgSize(2*limit))...)
			return r.server
		},
	})
}

func (r *raw) GRPCServer(_ *plugin.GRPCBroker, s *grpc.Server) error {
	rpcpb.RegisterPluginServiceServer(s, r)
	rpcpb.RegisterModelServiceServer(s, r)
	return nil
}

func (r *raw) GRPCClient(context.Context, *plugin.GRPCBroker, *grpc.ClientConn) (any, error) {
	return nil, nil
}

func invalid(message string) error {
	s, err := status.New(codes.Unknown, message).WithDetails(&rpcpb.Error{Code: "invalid", Message: message})
	if err != nil {
		return err
	}
	return s.Err()
}

func (r *raw) Info(_ context.Context, in *rpcpb.InfoRequest) (*rpcpb.InfoReply, error) {
	if r.bug == "strict messages" && len(in.ProtoReflect().GetUnknown()) > 0 {
		return nil, invalid("a field that is not known here")
	}
	d := &rpcpb.Description{Model: "thing", Version: 1, Ownership: "shared", Fields: []*rpcpb.Field{{Name: "name", Type: "text"}}}
	if r.bug == "changes its mind" {
		d.Version = uint32(r.asked.Add(1)) //nolint:gosec // small
	}
	if r.bug == "has the host's name" {
		d.Model = "member"
	}
	setting := &rpcpb.Setting{Name: "depth", Type: "int", Default: "3"}
	if r.bug == "declares nonsense" {
		setting.Default = "deep"
	}
	d.Settings = &rpcpb.Settings{Settings: []*rpcpb.Setting{setting}}
	return &rpcpb.InfoReply{Models: []*rpcpb.Description{d}}, nil
}

func (r *raw) Configure(_ context.Context, in *rpcpb.ConfigureRequest) (*rpcpb.ConfigureReply, error) {
	plain := string(in.Config) == "{}" || string(in.Config) == `{"depth":3}` && r.bug != "refuses its default"
	switch {
	case r.bug == "takes any setting":
	case r.bug == "takes any type" && !strings.Contains(string(in.Config), "no_such"):
	case r.bug == "takes no block", !plain:
		return nil, invalid("settings: " + string(in.Config[:min(len(in.Config), 100)]))
	}
	return &rpcpb.ConfigureReply{}, nil
}

func (r *raw) CheckConfig(ctx context.Context, in *rpcpb.CheckConfigRequest) (*rpcpb.CheckConfigReply, error) {
	if r.bug == "judges otherwise" {
		return &rpcpb.CheckConfigReply{}, nil
	}
	return r.UnimplementedPluginServiceServer.CheckConfig(ctx, in)
}

func (r *raw) Health(context.Context, *rpcpb.HealthRequest) (*rpcpb.HealthReply, error) {
	return &rpcpb.HealthReply{Ok: r.bug != "is not well", Reasons: []string{"so it feels"}}, nil
}

func (r *raw) Drain(context.Context, *rpcpb.DrainRequest) (*rpcpb.DrainReply, error) {
	r.draining.Store(r.bug != "works on after the drain")
	return &rpcpb.DrainReply{}, nil
}

func (r *raw) Stop(context.Context, *rpcpb.StopRequest) (*rpcpb.StopReply, error) {
	if r.bug != "does not stop" {
		go r.server.Stop()
	}
	return &rpcpb.StopReply{}, nil
}

func (r *raw) Apply(stream grpc.BidiStreamingServer[rpcpb.ApplyRequest, rpcpb.ApplyReply]) error {
	open, err := stream.Recv()
	if err != nil {
		return err
	}
	if open.Model != "thing" && r.bug != "serves every model" {
		s, _ := status.New(codes.Unknown, "unknown").WithDetails(&rpcpb.Error{Code: "unknown_model", Message: open.Model})
		return s.Err()
	}
	if err := stream.Send(&rpcpb.ApplyReply{Credits: 4}); err != nil {
		return err
	}
	var mu sync.Mutex
	for {
		in, err := stream.Recv()
		if err != nil {
			return nil //nolint:nilerr // the host ended it
		}
		if r.bug == "dies of garbage" && len(in.Origin) != 16 {
			panic("an origin that is cut off")
		}
		if r.bug == "hangs up at garbage" && len(in.Origin) != 16 {
			return invalid("an origin that is cut off")
		}
		reply := &rpcpb.ApplyReply{Id: in.Id}
		switch {
		case r.draining.Load():
			reply.Error = &rpcpb.Error{Code: "unavailable", Message: "draining"}
		case r.bug == "answers twice":
			go func() {
				time.Sleep(time.Millisecond)
				mu.Lock()
				defer mu.Unlock()
				_ = stream.Send(reply)
			}()
		case r.bug == "loses count":
			reply.Id = 1
		}
		mu.Lock()
		err = stream.Send(reply)
		mu.Unlock()
		if err != nil {
			return err
		}
	}
}
