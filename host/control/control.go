// Package control is the API of a running host: what the command line and the console ask and tell it, carried by
// ConnectRPC over a Unix socket in the data directory that only its owner can open.
//
// It promises that a put or delete has been decided by the model and is durable when it answers, that refused records
// are named one by one with a code and a reason, and that a watcher either sees every change or is told that it
// missed some. What the host knows and does comes in through Backend; this package holds no state of its own. Who may
// open the socket may do everything: it leaves access to the file system.
package control

import (
	"context"
	"time"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/sdk"
)

// Backend is the host behind the API. Its methods may be called at once.
type Backend struct {
	Records  Records
	Journal  Journal
	History  History
	Feed     Feed
	Reporter Reporter
	Pairing  Pairing
	Operator Operator
}

// Records reads and writes the models' records.
type Records interface {
	// Models returns the descriptions of the models known here, each after those that it refers to. It does not block. The caller changes nothing.
	Models() []sdk.Description
	// Get returns a visible record; CodeNotFound if there is none.
	Get(ctx context.Context, model sdk.ModelName, id sdk.RecordID) (Record, error)
	// List yields the visible records that the query asks for, in the order of their ids, until yield fails; that error
	// is returned. It may hold a snapshot of the database while yield blocks. yield may keep the record.
	List(ctx context.Context, query Query, yield func(Record) error) error
	// Commit writes the batch as local changes of this device and returns when they are durable. Stamps in it are
	// ignored, and so is Seen of operations: the host fills them in. It may keep nothing of batch.Rows. Its error
	// means that nothing was written, with ErrNothing in the chain where its text says so, or, with ErrUnknown in the chain, that nobody can tell.
	Commit(ctx context.Context, write Write) ([]sdk.Refusal, error)
}

// Write is what Records.Commit takes.
type Write struct {
	Kind         sdk.Ownership // of the batch's model: rows for DeviceOwned, operations for SharedByAll
	Batch        sdk.Batch
	AllOrNothing bool // a refused record keeps the others from being written
}

// Query says which records Records.List yields.
type Query struct {
	Model sdk.ModelName
	Where *Condition // nil: every record. Where a caller gives several, the server looks at the others
	Limit int        // 0: no limit
}

// Condition holds for records whose field has the value; nil is NULL. The field exists and the value is of its type.
type Condition struct {
	Field  string
	Value  any
	Member bool // Value is an element of the set that the field is. Records.List is not asked for these
}

// Record is one visible record.
type Record struct {
	ID     sdk.RecordID
	Values []any // as Description.Fields, one each

	Owner sdk.DeviceID // device-owned only
	Stamp hlc.Stamp    // device-owned only

	Inserted sdk.Version   // shared only
	Clocks   []sdk.Version // shared only: as Description.Fields; zero for a field that nobody has written
}

// Journal tells what lost and how replicas compare.
type Journal interface {
	// Conflicts returns the values that lost to a write that had not seen them, oldest first. Empty model and zero id
	// stand for all.
	Conflicts(ctx context.Context, model sdk.ModelName, id sdk.RecordID) ([]Conflict, error)
	// Digests returns the canonical digest of every model, by name.
	Digests(ctx context.Context) ([]ModelDigest, error)
	// Audit compares this device with a connected peer now (zero: with each), repairs what differs, and yields one result
	// for each of them as it comes, one at a time, until yield fails; that error is returned. It blocks until all have
	// answered: a peer that does not, in a time that the host bounds, or is gone meanwhile, yields AuditFailed.
	// CodeNotFound: the peer is no member. CodeUnavailable: it, or every one of them, is not connected.
	Audit(ctx context.Context, peer sdk.DeviceID, yield func(AuditResult) error) error
}

// Conflict is one entry of the conflict journal.
type Conflict struct {
	Number int64
	Model  sdk.ModelName
	ID     sdk.RecordID
	Field  string
	Value  any // that lost
	Lost   sdk.Version
	Winner sdk.Version
}

// ModelDigest names a model's merged state: equal states have equal digests.
type ModelDigest struct {
	Model  sdk.ModelName
	Rows   int64
	Digest []byte
}

// Feed announces changes.
type Feed interface {
	// Watch returns a channel of the changes to visible records of the models (none: all) from now on, after they are
	// durable. It never delays a writer: in place of what does not fit comes one event with Missed. cancel frees it and
	// may be called once or more; the channel may be closed by the host when it stops.
	Watch(models []sdk.ModelName) (events <-chan Event, cancel func())
}

// Event is one change to one record.
type Event struct {
	Model  sdk.ModelName
	ID     sdk.RecordID
	Origin sdk.DeviceID // who wrote it
	Stamp  hlc.Stamp
	Local  bool // written on this device
	Gone   bool // the record is not visible any more
	Missed bool // events were dropped here; nothing else is set
}

// Reporter tells how the host is.
type Reporter interface {
	// Status returns the state of the whole device, its peers included.
	Status(ctx context.Context) (Status, error)
	// Peers returns the library's other devices, by id.
	Peers(ctx context.Context) ([]Peer, error)
	// Plugins returns the plugin processes, in the order of the configuration.
	Plugins(ctx context.Context) ([]Plugin, error)
	// RestartPlugin stages a plugin's binary anew and starts it again, also out of quarantine; CodeNotFound if there is
	// none of that name. It returns before the plugin is up.
	RestartPlugin(ctx context.Context, name string) error
}

// Pairing brings devices together, and parts them.
type Pairing interface {
	// Invite returns a code that lets one device join this library once.
	Invite(ctx context.Context) (Invitation, error)
	// Join makes this device a member of the library that the code comes from. It blocks while it meets the inviter.
	Join(ctx context.Context, code string) (Joined, error)
	// Retire takes a device out of the library for good and returns when that is durable here. CodeNotFound: it is no
	// member; CodeInvalid: it is retired already; CodeDenied: it is this device itself, and evenSelf is not set.
	Retire(ctx context.Context, id sdk.DeviceID, evenSelf bool) (Retired, error)
}

// Invitation is a code and when it stops working.
type Invitation struct {
	Code    string    `json:"code"`
	Expires time.Time `json:"expires_at"`
}

// Retired says which device has been retired.
type Retired struct {
	ID   sdk.DeviceID `json:"id"`
	Name string       `json:"device"`
	At   time.Time    `json:"retired_at"`
}

// Joined says which library a device has joined, and through whom.
type Joined struct {
	LibraryID   string       `json:"library_id"`
	LibraryName string       `json:"library"`
	InviterID   sdk.DeviceID `json:"inviter_id"`
	InviterName string       `json:"inviter"`
}
