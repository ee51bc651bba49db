package main

import (
	"context"
	"slices"
	"time"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/peersync"
	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/host/registry"
)

// run is a run: it begins, writes and faults happen, faults stop, everybody must come to rest.
func (w *world) run() {
	p := &w.setup
	var first []int
	for i := range p.devices - p.joins {
		first = append(first, i)
	}
	for _, i := range first {
		d := w.devices[i]
		d.joined, d.bootstrap = true, first
		w.setClock(d)
		d.start()
	}
	w.scheduleWrites()
	w.scheduleFaults()
	w.scheduleLosses()
	w.scheduleAhead()
	w.runUntil(p.active)
	w.heal()
	w.takeBack()
	w.settle()
	w.audit()
	w.rejoin()
	w.rest()
	w.finish()
	w.stats.Simulated, w.stats.Runs = w.now, 1
}

// settle waits until all devices are alike and live, at most for the stated bound.
func (w *world) settle() {
	w.await("liveness", "alike and live", w.bound(), func() bool { return w.alike() && w.live() })
}

// await runs until something is so.
func (w *world) await(check, what string, bound time.Duration, so func() bool) {
	began := w.now
	for {
		w.runUntil(w.now + 2*time.Second)
		if so() {
			break
		}
		if w.now > began+bound {
			w.fail(check, "not %s %s after faults stopped:\n%s", what, w.now-began, w.describe())
		}
	}
	w.stats.Settled = max(w.stats.Settled, w.now-began)
}

// bound is how long coming to rest may take: a host redials within 30 s (plus half-open sessions, 15 s, and an attempt,
// 10 s), a stream that is held for a page that failed is retried within 30 s, a stalled upstream is given up after 10 s and
// avoided for 40 s, and that for each hop. What lies ahead of the clocks is accepted once time has come.
func (w *world) bound() time.Duration {
	bound := 90*time.Second + time.Duration(w.setup.diameter)*60*time.Second
	if w.setup.rotate > 0 {
		bound *= time.Duration(2 * len(w.linkList))
	}
	return bound + max(0, w.latest()-w.now)
}

// latest is when the time of the latest stamp comes, or came.
func (w *world) latest() time.Duration {
	var last hlc.Stamp
	for _, d := range w.enrolled() {
		for _, heads := range d.durable {
			last = max(last, heads.Top())
		}
	}
	return last.Time().Sub(epochStart)
}

func (w *world) alike() bool {
	list := w.enrolled()
	for _, d := range list[1:] {
		for _, st := range slices.Concat(w.streamsOf(d), w.streamsOf(list[0])) {
			if !d.durable[st].Equal(list[0].durable[st]) {
				return false
			}
		}
	}
	return true
}

// neighbours calls fn for the status of each enrolled neighbour of d, as d sees it.
func (w *world) neighbours(d *device, fn func(*device, *peersync.PeerStatus)) {
	peers := d.machine.Peers(d.monotonic())
	for i := range peers {
		if other := w.devices[indexOf(peers[i].ID)]; w.links[d.index][other.index] != nil && other.belongs() {
			fn(other, &peers[i])
		}
	}
}

// live reports whether every device is at rest with every neighbour.
func (w *world) live() bool {
	if w.setup.rotate > 0 {
		return true
	}
	live := true
	for _, d := range w.enrolled() {
		w.neighbours(d, func(_ *device, p *peersync.PeerStatus) { live = live && p.State == peersync.Live })
	}
	return live
}

// audit has all devices compare what they hold, and waits until they find nothing any more: at once, unless something has
// happened to a store.
func (w *world) audit() {
	if w.setup.rotate > 0 && !w.unsound() {
		return // links take their turn: it would take long
	}
	began := w.now
	for _, d := range w.enrolled() {
		d.registry.AuditAnew() // as the host does where its operator asks
		d.step(peersync.AuditNow{})
	}
	// What one device was repaired of, it can pass on with the next audit only.
	bound := 2*w.bound() + time.Duration(w.setup.diameter)*w.config.AuditTime
	if w.setup.rotate > 0 {
		w.await("convergence", "equal after audits", bound, w.equal)
	} else {
		w.await("audit", "audited", bound, func() bool { return w.audited(began) })
	}
	w.sound = true
}

// audited reports whether every two neighbours have compared since, the last time without finding anything.
func (w *world) audited(since time.Duration) bool {
	equal := true
	for _, d := range w.enrolled() {
		w.neighbours(d, func(other *device, p *peersync.PeerStatus) {
			if d.index < other.index && (!p.Audit.At.After(epochStart.Add(since)) || p.Audit.Ranges > 0) {
				equal = false
			}
		})
	}
	return equal
}

// equal reports whether all devices hold the same, by the host's own digests.
func (w *world) equal() bool {
	list := w.enrolled()
	first := w.digestOf(list[0])
	return !slices.ContainsFunc(list[1:], func(d *device) bool { return !slices.Equal(first, w.digestOf(d)) })
}

func (w *world) digestOf(d *device) []registry.ModelDigest {
	digest, err := d.registry.Digest(context.Background())
	w.check(err, "%s: digest", d)
	return digest
}

// rejoin restarts once each device that was put back to a copy or ran twice, and lets it write: then every stream has one
// position again, since the epoch that begins there continues all.
func (w *world) rejoin() {
	again := false
	for _, d := range w.enrolled() {
		if !d.shared.restored {
			continue
		}
		again = true
		d.crash()
		w.gone(d, false)
		d.start()
		w.runUntil(w.now + time.Second)
		w.writeBoth(d)
	}
	if !again {
		return
	}
	w.settle()
	for _, d := range w.enrolled() {
		for _, st := range w.streamsOf(d) {
			if heads := d.durable[st]; len(heads) > 1 && w.devices[indexOf(st.Origin)].belongs() {
				w.fail("branches", "%s still has %s's %s stream at several positions: %s", d, name(st.Origin), st.Kind, describeHeads(heads))
			}
		}
	}
}

// rest waits until nothing is said any more but that devices live, and checks that nothing is kept then that nobody needs. What
// is ahead of time is kept until its time has come.
func (w *world) rest() {
	if w.setup.rotate > 0 {
		return // sessions begin and end
	}
	c := &w.config
	w.await("quiet", "quiet", w.bound()+4*(c.SealTime+c.PruneTime+c.GossipTime)+quietFor, func() bool { return w.now-max(w.noisy, w.latest()) >= quietFor+c.PruneTime })
	for _, d := range w.enrolled() {
		w.checkForgotten(d)
	}
	w.stats.Quiet++
}

// finish checks the end of a run, when everybody has come to rest.
func (w *world) finish() {
	list := w.enrolled()
	first := w.digestOf(list[0])
	for _, d := range list {
		w.checkDevice(d)
		w.checkDigests(d)
		w.checkJournal(d)
		if digest := w.digestOf(d); !slices.Equal(first, digest) {
			w.fail("convergence", "the digests of %s and %s differ:\n  %v\n  %v", list[0], d, first, digest)
		}
		for _, st := range sortedStreams(w.ledger.streams) {
			w.checkArrived(d, st)
		}
	}
	w.countKept(list[0])
	for _, m := range first {
		for _, b := range m.Digest[:8] {
			w.note(-1, string(m.Model), uint64(b))
		}
	}
	if w.stats.Changes < w.setup.writes/4 || w.stats.Pages+w.stats.SnapshotPages < 10 || w.stats.Checked < w.ledger.count {
		w.fail("too little", "%d changes in %d commits, %d pages, %d checked", w.stats.Changes, w.stats.Writes, w.stats.Pages, w.stats.Checked)
	}
}

// checkArrived checks that every change of a stream is everywhere: one that was lost, at all or at none.
func (w *world) checkArrived(d *device, st protocol.Stream) {
	first := w.enrolled()[0]
	for _, c := range w.ledger.streams[st] {
		here := d.reach[st].covers(c)
		if here != first.reach[st].covers(c) {
			w.fail("convergence", "%s has %s of %s: %v; %s: %v", d, c.version(), c.key, here, first, !here)
		}
		if !here && !c.forgiven {
			w.fail("convergence", "%s lacks %s of %s, a %s change that was acknowledged", d, c.version(), c.key, st.Kind)
		}
	}
}
