package peersync

import (
	"fmt"
	"os"
	"strconv"
	"testing"

	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/sdk"
)

var debugScenes = map[string]scene{
	"plain": {}, "ageing": {ageing: true}, "audited": {audits: true}, "restored": {restores: true}, "cloned": {clones: true}, "damaged": {damage: true},
	"forgetful": {restores: true, forgets: true}, "retired": {retires: true, ageing: true},
	"everything": {restores: true, clones: true, ageing: true, audits: true},
}

func TestDebug(t *testing.T) {
	name := os.Getenv("SCENE")
	if name == "" {
		t.Skip()
	}
	seed, _ := strconv.Atoi(os.Getenv("SEED"))
	p := newPlay(t, debugScenes[name], os.Getenv("TOPO"), uint64(seed))
	s := &script{t: t, w: p.world}
	p.onFrame = func(from, to *worldDevice, msg protocol.Message) {
		text := s.describe(msg)
		if e, ok := msg.(*protocol.Epochs); ok {
			text += fmt.Sprint(len(e.Epochs))
			for _, x := range e.Epochs {
				text += fmt.Sprintf(" %x(%s)", x.ID[:4], headsText(x.Parents))
			}
		}
		if text != "" {
			fmt.Printf("%s d%d>d%d %s\n", p.now.Sub(p.begin), from.index, to.index, text)
		}
	}
	p.say = func(d *worldDevice, what string) { fmt.Printf("%s d%d %s\n", p.now.Sub(p.begin), d.index, what) }
	p.onLog = func(d *worldDevice, l Log) {
		fmt.Printf("%s d%d: %s %v\n", p.now.Sub(p.begin), d.index, l.Message, l.Args)
	}
	watch, _ := strconv.Atoi(os.Getenv("RECORD"))
	kind := sdk.Ownership(os.Getenv("KIND"))
	owner, _ := strconv.Atoi(os.Getenv("OWNER"))
	last := map[*worldDevice]string{}
	p.onTurn = func() {
		if kind == "" {
			return
		}
		for _, d := range p.devices {
			text := "nothing"
			id := recordID(kind, deviceID(owner), watch)
			if r := d.store.rows[id]; kind == sdk.DeviceOwned && r != nil {
				text = fmt.Sprint(r.stamp.Time().Sub(p.begin), r.stamp.Counter(), r.deleted)
			}
			if r := d.store.records[id]; kind == sdk.SharedByAll && r != nil {
				text = fmt.Sprint(r.inserted, r.deleted, r.written, r.exists())
			}
			if text != last[d] {
				fmt.Printf("%s d%d RECORD %s heads %s\n", p.now.Sub(p.begin), d.index, text, headsText(d.store.heads[protocol.Stream{Origin: deviceID(owner), Kind: kind}]))
				last[d] = text
			}
		}
	}
	p.onAction = func(d *worldDevice, a Action) {
		switch a := a.(type) {
		case Prune:
			fmt.Printf("%s d%d: prune %v shadow %s epochs %d\n", p.now.Sub(p.begin), d.index, a.Floors, a.Shadow, len(a.Epochs))
		case ReadRange:
			pg, err := d.store.ReadRange(t.Context(), a)
			fmt.Printf("read d%d %+v -> %d %v %v ids %v\n", d.index, a, len(pg.Changes), pg.Done, err, d.store.idsIn(a.Request.Kind, a.Request.Origin, a.Request.After, a.Request.Until))
		case TakeRange:
			for _, c := range a.Page.Changes {
				for _, b := range c.Batches {
					fmt.Printf("   %s %x\n", c.Origin, b.Rows)
				}
			}
			fmt.Printf("%s d%d: take %v since %v repair %v done %v vector %v\n", p.now.Sub(p.begin), d.index, a.Scope, a.Since, a.Repair, a.Page.Done, a.Vector)
		}
	}
	p.run()
}
