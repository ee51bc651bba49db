package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/starling-sync/starling/host/config"
	"github.com/starling-sync/starling/host/peersync"
	"github.com/starling-sync/starling/host/protocol"
)

// TestDefaults wants a configuration that says nothing to be what the packages use by themselves.
func TestDefaults(t *testing.T) {
	s := config.DefaultSync()
	if diff := cmp.Diff(protocol.DefaultLimits(), limitsOf(&s)); diff != "" {
		t.Errorf("limits (-package +configuration):\n%s", diff)
	}
	if diff := cmp.Diff(peersync.DefaultConfig(), timesOf(&s)); diff != "" {
		t.Errorf("times (-package +configuration):\n%s", diff)
	}
}
