package protocol

import (
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/protocol/protocolpb"
	"github.com/starling-sync/starling/sdk"
)

// decode reads a payload of type t. The message does not alias payload.
func decode(l *Limits, t Type, payload []byte) (Message, error) {
	if err := countRepeated(payload, repeatedIn(l, t)); err != nil {
		return nil, err
	}
	switch t {
	case TypeHello:
		return parse(l, payload, new(protocolpb.Hello), helloFromProto)
	case TypeStateRequest:
		r, err := parse(l, payload, new(protocolpb.Request), requestFromProto)
		return &StateRequest{r}, err
	case TypeSharedChangeRequest:
		r, err := parse(l, payload, new(protocolpb.Request), requestFromProto)
		return &SharedChangeRequest{r}, err
	case TypeStateResponse, TypeStateChange, TypeStateBatch, TypeSharedChangeResponse, TypeSharedChange, TypeSharedChangeBatch:
		d, err := parse(l, payload, new(protocolpb.Page), pageFromProto)
		if err != nil {
			return nil, err
		}
		return deliveryFor(t, d), nil
	case TypeAckSharedChanges:
		vector, err := parse(l, payload, new(protocolpb.Ack), func(_ *Limits, p *protocolpb.Ack) ([]Mark, error) {
			return marksFromProto(p.GetVector())
		})
		return &AckSharedChanges{Vector: vector}, err
	case TypeHeartbeat:
		return parse(l, payload, new(protocolpb.Heartbeat), heartbeatFromProto)
	case TypeError:
		return parse(l, payload, new(protocolpb.Error), errorFromProto)
	case TypeJoin:
		return parse(l, payload, new(protocolpb.Join), joinFromProto)
	case TypeWelcome:
		return parse(l, payload, new(protocolpb.Welcome), welcomeFromProto)
	}
	return nil, sdk.Errorf(sdk.CodeUnsupported, "a frame of type %d: this version knows %d to %d", t, TypeHello, TypeWelcome)
}

func parse[P proto.Message, M any](l *Limits, payload []byte, p P, convert func(*Limits, P) (M, error)) (M, error) {
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(payload, p); err != nil {
		var none M
		return none, sdk.Errorf(sdk.CodeInvalid, "not a valid payload: %w", err)
	}
	return convert(l, p)
}

func deliveryFor(t Type, d Delivery) Message {
	state := t == TypeStateResponse || t == TypeStateChange || t == TypeStateBatch
	d.Page.Kind = sdk.SharedByAll
	if state {
		d.Page.Kind = sdk.DeviceOwned
	}
	switch t {
	case TypeStateResponse:
		return &StateResponse{d}
	case TypeStateChange:
		return &StateChange{d}
	case TypeStateBatch:
		return &StateBatch{d}
	case TypeSharedChangeResponse:
		return &SharedChangeResponse{d}
	case TypeSharedChange:
		return &SharedChange{d}
	}
	return &SharedChangeBatch{d}
}

func helloFromProto(l *Limits, p *protocolpb.Hello) (*Hello, error) {
	m := &Hello{MinVersion: p.GetMinVersion(), MaxVersion: p.GetMaxVersion(), Name: p.GetName(), Clock: timeOf(p.GetClock())}
	library, err := id16(p.GetLibrary(), "library")
	if err != nil {
		return nil, err
	}
	m.Library = library
	if m.Device, err = deviceID(p.GetDevice()); err != nil {
		return nil, err
	}
	if m.Epoch, err = epochID(p.GetEpoch()); err != nil {
		return nil, err
	}
	if err := atMost("bytes of the device's name", len(m.Name), l.TextBytes); err != nil {
		return nil, err
	}
	for _, v := range p.GetModels() {
		if err := checkName(v.GetName()); err != nil {
			return nil, err
		}
		m.Models = append(m.Models, ModelVersion{Model: sdk.ModelName(v.GetName()), Version: v.GetVersion()})
	}
	m.Vector, err = marksFromProto(p.GetVector())
	return m, err
}

func requestFromProto(l *Limits, p *protocolpb.Request) (Request, error) {
	r := Request{PageBytes: int(p.GetPageBytes()), WindowBytes: int(p.GetWindowBytes())}
	if err := atMost("streams in a request", len(p.GetSubscribe())+len(p.GetDrop()), l.Marks); err != nil {
		return r, err
	}
	for _, s := range p.GetSubscribe() {
		origin, err := deviceID(s.GetOrigin())
		if err != nil {
			return r, err
		}
		since, err := position(s.GetEpoch(), s.GetSince())
		if err != nil {
			return r, err
		}
		r.Subscribe = append(r.Subscribe, Subscribe{Number: s.GetNumber(), Origin: origin, Since: since})
	}
	for _, raw := range p.GetDrop() {
		origin, err := deviceID(raw)
		if err != nil {
			return r, err
		}
		r.Drop = append(r.Drop, origin)
	}
	return r, nil
}

func pageFromProto(l *Limits, p *protocolpb.Page) (Delivery, error) {
	d := Delivery{Subscription: p.GetSubscription()}
	var err error
	if d.Page.Origin, err = deviceID(p.GetOrigin()); err != nil {
		return d, err
	}
	through, err := position(p.GetEpoch(), p.GetThrough())
	if err != nil {
		return d, err
	}
	d.Page.Epoch, d.Page.Through = through.Epoch, through.Stamp
	d.Page.From, d.Page.Head = hlc.Stamp(p.GetFrom()), hlc.Stamp(p.GetHead())
	if d.Page.From > d.Page.Through || d.Page.Head > hlc.MaxStamp {
		return d, sdk.Errorf(sdk.CodeInvalid, "a page from %s through %s with head %s", d.Page.From, d.Page.Through, d.Page.Head)
	}
	if len(p.GetBatches()) > 0 {
		d.Page.Batches = make([]sdk.Batch, len(p.GetBatches()))
	}
	for i, b := range p.GetBatches() {
		if d.Page.Batches[i], err = batchFromProto(l, b); err != nil {
			return d, err
		}
	}
	return d, nil
}

// minRowBytes is the size of the smallest packed row: an array header, an id with its header, a stamp.
const minRowBytes = 1 + 2 + 16 + 1

func batchFromProto(l *Limits, p *protocolpb.Batch) (sdk.Batch, error) {
	b := sdk.Batch{
		Model: sdk.ModelName(p.GetModel()), Version: p.GetVersion(), Columns: p.GetColumns(), Count: int(p.GetCount()), Rows: p.GetRows(),
	}
	if err := checkName(p.GetModel()); err != nil {
		return b, err
	}
	for _, c := range b.Columns {
		if c == "" || len(c) > l.TextBytes {
			return b, sdk.Errorf(sdk.CodeInvalid, "%s: a column name of %d bytes; want 1 to %d", b.Model, len(c), l.TextBytes)
		}
	}
	if b.Count < 1 || b.Count > len(b.Rows)/minRowBytes {
		return b, sdk.Errorf(sdk.CodeInvalid, "%s: %d rows in %d bytes", b.Model, b.Count, len(b.Rows))
	}
	return b, nil
}

func heartbeatFromProto(_ *Limits, p *protocolpb.Heartbeat) (*Heartbeat, error) {
	const day = 24 * int64(time.Hour/time.Microsecond)
	delay := time.Duration(min(max(p.GetEchoDelay(), 0), day)) * time.Microsecond
	vector, err := marksFromProto(p.GetVector())
	return &Heartbeat{Clock: timeOf(p.GetClock()), Echo: timeOf(p.GetEcho()), EchoDelay: delay, Vector: vector}, err
}

func errorFromProto(l *Limits, p *protocolpb.Error) (*Error, error) {
	m := &Error{Code: sdk.Code(p.GetCode()), Message: p.GetMessage(), Retryable: p.GetRetryable()}
	if err := atMost("bytes of an error", len(m.Code)+len(m.Message), l.TextBytes+len(sdk.CodeUnknownModel)); err != nil {
		return nil, err
	}
	if len(p.GetOrigin()) == 0 {
		return m, nil
	}
	var err error
	m.Stream, err = stream(p.GetOrigin(), p.GetKind())
	return m, err
}

func joinFromProto(l *Limits, p *protocolpb.Join) (*Join, error) {
	m := &Join{MinVersion: p.GetMinVersion(), MaxVersion: p.GetMaxVersion(), Secret: p.GetSecret(), Name: p.GetName()}
	if err := atMost("bytes of the secret and name", len(m.Secret)+len(m.Name), l.TextBytes); err != nil {
		return nil, err
	}
	for _, a := range p.GetAddresses() {
		if err := atMost("bytes of an address", len(a.GetTransport())+len(a.GetAddress()), l.TextBytes); err != nil {
			return nil, err
		}
		m.Addresses = append(m.Addresses, Address{Transport: a.GetTransport(), Address: a.GetAddress()})
	}
	return m, nil
}

func welcomeFromProto(l *Limits, p *protocolpb.Welcome) (*Welcome, error) {
	library, err := id16(p.GetLibrary(), "library")
	if err != nil {
		return nil, err
	}
	m := &Welcome{Library: library, LibraryName: p.GetLibraryName(), Members: p.GetMembers()}
	if err := atMost("bytes of the library's name", len(m.LibraryName), l.TextBytes); err != nil {
		return nil, err
	}
	return m, atMost("bytes of members", len(m.Members), l.MembersBytes)
}

func marksFromProto(in []*protocolpb.Mark) ([]Mark, error) {
	if len(in) == 0 {
		return nil, nil
	}
	out := make([]Mark, len(in))
	for i, m := range in {
		s, err := stream(m.GetOrigin(), m.GetKind())
		if err != nil {
			return nil, err
		}
		p, err := position(m.GetEpoch(), m.GetStamp())
		if err != nil {
			return nil, err
		}
		out[i] = Mark{Stream: s, Position: p}
	}
	return out, nil
}

func stream(origin []byte, kind protocolpb.Kind) (s Stream, err error) {
	switch kind {
	case protocolpb.Kind_KIND_STATE:
		s.Kind = sdk.DeviceOwned
	case protocolpb.Kind_KIND_SHARED:
		s.Kind = sdk.SharedByAll
	default:
		return s, sdk.Errorf(sdk.CodeInvalid, "a stream of kind %d", kind)
	}
	s.Origin, err = deviceID(origin)
	return s, err
}

func position(epoch []byte, stamp uint64) (p Position, err error) {
	if hlc.Stamp(stamp) > hlc.MaxStamp {
		return p, sdk.Errorf(sdk.CodeInvalid, "stamp %x is beyond the greatest", stamp)
	}
	p.Stamp = hlc.Stamp(stamp)
	p.Epoch, err = epochID(epoch)
	return p, err
}

func deviceID(raw []byte) (sdk.DeviceID, error) {
	id, err := id16(raw, "device")
	if err == nil && id == [16]byte{} {
		err = sdk.Errorf(sdk.CodeInvalid, "a device id of zeros")
	}
	return id, err
}

func epochID(raw []byte) (EpochID, error) {
	if len(raw) == 0 {
		return EpochID{}, nil
	}
	return id16(raw, "epoch")
}

func id16(raw []byte, what string) (id [16]byte, err error) {
	if len(raw) != len(id) {
		return id, sdk.Errorf(sdk.CodeInvalid, "a %s id of %d bytes; want %d", what, len(raw), len(id))
	}
	return [16]byte(raw), nil
}

func checkName(name string) error {
	ok := name != "" && len(name) <= 48 && name[0] >= 'a' && name[0] <= 'z'
	for i := 0; ok && i < len(name); i++ {
		c := name[i]
		ok = c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '_'
	}
	if !ok {
		return sdk.Errorf(sdk.CodeInvalid, "%.60q is not the name of a model", name)
	}
	return nil
}

func atMost(what string, n, limit int) error {
	if n > limit {
		return sdk.Errorf(sdk.CodeTooLarge, "%d %s; at most %d are allowed", n, what, limit)
	}
	return nil
}

func microsOf(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func timeOf(micros int64) time.Time {
	if micros == 0 {
		return time.Time{}
	}
	return time.UnixMicro(micros).UTC()
}
