package main

import (
	"context"
	"encoding/hex"

	"github.com/starling-sync/starling/host/peersync"
	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/sdk"
)

// historyBugs are about histories that branch, what is forgotten, and what brings it back.
func historyBugs() []*bug {
	return append(forgetBugs(), []*bug{
		{name: "own-loss-ignored", does: "a restored device takes nothing back of what it had written", onMessage: func(d *device, m protocol.Message) protocol.Message {
			if delivery, ok := protocol.DeliveryOf(m); ok && delivery.Page.Origin == d.id {
				return nil
			}
			return m
		}},
		{name: "epochs-not-told", does: "what epochs continue does not arrive", onMessage: func(_ *device, m protocol.Message) protocol.Message {
			if _, ok := m.(*protocol.Epochs); ok {
				return nil
			}
			return m
		}},
		{name: "snapshot-claims-early", does: "the watermarks move with the first page of a snapshot", onTake: func(d *device, a peersync.TakeRange) (peersync.Taken, error) {
			if !a.Repair {
				a.Page.Done, a.Page.End = true, protocol.Place{}
			}
			return d.pages.TakeRange(context.Background(), a)
		}},
		{name: "snapshot-loses-records", does: "of a page of a snapshot only the ids count", onTake: func(d *device, a peersync.TakeRange) (peersync.Taken, error) {
			if !a.Repair {
				a.Page.Changes = nil
			}
			return d.pages.TakeRange(context.Background(), a)
		}},
		{name: "restamp-forgets-entry", does: "an operation of the log does not get the new stamp that its record gets", onRestamp: func(d *device, restamp func()) {
			own := "(SELECT n FROM _device WHERE id = x'" + hex.EncodeToString(d.id[:]) + "')"
			latest := " FROM _log WHERE origin = " + own + " AND stamp = (SELECT max(stamp) FROM _log WHERE origin = " + own + ")"
			sql(d, "CREATE TABLE _hidden AS SELECT *"+latest, "DELETE"+latest)
			restamp()
			sql(d, "INSERT INTO _log SELECT * FROM _hidden", "DROP TABLE _hidden")
		}},
		{name: "restamp-takes-accepted", does: "what peers have accepted gets new stamps too", onRestamp: func(d *device, restamp func()) {
			sql(d, "CREATE TABLE _hidden AS SELECT * FROM _ack", "DELETE FROM _ack")
			restamp()
			sql(d, "INSERT INTO _ack SELECT * FROM _hidden", "DROP TABLE _hidden")
		}},
		{name: "kept-digests-stale", does: "the digests that a stop keeps are those of the stop before it", onKept: func(d *device) {
			kept := "(SELECT value FROM _meta WHERE key = 'audit1')"
			sql(d, "CREATE TABLE IF NOT EXISTS _before AS SELECT * FROM _meta WHERE key = 'audit1'",
				"CREATE TEMPORARY TABLE _now AS SELECT "+kept+" AS value", "UPDATE _meta SET value = (SELECT value FROM _before) WHERE key = 'audit1'",
				"UPDATE _before SET value = (SELECT value FROM _now)", "DROP TABLE _now")
		}},
		{name: "owner-not-believed", does: "an audit mends no row whose stamp is the same on both sides", onTake: func(d *device, a peersync.TakeRange) (peersync.Taken, error) {
			if a.Repair && a.Scope.Kind == sdk.DeviceOwned {
				a.From = sdk.DeviceID{}
			}
			return d.pages.TakeRange(context.Background(), a)
		}},
		{name: "audit-never-repairs", does: "what an audit finds is not merged", onTake: func(d *device, a peersync.TakeRange) (peersync.Taken, error) {
			if a.Repair {
				return peersync.Taken{}, nil
			}
			return d.pages.TakeRange(context.Background(), a)
		}},
	}...)
}

// forgetBugs are about acknowledgements, and what follows from them.
func forgetBugs() []*bug {
	return []*bug{
		{name: "log-without-floor", does: "the log is forgotten and the floor stays", onPrune: func(d *device, _ *peersync.Prune) {
			sql(d, "DELETE FROM _log")
		}},
		{name: "tombstones-without-floor", does: "tombstones are forgotten with every look", onPrune: func(d *device, _ *peersync.Prune) {
			sql(d, "DELETE FROM _tombstone")
		}},
		{name: "shadow-forgotten-early", does: "the clocks of deleted records go before everybody is past them", onPrune: func(d *device, a *peersync.Prune) {
			a.Shadow = d.clock.Last()
		}},
		{name: "known-says-too-much", does: "what a peer has is taken for what third devices have", onMessage: func(_ *device, m protocol.Message) protocol.Message {
			beat, ok := m.(*protocol.Heartbeat)
			if !ok || len(beat.Known) == 0 {
				return m
			}
			more := *beat
			more.Known = nil
			for _, k := range beat.Known {
				more.Known = append(more.Known, protocol.Known{Device: k.Device, Vector: append(k.Vector[:len(k.Vector):len(k.Vector)], beat.Vector...)})
			}
			return &more
		}},
		{name: "acknowledged-by-all", does: "after a start others are taken to have what this device has", onStored: func(_ *device, s *peersync.Stored) {
			for device := range s.Acknowledged {
				s.Acknowledged[device] = s.Heads
			}
		}},
		{name: "retirement-ignored", does: "a retired device is a member as before", onMembers: func(list []peersync.Member) {
			for i := range list {
				list[i].Retired = false
			}
		}},
	}
}
