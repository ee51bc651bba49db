package rpc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	plugin "github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"
	"google.golang.org/grpc"

	"github.com/starling-sync/starling/sdk"
)

const (
	startTimeout = 15 * time.Second
	callTimeout  = 2 * time.Minute
	stopWait     = 2 * time.Second // from the request to stop to SIGKILL
)

// Command says how to start a plugin process.
type Command struct {
	Name      string // of the plugin, for the log
	Path      string // of the binary
	Origin    string // the path that errors name, where Path is a copy's; empty: Path
	Dir       string // the working directory; empty: this process's
	Args      []string
	Env       []string      // added; of the host's own environment only PATH, HOME and the like are passed on
	SocketDir string        // for the socket between host and plugin; keep it short. Empty: the system's temporary directory
	Sockets   []Socket      // listening sockets that the process inherits
	Timeout   time.Duration // to the end of the handshake; 0: 15 s
	Log       hclog.Logger  // what the process logs appears in it under Name
	Redact    *Redactor     // takes secrets out of what the process says; nil: it knows none

	CallTimeout time.Duration // of a batch, from the call to the answer; then the call fails. 0: 2 min
}

// Socket is a listening socket that belongs to the host and that a transport listens on.
type Socket struct {
	Address  string // as the transport is asked to listen on
	Listener FileListener
}

// FileListener is a net.Listener with a file descriptor, such as *net.TCPListener.
type FileListener interface {
	net.Listener
	File() (*os.File, error)
}

// Process is a running plugin process. Its methods may be called at once.
type Process struct {
	client *Client
	conn   plugin.ClientProtocol
	run    *processRunner
	done   chan struct{}

	attached *attachment // nil for a process that was started here; else conn and run are
}

// Start starts a plugin and blocks until it can be called. Its error says what is wrong with the binary and what to
// do, in a sentence for people. When ctx ends first, the process is killed; a deadline of ctx is one of the handshake.
func Start(ctx context.Context, c Command) (*Process, error) {
	if err := checkBinary(c.Path); err != nil {
		return nil, err
	}
	run := &processRunner{command: c, heard: make(chan struct{}), exited: make(chan struct{}), log: c.Log}
	timeout := c.Timeout
	if timeout == 0 {
		timeout = startTimeout
	}
	if deadline, ok := ctx.Deadline(); ok {
		timeout = min(timeout, time.Until(deadline).Round(100*time.Millisecond))
	}
	client := plugin.NewClient(&plugin.ClientConfig{
		HandshakeConfig:  handshake(),
		Plugins:          plugin.PluginSet{pluginName: &border{}},
		AllowedProtocols: []plugin.Protocol{plugin.ProtocolGRPC},
		AutoMTLS:         true,
		SkipHostEnv:      true,
		StartTimeout:     timeout,
		Logger:           c.Log,
		GRPCDialOptions:  append(dialOptions(), c.Redact.interceptors()...),
		UnixSocketConfig: &plugin.UnixSocketConfig{TempDir: c.SocketDir},
		SyncStdout:       newLogWriter(c.Log, c.Name, c.Redact, &hclog.StandardLoggerOptions{ForceLevel: hclog.Info}),
		SyncStderr:       newLogWriter(c.Log, c.Name, c.Redact, &hclog.StandardLoggerOptions{InferLevels: true}),
		RunnerFunc: func(_ hclog.Logger, cmd *exec.Cmd, dir string) (runner.Runner, error) {
			run.env, run.dir = cmd.Env, dir
			return run, nil
		},
	})
	stop := context.AfterFunc(ctx, func() { _ = run.Kill(ctx) })
	defer stop()
	p := &Process{run: run, done: make(chan struct{})}
	err := p.connect(client)
	if err == nil && ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = run.Kill(ctx)
		run.wait()
		p.clean()
		return nil, run.explain(err, timeout, ctx.Err())
	}
	p.client.name, p.client.sockets, p.client.timeout = c.Name, c.Sockets, cmp.Or(c.CallTimeout, callTimeout)
	go p.reap()
	return p, nil
}

func (p *Process) connect(client *plugin.Client) error {
	_, err := client.Start()
	if err != nil {
		return err
	}
	if p.conn, err = client.Client(); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	raw, err := p.conn.Dispense(pluginName)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	p.client = raw.(*Client) //nolint:forcetypeassert // border.GRPCClient makes nothing else
	return nil
}

// reap ends with the process.
func (p *Process) reap() {
	defer close(p.done)
	<-p.run.exited
	p.clean()
}

func (p *Process) clean() {
	if p.conn != nil {
		_ = p.conn.Close() // the process is gone: only this side's resources are left
	}
	if p.run.lifeline != nil {
		_ = p.run.lifeline.Close()
	}
	if p.run.dir != "" {
		_ = os.RemoveAll(p.run.dir) // swept again at the next start of the host
	}
}

// Client returns the calls that the process answers.
func (p *Process) Client() *Client { return p.client }

// Conn returns the connection to the process, for who checks a plugin from below the calls of Client. Nil where it is none
// that can be had.
func (p *Process) Conn() grpc.ClientConnInterface {
	if p.attached != nil {
		return p.attached.conn
	}
	if c, ok := p.conn.(*plugin.GRPCClient); ok {
		return c.Conn
	}
	return nil
}

// Orphan closes the pipe by which the process notices the end of its host, as this process's own end would: the plugin
// must end by itself. It reports false where the system has no such pipe.
func (p *Process) Orphan() bool {
	if p.attached != nil || p.run.lifeline == nil {
		return false
	}
	_ = p.run.lifeline.Close() // closed again when the process has gone
	return true
}

// PID returns the process id.
func (p *Process) PID() int {
	if p.attached != nil {
		return p.attached.pid
	}
	return p.run.pid()
}

// Done is closed when the process has ended and nothing of it is left; where it was attached to, with the connection.
func (p *Process) Done() <-chan struct{} { return p.done }

// Reason says, after Done, how the process ended, for people: "exit status 2: panic: ...".
func (p *Process) Reason() string {
	<-p.done
	if p.attached != nil {
		return "it was run under a debugger, and its connection ended"
	}
	return p.run.reason()
}

// Kill ends the process and its children with SIGKILL, whatever state they are in, and returns when they are gone. A process
// that was attached to is let go.
func (p *Process) Kill() {
	if p.attached != nil {
		_ = p.attached.conn.Close()
		<-p.done
		return
	}
	_ = p.run.Kill(context.Background())
	<-p.done
}

// Stop drains the process until ctx ends, asks it to exit, and kills what is left of it 2 seconds later. It returns
// when the process is gone; the error says that it had to be killed, or that work was cut off. A process that was attached to
// is let go.
func (p *Process) Stop(ctx context.Context) error {
	if p.attached != nil {
		p.Kill()
		return nil
	}
	drained := p.client.Drain(ctx)
	if sdk.CodeOf(drained) == sdk.CodeUnavailable && ctx.Err() == nil {
		drained = nil // gone by itself
	}
	asking, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopWait)
	defer cancel()
	_ = p.client.Stop(asking) // what matters is whether it goes
	select {
	case <-p.done:
		if drained != nil {
			return fmt.Errorf("drain: %w", drained)
		}
		return nil
	case <-asking.Done():
		p.Kill()
		return sdk.Errorf(sdk.CodeUnavailable, "process %d did not stop in %s and was killed", p.PID(), stopWait)
	}
}

// checkBinary says what is wrong with a binary before it is started.
func checkBinary(path string) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return sdk.Errorf(sdk.CodeNotFound, "there is no plugin binary at %s; build it, or correct the path", path)
	case err != nil:
		return sdk.Errorf(startCode(err), "plugin binary: %w", err)
	case !info.Mode().IsRegular():
		return sdk.Errorf(sdk.CodeInvalid, "%s is not a plugin binary but a %s", path, kindOf(info.Mode()))
	case runtime.GOOS != "windows" && info.Mode().Perm()&0o111 == 0:
		return sdk.Errorf(sdk.CodeInvalid, "%s is not executable; run chmod +x on it if it is a plugin", path)
	}
	return nil
}

func kindOf(mode fs.FileMode) string {
	if mode.IsDir() {
		return "directory"
	}
	return "special file (" + mode.Type().String() + ")"
}

// explain turns the reason why a process did not start into a sentence for people.
func (r *processRunner) explain(err error, timeout time.Duration, cancelled error) error {
	path, line, words := cmp.Or(r.command.Origin, r.command.Path), r.firstLine(), r.lastWords()
	late := errors.Is(cancelled, context.DeadlineExceeded) // or go-plugin was first to notice
	if text := r.command.Redact.Text(err.Error()); text != err.Error() {
		err = errors.New(text) // it quotes the handshake
	}
	switch {
	case errors.Is(err, syscall.ENOEXEC):
		return sdk.Errorf(sdk.CodeInvalid, "%s is not a program for %s/%s; build the plugin for this machine: %w", path, runtime.GOOS, runtime.GOARCH, syscall.ENOEXEC)
	case cancelled != nil && !late:
		return sdk.Errorf(sdk.CodeUnavailable, "start of %s: %w", path, cancelled)
	case line != "" && !looksLikeHandshake(line):
		return sdk.Errorf(sdk.CodeInvalid, "%s printed %q before its handshake: it is not a Starling plugin, or it prints on standard output before rpc.Serve", path, line)
	case line != "" && !late && !r.endedByItself():
		return sdk.Errorf(sdk.CodeUnsupported, "%s does not fit this host; rebuild it against this version of Starling: %w", path, err)
	case r.process() == nil:
		return sdk.Errorf(startCode(err), "start %s: %w", path, err)
	case r.endedByItself() && !r.state.Success(): // maybe for want of what it may have next time, such as memory
		if words == "" { // else it said why
			words = "; is it a Starling plugin?"
		}
		return sdk.Errorf(sdk.CodeUnavailable, "%s ended before its handshake (%s)%s", path, r.state, words)
	case r.endedByItself():
		return sdk.Errorf(sdk.CodeInvalid, "%s ended before its handshake (%s)%s; is it a Starling plugin?", path, r.state, words)
	}
	if line == "" && !late && strings.Contains(err.Error(), "Failed to read any lines") { // go-plugin has no error of its own for it
		// It may be ending, for whatever reason: CodeUnavailable has it tried again.
		return sdk.Errorf(sdk.CodeUnavailable, "%s closed its standard output before its handshake%s; is it a Starling plugin?", path, words)
	}
	if late {
		err = cancelled // the other is that the process was killed for it
	}
	return sdk.Errorf(sdk.CodeUnavailable, "%s did not complete its handshake within %s%s: %w", path, timeout, words, err)
}

// startCode tells a binary that can not be run from a system that has no process, descriptor or memory left for it now.
func startCode(err error) sdk.Code {
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) {
		return sdk.CodeInvalid
	}
	return sdk.CodeUnavailable
}

func looksLikeHandshake(line string) bool {
	parts := strings.Split(line, "|")
	return len(parts) >= 5 && strings.Trim(parts[0], "0123456789") == "" && strings.Trim(parts[1], "0123456789") == ""
}

// environment returns the few variables that a plugin gets from its host: no secrets of the host's are among them.
func environment() []string {
	var env []string
	for _, key := range []string{"PATH", "HOME", "TMPDIR", "TZ", "LANG", "GOCOVERDIR", "SystemRoot", "TEMP", "TMP", "USERPROFILE"} {
		if value, ok := os.LookupEnv(key); ok {
			env = append(env, key+"="+value)
		}
	}
	return env
}

func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}
