package registry

import (
	"context"

	"github.com/hashicorp/go-hclog"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/sdk"
)

type Options struct {
	DB   *database.DB
	Self sdk.DeviceID
	Log  hclog.Logger
}

type Registry struct{}

func New(ctx context.Context, options Options) (*Registry, error) { return nil, nil }

func (r *Registry) Add(ctx context.Context, server sdk.ModelServer) (sdk.Description, error) {
	return sdk.Description{}, nil
}
func (r *Registry) Remove(model sdk.ModelName)      {}
func (r *Registry) Descriptions() []sdk.Description { return nil }
func (r *Registry) Description(model sdk.ModelName) (sdk.Description, bool) {
	return sdk.Description{}, false
}

type Incoming struct {
	Origin        sdk.DeviceID
	Kind          sdk.Ownership
	From, Through hlc.Stamp // From < every stamp <= Through; not checked if Through is zero
	Batches       []sdk.Batch
}
type Outcome struct{ Written, Stale, Waiting, Refused, Parked, Conflicts int }

func (r *Registry) Prepare(ctx context.Context, in Incoming) (*Prepared, error) { return nil, nil }

type Prepared struct{}

func (p *Prepared) Write(tx *database.Tx) (Outcome, error) { return Outcome{}, nil }

func (r *Registry) PrepareLocal(ctx context.Context, kind sdk.Ownership, batches []sdk.Batch) (*Local, error) {
	return nil, nil
}

type Local struct{}

func (l *Local) Write(tx *database.Tx, next func() hlc.Stamp) (stored []sdk.Batch, refused [][]sdk.Refusal, err error) {
	return nil, nil, nil
}

func (r *Registry) ReadState(ctx context.Context, origin sdk.DeviceID, since hlc.Stamp, maxBytes int) (batches []sdk.Batch, through hlc.Stamp, more bool, err error) {
	return nil, 0, false, nil
}

// Row is a record for people. Fields are in the order of the description, then those it does not know.
type Row struct {
	Model    sdk.ModelName
	ID       sdk.RecordID
	Visible  bool
	Owner    sdk.DeviceID // device-owned
	Stamp    hlc.Stamp    // device-owned
	Inserted sdk.Version  // shared
	Fields   []sdk.FieldState // Version and Seen: shared
}
type Filter struct {
	Field  string // empty: every record
	Value  any
	After  sdk.RecordID // those with a greater id
	Limit  int          // 0: none
	Hidden bool         // also those that are not visible
}

func (r *Registry) Get(ctx context.Context, model sdk.ModelName, id sdk.RecordID) (Row, error) { return Row{}, nil }
func (r *Registry) List(ctx context.Context, model sdk.ModelName, filter Filter, fn func(Row) error) error {
	return nil
}
func (r *Registry) Find(ctx context.Context, model sdk.ModelName, field string, values []any) (sdk.Batch, error) {
	return sdk.Batch{}, nil
}

type Conflict struct {
	N     int64 // its number here
	Model sdk.ModelName
	sdk.Conflict
}

func (r *Registry) Conflicts(ctx context.Context, model sdk.ModelName, id sdk.RecordID) ([]Conflict, error) {
	return nil, nil
}

type ModelDigest struct {
	Model  sdk.ModelName
	Rows   int64
	Digest [32]byte
}

func (r *Registry) Digest(ctx context.Context) ([]ModelDigest, error) { return nil, nil }

type Counts struct{ Visible, Waiting, Deleted, Parked, Conflicts, Refused int64 }

func (r *Registry) Counts(ctx context.Context) (map[sdk.ModelName]Counts, error) { return nil, nil }

type EventKind string

const (
	Changed EventKind = "changed"
	Deleted EventKind = "deleted"
	Hidden  EventKind = "hidden"
	Missed  EventKind = "missed" // events after this place were dropped: read again
)

type Event struct {
	Kind   EventKind
	Model  sdk.ModelName
	ID     sdk.RecordID
	Origin sdk.DeviceID
	Stamp  hlc.Stamp
	Local  bool
}

func (r *Registry) Watch(models ...sdk.ModelName) (<-chan Event, func()) { return nil, nil }
