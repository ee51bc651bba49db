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
	// ignored, and so is Seen of operations: the host fills them in. It may keep nothing of batch.Rows.
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
	Field string
	Value any
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

// Pairing brings devices together.
type Pairing interface {
	// Invite returns a code that lets one device join this library once.
	Invite(ctx context.Context) (Invitation, error)
	// Join makes this device a member of the library that the code comes from. It blocks while it meets the inviter.
	Join(ctx context.Context, code string) (Joined, error)
}

// Invitation is a code and when it stops working.
type Invitation struct {
	Code    string    `json:"code"`
	Expires time.Time `json:"expires_at"`
}

// Joined says which library a device has joined, and through whom.
type Joined struct {
	LibraryID   string       `json:"library_id"`
	LibraryName string       `json:"library"`
	InviterID   sdk.DeviceID `json:"inviter_id"`
	InviterName string       `json:"inviter"`
}

// Status is the state of a device.
type Status struct {
	DeviceID    sdk.DeviceID      `json:"device_id"`
	DeviceName  string            `json:"device"`
	LibraryID   string            `json:"library_id"` // empty: it belongs to no library yet
	LibraryName string            `json:"library"`
	Version     string            `json:"version"` // of the host
	Started     time.Time         `json:"started_at"`
	StoreKind   string            `json:"store"` // such as "sqlite"
	StoreBytes  int64             `json:"store_bytes"`
	ClockState  string            `json:"clock"`           // "ok", or what is wrong with it
	ClockOffset time.Duration     `json:"clock_offset_ns"` // this clock minus its peers'
	Models      []ModelStatus     `json:"models"`
	Transports  []TransportStatus `json:"transports"`
	Plugins     []Plugin          `json:"plugins"`
	Sources     []SourceStatus    `json:"sources"`
	Peers       []Peer            `json:"peers"`
	Refused     int64             `json:"refused"`   // changes of peers that could not be stored here
	Conflicts   int64             `json:"conflicts"` // entries in the conflict journal

	RefusedChanges []RefusedChange `json:"refused_changes"` // the latest of Refused, newest first
}

// RefusedChange is a change of a peer that could not be stored here, and why.
type RefusedChange struct {
	Model   sdk.ModelName `json:"model"`
	ID      sdk.RecordID  `json:"id"`
	Origin  sdk.DeviceID  `json:"origin"`
	Stamp   hlc.Stamp     `json:"stamp"`
	Code    sdk.Code      `json:"code"`
	Message string        `json:"message"`
}

// ModelStatus is the state of one model.
type ModelStatus struct {
	Model     sdk.ModelName `json:"model"`
	Ownership sdk.Ownership `json:"ownership"`
	Version   uint32        `json:"version"`
	Rows      int64         `json:"rows"`    // visible records
	Waiting   int64         `json:"waiting"` // records that wait for one they refer to
}

// TransportStatus is the state of one transport.
type TransportStatus struct {
	Name    string `json:"name"`
	Kind    string `json:"kind"`
	Address string `json:"address"` // where it listens; empty: it only dials
	State   string `json:"state"`
	Reason  string `json:"reason"` // why it is in that state, if there is something to say
}

// SourceStatus is the state of one source.
type SourceStatus struct {
	Model    sdk.ModelName `json:"model"`
	State    string        `json:"state"`
	Reason   string        `json:"reason"`
	Progress []Progress    `json:"progress"`
	Warnings []Warning     `json:"warnings"`
}

// Progress is how far a source is with one thing.
type Progress struct {
	Key   string `json:"key"`
	Done  int64  `json:"done"`
	Total int64  `json:"total"` // 0: unknown
}

// Warning is a counted condition that does not stop a source.
type Warning struct {
	Key     string `json:"key"`
	Count   int64  `json:"count"`
	Message string `json:"message"`
}

// Peer is what this device knows of another one.
type Peer struct {
	ID            sdk.DeviceID  `json:"id"`
	Name          string        `json:"name"`
	State         string        `json:"state"`          // connecting, backfilling, catching up, live, held, offline
	Reason        string        `json:"reason"`         // why, where there is something to say or do
	Behind        time.Duration `json:"behind_ns"`      // how much of its history this device lacks; 0: nothing
	BehindMe      time.Duration `json:"behind_me_ns"`   // how much of this device's history it lacks; 0: nothing
	BehindChanges int64         `json:"behind_changes"` // how many changes this device lacks; 0: none or unknown
	Progress      float64       `json:"progress"`       // of a backfill, 0 to 1
	Left          time.Duration `json:"left_ns"`        // of a backfill; 0: unknown
	RTT           time.Duration `json:"rtt_ns"`         // 0: unknown
	Skew          time.Duration `json:"skew_ns"`        // its clock minus this one
	Via           string        `json:"via"`            // the transport of its session; empty: none
	Since         time.Time     `json:"since,omitzero"` // of State
	BytesIn       int64         `json:"bytes_in"`
	BytesOut      int64         `json:"bytes_out"`
	RowsIn        int64         `json:"rows_in"`
	RowsPerSecond float64       `json:"rows_per_second"` // while backfilling; else 0
	Addresses     []string      `json:"addresses"`
}

// Plugin is the state of one plugin process.
type Plugin struct {
	Name     string          `json:"name"`
	Kind     string          `json:"kind"` // model or transport
	State    string          `json:"state"`
	Reason   string          `json:"reason"`
	PID      int             `json:"pid"` // 0: not running
	Since    time.Time       `json:"since,omitzero"`
	Restarts int             `json:"restarts"`
	Path     string          `json:"path"`
	SHA256   string          `json:"sha256"`
	Models   []sdk.ModelName `json:"models"`
}
