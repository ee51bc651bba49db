package control_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/go-hclog"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/control"
	"github.com/starling-sync/starling/host/control/controltest"
	"github.com/starling-sync/starling/sdk"
)

func TestWatch(t *testing.T) {
	host, c := start(t)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	w, err := c.Watch(ctx, "tag", "entry")
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	expect := func(want ...any) {
		t.Helper()
		raw, err := w.Next()
		if err != nil {
			t.Fatal(err)
		}
		e := object(t, raw)
		if diff := cmp.Diff(want, []any{e["_event"], e["id"], e["_model"], e["_local"], e["name"]}); diff != "" {
			t.Errorf("%s: %s", raw, diff)
		}
	}
	id := put(t, c, "tag", `{"name":"work"}`)[0]
	expect("put", id.String(), "tag", true, "work")
	put(t, c, "tagging", `{"tag_id":"`+id.String()+`","target":"`+id.String()+`"}`) // not watched
	update(t, c, "tag", id, `{"name":"job"}`)
	expect("put", id.String(), "tag", true, "job")
	theirs := sdk.RecordID{9}
	host.PutForeign("entry", control.Record{ID: theirs, Owner: other, Stamp: 5, Values: []any{"theirs", nil, nil, nil, nil, nil}})
	expect("put", theirs.String(), "entry", false, "theirs")
	if _, err := c.Delete(ctx, "tag", id); err != nil {
		t.Fatal(err)
	}
	expect("delete", id.String(), "tag", true, nil)
	host.Announce(control.Event{Missed: true})
	expect("missed", nil, nil, nil, nil)
	cancel()
	if _, err := w.Next(); !errors.Is(err, context.Canceled) {
		t.Errorf("after cancel: %v", err)
	}
}

func TestWatch_EndsWithTheHost(t *testing.T) {
	host := controltest.NewHost(self, hlc.New(1, 0), tagModel())
	dir := shortDir(t)
	listener, err := control.Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error, 1)
	go func() {
		done <- control.NewServer(host.Backend(), hclog.NewNullLogger(), sdk.NewRecordID).Run(ctx, listener)
	}()
	c, err := control.Dial(context.Background(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	w, err := c.Watch(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	cancel()
	if _, err := w.Next(); sdk.CodeOf(err) != sdk.CodeUnavailable {
		t.Errorf("got %v, want unavailable", err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "control.sock")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}
