package main

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/starling-sync/starling/plugins/volume/mounts"
	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/rpc/rpctest"
	"github.com/starling-sync/starling/sdk/sdktest"
)

// accepted are values that validate takes.
func accepted() []sdktest.ModelOption {
	return []sdktest.ModelOption{
		sdktest.FieldValues("mount_point", "/", "/media/stick", `C:\`),
		sdktest.FieldValues("capacity", int64(0), int64(1), int64(1)<<50),
		sdktest.FieldValues("free", int64(0), int64(1), int64(1)<<50),
	}
}

func TestVolume(t *testing.T) { sdktest.Model(t, model(), accepted()...) }

// TestBinary runs the laws against the plugin as a process of its own, then has it find this machine's volumes.
func TestBinary(t *testing.T) {
	server := rpctest.Models(t, rpctest.Build(t, "."))[0]
	sdktest.Model(t, server, accepted()...)
	want, err := mounts.List()
	if err != nil || len(want) == 0 {
		t.Skipf("this system tells of no volumes: %v", err)
	}
	host := sdktest.NewSourceHost(t, server)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	running, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- server.(sdk.Source).Run(running, host) }() //nolint:forcetypeassert // its description says so
	if err := host.Await(ctx, func() bool { return host.Count("volume") > 0 }); err != nil {
		t.Errorf("no volume; warnings %v", host.Warnings())
	}
	stop()
	if err := <-done; err != nil {
		t.Errorf("Run: %v", err)
	}
	for _, v := range sdktest.Records(t, host, model()) {
		if !v.Mounted || v.Capacity <= 0 || v.MountPoint == "" || v.Name == "" {
			t.Errorf("volume %+v", v)
		}
	}
}

func TestValidate(t *testing.T) {
	for name, test := range map[string]struct {
		volume Volume
		want   sdk.Code
	}{
		"valid":                 {Volume{MountPoint: "/", Capacity: 2, Free: 1}, ""},
		"no mount point":        {Volume{Capacity: 2}, sdk.CodeInvalid},
		"less than no capacity": {Volume{MountPoint: "/", Capacity: -1}, sdk.CodeInvalid},
		"less than no space":    {Volume{MountPoint: "/", Free: -1}, sdk.CodeInvalid},
	} {
		if got := sdk.CodeOf(validate(&test.volume)); got != test.want {
			t.Errorf("%s: code %q, want %q", name, got, test.want)
		}
	}
}

func TestSettings(t *testing.T) {
	for _, test := range []struct {
		config, wrong string
		want          time.Duration
	}{
		{`{}`, "", 5 * time.Second},
		{`{"poll": "1m"}`, "", time.Minute},
		{`{"poll": "soon"}`, `"soon"`, 0},
		{`{"poll": "1ms"}`, `"1ms"`, 0},
		{`{"pol": "1m"}`, "poll", 0},
		{`{"poll": 5}`, "poll", 0},
	} {
		s := defaults()
		err := sdk.Settings(s).Configure(t.Context(), json.RawMessage(test.config))
		got := s.Poll
		switch {
		case test.wrong == "" && (err != nil || got != test.want):
			t.Errorf("%s: %s, %v, want %s", test.config, got, err, test.want)
		case test.wrong != "" && (sdk.CodeOf(err) != sdk.CodeInvalid || !strings.Contains(err.Error(), test.wrong)):
			t.Errorf("%s: %v, want it invalid because of %s", test.config, err, test.wrong)
		}
	}
}
