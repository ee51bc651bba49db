package main_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/starling-sync/starling/host/clustertest"
)

// outside makes a module of its own for the source of a plugin, as an author has it, and returns its folder.
func outside(t *testing.T, plugin string) string {
	t.Helper()
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	read := func(path string) string {
		text, err := os.ReadFile(filepath.Join(root, path))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	mod := strings.Replace(read("go.mod"), "module github.com/starling-sync/starling", "module example.org/plugin", 1)
	mod += fmt.Sprintf("\nrequire github.com/starling-sync/starling v0.0.0\n\nreplace github.com/starling-sync/starling => %s\n", root)
	for name, text := range map[string]string{"go.mod": mod, "go.sum": read("go.sum"), "main.go": read(filepath.Join(plugin, "main.go"))} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// printed is what a process has printed so far.
type printed struct {
	mu   sync.Mutex
	text strings.Builder
}

func (p *printed) read(r io.Reader) {
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		p.mu.Lock()
		p.text.WriteString(lines.Text() + "\n")
		p.mu.Unlock()
	}
}

func (p *printed) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text.String()
}

// TestDev edits a plugin's source while two devices run it.
func TestDev(t *testing.T) {
	t.Parallel()
	path := mustBuild(t)
	dir := outside(t, "plugins/tag")
	cmd := exec.Command(path, "dev", dir) //nolint:gosec // our own binary
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := &printed{}
	var reading sync.WaitGroup
	reading.Go(func() { said.read(out) })
	ended := sync.OnceFunc(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		reading.Wait()
		if err := cmd.Wait(); err != nil {
			t.Errorf("it ended with %v\n%s", err, said)
		}
	})
	defer ended()
	wait := func(what string, times int) {
		t.Helper()
		clustertest.Eventually(t, what, func() error {
			if strings.Count(said.String(), what) < times {
				return errors.New(said.String())
			}
			return nil
		})
	}
	wait("it is built and swapped in", 1)
	config := regexp.MustCompile(`/\S*alice/config.hcl`).FindString(said.String())
	put := func(record string) string {
		out, _ := exec.Command(path, "--config", config, "put", "tag", record).CombinedOutput() //nolint:gosec // our own binary
		return string(out)
	}
	put(`{"name":"one"}`)
	wait(`from alice   {"color":null,"description":null,"name":"one"`, 1)
	change := func(oldAndNow ...string) { // at one stroke
		t.Helper()
		source := filepath.Join(dir, "main.go")
		text, err := os.ReadFile(source)
		if err != nil || !strings.Contains(string(text), oldAndNow[0]) {
			t.Fatal(err)
		}
		if err := os.WriteFile(source, []byte(strings.NewReplacer(oldAndNow...).Replace(string(text))), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	change("func main() {", "func main() }")
	wait("it does not build", 1)
	change("func main() }", "func main() {")
	wait("it is the build that they run", 1)
	for name, text := range map[string]string{"dev.log": "no source\n", "noise.go": "package main\n\nfunc init() { println(\"noise of mine\") }\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	wait("runs it", 2)
	wait("tag: noise of mine", 2)
	change("a tag needs a name that is not blank", "a tag without a name")
	wait("runs it", 4)
	if out := put(`{"name":" "}`); !strings.Contains(out, "a tag without a name") {
		t.Errorf("the change is not in use: %s", out)
	}
	const field, version, parent = "	Extra string `starling:\"extra\"`\n", `Name: "tag", Version: `, "	Parent "
	change(parent, field+parent, version+"1", version+"2")
	wait("runs it", 6)
	put(`{"name":"two"}`)
	wait(`"extra":null,"name":"two"`, 2)
	if strings.Contains(said.String(), `"extra":null,"name":"one"`) {
		t.Errorf("a record that only the schema changed is shown as changed:\n%s", said)
	}
	change(field, "", version+"2", version+"1")
	wait("start dev anew", 1)
	ended()
	if built := strings.Count("\n"+said.String(), "\nbuilt "); built != 6 {
		t.Errorf("%d builds, want one for each change that compiles:\n%s", built, said)
	}
	if _, err := os.Stat(config); err == nil {
		t.Errorf("%s is left", config)
	}
}
