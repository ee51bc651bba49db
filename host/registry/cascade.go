package registry

import (
	"database/sql"
	"fmt"
	"slices"

	"github.com/starling-sync/starling/sdk"
)

// cascadeRows bounds the records that one step of a cascade holds in memory.
const cascadeRows = 500

// finish follows what was shown and hidden to all that depends on it. Each turn shows or hides at least one record for
// good or leaves a queue shorter, so it ends.
//
// It does so in the transaction of the change, since tables never show a dangling reference: while it moves records (some
// ten thousand a second) other writers wait, and the ids of all of them are held in memory.
func (p *placer) finish() error {
	for len(p.hiding) > 0 || len(p.shown) > 0 {
		for len(p.hiding) > 0 {
			if err := p.hideDependants(take(&p.hiding)); err != nil {
				return err
			}
		}
		if err := p.showWaiting(take(&p.shown)); err != nil {
			return err
		}
	}
	return p.r.audit.changing(p)
}

// take takes some records from the front of a queue, and lets go of what is behind them once it is empty.
func take(queue *[]spot) []spot {
	n := min(len(*queue), lookupChunks[0])
	spots := (*queue)[:n:n]
	if *queue = (*queue)[n:]; len(*queue) == 0 {
		*queue = nil
	}
	return spots
}

// hideDependants moves the records that need one of spots, which are not visible any more, into the shadow.
func (p *placer) hideDependants(spots []spot) error {
	left := make(map[sdk.RecordID]bool, len(spots))
	for _, at := range spots {
		left[at.id] = true
	}
	for _, s := range p.catalog.order {
		for _, ref := range s.refs {
			if err := p.hideBy(s, ref, p.gone(ref.to, spots), left); err != nil {
				return err
			}
		}
	}
	return nil
}

// gone returns the ids of those spots that a reference to a model ("": any) can mean and that are not visible.
func (p *placer) gone(to sdk.ModelName, spots []spot) (ids []sdk.RecordID) {
	candidates := p.catalog.candidates(to)
	for _, at := range spots {
		meant := slices.ContainsFunc(candidates, func(s *served) bool { return s.n == at.model })
		if meant && !p.met(nil, to, at.id) {
			ids = append(ids, at.id)
		}
	}
	return ids
}

// hideBy moves the records of s whose reference is to one of ids into the shadow. They wait for all that they need of left.
func (p *placer) hideBy(s *served, ref reference, ids []sdk.RecordID, left map[sdk.RecordID]bool) error {
	for lookedUp := false; len(ids) > 0; {
		records, err := p.dependants(s, ref, ids)
		if err != nil {
			return fmt.Errorf("find dependants in %s: %w", s.name, err)
		}
		if len(records) == 0 {
			return nil
		}
		if !lookedUp { // another model may have records of these ids
			lookedUp = true
			if err := p.lookUp(ref.to, ids); err != nil {
				return err
			}
			rest := slices.DeleteFunc(slices.Clone(ids), func(id sdk.RecordID) bool { return p.met(nil, ref.to, id) })
			if len(rest) < len(ids) {
				ids = rest
				continue
			}
		}
		for _, rec := range records {
			rec.targets(func(_ sdk.ModelName, id sdk.RecordID) {
				if left[id] {
					rec.missing = append(rec.missing, id)
				}
			})
		}
		if err := p.hide(records); err != nil {
			return err
		}
	}
	return nil
}

// dependants returns some visible records of s whose reference is to one of ids.
func (p *placer) dependants(s *served, ref reference, ids []sdk.RecordID) (records []*record, err error) {
	suffix := " LIMIT " + fmt.Sprint(cascadeRows)
	err = inChunks(len(ids), lookupChunks[:], func(statement, from, to int) error {
		if len(records) >= cascadeRows {
			return nil
		}
		query := s.sel + " WHERE " + ref.column + " IN " + placeholders(lookupChunks[statement]) + suffix
		return p.tx.Each(query, idArgs(nil, ids[from:to]), func(rows *sql.Rows) error {
			rec, err := s.scanRow(p.tx, rows)
			records = append(records, rec)
			return err
		})
	})
	return records, err
}

// showWaiting places the records again that wait for one of spots, which have become visible.
func (p *placer) showWaiting(spots []spot) error {
	if empty, err := p.isWaitingEmpty(); empty || err != nil {
		return err
	}
	var ids []sdk.RecordID
	for _, at := range spots {
		if p.visible[at] {
			ids = append(ids, at.id)
		}
	}
	var awaited []sdk.RecordID
	err := selectIn(p.tx, "SELECT DISTINCT missing FROM _waiting WHERE missing IN ", nil, ids, func(rows *sql.Rows) error {
		id, err := scanID(rows)
		awaited = append(awaited, id)
		return err
	})
	if err != nil {
		return fmt.Errorf("find what waits: %w", err)
	}
	for _, id := range awaited {
		if err := p.wake(id); err != nil {
			return fmt.Errorf("show what waited for %s: %w", id, err)
		}
	}
	return nil
}

// wake places each record once that waits for id; those that wait for something else too go on waiting.
func (p *placer) wake(id sdk.RecordID) error {
	lastModel, lastID := int64(0), sdk.RecordID{}
	for {
		count := 0
		waiting := make(map[int64][]sdk.RecordID)
		err := p.tx.Each("SELECT model, id FROM _waiting WHERE missing = ? AND (model, id) > (?, ?) ORDER BY model, id LIMIT ?",
			[]any{id[:], lastModel, lastID[:], cascadeRows}, func(rows *sql.Rows) error {
				var raw []byte
				if err := rows.Scan(&lastModel, &raw); err != nil {
					return err
				}
				copy(lastID[:], raw)
				waiting[lastModel] = append(waiting[lastModel], lastID)
				count++
				return nil
			})
		if err != nil || count == 0 {
			return err
		}
		var records []*record
		for _, s := range p.catalog.order {
			found, err := readShadowed(p.tx, s.model, waiting[s.n])
			if err != nil {
				return err
			}
			records = append(records, found...)
		}
		if err := p.place(records); err != nil {
			return err
		}
	}
}
