package main

import (
	"context"
	"slices"
	"time"

	"github.com/starling-sync/starling/host/supervisor"
	"github.com/starling-sync/starling/sdk"
)

// How long is waited for a plugin to do its work: for its process to start, and from then on.
const (
	startTime = 30 * time.Second
	fitTime   = 10 * time.Second
)

// fitness is whether a plugin does its work.
type fitness struct {
	fit     bool
	started bool  // its process has been tried
	final   bool  // waiting does not help
	why     error // it is not fit; nil, while it is not: that is not known yet
}

// fitness says whether a plugin's process is well and, of a transport that listens, whether it takes connections.
func (o *operator) fitness(name string) fitness {
	all := o.supervisor.Status()
	i := slices.IndexFunc(all, func(s supervisor.Status) bool { return s.Name == name })
	if i < 0 {
		return fitness{final: true, why: sdk.Errorf(sdk.CodeNotFound, "there is no plugin %q any more", name)}
	}
	s := &all[i]
	switch {
	case s.Paused():
		return fitness{final: true, why: sdk.Errorf(sdk.CodeUnavailable, "%s is stopped: %s", name, s.Reason)}
	case s.State == supervisor.Starting || s.State == supervisor.Stopped:
		return fitness{}
	case !s.State.Works():
		return fitness{started: true, final: s.State == supervisor.Quarantined, why: sdk.Errorf(sdk.CodeUnavailable, "%s is %s: %s", name, s.State, s.Reason)}
	}
	hears, err := o.network.hears(name)
	if err != nil {
		err = sdk.Errorf(sdk.CodeUnavailable, "%s is deaf: %w", name, err)
	}
	return fitness{fit: hears && err == nil, started: true, final: sdk.CodeOf(err) == sdk.CodeDenied, why: err}
}

// awaitFit returns once a plugin does its work, or why it does not: at once where waiting does not help, else in the end. undo
// ends it too; nil: nothing does.
func (o *operator) awaitFit(ctx context.Context, name string, undo <-chan string) error {
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	late := time.NewTimer(startTime)
	defer late.Stop()
	started := false
	for {
		f := o.fitness(name)
		switch {
		case f.fit:
			return nil
		case f.final:
			return f.why
		case f.started && !started:
			started = true
			late.Reset(fitTime)
		}
		select {
		case <-again.C:
		case by := <-undo:
			return &undoneError{by}
		case <-late.C:
			if f.why != nil {
				return f.why
			}
			return sdk.Errorf(sdk.CodeUnavailable, "%s has neither begun to work nor said why not", name)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// hears reports whether the transport of a label takes connections, if it is to, and why it does not, if that is known. A device
// without a library listens by none.
func (n *network) hears(label string) (bool, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	a := n.transports[label]
	if a == nil || a.address == "" || n.engine == nil {
		return true, nil
	}
	select {
	case <-a.listening:
	default:
		return false, a.deaf
	}
	return a.deaf == nil, a.deaf
}
