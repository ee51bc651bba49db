package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/starling-sync/starling/sdk"
)

func (s *show) begin(ctx context.Context) error {
	began := time.Now()
	s.link = newLink()
	var err error
	if s.Transport == "nats" {
		if s.fleet, err = newFleet(ctx, s.Options, s.dir); err != nil {
			return err
		}
		s.say("a NATS server "+s.fleet.relation, "%s", seconds(time.Since(began)))
		began = time.Now()
	}
	if s.alice, err = begin(ctx, s.Program, s.dir, "alice", s.link, s.fleet, "--library", "demo"); err != nil {
		return err
	}
	if s.bob, err = begin(ctx, s.Program, s.dir, "bob", s.link, s.fleet, "--join"); err != nil {
		return err
	}
	plugins, err := s.alice.Plugins(ctx)
	if err != nil {
		return err
	}
	s.say(fmt.Sprintf("alice and bob run, each with %d plugins and a SQLite database", len(plugins)), "%s", seconds(time.Since(began)))
	return nil
}

func (s *show) pair(ctx context.Context) error {
	began := time.Now()
	invitation, err := s.alice.Invite(ctx)
	if err != nil {
		return err
	}
	if _, err := s.bob.Join(ctx, invitation.Code); err != nil {
		return err
	}
	err = s.caughtUp(ctx)
	over := "over 127.0.0.1"
	if s.fleet != nil {
		over = "through the NATS server alone"
	}
	s.say("alice and bob are paired "+over, "%s", seconds(time.Since(began)))
	return err
}

// catalogue has alice catalogue the folder while bob follows.
func (s *show) catalogue(ctx context.Context) error {
	total, bytes := count(ctx, s.root)
	began := time.Now()
	path, err := json.Marshal(s.root)
	if err != nil {
		return err
	}
	if _, err := s.alice.put(ctx, "location", sdk.RecordID{}, fmt.Sprintf(`{"path":%s,"name":"demo"}`, path)); err != nil {
		return err
	}
	walked, err := s.follow(ctx, began, total)
	if err != nil {
		return err
	}
	if err := s.caughtUp(ctx); err != nil {
		return err
	}
	behind := time.Since(began) - walked
	digest, err := s.equal(ctx)
	if err != nil {
		return err
	}
	if s.entries, err = s.bob.rows(ctx, "entry"); err != nil {
		return err
	}
	status, err := s.bob.Status(ctx)
	if err != nil {
		return err
	}
	s.say(fmt.Sprintf("alice catalogued %s (%s entries, %s of files)", short(s.root), humanize.Comma(s.entries), humanize.IBytes(uint64(bytes))), //nolint:gosec // not negative
		"%s   %s", seconds(walked), rate(s.entries, walked))
	s.say(fmt.Sprintf("bob has all %s entries", humanize.Comma(s.entries)), "%s behind alice's last   equal digests %s", seconds(behind), digest)
	for _, p := range status.Peers {
		s.say("over the wire, encrypted", "%s, %.0f bytes an entry", humanize.IBytes(uint64(p.BytesIn)), float64(p.BytesIn)/float64(max(1, s.entries))) //nolint:gosec // not negative
	}
	for _, source := range status.Sources {
		for _, w := range source.Warnings {
			s.say("warning: "+w.Message, "%d", w.Count)
		}
	}
	return nil
}

// count returns how many entries a folder has and the bytes in its files, to have something to measure progress by.
func count(ctx context.Context, root string) (entries, bytes int64) {
	_ = filepath.WalkDir(root, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || ctx.Err() != nil {
			return ctx.Err() // what can not be read is not counted
		}
		entries++
		if info, err := d.Info(); err == nil && info.Mode().IsRegular() {
			bytes += info.Size()
		}
		return nil
	})
	return entries, bytes
}

// follow draws progress until alice's walk is done, and returns how long it took.
func (s *show) follow(ctx context.Context, began time.Time, total int64) (walked time.Duration, err error) {
	bar := &bar{out: s.Out, width: s.Width, total: total}
	err = s.alice.until(ctx, func() (bool, error) {
		status, err := s.alice.Status(ctx)
		if err != nil {
			return false, err
		}
		have, err := s.bob.rows(ctx, "entry")
		if err != nil {
			return false, err
		}
		bar.draw(have, time.Since(began))
		for _, source := range status.Sources {
			for _, p := range source.Progress {
				if strings.HasPrefix(p.Key, "hashing ") {
					continue // the walk counts
				}
				// An empty folder has nothing to be done with: its own entry is all.
				if p.Done >= p.Total && (p.Total > 0 || total <= 1 && have == 1) {
					walked = time.Since(began)
					return true, nil
				}
			}
		}
		return false, nil
	})
	bar.clear()
	return walked, err
}

// caughtUp waits until either device knows that it lacks nothing of the other.
func (s *show) caughtUp(ctx context.Context) error {
	for _, d := range []*device{s.alice, s.bob} {
		if err := d.until(ctx, func() (bool, error) {
			peers, err := d.Peers(ctx)
			return err == nil && len(peers) == 1 && peers[0].State == "live" && peers[0].Behind == 0 && peers[0].BehindMe == 0, err
		}); err != nil {
			return err
		}
	}
	return nil
}

// equal waits until both devices have the same digests and returns a short name of them.
func (s *show) equal(ctx context.Context) (string, error) {
	var short string
	err := s.bob.until(ctx, func() (bool, error) {
		a, err := s.alice.digest(ctx)
		if err != nil {
			return false, err
		}
		b, err := s.bob.digest(ctx)
		short = name(a)
		return a == b, err
	})
	return short, err
}

// editApart cuts the link, has both edit the same tag, and links them again.
func (s *show) editApart(ctx context.Context) error {
	id, err := s.alice.put(ctx, "tag", sdk.RecordID{}, `{"name":"work","color":"red"}`)
	if err != nil {
		return err
	}
	if _, err := s.equal(ctx); err != nil {
		return err
	}
	s.link.cut()
	for _, d := range []*device{s.alice, s.bob} {
		if err := d.until(ctx, func() (bool, error) {
			peers, err := d.Peers(ctx)
			return err == nil && len(peers) == 1 && peers[0].State != "live", err
		}); err != nil {
			return err
		}
	}
	for _, edit := range []struct {
		by     *device
		fields string
	}{{s.alice, `{"name":"job"}`}, {s.bob, `{"color":"blue"}`}, {s.bob, `{"name":"labour"}`}} {
		if _, err := edit.by.put(ctx, "tag", id, edit.fields); err != nil {
			return err
		}
	}
	began := time.Now()
	s.link.mend()
	if err := s.caughtUp(ctx); err != nil {
		return err
	}
	took := time.Since(began)
	digest, err := s.equal(ctx)
	if err != nil {
		return err
	}
	s.say("cut off: alice renames tag work to job; bob to labour, and blue", "linked again: both have both after %s   equal digests %s", seconds(took), digest)
	return s.showTag(ctx, id)
}

// showTag prints the tag as both have it, and what lost.
func (s *show) showTag(ctx context.Context, id sdk.RecordID) error {
	for _, d := range []*device{s.alice, s.bob} {
		raw, err := d.Get(ctx, "tag", id)
		if err != nil {
			return err
		}
		var tag struct{ Name, Color string }
		if err := json.Unmarshal(raw, &tag); err != nil {
			return err
		}
		conflicts, err := d.Conflicts(ctx, "tag", id)
		if err != nil {
			return err
		}
		if tag.Name != "labour" || tag.Color != "blue" || len(conflicts) != 1 || string(conflicts[0].Value) != `"job"` {
			return fmt.Errorf("%s has %s, %s and %d conflicts; want labour, blue, and job in the journal", d.name, tag.Name, tag.Color, len(conflicts))
		}
		s.say(fmt.Sprintf("%s has %s (the later name), %s", d.name, tag.Name, tag.Color), "kept in the journal: %s", conflicts[0].Value)
	}
	return nil
}

// name shortens a digest of many lines to something to read.
func name(digest string) string {
	id := sdk.KeyID("digest", digest)
	return id.String()[:8]
}

func short(path string) string {
	if home, err := os.UserHomeDir(); err == nil && strings.HasPrefix(path, home+string(filepath.Separator)) {
		return "~" + path[len(home):]
	}
	return path
}
