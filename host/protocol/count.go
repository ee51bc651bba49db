package protocol

import (
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/starling-sync/starling/sdk"
)

// repeated is a field of which a payload may hold several elements. It must be counted before the payload is decoded:
// an empty element is two bytes on the wire and more than a hundred in memory, and the wire is compressed.
type repeated struct {
	field protowire.Number // in wire.proto
	what  string
	over  Over // the limit's name
	limit int
	all   *int       // counts the elements of several fields, or of all the elements that the field stands in; nil: of one
	least int        // bytes; a shorter element is not valid
	inner []repeated // in each element
}

// leastPosition is the size of the smallest Position. So the many that a payload can hold, in many elements of up to
// Limits.Heads each, take memory in proportion to what it has bytes.
const leastPosition = 2 + 16 + 1 + 8

// repeatedIn returns the repeated fields of a type of message: at most repeatedFields in each message.
func repeatedIn(l *Limits, t Type) []repeated {
	heads := func(field protowire.Number) []repeated {
		return []repeated{{field: field, what: "positions in one stream", over: "heads", limit: l.Heads, least: leastPosition}}
	}
	marks := func(field protowire.Number, all *int) repeated {
		return repeated{field: field, what: "marks in a vector", over: "marks", limit: l.Marks, all: all}
	}
	batches := func(field protowire.Number, all *int) repeated {
		columns := []repeated{{field: 3, what: "columns of a batch", over: "columns", limit: l.Columns}}
		return repeated{field: field, what: "batches in a page", over: "batches", limit: l.Batches, all: all, inner: columns}
	}
	switch t {
	case TypeHello:
		return []repeated{{field: 8, what: "models", over: "models", limit: l.Models}, marks(9, nil)}
	case TypeStateRequest, TypeSharedChangeRequest:
		return []repeated{
			{field: 1, what: "streams asked for", over: "marks", limit: l.Marks, inner: heads(3)},
			{field: 2, what: "streams dropped", over: "marks", limit: l.Marks},
		}
	case TypeStateResponse, TypeStateChange, TypeStateBatch, TypeSharedChangeResponse, TypeSharedChange, TypeSharedChangeBatch:
		return append(heads(3), batches(7, nil))
	case TypeAckSharedChanges:
		return []repeated{marks(1, nil)}
	case TypeHeartbeat:
		all := new(int)
		known := repeated{field: 5, what: "devices of which vectors are known", over: "origins", limit: l.Origins, inner: []repeated{marks(2, all)}}
		return []repeated{marks(4, all), known}
	case TypeJoin:
		return []repeated{{field: 5, what: "addresses", over: "models", limit: l.Models}}
	case TypeEpochs:
		return []repeated{{field: 1, what: "epochs", over: "epochs", limit: l.Epochs, inner: heads(4)}}
	case TypeSnapshotRequest:
		return heads(4)
	case TypeSnapshotPage:
		changes := repeated{field: 3, what: "origins of changes", over: "origins", limit: l.Origins, inner: []repeated{batches(2, new(int))}}
		return []repeated{marks(2, nil), changes, {field: 4, what: "models of unchanged records", over: "models", limit: l.Models}}
	case TypeAuditRequest, TypeAuditResponse:
		return []repeated{{field: 3, what: "models", over: "models", limit: l.Models}}
	case TypeAuditRepair:
		return []repeated{{field: 2, what: "ranges", over: "ranges", limit: l.Ranges}}
	}
	return nil
}

const repeatedFields = 3

// countRepeated returns CodeTooLarge if a field has more elements than allowed, and CodeInvalid if payload is not
// protobuf. It allocates nothing.
func countRepeated(payload []byte, fields []repeated) error {
	var seen [repeatedFields]int
	for len(payload) > 0 {
		field, wire, n := protowire.ConsumeTag(payload)
		if n < 0 {
			return sdk.Errorf(sdk.CodeInvalid, "not a valid payload: %w", protowire.ParseError(n))
		}
		payload = payload[n:]
		if n = protowire.ConsumeFieldValue(field, wire, payload); n < 0 {
			return sdk.Errorf(sdk.CodeInvalid, "not a valid payload: %w", protowire.ParseError(n))
		}
		value := payload[:n]
		payload = payload[n:]
		for i := range fields {
			f := &fields[i]
			if f.field != field || wire != protowire.BytesType {
				continue
			}
			count := &seen[i]
			if f.all != nil {
				count = f.all
			}
			if *count++; *count > f.limit {
				return atMost(f.over, f.what, *count, f.limit)
			}
			element, _ := protowire.ConsumeBytes(value)
			if len(element) < f.least {
				return sdk.Errorf(sdk.CodeInvalid, "one of the %s has %d bytes; want at least %d", f.what, len(element), f.least)
			}
			if f.inner != nil {
				if err := countRepeated(element, f.inner); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
