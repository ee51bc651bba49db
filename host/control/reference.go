package control

import (
	"context"

	"github.com/starling-sync/starling/sdk"
)

// reference is a record that a field of another names.
type reference struct {
	model sdk.ModelName
	id    sdk.RecordID
}

// refersRight returns an error if a reference names a record that another model has here and that nothing is known of in the
// model it is to: such a record would wait for ever. One that has not arrived yet is right.
func (b *builder) refersRight(ctx context.Context, names []string, values []any) error {
	for i, name := range names {
		id, isID := values[i].(sdk.RecordID)
		field, _ := b.desc.Field(name)
		ref := reference{field.Ref, id}
		if !isID || ref.model == "" || b.right[ref] {
			continue
		}
		other, err := b.modelOf(ctx, ref)
		if err != nil {
			return err
		}
		if other != ref.model && other != "" {
			return sdk.Errorf(sdk.CodeInvalid, "%s: %s is to be the id of a record of model %s; %s is one of model %s", b.desc.Model, name, ref.model, id, other)
		}
		b.right[ref] = true
	}
	return nil
}

// modelOf returns the model that has the record a reference names: the one it is to wherever anything is known of it there;
// empty: none.
func (b *builder) modelOf(ctx context.Context, ref reference) (sdk.ModelName, error) {
	has, err := b.isRecord(ctx, ref)
	if has || err != nil {
		return ref.model, err
	}
	switch _, err := b.history.Explain(ctx, ref.model, ref.id); sdk.CodeOf(err) {
	case sdk.CodeNotFound, sdk.CodeUnknownModel:
	default:
		return ref.model, err
	}
	for _, desc := range b.records.Models() {
		has, err := b.isRecord(ctx, reference{desc.Model, ref.id})
		if has || err != nil {
			return desc.Model, err
		}
	}
	return "", nil
}

// isRecord reports whether the record is there and visible.
func (b *builder) isRecord(ctx context.Context, ref reference) (bool, error) {
	_, err := b.records.Get(ctx, ref.model, ref.id)
	switch sdk.CodeOf(err) {
	case sdk.CodeNotFound, sdk.CodeUnknownModel:
		return false, nil
	}
	return err == nil, err
}

// mistaken returns err, which says that a model has no such record, with the model that has one of that id, if there is one.
func (w *writer) mistaken(ctx context.Context, model sdk.ModelName, id sdk.RecordID, err error) error {
	if sdk.CodeOf(err) != sdk.CodeNotFound {
		return err
	}
	for _, desc := range w.records.Models() {
		if desc.Model == model {
			continue
		}
		if _, other := w.records.Get(ctx, desc.Model, id); other == nil {
			return sdk.Errorf(sdk.CodeNotFound, "%w; that is the id of a record of model %s", err, desc.Model)
		}
	}
	return err
}
