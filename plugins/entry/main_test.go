package main

import (
	"testing"

	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/rpc/rpctest"
	"github.com/starling-sync/starling/sdk/sdktest"
)

// accepted are values that validate takes.
func accepted() []sdktest.ModelOption {
	return []sdktest.ModelOption{
		sdktest.FieldValues("name", "a", "photo.jpg", "gr\u00fc\u00dfe", `\xff`, "new\nline"),
		sdktest.FieldValues("kind", "file", "directory", "symlink", "other"),
		sdktest.FieldValues("size", int64(0), int64(1), int64(1)<<60),
		sdktest.FieldValues("content_hash", "sha256:00ff", "sampled-sha256:0123456789abcdef"),
		sdktest.FieldValues("permissions", int64(0), int64(0o644), int64(0o7777)),
	}
}

func TestEntry(t *testing.T) { sdktest.Model(t, model(), accepted()...) }

// TestBinary runs the laws against the plugin as a process of its own.
func TestBinary(t *testing.T) {
	for _, server := range rpctest.Models(t, rpctest.Build(t, ".")) {
		sdktest.Model(t, server, accepted()...)
	}
}

func TestValidate(t *testing.T) {
	valid := Entry{Name: "a", Kind: "file", Size: 1, Permissions: 0o644}
	valid.ID = sdk.NewRecordID()
	cases := map[string]struct {
		change func(*Entry)
		want   sdk.Code
	}{
		"valid":            {func(*Entry) {}, ""},
		"odd name":         {func(e *Entry) { e.Name = `..\x2f` }, ""},
		"no name":          {func(e *Entry) { e.Name = "" }, sdk.CodeInvalid},
		"this folder":      {func(e *Entry) { e.Name = "." }, sdk.CodeInvalid},
		"folder above":     {func(e *Entry) { e.Name = ".." }, sdk.CodeInvalid},
		"a path":           {func(e *Entry) { e.Name = "a/b" }, sdk.CodeInvalid},
		"unknown kind":     {func(e *Entry) { e.Kind = "folder" }, sdk.CodeInvalid},
		"negative size":    {func(e *Entry) { e.Size = -1 }, sdk.CodeInvalid},
		"many permissions": {func(e *Entry) { e.Permissions = 0o10000 }, sdk.CodeInvalid},
		"a hash":           {func(e *Entry) { e.ContentHash = new("sampled-sha256:00ff") }, ""},
		"a bare hash":      {func(e *Entry) { e.ContentHash = new("00ff") }, sdk.CodeInvalid},
		"an empty hash":    {func(e *Entry) { e.ContentHash = new("sha256:") }, sdk.CodeInvalid},
		"half a byte":      {func(e *Entry) { e.ContentHash = new("sha256:0ff") }, sdk.CodeInvalid},
		"capitals":         {func(e *Entry) { e.ContentHash = new("sha256:FF") }, sdk.CodeInvalid},
		"an odd method":    {func(e *Entry) { e.ContentHash = new("SHA 256:ff") }, sdk.CodeInvalid},
		"in itself":        {func(e *Entry) { e.Parent = sdk.Ref(e.ID) }, sdk.CodeInvalid},
	}
	for name, test := range cases {
		t.Run(name, func(t *testing.T) {
			e := valid
			test.change(&e)
			if got := sdk.CodeOf(validate(&e)); got != test.want {
				t.Errorf("code %q, want %q", got, test.want)
			}
		})
	}
}
