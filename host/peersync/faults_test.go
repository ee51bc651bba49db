package peersync

import (
	"flag"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/sdk"
)

// scene says which faults a run has beside those that every run has: writes and deletes, connections that break,
// partitions, devices that stop at any moment and start again, stores that fail for a while.
type scene struct {
	restores bool // devices go on from old copies of their stores
	clones   bool // two copies of a device run at once
	damage   bool // in the end a store loses or changes records without a trace
	ageing   bool // what is old is forgotten although somebody may need it
	audits   bool // all the time
	forgets  bool // devices remember no epoch that everybody is past
	retires  bool // a device is retired for good
	change   func(*Config)
}

// play is a world with faults.
type play struct {
	*world
	scene
	name    string
	exists  func(a, b, n int) bool
	backups map[int][]*memoryStore
	say     func(d *worldDevice, what string) // told of faults, for who looks for one
}

func newPlay(tb testing.TB, s scene, topology string, seed uint64) *play {
	config := DefaultConfig()
	config.GossipTime, config.PruneTime, config.SealTime, config.RequestTime = 20*time.Second, 5*time.Second, 15*time.Second, 10*time.Second
	config.RetentionAge, config.AuditTime = 0, 0
	if s.ageing {
		config.RetentionAge = time.Duration(5+seed%40) * time.Second
	}
	if s.audits {
		config.AuditTime = 20 * time.Second
	}
	if s.change != nil {
		s.change(&config)
	}
	p := &play{
		world: newWorldWith(tb, seed, 2+int(seed%5), config), scene: s, name: fmt.Sprintf("%s, seed %d", topology, seed), exists: topologies[topology],
		backups: map[int][]*memoryStore{}, say: func(*worldDevice, string) {},
	}
	p.cutAll(p.exists)
	if s.forgets {
		p.epochsKept = 0
	}
	if seed%3 == 0 {
		p.limits.WindowBytes = 5 << 10
	}
	for _, d := range p.devices {
		d.machine.epochsKept, d.machine.limits = p.epochsKept, p.limits
	}
	return p
}

// one returns a device of those that should run.
func (p *play) one() *worldDevice { return p.devices[p.rand.IntN(len(p.devices))] }

// disturb does something that devices, people and networks do.
func (p *play) disturb() {
	d := p.one()
	switch p.rand.IntN(20) {
	case 0, 1, 2, 3:
		p.writeRows(d)
	case 4, 5, 6, 7:
		p.writeRecords(d)
	case 8:
		if len(p.conns) > 0 {
			p.breakConn(p.conns[p.rand.IntN(len(p.conns))])
		}
	case 9:
		if d.up {
			p.stop(d)
		}
	case 10, 11:
		if !d.up {
			p.start(d)
		}
	case 12:
		refuse := p.rand.IntN(2) == 0
		d.store.failAll = func() error {
			if refuse {
				return sdk.Errorf(sdk.CodeUnavailable, "the disk is full")
			}
			return nil
		}
	case 13, 14, 15:
		p.pass(time.Duration(p.rand.IntN(12000)) * time.Millisecond)
	case 16:
		p.partition()
	case 17:
		p.keepOrRestore(d)
	case 18:
		p.cloneOrEnd(d)
		p.retire()
	case 19:
		if p.ageing && d.up {
			p.step(d, Retain{Floors: map[protocol.Stream]hlc.Stamp{
				{Origin: p.one().id, Kind: sdk.SharedByAll}: d.store.top(), {Origin: p.one().id, Kind: sdk.DeviceOwned}: d.store.top(),
			}})
		}
	}
}

func (p *play) writeRows(d *worldDevice) {
	if !d.up {
		return
	}
	writes := make([]write, 1+p.rand.IntN(5))
	first := p.rand.IntN(12)
	for i := range writes {
		writes[i] = write{first + i, sdk.Insert, fmt.Sprint(p.rand.Uint32())}
		if p.rand.IntN(3) == 0 {
			writes[i].op = sdk.Delete
		}
	}
	p.commit(d, sdk.DeviceOwned, writes)
}

// writeRecords inserts what does not exist, and updates or deletes what does.
func (p *play) writeRecords(d *worldDevice) {
	if !d.up {
		return
	}
	for range 1 + p.rand.IntN(3) {
		w := write{p.rand.IntN(12), sdk.Insert, fmt.Sprint(p.rand.Uint32())}
		if r := d.store.records[recordID(sdk.SharedByAll, d.id, w.record)]; r != nil && r.exists() {
			w.op = sdk.Update
			if p.rand.IntN(3) == 0 {
				w.op = sdk.Delete
			}
		}
		p.commit(d, sdk.SharedByAll, []write{w})
	}
}

// partition cuts an edge, or joins one that is cut and exists.
func (p *play) partition() {
	a, b := p.one(), p.one()
	if a.index == b.index || !p.exists(min(a.index, b.index), max(a.index, b.index), len(p.members)) {
		return
	}
	edge := p.edge(a, b)
	if p.cut[edge] {
		delete(p.cut, edge)
		return
	}
	p.cut[edge] = true
	for _, c := range slices.Clone(p.conns) {
		if p.edge(c.ends[0], c.ends[1]) == edge {
			p.breakConn(c)
		}
	}
}

// keepOrRestore makes a copy of a store, or goes on from one.
func (p *play) keepOrRestore(d *worldDevice) {
	if !p.restores {
		return
	}
	copies := p.backups[d.index]
	if p.rand.IntN(2) == 0 || len(copies) == 0 {
		p.backups[d.index] = append(copies, d.store.clone())
		return
	}
	p.restore(d, copies[p.rand.IntN(len(copies))])
}

func (p *play) restore(d *worldDevice, from *memoryStore) {
	p.say(d, "goes on from an old copy")
	if d.up {
		p.stop(d)
	}
	d.store = from.clone()
	p.now = p.now.Add(time.Millisecond) // no clock gives the same stamps again
	p.ledger.forget(p.world)
	p.start(d)
}

// cloneOrEnd starts a copy of a device beside it, or ends one of the two.
func (p *play) cloneOrEnd(d *worldDevice) {
	if !p.clones {
		return
	}
	var twins []*worldDevice
	for _, other := range p.devices {
		if other.index == d.index {
			twins = append(twins, other)
		}
	}
	p.now = p.now.Add(time.Millisecond)
	p.say(d, "is copied, or one of its two copies ends")
	if len(twins) > 1 {
		p.endTwin(twins, p.rand.IntN(2))
		return
	}
	twin := &worldDevice{index: d.index, id: d.id, store: d.store.clone(), parity: 1}
	d.parity = 0
	p.devices = append(p.devices, twin)
	p.start(twin)
}

// endTwin ends one of two copies for good. The other one takes its place.
func (p *play) endTwin(twins []*worldDevice, which int) {
	if twins[which].up {
		p.stop(twins[which])
	}
	stays := twins[1-which]
	stays.parity = -1
	p.devices[stays.index] = stays
	p.devices = slices.Delete(p.devices, len(p.members), len(p.devices))[:len(p.members)]
	p.ledger.forget(p.world)
}

// retire retires the last device, without which the others still reach each other, once all know it.
func (p *play) retire() {
	if !p.retires || len(p.devices) < 3 || len(p.devices) < len(p.members) || p.rand.IntN(3) > 0 {
		return
	}
	d := p.devices[len(p.devices)-1]
	p.say(d, "is retired")
	p.members = slices.Clone(p.members)
	p.members[d.index].Retired = true
	p.devices = p.devices[:d.index]
	for _, other := range p.devices {
		p.step(other, MembersChanged{Members: p.members})
	}
	p.pass(time.Second)
	if d.up {
		p.stop(d)
	}
	p.ledger.forget(p.world)
}

// harm loses or changes records of a device without a trace, as a broken disk does, and returns how many.
func (p *play) harm(d *worldDevice) int {
	s := d.store
	harmed := map[sdk.RecordID]bool{}
	for range 1 + p.rand.IntN(4) {
		rows, records := s.idsIn(sdk.DeviceOwned, sdk.DeviceID{}, protocol.Place{}, protocol.Place{}), s.idsIn(sdk.SharedByAll, sdk.DeviceID{}, protocol.Place{}, protocol.Place{})
		rows = slices.DeleteFunc(rows, func(id sdk.RecordID) bool { return s.rows[id].deleted })
		records = slices.DeleteFunc(records, func(id sdk.RecordID) bool { return !s.records[id].exists() })
		switch {
		case p.rand.IntN(2) == 0 && len(rows) > 0:
			id := rows[p.rand.IntN(len(rows))]
			harmed[id] = true
			s.dropRow(s.rows[id])
		case len(records) > 0:
			id := records[p.rand.IntN(len(records))]
			harmed[id] = true
			if r := s.records[id]; p.rand.IntN(2) == 0 {
				delete(s.records, id)
			} else {
				r.written.stamp--
				r.text = []byte{0xc0}
			}
		}
	}
	return len(harmed)
}

// end lets faults stop and all come to rest.
func (p *play) end() {
	for len(p.devices) > len(p.members) {
		twin := p.devices[len(p.devices)-1]
		p.endTwin([]*worldDevice{p.devices[twin.index], twin}, p.rand.IntN(2))
	}
	p.now = p.now.Add(time.Millisecond)
	p.cutAll(p.exists)
	for _, d := range p.devices {
		d.store.failAll = nil
		if !d.up {
			p.start(d)
		}
	}
	p.pass(3 * time.Minute)
	p.checkLive(p.name)
	p.checkRest(p.name)
}

// audit has all devices audit until they are equal, and returns how often that took and how many records were repaired.
func (p *play) audit() (rounds, repairs int) {
	for rounds = 1; ; rounds++ {
		for _, d := range p.devices {
			p.step(d, AuditNow{})
		}
		p.pass(15 * time.Second)
		if p.equal() || rounds > 2*len(p.devices) {
			break
		}
	}
	for _, d := range p.devices {
		repairs += d.machine.Repairs()
	}
	return rounds, repairs
}

// run plays a scene to its end.
func (p *play) run() (repairs int) {
	for range 120 {
		p.disturb()
		for range p.rand.IntN(60) {
			p.turn()
		}
	}
	p.end()
	if p.damage {
		p.checkEqual(p.name)
		d, before := p.one(), p.devices[0].store.dump()
		harmed := p.harm(d)
		if _, repairs = p.audit(); repairs != harmed || !slices.Equal(before, p.devices[0].store.dump()) {
			p.tb.Errorf("%s: %d records of d%d were harmed, %d repaired", p.name, harmed, d.index, repairs)
		}
	} else {
		unequal := !p.equal()
		if _, repairs = p.audit(); unequal && repairs == 0 {
			p.tb.Errorf("%s: records that differed became equal, and no repair was counted", p.name)
		}
	}
	p.checkEqual(p.name)
	p.checkLive(p.name)
	p.checkRest(p.name)
	p.checkLedger(p.name, p.restores || p.clones)
	if p.config.AuditTime == 0 && !p.tb.Failed() {
		p.checkSilence(p.name, 40*time.Second)
	}
	return repairs
}

var times = flag.Int("seeds", 1, "run so many times as many seeds")

func seeds(full int) uint64 {
	if testing.Short() {
		return uint64(max(5, full/8))
	}
	return uint64(full * *times) //nolint:gosec // small
}

// TestMachine_Converges has all kinds of faults happen, and then stop.
func TestMachine_Converges(t *testing.T) {
	scenes := []struct {
		name string
		scene
		seeds   int
		repairs bool // may be needed
	}{
		{"plain", scene{}, 60, false},
		{"ageing", scene{ageing: true}, 60, false},
		{"audited", scene{audits: true}, 20, false},
		{"restored", scene{restores: true}, 60, true},
		{"cloned", scene{clones: true}, 40, true},
		{"damaged", scene{damage: true}, 30, true},
		{"retired", scene{retires: true, ageing: true}, 30, false},
		{"forgetful", scene{restores: true, forgets: true}, 60, true},
		{"everything", scene{restores: true, clones: true, ageing: true, audits: true}, 40, true},
	}
	for _, s := range scenes {
		for _, topology := range []string{"mesh", "star", "line", "ring"} {
			t.Run(s.name+"/"+topology, func(t *testing.T) {
				t.Parallel()
				repaired := 0
				n := seeds(s.seeds)
				for seed := range n {
					p := newPlay(t, s.scene, topology, seed)
					repairs := p.run()
					if repairs > 0 {
						repaired++
					}
					if repairs > 0 && !s.repairs {
						t.Errorf("%s: %d records were repaired; want none", p.name, repairs)
					}
					if t.Failed() {
						return
					}
				}
				t.Logf("repairs in %d of %d seeds", repaired, n)
			})
		}
	}
}
