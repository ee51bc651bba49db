package control_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/control"
	"github.com/starling-sync/starling/host/control/controltest"
	"github.com/starling-sync/starling/sdk"
)

// away is what a database that is out of reach says to who reads.
func away() error { return sdk.Errorf(sdk.CodeUnavailable, "the database is out of reach") }

// TestWrites_outcome has calls that write fail before their write, in it, and be refused: each says what became of it, once.
func TestWrites_outcome(t *testing.T) {
	insert := func(json string) func(*control.Client, sdk.RecordID) error {
		return func(c *control.Client, _ sdk.RecordID) error {
			result, err := c.Put(t.Context(), "entry", []control.Put{{JSON: []byte(json)}}, true)
			if err == nil && len(result.Refused) > 0 {
				err = sdk.Errorf(result.Refused[0].Code, "%s", result.Refused[0].Message)
			}
			return err
		}
	}
	update := func(c *control.Client, id sdk.RecordID) error {
		result, err := c.Put(t.Context(), "entry", []control.Put{{ID: id, JSON: []byte(`{"size":1}`)}}, true)
		if err == nil && len(result.Refused) > 0 {
			err = sdk.Errorf(result.Refused[0].Code, "%s", result.Refused[0].Message)
		}
		return err
	}
	remove := func(c *control.Client, id sdk.RecordID) error {
		refused, err := c.Delete(t.Context(), "entry", id)
		if err == nil && len(refused) > 0 {
			err = sdk.Errorf(refused[0].Code, "%s", refused[0].Message)
		}
		return err
	}
	restore := func(c *control.Client, _ sdk.RecordID) error { _, err := c.RestoreConflict(t.Context(), 7); return err }
	for name, tc := range map[string]struct {
		call string // that fails
		fail error
		do   func(*control.Client, sdk.RecordID) error
		want string // how often the error says that nothing was kept; or
		says int
		mark error // in the chain of a call's error; nil: of none, or of what is wrong with one record
	}{
		"a put that reads":        {call: "Get", fail: away(), do: update, says: 1},
		"a put that writes":       {call: "Commit", fail: away(), do: insert(`{"name":"a"}`), says: 1, mark: control.ErrNothing},
		"said already":            {call: "Commit", fail: control.Nothing(sdk.Errorf(sdk.CodeUnavailable, "%w; it is away", control.ErrNothing)), do: insert(`{"name":"a"}`), says: 1, mark: control.ErrNothing},
		"a defect":                {call: "Commit", fail: errors.New("a nil map"), do: insert(`{"name":"a"}`), says: 1, mark: control.ErrNothing},
		"not known":               {call: "Commit", fail: control.Unknown(sdk.Errorf(sdk.CodeUnavailable, "%w: it is away", control.ErrUnknown)), do: insert(`{"name":"a"}`), mark: control.ErrUnknown},
		"a delete that reads":     {call: "Get", fail: away(), do: remove, says: 1},
		"a delete that writes":    {call: "Commit", fail: away(), do: remove, says: 1, mark: control.ErrNothing},
		"a restore that reads":    {call: "Conflict", fail: away(), do: restore, says: 1, mark: control.ErrNothing},
		"what was asked is wrong": {do: insert(`{"nome":"a"}`)},
	} {
		t.Run(name, func(t *testing.T) {
			host, client := start(t)
			id := put(t, client, "entry", `{"name":"a"}`)[0]
			host.Journal = append(host.Journal, control.Conflict{Number: 7, Model: "tag", ID: id, Field: "name", Value: "a"})
			host.Fail = func(call string) error {
				if call == tc.call {
					return tc.fail
				}
				return nil
			}
			err := tc.do(client, id)
			if err == nil {
				t.Fatal("it did not fail")
			}
			if got := strings.Count(err.Error(), control.ErrNothing.Error()); got != tc.says {
				t.Errorf("%v: says %d times that nothing was kept; want %d", err, got, tc.says)
			}
			for _, mark := range []error{control.ErrNothing, control.ErrUnknown} {
				if got := errors.Is(err, mark); got != (mark == tc.mark) { //nolint:errorlint // of the table
					t.Errorf("%v: marked %q: %v", err, mark, got)
				}
			}
			if tc.mark == control.ErrUnknown && !strings.Contains(err.Error(), control.ErrUnknown.Error()) { //nolint:errorlint // of the table
				t.Errorf("%v does not say that it is not known", err)
			}
		})
	}
}

// TestPut_partly has the second commit of a call fail whose first was kept: the records of the first have their ids, and what
// became of the others is said of each.
func TestPut_partly(t *testing.T) {
	memo := sdk.Description{Model: "memo", Version: 1, Ownership: sdk.HybridOwned, Fields: []sdk.Field{
		{Name: "entry_id", Type: sdk.UUID, Ref: "entry", Owner: true, Key: true}, {Name: "content", Type: sdk.Text, Key: true},
	}}
	host := controltest.NewHost(self, hlc.New(1, 0), entryModel(), memo)
	dir := shortDir(t)
	listener, err := control.Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	client := serve(t, host, dir, listener)
	entry := put(t, client, "entry", `{"name":"a"}`)[0]
	commits := 0
	host.Fail = func(call string) error {
		if call != "Commit" {
			return nil
		}
		if commits++; commits > 1 {
			return away()
		}
		return nil
	}
	result, err := client.Put(t.Context(), "memo", []control.Put{{JSON: []byte(`{"entry_id":"` + entry.String() + `"}`)}, {JSON: []byte(`{"content":"b"}`)}}, false)
	if err != nil {
		t.Fatal(err)
	}
	if result.IDs[0].IsZero() || !result.IDs[1].IsZero() {
		t.Errorf("ids %v; want that of the first alone", result.IDs)
	}
	if len(result.Refused) != 1 || result.Refused[0].Index != 1 || !strings.HasPrefix(result.Refused[0].Message, control.ErrNothing.Error()) {
		t.Errorf("refused %v; want the second", result.Refused)
	}
}

// TestWrites_unanswered has nobody hear what became of a write: its host ends, and its caller stops waiting.
func TestWrites_unanswered(t *testing.T) {
	host, client := start(t)
	var commits atomic.Int32
	held, goOn := make(chan struct{}), make(chan struct{})
	host.Fail = func(call string) error {
		switch {
		case call != "Commit":
		case commits.Add(1) == 1:
			panic(http.ErrAbortHandler) // the connection ends
		default:
			close(held)
			<-goOn
		}
		return nil
	}
	_, err := client.Put(t.Context(), "tag", []control.Put{{JSON: []byte(`{"name":"a"}`)}}, true)
	if !errors.Is(err, control.ErrUnknown) || !strings.Contains(err.Error(), "starling run") {
		t.Errorf("a host that ended: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-held; cancel() }()
	_, err = client.Put(ctx, "tag", []control.Put{{JSON: []byte(`{"name":"a"}`)}}, true)
	close(goOn)
	if !errors.Is(err, control.ErrUnknown) || !strings.Contains(err.Error(), "starling list tag") {
		t.Errorf("a caller that stopped waiting: %v", err)
	}
}

// TestRunStarting_writes asks a host to write that waits for its database.
func TestRunStarting_writes(t *testing.T) {
	dir := shortDir(t)
	listener, err := control.Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- control.RunStarting(ctx, listener, hclog.NewNullLogger(), away) }()
	client, err := control.Dial(ctx, dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Put(ctx, "tag", []control.Put{{JSON: []byte(`{}`)}}, true); !errors.Is(err, control.ErrNothing) {
		t.Errorf("put: %v", err)
	}
	if _, err := client.Status(ctx); err == nil || errors.Is(err, control.ErrNothing) {
		t.Errorf("status: %v", err)
	}
	client.Close()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
