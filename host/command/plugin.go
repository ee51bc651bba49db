package command

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/starling-sync/starling/host/control"
	"github.com/starling-sync/starling/host/scaffold"
)

func (a *app) pluginCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "plugin", Short: "Make, check and act on plugins"}
	cmd.AddCommand(a.pluginNewCommand(), a.pluginVerifyCommand(), a.pluginDescribeCommand(), a.pluginRestartCommand(), a.pluginLockCommand())
	cmd.AddCommand(a.swapCommands()...)
	return cmd
}

func (a *app) pluginRestartCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "restart NAME",
		Short: "Take up a plugin's binary anew and start it again, also after a quarantine or a swap of transports",
		Long: "Take up a plugin's binary anew and start it again, also after a quarantine.\n\n" +
			"A transport that a swap of transports has stopped runs again, beside the one that took its place, by what its block says\n" +
			"since the last reload, and peers hear that this device is reached by it too.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.call(cmd, func(ctx context.Context, host *control.Client) error {
				name, err := a.named(ctx, host, args[0])
				if err != nil {
					return err
				}
				if err := host.RestartPlugin(ctx, name); err != nil {
					return err
				}
				return a.printf("%s is being started again; see: starling plugin list\n", plain(name))
			})
		},
	}
}

func (a *app) pluginNewCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "new", Short: "Write the Go module of a plugin of your own"}
	for _, each := range []struct {
		kind         scaffold.Kind
		short, whole string
	}{
		{scaffold.Model, "Write the Go module of a model: a kind of record of your own", "NAME names the model and its table: lower-case letters, digits and underscores."},
		{scaffold.Transport, "Write the Go module of a transport: a way of your own between devices", "NAME is the kind of the transport: lower-case letters, digits and underscores."},
	} {
		var checkout, module string
		sub := &cobra.Command{
			Use:   string(each.kind) + " NAME [DIR]",
			Short: each.short,
			Long: each.short + ".\n\n" + each.whole + " The module is made in the folder DIR (default: NAME), " +
				"which must not be there yet. It builds, passes the conformance suite and runs as it is.",
			Args: cobra.RangeArgs(1, 2),
			RunE: func(cmd *cobra.Command, args []string) error {
				dir := args[len(args)-1]
				return a.newPlugin(cmd.Context(), scaffold.Plugin{Kind: each.kind, Name: args[0], Dir: dir, Module: module}, checkout)
			},
		}
		sub.Flags().StringVar(&checkout, "sdk", "", "build against the checkout of Starling at `path` (default: this program's version or, where it is none that is published, the checkout around this folder or this program)")
		sub.Flags().StringVar(&module, "module", "", "`path` of the Go module (default example.com/NAME)")
		cmd.AddCommand(sub)
	}
	return cmd
}

// newPlugin writes the module and says what to do with it.
func (a *app) newPlugin(ctx context.Context, p scaffold.Plugin, checkout string) error {
	if err := p.Check(); err != nil {
		return err
	}
	info, _ := debug.ReadBuildInfo()
	var near []string
	if here, err := os.Getwd(); err == nil {
		near = append(near, here)
	}
	if program, err := os.Executable(); err == nil {
		near = append(near, filepath.Dir(program))
	}
	var err error
	if p.SDK, err = scaffold.FindSDK(info, checkout, near...); err != nil {
		return err
	}
	note, err := scaffold.Write(ctx, p)
	if err != nil {
		return err
	}
	against := "Starling " + p.SDK.Version
	if p.SDK.Checkout != "" {
		against = "the checkout of Starling in " + p.SDK.Checkout
	}
	put := ` --put '{"name":"hello"}'` // into a model that comes with Starling
	if p.Kind == scaffold.Model {
		put = ` --put '{"name":"first"}'`
	}
	if err := a.printf("made the %s %s in %s, against %s\nnext:  cd %[3]s && go build -o %[2]s .\n       starling plugin verify ./%[2]s\n       starling demo --plugin ./%[2]s%[5]s\n",
		p.Kind, p.Name, p.Dir, against, put); err != nil {
		return err
	}
	if note != "" {
		_, err = fmt.Fprintf(a.Err, "note: %s\n", note)
	}
	return printed(err)
}
