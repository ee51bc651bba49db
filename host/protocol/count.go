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
	limit int
	inner *repeated // in each element
}

// repeatedIn returns the repeated fields of a type of message: at most repeatedFields.
func repeatedIn(l *Limits, t Type) []repeated {
	switch t {
	case TypeHello:
		return []repeated{{field: 8, what: "models", limit: l.Models}, {field: 9, what: "marks in a vector", limit: l.Marks}}
	case TypeStateRequest, TypeSharedChangeRequest:
		return []repeated{{field: 1, what: "streams asked for", limit: l.Marks}, {field: 2, what: "streams dropped", limit: l.Marks}}
	case TypeStateResponse, TypeStateChange, TypeStateBatch, TypeSharedChangeResponse, TypeSharedChange, TypeSharedChangeBatch:
		columns := &repeated{field: 3, what: "columns of a batch", limit: l.Columns}
		return []repeated{{field: 7, what: "batches in a page", limit: l.Batches, inner: columns}}
	case TypeAckSharedChanges:
		return []repeated{{field: 1, what: "marks in a vector", limit: l.Marks}}
	case TypeHeartbeat:
		return []repeated{{field: 4, what: "marks in a vector", limit: l.Marks}}
	case TypeJoin:
		return []repeated{{field: 5, what: "addresses", limit: l.Models}}
	}
	return nil
}

const repeatedFields = 2

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
			if seen[i]++; seen[i] > f.limit {
				return atMost(f.what, seen[i], f.limit)
			}
			if f.inner != nil {
				element, _ := protowire.ConsumeBytes(value)
				if err := countRepeated(element, []repeated{*f.inner}); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
