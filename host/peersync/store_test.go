package peersync

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/sdk"
)

// memoryStore is a device's database in memory: rows of device-owned streams, of which only the newest of an id stays,
// and the log of shared streams. It is the Applier and the Reader of the tests and refuses what a real one would.
type memoryStore struct {
	mu      sync.Mutex
	self    sdk.DeviceID
	marks   map[protocol.Stream]protocol.Position
	changes map[protocol.Stream][]*change // ascending by stamp
	newest  map[rowKey]*change            // of device-owned rows
	applied int                           // pages
	fail    func(protocol.Page) error     // asked before each commit
	onGap   func(string)
}

type change struct {
	stamp hlc.Stamp
	id    sdk.RecordID
	raw   []byte
	gone  bool // a newer change of the same row has taken its place
}

// rowKey names a row: the tests use the same ids on every device.
type rowKey struct {
	owner sdk.DeviceID
	id    sdk.RecordID
}

func newMemoryStore(self sdk.DeviceID) *memoryStore {
	return &memoryStore{
		self: self, marks: map[protocol.Stream]protocol.Position{}, changes: map[protocol.Stream][]*change{}, newest: map[rowKey]*change{},
		onGap: func(text string) { panic(text) },
	}
}

const testModel = "note"

var testColumns = []string{"text"}

// commit writes n changes to ids starting at first and returns the page that announces them.
func (s *memoryStore) commit(kind sdk.Ownership, epoch protocol.EpochID, clock func() hlc.Stamp, first, n int, text string) protocol.Page {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := protocol.Stream{Origin: s.self, Kind: kind}
	page := protocol.Page{Stream: key, Epoch: epoch, From: s.marks[key].Stamp}
	batch := sdk.Batch{Model: testModel, Version: 1, Columns: testColumns}
	for i := range n {
		id := sdk.RecordID{15: byte(first + i), 14: byte((first + i) >> 8), 13: byte((first + i) >> 16)}
		stamp := clock()
		start := len(batch.Rows)
		if kind == sdk.DeviceOwned {
			batch.Rows = sdk.AppendStateHeader(batch.Rows, id, stamp, 1)
			batch.Rows = sdk.AppendValue(batch.Rows, text)
		} else {
			batch.Rows = sdk.AppendOpHeader(batch.Rows, id, stamp, sdk.Insert, 1)
			batch.Rows = sdk.AppendOpField(batch.Rows, 0, text, 0)
		}
		batch.Count++
		s.put(key, change{stamp: stamp, id: id, raw: slices.Clone(batch.Rows[start:])})
		page.Through = stamp
	}
	page.Batches = []sdk.Batch{batch}
	s.marks[key] = protocol.Position{Epoch: epoch, Stamp: page.Through}
	return page
}

func (s *memoryStore) put(key protocol.Stream, c change) {
	list := s.changes[key]
	if n := len(list); n > 0 && list[n-1].stamp >= c.stamp {
		if _, found := slices.BinarySearchFunc(list, c.stamp, byStamp); found {
			return
		}
		s.onGap(fmt.Sprintf("change %s of %v comes after %s", c.stamp, key, list[n-1].stamp))
	}
	if key.Kind == sdk.DeviceOwned {
		row := rowKey{key.Origin, c.id}
		if old := s.newest[row]; old != nil {
			old.gone = true
		}
		s.newest[row] = &c
	}
	s.changes[key] = append(list, &c)
}

func byStamp(c *change, stamp hlc.Stamp) int { return cmp.Compare(c.stamp, stamp) }

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
	mark := s.marks[page.Stream]
	if page.From > mark.Stamp {
		s.onGap(fmt.Sprintf("a page of %v from %s at watermark %s", page.Stream, page.From, mark.Stamp))
	}
	add := func(id sdk.RecordID, stamp hlc.Stamp, raw []byte) {
		if stamp <= page.From || stamp > page.Through {
			s.onGap(fmt.Sprintf("stamp %s outside of (%s, %s]", stamp, page.From, page.Through))
		}
		if stamp > mark.Stamp {
			s.put(page.Stream, change{stamp: stamp, id: id, raw: slices.Clone(raw)})
		}
	}
	for i := range page.Batches {
		if page.Kind == sdk.DeviceOwned {
			for row, err := range page.Batches[i].StateRows() {
				if err != nil {
					return err
				}
				add(row.ID, row.Stamp, row.Raw)
			}
			continue
		}
		for op, err := range page.Batches[i].Ops() {
			if err != nil {
				return err
			}
			add(op.ID, op.Stamp, op.Raw)
		}
	}
	s.applied++
	if page.Through > mark.Stamp {
		s.marks[page.Stream] = protocol.Position{Epoch: page.Epoch, Stamp: page.Through}
	}
	return nil
}

func (s *memoryStore) ReadPage(_ context.Context, key protocol.Stream, since hlc.Stamp, maxBytes int) (protocol.Page, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	page := protocol.Page{Stream: key, From: since, Through: since}
	batch := sdk.Batch{Model: testModel, Version: 1, Columns: testColumns}
	list := s.changes[key]
	at, _ := slices.BinarySearchFunc(list, since+1, byStamp)
	more := false
	for _, c := range list[at:] {
		if c.gone {
			continue
		}
		if len(batch.Rows) > 0 && len(batch.Rows)+len(c.raw) > maxBytes {
			more = true
			break
		}
		batch.Rows = append(batch.Rows, c.raw...)
		batch.Count++
		page.Through = c.stamp
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
	for key, p := range s.marks {
		marks = append(marks, protocol.Mark{Stream: key, Position: p})
	}
	slices.SortFunc(marks, func(a, b protocol.Mark) int { return a.Compare(b.Stream) })
	return marks
}

// dump returns everything as text lines: equal stores have equal dumps.
func (s *memoryStore) dump() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var lines []string
	for key, list := range s.changes {
		for _, c := range list {
			if c.gone {
				continue
			}
			lines = append(lines, fmt.Sprintf("%s %s %s %s %x", key.Origin, key.Kind, c.stamp, c.id, c.raw))
		}
	}
	slices.Sort(lines)
	return lines
}
