package main

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/starling-sync/starling/host/config"
	"github.com/starling-sync/starling/host/peersync"
	"github.com/starling-sync/starling/host/protocol"
)

// TestDefaults wants a configuration that says nothing to be what the packages use by themselves.
func TestDefaults(t *testing.T) {
	s := config.DefaultSync()
	if diff := cmp.Diff(protocol.DefaultLimits(), limitsOf(&s)); diff != "" {
		t.Errorf("limits (-package +configuration):\n%s", diff)
	}
	if diff := cmp.Diff(peersync.DefaultConfig(), timesOf(&s)); diff != "" {
		t.Errorf("times (-package +configuration):\n%s", diff)
	}
}

// TestSettings gives every setting a value of its own, and wants it where it is of the same name.
func TestSettings(t *testing.T) {
	var s config.Sync
	var l config.Limits
	n := int64(1000)
	number := func(of reflect.Value) {
		for i := range of.NumField() {
			if f := of.Field(i); f.CanInt() {
				n++
				f.SetInt(n)
			}
		}
	}
	number(reflect.ValueOf(&s).Elem())
	number(reflect.ValueOf(&l).Elem())
	s.Limits = l
	want := map[string]int64{"RetentionAge": 0, "AuditTime": s.Audit.Nanoseconds()}
	for _, of := range []reflect.Value{reflect.ValueOf(s), reflect.ValueOf(l)} {
		for i := range of.NumField() {
			if of.Field(i).CanInt() {
				want[of.Type().Field(i).Name] = of.Field(i).Int()
			}
		}
	}
	compared := 0
	for _, got := range []reflect.Value{reflect.ValueOf(limitsOf(&s)), reflect.ValueOf(timesOf(&s))} {
		for i := range got.NumField() {
			name := got.Type().Field(i).Name
			if value, ok := want[name]; ok {
				compared++
				if got.Field(i).Int() != value {
					t.Errorf("%s is %d; the setting of that name is %d", name, got.Field(i).Int(), value)
				}
			}
		}
	}
	if compared < 24 {
		t.Errorf("only %d settings were compared", compared)
	}
}

// TestOvers wants every limit that refused input is counted by to be listed, for metrics, and to be a setting on the page.
func TestOvers(t *testing.T) {
	counted := map[string]bool{}
	for _, folder := range []string{"protocol", "peersync"} {
		files, err := filepath.Glob(filepath.Join(folder, "*.go"))
		if err != nil || len(files) == 0 {
			t.Fatal(folder, err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range regexp.MustCompile(`\b(?:Over\(|atMost\(|refuseOver\(s, |over\[|over: )"([a-z_]+)"`).FindAllStringSubmatch(string(text), -1) {
				counted[m[1]] = true
			}
		}
	}
	page, err := os.ReadFile("../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	var listed []string
	for _, limit := range protocol.Overs() {
		listed = append(listed, string(limit))
		if !strings.Contains(string(page), "| `sync.limits."+string(limit)+"` |") && !strings.Contains(string(page), "| `sync."+string(limit)+"` |") {
			t.Errorf("%s is no setting", limit)
		}
		delete(counted, string(limit))
	}
	if !slices.IsSorted(listed) || len(counted) > 0 {
		t.Errorf("not sorted, or not listed: %v", counted)
	}
}
