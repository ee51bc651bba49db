package rpc

import (
	"os"
	"os/exec"
	"strconv"

	"github.com/starling-sync/starling/sdk"
)

// watchHost calls gone when the host has ended, however it did.
func watchHost(gone func()) {
	pid, err := strconv.Atoi(os.Getenv(envHost))
	if err != nil {
		return
	}
	host, err := os.FindProcess(pid)
	if err != nil {
		go gone()
		return
	}
	go func() {
		_, _ = host.Wait()
		gone()
	}()
}

func closeOnExec(uintptr) {}

// tie tells cmd which process to watch. Sockets can not be passed on this system: the plugin listens by itself.
func tie(cmd *exec.Cmd, sockets []*os.File) (lifeline *os.File, err error) {
	if len(sockets) > 0 {
		return nil, sdk.Errorf(sdk.CodeUnsupported, "this system can not pass a listening socket to a plugin")
	}
	cmd.Env = append(cmd.Env, envHost+"="+strconv.Itoa(os.Getpid()))
	return nil, nil
}

func untie(*exec.Cmd) {}

func killGroup(p *os.Process) { _ = p.Kill() }
