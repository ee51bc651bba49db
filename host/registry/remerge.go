package registry

import (
	"database/sql"
	"slices"

	"github.com/tinylib/msgp/msgp"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/sdk"
)

// mergedByValue returns the fields of next that old lacks and that merge by value.
func mergedByValue(old, next *sdk.Description) (names []string) {
	for _, f := range next.Fields {
		if _, known := old.Field(f.Name); !known && orLWW(f.Merge) != sdk.LWW {
			names = append(names, f.Name)
		}
	}
	return names
}

// remerge parks what the log's operations say of these fields, so that it is merged again: while a field was not known
// here its latest write won, and the greatest or least value may be one that lost. It parks in the transaction that adds
// the fields, so that a crash before the merge loses nothing. Merging a write again changes nothing.
//
// It relies on the log having every operation: what is pruned from it must be kept as state first.
func remerge(tx *database.Tx, m *model, names []string) error {
	var origin int64
	var after hlc.Stamp
	for {
		count := 0
		var found []loggedOp
		err := tx.Each(`SELECT l.origin, l.stamp, l.columns, l.op FROM _log l JOIN _columns c ON c.n = l.columns
			WHERE c.model = ? AND (l.origin, l.stamp) > (?, ?) AND NOT EXISTS (SELECT 1 FROM _refused r WHERE r.origin = l.origin AND r.stamp = l.stamp)
			ORDER BY l.origin, l.stamp LIMIT ?`,
			[]any{string(m.desc.Model), origin, int64(after), replayRows}, func(rows *sql.Rows) error { //nolint:gosec // stamps fit
				count++
				op, ok, err := scanLogged(tx, rows, names)
				if ok {
					found = append(found, op)
				}
				origin, after = op.origin, op.stamp
				return err
			})
		if err != nil || count == 0 {
			return err
		}
		for i := range found {
			op := &found[i]
			_, err := tx.Exec("INSERT INTO _parked (origin, stamp, model, shared, id, columns, data) VALUES (?, ?, ?, 1, ?, ?, ?) ON CONFLICT (origin, stamp) DO NOTHING",
				op.origin, int64(op.stamp), m.n, op.id[:], op.columns, op.data) //nolint:gosec // stamps fit
			if err != nil {
				return err
			}
		}
	}
}

// loggedOp is what an operation of the log says of some fields.
type loggedOp struct {
	origin, columns int64
	id              sdk.RecordID
	stamp           hlc.Stamp
	data            []byte // an update of these fields alone
}

// scanLogged reads an operation; ok says that it writes one of names.
func scanLogged(tx *database.Tx, rows *sql.Rows, names []string) (out loggedOp, ok bool, err error) {
	var stamp int64
	var raw sql.RawBytes
	if err := rows.Scan(&out.origin, &stamp, &out.columns, &raw); err != nil {
		return out, false, err
	}
	out.stamp = hlc.Stamp(stamp) //nolint:gosec // not negative
	set, err := tx.Columns(out.columns)
	if err != nil {
		return out, false, err
	}
	batch := sdk.Batch{Model: set.Model, Version: set.Version, Columns: set.Names(), Count: 1, Rows: raw}
	for op, err := range batch.Ops() {
		if err != nil {
			return out, false, err
		}
		fields := slices.DeleteFunc(op.Fields, func(f sdk.OpField) bool { return !slices.Contains(names, batch.Columns[f.Column]) })
		out.id, ok = op.ID, len(fields) > 0
		out.data = sdk.AppendOpHeader(nil, op.ID, op.Stamp, sdk.Update, len(fields))
		for _, f := range fields {
			out.data = msgp.AppendInt(out.data, f.Column)
			out.data = append(out.data, f.Value...)
			out.data = msgp.AppendUint64(out.data, uint64(f.Seen))
		}
	}
	return out, ok, nil
}
