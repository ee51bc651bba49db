//go:build unix

package main_test

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/starling-sync/starling/host/clustertest"
)

// TestTelemetry_PluginHangs stops a plugin's process: a scrape has the rest, the device is not ready, and lives.
func TestTelemetry_PluginHangs(t *testing.T) {
	t.Parallel()
	alice := watch(t, "alice", "--library", "home")
	alice.Start(t)
	wantReady(t, alice, http.StatusOK, "ok      plugin tag")
	pid := 0
	for line := range strings.Lines(alice.Run(t, "plugin", "list", "--json")) {
		if m := regexp.MustCompile(`"name":"tag".*"pid":(\d+)`).FindStringSubmatch(line); m != nil {
			pid, _ = strconv.Atoi(m[1])
		}
	}
	if pid == 0 {
		t.Fatal("no process of tag")
	}
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	s := alice.scrape(t)
	if s.sum("starling_info") == 0 {
		t.Error("a scrape has nothing of the host")
	}
	clustertest.Eventually(t, "that it does not answer is counted", func() error { // beside the scrape that met it
		if n := alice.scrape(t).sum("starling_plugin_scrape_failures_total", `plugin="tag"`); n == 0 {
			return fmt.Errorf("%v failures", n)
		}
		return nil
	})
	status, text, err := alice.get(t.Context(), "/healthz")
	if err != nil || status != http.StatusOK {
		t.Errorf("healthz: %d, %v\n%s", status, err, text)
	}
	clustertest.Eventually(t, "its process is killed and started again", func() error {
		if n := alice.scrape(t).sum("starling_plugin_restarts_total", `plugin="tag"`); n != 1 {
			return fmt.Errorf("%v restarts", n)
		}
		return nil
	})
	wantReady(t, alice, http.StatusOK, "ok      plugin tag")
}

// TestTelemetry_NotReady has a plugin that can not be started: the device lives, is not ready, and says why. Another device at the
// same address does not start, and says where it is configured.
func TestTelemetry_NotReady(t *testing.T) {
	t.Parallel()
	alice := watch(t, "alice", "--library", "home")
	alice.add(t, `model "note" { path = "./not-there" }`)
	alice.Start(t)
	wantReady(t, alice, http.StatusServiceUnavailable, "failed  plugin note: quarantined: ")
	status, text, err := alice.get(t.Context(), "/readyz?format=json")
	if err != nil || status != http.StatusServiceUnavailable || !strings.Contains(text, `{"name":"plugin tag","ok":true}`) {
		t.Errorf("%d, %v\n%s", status, err, text)
	}
	if status, text, err := alice.get(t.Context(), "/healthz"); err != nil || status != http.StatusOK || !strings.Contains(text, "ok      database\n") {
		t.Errorf("healthz: %d, %v\n%s", status, err, text)
	}
	bob := clustertest.NewDevice(t, mustBuild(t), "bob", "--library", "away")
	watched{bob, alice.address}.add(t, fmt.Sprintf("telemetry { prometheus = %q }", alice.address))
	_, err = bob.TryRun("run")
	if err == nil || !regexp.MustCompile(`config\.hcl:\d+,26-\d+: prometheus: metrics can not be served at `+regexp.QuoteMeta(alice.address)).MatchString(err.Error()) {
		t.Errorf("with the address of another: %v", err)
	}
}

// TestTelemetry_Starting has a host that waits for a plugin's start: it is not ready, and says of its library only what it knows.
func TestTelemetry_Starting(t *testing.T) {
	t.Parallel()
	alice := watch(t, "alice", "--library", "home")
	if err := os.WriteFile(filepath.Join(alice.Dir, "slow"), []byte("#!/bin/sh\nexec sleep 600\n"), 0o700); err != nil { //nolint:gosec // it is run
		t.Fatal(err)
	}
	alice.add(t, `model "note" { path = "./slow" }`)
	manage(t, alice.Device, time.Minute)
	wantReady(t, alice, http.StatusServiceUnavailable, "failed  plugin note: starting")
	wantReady(t, alice, http.StatusServiceUnavailable, "failed  library: it has not been looked up yet\n")
	wantReady(t, alice, http.StatusServiceUnavailable, "failed  host: it is starting\n")
}

// TestService_SocketActivate starts a host with the tool that systemd has for it, at the first connection to one of its sockets.
func TestService_SocketActivate(t *testing.T) {
	t.Parallel()
	tool, err := exec.LookPath("systemd-socket-activate")
	if err != nil {
		t.Skip("systemd-socket-activate is not on this machine; on Debian it is in the package systemd")
	}
	alice := watch(t, "alice", "--library", "home")
	log, err := os.Create(filepath.Join(alice.Dir, "host.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(tool, "-l", alice.Listen, "-l", alice.address, alice.Binary, "run", "--config", alice.Config()) //nolint:gosec // our own binary
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			text, _ := os.ReadFile(log.Name())
			t.Errorf("it ended with %v; log of %s:\n%s", err, alice.Name, text)
		}
	})
	wantReady(t, alice, http.StatusOK, "ok      transport lan")
	text, err := os.ReadFile(log.Name())
	if err != nil || !strings.Contains(string(text), "Execing") {
		t.Errorf("it was not started by a connection: %v\n%s", err, text)
	}
}

// manager is a service manager that starts a device's host with its sockets, and hears what that says.
type manager struct {
	cmd   *exec.Cmd
	heard chan string
	done  chan struct{}
}

// manage starts d's host with sockets that listen already, a notification socket and a watchdog.
func manage(t *testing.T, d *clustertest.Device, watchdog time.Duration, listeners ...net.Listener) *manager {
	t.Helper()
	dir, err := os.MkdirTemp("", "starling-notify") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	notify, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "n"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.OpenFile(filepath.Join(d.Dir, "host.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	// The shell's process becomes the host's, so that LISTEN_PID is right.
	cmd := exec.Command("sh", "-c", `LISTEN_PID=$$ WATCHDOG_PID=$$ exec "$0" run --config "$1"`, d.Binary, d.Config()) //nolint:gosec // our own binary
	cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+filepath.Join(dir, "n"), "WATCHDOG_USEC="+strconv.FormatInt(watchdog.Microseconds(), 10),
		"LISTEN_FDS="+strconv.Itoa(len(listeners)))
	cmd.Stdout, cmd.Stderr = log, log
	for _, l := range listeners {
		file, err := l.(*net.TCPListener).File() //nolint:forcetypeassert // so they are
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		cmd.ExtraFiles = append(cmd.ExtraFiles, file)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	m := &manager{cmd: cmd, heard: make(chan string, 1000), done: make(chan struct{})}
	go func() {
		buffer := make([]byte, 4096)
		for {
			n, err := notify.Read(buffer)
			if err != nil {
				return
			}
			for line := range strings.Lines(string(buffer[:n])) {
				m.heard <- strings.TrimSpace(line)
			}
		}
	}()
	go func() { _ = cmd.Wait(); close(m.done) }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-m.done
		notify.Close()
		log.Close()
		os.RemoveAll(dir)
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("log of %s:\n%s", d.Name, text)
		}
	})
	return m
}

// wants waits until the host says what begins so.
func (m *manager) wants(t *testing.T, line string) {
	t.Helper()
	late := time.After(clustertest.Patience)
	for {
		select {
		case got := <-m.heard:
			if strings.HasPrefix(got, line) {
				return
			}
		case <-m.done:
			t.Fatalf("the host ended before it said %s", line)
		case <-late:
			t.Fatalf("%s was not said within %s", line, clustertest.Patience)
		}
	}
}

// TestService starts a host as systemd does, with its sockets open from before, and has a peer that came first be served.
func TestService(t *testing.T) {
	t.Parallel()
	alice, bob := watch(t, "alice", "--library", "home"), clustertest.NewDevice(t, mustBuild(t), "bob", "--join")
	listeners := make([]net.Listener, 3)
	for i, address := range []string{alice.Listen, alice.address, "127.0.0.1:0"} {
		var err error
		if listeners[i], err = net.Listen("tcp", address); err != nil {
			t.Fatal(err)
		}
		defer listeners[i].Close() // as systemd keeps them
	}
	early, err := net.Dial("tcp", alice.Listen) // waits in the queue
	if err != nil {
		t.Fatal(err)
	}
	defer early.Close()
	m := manage(t, alice.Device, 2*time.Second, listeners...)
	m.wants(t, "READY=1")
	m.wants(t, "WATCHDOG=1")
	wantReady(t, alice, http.StatusOK, "ok      transport lan")
	if err := m.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	m.wants(t, "RELOADING=1")
	m.wants(t, "MONOTONIC_USEC=")
	m.wants(t, "READY=1")
	bob.Start(t)
	clustertest.Pair(t, alice.Device, bob)
	id := bob.Run(t, "put", "tag", `{"name":"by a socket of the manager"}`)
	clustertest.Eventually(t, "bob's tag at alice", func() error {
		_, err := alice.TryRun("get", "tag", id)
		return err
	})
	if err := early.SetReadDeadline(time.Now().Add(clustertest.Patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := early.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) { // it says nothing, and is put out
		t.Error("who connected before the host was there was never taken")
	}
	log, err := os.ReadFile(filepath.Join(alice.Dir, "host.log"))
	if err != nil {
		t.Fatal(err)
	}
	if want := "at=" + listeners[2].Addr().String(); !strings.Contains(string(log), want) {
		t.Errorf("that nothing listens on a socket is not logged: %s", want)
	}
	if err := m.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	m.wants(t, "STOPPING=1")
	<-m.done
	if code := m.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("it ended with %d", code)
	}
	conn, err := net.Dial("tcp", alice.Listen) // the manager's socket is there still
	if err != nil {
		t.Errorf("the socket was closed with the host: %v", err)
	} else {
		conn.Close()
	}
}
