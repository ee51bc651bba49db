//go:build !linux && !darwin && !windows

package disk

import "io/fs"

func native(f fs.FileInfo) Info { return portable(f) }

func remote(string) bool { return false }
