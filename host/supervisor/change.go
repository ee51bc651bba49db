package supervisor

import (
	"context"
	"slices"

	"github.com/starling-sync/starling/sdk"
)

// Add runs one more plugin, and returns when it has been tried or ctx ends. An error says that it could not be: its
// socket, or the name, is taken.
func (s *Supervisor) Add(ctx context.Context, spec Spec, by string) error {
	s.mu.Lock()
	if s.running == nil {
		s.mu.Unlock()
		return sdk.Errorf(sdk.CodeUnavailable, "the host starts or stops; try again")
	}
	if s.find(spec.Name) != nil {
		s.mu.Unlock()
		return sdk.Errorf(sdk.CodeInvalid, "there is a plugin %q already", spec.Name)
	}
	k := newKeeper(&s.options, spec)
	sockets, err := s.options.openSocket(ctx, spec)
	if err != nil {
		s.mu.Unlock()
		return err
	}
	k.sockets = sockets
	if s.running.choices.of(spec.Name).Paused != "" { // when it was configured before: whoever adds it wants it to run
		if err := s.running.choices.change(spec.Name, spec.Path, func(c *choice) { c.Paused = "" }); err != nil {
			s.mu.Unlock()
			k.closeSockets()
			return err
		}
	}
	s.plugins = append(s.plugins, k)
	s.start(k)
	s.mu.Unlock()
	k.record(Event{Kind: WasAdded, By: by, To: Build{Path: spec.Path, SHA256: spec.SHA256}})
	return k.tried(ctx)
}

// Remove stops a plugin and forgets it, and returns when its process is gone. A swap of it ends.
func (s *Supervisor) Remove(name, by string) error {
	s.mu.Lock()
	k := s.find(name)
	if k == nil || s.running == nil {
		s.mu.Unlock()
		return sdk.Errorf(sdk.CodeNotFound, "no plugin %q runs", name)
	}
	s.plugins = slices.DeleteFunc(s.plugins, func(other *keeper) bool { return other == k })
	k.cancel()
	s.mu.Unlock()
	<-k.ended
	k.closeSockets()
	k.record(Event{Kind: WasRemoved, By: by, From: k.lastBuild()})
	return nil
}

// Pause stops a plugin until Resume, also over restarts of the host. why says for whom or what it makes way.
func (s *Supervisor) Pause(name, why, by string) error {
	k, err := s.keeperOf(name)
	if err != nil {
		return err
	}
	if err := k.pause(why); err != nil {
		return err
	}
	k.record(Event{Kind: WasPaused, By: by, Why: why, From: k.lastBuild()})
	return nil
}

// Resume has a paused plugin run again, and returns before it does: Status tells the rest. A plugin that is not paused goes on. An
// error says that its socket, or a binary of it, could not be had.
func (s *Supervisor) Resume(ctx context.Context, name, by string) error {
	k, err := s.keeperOf(name)
	if err != nil {
		return err
	}
	if k.pausedNow() == "" {
		return nil
	}
	if err := k.startable(); err != nil {
		return sdk.Errorf(sdk.CodeOf(err), "plugin %s was not started: %w", name, err)
	}
	if err := k.reopen(ctx); err != nil { // unless the process that is being stopped still has it
		return err
	}
	if err := k.pause(""); err != nil {
		return err
	}
	k.record(Event{Kind: WasResumed, By: by})
	return nil
}

// shelve keeps another configuration for a paused plugin's next start. It reports whether it is paused.
func (k *keeper) shelve(next *Spec) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.paused == "" {
		return false
	}
	if k.spec.Listen != next.Listen {
		closeAll(k.sockets) // as cutLife does
		k.sockets = nil
	}
	if k.spec.Path != next.Path {
		k.status.Path, k.status.SHA256, k.status.Version = next.Path, "", "" // until it is started
	}
	k.spec = *next
	return true
}

// pause says why the plugin is not to run; empty: it is to run.
func (k *keeper) pause(why string) error {
	k.mu.Lock()
	if k.trial != nil {
		defer k.mu.Unlock()
		return k.trial.busy(k.name, k.options.Now())
	}
	if k.cut == nil {
		defer k.mu.Unlock()
		return sdk.Errorf(sdk.CodeUnavailable, "plugin %s does not run yet", k.name)
	}
	source := k.spec.Path
	k.mu.Unlock()
	if err := k.choices.change(k.name, source, func(c *choice) { c.Paused = why }); err != nil {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.paused = why
	k.cut(errPaused)
	return nil
}
