// Command scale runs peersync.Machine on 30 to 10,000 devices in one goroutine and in simulated time, and measures what a
// change costs: time until all have it, messages, bytes, and memory for each device.
//
// There is no database and no plugin: package sim asks whether the machine is right, this one what it costs. All devices
// share one store in memory; nothing fails, nobody comes or goes; audits, gossip and pruning do not come within a run. The
// same options give the same run, up to real time and memory.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"time"
)

// options say what a run is of.
type options struct {
	Devices, Degree, Writes int
	Seed                    uint64
	Full                    bool // every device knows all members; else its neighbours
	Seal                    bool // devices close stamps
	Sample                  int  // one in so many messages of each type is encoded
}

// The goals.
const (
	smallDevices = 30
	smallTime    = 10 * time.Second
	memoryLimit  = 14 << 30
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "scale:", err)
		os.Exit(1)
	}
}

func run() error {
	o := options{Degree: 10}
	devices := flag.Int("devices", 0, "run this many devices only, in which each knows its neighbours; 0: 30, 100 and 1000, and 30 and 100 in which each knows all")
	flag.BoolVar(&o.Full, "full", false, "with -devices: each device knows all members")
	flag.IntVar(&o.Writes, "writes", 200, "shared operations, by so many devices or by all; before them each of these makes one")
	flag.Uint64Var(&o.Seed, "seed", 1, "of the overlay, the writers and the times")
	flag.BoolVar(&o.Seal, "seal", false, "devices close stamps, as hosts do: after a change of another device, every five minutes at most")
	write := flag.String("write", "", "keep the results in results.json of this folder, and draw scale.svg there")
	flag.Parse()
	debug.SetMemoryLimit(memoryLimit)

	runs := []options{{Devices: smallDevices, Full: true}, {Devices: 100, Full: true}, {Devices: smallDevices}, {Devices: 100}, {Devices: 1000}}
	if *devices > 0 {
		runs = []options{{Devices: *devices, Full: o.Full}}
	}
	var results []*result
	for _, which := range runs {
		o.Devices, o.Full, o.Sample = which.Devices, which.Full, 1
		if o.Devices > 1000 {
			o.Sample = 16
		}
		r, err := measure(o)
		if err != nil {
			return fmt.Errorf("%d devices: %w", o.Devices, err)
		}
		results = append(results, r)
		r.print(os.Stderr)
	}
	if *write != "" {
		kept, err := keep(*write, results)
		if err != nil {
			return err
		}
		results = kept
	}
	table(os.Stdout, results)
	return errors.Join(goals(results, true), goals(results, false))
}

// goals returns an error if the results of runs in which devices know all members, or those in which they do not, miss what
// is to be reached.
func goals(results []*result, full bool) error {
	at := func(n int) *result {
		i := slices.IndexFunc(results, func(r *result) bool { return r.Devices == n && r.Full == full })
		if i < 0 {
			return nil
		}
		return results[i]
	}
	if r := at(smallDevices); r != nil && max(r.First.AllMax, r.Later.AllMax) > smallTime {
		return fmt.Errorf("the last of %d devices has a change after %s; the goal is %s", r.Devices, max(r.First.AllMax, r.Later.AllMax), smallTime)
	}
	few, many := at(100), at(1000)
	if few == nil || many == nil {
		return nil
	}
	linear := 1.01 * many.receivers() / few.receivers() // 999 receivers are 10.09 times 99
	for _, growth := range [...]float64{many.First.Messages / few.First.Messages, many.Later.Messages / few.Later.Messages} {
		if growth > linear {
			return fmt.Errorf("messages a change grow by %.2f from %d devices to %d; the goal is %.2f at most, as do the receivers",
				growth, few.Devices, many.Devices, linear)
		}
	}
	return nil
}
