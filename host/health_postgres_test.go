//go:build linux

package main_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/starling-sync/starling/host/clustertest"
	"github.com/starling-sync/starling/host/database/databasetest"
)

// freeze stops every process of the server, so that it neither answers nor hangs up. The function returned lets them go on.
func freeze(t *testing.T, server *databasetest.Server) (thaw func()) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(server.Socket(), "data", "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	root, _, _ := strings.Cut(string(text), "\n")
	children, err := os.ReadFile(fmt.Sprintf("/proc/%s/task/%s/children", root, root))
	if err != nil {
		t.Skip("this system does not tell the children of a process: ", err)
	}
	var all []int
	for _, each := range append(strings.Fields(string(children)), root) {
		var pid int
		if _, err := fmt.Sscan(each, &pid); err != nil {
			t.Fatal(err)
		}
		all = append(all, pid)
	}
	for _, pid := range all {
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
	}
	return func() {
		for _, pid := range all {
			_ = syscall.Kill(pid, syscall.SIGCONT) // or it is gone
		}
	}
}

// TestPostgres_health has a host started while its server is down, the server killed, and then one that is frozen. The host lives all the while, is not ready, and who asks for
// its metrics, its health or its status is answered.
func TestPostgres_health(t *testing.T) {
	server := databasetest.Start(t)
	t.Setenv("DATABASE_URL", server.DSN())
	alice := watch(t, "alice", "--library", "home", "--store", "postgres")
	server.Kill(t)
	alice.Spawn(t)
	wantReady(t, alice, http.StatusServiceUnavailable, "failed  database: it waits for its database since ")
	if _, err := alice.TryRun("status"); err == nil || !strings.Contains(err.Error(), "is starting: it waits for its database since ") {
		t.Errorf("status of a host that waits: %v", err)
	}
	if code, text, err := alice.get(t.Context(), "/healthz"); err != nil || code != http.StatusOK {
		t.Errorf("/healthz of a host that waits: %d %s %v", code, text, err)
	}
	hup(t, alice.Device)
	clustertest.Eventually(t, "the log says that there is nothing to reload", func() error { return inLog(alice.Device, "SIGHUP: there is nothing to reload yet") })
	if code, text, err := alice.get(t.Context(), "/healthz"); err != nil || code != http.StatusOK {
		t.Errorf("/healthz after SIGHUP: %d %s %v", code, text, err)
	}
	alice.Stop(t)
	alice.Spawn(t)
	wantReady(t, alice, http.StatusServiceUnavailable, "failed  database: it waits for its database since ")
	hup(t, alice.Device)
	server.Restart(t)
	wantReady(t, alice, http.StatusOK, "ok      database")
	clustertest.Eventually(t, "it reloads when it runs", func() error { return inLog(alice.Device, "says what it said before") })
	status := func(want string) {
		t.Helper()
		clustertest.Eventually(t, "status says: "+want, func() error {
			out, err := alice.TryRun("status")
			if err == nil && !strings.Contains(out, want) {
				err = errors.New(out)
			}
			return err
		})
	}
	answers := func(path string, code int, line string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), clustertest.Patience) // or it hangs
		defer cancel()
		got, text, err := alice.get(ctx, path)
		if err != nil || got != code || !strings.Contains(text, line) {
			t.Errorf("%s: %d, %v; want %d and %s in\n%s", path, got, err, code, line, text)
		}
	}
	server.Kill(t)
	status("out of reach")
	if _, err := alice.TryRun("put", "tag", `{"name":"away"}`); err == nil || !strings.Contains(err.Error(), "nothing of this write was kept") ||
		!strings.Contains(err.Error(), "out of reach since ") || strings.Contains(err.Error(), "tag:") {
		t.Errorf("put while the server is away: %v", err)
	} else {
		t.Log(err)
	}
	answers("/healthz", http.StatusOK, "ok      database: out of reach since ")
	answers("/readyz", http.StatusServiceUnavailable, "failed  database: ")
	answers("/metrics", http.StatusOK, "starling_info")
	server.Restart(t)
	wantReady(t, alice, http.StatusOK, "ok      database")
	defer freeze(t, server)()
	answers("/readyz", http.StatusServiceUnavailable, "failed  database: ")
	for range 5 { // more than may be under way at once
		answers("/metrics", http.StatusOK, "starling_info")
		answers("/healthz", http.StatusOK, "ok      database")
	}
	status("did not answer within 2s")
}
