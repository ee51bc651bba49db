package main

import (
	"encoding/json"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
)

// TestDocs wants docs/fleet.md to have every setting, and the permissions that TestPermissions shows to be enough.
func TestDocs(t *testing.T) {
	raw, err := os.ReadFile("../../docs/fleet.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(raw)
	b := &block{known: map[string]bool{}}
	if err := json.Unmarshal([]byte("{}"), &b.values); err != nil {
		t.Fatal(err)
	}
	b.read(&settings{})
	settings := slices.Sorted(maps.Keys(b.known))
	if len(settings) < 12 {
		t.Fatalf("only %v are read", settings)
	}
	var rows string
	for line := range strings.Lines(text) {
		if cells := strings.Split(line, "|"); len(cells) == 5 {
			rows += cells[1]
		}
	}
	for _, name := range settings {
		if !strings.Contains(rows, "`"+name+"`") {
			t.Errorf("docs/fleet.md has no row for the setting %s", name)
		}
	}
	for _, list := range []string{
		`publish:   ["starling.home.dial.*", "starling.home.inbox.>"]`,
		`subscribe: ["starling.home.dial.alice", "starling.home.inbox.alice.*"]`,
	} {
		if !strings.Contains(text, list) {
			t.Errorf("docs/fleet.md has no %s", list)
		}
	}
}
