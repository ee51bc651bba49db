// Command sim runs Starling's real code in a world of its own: a few devices, their disks, clocks and the network between
// them, in one goroutine and in simulated time. One seed always gives the same run.
//
//	task sim                          what CI runs
//	task sim -- -seeds 500 -from 7    500 runs, from seed 7 on
//	task sim -- -seeds 1 -from 42 -v  one run with its trace
//
// README.md says what happens in a run, and what is checked.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

func main() {
	if err := simulate(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// check refuses names that mean nothing: a mistyped bug would look like one that is not caught.
func (o *Options) check() error {
	one := func(flag, name string, known []string) error {
		if name == "" || slices.Contains(known, name) {
			return nil
		}
		return fmt.Errorf("-%s %s: there is none of that name; there are %s", flag, name, strings.Join(slices.Compact(slices.Clone(known)), ", "))
	}
	var names []string
	for _, b := range bugs() {
		names = append(names, b.name)
	}
	err := errors.Join(one("topology", o.Topology, topologies), one("bug", o.Bug, names), one("store", o.Store, []string{"memory", "file"}))
	for _, name := range o.Without {
		err = errors.Join(err, one("without", name, faultKinds))
	}
	return err
}

func simulate(args []string, out io.Writer) error {
	var o Options
	flags := flag.NewFlagSet("sim", flag.ContinueOnError)
	seeds := flags.Uint64("seeds", 2000, "how many runs")
	flags.Uint64Var(&o.Seed, "from", 1, "the first seed")
	flags.StringVar(&o.Store, "store", "memory", "SQLite in memory, or in files: memory|file")
	verbose := flags.Bool("v", false, "print the trace of each run")
	workers := flags.Int("workers", runtime.NumCPU(), "runs at once")
	flags.IntVar(&o.Devices, "devices", 0, "devices in each run; 0: as the seed says")
	flags.StringVar(&o.Topology, "topology", "", "mesh, star, line, tree, sparse, ring or store-and-forward; empty: as the seed says")
	flags.IntVar(&o.Writes, "writes", 0, "commits in each run; 0: as the seed says")
	without := flags.String("without", "", "faults that do not happen, with commas: "+strings.Join(faultKinds, ","))
	flags.StringVar(&o.Bug, "bug", "", "a seeded bug, to see it caught")
	profile := flags.String("cpuprofile", "", "write a CPU profile there")
	shrink := flags.Bool("shrink", true, "look for a smaller run that fails")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *without != "" {
		o.Without = strings.Split(*without, ",")
	}
	if err := o.check(); err != nil {
		return err
	}
	if o.Store == "file" {
		dir, err := os.MkdirTemp("", "starling-sim-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir) //nolint:errcheck // a temporary folder
		o.Dir = dir
	}
	if err := o.prepare(); err != nil {
		return err
	}
	if *verbose {
		o.Verbose, *workers = out, 1
	}
	if *profile != "" {
		file, err := os.Create(*profile)
		if err != nil {
			return err
		}
		defer file.Close() //nolint:errcheck // a profile
		if err := pprof.StartCPUProfile(file); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	debug.SetGCPercent(400) // worlds are small and short
	began := time.Now()
	total, failure := runMany(o, *seeds, *workers)
	report(out, total, time.Since(began))
	if failure == nil {
		return nil
	}
	found, isFailure := errors.AsType[*Failure](failure)
	if !isFailure {
		return failure
	}
	o.Seed, o.Verbose = found.Seed, nil
	if *shrink && !*verbose {
		o, found = smaller(o, found)
	}
	return fmt.Errorf("%w\nreplay it: %s", found, o.command())
}

// command is the line that replays a run.
func (o *Options) command() string {
	line := fmt.Sprintf("task sim -- -seeds 1 -from %d -v", o.Seed)
	if o.Store != "memory" {
		line += " -store " + o.Store
	}
	if o.Devices != 0 {
		line += fmt.Sprintf(" -devices %d", o.Devices)
	}
	if o.Topology != "" {
		line += " -topology " + o.Topology
	}
	if o.Writes != 0 {
		line += fmt.Sprintf(" -writes %d", o.Writes)
	}
	if len(o.Without) > 0 {
		line += " -without " + strings.Join(o.Without, ",")
	}
	if o.Bug != "" {
		line += " -bug " + o.Bug
	}
	return line
}

// runMany makes runs, several at once, until one fails; then the failure of the least seed tried is returned.
func runMany(o Options, seeds uint64, workers int) (total Stats, failure error) {
	var mu sync.Mutex
	var next atomic.Uint64
	var failed atomic.Bool
	var failedSeed uint64
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			for !failed.Load() {
				n := next.Add(1) - 1
				if n >= seeds {
					return
				}
				run := o
				run.Seed = o.Seed + n
				stats, _, err := Run(run)
				mu.Lock()
				total.add(&stats)
				if err != nil && (failure == nil || run.Seed < failedSeed) {
					failure, failedSeed = err, run.Seed
					failed.Store(true)
				}
				mu.Unlock()
			}
		})
	}
	group.Wait()
	return total, failure
}

// smaller tries runs with less of everything, and keeps what still fails.
func smaller(o Options, failure *Failure) (Options, *Failure) {
	try := func(change func(*Options)) bool {
		next := o
		next.Without = append([]string{}, o.Without...)
		change(&next)
		_, _, err := Run(next)
		found, fails := errors.AsType[*Failure](err)
		if fails && found.Check == failure.Check {
			o, failure = next, found
		}
		return fails
	}
	for _, kind := range faultKinds {
		try(func(o *Options) { o.Without = append(o.Without, kind) })
	}
	for n := 2; n < 6 && (o.Devices == 0 || n < o.Devices); n++ {
		if try(func(o *Options) { o.Devices = n }) {
			break
		}
	}
	for _, n := range []int{5, 10, 20, 40} {
		if try(func(o *Options) { o.Writes = n }) {
			break
		}
	}
	return o, failure
}

// add adds what another run did; maxima stay maxima.
func (s *Stats) add(other *Stats) {
	s.Simulated += other.Simulated
	s.Settled = max(s.Settled, other.Settled)
	s.MostUnread = max(s.MostUnread, other.MostUnread)
	for _, pair := range []struct {
		to   *int
		from int
	}{
		{&s.Runs, other.Runs}, {&s.Writes, other.Writes}, {&s.Changes, other.Changes}, {&s.Refused, other.Refused}, {&s.Pages, other.Pages}, {&s.Overlaps, other.Overlaps},
		{&s.Stale, other.Stale}, {&s.Holds, other.Holds}, {&s.Checked, other.Checked}, {&s.Events, other.Events}, {&s.Messages, other.Messages},
		{&s.Sessions, other.Sessions}, {&s.Reads, other.Reads}, {&s.Crashes, other.Crashes}, {&s.MidCommit, other.MidCommit}, {&s.Ends, other.Ends}, {&s.Cuts, other.Cuts},
		{&s.Stops, other.Stops}, {&s.Jumps, other.Jumps}, {&s.Resets, other.Resets}, {&s.Joins, other.Joins}, {&s.Hidden, other.Hidden}, {&s.Journalled, other.Journalled},
		{&s.Restores, other.Restores}, {&s.Clones, other.Clones}, {&s.Retires, other.Retires}, {&s.Aways, other.Aways}, {&s.Rots, other.Rots}, {&s.SameStamp, other.SameStamp},
		{&s.Aheads, other.Aheads}, {&s.Restamps, other.Restamps}, {&s.Restamped, other.Restamped}, {&s.SeenHeld, other.SeenHeld},
		{&s.Removed, other.Removed}, {&s.Kept, other.Kept}, {&s.Doubtful, other.Doubtful},
	} {
		*pair.to += pair.from
	}
}

func report(out io.Writer, s Stats, took time.Duration) {
	hours := s.Simulated.Hours()
	fmt.Fprintf(out, "%d seeds in %s: %.1f seeds/s, %.1f cluster-hours, %.0f cluster-hours/min\n", //nolint:errcheck // a report
		s.Runs, took.Round(time.Millisecond), float64(s.Runs)/took.Seconds(), hours, hours/took.Minutes())
	fmt.Fprintf(out, "checked %d changes on devices; %d commits of %d changes, %d refused; %d pages applied, %d overlapping, %d decided again, %d held\n", //nolint:errcheck // a report
		s.Checked, s.Writes, s.Changes, s.Refused, s.Pages, s.Overlaps, s.Stale, s.Holds)
	fmt.Fprintf(out, "%d events, %d messages, %d sessions, %d reads; %d crashes (%d in a commit, %d in their own time), %d cuts, %d stops, %d clock faults, %d resets, %d joins\n", //nolint:errcheck // a report
		s.Events, s.Messages, s.Sessions, s.Reads, s.Crashes, s.MidCommit, s.Ends, s.Cuts, s.Stops, s.Jumps, s.Resets, s.Joins)
	fmt.Fprintf(out, "%d copies put back, %d devices run twice, %d retired, %d away for long, %d records damaged (%d kept their stamp); %d clocks years ahead, %d starts gave %d changes new stamps\n", //nolint:errcheck // a report
		s.Restores, s.Clones, s.Retires, s.Aways, s.Rots, s.SameStamp, s.Aheads, s.Restamps, s.Restamped)
	fmt.Fprintf(out, "at rest at the latest %s after faults stopped; %d records seen waiting; %d values in journals; at most %d bytes unacknowledged\n", s.Settled, s.Hidden, s.Journalled, s.MostUnread) //nolint:errcheck // a report
	fmt.Fprintf(out, "%d adds to sets undone, %d elements there for an add that a remove had not seen; %d edits by what the account does not know\n", s.Removed, s.Kept, s.Doubtful)                      //nolint:errcheck // a report
}
