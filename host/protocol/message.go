package protocol

import (
	"cmp"
	"time"

	"github.com/google/uuid"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/history"
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
	TypeEpochs               Type = 15
	TypeSnapshotRequest      Type = 16
	TypeSnapshotPage         Type = 17
	TypeAuditRequest         Type = 18
	TypeAuditResponse        Type = 19
	TypeAuditRepair          Type = 20

	lastType = TypeAuditRepair
)

var typeNames = [...]string{
	TypeHello: "Hello", TypeStateRequest: "StateRequest", TypeSharedChangeRequest: "SharedChangeRequest",
	TypeStateResponse: "StateResponse", TypeSharedChangeResponse: "SharedChangeResponse",
	TypeStateChange: "StateChange", TypeStateBatch: "StateBatch", TypeSharedChange: "SharedChange",
	TypeSharedChangeBatch: "SharedChangeBatch", TypeAckSharedChanges: "AckSharedChanges",
	TypeHeartbeat: "Heartbeat", TypeError: "Error", TypeJoin: "Join", TypeWelcome: "Welcome",
	TypeEpochs: "Epochs", TypeSnapshotRequest: "SnapshotRequest", TypeSnapshotPage: "SnapshotPage",
	TypeAuditRequest: "AuditRequest", TypeAuditResponse: "AuditResponse", TypeAuditRepair: "AuditRepair",
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

// What package history says of streams and positions, under the names that messages use.
type (
	Stream   = history.Stream
	EpochID  = history.EpochID
	Position = history.Position
	Heads    = history.Heads
	Epoch    = history.Epoch
)

// Mark is one position that somebody has in a stream. A list of marks is a vector: who has several positions in a stream,
// because its history has branched, has several marks for it.
type Mark struct {
	Stream
	Position
}

// Page is a run of changes of one stream. It holds every change of the history of Heads that comes after From and still
// exists; it may hold others of the stream, up to Through.
// Batches may be shared with other goroutines: they and their bytes are read only.
type Page struct {
	Stream
	Heads   Heads     // who has the history of Heads up to From, and the page, has Heads
	From    hlc.Stamp // From < every stamp of the page
	Through hlc.Stamp // From <= Through, and every stamp of Heads and of the page <= Through
	Head    hlc.Stamp // how far the sender was when it sent the page: shows progress
	Batches []sdk.Batch

	// Epochs are those of Heads' history that are to be stored with the page, parents first. They do not travel with it: an
	// Epochs message does, before it.
	Epochs []Epoch
}

// Bytes returns about how much memory and wire the page takes before compression.
func (p *Page) Bytes() int {
	return pageOverhead + len(p.Heads)*positionBytes + batchesBytes(p.Batches)
}

func batchesBytes(batches []sdk.Batch) (n int) {
	for i := range batches {
		b := &batches[i]
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
	groupOverhead = 32 // what names an origin, or a model
	positionBytes = 29
	markBytes     = 49
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
	Since  Heads // what the subscriber has
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
	Known     []Known       // what third devices have, as far as the sender knows and the receiver was not told
}

// Known is what a third device has acknowledged.
type Known struct {
	Device sdk.DeviceID
	Vector []Mark
}

// Epochs says what epochs continue, before other messages name them: each once in a session, parents first.
type Epochs struct{ Epochs []Epoch }

// Place is a place in the order of all records: by model name, then by id. The zero Place is before them all.
type Place struct {
	Model sdk.ModelName
	ID    sdk.RecordID
}

// Compare orders places.
func (p Place) Compare(other Place) int {
	return cmp.Or(cmp.Compare(p.Model, other.Model), p.ID.Compare(other.ID))
}

// SnapshotRequest asks for records as they are, rather than for what changed: for a device that is below the floor, and
// to repair what an audit found. SnapshotPage answers, once.
type SnapshotRequest struct {
	Number    uint32        // names the request within the session; the page repeats it
	Kind      sdk.Ownership // records of this kind
	Origin    sdk.DeviceID  // device-owned: of this owner; zero: of every device
	Since     Heads         // device-owned of one owner: what the receiver has; of rows that are not newer the id is enough
	After     Place         // records after this one ...
	Until     Place         // ... up to and with this one; zero: to the end
	PageBytes int           // cut the page at about this size; zero: the sender's default
}

// SnapshotPage holds every record of a kind in (After of the request, End] that the sender knows: those that exist, and the
// clocks of those that do not.
type SnapshotPage struct {
	Number uint32
	Vector []Mark // what the sender had of the streams concerned, before it read the page
	// Changes are the operations, or rows and deletes, that make the records, by who gave them.
	Changes   []Changes
	Unchanged []RecordIDs // records of the range that are not newer than Since
	End       Place       // where the page ends; with Done it is Until of the request, or zero: to the end
	Done      bool        // there are no more up to Until
}

// Bytes returns about how much memory and wire the page takes before compression.
func (p *SnapshotPage) Bytes() int {
	n := pageOverhead + len(p.Vector)*markBytes
	for i := range p.Changes {
		n += groupOverhead + batchesBytes(p.Changes[i].Batches)
	}
	for i := range p.Unchanged {
		n += groupOverhead + len(p.Unchanged[i].Model) + len(p.Unchanged[i].IDs)*len(sdk.RecordID{})
	}
	return n
}

// Changes are changes that one device gave.
type Changes struct {
	Origin  sdk.DeviceID
	Batches []sdk.Batch
}

// RecordIDs names records of one model, ascending.
type RecordIDs struct {
	Model sdk.ModelName
	IDs   []sdk.RecordID
}

// Digest sums records: the same for the same records with the same clocks.
type Digest [16]byte

// AuditRequest asks whether two devices that have the same hold the same. AuditResponse answers.
type AuditRequest struct {
	Number uint32        // names the audit within the session
	Vector Digest        // of the sender's vector: if the receiver has another, nothing is compared
	Models []ModelDigest // of all records that exist, ascending by name
}

// ModelDigest is the digest of all records of a model.
type ModelDigest struct {
	Model  sdk.ModelName
	Digest Digest
}

// AuditResponse says in which models the receiver of an AuditRequest holds something else. None: all is equal.
type AuditResponse struct {
	Number uint32
	Moved  bool // the vectors differ, so nothing was compared
	Models []RangeDigests
}

// RangeDigests are the digests of the ranges of a model that are not empty, ascending by range.
type RangeDigests struct {
	Model  sdk.ModelName
	Ranges []RangeDigest
}

// RangeDigest is the digest of one range of ids: after the Until of the range before, through its own. Ranges end where ids
// say so, so that two devices divide alike what they hold alike.
type RangeDigest struct {
	Until  sdk.RecordID
	Digest Digest
}

// AuditRepair names the ranges in which the two differ: each asks the other for their records (SnapshotRequest) and merges.
type AuditRepair struct {
	Number uint32
	Ranges []AuditRange
}

// AuditRange is a run of ids of a model: after After, through Until.
type AuditRange struct {
	Model        sdk.ModelName
	After, Until sdk.RecordID
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
func (*Epochs) Type() Type               { return TypeEpochs }
func (*SnapshotRequest) Type() Type      { return TypeSnapshotRequest }
func (*SnapshotPage) Type() Type         { return TypeSnapshotPage }
func (*AuditRequest) Type() Type         { return TypeAuditRequest }
func (*AuditResponse) Type() Type        { return TypeAuditResponse }
func (*AuditRepair) Type() Type          { return TypeAuditRepair }

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
