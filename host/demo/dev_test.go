package demo

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/fsnotify/fsnotify"
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

// TestOfPlugin wants shown what a plugin says, with the lines that belong to it, and what the host says goes wrong with it.
func TestOfPlugin(t *testing.T) {
	log := `2026-01-02T03:04:05.000Z [INFO]  starting: device=alice
2026-01-02T03:04:05.000Z [INFO]  invoice: hello: n=1
2026-01-02T03:04:05.000Z [ERROR] invoice.border: panic: stack=
  | goroutine 1
2026-01-02T03:04:05.000Z [INFO]  invoices: another
2026-01-02T03:04:05.000Z [DEBUG] plugin is up: plugin=invoice pid=1
2026-01-02T03:04:05.000Z [WARN]  plugin ended; starting it again: plugin=invoice in=1s
2026-01-02T03:04:05.000Z [WARN]  plugin ended; starting it again: plugin=tag in=1s
  | of tag`
	want := []string{"[INFO] invoice: hello: n=1", "[ERROR] invoice.border: panic: stack=", "  | goroutine 1", "[WARN] plugin ended; starting it again: plugin=invoice in=1s"}
	var got []string
	shows := false
	for line := range strings.Lines(log) {
		var shown string
		if shown, shows = ofPlugin(strings.TrimSuffix(line, "\n"), "invoice", shows); shows {
			got = append(got, shown)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestCounts wants a build for what Go reads and what is embedded, and none for what grows beside it.
func TestCounts(t *testing.T) {
	b := bench{embeds: []string{filepath.Join("m", "static")}}
	for name, want := range map[string]bool{
		"m/model.go": true, "m/go.mod": true, "m/static/page.html": true, "m/dev.log": false, "m/model_test.go": false, "m/.model.go": false,
		"m/static/page.html~": false, "m/model": false,
	} {
		if got := b.counts(fsnotify.Event{Name: filepath.FromSlash(name), Op: fsnotify.Write}); got != want {
			t.Errorf("%s: %t, want %t", name, got, want)
		}
	}
}
