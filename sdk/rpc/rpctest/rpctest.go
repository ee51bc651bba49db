// Package rpctest runs plugins as real processes in tests, so that a plugin's laws are tested in process and across
// the border with the same suite. Every process it starts ends with the test.
package rpctest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/rpc"
)

const callTimeout = 20 * time.Second

// Build builds the main package in dir ("." for the test's own) and returns the path of the binary.
func Build(tb testing.TB, dir string) string {
	tb.Helper()
	abs, err := filepath.Abs(dir)
	if err != nil {
		tb.Fatal(err)
	}
	path := filepath.Join(tb.TempDir(), filepath.Base(abs))
	if runtime.GOOS == "windows" {
		path += ".exe"
	}
	cmd := exec.CommandContext(tb.Context(), "go", "build", "-ldflags", "-s -w", "-o", path, ".") //nolint:gosec // the test's own package
	cmd.Dir = abs
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("go build in %s: %v\n%s", abs, err, out)
	}
	return path
}

// Main lets a test binary be a plugin too: called at the beginning of TestMain, it serves servers and never returns
// in the processes that Self's path starts, and returns at once in the test itself.
func Main(servers ...any) {
	if rpc.StartedByHost() {
		rpc.Serve(servers...)
		os.Exit(0)
	}
}

// Self returns the path of the test binary, for a package whose TestMain calls Main.
func Self(tb testing.TB) string {
	tb.Helper()
	path, err := os.Executable()
	if err != nil {
		tb.Fatal(err)
	}
	return path
}

// Command returns how Start starts the plugin at path, for tests that change it and call rpc.Start themselves.
func Command(tb testing.TB, path string) rpc.Command {
	tb.Helper()
	level := hclog.Warn
	if testing.Verbose() {
		level = hclog.Debug
	}
	return rpc.Command{
		Name: filepath.Base(path), Path: path,
		Log: hclog.New(&hclog.LoggerOptions{Name: "plugin", Level: level, Output: os.Stderr}),
	}
}

// Start starts the plugin at path.
func Start(tb testing.TB, path string) *rpc.Process {
	tb.Helper()
	p, err := rpc.Start(tb.Context(), Command(tb, path))
	if err != nil {
		tb.Fatalf("start %s: %v", path, err)
	}
	tb.Cleanup(p.Kill)
	return p
}

// Models starts the plugin at path and returns its models, configured with an empty block, in the order of rpc.Serve.
func Models(tb testing.TB, path string) []sdk.ModelServer {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), callTimeout)
	defer cancel()
	client := Start(tb, path).Client()
	info, err := client.Info(ctx)
	if err != nil {
		tb.Fatalf("info of %s: %v", path, err)
	}
	var models []sdk.ModelServer
	for _, d := range info.Models {
		m := client.Model(d)
		configure(ctx, tb, m)
		models = append(models, m)
	}
	if len(models) == 0 {
		tb.Fatalf("%s serves no model", path)
	}
	return models
}

// Transport starts the plugin at path and returns its transport, configured with an empty block.
func Transport(tb testing.TB, path string) sdk.Transport {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), callTimeout)
	defer cancel()
	client := Start(tb, path).Client()
	info, err := client.Info(ctx)
	if err != nil {
		tb.Fatalf("info of %s: %v", path, err)
	}
	if info.Transport == "" {
		tb.Fatalf("%s serves no transport", path)
	}
	t := client.Transport(info.Transport)
	configure(ctx, tb, t)
	return t
}

func configure(ctx context.Context, tb testing.TB, target any) {
	tb.Helper()
	if err := target.(sdk.Configurable).Configure(ctx, []byte("{}")); err != nil { //nolint:forcetypeassert // the client's always are
		tb.Fatalf("configure: %v", err)
	}
}
