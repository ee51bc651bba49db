package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// print says all of a run.
func (r *result) print(out io.Writer) {
	fmt.Fprintf(out, "%d devices, all members known %v, seals %v: %s real, %d events\n", r.Devices, r.Full, r.Sealed, r.Real.Round(time.Millisecond), r.Events)
	for _, phase := range []struct {
		name string
		of   costs
	}{{"first changes", r.First}, {"later changes", r.Later}} {
		c := phase.of
		fmt.Fprintf(out, "  %d %s: half of all copies after %s; the last copy: p50 %s, p99 %s, max %s\n",
			c.Writes, phase.name, ms(c.Half), ms(c.AllHalf), ms(c.All99), ms(c.AllMax))
		fmt.Fprintf(out, "    a change: %.1f messages, %.1f pages, %.0f bytes; a change and receiver: %.2f messages, %.0f bytes\n",
			c.Messages, c.Deliveries, c.Bytes, c.Messages/r.receivers(), c.Bytes/r.receivers())
		for _, kind := range slices.Sorted(maps.Keys(c.ByType)) {
			fmt.Fprintf(out, "      %-22s %.2f\n", kind, c.ByType[kind])
		}
	}
	fmt.Fprintf(out, "  heap a device: %d at rest, %d after; a look at what may be forgotten: %s, again: %s\n", r.AtRest, r.AfterWrites, r.Look, r.LookAgain)
	for _, line := range slices.Sorted(maps.Keys(r.Warned)) {
		fmt.Fprintf(out, "  warned %d times: %s\n", r.Warned[line], line)
	}
}

func ms(d time.Duration) time.Duration { return d.Round(time.Millisecond) }

// table writes what BENCHMARKS.md shows.
func table(out io.Writer, results []*result) {
	fmt.Fprintln(out, "| devices, each knows | changes | half of all copies | last copy, p50 / p99 / max | messages a change | and device | bytes a change | and device | heap a device, at rest / after |")
	fmt.Fprintln(out, "|---|---|---|---|---|---|---|---|---|")
	for _, r := range results {
		knows := "neighbours"
		if r.Full {
			knows = "all"
		}
		row := func(head, name string, c *costs, tail string) {
			fmt.Fprintf(out, "| %s | %d %s | %.2f s | %.2f / %.2f / **%.2f s** | %.0f | **%.2f** | %.0f | **%.0f** | %s |\n",
				head, c.Writes, name, c.Half.Seconds(), c.AllHalf.Seconds(), c.All99.Seconds(), c.AllMax.Seconds(),
				c.Messages, c.Messages/r.receivers(), c.Bytes, c.Bytes/r.receivers(), tail)
		}
		row(fmt.Sprintf("%d, %s", r.Devices, knows), "first", &r.First, "")
		row("", "later", &r.Later, fmt.Sprintf("%d / %d KiB", r.AtRest>>10, r.AfterWrites>>10))
	}
}

// keep puts results in the place of older ones of the same devices, draws all, and returns them.
func keep(dir string, results []*result) ([]*result, error) {
	path := filepath.Join(dir, "results.json")
	var kept []*result
	raw, err := os.ReadFile(path)
	switch {
	case err == nil:
		if err := json.Unmarshal(raw, &kept); err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
	case !os.IsNotExist(err):
		return nil, err
	}
	kept = slices.DeleteFunc(kept, func(old *result) bool {
		return slices.ContainsFunc(results, func(r *result) bool { return r.Devices == old.Devices && r.Full == old.Full })
	})
	kept = append(kept, results...)
	slices.SortFunc(kept, func(a, b *result) int {
		if a.Full != b.Full && b.Full {
			return 1
		} else if a.Full != b.Full {
			return -1
		}
		return cmp.Compare(a.Devices, b.Devices)
	})
	if raw, err = json.MarshalIndent(kept, "", "  "); err != nil {
		return nil, err
	}
	if err := os.WriteFile(path, append(raw, '\n'), 0o644); err != nil { //nolint:gosec // for everybody to read
		return nil, err
	}
	return kept, os.WriteFile(filepath.Join(dir, "scale.svg"), plot(kept), 0o644) //nolint:gosec // as above
}
