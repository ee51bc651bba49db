package eventlog

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func reopen(t *testing.T, dir string, limit int64) *Log {
	t.Helper()
	l, err := open(dir, limit)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func add(t *testing.T, l *Log, kind string) {
	t.Helper()
	if err := l.Append(Event{At: time.Unix(1, 0).UTC(), Kind: kind, Plugin: "tag", From: Build{SHA256: "ab"}}); err != nil {
		t.Fatal(err)
	}
}

func after(t *testing.T, l *Log, number int64) []Event {
	t.Helper()
	events, _, err := l.After(number)
	if err != nil {
		t.Fatal(err)
	}
	return events
}

func TestLog_OutlivesTheHost(t *testing.T) {
	dir := t.TempDir()
	l := reopen(t, dir, MaxBytes)
	add(t, l, "swapped")
	add(t, l, "crashed")
	_ = l.Close()
	if err := l.Append(Event{}); err == nil {
		t.Error("an event was written to a closed log")
	}
	l = reopen(t, dir, MaxBytes)
	add(t, l, "restarted")
	want := []Event{
		{Number: 2, At: time.Unix(1, 0).UTC(), Kind: "crashed", Plugin: "tag", From: Build{SHA256: "ab"}},
		{Number: 3, At: time.Unix(1, 0).UTC(), Kind: "restarted", Plugin: "tag", From: Build{SHA256: "ab"}},
	}
	if diff := cmp.Diff(want, after(t, l, 1)); diff != "" {
		t.Error(diff)
	}
}

// TestLog_CutShort ends the file within a line, as a crash may.
func TestLog_CutShort(t *testing.T) {
	dir := t.TempDir()
	l := reopen(t, dir, MaxBytes)
	add(t, l, "one")
	add(t, l, "two")
	_ = l.Close()
	path := filepath.Join(dir, "events.jsonl")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, text[:len(text)-5], 0o600); err != nil {
		t.Fatal(err)
	}
	l = reopen(t, dir, MaxBytes)
	add(t, l, "three")
	var kinds []string
	for _, e := range after(t, l, 0) {
		kinds = append(kinds, e.Kind)
	}
	if got := strings.Join(kinds, " "); got != "one three" {
		t.Errorf("events %q", got)
	}
}

func TestLog_IsBounded(t *testing.T) {
	dir := t.TempDir()
	const limit = 1000
	l := reopen(t, dir, limit)
	for range 100 {
		add(t, l, "swapped")
	}
	var size int64
	for _, name := range []string{"events.jsonl", "events.jsonl.1"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		size += info.Size()
	}
	events := after(t, l, 0)
	if size > 2*limit || len(events) < 5 {
		t.Errorf("%d bytes, %d events", size, len(events))
	}
	for i, e := range events {
		if e.Number != 100-int64(len(events)-1-i) {
			t.Fatalf("event %d has number %d", i, e.Number)
		}
	}
}

func TestLog_Follow(t *testing.T) {
	l := reopen(t, t.TempDir(), MaxBytes)
	_, changed, err := l.After(0)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = l.Append(Event{Kind: "swapped"}) }()
	select {
	case <-changed:
	case <-time.After(2 * time.Minute):
		t.Fatal("not told")
	}
	if len(after(t, l, 0)) != 1 {
		t.Error("no event")
	}
}
