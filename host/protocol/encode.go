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
		}, nil
	case *Error:
		return errorToProto(m), nil
	case *Join:
		return joinToProto(m), nil
	case *Welcome:
		return &protocolpb.Welcome{Library: m.Library[:], LibraryName: text(m.LibraryName), Members: m.Members}, nil
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
	p := &protocolpb.Hello{
		MinVersion: m.MinVersion, MaxVersion: m.MaxVersion, Library: m.Library[:], Device: m.Device[:], Name: text(m.Name),
		Epoch: epochToProto(m.Epoch), Clock: microsOf(m.Clock), Vector: marksToProto(m.Vector),
		Models: make([]*protocolpb.Model, len(m.Models)),
	}
	for i, v := range m.Models {
		p.Models[i] = &protocolpb.Model{Name: string(v.Model), Version: v.Version}
	}
	return p
}

func requestToProto(m *Request) *protocolpb.Request {
	p := &protocolpb.Request{
		PageBytes: uint32(m.PageBytes), WindowBytes: uint32(m.WindowBytes), //nolint:gosec // limits, a few MiB
		Subscribe: make([]*protocolpb.Subscribe, len(m.Subscribe)), Drop: make([][]byte, len(m.Drop)),
	}
	for i := range m.Subscribe {
		s := &m.Subscribe[i]
		p.Subscribe[i] = &protocolpb.Subscribe{
			Number: s.Number, Origin: s.Origin[:], Epoch: epochToProto(s.Since.Epoch), Since: uint64(s.Since.Stamp),
		}
	}
	for i := range m.Drop {
		p.Drop[i] = m.Drop[i][:]
	}
	return p
}

func pageToProto(d *Delivery) *protocolpb.Page {
	page := &d.Page
	p := &protocolpb.Page{
		Subscription: d.Subscription, Origin: page.Origin[:], Epoch: epochToProto(page.Epoch),
		From: uint64(page.From), Through: uint64(page.Through), Head: uint64(page.Head),
		Batches: make([]*protocolpb.Batch, len(page.Batches)),
	}
	for i := range page.Batches {
		b := &page.Batches[i]
		p.Batches[i] = &protocolpb.Batch{
			Model: string(b.Model), Version: b.Version, Columns: b.Columns, Count: uint32(b.Count), Rows: b.Rows, //nolint:gosec // one page
		}
	}
	return p
}

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

func marksToProto(marks []Mark) []*protocolpb.Mark {
	out := make([]*protocolpb.Mark, len(marks))
	for i := range marks {
		m := &marks[i]
		out[i] = &protocolpb.Mark{Origin: m.Origin[:], Kind: kindToProto(m.Kind), Epoch: epochToProto(m.Epoch), Stamp: uint64(m.Stamp)}
	}
	return out
}

func kindToProto(k sdk.Ownership) protocolpb.Kind {
	if k == sdk.DeviceOwned {
		return protocolpb.Kind_KIND_STATE
	}
	return protocolpb.Kind_KIND_SHARED
}

func epochToProto(e EpochID) []byte {
	if e == (EpochID{}) {
		return nil
	}
	return e[:]
}
