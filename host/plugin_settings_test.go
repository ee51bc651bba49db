//go:build unix

package main_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/starling-sync/starling/host/clustertest"
)

const token = "open-sesame-4711"

// diary makes a device with the model diary, whose block is config.
func diaryDevice(t *testing.T, mode, config string) (d *clustertest.Device, set func(config string)) {
	t.Helper()
	path := built(t, "host/testdata/diary", mode)
	d = clustertest.NewDevice(t, mustBuild(t), "alice", "--library", "home")
	writeFiles(t, d.Dir, "token")
	if err := os.WriteFile(filepath.Join(d.Dir, "token"), []byte(token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	base, err := os.ReadFile(d.Config())
	if err != nil {
		t.Fatal(err)
	}
	set = func(config string) {
		t.Helper()
		text := string(base) + "\nmodel \"diary\" {\n  path = \"" + path + "\"\n  config {\n" + config + "  }\n}\n"
		if err := os.WriteFile(d.Config(), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	set(config)
	return d, set
}

// secretKept wants the token nowhere but in the files that the operator wrote.
func secretKept(t *testing.T, d *clustertest.Device, printed ...string) {
	t.Helper()
	for _, text := range printed {
		if strings.Contains(text, token) {
			t.Errorf("the secret was printed:\n%s", text)
		}
	}
	for _, name := range []string{"host.log", "data/events.jsonl", "data/plugins/choices.json"} {
		text, err := os.ReadFile(filepath.Join(d.Dir, name))
		if err == nil && strings.Contains(string(text), token) {
			t.Errorf("the secret is in %s", name)
		}
	}
}

// TestSettings_Places has a plugin's block checked against what the plugin declares: before a start, at a start and at a
// reload, which changes nothing.
func TestSettings_Places(t *testing.T) {
	t.Parallel()
	const wrong = "    token = secretfile(\"token\")\n    lvel = 3\n    place = 7\n"
	d, set := diaryDevice(t, "tells", wrong)
	out := fails(t, d, "config", "validate", "--plugins")
	for _, want := range []string{
		`,5-9: unknown setting "lvel"; did you mean "level"?`, `,13-14: place: want text in quotes, got a number; write "7"`,
	} {
		if !strings.Contains(out, want) {
			t.Errorf("want %q in:\n%s", want, out)
		}
	}
	set("    token = secretfile(\"token\")\n    level = 11\n")
	semantic := fails(t, d, "config", "validate", "--plugins")
	if !strings.Contains(semantic, `,13-15: level: 11 is over 9, which the token "(secret)" does not allow`) {
		t.Errorf("what the plugin refuses by itself:\n%s", semantic)
	}
	binary := d.Run(t, "plugin", "describe", built(t, "host/testdata/diary", "tells"))
	if named := d.Run(t, "plugin", "describe", "diary"); named != binary || !strings.Contains(named, "token     text   must be given   what opens it") || !strings.Contains(named, "level     int    1 ") {
		t.Errorf("described by path and by name:\n%s\n%s", binary, named)
	}
	d.Start(t)
	list := d.Run(t, "plugin", "list")
	if !strings.Contains(list, "quarantined") || !strings.Contains(list, ",13-15: level: 11 is over 9") {
		t.Errorf("a start with a wrong block:\n%s", list)
	}
	events := d.Run(t, "events")
	set("    token = secretfile(\"token\")\n    level = 3\n")
	reload := d.Run(t, "reload", "--soak", "0s")
	if running := d.Run(t, "plugin", "list"); strings.Contains(running, "quarantined") {
		t.Errorf("after the block was put right:\n%s\n%s", reload, running)
	}

	before := pidsOf(d.Run(t, "plugin", "list"))
	set("    token = secretfile(\"token\")\n    level = 4\n    nonsense = true\n")
	edit(t, d, `model "tag" {}`, "")
	refused := fails(t, d, "reload")
	if !strings.Contains(refused, "nothing has changed") || !strings.Contains(refused, `,5-13: unknown setting "nonsense"`) {
		t.Errorf("a reload with a wrong block:\n%s", refused)
	}
	set("    token = secretfile(\"token\")\n    level = 12\n")
	edit(t, d, `model "tag" {}`, "")
	refused += fails(t, d, "reload")
	if !strings.Contains(refused, `,13-15: level: 12 is over 9`) {
		t.Errorf("a reload with a block that the plugin refuses:\n%s", refused)
	}
	if after := pidsOf(d.Run(t, "plugin", "list")); after != before {
		t.Errorf("a reload that was refused changed the processes: %s to %s", before, after)
	}
	d.Run(t, "put", "tag", `{"name":"still here"}`)
	secretKept(t, d, out, semantic, list, events, reload, refused, d.Run(t, "events"))
}

// TestSettings_Secrets has a plugin that tells its secret in its log, its refusals, its health and its reasons, declared or
// not.
func TestSettings_Secrets(t *testing.T) {
	t.Setenv("DIARY_TOKEN", token)
	for mode, config := range map[string]string{
		"tells": "    token = env(\"DIARY_TOKEN\")\n    level = 5\n",
		"mute":  "    Token = env(\"DIARY_TOKEN\")\n    Level = 5\n",
	} {
		t.Run(mode, func(t *testing.T) {
			d, _ := diaryDevice(t, mode, config)
			shown := d.Run(t, "config", "show")
			if !strings.Contains(shown, `"(secret)"`) {
				t.Errorf("shown:\n%s", shown)
			}
			d.Start(t)
			refused := fails(t, d, "put", "diary", `{"text":""}`)
			if !strings.Contains(refused, "refused: the token is (secret)") {
				t.Errorf("the refusal of a record:\n%s", refused)
			}
			var list string
			clustertest.Eventually(t, "it says that it is not well", func() error {
				list = d.Run(t, "plugin", "list") + d.Run(t, "status", "--json")
				if !strings.Contains(list, "felt: the token is (secret)") {
					return os.ErrNotExist
				}
				return nil
			})
			for _, want := range []string{"logged: the token is (secret)", "printed: the token is (secret)", "said: the token is (secret)"} {
				clustertest.Eventually(t, want, func() error { return inLog(d, want) })
			}
			secretKept(t, d, shown, refused, list)
		})
	}
}
