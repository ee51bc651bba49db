//go:build unix

package disk

import (
	"path/filepath"
	"syscall"
	"testing"
)

// A pipe that takes the place of a folder must not block its reader: nobody may ever write to it.
func TestSystem_OpenOfPipe(t *testing.T) {
	root := t.TempDir()
	pipe := filepath.Join(root, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Skip("no pipes here:", err)
	}
	for _, at := range [][2]string{{root, "pipe"}, {pipe, "."}} {
		if _, err := (System{}).Open(at[0], at[1]); !Gone(err) {
			t.Errorf("Open of %q: %v, want an error that is Gone", at, err)
		}
	}
}
