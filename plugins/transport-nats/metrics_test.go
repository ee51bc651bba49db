package main

import (
	"fmt"
	"testing"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/starling-sync/starling/sdk"
)

// TestMetrics has a connection made, ended with its server, and made again.
func TestMetrics(t *testing.T) {
	s := startServer(t, nil)
	config := configOf(t, []*server.Server{s}, nil)
	set := new(sdk.Metrics)
	alice, bob := newTransport(t, config), newTransport(t, config)
	bob.fabric.metrics = newMetrics(set)
	dialled, accepted := connect(t, bob, listenAs(t, alice, "alice"))
	mustTalk(t, dialled, accepted)
	wants := func(connects, losses, peers float64) {
		t.Helper()
		eventually(t, "the figures", func() error {
			m := bob.fabric.metrics
			if m.connects.Value() != connects || m.losses.Value() != losses || m.peers.Value() != peers {
				return fmt.Errorf("%v", set.List())
			}
			return nil
		})
	}
	wants(1, 0, 1)
	s.Shutdown()
	s.WaitForShutdown()
	mustEnd(t, "the connection to the NATS server ended", dialled)
	wants(1, 1, 0)
	eventually(t, "a failure to connect", func() error {
		if bob.fabric.metrics.refusals.Value() == 0 {
			return fmt.Errorf("none yet")
		}
		return nil
	})
}
