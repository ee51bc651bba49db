// Package rpctest runs plugins as real processes in tests, so that a plugin's laws are tested in process and across
// the border with the same suite. Every process it starts ends with the test.
package rpctest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/rpc"
)

const callTimeout = 2 * time.Minute // a busy machine starts plugins slowly

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
	if err := BuildAt(path, ".", "-C", abs, "-ldflags", "-s -w"); err != nil {
		tb.Fatal(err)
	}
	return path
}

// BuildAt builds the main package pkg with flags of go build. path, which is absolute and where no file is yet, may be one with a file
// in Go's cache afterwards: replace it, but do not write to it.
func BuildAt(path, pkg string, flags ...string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return err
	}
	flags = append(slices.Clone(flags), "-buildvcs=false")
	// Go keeps what go run has linked, by content, and links anew at each go build. Many tests build the same few programs.
	run := append(append([]string{"run"}, flags...), "-exec", "go version", pkg)
	if line, err := exec.Command("go", run...).Output(); err == nil { //nolint:gosec // a test's arguments
		if end := strings.LastIndex(string(line), ": "); end > 0 && os.Link(string(line[:end]), path) == nil {
			return nil
		}
	}
	// It does not build, or the cache is on another disk. A copy made here could be found open for writing by a process started meanwhile.
	build := append(append([]string{"build"}, flags...), "-o", path, pkg)
	if out, err := exec.Command("go", build...).CombinedOutput(); err != nil { //nolint:gosec // a test's arguments
		return fmt.Errorf("go %s: %w\n%s", strings.Join(build, " "), err, out)
	}
	return nil
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
