package peerlog_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/history"
	"github.com/starling-sync/starling/host/peerlog"
	"github.com/starling-sync/starling/sdk"
)

func TestLog_Snapshots(t *testing.T) {
	db, log := open(t)
	keep := func(s peerlog.SnapshotState) {
		t.Helper()
		write(t, db, func(tx *database.Tx) error { return log.KeepSnapshot(tx, s) })
	}
	want := func(what string, list ...peerlog.SnapshotState) {
		t.Helper()
		got, err := log.Snapshots(t.Context())
		if diff := cmp.Diff(list, got); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got)\n%s", what, err, diff)
		}
	}
	want("at first")
	all := peerlog.SnapshotState{Kind: sdk.SharedByAll, Vector: map[history.Stream]history.Heads{
		shared(1): {{Epoch: epochID(1), Stamp: 4}, {Epoch: epochID(2), Stamp: hlc.MaxStamp}},
		owned(1):  history.At(epochID(3), 9),
		shared(2): history.At(epochID(4), 1),
	}}
	one := peerlog.SnapshotState{Kind: sdk.DeviceOwned, Origin: sdk.DeviceID{7}, Vector: map[history.Stream]history.Heads{}, Model: "file", ID: sdk.RecordID{1, 15: 3}}
	two := peerlog.SnapshotState{Kind: sdk.DeviceOwned, Origin: sdk.DeviceID{5}, Vector: map[history.Stream]history.Heads{owned(5): history.At(epochID(8), 2)}}
	keep(all)
	keep(one)
	keep(two)
	want("three", one, two, all)
	all.Model, all.ID = "tag", sdk.RecordID{9}
	undone(t, db, func(tx *database.Tx) error { return log.EndSnapshot(tx, all.Kind, all.Origin) })
	keep(all)
	keep(all)
	want("a page later", one, two, all)
	for range 2 {
		write(t, db, func(tx *database.Tx) error { return log.EndSnapshot(tx, sdk.DeviceOwned, sdk.DeviceID{7}) })
		write(t, db, func(tx *database.Tx) error { return log.EndSnapshot(tx, sdk.DeviceOwned, sdk.DeviceID{}) })
	}
	want("one less", two, all)
	write(t, db, func(tx *database.Tx) error {
		_, err := tx.Exec("UPDATE _snapshot SET vector = substr(vector, 1, length(vector) - 1) WHERE origin = 0")
		return err
	})
	if _, err := log.Snapshots(t.Context()); sdk.CodeOf(err) != sdk.CodeInternal {
		t.Errorf("a damaged vector: %v", err)
	}
}

// TestLog_snapshotRoundTrip stores random vectors.
func TestLog_snapshotRoundTrip(t *testing.T) {
	db, log := openMemory(t, nil)
	defer db.Close()
	rapid.Check(t, func(rt *rapid.T) {
		s := peerlog.SnapshotState{Kind: sdk.SharedByAll, Vector: make(map[history.Stream]history.Heads), Model: "m", ID: sdk.RecordID{1}}
		for range rapid.IntRange(0, 6).Draw(rt, "streams") {
			stream := history.Stream{Origin: sdk.DeviceID{rapid.Byte().Draw(rt, "origin")}, Kind: rapid.SampledFrom([]sdk.Ownership{sdk.SharedByAll, sdk.DeviceOwned}).Draw(rt, "kind")}
			put(s.Vector, stream, drawHeads(rt, "heads"))
		}
		if rapid.IntRange(0, 9).Draw(rt, "many") == 9 {
			heads := make([]history.Position, 600)
			for i := range heads {
				heads[i] = history.Position{Epoch: epochID(i), Stamp: hlc.Stamp(i) + 1}
			}
			s.Vector[owned(1)] = history.Normal(heads)
		}
		write(t, db, func(tx *database.Tx) error { return log.KeepSnapshot(tx, s) })
		got, err := log.Snapshots(t.Context())
		if diff := cmp.Diff([]peerlog.SnapshotState{s}, got); diff != "" || err != nil {
			rt.Errorf("%v (-want +got)\n%s", err, diff)
		}
	})
}
