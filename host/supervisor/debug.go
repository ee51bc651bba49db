package supervisor

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/rpc"
)

// attach connects to the process of the plugin that its author runs under a debugger, if one runs. A process that is stopped
// at a breakpoint answers late, and is neither hurried nor ended: whoever waits for all plugins does not wait for it.
func (k *keeper) attach(ctx context.Context) (*generation, error) {
	spec := k.specNow()
	redact := spec.redactor()
	answered := make(chan struct{})
	var waiting sync.WaitGroup
	waiting.Go(func() { k.awaitAnswer(answered) })
	defer waiting.Wait()
	defer close(answered)
	process, err := rpc.Attach(ctx, rpc.Command{Name: spec.Name, Log: k.options.Log, Redact: redact}, spec.Attach)
	if err != nil {
		return nil, err
	}
	k.closeSockets() // none can be passed to it: it listens by itself
	k.log.Warn("plugin is under a debugger: it has no deadlines, no health checks, and is not replaced", "pid", process.PID(), "file", spec.Attach)
	g := newGeneration(spec, binary{origin: spec.Attach}, nil, process)
	if err := k.probe(ctx, g, redact); err != nil {
		process.Kill()
		return nil, err
	}
	go k.watch(g)
	return g, nil
}

// debugPatience is how long a process under a debugger may take to answer before that is said.
const debugPatience = time.Second

// awaitAnswer says so, if no answer comes soon. From then on nobody waits for the plugin's start.
func (k *keeper) awaitAnswer(answered <-chan struct{}) {
	late := time.NewTimer(debugPatience)
	defer late.Stop()
	select {
	case <-answered:
	case <-late.C:
		k.set(Debugging, "it has been attached to and does not answer: a debugger has stopped it", nil)
	}
}

// errDebugged says that a process ended which was under a debugger. That is no failure of the plugin.
var errDebugged = errors.New("its debugger, or whoever ran it, ended it")

// reopen opens the plugin's socket again, which was closed for a process under a debugger.
func (k *keeper) reopen(ctx context.Context) error {
	k.mu.Lock()
	spec, have := k.spec, len(k.sockets) > 0
	k.mu.Unlock()
	if have {
		return nil
	}
	sockets, err := k.options.openSocket(ctx, spec)
	if err != nil {
		return err
	}
	k.mu.Lock()
	k.sockets = sockets
	k.mu.Unlock()
	return nil
}

// debugs reports whether a plugin is under a debugger, may turn out to be once its start is over, or is to be: another
// configuration names the file of a process that it did not name before. Then nothing is swapped. That a file is named of which no
// process is used changes nothing: what runs is the configured binary, and is swapped like any other.
func (k *keeper) debugs(next *Spec) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	attaches := k.spec.Attach != "" && k.status.State == Starting // a stopped process is said to be one after debugPatience only
	return k.status.State == Debugging || attaches || next.Attach != "" && next.Attach != k.spec.Attach
}

// replace has the plugin run by another configuration, by ending what it does now and starting it again.
func (k *keeper) replace(ctx context.Context, swap Swap, report func(Step)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	was := k.snapshot()
	if err := k.startAgain(swap.By, swap.Spec); err != nil {
		return err
	}
	report(Step{Stage: Done, Text: replaced(&was, swap.Spec)})
	return nil
}

// replaced says what becomes of a plugin that was as was says, and is started again instead of being swapped.
func replaced(was *Status, next *Spec) string {
	of := ""
	if was.PID != 0 { // else it has not answered yet
		of = fmt.Sprintf(", process %d,", was.PID)
	}
	switch {
	case was.State == Debugging:
		return fmt.Sprintf("it is not swapped, since it%s is under a debugger: that goes on, is let go and, if the configuration still names its file, is attached to again with the new configuration; meanwhile the plugin answers nothing", of)
	case next.Attach == "":
		return fmt.Sprintf("it is not swapped but started again, since what starts%s may be under a debugger: that is let go, and the binary is used", of)
	case was.PID != 0:
		return fmt.Sprintf("it is not swapped but started again, since it is to be debugged: process %d is ended, and the process of %s is used if there is one, else the binary", was.PID, next.Attach)
	}
	return fmt.Sprintf("it is not swapped but started again, since it is to be debugged: the process of %s is used if there is one, else the binary", next.Attach)
}

// refuseSwap says why the build of a plugin can not be swapped that is under a debugger; nil: it is not.
func (g *generation) refuseSwap() error {
	if !g.process.Debugged() {
		return nil
	}
	return sdk.Errorf(sdk.CodeUnavailable, "it is process %d, under a debugger; end that, and the configured build runs again", g.process.PID())
}
