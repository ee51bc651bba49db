// Package transaction is the only gate for local writes.
//
// A Manager has the model decide on the changes before the database transaction, then writes rows, clocks, log entries,
// tombstones and this device's watermark in one transaction, with stamps that the one writer draws in commit order.
// It promises that nothing is announced before it is durable, that announcements of a stream come in the order of
// its stamps without a gap, and that writers who wait at the same time share a commit. The first commit of a start of the
// device to a stream opens an epoch of it. It leaves the clock's stored mark to a hook of the database, which runs in every
// group.
package transaction

import (
	"context"
	"fmt"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/history"
	"github.com/starling-sync/starling/sdk"
)

// Prepared is a decided set of local changes.
type Prepared interface {
	// Write writes the changes with stamps drawn from next, one for each change that is written, and returns those
	// as they are stored, and for each batch that was prepared the changes that are not, ascending by index. It
	// returns a CodeStale error, and has written nothing that may stay, where the records changed since the decision.
	Write(tx *database.Tx, next func() hlc.Stamp) (stored []sdk.Batch, refused [][]sdk.Refusal, err error)
}

// PrepareFunc has the models decide on local changes of one kind. No transaction is open while it runs.
type PrepareFunc func(ctx context.Context, kind sdk.Ownership, batches []sdk.Batch) (Prepared, error)

// Journal keeps the shared operations and this device's own watermarks.
type Journal interface {
	// Append adds operations of origin to the log.
	Append(tx *database.Tx, origin sdk.DeviceID, batches []sdk.Batch) error
	// Extend moves an own stream over changes from first to last in epoch, which it opens, continuing the positions that the
	// stream has, where it is not among them; opened then says so. from is the place before, and heads are the positions that
	// result. A first that is not after all the stream's positions is a CodeInternal error.
	Extend(tx *database.Tx, stream history.Stream, epoch history.EpochID, first, last hlc.Stamp) (from hlc.Stamp, opened *history.Epoch, heads history.Heads, err error)
}

// Committed says what one commit added to one of this device's own streams.
type Committed struct {
	Kind          sdk.Ownership
	Heads         history.Heads  // Through in the epoch of the stream that this start of the device writes
	Opened        *history.Epoch // that epoch, if this commit opened it
	From, Through hlc.Stamp      // From is the position before: From < every stamp in Batches <= Through
	Batches       []sdk.Batch    // as stored, with their stamps; shared by all who are told: not to be changed. None: it was sealed
}

// Options say what a Manager works with. All fields but Announce and Observe are required.
type Options struct {
	DB       *database.DB
	Self     sdk.DeviceID
	Epoch    history.EpochID  // of this start of the device; those of its streams are Epoch.Of(kind)
	Next     func() hlc.Stamp // draws the next stamp: hlc.Clock.Now
	Prepare  PrepareFunc
	Journal  Journal
	Announce func(Committed) // called in commit order once durable; the next commit waits for it, so it must be quick
	// Observe is told when a Commit begins; what it returns is called when that has ended. nil: nobody is told.
	Observe func(kind sdk.Ownership) (ended func(Result, error))
}

// Manager writes local changes. Its methods may be called at once and block until the write is durable.
type Manager struct {
	options Options
	lanes   lanes
}

// New returns a manager.
func New(options Options) *Manager { return &Manager{options: options} }

// Request is a set of changes of one kind to commit together.
type Request struct {
	Kind         sdk.Ownership
	Batches      []sdk.Batch // stamps in them are ignored
	AllOrNothing bool        // one refused change keeps all from being written
}

// Result says what was written.
type Result struct {
	First, Last hlc.Stamp // of what was written; zero if nothing was
	Written     int       // changes; device-owned rows that equal what is stored are not written
	Refused     []Refusal // by batch and index
}

// Refusal says why one change was not written.
type Refusal struct {
	Batch int // index of the batch; Index is within it
	sdk.Refusal
}

const (
	// patience is how often changes are decided again, because others wrote the same records meanwhile, before their writer
	// waits for its turn. Of many writers of one record each round has one winner, so that without turns some never win.
	patience = 3
	// attempts bounds the decisions within a turn. Each time a page of a peer got ahead: it is for a defect.
	attempts = 100
)

// Turn blocks until the commits under way to models are done, and keeps later ones from beginning until the caller ends its
// turn. Commit takes one by itself when others were too often ahead of it; who writes the same records otherwise can take one
// too. Its error is that of ctx.
//
// HAZARD: a Commit of the caller's own to one of models, within its turn, waits for ever.
func (m *Manager) Turn(ctx context.Context, models ...sdk.ModelName) (end func(), err error) {
	return m.lanes.enter(ctx, models, alone)
}

// CommitDeviceOwned writes rows of this device's own records. A row that equals what is stored is left alone, and
// columns that a batch does not name keep their values. A refused row (another device's record: CodeNotOwner) does not
// keep the others from being written.
func (m *Manager) CommitDeviceOwned(ctx context.Context, batches ...sdk.Batch) (Result, error) {
	return m.Commit(ctx, Request{Kind: sdk.DeviceOwned, Batches: batches})
}

// CommitShared writes operations on shared records. A refused one does not keep the others from being written.
func (m *Manager) CommitShared(ctx context.Context, batches ...sdk.Batch) (Result, error) {
	return m.Commit(ctx, Request{Kind: sdk.SharedByAll, Batches: batches})
}

// Commit writes request. Its error means that nothing was written; refused changes stand in the Result.
func (m *Manager) Commit(ctx context.Context, request Request) (result Result, err error) {
	if m.options.Observe != nil {
		ended := m.options.Observe(request.Kind)
		defer func() { ended(result, err) }()
	}
	return m.decideAndCommit(ctx, request)
}

func (m *Manager) decideAndCommit(ctx context.Context, request Request) (Result, error) {
	var models []sdk.ModelName
	for i := range request.Batches {
		models = append(models, request.Batches[i].Model)
	}
	var err error
	for range patience {
		var result Result
		if result, err = m.inLane(ctx, models, one, request, 1); sdk.CodeOf(err) != sdk.CodeStale {
			return result, err
		}
	}
	return m.inLane(ctx, models, alone, request, attempts)
}

// inLane commits request, deciding as often as tries says, among the writers of models or alone.
func (m *Manager) inLane(ctx context.Context, models []sdk.ModelName, share int64, request Request, tries int) (result Result, err error) {
	end, err := m.lanes.enter(ctx, models, share)
	if err != nil {
		return Result{}, fmt.Errorf("commit: wait for those who write the same models: %w", err)
	}
	defer end()
	for range tries {
		if result, err = m.commit(ctx, request); sdk.CodeOf(err) != sdk.CodeStale {
			return result, err
		}
	}
	return Result{}, fmt.Errorf("commit, decided again %d times: %w", tries, err)
}

// refused ends the transaction of an all-or-nothing request.
type refused struct{ list []Refusal }

func (refused) Error() string { return "a change was refused, so none was written" }

func (m *Manager) commit(ctx context.Context, request Request) (Result, error) {
	prepared, err := m.options.Prepare(ctx, request.Kind, request.Batches)
	if err != nil {
		return Result{}, err
	}
	var result Result
	err = m.options.DB.Write(ctx, func(tx *database.Tx) error {
		result = Result{}
		draw := func() hlc.Stamp {
			result.Last = m.options.Next()
			if result.First == 0 {
				result.First = result.Last
			}
			return result.Last
		}
		stored, refusals, err := prepared.Write(tx, draw)
		if err != nil {
			return err
		}
		result.Refused = flatten(refusals)
		if request.AllOrNothing && len(result.Refused) > 0 {
			return refused{result.Refused}
		}
		for i := range stored {
			result.Written += stored[i].Count
		}
		return m.record(tx, request.Kind, result, stored)
	})
	if r, ok := err.(refused); ok { //nolint:errorlint // it is returned as it is
		return Result{Refused: r.list}, nil
	}
	if err != nil {
		return Result{}, fmt.Errorf("commit: %w", err)
	}
	return result, nil
}

// Seal says that a stream of this device is complete up to now: it draws a stamp and moves the stream to it with no change
// in it, durably, and announces that like a commit. An idle device does so for those who wait for what it may yet say.
func (m *Manager) Seal(ctx context.Context, kind sdk.Ownership) error {
	err := m.options.DB.Write(ctx, func(tx *database.Tx) error {
		stamp := m.options.Next()
		return m.extend(tx, kind, stamp, stamp, nil)
	})
	if err != nil {
		return fmt.Errorf("seal: %w", err)
	}
	return nil
}

// record adds what was written to the stream.
func (m *Manager) record(tx *database.Tx, kind sdk.Ownership, result Result, stored []sdk.Batch) error {
	if result.Written == 0 {
		return nil
	}
	if kind == sdk.SharedByAll {
		if err := m.options.Journal.Append(tx, m.options.Self, stored); err != nil {
			return err
		}
	}
	return m.extend(tx, kind, result.First, result.Last, stored)
}

// extend moves the watermark of an own stream over changes with stamps from first to last, and announces them.
func (m *Manager) extend(tx *database.Tx, kind sdk.Ownership, first, last hlc.Stamp, stored []sdk.Batch) error {
	o := &m.options
	epoch := o.Epoch.Of(kind)
	from, opened, _, err := o.Journal.Extend(tx, history.Stream{Origin: o.Self, Kind: kind}, epoch, first, last)
	if err != nil {
		return err
	}
	if o.Announce != nil {
		committed := Committed{Kind: kind, Heads: history.At(epoch, last), Opened: opened, From: from, Through: last, Batches: stored}
		tx.AfterCommit(func() { o.Announce(committed) })
	}
	return nil
}

func flatten(refusals [][]sdk.Refusal) (all []Refusal) {
	for batch, list := range refusals {
		for _, refusal := range list {
			all = append(all, Refusal{Batch: batch, Refusal: refusal})
		}
	}
	return all
}
