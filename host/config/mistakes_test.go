package config

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestMistakes wants a kind of transport that there is not told of together with other mistakes, and nothing besides a wrong syntax.
func TestMistakes(t *testing.T) {
	const device = "library \"home\" {}\ndevice \"alice\" { data_dir = \"./data\" }\nstore \"sqlite\" {}\nplugin_dir = \"./plugins\"\n"
	dir := write(t, map[string]string{
		"two.hcl":            device + "transport \"tpc\" \"wan\" {}\nsync {\n  heartbeat = 5\n}\n",
		"syntax.hcl":         device + "transport \"tpc\" \"wan\" {}\nsync {\n  heartbeat =\n}\n",
		"plugins/README":     "",
		"plugins/transport-": "",
	})
	for name, want := range map[string][]string{
		"two.hcl":    {`two.hcl:5,1-22: transport "tpc" "wan": there is no plugin binary at`, "two.hcl:7,15-16: heartbeat: 5 is not a duration"},
		"syntax.hcl": {"syntax.hcl:7,"},
	} {
		path := filepath.Join(dir, name)
		_, err := Load(path)
		found, _ := err.(Diagnostics) //nolint:errorlint // Load promises it
		all := Mistakes(found, path)
		if len(all) != len(want) {
			t.Errorf("%s: %s", name, all)
			continue
		}
		for i := range want {
			if !strings.Contains(all[i].String(), want[i]) {
				t.Errorf("%s: %s; want %s", name, all[i], want[i])
			}
		}
	}
}
