package service

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/hashicorp/go-hclog"
)

// Manager is told how the process is. Without one (NOTIFY_SOCKET is not set) nothing is told. Its methods may be called at
// once, do not wait for it, and log what it could not be told.
type Manager struct {
	log hclog.Logger
}

// NewManager returns a manager.
func NewManager(log hclog.Logger) *Manager { return &Manager{log: log} }

// Ready says that the host does its work; after Reloading, that it has taken up its configuration.
func (m *Manager) Ready() { m.tell(daemon.SdNotifyReady) }

// Reloading says that the configuration is being read anew; Ready ends it.
func (m *Manager) Reloading() {
	m.tell(daemon.SdNotifyReloading + "\n" + daemon.SdNotifyMonotonicUsec())
}

// Waiting says that the host is still starting and what it waits for: the manager gives it at least waitTime more.
func (m *Manager) Waiting(text string) {
	m.tell(fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d\nSTATUS=%s", waitTime.Microseconds(), strings.ReplaceAll(text, "\n", " ")))
}

// Waited says that nothing is waited for any more.
func (m *Manager) Waited() { m.tell("STATUS=") }

// waitTime is more than passes between two calls of Waiting.
const waitTime = 2 * time.Minute

// Stopping says that the host is being stopped.
func (m *Manager) Stopping() { m.tell(daemon.SdNotifyStopping) }

func (m *Manager) tell(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		m.log.Warn("the service manager could not be told", "state", state, "error", err)
	}
}

// Watch feeds the manager's watchdog, if there is one, until ctx ends: at each half of its time, if alive returns nil within
// a quarter. Where it does not, the manager ends the process and starts it again.
func (m *Manager) Watch(ctx context.Context, alive func(context.Context) error) error {
	interval, err := daemon.SdWatchdogEnabled(true)
	if err != nil {
		m.log.Warn("the service manager's watchdog can not be fed", "error", err)
		return nil
	}
	if interval == 0 {
		return nil
	}
	ticker := time.NewTicker(interval / 2)
	defer ticker.Stop()
	for {
		asking, cancel := context.WithTimeout(ctx, interval/4)
		err := alive(asking)
		cancel()
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			m.log.Error("this host does not do its work; the service manager will end it unless it recovers", "reason", err)
		default:
			m.tell(daemon.SdNotifyWatchdog)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}
