package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/starling-sync/starling/sdk"
)

var update = flag.Bool("update", false, "write testdata/*.want and the example config.hcl")

func testEnvironment() environment {
	return environment{
		lookup: func(name string) (string, bool) {
			value, ok := map[string]string{"SET": "value", "HOME": "/home/alice"}[name]
			return value, ok
		},
		executable: func() (string, error) { return "/opt/starling/starling", nil },
	}
}

func TestParse_Mistakes(t *testing.T) {
	files, err := filepath.Glob("testdata/*.hcl")
	if err != nil || len(files) == 0 {
		t.Fatalf("fixtures: %v, %v", files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			src, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			config, err := parse([]Source{{filepath.Base(file), src}}, testEnvironment())
			if err == nil {
				t.Fatalf("no mistakes found: %+v", config)
			}
			if code := sdk.CodeOf(err); code != sdk.CodeInvalid {
				t.Errorf("code %q, want %q", code, sdk.CodeInvalid)
			}
			wantFile := strings.TrimSuffix(file, ".hcl") + ".want"
			got := err.Error() + "\n"
			if *update {
				if err := os.WriteFile(wantFile, []byte(got), 0o644); err != nil { //nolint:gosec // a fixture to read
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(wantFile)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("messages (-want +got):\n%s", diff)
			}
		})
	}
}

const complete = `
library "home" {}
device "alice" { data_dir = "${env("HOME")}/starling" }
store "sqlite" { durability = "normal" }
plugin_dir = "./plugins"
model "entry" {}
model "location" {
  config {
    ignore = [".git", env("SET")]
    depth  = 9007199254740993
  }
}
model "tag" {
  path   = "bin/my-tag"
  sha256 = "0123456789ABCDEF0123456789abcdef0123456789abcdef0123456789abcdef"
  config = { colours = { red = true } }
}
transport "tcp" "lan" {
  listen    = "0.0.0.0:7420"
  advertise = ["nas:7420", "[2001:db8::1]:7420"]
}
transport "nats" "bus" { listen = "starling.devices" }
sync {
  heartbeat       = "2s"
  max_clock_drift = "1m30s"
  page_bytes      = "64KiB"
  window_bytes    = "1MiB"
  audit           = "1d12h"
  retention {
    age       = "0"
    bytes     = "2GiB"
    conflicts = "7d"
  }
  limits {
    frame_bytes     = "8MiB"
    decoded_bytes   = "16MiB"
    max_page_bytes  = "4MiB"
    batches         = 100
    columns         = 101
    marks           = 102
    heads           = 103
    epochs          = 104
    origins         = 105
    ranges          = 106
    models          = 107
    text_bytes      = "8KiB"
    members_bytes   = "2MiB"
    handshake_time  = "1s"
    send_time       = "2s"
    stall_time      = "3s"
    retry_min       = "4s"
    retry_max       = "5s"
    dial_time       = "6s"
    request_time    = "7s"
    waiting_records = 108
  }
}
log {
  level  = "debug"
  format = "json"
  file   = "log/starling.log"
}
telemetry { prometheus = "[::1]:9464" }
`

func TestParse_Complete(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the expected paths are written for other systems")
	}
	got, err := parse([]Source{{"/etc/starling/config.hcl", []byte(complete)}}, testEnvironment())
	if err != nil {
		t.Fatal(err)
	}
	want := &Config{
		Files:     []string{"/etc/starling/config.hcl"},
		Library:   Library{Name: "home"},
		Device:    Device{Name: "alice", DataDir: "/home/alice/starling"},
		Store:     Store{Kind: "sqlite", Durability: Normal},
		PluginDir: "/etc/starling/plugins",
		Models: []Model{
			{Name: "entry", Path: "/etc/starling/plugins/entry", Config: json.RawMessage(`{}`)},
			{Name: "location", Path: "/etc/starling/plugins/location", Config: json.RawMessage(`{"depth":9007199254740993,"ignore":[".git","value"]}`)},
			{
				Name: "tag", Path: "/etc/starling/bin/my-tag", Config: json.RawMessage(`{"colours":{"red":true}}`),
				SHA256: "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
			},
		},
		Transports: []Transport{
			{
				Kind: "tcp", Name: "lan", Listen: "0.0.0.0:7420", Advertise: []string{"nas:7420", "[2001:db8::1]:7420"},
				Path: "/etc/starling/plugins/transport-tcp", Config: json.RawMessage(`{}`),
			},
			{
				Kind: "nats", Name: "bus", Listen: "starling.devices",
				Path: "/etc/starling/plugins/transport-nats", Config: json.RawMessage(`{}`),
			},
		},
		Sync: Sync{
			Heartbeat: 2 * time.Second, MaxClockDrift: 90 * time.Second, PageBytes: 64 << 10, WindowBytes: 1 << 20,
			Audit:     36 * time.Hour,
			Retention: Retention{Bytes: 2 << 30, Conflicts: 7 * day},
			Limits: Limits{
				FrameBytes: 8 << 20, DecodedBytes: 16 << 20, MaxPageBytes: 4 << 20, Batches: 100, Columns: 101, Marks: 102, Heads: 103,
				Epochs: 104, Origins: 105, Ranges: 106, Models: 107, TextBytes: 8 << 10, MembersBytes: 2 << 20,
				HandshakeTime: time.Second, SendTime: 2 * time.Second, StallTime: 3 * time.Second, RetryMin: 4 * time.Second,
				RetryMax: 5 * time.Second, DialTime: 6 * time.Second, RequestTime: 7 * time.Second, WaitingRecords: 108,
			},
		},
		Log:       Log{Level: "debug", Format: "json", File: "/etc/starling/log/starling.log"},
		Telemetry: Telemetry{Prometheus: "[::1]:9464"},
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreTypes(Range{}, Block{})); diff != "" {
		t.Errorf("config (-want +got):\n%s", diff)
	}
	if got, want := got.Transports[0].ListenRange.String(), "/etc/starling/config.hcl:19,15-29"; got != want {
		t.Errorf("range of listen: got %s, want %s", got, want)
	}
}

const minimal = `library "home" {}
device "alice" { data_dir = "data" }
store "sqlite" {}
`

func TestParse_Defaults(t *testing.T) {
	got, err := parse([]Source{{"config.hcl", []byte(minimal)}}, testEnvironment())
	if err != nil {
		t.Fatal(err)
	}
	folder, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	want := &Config{
		Files: []string{"config.hcl"}, Library: Library{Name: "home"},
		Device:    Device{Name: "alice", DataDir: filepath.Join(folder, "data")},
		Store:     Store{Kind: "sqlite", Durability: Full},
		PluginDir: filepath.FromSlash("/opt/starling/plugins"),
		Sync:      DefaultSync(),
		Log:       Log{Level: "info", Format: "text"},
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreTypes(Range{}, Block{})); diff != "" {
		t.Errorf("config (-want +got):\n%s", diff)
	}
}

func TestLoad_File(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "config.hcl")
	if _, err := Load(path); sdk.CodeOf(err) != sdk.CodeNotFound {
		t.Errorf("no file: %v", err)
	}
	if _, err := Load(dir); sdk.CodeOf(err) != sdk.CodeInvalid {
		t.Errorf("a folder: %v", err)
	}
	if err := os.WriteFile(path, bytes.Repeat([]byte("#"), MaxFileBytes+1), 0o600); err != nil {
		t.Fatal(err)
	}
	var found Diagnostics
	if _, err := Load(path); !errors.As(err, &found) {
		t.Errorf("a file too large: %v", err)
	}
	if err := os.WriteFile(path, []byte(minimal), 0o600); err != nil {
		t.Fatal(err)
	}
	config, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(dir, "data"); config.Device.DataDir != want {
		t.Errorf("data dir %s, want %s", config.Device.DataDir, want)
	}
}

func TestWrite_Example(t *testing.T) {
	var out bytes.Buffer
	if err := Write(&out, Settings{Library: "home", Device: "alice"}); err != nil {
		t.Fatal(err)
	}
	example := filepath.Join("..", "..", "config.hcl")
	if *update {
		if err := os.WriteFile(example, out.Bytes(), 0o644); err != nil { //nolint:gosec // an example to read
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(example)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.ReplaceAll(string(want), "\r\n", "\n"), out.String()); diff != "" {
		t.Errorf("the example config.hcl is not what Write writes; run: go test ./host/config -update\n%s", diff)
	}
	config, err := Load(example)
	if err != nil {
		t.Fatal(err)
	}
	var models []string
	for _, m := range config.Models {
		models = append(models, string(m.Name))
	}
	if diff := cmp.Diff([]string{"device", "volume", "entry", "location", "tag", "album", "user_metadata"}, models); diff != "" {
		t.Errorf("models that are on by default (-want +got):\n%s", diff)
	}
	if config.Device.Name != "alice" || config.Transports[0].Listen != "127.0.0.1:7420" {
		t.Errorf("the example says %+v", config)
	}
}

// What the template shows in comments are the defaults, and would be accepted.
func TestWrite_CommentsAreDefaults(t *testing.T) {
	content, err := render(Settings{Library: "home", Device: "alice"})
	if err != nil {
		t.Fatal(err)
	}
	plain, err := parse([]Source{{"config.hcl", content}}, testEnvironment())
	if err != nil {
		t.Fatal(err)
	}
	shown := regexp.MustCompile(`(?m)^( +)# (\w+ += )`).ReplaceAll(content, []byte("$1$2"))
	explicit, err := parse([]Source{{"config.hcl", shown}}, testEnvironment())
	if err != nil {
		t.Fatal(err)
	}
	if explicit.Log.File == "" {
		t.Error("the comments were not taken out")
	}
	if diff := cmp.Diff(plain.Sync, explicit.Sync, cmpopts.IgnoreTypes(Range{})); diff != "" {
		t.Errorf("sync (-default +shown):\n%s", diff)
	}
}

// Who reads the file that init writes knows every setting: each is there, and each of the sync block says what it is for.
func TestWrite_ShowsEverySetting(t *testing.T) {
	var all string
	for _, s := range []Settings{{Library: "home", Device: "alice"}, {Device: "alice"}, {Device: "alice", Postgres: true}} {
		content, err := render(s)
		if err != nil {
			t.Fatal(err)
		}
		all += string(content)
	}
	retention, limits := syncShapes()
	_, sync, found := strings.Cut(all, "\nsync {\n")
	if !found {
		t.Fatal("no block sync")
	}
	sync, _, _ = strings.Cut(sync, "\n}\n")
	blocks := map[string]string{"sync": sync}
	for _, name := range []string{retention.name, limits.name} {
		_, inner, _ := strings.Cut(sync, "\n  "+name+" {\n")
		blocks[name], _, _ = strings.Cut(inner, "\n  }")
	}
	checked := 0
	for _, s := range append(shapes(), shape{name: "the file", arguments: []string{"plugin_dir"}}, retention, limits) {
		text, want := all, `(?m)\b%s += `
		if block, ok := blocks[s.name]; ok {
			text, want = block, `(?m)^ +# %s += \S+ +# \w`
		}
		for _, name := range s.arguments {
			checked++
			if name == "config" {
				want = `%s \{`
			}
			if !regexp.MustCompile(fmt.Sprintf(want, name)).MatchString(text) {
				t.Errorf("%s: config.hcl does not show %s, or not what it is for", s.name, name)
			}
		}
	}
	if checked < 40 {
		t.Errorf("only %d settings looked for", checked)
	}
}

// Each limit of the block has a least and a greatest value, and the default lies between.
func TestParse_LimitsAreBounded(t *testing.T) {
	_, limits := syncShapes()
	for _, name := range limits.arguments {
		tiny, huge := `"1ns"`, `"9000h"`
		switch {
		case strings.HasSuffix(name, "_bytes"):
			tiny, huge = `"1B"`, `"1TiB"`
		case !strings.HasSuffix(name, "_time") && !strings.HasPrefix(name, "retry_"):
			tiny, huge = "0", "99999999999999999999"
		}
		for _, value := range []string{tiny, huge} {
			src := minimal + "sync {\n limits {\n " + name + " = " + value + "\n}\n}\n"
			_, err := parse([]Source{{"config.hcl", []byte(src)}}, testEnvironment())
			if err == nil || !strings.Contains(err.Error(), name+": "+value+" is out of range; want ") {
				t.Errorf("%s = %s: %v", name, value, err)
			}
		}
	}
}

func TestParseDuration(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"0": 0, "0d": 0, "1d": day, "90d": 90 * day, "1d12h": 36 * time.Hour, "1d0h30m": 24*time.Hour + 30*time.Minute, "1m30s": 90 * time.Second,
	} {
		got, err := sdk.ParseDuration(text)
		if err != nil || got != want {
			t.Errorf("%q: %v, %v; want %v", text, got, err, want)
		}
		if again, err := sdk.ParseDuration(short(want)); err != nil || again != want {
			t.Errorf("%v is written %q, which is %v, %v", want, short(want), again, err)
		}
	}
	for _, text := range []string{"", "d", "1.5d", "1d24h", "1d-1h", "-1d", "1d 1h", "1dd", "999999d", "1w"} {
		if got, err := sdk.ParseDuration(text); err == nil {
			t.Errorf("%q is read as %v", text, got)
		}
	}
}

func TestWrite_Settings(t *testing.T) {
	odd := Settings{Device: `a "b" ${c} \d`, DataDir: `C:\data ${x}`, Listen: "[::]:1", PluginDir: `C:\plugins`}
	content, err := render(odd)
	if err != nil {
		t.Fatal(err)
	}
	config, err := parse([]Source{{"config.hcl", content}}, testEnvironment())
	if err != nil {
		t.Fatalf("%v\n%s", err, content)
	}
	if config.Device.Name != odd.Device || !strings.HasSuffix(config.Device.DataDir, odd.DataDir) || !config.Library.Join {
		t.Errorf("read back as %+v %+v", config.Device, config.Library)
	}
	var out bytes.Buffer
	err = Write(&out, Settings{Library: "home", Device: "alice", Listen: "7420"})
	if sdk.CodeOf(err) != sdk.CodeInvalid || out.Len() > 0 || !strings.HasPrefix(err.Error(), "listen: ") {
		t.Errorf("a listen address without host: %v, wrote %d bytes", err, out.Len())
	}
	post := Settings{Library: "home", Device: "alice", Postgres: true, Schema: "second"}
	t.Setenv(databaseVariable, "postgres://u:s3cret@h/d")
	if err := Write(&out, post); sdk.CodeOf(err) != sdk.CodeInvalid || !strings.HasPrefix(err.Error(), "the dsn does not say sslmode") {
		t.Errorf("a dsn without sslmode: %v", err)
	}
	t.Setenv(databaseVariable, "postgres://u:s3cret@h/d?sslmode=verify-full")
	if err := Write(&out, post); err != nil {
		t.Error(err)
	} else if c, err := Parse(Source{"config.hcl", out.Bytes()}); err != nil || c.Store.Schema != "second" {
		t.Errorf("the schema is %q: %v", c.Store.Schema, err)
	}
	post.Schema = "public"
	if err := Write(&out, post); sdk.CodeOf(err) != sdk.CodeInvalid || strings.Contains(err.Error(), "config.hcl") {
		t.Errorf("the schema of others: %v", err)
	}
	if err := os.Unsetenv(databaseVariable); err != nil { // Setenv brings it back
		t.Fatal(err)
	}
	if err := Write(&out, post); sdk.CodeOf(err) != sdk.CodeInvalid || !strings.HasPrefix(err.Error(), "the environment variable DATABASE_URL") {
		t.Errorf("no dsn: %v", err)
	}
}

// A file of nothing but nesting must be refused: the parser below would use up the stack.
func TestParse_Deep(t *testing.T) {
	for _, part := range []string{"[", "{a=", "(", "a {\n", "-", "!", `"${`, "f(", "[for x in ", "1?", "1?1:", "x[0]", "x.y", "x[*]", "1+", "(1)+\n", "-(\n", "<<A\n${"} {
		t.Run(part, func(t *testing.T) {
			src := bytes.Repeat([]byte(part), (MaxFileBytes-4)/len(part))
			if part == "(1)+\n" {
				src = append([]byte("("), src...)
			}
			if part != "a {\n" {
				src = append([]byte("a = "), src...)
			}
			_, err := parse([]Source{{"config.hcl", src}}, testEnvironment())
			var found Diagnostics
			if !errors.As(err, &found) || len(found) > 100 {
				t.Errorf("%d mistakes, the first %v", len(found), found[:min(1, len(found))])
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/*.hcl")
	if err != nil {
		f.Fatal(err)
	}
	for _, file := range files {
		src, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(src)
	}
	f.Add([]byte(complete))
	f.Add(bytes.Repeat([]byte("["), 1000))
	f.Add([]byte("a = (" + strings.Repeat("-\n", 1000)))
	f.Fuzz(func(t *testing.T, src []byte) {
		config, err := parse([]Source{{"config.hcl", src}}, testEnvironment())
		var found Diagnostics
		switch {
		case err == nil && (config == nil || config.Sync.WindowBytes < config.Sync.PageBytes || !sound(config.Sync.Limits)):
			t.Errorf("accepted as %+v", config)
		case err != nil && (!errors.As(err, &found) || len(found) == 0 || config != nil):
			t.Errorf("refused with %v and %+v", err, config)
		}
	})
}

// sound reports whether l keeps what Limits promises.
func sound(l Limits) bool {
	least := max(l.MaxPageBytes, l.MembersBytes) + frameOverhead
	return l.FrameBytes >= least && l.DecodedBytes >= least && l.RetryMin <= l.RetryMax
}

// TestShow_hidesDSN gives the dsn in each way, and looks for its password in all that is shown.
func TestShow_hidesDSN(t *testing.T) {
	const dsn = "postgres://alice:s3cret@db.example/home?sslmode=verify-full"
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "url"), []byte(dsn+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("STARLING_TEST_DSN", dsn)
	for _, expression := range []string{`"` + dsn + `"`, `env("STARLING_TEST_DSN")`, `secretfile("url")`, `file("url")`} {
		path := filepath.Join(folder, "config.hcl")
		text := "library \"home\" {}\ndevice \"alice\" { data_dir = \"data\" }\nplugin_dir = \".\"\nstore \"postgres\" { dsn = " + expression + " }\n"
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := Load(path)
		if err != nil {
			t.Fatalf("%s: %v", expression, err)
		}
		if c.Store.DSN != dsn || c.Store.Schema != "starling" || c.Store.Kind != "postgres" || c.Store.Durability != Full {
			t.Errorf("%s: got %+v", expression, c.Store)
		}
		var shown bytes.Buffer
		if err := Show(&shown, c, nil); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(shown.String(), "s3cret") || !strings.Contains(shown.String(), `schema = "starling"`) {
			t.Errorf("%s: config show says\n%s", expression, &shown)
		}
	}
}
