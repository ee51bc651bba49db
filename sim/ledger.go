package main

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/sdk"
)

// key names a record.
type key struct {
	model sdk.ModelName
	id    sdk.RecordID
}

func (k key) String() string { return fmt.Sprintf("%s %x", k.model, k.id[:]) }

// place is where the record stands in the order of all records.
func (k key) place() protocol.Place { return protocol.Place{Model: k.model, ID: k.id} }

// change is one acknowledged write of one record. Values are packed.
type change struct {
	key
	stream protocol.Stream
	epoch  protocol.EpochID // of the stream, in which it was written
	stamp  hlc.Stamp
	kind   sdk.OpKind           // of a device-owned record: Insert for a row, Delete for a delete
	fields map[string]string    // by column
	seen   map[string]hlc.Stamp // of shared fields: what the writer replaced
	does   map[string]effect    // to sets and counters
	first  *change              // of which this is a repetition, with a new stamp; nil: it is none

	// forgiven says that the change may be gone for good: who alone had it was restored from an older copy, or belongs to
	// the library no more.
	forgiven bool
}

func (c *change) version() sdk.Version { return sdk.Version{Stamp: c.stamp, Device: c.stream.Origin} }

// ledger holds every write that a device has acknowledged, in the world's own account: it merges them in a deliberately
// dumb way, so that what devices hold can be compared with what they should.
type ledger struct {
	records map[key][]*change             // ascending by version: of a device-owned record the last one is the latest
	streams map[protocol.Stream][]*change // ascending by stamp, those of all branches
	drawn   map[sdk.Version]bool          // the versions of all changes
	keys    []key                         // of records, in the order of their first change
	count   int
	dropped []*change // that nobody has any more, and a copy may
}

func newLedger() *ledger {
	return &ledger{records: map[key][]*change{}, streams: map[protocol.Stream][]*change{}, drawn: map[sdk.Version]bool{}}
}

func (l *ledger) add(c *change) {
	if l.records[c.key] == nil {
		l.keys = append(l.keys, c.key)
	}
	l.records[c.key] = insertSorted(l.records[c.key], c)
	l.streams[c.stream] = insertSorted(l.streams[c.stream], c)
	l.drawn[c.version()] = true
	l.count++
}

// drop takes a change out that nobody has any more. Its version stays drawn.
func (l *ledger) drop(c *change) {
	not := func(other *change) bool { return other == c }
	l.streams[c.stream] = slices.DeleteFunc(l.streams[c.stream], not)
	l.records[c.key] = slices.DeleteFunc(l.records[c.key], not)
	if len(l.records[c.key]) == 0 {
		delete(l.records, c.key)
		l.keys = slices.DeleteFunc(l.keys, func(k key) bool { return k == c.key })
	}
	l.dropped = append(l.dropped, c)
}

func insertSorted(list []*change, c *change) []*change {
	at, _ := slices.BinarySearchFunc(list, c, func(a, b *change) int { return a.version().Compare(b.version()) })
	return slices.Insert(list, at, c)
}

// between returns the changes of a stream in (from, through], those of all branches.
func (l *ledger) between(st protocol.Stream, from, through hlc.Stamp) []*change {
	list := l.streams[st]
	byStamp := func(c *change, stamp hlc.Stamp) int { return cmp.Compare(c.stamp, stamp) }
	a, _ := slices.BinarySearchFunc(list, from+1, byStamp)
	b, _ := slices.BinarySearchFunc(list, through+1, byStamp)
	return list[a:max(a, b)]
}

// latest reports whether no change of c's record is later.
func (l *ledger) latest(c *change) bool {
	list := l.records[c.key]
	return list[len(list)-1] == c
}

// changesOf reads a page's batches.
func changesOf(stream protocol.Stream, batches []sdk.Batch) (list []*change, err error) {
	for i := range batches {
		b := &batches[i]
		if stream.Kind == sdk.DeviceOwned {
			for row, err := range b.StateRows() {
				if err != nil {
					return nil, err
				}
				c := &change{key: key{b.Model, row.ID}, stream: stream, stamp: row.Stamp, kind: sdk.Insert}
				if row.Deleted {
					c.kind = sdk.Delete
				} else if c.fields, err = unpack(b, row.Values); err != nil {
					return nil, err
				}
				list = append(list, c)
			}
			continue
		}
		for op, err := range b.Ops() {
			if err != nil {
				return nil, err
			}
			c := &change{key: key{b.Model, op.ID}, stream: stream, stamp: op.Stamp, kind: op.Kind, fields: map[string]string{}, seen: map[string]hlc.Stamp{}}
			for _, f := range op.Fields {
				column, _ := sdk.ParseColumn(b.Columns[f.Column])
				c.fields[column], c.seen[column] = string(f.Value), f.Seen
			}
			list = append(list, c)
		}
	}
	slices.SortStableFunc(list, func(a, b *change) int { return cmp.Compare(a.stamp, b.stamp) })
	return list, nil
}

func unpack(b *sdk.Batch, values []byte) (map[string]string, error) {
	fields := make(map[string]string, len(b.Columns))
	for _, column := range b.Columns {
		_, rest, err := sdk.DecodeValue(values, typeOf(b.Model, column))
		if err != nil {
			return nil, err
		}
		fields[column] = string(values[:len(values)-len(rest)])
		values = rest
	}
	return fields, nil
}

func typeOf(model sdk.ModelName, column string) sdk.Type {
	switch column {
	case "size", "high", "low", "device", "retired":
		return sdk.Int
	case "parent", "cover", "target", "folder":
		return sdk.UUID
	case "topic":
		return sdk.UUID
	}
	return sdk.Text
}

// field is a value and the write that gave it.
type field struct {
	value   string
	version sdk.Version
}

// expected is what a record should be after a set of changes.
type expected struct {
	exists   bool
	inserted sdk.Version
	fields   map[string]field // of a device-owned record the versions are all alike
	// loose lists, for a device-owned record of which the device has not got the latest change yet, which stamps its row
	// may have: changes that were overwritten need not travel. Nil: exactly inserted.
	loose []*change
}

// shared merges the changes of a shared record that covers has, by the rules alone.
func (l *ledger) shared(k key, covers func(*change) bool) (e expected) {
	e.fields = map[string]field{}
	var deleted sdk.Version
	for _, c := range l.records[k] {
		if !covers(c) {
			continue
		}
		v := c.version()
		switch c.kind {
		case sdk.Insert:
			if v.Compare(e.inserted) > 0 {
				e.inserted = v
			}
		case sdk.Delete:
			if v.Compare(deleted) > 0 {
				deleted = v
			}
		}
		for column, value := range c.fields {
			if inParts(k.model, column) {
				continue
			}
			next := field{value, v}
			if old, ok := e.fields[column]; !ok || beats(mergeOf(k.model, column), next, old) {
				e.fields[column] = next
			}
		}
	}
	for _, column := range columnsOf(k.model) {
		if value, ok := l.inParts(k, column, covers); ok {
			e.fields[column] = value
		}
	}
	e.exists = e.inserted.Compare(deleted) > 0
	return e
}

// beats reports whether write a of a field stands against b.
func beats(merge sdk.Merge, a, b field) bool {
	if merge == sdk.Max || merge == sdk.Min {
		x, y := intOf(a.value), intOf(b.value)
		switch {
		case x == nil && y == nil:
		case x == nil || y == nil:
			return y == nil
		case *x != *y:
			return (*x > *y) == (merge == sdk.Max)
		}
	}
	return a.version.Compare(b.version) > 0
}

func intOf(packed string) *int64 {
	v, _, err := sdk.DecodeValue([]byte(packed), sdk.Int)
	if n, ok := v.(int64); ok && err == nil {
		return &n
	}
	return nil
}

// owned returns what a device that has what covers says should hold of a device-owned record.
func (l *ledger) owned(k key, covers func(*change) bool) (e expected) {
	list := l.records[k]
	latest := list[len(list)-1]
	if covers(latest) {
		e.exists, e.inserted, e.fields = latest.kind != sdk.Delete, latest.version(), map[string]field{}
		for column, value := range latest.fields {
			e.fields[column] = field{value, e.inserted}
		}
		return e
	}
	e.loose = []*change{}
	for _, c := range list {
		if covers(c) {
			e.loose = append(e.loose, c)
		}
	}
	return e
}
