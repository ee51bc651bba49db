package peersync

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/history"
	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/sdk"
)

// memoryStore is a device's database in memory: rows of device-owned streams, of which only the newest of an id stays, the
// log of shared streams, and what it makes: records with a clock for each part. It is the Applier, the Reader, the Ranges
// and the Keeper of the tests, refuses what a real one would, and forgets what it is told to. ranges_test.go has the rest.
type memoryStore struct {
	mu        sync.Mutex
	self      sdk.DeviceID
	heads     map[protocol.Stream]protocol.Heads
	epochs    map[protocol.EpochID]protocol.Epoch
	graph     history.Graph // of epochs
	floors    map[protocol.Stream]hlc.Stamp
	rows      map[sdk.RecordID]*row       // also tombstones
	byStamp   map[sdk.DeviceID][]*row     // ascending
	log       map[sdk.DeviceID][]logEntry // ascending by stamp
	records   map[sdk.RecordID]*record    // shared ones, also those that do not exist
	acks      map[sdk.DeviceID]map[protocol.Stream]protocol.Heads
	snapshots map[Scope]StoredSnapshot

	applied int                       // pages
	fail    func(protocol.Page) error // asked before each commit
	failAll func() error              // asked before everything that reads or writes; nil: never
	onGap   func(string)
}

// row is a device-owned row or its tombstone.
type row struct {
	id      sdk.RecordID
	owner   sdk.DeviceID
	stamp   hlc.Stamp
	deleted bool
	raw     []byte
	gone    bool // a newer change of the same row has taken its place
}

type logEntry struct {
	stamp hlc.Stamp
	raw   []byte
}

// clock is the version of a part of a record.
type clock struct {
	stamp  hlc.Stamp
	device sdk.DeviceID
}

func (c clock) compare(other clock) int {
	return cmp.Or(cmp.Compare(c.stamp, other.stamp), c.device.Compare(other.device))
}

func later(a, b clock) clock {
	if a.compare(b) >= 0 {
		return a
	}
	return b
}

// record is a shared record of one field.
type record struct {
	inserted, deleted, written clock
	text                       []byte // packed
}

func (r *record) exists() bool { return r.inserted.compare(r.deleted) > 0 }

func (r *record) top() hlc.Stamp { return max(r.inserted.stamp, r.deleted.stamp, r.written.stamp) }

// merge takes in what other has. Of the same version with different values, which only damage makes, the greater stays.
func (r *record) merge(other *record) {
	r.inserted, r.deleted = later(r.inserted, other.inserted), later(r.deleted, other.deleted)
	if c := other.written.compare(r.written); c > 0 || c == 0 && bytes.Compare(other.text, r.text) > 0 {
		r.written, r.text = other.written, other.text
	}
}

func newMemoryStore(self sdk.DeviceID) *memoryStore {
	return &memoryStore{
		self: self, heads: map[protocol.Stream]protocol.Heads{}, epochs: map[protocol.EpochID]protocol.Epoch{}, floors: map[protocol.Stream]hlc.Stamp{},
		rows: map[sdk.RecordID]*row{}, byStamp: map[sdk.DeviceID][]*row{}, log: map[sdk.DeviceID][]logEntry{}, records: map[sdk.RecordID]*record{},
		acks: map[sdk.DeviceID]map[protocol.Stream]protocol.Heads{}, snapshots: map[Scope]StoredSnapshot{},
		onGap: func(text string) { panic(text) },
	}
}

// clone returns a copy as a backup has it.
func (s *memoryStore) clone() *memoryStore {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := newMemoryStore(s.self)
	c.onGap = s.onGap
	c.heads, c.epochs, c.floors, c.snapshots = maps.Clone(s.heads), maps.Clone(s.epochs), maps.Clone(s.floors), maps.Clone(s.snapshots)
	for _, e := range s.epochs {
		c.graph.Add(e)
	}
	for device, acks := range s.acks {
		c.acks[device] = maps.Clone(acks)
	}
	for origin, list := range s.log {
		c.log[origin] = slices.Clone(list)
	}
	for id, r := range s.records {
		one := *r
		c.records[id] = &one
	}
	for owner, list := range s.byStamp {
		for _, r := range list {
			if !r.gone {
				one := *r
				c.rows[r.id], c.byStamp[owner] = &one, append(c.byStamp[owner], &one)
			}
		}
	}
	return c
}

// stored returns what a machine is started with.
func (s *memoryStore) stored() Stored {
	c := s.clone()
	stored := Stored{Heads: c.heads, Floors: c.floors, Acknowledged: c.acks}
	for _, e := range c.epochs {
		stored.Epochs = append(stored.Epochs, e)
	}
	for _, sn := range c.snapshots {
		stored.Snapshots = append(stored.Snapshots, sn)
	}
	return stored
}

func (s *memoryStore) failed() error {
	if s.failAll == nil {
		return nil
	}
	return s.failAll()
}

func (s *memoryStore) keepEpochs(epochs []protocol.Epoch) {
	for _, e := range epochs {
		if s.graph.Add(e) {
			s.epochs[e.ID] = e
		}
	}
}

// graphWith returns what the store knows, and these epochs.
func (s *memoryStore) graphWith(epochs []protocol.Epoch) *history.Graph {
	if len(epochs) == 0 {
		return &s.graph
	}
	graph := new(history.Graph)
	for _, e := range s.epochs {
		graph.Add(e)
	}
	for _, e := range epochs {
		graph.Add(e)
	}
	return graph
}

// The model of device-owned rows, and that of shared records.
const (
	testModel   = "note"
	sharedModel = "tag"
)

var testColumns = []string{"text"}

func modelOf(kind sdk.Ownership) sdk.ModelName {
	if kind == sdk.SharedByAll {
		return sharedModel
	}
	return testModel
}

// recordID names a record: device-owned ones differ from owner to owner. They spread over the ranges of an audit.
func recordID(kind sdk.Ownership, owner sdk.DeviceID, n int) sdk.RecordID {
	id := sdk.RecordID{0: byte(n * 59), 1: byte(n * 151), 2: 1, 13: byte(n >> 16), 14: byte(n >> 8), 15: byte(n)}
	if kind == sdk.DeviceOwned {
		id[1] ^= owner[15] << 2
		copy(id[3:11], owner[8:])
	}
	return id
}

// write is one local change.
type write struct {
	record int
	op     sdk.OpKind // of a row: all but Delete write it
	text   string
}

// commit writes n rows, or inserts n records, starting at first and returns the page that announces them.
func (s *memoryStore) commit(kind sdk.Ownership, start protocol.EpochID, draw func() hlc.Stamp, first, n int, text string) protocol.Page {
	writes := make([]write, n)
	for i := range writes {
		writes[i] = write{first + i, sdk.Insert, text}
	}
	return s.commitAll(kind, start, draw, writes)
}

// commitAll makes changes and returns the page that announces them; none closes a stamp.
func (s *memoryStore) commitAll(kind sdk.Ownership, start protocol.EpochID, draw func() hlc.Stamp, writes []write) protocol.Page {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := protocol.Stream{Origin: s.self, Kind: kind}
	batch := sdk.Batch{Model: modelOf(kind), Version: 1, Columns: testColumns}
	var through hlc.Stamp
	for _, w := range writes {
		id, begin := recordID(kind, s.self, w.record), len(batch.Rows)
		through = draw()
		switch {
		case kind == sdk.DeviceOwned && w.op == sdk.Delete:
			batch.Rows = sdk.AppendStateHeader(batch.Rows, id, through, -1)
		case kind == sdk.DeviceOwned:
			batch.Rows = sdk.AppendStateHeader(batch.Rows, id, through, 1)
			batch.Rows = sdk.AppendValue(batch.Rows, w.text)
		case w.op == sdk.Delete:
			batch.Rows = sdk.AppendOpHeader(batch.Rows, id, through, w.op, 0)
		default:
			batch.Rows = sdk.AppendOpHeader(batch.Rows, id, through, w.op, 1)
			batch.Rows = sdk.AppendOpField(batch.Rows, 0, w.text, 0)
		}
		batch.Count++
		one := batch
		one.Count, one.Rows = 1, slices.Clone(batch.Rows[begin:])
		if err := s.put(key, &one, func(hlc.Stamp) {}); err != nil {
			panic(err)
		}
	}
	if len(writes) == 0 {
		through = draw()
	}
	page := protocol.Page{Stream: key, Through: through, Head: through}
	if batch.Count > 0 {
		page.Batches = []sdk.Batch{batch}
	}
	page.From, page.Epochs = s.extend(key, start.Of(kind), through)
	page.Heads = history.At(start.Of(kind), through)
	return page
}

// extend moves an own stream, as peerlog.Log.Extend does.
func (s *memoryStore) extend(key protocol.Stream, epoch protocol.EpochID, stamp hlc.Stamp) (from hlc.Stamp, opened []protocol.Epoch) {
	before, at := s.heads[key], history.At(epoch, stamp)
	if stamp <= before.Top() {
		s.onGap(fmt.Sprintf("the clock drew %s after %s", stamp, before.Top()))
	}
	from, extends := before.In(epoch)
	_, known := s.graph.Epoch(epoch)
	if !extends && known {
		from = s.graph.Low(before, at)
	}
	if !extends && !known {
		opened = []protocol.Epoch{{ID: epoch, Stream: key, Parents: before}}
		s.keepEpochs(opened)
		from = before.Top()
	}
	s.heads[key] = s.graph.Join(before, at)
	return from, opened
}

// put takes in a batch of a stream. seen is told of each stamp.
func (s *memoryStore) put(key protocol.Stream, batch *sdk.Batch, seen func(hlc.Stamp)) error {
	if key.Kind == sdk.DeviceOwned {
		for r, err := range batch.StateRows() {
			if err != nil {
				return err
			}
			seen(r.Stamp)
			s.putRow(row{id: r.ID, owner: key.Origin, stamp: r.Stamp, deleted: r.Deleted, raw: slices.Clone(r.Raw)})
		}
		return nil
	}
	for op, err := range batch.Ops() {
		if err != nil {
			return err
		}
		seen(op.Stamp)
		s.ensureRecord(op.ID).merge(recordOf(&op, key.Origin))
		list := s.log[key.Origin]
		at, found := slices.BinarySearchFunc(list, op.Stamp, func(e logEntry, stamp hlc.Stamp) int { return cmp.Compare(e.stamp, stamp) })
		if !found {
			s.log[key.Origin] = slices.Insert(list, at, logEntry{op.Stamp, slices.Clone(op.Raw)})
		}
	}
	return nil
}

// recordOf is a record of which only one operation is known.
func recordOf(op *sdk.Op, origin sdk.DeviceID) *record {
	at := clock{op.Stamp, origin}
	r := &record{}
	switch op.Kind {
	case sdk.Insert:
		r.inserted = at
	case sdk.Delete:
		r.deleted = at
	}
	for _, f := range op.Fields {
		r.written, r.text = at, slices.Clone(f.Value)
	}
	return r
}

func (s *memoryStore) ensureRecord(id sdk.RecordID) *record {
	if s.records[id] == nil {
		s.records[id] = &record{}
	}
	return s.records[id]
}

// putRow takes in a row if it is newer, and reports whether it was.
func (s *memoryStore) putRow(r row) bool {
	old := s.rows[r.id]
	if old != nil && (old.stamp > r.stamp || old.stamp == r.stamp && bytes.Compare(old.raw, r.raw) >= 0) {
		return false
	}
	s.dropRow(old)
	s.rows[r.id] = &r
	list := s.byStamp[r.owner]
	at, _ := slices.BinarySearchFunc(list, r.stamp, func(r *row, stamp hlc.Stamp) int { return cmp.Compare(r.stamp, stamp) })
	s.byStamp[r.owner] = slices.Insert(list, at, &r)
	return true
}

func (s *memoryStore) dropRow(r *row) {
	if r != nil && !r.gone {
		r.gone = true
		delete(s.rows, r.id)
	}
}

type memoryPage struct {
	store *memoryStore
	page  protocol.Page
}

func (s *memoryStore) Prepare(_ context.Context, page protocol.Page) (Prepared, error) {
	return memoryPage{s, page}, nil
}

func (p memoryPage) Commit(context.Context) error { return p.store.apply(p.page) }

func (s *memoryStore) apply(page protocol.Page) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		if err := s.fail(page); err != nil {
			return err
		}
	}
	if err := s.failed(); err != nil {
		return err
	}
	graph := s.graphWith(page.Epochs)
	heads := s.heads[page.Stream]
	if low := graph.Low(heads, page.Heads); page.From > low {
		s.onGap(fmt.Sprintf("a page of %v from %s to %v at %v, which has it up to %s", page.Stream, page.From, page.Heads, heads, low))
	}
	for i := range page.Batches {
		err := s.put(page.Stream, &page.Batches[i], func(stamp hlc.Stamp) {
			if stamp <= page.From || stamp > page.Through {
				s.onGap(fmt.Sprintf("stamp %s outside of (%s, %s]", stamp, page.From, page.Through))
			}
		})
		if err != nil {
			return err
		}
	}
	s.applied++
	s.keepEpochs(page.Epochs)
	s.heads[page.Stream] = graph.Join(heads, page.Heads)
	return nil
}

func (s *memoryStore) ReadPage(_ context.Context, key protocol.Stream, since hlc.Stamp, maxBytes int) (protocol.Page, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	page := protocol.Page{Stream: key, From: since, Through: since}
	if err := s.failed(); err != nil {
		return page, false, err
	}
	if floor := s.floors[key]; key.Kind == sdk.SharedByAll && since < floor { // as replica.Pages, whose tombstones only the machine watches over
		return page, false, sdk.Errorf(sdk.CodePruned, "what comes after %s has been pruned up to %s", since, floor)
	}
	batch := sdk.Batch{Model: modelOf(key.Kind), Version: 1, Columns: testColumns}
	more := false
	add := func(stamp hlc.Stamp, raw []byte) bool {
		if len(batch.Rows) > 0 && len(batch.Rows)+len(raw) > maxBytes {
			more = true
			return false
		}
		batch.Rows = append(batch.Rows, raw...)
		batch.Count++
		page.Through = stamp
		return true
	}
	if key.Kind == sdk.DeviceOwned {
		list := s.byStamp[key.Origin]
		at, _ := slices.BinarySearchFunc(list, since+1, func(r *row, stamp hlc.Stamp) int { return cmp.Compare(r.stamp, stamp) })
		for _, r := range list[at:] {
			if !r.gone && !add(r.stamp, r.raw) {
				break
			}
		}
	} else {
		list := s.log[key.Origin]
		at, _ := slices.BinarySearchFunc(list, since+1, func(e logEntry, stamp hlc.Stamp) int { return cmp.Compare(e.stamp, stamp) })
		for _, e := range list[at:] {
			if !add(e.stamp, e.raw) {
				break
			}
		}
	}
	if batch.Count > 0 {
		page.Batches = []sdk.Batch{batch}
	}
	return page, more, nil
}

// vector returns the watermarks in order.
func (s *memoryStore) vector() []protocol.Mark {
	s.mu.Lock()
	defer s.mu.Unlock()
	var marks []protocol.Mark
	for _, key := range slices.SortedFunc(maps.Keys(s.heads), protocol.Stream.Compare) {
		marks = appendMarks(marks, key, s.heads[key])
	}
	return marks
}

// top returns the greatest stamp that the store knows of: its clock goes on from there.
func (s *memoryStore) top() (top hlc.Stamp) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, heads := range s.heads {
		top = max(top, heads.Top())
	}
	for _, r := range s.rows {
		top = max(top, r.stamp)
	}
	for _, r := range s.records {
		top = max(top, r.top())
	}
	return top
}

// dump returns everything that exists as text lines: equal stores have equal dumps.
func (s *memoryStore) dump() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var lines []string
	for _, r := range s.rows {
		if !r.deleted {
			lines = append(lines, fmt.Sprintf("%s device %s %s %x", r.owner, r.stamp, r.id, r.raw))
		}
	}
	for id, r := range s.records {
		if r.exists() {
			lines = append(lines, fmt.Sprintf("shared %s inserted %s/%s written %s/%s %x", id, r.inserted.stamp, r.inserted.device, r.written.stamp, r.written.device, r.text))
		}
	}
	slices.Sort(lines)
	return lines
}
