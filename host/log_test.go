package main

import (
	"database/sql/driver"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/fx/fxtest"

	"github.com/starling-sync/starling/host/config"
	"github.com/starling-sync/starling/sdk"
)

// TestNewLog wants no line of what else fails while the database is out of reach, but in the full log, or where everything is wanted.
func TestNewLog(t *testing.T) {
	for level, quiet := range map[string]bool{"info": true, "debug": false} {
		path := filepath.Join(t.TempDir(), "log")
		lc := fxtest.NewLifecycle(t)
		log, full, err := newLog(lc, &config.Config{Log: config.Log{File: path, Level: level}})
		if err != nil {
			t.Fatal(err)
		}
		lc.RequireStart()
		away := sdk.Errorf(sdk.CodeUnavailable, "read: %w", driver.ErrBadConn)
		log.Named("sync").Warn("stream held", "reason", away)
		log.Warn("something else", "error", errors.New("no disk"))
		full.Named("database").Error("out of reach", "error", away)
		lc.RequireStop()
		text, err := os.ReadFile(path) //nolint:gosec // our own
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range []string{"something else", "out of reach"} {
			if !strings.Contains(string(text), line) {
				t.Errorf("%s: no %q in\n%s", level, line, text)
			}
		}
		if strings.Contains(string(text), "stream held") == quiet {
			t.Errorf("%s: quiet %v in\n%s", level, quiet, text)
		}
	}
}
