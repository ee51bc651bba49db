package registry

import (
	"context"
	"strings"

	"github.com/starling-sync/starling/sdk"
)

// mayOwn refuses a record of a hybrid model that refers to what another device owns, or to what nobody is known to own.
func (w *rowWriter) mayOwn(rec *record) (bool, error) {
	if w.b.hybrid == nil {
		return true, nil
	}
	f := w.b.hybrid.Owner()
	raw, _ := rec.args[1+w.b.index[f.Name]].([]byte)
	id, err := asID(raw) // a row that the model took has one
	if err != nil {
		return false, err
	}
	no := sdk.Errorf(sdk.CodeNotFound, "there is no %s %s here, so that nobody can tell whose the %s would be", f.Ref, id, w.b.name)
	for _, s := range w.pl.catalog.parts(f.Ref) {
		if s.shared {
			continue
		}
		held, err := s.readStored(w.pl.tx, []sdk.RecordID{id})
		if err != nil {
			return false, err
		}
		if found := held[id]; found != nil {
			if found.origin == w.p.origin {
				return true, nil
			}
			no = sdk.Errorf(sdk.CodeNotOwner, "%s %s belongs to device %s, and so does its %s; write it there, or a shared one without %q", f.Ref, id, found.origin, w.b.name, f.Name)
		}
	}
	w.refused[w.b.position] = append(w.refused[w.b.position], sdk.Refusal{Index: w.b.rowIndex[rec.id], Code: no.Code, Message: no.Message})
	return false, nil
}

// part is the model server of the part of a hybrid model that devices own, which knows it by the name of the whole.
type part struct {
	sdk.ModelServer
	name sdk.ModelName
}

func (p part) ApplyStateChange(ctx context.Context, in sdk.StateChanges) (sdk.StateResult, error) {
	in.Batch.Model = p.name
	return p.ModelServer.ApplyStateChange(ctx, in)
}

// createView returns the statements that make the view of a hybrid model: all its records, owned (by whom: _owner) and shared
// (_owner is NULL).
func createView(parts []*model) []string {
	name := quote(string(parts[0].name))
	var selects []string
	for _, m := range parts {
		columns := []string{"id"}
		for _, field := range m.names {
			columns = append(columns, quote(field))
		}
		owner := "_owner"
		if m.shared {
			owner = "CAST(NULL AS BIGINT) AS _owner"
		}
		selects = append(selects, "SELECT "+strings.Join(append(columns, owner), ", ")+" FROM "+m.table)
	}
	return []string{"DROP VIEW IF EXISTS " + name, "CREATE VIEW " + name + " AS " + strings.Join(selects, " UNION ALL ")}
}
