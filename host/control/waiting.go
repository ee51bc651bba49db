package control

import (
	"context"

	"connectrpc.com/connect"

	"github.com/starling-sync/starling/host/control/controlpb"
	"github.com/starling-sync/starling/sdk"
)

// chunkRecords is how many waiting records travel together.
const chunkRecords = 200

func (s *service) Waiting(ctx context.Context, in *controlpb.WaitingRequest, out *connect.ServerStream[controlpb.WaitingResponse]) error {
	model := sdk.ModelName(in.GetModel())
	if model != "" {
		if _, err := describe(ctx, s.backend.Records, s.backend.Reporter, model); err != nil {
			return toWire(err)
		}
	}
	if in.GetLimit() < 0 {
		return toWire(sdk.Errorf(sdk.CodeInvalid, "limit %d is negative; 0 means no limit", in.GetLimit()))
	}
	chunk := &controlpb.WaitingResponse{}
	err := s.backend.History.Waiting(ctx, model, int(in.GetLimit()), func(r WaitingRecord) error {
		chunk.Records = append(chunk.Records, &controlpb.WaitingRecord{Model: string(r.Model), Id: r.ID[:], Missing: each(r.Missing, missingToWire)})
		if len(chunk.GetRecords()) < chunkRecords {
			return nil
		}
		full := chunk
		chunk = &controlpb.WaitingResponse{}
		return out.Send(full)
	})
	if err == nil && len(chunk.GetRecords()) > 0 {
		err = out.Send(chunk)
	}
	return toWire(err)
}

// Waiting yields the records of a model (empty: of all) that exist and are not visible, at most limit (0: all), by model
// and id, until yield fails; that error is returned.
func (c *Client) Waiting(ctx context.Context, model sdk.ModelName, limit int, yield func(WaitingRecord) error) error {
	stream, err := c.api.Waiting(ctx, &controlpb.WaitingRequest{Model: string(model), Limit: int64(limit)})
	if err != nil {
		return fromWire(err)
	}
	defer stream.Close() //nolint:errcheck // only read
	for stream.Receive() {
		for _, r := range stream.Msg().GetRecords() {
			id, err := idFromWire(r.GetId())
			if err != nil {
				return err
			}
			if err := yield(WaitingRecord{Model: sdk.ModelName(r.GetModel()), ID: id, Missing: eachFromWire(r.GetMissing(), missingFromWire)}); err != nil {
				return err
			}
		}
	}
	return fromWire(stream.Err())
}
