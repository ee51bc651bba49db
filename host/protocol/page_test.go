package protocol

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/starling-sync/starling/host/protocol/protocolpb"
)

// PageLines returns the lines of PROTOCOL.md.
func PageLines(tb testing.TB) []string {
	tb.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "PROTOCOL.md"))
	if err != nil {
		tb.Fatal(err)
	}
	return strings.Split(string(text), "\n")
}

// PageRows returns the rows, cell by cell, of every table in PROTOCOL.md whose header begins with these cells.
func PageRows(tb testing.TB, header ...string) (rows [][]string) {
	tb.Helper()
	in, found := false, false
	for _, line := range PageLines(tb) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "|") {
			in, found = false, false
			continue
		}
		cells := strings.Split(strings.Trim(line, "|"), "|")
		for i := range cells {
			cells[i] = strings.Trim(cells[i], " `")
		}
		switch {
		case !in:
			in, found = true, len(cells) >= len(header) && cmp.Equal(cells[:len(header)], header)
		case found && !strings.HasPrefix(cells[0], "---"):
			rows = append(rows, cells)
		}
	}
	if len(rows) == 0 {
		tb.Fatalf("PROTOCOL.md has no table headed %q", header)
	}
	return rows
}

// PageNumber reads an amount as the page writes it, such as "1.5 MiB", "30 s" or "64".
func PageNumber(tb testing.TB, text string) int64 {
	tb.Helper()
	number, unit, _ := strings.Cut(text, " ")
	factor, known := map[string]int64{
		"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "ms": int64(time.Millisecond), "s": int64(time.Second),
	}[unit]
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || !known {
		tb.Fatalf("PROTOCOL.md: %q is not an amount", text)
	}
	return int64(n * float64(factor))
}

// CheckDefaults wants a row for each field of the struct defaults, with its value.
func CheckDefaults(t *testing.T, rows [][]string, defaults any) {
	t.Helper()
	got, want := map[string]int64{}, map[string]int64{}
	for _, row := range rows {
		got[row[0]] = PageNumber(t, row[1])
	}
	for v, i := reflect.ValueOf(defaults), 0; i < v.NumField(); i++ {
		want[v.Type().Field(i).Name] = v.Field(i).Int()
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("PROTOCOL.md and %T differ (-code +page):\n%s", defaults, diff)
	}
}

func TestPage_Limits(t *testing.T) {
	CheckDefaults(t, PageRows(t, "limit", "default"), DefaultLimits())
}

// TestPage_Types wants the number, name and payload of every type of message.
func TestPage_Types(t *testing.T) {
	var got []string
	for _, row := range PageRows(t, "type", "message", "payload") {
		got = append(got, strings.Join(row[:3], " "))
	}
	payloads := map[Type]string{}
	for _, m := range samples() {
		p, err := toProto(m)
		if err != nil {
			t.Fatal(err)
		}
		payloads[m.Type()] = string(p.ProtoReflect().Descriptor().Name())
	}
	var want []string
	for n := TypeHello; n <= lastType; n++ {
		want = append(want, fmt.Sprintf("%d %s %s", n, n, payloads[n]))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("PROTOCOL.md and the types of messages differ (-code +page):\n%s", diff)
	}
}

// TestPage_Fields wants the number, name and type of every field of wire.proto.
func TestPage_Fields(t *testing.T) {
	got, want := map[string]string{}, map[string]string{}
	for _, row := range PageRows(t, "part", "type", "meaning") {
		got[row[0]] = row[1]
	}
	messages := protocolpb.File_host_protocol_wire_proto.Messages()
	for i := range messages.Len() {
		message := messages.Get(i)
		for j := range message.Fields().Len() {
			f := message.Fields().Get(j)
			want[fmt.Sprintf("%s %d %s", message.Name(), f.Number(), f.Name())] = typeOf(f)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("PROTOCOL.md and wire.proto differ (-code +page):\n%s", diff)
	}
}

func typeOf(f protoreflect.FieldDescriptor) string {
	name := f.Kind().String()
	switch {
	case f.Message() != nil:
		name = string(f.Message().Name())
	case f.Enum() != nil:
		name = string(f.Enum().Name())
	}
	if f.IsList() {
		return "repeated " + name
	}
	return name
}
