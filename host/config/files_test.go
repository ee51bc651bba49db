package config

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	ctyjson "github.com/zclconf/go-cty/cty/json"

	"github.com/starling-sync/starling/sdk"
)

// write writes files, by name, into a new folder.
func write(t *testing.T, files map[string]string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for name, content := range files {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// shownJSON returns what is shown of a block.
func shownJSON(t *testing.T, b *Block, declared []sdk.Setting) string {
	t.Helper()
	shown := b.shown(declared)
	text, err := ctyjson.Marshal(shown, shown.Type())
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestLoad_Folder has a configuration in several files: paths in each start from its own folder.
func TestLoad_Folder(t *testing.T) {
	dir := write(t, map[string]string{
		"base.hcl":          minimal,
		"conf.d/b.hcl":      "plugin_dir = \"./plugins\"\nmodel \"tag\" {}\n",
		"conf.d/a.hcl":      "model \"note\" {\n  path = \"./note\"\n}\n",
		"conf.d/README.txt": "not read",
	})
	c, err := Load(filepath.Join(dir, "base.hcl"), filepath.Join(dir, "conf.d"))
	if err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(dir, "conf.d")
	wantFiles := []string{filepath.Join(dir, "base.hcl"), filepath.Join(conf, "a.hcl"), filepath.Join(conf, "b.hcl")}
	if diff := cmp.Diff(wantFiles, c.Files); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	if c.Device.DataDir != filepath.Join(dir, "data") || c.PluginDir != filepath.Join(conf, "plugins") ||
		len(c.Models) != 2 || c.Models[0].Path != filepath.Join(conf, "note") {
		t.Errorf("paths do not start from the folder of their file: %+v", c)
	}
	for _, bad := range [][]string{
		{filepath.Join(dir, "base.hcl"), filepath.Join(dir, ".", "base.hcl")},
		{filepath.Join(dir, "base.hcl"), t.TempDir()},
	} {
		if _, err := Load(bad...); sdk.CodeOf(err) != sdk.CodeInvalid || !strings.Contains(err.Error(), bad[1]) {
			t.Errorf("%v: %v", bad, err)
		}
	}
}

// TestDataDir finds where a host is reached without what other blocks need.
func TestDataDir(t *testing.T) {
	dir := write(t, map[string]string{
		"c.hcl":      "library \"home\" {}\ndevice \"alice\" { data_dir = \"./data\" }\nstore \"postgres\" { dsn = env(\"STARLING_NOT_SET\") }\nmodel \"tag\" { path = secretfile(\"absent\") }\n",
		"own.hcl":    "device \"alice\" { data_dir = env(\"STARLING_NOT_SET\") }\n",
		"none.hcl":   "library \"home\" {}\n",
		"broken.hcl": "device \"alice\" { data_dir = \"./data\" }\nstore {\n",
	})
	got, err := DataDir(filepath.Join(dir, "c.hcl"))
	if err != nil || got != filepath.Join(dir, "data") {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := Load(filepath.Join(dir, "c.hcl")); sdk.CodeOf(err) != sdk.CodeInvalid {
		t.Errorf("what runs the host needs the secrets: %v", err)
	}
	for name, want := range map[string]string{"own.hcl": "STARLING_NOT_SET is not set", "none.hcl": "the device is missing", "broken.hcl": "broken.hcl:", "absent.hcl": "no such file"} {
		if _, err := DataDir(filepath.Join(dir, name)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", name, err, want)
		}
	}
}

// TestParse_Files names the place of what is wrong, and of what is given twice, in each of several files.
func TestParse_Files(t *testing.T) {
	_, err := parse([]Source{
		{"base.hcl", []byte(minimal + "plugin_dir = \"a\"\nmodel \"tag\" {}\n")},
		{"conf.d/a.hcl", []byte("\nmodel \"tag\" {}\nplugin_dir = \"b\"\nlog { levels = \"info\" }\n")},
		{"conf.d/b.hcl", []byte("device \"bob\" { data_dir = \"./bob\" }\nmodel \"x\" {\n  path =\n}\n")},
	}, testEnvironment())
	lines := strings.Count(minimal, "\n")
	want := []string{
		`conf.d/a.hcl:2,1-12: model "tag" is given twice, first at base.hcl:` + itoa(lines+2) + `,1-12; keep one`,
		`conf.d/a.hcl:3,1-11: "plugin_dir" is given twice, first at base.hcl:` + itoa(lines+1) + `,1-11; keep one`,
		`conf.d/a.hcl:4,7-13: unsupported argument "levels"; did you mean "level"?`,
		`conf.d/b.hcl:1,1-13: "device" is given twice, first at base.hcl:`,
		`conf.d/b.hcl:3,`,
	}
	got := strings.Split(err.Error(), "\n")
	for i := range min(len(want), len(got)) {
		if !strings.HasPrefix(got[i], want[i]) {
			t.Errorf("mistake %d is\n%s\nwant\n%s", i, got[i], want[i])
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d mistakes, want %d:\n%s", len(got), len(want), err)
	}
}

func itoa(n int) string {
	text, _ := json.Marshal(n)
	return string(text)
}

// TestParse_ReadsFiles gives plugins what files hold; secrets go to plugins' configuration only, and are never shown.
func TestParse_ReadsFiles(t *testing.T) {
	dir := write(t, map[string]string{"token": "s3cret\r\n", "motd": "hello\nthere\n", "binary": "\xff\xfe", "large": strings.Repeat("x", MaxFileBytes+1)})
	src := func(rest string) []Source {
		return []Source{{filepath.Join(dir, "config.hcl"), []byte(minimal + rest)}}
	}
	c, err := parse(src(`model "note" {
  config {
    motd   = file("motd")
    token  = secretfile("./token")
    header = "Bearer ${secretfile("token")}"
    list   = [{ a = secretfile("token"), b = 1 }]
  }
}`), testEnvironment())
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Exposed) > 0 {
		t.Errorf("%s can be read by nobody else", c.Exposed)
	}
	if runtime.GOOS != "windows" {
		if err := os.Chmod(filepath.Join(dir, "token"), 0o644); err != nil { //nolint:gosec // that is what is tested
			t.Fatal(err)
		}
		open, err := parse(src("model \"note\" {\n config {\n tokens = [secretfile(\"token\"), secretfile(\"./token\"), file(\"motd\")]\n }\n}"), testEnvironment())
		if err != nil || len(open.Exposed) != 1 || open.Exposed[0] != filepath.Join(dir, "token") {
			t.Errorf("of a file that everybody can read: %v, %v", open, err)
		}
	}
	if got, want := string(c.Models[0].Config), `{"header":"Bearer s3cret","list":[{"a":"s3cret","b":1}],"motd":"hello\nthere","token":"s3cret"}`; got != want {
		t.Errorf("config %s, want %s", got, want)
	}
	if got, want := shownJSON(t, &c.Models[0].Block, nil), `{"header":"(secret)","list":[{"a":"(secret)","b":1}],"motd":"hello\nthere","token":"(secret)"}`; got != want {
		t.Errorf("shown %s, want %s", got, want)
	}
	for rest, want := range map[string]string{
		`log { file = secretfile("token") }`:                        "a secret can be given to a plugin only",
		`sync { heartbeat = secretfile("token") }`:                  "a secret can be given to a plugin only",
		`log { level = "${secretfile("token")}" }`:                  "a secret can be given to a plugin only",
		`transport "tcp" "x" { advertise = [secretfile("token")] }`: "a secret can be given to a plugin only",
		`log { file = file("none") }`:                               "file: none: cannot be read: no such file",
		`log { file = secretfile("binary") }`:                       "file: binary: is not UTF-8 text",
		`log { file = file("large") }`:                              "file: large: is over 64 KiB",
		`log { file = file() }`:                                     "file takes the path of a file",
	} {
		if _, err := parse(src(rest), testEnvironment()); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v; want it to say %q", rest, err, want)
		}
	}
}

// TestShow loads what Show writes: nothing is left out, but for the secrets.
func TestShow(t *testing.T) {
	dir := write(t, map[string]string{"token": "s3cret"})
	content, err := render(Settings{Library: "home", Device: "alice"})
	if err != nil {
		t.Fatal(err)
	}
	content = regexp.MustCompile(`(?m)^( +)# (\w+ += )`).ReplaceAll(content, []byte("$1$2"))
	other := regexp.MustCompile(`(\d)([smhd])"`).ReplaceAll(content, []byte(`$1$2"`))
	cases := map[string]string{
		"complete": complete,
		"minimal":  minimal,
		"joining":  "library { join = true }\ndevice \"b\" { data_dir = \"d\" }\nstore \"sqlite\" {}\n",
		"defaults": string(other),
		"changed": minimal + "sync {\n heartbeat = \"1500ms\"\n audit = \"0\"\n retention {\n bytes = \"0\"\n age = \"36h\"\n }\n" +
			" limits {\n batches = 17\n frame_bytes = \"3MiB\"\n retry_min = \"10ms\"\n }\n}\n" +
			"model \"note\" {\n config = { token = secretfile(\"token\"), \"a b\" = [1, true, \"$${x}\"] }\n}\n",
	}
	for name, src := range cases {
		t.Run(name, func(t *testing.T) {
			c, err := parse([]Source{{filepath.Join(dir, "config.hcl"), []byte(src)}}, testEnvironment())
			if err != nil {
				t.Fatal(err)
			}
			var shown bytes.Buffer
			if err := Show(&shown, c, nil); err != nil {
				t.Fatal(err)
			}
			again, err := parse([]Source{{filepath.Join(dir, "config.hcl"), shown.Bytes()}}, testEnvironment())
			if err != nil {
				t.Fatalf("what is shown does not load: %v\n%s", err, shown.String())
			}
			for i := range c.Models {
				c.Models[i].Config = json.RawMessage(shownJSON(t, &c.Models[i].Block, nil))
			}
			if diff := cmp.Diff(c, again, cmpopts.IgnoreTypes(Range{}, Block{})); diff != "" {
				t.Errorf("(-config +shown)\n%s\n%s", diff, shown.String())
			}
			if formatted, err := Format("config.hcl", shown.Bytes()); err != nil || !bytes.Equal(formatted, shown.Bytes()) {
				t.Errorf("it is not formatted: %v\n%s", err, shown.String())
			}
			if strings.Contains(shown.String(), "s3cret") {
				t.Errorf("a secret is shown:\n%s", shown.String())
			}
		})
	}
}

func TestFormat(t *testing.T) {
	got, err := Format("config.hcl", []byte("log {\nlevel=\"info\"\n    format   = \"json\" # why\n}\n"))
	if want := "log {\n  level  = \"info\"\n  format = \"json\" # why\n}\n"; err != nil || string(got) != want {
		t.Errorf("got %q, %v; want %q", got, err, want)
	}
	if _, err := Format("config.hcl", []byte("log {")); err == nil || !strings.HasPrefix(err.Error(), "config.hcl:1,") {
		t.Errorf("what is not closed: %v", err)
	}
}

// TestShow_SecretSettings shows a block of which it is secret what it holds.
func TestShow_SecretSettings(t *testing.T) {
	dir := write(t, map[string]string{"token": "s3cret"})
	for _, config := range []string{`secretfile("token") == "x" ? { a = "1" } : { a = "2" }`, `{ (secretfile("token")) = "v" }`} {
		c, err := parse([]Source{{filepath.Join(dir, "config.hcl"), []byte(minimal + "model \"note\" {\n config = " + config + "\n}\n")}}, testEnvironment())
		if err != nil {
			t.Fatal(err)
		}
		var shown bytes.Buffer
		if err := Show(&shown, c, nil); err != nil || !strings.Contains(shown.String(), hidden) || strings.Contains(shown.String(), "s3cret") {
			t.Errorf("%s: %v\n%s", config, err, shown.String())
		}
	}
}

// TestLoad_OtherLock refuses a lock file where none is read, which would pin nothing. One beside the first path counts for all.
func TestLoad_OtherLock(t *testing.T) {
	lock := `plugin "tag" { sha256 = { "` + Platform() + `" = "` + sumA + `" } }` + "\n"
	base := write(t, map[string]string{"config.hcl": minimal, "more.hcl": "plugin_dir = \"./plugins\"\n"})
	models := write(t, map[string]string{"models.hcl": "model \"tag\" {}\n", LockName: lock})
	for _, paths := range [][]string{
		{base, models}, {base, filepath.Join(models, "models.hcl")}, {filepath.Join(base, "config.hcl"), filepath.Join(base, "more.hcl"), models},
	} {
		if _, err := Load(paths...); sdk.CodeOf(err) != sdk.CodeInvalid || !strings.Contains(err.Error(), filepath.Join(models, LockName)) || !strings.Contains(err.Error(), filepath.Join(base, LockName)) {
			t.Errorf("%v: %v", paths, err)
		}
	}
	for _, paths := range [][]string{{models, base}, {filepath.Join(models, "models.hcl"), base}} {
		c, err := Load(paths...)
		if err != nil || c.Models[0].SHA256 != sumA {
			t.Errorf("%v: %v, %+v", paths, err, c)
		}
	}
	two := write(t, map[string]string{"config.hcl": minimal, "models.hcl": "model \"tag\" {}\n", LockName: lock})
	if _, err := Load(filepath.Join(two, "config.hcl"), filepath.Join(two, ".", "models.hcl")); err != nil {
		t.Errorf("two files of one folder: %v", err)
	}
}

// TestShow_Defaults shows what counts for a plugin's settings that a block leaves out, in a form that can stand in a file.
func TestShow_Defaults(t *testing.T) {
	declared := []sdk.Setting{
		{Name: "colour", Type: sdk.TextSetting, Default: "red ${x}"}, {Name: "every", Type: sdk.DurationSetting, Default: "30s"},
		{Name: "room", Type: sdk.SizeSetting, Default: "64MiB"}, {Name: "most", Type: sdk.IntSetting, Default: "256"},
		{Name: "share", Type: sdk.FloatSetting, Default: "0.5"}, {Name: "watch", Type: sdk.BoolSetting, Default: "true"},
		{Name: "skip", Type: sdk.TextsSetting, Default: `[".git","*.tmp"]`}, {Name: "labels", Type: sdk.TextMapSetting, Default: `{"a b":"c"}`},
		{Name: "none", Type: sdk.TextSetting}, {Name: "given", Type: sdk.IntSetting, Default: "1"},
	}
	src := minimal + "model \"note\" {\n config = { given = 2 }\n}\nmodel \"empty\" {}\n"
	c, err := parse([]Source{{"config.hcl", []byte(src)}}, testEnvironment())
	if err != nil {
		t.Fatal(err)
	}
	var shown bytes.Buffer
	if err := Show(&shown, c, Declared{"note": declared, "empty": declared[:1]}); err != nil {
		t.Fatal(err)
	}
	again, err := parse([]Source{{"config.hcl", shown.Bytes()}}, testEnvironment())
	if err != nil {
		t.Fatalf("what is shown does not load: %v\n%s", err, &shown)
	}
	for i, want := range []string{
		`{"colour":"red ${x}","every":"30s","given":2,"labels":{"a b":"c"},"most":256,"room":"64MiB","share":0.5,"skip":[".git","*.tmp"],"watch":true}`,
		`{"colour":"red ${x}"}`,
	} {
		if got := string(again.Models[i].Config); got != want {
			t.Errorf("model %s: %s, want %s", again.Models[i].Name, got, want)
		}
	}
}

// TestParse_hostsModel wants a block for a model that the host keeps itself to be a mistake of the file.
func TestParse_hostsModel(t *testing.T) {
	_, err := Parse(Source{Name: "a.hcl", Content: []byte("library = \"x\"\nmodel \"member\" {}\n")})
	if want := `a.hcl:2,7-15: model "member" is the host's own`; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v; want %q", err, want)
	}
}
