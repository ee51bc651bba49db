package rpc

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/rpc/rpcpb"
)

// Info is what a plugin process says of itself.
type Info struct {
	Models    []sdk.Description
	Transport string // its name; empty: serves none
	Version   string // of the build, for people; may be empty
	// Settings are what the config blocks of models may hold, and that of the transport under "". One that is not there, as
	// of a plugin older than this, does not say.
	Settings map[sdk.ModelName][]sdk.Setting
}

// Health is how a plugin process is.
type Health struct {
	OK      bool
	Reasons []string // for people; may hold remarks even if OK
	// Oldest is how long the handler of a batch has been running that was begun first of those that still run; 0: none
	// runs. OldestCall names it.
	Oldest     time.Duration
	OldestCall string
}

func (h Health) String() string { return strings.Join(h.Reasons, "; ") }

// Client is the host's end of the border to one plugin process. Its methods may be called at once; those that take a
// context return when it ends, whatever the process does. Once the process is gone they fail with sdk.CodeUnavailable.
type Client struct {
	name      string        // of the plugin, in errors
	timeout   time.Duration // of a batch; 0: none
	process   rpcpb.PluginServiceClient
	models    rpcpb.ModelServiceClient
	transport rpcpb.TransportServiceClient
	sockets   []Socket // that the process inherited
}

// maxOldest milliseconds are a year: what a plugin says must not overflow.
const maxOldest = 365 * 24 * 3600 * 1000

func newClient(conn grpc.ClientConnInterface) *Client {
	return &Client{
		process:   rpcpb.NewPluginServiceClient(conn),
		models:    rpcpb.NewModelServiceClient(conn),
		transport: rpcpb.NewTransportServiceClient(conn),
	}
}

// Info asks what the process serves.
func (c *Client) Info(ctx context.Context) (Info, error) {
	reply, err := c.process.Info(ctx, &rpcpb.InfoRequest{})
	if err != nil {
		return Info{}, fromStatus(err)
	}
	info := Info{Transport: reply.Transport, Version: reply.Version, Settings: map[sdk.ModelName][]sdk.Setting{}}
	declares := func(model sdk.ModelName, in *rpcpb.Settings) {
		if declared := settingsFromWire(in); declared != nil {
			info.Settings[model] = declared
		}
	}
	for _, d := range reply.Models {
		info.Models = append(info.Models, descriptionFromWire(d))
		declares(sdk.ModelName(d.Model), d.Settings)
	}
	if reply.Transport != "" {
		declares("", reply.TransportSettings)
	}
	return info, nil
}

// CheckConfig asks whether a model, or the transport under "", would take a config block, which changes nothing. An error is that
// which sdk.Configurable would return, or says that the process was not reached. Not known: the process can not judge the block
// without taking it, as one whose build has no such call. Call it with a deadline.
func (c *Client) CheckConfig(ctx context.Context, model sdk.ModelName, config json.RawMessage) (known bool, err error) {
	if len(config) == 0 {
		config = json.RawMessage("{}")
	}
	reply, err := c.process.CheckConfig(ctx, &rpcpb.CheckConfigRequest{Model: string(model), Config: config})
	if status.Code(err) == codes.Unimplemented {
		return false, nil
	}
	return !reply.GetUnknown(), fromStatus(err)
}

// Health asks how the process is. Call it with a deadline: a stopped process never answers.
func (c *Client) Health(ctx context.Context) (Health, error) {
	reply, err := c.process.Health(ctx, &rpcpb.HealthRequest{})
	if err != nil {
		return Health{}, fromStatus(err)
	}
	return Health{
		OK: reply.Ok, Reasons: reply.Reasons,
		Oldest: time.Duration(min(reply.OldestMs, maxOldest)) * time.Millisecond, OldestCall: reply.Oldest, //nolint:gosec // <= maxOldest
	}, nil
}

// Metrics asks for the figures by which the process is watched; none where its build has no such call. Call it with a
// deadline. Nothing of what it returns has been checked, but that there are sdk.MaxMetrics at most: an error says that there
// were more, or that some were left out.
func (c *Client) Metrics(ctx context.Context) ([]sdk.Metric, error) {
	reply, err := c.process.Metrics(ctx, &rpcpb.MetricsRequest{})
	if status.Code(err) == codes.Unimplemented {
		return nil, nil
	}
	if err != nil {
		return nil, fromStatus(err)
	}
	list := make([]sdk.Metric, 0, min(len(reply.Metrics), sdk.MaxMetrics))
	for i, m := range reply.Metrics {
		if i == sdk.MaxMetrics {
			return list, sdk.Errorf(sdk.CodeTooLarge, "%d metrics, of which %d are used", len(reply.Metrics), sdk.MaxMetrics)
		}
		list = append(list, sdk.Metric{Name: m.Name, Help: m.Help, Kind: sdk.MetricKind(m.Kind), Value: m.Value})
	}
	return list, nil
}

// Drain makes the process refuse new batches, end its sources and close its listeners, and returns when the calls
// under way have ended. Connections stay.
func (c *Client) Drain(ctx context.Context) error {
	_, err := c.process.Drain(ctx, &rpcpb.DrainRequest{})
	return fromStatus(err)
}

// Stop makes the process exit. It returns before that has happened.
func (c *Client) Stop(ctx context.Context) error {
	_, err := c.process.Stop(ctx, &rpcpb.StopRequest{})
	if status.Code(err) == codes.Unavailable {
		return nil // it went before its reply did
	}
	return fromStatus(err)
}

func (c *Client) configure(ctx context.Context, model string, config json.RawMessage) error {
	if len(config) == 0 {
		config = json.RawMessage("{}")
	}
	_, err := c.process.Configure(ctx, &rpcpb.ConfigureRequest{Model: model, Config: config})
	return fromStatus(err)
}

// Model returns the model that d, from Info, describes. It is an sdk.Configurable, and an sdk.Source if d.Source.
func (c *Client) Model(d sdk.Description) sdk.ModelServer {
	m := &modelClient{client: c, description: d, opening: newTurn()}
	if d.Source {
		return &sourceClient{modelClient: m}
	}
	return m
}

// Transport returns the transport named name, from Info. It is an sdk.Configurable.
func (c *Client) Transport(name string) sdk.Transport {
	return &transportClient{client: c, name: name}
}
