package sdk

import (
	"reflect"
	"slices"
)

// Packer builds batches from records of type T; Model.Packer makes one. It serves one goroutine.
// Stamps are left zero: the host draws them.
type Packer[T any] struct {
	schema  *schema
	kind    Ownership // DeviceOwned: rows; SharedByAll: operations
	columns []string
	keys    []int // indexes of the natural key's fields
	rows    []byte
	count   int
}

func newPacker[T any](s *schema, kind Ownership) *Packer[T] {
	p := &Packer[T]{schema: s, kind: kind, columns: make([]string, len(s.fields))}
	for i := range s.fields {
		p.columns[i] = s.fields[i].Name
		if s.fields[i].Key {
			p.keys = append(p.keys, i)
		}
	}
	return p
}

// Put adds the whole record (of sets and counters, that they are to become what it has): a row of a device-owned model, an insert of every field of a shared one. A record without
// an id is given one in place: that of its natural key, or a new one.
func (p *Packer[T]) Put(record *T) {
	v := reflect.ValueOf(record).Elem()
	id := p.identify(v)
	if p.kind == DeviceOwned {
		p.rows = AppendStateHeader(p.rows, id, 0, len(p.schema.fields))
		for i := range p.schema.fields {
			p.rows = p.schema.fields[i].appendValue(p.rows, v)
		}
	} else {
		p.rows = AppendOpHeader(p.rows, id, 0, Insert, len(p.schema.fields))
		for i := range p.schema.fields {
			p.appendOpField(i, v)
		}
	}
	p.count++
}

// Update adds an update of the named fields of a shared record. It returns an error, and adds nothing, for a name that T
// lacks, and for a device-owned model, whose records are put whole.
func (p *Packer[T]) Update(record *T, names ...string) error {
	if p.kind == DeviceOwned {
		return Errorf(CodeUnsupported, "%s is device-owned: put the whole record", p.schema.desc.Model)
	}
	for _, name := range names {
		if p.schema.field(name) == nil {
			return unknownField(&p.schema.desc, name)
		}
	}
	v := reflect.ValueOf(record).Elem()
	p.rows = AppendOpHeader(p.rows, p.schema.recordID(v), 0, Update, len(names))
	for _, name := range names {
		p.appendOpField(slices.Index(p.columns, name), v)
	}
	p.count++
	return nil
}

// Delete adds a delete of the record id.
func (p *Packer[T]) Delete(id RecordID) {
	if p.kind == DeviceOwned {
		p.rows = AppendStateHeader(p.rows, id, 0, -1)
	} else {
		p.rows = AppendOpHeader(p.rows, id, 0, Delete, 0)
	}
	p.count++
}

// Len returns how many changes were added since the last Batch, and Size how many bytes they take.
func (p *Packer[T]) Len() int { return p.count }

// Size returns how many packed bytes were added since the last Batch.
func (p *Packer[T]) Size() int { return len(p.rows) }

// Batch returns what was added and begins anew. The batch belongs to the caller.
func (p *Packer[T]) Batch() Batch {
	b := Batch{
		Model:   p.schema.desc.Model,
		Version: p.schema.desc.Version,
		Columns: slices.Clone(p.columns),
		Count:   p.count,
		Rows:    p.rows,
	}
	p.count, p.rows = 0, make([]byte, 0, len(p.rows))
	return b
}

// identify returns the id of record, and gives it one first if it has none.
func (p *Packer[T]) identify(record reflect.Value) RecordID {
	id := p.schema.recordID(record)
	if !id.IsZero() {
		return id
	}
	id = NewRecordID()
	if len(p.keys) > 0 {
		var packed []byte
		for _, i := range p.keys {
			packed = p.schema.fields[i].appendValue(packed, record)
		}
		id = packedKeyID(p.schema.desc.Model, packed)
	}
	p.schema.setBase(record, Owned{ID: id})
	return id
}

func (p *Packer[T]) appendOpField(i int, record reflect.Value) {
	p.rows = appendColumn(p.rows, i)
	p.rows = p.schema.fields[i].appendValue(p.rows, record)
	p.rows = appendSeen(p.rows, 0)
}
