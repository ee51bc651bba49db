package sdk

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"time"
	"unicode/utf16"
	"unicode/utf8"
)

// DecodeJSON reads a record as a person writes it, one JSON object of fields of desc, into parallel names and values of
// the types that Type lists. Times are RFC 3339 text or whole Unix microseconds, bytes base64 (standard alphabet, padded),
// references UUIDs, null is nil; the value of a json field may be any JSON. Of a set it is a list of elements, or
// {"add": [...], "remove": [...]}, of a counter a whole number, or {"add": 3}; these are Packed, as Field.Edit takes them.
// Required is not checked here.
// Errors name the field, what it wants and what it got.
func DecodeJSON(desc Description, data []byte) (names []string, values []any, err error) {
	if !utf8.Valid(data) {
		return nil, nil, Errorf(CodeInvalid, "%s: the JSON is not valid UTF-8", desc.Model)
	}
	if at := loneSurrogate(data); at >= 0 {
		return nil, nil, Errorf(CodeInvalid, "%s: the JSON is not valid UTF-8: %s at byte %d is half of a surrogate pair", desc.Model, data[at:at+6], at)
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	if token, err := decoder.Token(); err != nil || token != json.Delim('{') {
		return nil, nil, Errorf(CodeInvalid, `%s: want a JSON object such as {"field": "value"}, got %s`, desc.Model, excerpt(data))
	}
	seen := make(map[string]bool, len(desc.Fields))
	for decoder.More() {
		name, value, err := decodeJSONField(desc, data, decoder)
		if err != nil {
			return nil, nil, err
		}
		if seen[name] {
			return nil, nil, Errorf(CodeInvalid, "%s: field %q is given twice", desc.Model, name)
		}
		seen[name] = true
		names, values = append(names, name), append(values, value)
	}
	if _, err := decoder.Token(); err != nil {
		return nil, nil, jsonSyntax(desc, data, err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, nil, Errorf(CodeInvalid, "%s: something follows the JSON object; give one object", desc.Model)
	}
	return names, values, nil
}

// loneSurrogate returns where data has an escape that is half of a surrogate pair alone; -1: nowhere. encoding/json makes U+FFFD
// of it, so that texts which differ would become one, and one key.
func loneSurrogate(data []byte) int {
	for at := 0; ; at += 2 { // past a backslash and what it escapes
		next := bytes.IndexByte(data[at:], '\\')
		if next < 0 {
			return -1
		}
		at += next
		high, isUnit := codeUnit(data[at:])
		if !isUnit || !utf16.IsSurrogate(high) {
			if at+2 > len(data) {
				return -1
			}
			continue
		}
		low, _ := codeUnit(data[at+6:])
		if utf16.DecodeRune(high, low) == utf8.RuneError {
			return at
		}
		at += 10
	}
}

// codeUnit reads an escape of the form \uXXXX at the start of data.
func codeUnit(data []byte) (unit rune, ok bool) {
	if len(data) < 6 || data[0] != '\\' || data[1] != 'u' {
		return 0, false
	}
	n, err := strconv.ParseUint(string(data[2:6]), 16, 16)
	return rune(n), err == nil
}

func decodeJSONField(desc Description, data []byte, decoder *json.Decoder) (name string, value any, err error) {
	token, err := decoder.Token()
	if err != nil {
		return "", nil, jsonSyntax(desc, data, err)
	}
	name, _ = token.(string)
	field, known := desc.Field(name)
	if !known {
		return name, nil, unknownField(&desc, name)
	}
	var raw json.RawMessage
	if err := decoder.Decode(&raw); err != nil {
		return name, nil, jsonSyntax(desc, data, err)
	}
	if field.Merge.inParts() {
		value, err = decodeJSONEdit(&field, bytes.TrimSpace(raw))
	} else {
		value, err = decodeJSONValue(field.Type, raw)
	}
	if err != nil {
		return name, nil, Errorf(CodeInvalid, "%s: field %q: %w", desc.Model, name, err)
	}
	return name, value, nil
}

// jsonSyntax says what is wrong with data, and where. err is what a decoder says of it, which counts from where its last token
// began and may leave out what it looked for: data is read again for that.
func jsonSyntax(desc Description, data []byte, err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return Errorf(CodeInvalid, "%s: the JSON ends too early", desc.Model)
	}
	var whole json.RawMessage
	if at, known := errors.AsType[*json.SyntaxError](json.Unmarshal(data, &whole)); known {
		return Errorf(CodeInvalid, "%s: not JSON at byte %d of %d: %w", desc.Model, at.Offset, len(data), at)
	}
	return Errorf(CodeInvalid, "%s: not JSON: %w", desc.Model, err)
}

func decodeJSONValue(t Type, raw json.RawMessage) (any, error) {
	if string(raw) == "null" {
		return nil, nil
	}
	switch t {
	case Text:
		return jsonText(t, raw)
	case Int:
		return jsonInt(t, raw)
	case Float:
		n, err := strconv.ParseFloat(string(raw), 64)
		if errors.Is(err, strconv.ErrRange) {
			return nil, Errorf(CodeInvalid, "%s does not fit 64 bits", excerpt(raw))
		}
		if err != nil || math.IsInf(n, 0) {
			return nil, wrongJSON(t, raw)
		}
		return n, nil
	case Bool:
		if s := string(raw); s == "true" || s == "false" {
			return s == "true", nil
		}
		return nil, wrongJSON(t, raw)
	case Bytes:
		var s string
		if json.Unmarshal(raw, &s) != nil {
			return nil, wrongJSON(t, raw)
		}
		b, err := base64.StdEncoding.Strict().DecodeString(s)
		if err != nil {
			return nil, wrongJSON(t, raw)
		}
		return b, nil
	case Time:
		return jsonTime(t, raw)
	case JSON:
		var compact bytes.Buffer
		if err := json.Compact(&compact, raw); err != nil {
			return nil, wrongJSON(t, raw)
		}
		return compact.String(), CheckValue(t, compact.String())
	case UUID:
		var s string
		if json.Unmarshal(raw, &s) != nil {
			return nil, wrongJSON(t, raw)
		}
		return asAny(ParseRecordID(s))
	}
	return nil, Errorf(CodeUnsupported, "field type %q is unknown here", t)
}

func jsonText(t Type, raw json.RawMessage) (any, error) {
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return nil, wrongJSON(t, raw)
	}
	if err := CheckValue(t, s); err != nil {
		return nil, err
	}
	return s, nil
}

func jsonInt(t Type, raw json.RawMessage) (any, error) {
	n, err := strconv.ParseInt(string(raw), 10, 64)
	if errors.Is(err, strconv.ErrRange) {
		return nil, Errorf(CodeInvalid, "%s does not fit 64 bits", raw)
	}
	if err != nil {
		return nil, wrongJSON(t, raw)
	}
	return n, nil
}

func jsonTime(t Type, raw json.RawMessage) (any, error) {
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return jsonInt(t, raw)
	}
	at, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return nil, wrongJSON(t, raw)
	}
	return at.UnixMicro(), nil
}

// asAny keeps a failed parse from becoming a value.
func asAny[V any](v V, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return v, nil
}

func wrongJSON(t Type, raw json.RawMessage) error {
	want := map[Type]string{
		Text:  "text, such as \"work\"",
		Int:   "a whole number, such as 42",
		Float: "a number, such as 1.5",
		Bool:  "true or false",
		Bytes: "base64 text, such as \"aGk=\"",
		Time:  "a time, such as \"2026-11-22T07:10:11Z\" or whole Unix microseconds",
		JSON:  "a JSON value",
		UUID:  "a record's id, such as \"0192f3c0-6f3e-7cc1-a36b-5d0d5b6f3a01\"",
	}[t]
	return Errorf(CodeInvalid, "want %s, got %s", want, describeJSON(raw))
}

func describeJSON(raw json.RawMessage) string {
	switch raw[0] {
	case '"':
		return "the text " + excerpt(raw)
	case '{':
		return "an object"
	case '[':
		return "a list"
	case 't', 'f':
		return string(raw)
	}
	return "the number " + excerpt(raw)
}

// excerpt returns at most the first 40 bytes of data, for a message.
func excerpt(data []byte) string {
	data = bytes.TrimSpace(data)
	if len(data) == 0 {
		return "nothing"
	}
	if len(data) <= 40 {
		return string(data)
	}
	return fmt.Sprintf("%s...", bytes.ToValidUTF8(data[:40], nil))
}

// AppendJSONValue appends v, of type t, as DecodeJSON reads it: times as RFC 3339 in UTC with microseconds. A value of a
// field that is not known here has t empty and is written by its Go type.
func AppendJSONValue(dst []byte, t Type, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(dst, "null"...)
	case string:
		if t == JSON && json.Valid([]byte(v)) {
			return append(dst, v...)
		}
		return appendJSONString(dst, v)
	case int64:
		if t == Time {
			if at := time.UnixMicro(v).UTC(); at.Year() >= 0 && at.Year() <= 9999 {
				return at.AppendFormat(dst, `"2006-01-02T15:04:05.000000Z"`)
			}
		}
		return strconv.AppendInt(dst, v, 10)
	case float64:
		if text, err := json.Marshal(v); err == nil {
			return append(dst, text...)
		}
		return append(dst, "null"...)
	case bool:
		return strconv.AppendBool(dst, v)
	case []byte:
		dst = append(dst, '"')
		dst = base64.StdEncoding.AppendEncode(dst, v)
		return append(dst, '"')
	case RecordID:
		dst = append(dst, '"')
		dst = append(dst, v.String()...)
		return append(dst, '"')
	}
	return appendJSONString(dst, fmt.Sprint(v))
}

func appendJSONString(dst []byte, s string) []byte {
	if plainASCII(s) {
		dst = append(dst, '"')
		dst = append(dst, s...)
		return append(dst, '"')
	}
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(s); err != nil {
		return append(dst, `""`...)
	}
	return append(dst, bytes.TrimSuffix(text.Bytes(), []byte("\n"))...)
}

// plainASCII reports whether s needs no escape in JSON.
func plainASCII(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}
