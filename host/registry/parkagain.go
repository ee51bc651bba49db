package registry

import (
	"bytes"
	"strings"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/sdk"
)

// parkAgain merges an operation with what waits of the same one already. The two differ where one came in a snapshot: that has
// what stands of an operation, so that what it added to a set may be removed there. Both count, as they would if the model
// were served here.
func parkAgain(tx *database.Tx, origin int64, c *parked) error {
	var n, columns int64
	var data []byte
	found, err := tx.One("SELECT n, columns, data FROM _parked WHERE origin = ? AND stamp = ? AND shared = 1 AND id = ?", []any{origin, int64(c.stamp), c.id[:]}, &n, &columns, &data) //nolint:gosec // stamps fit
	if err != nil || !found || bytes.Equal(data, c.raw) {
		return err
	}
	set, err := tx.Columns(columns)
	if err != nil {
		return err
	}
	device, err := tx.Device(origin)
	if err != nil {
		return err
	}
	joined := joinedOp{at: sdk.Version{Stamp: c.stamp, Device: device}}
	if err := joined.add(set, data); err != nil {
		return err
	}
	if err := joined.add(c.set, c.raw); err != nil {
		return err
	}
	set.Columns = strings.Join(joined.columns, ",")
	if columns, err = tx.ColumnsNumber(set); err != nil {
		return err
	}
	_, err = tx.Exec("UPDATE _parked SET columns = ?, data = ? WHERE n = ?", columns, joined.pack(), n)
	return err
}

// joinedOp is one operation of which several forms have come.
type joinedOp struct {
	at      sdk.Version
	id      sdk.RecordID
	kind    sdk.OpKind
	columns []string
	values  [][]byte
	seen    []hlc.Stamp
}

// add takes in one form of the operation. Of a field that is neither a set nor a counter all forms have the same value.
func (j *joinedOp) add(set database.ColumnSet, data []byte) error {
	batch := sdk.Batch{Model: set.Model, Version: set.Version, Columns: set.Names(), Count: 1, Rows: data}
	for op, err := range batch.Ops() {
		if err != nil {
			return err
		}
		if j.id = op.ID; j.kind == 0 || op.Kind == sdk.Insert {
			j.kind = op.Kind // what a later insert stands for is an update there
		}
		for _, f := range op.Fields {
			j.field(batch.Columns[f.Column], f.Value, f.Seen)
		}
	}
	return nil
}

func (j *joinedOp) field(column string, value []byte, seen hlc.Stamp) {
	_, merge := sdk.ParseColumn(column)
	for i := range j.columns {
		if j.columns[i] != column {
			continue
		}
		if merge == sdk.AddWins {
			j.values[i] = j.union(merge, j.values[i], value)
		}
		return
	}
	j.columns, j.values, j.seen = append(j.columns, column), append(j.values, value), append(j.seen, seen)
}

// union returns the value of an operation that does what both do; what is malformed is left for the model to refuse.
func (j *joinedOp) union(merge sdk.Merge, one, other []byte) []byte {
	a, errA := sdk.OpParts(merge, j.at, one)
	b, errB := sdk.OpParts(merge, j.at, other)
	if errA != nil || errB != nil {
		return one
	}
	var state sdk.FieldState
	state.SetParts(merge, append(a, b...))
	both, err := state.Parts()
	if err != nil {
		return one
	}
	return sdk.AppendOpParts(nil, merge, j.at, both)
}

func (j *joinedOp) pack() []byte {
	dst := sdk.AppendOpHeader(nil, j.id, j.at.Stamp, j.kind, len(j.columns))
	for i := range j.columns {
		dst = sdk.AppendOpField(dst, i, sdk.Packed(j.values[i]), j.seen[i])
	}
	return dst
}
