package rpc

import (
	"context"
	"errors"
	"strings"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"

	"github.com/starling-sync/starling/sdk"
	"github.com/starling-sync/starling/sdk/rpc/rpcpb"
)

const maxErrorText = 4 << 10 // errors travel in headers

// text makes s fit to travel: a message with text that is not UTF-8 would break the whole stream.
func text(s string) string {
	if len(s) > maxErrorText {
		s = s[:maxErrorText] + "..."
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

func errorToWire(err error) *rpcpb.Error {
	if err == nil {
		return nil
	}
	wire := &rpcpb.Error{Code: string(sdk.CodeOf(err)), Message: text(err.Error())}
	if about := sdk.SettingErrors(err); len(about) == 1 {
		wire.Setting = text(about[0].Setting)
	}
	return wire
}

func errorFromWire(e *rpcpb.Error) error {
	if e == nil {
		return nil
	}
	err := sdk.Errorf(sdk.Code(e.Code), "%s", e.Message)
	err.Setting = e.Setting
	return err
}

// maxDetails bounds the mistakes in settings that one refusal carries.
const maxDetails = 8

// refusal is an error about several settings.
type refusal struct {
	error
	about []error // each setting's own
}

func (r *refusal) Unwrap() []error { return append([]error{r.error}, r.about...) }

// toStatus is what a handler returns, so that fromStatus finds the code again.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return status.FromContextError(err).Err()
	}
	details := []protoadapt.MessageV1{errorToWire(err)}
	if about := sdk.SettingErrors(err); len(about) > 1 {
		for _, each := range about[:min(len(about), maxDetails)] {
			details = append(details, errorToWire(each))
		}
	}
	s, detailErr := status.New(codes.Unknown, text(err.Error())).WithDetails(details...)
	if detailErr != nil {
		return status.Error(codes.Unknown, text(err.Error()))
	}
	return s.Err()
}

// fromStatus gives an error of the border, or one that a handler returned, its code. What the context ended stays
// reachable through errors.Is.
func fromStatus(err error) error {
	if err == nil {
		return nil
	}
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	var found []error
	for _, d := range s.Details() {
		if e, ok := d.(*rpcpb.Error); ok {
			found = append(found, errorFromWire(e))
		}
	}
	switch {
	case len(found) == 1:
		return found[0]
	case len(found) > 1:
		return &refusal{found[0], found[1:]}
	}
	switch s.Code() {
	case codes.Canceled:
		return sdk.Errorf(sdk.CodeUnavailable, "the call was cancelled: %w", context.Canceled)
	case codes.DeadlineExceeded:
		return sdk.Errorf(sdk.CodeUnavailable, "the plugin did not answer in time: %w", context.DeadlineExceeded)
	case codes.Unavailable:
		return sdk.Errorf(sdk.CodeUnavailable, "the plugin process is gone") // how the connection noticed helps nobody
	case codes.ResourceExhausted:
		return sdk.Errorf(sdk.CodeTooLarge, "a message to or from the plugin: %s", s.Message())
	case codes.Unimplemented:
		return sdk.Errorf(sdk.CodeUnsupported, "the plugin does not know this call; rebuild it: %s", s.Message())
	}
	return sdk.Errorf(sdk.CodeInternal, "plugin: %s", s.Message())
}

// checkMessage refuses a message that would break the stream it is sent on.
func checkMessage(m proto.Message, what string) error {
	if n := proto.Size(m); n > MaxMessageBytes {
		return sdk.Errorf(sdk.CodeTooLarge, "%s of %d bytes; at most %d cross to or from a plugin: send smaller batches", what, n, MaxMessageBytes)
	}
	return nil
}

func batchToWire(b sdk.Batch) (*rpcpb.Batch, error) {
	if b.Count < 0 || b.Count > len(b.Rows) {
		return nil, sdk.Errorf(sdk.CodeInvalid, "%s: a batch of %d rows in %d bytes", b.Model, b.Count, len(b.Rows))
	}
	if !utf8.ValidString(string(b.Model)) {
		return nil, sdk.Errorf(sdk.CodeInvalid, "model name %q is not valid UTF-8", b.Model)
	}
	for _, c := range b.Columns {
		if !utf8.ValidString(c) {
			return nil, sdk.Errorf(sdk.CodeInvalid, "%s: column name %q is not valid UTF-8", b.Model, c)
		}
	}
	return &rpcpb.Batch{Model: string(b.Model), Version: b.Version, Columns: b.Columns, Count: uint32(b.Count), Rows: b.Rows}, nil //nolint:gosec // Count <= len(Rows) <= MaxMessageBytes
}

func batchFromWire(b *rpcpb.Batch) sdk.Batch {
	return sdk.Batch{
		Model: sdk.ModelName(b.GetModel()), Version: b.GetVersion(), Columns: b.GetColumns(),
		Count: int(b.GetCount()), Rows: b.GetRows(),
	}
}

func refusalsToWire(in []sdk.Refusal) []*rpcpb.Refusal {
	out := make([]*rpcpb.Refusal, 0, len(in))
	for _, r := range in {
		out = append(out, &rpcpb.Refusal{Index: uint32(max(0, r.Index)), Code: string(r.Code), Message: text(r.Message)}) //nolint:gosec // an index into a batch
	}
	return out
}

func refusalsFromWire(in []*rpcpb.Refusal) []sdk.Refusal {
	if len(in) == 0 {
		return nil
	}
	out := make([]sdk.Refusal, 0, len(in))
	for _, r := range in {
		out = append(out, sdk.Refusal{Index: int(r.Index), Code: sdk.Code(r.Code), Message: r.Message})
	}
	return out
}

func descriptionToWire(d sdk.Description) *rpcpb.Description {
	out := &rpcpb.Description{
		Model: string(d.Model), Version: d.Version, Ownership: string(d.Ownership), Source: d.Source, Doc: text(d.Doc),
		WrittenBy: text(d.WrittenBy), MayDelete: d.MayDelete,
	}
	for _, f := range d.Fields {
		out.Fields = append(out.Fields, &rpcpb.Field{
			Name: text(f.Name), Type: string(f.Type), Merge: string(f.Merge), Ref: string(f.Ref), Weak: f.Weak,
			Required: f.Required, Key: f.Key, Owner: f.Owner, Index: f.Index, Doc: text(f.Doc),
		})
	}
	return out
}

func descriptionFromWire(d *rpcpb.Description) sdk.Description {
	out := sdk.Description{
		Model: sdk.ModelName(d.Model), Version: d.Version, Ownership: sdk.Ownership(d.Ownership), Source: d.Source, Doc: d.Doc,
		WrittenBy: d.WrittenBy, MayDelete: d.MayDelete,
	}
	for _, f := range d.Fields {
		out.Fields = append(out.Fields, sdk.Field{
			Name: f.Name, Type: sdk.Type(f.Type), Merge: sdk.Merge(f.Merge), Ref: sdk.ModelName(f.Ref), Weak: f.Weak,
			Required: f.Required, Key: f.Key, Owner: f.Owner, Index: f.Index, Doc: f.Doc,
		})
	}
	return out
}

// settingsToWire returns nil for a target that does not say what it takes. What is no Configurable takes no settings.
func settingsToWire(target any) (*rpcpb.Settings, error) {
	if _, ok := target.(sdk.Configurable); !ok {
		return &rpcpb.Settings{}, nil
	}
	d, ok := target.(sdk.Declarer)
	if !ok {
		return nil, nil //nolint:nilnil // as said
	}
	declared, err := d.DeclareSettings()
	if err != nil || declared == nil {
		return nil, err
	}
	out := &rpcpb.Settings{}
	for _, s := range declared {
		out.Settings = append(out.Settings, &rpcpb.Setting{
			Name: text(s.Name), Type: string(s.Type), Required: s.Required, Default: text(s.Default), Secret: s.Secret, Doc: text(s.Doc),
		})
	}
	return out, nil
}

// settingsFromWire returns nil where the plugin does not say.
func settingsFromWire(in *rpcpb.Settings) []sdk.Setting {
	if in == nil {
		return nil
	}
	out := make([]sdk.Setting, 0, len(in.Settings))
	for _, s := range in.Settings {
		out = append(out, sdk.Setting{
			Name: s.Name, Type: sdk.SettingType(s.Type), Required: s.Required, Default: s.Default, Secret: s.Secret, Doc: s.Doc,
		})
	}
	return out
}

func deviceFromWire(b []byte) (id sdk.DeviceID, err error) {
	if len(b) != len(id) {
		return id, sdk.Errorf(sdk.CodeInvalid, "a device id of %d bytes; want %d", len(b), len(id))
	}
	return sdk.DeviceID(b), nil
}
