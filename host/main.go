// Command starling keeps SQL data in step across devices, with no leader.
//
// This package puts the parts of the host together: wire.go names them in the order of the flow, the files beside it
// hold the joints between packages that do not know one another.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/starling-sync/starling/host/command"
	"github.com/starling-sync/starling/host/demo"
	_ "github.com/starling-sync/starling/host/environment" // before other packages are initialized
)

func main() { os.Exit(run()) }

func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return command.Execute(ctx, command.Deps{
		Init: makeDevice, Run: runHost, Demo: showDemo, Dev: showDev, Describe: describePlugins, DescribeBinary: describeBinary, Chosen: chosen, Version: version(), Now: time.Now,
		In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Terminal: term.IsTerminal(int(os.Stdin.Fd())), //nolint:gosec // a file descriptor
	}, os.Args[1:])
}

func showDemo(ctx context.Context, out io.Writer, o command.DemoOptions) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	width := 0
	if columns, _, err := term.GetSize(int(os.Stdout.Fd())); err == nil { //nolint:gosec // a file descriptor
		width = max(columns, 20)
	}
	return demo.Run(ctx, demo.Options{
		Transport: o.Transport, NATS: o.NATS, Path: o.Path, Once: o.Once, Plugin: o.Plugin, Put: o.Put, Program: program, Out: out, Width: width,
	})
}

// version is what the build knows of itself: a release's tag, or the commit that was built.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return "devel " + s.Value[:min(len(s.Value), 12)]
		}
	}
	return "devel"
}
