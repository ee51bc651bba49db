//go:build unix

package rpc

import (
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"
)

// watchHost calls gone when the host has ended, however it did: its end of the lifeline pipe closes with it.
func watchHost(gone func()) {
	if os.Getenv(envLifeline) == "" {
		return
	}
	closeOnExec(lifelineDescriptor)
	pipe := os.NewFile(lifelineDescriptor, "lifeline")
	go func() {
		_, _ = io.Copy(io.Discard, pipe)
		gone()
	}()
}

func closeOnExec(fd uintptr) { syscall.CloseOnExec(int(fd)) } //nolint:gosec // a descriptor

// tie gives cmd the reading end of a pipe whose writing end the host keeps, then the sockets, and a process group of
// its own, so that a signal of the host's terminal passes it by and its children end with it.
func tie(cmd *exec.Cmd, sockets []*os.File) (lifeline *os.File, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.ExtraFiles = append([]*os.File{r}, sockets...)
	cmd.Env = append(cmd.Env, envLifeline+"="+strconv.Itoa(lifelineDescriptor), envListeners+"="+strconv.Itoa(len(sockets)))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return w, nil
}

// untie closes this process's copy of what the child got from tie.
func untie(cmd *exec.Cmd) {
	if len(cmd.ExtraFiles) > 0 {
		_ = cmd.ExtraFiles[0].Close()
	}
}

// killGroup ends the process and every child it left.
func killGroup(p *os.Process) { _ = syscall.Kill(-p.Pid, syscall.SIGKILL) } // gone already is as good
