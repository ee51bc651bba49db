package rpc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
)

const (
	busyRetries  = 50 // of a binary that another process, just forked, still holds open for writing
	busyWait     = 10 * time.Millisecond
	hearWait     = time.Second     // for the last words of a process whose error output a child, out of reach, holds open
	maxLineBytes = 300             // of a plugin's output in an error
	wordsAge     = 5 * time.Second // what was said longer before the end of a process does not explain it
)

// processRunner is the process as go-plugin's client sees it: with a lifeline, a process group, sockets, and a memory
// for what the process printed.
type processRunner struct {
	command  Command
	env      []string // what go-plugin adds
	dir      string   // of the socket between host and plugin
	log      hclog.Logger
	lifeline *os.File // its closing ends the process
	stdout   *os.File
	stderr   *os.File

	heard  chan struct{} // closed when standard error has been read to its end
	exited chan struct{} // closed when the process is gone; then state says how
	state  *os.ProcessState
	ended  time.Time // when it was found gone; as state

	mu     sync.Mutex
	cmd    *exec.Cmd // nil until started
	killed bool      // by this host
	line   []byte    // the beginning of standard output, at most maxLineBytes
	words  string    // the last line on standard error that explains anything
	spoken time.Time // when words came
	part   []byte    // of a line of standard error
}

// Start implements runner.Runner.
func (r *processRunner) Start(ctx context.Context) error {
	for try := 0; ; try++ {
		err := r.start()
		if !errors.Is(err, syscall.ETXTBSY) || try == busyRetries {
			return err
		}
		select {
		case <-time.After(busyWait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (r *processRunner) start() (err error) {
	cmd := exec.Command(absolute(r.command.Path), r.command.Args...) //nolint:gosec // the operator's choice
	cmd.Dir = r.command.Dir
	cmd.Env = append(environment(), r.command.Env...)
	cmd.Env = append(cmd.Env, r.env...)
	cmd.Env = append(cmd.Env, envLogLevel+"="+r.log.GetLevel().String())
	var files []*os.File // this process's copies, closed once the child has its own
	defer func() {
		for _, f := range files {
			_ = f.Close()
		}
	}()
	for _, s := range r.command.Sockets {
		f, err := s.Listener.File()
		if err != nil {
			return fmt.Errorf("pass the socket of %s: %w", s.Address, err)
		}
		files = append(files, f)
	}
	lifeline, err := tie(cmd, files)
	if err != nil {
		return err
	}
	defer untie(cmd)
	defer func() {
		if err != nil && lifeline != nil {
			_ = lifeline.Close()
		}
	}()
	stdout, stdoutW, err := os.Pipe()
	if err != nil {
		return err
	}
	stderr, stderrW, err := os.Pipe()
	if err != nil {
		return errors.Join(err, stdout.Close(), stdoutW.Close())
	}
	files = append(files, stdoutW, stderrW)
	cmd.Stdout, cmd.Stderr = stdoutW, stderrW
	if err := cmd.Start(); err != nil {
		return errors.Join(err, stdout.Close(), stderr.Close())
	}
	r.lifeline, r.stdout, r.stderr = lifeline, stdout, stderr
	r.mu.Lock()
	r.cmd = cmd
	killed := r.killed
	r.mu.Unlock()
	if killed { // while it started
		killGroup(cmd.Process)
	}
	go r.reap(cmd)
	return nil
}

// reap ends with the process, and ends its children.
func (r *processRunner) reap(cmd *exec.Cmd) {
	defer close(r.exited)
	_ = cmd.Wait() // the state says the same
	r.ended = time.Now()
	killGroup(cmd.Process)
	select {
	case <-r.heard:
	case <-time.After(hearWait):
	}
	r.state = cmd.ProcessState
}

// wait returns when the process is gone, or was never there.
func (r *processRunner) wait() {
	if r.process() != nil {
		<-r.exited
	}
}

func (r *processRunner) process() *os.Process {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cmd == nil {
		return nil
	}
	return r.cmd.Process
}

func (r *processRunner) pid() int {
	if p := r.process(); p != nil {
		return p.Pid
	}
	return 0
}

// Kill implements runner.Runner. It does not wait.
func (r *processRunner) Kill(context.Context) error {
	select {
	case <-r.exited: // its id may be another's by now
		return nil
	default:
	}
	r.mu.Lock()
	r.killed = true
	r.mu.Unlock()
	if p := r.process(); p != nil {
		killGroup(p)
	}
	return nil
}

// Wait implements runner.Runner. It is called when both outputs have been read to their ends.
func (r *processRunner) Wait(context.Context) error {
	<-r.exited
	return errors.Join(r.stdout.Close(), r.stderr.Close())
}

// Stdout implements runner.Runner.
func (r *processRunner) Stdout() io.ReadCloser {
	// A handshake is for go-plugin alone. A short secret, such as a number, is likely to stand in its certificate.
	return tee{r.command.Redact.lines(r.stdout, looksLikeHandshake), r.printed, func() {}}
}

// Stderr implements runner.Runner. It yields nothing: what the process prints is logged here, since go-plugin logs at debug level
// what is no entry, and so a traceback of a plugin in Python.
//
// HAZARD: go-plugin panics, which ends the host, at an entry whose @message, @level or @timestamp is no text.
func (r *processRunner) Stderr() io.ReadCloser {
	log := newErrorLog(r.log, r.command.Name)
	show := func(b []byte) {
		_, _ = log.Write(b) // which does not fail
		r.said(b)
	}
	return silent{tee{r.command.Redact.lines(r.stderr, nil), show, sync.OnceFunc(func() { log.end(); close(r.heard) })}}
}

// silent is read to its end by the first Read, and yields nothing.
type silent struct{ io.ReadCloser }

func (s silent) Read(p []byte) (int, error) {
	for {
		if _, err := s.ReadCloser.Read(p); err != nil {
			return 0, err
		}
	}
}

// Name implements runner.Runner.
func (r *processRunner) Name() string { return r.command.Name }

// ID implements runner.Runner.
func (r *processRunner) ID() string { return strconv.Itoa(r.pid()) }

// Diagnose implements runner.Runner. explain does it.
func (r *processRunner) Diagnose(context.Context) string { return "" }

// PluginToHost implements runner.Runner.
func (r *processRunner) PluginToHost(network, address string) (string, string, error) {
	return network, address, nil
}

// HostToPlugin implements runner.Runner.
func (r *processRunner) HostToPlugin(network, address string) (string, string, error) {
	return network, address, nil
}

// tee shows what is read to a second reader.
type tee struct {
	io.ReadCloser
	show func([]byte)
	end  func() // called after the last read, which fails
}

func (t tee) Read(p []byte) (int, error) {
	n, err := t.ReadCloser.Read(p)
	t.show(p[:n])
	if err != nil {
		t.end()
	}
	return n, err
}

// printed keeps the beginning of standard output.
func (r *processRunner) printed(b []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.line = append(r.line, b[:min(len(b), maxLineBytes-len(r.line))]...)
}

// said keeps the line of standard error that says most about why the process ends: a panic, else the last error.
func (r *processRunner) said(b []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(b) > 0 {
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			if len(r.part) < 1<<16 {
				r.part = append(r.part, b...)
			}
			return
		}
		r.remember(strings.TrimSpace(string(append(r.part, b[:i]...))), time.Now())
		r.part, b = r.part[:0], b[i+1:]
	}
}

func (r *processRunner) remember(line string, now time.Time) {
	fatal := now.Sub(r.spoken) <= wordsAge && isPanic(r.words)
	if line == "" || fatal {
		return
	}
	if strings.HasPrefix(line, "{") {
		var entry struct {
			Level   string `json:"@level"`
			Message string `json:"@message"`
			Error   string `json:"error"`
		}
		if json.Unmarshal([]byte(line), &entry) != nil || entry.Level != "error" || entry.Message == panicRecovered {
			return
		}
		line = strings.TrimSuffix(entry.Message+": "+entry.Error, ": ")
	}
	r.words, r.spoken = line[:min(len(line), maxLineBytes)], now
}

func (r *processRunner) firstLine() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	line, _, _ := strings.Cut(string(r.line), "\n")
	return strings.TrimSpace(line)
}

func (r *processRunner) lastWords() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.words == "" {
		return ""
	}
	return ": " + r.words
}

// dyingWords are lastWords if they came just before the end, which others do not explain. Call it after exited.
func (r *processRunner) dyingWords() string {
	words := r.lastWords()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended.Sub(r.spoken) > wordsAge {
		return ""
	}
	return words
}

func (r *processRunner) endedByItself() bool {
	return r.state != nil && r.state.Exited()
}

// reason says how the process ended. Call it after exited.
func (r *processRunner) reason() string {
	r.mu.Lock()
	killed := r.killed
	r.mu.Unlock()
	switch {
	case r.state.Success():
		return r.state.String()
	case r.endedByItself():
		return r.state.String() + r.dyingWords()
	case killed:
		return "killed by the host"
	}
	return r.state.String() + r.dyingWords() + " (not by this host)"
}
