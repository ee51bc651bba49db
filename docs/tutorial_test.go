package docs_test

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/starling-sync/starling/host/clustertest"
)

// TestTutorials runs the pages for plugin authors literally: every command in a block of shell, in order, in one folder. A
// comment before a block says what else there is to it:
//
//	<!-- test: at most N commands -->               the next block has no more lines than that
//	<!-- test: insert into FILE after the line with "TEXT" -->
//	<!-- test: replace in FILE: TEXT -->            what the next block of Go is for
//	<!-- test: fails with: TEXT -->                 the next block of shell fails and says so
func TestTutorials(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and runs real processes: left out by -short")
	}
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip("the pages' commands are for bash, which is not here")
	}
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	// As bin/ of a checkout, where a starling that was built there finds what plugins build against.
	if err := os.MkdirAll(filepath.Join(root, ".cache"), 0o750); err != nil {
		t.Fatal(err)
	}
	bin, err := os.MkdirTemp(filepath.Join(root, ".cache"), "tutorial-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(bin) })
	if _, err := clustertest.Binaries(bin); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	t.Run("under a debugger", func(t *testing.T) { underDebugger(t, &reader{bash: bash, dir: t.TempDir()}) })
	for _, page := range []string{"write-a-model.md", "write-a-transport.md"} {
		t.Run(page, func(t *testing.T) {
			text, err := os.ReadFile(page)
			if err != nil {
				t.Fatal(err)
			}
			r := &reader{bash: bash, dir: t.TempDir()}
			for _, b := range blocks(string(text)) {
				r.block(t, b)
			}
			if r.ran < 3 {
				t.Errorf("only %d blocks of shell were found", r.ran)
			}
		})
	}
}

// underDebugger does with a real dlv what the page about models says: a write stops at a breakpoint in the plugin, and is answered
// once the debugger has let it go on.
func underDebugger(t *testing.T, r *reader) {
	if runtime.GOOS == "windows" {
		t.Skip("on Windows there is no -debug")
	}
	if _, err := exec.LookPath("dlv"); err != nil {
		t.Skip("dlv is not on this machine: go install github.com/go-delve/delve/cmd/dlv@latest")
	}
	page, err := os.ReadFile("write-a-model.md")
	if err != nil {
		t.Fatal(err)
	}
	var typed []string
	for _, line := range regexp.MustCompile(`(?m)^    \(dlv\) (.*)$`).FindAllStringSubmatch(string(page), -1) {
		typed = append(typed, line[1])
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	// What it says of a breakpoint is read off its output; it reads what is typed only while the plugin is stopped, or gone.
	if out, err := r.run(t, `
		starling plugin new model invoice
		cd invoice && go build -o invoice .
		starling init alice --listen `+address+`
		printf '\nmodel "invoice" {\n  path = "../invoice"\n}\n' >> alice/config.hcl
		mkfifo typed
		dlv debug . --allow-non-terminal-interactive=true -- -debug < typed > dlv.log 2>&1 & debugger=$!
		starling run --config alice/config.hcl 2> log & host=$!
		exec 3> typed
		end() {
			cat dlv.log log
			kill -9 $(grep -o '"pid":[0-9]*' starling-debug.json | cut -d: -f2) || true
			echo exit >&3
			kill $host || true
			wait
		}
		trap end EXIT
		alive() { kill -0 $debugger && kill -0 $host && sleep 0.2; }

		printf '%s\n' `+"'"+strings.Join(typed, "' '")+"'"+` >&3
		until grep "waiting for a host" dlv.log; do alive || exit; done
		until starling --config alice/config.hcl status; do alive || exit; done
		sed -i.bak 's|^  path = "../invoice"|&\n  attach = "../starling-debug.json"|' alice/config.hcl
		starling --config alice/config.hcl reload
		until starling --config alice/config.hcl plugin list | grep "debugging: it is under a debugger"; do alive || exit; done
		starling --config alice/config.hcl put invoice '{"name":"asked at a breakpoint"}' > put.log 2>&1 & put=$!
		until grep "hits goroutine" dlv.log; do alive || exit; done
		until grep "is waited for as long as that is stopped" put.log; do alive || exit; done
		printf '%s\n' "print record.Name" continue >&3
		wait $put
		grep '"asked at a breakpoint"' dlv.log
		starling --config alice/config.hcl list invoice | grep "asked at a breakpoint"`); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// block is a fenced block of a page, and the comment before it.
type block struct{ language, text, comment string }

func blocks(page string) []block {
	fence := regexp.MustCompile("(?ms)(?:^<!-- test: ([^\n]*) -->\n)?^```(\\w+)\n(.*?)^```$")
	var out []block
	for _, m := range fence.FindAllStringSubmatch(page, -1) {
		out = append(out, block{language: m[2], text: m[3], comment: m[1]})
	}
	return out
}

// reader is somebody who does what a page says.
type reader struct {
	bash, dir string // dir is where the last block left them
	ran       int    // blocks of shell
}

func (r *reader) block(t *testing.T, b block) {
	t.Helper()
	want := strings.TrimSpace(strings.TrimPrefix(b.comment, "fails with:"))
	fails := strings.HasPrefix(b.comment, "fails with:")
	switch {
	case b.language == "sh":
		if most, ok := strings.CutPrefix(b.comment, "at most "); ok {
			n, _ := strconv.Atoi(strings.TrimSuffix(most, " commands"))
			if lines := strings.Count(b.text, "\n"); n == 0 || lines > n {
				t.Errorf("%d commands, at most %d were promised:\n%s", lines, n, b.text)
			}
		}
		began := time.Now()
		out, err := r.run(t, b.text)
		t.Logf("%.1f s for %d lines", time.Since(began).Seconds(), strings.Count(b.text, "\n"))
		if err == nil == fails || !strings.Contains(out, want) && fails {
			t.Fatalf("%v; want it to fail: %v %q\n%s\n%s", err, fails, want, b.text, out)
		}
	case strings.HasPrefix(b.comment, "insert into "):
		var file, line string
		if _, err := fmt.Sscanf(b.comment, "insert into %s after the line with %q", &file, &line); err != nil {
			t.Fatalf("%s: %v", b.comment, err)
		}
		at := regexp.MustCompile("(?m)^.*" + regexp.QuoteMeta(line) + ".*\n")
		r.edit(t, file, func(text string) string {
			return replaceOnce(at, text, func(found string) string { return found + b.text })
		})
	case strings.HasPrefix(b.comment, "replace in "):
		file, old, _ := strings.Cut(strings.TrimPrefix(b.comment, "replace in "), ": ")
		at := regexp.MustCompile(regexp.QuoteMeta(old))
		r.edit(t, file, func(text string) string {
			return replaceOnce(at, text, func(string) string { return strings.TrimSpace(b.text) })
		})
	}
}

func replaceOnce(at *regexp.Regexp, text string, by func(string) string) string {
	where := at.FindStringIndex(text)
	if where == nil {
		return text
	}
	return text[:where[0]] + by(text[where[0]:where[1]]) + text[where[1]:]
}

func (r *reader) edit(t *testing.T, file string, change func(string) string) {
	t.Helper()
	path := filepath.Join(r.dir, file)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	changed := change(string(text))
	if changed == string(text) {
		t.Fatalf("the page changes nothing in %s", file)
	}
	if err := os.WriteFile(path, []byte(changed), 0o600); err != nil {
		t.Fatal(err)
	}
}

// run runs the lines of a block, stops at the first that fails, and goes on from the folder where they end.
func (r *reader) run(t *testing.T, script string) (output string, err error) {
	t.Helper()
	r.ran++
	end := filepath.Join(t.TempDir(), "end")
	cmd := exec.CommandContext(t.Context(), r.bash, "-euo", "pipefail", "-c", script+"\npwd > "+end) //nolint:gosec // our own pages
	cmd.Dir = r.dir
	cmd.Env = append(os.Environ(), "GOPROXY=off") // everything that a plugin needs built this test too
	cmd.WaitDelay = 10 * time.Second
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Run()
	if where, readErr := os.ReadFile(end); readErr == nil {
		r.dir = strings.TrimSpace(string(where))
	}
	return out.String(), err
}
