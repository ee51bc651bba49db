package config

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/starling-sync/starling/sdk"
)

// declared is what the plugin of these tests says that it takes.
func declared() []sdk.Setting {
	return []sdk.Setting{
		{Name: "servers", Type: sdk.TextsSetting, Required: true}, {Name: "timeout", Type: sdk.DurationSetting, Default: "10s"},
		{Name: "size", Type: sdk.SizeSetting}, {Name: "user", Type: sdk.TextSetting}, {Name: "password", Type: sdk.TextSetting, Secret: true},
		{Name: "retries", Type: sdk.IntSetting},
	}
}

// blockOf reads a configuration with one model, whose block is config.
func blockOf(t *testing.T, config string) *Block {
	t.Helper()
	dir := write(t, map[string]string{"token": "s3cret-from-a-file"})
	env := testEnvironment()
	env.lookup = func(name string) (string, bool) {
		value, ok := map[string]string{"PASSWORD": "s3cret-of-the-environment", "NAME": "alice"}[name]
		return value, ok
	}
	c, err := parse([]Source{{filepath.Join(dir, "config.hcl"), []byte("model \"note\" {\n" + config + "\n}\n" + minimal)}}, env)
	if err != nil {
		t.Fatal(err)
	}
	return &c.Models[0].Block
}

// places shortens paths to their last part.
func places(err error) string {
	var lines []string
	for line := range strings.SplitSeq(err.Error(), "\n") {
		_, short, _ := strings.Cut(line, "config.hcl:")
		lines = append(lines, short)
	}
	return strings.Join(lines, "\n")
}

func TestBlock_Check(t *testing.T) {
	for _, each := range []struct{ config, want string }{
		{"config {\n  servers = [\"a\"]\n  timeout = \"5s\"\n  retries = 3\n}", ""},
		{`config = { servers = ["a"], size = "1KiB", password = secretfile("token") }`, ""},
		{
			"config {\n  servres = [\"a\"]\n  timeout = 5\n  size    = \"big\"\n  retries = 1.5\n}",
			"3,3-10: unknown setting \"servres\"; did you mean \"servers\"?\n" +
				"4,13-14: timeout: want a duration in quotes, got a number; write \"5s\"\n" +
				"5,13-18: size: \"big\" is not a size; write \"64MiB\"\n" +
				"6,13-16: retries: 1.5 is not a whole number of 64 bits\n" +
				"2,1-7: servers: it is missing; write servers = [\"text\"]",
		},
		{
			`config = { servers = ["a"], timeout = "soon", nonsense = 1 }`,
			"2,39-45: timeout: \"soon\" is not a duration; write \"10s\"\n2,47-55: unknown setting \"nonsense\"; there are: servers, timeout, size, user, password, retries",
		},
		{"", "1,1-13: servers: it is missing; write servers = [\"text\"]"},
		{
			`config = { servers = ["a"], timeout = secretfile("token") }`,
			"2,39-58: timeout: the value (not shown: it is a secret) is not a duration; write \"10s\"",
		},
		{`config = { servers = ["a"], password = 4711 }`, "2,40-44: password: want text in quotes, got a number; write \"text\""},
		{`config = { (secretfile("token")) = "a", servers = [] }`, "2,12-33: unknown setting \"(secret)\"; there are: servers, timeout, size, user, password, retries"},
	} {
		err := blockOf(t, each.config).Check(declared())
		if each.want == "" {
			if err != nil {
				t.Errorf("%s: %v", each.config, err)
			}
			continue
		}
		if err == nil || sdk.CodeOf(err) != sdk.CodeInvalid {
			t.Errorf("%s: %v", each.config, err)
			continue
		}
		got := strings.Split(places(err), "\n")
		want := strings.Split(each.want, "\n")
		slices.Sort(want)
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", each.config, diff)
		}
	}
	if err := blockOf(t, `config = { whatever = 1 }`).Check(nil); err != nil {
		t.Errorf("a plugin that does not say what it takes: %v", err)
	}
	if err := blockOf(t, `config = { whatever = 1 }`).Check([]sdk.Setting{}); err == nil || !strings.Contains(err.Error(), "takes no settings") {
		t.Errorf("a plugin that takes nothing: %v", err)
	}
}

func TestBlock_Locate(t *testing.T) {
	b := blockOf(t, "config {\n  servers = [\"a\"]\n  user    = \"u\"\n}")
	for want, refusal := range map[string]error{
		"4,13-16: user: no such user":         sdk.BadSetting("user", "no such %s", "user"),
		"2,1-7: password: it is missing":      sdk.BadSetting("password", "it is missing"),
		"2,1-7: the moon is in the wrong":     sdk.Errorf(sdk.CodeInvalid, "the moon is in the wrong place"),
		"3,13-18: servers: none can be found": sdk.Errorf(sdk.CodeInvalid, "configure: %w", sdk.BadSetting("servers", "none can be found")),
	} {
		if got := places(b.Locate(refusal)); !strings.HasPrefix(got, want) {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestBlock_Secrets(t *testing.T) {
	const config = `config = { servers = ["nats://${secretfile("token")}@hub"], user = env("NAME"), password = env("PASSWORD"), retries = 4711, size = "1KiB" }`
	const fromFile, url, fromEnv = "s3cret-from-a-file", "nats://s3cret-from-a-file@hub", "s3cret-of-the-environment"
	for name, each := range map[string]struct {
		declared      []sdk.Setting
		secrets       []string
		shown, hidden []string
	}{
		"not declared": {nil, []string{"alice", url, fromFile, fromEnv}, []string{"4711", "1KiB"}, []string{"alice", fromFile, fromEnv}},
		"declared":     {declared(), []string{url, fromFile, fromEnv}, []string{"alice", "4711", "1KiB"}, []string{fromFile, fromEnv}},
	} {
		t.Run(name, func(t *testing.T) {
			b := blockOf(t, config)
			if diff := cmp.Diff(each.secrets, b.Secrets(each.declared)); diff != "" {
				t.Errorf("secrets (-want +got):\n%s", diff)
			}
			shown := shownJSON(t, b, each.declared)
			for _, want := range each.shown {
				if !strings.Contains(shown, want) {
					t.Errorf("%s is not shown: %s", want, shown)
				}
			}
			for _, hidden := range each.hidden {
				if strings.Contains(shown, hidden) {
					t.Errorf("%s is shown: %s", hidden, shown)
				}
			}
		})
	}
	plain := blockOf(t, `config = { servers = ["a"], password = "written-here" }`)
	if got := plain.Secrets(declared()); len(got) != 1 || got[0] != "written-here" || strings.Contains(shownJSON(t, plain, declared()), "written-here") {
		t.Errorf("a secret setting that stands in the file: %v, %s", got, shownJSON(t, plain, declared()))
	}
}
