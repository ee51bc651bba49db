package sdk

import (
	"fmt"
	"iter"

	"github.com/tinylib/msgp/msgp"

	"github.com/starling-sync/starling/hlc"
)

// Batch is a run of changes to one model as it crosses every border: page, wire, plugin. It is encoded once, at its
// origin, and carried as it is. Rows holds Count MessagePack arrays, back to back:
//
//	device-owned, a row:     [id, stamp, value of Columns[0], value of Columns[1], ...]
//	device-owned, a delete:  [id, stamp]
//	shared, an operation:    [id, stamp, kind, (column, value, seen) ...]   column is an index into Columns
//
// A column is the name of a field, with its merge kind behind a colon where that is not lww (Field.Column). The value of a set
// or a counter in an operation is what it does to it (AppendOpParts).
//
// id is 16 bytes (bin), stamp and seen are unsigned integers, kind is an OpKind. A device-owned array of length 2 is a
// delete whatever Columns holds, so that a row names one column at least; a model has one field at least.
type Batch struct {
	Model   ModelName
	Version uint32   // of the schema that Columns comes from
	Columns []string // of the values
	Count   int
	Rows    []byte
}

// MaxRecordBytes is the greatest packed size of one row or operation.
const MaxRecordBytes = 1 << 20

// OpKind is the kind of a shared operation.
type OpKind uint8

// The kinds of shared operations.
const (
	Insert OpKind = 1 // the record exists, with these fields
	Update OpKind = 2 // these fields have new values; never brings a deleted record back
	Delete OpKind = 3 // the record does not exist
)

func (k OpKind) String() string {
	switch k {
	case Insert:
		return "insert"
	case Update:
		return "update"
	case Delete:
		return "delete"
	}
	return fmt.Sprintf("OpKind(%d)", uint8(k))
}

// StateRow is one row of a device-owned batch. Values is packed; DecodeValue reads it.
type StateRow struct {
	ID      RecordID
	Stamp   hlc.Stamp
	Deleted bool
	Values  []byte // len(Columns) packed values back to back; aliases Batch.Rows; empty if Deleted
	Raw     []byte // the whole packed row; aliases Batch.Rows
}

// Op is one operation of a shared batch.
type Op struct {
	ID     RecordID
	Stamp  hlc.Stamp
	Kind   OpKind
	Fields []OpField
	Raw    []byte // the whole packed operation; aliases Batch.Rows
}

// OpField is one field that an operation writes.
type OpField struct {
	Column int       // index into Batch.Columns
	Value  []byte    // packed; aliases Batch.Rows
	Seen   hlc.Stamp // stamp of the value that the writer replaced; zero if it saw none
}

// AppendStateHeader begins a row of columns values (AppendValue appends each), and a delete with columns -1. It panics on
// a row of no values, which is a defect of the caller: it would read as a delete.
func AppendStateHeader(dst []byte, id RecordID, stamp hlc.Stamp, columns int) []byte {
	if columns == 0 {
		panic("sdk: AppendStateHeader of a row without values; a delete has -1 columns")
	}
	dst = msgp.AppendArrayHeader(dst, uint32(2+max(0, columns))) //nolint:gosec // columns is a schema's width
	dst = msgp.AppendBytes(dst, id[:])
	return msgp.AppendUint64(dst, uint64(stamp))
}

// AppendOpHeader begins an operation of fields fields (AppendOpField appends each).
func AppendOpHeader(dst []byte, id RecordID, stamp hlc.Stamp, kind OpKind, fields int) []byte {
	dst = msgp.AppendArrayHeader(dst, uint32(3+3*fields)) //nolint:gosec // fields is a schema's width
	dst = msgp.AppendBytes(dst, id[:])
	dst = msgp.AppendUint64(dst, uint64(stamp))
	return msgp.AppendUint8(dst, uint8(kind))
}

// AppendOpField appends one field of an operation. value must be of a type that AppendValue takes.
func AppendOpField(dst []byte, column int, value any, seen hlc.Stamp) []byte {
	dst = appendColumn(dst, column)
	dst = AppendValue(dst, value)
	return appendSeen(dst, seen)
}

func appendColumn(dst []byte, column int) []byte { return msgp.AppendInt(dst, column) }

func appendSeen(dst []byte, seen hlc.Stamp) []byte { return msgp.AppendUint64(dst, uint64(seen)) }

// AppendValue appends v, which is nil or of a type that Type lists (string, int64, float64, bool, []byte or RecordID), or
// Packed.
// It panics on any other type, which is a defect of the caller: values from outside pass CheckValue first.
func AppendValue(dst []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return msgp.AppendNil(dst)
	case string:
		return msgp.AppendString(dst, v)
	case int64:
		return msgp.AppendInt64(dst, v)
	case float64:
		return msgp.AppendFloat64(dst, oneZero(v))
	case bool:
		return msgp.AppendBool(dst, v)
	case []byte:
		return msgp.AppendBytes(dst, v)
	case RecordID:
		return msgp.AppendBytes(dst, v[:])
	case Packed:
		return append(dst, v...)
	}
	panic(fmt.Sprintf("sdk: AppendValue of %T", v))
}

// DecodeValue reads one packed value as a value of type t and returns the bytes after it. It checks everything that
// CheckValue does except Required. A []byte aliases b.
func DecodeValue(b []byte, t Type) (value any, rest []byte, err error) {
	if msgp.IsNil(b) {
		rest, err = msgp.ReadNilBytes(b)
		return nil, rest, err
	}
	switch t {
	case Text, JSON:
		raw, rest, err := msgp.ReadStringZC(b)
		if err != nil {
			return nil, b, wrongType(t, b, err)
		}
		if err := checkTextBytes(t, raw); err != nil {
			return nil, b, err
		}
		return string(raw), rest, nil
	case Int, Time:
		n, rest, err := msgp.ReadInt64Bytes(b)
		if err != nil {
			return nil, b, wrongType(t, b, err)
		}
		return n, rest, nil
	case Float:
		f, rest, err := msgp.ReadFloat64Bytes(b)
		if err != nil {
			return nil, b, wrongType(t, b, err)
		}
		return oneZero(f), rest, checkFloat(f)
	case Bool:
		v, rest, err := msgp.ReadBoolBytes(b)
		if err != nil {
			return nil, b, wrongType(t, b, err)
		}
		return v, rest, nil
	case Bytes:
		v, rest, err := msgp.ReadBytesZC(b)
		if err != nil {
			return nil, b, wrongType(t, b, err)
		}
		return v, rest, nil
	case UUID:
		id, rest, err := readID(b)
		if err != nil {
			return nil, b, wrongType(t, b, err)
		}
		return id, rest, nil
	}
	return nil, b, Errorf(CodeUnsupported, "field type %q is unknown here", t)
}

// oneZero returns f, and zero for the negative zero, which compares equal and which databases do not keep: a value must
// be the same bytes wherever it has been.
func oneZero(f float64) float64 {
	if f == 0 {
		return 0
	}
	return f
}

func wrongType(t Type, b []byte, err error) error {
	return Errorf(CodeInvalid, "want %s, got %s: %w", t, msgp.NextType(b), err)
}

// CheckValue returns why v can not be stored as a t: a wrong Go type, text that is not UTF-8 or holds NUL (which
// PostgreSQL refuses), a float that is not finite, text that is not JSON. nil is always of the right type.
func CheckValue(t Type, v any) error {
	switch v := v.(type) {
	case nil:
		return nil
	case string:
		if t != Text && t != JSON {
			return Errorf(CodeInvalid, "want %s, got text", t)
		}
		return checkText(t, v)
	case int64:
		return checkType(t, v, Int, Time)
	case float64:
		if err := checkFloat(v); err != nil {
			return err
		}
		return checkType(t, v, Float)
	case bool:
		return checkType(t, v, Bool)
	case []byte:
		return checkType(t, v, Bytes)
	case RecordID:
		return checkType(t, v, UUID)
	}
	return Errorf(CodeInvalid, "want %s, got a Go %T", t, v)
}

// StateRows yields the rows of a device-owned batch, and in the place of each malformed one its error. It goes on behind
// that if the caller does and the next row can be found.
func (b *Batch) StateRows() iter.Seq2[StateRow, error] {
	return func(yield func(StateRow, error) bool) {
		rest := b.Rows
		for i := range b.Count {
			row, next, err := readStateRow(rest, len(b.Columns))
			if err != nil {
				if next = b.skipMalformed(rest); !yield(row, b.malformed("row", i, err)) || next == nil {
					return
				}
			} else if !yield(row, nil) {
				return
			}
			rest = next
		}
		if len(rest) > 0 {
			yield(StateRow{}, Errorf(CodeInvalid, "%s: %d bytes after the last of %d rows", b.Model, len(rest), b.Count))
		}
	}
}

func (b *Batch) malformed(what string, i int, err error) error {
	code := CodeInvalid
	if CodeOf(err) == CodeTooLarge {
		code = CodeTooLarge
	}
	return Errorf(code, "%s: %s %d of %d: %w", b.Model, what, i, b.Count, err)
}

// skipMalformed returns what follows the malformed row that rest begins with, or nil if that can not be told.
func (b *Batch) skipMalformed(rest []byte) []byte {
	next, err := msgp.Skip(rest)
	if err != nil {
		return nil
	}
	if next == nil {
		next = []byte{}
	}
	return next
}

func readStateRow(b []byte, columns int) (row StateRow, rest []byte, err error) {
	n, rest, err := msgp.ReadArrayHeaderBytes(b)
	if err != nil {
		return row, b, err
	}
	if int(n) != 2 && int(n) != 2+columns {
		return row, b, fmt.Errorf("%d values for %d columns", int(n)-2, columns)
	}
	if row.ID, rest, err = readID(rest); err != nil {
		return row, b, fmt.Errorf("id: %w", err)
	}
	if row.Stamp, rest, err = readStamp(rest); err != nil {
		return row, b, err
	}
	row.Deleted = n == 2
	values := rest
	for range int(n) - 2 {
		if rest, err = msgp.Skip(rest); err != nil {
			return row, b, err
		}
	}
	row.Values = values[:len(values)-len(rest)]
	row.Raw = b[:len(b)-len(rest)]
	return row, rest, checkSize(row.Raw)
}

// Ops yields the operations of a shared batch as StateRows does rows.
// Op.Fields is valid until the next one is yielded.
func (b *Batch) Ops() iter.Seq2[Op, error] {
	return func(yield func(Op, error) bool) {
		rest := b.Rows
		var fields []OpField
		for i := range b.Count {
			op, next, err := readOp(rest, len(b.Columns), fields[:0])
			if err != nil {
				if next = b.skipMalformed(rest); !yield(op, b.malformed("operation", i, err)) || next == nil {
					return
				}
			} else if !yield(op, nil) {
				return
			}
			rest, fields = next, op.Fields
		}
		if len(rest) > 0 {
			yield(Op{}, Errorf(CodeInvalid, "%s: %d bytes after the last of %d operations", b.Model, len(rest), b.Count))
		}
	}
}

func readOp(b []byte, columns int, fields []OpField) (op Op, rest []byte, err error) {
	n, rest, err := msgp.ReadArrayHeaderBytes(b)
	if err != nil {
		return op, b, err
	}
	if n < 3 || n%3 != 0 || int(n)/3-1 > columns {
		return op, b, fmt.Errorf("an operation of %d parts for %d columns", n, columns)
	}
	if op.ID, rest, err = readID(rest); err != nil {
		return op, b, fmt.Errorf("id: %w", err)
	}
	if op.Stamp, rest, err = readStamp(rest); err != nil {
		return op, b, err
	}
	kind, rest, err := msgp.ReadUint8Bytes(rest)
	if err != nil {
		return op, b, fmt.Errorf("kind: %w", err)
	}
	op.Kind = OpKind(kind)
	if op.Kind < Insert || op.Kind > Delete || (op.Kind == Delete && n > 3) {
		return op, b, fmt.Errorf("operation kind %d with %d fields", kind, n/3-1)
	}
	for range n/3 - 1 {
		var f OpField
		if f, rest, err = readOpField(rest, columns); err != nil {
			return op, b, err
		}
		fields = append(fields, f)
	}
	op.Fields = fields
	op.Raw = b[:len(b)-len(rest)]
	return op, rest, checkSize(op.Raw)
}

func readOpField(b []byte, columns int) (f OpField, rest []byte, err error) {
	if f.Column, rest, err = msgp.ReadIntBytes(b); err != nil {
		return f, b, err
	}
	if f.Column < 0 || f.Column >= columns {
		return f, b, fmt.Errorf("column %d of %d", f.Column, columns)
	}
	value := rest
	if rest, err = msgp.Skip(rest); err != nil {
		return f, b, err
	}
	f.Value = value[:len(value)-len(rest)]
	f.Seen, rest, err = readStamp(rest)
	return f, rest, err
}

func readID(b []byte) (id RecordID, rest []byte, err error) {
	raw, rest, err := msgp.ReadBytesZC(b)
	if err != nil {
		return id, b, err
	}
	if len(raw) != len(id) {
		return id, b, fmt.Errorf("an id of %d bytes; want %d", len(raw), len(id))
	}
	return RecordID(raw), rest, nil
}

func readStamp(b []byte) (hlc.Stamp, []byte, error) {
	n, rest, err := msgp.ReadUint64Bytes(b)
	if err != nil {
		return 0, b, fmt.Errorf("stamp: %w", err)
	}
	if hlc.Stamp(n) > hlc.MaxStamp {
		return 0, b, fmt.Errorf("stamp %x is beyond the greatest", n)
	}
	return hlc.Stamp(n), rest, nil
}

func checkSize(raw []byte) error {
	if len(raw) > MaxRecordBytes {
		return Errorf(CodeTooLarge, "a record of %d bytes; at most %d are allowed", len(raw), MaxRecordBytes)
	}
	return nil
}
