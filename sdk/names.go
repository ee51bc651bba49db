package sdk

import (
	"fmt"
	"strings"

	"github.com/agext/levenshtein"
)

const (
	maxNameBytes = 48
	maxFields    = 250 // SQLite's limit on bound values leaves room for several rows a statement
)

// Check returns the first mistake in d: a name that no table or column can have, a type or merge kind that is not known,
// options that contradict one another.
func (d *Description) Check() error {
	if err := checkName(string(d.Model)); err != nil {
		return Errorf(CodeInvalid, "model %q: %w", d.Model, err)
	}
	switch {
	case strings.HasPrefix(string(d.Model), "sqlite_"):
		return Errorf(CodeInvalid, "model %q: SQLite keeps names that begin with sqlite_ for itself", d.Model)
	case d.Version == 0:
		return Errorf(CodeInvalid, "model %q: versions count from 1", d.Model)
	case d.Ownership != DeviceOwned && d.Ownership != SharedByAll && d.Ownership != HybridOwned:
		return Errorf(CodeInvalid, "model %q: ownership %q is neither %q, %q nor %q", d.Model, d.Ownership, DeviceOwned, SharedByAll, HybridOwned)
	case strings.Contains(string(d.Model), "__"):
		return Errorf(CodeInvalid, "model %q: two underscores in a row are the host's: it names the part of a hybrid model that devices own so", d.Model)
	case len(d.Fields) == 0 || len(d.Fields) > maxFields:
		return Errorf(CodeInvalid, "model %q: %d fields; want 1 to %d", d.Model, len(d.Fields), maxFields)
	}
	seen := make(map[string]bool, len(d.Fields))
	for i := range d.Fields {
		f := &d.Fields[i]
		if err := d.checkField(f); err != nil {
			return Errorf(CodeInvalid, "model %q: field %q: %w", d.Model, f.Name, err)
		}
		if seen[f.Name] {
			return Errorf(CodeInvalid, "model %q: two fields are named %q", d.Model, f.Name)
		}
		seen[f.Name] = true
	}
	return d.checkOwner()
}

// CheckServed returns an error for the name of a model that the host keeps itself, which no plugin can serve.
func (n ModelName) CheckServed() error {
	if n == "member" {
		return Errorf(CodeInvalid, "model %q is the host's own: its records are the devices that belong to the library; name yours otherwise", n)
	}
	return nil
}

// checkOwner returns the first mistake in what makes a model hybrid.
func (d *Description) checkOwner() error {
	owners, keys := 0, 0
	for i := range d.Fields {
		f := &d.Fields[i]
		if f.Key {
			keys++
		}
		if !f.Owner {
			continue
		}
		owners++
		switch {
		case d.Ownership != HybridOwned:
			return Errorf(CodeInvalid, "model %q: field %q: only a hybrid model has an owner field", d.Model, f.Name)
		case f.Type != UUID || f.Ref == "" || f.Weak:
			return Errorf(CodeInvalid, "model %q: field %q: the owner field is a reference to a model whose records devices own, and not a weak one", d.Model, f.Name)
		case !f.Key || f.Required:
			return Errorf(CodeInvalid, "model %q: field %q: the owner field is part of the natural key, since a record is owned or shared for good, and not required", d.Model, f.Name)
		}
	}
	switch {
	case d.Ownership != HybridOwned:
		return nil
	case owners != 1:
		return Errorf(CodeInvalid, "model %q: a hybrid model has one owner field, not %d; it says which records are owned, and by whom", d.Model, owners)
	case keys < 2:
		return Errorf(CodeInvalid, "model %q: a hybrid model has a key field beside the owner field, for its shared records", d.Model)
	case len(d.Model) > maxNameBytes-len(ownedPart):
		return Errorf(CodeInvalid, "model %q: the name of a hybrid model has at most %d characters", d.Model, maxNameBytes-len(ownedPart))
	}
	return nil
}

const ownedPart = "__owned"

// Parts returns the models that a host keeps and peers exchange the records of d as: d itself, or of a hybrid model its
// shared records under its name, and those that devices own under a name of their own.
func (d *Description) Parts() []Description {
	if d.Ownership != HybridOwned {
		return []Description{*d}
	}
	shared, owned := *d, *d
	shared.Ownership = SharedByAll
	owned.Ownership, owned.Model = DeviceOwned, d.Model+ownedPart
	return []Description{shared, owned}
}

func (d *Description) checkField(f *Field) error {
	if err := checkFieldName(f.Name); err != nil {
		return err
	}
	switch f.Type {
	case Text, Int, Float, Bool, Bytes, Time, JSON, UUID:
	default:
		return Errorf(CodeInvalid, "type %q is unknown", f.Type)
	}
	switch f.Merge {
	case "", LWW:
	case Max, Min, AddWins, Sum:
		if d.Ownership == DeviceOwned {
			return Errorf(CodeInvalid, "merge %q is for shared models; a device-owned record has one writer", f.Merge)
		}
	default:
		return Errorf(CodeInvalid, "merge kind %q is unknown", f.Merge)
	}
	switch {
	case f.Merge == AddWins && f.Type != Text && f.Type != Int:
		return Errorf(CodeInvalid, "a set of %s; the elements of a set are text or int", f.Type)
	case f.Merge == Sum && f.Type != Int:
		return Errorf(CodeInvalid, "a counter of %s; a counter is an int", f.Type)
	case f.Merge.inParts() && f.Required:
		return Errorf(CodeInvalid, "a %s is never nil, so that required says nothing", f.Merge)
	case f.Type != UUID && (f.Ref != "" || f.Weak):
		return Errorf(CodeInvalid, "only a reference can name a model or be weak")
	case f.Ref != "" && checkName(string(f.Ref)) != nil:
		return Errorf(CodeInvalid, "refers to model %q: %w", f.Ref, checkName(string(f.Ref)))
	case f.Key && (f.Type == Float || f.Type == JSON):
		return Errorf(CodeInvalid, "a %s can not be part of a natural key: equal values may be written differently", f.Type)
	case d.Ownership == HybridOwned && f.Merge != "" && f.Merge != LWW:
		return Errorf(CodeInvalid, "merge %q is for shared models; a record of a hybrid model may have one writer", f.Merge)
	case f.Key && f.Merge != "" && f.Merge != LWW:
		return Errorf(CodeInvalid, "a field of the natural key never changes, so it has no merge kind")
	}
	return nil
}

func checkFieldName(name string) error {
	if name == "id" {
		return Errorf(CodeInvalid, `the host keeps a column "id"; choose another name`)
	}
	return checkName(name)
}

// Check returns why no model can have this name.
func (n ModelName) Check() error { return checkName(string(n)) }

// checkName returns why name can not name a model or field.
func checkName(name string) error {
	if name == "" || len(name) > maxNameBytes {
		return Errorf(CodeInvalid, "a name has 1 to %d characters, not %d", maxNameBytes, len(name))
	}
	for i := range len(name) {
		c := name[i]
		switch {
		case 'a' <= c && c <= 'z':
		case i > 0 && (c == '_' || '0' <= c && c <= '9'):
		default:
			return Errorf(CodeInvalid, "a name is lower-case letters, digits and underscores and begins with a letter; character %d of %q is not", i+1, name)
		}
	}
	return nil
}

func unknownField(d *Description, name string) *Error {
	if name == "id" || strings.HasPrefix(name, "_") {
		return Errorf(CodeUnknownField, "%s: %q is kept by the host and can not be written as a field; leave it out", d.Model, name)
	}
	names := make([]string, len(d.Fields))
	for i := range d.Fields {
		names[i] = d.Fields[i].Name
	}
	hint := didYouMean(name, names)
	if hint == "" {
		hint = "; it has " + strings.Join(names, ", ")
	}
	return Errorf(CodeUnknownField, "%s has no field %q%s", d.Model, name, hint)
}

// didYouMean returns `; did you mean "x"?` for the closest of known, or "" if none is close.
func didYouMean(name string, known []string) string {
	best, distance := "", len(name)/3+2
	for _, k := range known {
		if d := levenshtein.Distance(name, k, nil); d < distance {
			best, distance = k, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %q?", best)
}
