package control_test

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/control"
	"github.com/starling-sync/starling/host/control/controltest"
	"github.com/starling-sync/starling/sdk"
)

// TestPut_unknown has the store unable to say whether a record was written: the error says how to find out.
func TestPut_unknown(t *testing.T) {
	host, client := start(t)
	host.Fail = func(call string) error {
		if call == "Commit" {
			return control.Unknown(sdk.Errorf(sdk.CodeUnavailable, "it is not known whether this write was kept"))
		}
		return nil
	}
	for want, puts := range map[string][]control.Put{
		"starling get tag 01000000-":   {{JSON: []byte(`{"name":"a"}`)}},
		"starling list tag; the first": {{JSON: []byte(`{"name":"a"}`)}, {JSON: []byte(`{"name":"b"}`)}},
	} {
		_, err := client.Put(t.Context(), "tag", puts, false)
		if sdk.CodeOf(err) != sdk.CodeUnavailable || !strings.Contains(err.Error(), "not known whether this write was kept; whether it was, this says then: starling ") {
			t.Errorf("got %v", err)
		}
		if !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// TestPut_models has an update of a record of one model take long: those of another do not wait for it.
func TestPut_models(t *testing.T) {
	volume := entryModel()
	volume.Model = "volume"
	host := controltest.NewHost(self, hlc.New(1, 0), entryModel(), volume)
	dir := shortDir(t)
	listener, err := control.Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	client := serve(t, host, dir, listener)
	entry, other := put(t, client, "entry", `{"name":"a"}`)[0], put(t, client, "volume", `{"name":"b"}`)[0]
	held, goOn := make(chan struct{}), make(chan struct{})
	var commits atomic.Int32
	host.Fail = func(call string) error {
		if call == "Commit" && commits.Add(1) == 1 {
			close(held)
			<-goOn
		}
		return nil
	}
	update := func(model sdk.ModelName, id sdk.RecordID) error {
		_, err := client.Put(t.Context(), model, []control.Put{{ID: id, JSON: []byte(`{"size":7}`)}}, false)
		return err
	}
	slow := make(chan error, 1)
	go func() { slow <- update("entry", entry) }()
	<-held
	quick := make(chan error, 1)
	go func() { quick <- update("volume", other) }()
	select {
	case err := <-quick:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Error("it waits for a record of another model")
	}
	close(goOn)
	if err := <-slow; err != nil {
		t.Error(err)
	}
}

// TestPut_storeAway has the store not answer: who waits is told, once.
func TestPut_storeAway(t *testing.T) {
	host, client := start(t)
	host.State.Warnings = []control.StatusWarning{control.WarnStoreSilent("postgres", 2*time.Second)}
	said := make(chan string, 2)
	client.Patience, client.Notice = time.Millisecond, func(text string) { said <- text }
	heard := ""
	host.Fail = func(call string) error {
		if call == "Commit" {
			heard = <-said
		}
		return nil
	}
	put(t, client, "tag", `{"name":"work"}`)
	if !strings.Contains(heard, "no answer yet: the store does not answer") || len(said) > 0 {
		t.Errorf("said: %q, and %d more", heard, len(said))
	}
}

// TestPut_otherModel has a reference name a record of another model than it is to: it would wait for ever.
func TestPut_otherModel(t *testing.T) {
	_, client := start(t)
	tag, entry := put(t, client, "tag", `{"name":"a"}`)[0], put(t, client, "entry", `{"name":"b"}`)[0]
	result, err := client.Put(t.Context(), "tagging", []control.Put{{JSON: []byte(`{"tag_id":"` + entry.String() + `","target":"` + tag.String() + `"}`)}}, false)
	if err != nil || len(result.Refused) != 1 || result.Refused[0].Code != sdk.CodeInvalid {
		t.Fatalf("got %+v, %v; want it refused as invalid", result, err)
	}
	for _, part := range []string{"tag_id", "of model tag;", entry.String() + " is one of model entry"} {
		if text := result.Refused[0].Message; !strings.Contains(text, part) {
			t.Errorf("%q lacks %q", text, part)
		}
	}
	put(t, client, "tagging", `{"tag_id":"`+tag.String()+`","target":"`+entry.String()+`"}`)
	put(t, client, "tagging", `{"tag_id":"`+sdk.RecordID{9}.String()+`","target":"`+entry.String()+`"}`) // it may arrive yet
}

// TestPut_keptModel asks for a model without a plugin of which changes have come, and for one of which none have.
func TestPut_keptModel(t *testing.T) {
	host, client := start(t)
	host.State.Models = []control.ModelStatus{{Model: "invoice", Parked: 2}}
	for model, want := range map[sdk.ModelName]string{
		"invoice": `no plugin here serves the model "invoice"; 2 changes of it are kept`,
		"receipt": `no model "receipt" here; the models are entry, tag, tagging`,
	} {
		_, err := client.Put(t.Context(), model, []control.Put{{JSON: []byte(`{}`)}}, false)
		if sdk.CodeOf(err) != sdk.CodeUnknownModel || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q", err, want)
		}
	}
}
