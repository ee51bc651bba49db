package protocol_test

import (
	"go/ast"
	"go/constant"
	"go/parser"
	"go/token"
	"go/types"
	"path/filepath"
	"strings"
	"testing"

	"github.com/starling-sync/starling/host/membership"
	"github.com/starling-sync/starling/host/peersync"
	"github.com/starling-sync/starling/host/protocol"
)

// TestPage_Times holds the times that PROTOCOL.md states against the engine's.
func TestPage_Times(t *testing.T) {
	protocol.CheckDefaults(t, protocol.PageRows(t, "time or bound", "default"), peersync.DefaultConfig())
}

// TestPage_Constants holds the constants that PROTOCOL.md names against the source, which is where they are.
func TestPage_Constants(t *testing.T) {
	for _, row := range protocol.PageRows(t, "constant", "value") {
		at := strings.LastIndexByte(row[0], '.')
		want, found := constantIn(t, row[0][:max(at, 0)], row[0][at+1:])
		if got := protocol.PageNumber(t, row[1]); !found || got != want {
			t.Errorf("PROTOCOL.md says %s of %s; the source %d (found: %t)", row[1], row[0], want, found)
		}
	}
}

// constantIn returns the value of the constant name that a folder of the module declares by literals alone.
func constantIn(t *testing.T, folder, name string) (value int64, found bool) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", "..", folder, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, path, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok || len(spec.Names) != 1 || spec.Names[0].Name != name || len(spec.Values) != 1 {
				return true
			}
			result, err := types.Eval(fset, nil, token.NoPos, types.ExprString(spec.Values[0]))
			if err == nil && result.Value != nil {
				value, found = constant.Int64Val(constant.ToInt(result.Value))
			}
			return true
		})
	}
	return value, found
}

// TestPage_Words looks for what the page can only quote.
func TestPage_Words(t *testing.T) {
	page := strings.Join(protocol.PageLines(t), "\n")
	for _, word := range []string{`ALPN "` + membership.ALPN + `"`, "This build speaks 1 to 1.", "A code is good for 10 minutes"} {
		if !strings.Contains(page, word) {
			t.Errorf("PROTOCOL.md does not say %q", word)
		}
	}
	if protocol.MinVersion != 1 || protocol.MaxVersion != 1 || membership.DefaultLife.Minutes() != 10 {
		t.Error("bring PROTOCOL.md, and this test, up to the range of versions and the life of a code")
	}
}
