package command

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/starling-sync/starling/host/control"
)

// defaultSoak is how long a new build is watched where nobody says.
const defaultSoak = 30 * time.Second

// swapCommands are the commands of `starling plugin` that replace builds.
func (a *app) swapCommands() []*cobra.Command {
	return []*cobra.Command{a.pluginListCommand(), a.pluginSwapCommand(), a.pluginRollbackCommand()}
}

func (a *app) pluginListCommand() *cobra.Command {
	return a.reads(&cobra.Command{
		Use:   "list",
		Short: "List the plugin processes and the builds that they run",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd, func(ctx context.Context, host *control.Client) error {
				plugins, err := host.Plugins(ctx)
				if err != nil {
					return err
				}
				if a.json {
					return printEach(a, plugins)
				}
				t := newTable(a.Out, "PLUGIN", "KIND", "BUILD", "PID", "SINCE", "RESTARTS", "STATE", "PATH", "STAGED")
				for i := range plugins {
					p := &plugins[i]
					state, pid := p.State, nothing
					if p.PID != 0 {
						pid = fmt.Sprint(p.PID)
					}
					for _, more := range []string{p.Swap, p.Reason} {
						if more != "" {
							state += ": " + more
						}
					}
					t.row(p.Name, p.Kind, buildName(p.Version, p.SHA256), pid, a.ago(p.Since), humanize.Comma(int64(p.Restarts)), state, relative(p.Path), orNothing(otherBuilds(p)))
				}
				return printed(t.flush())
			})
		},
	})
}

// otherBuilds names the builds of a plugin that are staged, but for the one in use.
func otherBuilds(p *control.Plugin) string {
	var names []string
	for _, b := range p.Staged {
		if b.SHA256 != p.SHA256 {
			names = append(names, buildName(b.Version, b.SHA256))
		}
	}
	return strings.Join(names, " ")
}

// buildName names a build in a few characters: a release by its version, another by its checksum.
func buildName(version, sum string) string {
	if strings.HasPrefix(version, "v") && !strings.HasPrefix(version, "v0.0.0-") {
		return version
	}
	if sum == "" {
		return nothing
	}
	return "sha256:" + sum[:min(12, len(sum))]
}

func (a *app) pluginSwapCommand() *cobra.Command {
	var swap control.PluginSwap
	cmd := &cobra.Command{
		Use:   "swap NAME [PATH]",
		Short: "Put another build of a plugin in its place while it works",
		Long: "Put another build of a plugin in its place while it works.\n\n" +
			"The build at PATH (without it: at the path that the build in use was taken from) is copied into the store, started beside\n" +
			"the one in use, and probed. Then it takes over, and is watched while the old process stays ready: if it crashes, fails,\n" +
			"hangs or, being of the same model version, decides otherwise than the old one, the old one takes its place again.\n\n" +
			"The last builds stay in the store: with --version, in place of PATH, one of them is swapped to. --dry-run stages one too.\n\n" +
			"Interrupting this command does not end the swap; starling plugin rollback does.",
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			swap.Name = args[0]
			if len(args) > 1 {
				path, err := filepath.Abs(args[1])
				if err != nil {
					return err
				}
				swap.Path = path
			}
			if swap.Version != "" && swap.Path != "" {
				return misusef(cmd, "PATH and --version each say which build; give one of them")
			}
			if swap.SHA256 != "" && len(swap.SHA256) != 64 {
				return misusef(cmd, "--sha256 %q is not a checksum; want 64 hexadecimal digits, as sha256sum prints them", swap.SHA256)
			}
			return a.operate(cmd, func(ctx context.Context, host *control.Client, report func(control.Step)) (err error) {
				if swap.Name, err = a.named(ctx, host, swap.Name); err != nil {
					return err
				}
				return host.SwapPlugin(ctx, swap, report)
			})
		},
	}
	cmd.Flags().StringVar(&swap.SHA256, "sha256", "", "the checksum that the binary must have, in `hexadecimal`")
	cmd.Flags().StringVar(&swap.Version, "version", "", "swap to the build in the store of this `version`, as plugin list names it under STAGED")
	cmd.Flags().BoolVar(&swap.DryRun, "dry-run", false, "start and probe the build, say whether it would be let in, and stop it")
	a.soaks(cmd, &swap.Soak)
	return cmd
}

func (a *app) pluginRollbackCommand() *cobra.Command {
	var soak time.Duration
	cmd := &cobra.Command{
		Use:   "rollback NAME",
		Short: "Put the build before the one in use back: at once while a swap is under way, else by a swap",
		Long: "Put the build before the one in use back: at once while a swap is under way, which ends it, else by a swap.\n\n" +
			"The build that made way is then the one before: a second rollback returns to it.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.operate(cmd, func(ctx context.Context, host *control.Client, report func(control.Step)) error {
				name, err := a.named(ctx, host, args[0])
				if err != nil {
					return err
				}
				return host.RollbackPlugin(ctx, name, soak, report)
			})
		},
	}
	a.soaks(cmd, &soak)
	return cmd
}

func (a *app) devCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "dev DIR",
		Short: "Run the plugin whose source is in DIR on two devices, and swap it in as it changes",
		Long: "Run the plugin whose source is in DIR, a Go main package, on two paired devices over loopback.\n\n" +
			"Whenever a file changes it is built and swapped in on both, by the same way as starling plugin swap, and what the devices\n" +
			"apply is printed. Both end, and their data goes, at Ctrl-C.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.Dev(cmd.Context(), a.Out, args[0]) },
	}
}

func (a *app) transportCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "transport", Short: "Act on the transports"}
	var soak time.Duration
	var force bool
	swap := &cobra.Command{
		Use:   "swap OLD NEW",
		Short: "Move the sessions of one configured transport to another one, and stop the first",
		Long: "Move the sessions of one configured transport to another one, and stop the first.\n\n" +
			"Both go by their names in the configuration, or by a kind of which there is only one. Peers hear that this device is not\n" +
			"reached by OLD any more, their sessions end, and begin anew by NEW. It is refused where NEW does no work, and where a device\n" +
			"has said no address but of OLD's kind, unless you --force the latter. If none of those that were connected comes back, OLD\n" +
			"is used as before. It stays stopped over restarts of the host, until it is swapped back, or started beside NEW by\n" +
			"starling plugin restart OLD.\n\n" +
			"Interrupting this command ends the swap until NEW is known to work, which may take a moment where it was stopped, and not from\n" +
			"then on; starling transport rollback does.\n\n" +
			"Where NEW is a path, such as ./transport-tcp, that build takes the place of OLD's, as by starling plugin swap.",
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if strings.ContainsRune(filepath.ToSlash(args[1]), '/') { // which no name has
				path, err := filepath.Abs(args[1])
				if err != nil {
					return err
				}
				return a.operate(cmd, func(ctx context.Context, host *control.Client, report func(control.Step)) error {
					name, err := a.named(ctx, host, args[0])
					if err != nil {
						return err
					}
					return host.SwapPlugin(ctx, control.PluginSwap{Name: name, Path: path, Soak: soak}, report)
				})
			}
			return a.operate(cmd, func(ctx context.Context, host *control.Client, report func(control.Step)) error {
				from, err := a.named(ctx, host, args[0])
				if err != nil {
					return err
				}
				to, err := a.named(ctx, host, args[1])
				if err != nil {
					return err
				}
				return host.SwapTransport(ctx, control.TransportSwap{From: from, To: to, Soak: soak, Force: force}, report)
			})
		},
	}
	swap.Flags().BoolVar(&force, "force", false, "also where devices are known that are reached by OLD only")
	a.soaks(swap, &soak)
	cmd.AddCommand(swap, a.transportRollbackCommand())
	return cmd
}

func (a *app) transportRollbackCommand() *cobra.Command {
	return a.reads(&cobra.Command{
		Use:   "rollback NAME",
		Short: "End a swap of transports that is under way: the first one is used as before",
		Long: "End a swap of transports that is under way: the first one is used as before.\n\n" +
			"NAME is either of the two. After the swap is done: starling transport swap NEW OLD. For another build of one transport:\n" +
			"starling plugin rollback.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.operate(cmd, func(ctx context.Context, host *control.Client, report func(control.Step)) error {
				name, err := a.named(ctx, host, args[0])
				if err != nil {
					return err
				}
				return host.RollbackTransport(ctx, name, report)
			})
		},
	})
}

func (a *app) reloadCommand() *cobra.Command {
	var soak time.Duration
	cmd := &cobra.Command{
		Use:   "reload",
		Short: "Have the host read its configuration again and do what has changed in it",
		Long: "Have the host read its configuration again and do what has changed in it.\n\n" +
			"It prints what has changed. Plugins whose path, sha256, listen or config has changed are swapped while they work; added ones\n" +
			"are started and waited for, removed ones stopped. What needs a restart of the host is named, and stays as it is until then. A file with\n" +
			"mistakes changes nothing. SIGHUP does the same, and writes to the log.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			err := a.operate(cmd, func(ctx context.Context, host *control.Client, report func(control.Step)) error {
				return host.Reload(ctx, soak, report)
			})
			if errors.Is(err, control.ErrNoHost) {
				return fmt.Errorf("%w; a host whose data_dir has been changed in the file is found after its restart, and takes SIGHUP until then", err)
			}
			return err
		},
	}
	a.soaks(cmd, &soak)
	return cmd
}

// soaks gives a command the --soak flag.
func (a *app) soaks(cmd *cobra.Command, soak *time.Duration) {
	cmd.Flags().DurationVar(soak, "soak", defaultSoak, "how long the new one is watched before the old one is stopped, such as 30s or 5m")
	a.reads(cmd)
}

// operate runs do, and prints the steps that it reports as they come.
func (a *app) operate(cmd *cobra.Command, do func(ctx context.Context, host *control.Client, report func(control.Step)) error) error {
	return a.call(cmd, func(ctx context.Context, host *control.Client) error {
		return do(ctx, host, func(step control.Step) {
			if a.json {
				_ = a.object(step) // a broken output shows at the end
				return
			}
			var words []string
			for _, word := range []string{step.Subject, step.Text} {
				if word != "" {
					words = append(words, plain(word))
				}
			}
			if step.Text == "" && step.Stage != "" {
				words = append(words, step.Stage)
			}
			line := strings.Join(words, ": ")
			if step.Took > 0 && step.Stage != "watching" {
				line += "   " + span(step.Took)
			}
			_ = a.printf("%s\n", line)
		})
	})
}

func (a *app) eventsCommand() *cobra.Command {
	var follow bool
	cmd := a.reads(&cobra.Command{
		Use:   "events",
		Short: "Say what happened to the plugins: swaps, crashes, rollbacks, quarantines, restarts",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd, func(ctx context.Context, host *control.Client) error {
				err := host.Events(ctx, 0, follow, func(e control.PluginEvent) error {
					if a.json {
						return a.object(e)
					}
					return a.printf("%s\n", a.eventLine(&e))
				})
				if err != nil && follow && ctx.Err() != nil {
					err = nil // asked to stop: that is how following ends
				}
				return err
			})
		},
	})
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what happens, until interrupted")
	return cmd
}

// eventLine says in one line what happened, to which builds, who wanted it and why.
func (a *app) eventLine(e *control.PluginEvent) string {
	words := []string{a.moment(e.At), fmt.Sprintf("%-11s", e.Kind)}
	if e.Plugin != "" {
		words = append(words, plain(e.Plugin))
	}
	from, to := buildName(e.From.Version, e.From.SHA256), buildName(e.To.Version, e.To.SHA256)
	switch {
	case from != nothing && to != nothing:
		words = append(words, from+" -> "+to)
	case from != nothing:
		words = append(words, from)
	case to != nothing:
		words = append(words, to)
	}
	if e.By != "" {
		words = append(words, "by "+plain(e.By))
	}
	if e.Why != "" {
		words = append(words, plain(e.Why))
	}
	return strings.Join(words, "  ")
}
