package sdk

import (
	"fmt"
	"io/fs"
	"slices"

	"github.com/tinylib/msgp/msgp"
)

// CheckState decides on a batch of device-owned rows as a plain model does; Model calls it. It returns no Rows: what is
// not refused is stored as given.
//
// Refused are malformed rows, values of a wrong type, and rows whose id is not that of their natural key. Of local
// batches also: unknown columns, fields that are required and nil, references to the row itself, and what validate
// (which may be nil) returns an error for; the row's slices are valid during that call.
//
// The error is for a batch that is malformed as a whole.
func CheckState(desc *Description, in StateChanges, validate func(row *StateRow) error) (StateResult, error) {
	plan, err := planBatch(desc, &in.Batch)
	if err != nil {
		return StateResult{}, err
	}
	check := rowCheck{plan: plan, local: in.Local}
	var result StateResult
	index := -1
	for row, err := range in.Batch.StateRows() {
		index++
		if index == in.Batch.Count {
			return StateResult{}, err // what follows the last one
		}
		if err == nil && !row.Deleted {
			err = check.row(&row)
			if err == nil && in.Local && validate != nil {
				given := row // only rows that are validated go to the heap
				err = validate(&given)
			}
		}
		if err != nil {
			result.Refused = append(result.Refused, refusal(desc.Model, index, err))
		}
	}
	result.Refused = refuseRest(result.Refused, index+1, &in.Batch)
	return result, nil
}

// refusal turns err into a Refusal; an error without a code is the author's: the input is wrong.
//
// What the standard library says of files, such as os.ErrPermission, is no reason: it reads as if the host might not do something.
func refusal(model ModelName, index int, err error) Refusal {
	code := CodeOf(err)
	if code == CodeInternal {
		code = CodeInvalid
	}
	message := err.Error()
	if slices.Contains([]error{fs.ErrPermission, fs.ErrNotExist, fs.ErrExist, fs.ErrInvalid, fs.ErrClosed}, err) { // wrapped, it has words of its own
		message = fmt.Sprintf("model %q refused this without a reason (%s)", model, message)
	}
	return Refusal{Index: index, Code: code, Message: message}
}

// refuseRest refuses what could not be found behind a malformed row.
func refuseRest(refused []Refusal, from int, b *Batch) []Refusal {
	for i := from; i < b.Count; i++ {
		refused = append(refused, Refusal{Index: i, Code: CodeInvalid, Message: "unreadable: an earlier row of the batch is malformed"})
	}
	return refused
}

// batchPlan is what a batch's columns mean to a description.
type batchPlan struct {
	desc    *Description
	columns []*Field // nil: not known here
	names   []string // of the fields that the columns are
	merges  []Merge  // of the columns
	keys    []int    // columns of the natural key, in the order of the description
	keyed   bool     // the model has a natural key
	whole   bool     // every key field has a column
	missing *Field   // a required field that has no column
}

// planBatch returns an error for a batch that is malformed as a whole.
func planBatch(desc *Description, b *Batch) (*batchPlan, error) {
	switch {
	case b.Model != desc.Model:
		return nil, Errorf(CodeUnknownModel, "a batch of model %q was given to model %q", b.Model, desc.Model)
	case b.Count < 0 || b.Count > len(b.Rows):
		return nil, Errorf(CodeInvalid, "%s: a batch of %d rows in %d bytes", b.Model, b.Count, len(b.Rows))
	case len(b.Columns) > maxFields:
		return nil, Errorf(CodeTooLarge, "%s: a batch of %d columns; at most %d are allowed", b.Model, len(b.Columns), maxFields)
	}
	p := &batchPlan{desc: desc, columns: make([]*Field, len(b.Columns)), whole: true}
	p.names, p.merges = make([]string, len(b.Columns)), make([]Merge, len(b.Columns))
	position := make(map[string]int, len(b.Columns))
	for i, column := range b.Columns {
		name, merge := ParseColumn(column)
		p.names[i], p.merges[i] = name, merge
		if err := checkFieldName(name); err != nil {
			return nil, Errorf(CodeInvalid, "%s: column %q: %w", b.Model, column, err)
		}
		if _, twice := position[name]; twice {
			return nil, Errorf(CodeInvalid, "%s: two columns are named %q", b.Model, name)
		}
		position[name] = i
	}
	for i := range desc.Fields {
		f := &desc.Fields[i]
		column, given := position[f.Name]
		if given {
			p.columns[column], p.merges[column] = f, f.Merge
		} else if f.Required && p.missing == nil {
			p.missing = f
		}
		if f.Key {
			p.keyed = true
			p.whole = p.whole && given
			p.keys = append(p.keys, column)
		}
	}
	return p, nil
}

// checkOwner returns why the key of a record of a hybrid model is not that of an owned or of a shared record, where given
// says which columns of the key have a value. Other models have no owner field.
func (p *batchPlan) checkOwner(given func(column int) bool, kind Ownership) error {
	if p.desc.Ownership != HybridOwned || !p.whole {
		return nil
	}
	some := false
	for _, column := range p.keys {
		has := given(column)
		some = some || has
		if f := p.columns[column]; f.Owner && has != (kind == DeviceOwned) {
			if has {
				return Errorf(CodeInvalid, "a %s with %q belongs to a device, and this is a change to a shared one", p.desc.Model, f.Name)
			}
			return Errorf(CodeInvalid, "a %s without %q is shared by all devices, and this is a change to an owned one", p.desc.Model, f.Name)
		}
	}
	if !some {
		return Errorf(CodeInvalid, "no field of the natural key of %s has a value; give one of them", p.desc.Model)
	}
	return nil
}

// rowCheck checks the rows of one batch, and reuses its buffers between them.
type rowCheck struct {
	plan   *batchPlan
	local  bool
	values [][]byte // packed, parallel to the columns; kept for models with a natural key
	packed []byte
}

func (c *rowCheck) row(row *StateRow) error {
	if c.local && c.plan.missing != nil {
		return Errorf(CodeInvalid, "field %q is required", c.plan.missing.Name)
	}
	if !c.local && row.Stamp == 0 {
		return Errorf(CodeInvalid, "a row without a stamp")
	}
	c.values = c.values[:0]
	rest := row.Values
	for i, f := range c.plan.columns {
		value := rest
		null := msgp.IsNil(rest)
		var err error
		if f != nil {
			rest, err = checkPacked(rest, f.Type)
		} else {
			rest, err = c.unknown(i, rest)
		}
		if err != nil {
			return fieldError(c.plan.names[i], err)
		}
		value = value[:len(value)-len(rest)]
		if c.local && f != nil {
			if err := checkLocalValue(f, null, value, row.ID); err != nil {
				return err
			}
		}
		if c.plan.keyed {
			c.values = append(c.values, value)
		}
	}
	if c.plan.keyed {
		if err := c.plan.checkOwner(func(column int) bool { return !msgp.IsNil(c.values[column]) }, DeviceOwned); err != nil {
			return err
		}
		return c.key(row.ID)
	}
	return nil
}

func (c *rowCheck) unknown(column int, value []byte) ([]byte, error) {
	if c.local {
		return value, unknownField(c.plan.desc, c.plan.names[column])
	}
	_, rest, err := decodeUntyped(value)
	return rest, err
}

func (c *rowCheck) key(id RecordID) error {
	if !c.plan.whole {
		return Errorf(CodeInvalid, "the fields of the natural key of %s are not all there", c.plan.desc.Model)
	}
	c.packed = c.packed[:0]
	for _, column := range c.plan.keys {
		value, _, err := DecodeValue(c.values[column], c.plan.columns[column].Type)
		if err != nil {
			return fieldError(c.plan.names[column], err)
		}
		c.packed = AppendValue(c.packed, value)
	}
	return checkKey(c.plan.desc, id, c.packed)
}

// checkKey returns why id is not that of the packed key values.
func checkKey(desc *Description, id RecordID, packed []byte) error {
	if want := packedKeyID(desc.Model, packed); id != want {
		return Errorf(CodeInvalid, "the id %s is not that of the natural key; %s with these values has the id %s", id, desc.Model, want)
	}
	return nil
}

// checkLocalValue returns why a value of a known field may not be written here.
func checkLocalValue(f *Field, null bool, value []byte, id RecordID) error {
	switch {
	case null && f.Required:
		return Errorf(CodeInvalid, "field %q is required", f.Name)
	case !null && f.Type == UUID && !f.Weak:
		if ref, _, err := readID(value); err == nil && ref == id {
			return Errorf(CodeInvalid, "field %q refers to the record itself, which could then never be visible", f.Name)
		}
	}
	return nil
}

func fieldError(name string, err error) error {
	code := CodeOf(err)
	if code == CodeInternal {
		code = CodeInvalid
	}
	if code == CodeUnknownField {
		return err
	}
	return Errorf(code, "field %q: %w", name, err)
}

// checkPacked is DecodeValue without the value, so that checking costs no memory.
func checkPacked(b []byte, t Type) (rest []byte, err error) {
	if msgp.IsNil(b) {
		return b[1:], nil
	}
	switch t {
	case Text, JSON:
		raw, rest, err := msgp.ReadStringZC(b)
		if err != nil {
			return b, wrongType(t, b, err)
		}
		return rest, checkTextBytes(t, raw)
	case Int, Time:
		if _, rest, err = msgp.ReadInt64Bytes(b); err == nil {
			return rest, nil
		}
	case Float:
		var f float64
		if f, rest, err = msgp.ReadFloat64Bytes(b); err == nil {
			return rest, checkFloat(f)
		}
	case Bool:
		if _, rest, err = msgp.ReadBoolBytes(b); err == nil {
			return rest, nil
		}
	case Bytes:
		if _, rest, err = msgp.ReadBytesZC(b); err == nil {
			return rest, nil
		}
	case UUID:
		if _, rest, err = readID(b); err == nil {
			return rest, nil
		}
	default:
		_, rest, err = DecodeValue(b, t)
		return rest, err
	}
	return b, wrongType(t, b, err)
}

// decodeUntyped reads a value of a field that is not known here: nil, string, int64, float64, bool or []byte, which
// aliases b.
func decodeUntyped(b []byte) (value any, rest []byte, err error) {
	var t Type
	switch msgp.NextType(b) {
	case msgp.NilType:
		rest, err = msgp.ReadNilBytes(b)
		return nil, rest, err
	case msgp.StrType:
		t = Text
	case msgp.IntType, msgp.UintType:
		t = Int
	case msgp.Float64Type, msgp.Float32Type:
		t = Float
	case msgp.BoolType:
		t = Bool
	case msgp.BinType:
		t = Bytes
	default:
		return nil, b, Errorf(CodeUnsupported, "a packed %s is of no type that is known here", msgp.NextType(b))
	}
	return DecodeValue(b, t)
}
