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
	// Committed is a page of this device's own stream, durable: From is where the stream ended before it. Page.Epochs is the
	// epoch that it opened, if it did.
	Committed struct{ Page protocol.Page }
	// Advanced is Committed without the page, which must be read from the database.
	Advanced struct {
		Mark   protocol.Mark
		Opened []protocol.Epoch
	}
	// Applied answers Apply. With a nil Err the page is durable.
	Applied struct {
		Generation uint64
		Page       protocol.Page
		Err        error
		From       sdk.DeviceID // of Apply; for what is counted, like Accounts
		Accounts   []Account
	}
	// PageRead answers ReadPage.
	PageRead struct {
		Read ReadPage
		Page protocol.Page
		More bool
		Err  error
	}
	// RangeRead answers ReadRange.
	RangeRead struct {
		Read ReadRange
		Page protocol.SnapshotPage
		Err  error
	}
	// RangeTaken answers TakeRange.
	RangeTaken struct {
		Take  TakeRange
		Taken Taken
		Err   error
	}
	// Digested answers Digest.
	Digested struct {
		Digest Digest
		Models []ModelDigests
		Err    error
	}
	// Pruned answers Prune. Floors are those in force now, if they are known: where the store had nothing to forget, nobody needs
	// a snapshot. Nil: those that were asked for.
	Pruned struct {
		Floors map[protocol.Stream]hlc.Stamp
		Err    error
	}
	// Sealed answers Seal. What it closed is announced as Committed.
	Sealed struct{ Err error }
	// Retain asks that the log keeps nothing at or below these stamps, since it has grown too large.
	Retain struct{ Floors map[protocol.Stream]hlc.Stamp }
	// AuditNow asks for an audit with a peer (zero: with every one) as soon as both are alike.
	AuditNow struct{ Peer sdk.DeviceID }
	// MembersChanged replaces the members.
	MembersChanged struct{ Members []Member }
	// ModelsChanged replaces what the next Hello says of the models served here.
	ModelsChanged struct{ Models []protocol.ModelVersion }
	// DialFailed answers Dial where PeerUp does not.
	DialFailed struct {
		Peer sdk.DeviceID
		Err  error
	}
	// Leave ends sessions because the transport that carries them goes: the peers are asked to connect again at once.
	Leave struct{ Sessions []SessionID }
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
func (RangeRead) event()      {}
func (RangeTaken) event()     {}
func (Digested) event()       {}
func (Pruned) event()         {}
func (Sealed) event()         {}
func (Retain) event()         {}
func (AuditNow) event()       {}
func (MembersChanged) event() {}
func (ModelsChanged) event()  {}
func (DialFailed) event()     {}
func (Leave) event()          {}
func (Redial) event()         {}
func (Tick) event()           {}

// Scope is what a snapshot is of: the shared records of all devices (Origin is zero), or those that one device owns.
type Scope struct {
	Kind   sdk.Ownership
	Origin sdk.DeviceID
}

func scopeOf(key protocol.Stream) Scope {
	if key.Kind == sdk.SharedByAll {
		return Scope{Kind: sdk.SharedByAll}
	}
	return Scope{Kind: key.Kind, Origin: key.Origin}
}

// Taken is what became of a TakeRange.
type Taken struct {
	Heads    map[protocol.Stream]protocol.Heads // the watermarks that moved: those of the last page
	Floors   map[protocol.Stream]hlc.Stamp      // that rose with them: the log has nothing of what came as records
	Records  int                                // merged
	Repaired int                                // that were not alike before
}

// ModelDigests are the digests of the records of one model that exist.
type ModelDigests struct {
	Model  sdk.ModelName
	Kind   sdk.Ownership
	Total  protocol.Digest
	Ranges []protocol.RangeDigest // those that are not empty, ascending
}

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
		Heads        protocol.Heads // of the stream now: what the read reaches if there is no more
		MaxBytes     int
	}
	// ReadRange reads records as they are; RangeRead answers, with this action in it.
	ReadRange struct {
		Session SessionID
		Request protocol.SnapshotRequest
		Since   hlc.Stamp       // device-owned records with a stamp up to it are named by their id only
		Vector  []protocol.Mark // of the streams concerned, now
		Bytes   int             // about the size of the page
	}
	// TakeRange makes a page of records durable, together with how far it is and, with the last one, the watermarks that
	// follow; RangeTaken answers, with this action in it. One at a time for each scope.
	TakeRange struct {
		Session SessionID
		From    sdk.DeviceID
		Scope   Scope
		Repair  bool                               // what an audit asked for: records are merged, nothing is inferred or moved
		Since   protocol.Place                     // where the page begins
		Vector  map[protocol.Stream]protocol.Heads // of the sender, before it read the first page
		Epochs  []protocol.Epoch                   // that Vector needs and the store has not
		Page    protocol.SnapshotPage
	}
	// Digest sums all records; Digested answers, with this action in it.
	Digest struct {
		Session SessionID
		Number  uint32
		Answer  bool            // for an audit that the peer asked for
		Vector  protocol.Digest // of this device's vector now
	}
	// Prune forgets what nobody needs any more; Pruned answers. Floors are in force until then. Those of device-owned rows are kept
	// as they are: tombstones may be lacking that never came.
	Prune struct {
		Floors map[protocol.Stream]hlc.Stamp // log entries, or tombstones, up to here
		Shadow hlc.Stamp                     // clocks of shared records that do not exist and have no greater stamp
		Epochs []protocol.EpochID            // that everybody is past

		Snapshots []Scope // that were begun and with which nobody goes on: how far they are
	}
	// Seal closes a stamp: this device's shared stream is complete up to now. Sealed answers.
	Seal struct{}
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
	// Acknowledged says that a device has durably applied these streams up to there. All: and no others.
	Acknowledged struct {
		Peer  sdk.DeviceID
		Heads map[protocol.Stream]protocol.Heads
		All   bool
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
func (ReadRange) action()    {}
func (TakeRange) action()    {}
func (Digest) action()       {}
func (Prune) action()        {}
func (Seal) action()         {}
func (Dial) action()         {}
func (Close) action()        {}
func (Acknowledged) action() {}
func (Log) action()          {}
