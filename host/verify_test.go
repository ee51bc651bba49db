package main_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/starling-sync/starling/host/scaffold"
	"github.com/starling-sync/starling/sdk/rpc/rpctest"
)

// verdict runs starling plugin verify and returns its results by id, its summary, what it said on standard error, and
// its exit status.
func verdict(t *testing.T, args ...string) (results map[string]map[string]any, summary map[string]any, said string, status int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), mustBuild(t), append([]string{"plugin", "verify", "--json"}, args...)...) //nolint:gosec // our own binary
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	_ = cmd.Run() // the exit status says the same
	results = map[string]map[string]any{}
	lines := bufio.NewScanner(&out)
	for lines.Scan() {
		var object map[string]any
		if err := json.Unmarshal(lines.Bytes(), &object); err != nil {
			t.Fatalf("%s: %v", lines.Text(), err)
		}
		if id, isResult := object["id"].(string); isResult {
			results[id] = object
		} else {
			summary = object
		}
	}
	return results, summary, errs.String(), cmd.ProcessState.ExitCode()
}

// TestTaken wants the names that no new plugin may have to be those of the plugins that there are.
func TestTaken(t *testing.T) {
	binaries, err := filepath.Glob(filepath.Join(filepath.Dir(mustBuild(t)), "plugins", "*"))
	if err != nil {
		t.Fatal(err)
	}
	got := map[scaffold.Kind][]string{}
	for _, path := range binaries {
		client := rpctest.Start(t, path).Client()
		info, err := client.Info(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range info.Models {
			got[scaffold.Model] = append(got[scaffold.Model], string(d.Model))
		}
		if info.Transport != "" {
			got[scaffold.Transport] = append(got[scaffold.Transport], info.Transport)
		}
	}
	for _, names := range got {
		slices.Sort(names)
	}
	if diff := cmp.Diff(got, scaffold.Taken()); diff != "" {
		t.Errorf("taken names (-plugins +scaffold):\n%s", diff)
	}
}

// TestEnvironment starts the program with variables that the library of the conformance suite can not read.
func TestEnvironment(t *testing.T) {
	for _, variable := range []string{"RAPID_CHECKS=many", "RAPID_SEED=x", "RAPID_SHRINKTIME=long"} {
		t.Run(variable, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), mustBuild(t), "version") //nolint:gosec // our own binary
			cmd.Env = append(os.Environ(), variable)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

func TestPluginVerify(t *testing.T) {
	t.Parallel()
	plugins := filepath.Join(filepath.Dir(mustBuild(t)), "plugins")
	t.Run("kept", func(t *testing.T) {
		results, summary, said, status := verdict(t, filepath.Join(plugins, "tag"))
		if status != 0 || said != "" || summary["broken"] != 0.0 || len(results) < 25 {
			t.Errorf("status %d, said %q, %d results, summary %v", status, said, len(results), summary)
		}
		if models, _ := json.Marshal(summary["models"]); string(models) != `["tag","tagging"]` { //nolint:errchkjson // from JSON
			t.Errorf("models %s", models)
		}
	})
	t.Run("broken", func(t *testing.T) {
		// The entry model takes few words as a kind: what the laws try by themselves is none of them.
		results, summary, said, status := verdict(t, filepath.Join(plugins, "entry"), "--law", "MODEL-011,MODEL-012,MODEL-013")
		if status != 1 || summary["broken"] != 1.0 || results["MODEL-011"]["status"] != "broken" || results["MODEL-012"]["status"] != "skipped" || results["MODEL-013"]["status"] != "kept" {
			t.Errorf("status %d, summary %v, results %.2000v", status, summary, results)
		}
		if !strings.Contains(said, "breaks 1 law: MODEL-011") {
			t.Errorf("said %q", said)
		}
	})
	t.Run("with a record", func(t *testing.T) {
		_, summary, said, status := verdict(t, filepath.Join(plugins, "entry"), "--law", "MODEL-011", "--record", `{"name":"a","kind":"file","size":0,"permissions":420,"content_hash":"sha256:00ff"}`)
		if status != 0 || summary["kept"] != 1.0 {
			t.Errorf("status %d, said %q, summary %v", status, said, summary)
		}
	})
	t.Run("for people", func(t *testing.T) {
		if runtime.GOOS == "windows" {
			t.Skip("a program there has .exe in its name")
		}
		broken := filepath.Join(t.TempDir(), "broken-no tie-break")
		if err := os.Rename(rpctest.Build(t, "../sdk/verify/testdata/broken"), broken); err != nil {
			t.Fatal(err)
		}
		text := func(more ...string) string {
			args := append([]string{"plugin", "verify", broken, "--law", "MODEL-030"}, more...)
			out, err := exec.CommandContext(t.Context(), mustBuild(t), args...).Output() //nolint:gosec // our own binary
			if err == nil {
				t.Error("a broken law ends with status 0")
			}
			return string(out)
		}
		first := text()
		seed := regexp.MustCompile(`to repeat it: --law MODEL-030 (--seed) ([0-9]+)\n`).FindStringSubmatch(first)
		if seed == nil {
			t.Fatalf("no seed:\n%s", first)
		}
		if !strings.Contains(first, "\n             ") || !strings.Contains(first, "\n           want  ") {
			t.Errorf("no history to read:\n%s", first)
		}
		if again := text(seed[1:]...); !strings.Contains(again, "failed after 0 tests") {
			t.Errorf("the seed of a broken history begins with another:\n%s", again)
		}
	})
	t.Run("misuse", func(t *testing.T) {
		for _, args := range [][]string{
			{}, {filepath.Join(plugins, "tag"), "--config", "device.hcl"}, {filepath.Join(plugins, "tag"), "--seed", "today"},
		} {
			if _, _, said, status := verdict(t, args...); status != 2 || said == "" {
				t.Errorf("%v: status %d, said %q", args, status, said)
			}
		}
		if _, _, said, status := verdict(t, filepath.Join(plugins, "absent")); status != 1 || !strings.Contains(said, "absent") {
			t.Errorf("status %d, said %q", status, said)
		}
	})
}
