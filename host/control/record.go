package control

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/sdk"
)

// appendRecord appends the record as a JSON object.
func appendRecord(dst []byte, desc *sdk.Description, r *Record) []byte {
	dst = append(dst, '{')
	dst = appendFields(dst, desc, r)
	return append(dst, '}')
}

// appendFields appends the members of the record's JSON object: "id" and the fields (null where there is no value),
// then "_owner" and "_stamp", or "_clocks": for the insert ("_inserted") and each field that was written its write.
func appendFields(dst []byte, desc *sdk.Description, r *Record) []byte {
	dst = append(dst, `"id":"`...)
	dst = append(dst, r.ID.String()...)
	dst = append(dst, '"')
	for i, f := range desc.Fields {
		dst = append(dst, `,"`...)
		dst = append(dst, f.Name...)
		dst = append(dst, `":`...)
		dst = sdk.AppendJSONValue(dst, f.ValueType(), r.Values[i])
	}
	if !r.Owner.IsZero() {
		dst = append(dst, `,"_owner":"`...)
		dst = append(dst, r.Owner.String()...)
		dst = append(dst, `","_stamp":"`...)
		dst = append(dst, r.Stamp.String()...)
		return append(dst, '"')
	}
	dst = append(dst, `,"_clocks":{"_inserted":"`...)
	dst = append(dst, r.Inserted.String()...)
	dst = append(dst, '"')
	for i, f := range desc.Fields {
		if i >= len(r.Clocks) || r.Clocks[i].IsZero() {
			continue
		}
		dst = append(dst, `,"`...)
		dst = append(dst, f.Name...)
		dst = append(dst, `":"`...)
		dst = append(dst, r.Clocks[i].String()...)
		dst = append(dst, '"')
	}
	return append(dst, '}')
}

// ParseVersion reads a version as the "_clocks" of a record have it: stamp@device.
func ParseVersion(text string) (sdk.Version, error) {
	stamp, device, _ := strings.Cut(text, "@")
	var v sdk.Version
	var err error
	if v.Stamp, err = hlc.Parse(stamp); err != nil {
		return sdk.Version{}, sdk.Errorf(sdk.CodeInvalid, "version %q: %w", text, err)
	}
	if v.Device, err = sdk.ParseDeviceID(device); err != nil {
		return sdk.Version{}, sdk.Errorf(sdk.CodeInvalid, "version %q: %w", text, err)
	}
	return v, nil
}

// appendEvent appends the change as a JSON object; record is nil where it is gone.
func appendEvent(dst []byte, desc *sdk.Description, e *Event, record *Record) []byte {
	kind := "put"
	if record == nil {
		kind = "delete"
	}
	dst = append(dst, `{"_model":"`...)
	dst = append(dst, e.Model...)
	dst = append(dst, `","_event":"`...)
	dst = append(dst, kind...)
	dst = append(dst, `","_origin":"`...)
	dst = append(dst, e.Origin.String()...)
	dst = append(dst, `","_at":"`...)
	dst = append(dst, e.Stamp.String()...)
	dst = append(dst, `","_local":`...)
	dst = strconv.AppendBool(dst, e.Local)
	dst = append(dst, ',')
	if record == nil {
		dst = append(dst, `"id":"`...)
		dst = append(dst, e.ID.String()...)
		dst = append(dst, '"')
	} else {
		dst = appendFields(dst, desc, record)
	}
	return append(dst, '}')
}

// missed is the event that says that some were dropped.
const missed = `{"_event":"missed"}`

// condition reads a condition as a person types it. Empty means NULL, except for text. Of a set it is one of its elements.
func condition(desc *sdk.Description, field, text string) (Condition, error) {
	f, ok := desc.Field(field)
	if !ok {
		// DecodeJSON knows how to say it, with what may have been meant.
		_, _, err := sdk.DecodeJSON(*desc, appendMember(field))
		if err == nil {
			err = sdk.Errorf(sdk.CodeUnknownField, "%s has no field %q", desc.Model, field)
		}
		return Condition{}, err
	}
	value, err := typed(f.Type, text)
	if err == nil {
		err = sdk.CheckValue(f.Type, value)
	}
	if err != nil {
		return Condition{}, sdk.Errorf(sdk.CodeInvalid, "%s.%s=%s: %w", desc.Model, field, text, err)
	}
	return Condition{Field: field, Value: value, Member: f.Merge == sdk.AddWins && value != nil}, nil
}

// list yields the records for which every condition holds, at most limit (0: all). The backend looks for the one
// condition that it has an index for; the others are looked at here.
func list(ctx context.Context, records Records, desc *sdk.Description, where []Condition, limit int, yield func(*Record) error) error {
	query := Query{Model: desc.Model}
	slices.SortStableFunc(where, func(a, b Condition) int { return a.cost(desc) - b.cost(desc) })
	if len(where) > 0 && !where[0].Member {
		query.Where = &where[0]
		where = where[1:]
	}
	if len(where) == 0 {
		query.Limit = limit
	}
	errEnough := errors.New("enough")
	count := 0
	err := records.List(ctx, query, func(r Record) error {
		if !holds(desc, &r, where) {
			return nil
		}
		if err := yield(&r); err != nil {
			return err
		}
		if count++; count == limit {
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

// cost orders conditions by how little is looked at to find what they hold for.
func (c *Condition) cost(desc *sdk.Description) int {
	switch {
	case c.Member:
		return 2
	case indexed(desc, c.Field):
		return 0
	}
	return 1
}

func indexed(desc *sdk.Description, name string) bool {
	f, ok := desc.Field(name)
	return ok && (f.Index || f.Type == sdk.UUID)
}

func holds(desc *sdk.Description, r *Record, where []Condition) bool {
	for _, c := range where {
		i := slices.IndexFunc(desc.Fields, func(f sdk.Field) bool { return f.Name == c.Field })
		if c.Member {
			if !c.isMember(&desc.Fields[i], r.Values[i]) {
				return false
			}
			continue
		}
		if !bytes.Equal(sdk.AppendValue(nil, r.Values[i]), sdk.AppendValue(nil, c.Value)) {
			return false
		}
	}
	return true
}

// isMember reports whether a set, the JSON array of its elements, has the element.
func (c *Condition) isMember(f *sdk.Field, set any) bool {
	text, _ := set.(string)
	var elements []json.RawMessage
	if json.Unmarshal([]byte(text), &elements) != nil {
		return false
	}
	want := sdk.AppendJSONValue(nil, f.Type, c.Value)
	return slices.ContainsFunc(elements, func(e json.RawMessage) bool { return bytes.Equal(e, want) })
}

func appendMember(field string) []byte {
	name, err := json.Marshal(field)
	if err != nil {
		return []byte(`{}`)
	}
	return append(append([]byte{'{'}, name...), ":null}"...)
}

func typed(t sdk.Type, text string) (any, error) {
	if text == "" && t != sdk.Text {
		return nil, nil
	}
	switch t {
	case sdk.Int:
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return nil, sdk.Errorf(sdk.CodeInvalid, "want a whole number")
		}
		return n, nil
	case sdk.Float:
		n, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return nil, sdk.Errorf(sdk.CodeInvalid, "want a number")
		}
		return n, nil
	case sdk.Bool:
		switch text {
		case "true":
			return true, nil
		case "false":
			return false, nil
		}
		return nil, sdk.Errorf(sdk.CodeInvalid, "want true or false")
	case sdk.Time:
		if n, err := strconv.ParseInt(text, 10, 64); err == nil {
			return n, nil
		}
		at, err := time.Parse(time.RFC3339Nano, text)
		if err != nil {
			return nil, sdk.Errorf(sdk.CodeInvalid, "want a time such as 2026-11-22T07:10:11Z, or Unix microseconds")
		}
		return at.UnixMicro(), nil
	case sdk.Bytes:
		b, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return nil, sdk.Errorf(sdk.CodeInvalid, "want base64")
		}
		return b, nil
	case sdk.UUID:
		return sdk.ParseRecordID(text)
	}
	return text, nil
}
