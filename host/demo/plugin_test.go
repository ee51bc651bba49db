package demo

import (
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclwrite"

	"github.com/starling-sync/starling/sdk"
)

// TestPlugin_configure puts a plugin in the place of one whose block stands on one line, on several or nowhere.
func TestPlugin_configure(t *testing.T) {
	for _, text := range []string{"model \"tag\" {} # tags\nmodel \"a\" {}\n", "model \"tag\" {\n}\n", "model \"tag\" {\n  path = \"x\"\n}\n", "model \"a\" {}\n"} {
		file, mistakes := hclwrite.ParseConfig([]byte(text), "c.hcl", hcl.InitialPos)
		if mistakes.HasErrors() {
			t.Fatal(mistakes)
		}
		p := plugin{path: "/p", models: []sdk.Description{{Model: "tag"}}}
		p.configure(file.Body())
		got := string(file.Bytes())
		again, mistakes := hclwrite.ParseConfig([]byte(got), "c.hcl", hcl.InitialPos)
		if mistakes.HasErrors() {
			t.Fatalf("%q became %q: %v", text, got, mistakes)
		}
		count := 0
		for _, b := range again.Body().Blocks() {
			if b.Labels()[0] == "tag" && b.Body().GetAttribute("path") != nil {
				count++
			}
		}
		if count != 1 {
			t.Errorf("%q became %q", text, got)
		}
	}
}
