package sdk_test

import (
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/starling-sync/starling/sdk"
)

// everything has a field of each type, named by it.
func everything() sdk.Description {
	desc := sdk.Description{Model: "thing", Version: 1, Ownership: sdk.SharedByAll}
	for _, t := range []sdk.Type{sdk.Text, sdk.Int, sdk.Float, sdk.Bool, sdk.Bytes, sdk.Time, sdk.JSON, sdk.UUID} {
		desc.Fields = append(desc.Fields, sdk.Field{Name: string(t) + "_field", Type: t})
	}
	return desc
}

func TestDecodeJSON(t *testing.T) {
	id, err := sdk.ParseRecordID("0192f3c0-6f3e-7cc1-a36b-5d0d5b6f3a01")
	if err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		field, json string
		want        any
	}{
		{"text_field", `"work \u00e9\n"`, "work \u00e9\n"},
		{"text_field", `""`, ""},
		{"text_field", `null`, nil},
		{"int_field", `9223372036854775807`, int64(math.MaxInt64)},
		{"int_field", `-9223372036854775808`, int64(math.MinInt64)},
		{"int_field", `9007199254740993`, int64(9007199254740993)}, // 2^53 + 1
		{"float_field", `1`, 1.0},
		{"float_field", `-1.5e300`, -1.5e300},
		{"bool_field", `false`, false},
		{"bytes_field", `"AAH/"`, []byte{0, 1, 255}},
		{"bytes_field", `""`, []byte{}},
		{"time_field", `"2026-11-22T07:10:11.123456Z"`, int64(1_795_331_411_123_456)},
		{"time_field", `"2026-11-22T08:10:11.123456789+01:00"`, int64(1_795_331_411_123_456)},
		{"time_field", `1795331411123456`, int64(1_795_331_411_123_456)},
		{"json_field", `{ "a": [1, 2.50, 9007199254740993] }`, `{"a":[1,2.50,9007199254740993]}`},
		{"json_field", `"text"`, `"text"`},
		{"json_field", `null`, nil},
		{"ref_field", `"0192f3c0-6f3e-7cc1-a36b-5d0d5b6f3a01"`, id},
	}
	for _, c := range cases {
		names, values, err := sdk.DecodeJSON(everything(), []byte(`{"`+c.field+`": `+c.json+`}`))
		if err != nil {
			t.Errorf("%s %s: %v", c.field, c.json, err)
			continue
		}
		if diff := cmp.Diff([]any{c.want}, values); diff != "" || names[0] != c.field {
			t.Errorf("%s %s (-want +got):\n%s", c.field, c.json, diff)
		}
	}
	names, values, err := sdk.DecodeJSON(everything(), []byte(` {} `))
	if err != nil || len(names)+len(values) > 0 {
		t.Errorf("an empty object: got %v, %v, %v", names, values, err)
	}
}

func TestDecodeJSON_Refuses(t *testing.T) {
	cases := []struct {
		json string
		want string
		code sdk.Code
	}{
		{``, `thing: want a JSON object such as {"field": "value"}, got nothing`, sdk.CodeInvalid},
		{`[1]`, `thing: want a JSON object such as {"field": "value"}, got [1]`, sdk.CodeInvalid},
		{`null`, `thing: want a JSON object such as {"field": "value"}, got null`, sdk.CodeInvalid},
		{`{"text_field": "a"`, `thing: the JSON ends too early`, sdk.CodeInvalid},
		{`{"text_field": "a"} {}`, `thing: something follows the JSON object; give one object`, sdk.CodeInvalid},
		{`{"text_field": "a"} x`, `thing: something follows the JSON object; give one object`, sdk.CodeInvalid},
		{`{"text_field": a}`, `thing: not JSON at byte 16 of 17: invalid character 'a' looking for beginning of value`, sdk.CodeInvalid},
		{`{bad`, `thing: not JSON at byte 2 of 4: invalid character 'b' looking for beginning of object key string`, sdk.CodeInvalid},
		{`{"txt_field": "a"}`, `thing has no field "txt_field"; did you mean "text_field"?`, sdk.CodeUnknownField},
		{`{"price": 1}`, `thing has no field "price"; it has text_field, int_field, float_field, bool_field, bytes_field, time_field, json_field, ref_field`, sdk.CodeUnknownField},
		{`{"id": "x"}`, `thing: "id" is kept by the host and can not be written as a field; leave it out`, sdk.CodeUnknownField},
		{`{"_owner": "x"}`, `thing: "_owner" is kept by the host and can not be written as a field; leave it out`, sdk.CodeUnknownField},
		{`{"int_field": 1, "int_field": 1}`, `thing: field "int_field" is given twice`, sdk.CodeInvalid},
		{`{"text_field": 12}`, `thing: field "text_field": want text, such as "work", got the number 12`, sdk.CodeInvalid},
		{`{"text_field": "a\u0000b"}`, `thing: field "text_field": text holds a NUL at byte 1`, sdk.CodeInvalid},
		{"{\"text_field\": \"a\xffb\"}", `thing: the JSON is not valid UTF-8`, sdk.CodeInvalid},
		{`{"text_field": "u:\ud83d"}`, `thing: the JSON is not valid UTF-8: \ud83d at byte 18 is half of a surrogate pair`, sdk.CodeInvalid},
		{`{"text_field": "\\\uDC00"}`, `thing: the JSON is not valid UTF-8: \uDC00 at byte 18 is half of a surrogate pair`, sdk.CodeInvalid},
		{`{"text_field": "\ud83d\ud83d\ude00"}`, `thing: the JSON is not valid UTF-8: \ud83d at byte 16 is half of a surrogate pair`, sdk.CodeInvalid},
		{`{"json_field": {"a\ud83dx": 1}}`, `thing: the JSON is not valid UTF-8: \ud83d at byte 18 is half of a surrogate pair`, sdk.CodeInvalid},
		{`{"text_field": "\ud83d\ude00\\ud83d\n\ufffd"}`, ``, ""},
		{`{"text_field": "\`, `thing: the JSON ends too early`, sdk.CodeInvalid},
		{`{"int_field": "12"}`, `thing: field "int_field": want a whole number, such as 42, got the text "12"`, sdk.CodeInvalid},
		{`{"int_field": 1.5}`, `thing: field "int_field": want a whole number, such as 42, got the number 1.5`, sdk.CodeInvalid},
		{`{"int_field": 9223372036854775808}`, `thing: field "int_field": 9223372036854775808 does not fit 64 bits`, sdk.CodeInvalid},
		{`{"float_field": 1e400}`, `thing: field "float_field": 1e400 does not fit 64 bits`, sdk.CodeInvalid},
		{`{"bool_field": "true"}`, `thing: field "bool_field": want true or false, got the text "true"`, sdk.CodeInvalid},
		{`{"bytes_field": "a"}`, `thing: field "bytes_field": want base64 text, such as "aGk=", got the text "a"`, sdk.CodeInvalid},
		{`{"time_field": "yesterday"}`, `thing: field "time_field": want a time, such as "2026-11-22T07:10:11Z" or whole Unix microseconds, got the text "yesterday"`, sdk.CodeInvalid},
		{`{"time_field": true}`, `thing: field "time_field": want a time, such as "2026-11-22T07:10:11Z" or whole Unix microseconds, got true`, sdk.CodeInvalid},
		{`{"json_field": "\u0000"}`, ``, ""},
		{`{"ref_field": "0192"}`, `thing: field "ref_field": "0192" is not a UUID; want 36 characters such as 0192f3c0-6f3e-7cc1-a36b-5d0d5b6f3a01`, sdk.CodeInvalid},
		{`{"ref_field": {"id": 1}}`, `thing: field "ref_field": want a record's id, such as "0192f3c0-6f3e-7cc1-a36b-5d0d5b6f3a01", got an object`, sdk.CodeInvalid},
	}
	for _, c := range cases {
		_, _, err := sdk.DecodeJSON(everything(), []byte(c.json))
		got := ""
		if err != nil {
			got = err.Error()
		}
		if got != c.want || sdk.CodeOf(err) != c.code {
			t.Errorf("%s\nwant %s: %s\n got %s: %s", c.json, c.code, c.want, sdk.CodeOf(err), got)
		}
	}
	deep := `{"json_field":` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000) + `}`
	if _, _, err := sdk.DecodeJSON(everything(), []byte(deep)); sdk.CodeOf(err) != sdk.CodeInvalid {
		t.Errorf("JSON 20,000 lists deep: got %v", err)
	}
}

func TestAppendJSONValue(t *testing.T) {
	cases := []struct {
		typ   sdk.Type
		value any
		want  string
	}{
		{sdk.Text, nil, `null`},
		{sdk.Text, "work", `"work"`},
		{sdk.Text, "<a> & \"b\"\n\u00e9", `"<a> & \"b\"\n` + "\u00e9\""},
		{sdk.Int, int64(math.MaxInt64), `9223372036854775807`},
		{sdk.Float, 1000000.0, `1000000`},
		{sdk.Float, -2.5, `-2.5`},
		{sdk.Bool, true, `true`},
		{sdk.Bytes, []byte{0, 1, 255}, `"AAH/"`},
		{sdk.Time, int64(1_795_331_411_123_456), `"2026-11-22T07:10:11.123456Z"`},
		{sdk.Time, int64(0), `"1970-01-01T00:00:00.000000Z"`},
		{sdk.Time, int64(math.MaxInt64), `9223372036854775807`},
		{sdk.JSON, `{"a":1}`, `{"a":1}`},
		{sdk.UUID, sdk.RecordID{0xff}, `"ff000000-0000-0000-0000-000000000000"`},
		{"", int64(5), `5`},
		{"", "kept", `"kept"`},
		{"", math.NaN(), `null`},
	}
	for _, c := range cases {
		if got := string(sdk.AppendJSONValue([]byte("x"), c.typ, c.value)); got != "x"+c.want {
			t.Errorf("%s %v: want x%s, got %s", c.typ, c.value, c.want, got)
		}
	}
}

// FuzzDecodeJSON reads what it can, writes it, and reads it again.
func FuzzDecodeJSON(f *testing.F) {
	f.Add([]byte(`{"text_field":"a","int_field":1,"float_field":1.5,"bool_field":true,"bytes_field":"AAH/"}`))
	f.Add([]byte(`{"time_field":"2026-11-22T07:10:11.123456Z","json_field":{"a":[null]},"ref_field":"0192f3c0-6f3e-7cc1-a36b-5d0d5b6f3a01"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		desc := everything()
		names, values, err := sdk.DecodeJSON(desc, data)
		if err != nil {
			return
		}
		written := []byte("{")
		for i, name := range names {
			field, _ := desc.Field(name)
			if err := sdk.CheckValue(field.Type, values[i]); err != nil {
				t.Fatalf("a value that can not be stored was read: %v", err)
			}
			if i > 0 {
				written = append(written, ',')
			}
			written = append(written, `"`+name+`":`...)
			written = sdk.AppendJSONValue(written, field.Type, values[i])
		}
		written = append(written, '}')
		namesAgain, valuesAgain, err := sdk.DecodeJSON(desc, written)
		if err != nil {
			t.Fatalf("what was written is not read: %v\n%s", err, written)
		}
		if diff := cmp.Diff(names, namesAgain) + cmp.Diff(values, valuesAgain); diff != "" {
			t.Errorf("written and read again (-first +second):\n%s", diff)
		}
	})
}
