package peersync

import (
	"testing"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/protocol"
	"github.com/starling-sync/starling/sdk"
)

// smallBatches is a page of n batches, as operations of two models in turn make it.
func smallBatches(key protocol.Stream, from, through hlc.Stamp, n int) protocol.Page {
	page := protocol.Page{Stream: key, From: from, Through: through, Head: through, Batches: make([]sdk.Batch, n)}
	for i := range page.Batches {
		page.Batches[i] = sdk.Batch{Model: testModel, Version: uint32(i % 2), Count: 1, Rows: make([]byte, 25)}
	}
	return page
}

func TestMerge(t *testing.T) {
	limits := protocol.DefaultLimits()
	limits.PageBytes = 1 << 20
	page, n, size := merge([]protocol.Page{{From: 12, Through: 15}, {From: 10, Through: 20}, {From: 20, Through: 30}}, &limits)
	if page.From != 10 || page.Through != 30 || n != 3 || size != 3*page.Bytes() {
		t.Errorf("merged (%d, %d] of %d pages with %d bytes; want (10, 30] of 3", page.From, page.Through, n, size)
	}
	half := limits.Batches/2 + 1
	queue := []protocol.Page{smallBatches(rowsOf1, 0, 10, half), smallBatches(rowsOf1, 10, 20, half)}
	if page, n, _ := merge(queue, &limits); n != 1 || page.Through != 10 {
		t.Errorf("merged %d pages with %d batches; a frame takes %d", n, len(page.Batches), limits.Batches)
	}
}

// TestMachine_ManyBatches has a commit of more batches than a frame may hold: it is read in pages that fit.
func TestMachine_ManyBatches(t *testing.T) {
	s := newSolo(t)
	s.m.limits = protocol.DefaultLimits()
	s.connect(1, 1)
	mine := protocol.Stream{Origin: deviceID(0), Kind: sdk.SharedByAll}
	request := protocol.RequestFor(sdk.SharedByAll, protocol.Request{Subscribe: []protocol.Subscribe{{Number: 1, Origin: deviceID(0)}}})
	s.step(Received{Session: 1, Message: request})
	page := smallBatches(mine, 0, 10, s.m.limits.Batches+1)
	actions := s.step(Committed{Page: page})
	reads := only[ReadPage](actions)
	if len(only[Send](actions)) != 0 || len(reads) != 1 {
		t.Fatalf("%d sends, %d reads; want one read", len(only[Send](actions)), len(reads))
	}
	actions = s.step(PageRead{Read: reads[0], Page: page, More: true})
	if reads = only[ReadPage](actions); len(only[Send](actions)) != 0 || len(reads) != 1 || reads[0].MaxBytes != minPageBytes {
		t.Fatalf("%d sends, reads %+v; want the page read again, smaller", len(only[Send](actions)), reads)
	}
}
