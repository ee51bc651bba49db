package sdk

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"

	"github.com/starling-sync/starling/hlc"
)

// ModelServer is what a model plugin serves. Model[T] implements it for plain models.
//
// A model is pure: what it returns depends on its arguments alone. It has no database, network, clock or key.
// Calls may run at once. Slices passed in belong to the caller and must not be kept; slices returned belong to the
// caller. An error (rather than a Refusal) means that the call itself failed; the host calls again.
type ModelServer interface {
	// Describe returns the model's description.
	Describe(ctx context.Context) (Description, error)
	// ApplyStateChange decides on a batch of device-owned rows.
	ApplyStateChange(ctx context.Context, in StateChanges) (StateResult, error)
	// ApplySharedChange merges a batch of shared operations into the records they touch.
	ApplySharedChange(ctx context.Context, in SharedChanges) (SharedResult, error)
}

// Configurable is implemented by a model, a source or a transport that takes a `config { }` block.
type Configurable interface {
	// Configure is called once, before any other call but Describe, with the block as a JSON object ("{}" if none).
	// Its error is shown to the operator; where it is a BadSetting, with the place of that setting in the configuration
	// file. It starts nothing: the host also calls it to find out whether a block is right.
	Configure(ctx context.Context, config json.RawMessage) error
}

// ConfigChecker may be implemented by a Configurable that can judge a block without taking it, as what Settings returns does.
type ConfigChecker interface {
	// CheckConfig returns what Configure would for the same block, and changes nothing. The host may call it at any time,
	// also while other methods run. An error of code CodeUnsupported says that it can not judge.
	//
	// HAZARD: who embeds what implements it, such as Model, and has a Configure of its own needs a CheckConfig of its own too.
	CheckConfig(ctx context.Context, config json.RawMessage) error
}

// StateChanges is a batch of rows of one device-owned model, all from one origin, in stamp order.
type StateChanges struct {
	Batch  Batch
	Origin DeviceID
	Local  bool // written here and now: validate in full. Otherwise the origin did so, and only what breaks storage is refused
}

// StateResult answers StateChanges.
type StateResult struct {
	Rows    []byte    // nil: store the rows as given. Otherwise as many packed rows, in the same order
	Refused []Refusal // ascending by Index
}

// SharedChanges is a batch of operations on one shared model, all from one origin, in stamp order.
type SharedChanges struct {
	Batch   Batch
	Origin  DeviceID
	Local   bool     // as in StateChanges
	Current []Record // the records that the operations touch and this device knows, visible or not; at most one an id
}

// SharedResult answers SharedChanges.
type SharedResult struct {
	Records   []Record   // the merged records that differ from Current, at most one an id
	Conflicts []Conflict // values that lost to a write that had not seen them
	Resolved  []Conflict // values that an operation had seen and that do not stand, known here or not; only ID, Field and Lost.Stamp are set
	Refused   []Refusal  // ascending by Index
}

// Refusal says why the change at Index of a batch is not stored.
type Refusal struct {
	Index   int
	Code    Code
	Message string
}

func (r Refusal) String() string {
	return fmt.Sprintf("%s (%s, change %d)", r.Message, r.Code, r.Index)
}

// Record is a shared record with its clocks.
type Record struct {
	ID       RecordID
	Inserted Version // latest insert; zero if none has arrived
	Deleted  Version // latest delete; zero if none has arrived
	Fields   []FieldState
}

// Exists reports whether the record's latest insert is later than its latest delete.
func (r *Record) Exists() bool { return r.Inserted.Compare(r.Deleted) > 0 }

// FieldState is the value of one field and the write that gave it.
type FieldState struct {
	Name    string
	Value   any // as Field.ValueType says
	Version Version
	Seen    hlc.Stamp // the stamp of the value that this write replaced; zero if it saw none

	Merge Merge  // of a field that the description lacks: how it merges, as its column says; empty: lww
	State []byte // of a set or counter: what Value follows from, packed; see Parts. Version is that of the last write
}

// Conflict is a value that lost to a write that had not seen it.
type Conflict struct {
	ID     RecordID
	Field  string
	Value  any     // that lost
	Lost   Version // its write
	Winner Version // the write that stands
}

// Source is implemented by a model plugin that yields local changes, such as a folder's entries.
type Source interface {
	// Run yields changes until ctx ends (then it returns nil) or it can not go on (then the host restarts it later).
	Run(ctx context.Context, host SourceHost) error
}

// SourceHost is what the host offers a running source. Its methods block until done and may be called at once.
type SourceHost interface {
	// Commit writes the batch as this device's own rows (stamps in it are ignored; the host draws them) and returns
	// when they are durable. Rows that equal what is stored are left alone.
	// Refused rows do not keep the others from being written.
	Commit(ctx context.Context, batch Batch) ([]Refusal, error)
	// Find returns this device's own records of model in which field equals one of values; field "id" and no values
	// at all (every record) are allowed. The rows have the columns of the batch returned, and Batch.Version 0 means none.
	Find(ctx context.Context, model ModelName, field string, values []any) (Batch, error)
	// Changed returns a channel that receives a value after this device's own records of model have changed.
	// Several changes may share one value. The channel is closed when the source's context ends.
	Changed(model ModelName) <-chan struct{}
	// Warn shows the operator a counted condition that does not stop the source, such as unreadable folders.
	// count 0 takes the warning back.
	Warn(key string, count int, message string)
	// Progress shows the operator how far the source is. It replaces what was said last of the same key and unit.
	Progress(progress Progress)
}

// Progress is how far a source is with one of its tasks, in one unit: a task may be told of in several, and people read
// them on one line.
type Progress struct {
	Key   string // names the task to people, such as a folder's path
	Unit  Unit   // of Done and Total
	Done  int64
	Total int64 // 0: unknown. It is over when Done has reached it
}

// Unit is what a Progress counts, as people call many of them. What is counted in different units is never added up. A
// host shows a unit that it does not know, and keeps no metrics of it.
type Unit string

// The units.
const (
	UnitThings Unit = ""      // of whatever kind; what sources count that say no unit
	UnitFiles  Unit = "files" // known by their number
	UnitBytes  Unit = "bytes" // shown as 1.2 of 40 GB
)

// String returns what people call the unit.
func (u Unit) String() string {
	if u == UnitThings {
		return "things"
	}
	return string(u)
}

// Transport is what a transport plugin serves: it moves bytes, and does not look into them.
type Transport interface {
	// Name names the transport, such as "tcp".
	Name() string
	// Listen takes connections at address, on listener if that is not nil (the host may own the socket).
	// It returns once peers can connect. Close of what it returns makes its Accept return net.ErrClosed.
	Listen(ctx context.Context, address string, listener net.Listener) (Listener, error)
	// Dial connects to address, as a peer's Listener announced it. It blocks until connected, refused or ctx ends.
	Dial(ctx context.Context, address string) (Conn, error)
}

// Listener takes incoming connections. Its methods may be called at once.
type Listener interface {
	// Accept blocks until a peer connects, or the listener is closed (net.ErrClosed).
	Accept() (Conn, error)
	// Address is where peers can dial.
	Address() string
	io.Closer
}

// Conn is an ordered, reliable stream of bytes in both directions. Read and Write may be called at once, each by one
// goroutine; Write blocks while the peer does not read. Close ends both, also calls under way.
type Conn interface {
	io.ReadWriteCloser
	// RemoteAddress names the other end for people.
	RemoteAddress() string
}
