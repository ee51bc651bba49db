package registry

import (
	"bytes"
	"database/sql"
	"encoding/binary"
	"errors"
	"slices"
	"strings"

	"github.com/tinylib/msgp/msgp"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/sdk"
)

// record is one record that exists, on its way into a table or the shadow.
type record struct {
	m     *model
	id    sdk.RecordID
	args  []any       // the table row: id, the fields, and m.kept(); len m.width
	state *sdk.Record // shared: the record with its clocks

	origin   sdk.DeviceID // whose change brought it here, for events
	stamp    hlc.Stamp    // device-owned: the row's; shared: the change's, for events
	shadowed bool         // the shadow holds this record now
	trusted  bool         // it is what is stored already, or decided on it: no guard applies
	kept     bool         // it is what is stored already, and can only move
	missing  []sdk.RecordID
	hidden   bool
	broken   bool // only the id could be read
}

// values returns the fields of r in the order of the description.
func (r *record) values() []any { return r.args[1 : 1+len(r.m.names)] }

func (r *record) spot() spot { return spot{r.m.n, r.id} }

// targets calls fn for each record that r needs.
func (r *record) targets(fn func(to sdk.ModelName, id sdk.RecordID)) {
	for i := range r.m.refs {
		ref := &r.m.refs[i]
		if raw, ok := r.args[1+ref.field].([]byte); ok && len(raw) == len(sdk.RecordID{}) {
			fn(ref.to, sdk.RecordID(raw))
		}
	}
}

// argOf returns the stored form of a value of the closed set.
func argOf(v any) any {
	switch v := v.(type) {
	case sdk.RecordID:
		return v[:]
	case bool:
		if v {
			return int64(1)
		}
		return int64(0)
	case []byte:
		if v == nil {
			return []byte{}
		}
	}
	return v
}

// valueOf is the inverse of argOf for a field of type t.
func valueOf(t sdk.Type, arg any) any {
	switch v := arg.(type) {
	case []byte:
		if t == sdk.UUID && len(v) == len(sdk.RecordID{}) {
			return sdk.RecordID(v)
		}
	case int64:
		if t == sdk.Bool {
			return v != 0
		}
		if t == sdk.Float {
			return float64(v)
		}
	}
	return arg
}

// appendArg packs the stored form of a value of type t.
func appendArg(dst []byte, t sdk.Type, arg any) []byte { return sdk.AppendValue(dst, valueOf(t, arg)) }

// readArg reads one packed value of type t into its stored form. Bytes alias b.
func readArg(b []byte, t sdk.Type) (arg any, rest []byte, err error) {
	if len(b) > 0 && b[0] == 0xc0 { // nil
		return nil, b[1:], nil
	}
	switch t {
	case sdk.Int, sdk.Time:
		n, rest, err := msgp.ReadInt64Bytes(b)
		if err == nil {
			return n, rest, nil
		}
	case sdk.UUID:
		raw, rest, err := msgp.ReadBytesZC(b)
		if err == nil && len(raw) == len(sdk.RecordID{}) {
			return raw, rest, nil
		}
	}
	v, rest, err := sdk.DecodeValue(b, t)
	return argOf(v), rest, err
}

// readUntyped reads one packed value of a field that is not known here.
func readUntyped(b []byte) (value any, rest []byte, err error) {
	switch msgp.NextType(b) {
	case msgp.NilType:
		rest, err = msgp.ReadNilBytes(b)
		return nil, rest, err
	case msgp.StrType:
		return sdk.DecodeValue(b, sdk.Text)
	case msgp.IntType, msgp.UintType:
		return sdk.DecodeValue(b, sdk.Int)
	case msgp.Float64Type, msgp.Float32Type:
		return sdk.DecodeValue(b, sdk.Float)
	case msgp.BoolType:
		return sdk.DecodeValue(b, sdk.Bool)
	case msgp.BinType:
		v, rest, err := msgp.ReadBytesBytes(b, nil)
		return v, rest, err
	}
	return nil, b, sdk.Errorf(sdk.CodeUnsupported, "a value of kind %s", msgp.NextType(b))
}

// extra is a field that the description lacks, kept packed. Lists of them are sorted by name.
type extra struct {
	name  string
	value []byte
}

func packExtras(extras []extra) []byte {
	if len(extras) == 0 {
		return nil
	}
	dst := msgp.AppendMapHeader(nil, uint32(len(extras))) //nolint:gosec // a schema's width
	for _, x := range extras {
		dst = msgp.AppendString(dst, x.name)
		dst = append(dst, x.value...)
	}
	return dst
}

func unpackExtras(b []byte) (extras []extra, err error) {
	if len(b) == 0 {
		return nil, nil
	}
	n, b, err := msgp.ReadMapHeaderBytes(b)
	if err != nil {
		return nil, err
	}
	for range n {
		var x extra
		if x.name, b, err = msgp.ReadStringBytes(b); err != nil {
			return nil, err
		}
		rest, err := msgp.Skip(b)
		if err != nil {
			return nil, err
		}
		x.value, b = b[:len(b)-len(rest)], rest
		extras = append(extras, x)
	}
	return extras, nil
}

func sortExtras(extras []extra) {
	slices.SortFunc(extras, func(a, b extra) int { return strings.Compare(a.name, b.name) })
}

// columnPlan says where the columns of a packed row go.
type columnPlan struct {
	field []int // index into the model's fields; -1: an extra
	names []string
	exact bool // the columns are the model's, in its order
}

func (m *model) plan(names []string) columnPlan {
	p := columnPlan{names: names, exact: slices.Equal(names, m.names)}
	for _, name := range names {
		at, known := m.index[name]
		if !known {
			at = -1
		}
		p.field = append(p.field, at)
	}
	return p
}

// readRow reads the packed values of a device-owned row into args (id, fields, owner, stamp, extra), whose fields are
// nil, and which may alias packed.
func (m *model) readRow(p *columnPlan, packed []byte, args []any) error {
	var extras []extra
	var err error
	for i, at := range p.field {
		if at < 0 {
			rest, err := msgp.Skip(packed)
			if err != nil {
				return sdk.Errorf(sdk.CodeInvalid, "field %q: %w", p.names[i], err)
			}
			if value := packed[:len(packed)-len(rest)]; !msgp.IsNil(value) {
				extras = append(extras, extra{p.names[i], value})
			}
			packed = rest
			continue
		}
		if args[1+at], packed, err = readArg(packed, m.types[at]); err != nil {
			return sdk.Errorf(sdk.CodeOf(err), "field %q: %w", p.names[i], err)
		}
	}
	if extras != nil {
		sortExtras(extras)
		args[m.width-1] = packExtras(extras)
	}
	return nil
}

// packShadow returns the data of r in the shadow: of a device-owned record the column set, the extras and the values; of
// a shared one its clocks with every value.
func (r *record) packShadow(tx *database.Tx) ([]byte, error) {
	if r.m.shared {
		return packRecord(tx, r.state, nil)
	}
	dst := msgp.AppendInt64(nil, r.m.columns)
	extras, _ := r.args[r.m.width-1].([]byte)
	dst = msgp.AppendBytes(dst, extras)
	for i, arg := range r.values() {
		dst = appendArg(dst, r.m.types[i], arg)
	}
	return dst, nil
}

// readShadow reads what packShadow wrote, also with an older description.
func (m *model) readShadow(tx *database.Tx, id sdk.RecordID, owner, stamp int64, data []byte) (*record, error) {
	r := &record{m: m, id: id, shadowed: true, trusted: true, kept: true}
	if m.shared {
		state, err := unpackRecord(tx, m, id, data, nil)
		if err != nil {
			return nil, damaged(m, id, err)
		}
		return r, r.setState(tx, state)
	}
	r.args = make([]any, m.width)
	r.args[0], r.args[m.width-3], r.args[m.width-2] = id[:], owner, stamp
	r.stamp = hlc.Stamp(stamp) //nolint:gosec // stored stamps are not negative
	columns, rest, err := msgp.ReadInt64Bytes(data)
	if err != nil {
		return nil, damaged(m, id, err)
	}
	raw, rest, err := msgp.ReadBytesZC(rest)
	if err != nil {
		return nil, damaged(m, id, err)
	}
	set, err := tx.Columns(columns)
	if err != nil {
		return nil, err
	}
	plan := m.plan(set.Names())
	if err := m.readRow(&plan, rest, r.args); err != nil {
		return nil, damaged(m, id, err)
	}
	if err := m.spread(r.args, raw); err != nil {
		return nil, damaged(m, id, err)
	}
	r.origin, err = tx.Device(owner)
	return r, err
}

// spread puts the extras of a stored row that the description has meanwhile into their fields, and keeps the others.
func (m *model) spread(args []any, raw []byte) error {
	extras, err := unpackExtras(raw)
	if err != nil {
		return err
	}
	var kept []extra
	for _, x := range extras {
		at, known := m.index[x.name]
		if !known {
			kept = append(kept, x)
			continue
		}
		arg, _, err := readArg(x.value, m.types[at])
		if err != nil {
			kept = append(kept, x) // the field came with another type: what does not fit is still passed on
			continue
		}
		args[1+at] = arg
	}
	args[m.width-1] = nil
	if len(kept) > 0 {
		args[m.width-1] = packExtras(kept)
	}
	return nil
}

// damage says why a stored record can not be read.
type damage struct{ error }

func (d damage) Unwrap() error { return d.error }

func damaged(m *model, id sdk.RecordID, err error) error {
	return sdk.Errorf(sdk.CodeInternal, "the stored %s %s is damaged: %w", m.name, id, damage{err})
}

// isDamage reports whether err says that a stored record can not be read.
func isDamage(err error) bool {
	_, is := errors.AsType[damage](err)
	return is
}

// scanRow reads one row of m.sel.
func (m *model) scanRow(tx *database.Tx, rows *sql.Rows) (*record, error) {
	args := make([]any, m.width)
	dest := make([]any, m.width)
	for i := range args {
		dest[i] = &args[i]
	}
	if err := rows.Scan(dest...); err != nil {
		return nil, err
	}
	return m.fromRow(tx, args)
}

// fromRow returns the record of a table row.
func (m *model) fromRow(tx *database.Tx, args []any) (*record, error) {
	raw, ok := args[0].([]byte)
	if !ok || len(raw) != len(sdk.RecordID{}) {
		return nil, sdk.Errorf(sdk.CodeInternal, "the table of %s holds the id %x", m.name, args[0])
	}
	for i := range m.names {
		if b, isBytes := args[1+i].([]byte); isBytes && b == nil {
			args[1+i] = []byte{}
		}
	}
	r := &record{m: m, id: sdk.RecordID(raw), args: args, trusted: true, kept: true}
	if m.shared {
		clock, _ := args[m.width-1].([]byte)
		state, err := unpackRecord(tx, m, r.id, clock, r.values())
		if err != nil {
			return nil, damaged(m, r.id, err)
		}
		r.state, r.origin, r.stamp = state, state.Inserted.Device, state.Inserted.Stamp
		return r, nil
	}
	owner, _ := args[m.width-3].(int64)
	stamp, _ := args[m.width-2].(int64)
	r.stamp = hlc.Stamp(stamp) //nolint:gosec // stored stamps are not negative
	var err error
	r.origin, err = tx.Device(owner)
	return r, err
}

// setState makes the table row of a shared record.
func (r *record) setState(tx *database.Tx, state *sdk.Record) error {
	r.state = state
	if r.stamp == 0 {
		r.origin, r.stamp = state.Inserted.Device, state.Inserted.Stamp
	}
	r.args = make([]any, r.m.width)
	r.args[0] = r.id[:]
	for i := range state.Fields {
		if at, known := r.m.index[state.Fields[i].Name]; known {
			if !sameType(r.m.types[at], state.Fields[i].Value) {
				continue // only a faulty peer sends it: it stays in the clocks and is not shown
			}
			r.args[1+at] = argOf(state.Fields[i].Value)
		}
	}
	clock, err := packRecord(tx, state, r.m)
	r.args[r.m.width-1] = clock
	return err
}

func sameType(t sdk.Type, v any) bool { return sdk.CheckValue(t, v) == nil }

const recordForm = 1 // the first byte of packRecord

// What packRecord says follows the clocks of a field.
const (
	hasValue = 1 << iota // its packed value
	hasMerge             // a byte for how it merges, of a field that is not described
	hasState             // the length of its state, and the state
)

// packRecord returns the clocks of a record: a form byte, the versions of insert and delete, then for each field its
// name's number, its version, the stamp it saw, a byte that says what follows of it, and that. Stamps of fields are relative
// to that of the insert. With m, values that a column of m's table holds are left out.
func packRecord(tx *database.Tx, state *sdk.Record, m *model) ([]byte, error) {
	dst := append(make([]byte, 0, 24+16*len(state.Fields)), recordForm)
	var err error
	if dst, err = appendVersion(tx, dst, state.Inserted, 0); err != nil {
		return nil, err
	}
	if dst, err = appendVersion(tx, dst, state.Deleted, 0); err != nil {
		return nil, err
	}
	dst = binary.AppendUvarint(dst, uint64(len(state.Fields)))
	for i := range state.Fields {
		f := &state.Fields[i]
		name, err := tx.NameNumber(f.Name)
		if err != nil {
			return nil, err
		}
		dst = binary.AppendUvarint(dst, uint64(name)) //nolint:gosec // numbers are positive
		if dst, err = appendVersion(tx, dst, f.Version, state.Inserted.Stamp); err != nil {
			return nil, err
		}
		dst = binary.AppendUvarint(dst, uint64(f.Seen))
		dst = appendRest(dst, f, m)
	}
	return dst, nil
}

// appendRest appends what packRecord keeps of a field beside its clocks.
func appendRest(dst []byte, f *sdk.FieldState, m *model) []byte {
	has := byte(hasValue)
	if m != nil {
		if at, known := m.index[f.Name]; known && sameType(m.types[at], f.Value) {
			has = 0
		}
	}
	if f.Merge != "" {
		has |= hasMerge
	}
	if f.State != nil {
		has |= hasState
	}
	dst = append(dst, has)
	if has&hasValue != 0 {
		dst = sdk.AppendValue(dst, f.Value)
	}
	if has&hasMerge != 0 {
		kind := slices.Index(mergeKinds[:], f.Merge)
		if kind < 0 {
			kind = 0
		}
		dst = append(dst, byte(kind)) //nolint:gosec // one of a few
	}
	if has&hasState != 0 {
		dst = binary.AppendUvarint(dst, uint64(len(f.State)))
		dst = append(dst, f.State...)
	}
	return dst
}

// mergeKinds are the merge kinds as packRecord numbers them.
var mergeKinds = [...]sdk.Merge{"", sdk.Max, sdk.Min, sdk.AddWins, sdk.Sum}

func appendVersion(tx *database.Tx, dst []byte, v sdk.Version, base hlc.Stamp) ([]byte, error) {
	if v.IsZero() {
		return binary.AppendUvarint(binary.AppendVarint(dst, 0), 0), nil
	}
	device, err := tx.DeviceNumber(v.Device)
	dst = binary.AppendVarint(dst, int64(v.Stamp)-int64(base)) //nolint:gosec // stamps fit
	return binary.AppendUvarint(dst, uint64(device)), err      //nolint:gosec // numbers are positive
}

// unpackRecord reads what packRecord wrote. values are the fields of the table row; nil for the shadow.
func unpackRecord(tx *database.Tx, m *model, id sdk.RecordID, b []byte, values []any) (*sdk.Record, error) {
	in := recordReader{tx: tx, b: b}
	if in.byte() != recordForm {
		return nil, sdk.Errorf(sdk.CodeUnsupported, "clocks of an unknown form")
	}
	state := &sdk.Record{ID: id}
	state.Inserted = in.version(0)
	state.Deleted = in.version(0)
	n := in.uvarint()
	if n > uint64(len(in.b)) {
		return nil, sdk.Errorf(sdk.CodeInternal, "clocks cut short")
	}
	state.Fields = make([]sdk.FieldState, 0, n)
	for range n {
		f := sdk.FieldState{Name: in.name()}
		f.Version = in.version(state.Inserted.Stamp)
		f.Seen = hlc.Stamp(in.uvarint())
		in.rest(&f, m, values)
		state.Fields = append(state.Fields, f)
	}
	return state, in.err
}

// rest reads what appendRest wrote.
func (in *recordReader) rest(f *sdk.FieldState, m *model, values []any) {
	at, known := m.index[f.Name]
	has := in.byte()
	switch {
	case has&hasValue != 0:
		f.Value = in.value(m, at, known)
	case known && values != nil:
		f.Value = valueOf(m.types[at], values[at])
	}
	if has&hasMerge != 0 {
		if kind := in.byte(); int(kind) < len(mergeKinds) && !known { // what is described says it itself
			f.Merge = mergeKinds[kind]
		}
	}
	if has&hasState != 0 {
		n := in.uvarint()
		if n > uint64(len(in.b)) {
			in.fail()
			return
		}
		f.State, in.b = bytes.Clone(in.b[:n]), in.b[n:]
	}
}

// recordReader reads the parts of packRecord; after an error it reads zeros.
type recordReader struct {
	tx  *database.Tx
	b   []byte
	err error
}

func (in *recordReader) fail() {
	if in.err == nil {
		in.err = sdk.Errorf(sdk.CodeInternal, "clocks cut short")
	}
	in.b = nil
}

func (in *recordReader) byte() byte {
	if len(in.b) == 0 {
		in.fail()
		return 0
	}
	b := in.b[0]
	in.b = in.b[1:]
	return b
}

func (in *recordReader) uvarint() uint64 {
	v, n := binary.Uvarint(in.b)
	if n <= 0 {
		in.fail()
		return 0
	}
	in.b = in.b[n:]
	return v
}

func (in *recordReader) varint() int64 {
	v, n := binary.Varint(in.b)
	if n <= 0 {
		in.fail()
		return 0
	}
	in.b = in.b[n:]
	return v
}

func (in *recordReader) name() string {
	n := in.uvarint()
	if in.err != nil {
		return ""
	}
	name, err := in.tx.Name(int64(n)) //nolint:gosec // numbers are small
	if err != nil {
		in.err = err
	}
	return name
}

func (in *recordReader) version(base hlc.Stamp) sdk.Version {
	stamp, device := in.varint(), in.uvarint()
	if in.err != nil || device == 0 {
		return sdk.Version{}
	}
	id, err := in.tx.Device(int64(device)) //nolint:gosec // numbers are small
	if err != nil {
		in.err = err
	}
	return sdk.Version{Stamp: hlc.Stamp(stamp + int64(base)), Device: id} //nolint:gosec // stamps fit
}

func (in *recordReader) value(m *model, at int, known bool) any {
	if in.err != nil {
		return nil
	}
	if known {
		if v, rest, err := sdk.DecodeValue(in.b, m.types[at]); err == nil {
			in.b = rest
			if b, isBytes := v.([]byte); isBytes {
				v = append([]byte{}, b...)
			}
			return v
		}
	}
	v, rest, err := readUntyped(in.b)
	if err != nil {
		in.err = err
	}
	in.b = rest
	return v
}
