// Command transport-nats is the NATS transport: devices that can not reach one another meet through a NATS cluster.
//
// It carries each connection as messages of NATS core over two subjects, one in each direction (package stream), and
// finds peers by the name that they listen as. What it carries is TLS between the two hosts: the servers see who talks
// with whom, when and how much, and nothing else. docs/fleet.md has the settings, the subjects and the permissions.
package main

import (
	"context"
	"encoding/json"
	"net"

	"github.com/hashicorp/go-hclog"

	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/rpc"
)

func main() {
	set := new(sdk.Metrics)
	rpc.Serve(&transport{metrics: newMetrics(set)}, set)
}

// transport implements sdk.Transport over NATS. Addresses are names, such as "alice".
type transport struct {
	fabric  *fabric // set by Configure, which is called before all but Name
	metrics metrics
}

// Name implements sdk.Transport.
func (*transport) Name() string { return "nats" }

// Configure implements sdk.Declarer. It connects to nothing yet.
func (t *transport) Configure(_ context.Context, config json.RawMessage) error {
	s, err := parseSettings(config)
	if err != nil {
		return err
	}
	t.fabric = newFabric(s, hclog.Default())
	t.fabric.metrics = t.metrics
	return nil
}

// CheckConfig implements sdk.ConfigChecker.
func (*transport) CheckConfig(_ context.Context, config json.RawMessage) error {
	_, err := parseSettings(config)
	return err
}

// DeclareSettings implements sdk.Declarer.
func (*transport) DeclareSettings() ([]sdk.Setting, error) {
	return sdk.Settings(defaults()).DeclareSettings()
}

// Check implements rpc.Checker.
func (t *transport) Check(context.Context) error {
	if t.fabric == nil {
		return nil
	}
	return t.fabric.check()
}

// Listen implements sdk.Transport. It blocks while no server can be reached: Check then says why.
func (t *transport) Listen(ctx context.Context, address string, inherited net.Listener) (sdk.Listener, error) {
	if inherited != nil {
		return nil, sdk.Errorf(sdk.CodeUnsupported, "listen on %s: the NATS transport takes no sockets", inherited.Addr())
	}
	if err := checkName(address); err != nil {
		return nil, sdk.Errorf(sdk.CodeInvalid, "listen: %w", err)
	}
	return listen(ctx, t.fabric, address)
}

// Dial implements sdk.Transport. Where no server can be reached it fails at once.
func (t *transport) Dial(ctx context.Context, address string) (sdk.Conn, error) {
	if err := checkName(address); err != nil {
		return nil, sdk.Errorf(sdk.CodeInvalid, "dial: %w", err)
	}
	return dial(ctx, t.fabric, address)
}
