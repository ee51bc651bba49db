package command

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/starling-sync/starling/host/config"
	"github.com/starling-sync/starling/sdk"
)

func (a *app) configCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Look at the configuration"}
	cmd.AddCommand(a.configValidateCommand(), a.configShowCommand(), a.configFormatCommand())
	return cmd
}

func (a *app) configValidateCommand() *cobra.Command {
	var plugins bool
	cmd := a.reads(&cobra.Command{
		Use:   "validate",
		Short: "Name every mistake in the configuration",
		Long: "Name every mistake in the configuration, plugins that are not there among them. With --plugins, also those in the plugins'\n" +
			"config blocks: each plugin is started for as long as it takes to ask it which settings it has, and what it thinks of those\n" +
			"that it is given.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.load()
			if found, ok := errors.AsType[config.Diagnostics](err); ok {
				err = config.Mistakes(found, a.configFiles...)
			} else if err == nil {
				err = a.pluginMistakes(cmd.Context(), c, plugins)
			}
			if a.json {
				return errors.Join(a.printMistakes(err), err)
			}
			if err != nil {
				return err
			}
			for _, path := range c.Exposed {
				fmt.Fprintf(a.Err, "every user of this machine can read %s, which holds a secret: chmod o-r %s\n", relative(path), relative(path))
			}
			verb := "is"
			if len(c.Files) > 1 {
				verb = "are"
			}
			return a.printf("%s %s valid: device %s, %s, %s\n", strings.Join(c.Files, ", "), verb, plain(c.Device.Name),
				count(int64(len(c.Models)), "model plugin"), count(int64(len(c.Transports)), "transport"))
		},
	})
	cmd.Flags().BoolVar(&plugins, "plugins", false, "start each plugin and have it check its config block")
	return cmd
}

// printMistakes prints one object for each mistake; none, for a valid file.
func (a *app) printMistakes(err error) error {
	mistakes, _ := errors.AsType[config.Diagnostics](err)
	for _, m := range mistakes {
		if err := a.object(struct {
			File    string `json:"file"`
			Line    int    `json:"line"`
			Column  int    `json:"column"`
			Message string `json:"message"`
		}{m.Range.File, m.Range.StartLine, m.Range.StartColumn, m.Message}); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) configShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show",
		Short: "Print the configuration as it takes effect",
		Long: "Print the configuration as it takes effect: all files as one, with every default, and without secrets. The\n" +
			"plugins are asked for theirs, and which of their settings are secret; each of them is started for that.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.load()
			if err != nil {
				return err
			}
			return config.Show(a.Out, c, a.declared(cmd.Context(), c))
		},
	}
}

func (a *app) configFormatCommand() *cobra.Command {
	var check bool
	cmd := &cobra.Command{
		Use:   "fmt [FILE...]",
		Short: "Bring configuration files into the usual layout",
		Long: "Bring configuration files into the usual layout: those named, or the whole configuration. Prints the name of each file\n" +
			"that it changes. Status 1 if --check is given and a file is not laid out so.",
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				args = a.configFiles
			}
			sources, err := config.Read(args...)
			if err != nil {
				return err
			}
			return a.formatFiles(sources, check)
		},
	}
	cmd.Flags().BoolVar(&check, "check", false, "change nothing; status 1 if a file would change")
	return cmd
}

func (a *app) formatFiles(sources []config.Source, check bool) error {
	changed := 0
	var mistakes config.Diagnostics
	for _, source := range sources {
		formatted, err := config.Format(source.Name, source.Content)
		if found, ok := errors.AsType[config.Diagnostics](err); ok {
			mistakes = append(mistakes, found...)
			continue
		}
		if err != nil {
			return err
		}
		if bytes.Equal(formatted, source.Content) {
			continue
		}
		changed++
		if err := a.printf("%s\n", source.Name); err != nil {
			return err
		}
		if check {
			continue
		}
		if err := replaceFile(source.Name, formatted); err != nil {
			return sdk.Errorf(sdk.CodeInvalid, "%s: cannot be written: %w", source.Name, err)
		}
	}
	switch {
	case len(mistakes) > 0:
		return mistakes
	case check && changed > 0:
		return sdk.Errorf(sdk.CodeInvalid, "%s would change; run: starling config fmt", count(int64(changed), "file"))
	}
	return nil
}

// replaceFile gives the file at path new content, whole or not at all. A link stays one.
func replaceFile(path string, content []byte) (err error) {
	if path, err = filepath.EvalSymlinks(path); err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Chmod(info.Mode().Perm()), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}
