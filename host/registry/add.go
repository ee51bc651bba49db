package registry

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"sync/atomic"

	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/sdk"
)

// Add has server decide on the changes of the model that it describes, in place of any server before, and returns that
// description. It makes or extends the model's table, refuses a description that the table can not serve with what and
// why (CodeInvalid, CodeUnsupported), and applies what has waited for the model. It blocks while it does so. After an
// error whose code is Retryable (a full disk, a plugin that ended, a time that is over) Add may be called again: what
// has waited goes on waiting.
func (r *Registry) Add(ctx context.Context, server sdk.ModelServer) (sdk.Description, error) {
	desc, err := r.add(ctx, server)
	if err != nil && isPassing(err) && !sdk.CodeOf(err).Retryable() {
		err = sdk.Errorf(sdk.CodeUnavailable, "%w", err)
	}
	return desc, err
}

func (r *Registry) add(ctx context.Context, server sdk.ModelServer) (sdk.Description, error) {
	desc, err := server.Describe(ctx)
	if err != nil {
		return desc, fmt.Errorf("describe model: %w", err)
	}
	if err := desc.Check(); err != nil {
		return desc, err
	}
	if err := r.bind(ctx, desc, server); err != nil {
		return desc, fmt.Errorf("add model %q: %w", desc.Model, err)
	}
	if err := r.replay(ctx, desc.Model); err != nil {
		return desc, fmt.Errorf("apply what has waited for model %q: %w", desc.Model, err)
	}
	return desc, nil
}

// bind makes the table fit desc and publishes the server.
func (r *Registry) bind(ctx context.Context, desc sdk.Description, server sdk.ModelServer) error {
	r.adding.Lock()
	defer r.adding.Unlock()
	next := &served{server: server, defect: r.reporter(desc.Model), changes: new(atomic.Uint64)}
	if before := r.catalog.Load().models[desc.Model]; before != nil {
		next.changes = before.changes
	}
	return r.db.Write(ctx, func(tx *database.Tx) error {
		changed, err := r.makeTable(tx, desc, next)
		if err != nil {
			return err
		}
		catalog := r.catalog.Load().with(next)
		if changed {
			if err := r.rewrite(tx, catalog, next); err != nil {
				return fmt.Errorf("bring records to version %d: %w", desc.Version, err)
			}
		}
		tx.AfterCommit(func() { r.catalog.Store(catalog) })
		return nil
	})
}

// makeTable sets next.model, creating or extending its table. changed says that fields were added.
func (r *Registry) makeTable(tx *database.Tx, desc sdk.Description, next *served) (changed bool, err error) {
	known, err := storedDescriptions(tx)
	if err != nil {
		return false, err
	}
	if next.model, err = newModel(tx, desc); err != nil {
		return false, err
	}
	statements := next.createTable(tx.Dialect())
	if old := known[desc.Model]; old != nil {
		if err := checkChange(old, &desc); err != nil {
			return false, err
		}
		changed = len(desc.Fields) > len(old.Fields)
		statements = next.extend(tx.Dialect(), old)
	}
	for _, statement := range statements {
		if err := tx.Run(statement); err != nil {
			return false, fmt.Errorf("%s: %w", statement, err)
		}
	}
	text, err := json.Marshal(desc)
	if err != nil {
		return false, err
	}
	_, err = tx.Exec(`INSERT INTO _model (name, version, description) VALUES (?, ?, ?)
		ON CONFLICT (name) DO UPDATE SET version = excluded.version, description = excluded.description`,
		string(desc.Model), int64(desc.Version), string(text))
	return changed, err
}

// rewriteRows bounds the records of one step of rewrite.
const rewriteRows = 500

// rewrite stores the records of a model again after fields were added: values that were kept for these move into their
// columns, and what they refer to decides who is visible.
func (r *Registry) rewrite(tx *database.Tx, catalog *catalog, s *served) error {
	where := " WHERE _extra IS NOT NULL AND id > ? ORDER BY id LIMIT ?"
	if s.shared {
		where = " WHERE id > ? ORDER BY id LIMIT ?"
	}
	for after := (sdk.RecordID{}); ; {
		var records []*record
		err := tx.Each(s.sel+where, []any{after[:], rewriteRows}, func(rows *sql.Rows) error {
			rec, err := s.scanRow(tx, rows)
			if err != nil {
				return err
			}
			records = append(records, rec)
			return s.refresh(tx, rec)
		})
		if err != nil || len(records) == 0 {
			return err
		}
		after = records[len(records)-1].id
		for _, rec := range records { // so that the guard of equal stamps lets them in
			if _, err := tx.Exec("DELETE FROM "+s.table+" WHERE id = ?", rec.id[:]); err != nil {
				return err
			}
		}
		p := newPlacer(r, catalog, tx)
		if err := p.place(records); err != nil {
			return err
		}
		for _, rec := range records {
			if rec.hidden {
				p.hiding = append(p.hiding, rec.id)
			}
		}
		if err := p.finish(); err != nil {
			return err
		}
	}
}

// refresh spreads kept values of rec into fields that are known by now.
func (m *model) refresh(tx *database.Tx, rec *record) error {
	if m.shared {
		return rec.setState(tx, rec.state)
	}
	raw, _ := rec.args[m.width-1].([]byte)
	return m.spread(rec.args, raw)
}
