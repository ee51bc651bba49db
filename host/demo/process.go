package demo

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"time"
)

// process is one that the demo has started.
type process struct {
	cmd     *exec.Cmd
	ended   chan struct{}
	failure error // set before ended is closed
}

// startProcess starts cmd, whose output goes to the file log.
func startProcess(cmd *exec.Cmd, log string) (*process, error) {
	file, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	cmd.Stdout, cmd.Stderr = file, file
	ownGroup(cmd)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, ended: make(chan struct{})}
	go func() { p.failure = cmd.Wait(); close(p.ended) }()
	return p, nil
}

// until asks again and again, until check says true, fails, the process ends, or nothing came of it for two minutes.
// name is the process's, for people.
func (p *process) until(ctx context.Context, name string, check func() (bool, error)) error {
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	limit := time.NewTimer(2 * time.Minute)
	defer limit.Stop()
	for {
		if ok, err := check(); ok || err != nil {
			return err
		}
		select {
		case <-again.C:
		case <-p.ended:
			return fmt.Errorf("%s ended: %w", name, p.failure)
		case <-limit.C:
			return fmt.Errorf("%s: nothing came of it within two minutes", name)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// stop ends the process as Ctrl-C does, and by force if it takes long.
func (p *process) stop() {
	interrupt(p.cmd)
	select {
	case <-p.ended:
	case <-time.After(15 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.ended
	}
}
