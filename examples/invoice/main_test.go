package main

import (
	"debug/buildinfo"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/rpc/rpctest"
	"github.com/starling-sync/starling/sdk/sdktest"
	"github.com/starling-sync/starling/sdk/verify"
)

// TestInvoice and TestItem check the laws that every model keeps, in this process.
func TestInvoice(t *testing.T) {
	sdktest.Model(t, invoices(new(settings)),
		sdktest.FieldValues("number", "2026-001", "2026-002", "2026-003"), sdktest.FieldValues("customer", "ACME", "Initech", "Globex"),
		sdktest.FieldValues("paid", int64(0), int64(129900), int64(129901)))
}

func TestItem(t *testing.T) {
	sdktest.Model(t, items(), sdktest.FieldValues("text", "a chair", "a table", "a lamp"))
}

// TestBinary checks all of them once more against the built plugin, and the laws of its process.
func TestBinary(t *testing.T) {
	verify.Test(t, rpctest.Build(t, "."), verify.Options{Records: []json.RawMessage{
		[]byte(`{"number":"2026-001","customer":"ACME","paid":0}`), []byte(`{"number":"2026-002","customer":"Initech","paid":129900}`),
		[]byte(`{"text":"a chair"}`), []byte(`{"text":"a table"}`),
	}})
}

func TestValidate(t *testing.T) {
	s := &settings{NumberPrefix: "2026-"}
	for what, test := range map[string]struct {
		invoice Invoice
		want    sdk.Code
	}{
		"valid":         {Invoice{Number: "2026-001", Customer: "ACME", Paid: 1}, ""},
		"another year":  {Invoice{Number: "2025-001", Customer: "ACME"}, sdk.CodeInvalid},
		"no number":     {Invoice{Customer: "ACME"}, sdk.CodeInvalid},
		"no customer":   {Invoice{Number: "2026-001", Customer: "\t"}, sdk.CodeInvalid},
		"negative paid": {Invoice{Number: "2026-001", Customer: "ACME", Paid: -1}, sdk.CodeInvalid},
	} {
		if got := sdk.CodeOf(s.validate(&test.invoice)); got != test.want {
			t.Errorf("%s: code %q, want %q", what, got, test.want)
		}
	}
	if sdk.CodeOf(validItem(&Item{Text: " "})) != sdk.CodeInvalid || validItem(&Item{Text: "a chair"}) != nil {
		t.Error("an item is valid if and only if its text is not blank")
	}
}

func TestSettings(t *testing.T) {
	for block, wrong := range map[string]string{
		`{}`: "", `{"number_prefix":"2026-"}`: "", `{"number_prefix":2026}`: "number_prefix", `{"prefix":"2026-"}`: "prefix",
	} {
		err := sdk.Settings(new(settings)).Configure(t.Context(), json.RawMessage(block))
		switch {
		case wrong == "" && err != nil:
			t.Errorf("%s: %v", block, err)
		case wrong != "" && (sdk.CodeOf(err) != sdk.CodeInvalid || !strings.Contains(err.Error(), wrong)):
			t.Errorf("%s: %v; want it invalid because of %s", block, err, wrong)
		}
	}
}

// What a plugin of a model costs: modules that its author has to trust, and bytes on every device.
const (
	maxModules = 25
	maxBytes   = 20 << 20
)

// TestCost builds the plugin as it is shipped and holds it to its budget.
func TestCost(t *testing.T) {
	path := filepath.Join(t.TempDir(), "invoice")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d modules, %.1f MB", len(info.Deps), float64(file.Size())/1e6)
	if n := len(info.Deps); n > maxModules {
		t.Errorf("the plugin pulls %d modules; at most %d are allowed", n, maxModules)
	}
	if n := file.Size(); n > maxBytes {
		t.Errorf("the stripped plugin has %d bytes; at most %d are allowed", n, maxBytes)
	}
}
