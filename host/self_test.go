package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/rpc/rpctest"
)

// TestOwnDevice_Columns checks that what the host writes of its device are columns of the device model, of the same types.
func TestOwnDevice_Columns(t *testing.T) {
	desc, err := rpctest.Models(t, rpctest.Build(t, "../plugins/device"))[0].Describe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	written, err := ownDevices().Describe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, fields := range [][]sdk.Field{desc.Fields, written.Fields} {
		for i := range fields {
			fields[i].Doc, fields[i].Required = "", false
		}
	}
	if diff := cmp.Diff(desc.Fields, written.Fields); diff != "" {
		t.Errorf("the device model and what the host writes of it differ (-model +written):\n%s", diff)
	}
}
