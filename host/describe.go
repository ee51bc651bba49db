package main

import (
	"context"
	"errors"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sync/errgroup"

	"github.com/starling-sync/starling/host/command"
	"github.com/starling-sync/starling/host/config"
	"github.com/starling-sync/starling/host/control"
	"github.com/starling-sync/starling/host/supervisor"
	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/rpc"
)

// blocks implements supervisor.Blocks by the file that they were read from.
type blocks map[sdk.ModelName]*config.Block

// Check implements supervisor.Blocks.
func (b blocks) Check(declared map[sdk.ModelName][]sdk.Setting) error {
	var found []error
	for model, block := range b {
		found = append(found, block.Check(declared[model]))
	}
	return mistakes(found)
}

// Locate implements supervisor.Blocks.
func (b blocks) Locate(model sdk.ModelName, refusal error) error {
	if block, ok := b[model]; ok {
		return block.Locate(refusal)
	}
	return sdk.Errorf(sdk.CodeOf(refusal), "configure model %s, which has no block: %w", model, refusal)
}

// Secrets implements supervisor.Blocks.
func (b blocks) Secrets(declared map[sdk.ModelName][]sdk.Setting) []string {
	var secrets []string
	for model, block := range b {
		secrets = append(secrets, block.Secrets(declared[model])...)
	}
	return secrets
}

// mistakes returns errors about a configuration as one, or nil. Those of a file come as its Diagnostics, in its order.
func mistakes(errs []error) error {
	var found config.Diagnostics
	for _, err := range errs {
		if these, ok := errors.AsType[config.Diagnostics](err); ok {
			found = append(found, these...)
		} else if err != nil {
			return err
		}
	}
	if len(found) == 0 {
		return nil
	}
	return found.InOrder()
}

// tryAtOnce is how many plugins are started at once only to be asked.
const tryAtOnce = 4

// describePlugins implements command.Deps.Describe.
func describePlugins(ctx context.Context, c *config.Config) []command.Described {
	all := specs(c)
	out := make([]command.Described, len(all))
	var tries errgroup.Group
	tries.SetLimit(tryAtOnce)
	for i, spec := range all {
		tries.Go(func() error {
			out[i] = askPlugin(ctx, spec, storeDir(c))
			return nil
		})
	}
	_ = tries.Wait() // each has its error
	return out
}

// chosen implements command.Deps.Chosen.
func chosen(c *config.Config, plugin, path string) (control.Build, bool, error) {
	b, known, err := supervisor.Chosen(storeDir(c), plugin, path)
	return control.Build(b), known, err
}

// describeBinary implements command.Deps.DescribeBinary. That it wants settings, which it is not given here, is no error.
func describeBinary(ctx context.Context, path string) command.Described {
	info, err := supervisor.Describe(ctx, supervisor.Spec{Name: path, Path: path, Blocks: blocks{}}, "", hclog.NewNullLogger())
	d := saidOf(path, info)
	if _, wrong := errors.AsType[*supervisor.ConfigError](err); !wrong {
		d.Err = err
	}
	return d
}

// askPlugin asks the build of a plugin that a host with this store would start.
func askPlugin(ctx context.Context, spec supervisor.Spec, store string) command.Described {
	info, build, unsure, err := supervisor.DescribeNext(ctx, spec, store, "", hclog.NewNullLogger())
	if wrong, ok := errors.AsType[*supervisor.ConfigError](err); ok {
		err = wrong.Unwrap()
	}
	d := saidOf(spec.Name, info)
	d.Build, d.Unsure, d.Err = control.Build(build), unsure, err
	return d
}

// saidOf is what a plugin has said of itself.
func saidOf(name string, info rpc.Info) command.Described {
	return command.Described{Plugin: name, Version: info.Version, Transport: info.Transport, Models: info.Models, Settings: info.Settings}
}
