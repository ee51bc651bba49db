//go:build unix

package main_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/starling-sync/starling/host/clustertest"
)

// TestReload_logLevel wants a level that is reloaded to be that of the whole host, and of a plugin's process from its next start on.
func TestReload_logLevel(t *testing.T) {
	t.Parallel()
	d := clustertest.NewDevice(t, mustBuild(t), "alice", "--library", "levels")
	d.Start(t)
	if inLog(d, "[DEBUG]") == nil {
		t.Fatal("debugged before it was wanted")
	}
	edit(t, d, `level  = "info"`, `level  = "debug"`)
	if out := d.Run(t, "reload"); !strings.Contains(out, "log: level debug: the host tells this much from now on, plugins from their next start on") {
		t.Errorf("reload:\n%s", out)
	}
	d.Run(t, "plugin", "restart", "tag")
	clustertest.Eventually(t, "the plugin's next process is given the level", func() error {
		if process := levelOf(t, d, "STARLING_PLUGIN_LOG_LEVEL=debug"); process == 0 {
			return errors.New("no process has it")
		}
		return inLog(d, "[DEBUG] starling.plugin.tag: plugin address")
	})
	edit(t, d, `level  = "debug"`, `level  = "warn"`)
	d.Run(t, "reload")
	before, err := os.ReadFile(filepath.Join(d.Dir, "host.log"))
	if err != nil {
		t.Fatal(err)
	}
	d.Run(t, "plugin", "restart", "tag")
	clustertest.Eventually(t, "the plugin's next process is given the other level", func() error {
		if process := levelOf(t, d, "STARLING_PLUGIN_LOG_LEVEL=warn"); process == 0 {
			return errors.New("no process has it")
		}
		return nil
	})
	if after, err := os.ReadFile(filepath.Join(d.Dir, "host.log")); err != nil || strings.Contains(string(after[len(before):]), "[DEBUG]") || strings.Contains(string(after[len(before):]), "[INFO]") {
		t.Errorf("less is wanted: %v\n%s", err, after[len(before):])
	}
}

// levelOf returns a child of d's host that has a variable in its environment; 0: there is none.
func levelOf(t *testing.T, d *clustertest.Device, variable string) int {
	t.Helper()
	host := strconv.Itoa(d.PID())
	tasks, err := filepath.Glob(filepath.Join("/proc", host, "task", "*", "children"))
	if err != nil || len(tasks) == 0 {
		t.Skip("this system does not tell a process's children")
	}
	for _, task := range tasks {
		children, _ := os.ReadFile(task)
		for _, pid := range strings.Fields(string(children)) {
			env, err := os.ReadFile(filepath.Join("/proc", pid, "environ"))
			if n, _ := strconv.Atoi(pid); err == nil && slices.Contains(strings.Split(string(env), "\x00"), variable) {
				return n
			}
		}
	}
	return 0
}
