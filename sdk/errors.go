package sdk

import (
	"errors"
	"fmt"
)

// Code is the kind of an error: a closed set that survives every border (plugin, wire, control API).
// Act on codes, never on text.
type Code string

// The codes, and who can act on each.
const (
	CodeInvalid      Code = "invalid"       // the input is wrong: the caller corrects it
	CodeNotFound     Code = "not_found"     // no such record, model, peer or path
	CodeUnknownModel Code = "unknown_model" // no plugin here serves that model
	CodeUnknownField Code = "unknown_field" // the model has no such field
	CodeNotOwner     Code = "not_owner"     // another device owns the record
	CodeTooLarge     Code = "too_large"     // over a stated limit
	CodeStale        Code = "stale"         // decided on rows that have changed since: decide again
	CodeDenied       Code = "denied"        // the peer or caller may not do this
	CodeExpired      Code = "expired"       // an invitation or a deadline is over
	CodeUnsupported  Code = "unsupported"   // a version or feature that this side does not know
	CodeClockSkew    Code = "clock_skew"    // a clock is too far ahead: held until time has passed
	CodePruned       Code = "pruned"        // that history is not kept any more: a snapshot takes its place
	CodeUnavailable  Code = "unavailable"   // not now: the same call may succeed later
	CodeInternal     Code = "internal"      // a defect or a broken disk: see the log
)

// Error is an error with a code and a message for people: what is wrong, where, what to do.
type Error struct {
	Code    Code
	Message string // the whole message, its cause's included
	Setting string // of a config block that the error is about; empty: it is about none. See BadSetting
	cause   error
}

func (e *Error) Error() string { return e.Message }

func (e *Error) Unwrap() error { return e.cause }

// Errorf returns an *Error. The operands of %w become its cause and stay reachable through errors.Is and errors.As.
func Errorf(code Code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	cause := errors.Unwrap(err)
	if _, several := err.(interface{ Unwrap() []error }); several { //nolint:errorlint // of this very error
		cause = err
	}
	return &Error{Code: code, Message: err.Error(), cause: cause}
}

// CodeOf returns the code of the outermost *Error in err's chain; CodeInternal if there is none, "" for nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return CodeInternal
}

// Retryable reports whether the same call may succeed later.
func (c Code) Retryable() bool { return c == CodeUnavailable || c == CodeStale || c == CodeClockSkew }
