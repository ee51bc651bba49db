package registry

import (
	"cmp"
	"slices"
	"strings"

	"github.com/tinylib/msgp/msgp"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/sdk"
)

// rangePacker gathers the changes of a Range: those of the record at hand apart, until keep adds them.
type rangePacker struct {
	bytes   int // bounds size
	size    int
	records int
	batches map[rangeKey]*rangeBatch
	ids     []IDs

	pieces []piece // of the record at hand
	named  bool    // it is to be named among the unchanged
}

// rangeKey names a batch of one origin.
type rangeKey struct {
	origin sdk.DeviceID
	packKey
}

// rangeBatch is a batch under way.
type rangeBatch struct {
	rangeKey
	pieces []piece
	size   int
}

// piece is one packed change.
type piece struct {
	key   rangeKey
	stamp hlc.Stamp
	raw   []byte
}

// add adds a packed change of the record at hand.
func (p *rangePacker) add(origin sdk.DeviceID, key packKey, stamp hlc.Stamp, raw []byte) {
	p.pieces = append(p.pieces, piece{rangeKey{origin, key}, stamp, raw})
}

// unchanged names the record at hand.
func (p *rangePacker) unchanged() { p.named = true }

// keep adds the record at hand; false, and nothing of it, if that is too much and there are others.
func (p *rangePacker) keep(model sdk.ModelName, id sdk.RecordID) bool {
	size, fresh := 0, 0
	for i := range p.pieces {
		one := &p.pieces[i]
		size += len(one.raw)
		if p.batches[one.key] == nil {
			fresh++
			size += one.key.overhead()
		}
	}
	if p.named {
		size += len(id)
	}
	if p.records > 0 && (p.size+size > p.bytes || len(p.batches)+fresh > rangeBatches || p.records >= rangeRecords) {
		return false
	}
	if p.batches == nil {
		p.batches = make(map[rangeKey]*rangeBatch)
	}
	for _, one := range p.pieces {
		b := p.batches[one.key]
		if b == nil {
			b = &rangeBatch{rangeKey: one.key}
			p.batches[one.key] = b
		}
		b.pieces = append(b.pieces, one)
		b.size += len(one.raw)
	}
	if p.named {
		if n := len(p.ids); n == 0 || p.ids[n-1].Model != model {
			p.ids = append(p.ids, IDs{Model: model})
		}
		list := &p.ids[len(p.ids)-1]
		list.IDs = append(list.IDs, id)
	}
	p.size += size
	p.records++
	p.pieces, p.named = p.pieces[:0], false
	return true
}

// overhead is about how many bytes a batch takes without rows.
func (key *rangeKey) overhead() int {
	size := 48 + len(key.extras) + len(key.set.Columns)
	if key.m != nil {
		for _, name := range key.m.names {
			size += 2 + len(name)
		}
	}
	return size
}

// finish returns what was kept: by origin, each batch in the order of stamps.
func (p *rangePacker) finish() ([]Changes, []IDs) {
	list := make([]*rangeBatch, 0, len(p.batches))
	for _, b := range p.batches {
		list = append(list, b)
	}
	slices.SortFunc(list, func(a, b *rangeBatch) int { return a.compare(b) })
	var all []Changes
	for _, b := range list {
		slices.SortStableFunc(b.pieces, func(x, y piece) int { return cmp.Compare(x.stamp, y.stamp) })
		batch := b.emptyBatch()
		batch.Count, batch.Rows = len(b.pieces), make([]byte, 0, b.size)
		for i := range b.pieces {
			batch.Rows = append(batch.Rows, b.pieces[i].raw...)
		}
		if n := len(all); n == 0 || all[n-1].Origin != b.origin {
			all = append(all, Changes{Origin: b.origin})
		}
		one := &all[len(all)-1]
		one.Batches = append(one.Batches, batch)
	}
	return all, p.ids
}

// compare puts batches into an order that is the same each time.
func (b *rangeBatch) compare(other *rangeBatch) int {
	return cmp.Or(b.origin.Compare(other.origin), compareNames(b.model(), other.model()), cmp.Compare(b.set.Version, other.set.Version),
		strings.Compare(b.set.Columns, other.set.Columns), strings.Compare(b.extras, other.extras))
}

func (key *packKey) model() sdk.ModelName {
	if key.m != nil {
		return key.m.desc.Model
	}
	return key.set.Model
}

// operation is one of those that make a shared record.
type operation struct {
	version sdk.Version
	kind    sdk.OpKind
	fields  []operationField
}

// operationField is one of the record's fields, as an operation writes it.
type operationField struct {
	at    int
	value sdk.Packed // of a set or counter: its part in it; nil: the record's value
}

// operationsOf returns operations that make state: merged in any order, they give its values and clocks.
//
// An operation on a natural key names all of its fields. So the insert does, also those that another operation has
// written since, and that one names them all too; their values are the same in both.
//
// A set or counter is made by the writes whose parts stand, each at its own version, and by the last write. What is removed
// is removed by an operation of the version that added it: so no operation is larger than one that was written, and what a
// device must have seen to know a part is seen from its version.
func (m *model) operationsOf(state *sdk.Record) []operation {
	var list []operation
	at := func(version sdk.Version, kind sdk.OpKind) *operation {
		for i := range list {
			if list[i].version == version && list[i].kind != sdk.Delete {
				return &list[i]
			}
		}
		list = append(list, operation{version: version, kind: kind})
		return &list[len(list)-1]
	}
	if !state.Inserted.IsZero() {
		at(state.Inserted, sdk.Insert)
	}
	var keys []int
	for i := range state.Fields {
		f := &state.Fields[i]
		if merge := m.inParts(f); merge != "" {
			writes, err := f.Writes(merge)
			if err != nil {
				continue // it was checked when it was stored
			}
			for _, made := range writes {
				op := at(made.Version, sdk.Update)
				op.fields = append(op.fields, operationField{i, made.Value})
			}
			continue
		}
		op := at(f.Version, sdk.Update)
		op.fields = append(op.fields, operationField{at: i})
		if known, ok := m.index[state.Fields[i].Name]; ok && m.desc.Fields[known].Key {
			keys = append(keys, i)
		}
	}
	if len(keys) > 0 {
		for i := range list {
			list[i].nameKey(keys)
		}
	}
	if !state.Deleted.IsZero() {
		list = append(list, operation{version: state.Deleted, kind: sdk.Delete})
	}
	return list
}

// nameKey has op name all the fields of a natural key, if it must name any.
func (op *operation) nameKey(keys []int) {
	isKey := func(f operationField) bool { return slices.Contains(keys, f.at) }
	if op.kind != sdk.Insert && !slices.ContainsFunc(op.fields, isKey) {
		return
	}
	for _, key := range keys {
		if !slices.Contains(fieldsOf(op.fields), key) {
			op.fields = append(op.fields, operationField{at: key})
		}
	}
	slices.SortFunc(op.fields, func(a, b operationField) int { return a.at - b.at })
}

func fieldsOf(fields []operationField) (at []int) {
	for _, f := range fields {
		at = append(at, f.at)
	}
	return at
}

// maxColumns is how many columns a model takes in one batch.
const maxColumns = 250

// operations adds the operations that make a shared record.
func (p *rangePacker) operations(m *model, state *sdk.Record) {
	for _, op := range m.operationsOf(state) {
		key, column := m.opKey(state, &op)
		raw := sdk.AppendOpHeader(nil, state.ID, op.version.Stamp, op.kind, len(op.fields))
		for i := range op.fields {
			f, value := &state.Fields[op.fields[i].at], op.fields[i].value
			seen := f.Seen
			if f.Version != op.version {
				seen = 0 // it is not this one that saw it
			}
			if value != nil {
				raw = sdk.AppendOpField(raw, column(i), value, 0)
			} else {
				raw = sdk.AppendOpField(raw, column(i), f.Value, seen)
			}
		}
		p.add(op.version.Device, key, op.version.Stamp, raw)
	}
}

// opKey returns the key of a batch that takes op, and the columns of its fields there.
func (m *model) opKey(state *sdk.Record, op *operation) (packKey, func(int) int) {
	var extras []string
	columns, at := make([]string, len(op.fields)), make([]int, len(op.fields))
	for i := range op.fields {
		f := &state.Fields[op.fields[i].at]
		columns[i] = m.column(f)
		known, ok := m.index[f.Name]
		if !ok {
			known = len(m.names) + len(extras)
			extras = append(extras, columns[i])
		}
		at[i] = known
	}
	if len(m.names)+len(extras) <= maxColumns {
		return packKey{m: m, extras: strings.Join(extras, ",")}, func(i int) int { return at[i] }
	}
	set := database.ColumnSet{Model: m.desc.Model, Version: m.desc.Version, Columns: strings.Join(columns, ",")}
	return packKey{set: set}, func(i int) int { return i }
}

// isDelete reports whether a packed device-owned row is a delete.
func isDelete(raw []byte) bool {
	n, _, err := msgp.ReadArrayHeaderBytes(raw)
	return err == nil && n == 2
}
