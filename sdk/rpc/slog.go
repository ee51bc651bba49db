package rpc

import (
	"context"
	"log"
	"log/slog"
	"slices"
	"time"

	"github.com/hashicorp/go-hclog"
)

// slogHandler implements slog.Handler by an hclog logger, which writes what the host takes for an entry: else each would come as a
// text, at level info whatever its own. A group is a prefix of its attributes' names.
type slogHandler struct {
	log    hclog.Logger
	prefix string // of the names of attributes to come: "", or ends with a dot
	given  []any  // names and values of attributes that every entry has
}

// Enabled implements slog.Handler.
func (h *slogHandler) Enabled(_ context.Context, level slog.Level) bool {
	return hclogLevel(level) >= h.log.GetLevel()
}

// Handle implements slog.Handler. The time of an entry is that of the call, which comes at once.
func (h *slogHandler) Handle(_ context.Context, r slog.Record) error {
	attributes := slices.Clone(h.given)
	r.Attrs(func(a slog.Attr) bool {
		attributes = appendAttribute(attributes, h.prefix, a)
		return true
	})
	h.log.Log(hclogLevel(r.Level), r.Message, attributes...)
	return nil
}

// WithAttrs implements slog.Handler.
func (h *slogHandler) WithAttrs(attributes []slog.Attr) slog.Handler {
	next := *h
	next.given = slices.Clone(h.given)
	for _, a := range attributes {
		next.given = appendAttribute(next.given, h.prefix, a)
	}
	return &next
}

// WithGroup implements slog.Handler.
func (h *slogHandler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	next := *h
	next.prefix += name + "."
	return &next
}

func appendAttribute(to []any, prefix string, a slog.Attr) []any {
	value := a.Value.Resolve()
	switch {
	case a.Key == "" && value.Equal(slog.Value{}):
		return to
	case value.Kind() == slog.KindGroup:
		if a.Key != "" {
			prefix += a.Key + "."
		}
		for _, each := range value.Group() {
			to = appendAttribute(to, prefix, each)
		}
		return to
	case value.Kind() == slog.KindDuration: // which JSON would have as a number of nanoseconds
		return append(to, prefix+a.Key, value.Duration().String())
	case value.Kind() == slog.KindTime:
		return append(to, prefix+a.Key, value.Time().Format(time.RFC3339Nano))
	}
	return append(to, prefix+a.Key, value.Any())
}

// hclogLevel returns the level of hclog that is at or below one of slog.
func hclogLevel(level slog.Level) hclog.Level {
	switch {
	case level < slog.LevelDebug:
		return hclog.Trace
	case level < slog.LevelInfo:
		return hclog.Debug
	case level < slog.LevelWarn:
		return hclog.Info
	case level < slog.LevelError:
		return hclog.Warn
	}
	return hclog.Error
}

// logTo has the default loggers of hclog, slog and log write to logger.
func logTo(logger hclog.Logger) {
	hclog.SetDefault(logger)
	slog.SetDefault(slog.New(&slogHandler{log: logger})) // log would write to it too from here on, and every line be info
	log.SetFlags(0)
	log.SetOutput(logger.StandardWriter(&hclog.StandardLoggerOptions{InferLevels: true}))
}
