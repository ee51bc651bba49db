package telemetry

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the table of the host's metrics in docs/metrics.md")

const page = "../../docs/metrics.md"

var tableOfHost = regexp.MustCompile(`(?s)(## The host's metrics\n.*?\|---\|---\|---\|---\|---\|\n)(.*?)(\n## )`)

// unitOf returns the unit that a name ends in.
func unitOf(name string) string {
	name = strings.TrimSuffix(name, "_total")
	for suffix, unit := range map[string]string{"_seconds": "seconds", "_bytes": "bytes", "_ratio": "0 to 1"} {
		if strings.HasSuffix(name, suffix) {
			return unit
		}
	}
	return ""
}

// TestPage holds docs/metrics.md to the code, both ways.
func TestPage(t *testing.T) {
	var want strings.Builder
	for _, d := range Descriptions() {
		labels := "`" + strings.Join(d.Labels, "`, `") + "`"
		if len(d.Labels) == 0 {
			labels = ""
		}
		fmt.Fprintf(&want, "| `%s` | %s | %s | %s | %s |\n", d.Name, d.Type, unitOf(d.Name), labels, d.Help)
	}
	raw, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	at := tableOfHost.FindSubmatchIndex(raw)
	if at == nil {
		t.Fatal("the page has no table of the host's metrics")
	}
	if *update {
		out := string(raw[:at[4]]) + want.String() + string(raw[at[6]:])
		if err := os.WriteFile(page, []byte(out), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	got := strings.TrimSpace(string(raw[at[4]:at[5]])) + "\n"
	if diff := cmp.Diff(want.String(), got); diff != "" {
		t.Errorf("go test ./host/telemetry -run TestPage -update writes it (-code +page):\n%s", diff)
	}
}

// TestNames holds the names to the conventions of Prometheus.
func TestNames(t *testing.T) {
	seen := map[string]bool{}
	for _, d := range Descriptions() {
		switch {
		case seen[d.Name]:
			t.Errorf("%s is there twice", d.Name)
		case !regexp.MustCompile(`^starling_[a-z_]+$`).MatchString(d.Name):
			t.Errorf("%s does not begin with starling_", d.Name)
		case d.Type == "counter" != strings.HasSuffix(d.Name, "_total"):
			t.Errorf("%s is a %s", d.Name, d.Type)
		case d.Type == "histogram" && unitOf(d.Name) != "seconds":
			t.Errorf("%s has no unit", d.Name)
		case !strings.HasSuffix(d.Help, ".") || strings.Contains(d.Help, "|"):
			t.Errorf("%s: the help is no sentence: %q", d.Name, d.Help)
		}
		seen[d.Name] = true
	}
}
