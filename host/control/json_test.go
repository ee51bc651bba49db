package control_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/control"
	"github.com/starling-sync/starling/host/control/controltest"
	"github.com/starling-sync/starling/sdk"
)

// caller returns what calls the API in JSON at a socket, as curl does.
func caller(t *testing.T, socket string) func(method, contentType, body string) (status int, answer string) {
	t.Helper()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}
	t.Cleanup(transport.CloseIdleConnections)
	return func(method, contentType, body string) (status int, answer string) {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://x/starling.control.v1.Control/"+method, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Content-Type", contentType)
		response, err := (&http.Client{Transport: transport}).Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close() //nolint:errcheck // a test
		text, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, string(text)
	}
}

// TestPage wants the page on the API to say of each code how it comes.
func TestPage(t *testing.T) {
	page, err := os.ReadFile("../../docs/api.md")
	if err != nil {
		t.Fatal(err)
	}
	host := controltest.NewHost(self, hlc.New(1, 0), tagModel())
	dir := shortDir(t)
	listener, err := control.Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	serve(t, host, dir, listener)
	call := caller(t, listener.Addr().String())
	for _, code := range codes {
		host.Fail = func(string) error { return sdk.Errorf(code, "no") }
		status, answer := call("Digest", "application/json", "{}")
		var said struct{ Code string }
		if err := json.Unmarshal([]byte(answer), &said); err != nil {
			t.Fatal(err)
		}
		row := regexp.MustCompile(fmt.Sprintf("(?m)^\\| .*`%s`.* \\| `%s` \\| %d \\|", code, said.Code, status))
		if !row.Match(page) {
			t.Errorf("docs/api.md does not say that %s comes as %s, %d", code, said.Code, status)
		}
	}
}

// TestJSON calls the API as curl does: over the socket, in JSON. What a request says and nobody understands is refused, and so is one
// that asks for nothing; neither writes anything.
func TestJSON(t *testing.T) {
	host := controltest.NewHost(self, hlc.New(1, 0), tagModel())
	dir := shortDir(t)
	listener, err := control.Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	client := serve(t, host, dir, listener)
	call := caller(t, listener.Addr().String())
	record := base64.StdEncoding.EncodeToString([]byte(`{"name":"holiday"}`))

	for _, contentType := range []string{"application/json", "application/json; charset=utf-8"} {
		for name, c := range map[string]struct{ method, body, want string }{
			"unknown":       {"Put", `{"model":"tag","fields":{"name":"x"}}`, `unknown field \"fields\"; PutRequest takes model, records, allOrNothing; PutRecord takes id, json`},
			"unknown below": {"Put", `{"model":"tag","records":[{"fields":"` + record + `"}]}`, `unknown field \"fields\"`},
			"no base64":     {"Put", `{"model":"tag","records":[{"json":{"name":"x"}}]}`, `PutRecord takes id, json`},
			"no records":    {"Put", `{"model":"tag"}`, `records is empty`},
			"no ids":        {"Delete", `{"model":"tag"}`, `ids is empty`},
			"nothing":       {"Status", `{"x":1}`, `StatusRequest takes nothing`},
			"no body":       {"Status", ``, `a request without members is {}`},
		} {
			status, answer := call(c.method, contentType, c.body)
			if status != http.StatusBadRequest || !strings.Contains(answer, `"code":"invalid_argument"`) || !strings.Contains(answer, c.want) {
				t.Errorf("%s, %s: %d %s; want 400 with %s", name, contentType, status, answer, c.want)
			}
		}
	}
	rows := 0
	if err := client.List(t.Context(), "tag", nil, 0, func(json.RawMessage) error { rows++; return nil }); err != nil || rows > 0 {
		t.Fatalf("%d records, %v; want none", rows, err)
	}

	status, answer := call("Put", "application/json", `{"model":"tag","all_or_nothing":true,"records":[{"json":"`+record+`"}]}`)
	var written struct{ IDs [][]byte }
	if err := json.Unmarshal([]byte(answer), &written); err != nil || status != http.StatusOK || len(written.IDs) != 1 {
		t.Fatalf("%d %s, %v", status, answer, err)
	}
	if got := get(t, client, "tag", sdk.RecordID(written.IDs[0])); got["name"] != "holiday" {
		t.Errorf("got %v", got)
	}
}

// TestPut_nothing asks to write and to delete nothing, as the client does.
func TestPut_nothing(t *testing.T) {
	_, client := start(t)
	if _, err := client.Put(t.Context(), "tag", nil, false); sdk.CodeOf(err) != sdk.CodeInvalid {
		t.Errorf("put: %v", err)
	}
	if _, err := client.Delete(t.Context(), "tag"); sdk.CodeOf(err) != sdk.CodeInvalid {
		t.Errorf("delete: %v", err)
	}
}
