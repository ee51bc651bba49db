package docs_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/starling-sync/starling/sdk/rpc/rpctest"
)

// TestMetrics holds the plugins' table in metrics.md to what each of them says that it counts, both ways.
func TestMetrics(t *testing.T) {
	if testing.Short() {
		t.Skip("builds and runs real processes: left out by -short")
	}
	page, err := os.ReadFile("metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	wrong := map[string]bool{} // rows that no plugin has asked for yet
	for line := range strings.Lines(string(page)) {
		if strings.HasPrefix(line, "| `starlingplugin_") {
			wrong[line] = true
		}
	}
	mains, err := filepath.Glob("../plugins/*/main.go")
	if err != nil || len(mains) == 0 {
		t.Fatal("no plugins: ", err)
	}
	counted := 0
	for _, main := range mains {
		dir := filepath.Dir(main)
		metrics, err := rpctest.Start(t, rpctest.Build(t, dir)).Client().Metrics(t.Context())
		if err != nil {
			t.Fatalf("%s: %v", dir, err)
		}
		for _, m := range metrics {
			counted++
			unit := ""
			for _, each := range []string{"seconds", "bytes"} {
				if strings.HasSuffix(strings.TrimSuffix(m.Name, "_total"), "_"+each) {
					unit = " " + each
				}
			}
			row := fmt.Sprintf("| `starlingplugin_%s` | %s |%s | %s | %s |\n", m.Name, m.Kind, unit, filepath.Base(dir), m.Help)
			if !wrong[row] {
				t.Errorf("the page lacks: %s", row)
			}
			delete(wrong, row)
		}
	}
	for row := range wrong {
		t.Errorf("no plugin counts: %s", row)
	}
	if counted == 0 {
		t.Error("no plugin counts anything")
	}
}
