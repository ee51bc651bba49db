package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/starling-sync/starling/plugins/location/catalog"
	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/rpc/rpctest"
	"github.com/starling-sync/starling/sdk/sdktest"
)

func accepted() sdktest.ModelOption {
	return sdktest.FieldValues("path", "/", "/home/photos", `C:\photos`, `\\server\share`)
}

func TestLocation(t *testing.T) { sdktest.Model(t, model(new(sdk.Metrics)), accepted()) }

// TestBinary runs the laws against the plugin as a process of its own.
func TestBinary(t *testing.T) {
	for _, server := range rpctest.Models(t, rpctest.Build(t, ".")) {
		sdktest.Model(t, server, accepted())
	}
}

// TestBinary_Source catalogues a real folder from a process of its own, with the real entry plugin deciding.
func TestBinary_Source(t *testing.T) {
	locations := rpctest.Models(t, rpctest.Build(t, "."))[0]
	entries := rpctest.Models(t, rpctest.Build(t, "../entry"))[0]
	host := sdktest.NewSourceHost(t, locations, entries)
	dir := t.TempDir()
	write := func(name string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("a")
	location := catalog.Location{Path: dir}
	packer, err := model(new(sdk.Metrics)).Packer()
	if err != nil {
		t.Fatal(err)
	}
	packer.Put(&location)
	if _, err := host.Commit(t.Context(), packer.Batch()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	running, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- locations.(sdk.Source).Run(running, host) }() //nolint:forcetypeassert // its description says so
	await := func(count int) {
		t.Helper()
		if err := host.Await(ctx, func() bool { return host.Count("entry") == count }); err != nil {
			t.Errorf("%d entries, want %d; warnings %v", host.Count("entry"), count, host.Warnings())
		}
	}
	await(2) // the folder and a
	write("b")
	await(3)
	if err := os.Remove(filepath.Join(dir, "a")); err != nil {
		t.Fatal(err)
	}
	await(2)
	packer.Delete(location.ID)
	if _, err := host.Commit(t.Context(), packer.Batch()); err != nil {
		t.Fatal(err)
	}
	await(0)
	stop()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
}

// TestEntryColumns checks that what the catalogue writes are columns of the entry model, of the same types.
func TestEntryColumns(t *testing.T) {
	desc, err := rpctest.Models(t, rpctest.Build(t, "../entry"))[0].Describe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	written, err := (sdk.Model[catalog.Entry]{Name: "entry", Version: 2}).Describe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i := range desc.Fields {
		desc.Fields[i].Doc = ""
	}
	if diff := cmp.Diff(desc.Fields, written.Fields); diff != "" {
		t.Errorf("the entry model and what is written of it differ (-model +written):\n%s", diff)
	}
}

func TestValidate(t *testing.T) {
	for path, want := range map[string]sdk.Code{
		"/": "", "/home/me": "", "/home/me/..": sdk.CodeInvalid, "/home//me": sdk.CodeInvalid, "/home/": sdk.CodeInvalid,
		"home": sdk.CodeInvalid, "": sdk.CodeInvalid, "./x": sdk.CodeInvalid, "~/x": sdk.CodeInvalid,
		`C:\Users`: "", "C:/Users": "", "C:Users": sdk.CodeInvalid, `\\server\share`: "",
	} {
		if got := sdk.CodeOf(validate(&catalog.Location{Path: path})); got != want {
			t.Errorf("path %q: code %q, want %q", path, got, want)
		}
	}
}

func TestSettings(t *testing.T) {
	configure := func(config string) (*settings, error) {
		s := defaults()
		return s, sdk.Settings(s).Configure(t.Context(), json.RawMessage(config))
	}
	for _, test := range []struct{ config, wrong string }{
		{`{}`, ""},
		{`{"ignore": [".git", "node_modules", "*.tmp", "build/*"], "rescan": "5m"}`, ""},
		{`{"ignore": ["[a"]}`, `"[a"`},
		{`{"ignore": [""]}`, `""`},
		{`{"rescan": "soon"}`, `"soon"`},
		{`{"rescan": "-5m"}`, `"-5m"`},
		{`{"rescan": "1ms"}`, "1ms"},
		{`{"rescan": "0s"}`, "0s"},
		{`{"ignored": []}`, "ignored"},
		{`{"ignore": ".git"}`, "ignore"},
		{`{"hash": true, "hash_whole": "1GiB", "hash_rate": "8MiB"}`, ""},
		{`{"hash": "yes"}`, "hash"},
		{`{"hash_whole": "large"}`, `"large"`},
		{`{"hash_rate": "-1"}`, `"-1"`},
		{`{"hash_rate": "16EiB"}`, `"16EiB"`},
	} {
		_, err := configure(test.config)
		switch {
		case test.wrong == "" && err != nil:
			t.Errorf("%s: %v", test.config, err)
		case test.wrong != "" && (sdk.CodeOf(err) != sdk.CodeInvalid || !strings.Contains(err.Error(), test.wrong)):
			t.Errorf("%s: %v, want it invalid because of %s", test.config, err, test.wrong)
		}
	}
	s, err := configure(`{"ignore": [".git"], "rescan": "5m"}`)
	if err != nil {
		t.Fatal(err)
	}
	if o := s.options(); o.Rescan != 5*time.Minute || len(o.Ignore) != 1 || o.Hash || o.HashWhole != 64<<20 {
		t.Errorf("options %+v", o)
	}
	s, err = configure(`{"hash": true, "hash_whole": "1MiB", "hash_rate": "0"}`)
	if o := s.options(); err != nil || !o.Hash || o.HashWhole != 1<<20 || o.HashRate >= 0 {
		t.Errorf("options %+v, %v", o, err)
	}
}
