package rpc

import (
	"context"
	"fmt"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/rpc/rpcpb"
)

// answers is a plugin that gives so many metrics, or fails.
type answers struct {
	grpc.ClientConnInterface
	metrics int
	err     error
}

func (a answers) Invoke(_ context.Context, _ string, _, reply any, _ ...grpc.CallOption) error {
	out, ok := reply.(*rpcpb.MetricsReply)
	if !ok {
		return a.err
	}
	for i := range a.metrics {
		out.Metrics = append(out.Metrics, &rpcpb.Metric{Name: fmt.Sprintf("m_%d", i), Kind: "gauge"})
	}
	return a.err
}

func TestClient_Metrics(t *testing.T) {
	for name, test := range map[string]struct {
		plugin answers
		want   int
		code   sdk.Code
	}{
		"an older build":       {answers{err: status.Error(codes.Unimplemented, "unknown method Metrics")}, 0, ""},
		"as many as there may": {answers{metrics: sdk.MaxMetrics}, sdk.MaxMetrics, ""},
		"one more":             {answers{metrics: sdk.MaxMetrics + 1}, sdk.MaxMetrics, sdk.CodeTooLarge},
		"a failure":            {answers{err: status.Error(codes.DeadlineExceeded, "late")}, 0, sdk.CodeUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := newClient(test.plugin).Metrics(t.Context())
			if len(got) != test.want || (err != nil) != (test.code != "") || err != nil && sdk.CodeOf(err) != test.code {
				t.Errorf("%d metrics and %v; want %d and %q", len(got), err, test.want, test.code)
			}
		})
	}
}

func TestClient_CheckConfig_Older(t *testing.T) {
	known, err := newClient(answers{err: status.Error(codes.Unimplemented, "unknown method CheckConfig")}).CheckConfig(t.Context(), "tag", nil)
	if known || err != nil {
		t.Errorf("an older build: known %t, %v", known, err)
	}
	if _, err := newClient(answers{err: status.Error(codes.DeadlineExceeded, "late")}).CheckConfig(t.Context(), "tag", nil); sdk.CodeOf(err) != sdk.CodeUnavailable {
		t.Errorf("a stopped process: %v", err)
	}
}
