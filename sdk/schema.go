package sdk

import (
	"encoding/json"
	"reflect"
	"strings"
	"time"

	"github.com/tinylib/msgp/msgp"
)

// schema binds a description to the Go struct that it was read from.
type schema struct {
	desc   Description
	base   int          // index of the embedded Owned, Shared or Hybrid in the struct
	fields []boundField // parallel to desc.Fields
}

// boundField says where a field lies in the struct and how it is held there.
type boundField struct {
	Field
	index   int // in the struct
	pointer bool
	holds   holding

	demanded bool // the tag says required, rather than a key that implies it
}

// holding is the Go type that holds a field.
type holding uint8

const (
	holdsString holding = iota
	holdsInt
	holdsFloat
	holdsBool
	holdsBytes
	holdsRef
	holdsTime
	holdsJSON
	holdsTexts // Set[string]
	holdsInts  // Set[int64]
	holdsCounter
)

func newSchema[T any](desc Description) (*schema, error) {
	t := reflect.TypeFor[T]()
	if t.Kind() != reflect.Struct {
		return nil, Errorf(CodeInvalid, "model %q: %s is not a struct", desc.Model, t)
	}
	s := &schema{desc: desc, base: -1, fields: make([]boundField, 0, t.NumField())}
	for i := range t.NumField() {
		if err := s.addStructField(t.Field(i), i); err != nil {
			return nil, Errorf(CodeInvalid, "model %q: %s.%s: %w", desc.Model, t, t.Field(i).Name, err)
		}
	}
	if s.base < 0 {
		return nil, Errorf(CodeInvalid, "model %q: %s embeds none of sdk.Shared, sdk.Owned and sdk.Hybrid; embed the one that says who may change its records", desc.Model, t)
	}
	s.desc.Fields = make([]Field, len(s.fields))
	for i := range s.fields {
		if s.fields[i].Key && s.desc.Ownership == HybridOwned {
			s.fields[i].Required = s.fields[i].demanded
		}
		s.desc.Fields[i] = s.fields[i].Field
	}
	if err := s.desc.Check(); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *schema) addStructField(f reflect.StructField, index int) error {
	bases := map[reflect.Type]Ownership{
		reflect.TypeFor[Owned](): DeviceOwned, reflect.TypeFor[Shared](): SharedByAll, reflect.TypeFor[Hybrid](): HybridOwned,
	}
	if f.Anonymous && bases[f.Type] != "" {
		if s.base >= 0 {
			return Errorf(CodeInvalid, "only one of sdk.Shared, sdk.Owned and sdk.Hybrid can be embedded")
		}
		s.base, s.desc.Ownership = index, bases[f.Type]
		return nil
	}
	tag, tagged := f.Tag.Lookup("starling")
	switch {
	case tag == "-" || (!tagged && !f.IsExported()):
		return nil
	case !tagged:
		return Errorf(CodeInvalid, `it has no tag; name its column as in starling:"name", or leave it out with starling:"-"`)
	case !f.IsExported():
		return Errorf(CodeInvalid, "it has a tag but is not exported; give it an upper-case name")
	}
	field, err := bindField(f, index, tag)
	if err != nil {
		return err
	}
	s.fields = append(s.fields, field)
	return nil
}

func bindField(f reflect.StructField, index int, tag string) (boundField, error) {
	b := boundField{index: index, Field: Field{Doc: f.Tag.Get("doc")}}
	t := f.Type
	if t.Kind() == reflect.Pointer {
		b.pointer, t = true, t.Elem()
	}
	if t == reflect.TypeFor[Set[string]]() || t == reflect.TypeFor[Set[int64]]() || t == reflect.TypeFor[Counter]() {
		if b.pointer {
			return b, Errorf(CodeInvalid, "a field can not be a %s: a set or a counter is never NULL; use %s", f.Type, t)
		}
		b.Merge = AddWins
	}
	switch {
	case t == reflect.TypeFor[Set[string]]():
		b.Type, b.holds = Text, holdsTexts
	case t == reflect.TypeFor[Set[int64]]():
		b.Type, b.holds = Int, holdsInts
	case t == reflect.TypeFor[Counter]():
		b.Type, b.holds, b.Merge = Int, holdsCounter, Sum
	case t == reflect.TypeFor[Ref](), t == reflect.TypeFor[AnyRef]():
		b.Type, b.holds = UUID, holdsRef
	case t == reflect.TypeFor[time.Time]():
		b.Type, b.holds = Time, holdsTime
	case t == reflect.TypeFor[json.RawMessage]():
		b.Type, b.holds = JSON, holdsJSON
	case t == reflect.TypeFor[[]byte]():
		b.Type, b.holds = Bytes, holdsBytes
	case t.Kind() == reflect.String:
		b.Type, b.holds = Text, holdsString
	case t.Kind() == reflect.Int64 || t.Kind() == reflect.Int:
		b.Type, b.holds = Int, holdsInt
	case t.Kind() == reflect.Float64:
		b.Type, b.holds = Float, holdsFloat
	case t.Kind() == reflect.Bool:
		b.Type, b.holds = Bool, holdsBool
	default:
		return b, Errorf(CodeInvalid, "a field can not be a %s; use string, int64, float64, bool, []byte, sdk.Ref, sdk.AnyRef, time.Time, json.RawMessage or a pointer to one, or sdk.Set[string], sdk.Set[int64] or sdk.Counter", f.Type)
	}
	name, options, _ := strings.Cut(tag, ",")
	b.Name = name
	for option := range strings.SplitSeq(options, ",") {
		if option == "" {
			continue
		}
		if err := b.setOption(option); err != nil {
			return b, err
		}
	}
	if isRef := t == reflect.TypeFor[Ref](); isRef != (b.Ref != "") {
		if isRef {
			return b, Errorf(CodeInvalid, "an sdk.Ref needs ref=MODEL in its tag; to refer to any model use sdk.AnyRef")
		}
		return b, Errorf(CodeInvalid, "ref=%s is for an sdk.Ref, not for a %s", b.Ref, f.Type)
	}
	return b, nil
}

func (b *boundField) setOption(option string) error {
	name, value, _ := strings.Cut(option, "=")
	if b.Merge.inParts() && (option == "max" || option == "min" || option == "lww") {
		return Errorf(CodeInvalid, "a %s merges in its own way; remove %q", b.Merge, option)
	}
	switch {
	case option == "required":
		b.Required, b.demanded = true, true
	case option == "owner":
		b.Owner = true
	case option == "index":
		b.Index = true
	case option == "key":
		b.Key, b.Required = true, true
	case option == "weak":
		b.Weak = true
	case option == "max":
		b.Merge = Max
	case option == "min":
		b.Merge = Min
	case option == "lww":
		b.Merge = LWW
	case name == "ref" && value != "":
		b.Ref = ModelName(value)
	case name == "type":
		return b.setType(Type(value))
	default:
		known := []string{"required", "index", "key", "owner", "weak", "max", "min", "lww", "ref", "type=time", "type=json"}
		return Errorf(CodeInvalid, "tag option %q is unknown%s", option, didYouMean(option, known))
	}
	return nil
}

func (b *boundField) setType(t Type) error {
	switch {
	case t == b.Type, t == Time && b.holds == holdsInt, t == JSON && b.holds == holdsString:
		b.Type = t
		return nil
	}
	return Errorf(CodeInvalid, "type=%s does not fit a Go %s field; type=time is for int64 and time.Time, type=json for string and json.RawMessage", t, b.Type)
}

// appendValue appends the packed value of b in record, a struct.
func (b *boundField) appendValue(dst []byte, record reflect.Value) []byte {
	v := record.Field(b.index)
	if b.pointer {
		if v.IsNil() {
			return msgp.AppendNil(dst)
		}
		v = v.Elem()
	}
	switch b.holds {
	case holdsString:
		return msgp.AppendString(dst, v.String())
	case holdsInt:
		return msgp.AppendInt64(dst, v.Int())
	case holdsFloat:
		return msgp.AppendFloat64(dst, oneZero(v.Float()))
	case holdsBool:
		return msgp.AppendBool(dst, v.Bool())
	case holdsBytes:
		if v.IsNil() {
			return msgp.AppendNil(dst)
		}
		return msgp.AppendBytes(dst, v.Bytes())
	case holdsJSON:
		if v.Len() == 0 {
			return msgp.AppendNil(dst)
		}
		return msgp.AppendStringFromBytes(dst, v.Bytes())
	case holdsTime:
		t, _ := v.Addr().Interface().(*time.Time)
		if t.IsZero() {
			return msgp.AppendNil(dst)
		}
		return msgp.AppendInt64(dst, t.UnixMicro())
	case holdsRef:
		id := v.Bytes()
		if RecordID(id).IsZero() {
			return msgp.AppendNil(dst)
		}
		return msgp.AppendBytes(dst, id)
	case holdsTexts, holdsInts:
		dst = msgp.AppendArrayHeader(dst, uint32(v.Len())) //nolint:gosec // a record is bounded
		for i := range v.Len() {
			if b.holds == holdsTexts {
				dst = msgp.AppendString(dst, v.Index(i).String())
			} else {
				dst = msgp.AppendInt64(dst, v.Index(i).Int())
			}
		}
		return dst
	case holdsCounter:
		return msgp.AppendInt64(dst, v.Int())
	}
	return msgp.AppendNil(dst)
}

// set puts value, which is nil or as b.ValueType says, into record, a struct. It keeps no slice of value.
func (b *boundField) set(record reflect.Value, value any) error {
	v := record.Field(b.index)
	if value == nil {
		v.SetZero()
		return nil
	}
	if b.pointer {
		p := reflect.New(v.Type().Elem())
		v.Set(p)
		v = p.Elem()
	}
	switch x := value.(type) {
	case string:
		switch b.holds {
		case holdsString:
			v.SetString(x)
			return nil
		case holdsJSON:
			v.SetBytes([]byte(x))
			return nil
		case holdsTexts, holdsInts:
			v.SetZero()
			if err := json.Unmarshal([]byte(x), v.Addr().Interface()); err != nil {
				return Errorf(CodeInvalid, "field %q: want a list of elements: %w", b.Name, err)
			}
			return nil
		}
	case int64:
		switch b.holds {
		case holdsInt, holdsCounter:
			v.SetInt(x)
			return nil
		case holdsTime:
			v.Set(reflect.ValueOf(time.UnixMicro(x).UTC()))
			return nil
		}
	case float64:
		if b.holds == holdsFloat {
			v.SetFloat(x)
			return nil
		}
	case bool:
		if b.holds == holdsBool {
			v.SetBool(x)
			return nil
		}
	case []byte:
		if b.holds == holdsBytes {
			v.SetBytes(append([]byte{}, x...))
			return nil
		}
	case RecordID:
		if b.holds == holdsRef {
			reflect.Copy(v, reflect.ValueOf(x))
			return nil
		}
	}
	return Errorf(CodeInvalid, "field %q: want %s, got a Go %T", b.Name, b.ValueType(), value)
}

// bindColumns returns, for each column of a batch, the field that it is, or nil.
func (s *schema) bindColumns(columns []string) []*boundField {
	bound := make([]*boundField, len(columns))
	for i, name := range columns {
		bound[i] = s.field(name)
	}
	return bound
}

func (s *schema) field(name string) *boundField {
	for i := range s.fields {
		if s.fields[i].Name == name {
			return &s.fields[i]
		}
	}
	return nil
}

// decodeRow fills record, a *T, from a row whose columns are bound.
func (s *schema) decodeRow(record any, bound []*boundField, row *StateRow) error {
	v := reflect.ValueOf(record).Elem()
	s.setBase(v, Owned{ID: row.ID, Stamp: row.Stamp})
	rest := row.Values
	for _, field := range bound {
		var err error
		if field == nil {
			if rest, err = msgp.Skip(rest); err != nil {
				return Errorf(CodeInvalid, "%s %s: %w", s.desc.Model, row.ID, err)
			}
			continue
		}
		var value any
		if value, rest, err = DecodeValue(rest, field.Type); err != nil {
			return Errorf(CodeInvalid, "%s %s: field %q: %w", s.desc.Model, row.ID, field.Name, err)
		}
		if err = field.set(v, value); err != nil {
			return err
		}
	}
	return nil
}

// decodeRecord fills record, a *T, from a shared record.
func (s *schema) decodeRecord(record any, from *Record) error {
	v := reflect.ValueOf(record).Elem()
	latest := max(from.Inserted.Stamp, from.Deleted.Stamp)
	for i := range from.Fields {
		latest = max(latest, from.Fields[i].Version.Stamp)
		if field := s.field(from.Fields[i].Name); field != nil {
			if err := field.set(v, from.Fields[i].Value); err != nil {
				return err
			}
		}
	}
	s.setBase(v, Owned{ID: from.ID, Stamp: latest})
	return nil
}

// decodeValues fills record, a *T, from values and their names.
func (s *schema) decodeValues(record any, id RecordID, names []string, values []any) error {
	v := reflect.ValueOf(record).Elem()
	s.setBase(v, Owned{ID: id})
	for i, name := range names {
		if field := s.field(name); field != nil {
			if err := field.set(v, values[i]); err != nil {
				return Errorf(CodeInvalid, "%s %s: %w", s.desc.Model, id, err)
			}
		}
	}
	return nil
}

// setBase fills the embedded Owned, Shared or Hybrid of record, which hold the same.
func (s *schema) setBase(record reflect.Value, base Owned) {
	switch b := record.Field(s.base).Addr().Interface().(type) {
	case *Owned:
		*b = base
	case *Shared:
		*b = Shared(base)
	case *Hybrid:
		*b = Hybrid(base)
	}
}

// recordID returns the id in the embedded Owned, Shared or Hybrid of record.
func (s *schema) recordID(record reflect.Value) RecordID {
	switch b := record.Field(s.base).Addr().Interface().(type) {
	case *Owned:
		return b.ID
	case *Shared:
		return b.ID
	case *Hybrid:
		return b.ID
	}
	return RecordID{}
}
