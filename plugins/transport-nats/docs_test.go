package main

import (
	"os"
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
	settings, err := (&transport{}).DeclareSettings()
	if err != nil {
		t.Fatal(err)
	}
	if len(settings) < 12 {
		t.Fatalf("only %v are read", settings)
	}
	var rows string
	for line := range strings.Lines(text) {
		if cells := strings.Split(line, "|"); len(cells) == 5 {
			rows += cells[1]
		}
	}
	for _, setting := range settings {
		if !strings.Contains(rows, "`"+setting.Name+"`") {
			t.Errorf("docs/fleet.md has no row for the setting %s", setting.Name)
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
