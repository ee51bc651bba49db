package main

import (
	"context"
	"io"
	"os"

	"github.com/hashicorp/go-hclog"

	"github.com/starling-sync/starling/host/demo"
	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/rpc"
)

// showDev runs the plugin in dir on two devices while it is being written.
func showDev(ctx context.Context, out io.Writer, dir string) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	return demo.Dev(ctx, demo.DevOptions{Dir: dir, Program: program, Out: out, Describe: describePlugin})
}

// describePlugin starts the plugin at path, asks what it serves, and ends it.
func describePlugin(ctx context.Context, path string) (models []sdk.ModelName, transport string, err error) {
	process, err := rpc.Start(ctx, rpc.Command{Name: "plugin", Path: path, Log: hclog.NewNullLogger()})
	if err != nil {
		return nil, "", err
	}
	defer process.Kill()
	info, err := process.Client().Info(ctx)
	for _, d := range info.Models {
		models = append(models, d.Model)
	}
	return models, info.Transport, err
}
