//go:build unix

package rpc

import (
	"os"
	"syscall"

	"github.com/starling-sync/starling/sdk"
)

// ownAlone returns why others than this process's user may write to path, or nil.
func ownAlone(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || int(stat.Uid) != os.Geteuid() {
		return sdk.Errorf(sdk.CodeInvalid, "%s belongs to another user; a plugin is debugged by the user that runs the host", path)
	}
	if info.Mode().Perm()&0o022 != 0 && info.Mode().Type() != os.ModeSocket || info.Mode().Type() == os.ModeSymlink {
		return sdk.Errorf(sdk.CodeInvalid, "%s can be written by others (%s); start the plugin anew with -debug", path, info.Mode())
	}
	return nil
}
