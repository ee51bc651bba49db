package control

import (
	"context"
	"errors"
	"net"

	"connectrpc.com/connect"

	"github.com/starling-sync/starling/sdk"
)

// A call that writes and fails has written nothing, or it is not known whether it has. Its error says which of the two, in words,
// and in its chain. One of neither refuses what was asked for, and has written nothing.
var (
	ErrNothing = errors.New("nothing of this write was kept")
	ErrUnknown = errors.New("it is not known whether this write was kept")
)

// The outcomes on the wire.
const (
	outcomeNothing = "nothing"
	outcomeUnknown = "unknown"
)

// Nothing returns err, whose text says that nothing was written, with ErrNothing in its chain.
func Nothing(err error) error { return outcome{err, ErrNothing} }

// Unknown returns err, whose text says that it is not known whether it was written, with ErrUnknown in its chain.
func Unknown(err error) error { return outcome{err, ErrUnknown} }

// outcome marks an error without a word in its text.
type outcome struct {
	error
	mark error
}

func (o outcome) Unwrap() error        { return o.error }
func (o outcome) Is(target error) bool { return target == o.mark } //nolint:errorlint // it is called by errors.Is

// NotWritten returns the error of a call that was to write and failed before it did, or in a way in which nothing is kept, as one
// that says so. Of an error that refuses what was asked for, and of one that says already what became of the write, it changes
// nothing; nor of the end of a context, since nobody waits for the answer then.
func NotWritten(err error) error {
	_, coded := errors.AsType[*sdk.Error](err)
	switch code := sdk.CodeOf(err); {
	case err == nil, errors.Is(err, ErrNothing), errors.Is(err, ErrUnknown):
	case !coded && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)):
	case code == sdk.CodeUnavailable:
		return sdk.Errorf(code, "%w; try again when this has passed: %w", ErrNothing, err)
	case code == sdk.CodeInternal:
		return sdk.Errorf(code, "%w: %w", ErrNothing, err)
	}
	return err
}

// outcomeOf is what the wire says of err.
func outcomeOf(err error) string {
	switch {
	case errors.Is(err, ErrUnknown):
		return outcomeUnknown
	case errors.Is(err, ErrNothing):
		return outcomeNothing
	}
	return ""
}

// writes is fromWire for a call that writes: where the host has ended, or nobody waits for its answer any more, it may have written.
// look is a command that shows whether it did.
func writes(err error, look string) error {
	said := fromWire(err)
	wire, answered := errors.AsType[*connect.Error](err)
	switch {
	case err == nil, errors.Is(said, ErrNothing), errors.Is(said, ErrUnknown):
		return said
	case answered && (len(wire.Details()) > 0 || sdk.CodeOf(said) == sdk.CodeTooLarge || sdk.CodeOf(said) == sdk.CodeUnsupported):
		return said // it was refused
	case errors.Is(said, context.Canceled):
		return sdk.Errorf(sdk.CodeUnavailable, "interrupted; %w; this says whether it was: %s", ErrUnknown, look)
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		return NotWritten(said)
	}
	return sdk.Errorf(sdk.CodeOf(said), "%w; whether it was, this says when the host runs: %s: %w", ErrUnknown, look, said)
}
