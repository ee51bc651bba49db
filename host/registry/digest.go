package registry

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"slices"

	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/sdk"
)

// ModelDigest says what a device holds of one model. Devices that hold the same have equal ones.
type ModelDigest struct {
	Model  sdk.ModelName
	Rows   int64 // records that exist, visible or not
	Digest [sha256.Size]byte
}

// Digest returns the digests of all models, by name, over one snapshot: SHA-256 over every record that exists, visible or
// not, in the order of ids, each as a packed array. A device-owned record is [id, owner, stamp, then name and value of each
// field that is not nil, by name]; a shared one is [id, stamp and device of its insert, then name, stamp, device and value
// of each field that was written, by name]. It reads all records, a page at a time.
func (r *Registry) Digest(ctx context.Context) (list []ModelDigest, err error) {
	catalog := r.catalog.Load()
	err = r.db.Read(ctx, func(tx *database.Tx) error {
		for _, s := range catalog.order {
			d := digester{tx: tx, s: s, sum: sha256.New(), names: s.sortedNames()}
			if err := d.run(ctx); err != nil {
				return fmt.Errorf("digest %s: %w", s.desc.Model, err)
			}
			digest := ModelDigest{Model: s.desc.Model, Rows: d.rows}
			d.sum.Sum(digest.Digest[:0])
			list = append(list, digest)
		}
		return nil
	})
	slices.SortFunc(list, func(a, b ModelDigest) int { return compareNames(a.Model, b.Model) })
	return list, err
}

func compareNames(a, b sdk.ModelName) int {
	if a < b {
		return -1
	}
	if a > b {
		return 1
	}
	return 0
}

// digester sums the records of one model.
type digester struct {
	tx    *database.Tx
	s     *served
	sum   hash.Hash
	names []int // indexes of the fields, by name
	rows  int64
	buf   []byte
}

func (m *model) sortedNames() []int {
	order := make([]int, len(m.names))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int {
		if m.names[a] < m.names[b] {
			return -1
		}
		return 1
	})
	return order
}

// run merges the table and the shadow, both in the order of ids.
func (d *digester) run(ctx context.Context) error {
	visible := pager{each: func(after sdk.RecordID, fn func(*record) error) error {
		return d.eachVisible(after, fn)
	}}
	waiting := pager{each: func(after sdk.RecordID, fn func(*record) error) error {
		return d.s.eachShadowed(d.tx, after, listRows, fn)
	}}
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		a, err := visible.peek()
		if err != nil {
			return err
		}
		b, err := waiting.peek()
		if err != nil {
			return err
		}
		switch {
		case a == nil && b == nil:
			return nil
		case b == nil || (a != nil && a.id.Compare(b.id) < 0):
			visible.pop()
			err = d.add(a)
		default:
			waiting.pop()
			err = d.add(b)
		}
		if err != nil {
			return err
		}
	}
}

// pager reads records a page at a time.
type pager struct {
	each func(after sdk.RecordID, fn func(*record) error) error
	page []*record
	at   int
	last sdk.RecordID
	done bool
}

func (p *pager) peek() (*record, error) {
	if p.at < len(p.page) {
		return p.page[p.at], nil
	}
	if p.done {
		return nil, nil
	}
	p.page, p.at = p.page[:0], 0
	err := p.each(p.last, func(rec *record) error {
		p.page = append(p.page, rec)
		return nil
	})
	if err != nil || len(p.page) == 0 {
		p.done = true
		return nil, err
	}
	p.last = p.page[len(p.page)-1].id
	return p.page[0], nil
}

func (p *pager) pop() { p.at++ }

func (d *digester) eachVisible(after sdk.RecordID, fn func(*record) error) error {
	rows, err := d.tx.Query(d.s.sel+" WHERE id > ? ORDER BY id LIMIT ?", after[:], listRows)
	if err != nil {
		return err
	}
	defer rows.Close() //nolint:errcheck // Err is checked
	for rows.Next() {
		rec, err := d.s.scanRow(d.tx, rows)
		if err != nil {
			return err
		}
		if err := fn(rec); err != nil {
			return err
		}
	}
	return rows.Err()
}

func (d *digester) add(rec *record) error {
	d.rows++
	d.buf = sdk.AppendValue(d.buf[:0], rec.id)
	var err error
	if rec.m.shared {
		d.addShared(rec)
	} else {
		err = d.addOwned(rec)
	}
	size := binary.BigEndian.AppendUint32(nil, uint32(len(d.buf))) //nolint:gosec // a record is bounded
	d.sum.Write(size)
	d.sum.Write(d.buf)
	return err
}

func (d *digester) version(v sdk.Version) {
	d.buf = binary.BigEndian.AppendUint64(d.buf, uint64(v.Stamp))
	d.buf = append(d.buf, v.Device[:]...)
}

func (d *digester) addShared(rec *record) {
	d.version(rec.state.Inserted)
	for i := range rec.state.Fields {
		f := &rec.state.Fields[i]
		d.buf = sdk.AppendValue(d.buf, f.Name)
		d.version(f.Version)
		d.buf = sdk.AppendValue(d.buf, f.Value)
	}
}

func (d *digester) addOwned(rec *record) error {
	d.version(sdk.Version{Stamp: rec.stamp, Device: rec.origin})
	raw, _ := rec.args[rec.m.width-1].([]byte)
	extras, err := unpackExtras(raw)
	if err != nil {
		return damaged(rec.m, rec.id, err)
	}
	field := func(i int) {
		if arg := rec.values()[i]; arg != nil {
			d.buf = sdk.AppendValue(d.buf, rec.m.names[i])
			d.buf = appendArg(d.buf, rec.m.types[i], arg)
		}
	}
	at := 0
	for _, x := range extras {
		for ; at < len(d.names) && rec.m.names[d.names[at]] < x.name; at++ {
			field(d.names[at])
		}
		value, _, err := readUntyped(x.value)
		if err != nil {
			return damaged(rec.m, rec.id, err)
		}
		d.buf = sdk.AppendValue(d.buf, x.name)
		d.buf = sdk.AppendValue(d.buf, value)
	}
	for ; at < len(d.names); at++ {
		field(d.names[at])
	}
	return nil
}
