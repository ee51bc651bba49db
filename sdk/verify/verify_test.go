package verify_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/rpc/rpctest"
	"github.com/starling-sync/starling/sdk/sdktest"
	"github.com/starling-sync/starling/sdk/verify"
)

func leftOut(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("builds and runs real processes: left out by -short")
	}
}

// TestPlugins checks plugins of Starling itself: what passes in process passes as a process too.
func TestPlugins(t *testing.T) {
	leftOut(t)
	for name, o := range map[string]verify.Options{
		"tag": {},
		"entry": {Records: []json.RawMessage{
			json.RawMessage(`{"name":"a","kind":"file","size":0,"permissions":420,"content_hash":"sha256:00ff"}`),
			json.RawMessage(`{"name":"photo.jpg","kind":"directory","size":1,"permissions":0,"content_hash":"sampled-sha256:0123456789abcdef"}`),
		}},
		"location":      {Records: []json.RawMessage{json.RawMessage(`{"path":"/home"}`), json.RawMessage(`{"path":"/srv"}`)}},
		"transport-tcp": {},
	} {
		t.Run(name, func(t *testing.T) {
			if name != "transport-tcp" { // whose laws look for goroutines that are left behind
				t.Parallel()
			}
			verify.Test(t, rpctest.Build(t, "../../plugins/"+name), o)
		})
	}
}

// bugs are the laws that must catch each bug of testdata/broken.
var bugs = map[string]string{
	"prints before the handshake":   "PLUGIN-001",
	"needs its neighbour":           "PLUGIN-001",
	"never gets there":              "PLUGIN-001",
	"silent by hand":                "PLUGIN-002",
	"raw: changes its mind":         "PLUGIN-003",
	"raw: has the host's name":      "PLUGIN-003",
	"raw: is not well":              "PLUGIN-004",
	"raw: takes no block":           "PLUGIN-005",
	"raw: takes any setting":        "PLUGIN-006",
	"raw: strict messages":          "PLUGIN-007",
	"raw: serves every model":       "PLUGIN-008",
	"raw: answers twice":            "PLUGIN-009",
	"raw: loses count":              "PLUGIN-009",
	"raw: small messages":           "PLUGIN-010",
	"raw: boundless messages":       "PLUGIN-011",
	"raw: dies of garbage":          "PLUGIN-012",
	"raw: hangs up at garbage":      "PLUGIN-012",
	"raw: works on after the drain": "PLUGIN-013",
	"raw: does not stop":            "PLUGIN-014",
	"raw: outlives its host":        "PLUGIN-015",
	"a source without an end":       "PLUGIN-016",
	"raw: refuses its default":      "PLUGIN-017",
	"raw: declares nonsense":        "PLUGIN-017",
	"raw: takes any type":           "PLUGIN-018",
	"raw: judges otherwise":         "PLUGIN-019",

	"no tie-break":      "MODEL-035",
	"no refusals":       "MODEL-040",
	"no reasons":        "MODEL-041",
	"repeats change":    "MODEL-031",
	"dies of deletes":   "MODEL-036",
	"panics at deletes": "MODEL-036",

	"transport: swaps bytes":              "TRANSPORT-002",
	"transport: takes everything at once": "TRANSPORT-006",
	"transport: never closes":             "TRANSPORT-007",
	"transport: leaks descriptors":        "TRANSPORT-012",
}

// TestPlugin_CatchesBugs wants each broken plugin to be caught by the right law, and each sound one by none of them.
func TestPlugin_CatchesBugs(t *testing.T) {
	leftOut(t)
	path := rpctest.Build(t, "testdata/broken")
	if err := os.WriteFile(filepath.Join(filepath.Dir(path), "neighbour"), nil, 0o600); err != nil { // no host takes it along
		t.Fatal(err)
	}
	check := func(t *testing.T, bug string, patience time.Duration, only ...string) verify.Report {
		t.Helper()
		report, err := verify.Plugin(t.Context(), path, verify.Options{Env: []string{"BROKEN=" + bug}, Patience: patience, Only: only}, 0, func(sdktest.Result) {})
		if err != nil {
			t.Fatal(err)
		}
		return report
	}
	for bug, law := range bugs {
		t.Run(bug, func(t *testing.T) {
			if !strings.HasPrefix(bug, "transport: ") { // whose laws look for goroutines that are left behind
				t.Parallel()
			}
			patience := 5 * time.Second // a start may take long on a busy machine
			if !strings.HasPrefix(law, "PLUGIN") {
				patience = 3 * time.Second
			}
			report := check(t, bug, patience, law)
			if report.Broken != 1 || len(report.Results) != 1 || len(report.Results[0].Reasons) == 0 {
				t.Fatalf("want %s broken, with a reason, got %+v", law, report)
			}
			t.Logf("%s: %.300s", law, strings.Join(report.Results[0].Reasons, "; "))
		})
	}
	t.Run("a model's death is told", func(t *testing.T) {
		t.Parallel()
		report := check(t, "dies of deletes", 5*time.Second, "MODEL-036")
		if reasons := strings.Join(report.Results[0].Reasons, "\n"); !strings.Contains(reasons, "panic: a delete") {
			t.Errorf("the reasons do not say what the process died of:\n%s", reasons)
		}
	})
	t.Run("no program at all", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "plugin")
		if err := os.WriteFile(file, []byte("not a program"), 0o600); err != nil {
			t.Fatal(err)
		}
		report, err := verify.Plugin(t.Context(), file, verify.Options{}, 0, func(sdktest.Result) {})
		if err != nil {
			t.Fatal(err)
		}
		if report.Broken != 1 || len(report.Results) != 1 || report.Results[0].ID != "PLUGIN-001" || report.Results[0].Status != sdktest.Broken {
			t.Errorf("want PLUGIN-001 broken, got %+v", report)
		}
	})
	for sound, only := range map[string][]string{"": nil, "transport: sound": nil, "raw": laws(verify.Laws())} {
		t.Run("sound "+sound, func(t *testing.T) {
			if !strings.HasPrefix(sound, "transport: ") { // as above
				t.Parallel()
			}
			report := check(t, sound, 0, only...)
			for _, r := range report.Results {
				if r.Status != sdktest.Kept && (only == nil || r.Status == sdktest.Broken) {
					t.Errorf("%s is %s: %v", r.ID, r.Status, r.Reasons)
				}
			}
			if report.Kept < 10 {
				t.Errorf("only %d laws were checked", report.Kept)
			}
		})
	}
}

// TestConformancePage holds docs/conformance.md to the laws: each has its row, in order, and there is no other.
func TestConformancePage(t *testing.T) {
	page, err := os.ReadFile("../../docs/conformance.md")
	if err != nil {
		t.Fatal(err)
	}
	var rows []string
	for line := range strings.Lines(string(page)) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "| PLUGIN-") || strings.HasPrefix(line, "| MODEL-") || strings.HasPrefix(line, "| TRANSPORT-") {
			rows = append(rows, line)
		}
	}
	var want []string
	seen := map[string]bool{}
	for _, law := range slices.Concat(verify.Laws(), sdktest.ModelLaws(), sdktest.TransportLaws()) {
		if seen[law.ID] {
			t.Errorf("two laws have the id %s", law.ID)
		}
		seen[law.ID] = true
		want = append(want, fmt.Sprintf("| %s | %s | %s |", law.ID, law.Name, law.Says))
	}
	if diff := cmp.Diff(want, rows); diff != "" {
		t.Errorf("docs/conformance.md differs from the laws (-laws +page):\n%s", diff)
	}
}

func laws(list []sdktest.Law) []string {
	ids := make([]string, len(list))
	for i := range list {
		ids[i] = list[i].ID
	}
	return ids
}

func TestPlugin_Errors(t *testing.T) {
	path := rpctest.Build(t, "testdata/broken")
	for what, test := range map[string]struct {
		path string
		o    verify.Options
		want sdk.Code
	}{
		"no such file":           {path + "-absent", verify.Options{}, sdk.CodeNotFound},
		"no such law":            {path, verify.Options{Only: []string{"MODEL-999"}}, sdk.CodeInvalid},
		"a folder":               {filepath.Dir(path), verify.Options{}, sdk.CodeInvalid},
		"an example of no model": {path, verify.Options{Records: []json.RawMessage{json.RawMessage(`{"colour":"red"}`)}}, sdk.CodeInvalid},
	} {
		t.Run(what, func(t *testing.T) {
			if _, err := verify.Plugin(t.Context(), test.path, test.o, 0, func(sdktest.Result) {}); sdk.CodeOf(err) != test.want {
				t.Errorf("want %s, got %s: %v", test.want, sdk.CodeOf(err), err)
			}
		})
	}
}

// TestPlugin_Block gives plugins a config block that they do not take: one law is broken by that, and no other is checked.
func TestPlugin_Block(t *testing.T) {
	path := rpctest.Build(t, "testdata/broken")
	for what, o := range map[string]verify.Options{
		"no such setting":        {Config: json.RawMessage(`{"colour":"red"}`)},
		"a wrong type":           {Env: []string{"BROKEN=raw"}, Config: json.RawMessage(`{"depth":"3"}`)},
		"what it refuses itself": {Env: []string{"BROKEN=raw"}, Config: json.RawMessage(`{"depth":4}`), Only: []string{"PLUGIN-009"}},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			report, err := verify.Plugin(t.Context(), path, o, 0, func(sdktest.Result) {})
			if err != nil {
				t.Fatal(err)
			}
			if report.Broken != 1 || len(report.Results) != 1 || report.Results[0].ID != "PLUGIN-005" || len(report.Models) == 0 {
				t.Fatalf("want PLUGIN-005 broken and nothing else checked, got %+v", report)
			}
			if reasons := strings.Join(report.Results[0].Reasons, "\n"); !strings.Contains(reasons, "does not take the config block {") {
				t.Errorf("reasons: %s", reasons)
			}
		})
	}
}

// TestPlugin_NotAbout asks for laws of what the plugin does not serve.
func TestPlugin_NotAbout(t *testing.T) {
	t.Parallel()
	path := rpctest.Build(t, "testdata/broken")
	report, err := verify.Plugin(t.Context(), path, verify.Options{Only: []string{"TRANSPORT-001", "MODEL-010"}}, 0, func(sdktest.Result) {})
	if err != nil {
		t.Fatal(err)
	}
	if report.Skipped != 2 || len(report.Results) != 2 {
		t.Fatalf("want two laws skipped, got %+v", report)
	}
	for i, want := range []string{"another ownership", "about transports, and the plugin serves none"} {
		if reasons := strings.Join(report.Results[i].Reasons, "\n"); !strings.Contains(reasons, want) {
			t.Errorf("%s: %q; want %q", report.Results[i].ID, reasons, want)
		}
	}
}
