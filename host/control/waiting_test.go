package control_test

import (
	"strings"
	"testing"
	"time"

	"github.com/starling-sync/starling/host/control"
	"github.com/starling-sync/starling/sdk"
)

// TestClient_Notice has a put wait for a plugin under a debugger: that is said while it waits, and of no other model's put. A
// process that has not answered yet has no number.
func TestClient_Notice(t *testing.T) {
	host, client := start(t)
	host.Processes = []control.Plugin{{Name: "tag", Kind: "model", State: "debugging", PID: 4242, Models: []sdk.ModelName{"tag"}}}
	said := make(chan string, 2)
	client.Patience, client.Notice = time.Millisecond, func(text string) { said <- text }
	asked, heard := make(chan string, 8), ""
	host.Fail = func(call string) error {
		switch call {
		case "Plugins":
			asked <- call
		case "Commit": // until the plugin's state has been asked for, by whom it concerns
			<-asked
			if heard == "" {
				heard = <-said
			}
		}
		return nil
	}
	put(t, client, "tag", `{"name":"work"}`)
	if !strings.Contains(heard, "plugin tag is process 4242, under a debugger") {
		t.Errorf("said: %q", heard)
	}
	host.Processes[0].PID, heard = 0, ""
	put(t, client, "tag", `{"name":"home"}`)
	if !strings.Contains(heard, "plugin tag is under a debugger") {
		t.Errorf("said: %q", heard)
	}
	put(t, client, "entry", `{"name":"a"}`)
	if len(said) > 0 {
		t.Errorf("said of a model that nobody debugs: %s", <-said)
	}
}

// TestClient_Notice_conflict has the restoring of a value wait: of two plugins under debuggers that of its model is named.
func TestClient_Notice_conflict(t *testing.T) {
	host, client := start(t)
	contested(t, host, client)
	for _, name := range []string{"entry", "tag"} {
		host.Processes = append(host.Processes, control.Plugin{Name: name, Kind: "model", State: "debugging", PID: 4242, Models: []sdk.ModelName{sdk.ModelName(name)}})
	}
	said, heard := make(chan string, 1), ""
	client.Patience, client.Notice = time.Millisecond, func(text string) { said <- text }
	host.Fail = func(call string) error {
		if call == "Commit" {
			heard = <-said
		}
		return nil
	}
	if _, err := client.RestoreConflict(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(heard, "plugin tag is process 4242") {
		t.Errorf("said: %q", heard)
	}
}

// TestDescribe_NotServed asks for models whose plugins have not come up since the start: why, and what to do, is said.
func TestDescribe_NotServed(t *testing.T) {
	host, client := start(t)
	host.Processes = []control.Plugin{
		{Name: "invoice", Kind: "model", State: "quarantined", Reason: "there is no plugin binary at /x/invoice", Models: []sdk.ModelName{"invoice"}},
		{Name: "album", Kind: "model", State: "debugging", Reason: "a debugger has stopped it", PID: 4, Models: []sdk.ModelName{"album"}},
		{Name: "volume", Kind: "model", State: "backing off", Reason: "exit status 3", Models: []sdk.ModelName{"volume"}},
		{Name: "device", Kind: "model", State: "starting", Models: []sdk.ModelName{"device"}},
	}
	for model, want := range map[sdk.ModelName][]string{
		"invoice": {"plugin invoice is quarantined: there is no plugin binary at /x/invoice", "starling plugin restart invoice"},
		"album":   {"under a debugger", "a debugger has stopped it"},
		"volume":  {"is backing off: exit status 3"},
		"device":  {"is being started"},
	} {
		_, err := client.Put(t.Context(), model, []control.Put{{JSON: []byte("{}")}}, false)
		if sdk.CodeOf(err) != sdk.CodeUnavailable {
			t.Errorf("%s: %v; want code unavailable", model, err)
			continue
		}
		for _, part := range want {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %v; want %q", model, err, part)
			}
		}
	}
	_, err := client.Put(t.Context(), "something", []control.Put{{JSON: []byte("{}")}}, false)
	if sdk.CodeOf(err) != sdk.CodeUnknownModel || !strings.Contains(err.Error(), "invoice (quarantined)") {
		t.Errorf("of a model that a plugin in quarantine may serve: %v", err)
	}
}

// TestPut_NotServed writes records of models that have a table here and whose plugins do not run: the answer is that of a model
// whose plugin has not come up since the start.
func TestPut_NotServed(t *testing.T) {
	host, client := start(t)
	host.Fail = func(call string) error {
		if call == "Commit" {
			return sdk.Errorf(sdk.CodeUnavailable, "the plugin is not running now")
		}
		return nil
	}
	for state, want := range map[string]string{
		"quarantined": "plugin tag is quarantined: exit status 3; mend that, then: starling plugin restart tag",
		"backing off": "plugin tag is backing off: exit status 3",
		"running":     "the plugin is not running now",
	} {
		host.Processes = []control.Plugin{{Name: "tag", Kind: "model", State: state, Reason: "exit status 3", Models: []sdk.ModelName{"tag"}}}
		_, err := client.Put(t.Context(), "tag", []control.Put{{JSON: []byte(`{"name":"a"}`)}}, false)
		if sdk.CodeOf(err) != sdk.CodeUnavailable || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q", state, err, want)
		}
	}
}
