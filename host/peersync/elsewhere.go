package peersync

import (
	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/sdk"
)

// HasThrough reports whether a device is known to have all of a stream up to a stamp; known is false where nothing has been
// heard of what it has.
func (m *Machine) HasThrough(device sdk.DeviceID, key protocol.Stream, stamp hlc.Stamp) (has, known bool) {
	of, known := m.acks.of[device]
	if !known || len(of) == 0 {
		return false, false
	}
	all := of[key].heads
	if st := m.streams[key]; st != nil {
		all = m.graph.Join(all, st.applied)
	}
	return m.graph.Low(of[key].heads, all) >= stamp, true
}

// HasThrough is Machine.HasThrough.
func (e *Engine) HasThrough(device sdk.DeviceID, key protocol.Stream, stamp hlc.Stamp) (has, known bool) {
	e.stepMu.Lock()
	defer e.stepMu.Unlock()
	return e.machine.HasThrough(device, key, stamp)
}
