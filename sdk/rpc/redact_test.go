package rpc_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/rpc"
	"github.com/starling-sync/starling/sdk/rpc/rpcpb"
	"github.com/starling-sync/starling/sdk/rpc/rpctest"
)

func TestRedactor(t *testing.T) {
	var r rpc.Redactor
	r.Hide([]string{"open sesame", "open sesame and more", "1234", `a"b\c<d>`, "-----BEGIN KEY-----\nMIIBVgIBADANBg\nx\n-----END KEY-----\n", "", "  "})
	for text, want := range map[string]string{
		"":                                      "",
		"nothing of it":                         "nothing of it",
		"xopen sesamex":                         "x(secret)x",
		"open sesame and more":                  "(secret)",
		"the pin 1234 is, (1234), '1234'":       "the pin (secret) is, ((secret)), '(secret)'",
		"process 12345 of 01234, n1234, 1234_5": "process 12345 of 01234, n1234, 1234_5",
		`{"a":"a\"b\\c<d>"}`:                    `{"a":"(secret)"}`,
		`{"a":"a\"b\\c\u003cd\u003e"}`:          `{"a":"(secret)"}`,
		"line: MIIBVgIBADANBg":                  "line: (secret)",
		"x marks":                               "x marks",
		"nats://u:open%20sesame@hub":            "nats://u:(secret)@hub",
	} {
		if got := r.Text(text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
	r.Hide(nil)
	if got := r.Text("open sesame"); got != "open sesame" {
		t.Errorf("a secret that is none any more: %q", got)
	}
	if got := (*rpc.Redactor)(nil).Text("x"); got != "x" {
		t.Errorf("no redactor: %q", got)
	}
}

// TestRedactor_Forms wants a secret of eight bytes or more in none of the ways in which programs quote it.
func TestRedactor_Forms(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		secret := rapid.StringN(8, 40, 200).Filter(func(s string) bool { return len(strings.TrimSpace(s)) >= 8 }).Draw(t, "secret")
		text, err := json.Marshal(map[string]string{"message": "x" + secret + "y"})
		if err != nil {
			t.Skip()
		}
		var r rpc.Redactor
		r.Hide([]string{secret})
		for _, quoted := range []string{
			"x" + secret + "y", fmt.Sprintf("x%qy", secret), string(text), "x?q=" + url.QueryEscape(secret) + "&", (&url.URL{Path: secret + "/y"}).String(),
			"nats://" + url.UserPassword("me", secret).String() + "@hub",
		} {
			if got := r.Text(quoted); strings.Contains(got, secret) || !strings.Contains(got, rpc.Redacted) {
				t.Errorf("%q became %q", quoted, got)
			}
		}
	})
}

// TestRedactor_Error takes a secret out of an error about one setting and one about two, of which nothing else changes.
func TestRedactor_Error(t *testing.T) {
	var r rpc.Redactor
	r.Hide([]string{"sesame-seed"})
	about := func(setting, of string) error {
		return &sdk.Error{Code: sdk.CodeInvalid, Message: "is not " + of, Setting: setting}
	}
	for _, settings := range [][]string{{"token"}, {"token", "url"}} {
		var said, want []error
		for _, setting := range settings {
			said, want = append(said, about(setting, "sesame-seed")), append(want, about(setting, rpc.Redacted))
		}
		got := r.Error(errors.Join(said...))
		if sdk.CodeOf(got) != sdk.CodeInvalid || got.Error() != errors.Join(want...).Error() {
			t.Errorf("%v: %v", settings, got)
		}
		var found []string
		for _, each := range sdk.SettingErrors(got) {
			found = append(found, each.Setting)
			if strings.Contains(each.Error(), "sesame") {
				t.Errorf("%v: %v", settings, each)
			}
		}
		if diff := cmp.Diff(settings, found); diff != "" {
			t.Errorf("settings (-want +got):\n%s", diff)
		}
	}
	if r.Error(nil) != nil {
		t.Error("there is an error where there was none")
	}
}

// TestRedact_Border wants no secret in what comes across the border: errors of calls and of batches, refusals, and the
// reasons why a process is not well.
func TestRedact_Border(t *testing.T) {
	c := rpctest.Command(t, rpctest.Self(t))
	c.Redact = new(rpc.Redactor)
	c.Redact.Hide([]string{"sesame-seed"})
	p, err := rpc.Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	request := &rpcpb.ConfigureRequest{Model: "no sesame-seed"}
	if _, err := rpcpb.NewPluginServiceClient(p.Conn()).Configure(t.Context(), request); err == nil || strings.Contains(err.Error(), "sesame") || !strings.Contains(err.Error(), rpc.Redacted) {
		t.Errorf("a status as it arrives: %v", err)
	}
	info, err := p.Client().Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range info.Models {
		if d.Model != "probe" {
			continue
		}
		err := p.Client().Model(d).(sdk.Configurable).Configure(t.Context(), json.RawMessage(`{"a":"sesame-seed"}`)) //nolint:forcetypeassert // the client's always are
		if want := `config was {"a":"(secret)"}`; sdk.CodeOf(err) != sdk.CodeInvalid || err.Error() != want {
			t.Errorf("a refused block: got %v, want %s", err, want)
		}
		_, err = p.Client().Model(d).ApplyStateChange(t.Context(), command("say sesame-seed"))
		if want := "it said (secret)"; err == nil || err.Error() != want {
			t.Errorf("a failed batch: got %v, want %s", err, want)
		}
		result, err := p.Client().Model(d).ApplyStateChange(t.Context(), command("refuse sesame-seed"))
		if err != nil || len(result.Refused) != 1 || result.Refused[0].Message != "it said (secret)" {
			t.Errorf("a refusal: %v, %v", result.Refused, err)
		}
	}
}

// TestRedact_Declared wants no secret in the prose that a plugin declares, nor in what it says of its metrics.
func TestRedact_Declared(t *testing.T) {
	c := rpctest.Command(t, rpctest.Self(t))
	c.Redact = new(rpc.Redactor)
	c.Redact.Hide([]string{"a probe", "a name", "How deep", "one"}) // as if they were
	p, err := rpc.Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	metrics, err := p.Client().Metrics(t.Context())
	if err != nil || len(metrics) == 0 || metrics[0].Help != rpc.Redacted+"." {
		t.Errorf("%v, %v", metrics, err)
	}
	info, err := p.Client().Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range info.Models {
		if d.Model == "probe" && (d.Doc != rpc.Redacted || d.Fields[0].Doc != rpc.Redacted) {
			t.Errorf("%+v", d)
		}
	}
	if s := info.Settings["leaf"]; len(s) != 2 || s[0].Doc != rpc.Redacted {
		t.Errorf("%+v", s)
	}
}

// TestInfo_Settings wants what a plugin declares of its settings, and what it refuses about them, to arrive as they were.
func TestInfo_Settings(t *testing.T) {
	p := rpctest.Start(t, rpctest.Self(t))
	info, err := p.Client().Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := map[sdk.ModelName][]sdk.Setting{
		"leaf": {{Name: "first", Type: sdk.TextSetting, Default: "a", Doc: "one"}, {Name: "second", Type: sdk.IntSetting, Secret: true}},
		"":     {},
	}
	if diff := cmp.Diff(want, info.Settings); diff != "" {
		t.Errorf("settings (-want +got):\n%s", diff)
	}
	for _, d := range info.Models {
		if d.Model != "leaf" {
			continue
		}
		err := p.Client().Model(d).(sdk.Configurable).Configure(t.Context(), json.RawMessage(`{"first":1,"third":2}`)) //nolint:forcetypeassert // as above
		var about []string
		for _, each := range sdk.SettingErrors(err) {
			about = append(about, each.Setting)
		}
		if diff := cmp.Diff([]string{"first", "third"}, about); diff != "" || sdk.CodeOf(err) != sdk.CodeInvalid {
			t.Errorf("refused settings (-want +got), code %q:\n%s", sdk.CodeOf(err), diff)
		}
		err = p.Client().Model(d).(sdk.Configurable).Configure(t.Context(), json.RawMessage(`{"first":"no"}`)) //nolint:forcetypeassert // as above
		if one := sdk.SettingErrors(err); len(one) != 1 || one[0].Setting != "first" || one[0].Message != "wrapped: first: it says no" {
			t.Errorf("a setting refused by the plugin itself: %v", err)
		}
	}
}
