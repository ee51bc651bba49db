package main

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/starling-sync/starling"

// allowed lists, for each package, which of our packages its code (tests aside) may import. Arrows run down only.
// A name that ends in /... stands for a folder of packages that share one row.
var allowed = map[string][]string{
	"hlc":                        {},
	"sdk":                        {"hlc"},
	"sdk/fractional":             {},
	"sdk/rpc/rpcpb":              {},
	"sdk/rpc":                    {"sdk", "hlc", "sdk/rpc/rpcpb"},
	"sdk/rpc/rpctest":            {"sdk", "sdk/rpc"},
	"sdk/sdktest":                {"sdk", "hlc"},
	"sdk/verify":                 {"sdk", "sdk/rpc", "sdk/rpc/rpcpb", "sdk/sdktest"},
	"plugins/...":                {"sdk", "sdk/fractional", "sdk/rpc"},
	"host/config":                {"sdk", "host/database/dsn"},
	"host/history":               {"sdk", "hlc"},
	"host/database":              {"sdk", "hlc", "host/database/dsn"},
	"host/database/dsn":          {"sdk"},
	"host/database/databasetest": {"host/database"},
	"host/supervisor":            {"sdk", "sdk/rpc"},
	"host/registry":              {"sdk", "hlc", "host/database"},
	"host/peerlog":               {"sdk", "hlc", "host/history", "host/database"},
	"host/transaction":           {"sdk", "hlc", "host/history", "host/database"},
	"host/source":                {"sdk"},
	"host/eventlog":              {},
	"host/environment":           {},
	"host/protocol":              {"sdk", "hlc", "host/history", "host/protocol/protocolpb"},
	"host/protocol/...":          {},
	"host/peersync":              {"sdk", "hlc", "host/history", "host/protocol"},
	"host/replica":               {"sdk", "hlc", "host/history", "host/database", "host/registry", "host/peerlog", "host/transaction", "host/peersync", "host/protocol"},
	"host/membership":            {"sdk", "hlc"},
	"host/control":               {"sdk", "hlc", "host/control/controlpb"},
	"host/control/...":           {},
	"host/control/controltest":   {"sdk", "hlc", "host/control"},
	"host/service":               {"sdk"},
	"host/telemetry":             {"sdk", "hlc", "host/peersync", "host/registry", "host/supervisor"},
	"host/clustertest":           {"sdk", "host/control", "sdk/rpc/rpctest"},
	"host/command":               {"host/config", "host/control", "host/scaffold", "sdk", "sdk/sdktest", "sdk/verify", "sdk/fractional"},
	"host/scaffold":              {"sdk"},
	"host/demo":                  {"host/control", "sdk", "sdk/rpc"},
	"host":                       {"hlc", "sdk", "sdk/rpc", "host/..."},
	"sim":                        {"hlc", "sdk", "host/history", "host/database", "host/registry", "host/peerlog", "host/transaction", "host/peersync", "host/protocol", "host/replica"},
	"sim/scale":                  {"hlc", "sdk", "host/history", "host/peersync", "host/protocol"},
	"bench":                      {"hlc", "sdk", "sdk/rpc", "host/..."},
}

// TestArchitecture parses the files itself, so that a changed file is never answered from the test cache's view of
// the package graph.
func TestArchitecture(t *testing.T) {
	root := ".."
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && path != root && (strings.HasPrefix(name, ".") || name == "testdata" || name == "bin" || name == "examples") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		checkFile(t, root, path)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func checkFile(t *testing.T, root, path string) {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
	if err != nil {
		t.Error(err)
		return
	}
	rel, err := filepath.Rel(root, filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	pkg := filepath.ToSlash(rel)
	row, ok := rowOf(pkg)
	if !ok {
		t.Errorf("%s: package %s is not in the table; say what it may import", path, pkg)
		return
	}
	for _, spec := range file.Imports {
		imported, _ := strconv.Unquote(spec.Path.Value)
		ours, found := strings.CutPrefix(imported, module+"/")
		if !found || strings.HasPrefix(ours, pkg+"/") {
			continue
		}
		if !slices.ContainsFunc(row, func(pattern string) bool { return matches(pattern, ours) }) {
			t.Errorf("%s: %s may not import %s", path, pkg, ours)
		}
	}
	if pkg != "host" {
		for _, spec := range file.Imports {
			if spec.Path.Value == `"go.uber.org/fx"` {
				t.Errorf("%s: fx is for the wiring in host alone", path)
			}
		}
	}
}

func rowOf(pkg string) ([]string, bool) {
	if row, ok := allowed[pkg]; ok {
		return row, true
	}
	for pattern, row := range allowed {
		if strings.HasSuffix(pattern, "/...") && matches(pattern, pkg) {
			return row, true
		}
	}
	return nil, false
}

func matches(pattern, pkg string) bool {
	folder, all := strings.CutSuffix(pattern, "/...")
	return pattern == pkg || all && strings.HasPrefix(pkg, folder+"/")
}
