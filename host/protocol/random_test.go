package protocol

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/sdk"
)

// source draws the parts of random messages that a sender may send, ends of ranges included.
type source struct{ rt *rapid.T }

func (s source) bytes16() (id [16]byte) {
	// Small values, so that ids are equal, adjacent and zero often enough.
	id[0], id[15] = rapid.ByteRange(0, 3).Draw(s.rt, "first"), rapid.ByteRange(0, 3).Draw(s.rt, "last")
	return id
}

func (s source) id() [16]byte {
	id := s.bytes16()
	id[7] = 1 // not zero
	return id
}

func (s source) number() uint32 { return rapid.Uint32().Draw(s.rt, "number") }

func (s source) stamp(least hlc.Stamp) hlc.Stamp {
	return hlc.Stamp(rapid.Uint64Range(uint64(least), uint64(hlc.MaxStamp)).Draw(s.rt, "stamp"))
}

func (s source) bool() bool { return rapid.Bool().Draw(s.rt, "bool") }

func (s source) text() string { return rapid.String().Draw(s.rt, "text") }

func (s source) model() sdk.ModelName {
	return sdk.ModelName(rapid.StringMatching(`[a-z][a-z0-9_]{0,5}`).Draw(s.rt, "model"))
}

func (s source) kind() sdk.Ownership {
	return rapid.SampledFrom([]sdk.Ownership{sdk.DeviceOwned, sdk.SharedByAll}).Draw(s.rt, "kind")
}

func (s source) stream() Stream { return Stream{Origin: s.id(), Kind: s.kind()} }

func (s source) time() time.Time {
	return timeOf(rapid.Int64().Draw(s.rt, "time"))
}

// some returns up to most elements; nil for none, as the decoder does.
func some[T any](s source, most int, element func() T) (out []T) {
	for range rapid.IntRange(0, most).Draw(s.rt, "elements") {
		out = append(out, element())
	}
	return out
}

// ascending returns what some does, sorted and each once.
func ascending[T any](s source, most int, compare func(a, b T) int, element func() T) []T {
	list := some(s, most, element)
	slices.SortFunc(list, compare)
	return slices.CompactFunc(list, func(a, b T) bool { return compare(a, b) == 0 })
}

func (s source) heads(greatest hlc.Stamp) Heads {
	return Heads(ascending(s, 4, func(a, b Position) int { return bytes.Compare(a.Epoch[:], b.Epoch[:]) }, func() Position {
		return Position{Epoch: s.id(), Stamp: min(s.stamp(1), greatest)}
	}))
}

func (s source) marks() []Mark {
	return some(s, 4, func() Mark {
		return Mark{Stream: s.stream(), Position: Position{Epoch: s.bytes16(), Stamp: s.stamp(0)}}
	})
}

func (s source) place() Place {
	if s.bool() {
		return Place{}
	}
	return Place{Model: s.model(), ID: s.bytes16()}
}

func (s source) batches() []sdk.Batch {
	return some(s, 3, func() sdk.Batch {
		count := rapid.IntRange(1, 3).Draw(s.rt, "count")
		return sdk.Batch{
			Model: s.model(), Version: s.number(), Columns: some(s, 3, func() string { return string(s.model()) }),
			Count: count, Rows: rapid.SliceOfN(rapid.Byte(), count*minRowBytes, 200).Draw(s.rt, "rows"),
		}
	})
}

func (s source) delivery(kind sdk.Ownership) Delivery {
	through := s.stamp(1)
	page := Page{
		Stream: Stream{Origin: s.id(), Kind: kind}, Heads: s.heads(through), From: min(s.stamp(0), through), Through: through,
		Head: s.stamp(0), Batches: s.batches(),
	}
	return Delivery{Subscription: s.number(), Page: page}
}

func (s source) request() Request {
	return Request{
		Subscribe: some(s, 3, func() Subscribe {
			return Subscribe{Number: s.number(), Origin: s.id(), Since: s.heads(hlc.MaxStamp)}
		}),
		Drop:      some(s, 3, func() sdk.DeviceID { return s.id() }),
		PageBytes: int(s.number()), WindowBytes: int(s.number()),
	}
}

func (s source) snapshotPage() *SnapshotPage {
	m := &SnapshotPage{
		Number: s.number(), Vector: s.marks(), End: s.place(),
		Changes: some(s, 3, func() Changes { return Changes{Origin: s.id(), Batches: s.batches()} }),
		Unchanged: some(s, 3, func() RecordIDs {
			ids := ascending(s, 5, sdk.RecordID.Compare, func() sdk.RecordID { return s.bytes16() })
			return RecordIDs{Model: s.model(), IDs: ids}
		}),
	}
	m.Done = m.End == Place{} || s.bool()
	return m
}

func (s source) audit(t Type) Message {
	digest := func() Digest { return s.bytes16() }
	switch t {
	case TypeAuditRequest:
		byName := func(a, b ModelDigest) int { return bytes.Compare([]byte(a.Model), []byte(b.Model)) }
		models := ascending(s, 4, byName, func() ModelDigest { return ModelDigest{s.model(), digest()} })
		return &AuditRequest{Number: s.number(), Vector: digest(), Models: models}
	case TypeAuditResponse:
		byEnd := func(a, b RangeDigest) int { return a.Until.Compare(b.Until) }
		models := some(s, 3, func() RangeDigests {
			return RangeDigests{s.model(), ascending(s, 4, byEnd, func() RangeDigest { return RangeDigest{s.bytes16(), digest()} })}
		})
		return &AuditResponse{Number: s.number(), Moved: s.bool(), Models: models}
	}
	return &AuditRepair{Number: s.number(), Ranges: some(s, 4, func() AuditRange {
		r := AuditRange{Model: s.model(), Until: s.bytes16()}
		r.Until[15] |= 1 // not the first id of all, before which nothing is
		return r
	})}
}

func (s source) message(t Type) Message {
	switch t {
	case TypeHello:
		return &Hello{
			MinVersion: s.number(), MaxVersion: s.number(), Library: s.bytes16(), Device: s.id(), Name: s.text(), Epoch: s.bytes16(), Clock: s.time(),
			Models: some(s, 3, func() ModelVersion { return ModelVersion{s.model(), s.number()} }), Vector: s.marks(),
		}
	case TypeStateRequest:
		return &StateRequest{s.request()}
	case TypeSharedChangeRequest:
		return &SharedChangeRequest{s.request()}
	case TypeStateResponse, TypeStateChange, TypeStateBatch:
		return deliveryFor(t, s.delivery(sdk.DeviceOwned))
	case TypeSharedChangeResponse, TypeSharedChange, TypeSharedChangeBatch:
		return deliveryFor(t, s.delivery(sdk.SharedByAll))
	case TypeAckSharedChanges:
		return &AckSharedChanges{s.marks()}
	case TypeHeartbeat:
		delay := time.Duration(rapid.IntRange(0, 1e9).Draw(s.rt, "delay")) * time.Microsecond
		known := some(s, 3, func() Known { return Known{Device: s.id(), Vector: s.marks()} })
		return &Heartbeat{Clock: s.time(), Echo: s.time(), EchoDelay: delay, Vector: s.marks(), Known: known}
	case TypeError:
		m := &Error{Code: sdk.Code(s.text()), Message: s.text(), Retryable: s.bool()}
		if s.bool() {
			m.Stream = s.stream()
		}
		return m
	case TypeJoin:
		addresses := some(s, 3, func() Address { return Address{s.text(), s.text()} })
		return &Join{MinVersion: s.number(), MaxVersion: s.number(), Secret: []byte(s.text()), Name: s.text(), Addresses: addresses}
	case TypeWelcome:
		return &Welcome{Library: s.bytes16(), LibraryName: s.text(), Members: []byte(s.text())}
	case TypeEpochs:
		return &Epochs{some(s, 3, func() Epoch {
			id := EpochID(s.id())
			id[8] = 1 // not one of the parents
			return Epoch{ID: id, Stream: s.stream(), Parents: s.heads(hlc.MaxStamp), Since: s.stamp(0)}
		})}
	case TypeSnapshotRequest:
		m := &SnapshotRequest{
			Number: s.number(), Kind: s.kind(), Since: s.heads(hlc.MaxStamp), After: s.place(), Until: s.place(), PageBytes: int(s.number()),
		}
		if s.bool() {
			m.Origin = s.id()
		}
		return m
	case TypeSnapshotPage:
		return s.snapshotPage()
	}
	return s.audit(t)
}

// emptyIsNil makes empty bytes equal to none, which the wire does not tell apart.
var emptyIsNil = cmp.FilterValues(func(a, b []byte) bool { return len(a)+len(b) == 0 }, cmp.Ignore())

// TestCodec_AnyMessage has every message that a sender may send arrive as it was.
func TestCodec_AnyMessage(t *testing.T) {
	codec := newCodec(t)
	for typ := TypeHello; typ <= lastType; typ++ {
		t.Run(typ.String(), func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) {
				want := source{rt}.message(typ)
				if want.Type() != typ {
					rt.Fatalf("drew a %s", want.Type())
				}
				wire, err := codec.AppendFrame(nil, want)
				if err != nil {
					rt.Fatal(err)
				}
				got, err := NewReader(bytes.NewReader(wire), codec).Read()
				if err != nil {
					rt.Fatalf("%+v: %v", want, err)
				}
				if diff := cmp.Diff(want, got, emptyIsNil); diff != "" {
					rt.Errorf("(-want +got):\n%s", diff)
				}
			})
		})
	}
}

// TestBytes holds the sizes that pages say they have, which windows and limits go by, against what they take on the wire.
func TestBytes(t *testing.T) {
	page := samplePage(sdk.DeviceOwned, 100)
	page.Heads = headsOf(60)
	ids := times(250, func(i byte) sdk.RecordID { return sdk.RecordID{i} })
	cases := map[string]Message{
		"page":                 &StateBatch{Delivery{Page: page}},
		"vector of a snapshot": &SnapshotPage{Done: true, Vector: marksOf(200)},
		"changes of a snapshot": &SnapshotPage{
			Done: true, Changes: times(50, func(i byte) Changes { return Changes{sdk.DeviceID{i}, batchesOf(int(i) % 3)} }),
		},
		"unchanged of a snapshot": &SnapshotPage{
			Done: true, Unchanged: times(20, func(i byte) RecordIDs { return RecordIDs{modelOf(i), ids} }),
		},
	}
	limits := DefaultLimits()
	limits.CompressBeyond = limits.DecodedBytes
	codec, err := NewCodec(limits)
	if err != nil {
		t.Fatal(err)
	}
	for name, m := range cases {
		var got int
		switch m := m.(type) {
		case *StateBatch:
			got = m.Page.Bytes()
		case *SnapshotPage:
			got = m.Bytes()
		}
		if size := len(mustFrame(t, codec, m)); got < size-size/10 || got > size+size/2+200 {
			t.Errorf("%s: says %d bytes; has %d on the wire", name, got, size)
		}
	}
}
