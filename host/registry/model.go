package registry

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/sdk"
)

// lookupChunks are the numbers of ids that statements are written for, greatest first: few texts, so that all stay prepared.
var lookupChunks = [...]int{256, 32, 4, 1}

// model is a description bound to its table. It is not changed once it is made.
type model struct {
	desc    sdk.Description  // of a hybrid model: of this part of it, see sdk.Description.Parts
	hybrid  *sdk.Description // of the whole, if this is a part of a hybrid model
	name    sdk.ModelName    // for people and references: of a part that of the whole
	n       int64            // local number of its name
	columns int64            // local number of names, as a column set
	names   []string
	wire    []string       // names, as columns of batches: see sdk.Field.Column
	types   []sdk.Type     // of the values, in records and in the table
	index   map[string]int // of names
	refs    []reference
	shared  bool
	file    string // name of the table
	table   string // the same, quoted

	width  int // of a table row: id, the fields, and what the host keeps
	insert *database.Insert
	sel    string // SELECT of a table row, without WHERE
}

// reference is a field that must be visible for the record to be visible.
type reference struct {
	field  int // index into names
	column string
	to     sdk.ModelName // empty: any
}

func quote(name string) string { return `"` + name + `"` }

// newModels returns the models that a description is kept as: one, or the two parts of a hybrid.
func newModels(tx *database.Tx, desc sdk.Description) (list []*model, err error) {
	for _, part := range desc.Parts() {
		var hybrid *sdk.Description
		if desc.Ownership == sdk.HybridOwned {
			hybrid = &desc
		}
		m, err := newModel(tx, part, hybrid)
		if err != nil {
			return nil, err
		}
		list = append(list, m)
	}
	return list, nil
}

func newModel(tx *database.Tx, desc sdk.Description, hybrid *sdk.Description) (*model, error) {
	m := &model{desc: desc, hybrid: hybrid, name: desc.Model, shared: desc.Ownership == sdk.SharedByAll, index: make(map[string]int)}
	m.file = string(desc.Model)
	if hybrid != nil { // the name of the whole is that of a view
		m.name = hybrid.Model
		m.file = "_" + string(hybrid.Model) + "_" + string(desc.Ownership)
	}
	m.table = quote(m.file)
	for i, f := range desc.Fields {
		m.names, m.wire = append(m.names, f.Name), append(m.wire, f.Column())
		m.types = append(m.types, f.ValueType())
		m.index[f.Name] = i
		if f.Type == sdk.UUID && !f.Weak {
			m.refs = append(m.refs, reference{field: i, column: quote(f.Name), to: f.Ref})
		}
	}
	var err error
	if m.n, err = tx.NameNumber(string(desc.Model)); err != nil {
		return nil, err
	}
	for _, name := range m.names { // so that writes find them numbered
		if _, err := tx.NameNumber(name); err != nil {
			return nil, err
		}
	}
	m.columns, err = tx.ColumnsNumber(m.columnSet())
	m.build()
	return m, err
}

func (m *model) columnSet() database.ColumnSet {
	return database.ColumnSet{Model: m.desc.Model, Version: m.desc.Version, Columns: strings.Join(m.names, ",")}
}

// inParts returns how a field merges if it is a set or a counter; "" otherwise. One that is not described says it itself.
func (m *model) inParts(f *sdk.FieldState) sdk.Merge {
	merge := f.Merge
	if at, known := m.index[f.Name]; known {
		merge = m.desc.Fields[at].Merge
	}
	if merge == sdk.AddWins || merge == sdk.Sum {
		return merge
	}
	return ""
}

// column returns the column that a field has in batches, described or not.
func (m *model) column(f *sdk.FieldState) string {
	if at, known := m.index[f.Name]; known {
		return m.wire[at]
	}
	described := sdk.Field{Name: f.Name, Merge: f.Merge}
	return described.Column()
}

// kept are the columns that the host adds to those of the description.
func (m *model) kept() []string {
	if m.shared {
		return []string{"_clock"}
	}
	return []string{"_owner", "_stamp", "_extra"}
}

// build writes the model's statements.
func (m *model) build() {
	columns := []string{"id"}
	for _, name := range m.names {
		columns = append(columns, quote(name))
	}
	columns = append(columns, m.kept()...)
	m.width = len(columns)
	list := strings.Join(columns, ", ")
	m.sel = "SELECT " + list + " FROM " + m.table

	var set strings.Builder
	for _, column := range columns[1:] {
		if column == "_owner" {
			continue
		}
		if set.Len() > 0 {
			set.WriteString(", ")
		}
		set.WriteString(column + " = excluded." + column)
	}
	guard := ""
	if !m.shared { // wins iff the owner is the same and the stamp is greater
		guard = " WHERE excluded._stamp > " + m.table + "._stamp AND excluded._owner = " + m.table + "._owner"
	}
	m.insert = database.NewInsert(m.table, columns, "ON CONFLICT (id) DO UPDATE SET "+set.String()+guard)
}

// createTable returns the statements that make the model's table, and its indexes where they are missing.
func (m *model) createTable(dialect database.Dialect) []string {
	var sql strings.Builder
	sql.WriteString("CREATE TABLE IF NOT EXISTS " + m.table + " (id " + dialect.Type(sdk.UUID) + " NOT NULL PRIMARY KEY")
	for i, name := range m.names {
		sql.WriteString(", " + quote(name) + " " + dialect.Type(m.types[i]))
	}
	if m.shared {
		sql.WriteString(", _clock " + dialect.Type(sdk.Bytes) + " NOT NULL)")
	} else {
		number := dialect.Type(sdk.Int)
		sql.WriteString(", _owner " + number + " NOT NULL, _stamp " + number + " NOT NULL, _extra " + dialect.Type(sdk.Bytes) + ")")
	}
	sql.WriteString(dialect.TableOptions())
	statements := []string{sql.String()}
	if !m.shared {
		statements = append(statements, fmt.Sprintf("CREATE INDEX IF NOT EXISTS %s ON %s (_owner, _stamp)", quote("_"+m.file+"_stream"), m.table))
	}
	return append(statements, m.createIndexes(dialect)...)
}

func (m *model) createIndexes(dialect database.Dialect) (statements []string) {
	for i, f := range m.desc.Fields {
		if f.Index || f.Type == sdk.UUID {
			statements = append(statements, fmt.Sprintf("CREATE INDEX IF NOT EXISTS %s ON %s (%s)",
				quote("_"+m.file+"_"+f.Name), m.table, dialect.Indexed(quote(f.Name), m.types[i])))
		}
	}
	return statements
}

// extend returns the statements that add the fields that old lacks.
func (m *model) extend(dialect database.Dialect, old *sdk.Description) (statements []string) {
	for i, name := range m.names {
		if _, known := old.Field(name); !known {
			statements = append(statements, "ALTER TABLE "+m.table+" ADD COLUMN "+quote(name)+" "+dialect.Type(m.types[i]))
		}
	}
	return append(statements, m.createIndexes(dialect)...)
}

// checkChange returns why a table of old can not serve next: only fields may be added, and then the version grows.
func checkChange(old, next *sdk.Description) error {
	refuse := func(format string, args ...any) error {
		return sdk.Errorf(sdk.CodeUnsupported, "model %q: %s", next.Model, fmt.Sprintf(format, args...))
	}
	switch {
	case next.Ownership != old.Ownership:
		return refuse("its records here are %q, and can not become %q; give the new kind another name", old.Ownership, next.Ownership)
	case next.Version < old.Version:
		return refuse("version %d served this database already; version %d would lose its newer fields; run the newer plugin", old.Version, next.Version)
	}
	for _, was := range old.Fields {
		is, kept := next.Field(was.Name)
		switch {
		case !kept:
			return refuse("field %q is gone; keep it, unused if need be", was.Name)
		case is.Type != was.Type:
			return refuse("field %q was of type %q and can not become %q; add a field with another name", was.Name, was.Type, is.Type)
		case is.Ref != was.Ref:
			return refuse("field %q referred to %q and can not refer to %q; add a field with another name", was.Name, was.Ref, is.Ref)
		case is.Weak != was.Weak:
			return refuse("field %q can not change between weak and not; add a field with another name", was.Name)
		case is.Key != was.Key:
			return refuse("field %q can not enter or leave the natural key", was.Name)
		case is.Owner != was.Owner:
			return refuse("field %q can not begin or cease to say who owns a record", was.Name)
		case orLWW(is.Merge) != orLWW(was.Merge):
			return refuse("field %q merged by %q and can not merge by %q; add a field with another name", was.Name, orLWW(was.Merge), orLWW(is.Merge))
		}
	}
	for _, is := range next.Fields {
		if _, known := old.Field(is.Name); known {
			continue
		}
		if is.Key {
			return refuse("field %q is new and can not be part of the natural key", is.Name)
		}
		if next.Version == old.Version {
			return refuse("field %q is new; raise the version from %s", is.Name, strconv.FormatUint(uint64(old.Version), 10))
		}
	}
	return nil
}

func orLWW(merge sdk.Merge) sdk.Merge {
	if merge == "" {
		return sdk.LWW
	}
	return merge
}

// inChunks calls fn with runs of n things, as long as a statement is written for, and the index of that statement.
func inChunks(n int, sizes []int, fn func(statement, from, to int) error) error {
	for from := 0; from < n; {
		statement := 0
		for sizes[statement] > n-from {
			statement++
		}
		if err := fn(statement, from, from+sizes[statement]); err != nil {
			return err
		}
		from += sizes[statement]
	}
	return nil
}
