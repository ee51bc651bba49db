package config

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestConfig_Absent looks for binaries that are here, are not, or may be on another machine, and at a folder that this user may
// not look into: one that leads to itself stands for it, since root may look into all others.
func TestConfig_Absent(t *testing.T) {
	dir := t.TempDir()
	loop := filepath.Join(dir, "loop")
	if err := os.Symlink(loop, loop); err != nil {
		t.Skip("no symbolic links here: ", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "note"), nil, 0o700); err != nil { //nolint:gosec // a plugin
		t.Fatal(err)
	}
	const models = `
model "note" {}
model "gone" {}
model "draft" { attach = "./debug.json" }
model "far"     { path = "/opt/nowhere/far" }
model "farther" { path = "/opt/nowhere/farther" }
model "near"    { path = "%[1]s/near" }
model "hidden"  { path = "%[1]s/loop/hidden" }
transport "tcp" "lan" { path = "/opt/nowhere/tcp" }
`
	for pluginDir, want := range map[string]struct{ found, elsewhere string }{
		dir:                         {"gone near", "/opt/nowhere"},
		filepath.Join(dir, "no"):    {"near", filepath.Join(dir, "no") + " /opt/nowhere"},
		loop:                        {"near", "/opt/nowhere"},
		filepath.Join(loop, "deep"): {"near", "/opt/nowhere"},
	} {
		head := fmt.Sprintf("library \"home\" {}\ndevice \"alice\" { data_dir = \"d\" }\nstore \"sqlite\" {}\nplugin_dir = %q\n", pluginDir)
		c, err := Parse(Source{Name: "config.hcl", Content: []byte(head + fmt.Sprintf(models, dir))})
		if err != nil {
			t.Fatal(err)
		}
		found, elsewhere := c.Absent()
		var names []string
		for _, name := range []string{"note", "gone", "draft", "far", "farther", "near", "hidden", "lan"} {
			if _, mistake := found[name]; mistake {
				names = append(names, name)
			}
		}
		wanted := strings.Fields(want.elsewhere)
		slices.Sort(wanted)
		if diff := cmp.Diff([]any{strings.Fields(want.found), wanted}, []any{names, elsewhere}); diff != "" {
			t.Errorf("plugin_dir %s (-want +got):\n%s", pluginDir, diff)
		}
	}
}

// TestOneLine has blocks on the line of the block around them, which HCL can not read: one that there is not is said to be
// that, and none is told to be written as what it can not be.
func TestOneLine(t *testing.T) {
	for line, want := range map[string]string{
		`model "tag" { conf {} }`:                            `4,15-21: unsupported block "conf"; did you mean "config"?`,
		`model "tag" { conf{ a = 1 } }`:                      `unsupported block "conf"; did you mean "config"?`,
		`model "tag" { colours {} }`:                         `unsupported block "colours" in "model"; known here: config`,
		`model "tag" { config { a = 1 } }`:                   `the block "config" can not share a line with the block around it; give it a line of its own, or write config = { ... }`,
		`sync { retention { age = "1d" } }`:                  `the block "retention" can not share a line with the block around it; give it a line of its own`,
		`log { format {} }`:                                  `"format" takes a value; write format = ...`,
		"model \"tag\" {\n  config { a { url = \"x\" } }\n}": `5,12-15: the block "a" can not share a line with the block around it; give it a line of its own, or write a = { ... }`,
	} {
		_, err := Parse(Source{Name: "config.hcl", Content: []byte("library \"home\" {}\ndevice \"alice\" { data_dir = \"d\" }\nstore \"sqlite\" {}\n" + line + "\n")})
		if err == nil || !strings.HasSuffix(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v\nwant %s", line, err, want)
		}
	}
}
