package registry

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/sdk"
)

// IncomingRange is a Range of another device, and what it is a range of.
//
// With Theirs and Mine it is part of a snapshot. Then what one side lacks although it has seen it was deleted and
// forgotten there, and goes:
//   - of a record here, the parts (its insert, its delete, its fields) that Theirs covers, if the range lacks one of them;
//     a record whose insert Theirs does not cover is kept whole;
//   - of a record in the range, likewise those that Mine covers, if this device lacks one of them.
//
// Without them it is merged, and nothing is inferred: of an audit.
type IncomingRange struct {
	Kind       sdk.Ownership
	Owner      sdk.DeviceID // device-owned: RangeQuery.Owner
	After, End Place        // RangeQuery.After and Range.End; a zero End is the end of all
	Changes    []Changes
	Unchanged  []IDs

	// From is the device that sent it. Of an audit, rows that it owns itself replace those here of the same stamp and another
	// content: one of the two disks is damaged, and the owner's word counts.
	From sdk.DeviceID

	// Theirs and Mine say up to where a device's stream is covered: by what the other device held before it read the range,
	// and by what this device held before it calls PrepareRange. Both are set, or none. They may be called until the range is
	// written.
	Theirs, Mine func(sdk.DeviceID) hlc.Stamp
}

// RangeOutcome counts what became of a range.
type RangeOutcome struct {
	Outcome
	Erased   int      // records here, or parts of them, that were deleted and forgotten there
	LeftOut  int      // records there, or parts of them, that were deleted and forgotten here
	Repairs  int      // without Theirs and Mine: records that are not what they were
	Repaired []Repair // some of these
}

// Repair is a record that an audit changed.
type Repair struct {
	Model sdk.ModelName
	ID    sdk.RecordID
	What  RepairKind
}

// RepairKind says how a record changed.
type RepairKind string

// The kinds of repairs.
const (
	RepairAdded   RepairKind = "added"   // it did not exist here
	RepairChanged RepairKind = "changed" // it existed with other fields or clocks
	RepairDeleted RepairKind = "deleted" // it existed here only
)

// keptRepairs bounds RangeOutcome.Repaired.
const keptRepairs = 1000

// PreparedRange is a range that the models have decided on. It is written once, or as often as Write fails.
type PreparedRange struct {
	r       *Registry
	in      IncomingRange // as far as it is prepared
	rest    *IncomingRange
	there   map[sdk.ModelName]map[sdk.RecordID]*parts
	origins []*Prepared // what came from each origin
	merged  *Prepared   // the shared records of all of them
	reads   []*spanRead
	existed map[Place]bool // of the shared records of an audit, before it

	latest          hlc.Stamp
	erased, leftOut int
}

// PrepareRange has the models decide on a range of another device. It calls plugins, and holds no transaction while it
// does. A range that is malformed is an error with CodeInvalid; one whose plugin can not answer now is an error that is
// worth a retry. The result refers to the batches, which must not change until it is written.
//
// HAZARD: a short range of a snapshot may span any number of records here, which are all to be deleted. Then p goes only
// through p.End, and rest is what comes after it: prepare and write rest next, before any cursor moves past p.End. A nil
// rest says that p is all of it.
func (r *Registry) PrepareRange(ctx context.Context, in IncomingRange) (p *PreparedRange, rest *IncomingRange, err error) {
	if (in.Theirs == nil) != (in.Mine == nil) || (in.Kind != sdk.SharedByAll && in.Kind != sdk.DeviceOwned) {
		return nil, nil, sdk.Errorf(sdk.CodeInvalid, "a range of records that are %q, with one vector of two", in.Kind)
	}
	p = &PreparedRange{r: r, in: in, there: make(map[sdk.ModelName]map[sdk.RecordID]*parts), existed: make(map[Place]bool)}
	if err := p.check(); err != nil {
		return nil, nil, err
	}
	p.merged = &Prepared{r: r, catalog: r.catalog.Load()}
	if p.infers() || in.Kind == sdk.SharedByAll {
		if err := r.db.Read(ctx, p.read); err != nil {
			return nil, nil, fmt.Errorf("read what is here of a range: %w", err)
		}
	}
	return p, p.rest, p.ask(ctx)
}

// End is through which record p goes; zero is the end of all.
func (p *PreparedRange) End() Place { return p.in.End }

// Latest is the greatest stamp in p; the clock is to observe it before p is written.
func (p *PreparedRange) Latest() hlc.Stamp { return p.latest }

// infers reports whether what one side lacks may have been deleted there.
func (p *PreparedRange) infers() bool { return p.in.Theirs != nil }

// check returns why the range is malformed, and notes which records it has.
func (p *PreparedRange) check() error {
	if !p.in.End.IsZero() && p.in.End.Compare(p.in.After) < 0 {
		return sdk.Errorf(sdk.CodeInvalid, "a range that ends before it begins")
	}
	for i := range p.in.Changes {
		c := &p.in.Changes[i]
		if p.in.Kind == sdk.DeviceOwned && !p.in.Owner.IsZero() && c.Origin != p.in.Owner {
			return sdk.Errorf(sdk.CodeInvalid, "a range of the records of device %s holds some of %s", p.in.Owner, c.Origin)
		}
		for k := range c.Batches {
			if err := p.checkBatch(c.Origin, &c.Batches[k]); err != nil {
				return err
			}
		}
	}
	for _, list := range p.in.Unchanged {
		for _, id := range list.IDs {
			part, err := p.part(list.Model, id)
			if err != nil {
				return err
			}
			part.unknown = true
		}
	}
	return nil
}

func (p *PreparedRange) checkBatch(origin sdk.DeviceID, batch *sdk.Batch) error {
	if err := checkColumns(batch); err != nil {
		return err
	}
	if p.in.Kind == sdk.DeviceOwned {
		for row, err := range batch.StateRows() {
			if err != nil {
				return err
			}
			part, err := p.part(batch.Model, row.ID)
			if err != nil {
				return err
			}
			p.latest = max(p.latest, row.Stamp)
			if row.Deleted {
				part.deleted = sdk.Version{Stamp: row.Stamp, Device: origin}
			}
		}
		return nil
	}
	for op, err := range batch.Ops() {
		if err != nil {
			return err
		}
		part, err := p.part(batch.Model, op.ID)
		if err != nil {
			return err
		}
		p.latest = max(p.latest, op.Stamp)
		part.operation(batch.Columns, &op, origin)
	}
	return nil
}

// part returns what the range has of a record.
func (p *PreparedRange) part(model sdk.ModelName, id sdk.RecordID) (*parts, error) {
	at := Place{model, id}
	if !at.within(p.in.After, p.in.End) {
		return nil, sdk.Errorf(sdk.CodeInvalid, "%s %s lies outside the range, which is after %s %s and through %s %s",
			model, id, p.in.After.Model, p.in.After.ID, p.in.End.Model, p.in.End.ID)
	}
	list := p.there[model]
	if list == nil {
		list = make(map[sdk.RecordID]*parts)
		p.there[model] = list
	}
	if list[id] == nil {
		list[id] = new(parts)
	}
	return list[id], nil
}

// cut lets p end at end, and makes rest what follows.
func (p *PreparedRange) cut(end Place) (err error) {
	p.rest = new(p.in)
	p.rest.After = end
	if p.rest.Changes, err = p.someChanges(func(at Place, _ sdk.Version) bool { return at.Compare(end) > 0 }); err != nil {
		return err
	}
	p.rest.Unchanged = nil
	for _, list := range p.in.Unchanged {
		later := slices.DeleteFunc(slices.Clone(list.IDs), func(id sdk.RecordID) bool { return Place{list.Model, id}.Compare(end) <= 0 })
		p.rest.Unchanged = append(p.rest.Unchanged, IDs{list.Model, later})
	}
	p.in.End = end
	for model, list := range p.there {
		maps.DeleteFunc(list, func(id sdk.RecordID, _ *parts) bool { return Place{model, id}.Compare(end) > 0 })
	}
	p.in.Changes, err = p.someChanges(func(at Place, _ sdk.Version) bool { return at.Compare(end) <= 0 })
	return err
}

// someChanges returns those changes of p for which keep holds.
func (p *PreparedRange) someChanges(keep func(Place, sdk.Version) bool) ([]Changes, error) {
	kept := make([]Changes, len(p.in.Changes))
	for i, c := range p.in.Changes {
		kept[i].Origin = c.Origin
		for k := range c.Batches {
			batch := &c.Batches[k]
			some, err := someOf(batch, p.in.Kind == sdk.SharedByAll, func(one *change) bool {
				return keep(Place{batch.Model, one.id}, sdk.Version{Stamp: one.stamp, Device: c.Origin})
			})
			if err != nil {
				return nil, err
			}
			if some.Count > 0 {
				kept[i].Batches = append(kept[i].Batches, some)
			}
		}
	}
	return kept, nil
}

// someOf returns batch with those of its changes for which keep holds.
func someOf(batch *sdk.Batch, shared bool, keep func(*change) bool) (some sdk.Batch, err error) {
	changes, err := changesOf(batch, shared)
	if err != nil {
		return some, err
	}
	some = *batch
	some.Count, some.Rows = 0, nil
	for i := range changes {
		if c := &changes[i]; keep(c) {
			some.Rows = append(some.Rows, batch.Rows[c.from:c.to]...)
			some.Count++
		}
	}
	if some.Count == batch.Count {
		return *batch, nil
	}
	return some, nil
}

// read cuts p where this device holds too much, and decides what is forgotten on either side.
func (p *PreparedRange) read(tx *database.Tx) error {
	models, err := rangeModels(tx, p.merged.catalog, p.in.Kind)
	if err != nil {
		return err
	}
	if p.infers() {
		if err := p.bound(tx, models); err != nil {
			return err
		}
	}
	if p.in.Kind == sdk.DeviceOwned {
		return nil
	}
	for i := range models {
		s, ok := span(models[i].name, p.in.After, p.in.End)
		if !ok {
			continue
		}
		read := &spanRead{p: p, m: models[i], s: s, there: p.there[models[i].name]}
		p.reads = append(p.reads, read)
		if err := read.decide(tx); err != nil {
			return fmt.Errorf("%s: %w", models[i].name, err)
		}
	}
	if !p.infers() {
		return nil
	}
	return p.leaveOut()
}

// bound cuts p so that this device holds no more in it than one transaction should delete.
func (p *PreparedRange) bound(tx *database.Tx, models []rangeModel) error {
	for i := range models {
		s, ok := span(models[i].name, p.in.After, p.in.End)
		if !ok {
			continue
		}
		end, cut, err := models[i].bound(tx, s, rangeScan)
		if err != nil {
			return err
		}
		if at := (Place{models[i].name, end}); cut && at != p.in.End {
			return p.cut(at)
		}
	}
	return nil
}

// leaveOut takes out of p what was deleted and forgotten here.
func (p *PreparedRange) leaveOut() (err error) {
	some := false
	for _, list := range p.there {
		for _, part := range list {
			if !part.judged { // this device holds nothing of it
				part.leave = part.forgottenBy(nil, p.mine)
			}
			if part.leave {
				p.leftOut++
				some = true
			}
		}
	}
	if !some {
		return nil
	}
	p.in.Changes, err = p.someChanges(func(at Place, v sdk.Version) bool { return !p.there[at.Model][at.ID].leave || !p.mine(v) })
	return err
}

func (p *PreparedRange) theirs(v sdk.Version) bool { return v.Stamp <= p.in.Theirs(v.Device) }

func (p *PreparedRange) mine(v sdk.Version) bool { return v.Stamp <= p.in.Mine(v.Device) }

// ask has the models decide, origin by origin.
func (p *PreparedRange) ask(ctx context.Context) error {
	for i := range p.in.Changes {
		c := &p.in.Changes[i]
		in := Incoming{Origin: c.Origin, Kind: p.in.Kind, Batches: c.Batches}
		one := &Prepared{r: p.r, catalog: p.merged.catalog, origin: c.Origin, shared: p.merged.shared}
		if err := one.prepare(ctx, &in); err != nil {
			return err
		}
		p.merged.shared, one.shared = one.shared, nil
		p.origins = append(p.origins, one)
	}
	for _, b := range p.merged.shared {
		b.dropJudged(p)
	}
	return nil
}

// dropJudged leaves out conflicts that a range only seems to tell of. What came from there and was known here lost when it
// came. What was known there lost there, perhaps to a write that the winner saw and that was overwritten since.
func (b *sharedBatch) dropJudged(p *PreparedRange) {
	b.conflicts = slices.DeleteFunc(b.conflicts, func(c sdk.Conflict) bool {
		if p.infers() && p.there[b.desc.Model][c.ID].has(c.Field, c.Lost) {
			return p.mine(c.Lost)
		}
		if p.infers() && !p.theirs(c.Lost) {
			return false
		}
		state := b.current[c.ID]
		return state != nil && slices.ContainsFunc(state.Fields, func(f sdk.FieldState) bool {
			return f.Name == c.Field && f.Version == c.Winner && f.Seen > c.Lost.Stamp
		})
	})
}
