package control_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/control"
	"github.com/starling-sync/starling/host/control/controltest"
	"github.com/starling-sync/starling/sdk"
)

func version(ms int64, device sdk.DeviceID) sdk.Version {
	return sdk.Version{Stamp: hlc.New(ms, 1), Device: device}
}

// contested puts a tag and an entry of the conflict journal about its weight.
func contested(t *testing.T, host *controltest.Host, c *control.Client) sdk.RecordID {
	t.Helper()
	id := put(t, c, "tag", `{"name":"work","weight":7}`)[0]
	host.Journal = []control.Conflict{
		{Number: 3, Model: "tag", ID: id, Field: "weight", Value: int64(9007199254740993), Lost: version(5, other), Winner: version(6, self)},
		{Number: 4, Model: "tag", ID: id, Field: "shape", Value: "round", Lost: version(5, other), Winner: version(6, self)},
	}
	return id
}

func TestExplain(t *testing.T) {
	host, c := start(t)
	id := contested(t, host, c)
	e, err := c.Explain(context.Background(), "tag", id)
	if err != nil || e.State != control.StateVisible || len(e.Fields) != 3 || len(e.Conflicts) != 2 || e.Inserted.Device != self {
		t.Fatalf("%v, %+v", err, e)
	}
	if f := e.Fields[1]; f.Name != "weight" || string(f.Value) != "7" || f.Write.Device != self {
		t.Errorf("%+v", f)
	}
	if f := e.Fields[2]; string(f.Value) != "null" || !f.Write.IsZero() {
		t.Errorf("%+v; want a field that nobody has written", f)
	}
}

func TestExplain_carriesEverything(t *testing.T) {
	host, c := start(t)
	id, need := sdk.RecordID{0: 1, 15: 1}, sdk.RecordID{0: 1, 15: 2}
	host.Explained = map[sdk.RecordID]control.Explanation{id: {
		State: control.StateWaiting, Inserted: version(1, self), Deleted: version(2, other), Owned: version(3, other),
		Fields:  []sdk.FieldState{{Name: "name", Value: "a", Version: version(4, other)}, {Name: "newer", Value: 0.5}},
		Missing: []control.Missing{{Field: "parent_id", Model: "tag", ID: need, State: "deleted"}},
		Parked:  5,
		Refused: []control.RefusedChange{{Model: "tag", ID: id, Origin: other, Stamp: hlc.New(6, 0), Code: sdk.CodeInvalid, Message: "no"}},
		Elsewhere: []control.Whereabouts{
			{Device: other, State: control.PresenceNotYet, Detail: "it is offline"}, {Device: sdk.DeviceID{3}, State: control.PresenceUnknown},
		},
	}}
	want := control.ExplanationView{
		Model: "tag", ID: id, State: control.StateWaiting, Inserted: version(1, self), Deleted: version(2, other), Owned: version(3, other),
		Fields:  []control.FieldView{{Name: "name", Value: []byte(`"a"`), Write: version(4, other)}, {Name: "newer", Value: []byte("0.5")}},
		Missing: host.Explained[id].Missing, Parked: 5, Refused: host.Explained[id].Refused, Conflicts: []control.ConflictView{},
		Elsewhere: host.Explained[id].Elsewhere,
	}
	got, err := c.Explain(context.Background(), "tag", id)
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
}

func TestExplain_errors(t *testing.T) {
	_, c := start(t)
	for want, call := range map[sdk.Code]struct {
		model sdk.ModelName
		id    sdk.RecordID
	}{
		sdk.CodeNotFound: {"tag", sdk.RecordID{1}}, sdk.CodeUnknownModel: {"tga", sdk.RecordID{1}}, sdk.CodeInvalid: {"tag", sdk.RecordID{}},
	} {
		if _, err := c.Explain(context.Background(), call.model, call.id); sdk.CodeOf(err) != want {
			t.Errorf("explain %s %s: %v; want %s", call.model, call.id, err, want)
		}
	}
}

func TestRestoreConflict(t *testing.T) {
	host, c := start(t)
	id := contested(t, host, c)
	got, err := c.RestoreConflict(context.Background(), 3)
	want := control.Restored{Model: "tag", ID: id, Field: "weight", Value: []byte("9007199254740993")}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Fatalf("%v (-want +got):\n%s", err, diff)
	}
	tag := get(t, c, "tag", id)
	if tag["weight"] != json.Number("9007199254740993") || tag["name"] != "work" {
		t.Errorf("%v; want the weight restored and the name as it was", tag)
	}
	left, err := c.Conflicts(context.Background(), "", sdk.RecordID{})
	if err != nil || len(left) != 1 || left[0].Number != 4 {
		t.Errorf("%v, the journal holds %+v; want entry 4 alone", err, left)
	}
}

func TestRestoreConflict_refused(t *testing.T) {
	host, c := start(t)
	id := contested(t, host, c)
	restore := func(number int64, want sdk.Code) {
		t.Helper()
		if _, err := c.RestoreConflict(context.Background(), number); sdk.CodeOf(err) != want {
			t.Errorf("restore %d: %v; want %s", number, err, want)
		}
	}
	restore(5, sdk.CodeNotFound)
	restore(4, sdk.CodeUnknownField)
	host.Fail = func(call string) error {
		if call == "ForgetConflict" {
			return sdk.Errorf(sdk.CodeUnavailable, "busy")
		}
		return nil
	}
	restore(3, sdk.CodeUnavailable)
	host.Fail = nil
	if refused, err := c.Delete(context.Background(), "tag", id); err != nil || len(refused) > 0 {
		t.Fatal(err, refused)
	}
	restore(3, sdk.CodeNotFound)
	if left, err := c.Conflicts(context.Background(), "", sdk.RecordID{}); err != nil || len(left) != 2 {
		t.Errorf("%v, the journal holds %+v; want both entries kept", err, left)
	}
}

func TestWaiting(t *testing.T) {
	host, c := start(t)
	for n := range 450 { // more than travel together
		host.Awaiting = append(host.Awaiting, control.WaitingRecord{
			Model: "tag", ID: sdk.RecordID{1, 14: byte(n >> 8), 15: byte(n)},
			Missing: []control.Missing{{Field: "parent_id", Model: "tag", ID: sdk.RecordID{2}, State: "not_arrived"}},
		})
	}
	host.Awaiting = append(host.Awaiting, control.WaitingRecord{Model: "tagging", ID: sdk.RecordID{3}, Missing: []control.Missing{}})
	ask := func(model sdk.ModelName, limit int) (got []control.WaitingRecord) {
		t.Helper()
		err := c.Waiting(context.Background(), model, limit, func(r control.WaitingRecord) error { got = append(got, r); return nil })
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	for name, test := range map[string]struct{ got, want []control.WaitingRecord }{
		"all":     {ask("", 0), host.Awaiting},
		"limited": {ask("", 201), host.Awaiting[:201]},
		"of one":  {ask("tagging", 0), host.Awaiting[450:]},
		"none":    {ask("entry", 0), nil},
	} {
		if diff := cmp.Diff(test.want, test.got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	enough := errors.New("enough")
	if err := c.Waiting(context.Background(), "", 0, func(control.WaitingRecord) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("stopped by who asks: %v", err)
	}
	if err := c.Waiting(context.Background(), "tga", 0, nil); sdk.CodeOf(err) != sdk.CodeUnknownModel {
		t.Errorf("no such model: %v", err)
	}
	if err := c.Waiting(context.Background(), "", -1, nil); sdk.CodeOf(err) != sdk.CodeInvalid {
		t.Errorf("a negative limit: %v", err)
	}
}
