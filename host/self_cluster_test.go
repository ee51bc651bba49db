package main_test

import (
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/starling-sync/starling/host/clustertest"
)

// TestCluster_DevicesSayWhatTheyAre has each device know of the other what it says of itself. A restart says so anew; a
// restart of the plugin says nothing new.
func TestCluster_DevicesSayWhatTheyAre(t *testing.T) {
	t.Parallel()
	alice, bob := pair(t)
	bob.Run(t, "put", "tag", `{"name":"work"}`)
	clustertest.WaitEqual(t, alice, bob)
	records := alice.List(t, "device")
	if len(records) != 2 {
		t.Fatalf("alice knows of %d devices: %v", len(records), records)
	}
	for _, d := range []*clustertest.Device{alice, bob} {
		record := records[deviceID(t, d)]
		addresses, _ := json.Marshal(record["addresses"])
		if record["name"] != d.Name || record["system"] != runtime.GOOS || record["architecture"] != runtime.GOARCH ||
			record["version"] == "" || record["started_at"] == nil || record["_owner"] != deviceID(t, d) || string(addresses) != fmt.Sprintf(`{"tcp":[%q]}`, d.Listen) {
			t.Errorf("of %s alice has %v", d.Name, record)
		}
	}
	before := records[deviceID(t, bob)]
	bob.Run(t, "plugin", "restart", "device")
	clustertest.Eventually(t, "the plugin was started again", func() error {
		var plugin struct {
			Name, State string
			Restarts    int
		}
		for line := range strings.Lines(bob.Run(t, "plugin", "list", "--json")) {
			if err := json.Unmarshal([]byte(line), &plugin); err != nil {
				return err
			}
			if plugin.Name == "device" && plugin.State == "running" && plugin.Restarts > 0 {
				return nil
			}
		}
		return fmt.Errorf("not yet: %+v", plugin)
	})
	if after := bob.List(t, "device")[deviceID(t, bob)]; after["_stamp"] != before["_stamp"] {
		t.Errorf("a restart of the plugin gave the record the stamp %v after %v", after["_stamp"], before["_stamp"])
	}
	bob.Stop(t)
	bob.Start(t)
	clustertest.WaitEqual(t, alice, bob)
	if after := alice.List(t, "device")[deviceID(t, bob)]; after["_stamp"] == before["_stamp"] || after["started_at"] == before["started_at"] {
		t.Errorf("bob started again, and alice has %v as before", after)
	}
}

// TestCluster_Volumes has each device know of the other's disks.
func TestCluster_Volumes(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("what is mounted on a test machine of another system is not known")
	}
	alice, bob := pair(t)
	clustertest.Eventually(t, "a root volume of each at both", func() error {
		for _, d := range []*clustertest.Device{alice, bob} {
			roots := map[any]bool{}
			for _, v := range d.List(t, "volume") {
				if v["mount_point"] == "/" && v["mounted"] == true && v["capacity"].(float64) > 0 {
					roots[v["_owner"]] = true
				}
			}
			if !roots[deviceID(t, alice)] || !roots[deviceID(t, bob)] {
				return fmt.Errorf("%s has the roots of %v", d.Name, roots)
			}
		}
		return nil
	})
	clustertest.WaitEqual(t, alice, bob)
}

func deviceID(t *testing.T, d *clustertest.Device) string {
	t.Helper()
	var status struct {
		DeviceID string `json:"device_id"`
	}
	if err := json.Unmarshal([]byte(d.Run(t, "status", "--json")), &status); err != nil {
		t.Fatal(err)
	}
	return status.DeviceID
}
