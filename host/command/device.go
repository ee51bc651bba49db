package command

import (
	"path/filepath"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/starling-sync/starling/host/config"
	"github.com/starling-sync/starling/sdk"
)

func (a *app) initCommand() *cobra.Command {
	var settings config.Settings
	var join bool
	var store string
	cmd := &cobra.Command{
		Use:   "init DIR",
		Short: "Make a device: its configuration, key and database",
		Long: "Make a device in the folder DIR: config.hcl, key and database.\n\n" +
			"It founds a library, or with --join waits until an invitation lets it into one.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if join && cmd.Flags().Changed("library") {
				return misusef(cmd, "--library and --join exclude each other: found a library, or join one")
			}
			if !join && settings.Library == "" {
				return misusef(cmd, "--library needs a name; to found no library and join one later, use --join")
			}
			if store != "sqlite" && store != "postgres" {
				return misusef(cmd, "--store is sqlite or postgres, not %q", store)
			}
			settings.Postgres = store == "postgres"
			if cmd.Flags().Changed("schema") && !settings.Postgres {
				return misusef(cmd, "--schema goes with --store postgres")
			}
			return a.makeDevice(cmd, args[0], settings, join)
		},
	}
	cmd.Flags().StringVar(&settings.Device, "name", "", "`name` of the device (default: the folder's)")
	cmd.Flags().StringVar(&settings.Library, "library", "home", "`name` of the library that the device founds")
	cmd.Flags().BoolVar(&join, "join", false, "found no library; join one later")
	cmd.Flags().StringVar(&settings.Listen, "listen", "", "`address` where peers reach it (default 127.0.0.1:7420)")
	cmd.Flags().StringVar(&store, "store", "sqlite", "`where` records are kept: sqlite, or postgres, in the database that DATABASE_URL names")
	cmd.Flags().StringVar(&settings.Schema, "schema", "starling", "with --store postgres: `name` of this device's own schema in the database; several devices share one so")
	return cmd
}

func (a *app) makeDevice(cmd *cobra.Command, dir string, settings config.Settings, join bool) error {
	if settings.Device == "" {
		whole, err := filepath.Abs(dir)
		if err != nil {
			return sdk.Errorf(sdk.CodeInvalid, "%s: %w", dir, err)
		}
		settings.Device = filepath.Base(whole)
	}
	next := "starling --config %[3]s invite"
	if join {
		settings.Library = ""
		next = "starling --config %[3]s join CODE"
	}
	made, err := a.Init(cmd.Context(), dir, settings)
	if err != nil {
		return err
	}
	return a.printf("made device %s (%s)\nstart it with:  starling run --config %[3]s\nthen:           "+next+"\n",
		plain(settings.Device), made.DeviceID, made.ConfigFile)
}

func (a *app) runCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "run",
		Short: "Run the host in the foreground",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.load()
			if err != nil {
				return err
			}
			return a.Run(cmd.Context(), c)
		},
	}
}

func (a *app) demoCommand() *cobra.Command {
	var options DemoOptions
	cmd := &cobra.Command{
		Use:   "demo [PATH]",
		Short: "Show two devices at work on a folder, or with a plugin of your own",
		Long: "Show two devices at work on this machine, in a folder that is removed at the end.\n\n" +
			"They keep the catalogue of the folder PATH (default: Go's module cache) in step and edit the same tag while apart. " +
			"With --plugin they run that plugin, beside the others if it serves a model and as their only transport if it " +
			"serves one, and keep what --put writes in step.",
		Example: "  starling demo ~/Pictures --once\n  starling demo --plugin ./invoice --put '{\"name\":\"first\"}'",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case options.Plugin != "" && len(args) > 0:
				return misusef(cmd, "PATH and --plugin exclude each other: a folder's catalogue, or a plugin of yours")
			case options.Plugin != "" && options.Transport != "tcp":
				return misusef(cmd, "--plugin and --transport exclude each other: a plugin of yours, or the built-in ones")
			case options.Plugin == "" && len(options.Put) > 0:
				return misusef(cmd, "--put is for --plugin: name the plugin whose records to write")
			case options.Transport != "tcp" && options.Transport != "nats":
				return misusef(cmd, "--transport %s: want tcp or nats", options.Transport)
			case options.NATS != "" && options.Transport != "nats":
				return misusef(cmd, "--nats goes with --transport nats")
			}
			if len(args) > 0 {
				folder, err := existingFolder(args[0])
				if err != nil {
					return err
				}
				options.Path = folder
			}
			return a.Demo(cmd.Context(), a.Out, options)
		},
	}
	cmd.Flags().StringVar(&options.Transport, "transport", "tcp", "`kind`: tcp (the devices dial one another) or nats (they meet through a server)")
	cmd.Flags().StringVar(&options.NATS, "nats", "", "`URL` of a NATS server that runs (default: nats-server from PATH is started)")
	cmd.Flags().BoolVar(&options.Once, "once", false, "end by itself; status 0 only if both devices are equal")
	cmd.Flags().StringVar(&options.Plugin, "plugin", "", "show the plugin at `path`")
	cmd.Flags().StringArrayVar(&options.Put, "put", nil, "with --plugin: write this record, a `JSON` object; may be repeated")
	return cmd
}

func (a *app) versionCommand() *cobra.Command {
	return a.reads(&cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if a.json {
				return a.object(struct {
					Version string `json:"version"`
					Go      string `json:"go"`
					OS      string `json:"os"`
					Arch    string `json:"arch"`
				}{a.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH})
			}
			return a.printf("starling %s (%s, %s/%s)\n", a.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
		},
	})
}
