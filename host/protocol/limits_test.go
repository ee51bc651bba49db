package protocol

import (
	"bytes"
	"strings"
	"testing"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/sdk"
)

// smallLimits has counts that no two of are equal, so that a test sees which of them it met.
func smallLimits() Limits {
	l := DefaultLimits()
	l.Batches, l.Columns, l.Marks, l.Heads, l.Epochs, l.Origins, l.Ranges, l.Models = 5, 6, 9, 3, 7, 4, 8, 10
	l.TextBytes, l.MembersBytes = 40, 50
	return l
}

// times returns n elements, made from 1 to n.
func times[T any](n int, element func(i byte) T) []T {
	out := make([]T, n)
	for i := range out {
		out[i] = element(byte(i + 1))
	}
	return out
}

func headsOf(n int) Heads {
	return times(n, func(i byte) Position { return pos(i, 1) })
}

func marksOf(n int) []Mark {
	return times(n, func(i byte) Mark {
		return Mark{Stream{Origin: sdk.DeviceID{1}, Kind: sdk.DeviceOwned}, pos(i, hlc.Stamp(i))}
	})
}

func batchesOf(n int) []sdk.Batch {
	return times(n, func(byte) sdk.Batch { return samplePage(sdk.DeviceOwned, 1).Batches[0] })
}

func modelOf(i byte) sdk.ModelName { return sdk.ModelName([]byte{'m', 'a' + i}) }

// limitCase makes messages that hold n of what limit bounds.
type limitCase struct {
	name  string
	limit int
	make  func(n int) Message
}

func limitPage(p Page) Message {
	p.Stream, p.Through = Stream{Origin: sdk.DeviceID{1}, Kind: sdk.SharedByAll}, 1
	return &SharedChangeBatch{Delivery{Page: p}}
}

// streamLimits are those of what names streams and positions.
func streamLimits(limits Limits) []limitCase {
	origin := sdk.DeviceID{1}
	stream := Stream{Origin: origin, Kind: sdk.SharedByAll}
	return []limitCase{
		{"Heads: since of a subscription", limits.Heads, func(n int) Message {
			return &StateRequest{Request{Subscribe: []Subscribe{{Origin: origin, Since: headsOf(2)}, {Origin: origin, Since: headsOf(n)}}}}
		}},
		{"Heads: of a page", limits.Heads, func(n int) Message { return limitPage(Page{Heads: headsOf(n)}) }},
		{"Heads: parents of an epoch", limits.Heads, func(n int) Message {
			return &Epochs{Epochs: []Epoch{{ID: EpochID{99}, Stream: stream, Parents: headsOf(n)}}}
		}},
		{"Heads: since of a snapshot", limits.Heads, func(n int) Message {
			return &SnapshotRequest{Kind: sdk.DeviceOwned, Since: headsOf(n)}
		}},
		{"Epochs", limits.Epochs, func(n int) Message {
			return &Epochs{times(n, func(i byte) Epoch { return Epoch{ID: EpochID{i}, Stream: stream} })}
		}},
		{"Origins: known vectors", limits.Origins, func(n int) Message {
			return &Heartbeat{Known: times(n, func(i byte) Known { return Known{Device: sdk.DeviceID{i}} })}
		}},
		{"Origins: of a snapshot", limits.Origins, func(n int) Message {
			return &SnapshotPage{Done: true, Changes: times(n, func(i byte) Changes { return Changes{Origin: sdk.DeviceID{i}} })}
		}},
		{"Marks: of Hello", limits.Marks, func(n int) Message { return &Hello{Device: origin, Vector: marksOf(n)} }},
		{"Marks: of Ack", limits.Marks, func(n int) Message { return &AckSharedChanges{Vector: marksOf(n)} }},
		{"Marks: of Heartbeat", limits.Marks, func(n int) Message { return &Heartbeat{Vector: marksOf(n)} }},
		{"Marks: of Heartbeat, all together", limits.Marks, func(n int) Message {
			return &Heartbeat{Vector: marksOf(3), Known: []Known{{Device: origin, Vector: marksOf(2)}, {Device: origin, Vector: marksOf(n - 5)}}}
		}},
		{"Marks: of a snapshot", limits.Marks, func(n int) Message { return &SnapshotPage{Done: true, Vector: marksOf(n)} }},
		{"Marks: streams asked for", limits.Marks, func(n int) Message {
			return &StateRequest{Request{Subscribe: times(n, func(i byte) Subscribe { return Subscribe{Origin: sdk.DeviceID{i}} })}}
		}},
		{"Marks: streams asked for and dropped", limits.Marks, func(n int) Message {
			return &StateRequest{Request{Subscribe: []Subscribe{{Origin: origin}}, Drop: times(n-1, func(i byte) sdk.DeviceID { return sdk.DeviceID{i} })}}
		}},
	}
}

// contentLimits are those of what carries or names records, and of text.
func contentLimits(limits Limits) []limitCase {
	origin := sdk.DeviceID{1}
	return []limitCase{
		{"Batches: of a page", limits.Batches, func(n int) Message { return limitPage(Page{Batches: batchesOf(n)}) }},
		{"Batches: of a snapshot, all together", limits.Batches, func(n int) Message {
			return &SnapshotPage{Done: true, Changes: []Changes{{origin, batchesOf(2)}, {origin, batchesOf(n - 2)}}}
		}},
		{"Columns: of a page", limits.Columns, func(n int) Message {
			b := batchesOf(2)
			b[1].Columns = times(n, func(i byte) string { return string(modelOf(i)) })
			return limitPage(Page{Batches: b})
		}},
		{"Columns: of a snapshot", limits.Columns, func(n int) Message {
			b := batchesOf(2)
			b[1].Columns = times(n, func(i byte) string { return string(modelOf(i)) })
			return &SnapshotPage{Done: true, Changes: []Changes{{origin, b}}}
		}},
		{"Models: of Hello", limits.Models, func(n int) Message {
			return &Hello{Device: origin, Models: times(n, func(i byte) ModelVersion { return ModelVersion{modelOf(i), 1} })}
		}},
		{"Models: addresses", limits.Models, func(n int) Message {
			return &Join{Addresses: times(n, func(byte) Address { return Address{"tcp", "a"} })}
		}},
		{"Models: unchanged of a snapshot", limits.Models, func(n int) Message {
			return &SnapshotPage{Done: true, Unchanged: times(n, func(i byte) RecordIDs { return RecordIDs{Model: modelOf(i)} })}
		}},
		{"Models: of an audit", limits.Models, func(n int) Message {
			return &AuditRequest{Models: times(n, func(i byte) ModelDigest { return ModelDigest{Model: modelOf(i)} })}
		}},
		{"Models: of an answer", limits.Models, func(n int) Message {
			return &AuditResponse{Models: times(n, func(i byte) RangeDigests { return RangeDigests{Model: modelOf(i)} })}
		}},
		{"Ranges: of a model", limits.Ranges, func(n int) Message {
			ranges := func(n int) []RangeDigest {
				return times(n, func(i byte) RangeDigest { return RangeDigest{Until: sdk.RecordID{i}} })
			}
			return &AuditResponse{Models: []RangeDigests{{"a", ranges(limits.Ranges)}, {"b", ranges(n)}}}
		}},
		{"Ranges: to repair", limits.Ranges, func(n int) Message {
			return &AuditRepair{Ranges: times(n, func(i byte) AuditRange { return AuditRange{"a", sdk.RecordID{i}, sdk.RecordID{i, 1}} })}
		}},
		{"TextBytes: name of Hello", limits.TextBytes, func(n int) Message { return &Hello{Device: origin, Name: strings.Repeat("x", n)} }},
		{"TextBytes: name and secret", limits.TextBytes, func(n int) Message {
			return &Join{Secret: make([]byte, 8), Name: strings.Repeat("x", n-8)}
		}},
		{"TextBytes: an address", limits.TextBytes, func(n int) Message { return &Join{Addresses: []Address{{"tcp", strings.Repeat("x", n-3)}}} }},
		{"TextBytes: name of a library", limits.TextBytes, func(n int) Message { return &Welcome{LibraryName: strings.Repeat("x", n)} }},
		{"MembersBytes", limits.MembersBytes, func(n int) Message { return &Welcome{Members: make([]byte, n)} }},
	}
}

// TestLimits has each count at its limit, and one beyond.
func TestLimits(t *testing.T) {
	limits := smallLimits()
	codec, err := NewCodec(limits)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range append(streamLimits(limits), contentLimits(limits)...) {
		t.Run(c.name, func(t *testing.T) {
			if _, err := NewReader(bytes.NewReader(mustFrame(t, codec, c.make(c.limit))), codec).Read(); err != nil {
				t.Errorf("as many as are allowed: %v", err)
			}
			m, err := NewReader(bytes.NewReader(mustFrame(t, codec, c.make(c.limit+1))), codec).Read()
			if sdk.CodeOf(err) != sdk.CodeTooLarge {
				t.Errorf("one more than allowed: got %v, %v; want an error with code %s", m, err, sdk.CodeTooLarge)
			}
		})
	}
}

// TestReader_RefusesContents has payloads that are within the limits and break a rule of a message.
func TestReader_RefusesContents(t *testing.T) {
	codec := newCodec(t)
	stream := Stream{Origin: sdk.DeviceID{1}, Kind: sdk.SharedByAll}
	subscribe := func(since ...Position) Message {
		return &SharedChangeRequest{Request{Subscribe: []Subscribe{{Origin: stream.Origin, Since: since}}}}
	}
	epoch := func(e Epoch) Message { return &Epochs{[]Epoch{e}} }
	ranges := func(list ...byte) Message {
		d := RangeDigests{Model: "a"}
		for _, n := range list {
			d.Ranges = append(d.Ranges, RangeDigest{Until: sdk.RecordID{n}})
		}
		return &AuditResponse{Models: []RangeDigests{d}}
	}
	unchanged := func(model sdk.ModelName, ids ...sdk.RecordID) Message {
		return &SnapshotPage{Done: true, Unchanged: []RecordIDs{{model, ids}}}
	}
	changes := func(c Changes) Message { return &SnapshotPage{Done: true, Changes: []Changes{c}} }
	cases := map[string]Message{
		"heads of zero":                    subscribe(pos(1, 0)),
		"heads beyond the greatest stamp":  subscribe(pos(1, hlc.MaxStamp+1)),
		"heads of no epoch":                subscribe(pos(0, 1)),
		"heads twice of one epoch":         subscribe(pos(1, 1), pos(1, 2)),
		"heads that descend":               subscribe(pos(2, 1), pos(1, 2)),
		"an epoch of zeros":                epoch(Epoch{Stream: stream}),
		"an epoch of nobody":               epoch(Epoch{ID: EpochID{1}, Stream: Stream{Kind: sdk.SharedByAll}}),
		"an epoch that continues itself":   epoch(Epoch{ID: EpochID{1}, Stream: stream, Parents: Heads{pos(1, 5)}}),
		"an epoch with parents of zero":    epoch(Epoch{ID: EpochID{1}, Stream: stream, Parents: Heads{pos(2, 0)}}),
		"a vector of nobody":               &Heartbeat{Known: []Known{{}}},
		"a vector beyond the greatest":     &Heartbeat{Known: []Known{{sdk.DeviceID{1}, []Mark{{stream, pos(1, hlc.MaxStamp+1)}}}}},
		"after no model":                   &SnapshotRequest{Kind: sdk.SharedByAll, After: Place{"", sdk.RecordID{1}}},
		"until a model's name as SQL":      &SnapshotRequest{Kind: sdk.SharedByAll, Until: Place{`x"; drop`, sdk.RecordID{1}}},
		"since heads that descend":         &SnapshotRequest{Kind: sdk.DeviceOwned, Since: Heads{pos(2, 1), pos(1, 2)}},
		"a page without an end":            &SnapshotPage{},
		"a snapshot's vector of nobody":    &SnapshotPage{Done: true, Vector: make([]Mark, 1)},
		"changes of nobody":                changes(Changes{}),
		"changes without rows":             changes(Changes{sdk.DeviceID{1}, []sdk.Batch{{Model: "a", Columns: []string{"a"}}}}),
		"unchanged of no model":            unchanged("", sdk.RecordID{1}),
		"unchanged twice":                  unchanged("a", sdk.RecordID{1}, sdk.RecordID{1}),
		"unchanged that descend":           unchanged("a", sdk.RecordID{2}, sdk.RecordID{1}),
		"an audit of no model":             &AuditRequest{Models: make([]ModelDigest, 1)},
		"an audit of a model twice":        &AuditRequest{Models: []ModelDigest{{"a", Digest{}}, {"a", Digest{}}}},
		"an audit that descends":           &AuditRequest{Models: []ModelDigest{{"b", Digest{}}, {"a", Digest{}}}},
		"digests of no model":              &AuditResponse{Models: make([]RangeDigests, 1)},
		"a range twice":                    ranges(3, 3),
		"ranges that descend":              ranges(3, 2),
		"a repair of no model":             &AuditRepair{Ranges: make([]AuditRange, 1)},
		"a repair of a range that is none": &AuditRepair{Ranges: []AuditRange{{"a", sdk.RecordID{2}, sdk.RecordID{2}}}},
	}
	for name, m := range cases {
		t.Run(name, func(t *testing.T) {
			m, err := NewReader(bytes.NewReader(mustFrame(t, codec, m)), codec).Read()
			if sdk.CodeOf(err) != sdk.CodeInvalid {
				t.Errorf("got %v, %v; want an error with code %s", m, err, sdk.CodeInvalid)
			}
		})
	}
}

// TestReader_RefusesLengths has fields whose length is wrong, which no encoder writes.
func TestReader_RefusesLengths(t *testing.T) {
	codec := newCodec(t)
	field := func(number byte, payload ...byte) []byte {
		return append([]byte{number<<3 | 2, byte(len(payload))}, payload...)
	}
	id := make([]byte, 16)
	id[0] = 1
	cases := []struct {
		name    string
		typ     Type
		payload []byte
	}{
		{"a short epoch", TypeEpochs, field(1, append(field(1, id[:15]...), append(field(2, id...), 3<<3, 1)...)...)},
		{"an epoch without id", TypeEpochs, field(1, append(field(2, id...), 3<<3, 1)...)},
		{"an epoch without kind", TypeEpochs, field(1, append(field(1, id...), field(2, id...)...)...)},
		{"an empty position", TypeSnapshotRequest, append([]byte{2 << 3, 1}, field(4)...)},
		{"a snapshot of no kind", TypeSnapshotRequest, field(3, id...)},
		{"a snapshot of half an origin", TypeSnapshotRequest, append([]byte{2 << 3, 1}, field(3, id[:8]...)...)},
		{"after half a record", TypeSnapshotRequest, append([]byte{2 << 3, 1}, field(5, append(field(1, 'a'), field(2, id[:8]...)...)...)...)},
		{"after no record", TypeSnapshotRequest, append([]byte{2 << 3, 1}, field(5, field(1, 'a')...)...)},
		{"half a record", TypeSnapshotPage, append([]byte{6 << 3, 1}, field(4, append(field(1, 'a'), field(2, id[:8]...)...)...)...)},
		{"an audit without a vector", TypeAuditRequest, nil},
		{"half a digest of a model", TypeAuditRequest, append(field(2, id...), field(3, append(field(1, 'a'), field(2, id[:8]...)...)...)...)},
		{"half a range", TypeAuditResponse, field(3, append(field(1, 'a'), field(2, id...)...)...)},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			m, err := NewReader(bytes.NewReader(frame(c.typ, 0, c.payload)), codec).Read()
			if sdk.CodeOf(err) != sdk.CodeInvalid {
				t.Errorf("got %v, %v; want an error with code %s", m, err, sdk.CodeInvalid)
			}
		})
	}
}
