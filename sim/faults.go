package main

import (
	"slices"
	"time"
)

// setClock gives a device a wall clock as devices have them: some seconds wrong, and drifting.
func (w *world) setClock(d *device) {
	if w.setup.aligned || w.without("drift") {
		return
	}
	d.offset = w.jitter(w.faultRand, 20*time.Second) - 10*time.Second
	d.drift = (w.faultRand.Float64() - 0.5) / 5000
}

func (w *world) without(kind string) bool { return slices.Contains(w.options.Without, kind) }

func (w *world) scheduleFaults() {
	p := &w.setup
	for range p.faults {
		w.after(time.Duration(w.faultRand.Int64N(int64(p.active))), w.fault)
	}
	for i := p.devices - p.joins; i < p.devices; i++ {
		w.after(p.active/10+time.Duration(w.faultRand.Int64N(int64(p.active/2))), func() { w.join(w.devices[i]) })
	}
	if p.rotate > 0 {
		w.rotate(0)
	}
}

// rotate lets only one link work at a time: what one device has, the next carries on later.
func (w *world) rotate(turn int) {
	for i, l := range w.linkList {
		l.down = i != turn%len(w.linkList)
	}
	w.wakeAll()
	w.after(w.setup.rotate, func() { w.rotate(turn + 1) })
}

// pick draws a device that is up.
func (w *world) pick() *device {
	d := w.devices[w.faultRand.IntN(len(w.devices))]
	if !d.joined || !d.up {
		return nil
	}
	return d
}

// fault lets one go wrong.
func (w *world) fault() {
	kind := faultKinds[w.faultRand.IntN(oftenKinds)]
	d, span := w.pick(), time.Second+time.Duration(w.faultRand.Int64N(int64(90*time.Second)))
	l := w.linkList[w.faultRand.IntN(len(w.linkList))]
	other := w.devices[w.faultRand.IntN(len(w.devices))]
	roll := w.faultRand.IntN(1 << 20)
	if w.without(kind) || d == nil {
		return
	}
	switch kind {
	case "crash":
		if roll%3 == 0 && !w.without("jump") {
			w.jump(d, 0, 2*span) // it comes back with a clock that has lost the time
		}
		w.kill(d, roll%2 == 0, span)
	case "midcommit":
		d.crashing = []crashPoint{beforeCommit, afterCommit}[roll%2] // taken at the next commit
	case "cut", "oneway":
		w.cutLink(l, kind == "oneway", roll%2, span)
	case "partition":
		w.partition(roll, span)
	case "stop":
		w.stop(d, span)
	case "slow":
		d.slow = time.Duration(roll%400) * time.Millisecond
		w.plan(span, d, func() { d.slow = 0 })
	case "reset":
		if len(w.conns) > 0 {
			w.stats.Resets++
			w.reset(w.conns[roll%len(w.conns)])
		}
	case "jump":
		w.jump(d, roll, span)
	case "freeze":
		w.freeze(d, span)
	case "overlap":
		if other.up && other != d && !d.stopped && other.belongs() && d.belongs() {
			w.overlap(d, other)
		}
	}
}

// kill ends a device, by loss of power or by a signal, which every other start is given the time to mind, and starts it again
// later.
func (w *world) kill(d *device, power bool, down time.Duration) {
	if !power && d.crashing == noCrash && d.starts%2 == 1 {
		d.keepDigests()
	}
	d.crash()
	w.gone(d, power)
	w.after(down, func() {
		if !d.up {
			d.start()
			w.wakeAll()
		}
	})
}

// crashed reports whether a commit was cut short, and crashes the device if so.
func (w *world) crashed(d *device) bool {
	if d.crashing == noCrash {
		return false
	}
	w.stats.MidCommit++
	d.crashing = noCrash
	w.kill(d, w.faultRand.IntN(2) == 0, time.Second+w.jitter(w.faultRand, 30*time.Second))
	return true
}

func (w *world) cutLink(l *link, oneWay bool, side int, span time.Duration) {
	if w.setup.rotate > 0 {
		return // the links have their own turn
	}
	w.trace(l.ends[0], "cut", "to %s, one way %v, for %s", l.ends[1], oneWay, span)
	w.stats.Cuts++
	l.cut[side] = true
	if !oneWay {
		l.cut[1-side] = true
	}
	w.after(span, func() {
		l.cut = [2]bool{}
		w.wakeAll()
	})
}

// partition cuts every link between two halves.
func (w *world) partition(roll int, span time.Duration) {
	for _, l := range w.linkList {
		if (roll>>l.ends[0].index)&1 != (roll>>l.ends[1].index)&1 {
			w.cutLink(l, false, 0, span)
		}
	}
}

// stop stops a device as SIGSTOP does.
func (w *world) stop(d *device, span time.Duration) {
	if d.stopped {
		return
	}
	w.trace(d, "stop", "for %s", span)
	w.stats.Stops++
	d.stopped = true
	starts := d.starts
	w.after(span, func() {
		if d.up && d.starts == starts {
			w.resume(d)
		}
	})
}

func (w *world) resume(d *device) {
	if !d.stopped {
		return
	}
	w.trace(d, "resume", "")
	d.stopped = false
	late := d.late
	d.late = nil
	for _, e := range late {
		w.do(e)
	}
	w.wakeAll()
}

// jump sets a wall clock wrong, by seconds or by more, and back later.
func (w *world) jump(d *device, roll int, span time.Duration) {
	by := time.Duration(roll%100_000-50_000) * time.Millisecond
	switch roll % 7 {
	case 0:
		by = -time.Hour
	case 1:
		by = -10 * 365 * 24 * time.Hour
	case 2:
		by = time.Duration(60+roll%240) * time.Second
	case 3:
		w.stepAhead(d)
		return
	}
	w.trace(d, "jump", "by %s for %s", by, span)
	w.stats.Jumps++
	before := d.offset
	d.offset += by
	w.after(span, func() {
		if !w.healed {
			d.offset = before
		}
	})
}

// stepAhead sets a wall clock so little ahead that peers take what is written, then minutes, and then right, when the device
// starts anew: what peers have taken keeps its stamps, though it is ahead, and what they hold gets new ones.
func (w *world) stepAhead(d *device) {
	if d == w.astray || d.twin != nil || d.retired {
		return
	}
	w.trace(d, "step", "")
	w.stats.Jumps++
	before := d.offset
	d.offset += 45 * time.Second
	for _, at := range []time.Duration{1, 4, 8, 13, 16} {
		w.after(at*time.Second, func() {
			if d.up && !d.stopped && d.joined {
				w.writeAt(d)
			}
		})
	}
	w.after(11*time.Second, func() {
		if !w.healed {
			d.offset = before + 5*time.Minute
		}
	})
	w.after(20*time.Second, func() {
		if w.healed {
			return
		}
		if d.offset = before; d.up && d.crashing == noCrash {
			w.kill(d, true, time.Second)
		}
	})
}

func (w *world) freeze(d *device, span time.Duration) {
	if d.frozen {
		return
	}
	w.trace(d, "freeze", "for %s", span)
	w.stats.Jumps++
	d.frozenAt = d.wall()
	d.frozen = true
	w.after(span, func() { d.frozen = false })
}

// join brings a new device in: one that belongs writes down that it does, and tells it who else does.
func (w *world) join(d *device) {
	for _, sponsor := range w.devices {
		if sponsor.up && sponsor.belongs() && !sponsor.stopped {
			w.setClock(d)
			if !w.writeMember(sponsor, d) {
				break
			}
			w.trace(d, "join", "by %s", sponsor)
			w.stats.Joins++
			d.joined, d.bootstrap = true, []int{d.index}
			for _, m := range sponsor.known {
				d.bootstrap = append(d.bootstrap, m.index)
			}
			d.start()
			return
		}
	}
	w.after(time.Second, func() { w.join(d) })
}

// heal ends every fault.
func (w *world) heal() {
	w.trace(nil, "heal", "")
	w.healed = true
	for _, d := range w.devices {
		w.stopTwin(d)
		if d.retired {
			continue
		}
		if !d.joined {
			w.join(d)
		}
		d.offset, d.drift, d.frozen, d.slow, d.ahead = 0, 0, false, 0, 0
		if d.up && d == w.astray {
			d.crash()
			w.gone(d, false)
		}
		d.crashing = noCrash
		if !d.up && d.joined {
			d.start()
		}
		if d.stopped {
			w.resume(d)
		}
	}
	for _, l := range w.linkList {
		l.cut = [2]bool{}
	}
	w.wakeAll()
}
