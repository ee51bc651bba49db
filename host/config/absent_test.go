package config

import (
	"strings"
	"testing"
)

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
