package main

import (
	"strings"
	"testing"

	"github.com/starling-sync/starling/sdk"
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
