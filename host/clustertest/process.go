package clustertest

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Processes returns the ids of the device's living processes: its host, whose configuration lies in Dir, and plugins,
// whose binaries do. It also finds those that outlived their host. It reads /proc, so it needs Linux; elsewhere it finds
// none.
func (d *Device) Processes() []int {
	folders, _ := filepath.Glob("/proc/[0-9]*")
	var found []int
	for _, folder := range folders {
		exe, err := os.Readlink(filepath.Join(folder, "exe"))
		if err != nil {
			continue // it has ended, or is another user's
		}
		mine := strings.HasPrefix(exe, d.Dir+string(filepath.Separator))
		if !mine {
			command, _ := os.ReadFile(filepath.Join(folder, "cmdline"))
			mine = strings.HasPrefix(string(command), fmt.Sprintf("%s\x00run\x00--config\x00%s\x00", d.Binary, d.Config()))
		}
		if mine {
			if pid, err := strconv.Atoi(filepath.Base(folder)); err == nil {
				found = append(found, pid)
			}
		}
	}
	return found
}
