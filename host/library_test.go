package main

import (
	"strings"
	"testing"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/control"
	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/sdk"
)

// TestWhereabouts has two devices write one record, and asks what a third knows of who has it. Nobody is said to lack what he
// wrote himself, whatever he has acknowledged.
func TestWhereabouts(t *testing.T) {
	alice, bob := sdk.DeviceID{1}, sdk.DeviceID{2}
	writes := []sdk.Version{{Stamp: 5, Device: alice}, {Stamp: 7, Device: bob}}
	for name, c := range map[string]struct {
		of    sdk.DeviceID
		heard map[sdk.DeviceID]hlc.Stamp // up to where the device has each origin's stream; nil: nothing has been heard
		want  control.Presence
		lacks string
	}{
		"its own is enough to have":       {of: bob, heard: map[sdk.DeviceID]hlc.Stamp{alice: 5, bob: 3}, want: control.PresenceSame},
		"it lacks another's":              {of: bob, heard: map[sdk.DeviceID]hlc.Stamp{alice: 4, bob: 7}, want: control.PresenceNotYet, lacks: "alice"},
		"nothing has been heard":          {of: alice, want: control.PresenceUnknown},
		"everything has been":             {of: alice, heard: map[sdk.DeviceID]hlc.Stamp{bob: 7}, want: control.PresenceSame},
		"it lacks a later one of another": {of: alice, heard: map[sdk.DeviceID]hlc.Stamp{alice: 5, bob: 6}, want: control.PresenceNotYet, lacks: "bob"},
	} {
		t.Run(name, func(t *testing.T) {
			has := func(_ sdk.DeviceID, stream protocol.Stream, stamp hlc.Stamp) (has, known bool) {
				return c.heard[stream.Origin] >= stamp, c.heard != nil
			}
			names := func(id sdk.DeviceID) string { return map[sdk.DeviceID]string{alice: "alice", bob: "bob"}[id] }
			got := whereabouts(c.of, sdk.SharedByAll, writes, has, names)
			if got.Device != c.of || got.State != c.want || !strings.Contains(got.Detail, c.lacks) {
				t.Errorf("%+v; want %s, and that it lacks what %q wrote", got, c.want, c.lacks)
			}
		})
	}
}
