package rpc

import (
	"fmt"

	"github.com/tinylib/msgp/msgp"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/sdk"
)

// Shared records and their conflicts cross the border as MessagePack, back to back:
//
//	record    [id, inserted, deleted, fields] and fields times: [name, value, version, seen]
//	conflict  [id, field, value, lost, winner]
//	version   stamp, device (bin; empty: zero)
//	value     tag, packed value     the tag tells types apart that MessagePack does not
//	          tagMerged, merge kind, state (bin), value     in a record, of a set or counter and of what is not lww and unknown
const (
	tagNil = iota
	tagText
	tagInt
	tagFloat
	tagBool
	tagBytes
	tagID
	tagMerged
)

const minFieldBytes = 7 // of a packed field: bounds what a malformed count can make the reader allocate

func appendValue(dst []byte, v any) ([]byte, error) {
	var tag uint8
	switch v.(type) {
	case nil:
		tag = tagNil
	case string:
		tag = tagText
	case int64:
		tag = tagInt
	case float64:
		tag = tagFloat
	case bool:
		tag = tagBool
	case []byte:
		tag = tagBytes
	case sdk.RecordID:
		tag = tagID
	default:
		return dst, sdk.Errorf(sdk.CodeInvalid, "a value of Go type %T; want nil, string, int64, float64, bool, []byte or sdk.RecordID", v)
	}
	return sdk.AppendValue(msgp.AppendUint8(dst, tag), v), nil
}

func appendValues(dst []byte, values []any) (_ []byte, err error) {
	for _, v := range values {
		if dst, err = appendValue(dst, v); err != nil {
			return nil, err
		}
	}
	return dst, nil
}

func appendVersion(dst []byte, v sdk.Version) []byte {
	dst = msgp.AppendUint64(dst, uint64(v.Stamp))
	if v.Device.IsZero() {
		return msgp.AppendBytes(dst, nil)
	}
	return msgp.AppendBytes(dst, v.Device[:])
}

func appendRecords(dst []byte, records []sdk.Record) (_ []byte, err error) {
	for i := range records {
		r := &records[i]
		dst = msgp.AppendBytes(dst, r.ID[:])
		dst = appendVersion(dst, r.Inserted)
		dst = appendVersion(dst, r.Deleted)
		dst = msgp.AppendInt(dst, len(r.Fields))
		for _, f := range r.Fields {
			dst = msgp.AppendString(dst, f.Name)
			if f.Merge != "" || f.State != nil {
				dst = msgp.AppendUint8(dst, tagMerged)
				dst = msgp.AppendString(dst, string(f.Merge))
				dst = msgp.AppendBytes(dst, f.State)
			}
			if dst, err = appendValue(dst, f.Value); err != nil {
				return nil, fmt.Errorf("record %s, field %s: %w", r.ID, f.Name, err)
			}
			dst = appendVersion(dst, f.Version)
			dst = msgp.AppendUint64(dst, uint64(f.Seen))
		}
	}
	return dst, nil
}

func appendConflicts(dst []byte, conflicts []sdk.Conflict) (_ []byte, err error) {
	for _, c := range conflicts {
		dst = msgp.AppendBytes(dst, c.ID[:])
		dst = msgp.AppendString(dst, c.Field)
		if dst, err = appendValue(dst, c.Value); err != nil {
			return nil, fmt.Errorf("conflict of record %s, field %s: %w", c.ID, c.Field, err)
		}
		dst = appendVersion(dst, c.Lost)
		dst = appendVersion(dst, c.Winner)
	}
	return dst, nil
}

// reader reads what the functions above appended. After the first error it returns zero values, and err says why.
// What it returns aliases b, strings excepted.
type reader struct {
	b     []byte
	err   error
	names map[string]string // one copy of each field name
}

// take runs one of msgp's Read*Bytes functions on what is left.
func take[T any](r *reader, read func([]byte) (T, []byte, error)) (v T) {
	if r.err != nil {
		return v
	}
	got, rest, err := read(r.b)
	if err != nil {
		r.err = err
		return v
	}
	r.b = rest
	return got
}

func (r *reader) more() bool { return r.err == nil && len(r.b) > 0 }

func (r *reader) failf(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf(format, args...)
	}
}

func (r *reader) uuid() (id [16]byte) {
	raw := take(r, msgp.ReadBytesZC)
	if r.err == nil && len(raw) != len(id) {
		r.failf("an id of %d bytes", len(raw))
		return id
	}
	copy(id[:], raw)
	return id
}

func (r *reader) stamp() hlc.Stamp {
	s := hlc.Stamp(take(r, msgp.ReadUint64Bytes))
	if s > hlc.MaxStamp {
		r.failf("stamp %x is beyond the greatest", uint64(s))
	}
	return s
}

func (r *reader) version() (v sdk.Version) {
	v.Stamp = r.stamp()
	switch raw := take(r, msgp.ReadBytesZC); len(raw) {
	case 0:
	case len(v.Device):
		copy(v.Device[:], raw)
	default:
		r.failf("a device id of %d bytes", len(raw))
	}
	return v
}

func (r *reader) name() string {
	raw := take(r, msgp.ReadStringZC)
	if s, ok := r.names[string(raw)]; ok {
		return s
	}
	if r.names == nil {
		r.names = make(map[string]string)
	}
	s := string(raw)
	r.names[s] = s
	return s
}

func (r *reader) value() any {
	switch tag := take(r, msgp.ReadUint8Bytes); tag {
	case tagNil:
		take(r, func(b []byte) (struct{}, []byte, error) {
			rest, err := msgp.ReadNilBytes(b)
			return struct{}{}, rest, err
		})
		return nil
	case tagText:
		return take(r, msgp.ReadStringBytes)
	case tagInt:
		return take(r, msgp.ReadInt64Bytes)
	case tagFloat:
		return take(r, msgp.ReadFloat64Bytes)
	case tagBool:
		return take(r, msgp.ReadBoolBytes)
	case tagBytes:
		return take(r, msgp.ReadBytesZC)
	case tagID:
		return sdk.RecordID(r.uuid())
	default:
		r.failf("value tag %d is unknown", tag)
		return nil
	}
}

func readValues(b []byte) ([]any, error) {
	r := reader{b: b}
	var values []any
	for r.more() {
		values = append(values, r.value())
	}
	return values, r.wrap("values")
}

func readRecords(b []byte) ([]sdk.Record, error) {
	r := reader{b: b}
	var records []sdk.Record
	for r.more() {
		rec := sdk.Record{ID: sdk.RecordID(r.uuid()), Inserted: r.version(), Deleted: r.version()}
		n := take(&r, msgp.ReadIntBytes)
		if n < 0 || n > len(r.b)/minFieldBytes {
			r.failf("%d fields in %d bytes", n, len(r.b))
			break
		}
		if n > 0 {
			rec.Fields = make([]sdk.FieldState, 0, n)
		}
		for range n {
			if r.err != nil {
				break
			}
			rec.Fields = append(rec.Fields, r.field())
		}
		records = append(records, rec)
	}
	return records, r.wrap("records")
}

func (r *reader) field() (f sdk.FieldState) {
	f.Name = r.name()
	if len(r.b) > 0 && r.b[0] == tagMerged { // a tag is one byte
		take(r, msgp.ReadUint8Bytes)
		f.Merge = sdk.Merge(r.name())
		if f.State = take(r, msgp.ReadBytesZC); len(f.State) == 0 {
			f.State = nil
		}
	}
	f.Value, f.Version, f.Seen = r.value(), r.version(), r.stamp()
	return f
}

func readConflicts(b []byte) ([]sdk.Conflict, error) {
	r := reader{b: b}
	var conflicts []sdk.Conflict
	for r.more() {
		conflicts = append(conflicts, sdk.Conflict{
			ID: sdk.RecordID(r.uuid()), Field: r.name(), Value: r.value(), Lost: r.version(), Winner: r.version(),
		})
	}
	return conflicts, r.wrap("conflicts")
}

func (r *reader) wrap(what string) error {
	if r.err == nil {
		return nil
	}
	return sdk.Errorf(sdk.CodeInvalid, "packed %s are malformed: %w", what, r.err)
}
