package config

import (
	"slices"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/starling-sync/starling/sdk"
)

// Limits is the limits block: what a peer can make this device hold or wait for, and when it tries again. Where it says no
// more, a limit is the one of the same name in host/protocol, or a time of host/peersync.
//
//	MaxPageBytes + frameOverhead <= FrameBytes, DecodedBytes
//	MembersBytes + frameOverhead <= FrameBytes, DecodedBytes
//	RetryMin <= RetryMax
type Limits struct {
	FrameBytes    int           // of a message on the wire
	DecodedBytes  int           // of a message after decompression
	MaxPageBytes  int           // of a page; a record and its page's own words always fit
	Batches       int           // in a page
	Columns       int           // in a batch
	Marks         int           // in a vector or a request
	Heads         int           // positions in one stream
	Epochs        int           // in a message
	Origins       int           // in a page of a snapshot, or a heartbeat
	Ranges        int           // of a model in an audit
	Models        int           // in a greeting, a page of a snapshot or an audit
	TextBytes     int           // of a name, an address or a reason
	MembersBytes  int           // of the answer to an invitation
	HandshakeTime time.Duration // from connected to greeted
	SendTime      time.Duration // for a piece of what is sent to leave
	StallTime     time.Duration // a silent upstream is replaced after it
	RetryMin      time.Duration // first pause before dialling again
	RetryMax      time.Duration // greatest pause
	DialTime      time.Duration // for one address
	RequestTime   time.Duration // for the answer to a request

	WaitingRecords int // how many records may wait for others before status warns
}

// DefaultSync returns the sync block of a file that has none.
func DefaultSync() Sync {
	return Sync{
		Heartbeat:     5 * time.Second,
		MaxClockDrift: time.Minute,
		PageBytes:     256 << 10,
		WindowBytes:   4 << 20,
		Audit:         time.Hour,
		Retention:     Retention{Age: 90 * day, Bytes: 1 << 30, Conflicts: 30 * day},
		Limits: Limits{
			FrameBytes:     1<<20 + 1<<19,
			DecodedBytes:   2 << 20,
			MaxPageBytes:   1<<20 + 1<<18,
			Batches:        8192,
			Columns:        1024,
			Marks:          16384,
			Heads:          64,
			Epochs:         4096,
			Origins:        4096,
			Ranges:         16384,
			Models:         1024,
			TextBytes:      4096,
			MembersBytes:   1 << 20,
			HandshakeTime:  10 * time.Second,
			SendTime:       30 * time.Second,
			StallTime:      10 * time.Second,
			RetryMin:       250 * time.Millisecond,
			RetryMax:       30 * time.Second,
			DialTime:       10 * time.Second,
			RequestTime:    30 * time.Second,
			WaitingRecords: 100_000,
		},
	}
}

const (
	day = 24 * time.Hour

	// frameOverhead is room for what a message says besides the page, or the members, that it carries.
	frameOverhead = 64 << 10
	// leastPage holds a record of the greatest size, and the names of a batch: with less, it could never be sent.
	leastPage = sdk.MaxRecordBytes + frameOverhead
	// most of what a peer can make this device take at once
	mostFrame = 64 << 20
	mostPage  = mostFrame - frameOverhead
	// markBytes is about what a mark takes: two ids, a stamp, and what announces them
	markBytes = 64
)

// syncShapes returns the blocks within the sync block.
func syncShapes() (retention, limits shape) {
	retention = shape{name: "retention", arguments: []string{"age", "bytes", "conflicts"}}
	limits = shape{name: "limits", arguments: []string{
		"frame_bytes", "decoded_bytes", "max_page_bytes", "batches", "columns", "marks", "heads", "epochs", "origins", "ranges",
		"models", "text_bytes", "members_bytes", "handshake_time", "send_time", "stall_time", "retry_min", "retry_max",
		"dial_time", "request_time", "waiting_records",
	}}
	return retention, limits
}

func (p *parser) sync(b *hclsyntax.Block, shape shape) Sync {
	def := DefaultSync()
	if b == nil {
		return def
	}
	s := p.section(b, shape)
	result := Sync{
		Heartbeat:     s.duration("heartbeat", def.Heartbeat, 100*time.Millisecond, 10*time.Minute),
		MaxClockDrift: s.duration("max_clock_drift", def.MaxClockDrift, time.Second, day),
		PageBytes:     s.size("page_bytes", def.PageBytes, 4<<10, 1<<20),
		Audit:         s.durationOrZero("audit", "never", def.Audit, time.Second, 365*day),
		Retention:     def.Retention,
		Limits:        def.Limits,
		Range:         p.at(s.whole()),
	}
	result.WindowBytes = s.size("window_bytes", max(def.WindowBytes, result.PageBytes), 64<<10, 1<<30)
	if result.WindowBytes < result.PageBytes {
		v, _ := s.value("window_bytes")
		p.failf(v.at, "window_bytes is less than page_bytes (%s), so no page would fit; write %q", compact(result.PageBytes), compact(4*result.PageBytes))
	}
	retention, limits := syncShapes()
	if inner := p.one(b.Body, retention.name); inner != nil {
		result.Retention = p.section(inner, retention).retention(def.Retention)
	}
	if inner := p.one(b.Body, limits.name); inner != nil {
		result.Limits = p.section(inner, limits).limits(def.Limits)
	}
	return result
}

func (s section) retention(def Retention) Retention {
	const unlimited = "without limit"
	return Retention{
		Age:       s.durationOrZero("age", unlimited, def.Age, time.Second, 3650*day),
		Bytes:     s.sizeOrZero("bytes", unlimited, def.Bytes, 4<<10, 1<<40),
		Conflicts: s.durationOrZero("conflicts", unlimited, def.Conflicts, time.Second, 3650*day),
	}
}

func (s section) limits(def Limits) Limits {
	before := len(s.found)
	l := Limits{
		FrameBytes:     s.size("frame_bytes", def.FrameBytes, leastPage+frameOverhead, mostFrame),
		DecodedBytes:   s.size("decoded_bytes", def.DecodedBytes, leastPage+frameOverhead, 4*mostFrame),
		MaxPageBytes:   s.size("max_page_bytes", def.MaxPageBytes, leastPage, mostPage),
		Batches:        s.count("batches", def.Batches, 16, 1<<20),
		Columns:        s.count("columns", def.Columns, 16, 1<<16),
		Marks:          s.count("marks", def.Marks, 16, 1<<20),
		Heads:          s.count("heads", def.Heads, 2, 1<<12),
		Epochs:         s.count("epochs", def.Epochs, 16, 1<<20),
		Origins:        s.count("origins", def.Origins, 16, 1<<20),
		Ranges:         s.count("ranges", def.Ranges, 16, 1<<16),
		Models:         s.count("models", def.Models, 16, 1<<16),
		TextBytes:      s.size("text_bytes", def.TextBytes, 512, 1<<20),
		MembersBytes:   s.size("members_bytes", def.MembersBytes, 16<<10, mostPage),
		HandshakeTime:  s.duration("handshake_time", def.HandshakeTime, 100*time.Millisecond, 10*time.Minute),
		SendTime:       s.duration("send_time", def.SendTime, 100*time.Millisecond, time.Hour),
		StallTime:      s.duration("stall_time", def.StallTime, 100*time.Millisecond, time.Hour),
		DialTime:       s.duration("dial_time", def.DialTime, 100*time.Millisecond, 10*time.Minute),
		RequestTime:    s.duration("request_time", def.RequestTime, time.Second, time.Hour),
		RetryMin:       s.duration("retry_min", def.RetryMin, 10*time.Millisecond, time.Hour),
		RetryMax:       s.duration("retry_max", def.RetryMax, 10*time.Millisecond, day),
		WaitingRecords: s.count("waiting_records", def.WaitingRecords, 1, 1<<31-1),
	}
	s.relations(&l, s.found[before:])
	return l
}

// relations checks what the limits must be to one another. Where one of two is wrong by itself, that is all that is said of it.
func (s section) relations(l *Limits, wrong Diagnostics) {
	right := func(names ...string) bool {
		return !slices.ContainsFunc(wrong, func(d Diagnostic) bool {
			return slices.ContainsFunc(names, func(name string) bool {
				attribute, ok := s.block.Body.Attributes[name]
				return ok && d.Range == s.at(attribute.Expr.Range())
			})
		})
	}
	for _, outer := range []struct {
		name  string
		bytes int
	}{{"frame_bytes", l.FrameBytes}, {"decoded_bytes", l.DecodedBytes}} {
		if right(outer.name, "max_page_bytes") {
			s.fits(outer.name, outer.bytes, "max_page_bytes", l.MaxPageBytes)
		}
		if right(outer.name, "members_bytes") {
			s.fits(outer.name, outer.bytes, "members_bytes", l.MembersBytes)
		}
	}
	if l.RetryMin > l.RetryMax && right("retry_min", "retry_max") {
		s.failf(s.given("retry_max", "retry_min"), "retry_min (%s) is more than retry_max (%s): the pause grows from the one to the other; make retry_max at least %q",
			short(l.RetryMin), short(l.RetryMax), short(l.RetryMin))
	}
	if vector := l.Marks*markBytes + frameOverhead; vector > l.FrameBytes && right("marks", "frame_bytes") {
		s.failf(s.given("marks", "frame_bytes"), "marks: a vector of %d marks takes about %s, which frame_bytes (%s) has no room for; write at most %d, or make frame_bytes at least %q",
			l.Marks, compact(vector), compact(l.FrameBytes), (l.FrameBytes-frameOverhead)/markBytes, compact(vector))
	}
}

// fits checks that a message of at most outer bytes has room for what inner allows, and for its own words.
func (s section) fits(outer string, outerBytes int, inner string, innerBytes int) {
	if least := innerBytes + frameOverhead; outerBytes < least {
		s.failf(s.given(outer, inner), "%s (%s) has no room for what %s allows (%s) and for %s around it; make %s at least %q",
			outer, compact(outerBytes), inner, compact(innerBytes), compact(frameOverhead), outer, compact(least))
	}
}

// given returns the range of the first of the arguments that is there, else of the block's header.
func (s section) given(names ...string) hcl.Range {
	for _, name := range names {
		if attribute, ok := s.block.Body.Attributes[name]; ok {
			return attribute.Expr.Range()
		}
	}
	return s.whole()
}
