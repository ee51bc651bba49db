package main

import (
	"context"
	"errors"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/peersync"
	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/host/registry"
	"github.com/starling-sync/starling/sdk"
)

// carriedID names a page of records on its way: who gets it, in which session, and which request it answers.
type carriedID struct {
	device  *device
	starts  int
	session peersync.SessionID
	number  uint32
}

// disk plans what a device's disk does. Where the power goes meanwhile, then is not called.
func (d *device) disk(most time.Duration, do func() error, then func(error)) {
	w := d.w
	w.plan(time.Millisecond+w.jitter(w.netRand, most)+d.slow, d, func() {
		err := do()
		if w.raised != nil {
			panic(w.raised)
		}
		if w.crashed(d) {
			return
		}
		if errors.Is(err, errPower) {
			w.fail("error", "%s: %v, and the power is on", d, err)
		}
		then(err)
	})
}

// readRange reads records as they are.
func (d *device) readRange(a peersync.ReadRange) {
	w := d.w
	w.plan(w.jitter(w.netRand, 5*time.Millisecond)+d.slow, d, func() {
		page, err := d.pages.ReadRange(context.Background(), a)
		w.check(err, "%s: read records", d)
		until := page.End
		if page.Done {
			until = a.Request.Until
		}
		held := w.holdings(d, peersync.Scope{Kind: a.Request.Kind, Origin: a.Request.Origin}, a.Request.After, until)
		w.note(d.index, "range", uint64(a.Session), uint64(a.Request.Number), uint64(page.Bytes())) //nolint:gosec // not negative
		w.plan(w.jitter(w.netRand, 3*time.Millisecond), d, func() {
			d.reading = held
			d.step(peersync.RangeRead{Read: a, Page: page, Err: err})
			d.reading = nil
		})
	})
}

// cargo is what a page of records holds: of each record of its range the changes that who has read it should have had.
type cargo struct {
	changes map[key][]*change
	vague   map[key]bool // of these the account does not know
}

// holdings returns what a device holds of the records of a scope in (after, until], by the world's account.
func (w *world) holdings(d *device, scope peersync.Scope, after, until protocol.Place) *cargo {
	held := cargo{changes: map[key][]*change{}, vague: map[key]bool{}}
	for _, k := range w.keysIn(scope, after, until) {
		held.changes[k] = d.holding(w.ledger.records[k])
		held.vague[k] = d.vague[k] || w.rotten[k]
	}
	return &held
}

// keysIn returns the records of a scope in (after, until]; a zero until is the end.
func (w *world) keysIn(scope peersync.Scope, after, until protocol.Place) (list []key) {
	for _, k := range w.ledger.keys {
		switch {
		case kindOf(k.model) != scope.Kind, !scope.Origin.IsZero() && scope.Origin != deviceID(int(k.id[14])):
		case k.place().Compare(after) <= 0, until != (protocol.Place{}) && k.place().Compare(until) > 0:
		default:
			list = append(list, k)
		}
	}
	return list
}

// carry notes what a page of records holds that a device sends.
func (w *world) carry(d *device, c *conn, to int, page *protocol.SnapshotPage) {
	w.carried[carriedID{c.ends[to], c.gens[to], c.ids[to], page.Number}] = d.reading
}

// noteAsked counts snapshots that go on at another peer than they came from before.
func (w *world) noteAsked(d, peer *device, r *protocol.SnapshotRequest) {
	if r.Until != (protocol.Place{}) {
		return // a repair
	}
	scope := peersync.Scope{Kind: r.Kind, Origin: r.Origin}
	if before, ok := d.asked[scope]; ok && before != peer.id && r.After != (protocol.Place{}) {
		w.stats.Resumed++
	}
	d.asked[scope] = peer.id
}

// takeRange makes a page of records durable.
func (d *device) takeRange(a peersync.TakeRange) {
	w := d.w
	var taken peersync.Taken
	d.disk(8*time.Millisecond, func() (err error) {
		var before held
		if a.Repair {
			before = w.read(d)
		}
		taken, err = w.bug.takeRange(d, a)
		if err == nil {
			w.took(d, &a, &taken, before)
		} else if skewed := sdk.CodeOf(err) == sdk.CodeClockSkew && w.latestOf(&a).Time().Sub(d.wall()) > maxDrift; !skewed && !errors.Is(err, errPower) {
			w.fail("apply", "%s can not take in a page of records: %v", d, err)
		}
		return err
	}, func(err error) {
		d.step(peersync.RangeTaken{Take: a, Taken: taken, Err: err})
		if err == nil && a.Scope.Kind == sdk.SharedByAll {
			d.noticeMembers([]sdk.Batch{{Model: memberModel}})
		}
	})
}

func (d *device) digests(a peersync.Digest) {
	w := d.w
	w.plan(time.Millisecond+w.jitter(w.netRand, 10*time.Millisecond)+d.slow, d, func() {
		models, err := d.pages.Digests(context.Background())
		w.check(err, "%s: sum all records", d)
		d.step(peersync.Digested{Digest: a, Models: models, Err: err})
	})
}

// keepDigests is the last that a host does that may end in its own time.
func (d *device) keepDigests() {
	w := d.w
	w.trace(d, "end", "")
	w.check(w.bug.keepAudit(d), "%s: keep the digests of audits", d)
	w.stats.Ends++
}

// checkDigests checks that the digests that audits compare, which are kept from one to the next and over a stop, are those of
// what is stored. They need not be where a record was damaged.
func (w *world) checkDigests(d *device) {
	if len(w.rotten) > 0 {
		return
	}
	ctx := context.Background()
	anew, err := registry.New(ctx, registry.Options{DB: d.db, Self: d.id, Part: sdk.NewPartID(1), Log: w.log})
	w.check(err, "%s: open the registry once more", d)
	want, err := anew.AuditDigests(ctx)
	w.check(err, "%s: sum all records", d)
	got, err := d.registry.AuditDigests(ctx)
	w.check(err, "%s: sum what changed", d)
	if !reflect.DeepEqual(got, want) {
		w.fail("audit", "%s would compare digests that are not those of its records:\n%v\n%v", d, got, want)
	}
}

// prune forgets what the machine says nobody needs.
func (d *device) prune(a peersync.Prune) {
	w := d.w
	w.checkPrune(d, &a)
	for key, floor := range a.Floors {
		d.floors[key] = max(d.floors[key], floor)
		if scope := scopeOf(key); scope.Kind == sdk.DeviceOwned {
			w.forgottenTo[scope] = max(w.forgottenTo[scope], floor)
		}
	}
	shared := peersync.Scope{Kind: sdk.SharedByAll}
	w.forgottenTo[shared] = max(w.forgottenTo[shared], a.Shadow)
	for _, id := range a.Epochs {
		w.forgotten[id] = true
	}
	w.note(d.index, "prune", uint64(a.Shadow), uint64(len(a.Floors)), uint64(len(a.Epochs)))
	d.disk(8*time.Millisecond, func() error {
		err := w.bug.prune(d, a)
		if err != nil && !errors.Is(err, errPower) {
			w.fail("error", "%s can not prune: %v", d, err)
		}
		if err == nil { // else they are kept: they go in the last transaction
			for _, scope := range a.Snapshots {
				delete(d.snapshots, scope)
			}
		}
		return err
	}, func(err error) { d.step(peersync.Pruned{Err: err}) })
}

// retain has a device keep nothing up to some change, as where its log has grown too large. What is ahead of time stays: of what
// has been forgotten of it records alone would tell the new stamps.
func (w *world) retain(d *device) {
	floors := map[protocol.Stream]hlc.Stamp{}
	for _, st := range w.streamsOf(d) {
		list := w.ledger.between(st, 0, min(d.durable[st].Top(), hlc.New(d.monotonic().UnixMilli(), 0)))
		if st.Kind == sdk.SharedByAll && len(list) > 0 && w.faultRand.IntN(2) == 0 {
			floors[st] = list[w.faultRand.IntN(len(list))].stamp
		}
	}
	w.trace(d, "retain", "%d streams", len(floors))
	d.retained = floors
	d.step(peersync.Retain{Floors: floors})
}

// seal closes a stamp of the shared stream.
func (d *device) seal() {
	w := d.w
	d.disk(5*time.Millisecond, func() error {
		err := w.bug.seal(d)
		if err != nil && !errors.Is(err, errPower) {
			w.fail("error", "%s can not seal: %v", d, err)
		}
		if err == nil {
			w.stats.Seals++
		}
		return err
	}, func(err error) { d.step(peersync.Sealed{Err: err}) })
}

// learn has what a device acknowledged kept at the next beat, as the engine does.
func (d *device) learn(a peersync.Acknowledged) {
	same := func(old peersync.Acknowledged) bool { return old.Peer == a.Peer }
	if a.All {
		d.learned = slices.DeleteFunc(d.learned, same)
	} else if at := slices.IndexFunc(d.learned, same); at >= 0 {
		maps.Copy(d.learned[at].Heads, a.Heads)
		return
	}
	d.learned = append(d.learned, a)
}

func (d *device) keepLearned() {
	learned := d.learned
	if d.learned = nil; len(learned) == 0 {
		return
	}
	d.disk(3*time.Millisecond, func() error {
		err := d.keeper.Acknowledge(context.Background(), learned)
		if err != nil && !errors.Is(err, errPower) {
			d.w.fail("error", "%s can not keep what others have: %v", d, err)
		}
		for i := range learned {
			a := &learned[i]
			if err == nil && (a.All || d.acked[a.Peer] == nil) {
				d.acked[a.Peer] = map[protocol.Stream]protocol.Heads{}
			}
			if err == nil {
				maps.Copy(d.acked[a.Peer], a.Heads)
			}
		}
		return err
	}, func(error) {})
}
