package sdk

import "strings"

// Column returns the name that f has in batches: its own, and unless it merges as lww, a colon and its merge kind, as in
// "words:set". So a device whose description lacks the field merges it all the same.
func (f *Field) Column() string {
	if f.Merge == "" || f.Merge == LWW {
		return f.Name
	}
	return f.Name + ":" + string(f.Merge)
}

// ParseColumn returns the name of the field that a column of a batch holds, and how the column says that it merges.
func ParseColumn(column string) (name string, merge Merge) {
	name, kind, _ := strings.Cut(column, ":")
	if kind == "" {
		return name, LWW
	}
	return name, Merge(kind)
}

// ValueType returns the type of the field's value in a record and in the model's table: that of f, but JSON for a set,
// which is the sorted array of its elements.
func (f *Field) ValueType() Type {
	if f.Merge == AddWins {
		return JSON
	}
	return f.Type
}

// inParts reports whether m merges parts, which FieldState.State keeps.
func (m Merge) inParts() bool { return m == AddWins || m == Sum }

// rank orders merge kinds, for a field that is not known here and of which peers say different things: the greatest holds.
func (m Merge) rank() int {
	switch m {
	case Max:
		return 1
	case Min:
		return 2
	case AddWins:
		return 3
	case Sum:
		return 4
	}
	return 0
}
