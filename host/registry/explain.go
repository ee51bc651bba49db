package registry

import (
	"context"
	"database/sql"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/sdk"
)

// explainedRefusals bounds the refused changes of an Explanation.
const explainedRefusals = 20

// Explanation is what is known here of one record, visible or not.
type Explanation struct {
	Row                 // without fields where none are kept, as of a deleted device-owned record
	Exists  bool        // inserted, and not deleted since
	Deleted sdk.Version // by whom, if it does not exist; zero: not deleted either, so that its insert has not arrived
	Missing []Missing   // what it waits for
	Parked  int64       // changes that wait for the model's plugin
	Refused []Refused   // changes of others that were not stored, newest first
}

// Missing is one record that another needs to be visible.
type Missing struct {
	Field string
	Model sdk.ModelName // empty: of any
	ID    sdk.RecordID
	State MissingState
}

// MissingState says why a needed record is missing.
type MissingState string

// The states of a missing record.
const (
	MissingUnknown MissingState = "not_arrived"
	MissingDeleted MissingState = "deleted"
	MissingHidden  MissingState = "waiting" // it is here, and waits for another itself
)

// Explain returns what is known here of a record; CodeNotFound where no change of it has arrived. It reads one snapshot.
func (r *Registry) Explain(ctx context.Context, model sdk.ModelName, id sdk.RecordID) (e Explanation, err error) {
	c := r.catalog.Load()
	names := []sdk.ModelName{model}
	for _, s := range c.parts(model) {
		if s.desc.Model != model {
			names = append(names, s.desc.Model)
		}
	}
	err = r.db.Read(ctx, func(tx *database.Tx) error {
		e = Explanation{Row: Row{Model: model, ID: id}}
		known := false
		for _, s := range c.parts(model) {
			if !known {
				if known, err = s.explain(tx, c, &e); err != nil {
					return err
				}
			}
		}
		for _, name := range names {
			var parked int64
			_, err := tx.One("SELECT count(*) FROM _parked p JOIN _name n ON n.n = p.model WHERE n.name = ? AND p.id = ?", []any{string(name), id[:]}, &parked)
			if err != nil {
				return err
			}
			refused, err := refusedOf(tx, name, id)
			if err != nil {
				return err
			}
			e.Parked, e.Refused = e.Parked+parked, append(e.Refused, refused...)
		}
		if known || e.Parked > 0 || len(e.Refused) > 0 {
			return nil
		}
		if _, err := r.known(model); err != nil {
			return err
		}
		return sdk.Errorf(sdk.CodeNotFound, "no change of %s %s has arrived here", model, id)
	})
	if err != nil {
		return Explanation{}, err
	}
	return e, nil
}

// explain fills in what the tables hold of the record, and reports whether that is anything.
func (s *served) explain(tx *database.Tx, c *catalog, e *Explanation) (known bool, err error) {
	found, err := s.find(tx, e.ID)
	switch {
	case err == nil:
		if e.Row, err = found.row(!found.shadowed); err != nil {
			return true, err
		}
		e.Exists = true
		if !e.Visible {
			e.Missing, err = s.missing(tx, c, found)
		}
		return true, err
	case sdk.CodeOf(err) != sdk.CodeNotFound:
		return false, err
	case s.shared:
		err = s.readShared(tx, []sdk.RecordID{e.ID}, func(_ sdk.RecordID, _ storedClock, state *sdk.Record) {
			known = true
			e.Inserted, e.Deleted, e.Fields = state.Inserted, state.Deleted, state.Fields
		})
		return known, err
	}
	var owner, stamp int64
	known, err = tx.One("SELECT owner, stamp FROM _tombstone WHERE model = ? AND id = ?", []any{s.n, e.ID[:]}, &owner, &stamp)
	if err != nil || !known {
		return known, err
	}
	if e.Owner, err = tx.Device(owner); err != nil {
		return true, err
	}
	e.Stamp = hlc.Stamp(stamp) //nolint:gosec // not negative
	e.Deleted = sdk.Version{Stamp: e.Stamp, Device: e.Owner}
	return true, nil
}

// missing returns what rec, which is in the shadow, waits for, in the order of its fields.
func (s *served) missing(tx *database.Tx, c *catalog, rec *record) (list []Missing, err error) {
	awaited := make(map[sdk.RecordID]bool)
	err = tx.Each("SELECT missing FROM _waiting WHERE model = ? AND id = ?", []any{s.n, rec.id[:]}, func(rows *sql.Rows) error {
		id, err := scanID(rows)
		awaited[id] = true
		return err
	})
	if err != nil {
		return nil, err
	}
	for i := range s.refs {
		ref := &s.refs[i]
		raw, ok := rec.args[1+ref.field].([]byte)
		if !ok || len(raw) != len(sdk.RecordID{}) || !awaited[sdk.RecordID(raw)] {
			continue
		}
		// One id may stand in two references to different models: what is awaited is an id, and only one of them may lack it.
		visible, err := isVisible(tx, c.candidates(ref.to), sdk.RecordID(raw))
		if err != nil {
			return nil, err
		}
		if visible {
			continue
		}
		state, err := missingState(tx, c.candidates(ref.to), sdk.RecordID(raw))
		if err != nil {
			return nil, err
		}
		list = append(list, Missing{Field: s.names[ref.field], Model: ref.to, ID: sdk.RecordID(raw), State: state})
	}
	return list, nil
}

// isVisible reports whether one of models has a visible record id.
func isVisible(tx *database.Tx, models []*served, id sdk.RecordID) (bool, error) {
	for _, s := range models {
		var one int
		if found, err := tx.One("SELECT 1 FROM "+s.table+" WHERE id = ?", []any{id[:]}, &one); found || err != nil {
			return found, err
		}
	}
	return false, nil
}

// missingState looks for a record among models.
func missingState(tx *database.Tx, models []*served, id sdk.RecordID) (MissingState, error) {
	for _, s := range models {
		var present int
		var data []byte
		found, err := tx.One("SELECT present, data FROM _shadow WHERE model = ? AND id = ?", []any{s.n, id[:]}, &present, &data)
		if err != nil {
			return "", err
		}
		if found && present == 1 {
			return MissingHidden, nil
		}
		if found { // an update that came before the insert is here too: then nothing is deleted
			in := recordReader{tx: tx, b: data}
			in.byte()
			in.version(0)
			deleted := in.version(0)
			if in.err != nil {
				return "", damaged(s.model, id, in.err)
			}
			if !deleted.IsZero() {
				return MissingDeleted, nil
			}
		}
		found, err = tx.One("SELECT 1 FROM _tombstone WHERE model = ? AND id = ?", []any{s.n, id[:]}, &present)
		if err != nil {
			return "", err
		}
		if found {
			return MissingDeleted, nil
		}
	}
	return MissingUnknown, nil
}

// refusedOf returns the latest refused changes of one record, newest first.
func refusedOf(tx *database.Tx, model sdk.ModelName, id sdk.RecordID) (list []Refused, err error) {
	err = tx.Each("SELECT origin, stamp, code, message FROM _refused WHERE model = ? AND id = ? ORDER BY rowid DESC LIMIT ?",
		[]any{string(model), id[:], explainedRefusals}, func(rows *sql.Rows) error {
			no := Refused{Model: model, ID: id}
			var origin, stamp int64
			if err := rows.Scan(&origin, &stamp, &no.Code, &no.Message); err != nil {
				return err
			}
			no.Stamp = hlc.Stamp(stamp) //nolint:gosec // not negative
			no.Origin, err = tx.Device(origin)
			list = append(list, no)
			return err
		})
	return list, err
}

// Conflict returns one entry of the conflict journal, or a CodeNotFound error.
func (r *Registry) Conflict(ctx context.Context, number int64) (c Conflict, err error) {
	catalog := r.catalog.Load()
	found := false
	err = r.db.Read(ctx, func(tx *database.Tx) error {
		return tx.Each(`SELECT c.n, m.name, c.id, f.name, c.value, c.lost_stamp, c.lost_device, c.winner_stamp, c.winner_device
			FROM _conflict c JOIN _name m ON m.n = c.model JOIN _name f ON f.n = c.field WHERE c.n = ?`, []any{number}, func(rows *sql.Rows) error {
			found = true
			c, err = scanConflict(tx, catalog, rows)
			return err
		})
	})
	if err == nil && !found {
		err = sdk.Errorf(sdk.CodeNotFound, "the conflict journal has no entry %d; see: starling conflicts", number)
	}
	return c, err
}

// ForgetConflict removes an entry from the conflict journal of this device; one that is not there is none.
func (r *Registry) ForgetConflict(ctx context.Context, number int64) error {
	return r.db.Write(ctx, func(tx *database.Tx) error {
		_, err := tx.Exec("DELETE FROM _conflict WHERE n = ?", number)
		return err
	})
}
