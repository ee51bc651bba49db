package peersync

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/sdk"
)

// TestMachine_advanceDuringHandshake lets a watermark move after Hello was sent and before the peer's Hello has come: the
// peer must learn of it with the first heartbeat, since nothing else may ever tell it.
func TestMachine_advanceDuringHandshake(t *testing.T) {
	self, peer, third := deviceID(0), deviceID(1), deviceID(2)
	library := protocol.LibraryID{1}
	m := NewMachine(MachineOptions{
		Self: Self{Device: self, Library: library, Epoch: protocol.EpochID{1}}, Members: []Member{{ID: peer}, {ID: third}},
		Limits: protocol.DefaultLimits(), Config: DefaultConfig(), Rand: rand.New(rand.NewPCG(1, 1)),
	})
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	m.Step(now, PeerUp{Session: 1, Peer: peer})
	moved := protocol.Mark{Stream: protocol.Stream{Origin: third, Kind: sdk.DeviceOwned}, Position: protocol.Position{Epoch: protocol.EpochID{3}, Stamp: 77}}
	m.Step(now, Applied{Page: protocol.Page{Stream: moved.Stream, Heads: protocol.Heads{moved.Position}, Through: moved.Stamp}})
	hello := &protocol.Hello{MinVersion: protocol.MinVersion, MaxVersion: protocol.MaxVersion, Library: library, Device: peer, Epoch: protocol.EpochID{2}, Clock: now}
	for _, a := range m.Step(now, Received{Session: 1, Message: hello}) {
		if send, ok := a.(Send); ok {
			if beat, ok := send.Message.(*protocol.Heartbeat); ok && len(beat.Vector) == 1 && beat.Vector[0] == moved {
				return
			}
		}
	}
	t.Error("the first heartbeat does not say that the watermark has moved since Hello")
}
