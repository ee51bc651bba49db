package main

import (
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/starling-sync/starling/host/control"
	"github.com/starling-sync/starling/host/registry"
	"github.com/starling-sync/starling/sdk"
)

// Get implements control.Records. A record that exists and is not visible is not found, and the error says why.
func (b *backend) Get(ctx context.Context, model sdk.ModelName, id sdk.RecordID) (control.Record, error) {
	row, err := b.registry.Get(ctx, model, id)
	if err != nil {
		return control.Record{}, err
	}
	if !row.Visible {
		return control.Record{}, sdk.Errorf(sdk.CodeNotFound, "%s %s is here but not visible: a record that it refers to is missing; it appears together with that", model, id)
	}
	return b.recordOf(row), nil
}

// List implements control.Records.
func (b *backend) List(ctx context.Context, q control.Query, yield func(control.Record) error) error {
	filter := registry.Filter{Limit: q.Limit}
	if q.Where != nil {
		filter.Field, filter.Value = q.Where.Field, q.Where.Value
	}
	return b.registry.List(ctx, q.Model, filter, func(row registry.Row) error { return yield(b.recordOf(row)) })
}

// recordOf leaves out fields of newer versions, which this device's description does not name.
func (b *backend) recordOf(row registry.Row) control.Record {
	desc, _ := b.registry.Description(row.Model)
	out := control.Record{ID: row.ID, Owner: row.Owner, Stamp: row.Stamp, Inserted: row.Inserted, Values: make([]any, len(desc.Fields))}
	shared := row.Owner.IsZero()
	if shared {
		out.Clocks = make([]sdk.Version, len(desc.Fields))
	}
	for i := range min(len(desc.Fields), len(row.Fields)) {
		out.Values[i] = row.Fields[i].Value
		if shared {
			out.Clocks[i] = row.Fields[i].Version
		}
	}
	return out
}

// Conflicts implements control.Journal.
func (b *backend) Conflicts(ctx context.Context, model sdk.ModelName, id sdk.RecordID) ([]control.Conflict, error) {
	found, err := b.registry.Conflicts(ctx, model, id)
	if err != nil {
		return nil, err
	}
	all := make([]control.Conflict, 0, len(found))
	for _, c := range found {
		all = append(all, conflictOf(c))
	}
	return all, nil
}

// Conflict implements control.History.
func (b *backend) Conflict(ctx context.Context, number int64) (control.Conflict, error) {
	c, err := b.registry.Conflict(ctx, number)
	return conflictOf(c), err
}

// ForgetConflict implements control.History.
func (b *backend) ForgetConflict(ctx context.Context, number int64) error {
	return b.registry.ForgetConflict(ctx, number)
}

func conflictOf(c registry.Conflict) control.Conflict {
	return control.Conflict{Number: c.Number, Model: c.Model, ID: c.ID, Field: c.Field, Value: c.Value, Lost: c.Lost, Winner: c.Winner}
}

// Explain implements control.History.
func (b *backend) Explain(ctx context.Context, model sdk.ModelName, id sdk.RecordID) (control.Explanation, error) {
	e, err := b.registry.Explain(ctx, model, id)
	if err != nil {
		return control.Explanation{}, err
	}
	out := control.Explanation{
		State: stateOf(&e), Inserted: e.Inserted, Owned: sdk.Version{Stamp: e.Stamp, Device: e.Owner}, Fields: e.Fields, Parked: e.Parked,
	}
	if out.State == control.StateDeleted {
		out.Deleted = e.Deleted
	}
	out.Missing, out.Elsewhere = missingOf(&e), b.elsewhere(&e)
	for _, r := range e.Refused {
		r.Message = b.withNames(r.Message)
		out.Refused = append(out.Refused, control.RefusedChange(r))
	}
	return out, nil
}

func stateOf(e *registry.Explanation) control.RecordState {
	switch {
	case e.Visible:
		return control.StateVisible
	case e.Exists:
		return control.StateWaiting
	case !e.Deleted.IsZero():
		return control.StateDeleted
	case len(e.Fields) > 0:
		return control.StateNotInserted
	}
	return control.StateUnread
}

// Digests implements control.Journal.
func (b *backend) Digests(ctx context.Context) ([]control.ModelDigest, error) {
	found, err := b.registry.Digest(ctx)
	if err != nil {
		return nil, err
	}
	all := make([]control.ModelDigest, 0, len(found))
	for _, d := range found {
		all = append(all, control.ModelDigest{Model: d.Model, Rows: d.Rows, Digest: d.Digest[:]})
	}
	return all, nil
}

// Watch implements control.Feed.
func (b *backend) Watch(models []sdk.ModelName) (<-chan control.Event, func()) {
	in, end := b.registry.Watch(models...)
	out := make(chan control.Event)
	done := make(chan struct{})
	go func() { // ends when end closes in
		defer close(out)
		for e := range in {
			event := control.Event{Model: e.Model, ID: e.ID, Origin: e.Origin, Stamp: e.Stamp, Local: e.Local, Gone: e.Kind != registry.Changed}
			if e.Kind == registry.Missed {
				event = control.Event{Missed: true}
			}
			select {
			case out <- event:
			case <-done:
				return
			}
		}
	}()
	return out, sync.OnceFunc(func() {
		end()
		close(done)
	})
}

// count fills in what the tables hold.
func (b *backend) count(ctx context.Context, s *control.Status) error {
	counts, err := b.registry.Counts(ctx)
	if err != nil {
		return err
	}
	known := make(map[sdk.ModelName]bool)
	for _, d := range b.registry.Descriptions() {
		known[d.Model] = true
		c := counts[d.Model]
		s.Models = append(s.Models, control.ModelStatus{
			Model: d.Model, Ownership: d.Ownership, Version: d.Version, Rows: c.Visible, Waiting: c.Waiting, Parked: c.Parked,
		})
		s.Shadow.Deleted += c.Deleted
		s.Shadow.NotInserted += c.NotInserted
		s.Shadow.Waiting += c.Waiting
	}
	for _, model := range slices.Sorted(maps.Keys(counts)) { // kept for their plugin, and passed on
		if c := counts[model]; !known[model] && c.Parked > 0 {
			s.Models = append(s.Models, control.ModelStatus{Model: model, Parked: c.Parked})
		}
	}
	refused, err := b.registry.Refused(ctx, 20)
	if err != nil {
		return err
	}
	for _, r := range refused {
		s.RefusedChanges = append(s.RefusedChanges, control.RefusedChange(r))
	}
	for _, c := range counts {
		s.Refused += c.Refused
		s.Conflicts += c.Conflicts
	}
	return nil
}
