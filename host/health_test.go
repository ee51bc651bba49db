package main

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/supervisor"
	"github.com/starling-sync/starling/host/telemetry"
)

func checkOf(t *testing.T, checks []telemetry.Check, name string) telemetry.Check {
	t.Helper()
	for _, c := range checks {
		if c.Name == name {
			return c
		}
	}
	t.Fatalf("no check %s in %v", name, checks)
	return telemetry.Check{}
}

// TestHealth_LongWrite holds the writer's turn, as a write that builds an index does: the host lives, and starting it again would
// only begin the same write anew. It is not ready meanwhile, and asks the database once however many ask it. After an error that
// a start of the host mends it does not live.
func TestHealth_LongWrite(t *testing.T) {
	db, err := database.Open(t.Context(), database.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	s, err := supervisor.New(supervisor.Options{Log: hclog.NewNullLogger(), StoreDir: t.TempDir(), RuntimeDir: t.TempDir()}, nil)
	if err != nil {
		t.Fatal(err)
	}
	h := newHealth(&backend{db: db, network: &network{}, supervisor: s})
	begun, end, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- db.Write(context.WithoutCancel(t.Context()), func(*database.Tx) error {
			close(begun)
			<-end
			return errors.New("it was for nothing")
		})
	}()
	<-begun
	asking, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond) // in vain
	defer cancel()
	for range 3 {
		if c := h.database(asking); c.OK || c.Reason != "it did not answer in time" {
			t.Errorf("ready: %+v", c)
		}
	}
	living, over := context.WithTimeout(t.Context(), time.Minute) // or it waits for the turn
	defer over()
	for _, c := range h.Alive(living) {
		if !c.OK {
			t.Errorf("alive: %+v", c)
		}
	}
	close(end)
	<-ended
	if c := h.database(t.Context()); !c.OK {
		if c = h.database(t.Context()); !c.OK { // the one before may have been the one that hung
			t.Errorf("ready after the write: %+v", c)
		}
	}
	_ = db.Write(t.Context(), func(tx *database.Tx) error {
		tx.AfterCommit(func() { panic("seeded") })
		return nil
	})
	if c := checkOf(t, h.Alive(t.Context()), "database"); c.OK {
		t.Errorf("alive with a database that takes no writes: %+v", c)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestPluginCheck wants a plugin under a debugger to be one that works, and every other one that does not run not to.
func TestPluginCheck(t *testing.T) {
	for state, want := range map[supervisor.State]telemetry.Check{
		supervisor.Running:     {Name: "plugin tag", OK: true, Reason: "why"},
		supervisor.Debugging:   {Name: "plugin tag", OK: true, Reason: "debugging: why"},
		supervisor.Unhealthy:   {Name: "plugin tag", Reason: "unhealthy: why"},
		supervisor.Quarantined: {Name: "plugin tag", Reason: "quarantined: why"},
		supervisor.Starting:    {Name: "plugin tag", Reason: "starting: why"},
	} {
		if got := pluginCheck(supervisor.Status{Name: "tag", State: state, Reason: "why"}); got != want {
			t.Errorf("%s: %+v, want %+v", state, got, want)
		}
	}
	if got := pluginCheck(supervisor.Status{Name: "tag", State: supervisor.BackingOff}); got.OK || got.Reason != "backing off" {
		t.Errorf("%+v", got)
	}
}
