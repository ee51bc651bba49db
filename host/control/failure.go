package control

import (
	"context"
	"errors"
	"io"

	"connectrpc.com/connect"

	"github.com/starling-sync/starling/host/control/controlpb"
	"github.com/starling-sync/starling/sdk"
)

// connectCode says which of ConnectRPC's codes stands for each of ours. ErrorDetail carries ours exactly; these are
// for clients that know only theirs.
func connectCode(code sdk.Code) connect.Code {
	switch code {
	case sdk.CodeInvalid, sdk.CodeUnknownField, sdk.CodeTooLarge:
		return connect.CodeInvalidArgument
	case sdk.CodeNotFound, sdk.CodeUnknownModel:
		return connect.CodeNotFound
	case sdk.CodeNotOwner, sdk.CodeDenied:
		return connect.CodePermissionDenied
	case sdk.CodeStale:
		return connect.CodeAborted
	case sdk.CodeExpired, sdk.CodeClockSkew, sdk.CodePruned:
		return connect.CodeFailedPrecondition
	case sdk.CodeUnsupported:
		return connect.CodeUnimplemented
	case sdk.CodeUnavailable:
		return connect.CodeUnavailable
	}
	return connect.CodeInternal
}

// toWire makes err an error that carries its sdk.Code to the client.
func toWire(err error) error {
	_, coded := errors.AsType[*sdk.Error](err) // which may be about a deadline of something else than the call
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled):
		return connect.NewError(connect.CodeCanceled, err)
	case errors.Is(err, context.DeadlineExceeded) && !coded:
		return connect.NewError(connect.CodeDeadlineExceeded, err)
	}
	code := sdk.CodeOf(err)
	out := connect.NewError(connectCode(code), errors.New(err.Error()))
	if detail, derr := connect.NewErrorDetail(&controlpb.ErrorDetail{Code: string(code), Outcome: outcomeOf(err)}); derr == nil {
		out.AddDetail(detail)
	}
	return out
}

// fromWire gives back the error that toWire was given, with its code and message. A host that stops answering is
// CodeUnavailable.
func fromWire(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, context.Canceled) {
		return context.Canceled
	}
	wire, ok := errors.AsType[*connect.Error](err)
	if !ok {
		return sdk.Errorf(sdk.CodeUnavailable, "the host does not answer: %w", err)
	}
	for _, detail := range wire.Details() {
		value, err := detail.Value()
		if err != nil {
			continue
		}
		if d, ok := value.(*controlpb.ErrorDetail); ok {
			err := &sdk.Error{Code: sdk.Code(d.GetCode()), Message: wire.Message()}
			switch d.GetOutcome() {
			case outcomeNothing:
				return Nothing(err)
			case outcomeUnknown:
				return Unknown(err)
			}
			return err
		}
	}
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return sdk.Errorf(sdk.CodeUnavailable, "the host has ended; start it again with: starling run")
	}
	switch wire.Code() {
	case connect.CodeCanceled:
		return context.Canceled
	case connect.CodeUnavailable, connect.CodeUnknown, connect.CodeDeadlineExceeded:
		return sdk.Errorf(sdk.CodeUnavailable, "the host stopped answering (%s); see its log, then try again", wire.Message())
	case connect.CodeInvalidArgument, connect.CodeResourceExhausted:
		return sdk.Errorf(sdk.CodeTooLarge, "the host refused the request: %s", wire.Message())
	case connect.CodeUnimplemented:
		return sdk.Errorf(sdk.CodeUnsupported, "the running host does not know this command (%s); restart it with this version", wire.Message())
	}
	return sdk.Errorf(sdk.CodeInternal, "%s", wire.Message())
}
