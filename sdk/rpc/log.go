package rpc

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

// logWriter logs what a process prints, a line each. It comes in chunks, which begin and end anywhere, and hold several lines
// when they come fast.
type logWriter struct {
	log      hclog.Logger
	redactor *Redactor
	plain    io.Writer // of log, for lines that are no entries
	own      bool      // it is what the process itself wrote, not what go-plugin passes on of it

	mu    sync.Mutex
	part  []byte // of a line; len <= maxLine
	dying bool   // own, and the process has said that it panics: what follows is where
}

// newLogWriter returns what logs lines in log under the plugin's name: one that is an entry at its level, and any other one as
// plain says.
func newLogWriter(log hclog.Logger, name string, redact *Redactor, plain *hclog.StandardLoggerOptions) *logWriter {
	log = log.Named(name)
	return &logWriter{log: log, redactor: redact, plain: log.StandardWriter(plain)}
}

// newErrorLog returns what logs the standard error of a process itself. Whoever uses the SDK prints there before it serves, and when
// it ends by a panic; others, such as a script, all the time. They must be heard without asking for more than a host logs by default.
func newErrorLog(log hclog.Logger, name string) *logWriter {
	w := newLogWriter(log, name, nil, &hclog.StandardLoggerOptions{InferLevels: true})
	w.own = true
	return w
}

// Write implements io.Writer. It keeps the beginning of a line until its end comes.
func (w *logWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.part = append(w.part, p...)
	end := bytes.LastIndexByte(w.part, '\n') + 1
	if len(w.part)-end > maxLine {
		end = len(w.part)
	}
	for line := range strings.Lines(string(w.part[:end])) {
		w.line(w.redactor.line(strings.TrimRight(line, "\r\n")))
	}
	w.part = append(w.part[:0], w.part[end:]...)
	return len(p), nil
}

// end logs the beginning of a line whose end will not come.
func (w *logWriter) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.part) > 0 {
		w.line(w.redactor.line(string(w.part)))
	}
	w.part = nil
}

func (w *logWriter) line(text string) {
	var entry map[string]any
	if strings.HasPrefix(text, "{") {
		_ = json.Unmarshal([]byte(text), &entry) // else it is a text
	}
	if _, ok := entry["@message"].(string); !ok {
		w.text(text)
		return
	}
	take := func(key string) string {
		value, _ := entry[key].(string)
		delete(entry, key)
		return value
	}
	level, message, at := hclog.LevelFromString(take("@level")), take("@message"), take("@timestamp")
	if level == hclog.NoLevel {
		level = hclog.Info
	}
	var attributes []any
	for _, key := range slices.Sorted(maps.Keys(entry)) {
		attributes = append(attributes, key, entry[key])
	}
	if when, err := time.Parse(time.RFC3339Nano, at); err == nil {
		attributes = append(attributes, "timestamp", when.Format(hclog.TimeFormat))
	}
	w.log.Log(level, message, attributes...)
}

// text logs a line that is no entry.
func (w *logWriter) text(text string) {
	w.dying = w.dying || w.own && isPanic(text)
	switch {
	case w.own && strings.TrimSpace(text) == "": // a gap in what is said
	case w.dying:
		w.log.Error(text)
	default:
		_, _ = io.WriteString(w.plain, text) // hclog's own, which does not fail
	}
}

// isPanic reports whether a line is the first one that Go prints when it ends a process.
func isPanic(line string) bool {
	return strings.HasPrefix(line, "panic: ") || strings.HasPrefix(line, "fatal error: ")
}
