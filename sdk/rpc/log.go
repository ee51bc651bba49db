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

// logWriter logs what a process prints once it serves, a line each. go-plugin passes that on in chunks, which begin and end
// anywhere, and hold several lines when they come fast.
type logWriter struct {
	log      hclog.Logger
	redactor *Redactor
	plain    io.Writer // of log, for lines that are no entries

	mu   sync.Mutex
	part []byte // of a line; len <= maxLine
}

// newLogWriter returns what logs lines in log under the plugin's name, as go-plugin does those that come before.
func newLogWriter(log hclog.Logger, name string, redact *Redactor, plain *hclog.StandardLoggerOptions) *logWriter {
	log = log.Named(name)
	return &logWriter{log: log, redactor: redact, plain: log.StandardWriter(plain)}
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

func (w *logWriter) line(text string) {
	var entry map[string]any
	if strings.HasPrefix(text, "{") {
		_ = json.Unmarshal([]byte(text), &entry) // else it is a text
	}
	if _, ok := entry["@message"].(string); !ok {
		_, _ = io.WriteString(w.plain, text) // hclog's own, which does not fail
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
