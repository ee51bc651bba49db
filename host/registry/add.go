package registry

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
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
	for _, part := range desc.Parts() {
		if err := r.replay(ctx, part.Model); err != nil {
			return desc, fmt.Errorf("apply what has waited for model %q: %w", desc.Model, err)
		}
	}
	return desc, nil
}

// bind makes the table fit desc and publishes the server.
func (r *Registry) bind(ctx context.Context, desc sdk.Description, server sdk.ModelServer) error {
	r.adding.Lock()
	defer r.adding.Unlock()
	return r.db.Write(ctx, func(tx *database.Tx) error {
		models, changed, err := r.makeTables(tx, desc)
		if err != nil {
			return err
		}
		var next []*served
		for _, m := range models {
			s := &served{model: m, server: server, defect: r.reporter(desc.Model), changes: new(atomic.Uint64)}
			if m.name != m.desc.Model {
				s.server = part{server, m.name}
			}
			if before := r.catalog.Load().models[m.desc.Model]; before != nil {
				s.changes = before.changes
			}
			next = append(next, s)
		}
		catalog := r.catalog.Load().with(next...)
		for _, s := range next {
			if !changed {
				break
			}
			if err := r.rewrite(tx, catalog, s); err != nil {
				return fmt.Errorf("bring records to version %d: %w", desc.Version, err)
			}
		}
		tx.AfterCommit(func() { r.catalog.Store(catalog) })
		return nil
	})
}

// makeTables creates or extends the table of a model, or those of the parts of a hybrid and its view. changed says that
// fields were added.
func (r *Registry) makeTables(tx *database.Tx, desc sdk.Description) (models []*model, changed bool, err error) {
	known, err := storedDescriptions(tx)
	if err != nil {
		return nil, false, err
	}
	if models, err = newModels(tx, desc); err != nil {
		return nil, false, err
	}
	old := known[desc.Model]
	if old != nil {
		if err := checkChange(old, &desc); err != nil {
			return nil, false, err
		}
		changed = len(desc.Fields) > len(old.Fields)
	}
	var statements []string
	for _, m := range models {
		if old != nil {
			statements = append(statements, m.extend(tx.Dialect(), old)...)
		} else {
			statements = append(statements, m.createTable(tx.Dialect())...)
		}
	}
	if desc.Ownership == sdk.HybridOwned && (old == nil || changed) {
		statements = append(statements, createView(models)...)
	}
	for _, statement := range statements {
		if err := tx.Run(statement); err != nil {
			return nil, false, fmt.Errorf("%s: %w", statement, err)
		}
	}
	text, err := json.Marshal(desc)
	if err != nil {
		return nil, false, err
	}
	_, err = tx.Exec(`INSERT INTO _model (name, version, description) VALUES (?, ?, ?)
		ON CONFLICT (name) DO UPDATE SET version = excluded.version, description = excluded.description`,
		string(desc.Model), int64(desc.Version), string(text))
	return models, changed, err
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
		p := newPlacer(r, catalog, tx)
		p.unchanged = make(map[*record]bool)
		err := tx.Each(s.sel+where, []any{after[:], rewriteRows}, func(rows *sql.Rows) error {
			rec, err := s.scanRow(tx, rows)
			if err != nil {
				return err
			}
			records = append(records, rec)
			before := slices.Clone(rec.args)
			err = s.refresh(tx, rec)
			p.unchanged[rec] = reflect.DeepEqual(before, rec.args)
			return err
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
		if err := p.place(records); err != nil {
			return err
		}
		for _, rec := range records {
			if rec.hidden {
				p.hiding = append(p.hiding, rec.spot())
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
