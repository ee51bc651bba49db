package command

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/dustin/go-humanize"

	"github.com/starling-sync/starling/sdk"
)

const (
	nothing  = "-" // in a table, where there is no value
	maxCell  = 60  // characters of a cell in a table of records
	flushing = 500 // rows that are aligned together: memory stays bounded however long the list
)

// table aligns rows in columns.
type table struct {
	w    *tabwriter.Writer
	rows int
}

func newTable(out io.Writer, header ...string) *table {
	t := &table{w: tabwriter.NewWriter(out, 0, 8, 3, ' ', 0)}
	if len(header) > 0 {
		t.row(header...)
	}
	return t
}

func (t *table) row(cells ...string) {
	for i, cell := range cells {
		if i > 0 {
			fmt.Fprint(t.w, "\t")
		}
		fmt.Fprint(t.w, plain(cell))
	}
	fmt.Fprintln(t.w)
	if t.rows++; t.rows%flushing == 0 {
		_ = t.w.Flush() // a broken writer fails the last flush too
	}
}

func (t *table) flush() error { return t.w.Flush() }

// plain returns text as it is if every character can be seen, else quoted: names of files and words from other
// devices must not steer a terminal.
func plain(text string) string {
	if !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(text)
	}
	return text
}

// cut shortens a cell to what a table can show.
func cut(text string) string {
	if utf8.RuneCountInString(text) <= maxCell {
		return text
	}
	return string([]rune(text)[:maxCell-3]) + "..."
}

// member is one member of a JSON object.
type member struct {
	name string
	raw  json.RawMessage
}

// members returns the members of an object in their order.
func members(object json.RawMessage) ([]member, error) {
	decoder := json.NewDecoder(bytes.NewReader(object))
	if _, err := decoder.Token(); err != nil {
		return nil, fmt.Errorf("read what the host sent: %w", err)
	}
	var out []member
	for decoder.More() {
		token, err := decoder.Token()
		if err != nil {
			return nil, fmt.Errorf("read what the host sent: %w", err)
		}
		name, _ := token.(string)
		var raw json.RawMessage
		if err := decoder.Decode(&raw); err != nil {
			return nil, fmt.Errorf("read what the host sent: %w", err)
		}
		out = append(out, member{name, raw})
	}
	return out, nil
}

// text returns a JSON value as people read it.
func text(raw json.RawMessage) string {
	if len(raw) == 0 || string(raw) == "null" {
		return nothing
	}
	if raw[0] == '"' {
		var s string
		if json.Unmarshal(raw, &s) == nil {
			return s
		}
	}
	return string(raw)
}

// object prints v as one line of JSON.
func (a *app) object(v any) error {
	line, err := marshal(v)
	if err != nil {
		return err
	}
	return a.line(line)
}

func marshal(v any) ([]byte, error) {
	var line bytes.Buffer
	encoder := json.NewEncoder(&line)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		return nil, fmt.Errorf("print as JSON: %w", err)
	}
	return bytes.TrimSuffix(line.Bytes(), []byte("\n")), nil
}

func (a *app) line(line []byte) error {
	_, err := a.Out.Write(append(line, '\n'))
	return printed(err)
}

func (a *app) printf(format string, args ...any) error {
	_, err := fmt.Fprintf(a.Out, format, args...)
	return printed(err)
}

func printed(err error) error {
	if err != nil {
		return fmt.Errorf("print the result: %w", err)
	}
	return nil
}

// refusal makes a refused record an error.
func refusal(r sdk.Refusal) error { return sdk.Errorf(r.Code, "%s", r.Message) }

// moment returns a time to the millisecond, in the place of now.
func (a *app) moment(t time.Time) string {
	return t.In(a.Now().Location()).Format("2006-01-02 15:04:05.000")
}

// ago returns how long ago t was, or nothing.
func (a *app) ago(t time.Time) string {
	if t.IsZero() {
		return nothing
	}
	return span(a.Now().Sub(t))
}

// span returns a length of time as people say it: two units at most.
func span(d time.Duration) string {
	if d < 0 {
		d = 0
	}
	switch {
	case d < time.Millisecond:
		return fmt.Sprintf("%d us", d.Microseconds())
	case d < time.Second:
		return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < 10*time.Minute && d%time.Minute >= time.Second:
		return fmt.Sprintf("%d m %d s", int(d.Minutes()), int(d.Seconds())%60)
	case d < time.Hour:
		return fmt.Sprintf("%d m", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}

// signed returns a difference of clocks: "+3 ms".
func signed(d time.Duration) string {
	sign := "+"
	if d <= -time.Millisecond {
		sign, d = "-", -d
	}
	if d < 10*time.Second {
		return fmt.Sprintf("%s%d ms", sign, max(0, d.Milliseconds()))
	}
	return sign + span(d)
}

func size(bytes int64) string { return humanize.Bytes(uint64(max(0, bytes))) }

// count returns "1 model", "1,204 models".
func count(n int64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return humanize.Comma(n) + " " + noun + "s"
}

func orNothing(s string) string {
	if s == "" {
		return nothing
	}
	return s
}
