package control

import (
	"context"
	"time"

	"connectrpc.com/connect"

	"github.com/starling-sync/starling/host/control/controlpb"
	"github.com/starling-sync/starling/sdk"
)

// Audit is what a comparison of this device with a peer has found.
type Audit struct {
	At       time.Time     `json:"at"` // when it ended
	Outcome  AuditOutcome  `json:"outcome"`
	Records  int64         `json:"records"`  // that were compared; 0: not counted
	Ranges   int64         `json:"ranges"`   // of ids that differed
	Repaired int64         `json:"repaired"` // records that were put right here; the others were at the peer
	Bytes    int64         `json:"bytes"`    // sent and received; 0: not counted
	Took     time.Duration `json:"took_ns"`
	Reason   string        `json:"reason"` // AuditFailed and AuditNotAlike: why, where there is something to say
}

// AuditOutcome says how an audit ended.
type AuditOutcome string

// The outcomes of an audit.
const (
	AuditEqual    AuditOutcome = "equal"
	AuditRepaired AuditOutcome = "repaired"  // ranges differed; each of the two has merged what the other holds of them
	AuditNotAlike AuditOutcome = "not_alike" // they have not the same changes yet, so that nothing was compared
	AuditFailed   AuditOutcome = "failed"    // the peer left, did not answer, or could not
)

// AuditResult is an audit with the peer that it was held with.
type AuditResult struct {
	ID   sdk.DeviceID `json:"id"`
	Name string       `json:"name"`
	Audit
}

func (s *service) Audit(ctx context.Context, in *controlpb.AuditRequest, out *connect.ServerStream[controlpb.AuditResponse]) error {
	var peer sdk.DeviceID
	if len(in.GetPeer()) > 0 {
		var err error
		if peer, err = memberFromWire(in.GetPeer()); err != nil {
			return toWire(err)
		}
	}
	return toWire(s.backend.Journal.Audit(ctx, peer, func(r AuditResult) error {
		return out.Send(&controlpb.AuditResponse{Id: r.ID[:], Name: r.Name, Audit: auditToWire(&r.Audit)})
	}))
}

// Audit compares the device with a connected peer now (zero: with each), and yields one result for each of them as it comes,
// until yield fails; that error is returned.
func (c *Client) Audit(ctx context.Context, peer sdk.DeviceID, yield func(AuditResult) error) error {
	in := &controlpb.AuditRequest{}
	if !peer.IsZero() {
		in.Peer = peer[:]
	}
	stream, err := c.api.Audit(ctx, in)
	if err != nil {
		return fromWire(err)
	}
	defer stream.Close() //nolint:errcheck // only read
	for stream.Receive() {
		r := stream.Msg()
		if err := yield(AuditResult{ID: deviceFromWire(r.GetId()), Name: r.GetName(), Audit: auditFromWire(r.GetAudit())}); err != nil {
			return err
		}
	}
	return fromWire(stream.Err())
}

func auditToWire(a *Audit) *controlpb.Audit {
	if *a == (Audit{}) {
		return nil
	}
	return &controlpb.Audit{
		AtUs: micros(a.At), Outcome: string(a.Outcome), Records: a.Records, Ranges: a.Ranges, Repaired: a.Repaired, Bytes: a.Bytes,
		TookUs: a.Took.Microseconds(), Reason: a.Reason,
	}
}

func auditFromWire(a *controlpb.Audit) Audit {
	return Audit{
		At: fromMicros(a.GetAtUs()), Outcome: AuditOutcome(a.GetOutcome()), Records: a.GetRecords(), Ranges: a.GetRanges(), Repaired: a.GetRepaired(),
		Bytes: a.GetBytes(), Took: duration(a.GetTookUs()), Reason: a.GetReason(),
	}
}

// memberFromWire reads the id of a device that a call is about.
func memberFromWire(raw []byte) (sdk.DeviceID, error) {
	id := deviceFromWire(raw)
	if id.IsZero() {
		return id, sdk.Errorf(sdk.CodeInvalid, "no device is named; starling peers lists them with their ids")
	}
	return id, nil
}
