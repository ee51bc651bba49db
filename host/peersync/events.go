package peersync

import (
	"github.com/hashicorp/go-hclog"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/sdk"
)

// SessionID names one connection to a peer within this process. Ids ascend and are not used twice.
type SessionID uint64

// Event is something that happened to the machine's world. The set is closed.
type Event interface{ event() }

type (
	// PeerUp says that a connection to an authenticated peer stands. Nothing has been sent on it.
	PeerUp struct {
		Session      SessionID
		Peer         sdk.DeviceID
		Dialed       bool // by this device
		Via, Address string
	}
	// PeerDown says that a connection ended. One that the machine closed may be reported or not.
	PeerDown struct {
		Session SessionID
		Err     error
	}
	// Received is a message from a peer.
	Received struct {
		Session SessionID
		Message protocol.Message
	}
	// Heard says that bytes have come from a peer, which need not be a whole message yet.
	Heard struct{ Session SessionID }
	// Committed is a page of this device's own stream, durable: From is where the stream ended before it.
	Committed struct{ Page protocol.Page }
	// Advanced is Committed without the page, which must be read from the database.
	Advanced struct{ Mark protocol.Mark }
	// Applied answers Apply. With a nil Err the page is durable.
	Applied struct {
		Generation uint64
		Page       protocol.Page
		Err        error
	}
	// PageRead answers ReadPage.
	PageRead struct {
		Read ReadPage
		Page protocol.Page
		More bool
		Err  error
	}
	// MembersChanged replaces the members.
	MembersChanged struct{ Members []Member }
	// ModelsChanged replaces what the next Hello says of the models served here.
	ModelsChanged struct{ Models []protocol.ModelVersion }
	// DialFailed answers Dial where PeerUp does not.
	DialFailed struct {
		Peer sdk.DeviceID
		Err  error
	}
	// Redial forgets the pauses between attempts to dial: the ways to reach peers have changed.
	Redial struct{}
	// Tick says that time has passed. Ticks come several times per heartbeat.
	Tick struct{}
)

func (PeerUp) event()         {}
func (PeerDown) event()       {}
func (Received) event()       {}
func (Heard) event()          {}
func (Committed) event()      {}
func (Advanced) event()       {}
func (Applied) event()        {}
func (PageRead) event()       {}
func (MembersChanged) event() {}
func (ModelsChanged) event()  {}
func (DialFailed) event()     {}
func (Redial) event()         {}
func (Tick) event()           {}

// Action is something the machine asks its caller to do. The set is closed.
type Action interface{ action() }

type (
	// Send queues a message to a session. Messages of one stream keep their order.
	Send struct {
		Session SessionID
		Message protocol.Message
	}
	// Apply makes a page durable; Applied answers. Pages of one stream are applied in the order they are asked for;
	// after one of a generation has failed, the later ones of that generation fail untried.
	Apply struct {
		Generation uint64
		Page       protocol.Page
		From       sdk.DeviceID // the peer that sent it
	}
	// ReadPage reads a page of a stream from the database; PageRead answers, with this action in it.
	ReadPage struct {
		Session      SessionID
		Subscription uint32
		Stream       protocol.Stream
		Since        hlc.Stamp
		Head         hlc.Stamp // the stream's watermark now: what the read reaches if there is no more
		MaxBytes     int
	}
	// Dial connects to one of the addresses; PeerUp or DialFailed answers.
	Dial struct {
		Peer      sdk.DeviceID
		Addresses []protocol.Address
	}
	// Close ends a session after what has been queued was sent.
	Close struct {
		Session SessionID
		Reason  string
	}
	// Acknowledged says that a peer has durably applied these streams up to there.
	Acknowledged struct {
		Peer  sdk.DeviceID
		Marks []protocol.Mark
	}
	// Log is a line for the operator.
	Log struct {
		Level   hclog.Level
		Message string
		Args    []any // as hclog takes them
	}
)

func (Send) action()         {}
func (Apply) action()        {}
func (ReadPage) action()     {}
func (Dial) action()         {}
func (Close) action()        {}
func (Acknowledged) action() {}
func (Log) action()          {}
