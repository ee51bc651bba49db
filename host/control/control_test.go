package control_test

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/control"
	"github.com/starling-sync/starling/host/control/controltest"
	"github.com/starling-sync/starling/sdk"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	self  = sdk.DeviceID{0xa1, 15: 1}
	other = sdk.DeviceID{0xb0, 15: 2}
)

func tagModel() sdk.Description {
	return sdk.Description{Model: "tag", Version: 1, Ownership: sdk.SharedByAll, Fields: []sdk.Field{
		{Name: "name", Type: sdk.Text, Required: true},
		{Name: "weight", Type: sdk.Int},
		{Name: "parent_id", Type: sdk.UUID, Ref: "tag"},
	}}
}

func taggingModel() sdk.Description {
	return sdk.Description{Model: "tagging", Version: 1, Ownership: sdk.SharedByAll, Fields: []sdk.Field{
		{Name: "tag_id", Type: sdk.UUID, Ref: "tag", Required: true, Key: true},
		{Name: "target", Type: sdk.UUID, Key: true},
		{Name: "note", Type: sdk.Text},
	}}
}

func entryModel() sdk.Description {
	return sdk.Description{Model: "entry", Version: 1, Ownership: sdk.DeviceOwned, Fields: []sdk.Field{
		{Name: "name", Type: sdk.Text, Required: true},
		{Name: "size", Type: sdk.Int},
		{Name: "modified_at", Type: sdk.Time},
		{Name: "data", Type: sdk.Bytes},
		{Name: "ratio", Type: sdk.Float},
		{Name: "kept", Type: sdk.Bool},
	}}
}

// start runs a server of a new host in memory and returns both ends.
func start(tb testing.TB) (*controltest.Host, *control.Client) {
	tb.Helper()
	host := controltest.NewHost(self, hlc.New(1, 0), entryModel(), tagModel(), taggingModel())
	dir := shortDir(tb)
	listener, err := control.Listen(dir)
	if err != nil {
		tb.Fatal(err)
	}
	return host, serve(tb, host, dir, listener)
}

func serve(tb testing.TB, host *controltest.Host, dir string, listener net.Listener) *control.Client {
	tb.Helper()
	next := byte(0)
	newID := func() sdk.RecordID { next++; return sdk.RecordID{0: 1, 15: next} }
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	server := control.NewServer(host.Backend(), hclog.NewNullLogger(), newID)
	go func() { done <- server.Run(ctx, listener) }()
	client, err := control.Dial(ctx, dir)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		client.Close()
		cancel()
		if err := <-done; err != nil {
			tb.Error(err)
		}
	})
	return client
}

// shortDir returns a folder whose path leaves room for a socket's name.
func shortDir(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("", "ctl")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func put(tb testing.TB, c *control.Client, model sdk.ModelName, objects ...string) []sdk.RecordID {
	tb.Helper()
	var puts []control.Put
	for _, o := range objects {
		puts = append(puts, control.Put{JSON: []byte(o)})
	}
	result, err := c.Put(context.Background(), model, puts, false)
	if err != nil || len(result.Refused) > 0 {
		tb.Fatalf("put %s: %v, refused %v", model, err, result.Refused)
	}
	return result.IDs
}

func update(tb testing.TB, c *control.Client, model sdk.ModelName, id sdk.RecordID, object string) {
	tb.Helper()
	result, err := c.Put(context.Background(), model, []control.Put{{ID: id, JSON: []byte(object)}}, false)
	if err != nil || len(result.Refused) > 0 {
		tb.Fatalf("update %s: %v, refused %v", model, err, result.Refused)
	}
}

func get(tb testing.TB, c *control.Client, model sdk.ModelName, id sdk.RecordID) map[string]any {
	tb.Helper()
	raw, err := c.Get(context.Background(), model, id)
	if err != nil {
		tb.Fatal(err)
	}
	return object(tb, raw)
}

func object(tb testing.TB, raw json.RawMessage) map[string]any {
	tb.Helper()
	decoder := json.NewDecoder(strings.NewReader(string(raw)))
	decoder.UseNumber()
	var m map[string]any
	if err := decoder.Decode(&m); err != nil {
		tb.Fatalf("%s: %v", raw, err)
	}
	return m
}

var codes = []sdk.Code{
	sdk.CodeInvalid, sdk.CodeNotFound, sdk.CodeUnknownModel, sdk.CodeUnknownField, sdk.CodeNotOwner, sdk.CodeTooLarge,
	sdk.CodeStale, sdk.CodeDenied, sdk.CodeExpired, sdk.CodeUnsupported, sdk.CodeClockSkew, sdk.CodePruned, sdk.CodeUnavailable,
	sdk.CodeInternal,
}

func TestErrors_KeepTheirCodes(t *testing.T) {
	host, c := start(t)
	for _, code := range codes {
		host.Fail = func(string) error { return sdk.Errorf(code, "why: %s", code) }
		_, err := c.Digests(context.Background())
		if sdk.CodeOf(err) != code || err.Error() != "why: "+string(code) {
			t.Errorf("%s came as %s: %v", code, sdk.CodeOf(err), err)
		}
	}
	host.Fail = func(string) error { panic("a defect") }
	if _, err := c.Status(context.Background()); sdk.CodeOf(err) != sdk.CodeInternal {
		t.Errorf("a panic came as %v", err)
	}
	host.Fail = nil
	if _, err := c.Status(context.Background()); err != nil {
		t.Errorf("after a panic: %v", err)
	}
}

func TestUnknownModel(t *testing.T) {
	_, c := start(t)
	_, err := c.Get(context.Background(), "tagg", sdk.RecordID{1})
	if sdk.CodeOf(err) != sdk.CodeUnknownModel || !strings.Contains(err.Error(), `did you mean "tag"?`) {
		t.Errorf("got %v", err)
	}
	_, err = c.Watch(context.Background(), "zebra")
	if sdk.CodeOf(err) != sdk.CodeUnknownModel || !strings.Contains(err.Error(), "the models are entry, tag, tagging") {
		t.Errorf("got %v", err)
	}
}

func TestRequest_TooLarge(t *testing.T) {
	_, c := start(t)
	_, err := c.Put(context.Background(), "tag", []control.Put{{JSON: make([]byte, 17<<20)}}, false)
	if sdk.CodeOf(err) != sdk.CodeTooLarge {
		t.Errorf("got %v", err)
	}
}

func TestServer_IgnoresGarbage(t *testing.T) {
	dir := shortDir(t)
	listener, err := control.Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	c := serve(t, controltest.NewHost(self, hlc.New(1, 0), tagModel()), dir, listener)
	conn, err := net.Dial("unix", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("\x00\x01\x02 not a request\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 1024)
	n, _ := conn.Read(buf)
	if !strings.Contains(string(buf[:n]), http.StatusText(http.StatusBadRequest)) {
		t.Errorf("garbage was answered with %q", buf[:n])
	}
	_ = conn.Close()
	if _, err := c.Status(context.Background()); err != nil {
		t.Errorf("after garbage: %v", err)
	}
}

func BenchmarkPut(b *testing.B) {
	_, c := start(b)
	puts := make([]control.Put, 100)
	for i := range puts {
		puts[i].JSON = []byte(`{"name":"holiday","size":12345678,"modified_at":"2026-11-22T07:10:11.123456Z","ratio":0.5,"kept":true}`)
	}
	rows := 0
	for b.Loop() {
		if _, err := c.Put(context.Background(), "entry", puts, false); err != nil {
			b.Fatal(err)
		}
		rows += len(puts)
	}
	b.ReportMetric(float64(rows)/b.Elapsed().Seconds(), "rows/s")
}
