package registry

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"

	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/sdk"
)

// AuditDigest is the first half of a SHA-256.
type AuditDigest [16]byte

// ModelDigests says what a device holds of one model, range by range. Devices that hold the same have equal ones.
type ModelDigests struct {
	Model  sdk.ModelName // of a hybrid model: of a part of it, see sdk.Description.Parts
	Kind   sdk.Ownership // of its records
	Ranges []RangeDigest // those that hold a record, ascending; shared by all who ask, not to be changed
	Total  AuditDigest   // of Ranges; zero where there are none
	Parked bool          // changes wait here for the model's plugin: what is not merged is in no digest
}

// RangeDigest says what a device holds in one range of ids: after the Until of the range before, through its own.
type RangeDigest struct {
	Until  sdk.RecordID
	Digest AuditDigest // over the records that exist, visible or not, as those of Digest are summed
}

// lastID ends the last range of every model.
var lastID = sdk.RecordID(bytes.Repeat([]byte{0xff}, len(sdk.RecordID{})))

// endsRange reports whether the record with this id is the last of its range: one of 256, wherever it is. So ranges need
// no agreement, and hold about as many records however ids lie (those that are made one after the other lie close together);
// a record more or less changes its range, and the next one at most.
func endsRange(id sdk.RecordID) bool {
	high, low := binary.BigEndian.Uint64(id[:8]), binary.BigEndian.Uint64(id[8:])
	mixed := (high*0x9e3779b97f4a7c15 ^ low) * 0xbf58476d1ce4e5b9
	return mixed>>56 == 0 && id != lastID
}

// anewEvery is how many times AuditDigests uses what is known of records that have not changed, before it reads them all
// again: what changed behind the registry's back, as on a bad disk, is to be found too.
const anewEvery = 24

// changedRows bounds the ids that are kept of what changed in a model since its last audit; more make all of it be read.
const changedRows = 1 << 16

// changedIDs are records that changed.
type changedIDs struct {
	ids []sdk.RecordID
	all bool // more than are listed
}

func (c *changedIDs) add(other *changedIDs) {
	c.ids = append(c.ids, other.ids...)
	if c.all = c.all || other.all || len(c.ids) > changedRows; c.all {
		c.ids = nil
	}
}

// audit keeps the digests of ranges from one call of AuditDigests to the next.
type audit struct {
	turn chan struct{} // one token: its holder computes

	mu      sync.Mutex // guards what follows
	models  map[sdk.ModelName]*audited
	pending map[sdk.ModelName]*changedIDs // by transactions that may have become durable, or have not yet
	kept    bool                          // KeepAudit was called
	since   int                           // calls of AuditDigests since one has read all records
}

// audited is what was computed of one model.
type audited struct {
	ranges  []RangeDigest // all of them: the last ends at lastID, and may be empty; used by who holds the turn
	digests ModelDigests  // likewise
	changed changedIDs    // since; guarded by audit.mu
}

func newAudit() *audit {
	return &audit{turn: make(chan struct{}, 1), models: make(map[sdk.ModelName]*audited), pending: make(map[sdk.ModelName]*changedIDs)}
}

// changing notes what a transaction has changed, before it can become durable.
//
// Whoever reads digests between its commit and settled finds the records pending, and reads them again, as does whoever
// comes after settled; a transaction that is undone leaves them pending until another is not, which costs time only.
func (a *audit) changing(p *placer) error {
	if len(p.marked) == 0 {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.kept {
		if err := forgetKept(p.tx); err != nil {
			return err
		}
	}
	for m, ids := range p.marked {
		c := a.pending[m.desc.Model]
		if c == nil {
			c = new(changedIDs)
			a.pending[m.desc.Model] = c
		}
		c.add(&changedIDs{ids: ids})
	}
	p.tx.AfterCommit(a.settled)
	return nil
}

// settled notes that what is pending is durable, or was undone: one transaction runs at a time.
func (a *audit) settled() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for model, c := range a.pending {
		if one := a.models[model]; one != nil {
			one.changed.add(c)
		}
	}
	clear(a.pending)
}

// take returns what is known of a model, and which of its records changed since; all at first.
func (a *audit) take(model sdk.ModelName) (one *audited, changed changedIDs) {
	a.mu.Lock()
	defer a.mu.Unlock()
	one = a.models[model]
	if one == nil {
		one = &audited{changed: changedIDs{all: true}}
		a.models[model] = one
	}
	changed, one.changed = one.changed, changedIDs{}
	if c := a.pending[model]; c != nil {
		changed.add(c)
	}
	return one, changed
}

// giveBack notes that changed was not looked at.
func (a *audit) giveBack(one *audited, changed *changedIDs) {
	a.mu.Lock()
	defer a.mu.Unlock()
	one.changed.add(changed)
}

// AuditDigests returns the digests of all models that have a table here, by name. It reads only ranges in which records
// changed since the last call, each in its own short snapshot: they belong together if nothing was applied meanwhile, which
// the caller sees from its vector. The first call reads all records, unless
// KeepAudit kept what was known of them, and so does each 24th.
func (r *Registry) AuditDigests(ctx context.Context) (list []ModelDigests, err error) {
	select {
	case r.audit.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-r.audit.turn }()
	r.audit.count()
	for _, s := range r.catalog.Load().order {
		one, changed := r.audit.take(s.desc.Model)
		if changed.all || len(changed.ids) > 0 {
			if err := r.auditModel(ctx, s, one, &changed); err != nil {
				r.audit.giveBack(one, &changed)
				return nil, fmt.Errorf("audit %s: %w", s.name, err)
			}
		}
		digests := one.digests
		if digests.Parked, err = r.hasParked(ctx, s.n); err != nil {
			return nil, fmt.Errorf("audit %s: %w", s.name, err)
		}
		list = append(list, digests)
	}
	slices.SortFunc(list, func(a, b ModelDigests) int { return compareNames(a.Model, b.Model) })
	return list, nil
}

// AuditAnew has the next AuditDigests read all records, also those that changed behind the registry's back.
func (r *Registry) AuditAnew() {
	r.audit.mu.Lock()
	defer r.audit.mu.Unlock()
	r.audit.anew()
}

func (a *audit) anew() {
	a.since = 0
	for _, one := range a.models {
		one.changed = changedIDs{all: true}
	}
}

// count counts a call of AuditDigests, over stops too, and has each anewEvery-th read all records.
func (a *audit) count() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.since++; a.since >= anewEvery {
		a.anew()
	}
}

func (r *Registry) hasParked(ctx context.Context, model int64) (some bool, err error) {
	err = r.db.Read(ctx, func(tx *database.Tx) error {
		var one int
		some, err = tx.One("SELECT 1 FROM _parked WHERE model = ? LIMIT 1", anys(model), &one)
		return err
	})
	return some, err
}

// auditModel computes the ranges with changes again.
func (r *Registry) auditModel(ctx context.Context, s *served, one *audited, changed *changedIDs) error {
	scan := auditScan{r: r, s: s, sum: sha256.New(), form: newCanonical(s.model)}
	if changed.all {
		if err := scan.ranges(ctx, nil, lastID); err != nil {
			return err
		}
		scan.end()
	} else if err := scan.again(ctx, one.ranges, changed.ids); err != nil {
		return err
	}
	one.ranges, one.digests = scan.found, digestsOf(s.desc.Model, s.desc.Ownership, scan.found)
	return nil
}

// digestsOf returns what ranges, which are all of a model's, say to others.
func digestsOf(model sdk.ModelName, kind sdk.Ownership, ranges []RangeDigest) ModelDigests {
	digests := ModelDigests{Model: model, Kind: kind, Ranges: slices.Clone(ranges)}
	if n := len(ranges); ranges[n-1].Digest == (AuditDigest{}) {
		digests.Ranges = digests.Ranges[:n-1]
	}
	if len(digests.Ranges) > 0 {
		sum := sha256.New()
		for _, found := range digests.Ranges {
			sum.Write(found.Until[:])
			sum.Write(found.Digest[:])
		}
		copy(digests.Total[:], sum.Sum(nil))
	}
	return digests
}
