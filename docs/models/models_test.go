// Package models_test holds the pages on models to the code: their tables to what the plugins say of themselves, and their
// examples to what two devices do.
package models_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/starling-sync/starling/host/clustertest"
	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/rpc/rpctest"
)

var update = flag.Bool("update", false, "write the tables and the examples' output into the pages")

var buildDir string

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "starling-docs")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		buildDir = dir
		return m.Run()
	}())
}

var binary = sync.OnceValues(func() (string, error) { return clustertest.Binaries(buildDir) })

// served is a model and the plugin that serves it.
type served struct {
	sdk.Description
	plugin string
}

// all returns every model that a plugin of this repository serves, by name.
func all(t *testing.T) []served {
	t.Helper()
	if _, err := binary(); err != nil {
		t.Fatal(err)
	}
	plugins, err := os.ReadDir(filepath.Join("..", "..", "plugins"))
	if err != nil {
		t.Fatal(err)
	}
	var models []served
	for _, plugin := range plugins {
		if !plugin.IsDir() || strings.HasPrefix(plugin.Name(), "transport-") {
			continue
		}
		for _, server := range rpctest.Models(t, filepath.Join(buildDir, "plugins", plugin.Name())) {
			desc, err := server.Describe(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			models = append(models, served{desc, plugin.Name()})
		}
	}
	slices.SortFunc(models, func(a, b served) int { return strings.Compare(string(a.Model), string(b.Model)) })
	return models
}

const (
	begin = "<!-- from the code: go test ./docs/models -update -->\n"
	end   = "<!-- end -->\n"
)

// check compares what stands in the page between begin and end with want.
func check(t *testing.T, page, want string) {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Errorf("there is no page %s: %v", page, err)
		return
	}
	before, rest, found := strings.Cut(strings.ReplaceAll(string(text), "\r\n", "\n"), begin)
	got, after, closed := strings.Cut(rest, end)
	if !found || !closed {
		t.Errorf("%s lacks %s and %s", page, begin, end)
		return
	}
	if *update {
		if err := os.WriteFile(page, []byte(before+begin+want+end+after), 0o644); err != nil { //nolint:gosec // a page
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s is not what the plugin says of itself (-want +got):\n%s", page, diff)
	}
}

func TestPages(t *testing.T) {
	models := all(t)
	var index strings.Builder
	index.WriteString("| model | plugin | ownership | what |\n|---|---|---|---|\n")
	for _, m := range models {
		fmt.Fprintf(&index, "| [%s](%s.md) | %s | %s | %s |\n", m.Model, m.Model, m.plugin, m.Ownership, m.Doc)
		check(t, string(m.Model)+".md", table(&m))
	}
	check(t, "README.md", index.String())
	pages, err := filepath.Glob("*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range pages {
		name := strings.TrimSuffix(page, ".md")
		if name != "README" && !slices.ContainsFunc(models, func(m served) bool { return string(m.Model) == name }) {
			t.Errorf("%s is of a model that no plugin serves", page)
		}
	}
}

// table is what a page says of a model's schema.
func table(m *served) string {
	var b strings.Builder
	var keys []string
	for _, f := range m.Fields {
		if f.Key {
			keys = append(keys, f.Name)
		}
	}
	ownership := map[sdk.Ownership]string{
		sdk.DeviceOwned: "device-owned", sdk.SharedByAll: "shared", sdk.HybridOwned: "hybrid",
	}[m.Ownership]
	fmt.Fprintf(&b, "Version %d · plugin `%s` · %s", m.Version, m.plugin, ownership)
	if m.Source {
		b.WriteString(" · a source")
	}
	if m.WrittenBy != "" {
		fmt.Fprintf(&b, " · written by %s", m.WrittenBy)
	}
	if len(keys) > 0 {
		fmt.Fprintf(&b, " · natural key: %s", strings.Join(keys, ", "))
	}
	b.WriteString("\n\n| field | type | merge | refers to | | |\n|---|---|---|---|---|---|\n")
	for _, f := range m.Fields {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s |\n", f.Name, f.Type, merge(m, &f), reference(&f), options(&f), strings.ReplaceAll(f.Doc, "|", `\|`))
	}
	return b.String()
}

func merge(m *served, f *sdk.Field) string {
	switch {
	case m.Ownership == sdk.DeviceOwned || f.Key:
		return ""
	case f.Merge == "":
		return string(sdk.LWW)
	}
	return string(f.Merge)
}

func reference(f *sdk.Field) string {
	switch {
	case f.Type != sdk.UUID:
		return ""
	case f.Ref == "":
		return "any record"
	case f.Weak:
		return string(f.Ref) + ", weak"
	}
	return string(f.Ref)
}

func options(f *sdk.Field) string {
	var all []string
	for _, o := range []struct {
		set  bool
		name string
	}{{f.Key, "key"}, {f.Required && !f.Key, "required"}, {f.Index, "index"}} {
		if o.set {
			all = append(all, o.name)
		}
	}
	return strings.Join(all, ", ")
}

// TestFieldsAreExplained wants a line for people of each model and field.
func TestFieldsAreExplained(t *testing.T) {
	for _, m := range all(t) {
		if m.Doc == "" {
			t.Errorf("%s does not say what it is", m.Model)
		}
		for _, f := range m.Fields {
			if f.Doc == "" {
				t.Errorf("%s.%s has no doc tag", m.Model, f.Name)
			}
		}
	}
}

// TestExamples runs the commands of each page, those after "$ " in its indented blocks, on two devices of a library, alice
// and bob, who wait for one another before each command. What a page shows of their output must be what came, but for
// spaces and for what differs each time: ids, times, sizes.
func TestExamples(t *testing.T) {
	if testing.Short() {
		t.Skip("runs real processes: left out by -short")
	}
	if runtime.GOOS != "linux" {
		t.Skip("the examples use tools as Linux has them")
	}
	needTools(t, "bash", "sqlite3")
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	pages, err := filepath.Glob("*.md")
	if err != nil {
		t.Fatal(err)
	}
	pages = append(pages, apiPage)
	for _, page := range pages {
		t.Run(strings.TrimSuffix(filepath.Base(page), ".md"), func(t *testing.T) {
			t.Parallel()
			if page == apiPage {
				needTools(t, "curl", "jq", "python3", "basenc", "go")
			}
			examples(t, path, page)
		})
	}
}

// apiPage is the page on the API, of whose examples the same is true. A file that it shows is there: a block whose first line is a
// comment with its name.
var apiPage = filepath.Join("..", "api.md")

func needTools(t *testing.T, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("the examples use %s, which is not here: %v", tool, err)
		}
	}
}

// TestClient wants what the page on the API shows of the client in Go to be what is in examples, where it is run.
func TestClient(t *testing.T) {
	page, err := os.ReadFile(apiPage)
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile(filepath.Join("..", "..", "examples", "client", "main.go"))
	if err != nil {
		t.Fatal(err)
	}
	_, run, found := strings.Cut(string(source), "\nfunc run(")
	if !found || !strings.Contains(string(page), "```go\nfunc run("+run+"```\n") {
		t.Errorf("%s does not show func run of examples/client as it is", apiPage)
	}
}

func examples(t *testing.T, path, page string) {
	t.Helper()
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), "\n    $ ") {
		t.Skip("it has no example")
	}
	w := newWorld(t, path)
	for _, shown := range regexp.MustCompile("(?ms)^```python\n# (\\S+)\n.*?^```$").FindAllStringSubmatch(string(text), -1) {
		program := strings.TrimSuffix(strings.TrimPrefix(shown[0], "```python\n"), "```")
		if err := os.WriteFile(filepath.Join(w.dir, shown[1]), []byte(program), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var got strings.Builder
	skipping := false // the output of the command before
	for line := range strings.Lines(strings.ReplaceAll(string(text), "\r\n", "\n")) {
		command, isCommand := strings.CutPrefix(line, "    $ ")
		if skipping && !isCommand && strings.HasPrefix(line, "    ") {
			continue
		}
		skipping = isCommand
		got.WriteString(line)
		if isCommand {
			for out := range strings.Lines(w.run(strings.TrimSuffix(command, "\n"))) {
				got.WriteString("    " + out)
			}
		}
	}
	if *update {
		if err := os.WriteFile(page, []byte(got.String()), 0o644); err != nil { //nolint:gosec // a page
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(neutral(string(text)), neutral(got.String())); diff != "" {
		t.Errorf("%s (go test ./docs/models -update writes it; -page +run):\n%s", page, diff)
	}
}

var varying = []struct {
	pattern *regexp.Regexp
	with    string
}{
	{regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`), "ID"},
	{regexp.MustCompile(`\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[.\d]*Z?`), "TIME"},
	{regexp.MustCompile(`\b\d+\b`), "N"},
	{regexp.MustCompile(`127\.0\.0\.1:\d+`), "ADDRESS"},
	{regexp.MustCompile(`[ \t]+`), " "},
}

func neutral(text string) string {
	for _, v := range varying {
		text = v.pattern.ReplaceAllString(text, v.with)
	}
	return text
}

// world is two devices that know one another, and a shell in a folder beside them.
type world struct {
	*testing.T
	alice, bob *clustertest.Device
	in         io.Writer
	out        *bufio.Reader
	dir        string // of the shell; pages call it home
}

const home = "/home/alice"

func newWorld(t *testing.T, path string) *world {
	t.Helper()
	w := &world{T: t, alice: clustertest.NewDevice(t, path, "alice", "--library", "home"), bob: clustertest.NewDevice(t, path, "bob", "--join")}
	for _, d := range []*clustertest.Device{w.alice, w.bob} {
		config, err := os.ReadFile(d.Config())
		if err != nil {
			t.Fatal(err)
		}
		config = bytes.Replace(config, []byte("ignore = "), []byte("hash = true\n    ignore = "), 1)
		if err := os.WriteFile(d.Config(), config, 0o600); err != nil {
			t.Fatal(err)
		}
		d.Start(t)
	}
	clustertest.Pair(t, w.alice, w.bob)
	shell := exec.CommandContext(t.Context(), "bash", "--norc", "--noprofile")
	var err error
	if w.dir, err = filepath.EvalSymlinks(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	shell.Dir = w.dir
	if w.in, err = shell.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := shell.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	shell.Stderr = shell.Stdout
	w.out = bufio.NewReader(out)
	if err := shell.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		fmt.Fprintln(w.in, "exit")
		_ = shell.Wait()
	})
	for _, d := range []*clustertest.Device{w.alice, w.bob} {
		w.say("%s() { '%s' --config '%s' \"$@\"; }", d.Name, d.Binary, d.Config())
		w.say("ln -s '%s' %s.db", filepath.Join(d.Data(), "starling.db"), d.Name)
		w.say("mkdir %s && ln -s '%s' %s/data", d.Name, d.Data(), d.Name)
	}
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	w.say("STARLING='%s'", root)
	w.say("mkdir -p pictures/summer && echo sea >pictures/summer/sea.jpg && echo sun >pictures/summer/sun.jpg && echo town >pictures/town.jpg")
	w.say("head -c 3000000 /dev/zero >pictures/film.mp4 && find pictures -exec touch -d 2026-07-01T12:00:00Z {} +")
	return w
}

// say runs a command of the scene, which has to work and say nothing.
func (w *world) say(format string, args ...any) {
	w.Helper()
	if out := w.shell(fmt.Sprintf(format, args...)); out != "" {
		w.Fatal(out)
	}
}

// run runs a command of a page, when both devices have the same, and what files hold is known.
func (w *world) run(command string) string {
	w.Helper()
	clustertest.WaitEqual(w, w.alice, w.bob)
	clustertest.Eventually(w, "the catalogue, and what files hold", func() error {
		var status struct {
			Sources []struct {
				Progress []struct {
					Key         string
					Done, Total int64
				}
			}
		}
		if err := json.Unmarshal([]byte(w.alice.Run(w, "status", "--json")), &status); err != nil {
			return err
		}
		read := 0
		for _, source := range status.Sources {
			for _, p := range source.Progress {
				if p.Total > 0 && p.Done == p.Total && !strings.HasPrefix(p.Key, "hashing ") {
					read++
				}
			}
		}
		if locations := len(w.alice.List(w, "location")); read < locations {
			return fmt.Errorf("%d of %d locations are read", read, locations)
		}
		for _, e := range w.alice.List(w, "entry") {
			if e["kind"] == "file" && e["content_hash"] == nil {
				return fmt.Errorf("%v is not known", e["name"])
			}
		}
		return nil
	})
	clustertest.WaitEqual(w, w.alice, w.bob)
	return strings.ReplaceAll(w.shell(command), w.dir, home)
}

func (w *world) shell(command string) string {
	w.Helper()
	const mark = "@@ done "
	fmt.Fprintf(w.in, "%s\necho '%s'$?\n", command, mark)
	var out strings.Builder
	for {
		line, err := w.out.ReadString('\n')
		if err != nil {
			w.Fatalf("$ %s\n%s\n%v", command, out.String(), err)
		}
		if status, isMark := strings.CutPrefix(line, mark); isMark {
			if status != "0\n" {
				w.Errorf("$ %s\n%sstatus %s", command, out.String(), status)
			}
			return out.String()
		}
		out.WriteString(line)
	}
}
