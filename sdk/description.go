package sdk

// Ownership says who may change a model's records.
type Ownership string

// The kinds of ownership.
const (
	DeviceOwned Ownership = "device" // only the device that created the record; travels as state
	SharedByAll Ownership = "shared" // every device; travels as operations and merges field by field

	// Each record is one or the other for good, as its owner field says: see Field.Owner.
	HybridOwned Ownership = "hybrid"
)

// Type is the type of a field. The Go type of its values stands beside each.
type Type string

// The types of fields. A nil value is SQL NULL, whatever the type.
const (
	Text  Type = "text"  // string: valid UTF-8 without NUL
	Int   Type = "int"   // int64
	Float Type = "float" // float64: finite
	Bool  Type = "bool"  // bool
	Bytes Type = "bytes" // []byte
	Time  Type = "time"  // int64: Unix microseconds
	JSON  Type = "json"  // string: one valid JSON value
	UUID  Type = "ref"   // RecordID: a record of the model in Field.Ref, or of any model where that is empty
)

// Merge says how two writes of one field of a shared record become one value.
type Merge string

// The merge kinds.
const (
	LWW     Merge = "lww"     // the greatest version wins; the default
	Max     Merge = "max"     // the greatest value wins
	Min     Merge = "min"     // the least value wins
	AddWins Merge = "set"     // a set of elements of Field.Type, text or int; of an add and a concurrent remove the add wins
	Sum     Merge = "counter" // a whole number: the sum of what every device has added
)

// Field describes one field, and one column of the model's table.
type Field struct {
	Name     string    // as ModelName; no leading underscore
	Type     Type      // of a set: of its elements
	Merge    Merge     // shared models only; empty means LWW
	Ref      ModelName // Type UUID: the model referred to; empty means any model
	Weak     bool      // Type UUID: the record is visible even while the one it refers to is not
	Required bool      // nil is refused
	Key      bool      // part of the natural key: the record's id is KeyID of these fields
	Owner    bool      // hybrid: a record in which it is set belongs to the device that owns what it refers to; others are shared
	Index    bool      // the host keeps an index on it (references always have one)
	Doc      string    // one line for people
}

// Description is what a model says of itself. It is pure data and the same for the life of a process.
type Description struct {
	Model     ModelName
	Version   uint32 // of the schema, from 1; fields are only ever added
	Ownership Ownership
	Fields    []Field
	Source    bool   // the plugin also yields local changes: it implements Source
	Doc       string // one line for people

	// WrittenBy says, for people, who alone writes the model's records, such as "the volume plugin, from what is mounted": the
	// host refuses what people put and delete. Empty: people write them.
	WrittenBy string
	MayDelete bool // with WrittenBy: people may delete records all the same, such as those of what is no more
}

// Field returns the field named name, and whether there is one.
func (d *Description) Field(name string) (Field, bool) {
	for _, f := range d.Fields {
		if f.Name == name {
			return f, true
		}
	}
	return Field{}, false
}

// Owner returns the field that says who owns a record of a hybrid model; nil for other models.
func (d *Description) Owner() *Field {
	for i := range d.Fields {
		if d.Fields[i].Owner {
			return &d.Fields[i]
		}
	}
	return nil
}

// References returns the fields that must be visible for a record of this model to be visible.
func (d *Description) References() []Field {
	var refs []Field
	for _, f := range d.Fields {
		if f.Type == UUID && !f.Weak {
			refs = append(refs, f)
		}
	}
	return refs
}
