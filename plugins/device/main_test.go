package main

import (
	"encoding/json"
	"testing"

	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/rpc/rpctest"
	"github.com/starling-sync/starling/sdk/sdktest"
)

// accepted are values that validate takes.
func accepted() []sdktest.ModelOption {
	return []sdktest.ModelOption{
		sdktest.FieldValues("name", "alice", "\u00e9"),
		sdktest.FieldValues("addresses", `{}`, `{"tcp":["10.0.0.1:7420","[::1]:7420"]}`),
	}
}

func TestDevice(t *testing.T) { sdktest.Model(t, model(), accepted()...) }

// TestBinary runs the laws against the plugin as a process of its own.
func TestBinary(t *testing.T) {
	for _, server := range rpctest.Models(t, rpctest.Build(t, ".")) {
		sdktest.Model(t, server, accepted()...)
	}
}

func TestValidate(t *testing.T) {
	for _, test := range []struct {
		name, addresses string
		want            sdk.Code
	}{
		{"alice", "", ""},
		{"alice", `{"tcp":["host:7420"],"quic":[]}`, ""},
		{" ", "", sdk.CodeInvalid},
		{"alice", `["host:7420"]`, sdk.CodeInvalid},
		{"alice", `{"tcp":"host:7420"}`, sdk.CodeInvalid},
	} {
		d := Device{Name: test.name, Addresses: json.RawMessage(test.addresses)}
		if got := sdk.CodeOf(validate(&d)); got != test.want {
			t.Errorf("name %q, addresses %s: code %q, want %q", test.name, test.addresses, got, test.want)
		}
	}
}
