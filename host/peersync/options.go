package peersync

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"math/rand/v2"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/sdk"
)

// Applier makes pages of other devices durable. The engine prepares page n+1 while page n commits, and commits the
// pages of one stream in order; different streams run at once.
type Applier interface {
	// Prepare decides what the page writes: it may call plugins, for as long as they take. Pages of a stream of
	// shared operations are prepared one at a time, since a merge reads what the page before it wrote.
	// It checks that every stamp of the page lies within (From, Through] and is not beyond the clock's drift.
	Prepare(ctx context.Context, page protocol.Page) (Prepared, error)
}

// Prepared is a decided page. It holds no lock and no transaction and may be dropped.
type Prepared interface {
	// Commit writes the page and moves the stream's watermark to Page.Through, all or nothing, and returns when it is
	// durable. sdk.CodeStale means that what the page was decided on has changed: it is prepared again.
	Commit(ctx context.Context) error
}

// Reader reads pages of a stream from the database.
type Reader interface {
	// ReadPage returns the changes after since in stamp order, cut at about maxBytes, and whether there are more.
	// Page.Stream, From and Through must be set; where there are no more, Through may be the last stamp found.
	// The engine fills Epoch and Head. The read sees every commit that was announced before the call.
	ReadPage(ctx context.Context, stream protocol.Stream, since hlc.Stamp, maxBytes int) (page protocol.Page, more bool, err error)
}

// Ranges reads and takes in records as they are, for snapshots and audits. Its methods block and may be called at once.
type Ranges interface {
	// ReadRange returns the page that a.Request asks for. The engine fills Number and Vector. It may hold more than Vector
	// says. An audit asks for one model at most, which may be of another kind than it says: then there are no records.
	ReadRange(ctx context.Context, a ReadRange) (protocol.SnapshotPage, error)
	// TakeRange makes a page durable, with how far the snapshot is. Taken.Heads and Floors are set for the last one.
	TakeRange(ctx context.Context, a TakeRange) (Taken, error)
	// Digests sums the records of every model that exist, by name.
	Digests(ctx context.Context) ([]ModelDigests, error)
}

// Keeper remembers and forgets. Its methods block and may be called at once.
type Keeper interface {
	// Acknowledge keeps what devices have, all or nothing; after an error it is called again, with what has come meanwhile.
	Acknowledge(ctx context.Context, acks []Acknowledged) error
	// Prune forgets what a names.
	Prune(ctx context.Context, a Prune) error
	// Floors returns up to where each stream has been forgotten: where there was nothing to forget, not at all.
	Floors(ctx context.Context) (map[protocol.Stream]hlc.Stamp, error)
	// Seal closes a stamp of this device's shared stream, and announces that like a commit.
	Seal(ctx context.Context) error
}

// Security gives the TLS configurations of this device: version 1.3, both ends authenticated by their device keys.
type Security interface {
	ServerTLS() *tls.Config                           // any device may connect; what it may do is decided by its id
	ClientTLS(expected sdk.DeviceID) *tls.Config      // refuses every other device
	PeerID(tls.ConnectionState) (sdk.DeviceID, error) // of a handshake that is complete
}

// Pairing answers a device that presents an invitation.
type Pairing interface {
	// Join admits the peer or says why not; it returns once the peer's membership is durable here. The welcome is sent
	// to the peer and the connection closed; the peer then connects as a member.
	Join(ctx context.Context, peer sdk.DeviceID, key ed25519.PublicKey, join protocol.Join) (protocol.Welcome, error)
}

// Self is what this device says of itself.
type Self struct {
	Device      sdk.DeviceID
	Name        string
	Library     protocol.LibraryID
	LibraryName string
	Epoch       protocol.EpochID // names this start; the epochs of its streams follow from it
	Started     hlc.Stamp        // drawn at this start: what this device wrote before has no greater stamp
}

// Stored is what a device remembers of streams.
type Stored struct {
	Heads        map[protocol.Stream]protocol.Heads // watermarks, also of this device's own streams
	Epochs       []protocol.Epoch
	Floors       map[protocol.Stream]hlc.Stamp
	Acknowledged map[sdk.DeviceID]map[protocol.Stream]protocol.Heads
	Snapshots    []StoredSnapshot
}

// StoredSnapshot is a snapshot that is not complete.
type StoredSnapshot struct {
	Scope  Scope
	Vector map[protocol.Stream]protocol.Heads
	After  protocol.Place
}

// Member is a device of the library. This device itself may be among the members; it is ignored.
type Member struct {
	ID        sdk.DeviceID
	Name      string
	Addresses []protocol.Address // where it can be dialled, best first
	Retired   bool               // no session any more; what it wrote still travels
}

// Config holds the times of the protocol.
type Config struct {
	Heartbeat    time.Duration // between two heartbeats; a peer that misses three is gone
	StallTime    time.Duration // an upstream that sends nothing for so long, while another is ahead, is replaced; a page unapplied for so long shows
	RetryMin     time.Duration // first pause before dialling or retrying again; doubles up to RetryMax
	RetryMax     time.Duration //
	DialTime     time.Duration // for one address, TLS included
	RequestTime  time.Duration // for the answer to a request for records or digests
	GossipTime   time.Duration // between two times that a peer is told what third devices have
	PruneTime    time.Duration // between two looks at what may be forgotten
	SealTime     time.Duration // between two times that an idle device says its stream is complete up to now; at least
	AuditTime    time.Duration // between two audits with a peer; zero: none unless asked for
	RetentionAge time.Duration // what is older than the latest change by so much is forgotten although somebody may need it; zero: never
	ReadsAtOnce  int           // pages that are read from the database at once, all peers together
	CommitsQueue int           // bytes of announced commits that may wait for the loop; beyond, peers are served from the database
}

// DefaultConfig returns the times that the host uses where its configuration says nothing.
func DefaultConfig() Config {
	return Config{
		Heartbeat: 5 * time.Second, StallTime: 10 * time.Second, RetryMin: 250 * time.Millisecond, RetryMax: 30 * time.Second,
		DialTime: 10 * time.Second, RequestTime: 30 * time.Second, GossipTime: time.Minute, PruneTime: time.Minute, SealTime: 5 * time.Minute,
		AuditTime: time.Hour, RetentionAge: 90 * 24 * time.Hour, ReadsAtOnce: 4, CommitsQueue: 8 << 20,
	}
}

// Options is what an Engine needs. Self, Applier, Reader, Ranges, Keeper, Security and Log are required.
type Options struct {
	Self     Self
	Models   []protocol.ModelVersion // that this device serves, for the peers' information
	Stored   Stored
	Members  []Member
	Applier  Applier
	Reader   Reader
	Ranges   Ranges
	Keeper   Keeper
	Security Security
	Pairing  Pairing // nil: nobody is admitted
	Log      hclog.Logger
	Limits   protocol.Limits // zero: protocol.DefaultLimits
	Config   Config          // zero: DefaultConfig
	Now      func() time.Time
	Rand     *rand.Rand // for jitter; used by the loop only
}

// State says how a peer is, for people.
type State string

// The states of a peer.
const (
	Offline     State = "offline"
	Connecting  State = "connecting"
	Backfilling State = "backfilling" // its first pages are arriving
	CatchingUp  State = "catching up" // what changed while we were apart is arriving
	Live        State = "live"
	Held        State = "held" // connected, but some stream waits; Reason says why
)

// PeerStatus is a peer as people see it.
type PeerStatus struct {
	ID                             sdk.DeviceID
	Name                           string
	State                          State
	Reason                         string        // why it is held or offline
	Progress                       float64       // 0 to 1 while backfilling or catching up, by stamps; else 1
	Behind                         time.Duration // how far this device's copy of what the peer has lies behind, by stamps
	BehindMe                       time.Duration // how far the peer lies behind what this device has
	Lag                            time.Duration // how long this device has lacked the oldest of what it lacks and the peer has; 0: it lacks nothing
	LagOfPeer                      time.Duration // how long the peer has lacked the oldest of what it lacks and this device has
	RTT                            time.Duration // zero: not known yet
	Skew                           time.Duration // the peer's clock minus this device's
	Since                          time.Time     // of State
	Via                            string        // label of the transport
	Address                        string        // of the other end
	BytesIn                        int64         // of the present session
	BytesOut                       int64
	RowsIn                         int64 // rows and operations of the present session, applied
	RowsOut                        int64
	Streams                        int           // how many streams come from this peer
	StreamsBehind, StreamsBehindMe int           // streams in which the peer, or this device, has more
	Left                           time.Duration // estimate while backfilling or catching up; zero: none
	Models                         []protocol.ModelVersion
	RunsTwice                      bool // two copies of it have shown themselves
	Refuses                        bool // it has answered this device with CodeDenied; Reason says why
	Audit                          AuditStatus
}
