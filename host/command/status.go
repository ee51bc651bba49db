package command

import (
	"context"
	"fmt"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/starling-sync/starling/host/control"
	"github.com/starling-sync/starling/sdk"
)

func (a *app) statusCommand() *cobra.Command {
	return a.reads(&cobra.Command{
		Use:   "status",
		Short: "Say how this device is, and how far its peers are",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd, func(ctx context.Context, host *control.Client) error {
				status, err := host.Status(ctx)
				if err != nil {
					return err
				}
				if a.json {
					return a.object(status)
				}
				return a.printStatus(&status)
			})
		},
	})
}

// knownModels is how many models have a table here: not those of which changes are merely kept.
func knownModels(s *control.Status) (n int64) {
	for i := range s.Models {
		if s.Models[i].Ownership != "" {
			n++
		}
	}
	return n
}

func (a *app) printStatus(s *control.Status) error {
	library := s.LibraryName
	if s.LibraryID == "" {
		library = "no library yet"
	}
	store, models := s.StoreKind+" "+size(s.StoreBytes), count(knownModels(s), "model")+", "
	if s.StoreAway() {
		store, models = s.StoreKind+" out of reach", ""
	}
	head := []string{
		plain(s.DeviceName), plain(library), "up " + a.ago(s.Started), store, models + count(int64(len(s.Transports)), "transport"),
		fmt.Sprintf("clock %s (%s)", s.ClockState, signed(s.ClockOffset)),
	}
	if err := a.printf("%s\n", strings.Join(head, "   ")); err != nil {
		return err
	}
	lines := []string{}
	if s.LibraryID != "" && !s.StoreAway() {
		lines = append(lines, a.kept(s))
	}
	for _, w := range s.Warnings {
		lines = append(lines, "warning: "+plain(w.Text))
	}
	for _, note := range a.notes(s) {
		lines = append(lines, plain(note))
	}
	for _, line := range lines {
		if err := a.printf("%s\n", line); err != nil {
			return err
		}
	}
	switch {
	case s.LibraryID == "":
		return a.printf("it waits for an invitation: starling --config %s join CODE\n", a.config())
	case len(s.Peers) == 0:
		return a.printf("no peers yet; let one in with: starling --config %s invite\n", a.config())
	}
	t := newTable(a.Out, "PEER", "STATE", "BEHIND", "BEHIND ME", "RTT", "VIA", "SINCE")
	for i := range s.Peers {
		p := &s.Peers[i]
		t.row(p.Name, p.State, behind(p), lag(p), rtt(p), orNothing(p.Via), a.since(p))
	}
	return printed(t.flush())
}

// kept says what is stored besides the records that can be seen.
func (a *app) kept(s *control.Status) string {
	log := "log empty"
	if s.Log.Entries > 0 {
		noun := "entries"
		if s.Log.Entries == 1 {
			noun = "entry"
		}
		log = fmt.Sprintf("log %s %s, %s, oldest %s", humanize.Comma(s.Log.Entries), noun, size(s.Log.Bytes), a.ago(s.Log.Oldest))
	}
	return fmt.Sprintf("%s   shadow %s deleted, %s not inserted, %s waiting", log,
		humanize.Comma(s.Shadow.Deleted), humanize.Comma(s.Shadow.NotInserted), humanize.Comma(s.Shadow.Waiting))
}

// notes returns what wants a person's eye: one line each.
func (a *app) notes(s *control.Status) []string {
	var notes []string
	for _, t := range s.Transports {
		if t.Reason != "" {
			notes = append(notes, fmt.Sprintf("transport %s is %s: %s", t.Name, t.State, t.Reason))
		}
	}
	for _, p := range s.Plugins {
		if p.Swap != "" {
			notes = append(notes, fmt.Sprintf("plugin %s: swap: %s", p.Name, p.Swap))
		}
		if p.Kind != "transport" && p.Reason != "" {
			notes = append(notes, fmt.Sprintf("plugin %s is %s: %s", p.Name, p.State, p.Reason))
		}
	}
	for _, source := range s.Sources {
		if source.Reason != "" {
			notes = append(notes, fmt.Sprintf("%s is %s: %s", source.Model, source.State, source.Reason))
		}
		notes = append(notes, underway(&source)...)
		for _, w := range source.Warnings {
			note := fmt.Sprintf("%s: %s", source.Model, w.Message)
			if w.Count > 1 {
				note += fmt.Sprintf(" (%s)", humanize.Comma(w.Count))
			}
			notes = append(notes, note)
		}
	}
	for _, m := range s.Models {
		if m.Waiting > 0 {
			notes = append(notes, fmt.Sprintf("%s: %s; see: starling waiting", m.Model, waiting(m.Waiting)))
		}
		switch {
		case m.Parked > 0 && m.Ownership == "":
			notes = append(notes, fmt.Sprintf("%s: %s kept and passed on, and shown once a plugin of that model runs here; see: starling plugin list", m.Model, count(m.Parked, "change")))
		case m.Parked > 0:
			notes = append(notes, fmt.Sprintf("%s: %s kept for its plugin, which is not running or failed on them; see: starling plugin list", m.Model, count(m.Parked, "change")))
		}
	}
	if s.Refused > 0 {
		notes = append(notes, count(s.Refused, "change")+" of peers could not be stored here; the log, and status --json, say why")
	}
	if limits := overLimits(s.Refusals); limits != "" {
		notes = append(notes, "input of peers over a limit was refused since the start: "+limits+"; the log says whose")
	}
	if s.Conflicts > 0 {
		notes = append(notes, count(s.Conflicts, "value")+" lost to a concurrent write; see: starling conflicts")
	}
	return notes
}

// underway says how far a source is with the tasks that are not over, one a line.
func underway(source *control.SourceStatus) []string {
	var lines []string
	for rest := source.Progress; len(rest) > 0; {
		key, n, over := rest[0].Key, 0, true
		var words []string
		for ; n < len(rest) && rest[n].Key == key; n++ {
			p := rest[n]
			over = over && p.Done >= p.Total && (p.Total > 0 || p.Done == 0)
			words = append(words, measured(p))
		}
		if !over {
			lines = append(lines, fmt.Sprintf("%s: %s: %s", source.Model, key, strings.Join(words, ", ")))
		}
		rest = rest[n:]
	}
	return lines
}

// measured returns "1.2 of 40 GB", "3 of 312 files", "8,812 so far".
func measured(p control.Progress) string {
	var done, total string
	switch unit := p.Unit; unit {
	case string(sdk.UnitBytes):
		done, total = size(p.Done), size(p.Total)
		if number, same := strings.CutSuffix(done, total[strings.LastIndex(total, " "):]); same && p.Total > 0 {
			done = number
		}
	case "", sdk.UnitThings.String():
		done, total = humanize.Comma(p.Done), humanize.Comma(p.Total)
	default:
		done, total = humanize.Comma(p.Done), humanize.Comma(p.Total)+" "+unit
		if p.Total == 0 {
			done += " " + unit
		}
	}
	if p.Total == 0 {
		return done + " so far"
	}
	return done + " of " + total
}

// overLimits names the limits that refused something, with how often.
func overLimits(refusals []control.RefusedInput) string {
	var words []string
	for _, r := range refusals {
		if r.Count > 0 {
			words = append(words, fmt.Sprintf("%s %s", r.Limit, humanize.Comma(r.Count)))
		}
	}
	return strings.Join(words, ", ")
}

func waiting(n int64) string {
	if n == 1 {
		return "1 record waits for what it refers to"
	}
	return count(n, "record") + " wait for what they refer to"
}

// behind says what this device lacks of a peer.
func behind(p *control.Peer) string {
	switch {
	case p.State == "backfilling" && p.Left > 0:
		return fmt.Sprintf("%.0f %% %s left", 100*p.Progress, span(p.Left))
	case p.State == "backfilling":
		return fmt.Sprintf("%.0f %%", 100*p.Progress)
	case p.Behind > 0:
		return span(p.Behind)
	}
	return nothing
}

// lag says what a peer lacks of this device.
func lag(p *control.Peer) string {
	if p.BehindMe > 0 {
		return span(p.BehindMe)
	}
	return nothing
}

func rtt(p *control.Peer) string {
	if p.RTT > 0 {
		return span(p.RTT)
	}
	return nothing
}

// since says how long a peer is in its state, and why where there is something to say.
func (a *app) since(p *control.Peer) string {
	if p.Reason == "" {
		return a.ago(p.Since)
	}
	if p.Since.IsZero() {
		return p.Reason
	}
	return a.ago(p.Since) + ": " + p.Reason
}

// audited says when a peer was last compared with this device, and what that found.
func (a *app) audited(audit *control.Audit) string {
	if audit.At.IsZero() {
		return nothing
	}
	found := strings.ReplaceAll(string(audit.Outcome), "_", " ")
	if audit.Outcome == control.AuditRepaired {
		found += " " + humanize.Comma(audit.Repaired)
	}
	return a.ago(audit.At) + ": " + found
}

func (a *app) peersCommand() *cobra.Command {
	return a.reads(&cobra.Command{
		Use:   "peers",
		Short: "List the library's other devices: traffic, rates, clocks, audits, addresses",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.call(cmd, func(ctx context.Context, host *control.Client) error {
				peers, err := host.Peers(ctx)
				if err != nil {
					return err
				}
				if a.json {
					return printEach(a, peers)
				}
				t := newTable(a.Out, "PEER", "STATE", "IN", "OUT", "ROWS IN", "ROWS/S", "SKEW", "AUDIT", "ADDRESSES", "ID")
				for i := range peers {
					p := &peers[i]
					t.row(p.Name, p.State, size(p.BytesIn), size(p.BytesOut), humanize.Comma(p.RowsIn),
						humanize.Comma(int64(p.RowsPerSecond)), signed(p.Skew), a.audited(&p.Audit), orNothing(strings.Join(p.Addresses, ", ")), p.ID.String())
				}
				return printed(t.flush())
			})
		},
	})
}

// printEach prints each value as one line of JSON.
func printEach[T any](a *app, values []T) error {
	for _, v := range values {
		if err := a.object(v); err != nil {
			return err
		}
	}
	return nil
}
