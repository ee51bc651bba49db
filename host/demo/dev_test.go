package demo

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestBuildable refuses folders that no edit of their files makes a plugin, and waits for one whose file does not compile yet.
func TestBuildable(t *testing.T) {
	module := "module example.org/plugin\n\ngo 1.26\n"
	for name, c := range map[string]struct {
		files map[string]string
		want  string // empty: it is tried
	}{
		"no module":     {map[string]string{"main.go": "package main\n"}, "is in no Go module"},
		"nothing":       {map[string]string{"go.mod": module}, "no Go files"},
		"a library":     {map[string]string{"go.mod": module, "lib.go": "package lib\n"}, "package lib, which is no program"},
		"a program":     {map[string]string{"go.mod": module, "main.go": "package main\n\nfunc main() {}\n"}, ""},
		"being written": {map[string]string{"go.mod": module, "main.go": "package main\n\nfunc main() {\n"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for file, text := range c.files {
				if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			err := buildable(t.Context(), dir)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v; want %q", err, c.want)
			}
		})
	}
}
