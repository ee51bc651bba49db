package registry_test

import (
	"bytes"
	"slices"

	"github.com/starling-sync/starling/host/registry"
	"github.com/starling-sync/starling/sdk"
)

var lastID = sdk.RecordID(bytes.Repeat([]byte{0xff}, len(sdk.RecordID{})))

// auditSpan is a run of records, of one model, that two devices do not hold alike.
type auditSpan struct{ After, Until registry.Place }

// auditDifferences returns where two devices differ, by model and id. A model that only one of them has a table for is left
// out, and one for which changes wait: they can not be compared.
func auditDifferences(mine, theirs []registry.ModelDigests) (spans []auditSpan) {
	others := make(map[sdk.ModelName]*registry.ModelDigests, len(theirs))
	for i := range theirs {
		others[theirs[i].Model] = &theirs[i]
	}
	for i := range mine {
		m, other := &mine[i], others[mine[i].Model]
		if other == nil || m.Parked || other.Parked || m.Total == other.Total {
			continue
		}
		spans = append(spans, differences(m, other.Ranges)...)
	}
	slices.SortFunc(spans, func(a, b auditSpan) int { return a.After.Compare(b.After) })
	return spans
}

// differences compares the ranges that end alike on both sides. Those that do not lie in one that differs.
func differences(m *registry.ModelDigests, theirs []registry.RangeDigest) (spans []auditSpan) {
	mine, after := m.Ranges, sdk.RecordID{}
	differ := false // since after
	for len(mine) > 0 || len(theirs) > 0 {
		until := lastID
		for _, list := range [][]registry.RangeDigest{mine, theirs} {
			if len(list) > 0 && list[0].Until.Compare(until) < 0 {
				until = list[0].Until
			}
		}
		here, there := pop(&mine, until), pop(&theirs, until)
		differ = differ || here == nil || there == nil || here.Digest != there.Digest
		switch {
		case here != nil && there != nil:
			if differ {
				spans = add(spans, m.Model, after, until)
			}
			after, differ = until, false
		case len(mine) == 0 && len(theirs) == 0:
			spans = add(spans, m.Model, after, lastID)
		}
	}
	return spans
}

// pop takes the first range from list if it ends at until.
func pop(list *[]registry.RangeDigest, until sdk.RecordID) *registry.RangeDigest {
	if len(*list) == 0 || (*list)[0].Until != until {
		return nil
	}
	first := &(*list)[0]
	*list = (*list)[1:]
	return first
}

// add adds a span, to the last one where it follows that.
func add(spans []auditSpan, model sdk.ModelName, after, until sdk.RecordID) []auditSpan {
	span := auditSpan{registry.Place{model, after}, registry.Place{model, until}}
	if n := len(spans); n > 0 && spans[n-1].Until == span.After {
		spans[n-1].Until = span.Until
		return spans
	}
	return append(spans, span)
}
