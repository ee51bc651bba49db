package registry

import (
	"database/sql"
	"fmt"
	"slices"

	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/sdk"
)

// placer puts records where they belong, into their tables or into the shadow, within one transaction. Between its steps
// the tables hold exactly the visible records of what is stored so far.
type placer struct {
	r       *Registry
	catalog *catalog
	tx      *database.Tx
	outcome map[sdk.ModelName]*Outcome

	visible map[spot]bool // found in a table, and not taken out of it since
	shown   []spot        // put into a table: what waits for them may follow
	hiding  []spot        // taken out of a table: what needs them must follow

	touched                   map[*model]bool           // see touch
	marked                    map[*model][]sdk.RecordID // what differs from before, hidden or not; see mark
	shadowEmpty, waitingEmpty bool                      // known to be
	watched                   map[sdk.ModelName]bool    // see feed.wanted
	told                      []Event                   // what they are told
	unchanged                 map[*record]bool          // what is stored again as it was: nobody is told that it changed
	origin                    sdk.DeviceID
	local                     bool
}

// spot is a record's place: nothing keeps two models from using one id, and a reference means one of them.
type spot struct {
	model int64 // number of
	id    sdk.RecordID
}

func newPlacer(r *Registry, catalog *catalog, tx *database.Tx) *placer {
	return &placer{r: r, catalog: catalog, tx: tx, visible: make(map[spot]bool), watched: r.feed.wanted()}
}

// of returns the outcome of one model's changes, to be counted on.
func (p *placer) of(model sdk.ModelName) *Outcome {
	o := p.outcome[model]
	if o == nil {
		if p.outcome == nil {
			p.outcome = make(map[sdk.ModelName]*Outcome)
		}
		o = &Outcome{}
		p.outcome[model] = o
	}
	return o
}

// total returns the outcome of all models together.
func (p *placer) total() (sum Outcome) {
	for _, o := range p.outcome {
		sum.Written += o.Written
		sum.Stale += o.Stale
		sum.Waiting += o.Waiting
		sum.Deleted += o.Deleted
		sum.Refused += o.Refused
		sum.Parked += o.Parked
		sum.Conflicts += o.Conflicts
	}
	return sum
}

// place stores records that exist, at most one an id, and decides which of them are visible. finish completes it.
func (p *placer) place(records []*record) error {
	if len(records) == 0 {
		return nil
	}
	resolved, err := p.allResolved(records)
	if err != nil {
		return err
	}
	if resolved {
		return p.show(records)
	}
	if records, err = p.dropStale(records); err != nil {
		return err
	}
	closure, within, err := p.close(records)
	if err != nil {
		return err
	}
	if err := p.lookUpOthers(closure); err != nil {
		return err
	}
	p.markHidden(closure, within)
	var show, hide []*record
	for _, rec := range closure {
		if rec.hidden {
			hide = append(hide, rec)
		} else {
			show = append(show, rec)
		}
	}
	if err := p.hide(hide); err != nil {
		return err
	}
	return p.show(show)
}

// allResolved reports whether every record that records need is visible or among them. It is the common case.
func (p *placer) allResolved(records []*record) (bool, error) {
	var among map[spot]*record
	wanted := make(map[sdk.ModelName][]sdk.RecordID)
	asked := make(map[target]bool)
	for _, rec := range records {
		rec.targets(func(to sdk.ModelName, id sdk.RecordID) {
			if asked[target{to, id}] || p.met(among, to, id) {
				return
			}
			if among == nil {
				among = make(map[spot]*record, len(records))
				for _, other := range records {
					among[other.spot()] = other
				}
				if p.met(among, to, id) {
					return
				}
			}
			asked[target{to, id}] = true
			wanted[to] = append(wanted[to], id)
		})
	}
	for to, ids := range wanted {
		if err := p.lookUp(to, ids); err != nil {
			return false, err
		}
		for _, id := range ids {
			if !p.met(nil, to, id) {
				return false, nil
			}
		}
	}
	return true, nil
}

// target is what a reference needs: a record of a model ("": any).
type target struct {
	to sdk.ModelName
	id sdk.RecordID
}

// lookUp notes which of ids are visible records of model to ("": any).
func (p *placer) lookUp(to sdk.ModelName, ids []sdk.RecordID) error {
	for _, s := range p.catalog.candidates(to) {
		if to == "" {
			ids = slices.DeleteFunc(slices.Clone(ids), func(id sdk.RecordID) bool { return p.met(nil, to, id) })
		}
		if err := p.lookUpIn(s, ids); err != nil {
			return err
		}
	}
	return nil
}

func (p *placer) lookUpIn(s *served, ids []sdk.RecordID) error {
	err := selectIn(p.tx, "SELECT id FROM "+s.table+" WHERE id IN ", nil, ids, func(rows *sql.Rows) error {
		id, err := scanID(rows)
		p.visible[spot{s.n, id}] = true
		return err
	})
	if err != nil {
		return fmt.Errorf("look up %s: %w", s.name, err)
	}
	return nil
}

// lookUpOthers notes which records of any model have the ids that a reference to any of them names, where one of closure is to be
// hidden: another may stay in its place.
func (p *placer) lookUpOthers(closure []*record) error {
	if !slices.ContainsFunc(closure, func(rec *record) bool { return rec.hidden }) {
		return nil
	}
	var ids []sdk.RecordID
	for _, rec := range closure {
		rec.targets(func(to sdk.ModelName, id sdk.RecordID) {
			if to == "" {
				ids = append(ids, id)
			}
		})
	}
	for _, s := range p.catalog.order {
		if err := p.lookUpIn(s, ids); err != nil {
			return err
		}
	}
	return nil
}

// dropStale leaves out device-owned records of which the tables hold a newer row, or one of another owner. The upsert
// would leave these out by itself, but they must not decide on the visibility of others.
func (p *placer) dropStale(records []*record) ([]*record, error) {
	stored := make(map[*model]map[sdk.RecordID]storedRow)
	for s, ids := range p.byModel(records, func(rec *record) bool { return !rec.m.shared && !rec.trusted }) {
		stored[s] = make(map[sdk.RecordID]storedRow)
		if err := lookUpRows(p.tx, s, ids, stored[s]); err != nil {
			return nil, err
		}
	}
	kept := make([]*record, 0, len(records))
	for _, rec := range records {
		row, ok := stored[rec.m][rec.id]
		switch {
		case !ok || rec.trusted || rec.m.shared:
			kept = append(kept, rec)
		case row.owner != rec.args[rec.m.width-3]:
			if err := p.refuseOwner(rec.m, rec.id, rec.stamp, row.owner); err != nil {
				return nil, err
			}
		case row.stamp >= int64(rec.stamp): //nolint:gosec // stamps fit
			p.of(rec.m.desc.Model).Stale++
		default:
			kept = append(kept, rec)
		}
	}
	return kept, nil
}

// byModel groups the ids of those records that pass.
func (p *placer) byModel(records []*record, pass func(*record) bool) map[*model][]sdk.RecordID {
	ids := make(map[*model][]sdk.RecordID)
	for _, rec := range records {
		if pass(rec) {
			ids[rec.m] = append(ids[rec.m], rec.id)
		}
	}
	return ids
}

// close returns records and every record of the shadow that they need, directly or through others, each with the targets
// that are missing altogether.
func (p *placer) close(records []*record) (closure []*record, within map[spot]*record, err error) {
	within = make(map[spot]*record, len(records))
	for _, rec := range records {
		rec.missing, rec.hidden = nil, false
		within[rec.spot()] = rec
	}
	closure = slices.Clone(records)
	settled := make(map[target]bool) // looked up
	for from := 0; from < len(closure); {
		fresh := closure[from:]
		from = len(closure)
		wanted := make(map[sdk.ModelName][]sdk.RecordID)
		for _, rec := range fresh {
			rec.targets(func(to sdk.ModelName, id sdk.RecordID) {
				if !p.met(within, to, id) && !settled[target{to, id}] {
					settled[target{to, id}] = true
					wanted[to] = append(wanted[to], id)
				}
			})
		}
		for to, ids := range wanted {
			if err := p.lookUp(to, ids); err != nil {
				return nil, nil, err
			}
			ids = slices.DeleteFunc(ids, func(id sdk.RecordID) bool { return p.met(within, to, id) })
			waiting, err := p.fromShadow(to, ids)
			if err != nil {
				return nil, nil, err
			}
			for _, rec := range waiting {
				if within[rec.spot()] == nil {
					within[rec.spot()] = rec
					closure = append(closure, rec)
				}
			}
		}
	}
	for _, rec := range closure {
		rec.targets(func(to sdk.ModelName, id sdk.RecordID) {
			if !p.met(within, to, id) {
				rec.missing = append(rec.missing, id)
				rec.hidden = true
			}
		})
	}
	return closure, within, nil
}

// met reports whether id is visible, or a record at hand, and of model to.
func (p *placer) met(within map[spot]*record, to sdk.ModelName, id sdk.RecordID) bool {
	for _, s := range p.catalog.candidates(to) {
		if at := (spot{s.n, id}); p.visible[at] || within[at] != nil {
			return true
		}
	}
	return false
}

// markHidden hides every record that needs a hidden one, and adds that to what it waits for.
func (p *placer) markHidden(closure []*record, within map[spot]*record) {
	type dependant struct {
		rec *record
		to  sdk.ModelName
	}
	dependants := make(map[spot][]dependant)
	for _, rec := range closure {
		rec.targets(func(to sdk.ModelName, id sdk.RecordID) {
			for _, s := range p.catalog.candidates(to) {
				at := spot{s.n, id}
				dependants[at] = append(dependants[at], dependant{rec, to})
			}
		})
	}
	var queue []*record
	for _, rec := range closure {
		if rec.hidden {
			queue = append(queue, rec)
		}
	}
	for len(queue) > 0 {
		hidden := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		for _, d := range dependants[hidden.spot()] {
			if p.stays(within, d.to, hidden.id) {
				continue
			}
			d.rec.missing = append(d.rec.missing, hidden.id)
			if !d.rec.hidden {
				d.rec.hidden = true
				queue = append(queue, d.rec)
			}
		}
	}
}

// stays reports whether a record of model to is visible, or at hand and not hidden so far.
func (p *placer) stays(within map[spot]*record, to sdk.ModelName, id sdk.RecordID) bool {
	for _, s := range p.catalog.candidates(to) {
		at := spot{s.n, id}
		if rec := within[at]; rec != nil {
			if !rec.hidden {
				return true
			}
		} else if p.visible[at] {
			return true
		}
	}
	return false
}

// touch notes that shared records of m change or move, for those who read them before.
func (p *placer) touch(m *model) {
	if !m.shared || p.touched[m] {
		return
	}
	if p.touched == nil {
		p.touched = make(map[*model]bool)
	}
	p.touched[m] = true
	changes := p.catalog.models[m.desc.Model].changes
	changes.Add(1)
	p.tx.AfterCommit(func() { changes.Add(1) })
}

// show puts records into their tables.
func (p *placer) show(records []*record) error {
	for len(records) > 0 {
		m, n := records[0].m, 1
		for n < len(records) && records[n].m == m {
			n++
		}
		if err := p.showRun(m, records[:n]); err != nil {
			return fmt.Errorf("store %s: %w", m.name, err)
		}
		records = records[n:]
	}
	return nil
}

func (p *placer) showRun(m *model, records []*record) error {
	p.touch(m)
	var shadowed []sdk.RecordID
	for _, rec := range records {
		if rec.shadowed {
			shadowed = append(shadowed, rec.id)
		}
	}
	if err := p.leaveShadow(m, shadowed); err != nil {
		return err
	}
	row := func(i int) []any { return records[i].args }
	return p.tx.Insert(m.insert, len(records), row, func(from, to int, written int64) error {
		p.of(m.desc.Model).Written += int(written)
		if int(written) == to-from {
			return p.nowVisible(m, records[from:to])
		}
		won, err := p.winners(m, records[from:to])
		if err != nil {
			return err
		}
		return p.nowVisible(m, won)
	})
}

func (p *placer) nowVisible(m *model, records []*record) error {
	for _, rec := range records {
		p.visible[rec.spot()] = true
		p.shown = append(p.shown, rec.spot())
		if !rec.kept {
			p.mark(m, rec.id)
		}
		p.notify(Changed, rec)
	}
	return nil
}

// mark notes that records of m are not what they were. Whether they are visible does not count.
func (p *placer) mark(m *model, ids ...sdk.RecordID) {
	if p.marked == nil {
		p.marked = make(map[*model][]sdk.RecordID)
	}
	p.marked[m] = append(p.marked[m], ids...)
}

// winners returns those of records that the table holds now, after an upsert that left some out, and refuses those whose
// stored row has another owner.
func (p *placer) winners(m *model, records []*record) ([]*record, error) {
	stored := make(map[sdk.RecordID]storedRow, len(records))
	ids := make([]sdk.RecordID, len(records))
	for i, rec := range records {
		ids[i] = rec.id
	}
	if err := lookUpRows(p.tx, m, ids, stored); err != nil {
		return nil, err
	}
	var won []*record
	for _, rec := range records {
		row := stored[rec.id]
		switch {
		case row.owner != rec.args[m.width-3]:
			if err := p.refuseOwner(m, rec.id, rec.stamp, row.owner); err != nil {
				return nil, err
			}
		case row.stamp == int64(rec.stamp): //nolint:gosec // stamps fit
			won = append(won, rec) // or it was there already: then showing it again changes nothing
		}
	}
	p.of(m.desc.Model).Stale += len(records) - len(won)
	return won, nil
}

// leaves notes that a record of m is taken out of its table.
func (p *placer) leaves(m *model, id sdk.RecordID) {
	at := spot{m.n, id}
	delete(p.visible, at)
	p.hiding = append(p.hiding, at)
}

// hide puts records into the shadow, each with what it waits for.
func (p *placer) hide(records []*record) error {
	for s, ids := range p.byModel(records, func(rec *record) bool { return !rec.shadowed }) {
		p.touch(s)
		err := deleteIn(p.tx, "DELETE FROM "+s.table+" WHERE id IN ", nil, ids, func(id sdk.RecordID) {
			p.leaves(s, id)
		})
		if err != nil {
			return fmt.Errorf("hide %s: %w", s.name, err)
		}
	}
	for _, rec := range records {
		again := rec.shadowed && rec.trusted
		if err := p.toShadow(rec); err != nil {
			return fmt.Errorf("hide %s %s: %w", rec.m.name, rec.id, err)
		}
		if !again {
			p.of(rec.m.desc.Model).Waiting++
			p.notify(Hidden, rec)
		}
	}
	return nil
}

// toShadow stores a record that exists and is not visible.
func (p *placer) toShadow(rec *record) error {
	data, err := rec.packShadow(p.tx)
	if err != nil {
		return err
	}
	var owner, stamp any
	if !rec.m.shared {
		owner, stamp = rec.args[rec.m.width-3], rec.args[rec.m.width-2]
	}
	if err := storeShadow(p.tx, rec.m, rec.id, 1, owner, stamp, data); err != nil {
		return err
	}
	p.shadowEmpty, p.waitingEmpty = false, false
	if rec.shadowed {
		if _, err := p.tx.Exec("DELETE FROM _waiting WHERE model = ? AND id = ?", rec.m.n, rec.id[:]); err != nil {
			return err
		}
	}
	rec.shadowed = true
	if !rec.kept {
		p.mark(rec.m, rec.id)
	}
	for _, missing := range rec.missing {
		if _, err := p.tx.Exec("INSERT INTO _waiting (missing, model, id) VALUES (?, ?, ?) ON CONFLICT DO NOTHING", missing[:], rec.m.n, rec.id[:]); err != nil {
			return err
		}
	}
	return nil
}

func storeShadow(tx *database.Tx, m *model, id sdk.RecordID, present int, owner, stamp any, data []byte) error {
	_, err := tx.Exec(`INSERT INTO _shadow (model, id, present, owner, stamp, data) VALUES (?, ?, ?, ?, ?, ?)
		ON CONFLICT (model, id) DO UPDATE SET present = excluded.present, owner = excluded.owner, stamp = excluded.stamp, data = excluded.data`,
		m.n, id[:], present, owner, stamp, data)
	return err
}

// leaveShadow forgets ids in the shadow, and what they wait for.
func (p *placer) leaveShadow(m *model, ids []sdk.RecordID) error {
	if err := deleteIn(p.tx, "DELETE FROM _shadow WHERE model = ? AND id IN ", []any{m.n}, ids, nil); err != nil {
		return err
	}
	return deleteIn(p.tx, "DELETE FROM _waiting WHERE model = ? AND id IN ", []any{m.n}, ids, nil)
}

// fromShadow returns the records of model to ("": any) with these ids that exist and wait in the shadow.
func (p *placer) fromShadow(to sdk.ModelName, ids []sdk.RecordID) (records []*record, err error) {
	if empty, err := p.isShadowEmpty(); empty || err != nil {
		return nil, err
	}
	for _, s := range p.catalog.candidates(to) {
		found, err := readShadowed(p.tx, s.model, ids)
		if err != nil {
			return nil, err
		}
		records = append(records, found...)
	}
	return records, nil
}

// readShadowed returns the records of m with these ids that exist and wait in the shadow.
func readShadowed(tx *database.Tx, m *model, ids []sdk.RecordID) (records []*record, err error) {
	err = selectIn(tx, "SELECT id, coalesce(owner, 0), coalesce(stamp, 0), data FROM _shadow WHERE present = 1 AND model = ? AND id IN ", []any{m.n}, ids,
		func(rows *sql.Rows) error {
			var id, data []byte
			var owner, stamp int64
			if err := rows.Scan(&id, &owner, &stamp, &data); err != nil {
				return err
			}
			rec, err := m.readShadow(tx, sdk.RecordID(id), owner, stamp, data)
			records = append(records, rec)
			return err
		})
	return records, err
}

func (p *placer) isShadowEmpty() (bool, error) {
	if p.shadowEmpty {
		return true, nil
	}
	var one int
	found, err := p.tx.One("SELECT 1 FROM _shadow LIMIT 1", nil, &one)
	p.shadowEmpty = err == nil && !found
	return p.shadowEmpty, err
}

func (p *placer) isWaitingEmpty() (bool, error) {
	if p.waitingEmpty {
		return true, nil
	}
	var one int
	found, err := p.tx.One("SELECT 1 FROM _waiting LIMIT 1", nil, &one)
	p.waitingEmpty = err == nil && !found
	return p.waitingEmpty, err
}
