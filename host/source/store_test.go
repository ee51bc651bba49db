package source_test

import (
	"context"
	"testing"
	"time"

	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/peerlog"
	"github.com/starling-sync/starling/host/registry"
	"github.com/starling-sync/starling/host/replica"
	"github.com/starling-sync/starling/host/source"
	"github.com/starling-sync/starling/host/transaction"
	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/sdktest"
)

// TestHost runs the laws of sdk.SourceHost on what a running source is given, with the real store below it.
func TestHost(t *testing.T) {
	sdktest.SourceHostSuite(t, func(t *testing.T, server sdk.ModelServer) (sdk.SourceHost, func()) {
		t.Helper()
		db, err := database.Open(t.Context(), database.Options{Dir: t.TempDir(), Durability: database.Normal})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := db.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		})
		return newSource(t, newRunner(t, db, server))
	})
}

// newRunner joins a runner to db as the host does.
func newRunner(t *testing.T, db *database.DB, server sdk.ModelServer) *source.Runner {
	t.Helper()
	self := sdk.DeviceID{1}
	models, err := registry.New(t.Context(), registry.Options{DB: db, Self: self})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := models.Add(t.Context(), server); err != nil {
		t.Fatal(err)
	}
	journal := peerlog.New(db)
	clock, err := replica.Clock(t.Context(), db, journal, time.Now, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	manager := transaction.New(transaction.Options{
		DB: db, Self: self, Epoch: [16]byte{1}, Next: clock.Now, Journal: journal,
		Prepare: replica.PrepareLocal(models), Announce: func(transaction.Committed) {},
	})
	return source.New(source.Options{
		Committer: source.CommitterFunc(func(ctx context.Context, batch sdk.Batch) ([]sdk.Refusal, error) {
			result, err := manager.CommitDeviceOwned(ctx, batch)
			var refused []sdk.Refusal
			for _, r := range result.Refused {
				refused = append(refused, r.Refusal)
			}
			return refused, err
		}),
		Finder: models, Watcher: source.Signals(models.Watch), Now: time.Now,
	})
}

// newSource runs a source that does nothing, and returns the host that it was given, and what ends it.
func newSource(t *testing.T, runner *source.Runner) (sdk.SourceHost, func()) {
	t.Helper()
	hosts := make(chan sdk.SourceHost)
	runner.Set("note", sourceFunc(func(ctx context.Context, host sdk.SourceHost) error {
		hosts <- host
		<-ctx.Done()
		return nil
	}))
	ctx, end := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := runner.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	}()
	t.Cleanup(func() { end(); <-done })
	return <-hosts, end
}

// sourceFunc is a function that is an sdk.Source.
type sourceFunc func(ctx context.Context, host sdk.SourceHost) error

func (f sourceFunc) Run(ctx context.Context, host sdk.SourceHost) error { return f(ctx, host) }
