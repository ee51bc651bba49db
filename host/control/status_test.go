package control_test

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/control"
	"github.com/starling-sync/starling/sdk"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// everything is a status of which each field says something.
func everything() control.Status {
	audit := control.Audit{At: noon, Outcome: control.AuditRepaired, Records: 5, Ranges: 3, Repaired: 2, Bytes: 7, Took: time.Second, Reason: "so"}
	plugin := control.Plugin{Name: "tag", Kind: "model", State: "running", Reason: "r", PID: 4, Since: noon, Restarts: 1, Path: "/p", SHA256: "5f", Version: "1", Swap: "s", Models: []sdk.ModelName{"tag"}, Staged: []control.Build{{Version: "v1", SHA256: "5e", Path: "/q"}}}
	return control.Status{
		DeviceID: self, DeviceName: "alice", LibraryID: "l", LibraryName: "home", Version: "1", Started: noon, StoreKind: "sqlite", StoreBytes: 3,
		ClockState: "ok", ClockOffset: time.Millisecond,
		Models:     []control.ModelStatus{{Model: "tag", Ownership: sdk.SharedByAll, Version: 1, Rows: 2, Waiting: 3, Parked: 4}},
		Transports: []control.TransportStatus{{Name: "lan", Kind: "tcp", Address: "a:1", State: "listening", Reason: "r"}},
		Plugins:    []control.Plugin{plugin},
		Sources: []control.SourceStatus{{
			Model: "location", State: "running", Reason: "r",
			Progress: []control.Progress{{Key: "k", Unit: "bytes", Done: 1, Total: 2}}, Warnings: []control.Warning{{Key: "w", Count: 3, Message: "m"}},
		}},
		Peers: []control.Peer{{
			ID: other, Name: "bob", State: "retired", Reason: "r", Behind: time.Second, BehindMe: time.Minute, Progress: 0.5,
			Left: time.Hour, RTT: time.Millisecond, Skew: -time.Second, Via: "tcp", Since: noon, BytesIn: 1, BytesOut: 2, RowsIn: 3,
			RowsPerSecond: 4, Addresses: []string{"tcp a:1"}, RetiredAt: noon, Audit: audit,
		}},
		Refused: 1, Conflicts: 2,
		RefusedChanges: []control.RefusedChange{{Model: "tag", ID: sdk.RecordID{1}, Origin: other, Stamp: hlc.New(6, 0), Code: sdk.CodeInvalid, Message: "no"}},
		Warnings:       []control.StatusWarning{control.WarnRestored()},
		Log:            control.LogStatus{Entries: 1, Bytes: 2, Oldest: noon},
		Shadow:         control.ShadowStatus{Deleted: 1, NotInserted: 2, Waiting: 3, WaitingBound: 4},
		Retention:      control.Retention{Age: time.Hour, Bytes: 2, Conflicts: time.Minute},
		Refusals:       []control.RefusedInput{{Limit: "marks", Count: 3}},
	}
}

func TestStatus_CarriesEverything(t *testing.T) {
	host, c := start(t)
	host.State = everything()
	got, err := c.Status(context.Background())
	if diff := cmp.Diff(everything(), got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

func TestStatus_Warnings(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*control.Status)
		want   []control.WarningCode
	}{
		"nothing wrong": {func(*control.Status) {}, nil},
		"retired": {func(s *control.Status) {
			s.RetiredAt, s.Peers[0].Refuses = noon, true
		}, []control.WarningCode{control.WarningRetired}},
		"refused": {func(s *control.Status) {
			s.Peers[0].Refuses, s.Warnings = true, []control.StatusWarning{control.WarnRunsTwice()}
		}, []control.WarningCode{control.WarningRefused, control.WarningRunsTwice}},
		"a write that hangs": {func(s *control.Status) {
			s.Warnings = []control.StatusWarning{control.WarnStoreBusy("postgres", time.Minute)}
		}, []control.WarningCode{control.WarningStoreBusy}},
		"as many waiting as may": {func(s *control.Status) { s.Shadow.Waiting = 4 }, nil},
		"more waiting":           {func(s *control.Status) { s.Shadow.Waiting = 5 }, []control.WarningCode{control.WarningManyWaiting}},
		"no bound":               {func(s *control.Status) { s.Shadow.Waiting, s.Shadow.WaitingBound = 5, 0 }, nil},
		"the rest": {func(s *control.Status) {
			s.Peers[0].RunsTwice, s.Repaired = true, 1
		}, []control.WarningCode{control.WarningPeerRunsTwice, control.WarningAuditsRepaired}},
	} {
		host, c := start(t)
		host.State = everything()
		host.State.Warnings = nil
		test.change(&host.State)
		status, err := c.Status(context.Background())
		var got []control.WarningCode
		for _, w := range status.Warnings {
			if got = append(got, w.Code); w.Text == "" {
				t.Errorf("%s: %s says nothing", name, w.Code)
			}
		}
		if diff := cmp.Diff(test.want, got); err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", name, err, diff)
		}
	}
}

// TestStatus_StoreAway wants what nobody knows to be told from what is none.
func TestStatus_StoreAway(t *testing.T) {
	shown := func(s control.Status) (fields map[string]any) {
		t.Helper()
		text, err := json.Marshal(s)
		if err == nil {
			err = json.Unmarshal(text, &fields)
		}
		if err != nil {
			t.Fatal(err)
		}
		return fields
	}
	unknown := []string{"store_bytes", "models", "refused", "conflicts", "refused_changes", "log", "shadow"}
	s := everything()
	known := shown(s)
	s.Warnings = []control.StatusWarning{control.WarnStoreSilent("postgres", time.Second)}
	away := shown(s)
	for name, value := range known {
		got, there := away[name]
		if is := slices.Contains(unknown, name); !there || is != (got == nil) && value != nil {
			t.Errorf("%s is %v; of a store within reach %v", name, got, value)
		}
	}
}

func TestRetire(t *testing.T) {
	host, c := start(t)
	host.State = control.Status{DeviceID: self, DeviceName: "alice", Peers: []control.Peer{{ID: other, Name: "bob", State: "live"}}}
	host.Now = func() time.Time { return noon }
	ctx := context.Background()
	got, err := c.Retire(ctx, other, false)
	if want := (control.Retired{ID: other, Name: "bob", At: noon}); err != nil || got != want {
		t.Errorf("%v, %+v; want %+v", err, got, want)
	}
	peers, err := c.Peers(ctx)
	if err != nil || len(peers) != 1 || peers[0].State != "retired" || !peers[0].RetiredAt.Equal(noon) {
		t.Errorf("%v, %+v", err, peers)
	}
	for want, call := range map[sdk.Code]struct {
		id       sdk.DeviceID
		evenSelf bool
	}{sdk.CodeInvalid: {other, true}, sdk.CodeNotFound: {sdk.DeviceID{9}, true}, sdk.CodeDenied: {self, false}} {
		if _, err := c.Retire(ctx, call.id, call.evenSelf); sdk.CodeOf(err) != want {
			t.Errorf("retire %s, even itself %v: %v; want %s", call.id, call.evenSelf, err, want)
		}
	}
	if _, err := c.Retire(ctx, sdk.DeviceID{}, true); sdk.CodeOf(err) != sdk.CodeInvalid {
		t.Errorf("retire nobody: %v", err)
	}
	if _, err := c.Retire(ctx, self, true); err != nil {
		t.Error(err)
	}
	if status, err := c.Status(ctx); err != nil || !status.RetiredAt.Equal(noon) {
		t.Errorf("%v, retired at %v", err, status.RetiredAt)
	}
}

func TestAudit(t *testing.T) {
	host, c := start(t)
	third := sdk.DeviceID{0xc0, 15: 3}
	host.State = control.Status{DeviceID: self, Peers: []control.Peer{{ID: other, Name: "bob"}, {ID: third, Name: "carol"}, {ID: sdk.DeviceID{4}, Name: "dave"}}}
	host.Audits = []control.AuditResult{
		{ID: other, Name: "bob", Audit: control.Audit{At: noon, Outcome: control.AuditEqual, Records: 5, Bytes: 7, Took: time.Second}},
		{ID: third, Name: "carol", Audit: control.Audit{At: noon, Outcome: control.AuditFailed, Reason: "gone"}},
	}
	ask := func(peer sdk.DeviceID) (got []control.AuditResult, err error) {
		err = c.Audit(context.Background(), peer, func(r control.AuditResult) error { got = append(got, r); return nil })
		return got, err
	}
	if got, err := ask(sdk.DeviceID{}); err != nil || cmp.Diff(host.Audits, got) != "" {
		t.Errorf("%v (-want +got):\n%s", err, cmp.Diff(host.Audits, got))
	}
	if got, err := ask(third); err != nil || cmp.Diff(host.Audits[1:], got) != "" {
		t.Errorf("%v (-want +got):\n%s", err, cmp.Diff(host.Audits[1:], got))
	}
	if _, err := ask(sdk.DeviceID{4}); sdk.CodeOf(err) != sdk.CodeUnavailable {
		t.Errorf("one that is away: %v", err)
	}
	if _, err := ask(sdk.DeviceID{5}); sdk.CodeOf(err) != sdk.CodeNotFound {
		t.Errorf("one that is no member: %v", err)
	}
	enough := errors.New("enough")
	if err := c.Audit(context.Background(), sdk.DeviceID{}, func(control.AuditResult) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("stopped by who asks: %v", err)
	}
}
