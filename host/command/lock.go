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
	"github.com/starling-sync/starling/sdk"
)

func (a *app) pluginLockCommand() *cobra.Command {
	return a.reads(&cobra.Command{
		Use:   "lock [NAME...]",
		Short: "Write the checksums of the plugins' binaries into the lock file",
		Long: "Write the checksums of the plugins' binaries, all or those of NAME, into the lock file: " + config.LockName + " beside the\n" +
			"configuration. From then on the host runs no other build of them. Checksums for other platforms stay in it.\n\n" +
			"For a new build: put it in its place, lock it, and run starling reload.",
		RunE: func(_ *cobra.Command, names []string) error {
			c, err := config.Unlocked(a.configFiles...)
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
			t := newTable(a.Out, "PLUGIN", "SHA256", "PATH")
			for _, name := range names {
				binary, known := binaries[name]
				if !known {
					return sdk.Errorf(sdk.CodeNotFound, "there is no plugin %q in %s", name, a.config())
				}
				sum, err := checksum(binary)
				if err != nil {
					return fmt.Errorf("plugin %s: %w", name, err)
				}
				sums := maps.Clone(lock[name])
				if sums == nil {
					sums = map[string]string{}
				}
				sums[config.Platform()] = sum
				lock[name] = sums
				t.row(name, sum, relative(binary))
			}
			if err := lock.Write(path); err != nil {
				return err
			}
			if err := t.flush(); err != nil {
				return printed(err)
			}
			return a.printf("written to %s; a host that runs takes it up with: starling reload\n", relative(path))
		},
	})
}

func checksum(path string) (string, error) {
	f, err := os.Open(path) //nolint:gosec // the operator's choice
	if errors.Is(err, fs.ErrNotExist) {
		return "", sdk.Errorf(sdk.CodeNotFound, "there is no binary at %s; build it, or correct plugin_dir", path)
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
