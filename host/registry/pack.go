package registry

import (
	"strings"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/sdk"
)

// packer packs stored device-owned rows into batches, one for each model and set of columns.
type packer struct {
	batches []sdk.Batch
	at      map[packKey]int
	last    packKey
	lastAt  int
	size    int // bytes of rows so far
	count   int // of rows so far
	before  int // bytes of rows in the batch at lastAt, before the last row
}

type packKey struct {
	m      *model
	extras string             // columns, separated by commas
	set    database.ColumnSet // of rows that came packed; then m is nil
}

func (key *packKey) emptyBatch() sdk.Batch {
	if key.m == nil {
		return sdk.Batch{Model: key.set.Model, Version: key.set.Version, Columns: key.set.Names()}
	}
	columns := key.m.wire
	if key.extras != "" {
		columns = append(append([]string{}, columns...), strings.Split(key.extras, ",")...)
	}
	return sdk.Batch{Model: key.m.desc.Model, Version: key.m.desc.Version, Columns: columns}
}

func (p *packer) batch(key packKey) *sdk.Batch {
	if len(p.batches) > 0 && p.last == key {
		return &p.batches[p.lastAt]
	}
	if p.at == nil {
		p.at = make(map[packKey]int)
	}
	at, ok := p.at[key]
	if !ok {
		at = len(p.batches)
		p.at[key] = at
		p.batches = append(p.batches, key.emptyBatch())
	}
	p.last, p.lastAt = key, at
	return &p.batches[at]
}

// row adds a row; values are its fields in their stored form, raw its extras.
func (p *packer) row(m *model, id sdk.RecordID, stamp hlc.Stamp, values []any, raw []byte) error {
	extras, err := unpackExtras(raw)
	if err != nil {
		return damaged(m, id, err)
	}
	b := p.batch(rowKey(m, extras))
	p.before = len(b.Rows)
	b.Rows = appendRow(b.Rows, m, id, stamp, values, extras)
	p.added(b)
	return nil
}

// packRow is packer.row for one row alone: it appends the row to dst, and says which batch it belongs to.
func packRow(dst []byte, m *model, id sdk.RecordID, stamp hlc.Stamp, values []any, raw []byte) (packKey, []byte, error) {
	extras, err := unpackExtras(raw)
	if err != nil {
		return packKey{}, dst, damaged(m, id, err)
	}
	return rowKey(m, extras), appendRow(dst, m, id, stamp, values, extras), nil
}

// rowKey returns the key of the batch that holds rows with these extras.
func rowKey(m *model, extras []extra) packKey {
	key := packKey{m: m}
	if len(extras) > 0 {
		names := make([]string, len(extras))
		for i := range extras {
			names[i] = extras[i].name
		}
		key.extras = strings.Join(names, ",")
	}
	return key
}

func appendRow(dst []byte, m *model, id sdk.RecordID, stamp hlc.Stamp, values []any, extras []extra) []byte {
	dst = sdk.AppendStateHeader(dst, id, stamp, len(values)+len(extras))
	for i, arg := range values {
		dst = appendArg(dst, m.types[i], arg)
	}
	for i := range extras {
		dst = append(dst, extras[i].value...)
	}
	return dst
}

// remove adds a delete.
func (p *packer) remove(m *model, id sdk.RecordID, stamp hlc.Stamp) {
	b := p.batch(packKey{m: m})
	p.before = len(b.Rows)
	b.Rows = sdk.AppendStateHeader(b.Rows, id, stamp, -1)
	p.added(b)
}

// packed adds a row that is packed already.
func (p *packer) packed(set database.ColumnSet, raw []byte) {
	key := packKey{set: set}
	b := p.batch(key)
	p.before = len(b.Rows)
	b.Rows = append(b.Rows, raw...)
	p.added(b)
}

func (p *packer) added(b *sdk.Batch) {
	b.Count++
	p.count++
	p.size += len(b.Rows) - p.before
}

// undo takes the last row back. It can be called once after a row.
func (p *packer) undo() {
	b := &p.batches[p.lastAt]
	p.size -= len(b.Rows) - p.before
	p.count--
	b.Rows = b.Rows[:p.before]
	if b.Count--; b.Count == 0 { // then it is the newest
		p.batches = p.batches[:p.lastAt]
	}
}
