// Package command is the command line of Starling.
//
// It promises one exit status rule (0 done, 1 failed, 2 misuse of the command line), errors on standard error that say
// what, where and what to do, plain text without colour, and with --json output for programs. Records, events and
// everything that comes in numbers is printed one object a line. What a command does to a running host it does
// through the control API; making, running and showing hosts is left to the functions in Deps.
package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/starling-sync/starling/host/config"
	"github.com/starling-sync/starling/host/control"
	"github.com/starling-sync/starling/sdk"
)

// Deps is what the commands need from outside.
type Deps struct {
	// Init makes a device in the folder dir: config.hcl, key and database. What is there already is not overwritten.
	Init func(ctx context.Context, dir string, settings config.Settings) (Made, error)
	// Run runs the host until ctx ends.
	Run func(ctx context.Context, c *config.Config) error
	// Demo shows two devices at work and writes what happens to out.
	Demo func(ctx context.Context, out io.Writer, options DemoOptions) error
	// Dev runs the plugin whose source is in dir on two devices until ctx ends, and builds and swaps it in as it changes.
	Dev func(ctx context.Context, out io.Writer, dir string) error
	// Describe starts each plugin of c just long enough to be asked and to be given its config block. What it returns is in the
	// order of the blocks.
	Describe func(ctx context.Context, c *config.Config) []Described
	// DescribeBinary is Describe of the plugin at path, without a config block.
	DescribeBinary func(ctx context.Context, path string) Described
	// Chosen returns the build of a plugin that the device's host has in use, or will have at its next start, and whether one is
	// known: path is the one that is configured. An error says that it can not be found out.
	Chosen func(c *config.Config, plugin, path string) (build control.Build, known bool, err error)

	Version  string
	Now      func() time.Time // its location is the one that times are shown in
	In       io.Reader
	Terminal bool // In is a person at a terminal, who can be asked
	Out      io.Writer
	Err      io.Writer
}

// Made says what Init made.
type Made struct {
	ConfigFile string
	DeviceID   sdk.DeviceID
}

// DemoOptions says what the demo shows.
type DemoOptions struct {
	Path      string // the folder to catalogue; empty: the demo's choice
	Transport string // "tcp" or "nats"
	NATS      string // URL of the NATS server to use; empty: one is started
	Once      bool   // end when everything has been shown; an error if the devices are not equal

	Plugin string   // path of a plugin to show instead
	Put    []string // records to write with it, as JSON objects
}

// The exit statuses.
const (
	done   = 0
	failed = 1
	misuse = 2
)

// misuseError is misuse of the command line: exit status 2.
type misuseError struct{ error }

func (e misuseError) Unwrap() error { return e.error }

func misusef(cmd *cobra.Command, format string, args ...any) error {
	separator := "; see: %s --help"
	if strings.HasSuffix(format, "?") {
		separator = " See: %s --help"
	}
	return misuseError{fmt.Errorf(format+separator, append(args, cmd.CommandPath())...)}
}

// Execute runs the command line args (without the program's name) and returns the exit status. It blocks until the
// command has ended; ctx ends it.
func Execute(ctx context.Context, deps Deps, args []string) int {
	root := New(deps)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	switch {
	case err == nil:
		return done
	case errors.Is(err, context.Canceled) && ctx.Err() != nil:
		fmt.Fprintln(deps.Err, "starling: interrupted")
		return failed
	}
	report(deps.Err, err)
	if _, ok := errors.AsType[misuseError](err); ok {
		return misuse
	}
	return failed
}

// report prints err for people. Mistakes in a configuration file name their place themselves, one a line.
func report(out io.Writer, err error) {
	if mistakes, ok := errors.AsType[config.Diagnostics](err); ok {
		for _, m := range mistakes {
			fmt.Fprintln(out, m)
		}
		return
	}
	fmt.Fprintf(out, "starling: %s\n", err)
}

// app is what the commands share.
type app struct {
	Deps
	configFiles []string
	json        bool
}

// New returns the command line. Execute adds the exit status and the printing of errors.
func New(deps Deps) *cobra.Command {
	a := &app{Deps: deps}
	root := &cobra.Command{
		Use:   "starling",
		Short: "Keep SQL data in step across devices, with no leader",
		Long: "Starling keeps SQL data in step across devices, with no leader.\n\n" +
			"Every device writes to its own database, online or not, and meets the others again later.",
		Version:       deps.Version,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetVersionTemplate("starling {{.Version}}\n")
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetIn(deps.In)
	root.SetOut(deps.Out)
	root.SetErr(deps.Err)
	root.PersistentFlags().StringArrayVar(&a.configFiles, "config", []string{"config.hcl"}, "the device's configuration: a `file`, or a folder of .hcl files; may be repeated")
	root.AddCommand(
		a.initCommand(), a.runCommand(), a.demoCommand(), a.devCommand(),
		a.statusCommand(), a.peersCommand(), a.pluginCommand(),
		a.transportCommand(), a.reloadCommand(), a.eventsCommand(),
		a.inviteCommand(), a.joinCommand(), a.retireCommand(),
		a.locationCommand(), a.albumCommand(),
		a.putCommand(), a.getCommand(), a.listCommand(), a.deleteCommand(), a.watchCommand(),
		a.explainCommand(), a.waitingCommand(), a.conflictsCommand(), a.digestCommand(), a.auditCommand(),
		a.configCommand(), a.versionCommand(),
	)
	group(root)
	strict(root)
	return root
}

// group makes a command of subcommands say what is wrong when it is called without one of them.
func group(cmd *cobra.Command) {
	cmd.SuggestionsMinimumDistance = 2
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
			return misusef(cmd, "there is no command %q; did you mean %q?", args[0], near[0])
		}
		return misusef(cmd, "there is no command %q", args[0])
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if !cmd.HasParent() {
			return cmd.Help()
		}
		var names []string
		for _, sub := range cmd.Commands() {
			names = append(names, sub.Name())
		}
		return misusef(cmd, "say which: %s %s", path(cmd), strings.Join(names, " | "))
	}
}

// strict makes every mistake in flags and arguments a misuse.
func strict(cmd *cobra.Command) {
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		message, _, _ := strings.Cut(err.Error(), ": strconv.") // what Go's parser calls it helps nobody
		return misusef(cmd, "%s", message)
	})
	for _, sub := range cmd.Commands() {
		if sub.HasSubCommands() && sub.RunE == nil {
			group(sub)
		} else if check := sub.Args; check != nil {
			sub.Args = func(cmd *cobra.Command, args []string) error {
				if check(cmd, args) != nil {
					if len(args) == 0 {
						return misusef(cmd, "%s takes %s; none was given", path(cmd), arguments(cmd))
					}
					return misusef(cmd, "%s takes %s, got %d", path(cmd), arguments(cmd), len(args))
				}
				return nil
			}
		}
		strict(sub)
	}
}

// path returns the command's name without the program's.
func path(cmd *cobra.Command) string {
	return strings.TrimPrefix(cmd.CommandPath(), cmd.Root().Name()+" ")
}

// arguments returns what the command's usage line says after its name.
func arguments(cmd *cobra.Command) string {
	_, names, _ := strings.Cut(cmd.Use, " ")
	if names == "" {
		return "no arguments"
	}
	return names
}

// reads gives a command the --json flag.
func (a *app) reads(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().BoolVar(&a.json, "json", false, "print for programs: one JSON object a line")
	return cmd
}

// silentPatience is how long a command waits in silence for a plugin that is under a debugger, or a store that does not answer.
const silentPatience = 2 * time.Second

// call runs do with a client of the running host.
func (a *app) call(cmd *cobra.Command, do func(ctx context.Context, host *control.Client) error) error {
	dir, err := config.DataDir(a.configFiles...)
	if err != nil {
		return err
	}
	host, err := control.Dial(cmd.Context(), dir)
	if errors.Is(err, control.ErrNoHost) {
		return sdk.Errorf(sdk.CodeUnavailable, "%w for %s; start it with: starling run --config %s", control.ErrNoHost, relative(dir), a.config())
	}
	if err != nil {
		return err
	}
	defer host.Close()
	host.Patience, host.Notice = silentPatience, func(text string) { fmt.Fprintln(a.Err, "starling: "+text) }
	return do(cmd.Context(), host)
}

// load reads the configuration that the command line names.
func (a *app) load() (*config.Config, error) { return config.Load(a.configFiles...) }

// config returns what a person writes after --config to name the same configuration again.
func (a *app) config() string { return strings.Join(a.configFiles, " --config ") }

// relative returns path as a person in this folder would write it: ./data, or the whole path where it is elsewhere.
func relative(path string) string {
	here, err := os.Getwd()
	if err != nil {
		return path
	}
	short, err := filepath.Rel(here, path)
	if err != nil || strings.HasPrefix(short, "..") {
		return path
	}
	return "." + string(filepath.Separator) + short
}
