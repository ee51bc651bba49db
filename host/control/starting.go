package control

import (
	"context"
	"net"

	"connectrpc.com/connect"
	"github.com/hashicorp/go-hclog"

	"github.com/starling-sync/starling/host/control/controlpb"
)

// RunStarting serves on listener as Server.Run does, for a host that can do nothing yet: every call fails with what why
// returns, which says what the host waits for. why may be called at once and does not block.
func RunStarting(ctx context.Context, listener net.Listener, log hclog.Logger, why func() error) error {
	path, handler := controlpb.NewControlHandler(controlpb.UnimplementedControlHandler{}, connect.WithInterceptors(refusal(why)))
	return serve(ctx, listener, log, path, handler)
}

// refusal answers every call with an error.
type refusal func() error

// WrapUnary implements connect.Interceptor.
func (r refusal) WrapUnary(connect.UnaryFunc) connect.UnaryFunc {
	return func(_ context.Context, request connect.AnyRequest) (connect.AnyResponse, error) {
		err := r()
		switch request.Spec().Procedure {
		case controlpb.ControlPutProcedure, controlpb.ControlDeleteProcedure, controlpb.ControlRestoreConflictProcedure, controlpb.ControlRetireProcedure:
			err = NotWritten(err)
		}
		return nil, toWire(err)
	}
}

// WrapStreamingClient implements connect.Interceptor.
func (r refusal) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// WrapStreamingHandler implements connect.Interceptor.
func (r refusal) WrapStreamingHandler(connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(context.Context, connect.StreamingHandlerConn) error { return toWire(r()) }
}
