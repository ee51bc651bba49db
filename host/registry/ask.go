package registry

import (
	"cmp"
	"context"
	"errors"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/sdk"
)

const (
	// callBytes bounds the changes of one call of a plugin, with the records that they touch: well below what its border
	// lets through (64 MiB), since answers may be larger.
	callBytes = 8 << 20
	// callTries is how often a model is asked about one change that it fails on.
	callTries = 3
	// maxFailures bounds the changes of one batch that a model is found to fail on; what follows is parked unasked.
	maxFailures = 32
)

// change is one change of a batch.
type change struct {
	id       sdk.RecordID
	stamp    hlc.Stamp
	from, to int // in Batch.Rows
}

// changesOf returns the changes of a batch, or the error of the first malformed one.
func changesOf(batch *sdk.Batch, shared bool) ([]change, error) {
	all := make([]change, 0, min(batch.Count, len(batch.Rows)/leastRow+1)) // Count is what a peer says
	at := 0
	add := func(id sdk.RecordID, stamp hlc.Stamp, raw []byte) {
		all = append(all, change{id, stamp, at, at + len(raw)})
		at += len(raw)
	}
	if shared {
		for op, err := range batch.Ops() {
			if err != nil {
				return nil, err
			}
			add(op.ID, op.Stamp, op.Raw)
		}
		return all, nil
	}
	for row, err := range batch.StateRows() {
		if err != nil {
			return nil, err
		}
		add(row.ID, row.Stamp, row.Raw)
	}
	return all, nil
}

// asker has a model decide on a batch, in order and in as many calls as that takes: a call is bounded by bytes, and one
// that is too large all the same, or that ends with a defect of the model, is halved. So a refusal for size, or a
// defect, costs a single change and never its neighbours.
type asker struct {
	*served
	batch   *sdk.Batch
	changes []change                               // nil: not looked at yet
	current func(sdk.RecordID) *sdk.Record         // shared: what the model is given with a change; may return nil
	call    func(part *sdk.Batch) error            // asks the model
	take    func(first int, part *sdk.Batch) error // takes its answer; part begins with the change first
	refuse  func(first int, part *sdk.Batch, err error) error
	park    func(c *change, raw []byte, err error) // keeps a change that the model fails on; nil: that is an error

	failures int
}

func (a *asker) ask() error {
	if a.batch.Count == 0 {
		return a.take(0, a.batch)
	}
	if a.changes == nil && len(a.batch.Rows) <= callBytes {
		return a.part(0, a.batch.Count)
	}
	if err := a.split(); err != nil {
		return err
	}
	for from := 0; from < len(a.changes); {
		to := a.cut(from)
		if err := a.part(from, to); err != nil {
			return err
		}
		from = to
	}
	return nil
}

func (a *asker) split() (err error) {
	if a.changes == nil {
		a.changes, err = changesOf(a.batch, a.shared)
	}
	return err
}

// cut returns the end of the call that begins with the change from.
func (a *asker) cut(from int) int {
	size, seen := 0, make(map[sdk.RecordID]bool)
	for i := from; i < len(a.changes); i++ {
		c := &a.changes[i]
		size += c.to - c.from
		if a.current != nil && !seen[c.id] {
			seen[c.id] = true
			size += recordBytes(a.current(c.id))
		}
		if size > callBytes && i > from {
			return i
		}
	}
	return len(a.changes)
}

// recordBytes is about how much of a call a record takes.
func recordBytes(state *sdk.Record) int {
	if state == nil {
		return 0
	}
	size := 64
	for i := range state.Fields {
		f := &state.Fields[i]
		size += 48 + len(f.Name) + len(f.State)
		switch v := f.Value.(type) {
		case string:
			size += len(v)
		case []byte:
			size += len(v)
		default:
			size += 16
		}
	}
	return size
}

// part asks about the changes from up to to.
func (a *asker) part(from, to int) error {
	part := a.batch
	if to-from < a.batch.Count {
		part = &sdk.Batch{Model: a.batch.Model, Version: a.batch.Version, Columns: a.batch.Columns, Count: to - from}
		part.Rows = a.batch.Rows[a.changes[from].from:a.changes[to-1].to]
	}
	tries := 1
	if to-from == 1 {
		tries = callTries
	}
	var err error
	for try := 0; try < tries && (try == 0 || a.isDefect(err)) && a.failures < maxFailures; try++ {
		if err = a.call(part); a.unusable(err) && a.defect(err) {
			err = a.call(part)
		}
		if err == nil {
			return a.take(from, part)
		}
	}
	switch {
	case a.failures >= maxFailures:
		err = sdk.Errorf(sdk.CodeInternal, "model %q failed on too many changes before this one", a.batch.Model)
	case !a.isDefect(err) && (isPassing(err) || sdk.CodeOf(err) != sdk.CodeTooLarge):
		return a.all(from, part, err)
	}
	if to-from == 1 {
		return a.single(from, part, err)
	}
	if err := a.split(); err != nil {
		return err
	}
	middle := from + (to-from)/2
	if err := a.part(from, middle); err != nil {
		return err
	}
	return a.part(middle, to)
}

// isDefect reports whether err may be the fault of one change. A model is pure: the same call ends so again.
func (a *asker) isDefect(err error) bool { return a.park != nil && a.unusable(err) }

// unusable reports whether err says that the model failed, or answered what can not be used.
func (a *asker) unusable(err error) bool {
	return err != nil && sdk.CodeOf(err) == sdk.CodeInternal && !isPassing(err)
}

// all deals with an error that halving does not help against.
func (a *asker) all(first int, part *sdk.Batch, err error) error {
	later := callError(a.served, err)
	if later == nil && a.park != nil {
		return a.refuse(first, part, err)
	}
	return cmp.Or(later, err)
}

// single deals with one change that is too large, or that the model fails on.
func (a *asker) single(first int, part *sdk.Batch, err error) error {
	if sdk.CodeOf(err) == sdk.CodeTooLarge {
		return a.refuse(first, part, err)
	}
	if err := a.split(); err != nil {
		return err
	}
	a.failures++
	a.park(&a.changes[first], part.Rows, err)
	return nil
}

// callError returns nil for an error that says that the batch is wrong as a whole; else an error to retry.
func callError(s *served, err error) error {
	switch sdk.CodeOf(err) {
	case sdk.CodeInvalid, sdk.CodeTooLarge, sdk.CodeUnsupported, sdk.CodeUnknownModel, sdk.CodeUnknownField:
		if !isPassing(err) {
			return nil
		}
	}
	return sdk.Errorf(sdk.CodeUnavailable, "model %q can not decide now: %w", s.name, err)
}

// isPassing reports whether err says only that the time for the call was over.
func isPassing(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

// refuseAll refuses the changes of a part.
func refuseAll(part *sdk.Batch, err error) []sdk.Refusal {
	all := make([]sdk.Refusal, part.Count)
	for i := range all {
		all[i] = sdk.Refusal{Index: i, Code: sdk.CodeOf(err), Message: err.Error()}
	}
	return all
}
