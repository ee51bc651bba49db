package protocol

import (
	"time"

	"github.com/google/uuid"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/sdk"
)

// The range of protocol versions that this build speaks.
const (
	MinVersion = 1
	MaxVersion = 1
)

// Type is the type byte of a frame.
type Type uint8

// The types of frames. A number is never given a second meaning.
const (
	TypeHello                Type = 1
	TypeStateRequest         Type = 2
	TypeSharedChangeRequest  Type = 3
	TypeStateResponse        Type = 4
	TypeSharedChangeResponse Type = 5
	TypeStateChange          Type = 6
	TypeStateBatch           Type = 7
	TypeSharedChange         Type = 8
	TypeSharedChangeBatch    Type = 9
	TypeAckSharedChanges     Type = 10
	TypeHeartbeat            Type = 11
	TypeError                Type = 12
	TypeJoin                 Type = 13
	TypeWelcome              Type = 14
)

var typeNames = [...]string{
	TypeHello: "Hello", TypeStateRequest: "StateRequest", TypeSharedChangeRequest: "SharedChangeRequest",
	TypeStateResponse: "StateResponse", TypeSharedChangeResponse: "SharedChangeResponse",
	TypeStateChange: "StateChange", TypeStateBatch: "StateBatch", TypeSharedChange: "SharedChange",
	TypeSharedChangeBatch: "SharedChangeBatch", TypeAckSharedChanges: "AckSharedChanges",
	TypeHeartbeat: "Heartbeat", TypeError: "Error", TypeJoin: "Join", TypeWelcome: "Welcome",
}

func (t Type) String() string {
	if int(t) < len(typeNames) && typeNames[t] != "" {
		return typeNames[t]
	}
	return "unknown"
}

// Message is one of the messages below, as a pointer. The set is closed. A message that has been sent or received is
// shared and must not be changed.
type Message interface{ Type() Type }

// LibraryID names a library.
type LibraryID uuid.UUID

func (id LibraryID) String() string { return uuid.UUID(id).String() }

// EpochID names one start of a device. The zero EpochID means that it is not known.
type EpochID uuid.UUID

func (id EpochID) String() string { return uuid.UUID(id).String() }

// Stream names all changes of one kind that one device originated, in stamp order.
type Stream struct {
	Origin sdk.DeviceID
	Kind   sdk.Ownership
}

// Compare orders streams by origin, the shared stream of a device before its state stream.
func (s Stream) Compare(other Stream) int {
	if c := s.Origin.Compare(other.Origin); c != 0 || s.Kind == other.Kind {
		return c
	}
	if s.Kind == sdk.SharedByAll {
		return -1
	}
	return 1
}

// Position is a place in a stream: everything up to and with Stamp.
type Position struct {
	Epoch EpochID
	Stamp hlc.Stamp
}

// Mark says how far somebody is in a stream.
type Mark struct {
	Stream
	Position
}

// Page is a run of changes of one stream. It holds every change with From < stamp <= Through that still exists.
// Batches may be shared with other goroutines: they and their bytes are read only.
type Page struct {
	Stream
	Epoch   EpochID
	From    hlc.Stamp // From <= every stamp of the page; the receiver's watermark must have reached it
	Through hlc.Stamp // From <= Through
	Head    hlc.Stamp // how far the sender was when it sent the page: shows progress
	Batches []sdk.Batch
}

// Bytes returns about how much memory and wire the page takes before compression.
func (p *Page) Bytes() int {
	n := pageOverhead
	for i := range p.Batches {
		b := &p.Batches[i]
		n += len(b.Rows) + len(b.Model) + batchOverhead
		for _, c := range b.Columns {
			n += len(c) + 2
		}
	}
	return n
}

// Rows returns how many rows or operations the page carries.
func (p *Page) Rows() int {
	n := 0
	for i := range p.Batches {
		n += p.Batches[i].Count
	}
	return n
}

const (
	pageOverhead  = 96
	batchOverhead = 16
)

// ModelVersion says which schema of a model a device has.
type ModelVersion struct {
	Model   sdk.ModelName
	Version uint32
}

// Hello is the first message of both sides.
type Hello struct {
	MinVersion, MaxVersion uint32 // of the protocol
	Library                LibraryID
	Device                 sdk.DeviceID
	Name                   string // of the device, for people
	Epoch                  EpochID
	Clock                  time.Time
	Models                 []ModelVersion
	Vector                 []Mark
}

// Subscribe asks for one stream after Since.
type Subscribe struct {
	Number uint32 // names the subscription within the session; a page repeats it
	Origin sdk.DeviceID
	Since  Position
}

// Request is what both kinds of requests hold. A second Subscribe of one stream replaces the first.
type Request struct {
	Subscribe   []Subscribe
	Drop        []sdk.DeviceID // send these no more
	PageBytes   int            // cut pages at about this size; zero: the sender's default
	WindowBytes int            // send at most so much unacknowledged, all streams of this kind together; zero: the default
}

// Delivery is a page with the subscription that it answers.
type Delivery struct {
	Subscription uint32
	Page         Page
}

type (
	// StateRequest subscribes to streams of device-owned rows.
	StateRequest struct{ Request }
	// SharedChangeRequest subscribes to streams of shared operations.
	SharedChangeRequest struct{ Request }

	// StateResponse is a page of catch-up of device-owned rows.
	StateResponse struct{ Delivery }
	// SharedChangeResponse is a page of catch-up of shared operations.
	SharedChangeResponse struct{ Delivery }
	// StateChange is one live change to a device-owned row.
	StateChange struct{ Delivery }
	// StateBatch is live changes to device-owned rows.
	StateBatch struct{ Delivery }
	// SharedChange is one live shared operation.
	SharedChange struct{ Delivery }
	// SharedChangeBatch is live shared operations.
	SharedChangeBatch struct{ Delivery }
)

// AckSharedChanges says that the sender has durably applied these streams up to here, without a gap. It carries what
// changed since the last vector, both kinds: acknowledgements are also what frees the sender's window.
type AckSharedChanges struct{ Vector []Mark }

// Heartbeat says that the sender lives, and who has what.
type Heartbeat struct {
	Clock     time.Time
	Echo      time.Time     // Clock of the receiver's last Hello or Heartbeat, so that it learns the round trip
	EchoDelay time.Duration // since that was received
	Vector    []Mark        // what changed since the last vector
}

// Error is a refusal and says why. Without a stream the session ends; with one only that stream is concerned.
type Error struct {
	Code      sdk.Code
	Message   string
	Retryable bool
	Stream    Stream // zero: the session
}

// Address is where a device can be dialled: by which kind of transport, and how that writes it.
type Address struct {
	Transport string
	Address   string
}

// Join is the first message of a device that has an invitation and is no member yet.
type Join struct {
	MinVersion, MaxVersion uint32
	Secret                 []byte
	Name                   string
	Addresses              []Address
}

// Welcome answers Join. Members is whatever the two sides' membership understands.
type Welcome struct {
	Library     LibraryID
	LibraryName string
	Members     []byte
}

// Type of each message.
func (*Hello) Type() Type                { return TypeHello }
func (*StateRequest) Type() Type         { return TypeStateRequest }
func (*SharedChangeRequest) Type() Type  { return TypeSharedChangeRequest }
func (*StateResponse) Type() Type        { return TypeStateResponse }
func (*SharedChangeResponse) Type() Type { return TypeSharedChangeResponse }
func (*StateChange) Type() Type          { return TypeStateChange }
func (*StateBatch) Type() Type           { return TypeStateBatch }
func (*SharedChange) Type() Type         { return TypeSharedChange }
func (*SharedChangeBatch) Type() Type    { return TypeSharedChangeBatch }
func (*AckSharedChanges) Type() Type     { return TypeAckSharedChanges }
func (*Heartbeat) Type() Type            { return TypeHeartbeat }
func (*Error) Type() Type                { return TypeError }
func (*Join) Type() Type                 { return TypeJoin }
func (*Welcome) Type() Type              { return TypeWelcome }

// RequestFor returns the request message for streams of kind.
func RequestFor(kind sdk.Ownership, r Request) Message {
	if kind == sdk.DeviceOwned {
		return &StateRequest{r}
	}
	return &SharedChangeRequest{r}
}

// CatchUp returns the message that carries d as a page of catch-up.
func CatchUp(d Delivery) Message {
	if d.Page.Kind == sdk.DeviceOwned {
		return &StateResponse{d}
	}
	return &SharedChangeResponse{d}
}

// Live returns the message that carries d as live changes.
func Live(d Delivery) Message {
	one := d.Page.Rows() == 1
	switch state := d.Page.Kind == sdk.DeviceOwned; {
	case state && one:
		return &StateChange{d}
	case state:
		return &StateBatch{d}
	case one:
		return &SharedChange{d}
	}
	return &SharedChangeBatch{d}
}
