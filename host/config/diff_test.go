package config

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const running = `
library "home" {}
device "alice" { data_dir = "./data" }
store "sqlite" {}
plugin_dir = "/plugins"
model "entry" {}
model "tag" { config = { colors = ["red"] } }
transport "tcp" "lan" { listen = "127.0.0.1:7420" }
`

func TestDiff(t *testing.T) {
	sum := strings.Repeat("ab", 32)
	for name, each := range map[string]struct {
		edits []string // pairs
		want  []Change
	}{
		"nothing":           {nil, nil},
		"moved and written": {[]string{`model "entry" {}`, "", `plugin_dir = "/plugins"`, "plugin_dir = \"/plugins\"\n\n# mine\nmodel \"entry\" {\n path = \"/plugins/entry\"\n}"}, nil},
		"path":              {[]string{`model "entry" {}`, `model "entry" { path = "/new/entry" }`}, []Change{{PluginChanged, "entry", `model "entry": path /plugins/entry -> /new/entry`}}},
		"sha256":            {[]string{`model "entry" {}`, `model "entry" { sha256 = "` + sum + `" }`}, []Change{{PluginChanged, "entry", `model "entry": sha256 none -> ` + sum[:12]}}},
		"config":            {[]string{`["red"]`, `["blue"]`}, []Change{{PluginChanged, "tag", `model "tag": config`}}},
		"listen": {
			[]string{`7420`, `7421`},
			[]Change{{PluginChanged, "lan", `transport "tcp" "lan": listen 127.0.0.1:7420 -> 127.0.0.1:7421`}},
		},
		"advertise":      {[]string{`{ listen = "127.0.0.1:7420" }`, "{\nlisten = \"127.0.0.1:7420\"\nadvertise = [\"example.org:7420\"]\n}"}, []Change{{AddressesOnly, "", `transport "tcp" "lan": advertise`}}},
		"kind":           {[]string{`"tcp" "lan" { listen = "127.0.0.1:7420" }`, `"nats" "lan" {}`}, []Change{{PluginRemoved, "lan", `transport "tcp" "lan"`}, {PluginAdded, "lan", `transport "nats" "lan"`}}},
		"one for others": {[]string{`model "entry" {}`, `model "note" {}`}, []Change{{PluginRemoved, "entry", `model "entry"`}, {PluginAdded, "note", `model "note"`}}},
		"log level":      {[]string{`model "entry" {}`, "model \"entry\" {}\nlog { level = \"debug\" }"}, []Change{{LogLevel, "", "log: level debug"}}},
		"restart": {
			[]string{`"home"`, `"work"`, `"alice"`, `"bob"`, `./data`, `./other`, `"sqlite" {}`, "\"sqlite\" { durability = \"normal\" }\nsync { heartbeat = \"1s\" }\nlog { format = \"json\" }\ntelemetry { prometheus = \"127.0.0.1:9464\" }"},
			[]Change{{NeedsRestart, "", "library"}, {NeedsRestart, "", "device: name"}, {NeedsRestart, "", "device: data_dir"}, {NeedsRestart, "", "store"}, {NeedsRestart, "", "sync"}, {NeedsRestart, "", "log: format"}, {NeedsRestart, "", "telemetry"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			read := func(text string) *Config {
				c, err := Parse(Source{"config.hcl", []byte(text)})
				if err != nil {
					t.Fatal(err)
				}
				return c
			}
			text := running
			for i := 0; i < len(each.edits); i += 2 {
				if !strings.Contains(text, each.edits[i]) {
					t.Fatalf("no %q", each.edits[i])
				}
				text = strings.Replace(text, each.edits[i], each.edits[i+1], 1)
			}
			old, next := read(running), read(text)
			if diff := cmp.Diff(each.want, Diff(old, next)); diff != "" {
				t.Error(diff)
			}
			for _, c := range Diff(WithRestartOf(old, next), next) {
				if c.Kind != NeedsRestart {
					t.Errorf("it would be done again: %+v", c)
				}
			}
			if len(Diff(old, WithRestartOf(old, next)))+len(Diff(WithRestartOf(old, next), next)) != len(Diff(old, next)) {
				t.Error("what a reload does and what it leaves is not all")
			}
		})
	}
}
