package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/membership"
	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/host/replica"
	"github.com/starling-sync/starling/sdk"
)

// lostAnswer is a store of which nobody learns that it has stored something.
type lostAnswer map[string][]byte

func (l lostAnswer) Meta(_ context.Context, key string) ([]byte, error) { return l[key], nil }

func (l lostAnswer) SetMeta(_ context.Context, key string, value []byte) error {
	l[key] = bytes.Clone(value)
	return errors.New("the connection ended in the commit")
}

func (lostAnswer) Mark(membership.Library) error { return nil }

// joined returns a network whose device has joined a library while the database went away, and has been told that it failed.
func joined(t *testing.T) *network {
	t.Helper()
	self, err := membership.NewIdentity(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	inviter, err := membership.NewIdentity(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	members, err := json.Marshal([]map[string]any{
		{"id": self.ID(), "name": "bob", "public_key": self.PublicKey()}, {"id": inviter.ID(), "name": "alice", "public_key": inviter.PublicKey()},
	})
	if err != nil {
		t.Fatal(err)
	}
	n := &network{identity: self, meta: lostAnswer{}, joined: make(chan struct{}, 1), log: hclog.NewNullLogger()}
	_, err = n.enter(t.Context(), inviter.ID(), &protocol.Welcome{Library: protocol.LibraryID{1}, LibraryName: "home", Members: members})
	if err == nil || !strings.Contains(err.Error(), "ended in the commit") {
		t.Fatalf("joining: %v", err)
	}
	return n
}

// TestNetwork_EnterUnsure wants whoever waits for a library to be woken by a command that has failed: what it wrote may be stored.
func TestNetwork_EnterUnsure(t *testing.T) {
	n := joined(t)
	if len(n.joined) != 1 {
		t.Error("who waits for a library is not woken")
	}
	if library, err := n.library(t.Context()); err != nil || library.Name != "home" {
		t.Errorf("the library is %+v, %v", library, err)
	}
}

// away are member records that can not be read; the host is stopped meanwhile.
type away struct {
	membership.Records
	stop func()
}

func (a away) ListMembers(context.Context, func(sdk.RecordID, []string, []any) error) error {
	a.stop()
	return errors.New("the database is out of reach")
}

// TestNetwork_StoppedInOutage stops a host that waits for its database: that is no error.
func TestNetwork_StoppedInOutage(t *testing.T) {
	db, err := database.Open(t.Context(), database.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close() //nolint:errcheck // nothing was written
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var said bytes.Buffer
	n := joined(t)
	n.log = hclog.New(&hclog.LoggerOptions{Output: &said})
	n.ready, n.pages = func(context.Context) error { return nil }, &replica.Pages{DB: db}
	n.members = membership.NewMembers(membership.Options{Self: n.identity, Records: away{stop: cancel}, Meta: n.meta, Now: time.Now, Log: n.log})
	if err := n.Run(ctx); err != nil {
		t.Errorf("it ends with %v", err)
	}
	if said.Len() > 0 {
		t.Errorf("it says %s", &said)
	}
}
