package protocol

import (
	"bytes"
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
	case TypeEpochs:
		return parse(l, payload, new(protocolpb.Epochs), epochsFromProto)
	case TypeSnapshotRequest:
		return parse(l, payload, new(protocolpb.SnapshotRequest), snapshotRequestFromProto)
	case TypeSnapshotPage:
		return parse(l, payload, new(protocolpb.SnapshotPage), snapshotPageFromProto)
	case TypeAuditRequest:
		return parse(l, payload, new(protocolpb.AuditRequest), auditRequestFromProto)
	case TypeAuditResponse:
		return parse(l, payload, new(protocolpb.AuditResponse), auditResponseFromProto)
	case TypeAuditRepair:
		return parse(l, payload, new(protocolpb.AuditRepair), auditRepairFromProto)
	}
	return nil, sdk.Errorf(sdk.CodeUnsupported, "a frame of type %d: this version knows %d to %d", t, TypeHello, lastType)
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
	library, err := id16(p.GetLibrary(), "library id")
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
	if err := atMost("text_bytes", "bytes of the device's name", len(m.Name), l.TextBytes); err != nil {
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
	if err := atMost("marks", "streams in a request", len(p.GetSubscribe())+len(p.GetDrop()), l.Marks); err != nil {
		return r, err
	}
	for _, s := range p.GetSubscribe() {
		origin, err := deviceID(s.GetOrigin())
		if err != nil {
			return r, err
		}
		since, err := headsFromProto(s.GetSince())
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
	if d.Page.Heads, err = headsFromProto(p.GetHeads()); err != nil {
		return d, err
	}
	d.Page.From, d.Page.Through, d.Page.Head = hlc.Stamp(p.GetFrom()), hlc.Stamp(p.GetThrough()), hlc.Stamp(p.GetHead())
	if d.Page.From > d.Page.Through || max(d.Page.Through, d.Page.Head) > hlc.MaxStamp {
		return d, sdk.Errorf(sdk.CodeInvalid, "a page from %s through %s with head %s", d.Page.From, d.Page.Through, d.Page.Head)
	}
	if top := d.Page.Heads.Top(); top > d.Page.Through {
		return d, sdk.Errorf(sdk.CodeInvalid, "a page through %s that leads to %s", d.Page.Through, top)
	}
	d.Page.Batches, err = batchesFromProto(l, p.GetBatches())
	return d, err
}

func batchesFromProto(l *Limits, in []*protocolpb.Batch) (out []sdk.Batch, err error) {
	if len(in) == 0 {
		return nil, nil
	}
	out = make([]sdk.Batch, len(in))
	for i, b := range in {
		if out[i], err = batchFromProto(l, b); err != nil {
			return nil, err
		}
	}
	return out, nil
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
	m := &Heartbeat{Clock: timeOf(p.GetClock()), Echo: timeOf(p.GetEcho()), EchoDelay: delay}
	var err error
	if m.Vector, err = marksFromProto(p.GetVector()); err != nil {
		return nil, err
	}
	for _, k := range p.GetKnown() {
		device, err := deviceID(k.GetDevice())
		if err != nil {
			return nil, err
		}
		vector, err := marksFromProto(k.GetVector())
		if err != nil {
			return nil, err
		}
		m.Known = append(m.Known, Known{Device: device, Vector: vector})
	}
	return m, nil
}

func errorFromProto(l *Limits, p *protocolpb.Error) (*Error, error) {
	m := &Error{Code: sdk.Code(p.GetCode()), Message: p.GetMessage(), Retryable: p.GetRetryable()}
	if err := atMost("text_bytes", "bytes of an error", len(m.Code)+len(m.Message), l.TextBytes+len(sdk.CodeUnknownModel)); err != nil {
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
	if err := atMost("text_bytes", "bytes of the secret and name", len(m.Secret)+len(m.Name), l.TextBytes); err != nil {
		return nil, err
	}
	for _, a := range p.GetAddresses() {
		if err := atMost("text_bytes", "bytes of an address", len(a.GetTransport())+len(a.GetAddress()), l.TextBytes); err != nil {
			return nil, err
		}
		m.Addresses = append(m.Addresses, Address{Transport: a.GetTransport(), Address: a.GetAddress()})
	}
	return m, nil
}

func welcomeFromProto(l *Limits, p *protocolpb.Welcome) (*Welcome, error) {
	library, err := id16(p.GetLibrary(), "library id")
	if err != nil {
		return nil, err
	}
	m := &Welcome{Library: library, LibraryName: p.GetLibraryName(), Members: p.GetMembers()}
	if err := atMost("text_bytes", "bytes of the library's name", len(m.LibraryName), l.TextBytes); err != nil {
		return nil, err
	}
	return m, atMost("members_bytes", "bytes of members", len(m.Members), l.MembersBytes)
}

func epochsFromProto(_ *Limits, p *protocolpb.Epochs) (*Epochs, error) {
	m := new(Epochs)
	for _, e := range p.GetEpochs() {
		id, err := knownEpochID(e.GetId())
		if err != nil {
			return nil, err
		}
		s, err := stream(e.GetOrigin(), e.GetKind())
		if err != nil {
			return nil, err
		}
		parents, err := headsFromProto(e.GetParents())
		if err != nil {
			return nil, err
		}
		if _, own := parents.In(id); own {
			return nil, sdk.Errorf(sdk.CodeInvalid, "epoch %s continues itself", id)
		}
		since := hlc.Stamp(e.GetSince())
		if since > hlc.MaxStamp {
			return nil, sdk.Errorf(sdk.CodeInvalid, "epoch %s begins at %x, beyond the greatest stamp", id, uint64(since))
		}
		m.Epochs = append(m.Epochs, Epoch{ID: id, Stream: s, Parents: parents, Since: since})
	}
	return m, nil
}

func snapshotRequestFromProto(_ *Limits, p *protocolpb.SnapshotRequest) (*SnapshotRequest, error) {
	m := &SnapshotRequest{Number: p.GetNumber(), PageBytes: int(p.GetPageBytes())}
	var err error
	if m.Kind, err = kindFromProto(p.GetKind()); err != nil {
		return nil, err
	}
	if len(p.GetOrigin()) > 0 {
		if m.Origin, err = deviceID(p.GetOrigin()); err != nil {
			return nil, err
		}
	}
	if m.Since, err = headsFromProto(p.GetSince()); err != nil {
		return nil, err
	}
	if m.After, err = placeFromProto(p.GetAfter()); err != nil {
		return nil, err
	}
	m.Until, err = placeFromProto(p.GetUntil())
	return m, err
}

func snapshotPageFromProto(l *Limits, p *protocolpb.SnapshotPage) (*SnapshotPage, error) {
	m := &SnapshotPage{Number: p.GetNumber(), Done: p.GetDone()}
	var err error
	if m.Vector, err = marksFromProto(p.GetVector()); err != nil {
		return nil, err
	}
	if m.End, err = placeFromProto(p.GetEnd()); err != nil {
		return nil, err
	}
	if !m.Done && m.End == (Place{}) {
		return nil, sdk.Errorf(sdk.CodeInvalid, "a page of a snapshot that is not the last and does not say where it ends")
	}
	for _, c := range p.GetChanges() {
		origin, err := deviceID(c.GetOrigin())
		if err != nil {
			return nil, err
		}
		batches, err := batchesFromProto(l, c.GetBatches())
		if err != nil {
			return nil, err
		}
		m.Changes = append(m.Changes, Changes{Origin: origin, Batches: batches})
	}
	for _, r := range p.GetUnchanged() {
		ids, err := recordIDsFromProto(r)
		if err != nil {
			return nil, err
		}
		m.Unchanged = append(m.Unchanged, ids)
	}
	return m, nil
}

func recordIDsFromProto(p *protocolpb.RecordIDs) (RecordIDs, error) {
	r := RecordIDs{Model: sdk.ModelName(p.GetModel())}
	if err := checkName(p.GetModel()); err != nil {
		return r, err
	}
	const size = len(sdk.RecordID{})
	packed := p.GetIds()
	if len(packed)%size != 0 {
		return r, sdk.Errorf(sdk.CodeInvalid, "%s: ids of %d bytes; want %d each", r.Model, len(packed), size)
	}
	if len(packed) > 0 {
		r.IDs = make([]sdk.RecordID, len(packed)/size)
	}
	for i := range r.IDs {
		r.IDs[i] = sdk.RecordID(packed[i*size:])
		if i > 0 && r.IDs[i-1].Compare(r.IDs[i]) >= 0 {
			return r, sdk.Errorf(sdk.CodeInvalid, "%s: id %s after %s", r.Model, r.IDs[i], r.IDs[i-1])
		}
	}
	return r, nil
}

func auditRequestFromProto(_ *Limits, p *protocolpb.AuditRequest) (*AuditRequest, error) {
	m := &AuditRequest{Number: p.GetNumber()}
	var err error
	if m.Vector, err = digest(p.GetVector()); err != nil {
		return nil, err
	}
	for i, d := range p.GetModels() {
		if err := checkName(d.GetModel()); err != nil {
			return nil, err
		}
		model := ModelDigest{Model: sdk.ModelName(d.GetModel())}
		if model.Digest, err = digest(d.GetDigest()); err != nil {
			return nil, err
		}
		if i > 0 && m.Models[i-1].Model >= model.Model {
			return nil, sdk.Errorf(sdk.CodeInvalid, "an audit of %s after %s", model.Model, m.Models[i-1].Model)
		}
		m.Models = append(m.Models, model)
	}
	return m, nil
}

func auditResponseFromProto(l *Limits, p *protocolpb.AuditResponse) (*AuditResponse, error) {
	m := &AuditResponse{Number: p.GetNumber(), Moved: p.GetMoved()}
	for _, d := range p.GetModels() {
		model, err := rangeDigestsFromProto(l, d)
		if err != nil {
			return nil, err
		}
		m.Models = append(m.Models, model)
	}
	return m, nil
}

func rangeDigestsFromProto(l *Limits, p *protocolpb.RangeDigests) (RangeDigests, error) {
	d := RangeDigests{Model: sdk.ModelName(p.GetModel())}
	if err := checkName(p.GetModel()); err != nil {
		return d, err
	}
	packed := p.GetRanges()
	n := len(packed) / rangeDigestBytes
	if len(packed)%rangeDigestBytes != 0 {
		return d, sdk.Errorf(sdk.CodeInvalid, "%s: digests of %d bytes; want %d each", d.Model, len(packed), rangeDigestBytes)
	}
	if err := atMost("ranges", "ranges of a model", n, l.Ranges); err != nil {
		return d, err
	}
	if n > 0 {
		d.Ranges = make([]RangeDigest, n)
	}
	for i := range d.Ranges {
		one := packed[i*rangeDigestBytes:]
		d.Ranges[i] = RangeDigest{Until: sdk.RecordID(one[:16]), Digest: Digest(one[16:rangeDigestBytes])}
		if i > 0 && d.Ranges[i-1].Until.Compare(d.Ranges[i].Until) >= 0 {
			return d, sdk.Errorf(sdk.CodeInvalid, "%s: a range through %s after one through %s", d.Model, d.Ranges[i].Until, d.Ranges[i-1].Until)
		}
	}
	return d, nil
}

func auditRepairFromProto(_ *Limits, p *protocolpb.AuditRepair) (*AuditRepair, error) {
	m := &AuditRepair{Number: p.GetNumber()}
	for _, r := range p.GetRanges() {
		model := sdk.ModelName(r.GetModel())
		if err := checkName(r.GetModel()); err != nil {
			return nil, err
		}
		if len(r.GetAfter()) != 16 || len(r.GetUntil()) != 16 || bytes.Compare(r.GetAfter(), r.GetUntil()) >= 0 {
			return nil, sdk.Errorf(sdk.CodeInvalid, "%s: a range from %x through %x", model, r.GetAfter(), r.GetUntil())
		}
		m.Ranges = append(m.Ranges, AuditRange{Model: model, After: sdk.RecordID(r.GetAfter()), Until: sdk.RecordID(r.GetUntil())})
	}
	return m, nil
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
	if s.Kind, err = kindFromProto(kind); err != nil {
		return s, err
	}
	s.Origin, err = deviceID(origin)
	return s, err
}

func kindFromProto(kind protocolpb.Kind) (sdk.Ownership, error) {
	switch kind {
	case protocolpb.Kind_KIND_STATE:
		return sdk.DeviceOwned, nil
	case protocolpb.Kind_KIND_SHARED:
		return sdk.SharedByAll, nil
	}
	return "", sdk.Errorf(sdk.CodeInvalid, "a stream of kind %d", kind)
}

func position(epoch []byte, stamp uint64) (p Position, err error) {
	if hlc.Stamp(stamp) > hlc.MaxStamp {
		return p, sdk.Errorf(sdk.CodeInvalid, "stamp %x is beyond the greatest", stamp)
	}
	p.Stamp = hlc.Stamp(stamp)
	p.Epoch, err = epochID(epoch)
	return p, err
}

// headsFromProto returns positions that package history can take as they are.
func headsFromProto(in []*protocolpb.Position) (Heads, error) {
	if len(in) == 0 {
		return nil, nil
	}
	out := make(Heads, len(in))
	for i, one := range in {
		p, err := position(one.GetEpoch(), one.GetStamp())
		if err != nil {
			return nil, err
		}
		if p.Stamp == 0 || p.Epoch == (EpochID{}) {
			return nil, sdk.Errorf(sdk.CodeInvalid, "position %s of epoch %s is none", p.Stamp, p.Epoch)
		}
		if i > 0 && bytes.Compare(out[i-1].Epoch[:], p.Epoch[:]) >= 0 {
			return nil, sdk.Errorf(sdk.CodeInvalid, "a position in epoch %s after one in %s", p.Epoch, out[i-1].Epoch)
		}
		out[i] = p
	}
	return out, nil
}

// placeFromProto returns the zero Place for none. A place may be before all records of its model: its id is then zero.
func placeFromProto(p *protocolpb.Place) (place Place, err error) {
	if p.GetModel() == "" && len(p.GetId()) == 0 {
		return place, nil
	}
	if err := checkName(p.GetModel()); err != nil {
		return place, err
	}
	place.Model = sdk.ModelName(p.GetModel())
	place.ID, err = id16(p.GetId(), "record id")
	return place, err
}

func digest(raw []byte) (Digest, error) {
	return id16(raw, "digest")
}

func deviceID(raw []byte) (sdk.DeviceID, error) {
	id, err := id16(raw, "device id")
	if err == nil && id == [16]byte{} {
		err = sdk.Errorf(sdk.CodeInvalid, "a device id of zeros")
	}
	return id, err
}

func epochID(raw []byte) (EpochID, error) {
	if len(raw) == 0 {
		return EpochID{}, nil
	}
	return id16(raw, "epoch id")
}

// knownEpochID is epochID where there must be one.
func knownEpochID(raw []byte) (EpochID, error) {
	id, err := epochID(raw)
	if err == nil && id == (EpochID{}) {
		err = sdk.Errorf(sdk.CodeInvalid, "an epoch without an id")
	}
	return id, err
}

func id16(raw []byte, what string) (id [16]byte, err error) {
	if len(raw) != len(id) {
		return id, sdk.Errorf(sdk.CodeInvalid, "a %s of %d bytes; want %d", what, len(raw), len(id))
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

func atMost(over Over, what string, n, limit int) error {
	if n > limit {
		return sdk.Errorf(sdk.CodeTooLarge, "%d %s; at most %d are allowed: %w", n, what, limit, over)
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
