package scaffold_test

import (
	"debug/buildinfo"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/modfile"

	"github.com/starling-sync/starling/host/scaffold"
	"github.com/starling-sync/starling/sdk"
)

// checkout returns the folder of this checkout.
func checkout(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return root
}

// goTool runs the go tool in dir with what this machine has: everything that a new module needs built this test too.
func goTool(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", args...) //nolint:gosec // fixed arguments
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOPROXY=off", "GOWORK=off", "GOFLAGS=-mod=mod")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// TestWrite makes a plugin of each kind and does with it what its author would do first.
func TestWrite(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and tests whole modules: left out by -short")
	}
	for _, plugin := range []scaffold.Plugin{
		{Kind: scaffold.Model, Name: "invoice"},
		{Kind: scaffold.Model, Name: "a_model_whose_name_is_as_long_as_names_can_get_x", Module: "example.org/far/away"},
		{Kind: scaffold.Transport, Name: "pigeon"},
	} {
		t.Run(string(plugin.Kind)+" "+plugin.Name, func(t *testing.T) {
			t.Setenv("GOPROXY", "off")
			dir := filepath.Join(t.TempDir(), "made", plugin.Name)
			plugin.Dir, plugin.SDK = dir, scaffold.SDK{Checkout: checkout(t)}
			note, err := scaffold.Write(t.Context(), plugin)
			if err != nil {
				t.Fatal(err)
			}
			if note != "" {
				t.Errorf("with everything at hand, this is left to do: %s", note)
			}
			if out, err := exec.CommandContext(t.Context(), "gofmt", "-l", dir).CombinedOutput(); err != nil || len(out) > 0 {
				t.Errorf("gofmt would change %s (%v)", out, err)
			}
			goTool(t, dir, "build", "-mod=readonly", "-trimpath", "-ldflags", "-s -w", "-o", plugin.Name, ".")
			wantSmall(t, filepath.Join(dir, plugin.Name))
			goTool(t, dir, "vet", "./...")
			if plugin.Module == "" {
				goTool(t, dir, "test", "./...")
			} else { // the same code under other names: what is in process will do
				goTool(t, dir, "test", "-run", "^(TestModel|TestValidate|TestSettings)$", "./...")
			}
			entries, err := os.ReadDir(filepath.Dir(dir))
			if err != nil || len(entries) != 1 {
				t.Errorf("beside the new folder lies something else: %v %v", entries, err)
			}
			for _, name := range []string{"main.go", "main_test.go", "settings.go", "Taskfile.yml", "README.md", ".gitignore", "go.mod", "go.sum"} {
				if text, err := os.ReadFile(filepath.Join(dir, name)); err != nil {
					t.Error(err)
				} else if strings.Contains(string(text), "<<") {
					t.Errorf("%s still has a mark of the template", name)
				}
			}
		})
	}
}

// What a plugin may cost: modules that its author has to trust, and bytes on every device.
const (
	maxModules = 25
	maxBytes   = 20 << 20
)

func wantSmall(t *testing.T, path string) {
	t.Helper()
	built, err := buildinfo.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(built.Deps) > maxModules || file.Size() > maxBytes {
		t.Errorf("%d modules and %d bytes; at most %d and %d are allowed", len(built.Deps), file.Size(), maxModules, maxBytes)
	}
}

func TestWrite_Refused(t *testing.T) {
	parent := t.TempDir()
	taken := filepath.Join(parent, "taken")
	if err := os.Mkdir(taken, 0o700); err != nil {
		t.Fatal(err)
	}
	sound := scaffold.Plugin{Kind: scaffold.Model, Name: "invoice", Dir: filepath.Join(parent, "new"), SDK: scaffold.SDK{Checkout: checkout(t)}}
	for what, test := range map[string]struct {
		change func(*scaffold.Plugin)
		says   string
	}{
		"taken":         {func(p *scaffold.Plugin) { p.Dir = taken }, "is there already"},
		"upper case":    {func(p *scaffold.Plugin) { p.Name = "Invoice" }, `"Invoice"`},
		"dash":          {func(p *scaffold.Plugin) { p.Name = "in-voice" }, "underscores"},
		"a path":        {func(p *scaffold.Plugin) { p.Name = "../invoice" }, "lower-case"},
		"no name":       {func(p *scaffold.Plugin) { p.Name = "" }, "1 to 48"},
		"bad module":    {func(p *scaffold.Plugin) { p.Module = "not a path" }, "path of a Go module"},
		"no sdk":        {func(p *scaffold.Plugin) { p.SDK = scaffold.SDK{} }, "no version"},
		"no checkout":   {func(p *scaffold.Plugin) { p.SDK.Checkout = parent }, "no go.mod"},
		"a file above":  {func(p *scaffold.Plugin) { p.Dir = filepath.Join(checkout(t), "go.mod", "new") }, "go.mod"},
		"unknown kind":  {func(p *scaffold.Plugin) { p.Kind = "console" }, "console"},
		"no such place": {func(p *scaffold.Plugin) { p.SDK.Checkout = filepath.Join(parent, "absent") }, "absent"},
	} {
		t.Run(what, func(t *testing.T) {
			p := sound
			test.change(&p)
			if _, err := scaffold.Write(t.Context(), p); err == nil || !strings.Contains(err.Error(), test.says) || sdk.CodeOf(err) == sdk.CodeInternal {
				t.Errorf("%v; want it to say %q", err, test.says)
			}
			entries, err := os.ReadDir(parent)
			if err != nil || len(entries) != 1 {
				t.Errorf("something was left behind: %v %v", entries, err)
			}
		})
	}
}

// TestWrite_Published writes a module for a version that nobody can fetch here: it is whole, and says what is left to do.
func TestWrite_Published(t *testing.T) {
	t.Setenv("GOPROXY", "off")
	dir := filepath.Join(t.TempDir(), "invoice")
	note, err := scaffold.Write(t.Context(), scaffold.Plugin{Kind: scaffold.Model, Name: "invoice", Dir: dir, SDK: scaffold.SDK{Version: "v1.2.3"}})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(note, "go mod tidy") {
		t.Errorf("what is left to do: %q", note)
	}
	text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"module example.com/invoice\n", "require github.com/starling-sync/starling v1.2.3\n"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("go.mod lacks %q:\n%s", want, text)
		}
	}
	if strings.Contains(string(text), "replace") {
		t.Errorf("go.mod of a published version replaces it:\n%s", text)
	}
}

// TestLanguage holds the language version of new modules to that of Starling.
func TestLanguage(t *testing.T) {
	read := func(path string) string {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		file, err := modfile.Parse(path, text, nil)
		if err != nil {
			t.Fatal(err)
		}
		return file.Go.Version
	}
	t.Setenv("GOPROXY", "off")
	dir := filepath.Join(t.TempDir(), "invoice")
	if _, err := scaffold.Write(t.Context(), scaffold.Plugin{Kind: scaffold.Model, Name: "invoice", Dir: dir, SDK: scaffold.SDK{Version: "v1.2.3"}}); err != nil {
		t.Fatal(err)
	}
	if got, want := read(filepath.Join(dir, "go.mod")), read("../../go.mod"); got != want {
		t.Errorf("a new module is written in Go %s, Starling in %s", got, want)
	}
}

func TestFindSDK(t *testing.T) {
	root := checkout(t)
	built := func(version, sum string) *debug.BuildInfo {
		return &debug.BuildInfo{Main: debug.Module{Path: "github.com/starling-sync/starling", Version: version, Sum: sum}}
	}
	const pseudo = "v0.0.0-20261124095005-1dedd76aaaaa"
	for what, test := range map[string]struct {
		info  *debug.BuildInfo
		given string
		near  []string
		want  scaffold.SDK
	}{
		"a release":                         {built("v1.2.3", ""), "", nil, scaffold.SDK{Version: "v1.2.3"}},
		"a release, and a checkout":         {built("v1.2.3", ""), root, nil, scaffold.SDK{Checkout: root}},
		"a release, changed":                {built("v1.2.3+dirty", ""), "", []string{root}, scaffold.SDK{Checkout: root}},
		"a commit that was fetched":         {built(pseudo, "h1:x"), "", []string{root}, scaffold.SDK{Version: pseudo}},
		"a commit that was built":           {built(pseudo, ""), "", []string{filepath.Join(root, "docs", "x")}, scaffold.SDK{Checkout: root}},
		"development":                       {built("(devel)", ""), "", []string{t.TempDir(), filepath.Join(root, "bin")}, scaffold.SDK{Checkout: root}},
		"development, away from everything": {built("(devel)", ""), "", []string{t.TempDir(), ""}, scaffold.SDK{}},
		"not a checkout":                    {built("v1.2.3", ""), t.TempDir(), nil, scaffold.SDK{}},
		"nothing is known":                  {nil, "", nil, scaffold.SDK{}},
	} {
		t.Run(what, func(t *testing.T) {
			got, err := scaffold.FindSDK(test.info, test.given, test.near...)
			if err == nil != (test.want != scaffold.SDK{}) || err == nil && got != test.want {
				t.Errorf("got %+v, %v; want %+v", got, err, test.want)
			}
			if err != nil && test.given == "" && !strings.Contains(err.Error(), "--sdk PATH") {
				t.Errorf("the error does not say what to do: %v", err)
			}
		})
	}
}

// TestReplacement wants a module inside of a checkout to name it by a path that survives a move of both.
func TestReplacement(t *testing.T) {
	root := t.TempDir()
	for _, name := range []string{"go.mod", "go.sum"} {
		text, err := os.ReadFile(filepath.Join(checkout(t), name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	outside := filepath.Join(t.TempDir(), "invoice")
	for dir, want := range map[string]string{filepath.Join(root, "examples", "invoice"): "../..", outside: root} {
		ctx := t.Context()
		p := scaffold.Plugin{Kind: scaffold.Model, Name: "invoice", Dir: dir, SDK: scaffold.SDK{Checkout: root}}
		if _, err := scaffold.Write(ctx, p); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		if !slices.Contains(strings.Split(string(text), "\n"), "replace github.com/starling-sync/starling => "+want) {
			t.Errorf("%s: want it replaced by %s:\n%s", dir, want, text)
		}
	}
}
