//go:build linux

package main_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/starling-sync/starling/host/clustertest"
)

// TestHealth_FullDisk fills the disk of a device that does nothing else. Its writes fail, /readyz, status and metrics say so, and it
// is ready again once there is space, though nobody writes.
func TestHealth_FullDisk(t *testing.T) {
	alice := watch(t, "alice", "--library", "home")
	aside := t.TempDir()
	if err := os.CopyFS(aside, os.DirFS(alice.Data())); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", alice.Data(), "tmpfs", 0, "size=600m,mode=0700"); err != nil {
		t.Skip("this user can not make a small disk: ", err)
	}
	t.Cleanup(func() {
		alice.Kill(t)
		if err := syscall.Unmount(alice.Data(), syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if err := os.CopyFS(alice.Data(), os.DirFS(aside)); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(alice.Data(), "device.key"), 0o600); err != nil {
		t.Fatal(err)
	}
	alice.Start(t)
	wantReady(t, alice, http.StatusOK, "ok      database")
	filler := filepath.Join(alice.Data(), "filler")
	fill(t, filler)
	long := strings.Repeat("x", 200)
	clustertest.Eventually(t, "a write fails", func() error { // the write-ahead log may have room of before
		_, err := alice.TryRun("put", "tag", `{"name":"`+long+`"}`)
		if err == nil {
			return os.ErrExist
		}
		if !strings.Contains(err.Error(), "the disk is full; free some space") {
			t.Errorf("it says: %v", err)
		}
		return nil
	})
	wantReady(t, alice, http.StatusServiceUnavailable, "failed  database: writes to "+filepath.Join(alice.Data(), "starling.db")+" have failed for want of space since ")
	if code, text, err := alice.get(t.Context(), "/healthz"); err != nil || code != http.StatusOK || !strings.Contains(text, "want of space") {
		t.Errorf("/healthz: %d %v\n%s", code, err, text)
	}
	if out := alice.Run(t, "status"); !strings.Contains(out, "have failed for want of space since ") || !strings.Contains(out, "goes on by itself") {
		t.Errorf("status says\n%s", out)
	}
	if s := alice.scrape(t); s["starling_store_full"] != 1 || s["starling_store_up"] != 0 {
		t.Errorf("full %v, up %v", s["starling_store_full"], s["starling_store_up"])
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	wantReady(t, alice, http.StatusOK, "ok      database")
	if s := alice.scrape(t); s["starling_store_full"] != 0 || s["starling_store_up"] != 1 {
		t.Errorf("full %v, up %v", s["starling_store_full"], s["starling_store_up"])
	}
	alice.Run(t, "put", "tag", `{"name":"after"}`)
}

// fill writes a file until nothing more goes in.
func fill(t *testing.T, path string) {
	t.Helper()
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for size := 1 << 20; size > 0; size /= 2 {
		for piece := make([]byte, size); err == nil; {
			_, err = file.Write(piece)
		}
		err = nil
	}
}
