package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/rpc/rpctest"
	"github.com/starling-sync/starling/sdk/sdktest"
)

// accepted are values that validate takes.
func accepted() []sdktest.ModelOption {
	return []sdktest.ModelOption{
		sdktest.FieldValues("content_hash", "sha256:00ff", "sha256:01", "sampled-sha256:00ff", "sha256:00ff00"),
		sdktest.FieldValues("rating", int64(0), int64(3), int64(5)),
		sdktest.FieldValues("extra", `{}`, `{"place":"home"}`, `{"a":{"b":[1,null]},"c":"\u00e9"}`),
	}
}

func TestUserMetadata(t *testing.T) { sdktest.Model(t, model(), accepted()...) }

// TestBinary runs the laws against the plugin as a process of its own.
func TestBinary(t *testing.T) {
	servers := rpctest.Models(t, rpctest.Build(t, "."))
	if len(servers) != 1 {
		t.Fatalf("it serves %d models, want one", len(servers))
	}
	sdktest.Model(t, servers[0], accepted()...)
}

func TestValidate(t *testing.T) {
	entry, hash := sdk.Ref{1}, "sha256:00ff"
	rated := func(n int64) *int64 { return &n }
	on := func(hash string) *UserMetadata { return &UserMetadata{Content: &hash} }
	for name, c := range map[string]struct {
		record *UserMetadata
		says   string // in the refusal; none: it is accepted
	}{
		"on an entry":         {&UserMetadata{Entry: entry}, ""},
		"on content":          {on(hash), ""},
		"everything":          {&UserMetadata{Entry: entry, Notes: "n", Favourite: true, Hidden: true, Rating: rated(3), Extra: json.RawMessage(`{"a":1}`)}, ""},
		"on nothing":          {&UserMetadata{Notes: "n"}, "about nothing"},
		"on both":             {&UserMetadata{Entry: entry, Content: &hash}, "one of entry_id and content_hash"},
		"another method":      {on("blake3-2:ab"), ""},
		"empty hash":          {on(""), "METHOD:HEX"},
		"no method":           {on("00ff"), "METHOD:HEX"},
		"empty method":        {on(":00ff"), "METHOD:HEX"},
		"no digits":           {on("sha256:"), "METHOD:HEX"},
		"odd digits":          {on("sha256:00f"), "METHOD:HEX"},
		"upper-case digits":   {on("sha256:00FF"), "METHOD:HEX"},
		"no hexadecimal":      {on("sha256:xy"), "METHOD:HEX"},
		"upper-case method":   {on("SHA256:00ff"), "METHOD:HEX"},
		"spaces":              {on(" sha256:00ff"), "METHOD:HEX"},
		"least rating":        {&UserMetadata{Entry: entry, Rating: rated(0)}, ""},
		"greatest rating":     {&UserMetadata{Entry: entry, Rating: rated(5)}, ""},
		"rating below":        {&UserMetadata{Entry: entry, Rating: rated(-1)}, "rating: -1"},
		"rating above":        {&UserMetadata{Entry: entry, Rating: rated(6)}, "rating: 6"},
		"empty extra":         {&UserMetadata{Entry: entry, Extra: json.RawMessage(` {} `)}, ""},
		"extra is a list":     {&UserMetadata{Entry: entry, Extra: json.RawMessage(`[{}]`)}, "extra: want a JSON object"},
		"extra is a text":     {&UserMetadata{Entry: entry, Extra: json.RawMessage(`"{}"`)}, "extra: want a JSON object"},
		"extra is a number":   {&UserMetadata{Entry: entry, Extra: json.RawMessage(`1`)}, "extra: want a JSON object"},
		"extra is JSON null":  {&UserMetadata{Entry: entry, Extra: json.RawMessage(`null`)}, "extra: want a JSON object"},
		"content, and rating": {&UserMetadata{Content: &hash, Rating: rated(9)}, "rating: 9"},
	} {
		err := validate(c.record)
		switch {
		case c.says == "":
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		case sdk.CodeOf(err) != sdk.CodeInvalid || !strings.Contains(err.Error(), c.says):
			t.Errorf("%s: %v, want a refusal as invalid that says %q", name, err, c.says)
		}
	}
}

// TestOneRecordForEach holds the natural key: it alone says which record it is.
func TestOneRecordForEach(t *testing.T) {
	hash, other := "sha256:00ff", "sha256:01"
	ids := map[sdk.RecordID]string{}
	for _, r := range []struct {
		name string
		kind sdk.Ownership
		UserMetadata
	}{
		{"entry 1", sdk.DeviceOwned, UserMetadata{Entry: sdk.Ref{1}, Notes: "a"}},
		{"entry 1", sdk.DeviceOwned, UserMetadata{Entry: sdk.Ref{1}, Notes: "b"}},
		{"entry 2", sdk.DeviceOwned, UserMetadata{Entry: sdk.Ref{2}}},
		{"content", sdk.SharedByAll, UserMetadata{Content: &hash, Notes: "a"}},
		{"content", sdk.SharedByAll, UserMetadata{Content: &hash, Notes: "b"}},
		{"other content", sdk.SharedByAll, UserMetadata{Content: &other}},
	} {
		packer, err := model().PackerOf(r.kind)
		if err != nil {
			t.Fatal(err)
		}
		packer.Put(&r.UserMetadata)
		if before, seen := ids[r.ID]; seen && before != r.name {
			t.Errorf("%s and %s are both %s", before, r.name, r.ID)
		}
		ids[r.ID] = r.name
	}
	if len(ids) != 4 {
		t.Errorf("%d records of 4 targets: %v", len(ids), ids)
	}
}
