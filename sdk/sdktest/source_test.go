package sdktest_test

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/sdktest"
)

func TestSourceHost_Laws(t *testing.T) {
	sdktest.SourceHostSuite(t, func(t *testing.T, server sdk.ModelServer) (sdk.SourceHost, func()) {
		t.Helper()
		host := sdktest.NewSourceHost(t, server)
		return host, host.Close
	})
}

func TestSourceHost(t *testing.T) {
	files := sdk.Model[file]{Name: "file", Version: 1}
	host := sdktest.NewSourceHost(t, files)
	packer, err := files.Packer()
	if err != nil {
		t.Fatal(err)
	}
	commit := func() []sdk.Refusal {
		t.Helper()
		refused, err := host.Commit(t.Context(), packer.Batch())
		if err != nil {
			t.Fatal(err)
		}
		return refused
	}
	changed := host.Changed("file")
	folder := file{Name: "folder"}
	packer.Put(&folder)
	child := file{Name: "child", Parent: sdk.Ref(folder.ID)}
	packer.Put(&child)
	if refused := commit(); len(refused) > 0 {
		t.Fatalf("refused %+v", refused)
	}
	<-changed
	packer.Put(&child)
	commit()
	if host.Written() != 2 || host.Count("file") != 2 || len(host.Commits()) != 2 {
		t.Errorf("want 2 rows written in 2 commits, got %d in %d", host.Written(), len(host.Commits()))
	}
	found, err := host.Find(t.Context(), "file", "parent_id", []any{folder.ID})
	if err != nil {
		t.Fatal(err)
	}
	for got, err := range files.Rows(&found) {
		child.Stamp = got.Stamp
		if diff := cmp.Diff(child, got); diff != "" || err != nil {
			t.Errorf("%v (-want +got):\n%s", err, diff)
		}
	}
	if found.Count != 1 || found.Version != 1 {
		t.Errorf("want one child, got %+v", found)
	}
	packer.Delete(child.ID)
	commit()
	if got := sdktest.Records(t, host, files); len(got) != 1 || got[0].Name != "folder" {
		t.Errorf("after the delete: got %+v", got)
	}
	done := make(chan error, 1)
	go func() {
		done <- host.Await(t.Context(), func() bool { return host.Warnings()["unreadable"].Count == 2 })
	}()
	host.Warn("unreadable", 2, "2 folders can not be read")
	if err := <-done; err != nil {
		t.Error(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := host.Await(ended, func() bool { return false }); err == nil {
		t.Error("Await outlived its context")
	}
	host.Close()
	for range changed { //nolint:revive // it ends because the channel is closed
	}
}
