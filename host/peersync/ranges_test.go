package peersync

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/history"
	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/sdk"
)

// rangeWriter gathers the changes of a page of records.
type rangeWriter struct {
	kind    sdk.Ownership
	changes map[sdk.DeviceID]*sdk.Batch
	bytes   int
}

func (w *rangeWriter) batch(origin sdk.DeviceID) *sdk.Batch {
	b := w.changes[origin]
	if b == nil {
		b = &sdk.Batch{Model: modelOf(w.kind), Version: 1, Columns: testColumns}
		w.changes[origin] = b
	}
	b.Count++
	return b
}

func (w *rangeWriter) row(r *row) {
	b := w.batch(r.owner)
	b.Rows = append(b.Rows, r.raw...)
	w.bytes += len(r.raw)
}

// record adds the operations that make a record.
func (w *rangeWriter) record(id sdk.RecordID, r *record) {
	add := func(at clock, kind sdk.OpKind) {
		b := w.batch(at.device)
		begin := len(b.Rows)
		with := r.written == at
		fields := 0
		if with {
			fields = 1
		}
		b.Rows = sdk.AppendOpHeader(b.Rows, id, at.stamp, kind, fields)
		if with { // as sdk.AppendOpField, of a value that is packed
			b.Rows = append(b.Rows, 0)
			b.Rows = append(b.Rows, r.text...)
			b.Rows = append(b.Rows, 0)
		}
		w.bytes += len(b.Rows) - begin
	}
	if r.inserted.stamp > 0 {
		add(r.inserted, sdk.Insert)
	}
	if r.written.stamp > 0 && r.written != r.inserted {
		add(r.written, sdk.Update)
	}
	if r.deleted.stamp > 0 {
		add(r.deleted, sdk.Delete)
	}
}

func (w *rangeWriter) all() (list []protocol.Changes) {
	for _, origin := range slices.SortedFunc(maps.Keys(w.changes), sdk.DeviceID.Compare) {
		list = append(list, protocol.Changes{Origin: origin, Batches: []sdk.Batch{*w.changes[origin]}})
	}
	return list
}

// idsIn returns the ids of the records of a kind within (after, until], ascending. A zero until is the end of all.
func (s *memoryStore) idsIn(kind sdk.Ownership, owner sdk.DeviceID, after, until protocol.Place) (ids []sdk.RecordID) {
	within := func(id sdk.RecordID) bool {
		at := protocol.Place{Model: modelOf(kind), ID: id}
		return at.Compare(after) > 0 && (until == protocol.Place{} || at.Compare(until) <= 0)
	}
	if kind == sdk.SharedByAll {
		for id := range s.records {
			if within(id) {
				ids = append(ids, id)
			}
		}
	} else {
		for id, r := range s.rows {
			if (owner.IsZero() || r.owner == owner) && within(id) {
				ids = append(ids, id)
			}
		}
	}
	slices.SortFunc(ids, sdk.RecordID.Compare)
	return ids
}

func (s *memoryStore) ReadRange(_ context.Context, a ReadRange) (page protocol.SnapshotPage, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.failed(); err != nil {
		return page, err
	}
	r := &a.Request
	w := &rangeWriter{kind: r.Kind, changes: map[sdk.DeviceID]*sdk.Batch{}}
	unchanged := protocol.RecordIDs{Model: modelOf(r.Kind)}
	page.Done = true
	var last sdk.RecordID
	for _, id := range s.idsIn(r.Kind, r.Origin, r.After, r.Until) {
		if w.bytes+len(id)*len(unchanged.IDs) >= a.Bytes {
			page.Done, page.End = false, protocol.Place{Model: modelOf(r.Kind), ID: last}
			break
		}
		last = id
		if r.Kind == sdk.SharedByAll {
			w.record(id, s.records[id])
			continue
		}
		switch one := s.rows[id]; {
		case one.stamp > a.Since:
			w.row(one)
		case !one.deleted:
			unchanged.IDs = append(unchanged.IDs, id)
		}
	}
	if page.Changes = w.all(); len(unchanged.IDs) > 0 {
		page.Unchanged = []protocol.RecordIDs{unchanged}
	}
	return page, nil
}

// rangeTaker takes in one page of records.
type rangeTaker struct {
	*memoryStore
	a         *TakeRange
	theirs    map[sdk.DeviceID]hlc.Stamp // up to where the sender has what either side has
	mine      map[sdk.DeviceID]hlc.Stamp // and this device
	unchanged map[sdk.RecordID]bool
	taken     Taken
}

func (s *memoryStore) TakeRange(_ context.Context, a TakeRange) (Taken, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.failed(); err != nil {
		return Taken{}, err
	}
	t := &rangeTaker{memoryStore: s, a: &a, theirs: map[sdk.DeviceID]hlc.Stamp{}, mine: map[sdk.DeviceID]hlc.Stamp{}, unchanged: map[sdk.RecordID]bool{}}
	graph := s.graphWith(a.Epochs)
	if !a.Repair {
		for key := range s.streamsOf(&a) {
			all := graph.Join(a.Vector[key], s.heads[key])
			t.theirs[key.Origin], t.mine[key.Origin] = graph.Low(a.Vector[key], all), graph.Low(s.heads[key], all)
		}
	}
	for _, list := range a.Page.Unchanged {
		for _, id := range list.IDs {
			t.unchanged[id] = true
		}
	}
	take := t.takeRecords
	if a.Scope.Kind == sdk.DeviceOwned {
		take = t.takeRows
	}
	if err := take(); err != nil {
		return Taken{}, err
	}
	if a.Repair {
		return t.taken, nil
	}
	if !a.Page.Done {
		s.snapshots[a.Scope] = StoredSnapshot{Scope: a.Scope, Vector: a.Vector, After: a.Page.End}
		return t.taken, nil
	}
	delete(s.snapshots, a.Scope)
	t.moveHeads(graph)
	return t.taken, nil
}

// streamsOf returns the streams that a snapshot concerns.
func (s *memoryStore) streamsOf(a *TakeRange) map[protocol.Stream]bool {
	keys := map[protocol.Stream]bool{}
	for key := range a.Vector {
		keys[key] = true
	}
	for key := range s.heads {
		if scopeOf(key) == a.Scope {
			keys[key] = true
		}
	}
	return keys
}

func (t *rangeTaker) moveHeads(graph *history.Graph) {
	t.taken.Heads, t.taken.Floors = map[protocol.Stream]protocol.Heads{}, map[protocol.Stream]hlc.Stamp{}
	for key, theirs := range t.a.Vector {
		if scopeOf(key) != t.a.Scope {
			t.onGap(fmt.Sprintf("a snapshot of %v moves %v", t.a.Scope, key))
		}
		all := graph.Join(t.heads[key], theirs)
		if all.Equal(t.heads[key]) {
			continue
		}
		t.heads[key] = all
		t.floors[key] = max(t.floors[key], theirs.Top())
		t.taken.Heads[key], t.taken.Floors[key] = all, t.floors[key]
	}
	for _, e := range t.a.Epochs {
		if _, moved := t.taken.Heads[e.Stream]; moved {
			t.keepEpochs([]protocol.Epoch{e})
		}
	}
}

// count counts a record; changed says that what exists of it is not what it was.
func (t *rangeTaker) count(changed bool) {
	t.taken.Records++
	if changed && t.a.Repair {
		t.taken.Repaired++
	}
}

func (t *rangeTaker) takeRows() error {
	there := map[sdk.RecordID]bool{}
	for _, c := range t.a.Page.Changes {
		if !t.a.Scope.Origin.IsZero() && c.Origin != t.a.Scope.Origin {
			return sdk.Errorf(sdk.CodeInvalid, "records of %s in those of %s", c.Origin, t.a.Scope.Origin)
		}
		for i := range c.Batches {
			for r, err := range c.Batches[i].StateRows() {
				if err != nil {
					return err
				}
				there[r.ID] = true
				old := t.rows[r.ID]
				if !t.a.Repair && !r.Deleted && old == nil && r.Stamp <= t.mine[c.Origin] {
					continue // deleted here
				}
				put := t.putRow(row{id: r.ID, owner: c.Origin, stamp: r.Stamp, deleted: r.Deleted, raw: slices.Clone(r.Raw)})
				t.count(put && (!r.Deleted || old != nil && !old.deleted))
			}
		}
	}
	if t.a.Repair {
		return nil
	}
	for _, id := range t.idsIn(sdk.DeviceOwned, t.a.Scope.Origin, t.a.Since, t.a.Page.End) {
		if r := t.rows[id]; !r.deleted && !there[id] && !t.unchanged[id] && r.stamp <= t.theirs[r.owner] {
			t.dropRow(r)
		}
	}
	return nil
}

func (t *rangeTaker) takeRecords() error {
	there := map[sdk.RecordID]*record{}
	for _, c := range t.a.Page.Changes {
		for i := range c.Batches {
			for op, err := range c.Batches[i].Ops() {
				if err != nil {
					return err
				}
				if there[op.ID] == nil {
					there[op.ID] = &record{}
				}
				there[op.ID].merge(recordOf(&op, c.Origin))
			}
		}
	}
	for id, r := range there {
		if !t.a.Repair && t.records[id] == nil && r.exists() && t.covers(t.mine, r.inserted) {
			continue // deleted here
		}
		here := t.ensureRecord(id)
		before := *here
		here.merge(r)
		changed := before.inserted != here.inserted || before.exists() != here.exists() || before.written != here.written || string(before.text) != string(here.text)
		t.count(changed && (before.exists() || here.exists()))
	}
	if t.a.Repair {
		return nil
	}
	for _, id := range t.idsIn(sdk.SharedByAll, sdk.DeviceID{}, t.a.Since, t.a.Page.End) {
		if r := t.records[id]; there[id] == nil && r.exists() && t.covers(t.theirs, r.inserted) {
			r.inserted = clock{} // deleted there; what the sender did not know of stays
			if t.covers(t.theirs, r.deleted) {
				r.deleted = clock{}
			}
			if t.covers(t.theirs, r.written) {
				r.written, r.text = clock{}, nil
			}
			if r.top() == 0 {
				delete(t.records, id)
			}
		}
	}
	return nil
}

func (t *rangeTaker) covers(low map[sdk.DeviceID]hlc.Stamp, at clock) bool {
	return at.stamp <= low[at.device]
}

func (s *memoryStore) Digests(context.Context) ([]ModelDigests, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []ModelDigests
	for _, kind := range []sdk.Ownership{sdk.DeviceOwned, sdk.SharedByAll} { // by name: note, tag
		d := ModelDigests{Model: modelOf(kind), Kind: kind}
		for _, id := range s.idsIn(kind, sdk.DeviceID{}, protocol.Place{}, protocol.Place{}) {
			var text string
			if kind == sdk.SharedByAll {
				r := s.records[id]
				if !r.exists() {
					continue
				}
				text = fmt.Sprintf("%s %v %v %x", id, r.inserted, r.written, r.text)
			} else {
				r := s.rows[id]
				if r.deleted {
					continue
				}
				text = fmt.Sprintf("%s %x", r.owner, r.raw)
			}
			if n := len(d.Ranges); n == 0 || d.Ranges[n-1].Until != lastID {
				d.Ranges = append(d.Ranges, protocol.RangeDigest{Until: lastID}) // so far
			}
			last := &d.Ranges[len(d.Ranges)-1]
			sum := sha256.Sum256([]byte(text))
			for i := range d.Total {
				d.Total[i] ^= sum[i]
				last.Digest[i] ^= sum[i]
			}
			if id[1]&3 == 0 { // one record of four ends its range, where it exists
				last.Until = id
			}
		}
		list = append(list, d)
	}
	return list, nil
}

func (s *memoryStore) Acknowledge(_ context.Context, acks []Acknowledged) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.failed(); err != nil {
		return err
	}
	for _, a := range acks {
		if a.All || s.acks[a.Peer] == nil {
			s.acks[a.Peer] = map[protocol.Stream]protocol.Heads{}
		}
		maps.Copy(s.acks[a.Peer], a.Heads)
	}
	return nil
}

func (s *memoryStore) Prune(_ context.Context, a Prune) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.failed(); err != nil {
		return err
	}
	for key, floor := range a.Floors {
		if key.Kind == sdk.SharedByAll {
			s.log[key.Origin] = slices.DeleteFunc(s.log[key.Origin], func(e logEntry) bool {
				if e.stamp <= floor {
					s.floors[key] = max(s.floors[key], e.stamp) // where nothing was, nobody needs a snapshot
				}
				return e.stamp <= floor
			})
			continue
		}
		s.floors[key] = max(s.floors[key], floor)
		for _, r := range s.byStamp[key.Origin] {
			if r.deleted && r.stamp <= floor {
				s.dropRow(r)
			}
		}
		s.byStamp[key.Origin] = slices.DeleteFunc(s.byStamp[key.Origin], func(r *row) bool { return r.gone })
	}
	maps.DeleteFunc(s.records, func(_ sdk.RecordID, r *record) bool { return !r.exists() && r.top() <= a.Shadow })
	for _, id := range a.Epochs {
		delete(s.epochs, id)
		s.graph.Remove(id)
	}
	for _, scope := range a.Snapshots {
		delete(s.snapshots, scope)
	}
	return nil
}

func (s *memoryStore) Floors(context.Context) (map[protocol.Stream]hlc.Stamp, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.floors), nil
}

// Seal is the Keeper's; the tests close stamps where they commit.
func (s *memoryStore) Seal(context.Context) error { return nil }
