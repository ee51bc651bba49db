package sdk

import (
	"bytes"
	"cmp"
	"slices"
	"strings"

	"github.com/tinylib/msgp/msgp"

	"github.com/starling-sync/starling/hlc"
)

// MergeShared merges a batch of shared operations into the records they touch, as a plain model does; Model calls it.
// The result depends only on the set of operations, never on their order or repetition:
//
//   - a record's Inserted and Deleted are the greatest versions of its inserts and deletes;
//   - an lww field is the write of greatest version, and of one version, which a damaged disk or two copies of a device can give
//     two values, the greatest value; a max or min field the greatest or least value, and of equal
//     values the write of greatest version; nil never beats a value there;
//   - a set or counter field is the union of its parts (see FieldPart): an element is there while one of its adds is not
//     removed, a counter is the sum of what every start of every device has added, within the range of an int64;
//   - an insert gives the fields that it names; a field that no operation named has no state. Neither insert nor delete takes
//     a field's state away: a record that is inserted again has the fields that it had, unless the insert names them;
//   - fields that desc lacks, from a newer schema, merge as their columns say (Field.Column).
//
// A conflict is an lww write that lost to a write which had not seen it, and whose value differs. A
// write that saw another one than that which stands is reported in Resolved: what it saw is no conflict, whether it was
// taken for one before or arrives later.
//
// Refused, and without effect, are malformed operations and values of a wrong type, and operations whose id is not that
// of the natural key. Of local batches also: unknown fields; required fields that are nil or, in an insert, missing; an
// insert of a record that exists, unless its natural key makes it the same; an update or delete of one that does not; and
// what validate (which may be nil) returns an error for, given the merged record, which is valid during that call.
//
// The error is for a batch that is malformed as a whole.
func MergeShared(desc *Description, in SharedChanges, validate func(merged *Record) error) (SharedResult, error) {
	plan, err := planBatch(desc, &in.Batch)
	if err != nil {
		return SharedResult{}, err
	}
	m := merger{plan: plan, in: &in, validate: validate, records: make(map[RecordID]*mergedRecord, len(in.Current))}
	for i := range in.Current {
		record := &mergedRecord{Record: in.Current[i]}
		if !slices.IsSortedFunc(record.Fields, byName) {
			record.takeFields()
			slices.SortFunc(record.Fields, byName)
		}
		m.records[record.ID] = record
	}
	index := -1
	for op, err := range in.Batch.Ops() {
		index++
		if index == in.Batch.Count {
			return SharedResult{}, err // what follows the last one
		}
		if err == nil {
			err = m.apply(&op)
		}
		if err != nil {
			m.result.Refused = append(m.result.Refused, refusal(desc.Model, index, err))
		}
	}
	m.result.Refused = refuseRest(m.result.Refused, index+1, &in.Batch)
	for _, r := range m.changed {
		r.close()
		m.result.Records = append(m.result.Records, r.Record)
	}
	return m.result, nil
}

type merger struct {
	plan     *batchPlan
	in       *SharedChanges
	validate func(*Record) error
	records  map[RecordID]*mergedRecord
	changed  []*mergedRecord // in the order of their first change
	result   SharedResult
	writes   []fieldWrite // of the operation at hand
}

// mergedRecord is a record under way.
type mergedRecord struct {
	Record
	own     bool // Fields belongs to the merger
	changed bool

	open map[string]*openField // sets and counters under way, by name
}

// openField is the state of a set or counter that has been read. The field's own is behind until close.
type openField struct {
	merge   Merge
	parts   parts
	changed bool
}

// fieldWrite is one field of the operation at hand.
type fieldWrite struct {
	field *Field // nil: not known here
	merge Merge
	state FieldState
	parts []FieldPart // of a set or counter
}

// apply merges op, or returns why it is refused and changes nothing.
func (m *merger) apply(op *Op) error {
	if err := m.decode(op); err != nil {
		return err
	}
	if m.plan.keyed {
		if err := m.checkKey(op); err != nil {
			return err
		}
	}
	record, known := m.records[op.ID]
	if !known {
		record = &mergedRecord{Record: Record{ID: op.ID}, own: true}
	}
	if !m.in.Local {
		m.merge(op, record)
		return nil
	}
	err := m.applyLocal(op, record)
	if err != nil && known {
		m.records[op.ID] = record
	} else if err != nil {
		delete(m.records, op.ID)
	}
	return err
}

// applyLocal merges op into a copy of record and keeps that if it is valid.
func (m *merger) applyLocal(op *Op, record *mergedRecord) error {
	if err := m.checkLocal(op, record); err != nil {
		return err
	}
	record.close()
	trial := &mergedRecord{Record: record.Record, changed: record.changed}
	conflicts, resolved, changed := len(m.result.Conflicts), len(m.result.Resolved), len(m.changed)
	m.merge(op, trial)
	if err := m.checkMerged(op, record, trial); err != nil {
		m.result.Conflicts, m.result.Resolved = m.result.Conflicts[:conflicts], m.result.Resolved[:resolved]
		m.changed = m.changed[:changed]
		return err
	}
	if record.changed { // it stands in m.changed and m.records already
		*record = *trial
	}
	return nil
}

// decode reads op's fields into m.writes.
func (m *merger) decode(op *Op) error {
	if op.Stamp == 0 && !m.in.Local {
		return Errorf(CodeInvalid, "an operation without a stamp")
	}
	version := Version{Stamp: op.Stamp, Device: m.in.Origin}
	m.writes = m.writes[:0]
	for i := range op.Fields {
		f := &op.Fields[i]
		field, name, merge := m.plan.columns[f.Column], m.plan.names[f.Column], m.plan.merges[f.Column]
		w := fieldWrite{field: field, merge: merge, state: FieldState{Name: name, Version: version, Seen: f.Seen}}
		var value any
		var err error
		switch {
		case merge.inParts():
			if w.parts, err = OpParts(merge, version, f.Value); err == nil && field != nil {
				err = checkElements(field, w.parts)
			}
			w.state.Seen = 0
		case field != nil:
			value, _, err = DecodeValue(f.Value, field.Type)
		default:
			value, _, err = decodeUntyped(f.Value)
		}
		if field == nil && merge.rank() > 0 {
			w.state.Merge = merge
		}
		if err != nil {
			return fieldError(name, err)
		}
		if b, isBytes := value.([]byte); isBytes {
			value = append([]byte{}, b...) // the batch belongs to the caller
		}
		if slices.ContainsFunc(m.writes, func(other fieldWrite) bool { return other.state.Name == name }) {
			return Errorf(CodeInvalid, "field %q is written twice in one operation", name)
		}
		w.state.Value = value
		m.writes = append(m.writes, w)
	}
	return nil
}

// checkKey returns why op's id is not that of its key fields, which an insert names all, and an update all or none.
func (m *merger) checkKey(op *Op) error {
	var packed []byte
	named := 0
	for _, column := range m.plan.keys {
		for w := range m.writes {
			if m.plan.whole && m.writes[w].state.Name == m.plan.names[column] {
				packed = AppendValue(packed, m.writes[w].state.Value)
				named++
			}
		}
	}
	switch {
	case named == len(m.plan.keys):
		given := func(column int) bool {
			return slices.ContainsFunc(m.writes, func(w fieldWrite) bool {
				return w.state.Name == m.plan.names[column] && w.state.Value != nil
			})
		}
		if err := m.plan.checkOwner(given, SharedByAll); err != nil {
			return err
		}
		return checkKey(m.plan.desc, op.ID, packed)
	case op.Kind == Insert:
		return Errorf(CodeInvalid, "the fields of the natural key of %s are not all there", m.plan.desc.Model)
	case named > 0 || slices.ContainsFunc(m.writes, func(w fieldWrite) bool { return w.field != nil && w.field.Key }):
		return Errorf(CodeInvalid, "the natural key of a %s can not change; delete it and insert another", m.plan.desc.Model)
	}
	return nil
}

// checkLocal returns why op may not be written here, as far as the record before it tells.
func (m *merger) checkLocal(op *Op, record *mergedRecord) error {
	exists := record.Exists()
	switch {
	case op.Kind == Insert && exists && !m.plan.keyed:
		return Errorf(CodeInvalid, "%s %s already exists; update it instead", m.plan.desc.Model, op.ID)
	case op.Kind != Insert && !exists:
		return Errorf(CodeNotFound, "there is no %s %s", m.plan.desc.Model, op.ID)
	}
	for i := range m.writes {
		w := &m.writes[i]
		if w.field == nil {
			return unknownField(m.plan.desc, w.state.Name)
		}
		if w.state.Value == nil && w.field.Required {
			return Errorf(CodeInvalid, "field %q is required", w.state.Name)
		}
		if ref, isRef := w.state.Value.(RecordID); isRef && ref == op.ID && !w.field.Weak {
			return Errorf(CodeInvalid, "field %q refers to the record itself, which could then never be visible", w.state.Name)
		}
	}
	return nil
}

// checkMerged returns why record, which is before with op merged into it, may not be written here.
func (m *merger) checkMerged(op *Op, before, record *mergedRecord) error {
	if op.Kind == Delete {
		return nil
	}
	if op.Kind == Insert {
		for i := range m.plan.desc.Fields {
			f := &m.plan.desc.Fields[i]
			if f.Required && record.value(f.Name) == nil {
				return Errorf(CodeInvalid, "field %q is required", f.Name)
			}
		}
	}
	record.close()
	if size := record.size(); size > MaxRecordBytes {
		return Errorf(CodeTooLarge, "the record would have %d bytes; at most %d are allowed", size, MaxRecordBytes)
	}
	if parts := partsBytes(record.Fields); parts > MaxPartsBytes && parts > partsBytes(before.Fields) {
		return Errorf(CodeTooLarge, "the sets and counters of the record would take %d bytes, with what was removed from them; at most %d are allowed", parts, MaxPartsBytes)
	}
	if m.validate != nil {
		return m.validate(&record.Record)
	}
	return nil
}

func partsBytes(fields []FieldState) (n int) {
	for i := range fields {
		n += fields[i].partsBytes()
	}
	return n
}

// merge merges op, whose fields are in m.writes, into record.
func (m *merger) merge(op *Op, record *mergedRecord) {
	version := Version{Stamp: op.Stamp, Device: m.in.Origin}
	switch op.Kind {
	case Insert:
		if version.Compare(record.Inserted) > 0 {
			record.Inserted = version
			m.touch(record)
		}
	case Delete:
		if version.Compare(record.Deleted) > 0 {
			record.Deleted = version
			m.touch(record)
		}
	}
	for i := range m.writes {
		m.mergeField(record, &m.writes[i])
	}
}

func (m *merger) mergeField(record *mergedRecord, w *fieldWrite) {
	x := &w.state
	at, found := record.find(x.Name)
	if found && w.field == nil && record.Fields[at].Merge != x.Merge {
		if x.Merge.rank() < record.Fields[at].Merge.rank() {
			return // two peers say that it merges in different ways: on every device alike, one of them is right
		}
		record.takeFields()
		record.Fields = slices.Delete(record.Fields, at, at+1)
		delete(record.open, x.Name)
		found = false
	}
	if w.merge.inParts() {
		m.mergeParts(record, w)
		return
	}
	byValue := w.merge == Max || w.merge == Min
	if !found {
		if x.Seen != 0 && !byValue {
			m.resolve(record.ID, x.Name, x.Seen)
		}
		m.touch(record)
		record.Fields = slices.Insert(record.Fields, at, *x)
		return
	}
	current := &record.Fields[at]
	if w.field != nil && w.field.Type == UUID {
		record.asReference(at)
		current = &record.Fields[at]
	}
	order := x.Version.Compare(current.Version)
	if order == 0 {
		by := w.merge
		if !byValue {
			by = Max
		}
		if by.Compare(x.Value, current.Value) > 0 { // not a repetition, but damage, or a copy of the device
			m.touch(record)
			record.Fields[at] = *x
		}
		return
	}
	if byValue {
		if values := w.merge.Compare(x.Value, current.Value); values != 0 {
			order = values
		}
		if order > 0 {
			m.touch(record)
			record.Fields[at] = *x
		}
		return
	}
	if x.Seen != 0 && x.Seen != current.Version.Stamp {
		m.resolve(record.ID, x.Name, x.Seen)
	}
	if order > 0 {
		m.conflict(record.ID, current, x)
		m.touch(record)
		record.Fields[at] = *x
	} else {
		m.conflict(record.ID, x, current)
	}
}

// mergeParts merges a write to a set or counter. What is concurrent there is no conflict: nothing is lost.
func (m *merger) mergeParts(record *mergedRecord, w *fieldWrite) {
	at, found := record.find(w.state.Name)
	if !found {
		m.touch(record)
		record.Fields = slices.Insert(record.Fields, at, w.state)
	}
	f, changed := record.openField(at, w.merge), !found
	for i := range w.parts {
		changed = f.parts.add(&w.parts[i]) || changed
	}
	later := w.state.Version.Compare(record.Fields[at].Version) > 0
	if !changed && !later {
		return // a repetition
	}
	m.touch(record)
	f.changed = f.changed || changed
	if later {
		record.Fields[at].Version = w.state.Version
	}
}

// openField returns the state of the set or counter at.
func (r *mergedRecord) openField(at int, merge Merge) *openField {
	state := &r.Fields[at]
	if f := r.open[state.Name]; f != nil {
		return f
	}
	list, err := state.Parts()
	if err != nil {
		list = nil // the host gives none that is damaged
	}
	f := &openField{merge: merge, parts: partsOf(list)}
	if r.open == nil {
		r.open = make(map[string]*openField)
	}
	r.open[state.Name] = f
	return f
}

// close packs what is open.
func (r *mergedRecord) close() {
	for name, f := range r.open {
		if at, found := r.find(name); found && f.changed {
			r.Fields[at].pack(f.merge, f.parts.sorted())
			f.changed = false
		}
	}
}

// checkElements returns why parts can not be of f.
func checkElements(f *Field, list []FieldPart) error {
	for i := range list {
		if e := list[i].Element; e != nil {
			if err := CheckValue(f.Type, e); err != nil {
				return err
			}
		}
	}
	return nil
}

// conflict records lost if winner had not seen it. That both are of one device says nothing: it may have been restored from an
// older copy in between, or run twice.
func (m *merger) conflict(id RecordID, lost, winner *FieldState) {
	if winner.Seen == lost.Version.Stamp || equalValues(lost.Value, winner.Value) {
		return
	}
	m.result.Conflicts = append(m.result.Conflicts, Conflict{
		ID: id, Field: lost.Name, Value: lost.Value, Lost: lost.Version, Winner: winner.Version,
	})
}

func (m *merger) resolve(id RecordID, field string, seen hlc.Stamp) {
	m.result.Resolved = append(m.result.Resolved, Conflict{ID: id, Field: field, Lost: Version{Stamp: seen}})
}

// touch makes record.Fields the merger's own and notes that record changes.
func (m *merger) touch(record *mergedRecord) {
	record.takeFields()
	if !record.changed {
		record.changed = true
		m.records[record.ID] = record
		m.changed = append(m.changed, record)
	}
}

// asReference turns the value at into a reference, if it was kept as bytes while its field was not known here.
func (r *mergedRecord) asReference(at int) {
	if b, isBytes := r.Fields[at].Value.([]byte); isBytes && len(b) == len(RecordID{}) {
		r.takeFields()
		r.Fields[at].Value = RecordID(b)
	}
}

// takeFields makes r.Fields the merger's own.
func (r *mergedRecord) takeFields() {
	if !r.own {
		r.Fields, r.own = slices.Clone(r.Fields), true
	}
}

func byName(a, b FieldState) int { return strings.Compare(a.Name, b.Name) }

// find returns where the field is, or belongs, in r.Fields.
func (r *mergedRecord) find(name string) (int, bool) {
	return slices.BinarySearchFunc(r.Fields, name, func(f FieldState, name string) int { return strings.Compare(f.Name, name) })
}

func (r *mergedRecord) value(name string) any {
	if at, found := r.find(name); found {
		return r.Fields[at].Value
	}
	return nil
}

// size returns about how many bytes the values take packed.
func (r *mergedRecord) size() int {
	size := 0
	for i := range r.Fields {
		switch v := r.Fields[i].Value.(type) {
		case string:
			size += msgp.StringPrefixSize + len(v)
		case []byte:
			size += msgp.BytesPrefixSize + len(v)
		default:
			size += msgp.Int64Size
		}
	}
	return size
}

// Compare returns +1 if a stands over b by value in a max or min field, -1 if b does, 0 if they are equal. The values are of the
// types that Type lists, or nil, which stands over nothing.
func (m Merge) Compare(a, b any) int {
	switch {
	case a == nil && b == nil:
		return 0
	case a == nil:
		return -1
	case b == nil:
		return 1
	}
	order := compareValues(a, b)
	if m == Min {
		order = -order
	}
	return order
}

// compareValues orders two values that are not nil. Values of different types, which only a faulty peer sends, are
// ordered by their packed form, so that every device orders them alike.
func compareValues(a, b any) int {
	switch a := a.(type) {
	case string:
		if b, ok := b.(string); ok {
			return strings.Compare(a, b)
		}
	case int64:
		if b, ok := b.(int64); ok {
			return cmp.Compare(a, b)
		}
	case float64:
		if b, ok := b.(float64); ok {
			return cmp.Compare(a, b)
		}
	case RecordID:
		if b, ok := b.(RecordID); ok {
			return a.Compare(b)
		}
	case []byte:
		if b, ok := b.([]byte); ok {
			return bytes.Compare(a, b)
		}
	}
	return bytes.Compare(AppendValue(nil, a), AppendValue(nil, b))
}

func equalValues(a, b any) bool {
	if a, isBytes := a.([]byte); isBytes {
		b, ok := b.([]byte)
		return ok && bytes.Equal(a, b)
	}
	if _, isBytes := b.([]byte); isBytes {
		return false
	}
	return a == b
}
