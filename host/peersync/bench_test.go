package peersync

import (
	"bytes"
	"context"
	"fmt"
	"sync/atomic"
	"testing"

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

// BenchmarkLive announces commits of ten rows one after the other and waits until the other side has them all.
func BenchmarkLive(b *testing.B) {
	network := sdktest.NewMemoryTransport()
	sink := &countingApplier{until: 1 << 62, done: make(chan struct{})}
	from, to := newHost(b, network, 1, nil), newHost(b, network, 2, func(o *Options) { o.Applier = sink })
	members := []Member{from.member(), to.member()}
	from.start(members...)
	to.start(members...)
	text := string(bytes.Repeat([]byte("x"), 100))
	sent := int64(0)
	for b.Loop() {
		from.write(sdk.SharedByAll, int(sent%1000), 10, text)
		sent += 10
	}
	eventually(b, "all has arrived", func() bool { return sink.rows.Load() >= sent })
	b.ReportMetric(float64(sent)/b.Elapsed().Seconds(), "rows/s")
}
