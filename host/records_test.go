package main

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/membership"
	"github.com/starling-sync/starling/host/registry"
	"github.com/starling-sync/starling/sdk"
)

// TestBackend_WatchEnds ends a watch twice, as the control API may; a watch that does not end holds up the host's stop.
func TestBackend_WatchEnds(t *testing.T) {
	defer goleak.VerifyNone(t)
	db, err := database.Open(t.Context(), database.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	r, err := registry.New(t.Context(), registry.Options{DB: db, Self: sdk.DeviceID{1}})
	if err != nil {
		t.Fatal(err)
	}
	b := &backend{registry: r}
	events, end := b.Watch([]sdk.ModelName{membership.MemberModel})
	end()
	end()
	for e := range events {
		t.Errorf("an event after the end: %+v", e)
	}
}
