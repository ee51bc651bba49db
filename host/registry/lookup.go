package registry

import (
	"database/sql"
	"strings"

	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/sdk"
)

// placeholders returns a list in parentheses of n placeholders.
func placeholders(n int) string { return "(?" + strings.Repeat(",?", n-1) + ")" }

func idArgs(before []any, ids []sdk.RecordID) []any {
	args := make([]any, 0, len(before)+len(ids))
	args = append(args, before...)
	for i := range ids {
		args = append(args, ids[i][:])
	}
	return args
}

// selectIn queries in chunks of ids and calls fn for each row. query ends before the list of ids.
func selectIn(tx *database.Tx, query string, before []any, ids []sdk.RecordID, fn func(*sql.Rows) error) error {
	return inChunks(len(ids), lookupChunks[:], func(statement, from, to int) error {
		return tx.Each(query+placeholders(lookupChunks[statement]), idArgs(before, ids[from:to]), fn)
	})
}

// deleteIn deletes in chunks of ids and, with fn, calls it for each that was there. query ends before the list of ids.
func deleteIn(tx *database.Tx, query string, before []any, ids []sdk.RecordID, fn func(sdk.RecordID)) error {
	return inChunks(len(ids), lookupChunks[:], func(statement, from, to int) error {
		text, args := query+placeholders(lookupChunks[statement]), idArgs(before, ids[from:to])
		if fn == nil {
			_, err := tx.Exec(text, args...)
			return err
		}
		return tx.Each(text+" RETURNING id", args, func(rows *sql.Rows) error {
			id, err := scanID(rows)
			if err == nil {
				fn(id)
			}
			return err
		})
	})
}

func scanID(rows *sql.Rows) (id sdk.RecordID, err error) {
	var raw []byte
	if err := rows.Scan(&raw); err != nil {
		return id, err
	}
	return asID(raw)
}

func asID(raw []byte) (id sdk.RecordID, err error) {
	if len(raw) != len(id) {
		return id, sdk.Errorf(sdk.CodeInternal, "a stored id of %d bytes", len(raw))
	}
	return sdk.RecordID(raw), nil
}

// storedRow is who owns a stored device-owned record, and its stamp.
type storedRow struct{ owner, stamp int64 }

// lookUpRows adds the owner and stamp of the visible device-owned records with these ids to found.
func lookUpRows(tx *database.Tx, m *model, ids []sdk.RecordID, found map[sdk.RecordID]storedRow) error {
	return selectIn(tx, "SELECT id, _owner, _stamp FROM "+m.table+" WHERE id IN ", nil, ids, scanStored(found))
}

func scanStored(found map[sdk.RecordID]storedRow) func(*sql.Rows) error {
	return func(rows *sql.Rows) error {
		var id []byte
		var row storedRow
		if err := rows.Scan(&id, &row.owner, &row.stamp); err != nil {
			return err
		}
		at, err := asID(id)
		found[at] = row
		return err
	}
}
