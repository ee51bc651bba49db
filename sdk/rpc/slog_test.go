package rpc

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"testing/slogtest"

	"github.com/hashicorp/go-hclog"
)

// TestSlogHandler holds the handler to the rules of slog.
func TestSlogHandler(t *testing.T) {
	var out bytes.Buffer
	slogtest.Run(t, func(t *testing.T) slog.Handler {
		if strings.HasSuffix(t.Name(), "/zero-time") {
			t.Skip("hclog gives each entry its own time")
		}
		out.Reset()
		return &slogHandler{log: hclog.New(&hclog.LoggerOptions{Output: &out, JSONFormat: true})}
	}, func(t *testing.T) map[string]any {
		var entry map[string]any
		if err := json.Unmarshal(out.Bytes(), &entry); err != nil {
			t.Fatalf("%s: %v", &out, err)
		}
		return nested(entry)
	})
}

// nested returns an entry as slog itself would have written it.
func nested(entry map[string]any) map[string]any {
	names := map[string]string{"@message": slog.MessageKey, "@level": slog.LevelKey, "@timestamp": slog.TimeKey}
	top := map[string]any{}
	for key, value := range entry {
		if name, ok := names[key]; ok {
			key = name
		}
		at := top
		groups := strings.Split(key, ".")
		for _, group := range groups[:len(groups)-1] {
			if _, ok := at[group]; !ok {
				at[group] = map[string]any{}
			}
			at = at[group].(map[string]any) //nolint:forcetypeassert // a test
		}
		at[groups[len(groups)-1]] = value
	}
	return top
}

// TestSlogHandler_Enabled wants no work for what is not logged.
func TestSlogHandler_Enabled(t *testing.T) {
	for level, want := range map[slog.Level]hclog.Level{
		slog.LevelDebug - 4: hclog.Trace, slog.LevelDebug: hclog.Debug, slog.LevelInfo: hclog.Info, slog.LevelInfo + 2: hclog.Info,
		slog.LevelWarn: hclog.Warn, slog.LevelError: hclog.Error, slog.LevelError + 4: hclog.Error,
	} {
		for least := hclog.Trace; least <= hclog.Error; least++ {
			h := &slogHandler{log: hclog.New(&hclog.LoggerOptions{Level: least, Output: new(bytes.Buffer)})}
			if got := h.Enabled(t.Context(), level); got != (want >= least) {
				t.Errorf("%v at %v: enabled %v", level, least, got)
			}
		}
	}
}
