package control

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/control/controlpb"
	"github.com/starling-sync/starling/sdk"
)

// History tells how records came to be what they are, and undoes what a merge decided.
type History interface {
	// Explain returns what is known here of a record, visible or not; CodeNotFound if no change of it has arrived.
	Explain(ctx context.Context, model sdk.ModelName, id sdk.RecordID) (Explanation, error)
	// Conflict returns one entry of the conflict journal; CodeNotFound if there is none of that number.
	Conflict(ctx context.Context, number int64) (Conflict, error)
	// ForgetConflict removes an entry from this device's journal. One that is not there is no error.
	ForgetConflict(ctx context.Context, number int64) error
	// Waiting yields the records of a model (empty: of all) that exist and are not visible, with what they wait for, by
	// model and id, at most limit (0: all), until yield fails; that error is returned. yield may keep the record.
	Waiting(ctx context.Context, model sdk.ModelName, limit int, yield func(WaitingRecord) error) error
}

// Explanation is what a device knows of one record.
type Explanation struct {
	State    RecordState
	Inserted sdk.Version      // shared only
	Deleted  sdk.Version      // only if State is StateDeleted
	Owned    sdk.Version      // device-owned only: the owner, and its last write
	Fields   []sdk.FieldState // as described, then those of newer versions of the model; Version: shared only
	Missing  []Missing        // what it waits for
	Parked   int64            // changes that wait for the model's plugin
	Refused  []RefusedChange  // changes of others that could not be stored, newest first

	Elsewhere []Whereabouts // one for each other member that is not retired, by device
}

// Whereabouts says whether another device has what this one has of a record.
type Whereabouts struct {
	Device sdk.DeviceID
	State  Presence
	Detail string // why, for people; may be empty
}

// Presence says whether a device has something.
type Presence string

// What is known of another device.
const (
	PresenceSame    Presence = "same"    // it has acknowledged every write that made the record what it is here
	PresenceNotYet  Presence = "not_yet" // it has not
	PresenceUnknown Presence = "unknown" // nothing has been heard of it, or of some of the writes
)

// WaitingRecord is a record that exists and is not visible, and what it waits for.
type WaitingRecord struct {
	Model   sdk.ModelName `json:"model"`
	ID      sdk.RecordID  `json:"id"`
	Missing []Missing     `json:"missing"`
}

// RecordState says where a record stands.
type RecordState string

// The states of a record.
const (
	StateVisible     RecordState = "visible"
	StateWaiting     RecordState = "waiting" // for records that it refers to
	StateDeleted     RecordState = "deleted"
	StateNotInserted RecordState = "not_inserted" // changes of it have come, and its insert has not
	StateUnread      RecordState = "unread"       // all that has come of it waits for the model's plugin, or was refused
)

// Missing is a record that another needs to be visible.
type Missing struct {
	Field string        `json:"field"`
	Model sdk.ModelName `json:"model"` // empty: any
	ID    sdk.RecordID  `json:"id"`
	State string        `json:"state"` // not_arrived, deleted or waiting
}

// ExplanationView is an Explanation with its values as JSON, and the record's entries in the conflict journal.
type ExplanationView struct {
	Model     sdk.ModelName
	ID        sdk.RecordID
	State     RecordState
	Inserted  sdk.Version // zero: unknown, or device-owned
	Deleted   sdk.Version // zero: not deleted
	Owned     sdk.Version // zero: shared
	Fields    []FieldView
	Missing   []Missing
	Parked    int64
	Refused   []RefusedChange
	Conflicts []ConflictView
	Elsewhere []Whereabouts
}

// FieldView is a field's value as JSON, and the write that gave it.
type FieldView struct {
	Name  string
	Value json.RawMessage
	Write sdk.Version // zero: nobody has written it
	Parts []PartView  // of a set: its elements; of a counter: what each device has added
}

// PartView is a part of a set or a counter as JSON, and the last write that added it, or to it.
type PartView struct {
	Value json.RawMessage
	Write sdk.Version
}

// Restored says which value stands again.
type Restored struct {
	Model sdk.ModelName   `json:"model"`
	ID    sdk.RecordID    `json:"id"`
	Field string          `json:"field"`
	Value json.RawMessage `json:"value"`
}

func (s *service) Explain(ctx context.Context, in *controlpb.ExplainRequest) (*controlpb.ExplainResponse, error) {
	id, err := idFromWire(in.GetId())
	if err == nil && id.IsZero() {
		err = sdk.Errorf(sdk.CodeInvalid, "no id is given")
	}
	if err != nil {
		return nil, toWire(err)
	}
	model := sdk.ModelName(in.GetModel())
	e, err := s.backend.History.Explain(ctx, model, id)
	if err != nil {
		if sdk.CodeOf(err) == sdk.CodeUnknownModel { // say which model may have been meant
			if _, unknown := describe(ctx, s.backend.Records, s.backend.Reporter, model); unknown != nil {
				err = unknown
			}
		}
		return nil, toWire(s.writer.mistaken(ctx, model, id, err))
	}
	desc, known := find(s.backend.Records.Models(), model)
	out := explanationToWire(&desc, &e)
	if !known { // and then nothing is in the journal
		return out, nil
	}
	conflicts, err := s.backend.Journal.Conflicts(ctx, model, id)
	if err != nil {
		return nil, toWire(err)
	}
	for i := range conflicts {
		c, err := s.conflictToWire(ctx, &conflicts[i])
		if err != nil {
			return nil, toWire(err)
		}
		out.Conflicts = append(out.Conflicts, c)
	}
	return out, nil
}

func (s *service) RestoreConflict(ctx context.Context, in *controlpb.RestoreConflictRequest) (*controlpb.RestoreConflictResponse, error) {
	c, err := s.backend.History.Conflict(ctx, in.GetNumber())
	if err != nil {
		return nil, toWire(NotWritten(err))
	}
	written, err := s.writer.restore(ctx, &c)
	if err != nil {
		return nil, toWire(NotWritten(err))
	}
	// After the write: were it before, a crash in between would lose the value. Restoring once more does no harm.
	if err := s.backend.History.ForgetConflict(ctx, c.Number); err != nil {
		return nil, toWire(sdk.Errorf(sdk.CodeOf(err), "the value is written again, and entry %d stays in the journal: %w", c.Number, err))
	}
	return &controlpb.RestoreConflictResponse{Model: string(c.Model), Id: c.ID[:], Field: c.Field, Json: written}, nil
}

// restore writes the value that lost as a local update of its field alone, and returns it as JSON.
func (w *writer) restore(ctx context.Context, c *Conflict) (json.RawMessage, error) {
	desc, err := describe(ctx, w.records, w.reporter, c.Model)
	if err != nil {
		return nil, err
	}
	field, known := desc.Field(c.Field)
	if !known {
		return nil, sdk.Errorf(sdk.CodeUnknownField, "the value is of field %q, which the model %q of the plugin here lacks; run the newer plugin", c.Field, c.Model)
	}
	b := newBuilder(w, desc, 1)
	b.kind = sdk.SharedByAll
	b.addOp(c.ID, sdk.Update, []string{c.Field}, []any{c.Value})
	b.batch.Count, b.ids, b.index = 1, []sdk.RecordID{c.ID}, []int{0}
	result, err := b.commit(ctx, true)
	if err != nil {
		return nil, err
	}
	if len(result.Refused) > 0 {
		no := result.Refused[0]
		if no.Code == sdk.CodeNotFound {
			return nil, sdk.Errorf(sdk.CodeNotFound, "%s %s is deleted, so that its %s can not be restored; insert it again first", c.Model, c.ID, c.Field)
		}
		return nil, sdk.Errorf(no.Code, "%s", no.Message)
	}
	return sdk.AppendJSONValue(nil, field.ValueType(), c.Value), nil
}

// Explain returns what the device knows of a record, visible or not; CodeNotFound if no change of it has arrived.
func (c *Client) Explain(ctx context.Context, model sdk.ModelName, id sdk.RecordID) (ExplanationView, error) {
	out, err := c.api.Explain(ctx, &controlpb.ExplainRequest{Model: string(model), Id: id[:]})
	if err != nil {
		return ExplanationView{}, fromWire(err)
	}
	return ExplanationView{
		Model: model, ID: id, State: RecordState(out.GetState()), Parked: out.GetParked(),
		Inserted: writeFromWire(out.GetInserted()), Deleted: writeFromWire(out.GetDeleted()), Owned: writeFromWire(out.GetOwned()),
		Fields: eachFromWire(out.GetFields(), func(f *controlpb.ExplainedField) FieldView {
			view := FieldView{Name: f.GetName(), Value: f.GetJson(), Write: writeFromWire(f.GetWrite())}
			for _, p := range f.GetParts() {
				view.Parts = append(view.Parts, PartView{p.GetJson(), writeFromWire(p.GetWrite())})
			}
			return view
		}),
		Missing:   eachFromWire(out.GetMissing(), missingFromWire),
		Refused:   eachFromWire(out.GetRefusedChanges(), refusedFromWire),
		Conflicts: eachFromWire(out.GetConflicts(), conflictFromWire),
		Elsewhere: eachFromWire(out.GetElsewhere(), func(w *controlpb.Whereabouts) Whereabouts {
			return Whereabouts{Device: deviceFromWire(w.GetDevice()), State: Presence(w.GetState()), Detail: w.GetDetail()}
		}),
	}, nil
}

// RestoreConflict writes the value of an entry of the conflict journal again and removes the entry.
func (c *Client) RestoreConflict(ctx context.Context, number int64) (Restored, error) {
	defer c.waits(ctx, c.ofConflict(number))()
	out, err := c.api.RestoreConflict(ctx, &controlpb.RestoreConflictRequest{Number: number})
	if err != nil {
		return Restored{}, writes(err, "starling conflicts")
	}
	id, err := idFromWire(out.GetId())
	return Restored{Model: sdk.ModelName(out.GetModel()), ID: id, Field: out.GetField(), Value: out.GetJson()}, err
}

func explanationToWire(desc *sdk.Description, e *Explanation) *controlpb.ExplainResponse {
	return &controlpb.ExplainResponse{
		State: string(e.State), Inserted: writeToWire(e.Inserted), Deleted: writeToWire(e.Deleted), Owned: writeToWire(e.Owned), Parked: e.Parked,
		Fields: each(e.Fields, func(f *sdk.FieldState) *controlpb.ExplainedField {
			kind := typeOf(f.Value)
			if known, ok := desc.Field(f.Name); ok {
				kind = known.ValueType()
			} else if f.Merge == sdk.AddWins {
				kind = sdk.JSON
			}
			return &controlpb.ExplainedField{Name: f.Name, Json: sdk.AppendJSONValue(nil, kind, f.Value), Write: writeToWire(f.Version), Parts: partsToWire(f)}
		}),
		Missing:        each(e.Missing, missingToWire),
		RefusedChanges: each(e.Refused, refusedToWire),
		Elsewhere: each(e.Elsewhere, func(w *Whereabouts) *controlpb.Whereabouts {
			return &controlpb.Whereabouts{Device: w.Device[:], State: string(w.State), Detail: w.Detail}
		}),
	}
}

// partsToWire returns for each element of a set the last write that added it, and for each device what it has added to a
// counter.
func partsToWire(f *sdk.FieldState) (list []*controlpb.ExplainedPart) {
	parts, err := f.Parts()
	if err != nil {
		return nil // then the field's value is all there is to say
	}
	shown := parts[:0]
	for _, p := range parts {
		at := slices.IndexFunc(shown, func(other sdk.FieldPart) bool {
			return other.Element == p.Element && (p.Element != nil || other.Version.Device == p.Version.Device)
		})
		switch {
		case p.Removed:
			continue
		case at < 0:
			shown = append(shown, p)
			continue
		}
		shown[at].Total += p.Total
		if p.Version.Compare(shown[at].Version) > 0 {
			shown[at].Version = p.Version
		}
	}
	for _, p := range shown {
		var value any = p.Total
		if p.Element != nil {
			value = p.Element
		}
		list = append(list, &controlpb.ExplainedPart{Json: sdk.AppendJSONValue(nil, typeOf(value), value), Write: writeToWire(p.Version)})
	}
	return list
}

func missingToWire(m *Missing) *controlpb.MissingRecord {
	return &controlpb.MissingRecord{Field: m.Field, Model: string(m.Model), Id: m.ID[:], State: m.State}
}

func missingFromWire(m *controlpb.MissingRecord) Missing {
	id, _ := idFromWire(m.GetId()) //nolint:errcheck // the host made it
	return Missing{Field: m.GetField(), Model: sdk.ModelName(m.GetModel()), ID: id, State: m.GetState()}
}

func writeToWire(v sdk.Version) *controlpb.Write {
	if v.IsZero() {
		return nil
	}
	return &controlpb.Write{Stamp: uint64(v.Stamp), Device: v.Device[:]}
}

func writeFromWire(w *controlpb.Write) sdk.Version {
	return sdk.Version{Stamp: hlc.Stamp(w.GetStamp()), Device: deviceFromWire(w.GetDevice())}
}
