package registry

import (
	"context"
	"crypto/sha256"
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
// of each field that was written, by name, and after a set's or counter's value its state]; a hybrid model has
// that of the digests of its shared and its owned records. It reads all records, a page at a time.
func (r *Registry) Digest(ctx context.Context) (list []ModelDigest, err error) {
	catalog := r.catalog.Load()
	err = r.db.Read(ctx, func(tx *database.Tx) error {
		for _, s := range catalog.order {
			d := digester{tx: tx, s: s, sum: sha256.New(), form: newCanonical(s.model)}
			if err := d.run(ctx); err != nil {
				return fmt.Errorf("digest %s: %w", s.name, err)
			}
			digest := ModelDigest{Model: s.desc.Model, Rows: d.rows}
			d.sum.Sum(digest.Digest[:0])
			list = append(list, digest)
		}
		return nil
	})
	slices.SortFunc(list, func(a, b ModelDigest) int { return compareNames(a.Model, b.Model) })
	return catalog.joinParts(list), err
}

// joinParts makes one of the digests of the parts of each hybrid model, which follow each other in list.
func (c *catalog) joinParts(list []ModelDigest) (joined []ModelDigest) {
	for _, d := range list {
		name := c.called(d.Model)
		if name == d.Model {
			joined = append(joined, d)
			continue
		}
		of := slices.IndexFunc(joined, func(other ModelDigest) bool { return other.Model == name })
		whole := &joined[of] // the shared part has the lesser name
		if nothing := sha256.Sum256(nil); whole.Digest == nothing && d.Digest == nothing {
			continue // as of any other model that holds nothing
		}
		whole.Rows += d.Rows
		whole.Digest = sha256.Sum256(append(whole.Digest[:], d.Digest[:]...))
	}
	return joined
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
	tx   *database.Tx
	s    *served
	sum  hash.Hash
	form canonical
	rows int64
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
	if err := d.form.record(rec); err != nil {
		return err
	}
	d.form.writeTo(d.sum)
	return nil
}
