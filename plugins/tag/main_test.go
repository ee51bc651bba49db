package main

import (
	"strings"
	"testing"

	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/rpc/rpctest"
	"github.com/starling-sync/starling/sdk/sdktest"
)

func TestTag(t *testing.T)     { sdktest.Model(t, tags()) }
func TestTagging(t *testing.T) { sdktest.Model(t, taggings()) }

func TestValidName(t *testing.T) {
	cases := []struct {
		name string
		want sdk.Code
	}{
		{"work", ""},
		{" x ", ""},
		{strings.Repeat("n", 256), ""},
		{"", sdk.CodeInvalid},
		{" \t\n", sdk.CodeInvalid},
		{"\u2003", sdk.CodeInvalid},
		{strings.Repeat("n", 257), sdk.CodeTooLarge},
	}
	for _, c := range cases {
		if got := sdk.CodeOf(validName(&Tag{Name: c.name})); got != c.want {
			t.Errorf("name %.10q of %d bytes: want code %q, got %q", c.name, len(c.name), c.want, got)
		}
	}
}

// TestBinary runs the laws against the plugin as a process of its own.
func TestBinary(t *testing.T) {
	for _, server := range rpctest.Models(t, rpctest.Build(t, ".")) {
		desc, err := server.Describe(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		t.Run(string(desc.Model), func(t *testing.T) { sdktest.Model(t, server) })
	}
}
