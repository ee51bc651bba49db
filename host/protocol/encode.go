package protocol

import (
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/starling-sync/starling/host/protocol/protocolpb"
	"github.com/starling-sync/starling/sdk"
)

// toProto returns the payload of m. Packed rows are referred to, not copied.
func toProto(m Message) (proto.Message, error) {
	switch m := m.(type) {
	case *Hello:
		return helloToProto(m), nil
	case *StateRequest:
		return requestToProto(&m.Request), nil
	case *SharedChangeRequest:
		return requestToProto(&m.Request), nil
	case *AckSharedChanges:
		return &protocolpb.Ack{Vector: marksToProto(m.Vector)}, nil
	case *Heartbeat:
		return &protocolpb.Heartbeat{
			Clock: microsOf(m.Clock), Echo: microsOf(m.Echo), EchoDelay: m.EchoDelay.Microseconds(), Vector: marksToProto(m.Vector),
			Known: each(m.Known, func(k *Known) *protocolpb.Known {
				return &protocolpb.Known{Device: k.Device[:], Vector: marksToProto(k.Vector)}
			}),
		}, nil
	case *Error:
		return errorToProto(m), nil
	case *Join:
		return joinToProto(m), nil
	case *Welcome:
		return &protocolpb.Welcome{Library: m.Library[:], LibraryName: text(m.LibraryName), Members: m.Members}, nil
	case *Epochs:
		return &protocolpb.Epochs{Epochs: each(m.Epochs, epochToProto)}, nil
	case *SnapshotRequest:
		return snapshotRequestToProto(m), nil
	case *SnapshotPage:
		return snapshotPageToProto(m), nil
	case *AuditRequest:
		return auditRequestToProto(m), nil
	case *AuditResponse:
		return auditResponseToProto(m), nil
	case *AuditRepair:
		return &protocolpb.AuditRepair{Number: m.Number, Ranges: each(m.Ranges, func(r *AuditRange) *protocolpb.AuditRange {
			return &protocolpb.AuditRange{Model: string(r.Model), After: r.After[:], Until: r.Until[:]}
		})}, nil
	}
	if d, ok := DeliveryOf(m); ok {
		return pageToProto(d), nil
	}
	return nil, sdk.Errorf(sdk.CodeInternal, "encode a message of Go type %T: it has no wire form", m)
}

// DeliveryOf returns the page that m carries, and whether it carries one.
func DeliveryOf(m Message) (*Delivery, bool) {
	switch m := m.(type) {
	case *StateResponse:
		return &m.Delivery, true
	case *SharedChangeResponse:
		return &m.Delivery, true
	case *StateChange:
		return &m.Delivery, true
	case *StateBatch:
		return &m.Delivery, true
	case *SharedChange:
		return &m.Delivery, true
	case *SharedChangeBatch:
		return &m.Delivery, true
	}
	return nil, false
}

// RequestOf returns the request that m carries and its kind, and whether it carries one.
func RequestOf(m Message) (*Request, sdk.Ownership, bool) {
	switch m := m.(type) {
	case *StateRequest:
		return &m.Request, sdk.DeviceOwned, true
	case *SharedChangeRequest:
		return &m.Request, sdk.SharedByAll, true
	}
	return nil, "", false
}

func helloToProto(m *Hello) *protocolpb.Hello {
	return &protocolpb.Hello{
		MinVersion: m.MinVersion, MaxVersion: m.MaxVersion, Library: m.Library[:], Device: m.Device[:], Name: text(m.Name),
		Epoch: epochIDToProto(m.Epoch), Clock: microsOf(m.Clock), Vector: marksToProto(m.Vector),
		Models: each(m.Models, func(v *ModelVersion) *protocolpb.Model {
			return &protocolpb.Model{Name: string(v.Model), Version: v.Version}
		}),
	}
}

func requestToProto(m *Request) *protocolpb.Request {
	return &protocolpb.Request{
		PageBytes: uint32(m.PageBytes), WindowBytes: uint32(m.WindowBytes), //nolint:gosec // limits, a few MiB
		Subscribe: each(m.Subscribe, func(s *Subscribe) *protocolpb.Subscribe {
			return &protocolpb.Subscribe{Number: s.Number, Origin: s.Origin[:], Since: headsToProto(s.Since)}
		}),
		Drop: each(m.Drop, func(id *sdk.DeviceID) []byte { return id[:] }),
	}
}

func pageToProto(d *Delivery) *protocolpb.Page {
	page := &d.Page
	return &protocolpb.Page{
		Subscription: d.Subscription, Origin: page.Origin[:], Heads: headsToProto(page.Heads),
		From: uint64(page.From), Through: uint64(page.Through), Head: uint64(page.Head),
		Batches: each(page.Batches, batchToProto),
	}
}

func batchToProto(b *sdk.Batch) *protocolpb.Batch {
	return &protocolpb.Batch{
		Model: string(b.Model), Version: b.Version, Columns: b.Columns, Count: uint32(b.Count), Rows: b.Rows, //nolint:gosec // one page
	}
}

func epochToProto(e *Epoch) *protocolpb.Epoch {
	return &protocolpb.Epoch{
		Id: e.ID[:], Origin: e.Stream.Origin[:], Kind: kindToProto(e.Stream.Kind), Parents: headsToProto(e.Parents), Since: uint64(e.Since),
	}
}

func snapshotRequestToProto(m *SnapshotRequest) *protocolpb.SnapshotRequest {
	p := &protocolpb.SnapshotRequest{
		Number: m.Number, Kind: kindToProto(m.Kind), Since: headsToProto(m.Since),
		After: placeToProto(m.After), Until: placeToProto(m.Until), PageBytes: uint32(m.PageBytes), //nolint:gosec // a limit, a few MiB
	}
	if !m.Origin.IsZero() {
		p.Origin = m.Origin[:]
	}
	return p
}

func snapshotPageToProto(m *SnapshotPage) *protocolpb.SnapshotPage {
	return &protocolpb.SnapshotPage{
		Number: m.Number, Vector: marksToProto(m.Vector),
		Changes: each(m.Changes, func(c *Changes) *protocolpb.Changes {
			return &protocolpb.Changes{Origin: c.Origin[:], Batches: each(c.Batches, batchToProto)}
		}),
		Unchanged: each(m.Unchanged, func(r *RecordIDs) *protocolpb.RecordIDs {
			packed := make([]byte, 0, len(r.IDs)*len(sdk.RecordID{}))
			for i := range r.IDs {
				packed = append(packed, r.IDs[i][:]...)
			}
			return &protocolpb.RecordIDs{Model: string(r.Model), Ids: packed}
		}),
		End: placeToProto(m.End), Done: m.Done,
	}
}

func auditRequestToProto(m *AuditRequest) *protocolpb.AuditRequest {
	return &protocolpb.AuditRequest{
		Number: m.Number, Vector: m.Vector[:],
		Models: each(m.Models, func(d *ModelDigest) *protocolpb.ModelDigest {
			return &protocolpb.ModelDigest{Model: string(d.Model), Digest: d.Digest[:]}
		}),
	}
}

func auditResponseToProto(m *AuditResponse) *protocolpb.AuditResponse {
	return &protocolpb.AuditResponse{
		Number: m.Number, Moved: m.Moved,
		Models: each(m.Models, func(d *RangeDigests) *protocolpb.RangeDigests {
			packed := make([]byte, 0, len(d.Ranges)*rangeDigestBytes)
			for i := range d.Ranges {
				packed = append(packed, d.Ranges[i].Until[:]...)
				packed = append(packed, d.Ranges[i].Digest[:]...)
			}
			return &protocolpb.RangeDigests{Model: string(d.Model), Ranges: packed}
		}),
	}
}

// rangeDigestBytes is the packed size of one RangeDigest: where it ends, its digest.
const rangeDigestBytes = len(sdk.RecordID{}) + len(Digest{})

func errorToProto(m *Error) *protocolpb.Error {
	p := &protocolpb.Error{Code: text(string(m.Code)), Message: text(m.Message), Retryable: m.Retryable}
	if !m.Stream.Origin.IsZero() {
		p.Origin, p.Kind = m.Stream.Origin[:], kindToProto(m.Stream.Kind)
	}
	return p
}

func joinToProto(m *Join) *protocolpb.Join {
	p := &protocolpb.Join{MinVersion: m.MinVersion, MaxVersion: m.MaxVersion, Secret: m.Secret, Name: text(m.Name)}
	for _, a := range m.Addresses {
		p.Addresses = append(p.Addresses, &protocolpb.Address{Transport: text(a.Transport), Address: text(a.Address)})
	}
	return p
}

// text makes a name or a message fit for the wire, which takes UTF-8 only.
func text(s string) string { return strings.ToValidUTF8(s, "?") }

// each returns what convert makes of every element, which it may refer to.
func each[T, P any](list []T, convert func(*T) P) []P {
	out := make([]P, len(list))
	for i := range list {
		out[i] = convert(&list[i])
	}
	return out
}

func marksToProto(marks []Mark) []*protocolpb.Mark {
	return each(marks, func(m *Mark) *protocolpb.Mark {
		return &protocolpb.Mark{Origin: m.Origin[:], Kind: kindToProto(m.Kind), Epoch: epochIDToProto(m.Epoch), Stamp: uint64(m.Stamp)}
	})
}

func headsToProto(heads Heads) []*protocolpb.Position {
	return each(heads, func(p *Position) *protocolpb.Position {
		return &protocolpb.Position{Epoch: p.Epoch[:], Stamp: uint64(p.Stamp)}
	})
}

func placeToProto(p Place) *protocolpb.Place {
	if p == (Place{}) {
		return nil
	}
	return &protocolpb.Place{Model: string(p.Model), Id: p.ID[:]}
}

func kindToProto(k sdk.Ownership) protocolpb.Kind {
	if k == sdk.DeviceOwned {
		return protocolpb.Kind_KIND_STATE
	}
	return protocolpb.Kind_KIND_SHARED
}

func epochIDToProto(e EpochID) []byte {
	if e == (EpochID{}) {
		return nil
	}
	return e[:]
}
