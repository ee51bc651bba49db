package rpc

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/starling-sync/starling/sdk/rpc/rpcpb"
)

// Redacted stands where a secret was.
const Redacted = "(secret)"

// shortSecret is how many bytes a secret has at least that is found wherever it stands. A shorter one could be part of any
// word, and is found where it stands alone.
const shortSecret = 8

// Redactor takes secrets out of what a plugin says: out of its errors, its log, and what it tells people. A nil one takes out
// nothing. Its methods may be called at once.
//
// It knows a secret as it is, and as it is quoted in Go, in JSON (with all that is not ASCII escaped, as Python does, or not)
// and in a URL; of one of several lines also each line. In a log line that is JSON it looks at the texts that this holds. It
// does not know parts of a line, nor what the plugin makes of it.
type Redactor struct {
	mu    sync.RWMutex
	forms []string // how secrets are written, the longest first
}

// Hide sets the secrets, in place of those before.
func (r *Redactor) Hide(secrets []string) {
	var forms []string
	for _, secret := range secrets {
		forms = append(forms, formsOf(secret)...)
		if lines := strings.FieldsFunc(secret, func(c rune) bool { return c == '\n' || c == '\r' }); len(lines) > 1 {
			for _, line := range lines {
				if line = strings.TrimSpace(line); len(line) >= shortSecret {
					forms = append(forms, formsOf(line)...)
				}
			}
		}
	}
	slices.SortFunc(forms, func(a, b string) int { return cmp.Or(cmp.Compare(len(b), len(a)), cmp.Compare(a, b)) })
	r.mu.Lock()
	defer r.mu.Unlock()
	r.forms = slices.Compact(forms)
}

func formsOf(secret string) []string {
	if strings.TrimSpace(secret) == "" {
		return nil
	}
	forms := []string{
		secret, strings.Trim(strconv.Quote(secret), `"`), strings.Trim(strconv.QuoteToASCII(secret), `"`), url.QueryEscape(secret), url.PathEscape(secret), url.UserPassword("", secret).String()[1:], (&url.URL{Path: "/" + secret}).EscapedPath()[1:],
	}
	for _, escape := range []bool{true, false} {
		var out bytes.Buffer
		encoder := json.NewEncoder(&out)
		encoder.SetEscapeHTML(escape)
		if encoder.Encode(secret) == nil {
			text := strings.TrimSuffix(strings.TrimPrefix(strings.TrimSuffix(out.String(), "\n"), `"`), `"`)
			for _, text := range []string{text, ascii(text, `\u%04x`), ascii(text, `\u%04X`)} {
				forms = append(forms, text, strings.ReplaceAll(text, "/", `\/`))
			}
		}
	}
	return forms
}

// ascii returns JSON with each UTF-16 unit that is not ASCII in format.
func ascii(text, format string) string {
	var out strings.Builder
	for _, c := range text {
		if c < utf8.RuneSelf {
			out.WriteRune(c)
			continue
		}
		for _, unit := range utf16.Encode([]rune{c}) {
			fmt.Fprintf(&out, format, unit)
		}
	}
	return out.String()
}

// line returns a log line without the secrets. One that is a JSON object is written anew with its texts without them, since
// who decodes it would find what Text does not know: JSON has many ways to write one text. Its @message, @level and @timestamp are
// texts from then on.
func (r *Redactor) line(text string) string {
	if !strings.HasPrefix(strings.TrimSpace(text), "{") {
		return r.Text(text)
	}
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.UseNumber()
	var entry map[string]any
	if decoder.Decode(&entry) != nil || entry == nil {
		return r.Text(text)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) { // more follows: go-plugin takes it for a text, too
		return r.Text(text)
	}
	entry = r.value(entry).(map[string]any) //nolint:forcetypeassert // what comes in goes out
	for _, key := range []string{"@message", "@level", "@timestamp"} {
		if value, ok := entry[key]; ok {
			if _, ok := value.(string); !ok {
				entry[key] = fmt.Sprint(value)
			}
		}
	}
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	if encoder.Encode(entry) != nil {
		return r.Text(text)
	}
	if !strings.HasSuffix(text, "\n") {
		return strings.TrimSuffix(out.String(), "\n")
	}
	return out.String()
}

// value returns a decoded JSON value without the secrets.
func (r *Redactor) value(v any) any {
	switch v := v.(type) {
	case string:
		return r.Text(v)
	case json.Number:
		if text := r.Text(v.String()); text != v.String() {
			return text
		}
	case []any:
		for i := range v {
			v[i] = r.value(v[i])
		}
	case map[string]any:
		out := make(map[string]any, len(v))
		for key, each := range v {
			out[r.Text(key)] = r.value(each)
		}
		return out
	}
	return v
}

// Text returns text without the secrets.
func (r *Redactor) Text(text string) string {
	if r == nil || text == "" {
		return text
	}
	r.mu.RLock()
	forms := r.forms
	r.mu.RUnlock()
	for _, form := range forms {
		text = replace(text, form)
	}
	return text
}

// Error returns what a plugin's call returned without the secrets: its code and the settings that it is about stay.
func (r *Redactor) Error(err error) error {
	if r == nil || err == nil {
		return err
	}
	return fromStatus(r.status(toStatus(err)))
}

// replace returns text without form: wherever it stands, or if it is short where it stands alone.
func replace(text, form string) string {
	if len(form) >= shortSecret {
		return strings.ReplaceAll(text, form, Redacted)
	}
	var out strings.Builder
	for from := 0; ; {
		i := strings.Index(text[from:], form)
		if i < 0 {
			out.WriteString(text[from:])
			return out.String()
		}
		i += from
		end := i + len(form)
		before, _ := utf8.DecodeLastRuneInString(text[:i])
		after, _ := utf8.DecodeRuneInString(text[end:])
		out.WriteString(text[from:i])
		if i > 0 && partOfWord(before) || end < len(text) && partOfWord(after) {
			out.WriteString(form)
		} else {
			out.WriteString(Redacted)
		}
		from = end
	}
}

func partOfWord(r rune) bool { return unicode.IsLetter(r) || unicode.IsDigit(r) || r == '_' }

// status returns an error of a call without the secrets.
func (r *Redactor) status(err error) error {
	s, ok := status.FromError(err)
	if r == nil || err == nil || !ok || errors.Is(err, io.EOF) {
		return err
	}
	out := s.Proto()
	out.Message = r.Text(out.Message)
	for i, detail := range out.Details {
		var e rpcpb.Error
		if detail.UnmarshalTo(&e) != nil {
			continue
		}
		r.wireError(&e)
		if packed, err := anypb.New(&e); err == nil {
			out.Details[i] = packed
		}
	}
	return status.ErrorProto(out)
}

func (r *Redactor) wireError(e *rpcpb.Error) {
	if e != nil {
		e.Message = r.Text(e.Message)
	}
}

// message takes the secrets out of what m tells people.
func (r *Redactor) message(m any) {
	switch m := m.(type) {
	case *rpcpb.HealthReply:
		for i := range m.Reasons {
			m.Reasons[i] = r.Text(m.Reasons[i])
		}
	case *rpcpb.InfoReply:
		r.info(m)
	case *rpcpb.MetricsReply:
		for _, metric := range m.Metrics {
			metric.Help = r.Text(metric.Help)
		}
	case *rpcpb.ApplyReply:
		r.wireError(m.Error)
		for _, refused := range m.Refused {
			refused.Message = r.Text(refused.Message)
		}
	case *rpcpb.SourceMessage:
		if w := m.GetWarning(); w != nil {
			w.Key, w.Message = r.Text(w.Key), r.Text(w.Message)
		}
		if p := m.GetProgress(); p != nil {
			p.Key, p.Unit = r.Text(p.Key), r.Text(p.Unit)
		}
	}
}

// info takes the secrets out of the prose that a plugin declares. Names and types are what they are.
func (r *Redactor) info(m *rpcpb.InfoReply) {
	m.Version = r.Text(m.Version)
	settings := m.GetTransportSettings().GetSettings()
	for _, d := range m.Models {
		d.Doc, d.WrittenBy = r.Text(d.Doc), r.Text(d.WrittenBy)
		for _, f := range d.Fields {
			f.Doc = r.Text(f.Doc)
		}
		settings = slices.Concat(settings, d.GetSettings().GetSettings())
	}
	for _, s := range settings {
		s.Doc = r.Text(s.Doc)
	}
}

// interceptors are those of the host's connection.
func (r *Redactor) interceptors() []grpc.DialOption {
	if r == nil {
		return nil
	}
	return []grpc.DialOption{
		grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, in, out any, conn *grpc.ClientConn, next grpc.UnaryInvoker, options ...grpc.CallOption) error {
			err := r.status(next(ctx, method, in, out, conn, options...))
			r.message(out)
			return err
		}),
		grpc.WithChainStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, next grpc.Streamer, options ...grpc.CallOption) (grpc.ClientStream, error) {
			stream, err := next(ctx, desc, conn, method, options...)
			if err != nil {
				return nil, r.status(err)
			}
			return &redactedStream{stream, r}, nil
		}),
	}
}

type redactedStream struct {
	grpc.ClientStream
	redactor *Redactor
}

func (s *redactedStream) RecvMsg(m any) error {
	err := s.redactor.status(s.ClientStream.RecvMsg(m))
	if err == nil {
		s.redactor.message(m)
	}
	return err
}

// maxLine is the longest line that is looked at as a whole.
const maxLine = 64 << 10

// lines returns what in yields without the secrets, but for the lines that whole wants as they are; nil: none. It passes on a
// line once that is complete.
func (r *Redactor) lines(in io.ReadCloser, whole func(line string) bool) io.ReadCloser {
	if r == nil {
		return in
	}
	return &lineReader{ReadCloser: in, lines: bufio.NewReaderSize(in, maxLine), redactor: r, whole: whole}
}

type lineReader struct {
	io.ReadCloser
	lines    *bufio.Reader
	redactor *Redactor
	whole    func(string) bool
	left     []byte // of a line that is being passed on
	err      error
}

func (l *lineReader) Read(p []byte) (int, error) {
	if len(l.left) == 0 && l.err == nil {
		line, err := l.lines.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			err = nil
		}
		text := string(line)
		if l.whole == nil || !l.whole(text) {
			text = l.redactor.line(text)
		}
		l.left, l.err = []byte(text), err
	}
	n := copy(p, l.left)
	l.left = l.left[n:]
	if n > 0 {
		return n, nil
	}
	return 0, l.err
}
