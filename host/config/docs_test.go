package config

import (
	"bytes"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// TestReference holds docs/configuration.md to the code: each setting has one row, with the default that takes effect.
func TestReference(t *testing.T) {
	page, err := os.ReadFile("../../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]string{} // setting -> default
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z0-9_.]+)` \\|[^|]*\\| ([^|]*) \\|[^|]*\\| ([^|]*) \\|$").FindAllStringSubmatch(string(page), -1) {
		if _, twice := rows[row[1]]; twice {
			t.Errorf("%s has two rows", row[1])
		}
		rows[row[1]] = row[2]
	}
	defaults := defaultsOf(t)
	known := []string{"plugin_dir"}
	retention, limits := syncShapes()
	retention.name, limits.name = "sync.retention", "sync.limits"
	for _, s := range append(shapes(), retention, limits) {
		if !strings.Contains(string(page), "\n| `"+s.name+"` |") {
			t.Errorf("the block %s has no row", s.name)
		}
		for _, argument := range s.arguments {
			known = append(known, s.name+"."+argument)
		}
	}
	for _, setting := range known {
		given, ok := rows[setting]
		if !ok {
			t.Errorf("%s has no row", setting)
		}
		if want, ok := defaults[setting]; ok && given != "`"+want+"`" {
			t.Errorf("%s: the page says %s, and %s takes effect", setting, given, want)
		}
	}
	for setting := range rows {
		if !slices.Contains(known, setting) {
			t.Errorf("there is no setting %s", setting)
		}
	}
	if len(defaults) < 30 {
		t.Errorf("only %d defaults were compared", len(defaults))
	}
}

// defaultsOf returns what Show writes for the blocks that a minimal file leaves out or empty, by setting.
func defaultsOf(t *testing.T) map[string]string {
	t.Helper()
	c, err := parse([]Source{{"config.hcl", []byte(minimal)}}, testEnvironment())
	if err != nil {
		t.Fatal(err)
	}
	var shown bytes.Buffer
	if err := Show(&shown, c, nil); err != nil {
		t.Fatal(err)
	}
	file, diags := hclsyntax.ParseConfig(shown.Bytes(), "shown.hcl", hcl.InitialPos)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	defaults := map[string]string{}
	var walk func(prefix string, body *hclsyntax.Body)
	walk = func(prefix string, body *hclsyntax.Body) {
		for name, a := range body.Attributes {
			defaults[prefix+name] = string(a.Expr.Range().SliceBytes(shown.Bytes()))
		}
		for _, b := range body.Blocks {
			walk(prefix+b.Type+".", b.Body)
		}
	}
	for _, b := range file.Body.(*hclsyntax.Body).Blocks { //nolint:forcetypeassert // that is what the parser returns
		if b.Type == "sync" || b.Type == "log" || b.Type == "store" {
			walk(b.Type+".", b.Body)
		}
	}
	return defaults
}
