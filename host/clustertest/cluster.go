// Package clustertest runs real devices for tests and benchmarks: it builds the binaries, makes devices in folders of
// their own, starts and kills their processes, and speaks to them as a person would, through the command line.
package clustertest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/starling-sync/starling/host/control"
	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/rpc/rpctest"
)

// Binaries builds starling and the plugins into dir, which is absolute, and returns the path of starling. They are without what
// debuggers read: each device of a test copies its plugins, and that is a third of them.
func Binaries(dir string) (string, error) {
	const module = "github.com/starling-sync/starling/"
	starling := filepath.Join(dir, "starling")
	if err := rpctest.BuildAt(starling, module+"host", "-ldflags", "-s -w"); err != nil {
		return "", err
	}
	plugins, err := exec.Command("go", "list", "-f", `{{if eq .Name "main"}}{{.ImportPath}}{{end}}`, module+"plugins/...").Output()
	if err != nil {
		return "", fmt.Errorf("list the plugins: %w", err)
	}
	for _, plugin := range strings.Fields(string(plugins)) {
		name := path.Base(plugin)
		if runtime.GOOS == "windows" {
			name += ".exe"
		}
		if err := rpctest.BuildAt(filepath.Join(dir, "plugins", name), plugin, "-ldflags", "-s -w"); err != nil {
			return "", err
		}
	}
	return starling, nil
}

// Device is one device in a folder of its own. Its methods are for one goroutine, except Run and TryRun.
type Device struct {
	Name   string
	Dir    string
	Listen string
	Binary string

	mu   sync.Mutex
	cmd  *exec.Cmd
	done chan struct{} // closed when cmd has ended
	log  *os.File
}

// NewDevice makes a device with starling init and extra arguments such as --join or --library NAME.
func NewDevice(tb testing.TB, binary, name string, extra ...string) *Device {
	tb.Helper()
	d := &Device{Name: name, Dir: filepath.Join(tb.TempDir(), name), Listen: FreeAddress(tb), Binary: binary}
	args := append([]string{"init", d.Dir, "--name", name, "--listen", d.Listen}, extra...)
	if out, err := exec.Command(binary, args...).CombinedOutput(); err != nil { //nolint:gosec // our own binary
		tb.Fatalf("starling %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	tb.Cleanup(func() { d.Kill(tb) })
	return d
}

// FreeAddress returns a loopback address that nobody listens on now, and that no other test gets before tb ends. Its port is below
// those that systems give to who dials (from 32768 on Linux, 49152 elsewhere): none of these takes it while its device is down.
func FreeAddress(tb testing.TB) string {
	tb.Helper()
	const first, ports, tries = 15000, 15000, 1000
	for range tries {
		address := fmt.Sprintf("127.0.0.1:%d", first+rand.IntN(ports)) //nolint:gosec // anything will do
		held, err := net.ListenPacket("udp", address)                  // what other test processes look for too
		if err != nil {
			continue
		}
		l, err := net.Listen("tcp", address)
		if err != nil {
			_ = held.Close()
			continue
		}
		l.Close()
		tb.Cleanup(func() { _ = held.Close() })
		return address
	}
	tb.Fatalf("no free port in %d tries from %d on", tries, first)
	return ""
}

// Config is the path of the device's config.hcl.
func (d *Device) Config() string { return filepath.Join(d.Dir, "config.hcl") }

// Data is the device's data directory.
func (d *Device) Data() string { return filepath.Join(d.Dir, "data") }

// Start starts the host and waits until it answers.
func (d *Device) Start(tb testing.TB) {
	tb.Helper()
	d.Spawn(tb)
	Eventually(tb, d.Name+" answers", func() error {
		return d.Ask(tb.Context(), func(c *control.Client) error { _, err := c.Status(tb.Context()); return err })
	})
}

// Ask calls fn with a client of the host's control interface, which ends with the call. It is for what is asked again and again: each
// run of the command line is a process.
func (d *Device) Ask(ctx context.Context, fn func(c *control.Client) error) error {
	c, err := control.Dial(ctx, d.Data())
	if err != nil {
		return err
	}
	defer c.Close()
	return fn(c)
}

// Spawn starts the host. It may not answer yet.
func (d *Device) Spawn(tb testing.TB) {
	tb.Helper()
	log, err := os.OpenFile(filepath.Join(d.Dir, "host.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		tb.Fatal(err)
	}
	cmd := exec.Command(d.Binary, "run", "--config", d.Config()) //nolint:gosec // our own binary
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	done := make(chan struct{})
	go func() { _ = cmd.Wait(); close(done) }()
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cmd, d.done, d.log = cmd, done, log
}

// Kill ends the host with SIGKILL and waits for its end. It does nothing if the host does not run.
func (d *Device) Kill(tb testing.TB) {
	tb.Helper()
	d.end(tb, os.Kill)
}

// Stop ends the host with an interrupt, as Ctrl-C does, and waits for its end.
func (d *Device) Stop(tb testing.TB) {
	tb.Helper()
	d.end(tb, os.Interrupt)
}

func (d *Device) end(tb testing.TB, signal os.Signal) {
	tb.Helper()
	d.mu.Lock()
	cmd, done, log := d.cmd, d.done, d.log
	d.cmd = nil
	d.mu.Unlock()
	if cmd == nil {
		return
	}
	if err := cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		tb.Errorf("%s: signal %v: %v", d.Name, signal, err)
	}
	select {
	case <-done:
	case <-time.After(Patience):
		tb.Errorf("%s did not end within %s of %v", d.Name, Patience, signal)
		_ = cmd.Process.Kill()
		<-done
	}
	log.Close()
	if tb.Failed() {
		tb.Logf("log of %s:\n%s", d.Name, tail(log.Name(), 40))
	}
}

// PID is the host's process id, 0 if it does not run.
func (d *Device) PID() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.cmd == nil {
		return 0
	}
	return d.cmd.Process.Pid
}

// Run runs a command of the command line against this device, fails tb if it fails, and returns its standard output.
func (d *Device) Run(tb testing.TB, args ...string) string {
	tb.Helper()
	out, err := d.TryRun(args...)
	if err != nil {
		tb.Fatalf("%s: starling %s: %v", d.Name, strings.Join(args, " "), err)
	}
	return out
}

// ExitError is a command that ended with a status other than 0.
type ExitError struct {
	Status int
	Stderr string
}

func (e *ExitError) Error() string { return fmt.Sprintf("status %d: %s", e.Status, e.Stderr) }

// TryRun is Run that returns the error, an *ExitError if the command ran.
func (d *Device) TryRun(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, d.Binary, append([]string{"--config", d.Config()}, args...)...) //nolint:gosec // our own binary
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return stdout.String(), &ExitError{Status: exit.ExitCode(), Stderr: strings.TrimSpace(stderr.String())}
	}
	return strings.TrimSpace(stdout.String()), err
}

// WaitCount waits until d says that it has n records of model, and then looks for as many in its list.
func (d *Device) WaitCount(tb testing.TB, model sdk.ModelName, n int) {
	tb.Helper()
	Eventually(tb, fmt.Sprintf("%d of %s at %s", n, model, d.Name), func() error {
		return d.Ask(tb.Context(), func(c *control.Client) error {
			status, err := c.Status(tb.Context())
			if err != nil {
				return err
			}
			for i := range status.Models {
				if m := &status.Models[i]; m.Model == model && m.Rows == int64(n) {
					return nil
				}
			}
			return fmt.Errorf("%+v", status.Models)
		})
	})
	if listed := len(d.List(tb, string(model))); listed != n {
		tb.Errorf("%s says that it has %d of %s, and lists %d", d.Name, n, model, listed)
	}
}

// List returns the records of model, each as the object that list --json prints, by id.
func (d *Device) List(tb testing.TB, model string) map[string]map[string]any {
	tb.Helper()
	records := map[string]map[string]any{}
	for line := range strings.Lines(d.Run(tb, "list", model, "--json")) {
		var record map[string]any
		if err := json.Unmarshal([]byte(line), &record); err != nil {
			tb.Fatalf("%s: list %s: %v in %q", d.Name, model, err, line)
		}
		records[fmt.Sprint(record["id"])] = record
	}
	return records
}

// Pair makes each of joiners a member of first's library. All must run.
func Pair(tb testing.TB, first *Device, joiners ...*Device) {
	tb.Helper()
	for _, d := range joiners {
		code := first.Run(tb, "invite")
		d.Run(tb, "join", strings.TrimSpace(code))
	}
}

// WaitEqual waits until every device says the same digest as the first, by the control interface and then by the command line, and
// returns what that prints.
func WaitEqual(tb testing.TB, devices ...*Device) string {
	tb.Helper()
	var same string
	Eventually(tb, "equal digests", func() error {
		if _, err := equal(devices, func(d *Device) (text string, err error) {
			err = d.Ask(tb.Context(), func(c *control.Client) error {
				digests, err := c.Digests(tb.Context())
				for _, of := range digests {
					text += fmt.Sprintf("%s %d %x\n", of.Model, of.Rows, of.Digest)
				}
				return err
			})
			return text, err
		}); err != nil {
			return err
		}
		var err error
		same, err = equal(devices, func(d *Device) (string, error) { return d.TryRun("digest") })
		return err
	})
	return same
}

// equal returns what all devices say of themselves, or an error if that differs.
func equal(devices []*Device, say func(*Device) (string, error)) (string, error) {
	first, err := say(devices[0])
	if err != nil {
		return "", err
	}
	for _, d := range devices[1:] {
		other, err := say(d)
		if err != nil {
			return "", err
		}
		if other != first {
			return "", fmt.Errorf("%s:\n%s\n%s:\n%s", devices[0].Name, first, d.Name, other)
		}
	}
	return first, nil
}

// Written returns the lines of a digest that change only if somebody writes: what a device says of itself as it starts, and of
// its disks, is left out.
func Written(digest string) string {
	var kept strings.Builder
	for line := range strings.Lines(digest) {
		if fields := strings.Fields(line); len(fields) == 0 || (fields[0] != "device" && fields[0] != "volume") {
			kept.WriteString(line)
		}
	}
	return kept.String()
}

// Patience is when a test gives up what should come about; it decides nothing else.
const Patience = 2 * time.Minute

// Eventually calls check until it returns nil, and fails tb with its last error when its patience ends. What takes long it asks less
// often, as each answer may cost a process.
func Eventually(tb testing.TB, what string, check func() error) {
	tb.Helper()
	deadline := time.After(Patience)
	const first, most = 20 * time.Millisecond, 250 * time.Millisecond
	for pause := first; ; pause = min(pause*5/4, most) {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-deadline:
			tb.Fatalf("%s: not within %s: %v", what, Patience, err)
		case <-time.After(pause):
		}
	}
}

func tail(path string, lines int) string {
	text, err := os.ReadFile(path) //nolint:gosec // a log that this package wrote
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
