package replica_test

import (
	"testing"
	"time"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/peerlog"
	"github.com/starling-sync/starling/host/replica"
	"github.com/starling-sync/starling/sdk"
)

// TestClock_continuesAfterWatermarks has a database whose mark is behind what was used.
func TestClock_continuesAfterWatermarks(t *testing.T) {
	db, err := database.Open(t.Context(), database.Options{Dir: t.TempDir(), Durability: database.Normal})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	journal := peerlog.New(db)
	used := hlc.New(60_000, 3)
	err = db.Write(t.Context(), func(tx *database.Tx) error {
		if err := journal.StoreClock(tx, 5); err != nil {
			return err
		}
		return journal.SetWatermark(tx, sdk.DeviceID{1}, sdk.SharedByAll, peerlog.EpochID{1}, used)
	})
	if err != nil {
		t.Fatal(err)
	}
	clock, err := replica.Clock(t.Context(), db, journal, func() time.Time { return time.UnixMilli(10_000) }, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if clock.Ahead() != 50*time.Second || clock.Now() <= used {
		t.Errorf("ahead by %s, draws %s", clock.Ahead(), clock.Now())
	}
}
