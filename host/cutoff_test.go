package main

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/starling-sync/starling/host/config"
	"github.com/starling-sync/starling/host/membership"
	"github.com/starling-sync/starling/host/supervisor"
	"github.com/starling-sync/starling/sdk"
)

// TestCutOff is a table of whom a swap of transports leaves without a way to this device.
func TestCutOff(t *testing.T) {
	member := func(id byte, name, addresses string) membership.Member {
		m := membership.Member{Name: name, Addresses: json.RawMessage(addresses)}
		m.ID[0] = id
		return m
	}
	const tcp, nats = `{"transport":"tcp","address":"a:1"}`, `{"transport":"nats","address":"a"}`
	retired := member(5, "retired", "["+tcp+"]")
	retired.RetiredAt = time.Now()
	members := []membership.Member{
		member(1, "self", "["+tcp+"]"), member(2, "both", "["+tcp+","+nats+"]"), member(3, "old only", "["+tcp+"]"),
		member(4, "dials only", ""), retired, member(6, "new only", "["+nats+"]"),
	}
	transports := []config.Transport{{Kind: "tcp", Name: "lan"}, {Kind: "nats", Name: "fleet"}, {Kind: "tcp", Name: "wan"}}
	for name, each := range map[string]struct {
		from, to, stopped string
		want              []string
	}{
		"the last of its kind":    {"lan", "fleet", "wan", []string{"old only"}},
		"another of its kind":     {"lan", "fleet", "", nil},
		"the other way":           {"fleet", "lan", "", []string{"new only"}},
		"back to the stopped one": {"fleet", "lan", "lan", []string{"new only"}},
		"within a kind":           {"lan", "wan", "wan", nil},
	} {
		running := []supervisor.Status{{Name: each.stopped, State: supervisor.Stopped, Reason: "another took its place"}}
		got := cutOff(members, sdk.DeviceID{1}, kindsWithout(transports, each.from, each.to, running))
		if diff := cmp.Diff(each.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if got := labels(transports[:2]); got != "lan (tcp), fleet (nats)" {
		t.Errorf("they are called %q", got)
	}
}
