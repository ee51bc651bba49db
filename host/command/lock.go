package command

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"github.com/starling-sync/starling/host/config"
	"github.com/starling-sync/starling/host/control"
	"github.com/starling-sync/starling/sdk"
)

func (a *app) pluginLockCommand() *cobra.Command {
	return a.reads(&cobra.Command{
		Use:   "lock [NAME...]",
		Short: "Write the checksums of the plugins' binaries into the lock file",
		Long: "Write the checksums of the plugins' binaries, all or those of NAME, into the lock file: " + config.LockName + " beside the\n" +
			"configuration. From then on the host runs no other build of them. Checksums for other platforms stay in it.\n\n" +
			"For a new build: put it in its place, lock it, and run starling reload. Of a plugin that starling plugin swap has put another\n" +
			"path's build in the place of, that build is locked, which is the one that runs, and standard error says so.",
		RunE: func(_ *cobra.Command, names []string) error {
			c, err := config.OnlyPlugins(a.configFiles...)
			if err != nil {
				return err
			}
			path := config.LockPath(a.configFiles[0])
			lock, err := config.ReadLock(path)
			if err != nil {
				return err
			}
			binaries := c.Binaries()
			if len(names) == 0 {
				names = slices.Sorted(maps.Keys(binaries))
				maps.DeleteFunc(lock, func(name string, _ map[string]string) bool { return binaries[name] == "" })
			}
			absent, _ := c.Absent()
			t := newTable(a.Out, "PLUGIN", "SHA256", "PATH")
			var notes []string
			for _, name := range names {
				if binaries[name] == "" {
					if name, err = a.ofKind(name, transportsOf(c, name)); err != nil {
						return err
					}
				}
				binary, known := binaries[name]
				if !known {
					return sdk.Errorf(sdk.CodeNotFound, "there is no plugin %q in %s", name, a.config())
				}
				build, note, err := a.toLock(c, name, binary)
				if why, missing := absent[name]; missing && sdk.CodeOf(err) == sdk.CodeNotFound {
					return config.Diagnostics{why}
				}
				if err != nil {
					return fmt.Errorf("plugin %s: %w", name, err)
				}
				if note != "" {
					notes = append(notes, note)
				}
				sums := maps.Clone(lock[name])
				if sums == nil {
					sums = map[string]string{}
				}
				sums[config.Platform()] = build.SHA256
				lock[name] = sums
				t.row(name, build.SHA256, relative(build.Path))
			}
			if err := lock.Write(path); err != nil {
				return err
			}
			if err := t.flush(); err != nil {
				return printed(err)
			}
			for _, note := range notes {
				fmt.Fprintln(a.Err, note)
			}
			return a.printf("written to %s; a host that runs takes it up with: starling reload\n", relative(path))
		},
	})
}

// toLock returns the build of a plugin to lock: the one that a swap to another path has put in use, since a lock of any other
// would undo that, else the one at its path. note says so where it is not the one that runs, or not where the file says.
func (a *app) toLock(c *config.Config, plugin, path string) (build control.Build, note string, err error) {
	chosen, known, err := a.Chosen(c, plugin, path)
	if err != nil { // a lock of another build than the one that runs would have it replaced
		return control.Build{}, "", err
	}
	if known && chosen.Path != path {
		return chosen, fmt.Sprintf("%s: locked is what runs, from %s, where starling plugin swap took it from; %s names %s, which is not used. For that one: starling plugin swap %s %s, then lock again",
			plugin, relative(chosen.Path), a.config(), relative(path), plugin, relative(path)), nil
	}
	sum, err := checksum(path)
	if err == nil && known && chosen.SHA256 != sum {
		note = fmt.Sprintf("%s: locked is what lies at %s; what runs was taken from there earlier (sha256:%.12s), and makes way for it at the reload", plugin, relative(path), chosen.SHA256)
	}
	return control.Build{SHA256: sum, Path: path}, note, err
}

func checksum(path string) (string, error) {
	f, err := os.Open(path) //nolint:gosec // the operator's choice
	if errors.Is(err, fs.ErrNotExist) {
		return "", sdk.Errorf(sdk.CodeNotFound, "there is no binary at %s", path)
	}
	if err != nil {
		return "", sdk.Errorf(sdk.CodeInvalid, "%w", err)
	}
	defer f.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, f); err != nil {
		return "", sdk.Errorf(sdk.CodeInvalid, "read %s: %w", path, err)
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

// transportsOf returns the names of the transports of a kind.
func transportsOf(c *config.Config, kind string) (names []string) {
	for i := range c.Transports {
		if c.Transports[i].Kind == kind {
			names = append(names, c.Transports[i].Name)
		}
	}
	return names
}
