package sdk

import (
	"bytes"
	"encoding/json"
	"math/big"
	"slices"

	"github.com/tinylib/msgp/msgp"
)

// What a local writer says of a set or a counter is not yet an operation's value: that depends on what the field holds. It is
// packed as
//
//	set      [element ...]                              make it these
//	         {"add": [element ...], "remove": [...]}    either may be missing
//	counter  number                                     make it this
//	         {"add": number}
//
// and nil makes a set empty and a counter zero. The host turns it into a value by Edit, when it decides on the write.

// Packed is a value that is packed already: AppendValue appends it as it is.
type Packed []byte

// Edit returns the value of an operation of version at that does to f, whose state is current (nil: nobody has written it),
// what a local writer says. part names this start of the device. Only adds that current has are removed, so that one which is
// made elsewhere meanwhile wins.
func (f *Field) Edit(current *FieldState, said []byte, at Version, part PartID) ([]byte, error) {
	var list []FieldPart
	if current != nil {
		var err error
		if list, err = current.Parts(); err != nil {
			return nil, err
		}
	}
	if f.Merge == Sum {
		return f.editCounter(list, said, at, part)
	}
	return f.editSet(list, said, at)
}

func (f *Field) editSet(list []FieldPart, said []byte, at Version) ([]byte, error) {
	add, remove, whole, err := f.readSetEdit(said)
	if err != nil {
		return nil, fieldError(f.Name, err)
	}
	added, removed, present := setOf(add), setOf(remove), setOf(live(list))
	var made []FieldPart
	for _, e := range add {
		if removed[e] {
			return nil, Errorf(CodeInvalid, "field %q: %s is both to be added and to be removed", f.Name, appendElementJSON(nil, e))
		}
		if !whole || !present[e] {
			made = append(made, FieldPart{Version: at, Element: e})
		}
	}
	for _, p := range list {
		if !p.Removed && (removed[p.Element] || whole && !added[p.Element]) {
			p.Removed = true
			made = append(made, p)
		}
	}
	return AppendOpParts(nil, AddWins, at, made), nil
}

func setOf(elements []any) map[any]bool {
	set := make(map[any]bool, len(elements))
	for _, e := range elements {
		set[e] = true
	}
	return set
}

func (f *Field) readSetEdit(said []byte) (add, remove []any, whole bool, err error) {
	wrong := Errorf(CodeInvalid, "want a list of elements, or {add, remove} with a list each, got %s", msgp.NextType(said))
	switch msgp.NextType(said) {
	case msgp.NilType:
		return nil, nil, true, nil
	case msgp.ArrayType:
		add, _, err = f.readElements(said)
		return add, nil, true, err
	case msgp.MapType:
	default:
		return nil, nil, false, wrong
	}
	n, said, err := msgp.ReadMapHeaderBytes(said)
	for ; n > 0 && err == nil; n-- {
		var key []byte
		if key, said, err = msgp.ReadMapKeyZC(said); err != nil {
			break
		}
		switch string(key) {
		case "add":
			add, said, err = f.readElements(said)
		case "remove":
			remove, said, err = f.readElements(said)
		default:
			err = wrong
		}
	}
	return add, remove, false, err
}

// readElements reads a list of elements of f's type, each once, ascending.
func (f *Field) readElements(b []byte) (elements []any, rest []byte, err error) {
	n, rest, err := msgp.ReadArrayHeaderBytes(b)
	if err != nil {
		return nil, b, Errorf(CodeInvalid, "want a list of elements: %w", err)
	}
	for ; n > 0; n-- {
		var v any
		if v, rest, err = DecodeValue(rest, f.Type); err != nil {
			return nil, b, err
		}
		if v == nil {
			return nil, b, Errorf(CodeInvalid, "an element is null")
		}
		elements = append(elements, v)
	}
	slices.SortFunc(elements, compareElements)
	return slices.Compact(elements), rest, nil
}

func (f *Field) editCounter(list []FieldPart, said []byte, at Version, part PartID) ([]byte, error) {
	more, whole, err := readCounterEdit(said)
	if err != nil {
		return nil, fieldError(f.Name, err)
	}
	sum, mine := big.NewInt(more), int64(0)
	if whole {
		sum.Sub(sum, total(list))
	}
	if sum.Sign() < 0 {
		part = part.taking()
	}
	for i := range list {
		if list[i].Part == part {
			mine = list[i].Total
		}
	}
	sum.Add(sum, big.NewInt(mine))
	if !sum.IsInt64() {
		return nil, Errorf(CodeInvalid, "field %q: what this start of the device has added, or taken away, would be %s in all, which does not fit 64 bits", f.Name, sum)
	}
	return AppendOpParts(nil, Sum, at, []FieldPart{{Version: at, Part: part, Total: sum.Int64()}}), nil
}

// readCounterEdit returns a number, and whether the counter is to become it.
func readCounterEdit(said []byte) (n int64, whole bool, err error) {
	wrong := Errorf(CodeInvalid, "want a whole number, or {add} with one, got %s", msgp.NextType(said))
	switch msgp.NextType(said) {
	case msgp.NilType:
		return 0, true, nil
	case msgp.IntType, msgp.UintType:
		n, _, err = msgp.ReadInt64Bytes(said)
		return n, true, err
	case msgp.MapType:
	default:
		return 0, false, wrong
	}
	size, said, err := msgp.ReadMapHeaderBytes(said)
	if err != nil || size != 1 {
		return 0, false, wrong
	}
	key, said, err := msgp.ReadMapKeyZC(said)
	if err != nil || string(key) != "add" {
		return 0, false, wrong
	}
	n, _, err = msgp.ReadInt64Bytes(said)
	return n, false, err
}

// decodeJSONEdit reads what a person writes of a set or a counter.
func decodeJSONEdit(f *Field, raw json.RawMessage) (any, error) {
	if string(raw) == "null" {
		return nil, nil
	}
	if f.Merge == Sum {
		return decodeJSONCounter(raw)
	}
	if raw[0] == '[' {
		return appendJSONElements(nil, f, raw)
	}
	want := func() error {
		return Errorf(CodeInvalid, `want a list of elements, or {"add": [...], "remove": [...]}, got %s`, describeJSON(raw))
	}
	var edit map[string]json.RawMessage
	if raw[0] != '{' || json.Unmarshal(raw, &edit) != nil {
		return nil, want()
	}
	dst := Packed(msgp.AppendMapHeader(nil, uint32(len(edit)))) //nolint:gosec // at most two keys
	for _, key := range []string{"add", "remove"} {
		list, given := edit[key]
		if !given {
			continue
		}
		delete(edit, key)
		if list[0] != '[' {
			return nil, Errorf(CodeInvalid, `want a list of elements in %q, got %s`, key, describeJSON(list))
		}
		var err error
		if dst, err = appendJSONElements(msgp.AppendString(dst, key), f, list); err != nil {
			return nil, err
		}
	}
	for key := range edit {
		return nil, Errorf(CodeInvalid, `a set knows "add" and "remove", not %q`, key)
	}
	return dst, nil
}

// appendJSONElements appends a JSON array of elements of f.
func appendJSONElements(dst Packed, f *Field, raw json.RawMessage) (Packed, error) {
	var list []json.RawMessage
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, Errorf(CodeInvalid, "not a list: %w", err)
	}
	dst = msgp.AppendArrayHeader(dst, length(list))
	for _, one := range list {
		v, err := decodeJSONValue(f.Type, bytes.TrimSpace(one))
		if err == nil && v == nil {
			err = Errorf(CodeInvalid, "it is null")
		}
		if err != nil {
			return nil, Errorf(CodeInvalid, "an element: %w", err)
		}
		dst = AppendValue(dst, v)
	}
	return dst, nil
}

func decodeJSONCounter(raw json.RawMessage) (any, error) {
	if raw[0] != '{' {
		n, err := jsonInt(Int, raw)
		if CodeOf(err) == CodeInvalid && (raw[0] < '0' || raw[0] > '9') && raw[0] != '-' {
			err = Errorf(CodeInvalid, `want a whole number, such as 42, or {"add": 3}, got %s`, describeJSON(raw))
		}
		return n, err
	}
	var edit map[string]json.RawMessage
	if err := json.Unmarshal(raw, &edit); err != nil || len(edit) != 1 || edit["add"] == nil {
		return nil, Errorf(CodeInvalid, `want a whole number, such as 42, or {"add": 3}, got an object with other members`)
	}
	n, err := jsonInt(Int, bytes.TrimSpace(edit["add"]))
	if err != nil {
		return nil, err
	}
	more, _ := n.(int64)
	dst := msgp.AppendMapHeader(nil, 1)
	dst = msgp.AppendString(dst, "add")
	return Packed(msgp.AppendInt64(dst, more)), nil
}
