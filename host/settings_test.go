package main

import (
	"reflect"
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
