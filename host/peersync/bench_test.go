package peersync

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/sdktest"
)

// pageSource is a stream of ready pages: a database that costs nothing.
type pageSource struct {
	pages []protocol.Page
}

func newPageSource(origin sdk.DeviceID, kind sdk.Ownership, pages, rows int) *pageSource {
	s := &pageSource{}
	stamp := hlc.New(1_767_225_600_000, 0)
	for p := range pages {
		page := protocol.Page{Stream: protocol.Stream{Origin: origin, Kind: kind}, From: stamp}
		batch := sdk.Batch{Model: testModel, Version: 1, Columns: testColumns}
		for i := range rows {
			stamp++
			id := sdk.RecordID{byte(p), byte(p >> 8), byte(i), byte(i >> 8), 4: byte(i * 7), 5: byte(p * 13), 6: byte(i*p + 5)}
			text := fmt.Sprintf("a file with a name %d.txt in folder %d, size %d, modified %d, and more of that kind", i, p, i*p*7919, i*104729+p)
			if kind == sdk.DeviceOwned {
				batch.Rows = sdk.AppendStateHeader(batch.Rows, id, stamp, 1)
				batch.Rows = sdk.AppendValue(batch.Rows, text)
			} else {
				batch.Rows = sdk.AppendOpHeader(batch.Rows, id, stamp, sdk.Insert, 1)
				batch.Rows = sdk.AppendOpField(batch.Rows, 0, text, 0)
			}
			batch.Count++
		}
		page.Heads, page.Through, page.Batches = at(stamp), stamp, []sdk.Batch{batch}
		s.pages = append(s.pages, page)
	}
	return s
}

// stored is what a device that has the stream remembers.
func (s *pageSource) stored() Stored {
	last := s.pages[len(s.pages)-1]
	return Stored{Heads: map[protocol.Stream]protocol.Heads{last.Stream: last.Heads}}
}

func (s *pageSource) ReadPage(_ context.Context, _ protocol.Stream, since hlc.Stamp, _ int) (protocol.Page, bool, error) {
	for i := range s.pages {
		if s.pages[i].From == since || since == 0 {
			return s.pages[i], i < len(s.pages)-1, nil
		}
	}
	return protocol.Page{}, false, sdk.Errorf(sdk.CodeNotFound, "no page from %s", since)
}

// countingApplier reads every row and stores none.
type countingApplier struct {
	rows  atomic.Int64
	until int64
	done  chan struct{}
}

type countedPage struct {
	a *countingApplier
	n int
}

func (a *countingApplier) Prepare(_ context.Context, page protocol.Page) (Prepared, error) {
	n := 0
	for i := range page.Batches {
		if page.Kind == sdk.DeviceOwned {
			for _, err := range page.Batches[i].StateRows() {
				if err != nil {
					return nil, err
				}
				n++
			}
			continue
		}
		n += page.Batches[i].Count
	}
	return countedPage{a, n}, nil
}

func (p countedPage) Commit(context.Context) error {
	if total := p.a.rows.Add(int64(p.n)); total >= p.a.until {
		close(p.a.done)
	}
	return nil
}

// BenchmarkBackfill carries rows of about 150 bytes from one engine to another over TLS and memory.
func BenchmarkBackfill(b *testing.B) {
	for _, kind := range kinds {
		b.Run(string(kind), func(b *testing.B) {
			const pages, rows = 100, 1000
			var bytesIn int64
			for b.Loop() {
				network := sdktest.NewMemoryTransport()
				key := newTestKey(b, 1)
				source := newPageSource(key.id(), kind, pages, rows)
				sink := &countingApplier{until: pages * rows, done: make(chan struct{})}
				from := newHost(b, network, 1, func(o *Options) { o.Reader, o.Stored = source, source.stored() })
				to := newHost(b, network, 2, func(o *Options) { o.Applier = sink })
				members := []Member{from.member(), to.member()}
				from.start(members...)
				to.start(members...)
				<-sink.done
				bytesIn = to.stateOf(from).BytesIn
				from.end()
				to.end()
			}
			b.ReportMetric(float64(pages*rows*b.N)/b.Elapsed().Seconds(), "rows/s")
			b.ReportMetric(float64(bytesIn)/(pages*rows), "wire-B/row")
		})
	}
}

// liveSource is a stream that grows, of pages that are kept as they are, the latest ones.
type liveSource struct {
	mu    sync.Mutex
	pages []protocol.Page
	last  hlc.Stamp
}

// liveWindow is how many pages may be under way.
const liveWindow = 2000

// next adds a page of ten operations.
func (s *liveSource) next(origin sdk.DeviceID, rows []byte) protocol.Page {
	s.mu.Lock()
	defer s.mu.Unlock()
	from := s.last
	page := protocol.Page{Stream: protocol.Stream{Origin: origin, Kind: sdk.SharedByAll}, Heads: at(from + 10), From: from, Through: from + 10, Head: from + 10}
	page.Batches = []sdk.Batch{{Model: sharedModel, Version: 1, Columns: testColumns, Count: 10, Rows: rows}}
	if len(s.pages) == 4*liveWindow {
		s.pages = s.pages[:copy(s.pages, s.pages[2*liveWindow:])]
	}
	s.pages, s.last = append(s.pages, page), page.Through
	return page
}

func (s *liveSource) ReadPage(_ context.Context, _ protocol.Stream, since hlc.Stamp, _ int) (protocol.Page, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i, _ := slices.BinarySearchFunc(s.pages, since+1, func(p protocol.Page, stamp hlc.Stamp) int { return cmp.Compare(p.Through, stamp) })
	return s.pages[i], i < len(s.pages)-1, nil
}

// BenchmarkLive announces commits of ten operations, some of them under way at once, until the other side has them.
func BenchmarkLive(b *testing.B) {
	network := sdktest.NewMemoryTransport()
	sink, source := &countingApplier{until: 1 << 62, done: make(chan struct{})}, &liveSource{}
	from, to := newHost(b, network, 1, func(o *Options) { o.Reader = source }), newHost(b, network, 2, func(o *Options) { o.Applier = sink })
	members := []Member{from.member(), to.member()}
	from.start(members...)
	to.start(members...)
	rows := bytes.Repeat([]byte("0123456789abcdef"), 80)
	sent := int64(0)
	for b.Loop() {
		from.engine.Committed(source.next(from.key.id(), rows))
		for sent += 10; sent-sink.rows.Load() > 10*liveWindow; {
			runtime.Gosched()
		}
	}
	b.ReportMetric(float64(sent)/b.Elapsed().Seconds(), "rows/s")
}

// BenchmarkMachine steps a machine alone: it serves a commit to eight peers, who acknowledge it, and takes in a page from one.
func BenchmarkMachine(b *testing.B) {
	const peers = 8
	var members []Member
	for i := range peers {
		members = append(members, Member{ID: deviceID(i + 1)})
	}
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	m := NewMachine(MachineOptions{
		Self: Self{Device: deviceID(0), Library: protocol.LibraryID{1}, Epoch: protocol.EpochID{15: 1}}, Members: members,
		Limits: protocol.DefaultLimits(), Config: DefaultConfig(), Rand: rand.New(rand.NewPCG(1, 1)),
	})
	mine, theirs := protocol.Stream{Origin: deviceID(0), Kind: sdk.SharedByAll}, protocol.Stream{Origin: deviceID(1), Kind: sdk.DeviceOwned}
	for i := range peers {
		id := SessionID(i + 1)
		m.Step(now, PeerUp{Session: id, Peer: deviceID(i + 1)})
		m.Step(now, Received{Session: id, Message: &protocol.Hello{MinVersion: 1, MaxVersion: 1, Library: protocol.LibraryID{1}, Device: deviceID(i + 1), Clock: now}})
		m.Step(now, Received{Session: id, Message: protocol.RequestFor(mine.Kind, protocol.Request{Subscribe: []protocol.Subscribe{{Number: 1, Origin: mine.Origin}}})})
	}
	batches := []sdk.Batch{{Model: sharedModel, Version: 1, Columns: testColumns, Count: 10, Rows: make([]byte, 1000)}}
	from := hlc.Stamp(0)
	for b.Loop() {
		through := from + 10
		page := protocol.Page{Stream: mine, Heads: at(through), From: from, Through: through, Batches: batches}
		m.Step(now, Committed{Page: page})
		ack := &protocol.AckSharedChanges{Vector: []protocol.Mark{mark(mine, through)}}
		for i := range peers {
			m.Step(now, Received{Session: SessionID(i + 1), Message: ack})
		}
		page.Stream, page.Head = theirs, through
		for _, a := range m.Step(now, Received{Session: 1, Message: protocol.Live(protocol.Delivery{Subscription: m.streams[theirs].number, Page: page})}) {
			if apply, ok := a.(Apply); ok {
				m.Step(now, Applied{Generation: apply.Generation, Page: apply.Page})
				break
			}
		}
		from = through
	}
	if m.streams[theirs].applied.Top() != from || m.sessions[1].window(mine.Kind).used != 0 {
		b.Fatal("the pages were not applied or not acknowledged")
	}
}
