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
	p.r.audit.changing(p)
	return nil
}

// take takes some ids from the front of a queue, and lets go of what is behind them once it is empty.
func take(queue *[]sdk.RecordID) []sdk.RecordID {
	n := min(len(*queue), lookupChunks[0])
	ids := (*queue)[:n:n]
	if *queue = (*queue)[n:]; len(*queue) == 0 {
		*queue = nil
	}
	return ids
}

// hideDependants moves the records that need one of ids, which are not visible any more, into the shadow.
func (p *placer) hideDependants(ids []sdk.RecordID) error {
	gone := make(map[sdk.RecordID]bool, len(ids))
	for _, id := range ids {
		if _, back := p.visible[id]; !back {
			gone[id] = true
		}
	}
	ids = slices.DeleteFunc(ids, func(id sdk.RecordID) bool { return !gone[id] })
	for _, s := range p.catalog.order {
		for _, ref := range s.refs {
			for {
				records, err := p.dependants(s, ref, ids)
				if err != nil {
					return fmt.Errorf("find dependants in %s: %w", s.name, err)
				}
				if len(records) == 0 {
					break
				}
				for _, rec := range records {
					rec.targets(func(_ sdk.ModelName, id sdk.RecordID) {
						if gone[id] {
							rec.missing = append(rec.missing, id)
						}
					})
				}
				if err := p.hide(records); err != nil {
					return err
				}
			}
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

// showWaiting places the records again that wait for one of ids, which have become visible.
func (p *placer) showWaiting(ids []sdk.RecordID) error {
	if empty, err := p.isWaitingEmpty(); empty || err != nil {
		return err
	}
	var awaited []sdk.RecordID
	err := selectIn(p.tx, "SELECT DISTINCT missing FROM _waiting WHERE missing IN ", nil, ids, func(rows *sql.Rows) error {
		id, err := scanID(rows)
		if _, still := p.visible[id]; still {
			awaited = append(awaited, id)
		}
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
