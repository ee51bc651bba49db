package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/starling-sync/starling/sdk"
)

var (
	sumA = strings.Repeat("ab", 32)
	sumB = strings.Repeat("cd", 32)
)

func withPlugins(t *testing.T, lock string) (dir string) {
	t.Helper()
	files := map[string]string{"config.hcl": minimal + "\nmodel \"tag\" {}\nmodel \"note\" { sha256 = \"" + sumB + "\" }\ntransport \"tcp\" \"lan\" {}\n"}
	if lock != "" {
		files[LockName] = lock
	}
	return write(t, files)
}

// TestLoad_Lock has checksums come from the lock file, in whose place a folder is given or a file in it.
func TestLoad_Lock(t *testing.T) {
	dir := withPlugins(t, `plugin "tag" { sha256 = { "`+Platform()+`" = "`+strings.ToUpper(sumA)+`", "plan9/mips" = "`+sumB+`" } }`+"\n")
	for _, path := range []string{dir, filepath.Join(dir, "config.hcl")} {
		c, err := Load(path)
		if err != nil {
			t.Fatal(err)
		}
		if c.Models[0].SHA256 != sumA || c.Models[1].SHA256 != sumB || c.Transports[0].SHA256 != "" {
			t.Errorf("%s: %+v %+v", path, c.Models, c.Transports)
		}
		if at := c.Models[0].SHA256Range.String(); !strings.HasPrefix(at, filepath.Join(dir, LockName)+":1,") {
			t.Errorf("the checksum comes from %s", at)
		}
		unlocked, err := unlocked((*parser).document, []string{path})
		if err != nil || unlocked.Models[0].SHA256 != "" {
			t.Errorf("unlocked: %+v, %v", unlocked, err)
		}
		changes := Diff(unlocked, c)
		if len(changes) != 1 || changes[0].Kind != PluginChanged || !strings.Contains(changes[0].What, `model "tag": sha256 none -> `+sumA[:12]) {
			t.Errorf("changes %+v", changes)
		}
	}
}

// TestOnlyPlugins reads which plugins to lock without what the store needs, and names what may have been meant to be a plugin.
func TestOnlyPlugins(t *testing.T) {
	const head = "device \"alice\" { data_dir = \"./data\" }\nstore \"postgres\" { dsn = env(\"STARLING_NOT_SET\") }\nplugin_dir = \"./bin\"\n"
	dir := write(t, map[string]string{
		"c.hcl":     head + "model \"tag\" {}\ntransport \"tcp\" \"lan\" {}\n",
		"wrong.hcl": head + "mode \"tag\" {}\n",
		LockName:    `plugin "tag" { sha256 = { "` + Platform() + `" = "` + sumA + `" } }`,
	})
	c, err := OnlyPlugins(filepath.Join(dir, "c.hcl"))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"tag": filepath.Join(dir, "bin", "tag"), "lan": filepath.Join(dir, "bin", "transport-tcp")}
	if diff := cmp.Diff(want, c.Binaries()); diff != "" || c.Device.DataDir != filepath.Join(dir, "data") || c.Models[0].SHA256 != "" {
		t.Errorf("%+v (-want +got):\n%s", c, diff)
	}
	if _, err := OnlyPlugins(filepath.Join(dir, "wrong.hcl")); err == nil || !strings.Contains(err.Error(), `did you mean "model"`) {
		t.Errorf("a block that there is not: %v", err)
	}
}

func TestLoad_LockMistakes(t *testing.T) {
	for lock, want := range map[string]string{
		`plugin "tag" {}`:                                                      `plugin "tag" has no sha256; write sha256 = { "` + Platform(),
		`plugin "tag" { sha256 = "` + sumA + `" }`:                             "want a checksum for each platform",
		`plugin "tag" { sha256 = { "` + Platform() + `" = "12" } }`:            "is not a checksum; want 64",
		`plugin "tag" { sha256 = { "plan9/mips" = "` + sumA + `" } }`:          "has no checksum for " + Platform() + "; run: starling plugin lock tag",
		`plugin "note" { sha256 = { "` + Platform() + `" = "` + sumA + `" } }`: "and " + sumB + " at ",
		"plugin \"tag\" {\n  sha = 1\n}":                                       "unsupported argument",
		"plugin {}":                                                            "needs one name",
		"plugins {}":                                                           `unsupported block "plugins"; did you mean "plugin"?`,
		"plugin \"tag\" {":                                                     ":1,",
		"plugin \"tag\" { sha256 = {\"" + Platform() + "\"=\"" + sumA + "\"} }\nplugin \"tag\" { sha256 = {} }": "is given twice, first at",
		"a = ((((((((((((((((((((((((((((((((((((1))))))))))))))))))))))))))))))))))))":                         "nested too deeply",
	} {
		dir := withPlugins(t, lock+"\n")
		_, err := Load(dir)
		if sdk.CodeOf(err) != sdk.CodeInvalid || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), LockName+":") {
			t.Errorf("%s\nwant %q at a place, got %v", lock, want, err)
		}
	}
}

// TestLock_Write wants what was written to be read again, and the file to be one that a person can read.
func TestLock_Write(t *testing.T) {
	path := LockPath(withPlugins(t, ""))
	if lock, err := ReadLock(path); err != nil || len(lock) > 0 {
		t.Errorf("no file: %v, %v", lock, err)
	}
	want := Lock{"tag": {"linux/amd64": sumA, "darwin/arm64": sumB}, "lan": {"linux/amd64": sumB}}
	if err := want.Write(path); err != nil {
		t.Fatal(err)
	}
	got, err := ReadLock(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("read again (-want +got):\n%s", diff)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	wantText := `# What the checksums of the plugins' binaries must be, by platform. Written by: starling plugin lock

plugin "lan" {
  sha256 = {
    "linux/amd64" = "` + sumB + `"
  }
}

plugin "tag" {
  sha256 = {
    "darwin/arm64" = "` + sumB + `"
    "linux/amd64"  = "` + sumA + `"
  }
}
`
	if diff := cmp.Diff(wantText, string(text)); diff != "" {
		t.Errorf("the file (-want +got):\n%s", diff)
	}
}
