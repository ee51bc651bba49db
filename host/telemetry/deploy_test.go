package telemetry

import (
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// paged returns the metrics that docs/metrics.md names.
func paged(t *testing.T) map[string]bool {
	t.Helper()
	raw, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{"up": true}
	for _, row := range regexp.MustCompile("(?m)^\\| `((?:starling|starlingplugin)_[a-z_]+)` \\|").FindAllStringSubmatch(string(raw), -1) {
		names[row[1]] = true
	}
	if len(names) < 60 {
		t.Fatalf("the page has %d metrics", len(names))
	}
	return names
}

// checkExpr wants every metric and label of an expression to be there. It is no parser of PromQL: names of metrics are known
// by their beginning.
func checkExpr(t *testing.T, where, expr string, names map[string]bool, labels map[string][]string) {
	t.Helper()
	found := regexp.MustCompile(`\b(?:starling|starlingplugin)_[a-z_]+`).FindAllString(expr, -1)
	if len(found) == 0 && !strings.Contains(expr, "up{") {
		t.Errorf("%s: no metric in %s", where, expr)
	}
	for _, name := range found {
		if base := strings.TrimSuffix(name, "_bucket"); base != name {
			name = base
		}
		if !names[name] {
			t.Errorf("%s: there is no metric %s: %s", where, name, expr)
		}
	}
	for _, m := range regexp.MustCompile(`\b(starling_[a-z_]+)\{([^}]*)\}`).FindAllStringSubmatch(expr, -1) {
		known := append([]string{"instance", "job", "le"}, labels[strings.TrimSuffix(m[1], "_bucket")]...)
		for _, l := range regexp.MustCompile(`([a-z_]+)\s*[!=]`).FindAllStringSubmatch(m[2], -1) {
			ok := false
			for _, k := range known {
				ok = ok || k == l[1]
			}
			if !ok {
				t.Errorf("%s: %s has no label %s", where, m[1], l[1])
			}
		}
	}
	if strings.Count(expr, "(") != strings.Count(expr, ")") || strings.Count(expr, "{") != strings.Count(expr, "}") {
		t.Errorf("%s: brackets do not match: %s", where, expr)
	}
}

func labelsOf() map[string][]string {
	all := map[string][]string{}
	for _, d := range Descriptions() {
		all[d.Name] = d.Labels
	}
	return all
}

// TestAlerts holds the example alerts to the page of metrics.
func TestAlerts(t *testing.T) {
	raw, err := os.ReadFile("../../deploy/prometheus/starling-alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	decoder := yaml.NewDecoder(strings.NewReader(string(raw)))
	decoder.KnownFields(true)
	if err := decoder.Decode(&file); err != nil {
		t.Fatal(err)
	}
	names, labels, seen := paged(t), labelsOf(), map[string]bool{}
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			checkExpr(t, r.Alert, r.Expr, names, labels)
			if r.Annotations["summary"] == "" || r.Labels["severity"] == "" || seen[r.Alert] {
				t.Errorf("%s has no summary or severity, or is there twice", r.Alert)
			}
			seen[r.Alert] = true
		}
	}
	if len(seen) < 10 {
		t.Errorf("only %d alerts", len(seen))
	}
	checkAlertTests(t, seen, names, labels)
	var scrape map[string]any
	if raw, err = os.ReadFile("../../deploy/prometheus/scrape.yml"); err == nil {
		err = yaml.Unmarshal(raw, &scrape)
	}
	if err != nil || scrape["scrape_configs"] == nil {
		t.Errorf("scrape.yml: %v", err)
	}
}

// checkAlertTests wants each alert to fire once at least in the tests that are beside them, and these to feed series that there are.
func checkAlertTests(t *testing.T, alerts, names map[string]bool, labels map[string][]string) {
	t.Helper()
	raw, err := os.ReadFile("../../deploy/prometheus/starling-alerts.test.yml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Tests []struct {
			Series []struct{ Series string } `yaml:"input_series"`
			Alerts []struct {
				Alert string `yaml:"alertname"`
				Fire  []any  `yaml:"exp_alerts"`
			} `yaml:"alert_rule_test"`
		}
	}
	if err := yaml.Unmarshal(raw, &file); err != nil {
		t.Fatal(err)
	}
	fires := map[string]bool{}
	for _, test := range file.Tests {
		for _, s := range test.Series {
			checkExpr(t, "starling-alerts.test.yml", s.Series, names, labels)
		}
		for _, a := range test.Alerts {
			fires[a.Alert] = fires[a.Alert] || len(a.Fire) > 0
		}
	}
	for alert := range alerts {
		if !fires[alert] {
			t.Errorf("starling-alerts.test.yml has no time at which %s fires", alert)
		}
	}
}

// TestAlerts_promtool has Prometheus's own tool look at what is for it, and try the alerts.
func TestAlerts_promtool(t *testing.T) {
	for _, args := range [][]string{{"check", "config", "scrape.yml"}, {"check", "rules", "starling-alerts.yml"}, {"test", "rules", "starling-alerts.test.yml"}} {
		promtool(t, nil, args...)
	}
}

// promtool runs Prometheus's tool in the folder of the files that are for it, and wants it content.
func promtool(t *testing.T, input io.Reader, args ...string) {
	t.Helper()
	tool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool is not on this machine; on Debian it is in the package prometheus")
	}
	cmd := exec.CommandContext(t.Context(), tool, args...) //nolint:gosec // fixed arguments
	cmd.Dir, cmd.Stdin = "../../deploy/prometheus", input
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// TestDashboard holds the example dashboard to the page of metrics.
func TestDashboard(t *testing.T) {
	raw, err := os.ReadFile("../../deploy/grafana/starling.json")
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		Panels []struct {
			ID      int
			Title   string
			GridPos struct{ X, Y, W, H int }
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(raw, &board); err != nil {
		t.Fatal(err)
	}
	names, labels, taken := paged(t), labelsOf(), map[[2]int]string{}
	for _, p := range board.Panels {
		if len(p.Targets) == 0 {
			t.Errorf("%s shows nothing", p.Title)
		}
		for _, target := range p.Targets {
			checkExpr(t, p.Title, target.Expr, names, labels)
		}
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" {
					t.Fatalf("%s lies on %s", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
	}
	if len(board.Panels) < 15 {
		t.Errorf("only %d panels", len(board.Panels))
	}
}

// TestUnit_NeverGivenUp wants a host started again however often it ended: what it waited for may be back.
func TestUnit_NeverGivenUp(t *testing.T) {
	raw, err := os.ReadFile("../../deploy/systemd/starling.service")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"StartLimitIntervalSec=0", "Restart=on-failure"} {
		if !strings.Contains("\n"+string(raw), "\n"+line+"\n") {
			t.Errorf("the unit has no %s", line)
		}
	}
}

// TestUnits has systemd look at its units.
func TestUnits(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not on this machine")
	}
	dir := t.TempDir()
	args := []string{"verify", "--man=no"}
	for _, name := range []string{"starling.service", "starling.socket"} {
		raw, err := os.ReadFile(filepath.Join("../../deploy/systemd", name))
		if err != nil {
			t.Fatal(err)
		}
		text := strings.Replace(string(raw), "/usr/bin/starling", "/bin/true", 1) // which is there
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, path)
	}
	out, err := exec.CommandContext(t.Context(), analyze, args...).CombinedOutput() //nolint:gosec // fixed arguments
	if err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	t.Run("security", func(t *testing.T) { // deploy/README.md names the figure; versions of systemd differ a little
		out, err := exec.CommandContext(t.Context(), analyze, "security", "--offline=true", "--threshold=20", args[2]).CombinedOutput() //nolint:gosec // fixed arguments
		if strings.Contains(string(out), "unrecognized option") {
			t.Skip("systemd-analyze is older than 250, and judges no file")
		}
		if err != nil {
			t.Errorf("systemd-analyze security: %v\n%s", err, out)
		}
	})
}
